import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from http.client import IncompleteRead
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from helpers.travel import load_dataset
from PIL import Image

from robustkit.data import from_arrays, originals, read_dataset_spec
from robustkit.data.loading import corruption_splits, file_stamps
from robustkit.data.originals import downloads
from robustkit.data.parquet import PAGE, ParquetSource
from robustkit.data.pipeline import Pipeline
from robustkit.errors import DataError, EvaluationFailed, UnknownName
from robustkit.files import file_digest, is_own

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


NO_BYTES = pa.array(
    [{"bytes": None, "path": "a.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
)


def some_images(n=6, channels=1, height=4, width=5, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, channels, height, width), np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def ids_of(images):
    return from_arrays(images, np.zeros(len(images), int), name="own").ids


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


# IDX


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path):
    """A data set's file whose original is MNIST by layout, without known digests."""
    file = tmp_path / "digits.toml"
    file.write_text(
        'title = "t"\nsource = "torchvision:MNIST"\nsplits = ["train", "test"]\n'
        'classes = ["0", "1", "2"]\nshape = [1, 4, 5]\n'
    )
    return str(file)


def write_idx(folder, images, labels, suffix="", prefix="t10k"):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix else bytes
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images[:, 0])))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["MNIST/raw", "."])
def test_idx_is_read_flat_or_in_torchvisions_layout_gzipped_or_not(tmp_path, digits, place, suffix):
    images, labels = some_images(), np.array([2, 0, 1, 0, 2, 1])
    write_idx(tmp_path / "root" / place, images, labels, suffix)
    data = load_dataset(digits, root=tmp_path / "root")
    assert data.ids == ids_of(images)
    assert data.labels.tolist() == labels.tolist()
    assert (data.order, data.split) == ("as stored", "test")


def test_idx_of_another_data_set_under_the_same_file_names_is_refused(tmp_path):
    write_idx(tmp_path, some_images(), np.zeros(6))
    with one_line("not the original t10k-images-idx3-ubyte of this data set"):
        load_dataset("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (HTML, "web page"),
        (idx(some_images()[:, 0])[:-3], "117 bytes after the header, expected 120"),
        (idx(some_images()[:, 0]) + b"x", "121 bytes after the header, expected 120"),
        (gzip.compress(idx(some_images()[:, 0]))[:-9], "damaged or truncated"),
        (b"\0\0\x0d\x03" + bytes(12), "not an IDX file of bytes"),
        (b"\0\0\x08\xff", "not an IDX file of bytes"),
        (idx(some_images(5)[:, 0]), "5 images but 6 labels"),
        (idx(some_images(6, 1, 9, 9)[:, 0]), "images of 1x9x9, expected 1x4x5"),
    ],
)
def test_a_broken_idx_file_is_one_line_that_names_it(tmp_path, digits, content, message):
    write_idx(tmp_path, some_images(), np.arange(6) % 3)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
    with one_line(message):
        load_dataset(digits, root=tmp_path)


def test_a_label_outside_the_classes_is_named(tmp_path, digits):
    write_idx(tmp_path, some_images(), np.array([0, 1, 2, 3, 0, 0]))
    with one_line("image 3 has label 3, but there are 3 classes"):
        load_dataset(digits, root=tmp_path)


def test_images_without_their_labels_are_not_passed_over(tmp_path, digits):
    write_idx(tmp_path, some_images(), np.zeros(6))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with one_line("t10k-labels-idx1-ubyte.* is missing"):
        load_dataset(digits, root=tmp_path)


# npz


@pytest.mark.parametrize(
    ("layout", "stored"),
    [
        ("NCHW", some_images(4, 3)),
        ("NHWC", some_images(4, 3).transpose(0, 2, 3, 1)),
        ("NHW", some_images(4)[:, 0]),
        ("NCHW", some_images(4, 3, 4, 3)),
    ],
)
def test_the_layout_of_an_npz_is_recognised_and_recorded(tmp_path, layout, stored):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, x=stored, y=np.array([[1], [0], [1], [0]], np.uint8))
    data = load_dataset(str(path))
    assert data.source["layout"] == layout
    expected = some_images(4, *data.shape)
    assert data.ids == ids_of(expected)
    assert (data.split, data.classes, data.name) == ("all", ("0", "1"), "own")


def test_the_splits_of_an_npz_are_told_apart(tmp_path):
    path = tmp_path / "own.npz"
    images = some_images(6)
    np.savez(path, x_train=images[:4], y_train=[1, 0, 1, 0], x_test=images[4:], y_test=[1, 0])
    assert load_dataset(str(path)).ids == ids_of(images[4:])
    assert load_dataset(str(path), split="train").ids == ids_of(images[:4])
    with one_line("no split 'val'; it has: train, test"):
        load_dataset(str(path), split="val")


def test_class_names_in_an_npz_are_used(tmp_path):
    np.savez(tmp_path / "a.npz", images=some_images(2), labels=[1, 0], classes=["cat", "dog"])
    assert load_dataset(str(tmp_path / "a.npz")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pictures": some_images(), "labels": np.zeros(6, int)}, "it has: pictures, labels"),
        ({"images": some_images(), "labels": np.zeros(6, object)}, "Python objects"),
        ({"images": some_images(), "labels": np.zeros(5, int)}, "6 images but 5 labels"),
        (
            {"images": some_images() * 1.0, "labels": np.zeros(6, int)},
            "outside 0 to 1; store uint8",
        ),
        ({"images": some_images(0), "labels": np.zeros(0, int)}, "no images"),
    ],
)
def test_an_npz_that_makes_no_sense_is_one_line(tmp_path, given, message):
    path = tmp_path / "own.npz"
    np.savez(path, **given)
    with one_line(message):
        load_dataset(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda good: b"", "the file is empty"),
        (lambda good: HTML, "web page"),
        (lambda good: good[: len(good) // 2], "damaged or truncated"),
        (lambda good: good[:200] + bytes(50) + good[250:], "damaged or truncated"),
    ],
)
def test_a_broken_npz_is_one_line_that_names_it(tmp_path, change, message):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, images=some_images(20), labels=np.zeros(20, int))
    path.write_bytes(change(path.read_bytes()))
    with one_line(rf"own\.npz: .*{message}"):
        load_dataset(str(path))


