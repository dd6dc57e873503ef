"""Pickles read as data: every opcode is interpreted here, and nothing is imported or called.

`pickletools.genops` takes the stream apart; the machine below keeps the stack. What a pickle asks
to import becomes a `Global` (a name), what it asks to call becomes an `Inert` (a name and its
arguments), unless the name stands in `RULES`, each of which only moves plain data about. Tensors
become `Tensor` descriptions whose bounds are checked before a byte is read.
"""

import pickletools
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
"""first pickle of torch's legacy format"""
LITERALS = {
    "FLOAT", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
"""what a malformed stream makes `load` raise"""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something that a pickle wants imported. It is not."""

    name: str
    """module and qualified name, dotted"""


@dataclass(eq=False, slots=True)
class Inert:
    """An object that a pickle wants made; what was to be done to it is kept as data."""

    name: str
    """what was to be called"""
    arguments: tuple[object, ...]
    state: object = None
    items: list[object] = field(default_factory=list)
    entries: dict[object, object] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Storage:
    """A run of numbers somewhere in the file."""

    kind: str
    """name of torch's storage class, such as FloatStorage"""
    size: int
    """number of elements"""
    data: memoryview | bytes | None = None
    """the bytes, once their place in the file is known"""
    parent: "Storage | None" = None
    """in the oldest files a storage can be a piece of another"""
    offset: int = 0
    """first element within the parent"""


@dataclass(eq=False, slots=True)
class Tensor:
    """A strided view of a storage, as described by the file: not yet checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None
    """torch's name, where it differs from the storage's"""


Rule = Callable[..., object]


def mapping(value: object) -> dict[object, object] | None:
    """The entries of a dictionary, or of an inert object that has entries or attributes."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        return value.entries or (state if isinstance(state, dict) else None)
    return None


def printable(text: str) -> str:
    """The text, with escapes for what would break a line or talk to the terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def numpy_value(value: Inert) -> Any:
    """A numpy array or scalar that a pickle describes, or None where it is another thing."""
    module, _, name = value.name.rpartition(".")
    if not re.fullmatch(r"numpy\.(_?core)\.(multiarray|numeric)", module):
        return None
    if name == "scalar" and len(value.arguments) == 2:
        (kind, data), shape, fortran = value.arguments, (), False
    elif name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, fortran, data = value.state
    else:
        return None
    dtype = _numpy_dtype(kind)
    try:
        flat = np.frombuffer(data, dtype)  # type: ignore[call-overload]
        shaped = flat.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError):
        return None
    return shaped.astype(dtype.newbyteorder("=")) if dtype is not None else None


def _numpy_dtype(kind: object) -> "np.dtype[Any] | None":
    if not isinstance(kind, Inert) or kind.name != "numpy.dtype" or not kind.arguments:
        return None
    code, state = str(kind.arguments[0]), kind.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
    if not re.fullmatch(r"[biuf][1248]", code) or order not in ("<", ">", "|", "="):
        return None
    return np.dtype(f"{order}{code}")


class Reader:
    """One pickle stream's machine: a stack, its marks, a memo."""

    def __init__(
        self,
        persistent: Callable[[object], object] | None = None,
        rules: Mapping[str, Rule] | None = None,
    ) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.asked: dict[str, None] = {}
        """names of what was not called, in order"""
        self._persistent = persistent
        self._rules = {**RULES, **(rules or {})}

    def load(self, stream: IO[bytes]) -> object:
        """The value of the next pickle in the stream, which is left just behind it.

        Raises:
            DAMAGE: one of those, where the stream is malformed.
        """
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            else:
                getattr(self, f"_{opcode.name.lower()}")(argument)
        if len(self.stack) != 1:
            raise ValueError("the pickle leaves no single value")
        return self.stack.pop()

    # -- framing, marks and the memo --------------------------------------------------------------

    def _proto(self, _: int) -> None: ...

    def _frame(self, _: int) -> None: ...

    def _stop(self, _: None) -> None: ...

    def _mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop_mark(self, _: None) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark(None)

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    # -- containers -------------------------------------------------------------------------------

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    # a set is kept as a list: hashing what a file nests can take forever
    _empty_set = _empty_list

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _list(self, _: None) -> None:
        items = self._pop_mark(None)
        self.stack.append(items)

    def _tuple(self, _: None) -> None:
        items = self._pop_mark(None)
        self.stack.append(tuple(items))

    _frozenset = _tuple

    def _tuple1(self, _: None) -> None:
        self._last_as_tuple(1)

    def _tuple2(self, _: None) -> None:
        self._last_as_tuple(2)

    def _tuple3(self, _: None) -> None:
        self._last_as_tuple(3)

    def _last_as_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is too short")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _dict(self, _: None) -> None:
        items = self._pop_mark(None)
        self.stack.append({})
        self._fill(items)

    def _append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._pop_mark(None))

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Inert) else _expected(list, target)).extend(items)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _: None) -> None:
        self._fill(self._pop_mark(None))

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Inert) else _expected(dict, target)
        pairs = zip(items[::2], items[1::2], strict=True)
        entries.update((key, value) for key, value in pairs if _plain_key(key))

    # -- what would import, call and build --------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_global_named(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = _expected(str, self.stack.pop()), _expected(str, self.stack.pop())
        self.stack.append(_global_named(module, name))

    def _ext1(self, code: int) -> None:
        self.stack.append(Global(f"copyreg.extension {code}"))

    _ext2 = _ext4 = _ext1

    def _reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, _expected(tuple, arguments)))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        _expected(dict, self.stack.pop())
        self._reduce(None)

    def _obj(self, _: None) -> None:
        function, *arguments = self._pop_mark(None)
        self.stack.append(self._call(function, tuple(arguments)))

    def _inst(self, argument: str) -> None:
        arguments = tuple(self._pop_mark(None))
        self._global(argument)
        self.stack.append(self._call(self.stack.pop(), arguments))

    def _build(self, _: None) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _persid(self, argument: object) -> None:
        if self._persistent is None:
            raise ValueError("a persistent id outside torch's formats")
        self.stack.append(self._persistent(argument))

    def _binpersid(self, _: None) -> None:
        self._persid(self.stack.pop())

    def _next_buffer(self, _: None) -> None:
        raise ValueError("it needs a buffer from outside the file")

    def _readonly_buffer(self, _: None) -> None: ...

    def _call(self, function: object, arguments: tuple[Any, ...]) -> object:
        """What calling gives, by a rule; else a note of the call."""
        if isinstance(function, Inert):
            return Inert(function.name, arguments)
        name = _expected(Global, function).name
        if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            inner, kind, inner_arguments, _ = arguments
            if isinstance(kind, Global) and kind.name in PLAIN_TENSORS:
                return self._call(inner, _expected(tuple, inner_arguments))
            name = kind.name if isinstance(kind, Global) else name
        made: object = Inert(name, arguments)
        if rule := self._rules.get(name):
            # arguments that torch would not write leave the object inert, like all unknown ones
            with suppress(TypeError, ValueError):
                made = rule(*arguments)
        if isinstance(made, Inert):
            self.asked[made.name] = None
        return made


