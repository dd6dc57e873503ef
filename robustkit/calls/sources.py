"""A loss or an architecture in memory, as a file that says all of it: FILE.py:FUNCTION.

A training must be on record whole, and its network be built again elsewhere. So what is given in
memory is written down: its source, the sources of the functions and classes of the user's own that
it names, its constants, and its imports of what is installed.
"""

import ast
import dis
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

from robustkit.errors import InputError, cut, one_line, quoted
from robustkit.files import extended, write_atomic
from robustkit.switches import settings_kept
from robustkit.training.saved import state_path

PACKAGES = ("site-packages", "dist-packages")
"""folders of installed packages, whose versions are on record"""
Given = Callable[..., Any] | str
"""a name, FILE.py:FUNCTION, or the function or class itself"""
OF_ANY = (
    *("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__"),
    *("__static_attributes__", "__firstlineno__", "__annotations_cache__", "__annotate_func__"),
)
"""what Python gives every class"""
ELSE = "write it to a file and give FILE.py:FUNCTION"


class Code(NamedTuple):
    """A loss or an architecture by the name under which a training has it."""

    name: str
    """as it was given, or FILE.py:FUNCTION"""
    file: tuple[Path, bytes] | None
    """to be written, where it was in memory"""

    def keep(self, out: Path, *, fresh: bool) -> None:
        """Write the file, unless it is there.

        Args:
            out: the checkpoint that is to come of it.
            fresh: whether what was trained there before is to be replaced.

        Raises:
            InputError: it says otherwise, and a network was trained by it: that is still read by
                it.
        """
        if self.file is None:
            return
        path, content = self.file
        if path.is_file() and path.read_bytes() == content:
            return
        trained = out.exists() or state_path(out).exists()
        if path.exists() and trained and not fresh:
            raise InputError(
                f"{path}: has another source than the one in memory, and {out} was trained by it; "
                "give another --out, or --fresh to train it anew"
            )
        write_atomic(path, content)


def called(given: Given) -> str:
    """A function or class by its name; a name as it is."""
    return given if isinstance(given, str) else str(getattr(given, "__name__", given))


def code_of(given: Given, beside: Path, option: str) -> Code:
    """What is given by its name, and the file that has it.

    Args:
        given: a name, or a function or class that `def` or `class` defines at the top of a file or
            cell.
        beside: the checkpoint, beside which the file is to stand.
        option: begins messages: "--loss".

    Raises:
        InputError: its source cannot be had, or it uses what cannot be written down.
    """
    if isinstance(given, str):
        return Code(given, None)
    name = called(given)
    if not isinstance(given, FunctionType | type):
        kind = type(given).__name__
        raise InputError(
            f"{option}: an object of type {kind} has no source of its own; give the class or "
            f"function that makes it, or {ELSE}"
        )
    if not name.isidentifier():
        raise InputError(f"{option} {cut(name)}: no function with a source of its own; {ELSE}")
    written = _Written(f"{option} {name}")
    written.add(given, name)
    written.check()
    path = beside.with_name(extended(f"{beside.stem}.{name}", ".py"))
    return Code(f"{path}:{name}", (path, written.text().encode()))


class _Written:
    """A module in the making: imports, constants, then sources, each after what it names."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.known: dict[str, Any] = {}
        self.imports: list[str] = []
        self.body: list[str] = []

    def add(self, found: Any, name: str) -> None:
        """A global name and what it stands for."""
        if name in self.known:
            if self.known[name] is not found:
                raise InputError(f"{self.asked}: {name} names two things in it; {ELSE}")
            return
        self.known[name] = found
        if isinstance(found, ModuleType):
            self._import(found, name)
        elif (home := _installed(found)) is not None:
            self.imports.append(f"from {home} import {_named(found.__name__, name)}")
        elif isinstance(found, FunctionType | type):
            self._define(found, name)
        else:
            self.body.append(f"{name} = {self._constant(found, name)}")

    def text(self) -> str:
        """The file."""
        return "\n".join([*sorted(self.imports), "", *self.body]).strip() + "\n"

    def check(self) -> None:
        """Nothing, if the file makes again what is in memory.

        A method that was replaced, a default of a constant that is another by now, a file that was
        edited since: the source does not say them.

        Raises:
            InputError: it makes something else, or fails.
        """
        made: dict[str, Any] = {"__name__": "robustkit_written"}
        try:
            with settings_kept():
                exec(compile(self.text(), "<written>", "exec", dont_inherit=True), made)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{self.asked}: its source fails where it stands alone ({one_line(error)}); {ELSE}"
            ) from error
        for name, found in self.known.items():
            own = isinstance(found, FunctionType | type) and _installed(found) is None
            if own and not _same(found, made.get(name)):
                raise InputError(
                    f"{self.asked}: {name} in memory is not what its source says (a method "
                    f"or constant that was replaced, a default); define it anew, or {ELSE}"
                )

    def _import(self, module: ModuleType, name: str) -> None:
        if not _stands_installed(module):
            raise InputError(f"{self.asked} uses {name}, a module of your own; {ELSE}")
        self.imports.append(f"import {_named(module.__name__, name)}")

    def _define(self, found: FunctionType | type, name: str) -> None:
        text = _source(found)
        if text is None or found.__qualname__ != name:
            raise InputError(
                f"{self.asked}: {quoted(name)} has no source of its own, as what is defined by def "
                f"or class at the top of a file or cell has; {ELSE}"
            )
        if getattr(found, "__closure__", None):
            raise InputError(f"{self.asked}: {name} uses variables of another function; {ELSE}")
        known = _globals(found)
        for used in _used(text):
            if used in known and used != name:
                self.add(known[used], used)
        self.body.append(f"\n{text}")

    def _constant(self, value: Any, name: str) -> str:
        try:
            if ast.literal_eval(repr(value)) == value:
                return repr(value)
        except (ValueError, SyntaxError, TypeError):
            pass
        kind = type(value).__name__
        raise InputError(f"{self.asked} uses {name}, a {kind} in memory; {ELSE}")


def _named(name: str, here: str) -> str:
    """Of an import: a name, and what it is called here."""
    return name if name == here else f"{name} as {here}"


def _installed(found: Any) -> str | None:
    """The installed module that has a function, class or instance by its own name."""
    name = str(getattr(found, "__name__", ""))
    homes = (getattr(found, "__module__", None), "torch", "torch.nn.functional", "math", "numpy")
    for home in homes if name else ():
        module = sys.modules.get(str(home))
        if module is not None and getattr(module, name, None) is found:
            return str(home) if _stands_installed(module) else None
    return None


def _stands_installed(module: ModuleType) -> bool:
    """Whether a module comes with Python or a package, not from a file of the user's."""
    top, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if top == "__main__":
        return False
    if file is None or top == "robustkit" or top in sys.stdlib_module_names:
        return True
    return any(folder in Path(file).parts for folder in PACKAGES)


