"""Several files of weights as one, each name once."""

import numpy as np

from robustkit.checkpoint import containers
from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.folder.finding import WeightFiles
from robustkit.checkpoint.formats import PROGRAMS, detect_format
from robustkit.checkpoint.readings import listed
from robustkit.checkpoint.weights import read_contents
from robustkit.errors import CheckpointError
from robustkit.unpickling import Budget, Contents
from robustkit.unpickling.tensors import TensorReader

MOST_UNNUMBERED = 16
"""files that are read to see whether they belong together"""


def without_others(found: WeightFiles) -> WeightFiles:
    """Of several files of which nothing tells that they are shards, those that hold weights.

    Raises:
        CheckpointError: too many to look into, one is damaged, or none holds weights.
    """
    if found.note or len(found.names) == 1:
        return found
    if len(found.names) > MOST_UNNUMBERED:
        raise CheckpointError(
            f"{found.files.path}: several weight files ({listed(found.names)}); name one of them"
        )
    kept = [name for name in found.names if _holds_weights(found, name)]
    if not kept:
        raise CheckpointError(f"{found.files.path}: none of {listed(found.names)} contains weights")
    others = [name for name in found.names if name not in kept]
    left = f"; without weights: {listed(others)}" if others else ""
    return found._replace(names=tuple(kept), note=f"weights from {listed(kept)}{left}")


def _holds_weights(found: WeightFiles, name: str) -> bool:
    reader = TensorReader.of(found.files.open(name), str(found.files.path / name))
    try:
        containers.locate(_contents(found, name, reader).root, reader)
    except containers.NoWeights:
        return False
    return True


def _contents(found: WeightFiles, name: str, reader: TensorReader) -> Contents:
    """What a file holds.

    Raises:
        CheckpointError: it is damaged, a program, or no checkpoint.
    """
    where, file = found.files.path / name, found.files.open(name)
    with boundary(where):
        if (kind := detect_format(where, file, alone=False)) in PROGRAMS:
            raise CheckpointError(
                f"{found.files.path}: {name} is a {kind} program among several weight files "
                f"({listed(found.names)}); name one of them"
            )
        return read_contents(file, reader, kind)


def read_shards(found: WeightFiles, reader: TensorReader) -> Contents:
    """What several files hold together.

    Raises:
        CheckpointError: they hold different numbers under one name; one is damaged, or is not what
            the index says.
    """
    parts = {name: _contents(found, name, reader) for name in found.names}
    leaves: dict[str, object] = {}
    homes: dict[str, str] = {}
    for name, part in parts.items():
        for key, leaf in containers.locate(part.root, reader).leaves.items():
            if key in leaves and not _equal(reader, key, leaves[key], leaf):
                raise CheckpointError(
                    f"{found.files.path}: {homes[key]} and {name} have different values for "
                    f"{key[:80]}; name one of the files ({listed(found.names)})"
                )
            if found.homes.get(key, name) != name:
                raise _contradicted(found, key, f"but {name} holds it")
            leaves[key], homes[key] = leaf, name
    if gone := [key for key in found.homes if key not in leaves]:
        raise _contradicted(found, gone[0], "which lacks it")
    return Contents(
        f"{len(parts)} files, {', '.join(sorted({part.format for part in parts.values()}))}",
        leaves,
        tuple(name for part in parts.values() for name in part.uncalled),
        tuple(warning for part in parts.values() for warning in part.warnings),
    )


def _equal(reader: TensorReader, key: str, one: object, other: object) -> bool:
    first, second = reader.read(one, key), reader.read(other, key)
    return first is not None and second is not None and np.array_equal(first, second)


def _contradicted(found: WeightFiles, key: str, what: str) -> CheckpointError:
    home = found.homes[key]
    return CheckpointError(f"{found.files.path}: its index places {key[:80]} in {home}, {what}")


def reader_of(found: WeightFiles) -> TensorReader:
    """The reader of several files, with a budget by the size of all of them."""
    size = sum(map(found.files.size, found.names))
    return TensorReader(str(found.files.path), Budget.of(size))
