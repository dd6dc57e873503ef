"""From named weights to a network: strict fit, recognition.

The networks of the registry are fitted by their layouts, without torch; others are built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustkit import models
from robustkit.checkpoint.fingerprints import alike
from robustkit.checkpoint.normalising import normalising_layer
from robustkit.checkpoint.proposals import propose
from robustkit.checkpoint.readings import Own, StateReading
from robustkit.errors import CheckpointError, InputError
from robustkit.models import Layout
from robustkit.unpickling.tensors import COUNTER, Array, State, is_real

if TYPE_CHECKING:
    import torch


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
    normalises: Own | None = None
    """what in it normalises its input, where the network was built and has such a layer"""


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


def guess(name: str) -> str:
    """What is said of an architecture that was recognised: what else the file may hold weights of.

    No file says what has no weights, so that a wrong guess is a wrong number and no error.
    """
    return (
        f"recognised as {name} by its keys and shapes alone; a network with another activation, "
        f"pooling or stride has the same: --model {name} says that it is this one"
    )


def _matches(expected: Layout, state: State, built: int = 10) -> bool:
    """Whether all names and shapes agree, for any number of classes; built for so many."""
    wrong = difference(expected, state)
    if wrong.missing or wrong.surplus:
        return False
    return not wrong.shapes or _classes(expected, state, wrong, built) is not None


def proposed(variants: Sequence[StateReading]) -> str:
    """What to leave out or rename so that one of the registry's networks fits, or ""."""
    for name, entry in models.MODELS.items():
        ends = f".{entry.key}"
        likely = any(key == entry.key or key.endswith(ends) for key in variants[0].state)
        if likely and (told := _proposed(_layout(name, 10), variants)):
            return f"as {name}: {told}"
    return ""


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
                f"{where}: its last layer has {in_file} classes, but --num-classes is {num_classes}"
            )
        classes = in_file or asked
        wrong = wrong if in_file is None else Difference([], [], [])
    if wrong.size:
        raise CheckpointError(f"{where}: {misfit(spec, expected, reading.state, wrong, variants)}")
    build = partial(models.build, spec, num_classes=classes, seed=0)
    module = None if spec in models.MODELS else build()
    layout = _layout(spec, classes) if module is None else models.layout_of(module)
    if (left := difference(layout, reading.state)).size:
        raise CheckpointError(f"{where}: {misfit(spec, layout, reading.state, left, variants)}")
    check_numbers(layout, reading.state, where)
    made = build if module is None else _copies(module, reading.state, where)
    return Fit(layout, made, reading, classes)


def _fit_own(
    spec: str, variants: Sequence[StateReading], num_classes: int | None, where: str
) -> Fit:
    """As `fit`, for a user's function, which decides on the number of classes itself.

    It may also return a network that has loaded the file itself, under names of its own.
    """
    module = models.build(spec, seed=0, checkpoint=where).float()
    expected, own = models.layout_of(module), normalising_layer(module)
    reading, wrong = closest(expected, variants)
    if wrong.size and (itself := _loaded_itself(module, spec, variants)) is not None:
        made = OwnNetwork.of(module, spec, where, itself.state)
        return Fit(expected, made, itself, num_classes, own)
    if wrong.size:
        message = f"{where}: {misfit(spec, expected, reading.state, wrong, variants)}"
        rows = {expected[key].shape[:1] for key in wrong.shapes}
        if wrong.size == len(wrong.shapes) and len(rows) == 1:
            (built,) = next(iter(rows)) or (0,)
            if in_file := _classes(expected, reading.state, wrong, built):
                message = (
                    f"{where}: its last layer has {in_file} classes, but {spec} builds {built}"
                )
        raise CheckpointError(message)
    check_numbers(expected, reading.state, where)
    made = OwnNetwork.of(module, spec, where, reading.state)
    return Fit(expected, made, reading, num_classes, own)


