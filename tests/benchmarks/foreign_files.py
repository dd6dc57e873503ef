"""Files and folders made by the libraries themselves: what robustkit makes of each.

    python tests/benchmarks/foreign_files.py [--only WORD] [--markdown FILE] [--json FILE]

Each is made by its own library, which also gives the logits for a handful of JPEGs of several sizes,
by its own pipeline; what ends in "layout" is a dictionary written after a project's own files. The
command of a row is carried out by robustkit's own command line, in this process, where the network
and the images that it evaluates are caught: the row's difference is that of their logits. "ok" is at
most 1e-5 (of the logits' spread over pictures, where it is above 1), the same predictions on record,
or status 2 and one line where the file must be refused. FLAT are logits that hardly depend on the
picture, so that a row would prove nothing. A library that is not installed makes the row say so; put
it on PYTHONPATH. The families stand in `foreign/`, a row a function of a few lines.
"""

import argparse
import io
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1")
os.environ.update(KERAS_BACKEND="torch", DS_ACCELERATOR="cpu")

import numpy as np
import pytest
import torch
import transformers
from foreign import hubs, libraries, torch_files, wrapped
from foreign.rows import Made, Row
from hugging_face import draw_pictures

import robustkit.cli
import robustkit.evaluation

TARGET = 1e-5
FLAT = 0.01
"""of the logits over pictures: below, wrong pixels might not show"""


class Ran(NamedTuple):
    """What a command came to."""

    status: int
    said: str
    """on stderr"""
    logits: torch.Tensor | None
    """of the network that was evaluated, in the pictures' order"""
    predicted: torch.Tensor | None
    """classes on record, likewise"""


def ran(command: list[str]) -> Ran:
    """Carry out a command of `robustkit`, and catch what it evaluates."""
    caught: list[Any] = []

    def watch(model: Any, data: Any, *others: Any, **options: Any) -> Any:
        record = run(model, data, *others, **options)
        order = np.argsort(data._positions)  # the pictures' own: a data set's is drawn
        with torch.no_grad():
            # all at once, since a sum may be rounded by an image's place in its batch
            pixels = torch.from_numpy(data.images(0, len(data))[order])
            caught.append(model.load(torch.device("cpu"))(pixels))
        caught.append(torch.from_numpy(record.table["predicted"].to_numpy()[order]))
        return record

    run = robustkit.evaluation.run
    errors = io.StringIO()
    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(errors),
        patch.object(robustkit.evaluation, "run", watch),
        patch.object(sys, "argv", command),
        pytest.raises(SystemExit) as ended,
    ):
        robustkit.cli.main()
    if ended.value.code > 128:  # a signal, which was meant for this script
        raise KeyboardInterrupt
    logits, predicted = caught or (None, None)
    return Ran(int(ended.value.code or 0), errors.getvalue(), logits, predicted)


def judged(row: Row, made: Made, found: Ran) -> dict[str, Any]:
    """What came of a row: the difference, or the message."""
    if found.status:
        ok = row.expected == "refused" and found.status == 2 and found.said.count("\n") == 1
        wrong = "REFUSED" if found.status == 2 else f"STATUS {found.status}"
        return {"outcome": "ok" if ok else wrong, "said": found.said.strip()}
    if row.expected == "refused" or made.logits is None:
        return {"outcome": "TAKEN", "said": "should have been refused"}
    if found.logits is None or found.logits.shape != made.logits.shape:
        return {"outcome": "OTHER", "said": f"logits are not of shape {tuple(made.logits.shape)}"}
    difference = (found.logits - made.logits).abs().max().item()
    spread = made.logits.std(0).mean().item()
    outcome = "ok" if difference <= TARGET * max(1.0, spread) else "OTHER"
    if not torch.equal(found.predicted, made.logits.argmax(1)):
        outcome = "OTHER"
    if not FLAT <= spread < 1e4:
        outcome = "FLAT"
    return {"outcome": outcome, "difference": difference, "spread": spread}


def tried(row: Row, data: Path, at: Path) -> dict[str, Any]:
    """A row of the table."""
    at.mkdir()
    command: list[str] = []
    start, pictures = time.process_time(), sorted(data.glob("*/*.jpg"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = row.make(at, pictures)
    except ModuleNotFoundError as error:
        name = (error.name or "?").partition(".")[0]
        found: dict[str, Any] = {"outcome": "absent", "said": f"{name} is not installed"}
    except Exception as error:  # the library itself failed; the next row is tried all the same
        said = f"{type(error).__name__}: {str(error)[:200]}"
        found = {"outcome": "NOT MADE", "said": said}
    else:
        flags = [*shlex.split(row.flags), "--attack", "clean", "--out", str(at / "records")]
        command = ["robustkit", "evaluate", str(made.path), "--data", str(data), *flags]
        found = judged(row, made, ran(command))
    shown = {"command": told(command, at, data), **found}
    if "said" in found:
        shown["said"] = told([found["said"]], at, data)
    return {"row": row.name, **shown, "seconds": round(time.process_time() - start, 2)}


def told(words: list[str], at: Path, data: Path) -> str:
    """A command or a message without the folders that are made for a run of this script."""
    text = " ".join(words).replace(str(data), "PICTURES").replace(f"{at / 'records'}", "RECORDS")
    return text.replace(f"{at}/", "").replace(str(at), "FOLDER")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "| file | command | outcome | difference, or what is said |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        told = row.get("said") or f"{row['difference']:.1e} of {row['spread']:.1e}"
        cells = [row["row"], f"`{row['command']}`", row["outcome"], told.replace("|", "\\|")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    every = [*torch_files.ROWS, *wrapped.ROWS, *libraries.ROWS, *hubs.rows()]
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "pictures"
        draw_pictures(data)
        for number, row in enumerate(row for row in every if options.only in row.name):
            done.append(tried(row, data, Path(name) / str(number)))
            said = done[-1].get("said", f"{done[-1].get('difference', 0):.1e}")
            print(f"{row.name:40} {done[-1]['outcome']:9} {said[:150]}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(done, indent=1))
            if options.markdown:
                options.markdown.write_text(markdown(done))
    print(f"{len(done)} rows: {dict(Counter(row['outcome'] for row in done))}", file=sys.stderr)


if __name__ == "__main__":
    main()
