"""What torch keeps for the whole process that changes numbers: set for a while, and set back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

OPERATORS = [(kind, name) for kind in ("cuda", "mkldnn") for name in ("matmul", "conv", "rnn")]
"""whose float32 torch may cut, by backend"""
PLACES = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all"), *OPERATORS]
"""where torch keeps how far; a place at none has what an earlier one has"""


@contextmanager
def deterministic(*, wanted: bool) -> Iterator[None]:
    """With deterministic algorithms alone, or with any; as it was afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    # asked for what it does already, torch imports its compiler all the same: seconds
    if before != wanted or (wanted and warns):
        torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        now = torch.are_deterministic_algorithms_enabled()
        if (before, warns) != (now, torch.is_deterministic_algorithms_warn_only_enabled()):
            torch.use_deterministic_algorithms(before, warn_only=warns)


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """With products and convolutions of float32 cut to TF32, or not at all; as it was afterwards.

    torch allows a GPU's convolutions by default.
    """
    before = _taken_down()
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        for operator in OPERATORS:
            _set(*operator, "tf32" if allowed else "ieee")
        yield
    finally:
        _put_back(before)


@contextmanager
def settings_kept() -> Iterator[None]:
    """What code of others may set for the whole process, as it was afterwards.

    Whether there are gradients, checks of them and deterministic algorithms alone, the precision of
    products, and what becomes of numbers too small for float32. A count of threads stays.
    """
    before = _taken_down()
    _put_back(before)
    cudnn = torch.backends.cudnn
    benchmark, flushed = cudnn.benchmark, not _smallest()
    anomalies = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    only = torch.are_deterministic_algorithms_enabled()
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()), deterministic(wanted=only):
            yield
    finally:
        _taken_down()
        _put_back(before)
        cudnn.benchmark = benchmark
        if bool(_smallest()) == flushed:
            torch.set_flush_denormal(flushed)
        if anomalies[0] != torch.is_anomaly_enabled():
            torch.autograd.set_detect_anomaly(*anomalies)


def _smallest() -> Tensor:
    """A number below float32's normal ones, which a processor may take for 0."""
    return torch.full((), 1e-40, dtype=torch.float32, device="cpu") * 1


class _Precisions(NamedTuple):
    """torch's settings, of two interfaces that hold them beside each other."""

    products: str
    """of the older one: highest, high or medium"""
    convolutions: bool
    """of the older one: whether cuDNN may cut"""
    own: dict[tuple[str, str], str]
    """of the newer one, by backend and operator: what each has of its own, or none"""


def _taken_down() -> _Precisions:
    """The settings, all of the newer interface's put to none.

    The older one refuses to be read where the newer says something else, and an operator of the
    newer answers with what it inherits: read from the outermost inwards, each has its own.
    """
    own = {}
    for place in PLACES:
        own[place] = torch._C._get_fp32_precision_getter(*place)
        _set(*place, "none")
    try:
        convolutions = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it differs from none
        convolutions = True
    return _Precisions(torch.get_float32_matmul_precision(), convolutions, own)


def _put_back(before: _Precisions) -> None:
    torch.set_float32_matmul_precision(before.products)
    torch.backends.cudnn.allow_tf32 = before.convolutions
    for place, precision in before.own.items():
        _set(*place, precision)


def _set(backend: str, operator: str, precision: str) -> None:
    torch._C._set_fp32_precision_setter(backend, operator, precision)
