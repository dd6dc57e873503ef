"""What decides whether an answer is on file: one key for each kind of file that is kept.

A key holds everything that can change the answer, and nothing else: with too little, an answer to
another question is given out; with too much, nothing is ever found again. Files are named by its
digest. What is left out of a key, and why, stands in `tests/test_keys.py`.

A field that comes later has the default None, and is left out of the digest where it is None: so
all answers to which it does not apply stay on file. Needs no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from robustkit.files import canonical, digest

SHORT = 24
"""characters of a digest in a study's file names"""


class Key:
    """Digested as JSON; the fields that are not given are no part of it."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The key as JSON, by field."""
        return _plain(self)

    @property
    def digest(self) -> str:
        """SHA-256 over all fields."""
        return digest(canonical(self.plain()))

    @property
    def short(self) -> str:
        """The beginning of the digest, as a study's files are named."""
        return short(self.plain())


def short(plain: Mapping[str, Any]) -> str:
    """The beginning of the digest of a key that is JSON already."""
    return digest(canonical(plain))[:SHORT]


def _plain(key: Any) -> dict[str, Any]:
    table = {}
    for field in fields(key):
        value = getattr(key, field.name)
        if value is not None or field.default is not None:
            table[field.name] = _plain(value) if is_dataclass(value) else value
    return table


