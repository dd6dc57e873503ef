"""The rules of the house: floors, shelves, start-up."""

import ast
import inspect
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import robustkit
from robustkit.files import shipped

PACKAGE = Path(robustkit.__file__).parent
FLOORS = [
    {
        "defaults",
        "errors",
        "files",
        "keys",
        "lazy",
        "machine",
        "parsing",
        "seals",
        "showing",
        "statistics",
        "switches",
        "unpickling",
    },
    {
        "record",
        "protocol",
        "geometry",
        "network",
        "data",
        "fetching",
        "models",
        "losses",
        "seeding",
        "spec",
    },
    {
        "checkpoint",
        "attacks",
        "certification",
        "compression",
        "corruption",
        "device",
        "parallel",
        "shelves",
    },
    {"evaluation", "training", "results"},
    {"analysis"},
    {"auditing", "figures", "study", "summary"},
    {"reporting", "integrity"},
    {"display"},
    {"tracking"},
    {"calls"},
    {"cli"},
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}
DOORS = {"foolbox": "attacks", "eagerpy": "attacks", "seaborn": "figures", "matplotlib": "figures"}
TORCH_FREE = [
    "compression",
    "corruption",
    "losses",
    "training",
    "defaults",
    "errors",
    "files",
    "keys",
    "lazy",
    "unpickling",
    "machine",
    "statistics",
    "record",
    "protocol",
    "data",
    "models",
    "figures",
    "summary",
    "reporting",
    "spec",
    "results",
    "results.sides",
    "analysis",
    "analysis.compare",
    "analysis.evidence",
    "analysis.judge",
    "analysis.record_folder",
    "analysis.rank",
    "study",
    "study.findings",
    "study.run",
    "checkpoint",
    "checkpoint.header",
    "checkpoint.metadata",
    "checkpoint.sidecar",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def home(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imported(path: Path) -> list[str]:
    """Every module that a file imports, anywhere in it."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_no_floor_imports_a_higher_one():
    for path in FILES:
        if home(path) in ("__init__", "__main__"):
            continue
        assert home(path) in FLOOR, f"{path}: a new module needs its floor"
        for name in imported(path):
            top, _, rest = name.partition(".")
            if top == "robustkit" and (other := rest.split(".")[0]) != home(path):
                assert FLOOR[other] <= FLOOR[home(path)], f"{path} imports {other}"
            if top in DOORS:
                assert home(path) == DOORS[top], f"{path}: {top} has one door: {DOORS[top]}"


def test_there_are_no_import_cycles():
    edges = {}
    for path in FILES:
        here = home(path)
        names = {n.split(".")[1] for n in imported(path) if n.startswith("robustkit.")}
        edges.setdefault(here, set()).update(names - {here})
    edges.pop("__init__")  # late imports only
    done: set[str] = set()
    while rest := {m for m in edges if m not in done}:
        free = {m for m in rest if edges[m] & set(edges) <= done}
        assert free, f"a cycle among {rest}"
        done |= free


def reached(room: str) -> set[str]:
    """The modules of robustkit that a package imports, directly or by way of others."""
    files = {
        ".".join(("robustkit", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
        if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
    }
    found, left = set(), [name for name in files if name.split(".")[1] == room]
    while left:
        name = left.pop()
        if name in found or name not in files:
            continue
        found.add(name)
        # what an import names is a module, or stands in one, and brings its packages along
        for other in imported(files[name]):
            parts = other.split(".")
            modules = [".".join(parts[:i]) for i in range(2, len(parts) + 1)]
            left += [*modules, *(f"{module}.__init__" for module in modules)]
    return found


@pytest.mark.parametrize("room", ["spec", "results", "analysis"])
def test_no_import_leads_from_judging_to_planning(room):
    assert not [name for name in reached(room) if name.startswith("robustkit.study")]


def test_what_a_room_reaches_is_found_through_others():
    assert {"robustkit.spec.checks", "robustkit.results.rows"} <= reached("analysis")
    assert "robustkit.training.engine" in reached("study")


def test_what_needs_no_torch_imports_none():
    # each in a process of its own, forked from one that has imported nothing of robustkit
    code = """
import os, sys
from importlib import import_module
import filelock, numpy, PIL.Image, pyarrow.parquet, scipy.special
assert "torch" not in sys.modules
for module in sys.argv[1:]:
    if os.fork() == 0:
        import_module("robustkit." + module)
        os._exit(1 if "torch" in sys.modules else 0)
    if os.wait()[1]:
        print(module)
"""
    asked = [sys.executable, "-W", "ignore", "-c", code, *TORCH_FREE]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("", "")


def test_the_shelves_hold_no_code():
    for shelf in ("attacks", "data", "reports"):
        folder = shipped(shelf)
        assert folder.is_dir()
        assert not list(folder.rglob("*.py"))


def test_the_public_names_are_those_that_are_told():
    assert sorted(robustkit.__all__) == robustkit.__all__
    # `from robustkit import *` leaves Python's own list alone
    assert set(dir(robustkit)) - set(robustkit.__all__) == {"list"}
    for name in dir(robustkit):
        assert getattr(robustkit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = robustkit.nothing


def test_every_public_name_says_in_a_line_what_it_is():
    for name in set(robustkit.__all__) - {"__version__"}:
        first, *rest = inspect.getdoc(getattr(robustkit, name)).splitlines()
        assert 15 < len(first) <= 100, name
        assert not rest or not rest[0], name


def test_no_test_imports_from_another_test_module():
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(r"\b(from|import)\b.*\btest_", path.read_text(encoding="utf-8")):
            tops = [name.split(".")[0] for name in imported(path)]
            shared = [top for top in tops if top.startswith("test_")]
            assert not shared, f"{path}: what tests share is in helpers/"


# --- sizes and names ------------------------------------------------------------------------------


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else int(body[-1].end_lineno or 0) - body[0].lineno + 1


def test_no_file_is_too_long():
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, path


def test_functions_are_short():
    lengths = {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}": body_lines(node)
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert [place for place, lines in lengths.items() if lines > 45] == []
    assert statistics.median(lengths.values()) <= 7


def test_no_class_name_stands_for_two_things():
    homes: dict[str, set[Path]] = {}
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(path)
    twice = {name: sorted(map(str, paths)) for name, paths in homes.items() if len(paths) > 1}
    assert twice == {}


# --- what CONTRIBUTING tells of the house ---------------------------------------------------------

ROOT = PACKAGE.parent
TOLD = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```|^    .*?$|^ *\|.*?$", "", TOLD, flags=re.DOTALL | re.MULTILINE)


def test_what_contributing_points_at_exists():
    files = {p.name for folder in (PACKAGE, ROOT / "tests") for p in folder.rglob("*.py")}
    for path in re.findall(r"`([\w./-]+\.py)`", PROSE):
        whole = any((folder / path).exists() for folder in (ROOT, PACKAGE))
        assert whole or path in files, path


def test_the_walk_enters_each_file_once():
    walk = PROSE.split("## A walk")[1].split("\n## ")[0]
    steps = re.findall(r"`([\w/]+\.py)`", walk)
    assert len(steps) > 15
    assert len(steps) == len(set(steps))


def test_sentences_of_contributing_are_short():
    for block in re.split(r"\n\s*\n|\n- |\n\d+\. ", PROSE):
        for sentence in re.split(r"(?<=[.!?:]) (?=[A-Z`*])", " ".join(block.split())):
            assert len(sentence.split()) < 40, sentence