@pytest.mark.parametrize("kind", ["parquet", "npz", "memory"])
def test_a_split_whose_labels_are_kept_back_is_told_as_such(tmp_path, kind):
    images = some_images(4)
    with one_line(r"no image has a label \(all are −1\).*choose another split"):
        if kind == "memory":
            from_arrays(images, [-1] * 4, name="own")
        elif kind == "npz":
            np.savez(tmp_path / "own.npz", images=images, labels=np.full(4, -1))
            load_dataset(tmp_path / "own.npz")
        else:
            rows = [{"image": {"bytes": encoded(image)}, "label": -1} for image in images]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
            load_dataset(tmp_path)
    with one_line("image 1 has label -1; labels start at 0"):
        from_arrays(images, [0, -1, -1, -1], name="own")


def test_a_named_npz_that_was_changed_is_refused(tmp_path):
    np.savez(tmp_path / "own.npz", images=some_images(), labels=np.zeros(6, int))
    file = tmp_path / "own.toml"
    file.write_text(f'title = "t"\nsource = "own.npz"\nsha256 = {{"own.npz" = "{"0" * 64}"}}\n')
    with one_line("its SHA-256 differs from that in"):
        load_dataset(str(file))


def write_parquets(place, images):
    for number, image in enumerate(images):
        rows = [{"image": {"bytes": encoded(image)}, "label": number}]
        file = f"{('test', 'train')[number // 2]}-{number % 2:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), place / file)
    return "test-00000-of-00002.parquet", "train-00001-of-00002.parquet"


def write_npys(place, images):
    np.save(place / "x_test.npy", images)
    np.save(place / "y_test.npy", np.arange(len(images)))
    np.save(place / "x_train.npy", images)
    np.save(place / "y_train.npy", np.arange(len(images)))
    return "y_test.npy", "y_train.npy"


def write_table(place, images):
    for number, image in enumerate(images):
        (place / f"{number}.png").write_bytes(encoded(image))
    rows = [f"{n}.png,{n},{('test', 'train')[n // 2]}" for n in range(len(images))]
    (place / "own.csv").write_text("\n".join(["path,label,split", *rows]))
    return "own.csv", "3.png"


def write_classes(place, images):
    for number, image in enumerate(images):
        (place / f"{number}").mkdir()
        (place / f"{number}" / "a.png").write_bytes(encoded(image))
    return "3/a.png", "3/a.png"


@pytest.mark.parametrize(
    ("write", "source"),
    [
        (write_parquets, ""),
        (write_npys, ""),
        (write_npys, "x_test.npy"),
        (write_table, "own.csv"),
        (write_classes, ""),
    ],
)
def test_digests_in_a_data_sets_file_are_those_of_the_files_whatever_the_format(
    tmp_path, write, source
):
    (tmp_path / "set").mkdir()
    read, other = write(tmp_path / "set", some_images(4))
    file = tmp_path / "own.toml"

    def load(**sha256):
        lines = "\n".join(f'"{name}" = "{value}"' for name, value in sha256.items())
        file.write_text(f'title = "t"\nsource = "set/{source}"\n[sha256]\n{lines}\n')
        return load_dataset(str(file))

    right = file_digest(tmp_path / "set" / read)
    assert len(load(**{read: right, other: file_digest(tmp_path / "set" / other)}))
    with one_line(f"{read}: its SHA-256 differs from that in .*own.toml; the file was changed"):
        load(**{read: "0" * 64})
    with one_line(f"own.toml: sha256: 'x{read}' is no file of .*set"):
        load(**{f"x{read}": right})


def test_a_file_of_another_split_need_not_be_here_to_have_a_digest(tmp_path):
    np.savez(tmp_path / "test.npz", images=some_images(4), labels=np.arange(4) % 2)
    right = file_digest(tmp_path / "test.npz")
    (tmp_path / "own.toml").write_text(
        f'title = "t"\nsource = "test.npz"\n[sha256]\n"test.npz" = "{right}"\n"train.npz" = "{right}"\n'
    )
    assert len(load_dataset(str(tmp_path / "own.toml"))) == 4


def test_digests_of_originals_of_other_names_are_refused(tmp_path):
    write_idx(tmp_path, some_images(), np.zeros(6), ".gz")
    names = [f"{part}-images-idx3-ubyte" for part in ("t10k", "train")]
    file = tmp_path / "own.toml"
    head = 'title = "t"\nsource = "torchvision:MNIST"\n[sha256]\n'
    file.write_text(head + f'"{names[1]}" = "{"0" * 64}"\n')
    assert len(load_dataset(str(file), root=tmp_path))
    file.write_text(head + f'"{names[0]}" = "{"0" * 64}"\n')
    with one_line("not the original t10k-images-idx3-ubyte of this data set"):
        load_dataset(str(file), root=tmp_path)
    file.write_text(head + f'"{names[0]}.gz" = "{"0" * 64}"\n')
    with one_line(r"sha256: 't10k-images-idx3-ubyte.gz' is no original; .* t10k-images-idx3-ubyte"):
        load_dataset(str(file), root=tmp_path)


def test_paths_that_lead_nowhere_or_to_unknown_formats_are_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no data")
    with one_line("notes.txt: expected a folder, .npz, .npy, .parquet"):
        load_dataset(str(tmp_path / "notes.txt"))
    with one_line("gone.npz: no such file"):
        load_dataset("gone.npz")
    with one_line("no such file"):
        load_dataset(str(tmp_path / "gone"))


# folders


def write_folder(folder, images, labels):
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:03}.png").write_bytes(encoded(image))


def test_class_folders_are_the_classes_and_other_files_are_passed_over(tmp_path):
    images = some_images(40, 3)
    write_folder(tmp_path, images, ["cat", "dog"] * 20)
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "cat" / "._1.png").write_bytes(b"no picture")
    for aside in (".ipynb_checkpoints", "@eaDir/000.png", "inside/.thumbnails", "__MACOSX/inside"):
        (tmp_path / "cat" / aside).mkdir(parents=True)
        (tmp_path / "cat" / aside / "copy.png").write_bytes(encoded(some_images(1, 3, seed=9)[0]))
        (tmp_path / "cat" / aside / "copy.heic").write_bytes(b"no picture")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert corruption_splits(str(tmp_path), "test") == []
    data = load_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.warnings == ()
    assert data.order == "digest-shuffled"
    assert sorted(data.ids) == sorted(ids_of(images))
    by_id = dict(zip(ids_of(images), [0, 1] * 20, strict=True))
    assert data.labels.tolist() == [by_id[i] for i in data.ids]
    assert set(data.labels[:10]) == {0, 1}
    wanted = dict(zip(ids_of(images), images, strict=True))
    np.testing.assert_array_equal(
        np.rint(data.images(0, 40) * 255), np.stack([wanted[i] for i in data.ids])
    )