# --- networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointKey(Key):
    """Everything that can change a logit of a checkpoint."""

    weights: str
    """digest of names, types, shapes and numbers, so that a copy in another container is the same;
    of a program its file, since its code stands in there"""
    mean: Sequence[float] | None
    """subtracted from the pixels; the same weights behind another normalisation are another
    network"""
    std: Sequence[float] | None
    """likewise, divided by"""
    adapter: str
    """version of the layer around the network, which normalises pixels and takes logits out"""
    model: str | None = None
    """the architecture's name: the same weights fit several (another activation, say)"""
    code: str | None = None
    """digest of the architecture's source, or its library's version"""
    program: str | None = None
    """digest of a TorchScript or torch.export file, in place of model and code"""
    graph: str | None = None
    """digest of an ONNX file's graph, its numbers left out, in place of model and code"""
    pins: Mapping[str, str] | None = None
    """versions of the libraries that made a network of the graph"""
    image_by_image: bool | None = None
    """whether its images never share a batch, which changes what a network that mixes them says"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleKey(Key):
    """Everything known that can change a logit of a module in memory."""

    module: str
    """its class"""
    name: str | None
    """under which its record is kept, and which the record says"""
    adapter: str
    """as in `CheckpointKey`"""
    weights: str
    """digest of names, types, shapes and numbers of all parameters and all buffers, those that
    no state dict has included"""
    tree: str
    """digest of the modules in it: classes, the source of what a forward pass calls, constants,
    hooks, and their order"""
    image_by_image: bool | None = None
    """as in `CheckpointKey`"""


# --- evaluations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """What the attack is computed by."""

    revision: int
    """of our attacks; raised by whatever can change a row"""
    torch: str
    """its kernels round differently from version to version"""
    foolbox: str
    """makes a part of the attacks"""
    device: str
    """kind of device: rounding differs, and near the decision boundary so do rows"""
    precision: str | None = None
    """of the multiplications that attacks search by; None: float32"""
    batch_size: int | None = None
    """of a search in low precision, whose rounding it changes; in float32 it changes no row beyond
    rounding, but the draws of a network that draws at random"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationKey(Key):
    """The record of an evaluation, `RUNS/DIGEST.parquet`."""

    checkpoint: Mapping[str, Any]
    """a `CheckpointKey` or `ModuleKey`, as JSON"""
    data: str
    """digest of the images' ids, their order, labels, transform and number of classes"""
    protocol: Mapping[str, Any]
    """every number of the attacks, norm, budgets, target and seed, as JSON"""
    engine: EngineKey
    """what computes them"""
    surrogate: Mapping[str, Any] | None = None
    """the network that takes the steps of a transfer attack, like `checkpoint`"""
    prove: int | None = None
    """revision of the bounds that may stand in for the attack, and then stand in the rows"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimesKey(Key):
    """How long passes through a network take, `RUNS/passes-DIGEST.json`.

    The number of threads is no part of it, lest the choice of a precision hang on it.
    """

    checkpoint: Mapping[str, Any]
    """as in `EvaluationKey`"""
    shape: Sequence[int]
    """of the images, C, H, W"""
    device: str
    """name of the processor or the GPU"""
    torch: str
    """its kernels are faster from version to version"""
    revision: int
    """of the attacks, and so of what is made of a network to search by"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTimesKey(Key):
    """How long a few images of a search take, `RUNS/searches-DIGEST.json`."""

    passes: Mapping[str, Any]
    """`PassTimesKey`, plain: network, device and versions"""
    protocol: Mapping[str, Any]
    """attacks and budgets: near the boundary a search is in float32. Not the seed: one choice is
    made for all"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificationKey(Key):
    """The record of a certification, `RUNS/certification-DIGEST.npz`.

    The time limit is no part of it: what is decided is so with any, and what is open is tried
    again where there is more.
    """

    revision: int
    """of bounds and of branch and bound"""
    checkpoint: Mapping[str, Any]
    """as in `EvaluationKey`"""
    data: str
    """likewise"""
    protocol: Mapping[str, Any]
    """norm, the budget, and the attack that comes before branch and bound, as JSON"""
    engine: EngineKey
    """what the attack is computed by, and on which kind of device the network is proved"""


# --- audits ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPartKey(Key):
    """A part of an audit beside its evaluations, `OUT/work/PART-DIGEST.json`."""

    part: str
    """indicators, adaptive, certificate, corruptions or smoothed; begins the file's name"""
    revision: int
    """of what a part computes and how it is kept"""
    engine: int
    """revision of the attacks, which adaptive attacks and the smoothed classifier use, too"""
    checkpoint: Mapping[str, Any]
    """as in `EvaluationKey`"""
    seed: int
    """of every draw"""
    epsilon: str
    """the judged budget, exactly"""
    norm: str
    """of the threat model"""
    device: str
    """kind of device, as in `EngineKey`"""
    torch: str
    """likewise"""
    data: str
    """digest of the part's images, as in `EvaluationKey`"""
    settings: Sequence[Any]
    """the part's own, as JSON: thresholds, what the attacks found, digest of the plain one and
    recorded accuracy (indicators), which attack and that digest (adaptive), budgets and
    multiplications (certificate), version of the draws (corruptions), noise (smoothed)"""
    training: str | None = None
    """of an indicator that asks for the training: a digest of the stamps of the training images'
    files, which may be others under one name (None: they are not to be had), or what the record
    says: that all images are among them, or of how many its accuracy is"""

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.part}-{self.digest[:32]}.json"


# --- trainings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingKey(Key):
    """A trained checkpoint: its digest stands in the file itself, and in an unfinished run's."""

    model: Mapping[str, Any]
    """name and source of the architecture"""
    loss: Mapping[str, Any]
    """name, settings and source of the loss"""
    data: Mapping[str, Any]
    """the data set's name and digest; which images are trained on and held out, and their labels"""
    recipe: Mapping[str, Any]
    """optimiser, schedule, length and augmentation"""
    seed: int
    """of the first weights and of every draw"""
    keep: str
    """the last epoch's weights, or the best's"""
    compress: str | None
    """the compression of gradients between processes"""
    memory: bool
    """whether compression carries over what it did not send"""
    precision: str
    """of multiplications, resolved: "auto" is another thing on another device"""
    deterministic: bool
    """whether the GPU's kernels repeat themselves"""
    processes: int
    """that share a batch: batch norm and compression see the shares"""
    device: str
    """kind of device: rounding differs, and training amplifies it"""
    torch: str
    """likewise"""
    revision: int
    """of the training loop"""
    rescale: bool | None = None
    """whether what compression carries over follows the learning rate; None: it does, or it
    carries nothing over"""


