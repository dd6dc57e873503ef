"""How exactly, and how repeatably, a training calculates."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from robustkit.device import on_its_own
from robustkit.errors import InputError, RobustkitError, first_line
from robustkit.switches import deterministic as repeatable
from robustkit.switches import tf32

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
NOT_REPEATABLE = ("deterministic implementation", CUBLAS)
"""by which torch says that an operation knows no deterministic way"""


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
    # cuBLAS reads this when its handle is made; without a fixed workspace its sums may be taken in
    # another order from run to run
    if deterministic:
        os.environ.setdefault(CUBLAS, ":4096:8")
    try:
        with (
            repeatable(wanted=deterministic),
            on_its_own(),
            tf32(allowed=precision != "float32"),
        ):
            yield
    except (RuntimeError, RobustkitError) as error:
        said: BaseException = error
        while isinstance(said, RobustkitError) and said.__cause__ is not None:
            said = said.__cause__  # torch's own words, told as a network's or loss's failure
        if not deterministic or not any(text in str(said) for text in NOT_REPEATABLE):
            raise
        raise InputError(f"--deterministic: {_reason(said)}") from error


def _reason(error: BaseException) -> str:
    """Why it cannot be so, and what to do."""
    if CUBLAS in str(error):
        return (
            f"work on the GPU began before in this process, without {CUBLAS}=:4096:8; set that "
            "variable before the program begins"
        )
    return f"{first_line(error).partition(',')[0]}; train without it, or change that"
