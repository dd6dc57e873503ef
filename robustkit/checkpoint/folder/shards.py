"""Which files of a folder hold its weights: one, or several shards whose index tells the names."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from robustkit.checkpoint.folder.files import FolderFiles
from robustkit.checkpoint.folder.words import INDEX, read_table
from robustkit.errors import CheckpointError

STEMS = ("model.safetensors", "pytorch_model.bin")
"""whole, or with an index: what libraries look for, the first before the second"""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pth.tar", ".pkl")
"""of files that hold weights"""
OTHERS = (
    "optimizer",
    "scheduler",
    "random_states",
    "rng_state",
    "scaler",
    "sampler",
    "training_args",
)
"""beginnings of the names of what stands beside weights"""


class WeightFiles(NamedTuple):
    """The files that hold a folder's weights."""

    names: tuple[str, ...]
    note: str
    homes: Mapping[str, str] = MappingProxyType({})
    """the file of each name, where an index tells"""


def find_weights(files: FolderFiles) -> WeightFiles:
    """The files that hold a folder's weights.

    Raises:
        CheckpointError: none, or several of which one must be named; an index that makes no sense.
    """
    candidates = [name for name in files.names if _is_candidate(name)]
    for stem in STEMS:
        if stem in files.names:
            return WeightFiles((stem,), _told([stem], candidates))
        if f"{stem}{INDEX}" in files.names:
            return _indexed(files, f"{stem}{INDEX}")
    indices = [name for name in files.names if name.endswith(INDEX)]
    if len(indices) == 1:
        return _indexed(files, indices[0])
    if len(candidates) == 1:
        return WeightFiles((candidates[0],), _told(candidates, ()))
    if found := indices or candidates:
        raise CheckpointError(
            f"{files.path}: a folder of several files of weights ({_listed(found)}); name one"
        )
    inside = f"; its folders are {_listed(files.folders)}" if files.folders else ""
    raise CheckpointError(
        f"{files.path}: a folder without weights that are known (model.safetensors, "
        f"pytorch_model.bin or shards with their index){inside}"
    )


def _is_candidate(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(OTHERS)


def _indexed(files: FolderFiles, index: str) -> WeightFiles:
    """The shards that an index names.

    Raises:
        CheckpointError: it is damaged, or leads outside; a shard is missing.
    """
    where = f"{files.path}: {index}"
    table = read_table(files, index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(map(_is_name, table.values())):
        raise CheckpointError(f"{where}: no weight_map with the files of the weights in it")
    shards = sorted(set(table.values()))
    for shard in shards:
        if PurePosixPath(shard).name != shard:
            raise CheckpointError(
                f"{where}: names {shard[:200]}, which is outside the folder; refused"
            )
    if missing := [shard for shard in shards if shard not in files.names]:
        raise CheckpointError(
            f"{where}: of its {len(shards)} shards {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: {_listed(missing)}"
        )
    return WeightFiles(tuple(shards), _told(shards, ()), table)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\\" not in value


def _told(taken: Sequence[str], candidates: Iterable[str]) -> str:
    left = [name for name in candidates if name not in taken]
    beside = f"; not {_listed(left)}" if left else ""
    return f"weights from {_listed(taken)}{beside}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:5])
    return shown + (f" … ({len(names)} in all)" if len(names) > 5 else "")
