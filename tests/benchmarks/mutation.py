"""Mutation tests: random faults by mutmut's operators, and whether the tests see them.

    pip install "robustkit[dev,mutation]"
    python tests/benchmarks/mutation.py --out DIR [--groups record statistics] [--count 300]

Works on copies of the checkout's files inside DIR, never on the checkout. First all tests run once
under coverage.py, each with a context of its own; then each mutant runs those tests alone that
touch its statement, fastest first, until one fails. A test that takes ten times as long as before,
and a minute more, counts as failing. Mutants are tried in forked children of a process that has
imported everything but robustkit, so that a child sees its mutant wherever that is imported, in
processes that a test starts, too, and torch's import is paid once.

What is done stands in DIR; a run that was cut off goes on. After a change of tests alone, survivors
are tried again and the dead stay dead; after a change of robustkit all is tried anew.

Nothing is excluded but annotations, decorators and what cannot be mutated without an error when a
function is defined. A survivor that no test could kill is argued in `mutation-equivalents.toml`.
"""

import argparse
import ast
import compileall
import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import py_compile
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

# ruff: noqa: E402
# this folder holds a script that is called coverage.py, too
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode
from statsmodels.stats.proportion import proportion_confint

GROUPS = ("attacks", "statistics", "record", "keys", "losses")
NOT_BEHAVIOUR = {"test_house.py"}
"""tests of the text itself, which a mutant may fail for its looks"""
PATIENCE, FACTOR, START = 60.0, 10.0, 180.0
"""seconds and multiple of its usual time that a test has; seconds until the first one begins"""
IMPORT = "(import)"
"""what a mutant died of that let no test begin"""
NO_TESTS, OWN_ERROR = 5, 99
"""exit statuses: pytest's where it has nothing to run, and ours"""
CHECKOUT = Path(__file__).parents[2]
EQUIVALENTS = Path(__file__).with_name("mutation-equivalents.toml")


# --- mutants --------------------------------------------------------------------------------------


@dataclass
class Mutant:
    group: str
    file: str
    source: str
    """of the whole mutated file"""
    was: str
    now: str
    lines: list[int]
    """of the file before, that the mutation changes"""

    @property
    def key(self):
        return hashlib.sha256(f"{self.file}\n{self.source}".encode()).hexdigest()[:16]


class Everything(MutationVisitor):
    """mutmut's choice of nodes, but decorated functions and enumerations are mutated as well."""

    def _skip_node_and_children(self, node):
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            return False
        return super()._skip_node_and_children(node)


def mutants_of(group, root):
    """All mutants of a group's files, each as a whole mutated module, made when it is asked for."""
    place = root / "robustkit" / group
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for file in files:
        if not file.exists():
            sys.exit(f"there is no robustkit/{group}, nor robustkit/{group}.py")
        wrapper = MetadataWrapper(cst.parse_module(file.read_text()))
        visitor = Everything(mutation_operators, IgnoredCode(set(), set(), set()))
        module = wrapper.visit(visitor)
        for found in visitor.mutations:
            yield str(file.relative_to(root)), module, found


def sample(group, root, count, seed):
    """So many mutants at random; those whose text does not compile are drawn again."""
    population = list(mutants_of(group, root))
    random.Random(f"{seed} {group}").shuffle(population)
    drawn = []
    for file, module, found in population:
        if len(drawn) == count:
            break
        before = module.code
        after = deep_replace(module, found.original_node, found.mutated_node).code
        try:
            same = ast.dump(ast.parse(after)) == ast.dump(ast.parse(before))
        except SyntaxError:
            continue
        if not same:
            drawn.append(Mutant(group, file, after, *changed(before, after)))
    return drawn, len(population)


def changed(before, after):
    """The lines that differ, before and after, and their numbers."""
    a, b = before.splitlines(), after.splitlines()
    was, now, lines = [], [], []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            was += [line.strip() for line in a[i1:i2]]
            now += [line.strip() for line in b[j1:j2]]
            lines += range(i1 + 1, max(i2, i1 + 1) + 1)
    return " ".join(was), " ".join(now), lines


