"""Fewer bits between machines: gradient compression as DistributedDataParallel hooks.

- schemes: what is sent, as `--compress` says it; needs no torch
- messages: from a gradient to a message and back, tensors only
- hook: the communication hook, its memory, its counters, its state

A new scheme is a frozen dataclass in schemes and one `match` arm in `parse` and in the hook.
"""

from typing import TYPE_CHECKING

from robustkit.compression.schemes import (
    Half,
    OneBit,
    PowerSGD,
    RandomK,
    Scheme,
    TopK,
    parse,
)
from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.compression.hook import Compressor, attach

__all__ = [
    "Compressor",
    "Half",
    "OneBit",
    "PowerSGD",
    "RandomK",
    "Scheme",
    "TopK",
    "attach",
    "parse",
]

__getattr__ = lazily(__name__, {"Compressor": "hook", "attach": "hook"})
"""which need torch: an option is checked without it"""
