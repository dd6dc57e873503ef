"""SIGKILL at random times: evaluate, train and audit go on to the same results, and nothing is lost.

    python tests/benchmarks/kills.py [--kills 200] [--seconds 600] [--only evaluate train audit]

Each round starts a command in an empty folder and kills it at a random moment, again and again, until
it ends by itself. Its results must be those of a run that nobody disturbed (rows, checkpoint bytes, what an
audit found), and `robustkit verify` must find nothing that is not sound.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from robustkit.integrity import check_files
from robustkit.record import read

COMMANDS = {
    "evaluate": "evaluate lenet5-mnist5k --data mnist5k --limit 1500 --attack pgd --set steps=10 "
    "--epsilon 0.1 --epsilon 0.2 --batch-size 64",
    "train": "train --data mnist5k --model lenet5 --steps 150 --hold-out 200 --out net.safetensors",
    "audit": "audit lenet5-mnist5k --data mnist5k --limit 24 --budget tiny.toml --epsilon 0.1",
}
PLAN = """\
title = "Tiny"
images = 24
delta = 0.2
indicators = 8
certified = 4
corrupted = 4
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


def command(words: str, folder: Path) -> subprocess.Popen[bytes]:
    code = "from robustkit.cli import main; main()"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finished(words: str, folder: Path, wait: float | None) -> bool:
    """Whether the command ended by itself within so many seconds; killed otherwise."""
    process = command(words, folder)
    try:
        _, err = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"{words}: status {process.returncode}: {err.decode()[-500:]}")
    return True


def rows(folder: Path) -> object:
    return {path.name: read(path).rows_digest for path in sorted(folder.glob("**/*.parquet"))}


def checkpoint(folder: Path) -> object:
    return hashlib.sha256((folder / "net.safetensors").read_bytes()).hexdigest()


def findings(folder: Path) -> object:
    found = json.loads((folder / "audit" / "audit.json").read_text())
    stages = [{k: v for k, v in stage.items() if k != "seconds"} for stage in found["stages"]]
    return {k: v for k, v in found.items() if k not in CHANGING}, stages, rows(folder)


RESULTS: dict[str, Callable[[Path], object]] = {
    "evaluate": rows,
    "train": checkpoint,
    "audit": findings,
}


def begin() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="robustkit-kills-"))
    (folder / "tiny.toml").write_text(PLAN)
    return folder


def kill(name: str, kills: int, until: float, draw: random.Random) -> tuple[int, int]:
    """Kills and rounds until so many, or until the time is up."""
    words, done, rounds = COMMANDS[name], 0, 0
    undisturbed = begin()
    began = time.monotonic()
    finished(words, undisturbed, None)
    length, expected = time.monotonic() - began, RESULTS[name](undisturbed)
    while done < kills and time.monotonic() < until:
        folder, tries = begin(), 0
        # without an end to the kills of a round, start-up alone would eat up all of its tries
        while not finished(words, folder, draw.uniform(0.3, 1) * length if tries < 10 else None):
            done, tries = done + 1, tries + 1
        if RESULTS[name](folder) != expected:
            raise SystemExit(f"{name}: another result after {tries} kills: {folder}")
        wrong = [found.reason for found in check_files(folder) if found.state == "unsound"]
        if wrong:
            raise SystemExit(f"{name}: not sound after {tries} kills: {wrong}: {folder}")
        rounds += 1
        shutil.rmtree(folder)
    shutil.rmtree(undisturbed)
    return done, rounds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS))
    options = parser.parse_args()
    for name in options.only:
        until = time.monotonic() + options.seconds
        done, rounds = kill(name, options.kills, until, random.Random(name))
        print(f"{name}: {done} kills in {rounds} rounds, same results, all sound", flush=True)


if __name__ == "__main__":
    main()
