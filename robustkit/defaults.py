"""What torch makes a tensor of where nothing is said: of float32, on the processor."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def torch_defaults(*, device: bool = True) -> Iterator[None]:
    """What torch itself has, whatever the program around has set; as it was afterwards.

    In bfloat16 a budget of 0.1 is 0.1001, beyond which nothing counts, and a network is built of
    other numbers than its file has. A generator of the processor fills no tensor of a GPU.

    The default type is the whole process's: what another thread makes meanwhile is of float32, too,
    and calls in several threads at once need float32 as the program's own.

    Args:
        device: whether the processor is set; otherwise the device stays, unless code of others
            sets one.
    """
    with ExitStack() as stack:
        dtype, devices = None, list[Any]()
        if "torch" in sys.modules:  # else nobody has set anything, and importing it takes seconds
            dtype, devices = _set(stack, device)
        try:
            yield
        finally:
            if "torch" in sys.modules:  # code of others may have set them
                _set_back(dtype, devices)


def _set(stack: ExitStack, device: bool) -> tuple[Any, list[Any]]:
    """Set both, until the stack ends; what is to be found then: the type, and `_devices`."""
    import torch

    dtype, devices = torch.get_default_dtype(), _devices()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    if device and _elsewhere(devices) and len(devices) == 1:
        torch.set_default_device(None)
    if device and _elsewhere(_devices()):  # by `with torch.device(...)`, which stays as it is
        stack.enter_context(torch.device("cpu"))
        devices = _devices()
    return dtype, devices


def _set_back(dtype: Any, devices: list[Any]) -> None:
    import torch

    dtype = dtype or torch.float32
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if _devices() != devices:
        torch.set_default_device(devices[0].device if devices else None)


def _devices() -> list[Any]:
    """Contexts of a default device that this thread is in, the outermost first."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [mode for mode in modes if isinstance(mode, DeviceContext)]


def _elsewhere(devices: list[Any]) -> bool:
    return bool(devices) and devices[-1].device.type != "cpu"
