"""One analysis of a study: its rows by method and level, what is drawn of them, and compared."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import log10
from typing import Any

import numpy as np

from robustkit.analysis.contrast import (
    at_chance,
    classes_of,
    contrast,
    judge_levels,
    pairing_notes,
    precision_note,
    several_note,
)
from robustkit.analysis.findings import (
    NOT_YET,
    SHOWN,
    Findings,
    Number,
    baseline_of,
    by_seed,
    pictured,
)
from robustkit.analysis.outcome import (
    Gallery,
    Line,
    Panel,
    Value,
)
from robustkit.errors import RecordError
from robustkit.files import digest
from robustkit.protocol import budget_key, protocol_in_words
from robustkit.protocol.norms import symbol
from robustkit.results.records import Record, precision_of
from robustkit.results.replicates import Replicates
from robustkit.results.rows import Rows, searched_up_to
from robustkit.spec import CHOSEN, TRAINED, Analysis, Study
from robustkit.statistics import (
    Comparison,
    Contrast,
    Estimate,
    curve,
    median_over_seeds,
    over_seeds,
)
from robustkit.statistics.comparison import listed

WORDS = {
    "label_noise": "label noise",
    "data_fraction": "data fraction",
    "passes": "passes over the data",
    "epsilon": "ε",
}
NO_ATTACK = "0"
"""the level of a robustness curve at which nothing is attacked"""


class AnalysisTable:
    """One analysis: all of its rows, by method and level."""

    def __init__(self, study: Study, analysis: Analysis, findings: Findings) -> None:
        self.study, self.analysis, self.records = study, analysis, findings.records
        self.numbers = [n for n in findings.numbers if n.analysis == analysis.name]
        self.header: Mapping[str, Any] | None = None
        self.found: dict[tuple[str, str], Replicates] = {}
        self._contrasts: dict[tuple[str, str, str], Contrast | None] = {}
        self._revisions: set[int] = set()
        self._precisions: set[str] = set()
        self._doubled: list[str] = []
        for method in self.methods:
            for level in dict.fromkeys(n.level for n in self.numbers if n.method == method):
                self._collect(method, level)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The baseline first, the others as the study has them."""
        names = dict.fromkeys(n.method for n in self.numbers)
        order = [m.name for m in self.study.methods if m.name in names] or sorted(names)
        return tuple(sorted(order, key=lambda name: name != self.baseline))

    @property
    def baseline(self) -> str:
        """What the others are compared with."""
        return baseline_of(self.study, self.numbers)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """As written, rising; of a robustness curve without its beginning."""
        written = [*self.analysis.levels]
        if self.analysis.factor != "epsilon":
            written += [n.level for n in self.numbers]
        elif self.header and not written:
            written = [entry["epsilon"] for entry in self.header["protocol"]["epsilons"]]
        unique: dict[tuple[Fraction, str], str] = {}
        for text in written:
            unique.setdefault(budget_key(text), text)
        return tuple(unique[key] for key in sorted(unique))

    @property
    def drawn(self) -> tuple[str, ...]:
        """All levels that have accuracies: on a robustness curve also that without attack."""
        beginning = (NO_ATTACK,) if self.analysis.factor == "epsilon" else ()
        return (*beginning, *self.levels)

    def at(self, method: str, level: str) -> Replicates | None:
        """What is known of a method at a level; the level may be written in another way."""
        return self.found.get((method, _key(level)))

    def _collect(self, method: str, level: str) -> None:
        own, rows = self._distinct(method, level)
        if not own:
            return
        self.header = self.header or rows[0].header
        for one in rows:
            if one.header["data"]["digest"] != self.header["data"]["digest"]:
                raise RecordError(
                    f"{one.header['checkpoint']['path']}: was evaluated on other images than "
                    f"{self.header['checkpoint']['path']}; evaluate both on the same"
                )
            self._revisions.add(one.header["engine"]["revision"])
            self._precisions.add(precision_of(one.header))
        seeds = tuple(n.seed for n in own)
        if self.analysis.factor != "epsilon":
            self.found[method, _key(level)] = Replicates(seeds, np.stack([r.right() for r in rows]))
            return
        budgets = self.analysis.levels or rows[0].epsilons
        self.found[method, NO_ATTACK] = Replicates(seeds, np.stack([r.right() for r in rows]))
        for text in budgets:
            right = np.stack([r.right(text) for r in rows])
            self.found[method, _key(text)] = Replicates(seeds, right)

    def _distinct(self, method: str, level: str) -> tuple[list[Number], list[Rows]]:
        """The networks of a method at a level by seed, each once, and the rows of each.

        A network that stands there as another seed, too, replicates nothing.
        """
        own = [n for n in self.numbers if (n.method, n.level) == (method, level)]
        first: dict[str, Number] = {}
        again: dict[str, list[str]] = {}
        found: list[tuple[Number, Rows]] = []
        for n in sorted(own, key=by_seed):
            if n.path is None:
                continue
            rows = self.records.rows(n.path)
            known = first.setdefault(Record(rows.header, n.path).identity, n)
            if known is n:
                found.append((n, rows))
            else:
                self.numbers.remove(n)
                again.setdefault(_seed(known), []).append(_seed(n))
        at = f" at {level}" if level else ""
        for seed, others in again.items():
            said = f"omitted as the same network as seed {seed}: seeds {', '.join(others)}"
            self._doubled.append(f"{method}{at}: {said}.")
        return [n for n, _ in found], [rows for _, rows in found]

    # --- what is drawn ----------------------------------------------------------------------------

    def panel(self) -> Panel:
        """The analysis as it is drawn and printed."""
        levels = self.drawn
        lines = tuple(self._line(m, levels) for m in self.methods)
        others = [m for m in self.methods if m != self.baseline]
        delta = None if self.analysis.delta is None else self.analysis.delta / 100
        return Panel(
            name=self.analysis.name,
            title=self.analysis.title or f"Accuracy against {self.factor}",
            factor=self.factor,
            percent=self.percent,
            log=self.analysis.log,
            measure=self._measure(),
            baseline=self.baseline or None,
            lines=tuple(line for line in lines if line.values),
            comparisons=tuple(
                one
                for method in others
                for one in self.compare(method, self.baseline, delta, at=levels)
            ),
            notes=tuple(self._notes()),
            chance=1 / classes
            if (classes := classes_of(self.header or {"data": {}})) > 1
            else None,
            label_noise=self.analysis.label_noise if self.analysis.factor == "passes" else "",
        )

    @property
    def percent(self) -> bool:
        """Whether levels are shares."""
        return self.analysis.factor in TRAINED

    @property
    def factor(self) -> str:
        """The factor in words."""
        word = WORDS.get(self.analysis.factor, self.analysis.factor.replace("_", " "))
        norm = symbol(self.header["protocol"]["norm"]) if self.header else ""
        return f"{word} ({norm})" if self.analysis.factor == "epsilon" and norm else word

    @property
    def attack(self) -> str:
        """The protocol in words; "" where there is no record."""
        return protocol_in_words(self.header["protocol"]) if self.header else ""

    def _measure(self) -> str:
        if self.header is None:
            return "accuracy"
        data = self.header["data"]
        images = f"{data['n']:,} {data['split']} images of {data['name']}"
        attacked = f" under {self.attack}" if self.analysis.factor == "epsilon" else ""
        by = " by transfer" if self.analysis.surrogate else ""
        return f"accuracy on {images}{attacked}{by}"

    def _values(self, method: str, levels: Iterable[str]) -> Iterable[Value]:
        for level in levels:
            if (found := self.at(method, level)) is not None:
                each = tuple(float(x) for x in found.right.mean(axis=1))
                estimate = over_seeds(found.right)
                yield Value(level, float(budget_key(level)[0]), estimate, each, found.seeds)

    def _notes(self) -> Iterable[str]:
        steps = self.study.trained.steps if self.study.trained else None
        if steps:
            yield f"Trained for {steps:,} updates."
        if self.analysis.passes == CHOSEN and self.study.trained:
            kept = ", ".join(map(str, sorted(self.study.trained.snapshots)))
            yield f"Networks are judged after that pass, of {kept}, which held-out labels chose."
        elif self.analysis.passes:
            yield f"Each network is judged after {self.analysis.passes} passes over the data."
        if self.analysis.surrogate:
            yield (
                f"The attack works on a network trained with {self.analysis.surrogate} and a seed "
                "of its own."
            )
        if self.analysis.factor == "epsilon" and len(self._revisions) > 1:
            said = listed([str(revision) for revision in sorted(self._revisions)])
            yield f"Not all evaluations are by the same revision of the attacks: {said}."
        if self.analysis.factor == "epsilon":
            yield from precision_note(self._precisions)
        yield from several_note(len(self.methods) - 1, self.baseline)
        yield from self._doubled
        yield from dict.fromkeys(self._pairings())
        short = [n for n in self.numbers if n.path is None]
        for number in short[:5]:
            where = f" at {number.level}" if number.level else ""
            yield f"{number.method}{where}, seed {number.seed}: {number.reason or 'missing'}."
        if len(short) > 5:
            yield f"{len(short) - 5} more networks have no number; see the table of cells."

    def _pairings(self) -> Iterable[str]:
        """What networks of two methods that are compared had no partner, or only one.

        Accuracies are a method's own, over all its networks, whatever they are compared with.
        """
        pairs = [(method, self.baseline) for method in self.methods if method != self.baseline]
        claims = (c for c in self.study.claims if c.analysis == self.analysis.name)
        pairs += [(c.a, c.b) for c in claims if self.baseline not in (c.a, c.b)]
        for (a, b), level in product(pairs, self.levels):
            left, right = self.at(a, level), self.at(b, level)
            if left is not None and right is not None:
                yield from pairing_notes((a, left.seeds), (b, right.seeds), whole=(a, b))

    def _line(self, method: str, levels: Sequence[str]) -> Line:
        """A method's values and, where it has the same seeds at all levels, what they make."""
        values = tuple(self._values(method, levels))
        seeds = {value.seeds for value in values}
        if len(values) < max(2, len(levels)) or len(seeds) > 1:
            return Line(method, values, median=self._median(method))
        right = np.stack([f.right for level in levels if (f := self.at(method, level))])
        log = self.analysis.log and min(value.x for value in values) > 0
        x = [log10(value.x) if log else value.x for value in values]
        seed = digest(self.study.digest, self.analysis.name, method, "area")
        rng = np.random.default_rng(int(seed[:16], 16))
        # only a robustness curve has the same weights at all levels: along a training, too, each
        # level has others, and what they vary by from pass to pass hardly correlates
        same = self.analysis.factor == "epsilon"
        made = curve(right, x, rng, same_networks=same)
        bands = dict(zip(made.x, made.points, strict=True))
        banded = tuple(replace(v, band=bands[at]) for v, at in zip(values, x, strict=True))
        return Line(method, banded, made.area, self._median(method))

    def _median(self, method: str) -> Estimate | None:
        """The median smallest perturbation, where there are perturbations and it is known."""
        own = [n.path for n in sorted(self.numbers, key=by_seed) if n.method == method and n.path]
        if self.analysis.factor != "epsilon" or not own:
            return None
        found = median_over_seeds(np.stack([self.records.distances(path) for path in own]))
        known = min(searched_up_to(self.records.rows(path).header) for path in own)
        return found if found.value <= known else None

    def gallery(self) -> Gallery | None:
        """What an attack on the first network of the baseline found, if it found anything."""
        first = pictured(self.study, self.analysis, self.numbers)
        if first is None or first.path is None:
            return None
        found = self.records.examples(first.path)[:SHOWN]
        if not found or self.header is None:
            return None
        return Gallery(
            self.analysis.name,
            f"{first.method}, seed {first.seed}, under {self.attack}",
            self.header["protocol"]["norm"],
            tuple(self.header["data"]["classes"]),
            tuple(found),
        )

    # --- what is compared -------------------------------------------------------------------------

    def compare(
        self, a: str, b: str, delta: float | None, *, at: Sequence[str] = (), seeds: int = 1
    ) -> tuple[Comparison, ...]:
        """Two methods at some levels, or all that the factor has; see `_contrast` for `seeds`.

        All levels are one family, that without attack among them, whichever are asked for: the same
        comparison has the same interval wherever it stands.
        """
        levels = {budget_key(level): level for level in (*at, *self.drawn)}
        contrasts = {level: self._contrast(a, b, level, seeds) for level in levels.values()}
        judged = judge_levels(a, b, contrasts, delta=delta or None)
        marked = (replace(one, at_chance=self._at_chance(one)) for one in judged)
        found = dict(zip(levels, marked, strict=True))
        return tuple(found[budget_key(level)] for level in at or self.levels)

    def lacking(self, a: str, b: str, at: Sequence[str] = ()) -> str:
        """How many planned seeds have both methods at some levels, or all; "" where all have.

        Of networks made elsewhere those are planned that were found.
        """
        epsilon, trained = self.analysis.factor == "epsilon", self.study.trained
        levels = {NO_ATTACK} if epsilon else {_key(level) for level in at or self.levels}
        found = {(n.method, _key(n.level), n.seed): n for n in self.numbers}
        planned = {place for place in found if place[0] in (a, b) and place[1] in levels}
        if trained:  # networks that wait for a configuration to be chosen have no number yet
            planned |= {*product((a, b), levels, self.analysis.seeds or trained.seeds)}
        coming, failed = set[int | None](), set[int | None]()
        for method, level, seed in planned:
            number = found.get((method, level, seed))
            if number is None or number.path is None:
                later = number is None or number.reason.startswith(NOT_YET)
                (coming if later else failed).add(seed)
        if not coming | failed:
            return ""
        every = len({seed for _, _, seed in planned})
        told = f"{every - len(coming | failed)} of {every} planned seeds"
        told += f"; {len(failed)} failed" if failed else ""
        return f"interim: {told}" if coming else told

    def _at_chance(self, one: Comparison) -> bool:
        left, right = self.at(one.a, one.level), self.at(one.b, one.level)
        if left is None or right is None or self.header is None:
            return False
        return at_chance(left, right, classes_of(self.header))

    def _contrast(self, a: str, b: str, level: str, seeds: int) -> Contrast | str:
        """Two methods at a level, or why that is not tested: with fewer seeds, for one."""
        left, right = self.at(a, level), self.at(b, level)
        if left is None or right is None:
            return f"no network of {b if left else a} has a number there"
        place = (a, b, _key(level))
        if place not in self._contrasts:
            self._contrasts[place] = contrast(left, right)
        if (found := self._contrasts[place]) is None:
            return "no seed is common to both, and one has a single seed"
        networks = self.study.statistics.unit == "network"
        if networks and found.seeds > 1:
            return f"{found.seeds} networks a method, where the study asks for one"
        if not networks and found.seeds < seeds:
            return "one seed a method: how much training varies is not known"
        tests = self.study.statistics.tests
        return replace(found, secondary=tuple(t for t in found.secondary if t.test in tests))

    def where(self, level: str) -> str:
        """A level in words, to begin a sentence with."""
        value = float(budget_key(level)[0])
        match self.analysis.factor:
            case "epsilon" if not value:
                return "without an attack"
            case "label_noise":
                return f"at {100 * value:g} % label noise"
            case "passes":
                return f"after {level} {'pass' if level == '1' else 'passes'} over the data"
            case "data_fraction":
                return f"with {100 * value:g} % of the training images"
            case "epsilon":
                by = " by transfer" if self.analysis.surrogate else ""
                return f"under {self.attack}{by} at ε = {level}"
            case other:
                return f"at {other.replace('_', ' ')} {level}"

    @property
    def after(self) -> str:
        """For what a sentence holds."""
        trained, passes = self.study.trained, self.analysis.passes
        if trained is None or self.analysis.factor == "passes":
            return ""
        if passes == CHOSEN:
            return "after the pass that held-out labels chose"
        return f"after {passes or f'{trained.steps:,}'} {'passes' if passes else 'steps'}"


def protocols(tables: Iterable[AnalysisTable]) -> dict[str, Mapping[str, Any]]:
    """Each protocol of some analyses once, in words; if words are not enough, with the analyses."""
    found: dict[str, Mapping[str, Any]] = {}
    used: dict[str, list[str]] = {}
    for table in tables:
        if table.header and table.header["protocol"]["name"]:
            protocol = table.header["protocol"]
            found.setdefault(protocol["digest"], protocol)
            used.setdefault(protocol["digest"], []).append(table.analysis.name)
    words = {key: protocol_in_words(protocol) for key, protocol in found.items()}
    shared = Counter(words.values())
    return {
        f"{text} ({listed(used[key])})" if shared[text] > 1 else text: found[key]
        for key, text in words.items()
    }


def _seed(number: Number) -> str:
    return "unknown" if number.seed is None else str(number.seed)


def _key(level: str) -> str:
    return budget_key(level)[1] if level else NO_ATTACK
