"""How exactly, and how repeatably, a GPU calculates."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustkit.device import tf32
from robustkit.errors import InputError, first_line


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
    torch.use_deterministic_algorithms(deterministic)
    try:
        with tf32(allowed=precision != "float32"):
            yield
    except RuntimeError as error:
        if not deterministic or "deterministic implementation" not in str(error):
            raise
        reason = first_line(error).partition(",")[0]
        raise InputError(f"--deterministic: {reason}; train without it, or change that") from error
    finally:
        torch.use_deterministic_algorithms(before)
