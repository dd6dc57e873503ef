"""Where the numbers are worked out."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from robustkit.defaults import torch_defaults
from robustkit.errors import EvaluationFailed, InputError, cut, first_line
from robustkit.switches import deterministic, tf32

T = TypeVar("T")
KINDS = ("cpu", "cuda", "xpu", "mps")
"""of devices, each of which has an autocast of its own"""
FAST_MATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
"""variables by which oneDNN cuts wherever nothing else is said"""


def device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        InputError: no such device, or none that answers.
    """
    if not name.strip():
        raise InputError("--device is empty; leave it out, or name a device: cpu, cuda, cuda:1")
    if name == "all" or "," in name:
        raise InputError(f"--device {cut(name)}: one device here; evaluate and audit take several")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        # a number that comes back: "meta" holds shapes alone
        torch.ones(1, device=found).item()
    except Exception as error:  # each kind of device refuses in its own way
        raise InputError(f"--device {cut(name)}: {first_line(error)}") from error
    try:
        torch.ones(1, dtype=torch.float64, device=found).item()
    except Exception as error:  # Apple's GPUs (mps), and some of Intel's
        raise InputError(
            f"--device {cut(name)}: it has no float64, which robustkit needs for distances; "
            f"use --device cpu ({first_line(error)})"
        ) from error
    return found


def devices(names: str) -> tuple[torch.device, ...]:
    """The devices of several names, by commas, or `all` GPUs of the machine; each has a worker.

    Raises:
        InputError: as `device`; devices of several kinds, whose rows would differ by rounding.
    """
    if names == "all":
        found = tuple(torch.device(name) for name in _gpus())
        if not found:
            raise InputError(
                "--device all: no GPU here; for several processes on the CPU name it as often: "
                "--device cpu,cpu"
            )
        return found
    parts = [name.strip() for name in names.split(",")]
    if len(parts) == 1:
        return (device(names),)
    if odd := [name for name in parts if name in ("", "all")]:
        raise InputError(
            f"--device {cut(names)}: {odd[0] or 'nothing'} stands between commas; name each "
            "device, or `all` alone"
        )
    found = tuple(_numbered(device(name)) for name in parts)
    if len({one.type for one in found}) > 1:
        raise InputError(
            f"--device {cut(names)}: of several kinds, which round otherwise; name one kind"
        )
    return found


def _gpus() -> list[str]:
    """All GPUs that torch sees: CUDA's, or else Intel's."""
    if torch.cuda.is_available():
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [f"xpu:{number}" for number in range(torch.xpu.device_count())]


def _numbered(found: torch.device) -> torch.device:
    """A GPU with its number, by which another process finds the same."""
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def fitting(
    work: Callable[[int], T], size: int, halved: Callable[[int], None] = lambda size: None
) -> T:
    """What comes of work on so many images at once, or on half as many where memory is too little.

    Args:
        work: told how many images to pass at once.
        size: with which to begin.
        halved: told each smaller size, before the work is tried with it.

    Raises:
        EvaluationFailed: it is too little for a single one.
    """
    while True:
        try:
            return work(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise EvaluationFailed(
                    f"the GPU has too little memory for one image ({first_line(error)})"
                ) from error
        # outside of the handler, whose traceback would hold on to the failed pass's tensors
        torch.cuda.empty_cache()
        size //= 2
        halved(size)


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """With so many threads of the processor's; as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_its_own() -> Iterator[None]:
    """Gradients where they are asked for, no autocast, torch's own defaults, whatever is around."""
    with ExitStack() as stack:
        stack.enter_context(torch_defaults())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in KINDS:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def in_float32() -> Iterator[None]:
    """As verdicts are made: on its own, and in float32 all through.

    Where the program around asks for deterministic algorithms alone, a GPU has none for some of
    what is done here (sums along a row, medians): that is left off meanwhile.

    Raises:
        InputError: the environment has the processor cut float32.
    """
    if name := fast_math():
        raise InputError(
            f"{name}={os.environ[name]} has the processor cut float32, of which all verdicts are; "
            "unset it"
        )
    with on_its_own(), tf32(allowed=False), deterministic(wanted=False):
        yield


def fast_math() -> str:
    """The variable of the environment by which the processor cuts float32, or ""."""
    return next((name for name in FAST_MATH if _mode(name) != "STRICT"), "")


def _mode(name: str) -> str:
    return (os.environ.get(name) or "STRICT").upper()
