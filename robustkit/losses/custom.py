"""A user's own loss: a function in a file."""

import gc
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
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
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel

from robustkit.errors import InputError, RobustkitError, UnknownName, one_line, quoted
from robustkit.files import digest
from robustkit.losses.loss import Loss, Result, Step, as_float32, checked_logits, probing, unwrapped
from robustkit.models import import_function, signature_of

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
EXACT = (Fraction, Decimal, complex, bytes, PurePath, Enum, np.generic, torch.dtype, torch.device)
"""what Python prints in full, and alike in every process"""
CODE = (FunctionType, BuiltinFunctionType, type)
TOLD = ("step", "steps")
"""keyword-only arguments without a default that the training gives: updates so far, and in all"""


@dataclass(frozen=True, slots=True)
class CustomLoss(Loss):
    """A function `(model, images, labels) -> scalar` or `(logits, labels) -> scalar`."""

    name: str
    """FILE.py:FUNCTION"""
    function: Callable[..., Any]
    takes_model: bool
    settings: Mapping[str, Any]
    """every keyword argument, defaults included, but for those told"""
    told: tuple[str, ...] = ()
    """which of `TOLD` it takes"""

    def try_out(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> None:
        """Run the function once, on a batch as a training has it; see `Loss`.

        Raises:
            InputError: it fails, returns no scalar that depends on the network, or has a parameter
                of its own, which nothing would train.
        """
        inner = unwrapped(model)
        try:
            with probing(inner, images), torch.enable_grad():
                loss = self(inner, images, labels.clone(), step).loss
                known = {id(images), *map(id, inner.parameters())}
                leaves = [leaf for leaf in _leaves(loss) if id(leaf) not in known]
                del loss
            if (shape := _lasting(leaves, images.shape)) is not None:
                size = "×".join(map(str, shape)) or "a scalar"
                raise InputError(
                    f"{self.name}: a parameter of the loss's own ({size}) would not be trained; "
                    "put it into the network, or detach it"
                )
        except InputError as error:
            raise InputError(f"{error} (tried on the first batch, {len(images)} images)") from error

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`.

        Raises:
            InputError: the function fails, leaves gradients, to which its own would be added, or
                returns no scalar that depends on the network.
        """
        weights = list(unwrapped(model).parameters())
        before = [_stamp(weight.grad) for weight in weights]
        result = self._result(model, images, labels, step)
        if torch.is_grad_enabled() and not result.loss.requires_grad:
            raise InputError(
                f"{self.name} returned a number that does not depend on the network; of a batch "
                "that has nothing to teach, return 0 * logits.sum()"
            )
        for weight, stamp in zip(weights, before, strict=True):
            # what is set to zero again after an attack does no harm
            if weight.grad is not None and _stamp(weight.grad) != stamp and weight.grad.any():
                raise InputError(
                    f"{self.name} leaves gradients in the network's weights, to which its own "
                    "would be added; within a loss, as for an attack, use torch.autograd.grad("
                    "value, images) instead of value.backward()"
                )
        return result

    def _result(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        if not self.takes_model:
            logits = as_float32(model(images))
            return Result(self._value(step, logits, labels), logits.detach())
        found: list[Tensor | None] = []
        version = images._version

        def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if any(one is not None for one in found):
                return
            given = next(iter((*args, *named.values())), None)
            # once a function has written into the batch, it is other images
            alike = images._version == version and _same(given, images)
            found.append(checked_logits(output).detach() if alike else None)

        handle = model.register_forward_hook(note, with_kwargs=True)
        try:
            loss = self._value(step, _open(model), images, labels)
        finally:
            handle.remove()
        if not found:
            raise InputError(f"{self.name} must call the model it is given, as model(images)")
        answer = found[-1]
        return Result(loss, None if answer is None else as_float32(answer))

    def _value(self, step: Step, *arguments: object) -> Tensor:
        """What the function returns, if it is one number."""
        told = {"step": step.number, "steps": step.steps}
        told = {name: told[name] for name in self.told}
        try:
            value = self.function(*arguments, **self.settings, **told)
        except (RobustkitError, torch.OutOfMemoryError):
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


def _same(given: object, images: Tensor) -> bool:
    """Whether these are the images themselves, or a copy of them."""
    if given is images:
        return True
    if not isinstance(given, Tensor) or given.device != images.device:
        return False
    return given.dtype == images.dtype and torch.equal(given, images)


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """Whatever a number depends on that has a gradient of its own."""
    seen, found = set(), [get_gradient_edge(value).node]
    while found:
        node = found.pop()
        if node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            yield node.variable  # type: ignore[attr-defined]
        found += [one for one, _ in node.next_functions if one is not None]


def _lasting(leaves: list[Tensor], batch: torch.Size) -> tuple[int, ...] | None:
    """The shape of a leaf that is a parameter, or there after the call; those left are taken away.

    Of the others are images that are attacked, or by which a gradient is penalised, and what is
    added to the `batch`.
    """
    own = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter) and leaf.shape != batch]
    shapes = [tuple(leaf.shape) for leaf in own]
    del own
    known = [weakref.ref(leaf) for leaf in leaves]
    leaves.clear()
    gc.collect()  # what a function leaves in a cycle lasts no longer
    shapes += [tuple(leaf.shape) for one in known if (leaf := one()) is not None]
    return shapes[0] if shapes else None


def _open(model: nn.Module) -> nn.Module:
    """The network as a function of others knows it, where a wrapper hides it.

    It has all that the network has; called, it passes through the wrapper, which shares gradients.
    """
    if not isinstance(model, DistributedDataParallel):
        return model
    if "opened" not in vars(model):
        inner = model.module
        cls = type(inner)
        own = {
            "__call__": lambda _, *args, **named: model(*args, **named),
            "__reduce_ex__": lambda _, protocol: inner.__reduce_ex__(protocol),  # a copy is bare
        }
        opened: nn.Module = object.__new__(type(cls.__name__, (cls,), own))
        object.__setattr__(opened, "__dict__", vars(inner))
        vars(model)["opened"] = opened  # past torch, to which it would be a part of the network
    found: nn.Module = vars(model)["opened"]
    return found


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
    told = tuple(
        p.name
        for p in signature.parameters.values()
        if p.kind == p.KEYWORD_ONLY and p.default is p.empty and p.name in {*TOLD} - {*settings}
    )
    keywords = _keywords(name, signature, dict.fromkeys(told) | dict(settings))
    settings = {key: value for key, value in keywords.items() if key not in told}
    return CustomLoss(name, chosen, len(required) == 3, settings, told)


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
