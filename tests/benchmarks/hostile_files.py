"""Hostile and damaged files before the readers: no code, no foreign exception, little time, little memory.

    python tests/benchmarks/hostile_files.py --out FILE.jsonl [--mutations 10000] [--workers 1]
                                             [--cases FILE.py] [--only WORD]

Every file is read in a forked child of a process that has imported everything, with 4 GiB of address
space and 20 s of processor, in an empty folder that must stay empty, under an audit hook that notes
whatever would run, connect or write. Anything but a value or the project's own error of one printable
line is a finding; so is more than 6 s or 1 GiB. A run that was cut off goes on.

The files are those of `helpers/hostile_files.py` and random mutations of honest ones; `--cases` takes
another generator instead: a Python file whose `cases()` yields a name, bytes, a suffix and options.
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torchvision  # noqa: F401 (imported here, so that no child has to)

from robustkit.checkpoint import describe, read_checkpoint
from robustkit.data.labelfile import read_labels, read_matrix
from robustkit.errors import RobustkitError
from robustkit.results.metadata import read_metadata

ADDRESS_SPACE, SECONDS = 4 * 2**30, 20
"""what a child may have"""
SLOW, LARGE = 6.0, 2**30
"""seconds of processor and bytes from which a case is a finding"""
NOTED = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove",
    "os.rename", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.kill", "os.putenv", "os.truncate",
    "subprocess.Popen", "pickle.find_class", "socket.", "ctypes.dlopen", "urllib.Request", "ftplib.",
    "shutil.", "webbrowser.open", "pty.spawn", "sqlite3.connect", "tempfile.",
)  # fmt: skip


class Case(NamedTuple):
    """A file to be read."""

    name: str
    content: bytes
    suffix: str
    options: dict[str, Any]


def read_checkpoint_file(path: Path, options: dict[str, Any]) -> str:
    """Everything that reading a checkpoint leads to, up to its logits."""
    checkpoint = read_checkpoint(path, **options)
    rows = describe(checkpoint)
    if odd := [text for row in rows for text in row if not text.isprintable()]:
        raise AssertionError(f"not printable: {odd[0]!r}")
    json.dumps(checkpoint.extra, allow_nan=False)
    read_metadata(path)
    if checkpoint.model is None:
        return "described"
    network = checkpoint.load()
    if checkpoint.input_shape is None:
        return "loaded"
    with torch.no_grad():
        network(torch.zeros(2, *checkpoint.input_shape))
    return "evaluated"


def read_label_file(path: Path) -> str:
    """The labels or the matrix in a file."""
    read_labels(path, "", np.zeros(10, np.int64), 10)
    if path.suffix in (".csv", ".json", ".npy"):
        read_matrix(path, 10)
    return "read"


def attempt(path: Path, options: dict[str, Any]) -> str:
    """What comes of a file, in a line; findings begin with an exclamation mark."""
    labels = options.pop("labels", False)
    try:
        return read_label_file(path) if labels else read_checkpoint_file(path, options)
    except RobustkitError as error:
        line = str(error)
        if not line.isprintable():
            return f"!not one printable line: {line[:300]!r}"
        if len(line) > 2000:
            return f"!{len(line)} characters: {line[:300]}"
        return f"refused: {line}"
    except BaseException as error:
        trace = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(f.filename).name}:{f.lineno}" for f in trace if "robustkit" in f.filename]
        return f"!{type(error).__name__}: {str(error)[:200]!r} at {' '.join(places[-3:])}"


class Watch:
    """An audit hook; one can be added and never removed, so it waits for its child."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what would run, connect or write."""
        if not self.on:
            return
        writes = event == "open" and (
            (isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+"))
            or (
                isinstance(arguments[2], int)
                and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
        )
        if writes or event.startswith(NOTED):
            self.seen.append(f"{event} {str(arguments)[:100]}")


def child(path: Path, options: dict[str, Any], empty: Path, watch: Watch, pipe: int) -> None:
    """Read a file under limits and write what came of it; does not return."""
    os.chdir(empty)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    watch.on = True
    said = attempt(path, options)
    watch.on = False
    if watch.seen:
        said = f"!{watch.seen[0]} ({said})"
    os.write(pipe, said.encode("utf-8", "backslashreplace")[:4000])
    os._exit(0)


def judge(case: Case, folder: Path, watch: Watch) -> dict[str, Any]:
    """Read one case in a child: what came of it, processor seconds and the most memory."""
    path, empty = folder / f"case{case.suffix}", folder / "empty"
    path.write_bytes(case.content)
    empty.mkdir()
    reader, writer = os.pipe()
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pid = os.fork()
    if not pid:
        child(path, dict(case.options), empty, watch, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(pid, 0)
    seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    if os.WIFSIGNALED(status):
        said = f"!killed by {signal.Signals(os.WTERMSIG(status)).name}"
    elif not said:
        said = f"!status {os.waitstatus_to_exitcode(status)}, nothing said"
    if list(empty.iterdir()) or (folder / "CANARY").exists():
        said = f"!left {[p.name for p in empty.iterdir()]} ({said})"
    if seconds > SLOW and not said.startswith("!"):
        said = f"!{seconds:.1f} s ({said})"
    if memory > LARGE and not said.startswith("!"):
        said = f"!{memory / 2**30:.2f} GiB ({said})"
    shutil.rmtree(empty)
    path.unlink()
    return {
        "case": case.name,
        "said": said.replace(str(path), "FILE"),
        "seconds": round(seconds, 2),
        "mib": memory >> 20,
        "start_mib": start >> 10,
    }


def foreign(file: Path) -> Iterator[Case]:
    """The cases of another generator."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location("foreign_cases", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, content, suffix, options in module.cases():
        yield Case(name, zip_bomb() if content is None else content, suffix, options)


def zip_bomb() -> bytes:
    """Half a gigabyte of zeros as a member of a torch zip."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(bytes(2**20))
    return buffer.getvalue()


def work(cases: Iterable[Case], out: Path, worker: int, workers: int) -> None:
    """Judge every case that is not done, and write a line for each."""
    done = (
        {json.loads(line)["case"] for line in out.read_text().splitlines()} if out.exists() else {}
    )
    watch = Watch()
    sys.addaudithook(watch)
    with tempfile.TemporaryDirectory() as name, out.open("a") as lines:
        for number, case in enumerate(cases):
            if number % workers != worker or case.name in done:
                continue
            lines.write(json.dumps(judge(case, Path(name), watch)) + "\n")
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
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    read_checkpoint("lenet5-mnist5k").load()
    start = time.time()
    cases = foreign(options.cases)
    work((case for case in cases if options.only in case.name), options.out, 0, 1)
    summarise(options.out)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