# --- which tests touch what -----------------------------------------------------------------------


class Contexts:
    """A pytest plugin: a coverage context for each test, and for each fixture that tests share."""

    def __init__(self, cov):
        self.cov = cov
        self.current = ""
        self.tests = {}

    def _switch(self, to):
        before, self.current = self.current, to
        self.cov.switch_context(to)
        return before

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        shared = [
            f"fixture {d.baseid}::{d.argname}"
            for defs in item._fixtureinfo.name2fixturedefs.values()
            for d in defs
            if d.scope != "function"
        ]
        self.tests[item.nodeid] = {"seconds": 0.0, "passed": True, "shared": shared}
        before = self._switch(item.nodeid)
        yield
        self._switch(before)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            yield
            return
        before = self._switch(f"fixture {fixturedef.baseid}::{fixturedef.argname}")
        yield
        self._switch(before)

    def pytest_runtest_logreport(self, report):
        test = self.tests[report.nodeid]
        test["seconds"] += report.duration
        test["passed"] &= report.passed


def cover(slot, files, out):
    """Run these tests under coverage, in a child; what each touches goes into a file."""
    include = [f"robustkit/{g}{end}" for g in GROUPS for end in (".py", "/*")]
    cov = coverage.Coverage(data_file=None, include=[str(slot / i) for i in include])
    plugin = Contexts(cov)
    cov.start()
    pytest.main([*OPTIONS, f"--basetemp={slot}.tmp", *files], plugins=[plugin])
    cov.stop()
    data, touched = cov.get_data(), {}
    for file in data.measured_files():
        at = data.contexts_by_lineno(file)
        touched[str(Path(file).relative_to(slot))] = {n: c for n, c in at.items() if c}
    roots = (str(slot), "robustkit", "tests", "helpers", "conftest", "test_")
    modules = [n for n in sys.modules if not n.startswith((*roots, "$", "__"))]
    out.write_text(json.dumps({"tests": plugin.tests, "touched": touched, "modules": modules}))


@dataclass
class Map:
    """Which tests touch which lines."""

    tests: dict = field(default_factory=dict)
    touched: dict = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    modules: list = field(default_factory=list)

    def add(self, part):
        self.tests |= {n: t for n, t in part["tests"].items() if t["passed"]}
        self.modules += part["modules"]
        users = defaultdict(set)
        for name, test in part["tests"].items():
            for shared in test["shared"]:
                users[shared].add(name)
        for file, lines in part["touched"].items():
            for line, contexts in lines.items():
                for context in contexts:
                    names = users[context] if context.startswith("fixture ") else {context}
                    self.touched[file][int(line)] |= names

    def tests_for(self, mutant, source):
        """Tests that touch the mutant's statements, fastest first.

        For what runs when one imports: those that touch the module, bear the group's name, or ask
        what packages promise.
        """
        at = self.touched.get(mutant.file, {})
        lines, imported = statement(ast.parse(source), mutant.lines)
        found = set().union(*(at.get(n, ()) for n in lines))
        if imported or "" in found:
            own = (f"tests/test_{mutant.group}", "tests/test_packages")
            named = (n for n in self.tests if n.startswith(own))
            found = found.union(named, *at.values())
        names = [n for n in found if n in self.tests]
        return sorted(names, key=lambda n: (self.tests[n]["seconds"], n))


def statement(tree, lines):
    """The lines of the smallest statements around these; whether they run when one imports."""
    spans, imported = set(), False
    for line in lines:
        span, inside = range(line, line + 1), False
        nodes = [(node, False) for node in tree.body]
        while nodes:
            node, within = nodes.pop()
            if not node.lineno <= line <= node.end_lineno:
                continue
            body = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
            below = body + [
                n
                for part in ast.iter_child_nodes(node)
                if isinstance(part, ast.ExceptHandler | ast.match_case)
                for n in part.body
            ]
            last = min((n.lineno for n in below), default=node.end_lineno + 1)
            span, inside = range(node.lineno, max(last, node.lineno + 1)), within
            deeper = within or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            nodes = [(n, deeper) for n in below]
        spans |= set(span)
        imported |= not inside
    return spans, imported


