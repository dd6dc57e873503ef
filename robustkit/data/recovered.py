"""Which labels a training was given: recomputed from data, seed and settings, and checked.

A checkpoint's record has counts and digests, not the labels themselves.
"""

import csv
import io
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from robustkit.data.dataset import Dataset
from robustkit.data.noise import FROM_FILE, LabelNoise, parse_label_noise
from robustkit.data.subset import Part, TrainingData, prepare_training_data
from robustkit.errors import DataError, InputError, one_line

COLUMNS = ("sample", "index", "clean", "given", "held_out")
"""of the file: id of the image, its place in the split, labels, and whether it is held out"""
DIGESTS = (
    ("images", "ids"),
    ("labels' file", "noise.file.sha256"),
    ("clean labels", "noise.clean_labels"),
    ("given labels", "noise.given_labels"),
)
"""what is held against the record of each part, and where it stands there"""


class Flips(NamedTuple):
    """What became of a class's labels."""

    name: str
    images: int
    """trained on"""
    wrong: int
    """of these"""
    held_out: int
    held_out_wrong: int


def recover(dataset: Dataset, record: Mapping[str, Any], kind: str | None = None) -> TrainingData:
    """The images and labels of a training, as its record's digests confirm.

    Args:
        dataset: the split that was trained on.
        record: what the checkpoint says of the data, as `TrainingData.record` has it and more.
        kind: of the noise, with its file, where it was read from one: "file:PATH#COLUMN".

    Raises:
        InputError: a record that is none, or noise from a file that is not given.
        DataError: other data, another file, or labels with other digests.
    """
    if dataset.digest != _at(record, "digest"):
        raise DataError(
            f"{dataset.name} {dataset.split}: not the images and labels of this training, "
            "by their digest; give the same --data, --split, --resize, --interpolation, "
            "--crop and --channels"
        )
    try:
        training = prepare_training_data(
            dataset,
            hold_out=record["hold_out"],
            fraction=record["fraction"],
            noise=_noise(record["train"]["noise"], kind),
            seed=record["seed"],
            clean_selection=record["selection"] == "clean labels",
        )
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"the record of the training is incomplete: {one_line(error)}") from error
    _check(training, record)
    return training


def _noise(recorded: Mapping[str, Any], kind: str | None) -> LabelNoise:
    """The noise that a record tells of."""
    rate, name = recorded["rate"], recorded["kind"]
    if name not in FROM_FILE:
        return parse_label_noise(name, rate, stratified=recorded["stratified"])
    if kind is None or kind.partition(":")[0] != name:
        raise InputError(
            f"the labels were replaced from the file {recorded['file']['name']}; give it "
            f"with --noise-kind {name}:PATH"
        )
    return parse_label_noise(kind, rate, stratified=recorded["stratified"])


def _check(training: TrainingData, record: Mapping[str, Any]) -> None:
    """Raise DataError unless images and labels have the digests of the record."""
    found = training.record()
    for part in ("train", "held_out"):
        for what, path in DIGESTS:
            if _at(found[part], path) != _at(record.get(part), path):
                raise DataError(
                    f"the {what} of the part {part!r} are not those of the training, by "
                    "their digest"
                )


def _at(table: Any, path: str) -> Any:
    """What stands at a dotted path of a table; None if nothing does."""
    for key in path.split("."):
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def flips(dataset: Dataset, training: TrainingData) -> list[Flips]:
    """How many labels of each class are wrong."""
    parts = (training.train, training.held_out)
    columns = (column for part in parts for column in _counts(part, len(dataset.classes)))
    return [Flips(*row) for row in zip(dataset.classes, *columns, strict=True)]


def _counts(part: Part | None, classes: int) -> list[list[int]]:
    """Images by clean label, and those of them with a wrong one, each [K]."""
    if part is None:
        return [[0] * classes] * 2
    clean, wrong = part.noisy_labels.clean, part.noisy_labels.flipped
    return [np.bincount(found, minlength=classes).tolist() for found in (clean, clean[wrong])]


def table(dataset: Dataset, training: TrainingData) -> bytes:
    """CSV with `COLUMNS`, an image a row, in the order of the data set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    parts = [(training.train, "false"), (training.held_out, "true")]
    rows = [row for part, held in parts if part is not None for row in _rows(dataset, part, held)]
    rows.sort(key=itemgetter(1))
    writer.writerows(rows)
    return text.getvalue().encode()


def _rows(dataset: Dataset, part: Part, held_out: str) -> list[tuple[str, int, int, int, str]]:
    columns = (part.positions, part.noisy_labels.clean, part.labels)
    triples = zip(*(column.tolist() for column in columns), strict=True)
    return [(dataset.ids[index], index, clean, given, held_out) for index, clean, given in triples]