def _loaded_itself(
    module: "torch.nn.Module", spec: str, variants: Sequence[StateReading]
) -> StateReading | None:
    """The weights of a network that holds all of the file's, whatever it calls them, or None."""
    from robustkit.checkpoint.holding import differences  # torch

    if all(any(differences(module, reading.state)) for reading in variants):
        return None
    held = {
        name: value.detach().cpu().numpy()
        for name, value in module.state_dict().items()
        if hasattr(value, "detach")  # extra state, which stays the network's own, may be anything
    }
    name = models.parse_name(spec).name
    return StateReading(
        held, notes=(f"loaded by {name} itself, and checked to hold the file's weights",)
    )


def _copies(module: "torch.nn.Module", state: State, where: str) -> Callable[[], "torch.nn.Module"]:
    """What gives copies of a module that was built, and takes the weights."""
    from robustkit.checkpoint.adapter import filled, replica  # torch

    return partial(replica, filled(module, state, where))


@dataclass(frozen=True, slots=True, eq=False)
class OwnNetwork:
    """Gives copies of a network that a user's function made.

    A process that it is handed to calls the function again: the network's classes have no name by
    which another would find them.
    """

    spec: str
    """FILE.py:FUNCTION, wherever it is called from"""
    checkpoint: str
    """the file, likewise, for a function that takes it"""
    state: State
    copies: Callable[[], "torch.nn.Module"]

    @classmethod
    def of(cls, module: "torch.nn.Module", spec: str, where: str, state: State) -> "OwnNetwork":
        """Of a network that was built, and takes the weights."""
        path, _, name = spec.rpartition(":")
        own, checkpoint = f"{Path(path).absolute()}:{name}", str(Path(where).absolute())
        return cls(own, checkpoint, state, _copies(module, state, where))

    def __call__(self) -> "torch.nn.Module":
        """A copy."""
        return self.copies()

    def __reduce__(self) -> tuple[Callable[..., "OwnNetwork"], tuple[str, str, State]]:
        return _made_anew, (self.spec, self.checkpoint, self.state)


def _made_anew(spec: str, checkpoint: str, state: State) -> OwnNetwork:
    module = models.build(spec, seed=0, checkpoint=checkpoint).float()
    return OwnNetwork.of(module, spec, checkpoint, state)


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


def classes_in(spec: str, variants: Sequence[StateReading]) -> int | None:
    """How many classes the file's weights have, if they are an architecture's in all else."""
    built = 10
    expected = _layout(spec, built)
    reading, wrong = closest(expected, variants)
    if wrong.missing or wrong.surplus:
        return None
    return _classes(expected, reading.state, wrong, built) if wrong.shapes else built


def check_numbers(expected: Layout, state: State, where: str) -> None:
    """Nothing, if weights that fit are of the network's own kinds of numbers.

    Raises:
        CheckpointError: integers in the place of weights.
    """
    for key, numbers in state.items():
        if not key.endswith(COUNTER) and not same_numbers(numbers, expected[key].kind):
            raise CheckpointError(
                f"{where}: the weight {key!r} is {numbers.dtype}, but the network expects "
                f"{expected[key].kind}: it is quantised or scaled, and the file does not "
                "say by how much; save the original weights"
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


def misfit(
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
            ("unexpected", wrong.surplus),
            ("wrong shape", sizes),
        )
        if names
    ]
    known = [name for name in (*recognise(variants), *_alike(variants)) if name != spec]
    advice = f"it fits --model {known[0]}" if known else _proposed(expected, variants)
    advice = advice or "name the architecture that it was trained with"
    return f"does not fit {spec}: {'; '.join(parts)}; {advice}"


def _alike(variants: Sequence[StateReading]) -> list[str]:
    """Architectures of libraries whose names and shapes are the file's."""
    found = (alike((k, v.shape) for k, v in r.state.items()) for r in variants)
    return [name for names in found for name in names]


def _proposed(expected: Layout, variants: Sequence[StateReading]) -> str:
    """What to leave out or rename so that it fits; "" where nothing does."""
    rows = next((slot.shape[0] for slot in [*expected.values()][::-1] if slot.shape), 0)

    def fits(tried: Sequence[StateReading]) -> bool:
        return any(_matches(expected, reading.state, rows) for reading in tried)

    return propose(expected, variants, fits)


def _shape(slot: Array | models.Slot) -> str:
    return "×".join(map(str, slot.shape)) or "a single number"
