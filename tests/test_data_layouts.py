"""Folders as archives and libraries leave them: splits without classes, original files."""

import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.travel import load_dataset
from PIL import Image

from robustkit.data import originals, read_dataset_spec
from robustkit.data.classes import WantedClasses
from robustkit.data.loading import file_stamps
from robustkit.errors import DataError

SYNSETS = ("n01443537", "n01629819", "n01641577")


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


def write_pictures(folder, names, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(folder / name)


def write_split(folder, classes, each=2):
    for number, name in enumerate(classes):
        write_pictures(folder / name, [f"{n}.png" for n in range(each)], hash_of(folder, number))


def hash_of(folder, number):
    return int.from_bytes(hashlib.sha256(f"{folder.name}{number}".encode()).digest()[:4], "big")


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet, as it is downloaded."""
    root = tmp_path / "tiny-imagenet-200"
    for number, name in enumerate(SYNSETS):
        write_pictures(
            root / "train" / name / "images", [f"{name}_{n}.png" for n in range(4)], number
        )
        (root / "train" / name / f"{name}_boxes.txt").write_text("x\t0\t0\t9\t9\n")
    for number, split in enumerate(("val", "test")):
        write_pictures(root / split / "images", [f"{split}_{n}.png" for n in range(7)], 9 + number)
    rows = [f"val_{n}.png\t{SYNSETS[(5 * n + 1) % 3]}\t0\t0\t9\t9" for n in range(7)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return root


def by_id(data):
    return dict(zip(data.ids, data.labels.tolist(), strict=True))


def test_tiny_imagenet_is_read_as_it_is_downloaded(tiny, tmp_path):
    train = load_dataset(tiny, split="train")
    assert by_id(train) == by_id(load_dataset(tiny / "train"))  # as ImageFolder has it
    assert train.classes == SYNSETS
    val = load_dataset(tiny, split="val")
    assert val.notes == (f"{tiny}/val: classes are those of val_annotations.txt",)
    for n in range(7):
        name = SYNSETS[(5 * n + 1) % 3]
        (tmp_path / "sorted" / name).mkdir(parents=True, exist_ok=True)
        picture = (tiny / "val" / "images" / f"val_{n}.png").read_bytes()
        (tmp_path / "sorted" / name / f"val_{n}.png").write_bytes(picture)
    apart = load_dataset(tmp_path / "sorted")
    assert (val.digest, val.ids, val.classes) == (apart.digest, apart.ids, SYNSETS)
    assert load_dataset(tiny / "val").digest == apart.digest
    listed = {one.path for one in file_stamps(str(tiny), "val", None)}
    assert str(tiny / "val" / "val_annotations.txt") in listed
    wanted = WantedClasses(names=SYNSETS[::-1], count=3)
    assert by_id(load_dataset(tiny, split="val", classes=wanted)) == {
        one: 2 - label for one, label in by_id(apart).items()
    }
    with one_line("test: its images are all in 'images', which is no class of train; sort them"):
        load_dataset(tiny)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_0.png\tn01443537\n", r"val_annotations.txt: 'val_1.png': is not listed"),
        ("WHOLEval_7.png\tn01443537\n", r"val_annotations.txt: 'val_7.png': no such file"),
        ("WHOLE../val_0.png\tn01443537\n", r"val_annotations.txt: '../val_0.png': no such file"),
        ("WHOLEval_0.png\tn01443537\n", "line 8: 'val_0.png' has another class before"),
        ("x", "line 1: expected an image's name and its class, with a tab between"),
        ("WHOLE\n", "line 8: expected"),
        ("\xff", "not readable as text"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_the_pictures_is_one_line(tiny, text, message):
    file = tiny / "val" / "val_annotations.txt"
    file.write_text(text.replace("WHOLE", file.read_text()), encoding="latin1")
    with one_line(message):
        load_dataset(tiny, split="val")


def test_a_list_is_not_asked_where_its_pictures_have_been_sorted(tiny):
    for n in range(7):
        place = tiny / "val" / SYNSETS[n % 3]
        place.mkdir(exist_ok=True)
        (tiny / "val" / "images" / f"val_{n}.png").rename(place / f"val_{n}.png")
    data = load_dataset(tiny, split="val")
    # as scripts leave it
    assert any(
        "no images in the class folder 'images', which still takes label 0" in w
        for w in data.warnings
    )
    (tiny / "val" / "images").rmdir()
    data = load_dataset(tiny, split="val")
    assert (data.classes, data.warnings) == (SYNSETS, ())
    assert sorted(data.labels) == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "network", [WantedClasses(), WantedClasses(count=3), WantedClasses(count=2)]
)
@pytest.mark.parametrize("own", ["unknown", "images", "Cat"])
def test_a_split_in_one_folder_of_no_class_shifts_no_label_and_has_none(tmp_path, own, network):
    write_split(tmp_path / "train", ["cat", "dog"])
    write_split(tmp_path / "val", ["dog"])
    write_split(tmp_path / "test", [own])
    if network.count != 3:  # which the folder has not, and had with the other split's
        train = load_dataset(tmp_path, split="train", classes=network)
        assert (train.classes, sorted(train.labels)) == (("cat", "dog"), [0, 0, 1, 1])
        # one class that is known is a class
        assert load_dataset(tmp_path, split="val", classes=network).labels.tolist() == [1, 1]
    with one_line(f"test: its images are all in '{own}', which is no class of train; sort them"):
        load_dataset(tmp_path, classes=network)


def test_splits_without_a_class_in_common_are_numbered_each_by_itself(tmp_path):
    write_split(tmp_path / "train", ["n01", "n02", "n03"])
    write_split(tmp_path / "val", ["fox", "owl", "ant"])
    write_split(tmp_path / "test", ["ant", "bee"])
    assert load_dataset(tmp_path, split="train").classes == ("n01", "n02", "n03")
    for split, first in (("val", "ant"), ("test", "ant")):
        with one_line(
            f"{split}: none of its . class folders .'{first}', ….* those of train .'n01', "
        ):
            load_dataset(tmp_path, split=split)
    assert load_dataset(tmp_path / "val").classes == ("ant", "fox", "owl")
    # whoever says what the classes are has said which they have in common
    (tmp_path / "own.toml").write_text(
        'title = "t"\nsource = "."\nsplits = ["val"]\n'
        'classes = ["a", "b", "c", "d", "e"]\nfolders = ["owl", "fox", "ant", "bee", "n01"]\n'
    )
    assert sorted(set(load_dataset(str(tmp_path / "own.toml"), split="val").labels)) == [0, 1, 2]


def test_splits_share_classes_by_way_of_others(tmp_path):
    write_split(tmp_path / "train", ["a", "b"])
    write_split(tmp_path / "test", ["b", "c"])
    write_split(tmp_path / "val", ["c", "d"])
    for split in ("train", "test", "val"):
        assert load_dataset(tmp_path, split=split).classes == tuple("abcd")


@pytest.mark.parametrize(
    ("train", "test", "refused"),
    [
        (["images"], ["cat", "dog"], "train"),
        (["cat"], ["images"], "test"),
        (["images"], ["images"], ""),
        (["cat", "dog"], ["cat"], ""),
    ],
)
def test_of_two_splits_that_which_has_classes_is_read(tmp_path, train, test, refused):
    write_split(tmp_path / "train", train)
    write_split(tmp_path / "test", test)
    for split in ("train", "test"):
        if split == refused:
            with one_line(f"{split}: its images are all in 'images', which is no class of"):
                load_dataset(tmp_path, split=split)
        else:
            own = {*train, *test} if not refused else {"train": {*train}, "test": {*test}}[split]
            assert load_dataset(tmp_path, split=split).classes == tuple(sorted(own))


# original files


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


CONTENTS = {
    "t10k-images-idx3-ubyte": idx(np.arange(32).reshape(2, 4, 4)),
    "t10k-labels-idx1-ubyte": idx(np.arange(2)),
}


@pytest.fixture
def left(tmp_path, monkeypatch):
    """What torchvision leaves of several data sets under a root, in the working directory."""
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    for kind, add in (("MNIST", b""), ("FashionMNIST", b"f"), ("KMNIST", b"k")):
        raw = root / kind / "raw"
        raw.mkdir(parents=True)
        for name, content in CONTENTS.items():
            changed = content[: len(content) - len(add)] + add
            (raw / name).write_bytes(changed)
            (raw / f"{name}.gz").write_bytes(gzip.compress(changed))
    for folder, file in (("cifar-10-batches-py", "test_batch"), ("cifar-100-python", "test")):
        (root / folder).mkdir()
        (root / folder / file).write_bytes(b"\x80\x02}q.")
    (root / "svhn").mkdir()
    (root / "svhn" / "test_32x32.mat").write_bytes(b"MATLAB")

    def known(name):
        spec = read_dataset_spec(name)
        if name not in ("mnist", "fashion-mnist"):
            return spec
        raw = root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
        digests = {one: hashlib.sha256((tmp_path / raw / one).read_bytes()) for one in CONTENTS}
        return replace(spec, sha256={one: found.hexdigest() for one, found in digests.items()})

    monkeypatch.setattr(originals, "read_dataset_spec", known)
    return root


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("MNIST/raw/t10k-images-idx3-ubyte.gz", "mnist --data-root data/MNIST/raw"),
        ("MNIST/raw/t10k-images-idx3-ubyte", "mnist --data-root data/MNIST/raw"),
        ("MNIST/raw", "mnist --data-root data/MNIST/raw"),
        ("MNIST", "mnist --data-root data/MNIST/raw"),
        ("FashionMNIST/raw", "fashion-mnist --data-root data/FashionMNIST/raw"),
        ("FashionMNIST", "fashion-mnist --data-root data/FashionMNIST/raw"),
        ("cifar-10-batches-py", "cifar10 --data-root data"),
        ("cifar-10-batches-py/test_batch", "cifar10 --data-root data"),
        ("cifar-100-python", "cifar100 --data-root data"),
        ("svhn", "svhn --data-root data/svhn"),
        ("svhn/test_32x32.mat", "svhn --data-root data/svhn"),
    ],
)
def test_originals_are_told_by_which_name_they_are_read(left, path, way, split, monkeypatch):
    told = "original files of a known data set, which is read by its name; give --data "
    with one_line(f"{told}{way}$"):
        load_dataset(f"./data/{path}", split=split)
    whole = way.replace(" data", f" {Path.cwd()}/data")
    with one_line(f"{told}{whole}$"):
        load_dataset(Path.cwd() / "data" / path, split=split)
    if (left / path).is_dir():
        monkeypatch.chdir(left / path)
        root = Path(whole.split()[-1])
        name, _ = way.split(" ", 1)
        with one_line(f"{told}{name} --data-root {os.path.relpath(root)}$"):
            load_dataset("./", split=split)


def test_a_root_of_several_data_sets_has_all_of_them_named(left):
    for file in (left / "KMNIST" / "raw").iterdir():
        file.unlink()
    with one_line(
        "--data fashion-mnist --data-root data/FashionMNIST/raw, or --data mnist --data-root "
        "data/MNIST/raw, or --data cifar10 --data-root data, or --data cifar100 --data-root data, "
        "or --data svhn --data-root data/svhn"
    ):
        load_dataset("data/")


def test_idx_of_no_known_data_set_is_not_told_to_be_unpacked(left):
    for path in ("raw", "raw/t10k-images-idx3-ubyte.gz"):
        with one_line("IDX, of which the originals of mnist and fashion-mnist are read"):
            load_dataset(f"./data/KMNIST/{path}")
    for name in ("emnist-letters-test-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"):
        content = (left / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
        (left / name).write_bytes(content)
        with one_line("IDX, of which the originals .* by their own names"):
            load_dataset(left / name)


def test_originals_beside_a_path_are_not_those_at_it(left):
    (left / "empty").mkdir()
    with one_line("empty: no images in class folders"):
        load_dataset(f"./{left}/empty")
    (left / "notes.gz").write_bytes(b"x")
    with one_line("notes.gz: expected a folder, .*; extract the archive"):
        load_dataset(left / "notes.gz")
