"""What a study asks: the nouns of its file. Everything that decides goes into its digest."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from robustkit.files import canonical, digest
from robustkit.protocol import Norm

Says = Literal["better", "equivalent", "ratio"]
Figure = Literal[
    "curves", "differences", "memorisation", "held-out", "cost", "transfer", "examples"
]
Table = Literal["claims", "accuracy", "areas", "differences", "cost"]
Unit = Literal["seed", "network"]
Precision = Literal["auto", "float32", "tf32", "bf16"]
SearchPrecision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
Score = Literal["accuracy", "mean accuracy of three passes", "calibrated log-likelihood"]
Test = Literal["sign-flip permutation", "Wilcoxon", "bootstrap over seeds"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
TABLES: tuple[Table, ...] = get_args(Table)
TESTS: tuple[Test, ...] = get_args(Test)
TRAINED = ("label_noise", "data_fraction")
"""factors that a training is asked for; `epsilon` is asked of an evaluation"""
CHOSEN = "chosen"
"""in place of a number of passes: the one with the best held-out score"""
ACCURACY: Score = "accuracy"
NAMED = ("title", "question", "notes", "text", "source", "reason")
"""keys that say something to a reader and decide nothing"""
OWN = ("settings", "recipe", "choose", "names")
"""fields whose keys are a loss's, a recipe's or the user's own: each of them decides"""
UNASKED = ("where", "changes", "figures", "tables")
"""fields of a study that say where it came from and what is shown of it"""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """How the networks of a study are made, whatever the loss."""

    model: str
    data: str
    seeds: tuple[int, ...]
    steps: int
    """optimiser steps of a training: the same for every method"""
    batch_size: int = 128
    hold_out: str = ""
    """images that choices are made by; "" for the data set's usual"""
    noise_kind: str = "symmetric"
    precision: Precision = "auto"
    """of multiplications"""
    snapshots: tuple[int, ...] = ()
    """passes over the data after which weights are kept, for analyses along a training"""


@dataclass(frozen=True, slots=True)
class ExternalSpec:
    """Networks that were made elsewhere."""

    pattern: str = ""
    """files, with fields in braces: "nets/{loss}_noise{label_noise}_seed{seed}.pt" """
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """beside or instead, by method, one for each seed: names of published weights, such as
    hf:ORG/NAME, or paths of files and folders"""
    runs: str = ""
    """instead: a folder of evaluations, which know how their checkpoints were made"""
    method: str = "loss"
    """the field that tells the methods apart"""
    model: str | None = None
    """architecture, where the files don't say"""


@dataclass(frozen=True, slots=True)
class TestSpec:
    """What every network is tested on."""

    data: str
    split: str = "test"
    limit: int | None = None
    """only the first so many images"""
    protocol: str = "clean"
    norm: Norm | None = None
    """none: the protocol's default"""
    precision: SearchPrecision = "float32"
    """of the multiplications that attacks search by, here and in analyses; auto: the fastest.
    Verdicts are float32's"""


@dataclass(frozen=True, slots=True)
class Halving:
    """A rung of successive halving (Jamieson and Talwalkar 2016)."""

    after: float
    """share of the updates, in whole passes over the data"""
    keep: float
    """share of the configurations that go on, those with the best scores, rounded up"""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a configuration is chosen for every method: by held-out labels, corrupted alike."""

    seed: int | None = None
    """of trainings that are compared in nothing else, surrogates among them; where every seed
    chooses, only of these"""
    at: tuple[str, ...] = ()
    """levels of the first analysis whose held-out accuracies are added up; none: at each level"""
    every_seed: bool = False
    """each compared seed chooses by its own trainings, so that intervals over seeds carry the
    choice (Bouthillier et al. 2021); else one choice, by the seed above, holds for all of them"""
    score: Score = ACCURACY
    """what held-out labels are asked for: accuracy after the last pass, or averaged over the last
    three; or, for losses whose logits have other scales, the log-likelihood after a temperature
    that is fitted on the other half of the images (Guo et al. 2017)"""
    halving: tuple[Halving, ...] = ()
    """rungs at which configurations are dropped; none: all are trained to the end"""
    test_last: Literal["no", "all seeds", "by seed"] = "no"
    """no test image is evaluated before everything is chosen: for all seeds (a file may say true),
    or, where each seed chooses, for its own, so that a study can be trained in parts"""

    @property
    def recorded_score(self) -> Score | None:
        """The score where trainings have to look at held-out images after every pass."""
        return self.score if self.score != ACCURACY or self.halving else None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What differences are judged by."""

    unit: Unit = "seed"
    """of replication: trainings, of which there are several a method, or one network each, and
    then a verdict says nothing of what training again would give"""
    tests: tuple[Test, ...] = TESTS
    """shown beside the one that decides (two-way t over seeds, McNemar's for networks), where there
    are seeds enough"""


