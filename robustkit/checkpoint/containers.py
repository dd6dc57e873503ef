"""Where in a file's tree the weights are, and what stands next to them.

Of several sets of weights in one file, averaged ones count before the raw ones (as timm does), then
the first in the order of `CONTAINERS`: the best before the last, and of a list the first.
`weight_sets` knows the others.

Objects of unknown classes are placeholders here (`unpickling`). Beside the weights they do no harm
and are named in a note; a pickled module is read off its placeholder's attributes; and a tensor of
an unknown class among the weights stays in its place, so that the file is refused by that weight's
name rather than loaded without it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, NamedTuple

import torch

from robustkit.checkpoint.torchfile import array, count
from robustkit.errors import CheckpointError
from robustkit.unpickling import Placeholder, Storage, StoredTensor, mapping, numpy_value, printable

CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema",
    "best", "best_state_dict", "best_model",
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "net_state_dict",
    "weights", "params", "module", "classifier", "last", "last_state_dict",
)  # fmt: skip
AVERAGED = frozenset(["ema", "swa", "avg", "average", "averaged", "polyak", "shadow"])
"""words in the key of weights that are averages over a training"""
NOT_WEIGHTS = ("optim", "schedul", "scaler", "amp", "criterion", "loss", "metric", "callbacks")
"""keys with one of these in them hold tensors, but no network"""
DEPTH = 4
"""containers within containers"""
MODULE_DEPTH = 100
"""modules within modules of a pickled network"""


@dataclass(frozen=True, slots=True)
class Found:
    """A set of weights, not yet turned into tensors."""

    container: str
    """dotted keys that lead to it, or "" where the file is the weights"""
    leaves: dict[str, object]
    others: dict[str, str]
    """what stands among the weights and is no tensor: key to what it is"""
    notes: tuple[str, ...]
    named: bool = True
    """False: a list, whose leaves are named by their places"""


def locate(root: object, where: str) -> Found:
    """The weights in a file's tree.

    Raises:
        CheckpointError: none, or several under names that tell nothing.
    """
    found = _Search(where).search(root, ())
    if found is None:
        raise CheckpointError(f"{where}: no weights in it ({_described(root)})")
    return found


class _Search:
    """The way down a file's tree, which may share or nest its parts without end."""

    def __init__(self, where: str) -> None:
        self._where = where
        # a pickle can refer to one part many times over, level by level: each is looked at once
        self._known: dict[tuple[int, int], bool] = {}

    def search(self, node: object, path: tuple[str, ...]) -> Found | None:
        """The weights in a node, if there are any."""
        if len(path) > DEPTH:
            return None
        if isinstance(node, list | tuple):
            found = self.search(node[0], (*path, "0")) if node else None
            if found is None or len(node) == 1:
                return found
            return _noting(found, f"a list of {len(node)} sets of weights: the first is used")
        if (pickled := module_leaves(node)) is not None:
            note = f"a pickled module ({_described(node)}): weights taken, its code not run"
            return Found(printable(".".join(path)), pickled, {}, (note,))
        if (entries := mapping(node)) is None:
            return None
        return self._in_container(entries, path) or as_weights(entries, path)

    def _in_container(
        self, entries: Mapping[object, object], path: tuple[str, ...]
    ) -> Found | None:
        """The weights under one of the keys."""
        candidates = {
            key: value
            for key, value in entries.items()
            if isinstance(key, str) and self._holds_weights(value, DEPTH - len(path))
        }
        averaged = [key for key in candidates if is_averaged(key) and _was_averaged(entries[key])]
        usual = [key for key in CONTAINERS if key in candidates and key not in averaged]
        usual = [*averaged, *usual]
        if not usual and any(map(is_weight, entries.values())):
            return None  # a state dict itself, one of whose entries happens to hold more
        others = [key for key in candidates if not any(w in key.lower() for w in NOT_WEIGHTS)]
        if not usual and len(others) > 1:
            raise CheckpointError(
                f"{self._where}: several sets of weights ({', '.join(map(printable, others[:6]))}) "
                "and no usual name among them; choose one with --weights"
            )
        key = (usual or others or [""])[0]
        found = self.search(candidates[key], (*path, key)) if key else None
        if found is None or len(usual) < 2:
            return found
        return _noting(found, f"several sets of weights: {key} is used, not {', '.join(usual[1:])}")

    def _holds_weights(self, value: object, depth: int) -> bool:
        """Whether a state dict, a pickled module, or a container of such is inside."""
        if depth <= 0 or not isinstance(value, list | tuple | dict | Placeholder):
            return False
        place = (id(value), depth)
        if place not in self._known:
            self._known[place] = self._look(value, depth)
        return self._known[place]

    def _look(self, value: object, depth: int) -> bool:
        if isinstance(value, list | tuple):
            return bool(value) and self._holds_weights(value[0], depth - 1)
        if module_leaves(value) is not None:
            return True
        entries = mapping(value) or {}
        return any(map(is_weight, entries.values())) or any(
            self._holds_weights(entries[key], depth - 1) for key in CONTAINERS if key in entries
        )


