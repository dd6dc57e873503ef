"""Random generators of torch, seeded for one device and no other of the program's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ACCELERATORS = ("cuda", "xpu")
"""kinds of devices, each of which has a generator of its own"""


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the processor and of one device, and no other.

    `torch.manual_seed` seeds every GPU of the program, also those that are none of our business.
    """
    torch.default_generator.manual_seed(seed)
    if device.type in ACCELERATORS:
        own = getattr(torch, device.type)
        with own.device(device):
            own.manual_seed(seed)


@contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Generators of torch, of the processor and of one device, seeded; as they were afterwards."""
    kind = device.type if device.type in ACCELERATORS else "cuda"
    with torch.random.fork_rng([device] if kind == device.type else [], device_type=kind):
        seed_torch(seed, device)
        yield


def current() -> torch.device:
    """The GPU that the program works on, if it has begun to; else the processor."""
    begun = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.device("cuda", torch.cuda.current_device()) if begun else torch.device("cpu")
