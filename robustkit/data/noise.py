"""Label noise: training labels made wrong, by an exact number, and the record of it.

Which images get a wrong label, and which label, follows from the seed and the images' ids: it
depends neither on the order of the data nor on what is trained. The wrong labels at a lower rate
are among those at a higher one, and an image's wrong label is the same at both.

A matrix or a file of labels says more than a rate: who is wrong there depends on the class, or on
what people thought they saw.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from robustkit.data.dataset import Dataset
from robustkit.data.draws import Positions, generator, interleave, numbers, shuffled, uniform
from robustkit.data.labelfile import UNIT, read_labels, read_matrix
from robustkit.data.pixels import Labels
from robustkit.errors import InputError, UnknownName
from robustkit.files import digest, file_digest
from robustkit.parsing import fraction

Kind = Literal["symmetric", "symmetric-any", "pair", "instance", "matrix", "file"]
FROM_FILE = ("matrix", "file")
"""kinds that read a file, and may take the rate from it"""
WHICH, LABEL = "label noise/1 which", "label noise/1 label"
WEIGHTS, TURNS = "label noise/1 weights", "label noise/1 turns"
"""purposes of draws"""
BLOCK = 256
"""images read at a time"""
LARGEST = 2**30
"""bytes of weights that instance-dependent noise may take"""


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """A kind of label noise.

    - symmetric: one of the other classes, each as likely as the next.
    - symmetric-any: one of all classes, so that a label may come out as it was, and about a K-th
      of the chosen ones do; the convention of part of the literature.
    - pair: the next class, and after the last one the first.
    - instance: a class that depends on the pixels (Xia et al. 2020, Part-dependent label noise,
      algorithm 2).
    - matrix: class-dependent, by a file's probabilities of given labels (columns) for clean ones
      (rows). A rate scales what is off the diagonal; without one the matrix itself gives it.
    - file: the labels of a file, such as those of CIFAR-10N, one per image of the whole split.
    """

    kind: Kind = "symmetric"
    rate: Fraction | None = Fraction(0)
    """share of labels to be replaced; None: as the file says"""
    stratified: bool = False
    """the rate holds in every class, rounded up or down; with a matrix the classes' shares always
    do, and a file's labels are what they are"""
    path: Path | None = None
    column: str = ""
    """which of the file's labels, where it has several"""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnknownName("kind of label noise", self.kind, get_args(Kind))
        if (self.path is not None) != (self.kind in FROM_FILE):
            expected = "needs a file: give" if self.path is None else "takes no file: give"
            form = f"{self.kind}:PATH" if self.path is None else self.kind
            raise InputError(f"label noise: {self.kind} {expected} {form!r}")
        if self.rate is None and self.kind not in FROM_FILE:
            raise InputError(f"label noise: {self.kind} needs a rate such as 0.4")
        if self.rate is not None and self.kind == "file":
            raise InputError("label noise: a label file has its own rate; give none")
        if self.rate is not None and not isinstance(self.rate, Fraction | int):
            raise InputError(f"label noise: the rate must be a Fraction, got {self.rate!r}")
        if self.rate is not None and not 0 <= self.rate < 1:
            raise InputError(f"label noise: the rate must be from 0 to below 1, got {self.rate}")


def parse_label_noise(
    kind: str = "symmetric", rate: str | None = None, *, stratified: bool = False
) -> LabelNoise:
    """Label noise from what a user wrote.

    Args:
        kind: a kind; those that read a file as `matrix:PATH`, `file:PATH` or `file:PATH#COLUMN`.
        rate: such as "0.4" or "2/5"; None is no noise, or as the file says.
        stratified: whether the rate holds in every class.

    Raises:
        InputError: an unknown kind, a rate outside [0, 1), a file missing or too much.
    """
    word, _, rest = kind.partition(":")
    path, _, column = rest.partition("#")
    value = fraction(rate, "--label-noise") if rate is not None else None
    if value is None and kind == "symmetric":
        value = Fraction(0)
    file = Path(path) if path else None
    return LabelNoise(word, value, stratified, file, column)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class NoisyLabels:
    """Labels as they are given to the training, beside the clean ones."""

    noise: LabelNoise
    seed: int
    clean: Labels
    """[N], read-only"""
    labels: Labels
    """the given ones, [N], read-only"""
    file: dict[str, str]
    """name and SHA-256 of the matrix or the labels; empty where there is none"""

    @property
    def flipped(self) -> npt.NDArray[np.bool_]:
        """Where the given label is not the clean one, [N]."""
        changed: npt.NDArray[np.bool_] = self.labels != self.clean
        return changed

    def record(self) -> dict[str, Any]:
        """What was asked and what came of it, as JSON."""
        flipped, total = int(self.flipped.sum()), len(self.labels)
        asked = self.noise.rate
        return {
            "kind": self.noise.kind,
            "rate": None if asked is None else written(asked),
            "stratified": self.noise.stratified,
            "seed": self.seed,
            "flipped": flipped,
            "total": total,
            "realised": flipped / total if total else 0.0,
            "clean_labels": label_digest(self.clean),
            "given_labels": label_digest(self.labels),
            **({"file": self.file} if self.file else {}),
        }