def test_links_to_pictures_and_folders_are_followed_and_end(tmp_path, monkeypatch):
    images = some_images(9)
    write_folder(tmp_path / "all", images, ["cat"] * 3 + ["dog"] * 6)
    part = tmp_path / "part"
    (part / "cat" / "more").mkdir(parents=True)
    (part / "cat" / "a.png").symlink_to("../../all/cat/000.png")
    (part / "cat" / "more" / "all").symlink_to(tmp_path / "all" / "cat")
    (part / "cat" / "more" / "again").symlink_to(part / "cat" / "more")
    (part / "dog").symlink_to("../all/dog")
    data = load_dataset(str(part))
    # no folder is entered twice
    assert Counter(data.labels.tolist()) == {0: 1 + 3, 1: 6}
    assert set(data.ids) >= set(ids_of(images))
    np.testing.assert_array_equal(load_dataset(str(part)).labels, data.labels)
    monkeypatch.setattr("robustkit.data.folder.MOST_FOLDERS", 2)
    with one_line("cat: more than 2 folders inside, as by a link"):
        load_dataset(str(part))


@pytest.mark.parametrize("place", ["test/cat/loop", "test/cat/deep/loop", "test/loop"])
@pytest.mark.parametrize("target", ["test/cat", "test", "", ".."])
def test_a_link_to_a_folder_that_holds_it_is_refused(tmp_path, place, target):
    write_folder(tmp_path / "data" / "test", some_images(4), ["cat", "dog"] * 2)
    link = tmp_path / "data" / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "data" / target)
    if (place, target) == ("test/loop", "test/cat"):  # a class under two names
        told = "/000.png: the same file as .*/test/cat/000.png, by a link, .* 'cat' and 'loop'"
    else:
        told = f"{link}: a link to .*, in which it stands itself: .*; remove the link"
    for folder in ("data", "data/test"):
        with one_line(told):
            load_dataset(str(tmp_path / folder))


def test_a_link_in_a_class_that_is_a_link_may_not_lead_to_the_data(tmp_path):
    write_folder(tmp_path / "all", some_images(4), ["cat", "dog"] * 2)
    (tmp_path / "part" / "owl").mkdir(parents=True)
    (tmp_path / "part" / "owl" / "a.png").write_bytes(encoded(some_images(1, seed=1)[0]))
    (tmp_path / "part" / "cat").symlink_to(tmp_path / "all" / "cat")
    assert len(load_dataset(str(tmp_path / "part"))) == 3
    for target in ("all", "part"):
        link = tmp_path / "all" / "cat" / target
        link.symlink_to(tmp_path / target)
        with one_line(f"/cat/{target}: a link to {tmp_path}/{target}, in which it stands"):
            load_dataset(str(tmp_path / "part"))
        link.unlink()


def test_a_link_above_that_holds_no_pictures_of_classes_is_passed_over(tmp_path):
    """As "latest" beside files of another format."""
    np.savez(tmp_path / "x.npz", images=some_images(4), labels=np.arange(4))
    np.save(tmp_path / "images.npy", some_images(4))
    np.save(tmp_path / "labels.npy", np.arange(4))
    (tmp_path / "latest").symlink_to(".")
    assert len(load_dataset(str(tmp_path))) == 4


def test_one_file_in_two_classes_is_refused_and_equal_pictures_are_counted(tmp_path):
    images = some_images(6)
    write_folder(tmp_path, images, ["cat", "dog"] * 3)
    assert load_dataset(str(tmp_path)).warnings == ()
    link = tmp_path / "dog" / "000.png"
    link.symlink_to("../cat/000.png")
    with one_line("dog/000.png: the same file as .*/cat/000.png, by a link, .* 'cat' and 'dog'"):
        load_dataset(str(tmp_path))
    link.unlink()
    again = tmp_path / "cat" / "again.png"
    again.symlink_to("000.png")  # one class
    assert load_dataset(str(tmp_path)).warnings == ()
    link.write_bytes((tmp_path / "cat" / "000.png").read_bytes())
    (warning,) = load_dataset(str(tmp_path)).warnings
    assert warning.startswith(f"3 of 8 images of {tmp_path.name} have the same pixels as one with")
    again.unlink()
    link.unlink()
    os.link(tmp_path / "cat" / "000.png", link)  # as programs do that save space
    (warning,) = load_dataset(str(tmp_path)).warnings
    assert warning.startswith("2 of 7 images")
    assert from_arrays(images[[0, 0, 1]], [0, 1, 1], name="own").warnings == (
        "2 of 3 images of own have the same pixels as one with another label: no network is right "
        "on both; keep one of each, with the right label",
    )


def test_a_link_to_nothing_or_a_pipe_is_no_picture_that_vanishes(tmp_path):
    write_folder(tmp_path, some_images(4), ["cat", "dog"] * 2)
    for make, told in (
        (lambda p: p.symlink_to("gone.png"), "9.png: a link to a file that does not exist"),
        (lambda p: os.mkfifo(p), "9.png: not a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "9.png: not a regular file"),
    ):
        make(tmp_path / "cat" / "9.png")
        with one_line(told):
            load_dataset(str(tmp_path))
        (tmp_path / "cat" / "9.png").unlink()
    assert len(load_dataset(str(tmp_path))) == 4


def test_a_folder_above_the_class_folders_is_told_which_is_meant(tmp_path):
    write_folder(tmp_path / "data" / "images", some_images(4), ["cat", "dog"] * 2)
    with one_line(f"one class folder, .* pass --data {tmp_path}/data/images$"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path / "data" / "images")).classes == ("cat", "dog")
    # one class may have folders inside where pictures stand above them, too
    write_folder(tmp_path, some_images(1), ["data"])
    assert load_dataset(str(tmp_path)).classes == ("data",)


def test_pictures_that_are_not_read_are_counted(tmp_path):
    write_folder(tmp_path, some_images(4), ["cat", "dog"] * 2)
    for number in range(3):
        (tmp_path / "dog" / f"{number}.HEIC").write_bytes(b"x")
    (warning,) = load_dataset(str(tmp_path)).warnings
    assert "3 .heic files are not read" in warning
    assert load_dataset(str(tmp_path), classes="1,0").warnings == (warning,)


def test_a_folder_with_splits_keeps_the_numbers_of_classes_that_a_split_lacks(tmp_path):
    write_folder(tmp_path / "train", some_images(3), ["a", "b", "c"])
    write_folder(tmp_path / "test", some_images(2), ["b", "c"])
    assert sorted(load_dataset(str(tmp_path)).labels) == [1, 2]
    assert load_dataset(str(tmp_path), split="train").classes == ("a", "b", "c")
    with one_line("no split 'val'; it has: test, train"):
        load_dataset(str(tmp_path), split="val")


