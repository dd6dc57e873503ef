"""From a folder to its weights, by name, and its words."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.folder.files import FolderFiles, open_files
from robustkit.checkpoint.folder.shards import WeightFiles, find_weights
from robustkit.checkpoint.folder.words import read_words
from robustkit.checkpoint.formats import PROGRAMS, detect_format
from robustkit.checkpoint.weights import Weights, open_leaves, open_weights, read_leaves
from robustkit.errors import CheckpointError
from robustkit.unpickling import Budget
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
def open_folder(path: Path, key: str | None = None) -> Iterator[Folder]:
    """A folder's weights and words; further sets of weights can be read while it is open.

    Args:
        path: the folder.
        key: which set of weights, where a file has several.

    Raises:
        CheckpointError: it holds no weights, or several without a word on which; something in it is
            damaged, or leads outside.
    """
    with boundary(path), open_files(path) as files:
        words = read_words(files)
        found = find_weights(files)
        weights = _opened(files, found, key)
        weights = replace(weights, notes=(found.note, *weights.notes))
        yield Folder(path, weights, words, files.digest())


def _opened(files: FolderFiles, found: WeightFiles, key: str | None) -> Weights:
    kinds = {name: detect_format(files.path / name, files.open(name)) for name in found.names}
    for name, kind in kinds.items():
        if kind in PROGRAMS:
            raise CheckpointError(f"{files.path}: {name} is a {kind} program; name it by itself")
    if len(kinds) == 1 and not found.homes:
        ((name, kind),) = kinds.items()
        where, file = files.path / name, files.open(name)
        with boundary(where):
            return open_weights(file, TensorReader.of(file, str(where)), kind, key)
    reader = TensorReader(str(files.path), Budget.of(sum(map(files.size, kinds))))
    leaves: dict[str, object] = {}
    warnings: list[str] = []
    for name, kind in kinds.items():
        with boundary(files.path / name):
            part = read_leaves(files.open(name), reader, kind)
        if twice := leaves.keys() & part.leaves.keys():
            raise CheckpointError(f"{files.path}: two shards hold {min(twice)[:80]}")
        if odd := [key for key in part.leaves if found.homes.get(key, name) != name]:
            raise CheckpointError(
                f"{files.path}: {name} holds {odd[0][:80]}, which its index has elsewhere"
            )
        leaves |= part.leaves
        warnings += part.warnings
    if gone := [key for key in found.homes if key not in leaves]:
        raise CheckpointError(
            f"{files.path}: its index has {gone[0][:80]} in {found.homes[gone[0]]}, which lacks it"
        )
    formats = ", ".join(sorted(set(kinds.values())))
    weights = open_leaves(leaves, reader, f"{len(kinds)} shards, {formats}", key)
    return replace(weights, warnings=tuple(warnings))