def written(value: Fraction) -> str:
    """An exact number as text, as a decimal where that is exact: "0.4", "1/3", "500"."""
    decimal = repr(float(value)).removesuffix(".0")
    return decimal if Fraction(decimal) == value else str(value)


def label_digest(labels: Labels) -> str:
    """SHA-256 of labels as little-endian 64-bit integers."""
    return digest(labels.astype("<i8").tobytes())


def apply_label_noise(
    dataset: Dataset, positions: Positions, noise: LabelNoise, seed: int
) -> NoisyLabels:
    """The labels of a part of a data set, some of them made wrong.

    Exactly `round(rate * N)` labels are replaced (a half to the even number); all but those of
    `symmetric-any` then differ from the clean ones.

    Args:
        dataset: the whole split.
        positions: of the part's images, [N].
        noise: what is done.
        seed: of all draws.

    Raises:
        InputError: fewer than two classes, or a rate that the matrix cannot give.
        DataError: the file cannot be read or does not fit the data set.
    """
    part = _Part(dataset, positions, seed)
    if noise != LabelNoise() and len(dataset.classes) < 2:
        raise InputError("label noise needs at least two classes; the data set has one")
    labels = _given(part, noise)
    for array in (clean := part.clean, labels):
        array.setflags(write=False)
    file = {"name": noise.path.name, "sha256": file_digest(noise.path)} if noise.path else {}
    return NoisyLabels(noise, seed, clean, labels, file)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The images whose labels are to be corrupted."""

    dataset: Dataset
    positions: Positions
    seed: int

    @property
    def clean(self) -> Labels:
        return self.dataset.labels[self.positions]

    @property
    def classes(self) -> int:
        return len(self.dataset.classes)

    def ids(self, rows: Positions) -> Iterator[str]:
        """Of the part's images in these rows."""
        return (self.dataset.ids[position] for position in self.positions[rows].tolist())

    def order(self, *, stratified: bool) -> Positions:
        """Rows in the order in which they lose their labels, [N]."""
        keys = numbers(WHICH, self.seed, self.ids(np.arange(len(self.positions))))
        return shuffled(keys, self.clean, stratified=stratified)

    def draw(self, rows: Positions) -> npt.NDArray[np.float64]:
        """What decides on the new label, in [0, 1)."""
        return uniform(LABEL, self.seed, self.ids(rows))


def _given(part: _Part, noise: LabelNoise) -> Labels:
    """The labels after noise, [N]."""
    if noise.path is not None:
        read = _from_file if noise.kind == "file" else _by_matrix
        return read(part, noise, noise.path)
    labels = part.clean
    # a beginning of one order for all rates, and each image's draw its own: so flips are nested,
    # and an image that is mislabelled at two rates has the same wrong label at both
    rows = part.order(stratified=noise.stratified)[: round((noise.rate or 0) * len(labels))]
    labels[rows] = NEW[noise.kind](part, rows)
    return labels


def _symmetric(part: _Part, rows: Positions) -> Labels:
    old = part.clean[rows]
    # one of K − 1 numbers, of which those from the old class on move up by one: never the old class
    new = (part.draw(rows) * (part.classes - 1)).astype(np.int64)
    return new + (new >= old)


def _symmetric_any(part: _Part, rows: Positions) -> Labels:
    return (part.draw(rows) * part.classes).astype(np.int64)


def _pair(part: _Part, rows: Positions) -> Labels:
    return (part.clean[rows] + 1) % part.classes


def _instance(part: _Part, rows: Positions) -> Labels:
    """Xia et al. 2020 (Part-dependent label noise), algorithm 2, given how many labels change.

    An image x of class y gets class j with probability p_j = q · softmax_{j ≠ y}(x · w_yj), and
    keeps y with 1 − q. The w_yj are standard normal, one vector of pixels for each pair of classes.

    In the paper q is drawn for each image from a normal of standard deviation 0.1 around the asked
    rate, cut to [0, 1], whatever the pixels are. So given the number of changes, each choice of
    that many images is as likely as the next, which is how they are chosen here too; and the spread
    of the normal has no influence.
    """
    weights = _weights(part, np.unique(part.clean[rows]))
    new = part.clean[rows]
    for places, pixels in _blocks(part, rows):
        draws = part.draw(rows[places])
        for label in np.unique(old := part.clean[rows[places]]):
            same = old == label
            new[places[same]] = _pick(pixels[same] @ weights[label], label, draws[same])
    return new


