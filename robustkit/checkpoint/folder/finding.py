"""Which files of a folder hold its weights, by their names and what an index says.

What a library looks for first counts first: whole weights, shards with an index, then shards by
their numbers. Where one of several files, or folders, would have to be guessed, they are named.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal, NamedTuple

from robustkit.checkpoint.folder.files import FolderFiles
from robustkit.checkpoint.folder.words import INDEX, read_table
from robustkit.checkpoint.foreign import SHARD, foreign_folder
from robustkit.checkpoint.readings import listed
from robustkit.errors import CheckpointError

STEMS = ("model.safetensors", "pytorch_model.bin")
"""whole, or with an index: what libraries look for, the first before the second"""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".pkl")
"""of files that hold weights"""
OTHERS = (
    "optim", "scheduler", "random_states", "rng_state", "scaler", "sampler", "training_args",
    "dl_state", "custom_checkpoint", "lr_scheduler",
)  # fmt: skip
"""beginnings of the names of what training code keeps beside weights"""
SECOND = re.compile(r"(model|pytorch_model)_\d+\.(safetensors|bin)")
"""how accelerate names further networks"""
GRAPHS = "onnx"
"""a folder inside one that has JSON, for ONNX files"""
METADATA = ".metadata"
"""of torch.distributed.checkpoint"""
DEPTH = 3
"""folders within folders"""
MOST_FOLDERS = 200
"""that are looked into"""


class WeightFiles(NamedTuple):
    """The files that hold a folder's weights."""

    files: FolderFiles
    """the folder that they stand in, which may be one inside"""
    names: tuple[str, ...]
    form: Literal["files", "distributed", "zero"] = "files"
    homes: Mapping[str, str] = MappingProxyType({})
    """the file of each name, where an index tells"""
    note: str = ""


def find_weights(files: FolderFiles) -> WeightFiles:
    """The files that hold a folder's weights.

    Raises:
        CheckpointError: none, or several of which one must be named; an index that makes no sense.
    """
    if "adapter_config.json" in files.names:
        raise CheckpointError(f"{files.path}: {foreign_folder(files.names)}")
    if (found := _in_folder(files)) is not None:
        return found
    inside = list(_folders_with_weights(files))
    if len(inside) > 1:
        names = sorted(str(folder.path.relative_to(files.path)) for folder in inside)
        raise CheckpointError(
            f"{files.path}: several folders contain weights ({listed(names)}); name one of them"
        )
    if inside and (found := _in_folder(inside[0])) is not None:
        return found
    if reason := foreign_folder(files.names):
        raise CheckpointError(f"{files.path}: {reason}")
    if graphs := [str(inner.path.relative_to(files.path) / name) for inner, name in _graphs(files)]:
        raise CheckpointError(
            f"{files.path}: a folder of ONNX files; name one of them: {listed(graphs)}"
        )
    beside = f"; it contains the folders {listed(files.folders)}" if files.folders else ""
    raise CheckpointError(
        f"{files.path}: a folder without weights (expected model.safetensors, "
        f"pytorch_model.bin, shards, or a torch or DeepSpeed checkpoint){beside}"
    )


def find_only_graph(files: FolderFiles) -> tuple[FolderFiles, str] | None:
    """The one ONNX file of a folder without other weights, and the folder that it stands in.

    Where there are several, one of the usual name is not guessed to be the one that is meant.
    """
    graphs = list(_graphs(files))
    if len(graphs) != 1 or "adapter_config.json" in files.names or foreign_folder(files.names):
        return None
    candidates = [name for name in files.names if _is_candidate(name) or name.endswith(INDEX)]
    if not all(_is_of_graph(files, name) for name in candidates):
        return None
    return None if any(_folders_with_weights(files)) or _latest(files) else graphs[0]


def _is_of_graph(files: FolderFiles, name: str) -> bool:
    """Whether a file beside a graph is one with its numbers, and not weights of its own."""
    # torch's files begin so, as zip and as pickle
    return name.endswith(".bin") and files.open(name).read(2) not in (b"PK", b"\x80\x02")


def _graphs(files: FolderFiles) -> Iterator[tuple[FolderFiles, str]]:
    """The ONNX files of a folder, and of the one inside that exporters put them in."""
    inner = [files.at(GRAPHS)] if GRAPHS in files.folders else []
    for folder in (files, *inner):
        yield from ((folder, name) for name in folder.names if name.endswith(".onnx"))


def _in_folder(files: FolderFiles) -> WeightFiles | None:
    """The weights in the folder itself."""
    # a .bin beside the .xml of its name is OpenVINO's, model.json is TensorFlow.js's
    others = {f"{name[:-4]}.bin" for name in files.names if name.endswith(".xml")}
    candidates = [name for name in files.names if _is_candidate(name) and name not in others]
    for stem in STEMS:
        if stem in files.names:
            return _whole(files, stem, candidates)
        if f"{stem}{INDEX}" in files.names:
            return _indexed(files, f"{stem}{INDEX}")
    indices = [name for name in files.names if name.endswith(INDEX)]
    if len(indices) == 1:
        return _indexed(files, indices[0])
    if indices:
        raise CheckpointError(f"{files.path}: several shard indices ({listed(indices)})")
    if METADATA in files.names:
        pieces = [name for name in files.names if name.endswith(".distcp")]
        return WeightFiles(files, (METADATA, *pieces), "distributed", note=_taken(pieces, ()))
    if states := [name for name in files.names if name.endswith("model_states.pt")]:
        return _of_deepspeed(files, states)
    if tag := _latest(files):
        return _in_folder(files.at(tag))
    if not candidates or foreign_folder(files.names):
        return None
    return _numbered(files, candidates)