def test_splits_of_a_folder_go_by_the_words_for_them(tmp_path):
    write_folder(tmp_path / "Train", some_images(3), ["a", "b", "c"])
    write_folder(tmp_path / "Testing", some_images(2), ["b", "c"])
    assert sorted(load_dataset(str(tmp_path)).labels) == [1, 2]
    assert len(load_dataset(str(tmp_path), split="train")) == 3
    with one_line("no split 'val'; it has: Testing, Train"):
        load_dataset(str(tmp_path), split="val")


def test_a_folder_without_splits_has_none(tmp_path):
    write_folder(tmp_path, some_images(2), ["a", "b"])
    assert load_dataset(str(tmp_path)).split == "all"
    with one_line("no split 'train'; the folder is not divided into splits; give --split all$"):
        load_dataset(str(tmp_path), split="train")


def test_a_class_may_be_called_train(tmp_path):
    write_folder(tmp_path, some_images(3), ["bus", "car", "train"])
    assert load_dataset(str(tmp_path)).classes == ("bus", "car", "train")


def test_numbered_folders_in_alphabetical_order_are_warned_of(tmp_path):
    write_folder(tmp_path, some_images(11), [str(n) for n in range(11)])
    (warning,) = load_dataset(str(tmp_path)).warnings
    assert "label 2 is the folder '10'" in warning


def test_images_of_two_sizes_need_resize_and_crop(tmp_path):
    write_folder(tmp_path, some_images(3, 3, 8, 8), ["a"] * 3)
    write_folder(tmp_path, some_images(1, 3, 10, 12), ["b"])
    with one_line("image of 3x10x12, but the first is 3x8x8; give --resize and --crop"):
        load_dataset(str(tmp_path))
    with one_line("--resize and --crop"):
        load_dataset(str(tmp_path), resize=6)
    data = load_dataset(str(tmp_path), resize=6, crop=5)
    assert data.images(0, 4).shape == (4, 3, 5, 5)
    assert data.transform == {"resize": 6, "crop": 5}
    assert load_dataset(str(tmp_path), crop=8).images(0, 4).shape == (4, 3, 8, 8)


def test_grey_among_coloured_images_becomes_rgb_and_is_told(tmp_path):
    write_folder(tmp_path, some_images(2, 3), ["a", "b"])
    write_folder(tmp_path, grey := some_images(3, 1, seed=1)[2:], ["c"])
    data = load_dataset(str(tmp_path))
    assert data.notes == (
        "1 of 3 images are greyscale and are converted to RGB, as in torchvision's ImageFolder",
    )
    spelled = load_dataset(str(tmp_path), channels=3)
    assert (data.digest, data.transform) == (spelled.digest, {"channels": 3})
    assert spelled.notes == ()
    (row,) = np.flatnonzero(data.labels == 2)
    found = np.rint(data.images(row, row + 1)[0] * 255)
    np.testing.assert_array_equal(found, np.repeat(grey[0], 3, axis=0))
    assert load_dataset(str(tmp_path), channels=1).shape == (1, 4, 5)


@pytest.mark.parametrize("content", [b"", HTML, encoded(some_images(1, 3, 40, 40)[0])[:500]])
def test_an_unreadable_image_is_named(tmp_path, content):
    write_folder(tmp_path, some_images(2), ["a", "b"])
    (tmp_path / "b" / "broken.png").write_bytes(content)
    with one_line("broken.png: unreadable image"):
        load_dataset(str(tmp_path))


def test_few_images_are_decoded_once(tmp_path, monkeypatch):
    images = some_images(5)
    write_folder(tmp_path, images, ["a"] * 5)
    monkeypatch.setattr("robustkit.data.source.Remembered.LARGEST", 3 * images[0].nbytes)
    data = load_dataset(str(tmp_path))
    whole = data.images(0, 5)
    for number in range(3):
        (tmp_path / "a" / f"{number:03}.png").unlink()
    np.testing.assert_array_equal(data.images(0, 3), whole[:3])
    np.testing.assert_array_equal(data.images(3, 5), whole[3:])  # beyond what is kept
    with pytest.raises(EvaluationFailed, match=r"000\.png"):  # another process reads for itself
        pickle.loads(pickle.dumps(data)).images(0, 1)


def test_an_image_that_vanishes_after_loading_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("robustkit.data.source.Remembered.LARGEST", 0)
    write_folder(tmp_path, some_images(2), ["a", "b"])
    data = load_dataset(str(tmp_path))
    (tmp_path / "b" / "001.png").unlink()
    with pytest.raises(EvaluationFailed, match=r"\A[^\n]*001\.png: unreadable image[^\n]*\Z"):
        data.images(0, 2)


def test_a_folder_without_pictures_is_one_line(tmp_path):
    with one_line("no images in class folders"):
        load_dataset(str(tmp_path))
    (tmp_path / "own.csv").write_text("path,label\n")
    with one_line("no images in class folders .*; name the table instead: --data .*own.csv"):
        load_dataset(str(tmp_path))