# --- one child a mutant ---------------------------------------------------------------------------

OPTIONS = [
    *("-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=line"),
    *("-m", "not slow and not gpu"),
    # its plugins are imported by now, and have no asserts that we read
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
]


class Chosen:
    """A pytest plugin: these tests alone, in this order, each announced to the parent."""

    def __init__(self, names, pipe):
        self.place = {name: i for i, name in enumerate(names)}
        self.pipe = pipe

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid]
        )

    def pytest_runtest_logstart(self, nodeid):
        os.write(self.pipe, (nodeid + "\n").encode())


def enter(slot, log):
    """Make this child one that lives in a copy of the checkout."""
    os.setsid()
    os.chdir(slot)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    sys.path.insert(0, str(slot))
    os.environ["PYTHONPATH"] = str(slot)


def fork(slot, log, work):
    """A child that enters the slot, does its work and is gone: its id and the pipe it writes to."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        os.close(read)
        enter(slot, log)
        code = work(write)
    except BaseException as problem:
        print(repr(problem), flush=True)
        code = OWN_ERROR
    sys.stdout.flush()
    os._exit(int(code))


@dataclass
class Slot:
    """A copy of the checkout in which one mutant at a time is tried."""

    root: Path

    def make(self, original):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(original, self.root)
        # compiled once and not compared with its source; a mutant has none
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(self.root / "robustkit", quiet=2, invalidation_mode=mode)

    def put(self, mutant):
        file = self.root / mutant.file
        compiled = Path(importlib.util.cache_from_source(str(file)))
        kept = compiled.with_suffix(".kept")
        compiled.rename(kept)
        original = file.read_text()
        file.write_text(mutant.source)

        def restore():
            file.write_text(original)
            kept.rename(compiled)

        return restore


class Trial:
    """A child under way, with the time that its present test has left."""

    def __init__(self, slot, mutant, names, seconds):
        self.slot, self.mutant, self.names, self.seconds = slot, mutant, names, seconds
        self.restore = slot.put(mutant) if mutant.source else lambda: None
        self.log = Path(f"{slot.root}.log")
        self.began = time.monotonic()
        self.deadline = self.began + START
        self.test, self.unread = IMPORT, b""
        self.child, self.pipe = fork(slot.root, self.log, self._work)

    def _work(self, pipe):
        sys.dont_write_bytecode = bool(self.mutant.source)
        if sys.dont_write_bytecode:
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        files = sorted({name.split("::")[0] for name in self.names})
        temporary = f"--basetemp={self.slot.root}.tmp"
        return pytest.main(["-x", *OPTIONS, temporary, *files], plugins=[Chosen(self.names, pipe)])

    def read(self):
        """Take in what the child announces; False when it is gone."""
        more = os.read(self.pipe, 65536)
        *done, self.unread = (self.unread + more).split(b"\n")
        if done:
            self.test = done[-1].decode()
            self.deadline = time.monotonic() + PATIENCE + FACTOR * self.seconds[self.test]
        return bool(more)

    def end(self, late):
        """Its verdict, once the child is gone or out of time."""
        # a process that it has left behind may hold the pipe open
        gone, status = os.waitpid(self.child, os.WNOHANG if late else 0)
        late = late and not gone
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)
        if late:
            _, status = os.waitpid(self.child, 0)
        os.close(self.pipe)
        code = os.waitstatus_to_exitcode(status)
        self.restore()
        # an error on import or collection is a death, too; one of this script's own is not
        passed = code in (0, NO_TESTS, OWN_ERROR)
        verdict = "timeout" if late else "survived" if passed else "killed"
        told = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        reason = next((line for line in told if "Error" in line or "FAILED" in line), "")
        return {
            "verdict": verdict,
            "by": "" if verdict == "survived" else self.test,
            "why": reason[:300],
            "code": code,
            "seconds": round(time.monotonic() - self.began, 2),
        }


def try_all(todo, slots, seconds, tell):
    """Try (mutant, its tests) in as many children at once as there are slots."""
    waiting, free = list(reversed(todo)), list(slots)
    watch = selectors.DefaultSelector()
    while waiting or watch.get_map():
        while waiting and free:
            mutant, names = waiting.pop()
            trial = Trial(free.pop(), mutant, names, seconds)
            watch.register(trial.pipe, selectors.EVENT_READ, trial)
        for event, _ in watch.select(1.0):
            if not event.data.read():
                event.data.deadline = 0
                _finish(watch, event.data, free, tell, late=False)
        for event in list(watch.get_map().values()):
            if time.monotonic() > event.data.deadline:
                _finish(watch, event.data, free, tell, late=True)


def _finish(watch, trial, free, tell, late):
    watch.unregister(trial.pipe)
    verdict = trial.end(late)
    free.append(trial.slot)
    tell(trial.mutant, verdict | {"tests": len(trial.names)})


# --- the whole ------------------------------------------------------------------------------------


def copy_checkout(to):
    """The files that git knows, so that nothing hangs on what is edited while this runs."""
    shutil.rmtree(to, ignore_errors=True)
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        source, target = CHECKOUT / name, to / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return to


def digest(root, *folders):
    whole = hashlib.sha256()
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            if "benchmarks" not in file.parts:
                whole.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return whole.hexdigest()[:16]


def map_of(slots, out, tests, state):
    """What touches what: on file, or found now by running the tests in the slots."""
    file = out / f"coverage-{state}.json"
    if not file.exists():
        print(f"running {len(tests)} test files under coverage", flush=True)
        tests = sorted(tests, key=lambda t: -(slots[0].root / t).stat().st_size)
        parts, children = [], []
        for i, slot in enumerate(slots):
            part = out / f"coverage-part-{i}.json"
            share = tests[i :: len(slots)]
            work = lambda pipe, s=slot, t=share, p=part: cover(s.root, t, p) or 0  # noqa: E731
            children.append(fork(slot.root, Path(f"{slot.root}.log"), work))
            parts.append(part)
        for (child, pipe), slot in zip(children, slots, strict=True):
            os.close(pipe)
            if os.waitpid(child, 0)[1]:
                sys.exit(f"the tests did not run under coverage, see {slot.root}.log")
        file.write_text(json.dumps([json.loads(part.read_text()) for part in parts]))
    found = Map()
    for part in json.loads(file.read_text()):
        found.add(part)
    return found


def on_file(path, robustkit, tests):
    """Verdicts that still hold, by key."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        one = json.loads(line)
        if one["robustkit"] == robustkit and (
            one["state"] == tests or one["verdict"] != "survived"
        ):
            done[one["key"]] = one
    return done


