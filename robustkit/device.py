"""Where the numbers are worked out."""

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
