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
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple

from robustkit.checkpoint.foreign import is_random_state
from robustkit.checkpoint.readings import listed
from robustkit.errors import BadFile, CheckpointError
from robustkit.unpickling import (
    LONGEST_NAME,
    Budget,
    Placeholder,
    StoredTensor,
    mapping,
    printable,
)
from robustkit.unpickling.tensors import EXTRA, QUANTISED, State, TensorReader, is_real

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
MOST_LEAVES = 50_000
"""tensors in a set of weights"""


class NoWeights(CheckpointError):
    """A file that holds other things."""


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


def locate(root: object, reader: TensorReader) -> Found:
    """The weights in a file's tree.

    Raises:
        NoWeights: none.
        CheckpointError: several under names that tell nothing.
        BadFile: the tree shares or nests its parts without end; so do the others.
    """
    found = _Search(reader).search(root, ())
    if found is None or is_random_state(found.leaves):
        raise NoWeights(
            f"{reader.where}: contains no weights ({_without_weights(root, reader)}); save "
            "model.state_dict()"
        )
    return found


def _without_weights(root: object, reader: TensorReader) -> str:
    """What a file holds instead, in a few words."""
    if reader.is_weight(root):
        return "a single unnamed tensor"
    entries = mapping(root) or {}
    if entries and is_random_state(map(str, islice(entries, 10))):
        return "random number generator states"
    if "param_groups" in entries:
        return "an optimiser state"
    for key, value in [(None, root), *islice(entries.items(), 100)]:
        if isinstance(value, list | tuple) and value and reader.is_weight(value[0]):
            where = "" if key is None else f"under {_short(key)} "
            return f"{where}a list of {len(value)} unnamed tensors"
    return _described(root)


class _Search:
    """The way down a file's tree, which may share or nest its parts without end."""

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader
        self._budget = reader.budget
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
        if is_module(node):
            note = (
                f"a pickled module ({_described(node)}): its weights are used, its code is not run"
            )
            return Found(".".join(path), module_leaves(node, self._budget), {}, (note,))
        if (entries := mapping(node)) is None:
            return None
        return self._in_container(entries, path) or as_weights(entries, path, self._reader)

    def _in_container(
        self, entries: Mapping[object, object], path: tuple[str, ...]
    ) -> Found | None:
        """The weights under one of the keys."""
        self._budget.visit(len(entries))
        candidates = {
            key: value
            for key, value in entries.items()
            if isinstance(key, str) and self._holds_weights(value, DEPTH - len(path))
        }
        averaged = [
            key for key in candidates if is_averaged(key) and self._was_averaged(entries[key])
        ]
        usual = [key for key in CONTAINERS if key in candidates and key not in averaged]
        usual = [*averaged, *usual]
        if not usual and any(map(self._reader.is_weight, entries.values())):
            return None  # a state dict itself, one of whose entries happens to hold more
        others = [key for key in candidates if not any(w in key.lower() for w in NOT_WEIGHTS)]
        if not usual and len(others) > 1:
            names = ", ".join(map(_short, others[:6]))
            raise CheckpointError(
                f"{self._reader.where}: several sets of weights ({names}), none under a "
                "usual name; choose one with --weights"
            )
        key = (usual or others or [""])[0]
        found = self.search(candidates[key], (*path, self._budget.name(key))) if key else None
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
        if is_module(value):
            return True
        entries = mapping(value) or {}
        self._budget.visit(len(entries))
        return any(map(self._reader.is_weight, entries.values())) or any(
            self._holds_weights(entries[key], depth - 1) for key in CONTAINERS if key in entries
        )

    def _was_averaged(self, value: object) -> bool:
        """False for torch's AveragedModel before its first update: weights from the start."""
        return plain((mapping(value) or {}).get("n_averaged"), self._reader) != 0


def is_averaged(key: str) -> bool:
    """Whether a key speaks of averaged weights, and of no optimiser's."""
    if len(key) > LONGEST_NAME:
        return False
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower())
    others = (*NOT_WEIGHTS, "exp_avg")  # Adam's moments
    return not AVERAGED.isdisjoint(words) and not any(word in key.lower() for word in others)


def _noting(found: Found, note: str) -> Found:
    return replace(found, notes=(note, *found.notes))


def as_weights(
    entries: Mapping[object, object], path: tuple[str, ...], reader: TensorReader
) -> Found | None:
    """The entries as a state dict, if there is a tensor among them."""
    leaves: dict[str, object] = {}
    others: dict[str, str] = {}
    reader.budget.visit(len(entries))
    for key, value in entries.items():
        if reader.is_weight(value):
            _put(leaves, reader.budget.name(key), value)
        elif value is not None:
            others[_short(key)] = _described(value)
    return Found(".".join(path), leaves, others, ()) if leaves else None


def _put(leaves: dict[str, object], name: str, leaf: object) -> None:
    if len(leaves) >= MOST_LEAVES:
        raise BadFile(f"more than {MOST_LEAVES} tensors in a set of weights; refused as damaged")
    if name in leaves:
        raise BadFile(f"two weights are named {name[:80]!r}; refused as damaged")
    leaves[name] = leaf


def is_module(node: object) -> bool:
    """Whether a node is a pickled torch.nn.Module."""
    return (
        isinstance(node, Placeholder)
        and isinstance(node.state, dict)
        and isinstance(node.state.get("_parameters"), dict)
        and "_modules" in node.state
    )


