"""Networks made elsewhere: found by a pattern, told apart by the fields in their names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import iglob
from pathlib import Path
from typing import Any

from robustkit.errors import InputError
from robustkit.files import file_digest, fraction
from robustkit.study.cells import Cell, Context, Plan, Test, Wanted, evaluation_of
from robustkit.study.spec import TRAINED, Analysis, Brought, Study

FIELD = re.compile(r"\{(\w+)\}")
PLACES = {"label_noise": "0", "data_fraction": "1"}
"""what a network was trained on where nothing says otherwise"""


@dataclass(frozen=True, slots=True)
class Network:
    """A checkpoint and what its name says."""

    path: Path
    fields: Mapping[str, str]


@dataclass(slots=True)
class Gatherer:
    """Makes the plan of a study whose networks were made elsewhere."""

    study: Study
    brought: Brought
    tested: Callable[[int | None], str]
    """digest of so many test images"""
    folder: Path = Path()
    """what a relative pattern begins at"""
    networks: list[Network] = field(init=False)
    digests: dict[Path, str] = field(init=False, default_factory=dict)
    """of the networks' files"""

    def __post_init__(self) -> None:
        self.networks = matches(self.brought.pattern, self.folder)

    def plan(self, held_out: Mapping[str, float]) -> Plan:
        """The plan; nothing has to be chosen."""
        cells: dict[str, Cell] = {}
        tests: dict[str, Test] = {}
        wanted: list[Wanted] = []
        for analysis in self.study.analyses:
            if analysis.factor == "cost":
                continue
            taken: dict[tuple[str, str, int], Path] = {}
            for network in self._of(analysis):
                cell = self._cell(network)
                test = evaluation_of(self.study, analysis, cell.key, self.tested)
                level = "" if analysis.factor == "epsilon" else network.fields[analysis.factor]
                place = (cell.method, str(fraction(level or "0", str(network.path))), cell.seed)
                if place in taken:
                    raise InputError(
                        f"{network.path} and {taken[place]} are both {cell.method}, "
                        f"{analysis.factor} {level}, seed {cell.seed}; "
                        "tell them apart by a field, such as {seed}"
                    )
                taken[place] = network.path
                cells[cell.key], tests[test.key] = cell, test
                wanted.append(
                    Wanted(analysis.name, cell.method, level, cell.seed, cell.key, test.key)
                )
        return Plan(cells, tests, tuple(wanted), (), {}, {})

    def _of(self, analysis: Analysis) -> list[Network]:
        """The networks that an analysis compares: alike in what is not its factor."""
        if analysis.factor != "epsilon" and (
            strange := [n for n in self.networks if analysis.factor not in n.fields]
        ):
            raise InputError(
                f"{strange[0].path}: its name has no {analysis.factor}; give the pattern a field "
                f"{{{analysis.factor}}}"
            )
        others = {name: getattr(analysis, name) for name in TRAINED if name != analysis.factor}
        return [
            network
            for network in self.networks
            if all(
                _number(network, name) == fraction(asked, name)
                for name, asked in others.items()
                if name in network.fields
            )
        ]

    def _cell(self, network: Network) -> Cell:
        fields = network.fields
        if self.brought.method not in fields:
            raise InputError(
                f"{self.brought.pattern}: has no field {{{self.brought.method}}}, by which methods "
                "are told apart; name another with method in [checkpoints]"
            )
        text = fields.get("seed", "0")
        if not text.isdigit():
            raise InputError(f"{network.path}: seed {text!r} is no whole number")
        where = Context(*(fields.get(name, PLACES[name]) for name in TRAINED))
        if network.path not in self.digests:
            self.digests[network.path] = file_digest(network.path)
        asked = {
            "checkpoint": str(network.path),
            "sha256": self.digests[network.path],
            "model": self.brought.model,
            "fields": dict(fields),
        }
        return Cell(fields[self.brought.method], where, 0, int(text), asked)


def _number(network: Network, name: str) -> Any:
    return fraction(network.fields[name], f"{network.path}: {name}")


def matches(pattern: str, folder: Path = Path()) -> list[Network]:
    """The files that a pattern finds, in the order of their names.

    Args:
        pattern: a path with fields in braces and wildcards: "nets/{loss}_seed{seed}.*".
        folder: what a relative pattern begins at.

    Raises:
        InputError: no file, or a field that stands twice.
    """
    full = pattern if Path(pattern).is_absolute() else str(folder / pattern)
    names = FIELD.findall(full)
    if len(names) != len(set(names)):
        raise InputError(f"{pattern}: a field stands there twice")
    parts = FIELD.split(full)
    glob_text = "".join("*" if i % 2 else part for i, part in enumerate(parts))
    shape = "".join(
        f"(?P<{part}>[^/]+?)" if i % 2 else _as_regex(part) for i, part in enumerate(parts)
    )
    found = []
    for name in sorted(iglob(glob_text)):  # noqa: PTH207 (absolute patterns)
        match = re.fullmatch(shape, name)
        if match and Path(name).is_file() and not name.endswith(".toml"):
            found.append(Network(Path(name), match.groupdict()))
    if not found:
        raise InputError(f"{full}: no checkpoint matches")
    return found


def _as_regex(part: str) -> str:
    """The fixed part of a pattern, in which * and ? stand for any characters of a name."""
    return re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
