"""All sets of weights in a file: which one is meant, and which others fit the network as well.

Training code keeps averages of the weights beside the raw ones: under a key or a prefix of their
own, in the state of a callback, or as a bare list in the order of the network's parameters. None is
passed over in silence.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from os.path import commonprefix

import numpy as np

from robustkit.checkpoint import architecture
from robustkit.checkpoint.containers import (
    Found,
    as_weights,
    is_averaged,
    is_module,
    module_leaves,
    tensors,
)
from robustkit.checkpoint.readings import StateReading, readings
from robustkit.checkpoint.selection import ALL, Selection
from robustkit.errors import CheckpointError
from robustkit.models import Layout
from robustkit.unpickling import Budget, Placeholder, mapping, printable
from robustkit.unpickling.tensors import COUNTER, Array, State, TensorReader

DEEPEST = 6
"""keys on the way to a set of weights"""
READ = 16
"""sets that are tried on a network"""
DONORS = 4
"""likewise, to complete a set of parameters alone"""
SHOWN = 6
"""sets that a message names"""


class NoSuchSet(CheckpointError):
    """A file that holds no set of weights, or several, under a key."""


@dataclass(frozen=True, slots=True)
class WeightSets:
    """The sets of weights in a file by their dotted keys, not yet turned into tensors."""

    found: Mapping[str, Found]
    reader: TensorReader
    selection: Selection = ALL
    """what is left out and renamed in each"""

    def choose(self, key: str) -> str:
        """The full key of the set that a user names, by all of its key or the end of it.

        Raises:
            NoSuchSet: there is none, or there are several.
        """
        if key in self.found:
            return key
        ends = [known for known in self.found if known.endswith(f".{key}")]
        if len(ends) == 1:
            return ends[0]
        known = ends or sorted(self.found, key=lambda k: -len(self.found[k].leaves))
        listed = ", ".join([k[:80] or "(the file itself)" for k in known[:SHOWN]])
        asked = printable(key)[:80]
        problem = "several sets of weights" if ends else "no set of weights"
        raise NoSuchSet(
            f"{self.reader.where}: --weights {asked}: {problem} of that name; it has: "
            f"{listed}{' …' if len(known) > SHOWN else ''}"
        )

    def state(self, key: str) -> State:
        """A set's tensors under the names that it has.

        Raises:
            CheckpointError: as `tensors`.
        """
        return tensors(self.found[key], self.reader).state

    def readings(self, state: State) -> list[StateReading]:
        """A set's names, read in every way."""
        return readings(state, self.reader.budget, self.selection)

    def largest(self, least: int, count: int) -> Iterator[tuple[str, State]]:
        """The largest sets that can be read, of at least so many tensors; no more than `count`."""
        keys = [key for key, found in self.found.items() if len(found.leaves) >= least]
        for key in sorted(keys, key=lambda k: -len(self.found[k].leaves))[:count]:
            with suppress(CheckpointError):
                yield key, self.state(key)

    def others(self, layout: Layout, taken: State) -> list[str]:
        """Keys of the sets that fit a network, too, and have other numbers than those taken."""
        told: list[State] = [taken]
        keys = []
        for key, state in self.largest(len(_parameters(layout)), READ):
            variants = self.readings(state) if self.found[key].named else None
            fitted = fitted_state(layout, state, taken, variants)
            if fitted is not None and not any(_equal(fitted, known) for known in told):
                told.append(fitted)
                keys.append(key)
        return keys


