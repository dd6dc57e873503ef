"""How exactly, and how repeatably, a training calculates."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from robustkit.device import on_its_own, tf32
from robustkit.errors import InputError, first_line


def multiplications(asked: str, device: torch.device) -> str:
    """The precision of multiplications that is asked for on a device; weights are float32 anyway.

    Raises:
        InputError: the device does not have it, or nobody should train in it.
    """
    if asked == "fp16":
        raise InputError(
            "--precision fp16: small gradients underflow in it unless the loss is scaled; "
            "use bf16, which has float32's range"
        )
    gpu = device.type == "cuda"
    if asked == "tf32" and not gpu:
        raise InputError(f"--precision tf32: {device.type} has no TF32; use bf16")
    if asked == "auto":
        return "tf32" if gpu else "float32"
    return asked


def lowered(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """With a network's multiplications in that precision."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def channels_last(precision: str, device: torch.device) -> bool:
    """Whether weights and images lie in memory with channels last, which is faster.

    Not in float32 on a CPU: sums taken in another order would give other weights than before.
    """
    return device.type == "cuda" or precision == "bf16"


@contextmanager
def numerics(precision: str, deterministic: bool) -> Iterator[None]:
    """Set how exactly, and how repeatably, a GPU multiplies; as it was afterwards.

    Raises:
        InputError: an operation knows no deterministic way, and one is asked for.
    """
    before = torch.are_deterministic_algorithms_enabled()
    # cuBLAS reads this when its handle is made; without a fixed workspace its sums may be taken in
    # another order from run to run
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _use_deterministic(deterministic)
    try:
        with on_its_own(), tf32(allowed=precision != "float32"):
            yield
    except RuntimeError as error:
        if not deterministic or "deterministic implementation" not in str(error):
            raise
        reason = first_line(error).partition(",")[0]
        raise InputError(f"--deterministic: {reason}; train without it, or change that") from error
    finally:
        _use_deterministic(before)


def _use_deterministic(wanted: bool) -> None:
    # asked for what it does already, torch imports its compiler all the same: seconds
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)
