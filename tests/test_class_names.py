"""Names of classes beside a file's weights: the data's classes are matched with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustkit import read_checkpoint
from robustkit.checkpoint.description import describe
from robustkit.errors import DataError
from robustkit.evaluation import images_for
from robustkit.models import build

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
SWAPPED = ("ant", "bee", "cat", "fox", "elk", "dog", "gnu", "hen", "ibis", "jay")
NUMBERS = {name: number for number, name in enumerate(SWAPPED)}
WAYS = {
    "class_to_idx": NUMBERS,
    "label2id": NUMBERS,
    "idx_to_class": dict(enumerate(SWAPPED)),
    "id2label": {str(number): name for number, name in enumerate(SWAPPED)},
    "classes": list(SWAPPED),
    "class_names": SWAPPED,
    "classes, as a table": NUMBERS,
    "class_to_idx, of tensors": {name: torch.tensor(number) for name, number in NUMBERS.items()},
    "class_to_idx, of texts": {name: str(number) for name, number in NUMBERS.items()},
}
OTHER = {
    "classes, a number": 10,
    "classes, numbers": list(range(10)),
    "classes, one twice among numbers": {"ant": 0, "bee": 0, "cat": 1},
    "class_names, from 1": {name: number + 1 for name, number in NUMBERS.items()},
    "classes, some": [*NAMES[:9], None],
    "classes, lists": [[name] for name in NAMES],
    "classes, a tensor": torch.arange(10),
    "classes, not printable": [*NAMES[:9], "\x1b[31m"],
    "classes, too long": [*NAMES[:9], "x" * 10_000],
    "classes, nothing": [],
}


def saved(path: Path, **beside: object) -> Path:
    torch.save({"state_dict": build("lenet5", seed=0).state_dict(), **beside}, path)
    return path


def folder(path: Path, names: tuple[str, ...]) -> Path:
    for number, name in enumerate(names):
        (path / name).mkdir(parents=True)
        Image.fromarray(np.full((28, 28), 20 * number, np.uint8)).save(path / name / "0.png")
    return path


def labels_of(data):
    """The label of each picture, in the order in which `folder` made them."""
    number = (data.images(0, 10).mean((1, 2, 3)) * 255 / 20).round().astype(int)
    return data.labels[number.argsort()].tolist()


def read(tmp_path, way, value):
    beside = {way.partition(",")[0]: value}
    return read_checkpoint(saved(tmp_path / "c.pt", **beside), model="lenet5")


@pytest.mark.parametrize("way", WAYS)
def test_the_classes_of_a_folder_get_the_numbers_that_the_file_has_for_their_names(way, tmp_path):
    found = read(tmp_path, way, WAYS[way])
    assert found.label_names == SWAPPED
    assert any(
        label == "labels" and "ant, bee, cat, fox" in text for label, text in describe(found)
    )
    data = images_for(found, folder(tmp_path / "d", NAMES))
    assert data.source["class_map"]["by"] == "name"
    assert labels_of(data) == [0, 1, 2, 5, 4, 3, 6, 7, 8, 9]
    assert any("'dog' is 5" in note for note in data.notes)


@pytest.mark.parametrize("place", ["args", "hyper_parameters"])
def test_names_in_the_settings_of_a_script_count(place, tmp_path):
    found = read(tmp_path, place, {"class_names": list(SWAPPED), "lr": 0.1})
    assert found.label_names == SWAPPED


@pytest.mark.parametrize("way", OTHER)
def test_what_is_no_list_of_names_is_passed_over(way, tmp_path):
    found = read(tmp_path, way, OTHER[way])
    assert found.label_names == ()
    assert found.identity == read_checkpoint(saved(tmp_path / "plain.pt"), model="lenet5").identity


def test_names_change_no_identity(tmp_path):
    plain = read_checkpoint(saved(tmp_path / "plain.pt"), model="lenet5")
    assert plain.label_names == ()
    assert read(tmp_path, "classes", list(NAMES)).identity == plain.identity


def test_digits_are_names_like_others(tmp_path):
    turned = {str(9 - number): number for number in range(10)}
    found = read(tmp_path, "class_to_idx", turned)
    digits = tuple(map(str, range(10)))
    data = images_for(found, folder(tmp_path / "d", digits))
    assert labels_of(data) == list(range(10))[::-1]
    # and those of arrays of bytes are nothing but numbers
    same = read(tmp_path, "class_to_idx", {str(number): number for number in range(10)})
    assert labels_of(images_for(same, tmp_path / "d")) == list(range(10))


def test_names_that_no_folder_has_are_told(tmp_path):
    found = read(tmp_path, "classes", [name.upper() + "s" for name in NAMES])
    with pytest.raises(DataError, match=r"as the checkpoint names them.*--classes"):
        images_for(found, folder(tmp_path / "d", NAMES))


def test_names_of_another_number_of_classes_are_told_and_not_used(tmp_path):
    found = read(tmp_path, "classes", list(NAMES[:9]))
    assert found.label_names == ()
    assert "names 9 classes, but the network has 10: these names are not used" in found.notes


def test_names_that_contradict_each_other_are_told_and_not_used(tmp_path):
    path = saved(tmp_path / "c.pt", class_to_idx=NUMBERS, classes=list(NAMES))
    found = read_checkpoint(path, model="lenet5")
    assert found.label_names == ()
    (warning,) = [text for text in found.warnings if "classes" in text]
    assert warning.startswith("class_to_idx and classes in the file number the classes differently")
    path = saved(tmp_path / "c.pt", class_to_idx=NUMBERS, classes=list(SWAPPED))
    assert read_checkpoint(path, model="lenet5").label_names == SWAPPED