@dataclass(frozen=True, slots=True)
class Method:
    """What is compared."""

    name: str
    loss: str
    settings: dict[str, Any] = field(default_factory=dict)
    """of the loss"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """where it is not the default of loss and data; also `compress`, and `memory` of it,
    and `processes`, of this machine, that share each batch"""
    choose: tuple[dict[str, Any], ...] = ({},)
    """configurations to choose from: keys of the recipe, and `settings` of the loss"""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Accuracy against one factor."""

    name: str
    factor: str
    """label_noise, data_fraction, passes, epsilon, or for external networks any field"""
    title: str = ""
    levels: tuple[str, ...] = ()
    """as text; none: whatever the networks made elsewhere have, or a data set's usual budgets"""
    label_noise: str = "0"
    """where it is not the factor"""
    data_fraction: str = "1"
    passes: str = ""
    """over the data, after which the weights are evaluated: one of `snapshots`, or "chosen", the
    one of these with the best held-out accuracy; none: the last weights"""
    protocol: str = ""
    """where the factor is epsilon"""
    norm: Norm | None = None
    """none: the protocol's default"""
    surrogate: str = ""
    """method whose networks, of a seed of their own, the attack works on"""
    methods: tuple[str, ...] = ()
    """none: all"""
    seeds: tuple[int, ...] = ()
    """none: all"""
    delta: float | None = None
    """difference that counts as none, in points, where no claim says so"""
    limit: int | None = None
    """only the first so many test images"""
    log: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says, and what would count for and against it."""

    name: str
    text: str
    analysis: str
    says: Says
    a: str
    b: str
    source: str
    delta: float = 0.0
    """in points; of a ratio unused"""
    reason: str = ""
    """why this Δ, or these bounds"""
    levels: tuple[str, ...] = ()
    """none: all of the analysis"""
    bounds: tuple[float, ...] = ()
    """of a ratio: lowest and highest"""


@dataclass(frozen=True, slots=True)
class Study:
    """A question about many networks; see `parse_study` for its file."""

    name: str
    title: str
    question: str
    baseline: str
    tested: TestSpec
    analyses: tuple[Analysis, ...]
    methods: tuple[Method, ...] = ()
    trained: TrainingSpec | None = None
    external: ExternalSpec | None = None
    tuning: Tuning | None = None
    statistics: Statistics = Statistics()
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = FIGURES
    """kinds that are drawn"""
    tables: tuple[Table, ...] = TABLES
    """kinds that are written"""
    text: str = field(default="", compare=False)
    """the file's own"""
    where: str = field(default="", compare=False)
    """the file, to begin a message with"""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)
    """to the file, by table, as `load_study` takes them"""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides: a changed claim or Δ makes another study.

        What the file is called, what it says to readers only, and what is drawn of the outcome, is
        no part of it.
        """
        table = asdict(replace(self, name=""))
        table["brought"] = table.pop("external")  # as digests on file know it
        # what a file leaves out is left out, as it was before a file could say so
        if table["brought"] is not None and not table["brought"]["names"]:
            del table["brought"]["names"]
        for entry in (table["tested"], *table["analyses"]):
            if entry["norm"] is None:
                del entry["norm"]
        if table["tested"]["precision"] == "float32":
            del table["tested"]["precision"]
        for entry in table["analyses"]:
            if not entry["passes"]:
                del entry["passes"]
        if (trained := table["trained"]) is not None:
            for key, default in (("precision", "auto"), ("snapshots", ())):
                if trained[key] == default:
                    del trained[key]
        if self.statistics == Statistics():
            del table["statistics"]
        if (tuning := table["tuning"]) is not None:
            for name in ("every_seed", "score", "halving", "test_last"):
                if tuning[name] == getattr(Tuning(), name):
                    del tuning[name]
            if tuning.get("test_last") == "all seeds":
                tuning["test_last"] = True  # as digests on file know it
        return digest(canonical(_deciding({k: v for k, v in table.items() if k not in UNASKED})))


def _deciding(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in NAMED}
        return {key: each if key in OWN else _deciding(each) for key, each in kept.items()}
    if isinstance(value, list | tuple):
        return [_deciding(item) for item in value]
    return value
