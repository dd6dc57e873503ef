"""Files and folders made by the libraries themselves: what robustkit makes of each.

    python tests/benchmarks/foreign_files.py [--only WORD] [--markdown FILE] [--json FILE]

Each is made by its own library, which also gives the logits for a handful of JPEGs of several sizes,
by its own pipeline. robustkit gets the path, the pictures and the flags of the row. A row has the
command, the largest difference of logits beside their spread, or the message where it is refused.
"ok" is a difference of at most 1e-5 (of that spread, where it is above 1), or one line where the file must be refused. A
library that is not installed makes the row say so. The families stand in `foreign/`, a row a
function of a few lines.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1")

import numpy as np
import torch
import transformers
from foreign import hubs, libraries, torch_files
from foreign.rows import Made, Row
from hugging_face import draw_pictures

from robustkit.checkpoint import read_checkpoint
from robustkit.errors import RobustkitError
from robustkit.evaluation import images_for

TARGET = 1e-5
OF_IMAGES = ("resize", "crop", "channels", "interpolation")
"""flags that say how the pictures are made"""


def parsed(flags: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `read_checkpoint` and of `images_for` that flags stand for."""
    words = shlex.split(flags)
    reading: dict[str, Any] = {}
    images: dict[str, Any] = {}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        value: Any = words.pop(0) if words and not words[0].startswith("--") else True
        if name in OF_IMAGES:
            images[name] = int(value) if value.isdigit() else value
        else:
            reading[name] = value
    return reading, images


def logits(path: Path, data: Path, flags: str) -> torch.Tensor:
    """What robustkit's own loading makes of a file and the pictures."""
    reading, images = parsed(flags)
    checkpoint = read_checkpoint(path, **reading)
    model = checkpoint.load()
    dataset = images_for(checkpoint, str(data), **images)
    with torch.no_grad():
        found = model(torch.from_numpy(dataset.images(0, len(dataset))))
    return found[np.argsort(dataset._positions)]  # the pictures' order is drawn


def judged(row: Row, made: Made, data: Path) -> dict[str, Any]:
    """What came of a row: the difference, or the message."""
    try:
        found = logits(made.path, data, row.flags)
    except RobustkitError as error:
        said = str(error).replace(str(made.path), made.path.name).replace(str(data), "PICTURES")
        ok = row.expected == "refused" and "\n" not in said
        return {"outcome": "ok" if ok else "REFUSED", "said": said}
    except Exception as error:  # a traceback is what the table is to find
        return {"outcome": "TRACEBACK", "said": f"{type(error).__name__}: {str(error)[:200]}"}
    if row.expected == "refused" or made.logits is None:
        return {"outcome": "TAKEN", "said": "should have been refused"}
    if found.shape != made.logits.shape:
        return {"outcome": "OTHER", "said": f"{tuple(found.shape)}, not {tuple(made.logits.shape)}"}
    difference = (found - made.logits).abs().max().item()
    spread = made.logits.std(0).mean().item()
    outcome = "ok" if difference <= TARGET * max(1.0, spread) else "OTHER"
    return {"outcome": outcome, "difference": difference, "spread": spread}


def tried(row: Row, data: Path, at: Path) -> dict[str, Any]:
    """A row of the table."""
    at.mkdir()
    start, pictures = time.process_time(), sorted(data.glob("*/*.jpg"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = row.make(at, pictures)
    except ModuleNotFoundError as error:
        name = (error.name or "?").partition(".")[0]
        found: dict[str, Any] = {"outcome": "absent", "said": f"{name} is not installed"}
        command = ""
    except (
        Exception
    ) as error:  # the library itself failed; the next row is to be tried all the same
        said = f"{type(error).__name__}: {str(error)[:200]}"
        found, command = {"outcome": "NOT MADE", "said": said}, ""
    else:
        found = judged(row, made, data)
        command = f"robustkit evaluate {made.path.name} --data PICTURES {row.flags}".rstrip()
    seconds = round(time.process_time() - start, 2)
    return {"row": row.name, "command": command, **found, "seconds": seconds}


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
    every = [*torch_files.ROWS, *libraries.ROWS, *hubs.rows()]
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
