"""All sets of weights in a file: which one is meant, and which others fit the network as well.

Training code keeps averages of the weights beside the raw ones: under a key or a prefix of their
own, in the state of a callback, or as a bare list in the order of the network's parameters. None is
passed over in silence.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os.path import commonprefix

import torch

from robustkit.checkpoint import architecture
from robustkit.checkpoint.containers import (
    Found,
    as_weights,
    is_averaged,
    is_weight,
    module_leaves,
    tensors,
)
from robustkit.checkpoint.parametrizations import State
from robustkit.errors import CheckpointError
from robustkit.unpickling import mapping, printable

DEEPEST = 6
"""keys on the way to a set of weights"""
VISITS = 20_000
"""nodes of a file's tree that are looked at"""
READ = 16
"""sets that are tried on a network"""
DONORS = 4
"""likewise, to complete a set of parameters alone"""
SHOWN = 6
"""sets that a message names"""


@dataclass(frozen=True, slots=True)
class WeightSets:
    """The sets of weights in a file by their dotted keys, not yet turned into tensors."""

    found: Mapping[str, Found] = field(default_factory=dict)
    where: str = ""
    file_size: int = 0

    def choose(self, key: str) -> str:
        """The full key of the set that a user names, by all of its key or the end of it.

        Raises:
            CheckpointError: there is none, or there are several.
        """
        if key in self.found:
            return key
        ends = [known for known in self.found if known.endswith(f".{key}")]
        if len(ends) == 1:
            return ends[0]
        known = ends or sorted(self.found, key=lambda k: -len(self.found[k].leaves))
        listed = ", ".join([k or "(the file itself)" for k in known[:SHOWN]])
        problem = "several sets of weights" if ends else "no set of weights"
        raise CheckpointError(
            f"{self.where}: --weights {printable(key)[:80]}: {problem} of that name; it has: "
            f"{listed}{' …' if len(known) > SHOWN else ''}"
        )

    def state(self, key: str) -> State:
        """A set's tensors under the names that it has.

        Raises:
            CheckpointError: as `tensors`.
        """
        return tensors(self.found[key], self.where, self.file_size).state

    def largest(self, least: int, count: int) -> Iterator[tuple[str, State]]:
        """The largest sets that can be read, of at least so many tensors; no more than `count`."""
        keys = [key for key, found in self.found.items() if len(found.leaves) >= least]
        for key in sorted(keys, key=lambda k: -len(self.found[k].leaves))[:count]:
            with suppress(CheckpointError):
                yield key, self.state(key)

    def others(self, module: torch.nn.Module, taken: State) -> list[str]:
        """Keys of the sets that fit a network, too, and have other numbers than those taken."""
        told: list[State] = [taken]
        keys = []
        for key, state in self.largest(len(list(module.parameters())), READ):
            fitted = fitted_state(module, state, taken, named=self.found[key].named)
            if fitted is not None and not any(_equal(fitted, known) for known in told):
                told.append(fitted)
                keys.append(key)
        return keys


def fit_weights(
    spec: str, sets: WeightSets, key: str, state: State, num_classes: int | None, where: str
) -> architecture.Fit:
    """The architecture with one of the file's sets of weights in it, as `architecture.fit`.

    A set of parameters alone is completed by another set of the file that fits.

    Raises:
        CheckpointError: it does not fit; the message names what differs, or the set that fits.
        InputError: the architecture cannot be built.
    """
    named = key not in sets.found or sets.found[key].named
    misfit = CheckpointError(f"{where}: {key}, a list of {len(state)} tensors, does not fit {spec}")
    if named:
        try:
            return architecture.fit(spec, state, num_classes, where)
        except CheckpointError as error:
            misfit = error
    for other, raw in _donors(sets, key):
        try:
            fit = architecture.fit(spec, raw, num_classes, where)
        except CheckpointError:
            continue
        whole = fitted_state(fit.module, state, fit.reading.state, named=named)
        if whole is None:
            raise CheckpointError(f"{misfit}; in the file --weights {other} fits") from misfit
        how = f"{key}: its names" if named else f"{key}: a list, matched by order and shape"
        note = f"{how}; what it lacks, such as running statistics, is from {other}"
        reading = replace(fit.reading, state=whole, notes=(*fit.reading.notes, note))
        return fit._replace(module=architecture.filled(fit.module, whole, where), reading=reading)
    raise misfit


def _donors(sets: WeightSets, key: str) -> Iterator[tuple[str, State]]:
    return ((other, raw) for other, raw in sets.largest(1, DONORS + 1) if other != key)


def recognise_weights(sets: WeightSets, key: str, state: State) -> list[str]:
    """The registry's names that a set of weights fits, if need be completed by another set."""
    if matching := architecture.recognise(state):
        return matching
    for _, raw in _donors(sets, key):
        for name in architecture.recognise(raw):
            with suppress(CheckpointError):
                fit_weights(name, sets, key, state, None, sets.where)
                matching.append(name)
    return list(dict.fromkeys(matching))


