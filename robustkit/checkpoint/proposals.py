"""Which names of a file to leave out or rename so that a network's weights are what is left.

A proposal is never applied. It is made only where trying it has shown that the network then fits,
and says what it would leave out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from robustkit.checkpoint.readings import StateReading, listed, readings
from robustkit.checkpoint.selection import ALL, Selection
from robustkit.errors import BadFile
from robustkit.models import Layout
from robustkit.unpickling import Budget
from robustkit.unpickling.tensors import COUNTER, State

DEPTH = 3
"""parts at the front of a name that may be a wrapper's"""
MOST_RENAMED = 4
"""beginnings"""
MOST_IGNORED = 6
"""patterns"""
READINGS = 4
"""of a file's names that are tried"""
KNOWN = {
    "loss": ("loss", "criterion", "objective", "arcface", "cosface"),
    "metric": ("metric", "acc", "accuracy", "auroc", "f1", "confusion", "precision", "recall"),
    "teacher": ("teacher", "student_ema", "momentum_encoder", "target_network"),
    "moving average": ("ema", "swa", "shadow"),
    "projection": ("projector", "projection", "predictor", "prototypes"),
}
"""words in the names of what training code keeps beside a network, by what it is"""


def propose(
    expected: Layout,
    variants: Sequence[StateReading],
    fits: Callable[[Sequence[StateReading]], bool],
) -> str:
    """The options that make a file fit, in a sentence; "" where none were found.

    Args:
        expected: the network's names and shapes.
        variants: the file's names, read in every way.
        fits: whether one of such readings fits.
    """
    first = variants[0]
    for reading in variants[:READINGS]:
        if (found := _for_names(expected, reading.state)) is None:
            continue
        # names that are left out may have hidden a wrapper, which then goes by itself
        for selection in dict.fromkeys((replace(found, rename=()), found)):
            try:
                tried = readings(first.state, Budget(), first.unmet.along(selection))
            except BadFile:
                continue
            if selection != ALL and fits(tried):
                return _told(selection, first)
    return ""


def propose_without(left: Sequence[str], names: Iterable[str], front: str = "") -> str:
    """The option that leaves out the only names which a network lacks, likewise.

    Args:
        left: these.
        names: all names of the file.
        front: what the names of the network's inner part begin with.
    """
    patterns = _patterns(left, set(names) - set(left), {"", front})
    return _without(Selection(ignore=tuple(patterns)), left) if patterns else ""


def _for_names(expected: Layout, state: State) -> Selection | None:
    """What is to be renamed so that all of a network's names are there, and left out else."""
    needed = {key for key in expected if not key.endswith(COUNTER)}
    pairs = _pairs(expected, state)
    taken: dict[str, str] = {}
    chosen: list[tuple[str, str]] = []
    while missing := needed - taken.keys():
        gains = {pair: len(missing & names.keys()) for pair, names in pairs.items()}
        best = max(gains, key=lambda pair: _rank(pair, gains[pair]), default=("", ""))
        if not gains.get(best) or len(chosen) == MOST_RENAMED:
            return None
        if any(_rivals(best, pair, missing, pairs) for pair in pairs):
            return None
        chosen.append(best)
        for new, old in pairs[best].items():
            taken.setdefault(new, old)
    kept = set(taken.values())
    fronts = {"", *(old for old, _ in chosen)}
    ignored = _patterns([name for name in state if name not in kept], kept, fronts)
    if ignored is None:
        return None
    return Selection(
        ignore=tuple(ignored), rename=tuple(f"{old}={new}" for old, new in chosen if old != new)
    )


def _rank(pair: tuple[str, str], gain: int) -> tuple[int, bool, bool, int]:
    """What is taken first: the most names, no average of others, the fewest changes."""
    old, new = pair
    return gain, not _kind(old), old == new, -len(old)


def _rivals(
    best: tuple[str, str],
    other: tuple[str, str],
    missing: set[str],
    pairs: Mapping[tuple[str, str], Mapping[str, str]],
) -> bool:
    """Whether another part of the file would give the same names, with nothing to choose by."""
    ours, theirs = pairs[best], pairs[other]
    same = missing & ours.keys()
    return (
        same <= theirs.keys()
        and not _kind(other[0])
        and all(ours[name] != theirs[name] for name in same)
    )


def _pairs(expected: Layout, state: State) -> Mapping[tuple[str, str], dict[str, str]]:
    """By what names begin with in the file and in the network: the names that are then the same."""
    ends: dict[str, list[str]] = {}
    for key in expected:
        for front in _fronts(key):
            ends.setdefault(key.removeprefix(front), []).append(front)
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for name, numbers in state.items():
        for old in _fronts(name):
            end = name.removeprefix(old)
            for new in ends.get(end, ()):
                # the number of classes may be another
                if expected[new + end].shape[1:] == numbers.shape[1:]:
                    pairs.setdefault((old, new), {})[new + end] = name
    return pairs


def _fronts(name: str) -> list[str]:
    """What a name may begin with: nothing, and up to so many of its parts."""
    parts = name.split(".")
    return [".".join(parts[:n]) + "." if n else "" for n in range(min(DEPTH + 1, len(parts)))]


def _patterns(left: Iterable[str], kept: set[str], wrappers: set[str]) -> list[str] | None:
    """The shortest patterns that leave out these names and none of the others.

    None: too many, or a part of what the network has more parts of, such as one more block.
    """
    used = {front for name in kept for front in _fronts(name)}
    found: dict[str, None] = {}
    for name in left:
        fronts = [*_fronts(name), name]
        at = next(i for i, front in enumerate(fronts) if front not in used)
        if fronts[at - 1] not in wrappers and not _kind(name):
            return None
        found[name if fronts[at] == name else f"{fronts[at]}*"] = None
    return None if len(found) > MOST_IGNORED else list(found)


def _told(found: Selection, first: StateReading) -> str:
    """The options, and what they leave out."""
    kept = found.edited(first.state)
    return _without(first.asked.along(found), [name for name in first.state if name not in kept])


def _without(chosen: Selection, gone: Sequence[str]) -> str:
    told = f"{chosen.options} makes it fit"
    if gone:
        kinds = sorted({kind for name in gone if (kind := _kind(name))})
        what = f" (of a {' and a '.join(kinds)})" if kinds else ""
        told += f", without {listed(gone)}{what}, if that is no part of the network"
    return told


def _kind(name: str) -> str:
    """What a name that is left out is of, by its words; "" if it is like no other."""
    words = set(name.lower().replace("_", ".").split(".")[:4])
    return next((kind for kind, known in KNOWN.items() if not words.isdisjoint(known)), "")
