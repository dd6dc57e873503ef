"""Global random generators: seeded for one device and no other of the program's, and restored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ACCELERATORS = ("cuda", "xpu")
"""kinds of devices, each of which has a generator of its own"""


def seed_all(seed: int, device: torch.device) -> None:
    """Seed the generators of Python, numpy and torch, of the processor and of one device.

    `torch.manual_seed` seeds every GPU of the program, also those that are none of our business.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  code of others draws from this very state
    torch.default_generator.manual_seed(seed)
    if device.type in ACCELERATORS:
        own = getattr(torch, device.type)
        with own.device(device):
            own.manual_seed(seed)


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Set these generators back to what they were before."""
    kind = device.type if device.type in ACCELERATORS else "cuda"
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if kind == device.type else [], device_type=kind):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """All that code of others draws from, seeded; as it was afterwards."""
    with generators_kept(device):
        seed_all(seed, device)
        yield


def current() -> torch.device:
    """The GPU that the program works on, if it has begun to; else the processor."""
    begun = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.device("cuda", torch.cuda.current_device()) if begun else torch.device("cpu")
