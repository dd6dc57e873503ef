"""Where fetched files are kept: in the libraries' own caches where they have one."""

import os
from pathlib import Path

YES = ("1", "ON", "YES", "TRUE")


def own_cache() -> Path:
    """What belongs to no library's: `ROBUSTKIT_CACHE`, or a folder of the user's caches."""
    return _of("ROBUSTKIT_CACHE") or _user_caches() / "robustkit"


def torch_cache() -> Path:
    """Where torch.hub, and torchvision by it, keeps weights."""
    return (_of("TORCH_HOME") or _user_caches() / "torch") / "hub" / "checkpoints"


def hub_cache() -> Path:
    """Where huggingface_hub, and transformers and timm by it, keeps repositories."""
    home = _of("HF_HOME") or _user_caches() / "huggingface"
    return _of("HF_HUB_CACHE") or _of("HUGGINGFACE_HUB_CACHE") or home / "hub"


def hub_address() -> str:
    """The address of Hugging Face, or of the mirror that `HF_ENDPOINT` names."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> str:
    """The variable by which the user forbids any connection, or ""."""
    named = ("ROBUSTKIT_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in named if os.environ.get(name, "").upper() in YES), "")


def _user_caches() -> Path:
    return _of("XDG_CACHE_HOME") or Path("~/.cache").expanduser()


def _of(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(os.path.expandvars(value)).expanduser() if value else None