def is_averaged(key: str) -> bool:
    """Whether a key speaks of averaged weights, and of no optimiser's."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower())
    others = (*NOT_WEIGHTS, "exp_avg")  # Adam's moments
    return not AVERAGED.isdisjoint(words) and not any(word in key.lower() for word in others)


def _was_averaged(value: object) -> bool:
    """False for torch's AveragedModel before its first update: weights from before the training."""
    return plain((mapping(value) or {}).get("n_averaged")) != 0


def _noting(found: Found, note: str) -> Found:
    return replace(found, notes=(note, *found.notes))


def as_weights(entries: Mapping[object, object], path: tuple[str, ...]) -> Found | None:
    """The entries as a state dict, if there is a tensor among them."""
    leaves = {printable(str(key)): value for key, value in entries.items() if is_weight(value)}
    others = {
        printable(str(key)): _described(value)
        for key, value in entries.items()
        if not is_weight(value) and value is not None
    }
    return Found(printable(".".join(path)), leaves, others, ()) if leaves else None


def _is_tensor(value: object) -> bool:
    if isinstance(value, Placeholder):
        return value.name.endswith("._reconstruct") and numpy_value(value) is not None
    return isinstance(value, StoredTensor | torch.Tensor)


def is_weight(value: object) -> bool:
    """A tensor, or what is left of one whose class is unknown; no single numbers in passing."""
    if isinstance(value, Placeholder) and not _is_tensor(value):
        return _rebuilds_tensor(value)
    return _is_tensor(value)


def _rebuilds_tensor(value: Placeholder) -> bool:
    return value.name.startswith("torch._utils._rebuild_") or any(
        isinstance(part, StoredTensor | Storage) for part in _nested(value.arguments, 3)
    )


def _nested(values: tuple[object, ...], depth: int) -> Iterator[object]:
    for value in values:
        yield value
        if isinstance(value, tuple) and depth:
            yield from _nested(value, depth - 1)


def module_leaves(node: object) -> dict[str, object] | None:
    """The parameters and buffers of a pickled torch.nn.Module, by their state dict names."""
    if not isinstance(node, Placeholder) or not isinstance(node.state, dict):
        return None
    if not isinstance(node.state.get("_parameters"), dict) or "_modules" not in node.state:
        return None
    leaves: dict[str, object] = {}
    _collect(node, "", leaves, MODULE_DEPTH, [100_000])
    return leaves


def _collect(
    node: object, prefix: str, leaves: dict[str, object], depth: int, left: list[int]
) -> None:
    """Add a module's leaves; `left` bounds the visits, since a file may refer to itself."""
    left[0] -= 1
    if (
        not isinstance(node, Placeholder)
        or not isinstance(node.state, dict)
        or depth == 0
        or left[0] < 0
    ):
        return
    state = node.state
    # as torch's own state_dict() has it: without what was registered with persistent=False
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in (mapping(state.get(kind)) or {}).items():
            if value is not None and name not in hidden:
                leaves[printable(f"{prefix}{name}")] = value
    for name, child in (mapping(state.get("_modules")) or {}).items():
        _collect(child, f"{prefix}{name}.", leaves, depth - 1, left)


def _described(value: object) -> str:
    """A value in two words."""
    if isinstance(value, Placeholder):
        return value.name[:80]
    if isinstance(value, dict):
        keys = ", ".join(printable(str(key)[:30]) for key in list(value)[:4])
        return f"a dictionary with {keys or 'nothing'}"
    return f"a {type(value).__name__}"