def report(drawn, done, sizes):
    """Shares by module and by group, then what survived."""
    rows = tomllib.loads(EQUIVALENTS.read_text()).get("mutant", []) if EQUIVALENTS.exists() else []
    equal = {(r["file"], r["was"], r["now"]) for r in rows}
    rest = []
    print(f"\n{'module':45} mutants equivalent killed (on import)  share  at least (95 %)")
    for group, mutants in drawn.items():
        tried = [m for m in mutants if m.key in done]
        counts = defaultdict(Counter)
        for m in tried:
            dead = done[m.key]["verdict"] != "survived"
            born = dead and done[m.key]["by"] == IMPORT
            argued = not dead and (m.file, m.was, m.now) in equal
            for name in (m.file, f"all of {group}, of {sizes[group]}"):
                counts[name].update(n=1, killed=dead, equal=argued, born=born)
            if not dead and not argued:
                rest.append(m)
        for name, c in sorted(counts.items()):
            n = c["n"] - c["equal"]
            low = proportion_confint(c["killed"], n, method="wilson")[0] if n else 0
            share = c["killed"] / n if n else 0
            print(
                f"{name:45} {c['n']:7} {c['equal']:10} {c['killed']:6} {c['born']:11} "
                f"{share:6.1%} {low:10.1%}",
                flush=True,
            )
        seconds = sum(done[m.key]["seconds"] for m in tried)
        print(f"{'':45} {seconds / max(len(tried), 1):.1f} s a mutant")
    print("\nSurvivors:" if rest else "\nNo survivors.")
    for m in rest:
        print(f"{m.file}:{m.lines[0]} ({done[m.key]['tests']} tests)\n  - {m.was}\n  + {m.now}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tests", nargs="+", help="test files; all if not given")
    parser.add_argument("--only-report", action="store_true", help="print what is on file")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    root = copy_checkout(out / "checkout")
    tests = options.tests or [
        f"tests/{f.name}"
        for f in sorted((root / "tests").glob("test_*.py"))
        if f.name not in NOT_BEHAVIOUR
    ]
    drawn, sizes = {}, {}
    for group in options.groups:
        drawn[group], sizes[group] = sample(group, root, options.count, options.seed)
    code = digest(root, "robustkit")
    state = hashlib.sha256(f"{code} {digest(root, 'tests')} {tests}".encode()).hexdigest()[:16]
    results = out / "results.jsonl"
    done = on_file(results, code, state)
    if not options.only_report:
        run(options.jobs, root, out, drawn, done, results, tests, code, state)
    report(drawn, done, sizes)


