"""From named weights to a network: prefixes, normalisation layers, strict fit, recognition.

The networks of the registry are fitted by their layouts, without torch; others are built.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustkit import models
from robustkit.checkpoint.metadata import rescaled
from robustkit.checkpoint.parametrizations import Folds, folded
from robustkit.errors import CheckpointError, InputError
from robustkit.models import Layout
from robustkit.unpickling import Budget
from robustkit.unpickling.tensors import COUNTER, Array, State, is_real

if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True, slots=True)
class StateReading:
    """One way to read a file's names."""

    state: State
    prefix: str = ""
    """what was taken off the front"""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


class Difference(NamedTuple):
    """How a state differs from what an architecture expects."""

    missing: list[str]
    surplus: list[str]
    shapes: list[str]

    @property
    def size(self) -> int:
        """How many names are wrong in some way."""
        return sum(map(len, self))


class Fit(NamedTuple):
    """A network that a file's weights fit."""

    layout: Layout
    build: Callable[[], "torch.nn.Module"]
    """gives the network, with whatever weights"""
    reading: StateReading
    num_classes: int | None


def readings(state: State, budget: Budget) -> list[StateReading]:
    """The names as they are, then with one wrapper after another taken off, outermost first.

    Each reading is followed by one with its parametrisations folded, where that changes something.

    Raises:
        BadFile: names nest without end.
    """
    found: list[StateReading] = []
    folds: Folds = {}
    reading: StateReading | None = _without_bookkeeping(state)
    for _ in range(MOST_WRAPPERS):
        if reading is None:
            break
        budget.visit(len(reading.state))
        budget.copy(sum(map(len, reading.state)))
        found.append(reading)
        plain, kinds = folded(reading.state, folds)
        if kinds:
            note = f"folded into plain weights: {', '.join(kinds)}"
            found.append(replace(reading, state=plain, notes=(*reading.notes, note)))
        reading = _unwrapped(reading)
    return found


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


def _pairs(state: State) -> Iterator[tuple[str, str]]:
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


def carries_normalisation(state: State) -> bool:
    """Whether a mean and std of at most four channels are among a network's own weights."""
    return any(state[mean].size <= 4 for mean, _ in _pairs(state))


def unscaled_normalisation(state: State) -> str:
    """The name of a mean among a network's own weights that is of pixels of 0 to 255, or ""."""
    for pair in _pairs(state):
        if state[pair[0]].size <= 4:
            mean, std = (tuple(map(float, state[name].flatten().tolist())) for name in pair)
            if mean and std and rescaled(mean, std):
                return pair[0]
    return ""


def difference(expected: Layout, state: State) -> Difference:
    """Names missing, left over, and of another shape. Batch norm's counters may be missing."""
    return Difference(
        [k for k in expected if k not in state and not k.endswith(COUNTER)],
        [k for k in state if k not in expected],
        [k for k in expected if k in state and expected[k].shape != state[k].shape],
    )


def recognise(variants: Sequence[StateReading]) -> list[str]:
    """The registry's names whose keys and shapes all match, for any number of classes."""
    matching = []
    for name, entry in models.MODELS.items():
        # building an architecture may import a library, which takes seconds
        candidates = [reading.state for reading in variants if entry.key in reading.state]
        expected: Layout = _layout(name, 10) if candidates else {}
        if any(_matches(expected, candidate) for candidate in candidates):
            matching.append(name)
    return matching


def _matches(expected: Layout, state: State) -> bool:
    """Whether all names and shapes agree, for any number of classes; built for 10."""
    wrong = difference(expected, state)
    if wrong.missing or wrong.surplus:
        return False
    return not wrong.shapes or _classes(expected, state, wrong, 10) is not None


def fit(spec: str, variants: Sequence[StateReading], num_classes: int | None, where: str) -> Fit:
    """The architecture named `spec` with the weights in it, all of them and no others.

    `variants` are the readings of the file.

    Raises:
        CheckpointError: it does not fit; the message names what differs.
        InputError: the architecture cannot be built.
    """
    if models.names_code(spec):
        return _fit_own(spec, variants, num_classes, where)
    asked = num_classes or 10
    expected = _layout(spec, asked)
    reading, wrong = closest(expected, variants)
    classes = asked
    if wrong.shapes and not wrong.missing and not wrong.surplus:
        in_file = _classes(expected, reading.state, wrong, asked)
        if in_file and num_classes is not None:
            raise CheckpointError(
                f"{where}: its last layer has {in_file} classes, but {num_classes} were asked for"
            )
        classes = in_file or asked
        wrong = wrong if in_file is None else Difference([], [], [])
    if wrong.size:
        raise CheckpointError(f"{where}: {_misfit(spec, expected, reading.state, wrong, variants)}")
    build = partial(models.build, spec, num_classes=classes, seed=0)
    module = None if spec in models.MODELS else build()
    layout = _layout(spec, classes) if module is None else models.layout_of(module)
    if (left := difference(layout, reading.state)).size:
        raise CheckpointError(f"{where}: {_misfit(spec, layout, reading.state, left, variants)}")
    check_numbers(layout, reading.state, where)
    made = build if module is None else _copies(module, reading.state)
    return Fit(layout, made, reading, classes)


