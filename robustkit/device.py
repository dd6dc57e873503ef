"""Where the numbers are worked out."""

import torch

from robustkit.errors import InputError, first_line


def device(name: str) -> torch.device:
    """The device of that name; `auto` takes a GPU where there is one.

    Raises:
        InputError: no such device, or none that answers.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.ones(1, device=found).item()  # the device "meta" has shapes and no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: {first_line(error)}") from error
    return found