def _expected(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} where {kind.__name__} is due")
    return value


def _global_named(module: str, name: str) -> Global:
    return Global(printable(f"{module}.{name}".replace("__builtin__.", "builtins.")))


def _plain_key(key: object) -> bool:
    """Whether a key can be hashed in a bounded time; the entries of other keys are dropped."""
    if isinstance(key, tuple):
        return all(isinstance(k, str | int | float | bytes | None) for k in key)
    return isinstance(key, str | int | float | bytes | None)


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("an offset, size or stride that makes no sense")
    return value


def _integers(values: object) -> tuple[int, ...]:
    return tuple(map(_integer, _expected(tuple, values)))


def _tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> Tensor:
    """torch._utils._rebuild_tensor and _v2; a conjugate or negative view is left to the refusal."""
    if len(rest) > 2 and rest[2]:
        raise ValueError("a lazily negated or conjugated view")
    shape, stride = _integers(shape), _integers(stride)
    if len(shape) != len(stride):
        raise ValueError("as many strides as sizes are due")
    return Tensor(_expected(Storage, storage), _integer(offset), shape, stride)


def _tensor_v3(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: Global,
    metadata: object = None,
) -> Tensor:
    tensor = _tensor(storage, offset, shape, stride, requires_grad, hooks, metadata)
    tensor.dtype = _expected(Global, dtype).name.removeprefix("torch.")
    return tensor


def _parameter(data: object, *_: object) -> Tensor:
    tensor: Tensor = _expected(Tensor, data)
    return tensor


def _dictionary(pairs: Any = ()) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    return {key: value for key, value in pairs if _plain_key(key)}


def _defaultdict(factory: object = None, pairs: Any = ()) -> dict[object, object]:
    return _dictionary(pairs)


def _sequence(values: object = ()) -> list[object]:
    if not isinstance(values, list | tuple):
        raise ValueError("a list or tuple is due")
    return list(values)


def _size(values: object = ()) -> tuple[object, ...]:
    return tuple(_sequence(values))


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("an encoding that pickle does not write")
    return bytes(_expected(str, text), "latin1")


def _bytes(value: object = b"", encoding: str = "latin1") -> bytes:
    return value if isinstance(value, bytes) else _encoded(_expected(str, value), encoding)


def _reconstructed(kind: Global, base: object, state: object) -> object:
    """How copyreg makes an object at protocols 0 and 1."""
    return Inert(_expected(Global, kind).name, ())


def _device(name: str, *index: int) -> str:
    return ":".join(map(str, (_expected(str, name), *map(_integer, index))))


PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
RULES: dict[str, Rule] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _defaultdict,
    "builtins.dict": _dictionary,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
    "builtins.frozenset": _size,
    "builtins.tuple": _size,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
}