def run(jobs, root, out, drawn, done, results, tests, code, state):
    slots = [Slot(out / f"copy-{i}") for i in range(jobs)]
    for slot in slots:
        slot.make(root)
    os.environ["OMP_NUM_THREADS"] = "1"
    found = map_of(slots, out, tests, state)
    for name in found.modules:
        try:
            importlib.import_module(name)
        except BaseException as problem:
            print(f"{name} is left to the children: {problem!r}", file=sys.stderr)
    if "torch" in sys.modules:
        # before any operation: a pool of threads does not survive a fork
        sys.modules["torch"].set_num_threads(1)
    seconds = {name: test["seconds"] for name, test in found.tests.items()}
    left = [m for mutants in drawn.values() for m in mutants if m.key not in done]
    todo, count = [], 0

    def tell(mutant, verdict):
        nonlocal count
        count += 1
        row = {"key": mutant.key, "robustkit": code, "state": state, **verdict}
        row |= {k: v for k, v in asdict(mutant).items() if k != "source"}
        done[mutant.key] = row
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{count} of {len(left)}: {verdict['verdict']} {verdict['seconds']} s "
            f"{mutant.file}:{mutant.lines[0]}",
            flush=True,
        )

    for mutant in left:
        names = found.tests_for(mutant, (root / mutant.file).read_text())
        if names:
            todo.append((mutant, names))
        else:
            tell(mutant, {"verdict": "survived", "by": "", "why": "", "seconds": 0, "tests": 0})
    control(some(todo, seconds), slots, seconds)  # which also compiles the tests there
    try_all(todo, slots, seconds, tell)
    control({one["by"] for one in done.values()}, slots[:1], seconds)


def some(todo, seconds):
    """The fastest test of each file and the 200 fastest of all."""
    every = sorted({name for _, names in todo for name in names}, key=lambda n: (seconds[n], n))
    first = {name.split("::")[0]: name for name in reversed(every)}
    return {*first.values(), *every[:200]}


def control(names, slots, seconds):
    """Without a mutation these tests must pass, in every slot, or no verdict means anything."""

    def tell(_, verdict):
        if verdict["verdict"] != "survived":
            sys.exit(f"fails without a mutant, too: {verdict['by']}: {verdict['why']}")

    whole = Mutant("", "", "", "", "", [])
    names = sorted((n for n in names if n in seconds), key=lambda n: (seconds[n], n))
    if names:
        try_all([(whole, names)] * len(slots), slots, seconds, tell)


if __name__ == "__main__":
    main()