def _is_candidate(name: str) -> bool:
    states = name.startswith((*OTHERS, ".")) or name.endswith("optim_states.pt")
    return name.endswith(SUFFIXES) and not states


def _whole(files: FolderFiles, stem: str, candidates: Sequence[str]) -> WeightFiles:
    if second := [name for name in candidates if SECOND.fullmatch(name)]:
        raise CheckpointError(
            f"{files.path}: contains several networks ({listed([stem, *second])}); name one "
            "of the files"
        )
    return WeightFiles(files, (stem,), note=_taken([stem], candidates))


def _indexed(files: FolderFiles, index: str) -> WeightFiles:
    """The shards that an index names.

    Raises:
        CheckpointError: it is damaged, or leads outside; a shard is missing.
    """
    where = f"{files.path}: {index}"
    table = read_table(files, index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(map(_is_name, table.values())):
        raise CheckpointError(f"{where}: no weight_map, which lists the files of the weights")
    shards = sorted(set(table.values()))
    for shard in shards:
        if PurePosixPath(shard).name != shard:
            raise CheckpointError(
                f"{where}: names {shard[:200]}, which is outside the folder; refused"
            )
    if missing := [shard for shard in shards if shard not in files.names]:
        raise CheckpointError(
            f"{where}: {len(missing)} of its {len(shards)} shards "
            f"{'is' if len(missing) == 1 else 'are'} missing: {listed(missing)}"
        )
    return WeightFiles(files, tuple(shards), homes=table, note=_taken(shards, ()))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\\" not in value


def _numbered(files: FolderFiles, candidates: Sequence[str]) -> WeightFiles:
    """Shards without an index, by their numbers; else all candidates.

    Raises:
        CheckpointError: some are missing, or there are several sets of them.
    """
    groups: dict[tuple[str, int, str], dict[int, str]] = {}
    for name in candidates:
        if (found := SHARD.fullmatch(name)) and (count := int(found["count"])) > 1:
            numbers = groups.setdefault((found["stem"], count, found["end"]), {})
            numbers[int(found["number"])] = name
    if not groups:
        return WeightFiles(files, tuple(candidates))
    safe = [key for key in groups if key[2] == ".safetensors"]
    if len(chosen := safe or list(groups)) > 1:
        firsts = [min(groups[key].values()) for key in chosen]
        raise CheckpointError(f"{files.path}: several sets of shards ({listed(firsts)})")
    (_, count, _), numbers = chosen[0], groups[chosen[0]]
    first = min(1, *numbers)
    if missing := [str(n) for n in range(first, first + count) if n not in numbers][: 10**4]:
        raise CheckpointError(
            f"{files.path}: of {count} shards such as {min(numbers.values())}, "
            f"{len(missing)} {'is' if len(missing) == 1 else 'are'} missing: number "
            f"{listed(missing)}"
        )
    names = tuple(sorted(numbers.values()))
    return WeightFiles(files, names, note=_taken(names, candidates))


def _of_deepspeed(files: FolderFiles, states: list[str]) -> WeightFiles:
    """The model's states and, where weights are cut up among processes, the optimiser's."""
    parts = [name for name in files.names if name.endswith("optim_states.pt")]
    cut_up = len(states) > 1 or states[0].startswith("zero_pp_rank")
    names = tuple(states + parts if cut_up else states)
    copies = "; the optimiser's float32 copies are not used (zero_to_fp32.py writes them)"
    note = _taken(names, ()) + (copies if parts and not cut_up else "")
    return WeightFiles(files, names, "zero", note=note)


def _latest(files: FolderFiles) -> str:
    """The folder that DeepSpeed's file `latest` names, or ""."""
    if "latest" not in files.names:
        return ""
    tag = files.open("latest").read(200).decode(errors="replace").strip()
    return tag if tag in files.folders else ""


def _folders_with_weights(files: FolderFiles) -> Iterator[FolderFiles]:
    """The outermost folders inside that hold something which may be weights."""
    level, seen = [files], 0
    for _ in range(DEPTH):
        below: list[FolderFiles] = []
        for outer in level:
            for name in outer.folders:
                if name.startswith((*OTHERS, ".")):
                    continue
                if (seen := seen + 1) > MOST_FOLDERS:
                    return
                try:
                    inner = outer.at(name)
                except CheckpointError:  # a link to elsewhere, say: to the data
                    continue
                if _holds_weights(inner):
                    yield inner
                else:
                    below.append(inner)
        level = below


def _holds_weights(files: FolderFiles) -> bool:
    return METADATA in files.names or any(
        _is_candidate(name) or name.endswith(INDEX) for name in files.names
    )


def _taken(taken: Sequence[str], candidates: Iterable[str]) -> str:
    left = [name for name in candidates if name not in taken]
    beside = f"; not used: {listed(left)}" if left else ""
    return f"weights from {listed(taken)}{beside}"
