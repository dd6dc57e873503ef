"""Fewer bits between machines: gradient compression as DistributedDataParallel hooks.

- schemes: what is sent, as `--compress` says it; needs no torch
- messages: from a gradient to a message and back, tensors only
- hook: the communication hook, its memory, its counters, its state

A new scheme is a frozen dataclass in schemes and one `match` arm in `parse` and in the hook.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit.compression.schemes import (
    Half,
    OneBit,
    PowerSGD,
    RandomK,
    Scheme,
    TopK,
    parse,
)

if TYPE_CHECKING:
    from robustkit.compression.hook import Compressor, attach

__all__ = [
    "Compressor",
    "Half",
    "OneBit",
    "PowerSGD",
    "RandomK",
    "Scheme",
    "TopK",
    "attach",
    "parse",
]


def __getattr__(name: str) -> Any:
    """The names that need torch, when they are first asked for: an option is checked without it."""
    if name not in ("Compressor", "attach"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.hook"), name)
