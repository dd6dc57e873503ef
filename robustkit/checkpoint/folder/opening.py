"""From a folder to its weights, by name, and its words."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.folder.distributed import read_distributed
from robustkit.checkpoint.folder.files import open_files
from robustkit.checkpoint.folder.finding import WeightFiles, find_only_graph, find_weights
from robustkit.checkpoint.folder.shards import read_shards, reader_of, without_others
from robustkit.checkpoint.folder.words import read_words
from robustkit.checkpoint.folder.zero import read_zero
from robustkit.checkpoint.formats import PROGRAMS, detect_format
from robustkit.checkpoint.selection import ALL, Selection
from robustkit.checkpoint.weights import Weights, open_weights, weights_in
from robustkit.errors import CheckpointError
from robustkit.unpickling.tensors import TensorReader


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of weights, as data, as long as it is open.

    `weights.state` has the arrays by name, whatever the files; `weights.variants` the names read in
    every way. `words["config.json"]` is that file's table, as Python's `json` reads it, and absent
    where there is no such file: nothing in it is checked but its size, depth and repeated names.
    """

    path: Path
    weights: Weights
    words: Mapping[str, dict[str, Any]]
    """by file name"""
    sha256: str
    """over the files that were read, by name"""


@contextmanager
def open_folder(path: Path, selection: Selection = ALL) -> Iterator[Folder]:
    """A folder's weights and words; further sets of weights can be read while it is open.

    Args:
        path: the folder.
        selection: which set of weights, where a file has several, and what of it.

    Raises:
        CheckpointError: it holds no weights, or several without a word on which; something in it is
            damaged, or leads outside.
    """
    with boundary(path), open_files(path) as files:
        found = without_others(find_weights(files))
        words = read_words(files)
        if found.files is not files:
            words |= read_words(found.files)
        weights = _opened(found, selection)
        notes = (found.note, *weights.notes) if found.note else weights.notes
        yield Folder(path, replace(weights, notes=notes), words, files.digest())


@contextmanager
def open_only_graph(path: Path) -> Iterator[tuple[Path, BufferedReader] | None]:
    """The one ONNX file of a folder without other weights, with its path; None: there is none.

    Raises:
        CheckpointError: it leads outside, or cannot be read.
    """
    with boundary(path), open_files(path) as files:
        found = find_only_graph(files)
        yield None if found is None else (found[0].path / found[1], found[0].open(found[1]))


def _opened(found: WeightFiles, selection: Selection) -> Weights:
    if found.form == "files" and len(found.names) == 1 and not found.homes:
        return _whole(found, selection)
    reader = reader_of(found)
    return weights_in(_READERS[found.form](found, reader), reader, selection)


_READERS = {"files": read_shards, "distributed": read_distributed, "zero": read_zero}


def _whole(found: WeightFiles, selection: Selection) -> Weights:
    (name,) = found.names
    where, file = found.files.path / name, found.files.open(name)
    with boundary(where):
        if (kind := detect_format(where, file, alone=False)) in PROGRAMS:
            raise CheckpointError(
                f"{found.files.path}: its only weights are in the {kind} program {name}; "
                "name that file"
            )
        return open_weights(file, TensorReader.of(file, str(where)), kind, selection)
