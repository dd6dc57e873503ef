"""Reading a file under watch: what came of it, and whether anything ran, connected or wrote."""

import os
import traceback
from pathlib import Path

import numpy as np
import torch

from helpers.mutations import LABELS
from robustkit.checkpoint import describe, read_checkpoint
from robustkit.data.labelfile import read_labels, read_matrix
from robustkit.errors import RobustkitError
from robustkit.results.metadata import read_metadata

NOTED = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove",
    "os.rename", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.kill", "os.putenv", "os.truncate",
    "subprocess.Popen", "pickle.find_class", "socket.", "ctypes.dlopen", "urllib.Request", "ftplib.",
    "shutil.", "webbrowser.open", "pty.spawn", "sqlite3.connect", "tempfile.",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """An audit hook that notes what would run, connect or write.

    One can be added to a process and never removed, so that it watches only when it is told to.
    """

    def __init__(self):
        self.on = False
        self.seen = []

    def __call__(self, event, arguments):
        """Note an event, if it is one of those."""
        if not self.on:
            return
        mode, flags = arguments[1:3] if event == "open" else (None, None)
        opened = isinstance(mode, str) and not set(mode).isdisjoint("wax+")
        if opened or (isinstance(flags, int) and flags & WRITES) or event.startswith(NOTED):
            self.seen.append(f"{event} {str(arguments)[:100]}")


def attempt(path, labels=False):
    """What comes of a file, in a line; findings begin with an exclamation mark."""
    try:
        return _read_labels(path) if labels else _read(path)
    except RobustkitError as error:
        line = str(error)
        fits = line.isprintable() and len(line) <= 1000
        return f"refused: {line}" if fits else f"!no printable line: {line[:300]!r}"
    except BaseException as error:
        trace = traceback.extract_tb(error.__traceback__)
        places = [f"{Path(f.filename).name}:{f.lineno}" for f in trace if "robustkit" in f.filename]
        return f"!{type(error).__name__}: {str(error)[:200]!r} at {' '.join(places[-3:])}"


def _read(path):
    """Everything that reading a checkpoint leads to, up to its logits."""
    checkpoint = read_checkpoint(path)
    if odd := [text for row in describe(checkpoint) for text in row if not text.isprintable()]:
        return f"!not printable: {odd[0]!r}"
    read_metadata(path)
    if checkpoint.model is None:
        return "described"
    network = checkpoint.load()
    if checkpoint.input_shape is not None:
        with torch.no_grad():
            network(torch.zeros(2, *checkpoint.input_shape))
    return "loaded"


def _read_labels(path):
    """The labels in a file, and the matrix, if there can be one."""
    said = []
    for look in (
        lambda: read_labels(path, "worse_label", np.array(LABELS), 10),
        lambda: read_labels(path, "", np.array(LABELS), 10),
        lambda: read_matrix(path, 10),
    ):
        try:
            look()
            said.append("read")
        except RobustkitError as error:
            said.append(f"refused: {error}")
    if odd := [line for line in said if not line.isprintable() or len(line) > 1100]:
        return f"!no printable line: {odd[0][:300]!r}"
    return min(said)