def fit_weights(
    spec: str,
    sets: WeightSets,
    key: str,
    variants: Sequence[StateReading],
    num_classes: int | None,
    where: str,
) -> architecture.Fit:
    """The architecture with one of the file's sets of weights in it, as `architecture.fit`.

    A set of parameters alone is completed by another set of the file that fits.

    Raises:
        CheckpointError: it does not fit; the message names what differs, or the set that fits.
        InputError: the architecture cannot be built.
    """
    named = key not in sets.found or sets.found[key].named
    state = variants[0].state
    misfit = CheckpointError(f"{where}: {key}, a list of {len(state)} tensors, does not fit {spec}")
    if named:
        try:
            return architecture.fit(spec, variants, num_classes, where)
        except CheckpointError as error:
            misfit = error
    fitting: list[str] = []
    for other, raw in _donors(sets, key):
        try:
            fit = architecture.fit(spec, sets.readings(raw), num_classes, where)
        except CheckpointError:
            continue
        whole = fitted_state(fit.layout, state, fit.reading.state, variants if named else None)
        if whole is None:
            fitting.append(other)
            continue
        how = "holds parameters alone" if named else "is a list, matched by order and shape"
        note = f"{key} {how}; what else there is, such as running statistics, is from {other}"
        reading = replace(fit.reading, state=whole, notes=(*fit.reading.notes, note))
        architecture.check_numbers(fit.layout, whole, where)
        return fit._replace(reading=reading)
    if fitting:
        fits = f"{' and '.join(fitting)} {'fits' if len(fitting) == 1 else 'fit'}"
        raise CheckpointError(f"{misfit}; in the file --weights {fits}") from misfit
    raise misfit


def _donors(sets: WeightSets, key: str) -> Iterator[tuple[str, State]]:
    return ((other, raw) for other, raw in sets.largest(1, DONORS + 1) if other != key)


def recognise_weights(sets: WeightSets, key: str, variants: Sequence[StateReading]) -> list[str]:
    """The registry's names that a set of weights fits, if need be completed by another set."""
    if matching := architecture.recognise(variants):
        return matching
    for _, raw in _donors(sets, key):
        for name in architecture.recognise(sets.readings(raw)):
            with suppress(CheckpointError):
                fit_weights(name, sets, key, variants, None, sets.reader.where)
                matching.append(name)
    return list(dict.fromkeys(matching))


def find_weight_sets(root: object, reader: TensorReader, selection: Selection = ALL) -> WeightSets:
    """Every dictionary, list and pickled module of tensors in a file's tree, with its key.

    Raises:
        BadFile: there are more of them, or of what is shared among them, than training code writes.
    """
    sets: dict[str, Found] = {}
    # a pickle can refer to one part many times over: each is looked at once
    seen: set[int] = set()
    queue: deque[tuple[object, tuple[str, ...]]] = deque([(root, ())])
    while queue:
        node, path = queue.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for found in _at(node, path, reader):
            sets.setdefault(found.container, found)
        if not is_module(node) and len(path) < DEEPEST:
            queue += _further(node, path, reader)
    return WeightSets(sets, reader, selection)