class Tensors(NamedTuple):
    """The weights as tensors."""

    state: dict[str, torch.Tensor]
    """floating-point ones as float32, contiguous or not"""
    notes: tuple[str, ...]


def tensors(found: Found, where: str, file_size: int) -> Tensors:
    """The weights of `found`, floating-point ones as float32.

    Raises:
        CheckpointError: a weight that is damaged or cannot be rebuilt without running code, or a
            file whose tensors claim far more numbers than it holds.
    """
    # expanded tensors of stride 0 claim any number of entries without a byte behind them, and would
    # fill the memory as soon as they are copied
    claimed = sum(map(count, found.leaves.values()))
    if claimed > 16 * file_size + 2**24:
        raise CheckpointError(
            f"{where}: its tensors claim {claimed:.1e} numbers, far more than the file holds"
        )
    state, dtypes = {}, dict[str, None]()
    for key, leaf in found.leaves.items():
        tensor = array(leaf, f"{where}: {key!r}")
        if tensor is None:
            raise CheckpointError(
                f"{where}: the weight {key!r} is a {_described(leaf)}, which cannot be "
                "rebuilt without running its code; save it as a plain tensor"
            )
        if tensor.is_complex():
            raise CheckpointError(f"{where}: the weight {key!r} is complex, which is not supported")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            dtypes[str(tensor.dtype).removeprefix("torch.")] = None
            tensor = tensor.float()
        state[key] = tensor
    words = {"float16": "half precision", "float64": "double precision"}
    return Tensors(state, tuple(f"{words.get(d, d)} loaded as float32" for d in dtypes))


# -- what stands next to the weights --------------------------------------------------------------

NAMESPACES = ("args", "hparams", "hyper_parameters", "config", "cfg", "opt", "options")
"""keys under which training scripts keep their settings"""
SYNONYMS = {
    "loss": ("loss", "loss_type", "criterion"),
    "seed": ("seed", "manual_seed", "manualSeed", "random_seed"),
    "label_noise": ("label_noise", "noise_rate", "noise_ratio"),
    "data_fraction": ("data_fraction",),
    "trained_on": ("dataset", "data_set", "dataset_name"),
    "recorded_accuracy": ("best_acc", "best_acc1", "best_prec1", "accuracy", "acc", "test_acc"),
}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "loss": str,
    "seed": int,
    "label_noise": (int, float),
    "data_fraction": (int, float),
    "trained_on": str,
    "recorded_accuracy": (int, float),
}


def surroundings(root: object) -> dict[str, Any]:
    """The plain numbers and texts next to the weights and in the training script's settings."""
    entries = mapping(root) or {}
    found: dict[str, Any] = {}
    for key, value in entries.items():
        if key in NAMESPACES:
            inner = mapping(value) or {}
            found |= {f"{key}.{k}": p for k, v in inner.items() if (p := plain(v)) is not None}
        elif isinstance(key, str) and (p := plain(value)) is not None:
            found[key] = p
    return {printable(key)[:80]: value for key, value in list(found.items())[:100]}


def plain(value: object) -> str | int | float | bool | None:
    """A number, truth value or short text out of the tree; None for everything else."""
    if isinstance(value, Placeholder):
        scalar = numpy_value(value)
        value = scalar.item() if scalar is not None and scalar.size == 1 else None
    elif isinstance(value, StoredTensor) and value.shape == ():
        try:
            tensor = array(value, "a scalar")
        except CheckpointError:
            return None
        value = tensor.item() if tensor is not None else None
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return value if isinstance(value, str) and len(value) <= 200 and value.isprintable() else None


def training(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What foreign settings say of the training, under robustkit's names, where it makes sense."""
    known: dict[str, Any] = {}
    for name, synonyms in SYNONYMS.items():
        for key, value in extra.items():
            fits = isinstance(value, _KINDS[name]) and not isinstance(value, bool)
            if key.rpartition(".")[2] in synonyms and fits and name not in known:
                known[name] = value
    for name in ("label_noise", "data_fraction", "recorded_accuracy"):
        if name in known:
            # accuracies are often percentages; shares outside [0, 1] mean something else
            scale = 100 if name == "recorded_accuracy" and known[name] > 1 else 1
            known[name] = float(known[name]) / scale
            if not 0 <= known[name] <= 1:
                del known[name]
    if "trained_on" in known:
        known["trained_on"] = PurePath(known["trained_on"]).name
    return known
