"""The names in a file, read in every way that training code may have changed them."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from robustkit.checkpoint.metadata import rescaled
from robustkit.checkpoint.parametrizations import Folds, folded
from robustkit.checkpoint.selection import ALL, Selection
from robustkit.errors import BadFile
from robustkit.unpickling import Budget
from robustkit.unpickling.tensors import State

WRAPPERS = (
    "module.", "_orig_mod.", "model.", "net.", "network.", "_module.", "backbone.", "ema.",
    "ema_model.", "state_dict.",
)  # fmt: skip
"""prefixes that training code puts in front of a network's own names"""
MOST_WRAPPERS = 20
"""that are taken off, one after another"""
BOOKKEEPING = ("total_ops", "total_params")
"""counters that thop leaves in every layer"""
PAIRS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"))
"""names of a normalisation layer's two buffers"""
MOST_CHANNELS = 4
INSIDE = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""what FSDP, activation checkpointing and torch.compile put inside names; no module is called so"""


class Own(NamedTuple):
    """What normalises the input in a network itself."""

    name: str
    """of a mean, or the steps of a graph"""
    of_bytes: bool
    """whether it is of pixels of 0 to 255"""


@dataclass(frozen=True, slots=True)
class StateReading:
    """One way to read a file's names."""

    state: State
    prefix: str = ""
    """what was taken off the front"""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    asked: Selection = ALL
    """what was to be left out and renamed"""
    unmet: Selection = ALL
    """what was to be left out or renamed, and no name has met yet"""


def readings(state: State, budget: Budget, selection: Selection = ALL) -> list[StateReading]:
    """The names as they are, then with one wrapper after another taken off, outermost first.

    What is to be left out or renamed is so where it is met first. Each reading is followed by one
    with its parametrisations folded, where that changes something.

    Raises:
        BadFile: names nest without end, or two weights would have one name.
    """
    first = _without_bookkeeping(state)
    found = _chain(first, budget, selection)
    if (inside := _without_wrappers_inside(first, budget)) is not None:
        known = [reading.state.keys() for reading in found]
        others = _chain(inside, budget, selection)
        found += [reading for reading in others if reading.state.keys() not in known]
    return found


def _chain(first: StateReading, budget: Budget, selection: Selection) -> list[StateReading]:
    found: list[StateReading] = []
    folds: Folds = {}
    reading: StateReading | None = replace(first, asked=selection, unmet=selection)
    for _ in range(MOST_WRAPPERS):
        if reading is None:
            break
        budget.visit(len(reading.state))
        budget.copy(sum(map(len, reading.state)))
        reading = _selected(reading)
        found.append(reading)
        plain, kinds = folded(reading.state, folds)
        if kinds:
            note = f"folded into plain weights: {', '.join(kinds)}"
            found.append(replace(reading, state=plain, notes=(*reading.notes, note)))
        reading = _unwrapped(reading)
    return found


def _selected(reading: StateReading) -> StateReading:
    """The reading with what is left out and renamed among its names."""
    selection, names = reading.unmet, list(reading.state)
    if not selection.ignore and not selection.rename:
        return reading
    new = selection.edited(names)
    notes = reading.notes
    if left := [name for name in names if name not in new]:
        notes += (f"left out, as asked: {listed(left)}",)
    if changed := [f"{name} to {new[name]}" for name in new if new[name] != name]:
        notes += (f"renamed, as asked: {listed(changed)}",)
    state = {new[name]: value for name, value in reading.state.items() if name in new}
    return replace(reading, state=state, notes=notes, unmet=selection.without_met(names))


def _without_wrappers_inside(reading: StateReading, budget: Budget) -> StateReading | None:
    """The reading without what wrappers put inside names, wherever it stands; None if nothing.

    Raises:
        BadFile: two weights would have one name.
    """
    names = list(reading.state)
    budget.copy(sum(map(len, names)) * (len(INSIDE) + 1))
    taken = [mark for mark in INSIDE if any(mark in name for name in names)]
    for mark in taken:
        names = [name.replace(mark, "") for name in names]
    if parents := _parents_of_one(names, "module"):
        taken.append("module.")
        for parent in sorted(parents, key=len, reverse=True):
            front = f"{parent}module."
            names = [parent + n.removeprefix(front) if n.startswith(front) else n for n in names]
    if not taken:
        return None
    state = dict(zip(names, reading.state.values(), strict=True))
    if len(state) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadFile(f"two weights have the name {twice[:80]!r} without the wrappers' names in it")
    note = f"taken off inside names: {', '.join(taken)}"
    return replace(reading, state=state, notes=(*reading.notes, note))


