"""A user's own loss: a function in a file."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustkit.errors import InputError, RobustkitError, UnknownName, one_line, quoted
from robustkit.losses.loss import Loss, Result, Step, as_float32, checked_logits, probing, unwrapped
from robustkit.models import import_function

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class CustomLoss(Loss):
    """A function `(model, images, labels) -> scalar` or `(logits, labels) -> scalar`."""

    name: str
    """FILE.py:FUNCTION"""
    function: Callable[..., Any]
    takes_model: bool
    settings: Mapping[str, Any]
    """every keyword argument, defaults included"""

    def prepare(self, model: nn.Module, images: Tensor) -> "CustomLoss":
        """Run the function once.

        Raises:
            InputError: it fails, or returns no scalar that depends on the network.
        """
        inner = unwrapped(model)
        with probing(inner, images), torch.enable_grad():
            classes = checked_logits(inner(images)).shape[1]
            labels = torch.arange(len(images), device=images.device) % classes
            loss = self(inner, images, labels, Step(0, torch.Generator(images.device))).loss
        if not loss.requires_grad:
            raise InputError(f"{self.name} returned a number that does not depend on the network")
        return self

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        if not self.takes_model:
            logits = as_float32(model(images))
            return Result(self._value(logits, labels), logits.detach())
        seen: list[Tensor] = []
        handle = model.register_forward_hook(lambda _, inputs, output: seen.append(output))
        try:
            loss = self._value(model, images, labels)
        finally:
            handle.remove()
        if not seen:
            raise InputError(f"{self.name} must call the model it is given, as model(images)")
        return Result(loss, as_float32(seen[0].detach()))

    def _value(self, *arguments: object) -> Tensor:
        """What the function returns, if it is one number."""
        try:
            value = self.function(*arguments, **self.settings)
        except RobustkitError:
            raise
        except (Exception, SystemExit) as error:  # a user's code may raise anything: one line
            raise InputError(f"{self.name} failed: {one_line(error)}") from error
        if not isinstance(value, Tensor) or value.ndim:
            got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else quoted(value)
            raise InputError(f"{self.name} returned {got}; it must return a scalar tensor")
        return value

    def spell(self) -> dict[str, Any]:
        """Every setting as plain JSON; a default that JSON cannot hold as Python prints it."""
        return {key: _json(value) for key, value in self.settings.items()}


def _json(value: object) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return repr(value)


def load_custom(name: str, settings: Mapping[str, Any]) -> CustomLoss:
    """The loss FILE.py:FUNCTION with settings for its keyword arguments.

    Raises:
        InputError: the file or function is not there, or does not take these arguments.
    """
    path, _, called = name.rpartition(":")
    chosen = import_function(Path(path), called, "--loss")
    try:
        signature = inspect.signature(chosen)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: its arguments cannot be read; wrap it in a def") from error
    required = [
        p for p in signature.parameters.values() if p.kind in POSITIONAL and p.default is p.empty
    ]
    if len(required) not in (2, 3):
        raise InputError(
            f"{name} takes {len(required)} arguments; a loss takes (logits, labels) or "
            "(model, images, labels), and settings as keyword arguments with defaults"
        )
    return CustomLoss(name, chosen, len(required) == 3, _keywords(name, signature, settings))


def _keywords(name: str, signature: Signature, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The function's keyword arguments: its defaults, then the settings."""
    parameters = signature.parameters.values()
    known = {
        p.name: p.default
        for p in parameters
        if p.kind == p.KEYWORD_ONLY
        or (p.kind == p.POSITIONAL_OR_KEYWORD and p.default is not p.empty)
    }
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for key in settings:
            if key not in known:
                raise InputError(f"{name}: {UnknownName('key', key, known)}")
    keywords = known | dict(settings)
    for key, value in keywords.items():
        if value is Parameter.empty:
            raise InputError(f"{name}: the key {key!r} is missing; give it with --set {key}=…")
    return keywords
