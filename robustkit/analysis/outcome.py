"""What a study found, as plain values: everything that a report draws, prints and states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustkit.record import Example
from robustkit.showing import Shown
from robustkit.spec import FIGURES, TABLES, Figure, Table
from robustkit.statistics import Comparison, Estimate

Judged = Literal["holds", "contradicted", "undecided", "not tested"]
Chosen = Literal["end", "stopped"]
"""a configuration whose networks are trained to the end, or one with the pass to stop at"""
Registered = Literal["preregistered", "wording amended", "amended", "not preregistered"]
"""how a claim stands to the time before the first training; where its wording was amended, what is
judged is as it was"""


@dataclass(frozen=True, slots=True)
class Value:
    """One method at one level."""

    level: str
    """as written: "0.2", "8/255"; the key by which figures, tables and claims speak of it"""
    x: float
    """its place on the axis"""
    estimate: Estimate
    """a share in [0, 1] with its interval, or the factor's own unit where the panel says so"""
    each: tuple[float, ...] = ()
    """the same quantity of each seed, in the order of the seeds"""
    seeds: tuple[int | None, ...] = ()
    band: Estimate | None = None
    """the same with an interval that holds at all levels of the line at once; None where a level
    has no number"""


@dataclass(frozen=True, slots=True)
class Line:
    """One method over all levels that have a number, by rising level."""

    method: str
    values: tuple[Value, ...]
    area: Estimate | None = None
    """under the line, over the span of its axis as it is drawn: the mean accuracy"""
    median: Estimate | None = None
    """median smallest perturbation that fools, where the factor is ε; 0 where an image is wrong
    without attack"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One analysis: accuracy of some methods against a factor, and how they compare."""

    name: str
    """of the analysis in the study's file; fit for a file's name: "label-noise" """
    title: str
    factor: str
    """what the axis says: "label noise", "data fraction", "ε (linf)" """
    percent: bool
    """whether levels are shares, to be shown in per cent"""
    log: bool
    """whether the axis is logarithmic"""
    measure: str
    """what the values are: "accuracy on 10,000 test images" """
    baseline: str | None
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...] = ()
    """each method with the baseline at each level, one family"""
    notes: tuple[str, ...] = ()
    """what a reader must know: seeds, steps, what was left out"""
    chance: float | None = None
    """accuracy of a guess, where the number of classes is on record"""
    label_noise: str = ""
    """share of wrong labels that all levels of an analysis along a training have"""


@dataclass(frozen=True, slots=True)
class Amendment:
    """What of a claim, or of how it is judged, was changed after it was preregistered."""

    what: str
    """"wording", "Δ", "method l2-margin, loss" """
    before: str
    """"" where there was none"""
    now: str
    when: str
    """"after 96 trainings" """


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim and what the data say of it."""

    name: str
    """short: "1", "2a" """
    text: str
    """the claim in words, as it was made"""
    source: str
    """who made it"""
    verdict: Judged
    sentence: str
    """why, in words fit for a paper"""
    delta: float | None
    """the difference that counts as none, in the unit of the comparisons"""
    reason: str
    """why this Δ"""
    comparisons: tuple[Comparison, ...] = ()
    ratio: Estimate | None = None
    """for a claim about a ratio: the ratio; `bounds` are the claim's"""
    bounds: tuple[float, float] | None = None
    decisive: Comparison | None = None
    """the comparison that the verdict rests on most: of several levels, the one that contradicts,
    that is not decided, or, where all hold, the weakest"""
    where: str = ""
    """its level, in words"""
    percent: bool = False
    """whether levels are shares, to be shown in per cent"""
    needs: str = ""
    """what it would take to decide a claim that is undecided, in words"""
    seeds_needed: float | None = None
    """likewise, in paired seeds; infinite where no number that is tried is enough"""
    registered: Registered = "not preregistered"
    amendments: tuple[Amendment, ...] = ()
    without: Judged | None = None
    """the verdict without a rule that is newer than the data, where that rule changed it"""
    lacking: str = ""
    """that networks of some planned seeds failed or are not there yet, and it is interim then, in
    words: "interim: 2 of 5 planned seeds" """