def test_sixteen_bits_under_a_librarys_pipeline_are_told(tmp_path):
    write_folder(tmp_path, some_images(2, 3), ["a", "b"])
    (tmp_path / "c").mkdir()
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(tmp_path / "c" / "deep.png")
    pipeline = Pipeline(
        library="transformers 5",
        processor="ViTImageProcessor",
        resize=(4, 4),
        interpolation="bilinear",
        by="Pillow",
        crop=None,
        centre="rounded",
        upright=False,
    )
    data = load_dataset(str(tmp_path), pipeline=pipeline)
    (told,) = [note for note in data.notes if "8 bits" in note]
    assert told.startswith("1 of 3 images have more than 8 bits per channel and keep them")
    (row,) = np.flatnonzero(data.labels == 2)
    np.testing.assert_allclose(data.images(row, row + 1), 40000 / 65535, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_every_mode_becomes_grey_or_rgb(tmp_path, mode, channels):
    (tmp_path / "only").mkdir()
    kind = "tif" if mode in ("CMYK", "YCbCr") else "png"
    colour = Image.fromarray(some_images(1, 3)[0].transpose(1, 2, 0))
    picture = colour.convert("L").convert(mode) if channels == 1 else colour.convert(mode)
    picture.save(tmp_path / "only" / f"picture.{kind}")
    data = load_dataset(str(tmp_path))
    expected = np.atleast_3d(np.asarray(picture.convert("L" if channels == 1 else "RGB")))
    np.testing.assert_array_equal(np.rint(data.images(0, 1)[0] * 255), expected.transpose(2, 0, 1))


def test_sixteen_bits_are_kept_and_thirty_two_refused(tmp_path):
    (tmp_path / "only").mkdir()
    values = np.array([[0, 1, 1000], [40000, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "only" / "deep.png")
    np.testing.assert_allclose(
        load_dataset(str(tmp_path)).images(0, 1)[0, 0], values / 65535, rtol=1e-6
    )
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "only" / "float.tif")
    with one_line("float.tif: 32 bits per channel"):
        load_dataset(str(tmp_path))


# Parquet


def write_parquet(path, images, labels, *, column="image", kind="PNG", metadata=None, **options):
    rows = [
        {column: {"bytes": encoded(image, kind), "path": None}, "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)


@pytest.mark.parametrize("row_group_size", [7, 1000])
def test_parquet_is_read_in_any_order_over_pages_row_groups_and_files(
    tmp_path, monkeypatch, row_group_size
):
    monkeypatch.setattr("robustkit.data.parquet.CACHE", 1)
    n = 2 * PAGE + 40
    images = some_images(n, 1, 3, 3)
    for number, part in enumerate((slice(0, 30), slice(30, n))):
        path = tmp_path / f"test-{number}.parquet"
        write_parquet(
            path, images[part], np.zeros(len(images[part])), row_group_size=row_group_size
        )
    source = ParquetSource(sorted(tmp_path.glob("*.parquet")))
    for positions in (range(n), range(n - 1, -1, -29), [0, n - 1, 5, 5, PAGE + 1, PAGE]):
        read = np.stack(list(source.read(positions)))
        np.testing.assert_array_equal(read, images[list(positions)])
        # another process goes on with what has been read from already
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(np.stack(list(copy.read(positions))), read)


def test_parquet_splits_are_read_off_the_names(tmp_path):
    images = some_images(6)
    write_parquet(tmp_path / "data" / "test-00000-of-00002.parquet", images[:2], [0, 1])
    write_parquet(tmp_path / "data" / "test-00001-of-00002.parquet", images[2:4], [0, 1])
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", images[4:], [1, 0])
    assert load_dataset(str(tmp_path)).ids == ids_of(images[:4])
    assert load_dataset(str(tmp_path), split="train").ids == ids_of(images[4:])
    with one_line("no split 'val'; it has: test, train"):
        load_dataset(str(tmp_path), split="val")
    with one_line("no split 'test'; it has: train"):
        load_dataset(str(tmp_path / "data" / "train-00000-of-00001.parquet"))


def test_class_names_in_hugging_faces_metadata_are_used(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write_parquet(tmp_path / "a.parquet", some_images(2), [1, 0], metadata=metadata)
    data = load_dataset(str(tmp_path / "a.parquet"))
    assert (data.classes, data.split) == (("cat", "dog"), "all")


def test_a_known_data_set_is_found_as_parquet_and_jpeg_copies_are_warned_of(tmp_path):
    images = some_images(3, 3, 32, 32)
    write_parquet(tmp_path / "cifar10-test.parquet", images, [9, 0, 3], column="img", kind="JPEG")
    data = load_dataset("cifar10", root=tmp_path)
    assert (data.name, data.split, data.classes[9]) == ("cifar10", "test", "truck")
    assert data.warnings
    assert "JPEG copies" in data.warnings[0]
    assert "cifar10-test.parquet" in data.source["sha256"]
    write_parquet(tmp_path / "cifar10-test.parquet", images, [9, 0, 3])
    assert load_dataset("cifar10", root=tmp_path).warnings == ()


def test_parquet_of_another_data_set_is_not_taken_for_a_known_one(tmp_path):
    write_parquet(tmp_path / "data" / "test-0.parquet", some_images(2, 1, 28, 28), [0, 1])
    with one_line("images of 1x28x28, expected 3x32x32"):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": [b"x"], "caption": ["a"]}, "no column 'label'.*it has: image, caption"),
        ({"image": [b"x"], "label": [1.5]}, "labels of type float64"),
        ({"image": [b"x", b"x"], "label": [0, None]}, "row 1 has no label"),
        ({"image": [b"x"], "label": [-1]}, "image 0 has label -1"),
        ({"image": NO_BYTES, "label": [0]}, "image 0: no image bytes"),
        ({"image": [b"x"], "label": [0]}, "image 0: unreadable image"),
        ({"image": [[1, 2]], "label": [0]}, "column 'image' contains list"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "no images"),
    ],
)
def test_parquet_that_makes_no_sense_is_one_line(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with one_line(message):
        load_dataset(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("content", [b"", HTML, b"PAR1" + bytes(40)])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with one_line("a.parquet: cannot be read as Parquet: (the file is|it is)"):
        load_dataset(str(tmp_path / "a.parquet"))


# tables beside class folders


def two_classes(folder, images):
    for number, image in enumerate(images):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(encoded(image))


def write_arrow(path, table, of_file=False):
    make = pa.ipc.new_file if of_file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as out:
        out.write_table(table)


NO_PICTURES = {
    "numbers": {"embedding": [[1.0, 2.0]], "label": [0]},
    "paths": {"image": ["a/0.png"], "label": [0]},
    "pixels": {"image": [[1, 2]], "label": [0]},
    "empty": {"file_name": pa.array([], pa.string())},
}


@pytest.mark.parametrize("table", NO_PICTURES.values(), ids=NO_PICTURES)
@pytest.mark.parametrize(
    "name", ["metadata.parquet", "a/x.arrow", "train.parquet", "x.feather.arrow"]
)
def test_a_table_without_pictures_beside_class_folders_is_passed_over_and_told(
    tmp_path, name, table
):
    images = some_images(6)
    two_classes(tmp_path, images)
    alone = load_dataset(str(tmp_path))
    if name.endswith(".parquet"):
        pq.write_table(pa.table(table), tmp_path / name)
    else:
        write_arrow(tmp_path / name, pa.table(table), of_file="feather" in name)
    data = load_dataset(str(tmp_path))
    assert (data.ids, data.classes) == (alone.ids, ("a", "b"))
    assert [n for n in data.notes if n.endswith(f"of class folders; {name} has no images")]


def test_a_table_with_pictures_stands_before_class_folders_and_a_broken_one_is_told(tmp_path):
    images = some_images(8)
    two_classes(tmp_path, images[:6])
    pq.write_table(pa.table({"id": [1]}), tmp_path / "ids.parquet")
    (tmp_path / "data").mkdir()
    write_arrow(
        tmp_path / "data" / "x.arrow",
        pa.table({"image": [encoded(image) for image in images[6:]], "label": [0, 1]}),
    )
    with one_line("ids.parquet: no column 'image'"):
        load_dataset(str(tmp_path))
    (tmp_path / "ids.parquet").unlink()
    assert {*load_dataset(str(tmp_path)).ids} == {*ids_of(images[6:])}
    (tmp_path / "data" / "x.arrow").unlink()
    write_parquet(tmp_path / "data" / "x.parquet", images[6:], [0, 1], column="img")
    assert {*load_dataset(str(tmp_path)).ids} == {*ids_of(images[6:])}
    (tmp_path / "data" / "x.parquet").write_bytes(HTML)
    with one_line("x.parquet: cannot be read as Parquet: it is a web page"):
        load_dataset(str(tmp_path))
    (tmp_path / "data" / "x.parquet").unlink()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "ids.parquet")
    for picture in tmp_path.rglob("*.png"):
        picture.unlink()
    with one_line("ids.parquet: no column 'image'"):
        load_dataset(str(tmp_path))


# the originals


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refused(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refused)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_without_files_and_network_one_line_says_where_it_looked_and_what_to_do(
    tmp_path, offline, name, capsys
):
    root = tmp_path / "root"
    root.mkdir()
    with one_line(
        f"{name}: not found in .*root or .*; the download failed: .*no network.*--data-root"
    ):
        load_dataset(name, root=root)
    assert list(root.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "split"), [("lfw", "test"), ("imagenet", "val")])
def test_what_cannot_be_downloaded_says_so(tmp_path, offline, name, split):
    with one_line(f"{name}: not found in .*--data-root"):
        load_dataset(name, split=split, root=tmp_path)


def test_damaged_originals_are_refused_by_torchvisions_check(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with one_line("cifar-10-batches-py: incomplete or damaged"):
        load_dataset("cifar10", root=tmp_path)


def test_cifar_and_svhn_arrive_channels_first(tmp_path, monkeypatch):
    images = some_images(4, 3, 32, 32)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "test_32x32.mat").touch()
    cifar = SimpleNamespace(data=images.transpose(0, 2, 3, 1), targets=[1, 0, 9, 2])
    svhn = SimpleNamespace(data=images, labels=np.array([1, 0, 9, 2]))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda root, train, download: cifar)
    monkeypatch.setattr(torchvision.datasets, "SVHN", lambda root, split, download: svhn)
    for name in ("cifar10", "svhn"):
        data = load_dataset(name, root=tmp_path)
        assert data.ids == ids_of(images)
        assert data.labels.tolist() == [1, 0, 9, 2]


def test_lfw_takes_its_names_and_files_from_torchvision_and_is_shuffled(tmp_path, monkeypatch):
    images = some_images(3, 3, 250, 250)
    write_folder(tmp_path / "lfw-py", images, ["Ann", "Bob", "Bob"])
    found = SimpleNamespace(
        data=[str(path) for path in sorted(tmp_path.rglob("*.png"))],
        targets=[0, 1, 1],
        class_to_idx={"Ann": 0, "Bob": 1},
    )
    monkeypatch.setattr(torchvision.datasets, "LFWPeople", lambda root, split, download: found)
    data = load_dataset("lfw", root=tmp_path)
    assert (data.classes, data.order, data.budgets) == (("Ann", "Bob"), "digest-shuffled", {})
    assert sorted(data.ids) == sorted(ids_of(images))


SERVED = {
    "MNIST": lambda split, root: [
        write_idx(root / "MNIST" / "raw", some_images(), np.arange(6) % 3, ".gz", prefix)
        for prefix in ("train", "t10k")
    ],
    "CIFAR10": lambda split, root: write_whole(root / "cifar-10-batches-py" / f"{split}_batch"),
    "SVHN": lambda split, root: write_whole(root / f"{split}_32x32.mat"),
}
"""what a download leaves of a data set; of all but MNIST a file that says it is whole"""


def write_whole(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("whole")


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A cache, and the downloads into it so far."""
    made = []

    def download(kind, split, root, missing):
        made.append(kind)
        SERVED[kind](split, root)

    def read(kind, split, root, *, download):
        path = next(path for path in root.rglob("*") if path.is_file() and split in path.name)
        if path.read_bytes() != b"whole":
            raise RuntimeError("Dataset not found or corrupted.")
        images = some_images(4, 3, 32, 32)
        images = images if kind == "SVHN" else images.transpose(0, 2, 3, 1)
        return SimpleNamespace(data=images, targets=[1, 0, 9, 2], labels=np.array([1, 0, 9, 2]))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(originals, "_download", download)
    monkeypatch.setattr(originals, "_torchvision", read)
    return made


LEFT = {
    "one file": ("MNIST", "MNIST/raw/t10k-images-idx3-ubyte.gz"),
    "of the other split": ("MNIST", "MNIST/raw/train-images-idx3-ubyte.gz"),
    "unpacked in part": ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte"),
    "an archive unpacked in part": ("CIFAR10", "cifar-10-batches-py/test_batch"),
    "the archive alone": ("CIFAR10", "cifar-10-python.tar.gz"),
    "the only file": ("SVHN", "test_32x32.mat"),
    "a process that was killed": ("MNIST", ".MNIST.partial/MNIST/raw/t10k-images-idx3-ubyte.gz"),
    "nothing": ("SVHN", "other"),
}


@pytest.mark.parametrize(("kind", "left"), LEFT.values(), ids=LEFT)
def test_what_an_interrupted_download_left_is_downloaded_again(
    tmp_path, digits, served, kind, left
):
    path = downloads() / left
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(idx(some_images()[:, 0]))[:-9])
    name = {"MNIST": digits, "CIFAR10": "cifar10", "SVHN": "svhn"}[kind]
    for split in ("test", "train") if kind == "MNIST" else ("test",):
        assert len(load_dataset(name, split=split)) == (6 if kind == "MNIST" else 4)
    assert served == [kind]
    assert not list(downloads().glob("*.partial"))


def test_a_download_that_breaks_off_leaves_nothing_and_takes_nothing_away(
    tmp_path, digits, served, monkeypatch
):
    def interrupted(kind, split, root, missing):
        write_idx(root / "MNIST" / "raw", some_images(), np.zeros(6), ".gz", "train")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(originals, "_download", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset(digits)
        assert [path.name for path in downloads().iterdir()] == [".MNIST.lock"]
        write_idx(downloads() / "MNIST" / "raw", some_images(), np.zeros(6), "", "train")
        with pytest.raises(KeyboardInterrupt):
            load_dataset(digits)
        assert len(load_dataset(digits, split="train")) == 6
    assert len(load_dataset(digits)) == 6
    assert served == ["MNIST"]


def test_what_is_damaged_in_the_cache_and_cannot_be_downloaded_is_one_line(
    tmp_path, digits, offline
):
    write_idx(downloads() / "MNIST" / "raw", some_images(), np.zeros(6), ".gz")
    (downloads() / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with one_line(
        r"MNIST/raw: t10k-labels-idx1-ubyte\[.gz\] is missing; the download failed: .*no network"
        ".*on a machine with a connection"
    ):
        load_dataset(digits)
    (tmp_path / "cache").rename(tmp_path / "other")
    (tmp_path / "cache").touch()
    with one_line("not found in .*; cannot download into .*cache/robustkit/data: Not a directory"):
        load_dataset(digits)


@pytest.mark.parametrize("error", [IncompleteRead(b""), EOFError(), tarfile.ReadError("cut")])
def test_however_a_download_breaks_off_it_is_one_line(tmp_path, offline, monkeypatch, error):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", broken)
    with one_line("cifar10: not found in .*; the download failed: "):
        load_dataset("cifar10")


FETCHING = """
import sys, time
from pathlib import Path
from robustkit.data import load_dataset, originals

def download(kind, split, root, missing):
    with Path("begun").open("a") as begun:
        begun.write("x")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for source in sorted(Path("served").iterdir()):
        (folder / source.name).write_bytes(source.read_bytes())
        time.sleep(0.3)

originals._download = download
print(len(load_dataset("digits.toml")))
"""


@pytest.mark.thorough
def test_of_two_processes_one_downloads_and_both_have_the_images(tmp_path, digits):
    write_idx(tmp_path / "served", some_images(), np.arange(6) % 3, ".gz")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FETCHING],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [one.communicate(timeout=120) for one in both] == [("6\n", "")] * 2
    assert (tmp_path / "begun").read_text() == "x"


def test_a_root_that_does_not_exist_is_named_before_anything_is_downloaded(tmp_path, offline):
    with one_line("--data-root .*typo: no such folder"):
        load_dataset("mnist", root=tmp_path / "typo")


def test_imagenet_folders_are_numbered_by_synset_and_prepared_as_usual(tmp_path):
    write_folder(tmp_path / "val", some_images(2, 3, 300, 260), ["n01443537", "n15075141"])
    data = load_dataset("imagenet", split="val", root=tmp_path)
    assert sorted(data.labels) == [1, 999]
    assert data.classes[1] == "goldfish"
    assert data.shape == (3, 224, 224)
    assert data.transform == {"resize": 256, "crop": 224}
    assert load_dataset("imagenet", split="val", root=tmp_path, crop=200).shape == (3, 200, 200)
    (tmp_path / "val" / "n00000000").mkdir()
    with one_line("the class folder 'n00000000' is not one of the known classes"):
        load_dataset("imagenet", split="val", root=tmp_path)


# --- files that would fill the memory, or leave images out without a word ---------------------------


def test_few_bytes_that_unpack_to_many_are_not_unpacked(tmp_path, digits, monkeypatch):
    monkeypatch.setattr("robustkit.data.packed.LARGE", 2**20)
    monkeypatch.setattr(gzip.GzipFile, "read", read_at_most(gzip.GzipFile.read, 2**20))
    blank = np.zeros((6, 1, 1000, 1000), np.uint8)
    write_idx(tmp_path, blank, np.arange(6) % 3, ".gz")
    with one_line("attempt to exhaust memory"):
        load_dataset(digits, root=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5 * 2**20)))
    with one_line("not an IDX file of bytes"):
        load_dataset(digits, root=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx(some_images()[:, 0]) + bytes(5 * 2**20))
    )
    with one_line("more than 120 bytes after the header, expected 120"):
        load_dataset(digits, root=tmp_path)
    np.savez_compressed(tmp_path / "x.npz", images=blank, labels=np.arange(6) % 3)
    with one_line(r"x\.npz: .* bytes that decompress to 6,000,128, which may be an attempt"):
        load_dataset(str(tmp_path / "x.npz"))
    # a member without the ending, which NumPy would read in place of the one that was looked at
    images = some_images()
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(6) % 3)
    with zipfile.ZipFile(tmp_path / "x.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images", bytes(2**24))
    assert load_dataset(str(tmp_path / "x.npz")).ids == ids_of(images)


def write_constant(path, rows, label, kind):
    """A file of so many equal rows: a few bytes, whatever their number."""
    picture = encoded(some_images(1)[0])
    one = pa.RecordBatch.from_arrays(
        [pa.array([picture] * 1000, pa.binary()), pa.array([label] * 1000, kind)],
        ["image", "label"],
    )
    with pq.ParquetWriter(path, one.schema, compression="zstd") as out:
        out.write_table(pa.Table.from_batches([one] * (rows // 1000)), row_group_size=rows)


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize(
    ("label", "kind", "rows", "message"),
    [
        (0, pa.int64(), 9000, "9,000 rows in .* bytes, which cannot hold as many encoded images"),
        ("c" * 10**4, pa.string(), 8000, "bytes that decompress to 80,000,000, which may be"),
        ([0] * 10**4, pa.list_(pa.int64()), 1000, "labels of type list<.*>; expected integers"),
    ],
)
def test_parquet_rows_that_a_file_cannot_hold_are_refused_before_any_label_is_read(
    tmp_path, monkeypatch, label, kind, rows, message, limit
):
    write_constant(tmp_path / "a.parquet", rows, label, kind)
    assert (tmp_path / "a.parquet").stat().st_size < 10**5
    monkeypatch.setattr("robustkit.data.packed.LARGE", 2**18)
    monkeypatch.setattr("robustkit.data.parquet.LARGE", 2**18)
    monkeypatch.setattr("robustkit.data.parquet.column_labels", None)
    with one_line(message):
        load_dataset(str(tmp_path / "a.parquet"), limit=limit)


@pytest.mark.parametrize(("label", "kind"), [(0, pa.int64()), ("cat", pa.string())])
def test_equal_rows_that_are_few_are_read(tmp_path, label, kind):
    write_constant(tmp_path / "a.parquet", 2000, label, kind)
    data = load_dataset(str(tmp_path / "a.parquet"), limit=3)
    assert (data.classes, len(data)) == (("cat",) if label else ("0",), 3)


def read_at_most(read, most):
    def wrapped(self, size=-1):
        assert 0 <= size <= most, "unpacks all that there is"
        return read(self, size)

    return wrapped


def test_images_that_are_large_and_real_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("robustkit.data.packed.LARGE", 1000)
    images = some_images(60)
    np.savez_compressed(tmp_path / "x.npz", images=images, labels=np.arange(60) % 3)
    assert len(load_dataset(str(tmp_path / "x.npz"))) == 60


@pytest.mark.parametrize("label", [2**40, 2**62, 100_000])
def test_a_label_beyond_all_classes_is_named_and_no_names_are_made_for_it(tmp_path, label):
    images, labels = some_images(), np.array([0, 1, 2, label, 0, 1])
    told = f"image 3 has label {label}; there can be at most 100,000 classes"
    with one_line(told):
        from_arrays(images, labels, name="own")
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    with one_line(told):
        load_dataset(str(tmp_path / "x.npz"))
    write_parquet(tmp_path / "x.parquet", images, labels)
    with one_line(told):
        load_dataset(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    "classes", [np.array("abc"), np.array([["a", "b"]]), np.array([0.5, 1.5]), np.array(7)]
)
def test_class_names_that_are_no_list_are_refused(tmp_path, classes):
    np.savez(tmp_path / "x.npz", images=some_images(), labels=np.arange(6) % 3, classes=classes)
    with one_line("expected a list of names"):
        load_dataset(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["image", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    write_parquet(tmp_path / "x.parquet", some_images(), np.arange(6) % 3)
    table = pq.read_table(tmp_path / "x.parquet")
    twice = pa.Table.from_arrays([*table.columns, table[name]], names=[*table.column_names, name])
    pq.write_table(twice, tmp_path / "x.parquet")
    with one_line(f"several columns are called '{name}'; keep one of them"):
        load_dataset(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("closed", ["1", "1/deep", "1/deep/er"])
def test_a_class_folder_that_cannot_be_read_is_named(tmp_path, closed, monkeypatch):
    images = some_images(9)
    write_folder(tmp_path, images[:6], ["0", "1", "2"] * 2)
    (tmp_path / "1" / "deep" / "er").mkdir(parents=True)
    for row in (6, 7):
        (tmp_path / "1" / "deep" / "er" / f"{row}.png").write_bytes(encoded(images[row]))
    assert len(load_dataset(str(tmp_path))) == 8
    scan = os.scandir

    def refuse(path="."):
        if Path(path) == tmp_path / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    # also for root, who may read everything
    monkeypatch.setattr(os, "scandir", refuse)
    with one_line(rf"{closed}: cannot be read: Permission denied"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("name", ["²", "٣"])
def test_a_folder_of_another_scripts_digit_is_a_class_like_any_other(tmp_path, name):
    write_folder(tmp_path, some_images(), ["1", name] * 3)
    assert load_dataset(str(tmp_path)).classes == ("1", name)


@pytest.mark.thorough
def test_a_parquet_file_that_is_overwritten_while_it_is_read_does_not_end_the_process(tmp_path):
    """A memory map would: the system kills who reads beyond the file's new end."""
    images = some_images(3 * PAGE, height=32, width=32)
    write_parquet(tmp_path / "x.parquet", images, np.zeros(len(images), int))
    code = (
        "import os, sys\nfrom robustkit.data.parquet import ParquetSource\nfrom pathlib import Path\n"
        "path = Path(sys.argv[1]); source = ParquetSource([path]); source.encoded(0)\n"
        "os.truncate(path, 100)\n"
        "try:\n    source.encoded(len(source.labels) - 1)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.parquet"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "DataError")


def test_what_has_no_splits_says_how_all_of_it_is_asked_for(tmp_path):
    images, labels = some_images(4), np.arange(4) % 2
    write_folder(tmp_path / "folder", images, ["a", "b"] * 2)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    torch.save((torch.from_numpy(images), torch.from_numpy(labels)), tmp_path / "a.pt")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    rows = ("folder/a/000.png,a", "folder/b/001.png,b")
    (tmp_path / "a.csv").write_text("\n".join(("path,label", *rows)))
    for name in ("folder", "a.npz", "a.pt", "images.npy", "a.csv"):
        with one_line("no split 'train'; .* is not divided into splits; give --split all$"):
            load_dataset(str(tmp_path / name), split="train")
        assert load_dataset(str(tmp_path / name), split="all").split == "all"


# a name, or a path


@pytest.mark.parametrize("form", ["./NAME", "NAME/", "../HERE/NAME", "/NAME", Path])
@pytest.mark.parametrize("name", ["mnist5k", "cifar10"])
def test_what_has_a_separator_or_is_a_path_is_no_name_of_the_shelf(
    tmp_path, monkeypatch, name, form
):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / name, some_images(4), ["cat", "dog"] * 2)
    (tmp_path / f"{name}.toml").write_text('title = "t"\nsource = "gone.npz"\n')
    if form is Path:
        path = Path(name)
    else:
        path = form.replace("NAME", name).replace("HERE", tmp_path.name)
        path = f"{tmp_path}{path}" if path.startswith("/") else path
        assert len(file_stamps(path, "test", None)) == 4
        for read in (read_dataset_spec, lambda name: is_own("data", name)):
            with pytest.raises(UnknownName):
                read(path)
    data = load_dataset(path)
    assert (data.name, data.classes, data.notes) == (name, ("cat", "dog"), ())
    assert "/" in data.source.get("path", data.source["folder"])  # as is read again


def test_a_name_on_the_shelf_that_is_a_folder_here_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_dataset("mnist5k", limit=2).notes == ()
    write_folder(tmp_path / "mnist5k", some_images(4), ["cat", "dog"] * 2)
    data = load_dataset("mnist5k", limit=2)
    assert data.classes == tuple("0123456789")
    assert data.notes == (
        "mnist5k: read as the data set of that name; the folder here is ./mnist5k",
    )
    assert corruption_splits(Path("mnist5k"), "all") == []
    with one_line("gone.toml: no such file|gone: no such file"):
        load_dataset(Path("gone"))
    with one_line("cifar10: no such file or folder; as text it is the name of a data set"):
        load_dataset(Path("cifar10"))
    with one_line("cifar10: no such file or folder; cifar10 alone is the name of a data set"):
        load_dataset("./cifar10")


def test_a_set_of_corrupted_images_may_be_called_as_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    np.save(tmp_path / "cifar10" / "labels.npy", np.zeros(10, int))
    np.save(tmp_path / "cifar10" / "fog.npy", some_images(10))
    assert corruption_splits("cifar10", "all") == []
    for path in ("./cifar10", Path("cifar10")):
        assert corruption_splits(path, "all") == [f"fog-{n}" for n in range(1, 6)]
