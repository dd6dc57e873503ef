"""Accuracy on corrupted images, as a leaderboard sets it beside that on others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from robustkit.corruption.published import arranged
from robustkit.files import canonical
from robustkit.results.records import Record
from robustkit.statistics import Estimate, proportion


class CorruptedLevel(NamedTuple):
    """A corruption at a severity, as one network was shown it."""

    corruption: str
    severity: int | None
    accuracy: Estimate
    data: str
    """name of the set of corrupted images"""
    transform: str
    """how its images were prepared"""
    images: str
    """their digest"""


def is_corrupted(header: Mapping[str, Any]) -> bool:
    """Whether a record is of corrupted images."""
    return bool((header["data"].get("source") or {}).get("corruption"))


def corrupted_levels(records: Iterable[Record]) -> dict[str, dict[str, CorruptedLevel]]:
    """Levels of corruption by network and digest of the corrupted images."""
    found: dict[str, dict[str, CorruptedLevel]] = {}
    for record in records:
        source, right = record.header["data"]["source"], record.rows.right()
        share = proportion(int(right.sum()), len(right))
        data = record.header["data"]
        how = canonical(data["transform"]), data["digest"]
        level = CorruptedLevel(source["corruption"], source["severity"], share, data["name"], *how)
        found.setdefault(record.identity, {})[data["digest"]] = level
    return found


def one_set(levels: Sequence[CorruptedLevel]) -> list[CorruptedLevel]:
    """Those of one set of images, prepared in one way: of most levels, then of most images."""
    sets: dict[tuple[str, str], list[CorruptedLevel]] = {}
    # of a level twice that of more images counts
    for level in sorted(levels, key=lambda one: (one.accuracy.n, one.images)):
        sets.setdefault((level.data, level.transform), []).append(level)
    return max(
        sets.values(),
        key=lambda own: (len(own), sum(one.accuracy.n for one in own), own[0][3:5]),
        default=[],
    )


def mean_accuracy(levels: Iterable[CorruptedLevel]) -> tuple[float | None, int]:
    """Mean accuracy as the benchmarks define it, and over how many levels."""
    rows: dict[str, dict[int | None, Estimate]] = {}
    for level in levels:
        rows.setdefault(level.corruption, {})[level.severity] = level.accuracy
    table = arranged(rows)
    error, counted = table.mean_error, sum(len(table.rows[name]) for name in table.counted)
    return None if error is None else 1 - error, counted


def shown_to_all(
    records: Iterable[Record], corrupted: Mapping[str, Mapping[str, CorruptedLevel]]
) -> frozenset[str]:
    """The corrupted images that were shown to each network that was shown any."""
    shown = [set(corrupted[r.identity]) for r in records if r.identity in corrupted]
    return frozenset(set.intersection(*shown)) if shown else frozenset()
