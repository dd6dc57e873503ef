"""Hostile and damaged files before the readers: no code, one line, little time and memory.

    python tests/benchmarks/hostile_files.py --out FILE.jsonl [--mutations 10000]
                                             [--cases FILE.py] [--only WORD]

Files are read in forked children of a process that has imported everything, with 4 GiB of address
space and 20 s of processor each, in an empty folder that must stay empty, under an audit hook that
notes whatever would run, connect or write. Anything but a value or the project's own error of one
printable line is a finding; so is more than 6 s or 1 GiB. A run that was cut off goes on.

The files are those of `helpers/hostile_families.py`; with `--mutations` random mutations of honest
ones, and with `--cases` those of another generator: a Python file whose `cases()` yields a name,
bytes (None: half a gigabyte of zeros in a zip), a suffix and options, which are ignored.
"""

import argparse
import importlib.util
import io
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torchvision  # noqa: F401 (imported here, so that no child has to)
from helpers.hostile_families import CASES
from helpers.mutations import honest, mutated
from helpers.watching import Watch, attempt

from robustkit.checkpoint import read_checkpoint

ADDRESS_SPACE, SECONDS = 4 * 2**30, 20
"""what a child may have"""
SLOW, LARGE = 6.0, 2**30
"""seconds of processor and bytes from which a case is a finding"""
BATCH = 20
"""cases that a child reads in a row, since a fork costs more than most of them"""


class Case(NamedTuple):
    """A file to be read, under a name."""

    name: str
    content: bytes
    suffix: str
    labels: bool = False


def limited(seconds: int) -> None:
    """Give this process little memory and time."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def judged(case: Case, folder: Path, watch: Watch) -> dict[str, Any]:
    """Read one case in this process: what came of it, processor seconds and the most memory."""
    path, empty = folder / f"case{case.suffix}", folder / "empty"
    path.write_bytes(case.content)
    empty.mkdir()
    os.chdir(empty)
    Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
    start = time.process_time()
    watch.seen, watch.on = [], True
    said = attempt(path, case.labels)
    watch.on = False
    seconds = time.process_time() - start
    memory = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    left = [p.name for p in empty.iterdir()] + [p.name for p in folder.glob("CANARY*")]
    trouble = {
        f"!{watch.seen[0] if watch.seen else ''}": bool(watch.seen),
        f"!left {left}": bool(left),
        f"!{seconds:.1f} s": seconds > SLOW,
        f"!{memory / 2**30:.2f} GiB": memory > LARGE,
    }
    if (wrong := [text for text, so in trouble.items() if so]) and not said.startswith("!"):
        said = f"{wrong[0]} ({said})"
    os.chdir(folder)
    shutil.rmtree(empty)
    path.unlink()
    said = said.replace(str(path), "FILE")[:3000]
    return {"case": case.name, "said": said, "seconds": round(seconds, 2), "mib": memory >> 20}


def judge(cases: Sequence[Case], folder: Path, watch: Watch) -> Iterator[dict[str, Any]]:
    """Read cases in a child; where it dies, or says what is wrong, each once more in one of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        limited(SECONDS * len(cases))
        with os.fdopen(writer, "w") as pipe:
            for case in cases:
                pipe.write(json.dumps(judged(case, folder, watch)) + "\n")
                pipe.flush()
            pipe.close()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = [line for line in pipe if line.endswith("\n")]
    found = {row["case"]: row for row in map(json.loads, lines)}
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    shutil.rmtree(folder / "empty", ignore_errors=True)
    for case in cases:
        row = found.get(case.name)
        if len(cases) > 1 and (row is None or row["said"].startswith("!")):
            yield from judge([case], folder, watch)
        else:
            dead = {"case": case.name, "said": f"!died of {-status}", "seconds": -1, "mib": -1}
            yield row or dead


def foreign(file: Path) -> Iterator[Case]:
    """The cases of another generator."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("foreign_cases", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, content, suffix, _ in module.cases():
        yield Case(name, zip_bomb() if content is None else content, suffix)


def families() -> Iterator[Case]:
    """The files of every family."""
    for name, make in CASES.items():
        file = make()
        yield Case(name, *file)


def mutations(count: int) -> Iterator[Case]:
    """Random mutations of honest files."""
    with tempfile.TemporaryDirectory() as name:
        made = honest(Path(name))
    for seed in range(count):
        name, file = mutated(made, seed)
        yield Case(name, *file)


def zip_bomb() -> bytes:
    """Half a gigabyte of zeros as a member of a torch zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(bytes(2**20))
    return buffer.getvalue()


def work(cases: Iterable[Case], out: Path) -> None:
    """Judge every case that is not done, and write a line for each."""
    done = (
        {json.loads(line)["case"] for line in out.read_text().splitlines()} if out.exists() else {}
    )
    watch = Watch()
    sys.addaudithook(watch)
    left = (case for case in cases if case.name not in done)
    with tempfile.TemporaryDirectory() as name, out.open("a") as lines:
        while batch := list(islice(left, BATCH)):
            for row in judge(batch, Path(name), watch):
                lines.write(json.dumps(row) + "\n")
            lines.flush()


def summarise(out: Path) -> None:
    """Print the findings and a table of outcomes."""
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    findings = [row for row in rows if row["said"].startswith("!")]
    for row in findings:
        print(f"{row['case']:40} {row['seconds']:6.2f} s {row['mib']:5} MiB  {row['said'][:300]}")
    kinds = Counter(row["said"].partition(":")[0][:20] for row in rows if row not in findings)
    print(f"{len(rows)} cases, {len(findings)} findings; {dict(kinds)}")
    print(f"most: {max(r['seconds'] for r in rows)} s, {max(r['mib'] for r in rows)} MiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--mutations", type=int, default=0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    read_checkpoint("lenet5-mnist5k").load()
    start = time.time()
    if options.mutations:
        cases = mutations(options.mutations)
    else:
        cases = foreign(options.cases) if options.cases else families()
    work((case for case in cases if options.only in case.name), options.out)
    summarise(options.out)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