# --- studies --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CellKey(Key):
    """A training of a study, `OUT/cells/KEY.json`."""

    model: str
    """the architecture's name; changes of those that ship with robustkit raise `revision`"""
    data: Mapping[str, Any]
    """name and digest of the training images"""
    loss: str
    """its name, as with the model"""
    settings: Mapping[str, Any]
    """of the loss, defaults included: a changed default is another training"""
    recipe: Mapping[str, Any]
    """likewise in full"""
    noise: Mapping[str, Any]
    """kind and rate of label noise; the SHA-256 of the file that says which labels are wrong"""
    fraction: str
    """of the training images"""
    seed: int
    """of every draw"""
    revision: int
    """of what else decides on what the same cell comes to"""
    compress: str | None = None
    """the compression of gradients"""
    memory: bool | None = None
    """of the compression; None without one"""
    model_code: str | None = None
    """digest of the user's own file that the architecture stands in; None: it is robustkit's"""
    loss_code: str | None = None
    """likewise of the loss"""
    precision: str | None = None
    """of multiplications; None: as the device has it"""
    snapshots: Sequence[int] | None = None
    """passes after which its weights are kept, too: without them it lacks what is asked of it;
    None: none"""
    score: str | None = None
    """by which it is compared with other configurations where its history has to have more than
    held-out accuracy at the end of a period; None: by that"""
    processes: int | None = None
    """that share its batches; None: a single one"""
    training: int | None = None
    """revision of the training loop; None: the second, or before"""
    calibration: int | None = None
    """revision of what a calibrated likelihood is; None: it is not compared by that, or by the
    first"""
    rescale: bool | None = None
    """as in `TrainingKey`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCellKey(Key):
    """A network of a study that was trained elsewhere, likewise `OUT/cells/KEY.json`."""

    checkpoint: str
    """the file's path, as the study's pattern found it"""
    sha256: str
    """of the file: another file of the same name is another network"""
    model: str | None
    """the architecture, where the study names one"""
    fields: Mapping[str, str]
    """what the path says of its training"""
    model_code: str | None = None
    """as in `CellKey`"""
    sidecar: str | None = None
    """SHA-256 of the sidecar, which says how pixels are normalised; None: there is none"""
    revision: int | None = None
    """as in `CellKey`; None: the first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTestKey(Key):
    """An evaluation of a study's network, `OUT/tests/KEY.json`; it names the record."""

    cell: str
    """key of the network"""
    protocol: str
    """name of the attack"""
    epsilons: Sequence[str]
    """budgets; none for the protocol's own or the data set's usual"""
    limit: int | None
    """of the test images"""
    data: str
    """name of the test data"""
    split: str
    """of the test data"""
    images: str
    """digest of these images"""
    surrogate: str
    """key of the network that the attack works on; "" for the network itself"""
    norm: str | None = None
    """None: the attack's default"""
    passes: str | None = None
    """over the data, after which the network's weights are meant, a number or "chosen"; None: the
    last ones"""
    resolved: str | None = None
    """digest of the protocol with its budgets, where attack or data set are described by a file of
    the user's own; None: both ship with robustkit, and their changes raise the cell's revision"""
    precision: str | None = None
    """of the multiplications that the attack searches by, as it was asked for; None: float32"""
    attacks: int | None = None
    """revision of the attacks; None: the seventh or before, or there is none"""

    def plain(self) -> dict[str, Any]:
        """The key as JSON."""
        table = _plain(self)
        return table | {"digest": table.pop("images")}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimesKey(Key):
    """The times of training steps, `OUT/costs/ANALYSIS.json`; its digest stands in the file."""

    cells: Sequence[Mapping[str, Any]]
    """the trainings that are timed, in their order, each a `CellKey` as JSON"""
    device: str
    """kind of device: what is slow on one may be fast on another"""
    revision: int | None = None
    """of how steps are timed; None: the first"""
