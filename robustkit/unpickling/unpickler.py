"""Pickles read as data: every opcode is interpreted here, and nothing is imported or called.

`pickletools.genops` takes the stream apart; the machine below keeps the stack. What a pickle asks
to import becomes a `Global` (a name), what it asks to call becomes a `Placeholder` (a name and its
arguments), unless the name stands in `RULES`, each of which only moves plain data about. Tensors
become `StoredTensor` descriptions whose bounds are checked before a byte is read.

Why opcode by opcode, and not `pickle.Unpickler` with a `find_class` of our own: that one calls
whatever `find_class` returns, sets attributes and items on the result, and offers no place to stop
a call that was allowed for another purpose. Here no call exists that could be reached by mistake,
and what is unknown is kept and shown instead of refused, so that the weights beside it can be read.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import IO, Any

from robustkit.unpickling.budget import Budget
from robustkit.unpickling.objects import Global, Placeholder, expected, global_named
from robustkit.unpickling.rules import PLAIN_TENSORS, RULES, Entries, Rule

MAGIC = 0x1950A86A20F9469CFC6C
"""first pickle of torch's legacy format"""
LITERALS = {
    "FLOAT", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""what a malformed stream makes `load` raise"""


class Unpickler:
    """One pickle stream's machine: a stack, its marks, a memo."""

    def __init__(
        self,
        budget: Budget,
        persistent: Callable[[object], object] | None = None,
        rules: Mapping[str, Rule] | None = None,
        keys: Callable[[Placeholder], object] | None = None,
    ) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.uncalled: dict[str, None] = {}
        """names of what was not called, in order"""
        self._budget = budget
        self._persistent = persistent
        self._rules = {**RULES, **(rules or {})}
        self._keys = keys  # from an object that stands as a key to what it is kept under

    def load(self, stream: IO[bytes]) -> object:
        """The value of the next pickle in the stream, which is left just behind it.

        Raises:
            DAMAGE: one of those, where the stream is malformed.
            BadFile: it asks for more than its budget.
        """
        for opcode, argument, _ in pickletools.genops(stream):
            self._budget.visit()
            if opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            else:
                getattr(self, f"_{opcode.name.lower()}")(argument)
        if len(self.stack) != 1:
            raise ValueError("the pickle does not end in a single value")
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
        if self._budget.admits(index, self.memo):
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
        (target.items if isinstance(target, Placeholder) else expected(list, target)).extend(items)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _: None) -> None:
        self._fill(self._pop_mark(None))

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Placeholder) else expected(dict, target)
        self._enter(zip(items[::2], items[1::2], strict=True), entries)

    def _enter(
        self, pairs: Iterable[tuple[object, object]], entries: dict[object, object]
    ) -> dict[object, object]:
        for key, value in pairs:
            if self._keys is not None and isinstance(key, Placeholder):
                key = self._keys(key)
            if self._budget.admits(key, entries):
                entries[key] = value
        return entries

    # -- what would import, call and build --------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(global_named(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = expected(str, self.stack.pop()), expected(str, self.stack.pop())
        self.stack.append(global_named(module, name))

    def _ext1(self, code: int) -> None:
        self.stack.append(Global(f"copyreg.extension {code}"))

    _ext2 = _ext4 = _ext1

    def _reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, expected(tuple, arguments)))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        expected(dict, self.stack.pop())
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
        if isinstance(self.stack[-1], Placeholder):
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
        self._budget.visit()
        if isinstance(function, Placeholder):
            return Placeholder(function.name, arguments)
        name = expected(Global, function).name
        if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
            inner, kind, inner_arguments, _ = arguments
            if isinstance(kind, Global) and kind.name in PLAIN_TENSORS:
                return self._call(inner, expected(tuple, inner_arguments))
            name = kind.name if isinstance(kind, Global) else name
        made: object = Placeholder(name, arguments)
        if rule := self._rules.get(name):
            self._budget.pay(arguments)
            # with arguments that torch would not write the call stays a placeholder
            with suppress(TypeError, ValueError):
                made = rule(*arguments)
            if isinstance(made, Entries):
                made = self._enter(made.pairs, {})
        if isinstance(made, Placeholder):
            self.uncalled[made.name] = None
        return made
