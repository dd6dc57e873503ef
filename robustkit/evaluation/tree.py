"""What a module in memory computes, as far as its classes, source and attributes show it.

Followed from each `forward` is whatever its source names: methods, globals, closures, constants.
That leaves out what no reading can show (a name put together at run time, a file that changed after
it was imported); for this, outputs are compared (`outputs.py`).
"""

import dis
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch

from robustkit.files import canonical, digest

VERSIONED = ("torch", "torchvision", "timm", "einops", "numpy")
"""libraries whose code is known by name and version"""
LIBRARIES = frozenset({*sys.stdlib_module_names, *VERSIONED})
"""whose code is not read"""
IMPLICIT = frozenset(
    {
        *("forward", "__call__", "__getattr__", "__getattribute__", "__torch_function__"),
        *("__getitem__", "__iter__", "__next__", "__len__", "__contains__", "__bool__"),
        *("__enter__", "__exit__", "__add__", "__mul__", "__rmul__", "__matmul__"),
    }
)
"""methods that are called without their name"""
BACKWARD = frozenset({"backward", "setup_context", "jvp", "vjp", "vmap"})
"""likewise of a `torch.autograd.Function`, whose gradient is its own"""
BOOKKEEPING = frozenset(
    {
        *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
        *("_state_dict_hooks", "_state_dict_pre_hooks"),
        *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    }
)
"""attributes of every module that change no logit, or are described by themselves"""
GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
"""instructions that read a global"""
STATE = ("__reduce__", "__reduce_ex__", "__getstate__")
"""methods by which a class says what its state is, where attributes are not all of it"""
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
COMPILED = (
    *(BuiltinFunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType),
    np.ufunc,
)
TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


class Unreadable(Exception):
    """Something that a module holds has no source, or a state that cannot be seen."""