def find_weight_sets(root: object, where: str, file_size: int) -> WeightSets:
    """Every dictionary, list and pickled module of tensors in a file's tree, with its key."""
    sets: dict[str, Found] = {}
    # a pickle can refer to one part many times over: each is looked at once
    seen: set[int] = set()
    queue: list[tuple[object, tuple[str, ...]]] = [(root, ())]
    while queue and len(seen) < VISITS:
        node, path = queue.pop(0)
        if id(node) in seen or len(path) > DEEPEST:
            continue
        seen.add(id(node))
        for found in _at(node, path):
            sets.setdefault(found.container, found)
        if module_leaves(node) is None:
            queue += [(v, (*path, str(k))) for k, v in _children(node) if not is_weight(v)]
    return WeightSets(sets, where, file_size)


def _children(node: object) -> Sequence[tuple[object, object]]:
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    return list((mapping(node) or {}).items())


def _at(node: object, path: tuple[str, ...]) -> Iterator[Found]:
    """The sets that a node itself is."""
    container = printable(".".join(path))
    if (leaves := module_leaves(node)) is not None:
        found: Found | None = Found(container, leaves, {}, ())
    elif _is_of_optimiser(path):
        found = None
    elif isinstance(node, list | tuple):
        found = _as_list(node, container)
    else:
        entries = mapping(node)
        found = as_weights(entries, path) if entries is not None else None
    if found is not None:
        yield found
        yield from _groups(found, 3) if found.named else ()


def _is_of_optimiser(path: tuple[str, ...]) -> bool:
    """Whether what stands there is an optimiser's: its moments have the weights' shapes, too."""
    return any("optim" in key.lower() for key in path) and not is_averaged(path[-1])


def _as_list(node: Sequence[object], container: str) -> Found | None:
    """A list of tensors, named by their places."""
    if not node or not all(map(is_weight, node)):
        return None
    return Found(container, {str(i): v for i, v in enumerate(node)}, {}, (), named=False)


def _groups(found: Found, depth: int) -> Iterator[Found]:
    """Networks that share a dictionary, told apart where their names first differ."""
    parents = [key.split(".")[:-1] for key in found.leaves]
    front = ".".join(commonprefix(parents))  # noqa: RUF071  no paths
    start = len(front) + 1 if front else 0
    tops = dict.fromkeys(
        key[start:].partition(".")[0] for key in found.leaves if "." in key[start:]
    )
    for top in tops if depth and len(found.leaves) > 1 else ():
        whole = f"{front}.{top}." if front else f"{top}."
        leaves = {k[len(whole) :]: v for k, v in found.leaves.items() if k.startswith(whole)}
        if len(leaves) < len(found.leaves):
            container = ".".join(part for part in (found.container, front, top) if part)
            group = Found(container, leaves, {}, ())
            yield group
            yield from _groups(group, depth - 1)


def fitted_state(
    module: torch.nn.Module, state: State, raw: State, *, named: bool = True
) -> State | None:
    """A set of weights under a network's own names; None where it does not fit.

    Averages are often of the parameters alone: what the network has beside them, such as batch
    norm's statistics, is then that of the raw weights.

    Args:
        module: the network.
        state: the set, by name; by place where it is not `named`.
        raw: a state dict that fits the network.
        named: whether its names are those of the network, with or without their dots.
    """
    expected = module.state_dict()
    parameters = dict(module.named_parameters())
    if not named:
        return _by_place(expected, list(parameters), list(state.values()), raw)
    dotless = {key.replace(".", ""): key for key in parameters}
    if dotless.keys() <= state.keys() and len(state) <= len(dotless) + 2:  # decay, num_updates
        return _completed(expected, {key: state[name] for name, key in dotless.items()}, raw)
    reading, wrong = architecture.closest(expected, state)
    if wrong.surplus or set(wrong.missing) & parameters.keys():
        return None
    return _completed(expected, reading.state, raw)


def _by_place(
    expected: Mapping[str, torch.Tensor],
    parameters: Sequence[str],
    values: Sequence[torch.Tensor],
    raw: State,
) -> State | None:
    """A list of the parameters, or of everything in the state dict, in the network's order."""
    for names in (parameters, list(expected)):
        if len(names) == len(values):
            return _completed(expected, dict(zip(names, values, strict=True)), raw)
    return None


def _completed(expected: Mapping[str, torch.Tensor], state: State, raw: State) -> State | None:
    """The state with what it lacks from the raw weights; None where a shape or type differs."""
    whole = {key: state.get(key, raw.get(key)) for key in expected}
    fits = all(
        value is None or (value.shape == expected[key].shape
                          and architecture.same_numbers(value, expected[key].dtype))
        for key, value in whole.items()
    )  # fmt: skip
    return {k: v for k, v in whole.items() if v is not None} if fits else None


def _equal(a: State, b: State) -> bool:
    keys = [key for key in a if not key.endswith(architecture.COUNTER)]
    return all(key in b and torch.equal(a[key], b[key]) for key in keys)