def _further(
    node: object, path: tuple[str, ...], reader: TensorReader
) -> Iterator[tuple[object, tuple[str, ...]]]:
    """What may hold a set, in a node, with the keys that lead there."""
    inner: Iterable[tuple[object, object]] = ()
    if isinstance(node, list | tuple):
        reader.budget.visit(len(node) // 8)  # of plain numbers there may be millions
        inner = enumerate(node)
    elif entries := mapping(node):
        reader.budget.visit(len(entries))
        inner = entries.items()
    for key, value in inner:
        if isinstance(value, list | tuple | dict | Placeholder) and not reader.is_weight(value):
            yield value, (*path, reader.budget.name(key))


def _at(node: object, path: tuple[str, ...], reader: TensorReader) -> Iterator[Found]:
    """The sets that a node itself is."""
    container = ".".join(path)
    if is_module(node):
        found: Found | None = Found(container, module_leaves(node, reader.budget), {}, ())
    elif _is_of_optimiser(path):
        found = None
    elif isinstance(node, list | tuple):
        found = _as_list(node, container, reader)
    else:
        entries = mapping(node)
        found = as_weights(entries, path, reader) if entries is not None else None
    if found is not None:
        yield found
        yield from _groups(found, 3, reader.budget) if found.named else ()
    if isinstance(node, dict):
        yield from _columns(node, path, reader)


def _columns(
    entries: Mapping[object, object], path: tuple[str, ...], reader: TensorReader
) -> Iterator[Found]:
    """Averages that an optimiser keeps with each parameter, by its name or in their order."""
    first = mapping(next(iter(entries.values()), None)) or {}
    reader.budget.visit(len(first))
    for key in [k for k, value in first.items() if reader.is_weight(value) and _is_mean(k)]:
        reader.budget.visit(len(entries))
        inner = [(name, mapping(value) or {}) for name, value in entries.items()]
        leaves = {reader.budget.name(name): found[key] for name, found in inner if key in found}
        if len(leaves) == len(entries):
            named = all(isinstance(name, str) for name in entries)
            yield Found(".".join((*path, reader.budget.name(key))), leaves, {}, (), named=named)


def _is_mean(key: object) -> bool:
    return isinstance(key, str) and (is_averaged(key) or key == "ax")  # torch.optim.ASGD's


def _is_of_optimiser(path: tuple[str, ...]) -> bool:
    """Whether what stands there is an optimiser's: its moments have the weights' shapes, too."""
    return any("optim" in key.lower() for key in path) and not is_averaged(path[-1])


def _as_list(node: Sequence[object], container: str, reader: TensorReader) -> Found | None:
    """A list of tensors, named by their places."""
    if not node or not reader.is_weight(node[0]):
        return None
    reader.budget.visit(len(node))
    if not all(map(reader.is_weight, node)):
        return None
    return Found(container, {str(i): v for i, v in enumerate(node)}, {}, (), named=False)


def _groups(found: Found, depth: int, budget: Budget) -> Iterator[Found]:
    """Networks that share a dictionary, told apart where their names first differ."""
    if not depth or len(found.leaves) < 2:
        return
    budget.visit(len(found.leaves))
    front = commonprefix(list(found.leaves)).rpartition(".")[0]  # noqa: RUF071  no paths
    start = len(front) + 1 if front else 0
    tops: dict[str, dict[str, object]] = {}
    for key, leaf in found.leaves.items():
        top, dot, rest = key[start:].partition(".")
        if dot:
            tops.setdefault(top, {})[rest] = leaf
    for top, leaves in tops.items():
        if len(leaves) < len(found.leaves):
            container = ".".join(part for part in (found.container, front, top) if part)
            group = Found(container, leaves, {}, ())
            yield group
            yield from _groups(group, depth - 1, budget)


def fitted_state(
    layout: Layout, state: State, raw: State, variants: Sequence[StateReading] | None
) -> State | None:
    """A set of weights under a network's own names; None where it does not fit.

    Averages are often of the parameters alone: what the network has beside them, such as batch
    norm's statistics, is then that of the raw weights.

    Args:
        layout: of the network.
        state: the set, by name or by place.
        raw: a state dict that fits the network.
        variants: the set's names, read in every way; None where they are places.
    """
    parameters = _parameters(layout)
    if variants is None:
        return _by_place(layout, parameters, list(state.values()), raw)
    dotless = {key.replace(".", ""): key for key in parameters}
    if dotless.keys() <= state.keys() and len(state) <= len(dotless) + 2:  # decay, num_updates
        return _completed(layout, {key: state[name] for name, key in dotless.items()}, raw)
    reading, wrong = architecture.closest(layout, variants)
    if wrong.surplus or set(wrong.missing) & set(parameters):
        return None
    return _completed(layout, reading.state, raw)


def _parameters(layout: Layout) -> list[str]:
    return [name for name, slot in layout.items() if slot.parameter]


def _by_place(
    layout: Layout, parameters: Sequence[str], values: Sequence[Array], raw: State
) -> State | None:
    """A list of the parameters, or of everything in the state dict, in the network's order."""
    for names in (parameters, list(layout)):
        if len(names) == len(values):
            return _completed(layout, dict(zip(names, values, strict=True)), raw)
    return None


def _completed(layout: Layout, state: State, raw: State) -> State | None:
    """The state with what it lacks from the raw weights; None where a shape or type differs."""
    whole = {key: state.get(key, raw.get(key)) for key in layout}
    fits = all(
        value is None or (value.shape == layout[key].shape
                          and architecture.same_numbers(value, layout[key].kind))
        for key, value in whole.items()
    )  # fmt: skip
    return {k: v for k, v in whole.items() if v is not None} if fits else None


def _equal(a: State, b: State) -> bool:
    keys = [key for key in a if not key.endswith(COUNTER)]
    return all(key in b and np.array_equal(a[key], b[key]) for key in keys)
