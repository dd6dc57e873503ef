"""DeepSpeed's checkpoints, whose weights may be cut up among the files of all processes (ZeRO).

In stages 1 and 2 the model's states hold whole weights. In stage 3 they hold names and shapes, and
the numbers stand one behind another in the optimiser's float32 copies: of each parameter every
process has an equal part, the last one filled up with zeros. Frozen parameters have their parts in
the model's states, and buffers are whole there.

Source: deepspeed/utils/zero_to_fp32.py, which does the same with DeepSpeed's own classes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod

import numpy as np

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.folder.finding import WeightFiles
from robustkit.checkpoint.formats import detect_format
from robustkit.checkpoint.weights import read_contents
from robustkit.errors import BadFile, CheckpointError
from robustkit.unpickling import Contents, StoredTensor, checked_shape, mapping
from robustkit.unpickling.tensors import Array, TensorReader, contiguous

RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_model_states\.pt")
ADVICE = "convert it with zero_to_fp32.py, which DeepSpeed puts beside it"
Entries = Mapping[object, object]


def read_zero(found: WeightFiles, reader: TensorReader) -> Contents:
    """The model's states, their weights put together again where they are cut up.

    Raises:
        CheckpointError: cut up in another way than ZeRO's.
        BadFile: damaged, or files of some processes are missing.
    """
    first, *rest = found.names
    if not rest and not RANK.fullmatch(first):
        return _contents(found, first, reader)
    ranks = sorted(name for name in found.names if RANK.fullmatch(name))
    ranks.sort(key=lambda name: int(re.sub(r"\D+", " ", name).split()[0]))
    partners = [name.replace("_model_states", "_optim_states") for name in ranks]
    partners = [f"bf16_{name}" if f"bf16_{name}" in found.names else name for name in partners]
    if not ranks or {*ranks, *partners} != set(found.names):
        raise CheckpointError(
            f"{found.files.path}: its weights are spread over several processes' files in "
            f"another way than ZeRO's, or files are missing; {ADVICE}"
        )
    models = [_contents(found, name, reader) for name in ranks]
    optimisers = [_contents(found, name, reader) for name in partners]
    with boundary(found.files.path):
        states = [_table(contents.root) for contents in models]
        flat = [_vector(_table(contents.root), len(ranks), reader) for contents in optimisers]
        root = {**states[0], "module": dict(_joined(states, flat, reader))}
    warnings = tuple(text for contents in (*models, *optimisers) for text in contents.warnings)
    return Contents("DeepSpeed ZeRO-3", root, (), warnings)


def _contents(found: WeightFiles, name: str, reader: TensorReader) -> Contents:
    where, file = found.files.path / name, found.files.open(name)
    with boundary(where):
        return read_contents(file, reader, detect_format(where, file, alone=False))


def _table(value: object) -> Entries:
    if (entries := mapping(value)) is None:
        raise BadFile(f"not a DeepSpeed checkpoint, or one of an unknown version; {ADVICE}")
    return entries


def _vector(entries: Entries, count: int, reader: TensorReader) -> Array:
    """A process's part of all trainable parameters, one behind another."""
    state = _table(entries.get("optimizer_state_dict"))
    if (made := state.get("partition_count")) != count:
        raise BadFile(f"written by {made} processes, but there are files of {count}; {ADVICE}")
    groups = state.get("fp32_flat_groups")
    if not isinstance(groups, list) or not groups:
        raise BadFile(f"it lacks the float32 copies of its parameters; {ADVICE}")
    return np.concatenate([_numbers(group, reader) for group in groups])


def _numbers(leaf: object, reader: TensorReader) -> Array:
    numbers = reader.read(leaf, "a process's part", as_float32=True)
    if numbers is None or numbers.dtype != np.float32:
        raise BadFile(f"a process's part does not hold numbers; {ADVICE}")
    return numbers.reshape(-1)


def _joined(
    states: Sequence[Entries], flat: Sequence[Array], reader: TensorReader
) -> Iterator[tuple[str, StoredTensor]]:
    """All weights by name, whole."""
    first = states[0]
    module, names = _table(first.get("module")), first.get("buffer_names")
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and isinstance(buffer := module.get(name), StoredTensor):
            yield name, buffer
    groups = first.get("param_shapes")
    start, made = 0, dict[str, StoredTensor]()
    for group in groups if isinstance(groups, list) else [groups]:
        for name, shape in _shapes(group):
            part = -(-prod(shape) // len(flat))
            made[name] = _whole(shape, [vector[start : start + part] for vector in flat])
            start += part
    if any(len(vector) != start for vector in flat):
        raise BadFile(f"{len(flat[0])} numbers per process, expected {start}; {ADVICE}")
    if frozen := first.get("frozen_param_shapes"):
        parts = [_table(state.get("frozen_param_fragments")) for state in states]
        for name, shape in _shapes(frozen):
            made[name] = _whole(shape, [_numbers(part.get(name), reader) for part in parts])
    for name, other in (mapping(first.get("shared_params")) or {}).items():
        if isinstance(name, str) and isinstance(other, str) and other in made:
            made[name] = made[other]
    yield from made.items()


def _shapes(group: object) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in _table(group).items():
        try:
            yield str(name), checked_shape(shape)
        except ValueError as error:
            raise BadFile(f"damaged: {str(name)[:80]!r} has an invalid shape") from error


def _whole(shape: tuple[int, ...], parts: Sequence[Array]) -> StoredTensor:
    """A tensor of its parts, whose last one is filled up."""
    return contiguous("float32", shape, partial(_gathered, shape, parts))


def _gathered(shape: tuple[int, ...], parts: Sequence[Array]) -> bytearray:
    numbers = np.concatenate(parts)[: prod(shape)]
    return bytearray(numbers.tobytes())
