"""Two methods at a level, and at all levels together: the one place where methods are contrasted.

Whoever asks, for two methods, for several or for a study's report, the same rows give the same
numbers: a family is one method against one other over all levels, and draws are seeded by the rows.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from robustkit.files import digest
from robustkit.results.replicates import Replicates, Right, differing
from robustkit.statistics import (
    Comparison,
    Contrast,
    Member,
    compare_images,
    compare_seeds,
    compare_unpaired,
    family,
    proportion,
)
from robustkit.statistics.comparison import listed


def contrast(a: Replicates, b: Replicates) -> Contrast | None:
    """A − b at one level; None: one is a single network, and the other several without its seed.

    Networks are paired by seed, else, where the seeds do not match, only by image. One network each
    is a pair, whatever their seeds.
    """
    paired = pair(a, b)
    if paired is None:
        single = 1 in (len(a.seeds), len(b.seeds))
        return None if single else compare_unpaired(a.right, b.right)
    left, right = (side.right for side in paired)
    if len(left) == 1:
        return compare_images(left[0], right[0])
    return compare_seeds(left, right, _rng(left, right))


def pair(a: Replicates, b: Replicates) -> tuple[Replicates, Replicates] | None:
    """Both with the seeds they share, in the same order; None where they do not match."""
    if len(a.seeds) == len(b.seeds) == 1:
        return a, b
    common = matched(a.seeds, b.seeds)
    return (a.of(common), b.of(common)) if common else None


def matched(a: Sequence[int | None], b: Sequence[int | None]) -> list[int]:
    """The seeds that pair networks of two methods; none where the seeds do not match.

    A single seed that is shared makes a pair only where there is no more to be had.
    """
    common = sorted({seed for seed in a if seed is not None} & {*b})
    return common if len(common) > 1 or 1 in (len(a), len(b)) else []


def _rng(a: Right, b: Right) -> np.random.Generator:
    """Seeded by the rows: they are all that a record on file and a report's evidence both have.

    Names, files and who asks would give one comparison several numbers.
    """
    rows = (np.packbits(side).tobytes() for side in (a, b))
    return np.random.default_rng(int(digest(f"contrast {a.shape}", *rows)[:16], 16))


def judge_levels(
    a: str,
    b: str,
    contrasts: Mapping[str, Contrast | str],
    *,
    delta: float | None,
    level: float = 0.95,
) -> tuple[Comparison, ...]:
    """One method against one other, all levels as one family.

    Args:
        a: name of the method.
        b: name of the other.
        contrasts: by level, or why there is none: it counts in the family all the same.
        delta: the difference that counts as none, as a share.
        level: of confidence, of all levels together.
    """
    members = [
        Member(a, b, where, None, one) if isinstance(one, str) else Member(a, b, where, one)
        for where, one in contrasts.items()
    ]
    return family(members, delta=delta, level=level)


def at_chance(a: Replicates, b: Replicates, classes: int) -> bool:
    """Whether neither side is better than guessing one of so many classes, as far as images tell.

    Judged by the networks that `contrast` takes. A difference between networks that guess, or that
    an attack leaves nothing of, says nothing of the methods. Wilson's interval is over images
    alone, so that seeds that differ a lot do not make chance of an accuracy that is not.
    """
    return classes > 1 and all(_lower(one.right) <= 1 / classes for one in pair(a, b) or (a, b))


def _lower(right: Right) -> float:
    images = right.shape[1]
    return proportion(round(float(right.mean()) * images), images).low


def classes_of(header: Mapping[str, Any]) -> int:
    """How many classes the images of a record have; 0 where that is not on record."""
    names = header["data"].get("classes")
    return len(names) if isinstance(names, list | tuple) else 0


# --- what is to be said of it ---------------------------------------------------------------------


def pairing_notes(
    a: tuple[str, Sequence[int | None]],
    b: tuple[str, Sequence[int | None]],
    whole: Collection[str] = (),
) -> Iterable[str]:
    """What is to be said of how the seeds of two methods, by name, pair their networks.

    Args:
        a: a method and its seeds.
        b: the other.
        whole: those of both whose accuracies are of all their networks, paired or not.
    """
    common = matched(a[1], b[1])
    if len(a[1]) == len(b[1]) == 1:
        # whatever their seeds, which need not be known
        yield _single(a[0], b[0], "one network each")
        return
    if not common:
        yield (
            f"Seeds of {a[0]} and {b[0]} are not matched (or not recorded), so that networks "
            "were paired by image alone; the same seeds on both sides would usually show more."
        )
        return
    if len(common) == 1:
        yield _single(a[0], b[0], f"one pair of networks, seed {common[0]}")
    for (name, seeds), (other, _) in ((a, b), (b, a)):
        if left := [seed for seed in seeds if seed not in common]:
            of = f" from the difference to {other}, not from the accuracies," * (name in whole)
            yield f"{name}: omitted{of} for lack of a partner: seeds {_listed(left)}."


def unlike_note(method: str, checkpoints: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """That networks which count as seeds of a method differ in more, by their records' headers."""
    if unlike := differing(checkpoints):
        yield (
            f"Networks of {method} differ in {listed(unlike)}, not only in their seeds; "
            "what is told over seeds includes what that changes."
        )


def precision_note(precisions: Iterable[str]) -> Iterable[str]:
    """That attacks searched in several precisions; nothing for one."""
    found = sorted(set(precisions))
    if len(found) > 1:
        yield f"Not all attacks searched in the same precision: {listed(found)}."


def _single(a: str, b: str, compared: str) -> str:
    return (
        f"{a} and {b}: {compared}. The intervals do not include what another training would "
        "change; a verdict holds for these networks, not for how they were made."
    )


def _listed(seeds: Iterable[int | None]) -> str:
    return ", ".join("unknown" if seed is None else str(seed) for seed in seeds)


def several_note(others: int, baseline: str, level: float = 0.95) -> Iterable[str]:
    """What it costs to look at several methods; nothing for one."""
    if others < 2:
        return
    together = max(0.0, 1 - others * (1 - level))
    all_ = "both" if others == 2 else f"all {others}"
    yield (
        f"Each method's comparison with {baseline} is a family of its own: its intervals hold "
        f"together, over all its levels, with {100 * level:.6g} % confidence. Those of {all_} "
        f"methods hold together with at least {100 * together:.6g} %; to find the best of many "
        "methods, rank them over several data sets (robustkit rank)."
    )
