"""A user's own loss: a function in a file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from inspect import Parameter, Signature
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustkit.errors import InputError, RobustkitError, UnknownName, one_line, quoted
from robustkit.files import digest
from robustkit.losses.loss import Loss, Result, Step, as_float32, checked_logits, probing, unwrapped
from robustkit.models import import_function, signature_of

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
EXACT = (Fraction, Decimal, complex, bytes, PurePath, Enum, np.generic, torch.dtype, torch.device)
"""what Python prints in full, and alike in every process"""
CODE = (FunctionType, BuiltinFunctionType, type)


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
        """The loss of a batch; see `Loss`.

        Raises:
            InputError: the function fails, or leaves gradients, to which its own would be added.
        """
        weights = list(unwrapped(model).parameters())
        before = [_stamp(weight.grad) for weight in weights]
        result = self._result(model, images, labels)
        for weight, stamp in zip(weights, before, strict=True):
            # what is set to zero again after an attack does no harm
            if weight.grad is not None and _stamp(weight.grad) != stamp and weight.grad.any():
                raise InputError(
                    f"{self.name} leaves gradients in the network's weights, to which its own "
                    "would be added; within a loss, as for an attack, use torch.autograd.grad("
                    "value, images) instead of value.backward()"
                )
        return result

    def _result(self, model: nn.Module, images: Tensor, labels: Tensor) -> Result:
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
        logits = checked_logits(seen[0]).detach()
        if len(logits) != len(labels):
            raise InputError(
                f"{self.name} passes {len(logits)} images through the network first, of a batch of "
                f"{len(labels)}; call model(images) first, whose logits give the training "
                "accuracy, and pass others after it"
            )
        return Result(loss, as_float32(logits))

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
        """Every setting as plain JSON; what JSON cannot hold by what identifies it.

        Raises:
            InputError: nothing does that.
        """
        return {key: self._json(key, value) for key, value in self.settings.items()}

    def _json(self, key: str, value: object) -> Any:
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError):
            pass
        match value:
            case list() | tuple():
                return [self._json(key, item) for item in value]
            case dict() if all(isinstance(name, str) for name in value):
                return {name: self._json(key, item) for name, item in value.items()}
            case Tensor() | np.ndarray() if (numbers := _numbers(value)) is not None:
                return numbers
            case FunctionType() | BuiltinFunctionType() | type() if _stands_alone(value):
                # the digest of its file, or a version, says what code it is
                own = value.__module__ == self.function.__module__
                home = "" if own else f"{value.__module__ or 'builtins'}."
                return {"code": f"{home}{value.__qualname__}"}
            case nn.Module() if type(value).__module__.startswith("torch.nn.") and not any(
                value.children()
            ):
                told = {name: held for name, held in vars(value).items() if name[0] != "_"}
                told |= {"tensors": dict(value.state_dict())}
                return {"code": type(value).__qualname__, "of": self._json(key, told)}
        if isinstance(value, EXACT):
            return repr(value)
        raise InputError(
            f"{self.name}: nothing identifies the value of {key}, of type "
            f"{type(value).__name__}; make it inside the function, from settings that are numbers, "
            "texts, lists, tensors or functions"
        )


def _stamp(gradient: Tensor | None) -> tuple[int, int] | None:
    """Changes whenever a gradient is set or added to."""
    return None if gradient is None else (id(gradient), gradient._version)


def _numbers(value: Tensor | np.ndarray) -> dict[str, Any] | None:
    """A tensor or array by type, shape and a digest of its numbers; None where it has no bytes."""
    try:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().flatten()
            content = flat.view(torch.uint8).numpy().tobytes()
        elif value.dtype.hasobject:
            return None
        else:
            content = value.tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantised, of no device
        return None
    return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": digest(content)}


def _holds_code(value: object) -> bool:
    """Whether a setting is a function or class, or has one in it."""
    if isinstance(value, list | tuple | dict):
        return any(map(_holds_code, value.values() if isinstance(value, dict) else value))
    return isinstance(value, CODE)


def _stands_alone(code: object) -> bool:
    """Whether a function's name says all of it, as that of an object's method does not."""
    return isinstance(getattr(code, "__self__", None), type | ModuleType | None)


def load_custom(name: str, settings: Mapping[str, Any]) -> CustomLoss:
    """The loss FILE.py:FUNCTION with settings for its keyword arguments.

    Raises:
        InputError: the file or function is not there, or does not take these arguments.
    """
    path, _, called = name.rpartition(":")
    chosen = import_function(Path(path), called, "--loss")
    try:
        signature = signature_of(chosen)
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
    for key, value in settings.items():
        if _holds_code(value):
            # its name would not tell when it changes, unlike that of one in the loss's own file
            raise InputError(
                f"{name}: the setting {key!r} is or holds a function or class; make it the "
                "default in the loss's file"
            )
    keywords = known | dict(settings)
    for key, value in keywords.items():
        if value is Parameter.empty:
            raise InputError(f"{name}: the key {key!r} is missing; give it with --set {key}=…")
    return keywords
