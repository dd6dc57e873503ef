"""Where the numbers are worked out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustkit.errors import InputError, cut, first_line


def device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        InputError: no such device, or none that answers.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        # a number that comes back: "meta" holds shapes alone
        torch.ones(1, device=found).item()
    except Exception as error:  # each kind of device refuses in its own way
        raise InputError(f"--device {cut(name)}: {first_line(error)}") from error
    return found


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """With a GPU's products and convolutions of float32 cut to TF32, or not; as it was afterwards.

    torch allows convolutions by default.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