@dataclass(frozen=True, slots=True)
class History:
    """How a method's training went, at one level: means over seeds, from point to point."""

    method: str
    level: str
    steps: tuple[int, ...]
    """optimiser steps taken at each point"""
    memorised: tuple[float | None, ...]
    """share of the wrong labels that the network repeats"""
    held_out: tuple[float | None, ...]
    """accuracy on held-out images, by their clean labels; where it was looked at"""
    passes: tuple[float, ...] = ()
    """over the data, at each point; an earlier version wrote none"""
    each: tuple[tuple[float | None, ...], ...] = ()
    """what each seed memorised; likewise"""
    band: tuple[Estimate | None, ...] = ()
    """of the mean over seeds, at each point"""


@dataclass(frozen=True, slots=True)
class Regret:
    """What choosing by noisy held-out labels cost, in accuracy by their clean labels.

    The best configuration's minus the chosen one's: a diagnostic, nothing is chosen by it. An upper
    estimate, since the best is chosen and measured on the same images.
    """

    method: str
    level: str
    kind: Chosen
    seeds: tuple[int, ...]
    """that chose"""
    each: tuple[float, ...]
    """of each seed"""
    estimate: Estimate | None = None
    """over seeds, cut at 0, below which no regret is; None where one seed chose for all"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method costs beside the baseline, and what it gains at one level of one panel."""

    method: str
    ratio: Estimate
    """training time of a step over the baseline's"""
    gain: Estimate
    """difference of accuracy to the baseline"""
    where: str
    """panel and level of the gain, in words"""


@dataclass(frozen=True, slots=True)
class CellRow:
    """One training and its evaluations, for the appendix."""

    key: str
    method: str
    factor: str
    level: str
    seed: int
    status: Literal["done", "failed", "missing", "dropped"]
    reason: str
    """of a failure, or why it was not trained to its end, in one line; "" otherwise"""
    clean: float | None
    """accuracy on the test images"""
    steps: int | None
    seconds: float | None
    """of training; shown in the page, never part of a number that is compared"""
    settings: str
    """the configuration chosen, in words"""
    purpose: Literal["compared", "tuning"] = "compared"


@dataclass(frozen=True, slots=True)
class TransferMatrix:
    """Accuracy of each target under examples made on each source, at one budget."""

    title: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """sources × targets"""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Successful perturbations of one network, the smallest ones first."""

    name: str
    """of the analysis"""
    title: str
    norm: str
    classes: tuple[str, ...]
    """by label"""
    examples: tuple[Example, ...] = field(compare=False)
    """arrays, for looking at only"""


@dataclass(frozen=True, slots=True, repr=False)
class Outcome(Shown):
    """A whole study."""

    name: str
    title: str
    question: str
    panels: tuple[Panel, ...]
    judgements: tuple[Judgement, ...]
    cells: tuple[CellRow, ...]
    histories: tuple[History, ...] = ()
    regrets: tuple[Regret, ...] = ()
    costs: tuple[Cost, ...] = ()
    matrices: tuple[TransferMatrix, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    notes: tuple[str, ...] = ()
    """what was left out, and for what the verdicts hold"""
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """as `protocol_in_words` calls it: the header's `protocol` entry of each that was used"""
    provenance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """sections of key and value: study digest, data, versions, devices, machine"""
    command: str = ""
    """how to make it again"""
    file: str = ""
    """the study's TOML, as it was"""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """what options changed in it, by table; "" is the top level"""
    figures: tuple[Figure, ...] = FIGURES
    """kinds that are drawn"""
    tables: tuple[Table, ...] = TABLES
    """kinds that are written"""
    failed: tuple[str, ...] = ()
    """why networks that are there could not be evaluated, each reason once"""