def _weights(part: _Part, labels: Labels) -> dict[int, npt.NDArray[np.float64]]:
    """Standard normal weights, pixels x classes, per label."""
    shape = (int(np.prod(part.dataset.shape)), part.classes)
    if (size := len(labels) * shape[0] * shape[1] * 8) > LARGEST:
        raise InputError(
            f"label noise: instance needs {size / 2**30:.3g} GiB of weights for "
            f"{len(labels)} classes of {shape[0]} values per image, more than "
            f"{LARGEST / 2**30:.3g}; use smaller images (--resize, --crop) or another kind"
        )
    return {
        label: generator(WEIGHTS, part.seed, label).standard_normal(shape)
        for label in labels.tolist()
    }


def _blocks(part: _Part, rows: Positions) -> Iterator[tuple[Positions, npt.NDArray[np.float64]]]:
    """Places in `rows`, n, and their pixels, n x (C·H·W), read in the order of the data set."""
    positions = part.positions[rows]
    order = np.argsort(positions)
    for places in np.split(order, np.flatnonzero(np.diff(positions[order] // BLOCK)) + 1):
        if places.size:
            start, stop = positions[places[0]], positions[places[-1]] + 1
            block = part.dataset.images(int(start), int(stop))[positions[places] - start]
            # in double precision rounding, which depends on the block, decides on no label
            yield places, block.reshape(len(block), -1).astype(np.float64)


def _pick(
    scores: npt.NDArray[np.float64], label: int, draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Per row of N x K the class that a number in [0, 1) picks from the softmax without `label`."""
    scores[:, label] = -np.inf
    # the inverse of the distribution function, unnormalised; less the largest, so that exp stays
    # finite; `<=`, so that the class of probability 0 is passed over even by a draw of 0
    total = np.exp(scores - scores.max(1, keepdims=True)).cumsum(1)
    picked: npt.NDArray[np.int64] = (total <= draws[:, np.newaxis] * total[:, -1:]).sum(1)
    return picked


NEW = {
    "symmetric": _symmetric,
    "symmetric-any": _symmetric_any,
    "pair": _pair,
    "instance": _instance,
}
"""new labels by kind, of the part's images in these rows"""


def _from_file(part: _Part, noise: LabelNoise, path: Path) -> Labels:
    # a file has the order of the stored split, of which a data set may be a shuffled beginning
    stored, places = part.dataset._source.labels, part.dataset._positions
    return read_labels(path, noise.column, stored, part.classes)[places[part.positions]]


def _by_matrix(part: _Part, noise: LabelNoise, path: Path) -> Labels:
    """Labels by a matrix: images lose theirs in their class's order, and the new ones take turns.

    So a cell of the matrix gets its share of the images up to rounding, and exactly where the
    shares are whole; a lower rate takes the beginning of every class's order and of its turns.
    """
    matrix = read_matrix(path, part.classes)
    clean = part.clean
    labels, order = clean.copy(), part.order(stratified=False)
    by_class = order[np.argsort(clean[order], kind="stable")]
    ends = np.bincount(clean, minlength=len(matrix)).cumsum()
    changes = _changes(matrix, clean, noise.rate, path)
    for label, (rows, count) in enumerate(zip(np.split(by_class, ends[:-1]), changes, strict=True)):
        labels[rows[:count]] = _turns(matrix[label], label, count, part.seed)
    return labels


def _changes(matrix: Labels, clean: Labels, rate: Fraction | None, path: Path) -> list[int]:
    """How many images of each class, [K], get another label."""
    sizes = np.bincount(clean, minlength=len(matrix)).tolist()
    changed = np.rint((1 - np.diag(matrix) / matrix.sum(1)) * UNIT).astype(np.int64).tolist()
    weights = [size * share for size, share in zip(sizes, changed, strict=True)]
    own = Fraction(sum(weights), UNIT * len(clean))
    occurring = [share for size, share in zip(sizes, changed, strict=True) if size]
    most = own * UNIT / max(occurring) if own else Fraction(0)
    # scaled to another rate, each class changes in proportion; the one that changes most must not
    # run out of images
    rate = own if rate is None else rate
    if rate > most:
        raise InputError(
            f"label noise: {path} scaled to the rate {written(rate)} would change more labels of "
            f"a class than it has; the highest rate is {float(most):.6g}"
        )
    turns = interleave(weights, round(rate * len(clean)))
    counts: list[int] = np.bincount(turns, minlength=len(matrix)).tolist()
    return counts


def _turns(row: Labels, label: int, count: int, seed: int) -> Labels:
    """The new labels of a class, in the order in which its images get them, [count]."""
    # in an order of its own per class, so that ties do not always favour the first classes
    names = (f"{label} {other}" for other in range(len(row)))
    order = np.argsort(numbers(TURNS, seed, names))
    weights = np.where(order == label, 0, row[order])
    return order[interleave(weights.tolist(), count)]