def weights_of(module: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and numbers of all parameters and all buffers.

    Raises:
        Unreadable: a tensor whose numbers cannot be read.
    """
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    return digest(*(part for name, tensor in named for part in (name, _numbers(tensor))))


def tree_of(module: torch.nn.Module) -> tuple[str, str]:
    """SHA-256 over classes, source, attributes, hooks and children, in their order.

    With the versions of libraries, which may change a logit, and without: they make no other
    network.

    Raises:
        Unreadable: something that it holds cannot be described.
    """
    reader = _Reader()
    parts = [reader.value(module), reader.members()]
    return digest(canonical([*parts, _versions()])), digest(canonical(parts))


def _numbers(tensor: torch.Tensor) -> str:
    try:
        dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        content = dense.cpu().resolve_conj().contiguous().flatten().view(torch.uint8)
        return digest(canonical([str(tensor.dtype), list(tensor.shape)]), content.numpy().tobytes())
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise Unreadable(f"a tensor of {tensor.dtype}") from error


def _versions() -> dict[str, str]:
    loaded = (name for name in VERSIONED if name in sys.modules)
    return {name: str(getattr(sys.modules[name], "__version__", "")) for name in loaded}


class _Reader:
    """Describes values as JSON; what is met again is named by its number."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.held: list[Any] = []  # or the id of something short-lived would be given out again
        self.spaces: list[type | ModuleType] = []
        self.names: set[str] = set(IMPLICIT)
        self.done: set[tuple[int, str]] = set()

    def value(self, value: Any) -> Any:
        """Anything that a module or a function holds.

        Raises:
            Unreadable: it has no source, or a state that cannot be seen.
        """
        kind = type(value)
        if kind in PLAIN or isinstance(value, TORCH):
            return [kind.__name__, repr(value)]
        if isinstance(value, torch.Tensor):
            return ["tensor", _numbers(value)]
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value))
        if id(value) in self.numbers:
            return ["met", self.numbers[id(value)]]
        self.numbers[id(value)] = len(self.numbers)
        self.held.append(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if isinstance(value, type | ModuleType):
            return self._space(value)
        return self._code(value) or self._container(value) or self._object(value)

    def members(self) -> list[Any]:
        """Methods and constants of the classes met, and members of modules, that source names.

        Each can name further ones, so this goes on until nothing new is met.
        """
        found: list[Any] = []
        while new := list(self._new()):
            for number, name, value in new:
                self.done.add((number, name))
                found.append([number, name, self.value(value)])
        return found

    def _new(self) -> Iterator[tuple[int, str, Any]]:
        for number, space in enumerate(self.spaces):
            names = self.names | BACKWARD if _has_own_gradient(space) else self.names
            for name in sorted(names & vars(space).keys()):
                value = vars(space)[name]
                # of a library's classes, only what somebody has put in place of its own counts
                if (number, name) not in self.done and (
                    not _is_library(space) or isinstance(value, FunctionType)
                ):
                    yield number, name, value

    # --- modules, classes -------------------------------------------------------------------------

    def _module(self, module: torch.nn.Module) -> Any:
        attributes = {k: v for k, v in vars(module).items() if k not in BOOKKEEPING}
        return [
            "module",
            self.value(type(module)),
            [[name, self._attribute(name, attributes[name])] for name in sorted(attributes)],
            [list(module._parameters), [[n, b is None] for n, b in module._buffers.items()]],
            [[name, self.value(child)] for name, child in module._modules.items()],
        ]

    def _attribute(self, name: str, value: Any) -> Any:
        # hooks are numbered by a counter of the whole process: their order is what counts
        hooks = name.startswith("_") and "_hooks" in name and isinstance(value, Mapping)
        return [self.value(hook) for hook in value.values()] if hooks else self.value(value)

    def _space(self, space: type | ModuleType) -> Any:
        """A class or an imported module; what is used of it, `members` describes."""
        if isinstance(space, ModuleType):
            if not _is_library(space):
                self.spaces.append(space)
            return ["import", space.__name__]
        for parent in space.__mro__:
            if parent not in self.spaces and parent is not object:
                self.spaces.append(parent)
        return ["class", [f"{one.__module__}.{one.__qualname__}" for one in space.__mro__]]

    # --- functions --------------------------------------------------------------------------------

    def _code(self, value: Any) -> Any:
        """Whatever can be called; None for anything else."""
        match value:
            case FunctionType():
                return self._function(value)
            case MethodType():
                return ["method", self.value(value.__func__), self.value(value.__self__)]
            case functools.partial():
                inside = (value.func, value.args, value.keywords)
                return ["partial", *(self.value(one) for one in inside)]
            case staticmethod() | classmethod():
                return [type(value).__name__, self.value(value.__func__)]
            case property():
                return ["property", self.value(value.fget)]
            case functools.cached_property():
                return ["property", self.value(value.func)]
        if isinstance(value, functools._lru_cache_wrapper):
            return ["cached", self.value(value.__wrapped__)]
        return self._compiled(value) if isinstance(value, COMPILED) else None

    def _function(self, function: FunctionType) -> Any:
        if _is_library(function) and not _is_made_up(function.__code__):
            return ["function", f"{function.__module__}.{function.__qualname__}"]
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        return [
            "function",
            _source(function),
            [[name, self.value(_content(cell))] for name, cell in cells],
            [[name, self.value(value)] for name, value in self._globals(function)],
            [self.value(v) for v in (function.__defaults__, function.__kwdefaults__)],
            self.value(vars(function)),
        ]

    def _globals(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        """The globals that a function reads; the names that it takes of anything are noted."""
        read = set()
        for code in _codes(function.__code__):
            constants = {c for c in code.co_consts if isinstance(c, str) and c.isidentifier()}
            self.names |= {*code.co_names, *constants}  # constants: getattr(self, "scale")
            read |= {i.argval for i in dis.get_instructions(code) if i.opname in GLOBAL}
        for name in sorted(read & function.__globals__.keys()):
            yield name, function.__globals__[name]

    def _compiled(self, function: Any) -> Any:
        """A function without source: of a library, or a method of something described."""
        name = getattr(function, "__qualname__", None) or function.__name__
        owner = getattr(function, "__self__", None)
        plain = owner is None or isinstance(owner, type | ModuleType)
        if not plain or (_has_own_gradient(owner) and not _is_library(owner)):
            return ["compiled", name, self.value(owner)]
        home = getattr(function, "__objclass__", owner)
        if not (_is_library(function) or (home is not None and _is_library(home))):
            raise Unreadable(f"{name}, which is compiled")
        # a method of a built-in type has a home and no module
        module = getattr(home, "__name__", None) or function.__module__
        return ["compiled", module, name]

    # --- data -------------------------------------------------------------------------------------

    def _array(self, array: np.ndarray[Any, Any]) -> Any:
        if array.dtype.hasobject:
            raise Unreadable("an array of objects")
        return ["array", array.dtype.str, list(array.shape), digest(array.tobytes())]

    def _container(self, value: Any) -> Any:
        """Whatever holds others, with its class; None for anything else."""
        kind = self.value(type(value))
        match value:
            case Enum():
                return ["enum", kind, value.name]
            case tuple() | list():
                return ["sequence", kind, [self.value(one) for one in value]]
            case set() | frozenset():
                return ["set", kind, sorted(canonical(self.value(one)) for one in value)]
            case dict():
                return ["table", kind, [[self.value(k), self.value(v)] for k, v in value.items()]]
        if is_dataclass(value):
            return ["fields", kind, [self.value(getattr(value, f.name)) for f in fields(value)]]
        return None

    def _object(self, value: Any) -> Any:
        """An object whose attributes are all its state; of a compiled class, nobody knows."""
        kind = type(value)
        own = [getattr(kind, name) is getattr(object, name) for name in STATE]
        if not all(own):
            raise Unreadable(f"{kind.__qualname__}, whose state cannot be read")
        try:
            # refuses a compiled class, whose state is more than attributes
            _, (_, *content), state, *_ = value.__reduce_ex__(2)
        except (TypeError, AttributeError) as error:
            raise Unreadable(f"{kind.__qualname__}, whose state cannot be read") from error
        return ["object", self.value(kind), self.value(content), self.value(state)]


def _is_library(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name is not None and name.partition(".")[0] in LIBRARIES


def _has_own_gradient(value: Any) -> bool:
    """Whether it is a class with a forward pass and the gradient that goes with it."""
    return isinstance(value, type) and issubclass(value, torch.autograd.Function)


def _is_made_up(code: CodeType) -> bool:
    """Whether a function has no file, as those have that torch.fx writes into torch's classes."""
    return code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen")


def _source(function: FunctionType) -> str:
    try:
        source = inspect.getsource(function.__code__)  # of the function, not of what it wraps
    except (OSError, TypeError, SyntaxError) as error:
        raise Unreadable(f"{function.__qualname__}, whose source is not available") from error
    if function.__name__ == "<lambda>" and source.count("lambda") > 1:
        raise Unreadable("one of several lambdas on one line")
    return source


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None