def _fit_own(
    spec: str, variants: Sequence[StateReading], num_classes: int | None, where: str
) -> Fit:
    """As `fit`, for a user's function, which decides on the number of classes itself."""
    module = models.build(spec, seed=0).float()
    expected = models.layout_of(module)
    reading, wrong = closest(expected, variants)
    if wrong.size:
        message = f"{where}: {_misfit(spec, expected, reading.state, wrong, variants)}"
        rows = {expected[key].shape[:1] for key in wrong.shapes}
        if wrong.size == len(wrong.shapes) and len(rows) == 1:
            (built,) = next(iter(rows)) or (0,)
            if in_file := _classes(expected, reading.state, wrong, built):
                message = (
                    f"{where}: its last layer has {in_file} classes, but {spec} builds {built}"
                )
        raise CheckpointError(message)
    check_numbers(expected, reading.state, where)
    return Fit(expected, _copies(module, reading.state), reading, num_classes)


def _copies(module: "torch.nn.Module", state: State) -> Callable[[], "torch.nn.Module"]:
    """What gives copies of a module that was built, and takes the weights."""
    from robustkit.checkpoint.adapter import filled, replica  # torch

    return partial(replica, filled(module, state))


def _layout(spec: str, num_classes: int) -> Layout:
    """An architecture's names and shapes, without memory for its weights where possible."""
    if (known := models.layout(spec, num_classes)) is not None:
        return known
    import torch

    try:
        with torch.device("meta"):
            return models.layout_of(models.build(spec, num_classes=num_classes, seed=0))
    except InputError:
        raise
    except Exception:  # some constructors compute with their weights, which meta tensors refuse
        return models.layout_of(models.build(spec, num_classes=num_classes, seed=0))


def closest(expected: Layout, variants: Sequence[StateReading]) -> tuple[StateReading, Difference]:
    """The reading that fits, or else the one with the fewest wrong names; of equals the first."""
    both = [(reading, difference(expected, reading.state)) for reading in variants]
    return min(both, key=lambda pair: (len(pair[1].missing) + len(pair[1].surplus), pair[1].size))


def _classes(expected: Layout, state: State, wrong: Difference, built: int) -> int | None:
    """The file's number of classes, if the wrong shapes differ in nothing else."""
    counts = set()
    for key in wrong.shapes:
        ours, theirs = expected[key].shape, state[key].shape
        if not ours or not theirs or ours[0] != built or ours[1:] != theirs[1:]:
            return None
        counts.add(theirs[0])
    return counts.pop() if len(counts) == 1 and 0 not in counts else None


def check_numbers(expected: Layout, state: State, where: str) -> None:
    """Nothing, if weights that fit are of the network's own kinds of numbers.

    Raises:
        CheckpointError: integers in the place of weights.
    """
    for key, numbers in state.items():
        if not key.endswith(COUNTER) and not same_numbers(numbers, expected[key].kind):
            raise CheckpointError(
                f"{where}: the weight {key!r} holds {numbers.dtype} where the network has "
                f"{expected[key].kind}: quantised or scaled, and nothing in the file says by how "
                "much; save the weights as the network had them"
            )


def same_numbers(numbers: Array, wanted: str) -> bool:
    """Whether numbers can be loaded as another type and mean the same.

    torch copies whatever it is given. An integer is never a weight, but that weight times a scale
    that is not known; an index may have been averaged, or saved, as a floating-point number.
    """
    if is_real(wanted):
        return numbers.dtype.kind == "f"
    if numbers.dtype == wanted:
        return True
    with np.errstate(invalid="ignore"):
        return np.array_equal(numbers.astype(wanted).astype(numbers.dtype), numbers)


def _misfit(
    spec: str,
    expected: Layout,
    state: State,
    wrong: Difference,
    variants: Sequence[StateReading],
) -> str:
    """What differs, and what would fit."""
    sizes = [
        f"{key[:80]} ({_shape(state[key])} in the file, {_shape(expected[key])} in the model)"
        for key in wrong.shapes[:3]
    ]
    sizes += wrong.shapes[3:]
    parts = [
        f"{word}: {', '.join(n[:160] for n in names[:3])}"
        f"{f' … ({len(names)} in all)' if len(names) > 3 else ''}"
        for word, names in (
            ("missing", wrong.missing),
            ("left over", wrong.surplus),
            ("of another shape", sizes),
        )
        if names
    ]
    known = [name for name in recognise(variants) if name != spec]
    advice = f"it fits --model {known[0]}" if known else "give the architecture it was trained with"
    return f"does not fit {spec}: {'; '.join(parts)}; {advice}"


def _shape(slot: Array | models.Slot) -> str:
    return "×".join(map(str, slot.shape)) or "a single number"