def _parents_of_one(names: list[str], child: str) -> list[str]:
    """The parents below the top that have one child alone, and that of this name."""
    children: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts) - 1):
            children.setdefault(".".join(parts[:depth]) + ".", set()).add(parts[depth])
    return [parent for parent, found in children.items() if found == {child}]


def _without_bookkeeping(state: State) -> StateReading:
    gone = [k for k in state if k.rpartition(".")[2] in BOOKKEEPING or k.endswith("n_averaged")]
    kept = {key: value for key, value in state.items() if key not in gone}
    names = sorted({key.rpartition(".")[2] for key in gone})
    return StateReading(kept, notes=(f"ignored counters: {', '.join(names)}",) if gone else ())


def _unwrapped(reading: StateReading) -> StateReading | None:
    """The next reading: without a common prefix, copies, normalisation, or usual wrappers."""
    state, prefix = reading.state, reading.prefix
    tops = {key.partition(".")[0] for key in state}
    if len(tops) == 1 and all("." in key for key in state):
        top = next(iter(tops)) + "."
        return replace(reading, state=_cut(state, top), prefix=prefix + top)
    if {"model", "attacker"} <= tops:
        kept = {key: value for key, value in state.items() if not key.startswith("attacker.")}
        note = "ignored the attacker's copy of the weights"
        return replace(reading, state=kept, notes=(*reading.notes, note))
    if reading.mean is None and (normalised := _normalisation(reading)):
        return normalised
    for wrapper in WRAPPERS:
        if any(key.startswith(wrapper) for key in state):
            cut = _cut(state, wrapper)
            if len(cut) == len(state):
                return replace(reading, state=cut, prefix=prefix + wrapper)
    return None


def _cut(state: State, front: str) -> State:
    return {key.removeprefix(front): value for key, value in state.items()}


def _normalisation(reading: StateReading) -> StateReading | None:
    """The reading with its one normalisation layer taken out as mean and std."""
    found = list(islice(_pairs(reading.state), 2))
    if len(found) != 1 or len(reading.state) == 2:
        return None
    mean, std = (reading.state[key] for key in found[0])
    if mean.size != std.size or mean.size > 4 or not (std > 0).all():
        return None
    kept = {key: value for key, value in reading.state.items() if key not in found[0]}
    note = f"normalisation taken from {found[0][0]} and {found[0][1]}"
    return replace(
        reading,
        state=kept,
        mean=tuple(mean.flatten().tolist()),
        std=tuple(std.flatten().tolist()),
        notes=(*reading.notes, note),
    )


def _pairs(state: Collection[str]) -> Iterator[tuple[str, str]]:
    """The names of means and their stds that stand alone in their layers, or at the top."""
    ordered = sorted(state)
    for key in state:
        parent, dot, name = key.rpartition(".")
        for mean, std in PAIRS:
            other = parent + dot + std
            if name == mean and other in state and _stand_alone(parent + dot, ordered):
                yield key, other


def _stand_alone(layer: str, ordered: list[str]) -> bool:
    """Whether a layer has two names only, or is none."""
    third = bisect_left(ordered, layer) + 2
    return not layer or third >= len(ordered) or not ordered[third].startswith(layer)


def normalisation_in(
    sizes: Mapping[str, int], numbers: Callable[[str], Sequence[float]]
) -> Own | None:
    """A mean, of at most four channels, beside its std among a network's own weights.

    The first one, or the first of pixels of 0 to 255.

    Args:
        sizes: how many numbers each weight has, by name.
        numbers: gives a weight's, for a few of them; none, where they cannot be read.
    """
    found = None
    for pair in _pairs(sizes):
        if sizes[pair[0]] > MOST_CHANNELS:
            continue
        few = sizes[pair[1]] <= MOST_CHANNELS
        if few and are_of_bytes(*(numbers(name) for name in pair)):
            return Own(pair[0], of_bytes=True)
        found = found or Own(pair[0], of_bytes=False)
    return found


def are_of_bytes(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a network's own mean and std are of pixels of 0 to 255."""
    return bool(mean and std and rescaled(tuple(mean), tuple(std)))


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are in all."""
    shown = [name[:80] for name in names[:5]]
    return ", ".join(shown) + (f" … ({len(names)} in all)" if len(names) > 5 else "")
