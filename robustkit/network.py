"""Asking a network: whatever it raises is told in its own words, as one error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robustkit.errors import NetworkFailed, RobustkitError, one_line


@contextmanager
def asked(doing: str) -> Iterator[None]:
    """A pass through a network of others, forward or back; `doing` says which.

    A lack of memory is raised as it is, since a smaller batch may help.

    Raises:
        NetworkFailed: it raised anything, were it the end of the process.
    """
    try:
        yield
    except (RobustkitError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise NetworkFailed(f"the network failed {doing}: {one_line(error)}") from error


def gradient(value: Tensor, x: Tensor, **options: Any) -> Any:
    """The gradient of what a network answered in its pixels; options are `torch.autograd.grad`'s.

    It may be written to. None where `allow_unused` is set and `x` plays no part.

    Raises:
        NetworkFailed: an operation of the network's own broke on the way back.
    """
    with asked("on the way back to its pixels"):
        found = torch.autograd.grad(value, x, **options)[0]
    # autograd may hand out one number for all pixels
    return found if found is None else found.contiguous()
