"""What every loss is: settings that turn a network, images and labels into one number."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustkit.errors import InputError
from robustkit.seeding import generators_kept


class Step(NamedTuple):
    """Where a training run stands."""

    number: int
    """optimiser steps taken before this one"""
    generator: torch.Generator
    """on the device of the images, for losses that draw"""
    steps: int = 0
    """optimiser steps of the whole run; 0: not known"""


class Result(NamedTuple):
    """A loss and the logits behind it."""

    loss: Tensor
    """scalar; differentiable from a call, detached from `backward`"""
    logits: Tensor | None
    """N × K, detached: what the network said of the batch; None where it was never asked"""


class Loss(ABC):
    """Base of the frozen dataclasses of settings; a loss is the mean over the batch."""

    __slots__ = ()

    def prepare(self, model: nn.Module, images: Tensor) -> "Loss":
        """The loss to train that network with, after a try on a few images, N × C × H × W.

        It is the loss itself, or one that knows more of the network: go on with what is returned.
        A loss that needs the network changed changes it here. Training mode, buffers and random
        state are left as they were.

        Raises:
            InputError: they don't fit.
        """
        inner = unwrapped(model)
        with probing(inner, images), torch.no_grad():
            checked_logits(inner(images))
        return self

    def try_out(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> None:
        """Take the loss of the first batch before the run begins, if that may fail; as in a call.

        What `prepare` leaves as it was is left so here, too.

        Raises:
            InputError: it failed, or nothing can be learnt by it.
        """
        return  # a loss of the registry has been tested

    @abstractmethod
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch, differentiable in the network's parameters.

        Args:
            model: maps N × C × H × W to logits N × K; may be wrapped for distributed training.
            images: N × C × H × W.
            labels: N, int64.
            step: where the run stands.
        """

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """Add the loss's gradient to that of the network's parameters; arguments as in a call."""
        result = self(model, images, labels, step)
        result.loss.backward()  # type: ignore[no-untyped-call]
        return Result(result.loss.detach(), result.logits)

    def backward_mode(self, model: nn.Module) -> str:
        """How `backward` finds the gradient: "one pass", or "two passes: " and why."""
        return "one pass"

    def warning(self, updates: int) -> str:
        """What a user should know of a training of so many updates; empty if nothing."""
        return ""

    def spell(self) -> dict[str, Any]:
        """Every setting as plain JSON."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]


class LogitLoss(Loss):
    """A loss that needs the logits and the labels alone."""

    __slots__ = ()

    @abstractmethod
    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch, a scalar, of logits N × K in float32 or float64."""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        logits = as_float32(model(images))
        return Result(self.value(logits, labels), logits.detach())


def plain(value: Any) -> Any:
    """A setting as JSON has it: exact fractions as text, tuples as lists."""
    if isinstance(value, Fraction):
        return str(value)
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def expect(holds: bool, message: str, got: object) -> None:
    """Raise InputError unless a condition holds; `message` begins with the loss and setting."""
    if not holds or (isinstance(got, float) and not math.isfinite(got)):
        raise InputError(f"{message}, got {plain(got)}")


def as_float32(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are."""
    return values if values.dtype == torch.float64 else values.float()


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, out of its wrapper for distributed training."""
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return inner


def checked_logits(logits: object) -> Tensor:
    """The network's output, if a loss can use it.

    Raises:
        InputError: not a tensor N × K with at least two classes.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the network returned {type(logits).__name__}; a loss needs its logits, N × K"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        shape = " × ".join(map(str, logits.shape)) or "a scalar"
        raise InputError(f"the network returned {shape}; a loss needs logits N × K, K at least 2")
    return logits


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """The network in eval mode unless `training`; afterwards each module's mode as before."""
    modes = [(module, module.training) for module in model.modules()]
    if not training:
        model.eval()
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before


@contextmanager
def probing(model: nn.Module, images: Tensor, *, evaluate: bool = True) -> Iterator[None]:
    """Try a network out: afterwards its modes, buffers and the random states are as before.

    It is in eval mode meanwhile, or, unless `evaluate`, in the modes it was in.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with generators_kept(images.device), mode(model, not evaluate):
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.data.copy_(before)