def _source(found: FunctionType | type) -> str | None:
    """What defines it; also of a class of a notebook, which has no file of its own."""
    try:
        return textwrap.dedent(inspect.getsource(found))
    except (OSError, TypeError):
        return _source_in_cell(found) if isinstance(found, type) else None


def _source_in_cell(found: type) -> str | None:
    """A class by the cell in which its methods stand."""
    for method in vars(found).values():
        if isinstance(method, FunctionType):
            text = "".join(linecache.getlines(method.__code__.co_filename))
            nodes = ast.parse(text).body if text else []
            for node in nodes:
                if isinstance(node, ast.ClassDef) and node.name == found.__name__:
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    return "".join(text.splitlines(True)[first - 1 : node.end_lineno])
    return None


def _globals(found: FunctionType | type) -> Mapping[str, Any]:
    """The names that its source may mean."""
    if isinstance(found, FunctionType):
        return found.__globals__
    methods = (one for one in vars(found).values() if isinstance(one, FunctionType))
    module = sys.modules.get(found.__module__)
    return next((one.__globals__ for one in methods), vars(module) if module else {})


def _used(source: str) -> Iterator[str]:
    """Names that a source reads and does not bind itself, each once."""
    tree = ast.walk(ast.parse(source))
    nodes = list(tree)
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    read = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    yield from (n for n in dict.fromkeys(read) if n not in bound)


def _same(found: Any, made: Any) -> bool:
    """Whether two functions, or classes, do the same by their code and defaults."""
    if isinstance(found, FunctionType):
        return (
            isinstance(made, FunctionType)
            and _code(found.__code__) == _code(made.__code__)
            and _alike(found.__defaults__, made.__defaults__)
            and _alike(found.__kwdefaults__, made.__kwdefaults__)
        )
    if not isinstance(found, type) or not isinstance(made, type):
        return _alike(found, made)
    own, others = ({k: v for k, v in vars(c).items() if k not in OF_ANY} for c in (found, made))
    return own.keys() == others.keys() and all(
        _same(_inside(own[name]), _inside(others[name])) for name in own
    )


def _inside(value: Any) -> Any:
    """The function of a method of any kind."""
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def _code(code: CodeType) -> tuple[Any, ...]:
    """What a function does, wherever it stands.

    A module that is imported in the same cell is asked for its functions by another instruction
    than one that is not, which moves whatever is jumped to.
    """
    steps = tuple(
        (step.opname.replace("LOAD_METHOD", "LOAD_ATTR"), _operand(step))
        for step in dis.get_instructions(code)
        if step.opname not in ("PUSH_NULL", "PRECALL", "CACHE", "NOP", "EXTENDED_ARG")
    )
    inner = tuple(_code(one) for one in code.co_consts if isinstance(one, CodeType))
    return steps, inner, code.co_varnames, code.co_freevars, code.co_cellvars


def _operand(step: dis.Instruction) -> object:
    """What an instruction is given; not where it jumps to, nor the code that it makes one of."""
    jumps = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
    return None if jumps or isinstance(step.argval, CodeType) else repr(step.argval)


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are one in what can be told of them: of objects their kind alone."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, str | bytes | int | float | complex | NoneType):
        return type(one) is type(other) and repr(one) == repr(other)
    return type(one) is type(other)
