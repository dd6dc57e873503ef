"""A study's file: the question, the claims and every choice, fixed before anything is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from robustkit.files import build, find, read_text, read_toml
from robustkit.parsing import parse_toml
from robustkit.spec.checks import checked
from robustkit.spec.study import (
    FIGURES,
    TABLES,
    Analysis,
    Claim,
    ExternalSpec,
    Figure,
    Method,
    Statistics,
    Study,
    Table,
    TestSpec,
    TrainingSpec,
    Tuning,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _StudyFile:
    """The top level of a study's TOML."""

    title: str
    question: str
    test: dict  # type: ignore[type-arg]
    analysis: tuple[dict, ...]  # type: ignore[type-arg]
    baseline: str = ""
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = FIGURES
    tables: tuple[Table, ...] = TABLES
    train: dict | None = None  # type: ignore[type-arg]
    checkpoints: dict | None = None  # type: ignore[type-arg]
    tuning: dict | None = None  # type: ignore[type-arg]
    statistics: dict | None = None  # type: ignore[type-arg]
    method: tuple[dict, ...] = ()  # type: ignore[type-arg]
    claim: tuple[dict, ...] = ()  # type: ignore[type-arg]


def load_study(name: str, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Study:
    """A study by name or path.

    Args:
        name: a name on the shelf `reports/`, or a path.
        changes: keys to change by table: {"test": {"data": "mnist"}}; "" is the top level.

    Raises:
        InputError: no such file, or a key, type or number in it makes no sense.
    """
    path = find("reports", name)
    read_toml(path)  # for its message, which has line and column
    return study_of_text(read_text(path), path.stem, str(path), changes or {})


def study_of_text(
    text: str, name: str, where: str, changes: Mapping[str, Mapping[str, Any]]
) -> Study:
    """A study from its file's text; see `load_study`."""
    # in the order in which a study's folder keeps them
    kept = {section: dict(sorted(values.items())) for section, values in sorted(changes.items())}
    return replace(parse_study(merged_table(text, changes), name, where), text=text, changes=kept)


def merged_table(text: str, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table of a study's file, with changes; see `load_study`."""
    table = parse_toml(text)
    for section, values in changes.items():
        if not section:
            table |= values
        elif isinstance(old := table.get(section, {}), dict):  # what else it may be, is refused
            table[section] = {**old, **values}
    return table


def parse_study(table: Mapping[str, Any], name: str, where: str) -> Study:
    """A study from the table of its file.

    Raises:
        InputError: a key, type or number makes no sense; the message names file and key.
    """
    file = build(_StudyFile, table, where)
    study = Study(
        name,
        file.title,
        file.question,
        file.baseline,
        build(TestSpec, file.test, f"{where}: [test]"),
        _each(Analysis, file.analysis, f"{where}: [[analysis]]"),
        _each(Method, file.method, f"{where}: [[method]]"),
        None if file.train is None else build(TrainingSpec, file.train, f"{where}: [train]"),
        None
        if file.checkpoints is None
        else build(ExternalSpec, file.checkpoints, f"{where}: [checkpoints]"),
        None if file.tuning is None else _tuning(file.tuning, f"{where}: [tuning]"),
        build(Statistics, file.statistics or {}, f"{where}: [statistics]"),
        _each(Claim, file.claim, f"{where}: [[claim]]"),
        file.notes,
        file.figures,
        file.tables,
        where=where,
    )
    return checked(study, where)


def _tuning(table: Mapping[str, Any], where: str) -> Tuning:
    """A single rung of halving may stand there as a table, and what comes last as true or false."""
    rungs, last = table.get("halving", []), table.get("test_last", "no")
    rungs = [rungs] if isinstance(rungs, dict) else rungs
    last = ("no", "all seeds")[last] if isinstance(last, bool) else last
    return build(Tuning, {**table, "halving": rungs, "test_last": last}, where)


def _each(cls: type[T], tables: Sequence[Mapping[str, Any]], where: str) -> tuple[T, ...]:
    return tuple(build(cls, table, f"{where} {i}") for i, table in enumerate(tables, 1))