def module_leaves(node: object, budget: Budget) -> dict[str, object]:
    """The parameters and buffers of a pickled torch.nn.Module, by their state dict names."""
    leaves: dict[str, object] = {}
    _collect(node, "", leaves, 0, budget)
    return leaves


def _collect(
    node: object, prefix: str, leaves: dict[str, object], depth: int, budget: Budget
) -> None:
    budget.visit()
    if not isinstance(node, Placeholder) or not isinstance(node.state, dict):
        return
    if depth > MODULE_DEPTH:
        raise BadFile(f"modules nested more than {MODULE_DEPTH} levels deep; refused as damaged")
    state = node.state
    # as torch's own state_dict() has it: without what was registered with persistent=False
    hidden = _texts(state.get("_non_persistent_buffers_set"), budget)
    for kind in ("_parameters", "_buffers"):
        for name, value in (mapping(state.get(kind)) or {}).items():
            budget.visit()
            if value is not None and name not in hidden:
                _put(leaves, budget.name(name, prefix), value)
    for name, child in (mapping(state.get("_modules")) or {}).items():
        _collect(child, f"{budget.name(name, prefix)}.", leaves, depth + 1, budget)


def _texts(values: object, budget: Budget) -> frozenset[object]:
    """The texts in a set, which is a list here."""
    if not isinstance(values, list | tuple) or not values:
        return frozenset()
    budget.visit(len(values))
    return frozenset(value for value in values if isinstance(value, str))


def _short(key: object) -> str:
    """A key, cut to a length that fits a line, whatever it is."""
    if isinstance(key, tuple):
        return f"({', '.join(map(_short, key[:3]))}{', …' if len(key) > 3 else ''})"
    if isinstance(key, int) and key.bit_length() > 64:
        return f"a number of {key.bit_length()} bits"
    if isinstance(key, str) and len(key) > 80:
        return printable(f"{key[:39]}…{key[-40:]}")
    return printable(str(key[:80] if isinstance(key, bytes) else key))


def _described(value: object) -> str:
    """A value in two words."""
    if isinstance(value, Placeholder):
        return value.name[:80]
    if isinstance(value, dict):
        keys = ", ".join(_short(key)[:30] for key in islice(value, 4))
        return f"a dictionary with {keys or 'nothing'}"
    return f"a {type(value).__name__}"


class Tensors(NamedTuple):
    """The weights as arrays."""

    state: State
    """real ones as float32, contiguous or not"""
    notes: tuple[str, ...]


def tensors(found: Found, reader: TensorReader) -> Tensors:
    """The weights of `found`, real ones as float32.

    Raises:
        CheckpointError: a weight that is damaged or cannot be rebuilt without running code.
    """
    for leaf in found.leaves.values():
        reader.budget.leaf(reader.count(leaf))
    state: State = {}
    widths: dict[str, None] = {}
    for key, leaf in found.leaves.items():
        if (numbers := reader.read(leaf, key, as_float32=True)) is None:
            raise CheckpointError(
                f"{reader.where}: the weight {key[:80]!r} is a {_described(leaf)}, which "
                "only its own code can rebuild; save it as a plain tensor"
            )
        if (kind := reader.kind(leaf)).startswith("complex"):
            raise CheckpointError(
                f"{reader.where}: the weight {key[:80]!r} is complex, which is not supported"
            )
        if (is_real(kind) and kind != "float32") or kind in QUANTISED:
            widths[kind] = None
        state[key] = numbers
    words = {"float16": "half precision", "float64": "double precision"}
    notes = [f"{words.get(w, w)} converted to float32" for w in widths if w not in QUANTISED]
    notes += [f"{w} dequantised; activations stay float32" for w in widths if w in QUANTISED]
    return Tensors(state, tuple(notes))


def extra_state(found: Found | None) -> tuple[str, ...]:
    """A warning of what networks keep beside their weights, which no file hands to another."""
    names = [key for key in (found.others if found is not None else ()) if key.endswith(EXTRA)]
    if not names:
        return ()
    return (
        f"extra state that the file has beside its weights is not loaded: {listed(names)}; where "
        "logits depend on it, they are others, unless the function that --model names loads it",
    )


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


def surroundings(root: object, reader: TensorReader) -> dict[str, Any]:
    """The plain numbers and texts next to the weights and in the training script's settings."""
    return dict(islice(_surroundings(root, reader), 100))


def _surroundings(root: object, reader: TensorReader) -> Iterator[tuple[str, Any]]:
    for key, value in (mapping(root) or {}).items():
        reader.budget.visit()
        if key in NAMESPACES:
            for inner, setting in (mapping(value) or {}).items():
                reader.budget.visit()
                if (said := plain(setting, reader)) is not None:
                    yield f"{key}.{_short(inner)}"[:80], said
                for name, text in (mapping(setting) or {}).items():
                    reader.budget.visit()
                    if isinstance(text, str) and plain(text, reader) is not None:
                        yield f"{key}.{_short(inner)}.{_short(name)}"[:80], text
        elif isinstance(key, str) and (said := plain(value, reader)) is not None:
            yield _short(key), said


def plain(value: object, reader: TensorReader) -> str | int | float | bool | None:
    """A number, truth value or short text out of the tree; None for everything else."""
    if isinstance(value, Placeholder | StoredTensor):
        if reader.count(value) != 1 or (isinstance(value, StoredTensor) and value.shape):
            return None
        try:
            number = reader.read(value, "a scalar")
        except CheckpointError:
            return None
        value = None if number is None else number.item()
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
            if key.count(".") > 1:
                continue  # of a part, such as a teacher
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
