"""SIGKILL at random moments: evaluate, train and audit go on to the same results, and nothing is lost.

    python tests/benchmarks/kills.py --out kills.jsonl [--kills 200] [--seconds 3600]
        [--only evaluate train audit]

A round starts a command in an empty folder and kills it, again and again, until it ends by itself or
has been killed often enough. Its results must be those of the same command in a process of its own
that nobody disturbed: rows, bytes of a checkpoint, what an audit found and how often it asked. After
every kill all files must be sound and whatever was finished before must still be there; at the end
`robustkit verify` must say so, too.

So that a kill costs about a second, this process imports everything and runs nothing; its forked
children run the command line's `main`. A quarter of the moments is of each of four kinds: at any time of
the whole run, early (log-uniform), at any write, and at a write of the final files. At a write means
the very moment before a system call on a file (open, rename, remove), as Python's audit events tell
it, or log-uniformly up to 30 ms after.

Kills are written to `--out`, one a line; the same command goes on from there, and prints the table.
"""

import argparse
import hashlib
import json
import math
import mmap
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from robustkit.cli import main as robustkit_main
from robustkit.integrity import check_files
from robustkit.record import read

Kind = Literal["any time", "early", "a write", "the final write"]
KINDS: tuple[Kind, ...] = ("any time", "early", "a write", "the final write")
IMPORTED = (
    "matplotlib.pyplot",
    "scipy.stats",
    "statsmodels.stats.multitest",
    "torch._dynamo",
    "robustkit.auditing.run",
    "robustkit.calls.audit",
    "robustkit.calls.train",
    "robustkit.cli.audit",
    "robustkit.cli.commands",
    "robustkit.cli.evaluate",
    "robustkit.cli.terminal",
    "robustkit.cli.train",
    "robustkit.cli.verify",
    "robustkit.compression.hook",
    "robustkit.corruption.measuring",
    "robustkit.losses.cross_entropy",
    "robustkit.models.lenet5",
    "robustkit.reporting.audit",
    "robustkit.training.run",
)
"""what takes long to import, for the children"""
COMMANDS = {
    "evaluate": "evaluate lenet5-mnist5k --data mnist5k --limit 520 --attack pgd --set steps=3 "
    "--epsilon 0.1 --epsilon 0.2 --batch-size 64 --json found.json",
    "train": "train --data mnist5k --model lenet5 --steps 100 --hold-out 200 --out net.safetensors",
    "audit": "audit lenet5-mnist5k --data mnist5k --limit 12 --budget tiny.toml --epsilon 0.1",
}
WORK = re.compile(r".*\.partial/(?!lock)")
"""what is written once there is work: blocks of an evaluation, states of a training"""
FINAL = {
    "evaluate": re.compile(r"\.?found\.json|runs/\.?[0-9a-f]{32}\.(examples|parquet)"),
    "train": re.compile(r"\.?net\.safetensors(?!\.partial)"),
    "audit": re.compile(r"audit/\.*audit\."),
}
"""the last files of a command, and their temporary names"""
PLAN = """\
title = "Tiny"
images = 12
delta = 0.2
indicators = 4
certified = 2
corrupted = 2
multiplications = 1e8

[[stage]]
attack = "fgsm"
budgets = "all"
required = true

[[stage]]
attack = "pgd"
budgets = "all"
required = true
set = ["steps=5"]

[[stage]]
attack = "square"
budgets = "judged"
required = false
set = ["queries=50"]
"""
CHANGING = ("provenance", "content_digest", "seconds", "stages")
"""of audit.json: times"""
MOST = 12
"""kills of a round, after which it is left alone"""
LONGEST = 0.03
"""seconds from a write to a kill"""
SHARED = struct.Struct("4i")
"""events on files so far, those on final files, those of work, and 1 while a file is being written"""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a child is killed."""

    kind: Kind
    after: float
    """seconds, from the start or from the event"""
    event: int | None = None
    """number of the event on a file, or on a final file, that it waits for"""


@dataclass(frozen=True, slots=True)
class Run:
    """How a child ended."""

    status: int | None
    """None: it was killed"""
    seconds: float
    events: int
    final_events: int
    work_events: int
    writing: bool
    errors: str


# --- children -------------------------------------------------------------------------------------


class _Watch:
    """An audit hook that counts what a command does to files below its folder."""

    def __init__(self, folder: Path, name: str, shared: mmap.mmap, moment: Moment | None) -> None:
        self.root, self.final, self.shared = f"{folder}/", FINAL[name], shared
        self.moment, self.tell = moment, -1
        self.counts = [0, 0, 0, 0]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        full = os.path.join(os.getcwd(), os.fsdecode(path))  # noqa: PTH118, PTH109
        if not full.startswith(self.root):
            return
        reading = event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if reading:
            self.counts[3] = 0  # a folder that is synced after a rename, or a reader
        else:
            self._count(full.removeprefix(self.root), event)
        self.shared[: SHARED.size] = SHARED.pack(*self.counts)

    def _count(self, path: str, event: str) -> None:
        moment, final = self.moment, self.final.match(path) is not None
        self.counts[0] += 1
        self.counts[1] += final
        self.counts[2] += WORK.match(path) is not None
        self.counts[3] = int(event in ("open", "os.rename"))
        if moment is None or moment.event is None:
            return
        if moment.event == self.counts[int(moment.kind == "the final write")] and (
            final or moment.kind != "the final write"
        ):
            self.shared[: SHARED.size] = SHARED.pack(*self.counts)
            if moment.after == 0:
                os.killpg(0, signal.SIGKILL)
            os.write(self.tell, b".")


def in_child(folder: Path, task: Callable[[], None]) -> int:
    """A forked process, leader of its own group, that does something in a folder."""
    sys.stdout.flush()
    folder.with_suffix(".err").touch()  # it may be killed before it can
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # by both, so that it holds whoever is first
        return pid
    status = 99
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        errors = os.open(folder.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        task()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(name: str, folder: Path, moment: Moment | None) -> Run:
    """A command in a folder, killed at a moment if it is still at work then."""
    shared = mmap.mmap(-1, SHARED.size)
    watch = _Watch(folder, name, shared, moment)
    told, watch.tell = os.pipe()

    def work() -> None:
        sys.addaudithook(watch)
        sys.argv = ["robustkit", *COMMANDS[name].split()]
        robustkit_main()

    began = time.monotonic()
    pid = in_child(folder, work)
    os.close(watch.tell)
    ended = os.pidfd_open(pid)
    try:
        if moment is not None:
            if moment.event is None:
                select.select([ended], [], [], moment.after)
            elif told in select.select([ended, told], [], [])[0] and os.read(told, 1):
                time.sleep(moment.after)
            else:
                select.select([ended], [], [])
            os.killpg(pid, signal.SIGKILL)
        _, code = os.waitpid(pid, 0)
    finally:
        os.close(ended)
        os.close(told)
    seconds = time.monotonic() - began
    killed = os.WIFSIGNALED(code) and os.WTERMSIG(code) == signal.SIGKILL
    events, final, work, writing = SHARED.unpack(shared[: SHARED.size])
    errors = folder.with_suffix(".err").read_text(errors="replace")[-500:]
    status = None if killed else os.waitstatus_to_exitcode(code)
    return Run(status, seconds, events, final, work, bool(writing), errors)


def asked(folder: Path, question: Callable[[], Any]) -> Any:
    """What a child answers: this process stays without threads, so that it can be forked."""
    answer = folder.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    pid = in_child(folder, lambda: void(answer.write_text(json.dumps(question()))))
    _, code = os.waitpid(pid, 0)
    if code:
        raise SystemExit(f"{folder}: {folder.with_suffix('.err').read_text()[-2000:]}")
    return json.loads(answer.read_text())


def void(_: object) -> None:
    """Nothing."""


# --- what is compared -----------------------------------------------------------------------------


def rows(folder: Path) -> Any:
    # blocks may stand beside the record whose writer was killed before it could remove them
    finished = [p for p in sorted(folder.glob("**/*.parquet")) if p.parent.suffix != ".partial"]
    return {path.name: read(path).rows_digest for path in finished}


def summary(folder: Path) -> Any:
    found = json.loads((folder / "found.json").read_text())
    return [rows(folder), found]


def checkpoint(folder: Path) -> Any:
    return hashlib.sha256((folder / "net.safetensors").read_bytes()).hexdigest()


def findings(folder: Path) -> Any:
    found = json.loads((folder / "audit" / "audit.json").read_text())
    stages = [{k: v for k, v in stage.items() if k != "seconds"} for stage in found["stages"]]
    return [{k: v for k, v in found.items() if k not in CHANGING}, stages, rows(folder)]


RESULTS: dict[str, Callable[[Path], Any]] = {
    "evaluate": summary,
    "train": checkpoint,
    "audit": findings,
}


def sound(folder: Path) -> Any:
    """The files that are sound, by their paths; those that are not raise."""
    found = list(check_files(folder))
    if wrong := [one.reason for one in found if one.state not in ("sound", "left over")]:
        raise SystemExit(f"not sound: {wrong}")
    return [str(one.path.relative_to(folder)) for one in found if one.state == "sound"]


def lost(before: list[str], after: list[str]) -> list[str]:
    """Files that were finished and are gone, without the final file that takes their place."""
    have = set(after)
    return [
        path
        for path in before
        if path not in have and path.partition(".partial/")[0] not in {_stem(p) for p in have}
    ]


def _stem(path: str) -> str:
    """A final file as the folder of its blocks, or of its states, is called."""
    return path.removesuffix(".parquet")


# --- rounds ---------------------------------------------------------------------------------------


def begin() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="robustkit-kills-")) / "run"
    folder.mkdir()
    (folder / "tiny.toml").write_text(PLAN)
    return folder


def draw_moment(whole: Run, kind: Kind, draw: random.Random) -> Moment:
    """A moment of a kind, in a run that takes as long as one that nobody disturbed."""
    if kind == "any time":
        return Moment(kind, draw.uniform(0, whole.seconds))
    if kind == "early":
        return Moment(kind, math.exp(draw.uniform(math.log(1e-3), math.log(whole.seconds))))
    events = whole.events if kind == "a write" else whole.final_events
    later = math.exp(draw.uniform(math.log(1e-5), math.log(LONGEST)))
    return Moment(kind, draw.choice((0.0, later)), draw.randint(1, events))


def phase(found: Run) -> str:
    """Where a command was when it was killed."""
    if found.final_events:
        return "final files"
    if not found.work_events:
        return "before work"
    return "in a write" if found.writing else "at work"


def fresh_result(name: str) -> Any:
    """The result of a process of its own that nobody disturbed."""
    folder = begin()
    code = "from robustkit.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *COMMANDS[name].split()],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    found = asked(folder, lambda: RESULTS[name](folder))
    shutil.rmtree(folder.parent)
    return found


def whole_run(name: str, expected: Any) -> Run:
    """A forked run that nobody disturbs, after which the moments are drawn."""
    folder = begin()
    found = run(name, folder, None)
    check_result(name, folder, expected, found, 0)
    shutil.rmtree(folder.parent)
    return found


def check_result(name: str, folder: Path, expected: Any, ended: Run, kills: int) -> None:
    where = f"{name}, {kills} kills, {folder}"
    if ended.status:
        raise SystemExit(f"{where}: status {ended.status}: {ended.errors}")
    if asked(folder, lambda: RESULTS[name](folder)) != expected:
        raise SystemExit(f"{where}: another result")
    verified = in_child(folder, verify)
    if os.waitpid(verified, 0)[1]:
        raise SystemExit(f"{where}: verify: {folder.with_suffix('.err').read_text()}")


def verify() -> None:
    sys.argv = ["robustkit", "verify", "."]
    robustkit_main()


def play(
    name: str,
    whole: Run,
    expected: Any,
    left: Counter[Kind],
    draw: random.Random,
    note: Callable[..., None],
) -> None:
    """A round, whose kills are taken off those that are left of each kind."""
    folder, done, before = begin(), 0, list[str]()
    while True:
        moment = None
        if done < MOST and +left:
            moment = draw_moment(whole, draw.choice(tuple(+left)), draw)
        ended = run(name, folder, moment)
        if ended.status is not None:
            break
        assert moment is not None
        done += 1
        left[moment.kind] -= 1
        after = asked(folder, lambda: sound(folder))
        if gone := lost(before, after):
            raise SystemExit(f"{name}: {gone} lost by kill {done}: {folder}")
        before = after
        note(command=name, phase=phase(ended), files=len(after), **asdict(moment))
    check_result(name, folder, expected, ended, done)
    note(command=name, round=done)
    shutil.rmtree(folder.parent)


def told(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def show(lines: list[dict[str, Any]]) -> None:
    """Kills by command, kind of moment and phase."""
    kills = [line for line in lines if "kind" in line]
    phases = ("before work", "at work", "in a write", "final files")
    print(
        f"{'command':10}{'kills':>7}{'rounds':>8}" + "".join(f"{p:>17}" for p in (*KINDS, *phases))
    )
    for name in COMMANDS:
        own = [line for line in kills if line["command"] == name]
        rounds = sum("round" in line and line["command"] == name for line in lines)
        by = Counter(line["kind"] for line in own) + Counter(line["phase"] for line in own)
        print(
            f"{name:10}{len(own):>7}{rounds:>8}"
            + "".join(f"{by[p]:>17}" for p in (*KINDS, *phases))
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS))
    options = parser.parse_args()
    until = time.monotonic() + options.seconds

    def note(**line: Any) -> None:
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    for module in IMPORTED:
        import_module(module)
    for name in options.only:
        earlier = [line for line in told(options.out) if line["command"] == name]
        left = Counter({kind: options.kills // len(KINDS) for kind in KINDS})
        left.subtract(line["kind"] for line in earlier if "kind" in line)
        if not +left:
            continue
        draw = random.Random(f"{name} {len(earlier)}")
        expected = fresh_result(name)
        whole = whole_run(name, expected)
        while +left and time.monotonic() < until:
            play(name, whole, expected, left, draw, note)
    show(told(options.out))


if __name__ == "__main__":
    main()
