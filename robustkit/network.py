"""Asking a network: whatever it raises is told in its own words, as one error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
