"""The user's own modules that a FILE.py imports, found by reading; nothing is imported.

Import statements are followed, in functions, too, as are `import_module` and `__import__` of a
name that stands there. What is imported by a name put together at run time is not found.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import resolve_name, spec_from_file_location
from pathlib import Path
from sysconfig import get_path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from robustkit.files import digest, file_digest

VERSIONED = ("robustkit", "torch", "torchvision", "timm", "numpy")
"""libraries whose code is not read, however they are installed"""
INSTALLED = ("site-packages", "dist-packages")
"""folders of installed packages, whose code is not read"""
BY_NAME = ("import_module", "__import__")
"""functions that import a module by its name"""
_loaded: dict[str, ModuleType] = {}
"""modules that were loaded by importing a FILE.py"""


class ImportedModule(NamedTuple):
    """A module of the user's that a FILE.py imports, itself or through others."""

    name: str
    path: Path
    """its file; of a package that has none, its folder"""


def source_digest(path: Path) -> str:
    """A digest of a FILE.py and of what it imports; of the file alone where it imports none.

    Raises:
        InputError: one of the files cannot be read.
    """
    own = file_digest(path)
    modules = [one for one in imported_modules(path) if one.path.is_file()]
    others = [part for one in modules for part in (one.name, file_digest(one.path))]
    return digest(own, *others) if others else own


def imported_modules(path: Path) -> list[ImportedModule]:
    """The user's own modules that a FILE.py imports, by name.

    They are sought in its own folder, which comes first, and where Python looks.
    """
    importlib.invalidate_caches()  # files may have been written a moment ago
    root = path.resolve()
    places = [str(root.parent), *sys.path]
    found: dict[str, ModuleSpec] = {}
    left = list(_names(root, ""))
    while left:
        for spec in _specs(left.pop(), places):
            if spec.name in found:
                continue
            found[spec.name] = spec
            left += _names(_place(spec), spec.parent or "")
    made = (ImportedModule(name, _place(spec)) for name, spec in found.items())
    return sorted(one for one in made if one.path != root)


class FromSource(SourceFileLoader):
    """Loads a file as its source is now.

    Python takes what it compiled before where a file has the length and the second of its last
    change in common with it, as one written again in a loop has: another code than is on record.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Sources(MetaPathFinder):
    """Finds these modules by their files."""

    def __init__(self, modules: Iterable[ImportedModule]) -> None:
        self._files = {name: file for name, file in modules if file.suffix == ".py"}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Of one of them; None of any other."""
        file = self._files.get(fullname)
        if file is None:
            return None
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = FromSource(fullname, str(file))
        return spec_from_file_location(
            fullname, file, loader=loader, submodule_search_locations=inside
        )


class Neighbours:
    """The user's modules for a FILE.py, loaded as their files are when they are first imported.

    Python keeps what it has once loaded under a name: an edited module, or the one of that name
    which another FILE.py has in its folder, would be taken as it was.
    """

    def __init__(self, path: Path) -> None:
        self._folder = str(path.resolve().parent)
        self._modules = [one for one in imported_modules(path) if one.name != "__main__"]
        self._own: dict[str, ModuleType] = {}

    @contextmanager
    def present(self) -> Iterator[None]:
        """While the file is imported or called; the program's own of these names are then back."""
        aside: dict[str, ModuleType] = {}
        for name, file in self._modules:
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if module is None or spec is None or _is_installed(spec):
                continue
            if module is _loaded.get(name) or file.is_relative_to(self._folder):
                aside[name] = sys.modules.pop(name)
        sys.modules.update(self._own)
        sys.path.insert(0, self._folder)  # as `python FILE.py` would, so that it finds them
        sources = _Sources(self._modules)
        sys.meta_path.insert(0, sources)
        try:
            yield
        finally:
            sys.meta_path.remove(sources)
            sys.path.remove(self._folder)
            for name, _ in self._modules:
                if name in sys.modules:
                    self._own[name] = sys.modules[name]
                if name in aside and aside[name] is not _loaded.get(name):
                    sys.modules[name] = aside[name]
                elif name in sys.modules:
                    _loaded[name] = sys.modules[name]

    def beside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of the file, which may import them whenever it is called."""

        @wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            with self.present():
                return function(*given, **named)

        return called


def _names(path: Path, package: str) -> Iterator[str]:
    """The dotted names that a file of a package imports; of `from a import b`, also a.b."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # importing it tells
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                whole = _absolute("." * node.level + (node.module or ""), package)
                yield from (f"{whole}.{alias.name}" for alias in node.names if whole)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ) if called in BY_NAME:
                yield _absolute(name, package)


def _absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except ImportError:  # beyond the uppermost package, which importing it tells
        return ""


def _specs(name: str, places: list[str]) -> Iterator[ModuleSpec]:
    """A module of the user's and the packages that it is in, as far as they are found."""
    parts = name.split(".")
    if parts[0] in ("", *VERSIONED):
        return
    for count in range(1, len(parts) + 1):
        try:
            spec = PathFinder.find_spec(".".join(parts[:count]), places)
        except (ImportError, ValueError):
            return
        if spec is None or _is_installed(spec):
            return
        yield spec
        places = list(spec.submodule_search_locations or ())


def _place(spec: ModuleSpec) -> Path:
    """A module's file; of a package that has none, its folder; "." where it has neither."""
    return Path(spec.origin or next(iter(spec.submodule_search_locations or ()), "")).resolve()


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module is of an installed package, or of Python itself."""
    path, standard = _place(spec), Path(get_path("stdlib")).resolve()
    own = spec.origin in ("built-in", "frozen") or path.is_relative_to(standard)
    return own or not set(INSTALLED).isdisjoint(path.parts)
