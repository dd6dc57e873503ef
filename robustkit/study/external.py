"""Networks made elsewhere: found by a pattern, told apart by their names and by what is on record.

Needs no torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from robustkit.checkpoint import named, read_checkpoint
from robustkit.checkpoint.sidecar import sidecar_path
from robustkit.errors import InputError
from robustkit.files import file_digest
from robustkit.keys import ExternalCellKey
from robustkit.parsing import parse_integer
from robustkit.results.grid import Place
from robustkit.results.metadata import (
    PARTS,
    NetworkMetadata,
    check_name,
    number,
    read_metadata,
    same,
)
from robustkit.results.pattern import match_files
from robustkit.spec import TRAINED, Analysis, ExternalSpec, Study
from robustkit.spec.checks import outside
from robustkit.statistics.comparison import listed
from robustkit.statistics.estimate import counted
from robustkit.study.cells import (
    Cell,
    CellRequirement,
    Plan,
    Test,
    evaluation_of,
)
from robustkit.study.configuration import REVISION
from robustkit.study.selection import Context, Scores
from robustkit.study.user_files import read_user_files

PLACES = {"label_noise": "0", "data_fraction": "1"}
"""what a network was trained on where nothing says otherwise"""
OTHER = {"label_noise": "other label noise", "data_fraction": "another data fraction"}


@dataclass(frozen=True, slots=True)
class ExternalNetwork:
    """A checkpoint, what its name says, and what is on record of it."""

    path: Path
    """or the name of published weights"""
    fields: Mapping[str, str]
    metadata: NetworkMetadata
    model: str | None = None
    """the architecture, where the study names one for it"""

    def of(self, name: str) -> str | None:
        """A setting, by the name of the file before the record; None: unknown."""
        said = self.metadata.values.get(name)
        return self.fields.get(name) or (said.text if said else None)

    def number(self, name: str) -> Fraction | None:
        """A setting that has to be a number.

        Raises:
            InputError: it is none.
        """
        text = self.of(name)
        if text is None:
            return None
        if (value := number(text)) is not None:
            if (wrong := outside(name, value)) is None:
                return value
            place = "its name" if name in self.fields else self.metadata.values[name].source
            raise InputError(f"{self.path}: {name} in {place} is {text!r}; {wrong}")
        if name in self.fields:
            raise InputError(
                f"{self.path}: {name} in its name is {text!r}, not a number; rename it, or "
                f"leave {{{name}}} out of the pattern"
            )
        raise InputError(
            f"{self.path}: {self.metadata.values[name].source} says {name} {text!r}, which "
            "is not a number"
        )


@dataclass(slots=True)
class ExternalPlanner:
    """Makes the plan of a study whose networks were made elsewhere."""

    study: Study
    spec: ExternalSpec
    tested: Callable[[int | None], str]
    """digest of so many test images"""
    folder: Path = Path()
    """what a relative pattern begins at"""
    networks: list[ExternalNetwork] = field(init=False)
    digests: dict[Path, str] = field(init=False, default_factory=dict)
    """of the networks' files and their sidecars"""

    def __post_init__(self) -> None:
        matches = match_files(self.spec.pattern, self.folder) if self.spec.pattern else []
        self.networks = [
            *(ExternalNetwork(*one, read_metadata(one.path), self.spec.model) for one in matches),
            *self._named(),
        ]
        factors = [a.factor for a in self.study.analyses if a.factor != "epsilon"]
        names = {"seed", *TRAINED, *factors} - {self.spec.method}
        for one in self.networks:
            check_name(one.path, one.fields, one.metadata.values, sorted(names))

    def plan(self, scores: Scores | None = None) -> Plan:
        """The plan; nothing has to be chosen."""
        cells: dict[str, Cell] = {}
        tests: dict[str, Test] = {}
        wanted: list[CellRequirement] = []
        for analysis in self._analyses():
            for place, cell in self._places(analysis).items():
                test = evaluation_of(self.study, analysis, cell.key, self.tested)
                cells[cell.key], tests[test.key] = cell, test
                wanted.append(CellRequirement(analysis.name, *place, cell.key, test.key))
        notes = tuple(self._notes())
        if notes and not wanted:
            given = self.spec.pattern or f"{self.study.where}: [checkpoints] names"
            raise InputError(f"{given}: nothing to compare: {notes[0]}")
        return Plan(cells, tests, tuple(wanted), (), {}, {}, notes=notes)

    def named(self) -> dict[str, str | None]:
        """Digests of the networks that are planned, of their sidecars and architecture."""
        planned = [one.path for one in self.networks if one.path in self.digests]
        files = [file for path in planned for file in (path, sidecar_path(path))]
        code = read_user_files(self.spec.model).named(self.spec.model, None)
        return code | {str(path): self.digests.get(path) for path in files}

    def _named(self) -> Iterator[ExternalNetwork]:
        """The networks that are named, one for each seed of a method.

        What is published is fetched now, since its digest is part of the plan.
        """
        for method, names in self.spec.names.items():
            for seed, name in enumerate(names):
                published = named.parse(name) is not None
                path = Path(name) if published else self.folder / name
                self.digests[path] = read_checkpoint(path).sha256
                metadata = NetworkMetadata() if published else read_metadata(path)
                fields = {self.spec.method: method, "seed": str(seed)}
                yield ExternalNetwork(path, fields, metadata)

    def _analyses(self) -> list[Analysis]:
        return [one for one in self.study.analyses if one.factor != "cost"]

    def _places(self, analysis: Analysis) -> dict[Place, Cell]:
        """The networks of an analysis, by what they are in it.

        Raises:
            InputError: two are the same.
        """
        places: dict[Place, Cell] = {}
        taken: dict[Place, Path] = {}
        written: dict[Fraction, str] = {}
        for network in self._of(analysis):
            cell = self._cell(network)
            level = network.of(analysis.factor) or "" if _has_level(analysis) else ""
            if level and (value := network.number(analysis.factor)) is not None:
                level = written.setdefault(value, level)
            place = (cell.method, level, cell.seed)
            if place in taken:
                at = f"{analysis.factor} {level}, " if level else ""
                raise InputError(
                    f"{network.path} and {taken[place]} are both {cell.method}, {at}seed "
                    f"{cell.seed}; tell them apart by a field, such as {{seed}}"
                )
            places[place], taken[place] = cell, network.path
        return places

    def _of(self, analysis: Analysis) -> list[ExternalNetwork]:
        """The networks that an analysis compares: alike in what is not its factor."""
        asked = [network for network in self.networks if self._asked(network, analysis)]
        if _has_level(analysis):
            for network in asked:
                if network.of(analysis.factor) is None:
                    raise InputError(_unknown(network, analysis.factor))
        return [network for network in asked if not _differs(network, analysis)]

    def _asked(self, network: ExternalNetwork, analysis: Analysis) -> bool:
        """Whether an analysis names the method and the seed, where it names any."""
        methods, seeds = analysis.methods, analysis.seeds
        return (not methods or self._method(network) in methods) and (
            not seeds or self._seed(network) in seeds
        )

    def _notes(self) -> Iterator[str]:
        """Which networks are left out of analyses, and why."""
        left_out: dict[str, list[str]] = {}
        for analysis in self._analyses():
            for reason in self._left_out(analysis):
                left_out.setdefault(reason, []).append(analysis.name)
        for reason, names in left_out.items():
            which = "the analysis" if len(names) == 1 else "the analyses"
            yield f"Not in {which} {listed(names)}: {reason}."

    def _left_out(self, analysis: Analysis) -> Iterator[str]:
        every = counted(len(self.networks), "network")
        asked = [network for network in self.networks if self._asked(network, analysis)]
        if others := len(self.networks) - len(asked):
            yield f"{others} of {every}, of other methods or seeds than are named there"
        differing = [names for one in asked if (names := _differs(one, analysis))]
        reasons = [
            f"{OTHER[name]} than {getattr(analysis, name)}"
            for name in TRAINED
            if any(name in names for names in differing)
        ]
        if differing:
            yield f"{len(differing)} of {every}, trained with {' or '.join(reasons)}"

    def _cell(self, network: ExternalNetwork) -> Cell:
        where = Context(*(network.of(name) or PLACES[name] for name in TRAINED))
        method, number = self._method(network), self._seed(network)
        aside = sidecar_path(network.path)
        key = ExternalCellKey(
            checkpoint=str(network.path),
            sha256=self._digest(network.path),
            model=network.model,
            fields=dict(network.fields),
            model_code=read_user_files(network.model).model,
            sidecar=self._digest(aside) if aside.is_file() else None,
            revision=None if REVISION == 1 else REVISION,
        )
        return Cell(method, where, 0, number, key.plain())

    def _seed(self, network: ExternalNetwork) -> int:
        """Its seed; 0 where it is unknown, and no two others are told apart by theirs.

        Raises:
            InputError: it is unknown where others are paired by theirs, or no integer.
        """
        if (seed := network.of("seed")) is None:
            known = {seed for one in self.networks if (seed := one.of("seed")) is not None}
            if len(known) > 1:
                raise InputError(
                    f"{network.path}: nothing says its seed, by which networks are paired; others "
                    f"are of seeds {listed(sorted(known))}; give the pattern a field {{seed}}"
                )
            return 0
        try:
            return parse_integer(seed)
        except ValueError as error:
            raise InputError(f"{network.path}: seed {seed!r} is not an integer") from error

    def _method(self, network: ExternalNetwork) -> str:
        name = self.spec.method
        if (method := network.of(name)) is not None:
            return method
        raise InputError(
            network.metadata.error
            or f"{self.spec.pattern}: has no field {{{name}}}, by which methods are told apart, "
            f"and nothing on record of {network.path} says it; name another with method in "
            "[checkpoints]"
        )

    def _digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = file_digest(path)
        return self.digests[path]


def _has_level(analysis: Analysis) -> bool:
    """Whether a network has one level; under attack, one evaluation has all of them."""
    return analysis.factor != "epsilon"


def _differs(network: ExternalNetwork, analysis: Analysis) -> list[str]:
    """In what a network is not as an analysis has it."""
    settings = {name: getattr(analysis, name) for name in TRAINED if name != analysis.factor}
    return [
        name
        for name, text in settings.items()
        if (own := network.number(name)) is not None and not same(name, own, Fraction(text))
    ]


def _unknown(network: ExternalNetwork, name: str) -> str:
    """That nothing says what a network is of a setting, and what to do."""
    said = network.metadata.values
    full = [key for part in PARTS if (key := f"{part}.{name}") in said]
    if full:
        return f"{network.path}: has {listed(full)} on record; name the factor"
    if network.metadata.error:
        return network.metadata.error
    aside = f", or say it in {sidecar_path(network.path).name}" if name in TRAINED else ""
    return (
        f"{network.path}: its name has no {name}, and nothing on record says it; give the pattern "
        f"a field {{{name}}}{aside}"
    )
