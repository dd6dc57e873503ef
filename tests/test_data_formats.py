"""Data as people have it: Arrow, WebDataset, tensors, `.npy`, CSV. Each as its library writes it."""

import io
import json
import random
import tarfile
from contextlib import suppress
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.travel import load_dataset
from PIL import Image

from robustkit.data import from_arrays, read_dataset_spec
from robustkit.data.classes import WantedClasses
from robustkit.data.loading import file_stamps, open_path
from robustkit.data.parquet import _ParquetTable
from robustkit.errors import DataError, EvaluationFailed

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 4), np.uint8)
LABELS = [2, 0, 1, 1, 0, 2, 0]
NAMES = ["cat", "dog", "emu"]
IMAGENET = read_dataset_spec("imagenet").classes
FEATURES = {"pic": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": NAMES}}


def png(image):
    target = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(target, "PNG")
    return target.getvalue()


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


def is_whole(data, labels=LABELS):
    """Whether a data set holds the images, with their labels."""
    wanted = from_arrays(IMAGES, LABELS, name="x")
    assert data.ids == wanted.ids
    assert data.labels.tolist() == list(labels)
    np.testing.assert_array_equal(data.images(2, 5), wanted.images(2, 5))
    return True


# Arrow


def write_stream(path, rows, labels, options=None, names=("image", "label")):
    table = pa.table(
        {
            names[0]: pa.array([{"bytes": png(IMAGES[r]), "path": None} for r in rows]),
            names[1]: labels,
        }
    )
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, table.schema, options=options) as out,
    ):
        out.write_table(table, max_chunksize=2)


def save_to_disk(folder, rows=range(7), split=None):
    """As `datasets.Dataset.save_to_disk` leaves it, in two files."""
    folder.mkdir(parents=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        write_stream(
            folder / f"data-0000{number}.arrow",
            part,
            [LABELS[r] for r in part],
            names=["pic", "kind"],
        )
    files = [{"filename": f"data-0000{n}.arrow"} for n in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": split}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


def test_a_data_set_saved_by_hugging_face_is_read_with_its_class_names(tmp_path):
    save_to_disk(tmp_path / "whole")
    data = load_dataset(str(tmp_path / "whole"))
    assert is_whole(data)
    assert (data.split, data.classes) == ("all", tuple(NAMES))
    assert list(data.source["sha256"]) == ["data-00000.arrow", "data-00001.arrow"]
    assert data.source["encoding"] == "lossless"


def test_a_dictionary_of_data_sets_has_its_splits(tmp_path):
    save_to_disk(tmp_path / "test")
    save_to_disk(tmp_path / "validation", [3, 1], "validation")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["validation", "test"]}')
    assert is_whole(load_dataset(str(tmp_path)))
    assert load_dataset(str(tmp_path), split="val").labels.tolist() == [1, 0]
    with one_line("no split 'train'; it has: validation, test"):
        load_dataset(str(tmp_path), split="train")
    with one_line("no split 'test'; it contains only 'validation'"):
        load_dataset(str(tmp_path / "validation"))


def test_an_arrow_file_that_changes_meanwhile_is_told_and_never_read_as_another(tmp_path):
    path = tmp_path / "own.arrow"
    write_stream(path, range(3), [1, 0, 2])
    data = load_dataset(str(path))
    data._source._images.clear()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EvaluationFailed, match=r"own.arrow: row 0: the file ends within"):
        data.images(0, 1)


def test_what_hugging_face_keeps_of_a_map_is_no_part_of_a_data_set(tmp_path):
    write_stream(tmp_path / "own-test.arrow", range(7), LABELS)
    write_stream(tmp_path / "cache-0123456789.arrow", range(2), [0, 1])
    assert is_whole(load_dataset(str(tmp_path)))


def reordered(folder):
    """As `datasets` once saved what shuffle returns."""
    save_to_disk(folder)
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))


def leads_out(folder, name):
    save_to_disk(folder)
    state = {"_data_files": [{"filename": name}]}
    (folder / "state.json").write_text(json.dumps(state))


def stretched(folder):
    """The last picture of a batch ends far behind the batch."""
    save_to_disk(folder)
    path = folder / "data-00000.arrow"
    ends = np.cumsum([0, *(len(png(IMAGES[r])) for r in range(2))]).astype(np.int32)
    lying = np.array([0, ends[1], 2**30], np.int32)
    assert path.read_bytes().count(ends.tobytes()) == 1
    path.write_bytes(path.read_bytes().replace(ends.tobytes(), lying.tobytes()))


def compressed(folder):
    folder.mkdir()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    write_stream(folder / "own.arrow", range(2), [0, 1], options)


def feather(folder):
    folder.mkdir()
    table = pa.table({"image": [b"x"], "label": [0]})
    with (
        pa.OSFile(str(folder / "own.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as out,
    ):
        out.write_table(table)


def emptied(folder):
    folder.mkdir()
    (folder / "own.arrow").write_bytes(bytes(40))


def cut(folder):
    folder.mkdir()
    write_stream(folder / "own.arrow", range(2), [0, 1])
    (folder / "own.arrow").write_bytes((folder / "own.arrow").read_bytes()[:-300])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: leads_out(folder, "../own.arrow"), "'../own.arrow' leads out of the"),
        (lambda folder: leads_out(folder, "/etc/passwd"), "'/etc/passwd' leads out of the"),
        (reordered, "its rows are reordered"),
        (stretched, "data-00000.arrow: cannot be read as Arrow"),
        (compressed, "its batches are compressed"),
        (feather, "Arrow's file format"),
        (cut, "own.arrow: cannot be read as Arrow"),
        (emptied, "own.arrow: cannot be read as Arrow"),
    ],
)
def test_an_arrow_folder_that_makes_no_sense_is_one_line(tmp_path, make, message):
    make(tmp_path / "own")
    with one_line(message):
        load_dataset(str(tmp_path / "own"))


# WebDataset


def member(archive, name, content=b"", **fields):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for key, value in fields.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(content))


def write_tar(path, samples):
    """Samples: for each a dictionary of what follows the key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, parts in samples:
            for extension, content in parts.items():
                member(archive, f"s/{number:04}.{extension}", content)


def sample(row, extension="cls", label=None):
    return row, {"png": png(IMAGES[row]), extension: label or str(LABELS[row]).encode()}


def test_tars_are_read_where_they_stand_by_folder_file_or_braces(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "classnames.txt").write_text("cat\ndog\nemu\n")
    write_tar(
        tmp_path / "w" / "test-000.tar", [sample(0), sample(1, "cls.txt"), (90, {"txt": b"?"})]
    )
    as_json = [sample(r, "json", b'{"label": %d, "w": 4}' % LABELS[r]) for r in range(2, 7)]
    write_tar(tmp_path / "w" / "test-001.tar", as_json)
    write_tar(tmp_path / "w" / "train-000.tar", [sample(3)])
    data = load_dataset(str(tmp_path / "w"))
    assert is_whole(data)
    assert (data.split, data.classes) == ("test", tuple(NAMES))
    braces = str(tmp_path / "w" / "test-{000..001}.tar")
    assert is_whole(load_dataset(braces))
    assert {one.path for one in file_stamps(braces, "test", None)} == {
        str(tmp_path / "w" / f"test-00{n}.tar") for n in range(2)
    }
    assert len(load_dataset(str(tmp_path / "w" / "test-000.tar"))) == 2
    with one_line("test-002.tar: no such file \\(3 files in"):
        load_dataset(str(tmp_path / "w" / "test-{000..002}.tar"))
    with one_line("more than 100,000 shards"):
        load_dataset("x-{0..999999999999}.tar")


def test_labels_of_a_tar_may_be_names(tmp_path):
    rows = [sample(r, "cls", NAMES[LABELS[r]].encode()) for r in range(7)]
    write_tar(tmp_path / "own.tar", rows)
    assert is_whole(load_dataset(str(tmp_path / "own.tar")))
    assert load_dataset(str(tmp_path / "own.tar")).classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda t: member(t, "a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            "'a.png' is a link",
        ),
        (lambda t: member(t, "a.png", type=tarfile.LNKTYPE, linkname="b"), "'a.png' is a link"),
        (lambda t: member(t, "a.png", type=tarfile.FIFOTYPE), "'a.png' is a link or not a regular"),
        (lambda t: member(t, "../a.png", b"x"), "'../a.png' leads out of the"),
        (lambda t: member(t, "/a.png", b"x"), "'/a.png' leads out of the"),
        (lambda t: member(t, "a.png", b"x"), "a.png: no label for the image"),
        (lambda t: member(t, "a.cls", b"1"), "a.cls: 0 images in a sample"),
        (
            lambda t: [member(t, "a.json", b"[" * 5000), member(t, "a.png", b"x")],
            "a.json: cannot be read",
        ),
        (
            lambda t: [member(t, "a.json", b"{}"), member(t, "a.png", b"x")],
            "no label under 'label'",
        ),
        (lambda t: [member(t, "a.cls", b"-1"), member(t, "a.png", b"x")], "a.png: label -1"),
        (
            lambda t: [member(t, "a.cls", b"9" * 2**21), member(t, "a.png", b"x")],
            "a label of 2,097",
        ),
        (lambda t: [member(t, "a.cls", b"1"), member(t, "a.png", b"x")], "a.png: unreadable image"),
        (lambda t: member(t, "notes.txt", b"x"), "no images"),
    ],
)
def test_a_tar_that_makes_no_sense_is_one_line(tmp_path, add, message):
    with tarfile.open(tmp_path / "own.tar", "w") as archive:
        add(archive)
    with one_line(message):
        load_dataset(str(tmp_path / "own.tar"))


def test_a_tar_that_is_packed_or_cut_off_is_one_line(tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        member(archive, "a.png", b"x")
    with one_line("compressed; decompress it with gunzip first"):
        load_dataset(str(tmp_path / "packed.tar"))
    write_tar(tmp_path / "cut.tar", [sample(0)])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:600])
    with one_line("cut.tar: .*truncated"):
        load_dataset(str(tmp_path / "cut.tar"))


def test_an_address_is_told_from_a_path():
    with one_line("https://a.b/x-0.tar: a web address; download the files"):
        load_dataset("https://a.b/x-0.tar")


# tensors


@pytest.mark.parametrize(
    "held",
    [
        lambda x, y: (x, y),
        lambda x, y: {"images": x / 255, "labels": y},
        lambda x, y: {"test": [x, y], "train": (x[:2], y[:2])},
        lambda x, y: torch.utils.data.TensorDataset(x.permute(0, 2, 3, 1), y),
        lambda x, y: {"data": x, "targets": y.tolist(), "classes": NAMES},
    ],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_that_torch_saved_are_read_without_running_anything(tmp_path, held, as_zip):
    path = tmp_path / "own.pt"
    content = held(torch.tensor(IMAGES), torch.tensor(LABELS))
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    data = load_dataset(str(path))
    assert is_whole(data)
    assert data.classes in (("0", "1", "2"), tuple(NAMES))


class Canary:
    def __reduce__(self):
        return print, ("the file's code runs",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Canary(), "contains builtins.print"),
        ((Canary(), Canary()), "contains a tuple"),
        ({"conv.weight": torch.ones(2)}, "no images and labels under .*it has: conv.weight"),
        ((torch.ones(2, 1, 3, 3), torch.tensor([0])), "2 images but 1 labels"),
        ((torch.ones(1).expand(2**40, 1, 3, 3), torch.zeros(1).expand(2**40)), "far more numbers"),
        ((torch.full((1, 1, 3, 3), 7.0), torch.tensor([0])), "image 0 has the value 7"),
        ((torch.ones(1, 1, 3, 3), "x"), "must be tensors, got str"),
    ],
)
def test_tensors_that_make_no_sense_are_one_line(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "own.pt")
    with one_line(message):
        load_dataset(str(tmp_path / "own.pt"))
    assert "runs" not in capsys.readouterr().out


# .npy


def test_npy_files_are_pairs_by_their_names(tmp_path):
    np.save(tmp_path / "x_test.npy", IMAGES.transpose(0, 2, 3, 1))
    np.save(tmp_path / "y_test.npy", np.array(LABELS))
    np.save(tmp_path / "x_train.npy", IMAGES[:2] / 255)
    np.save(tmp_path / "y_train.npy", np.array(LABELS[:2], np.uint8))
    np.save(tmp_path / "columns.npy", np.asfortranarray(IMAGES))
    np.save(tmp_path / "labels.npy", np.array(LABELS))
    assert is_whole(load_dataset(str(tmp_path)))
    assert is_whole(load_dataset(str(tmp_path / "x_test.npy")))
    assert is_whole(load_dataset(str(tmp_path / "columns.npy")))
    assert load_dataset(str(tmp_path), split="train").labels.tolist() == LABELS[:2]
    with one_line("x_train.npy: no split 'test'; it is 'train'"):
        load_dataset(str(tmp_path / "x_train.npy"))


def test_npy_images_are_not_all_held_in_memory(tmp_path):
    count = 3000
    whole = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (count, 3, 64, 64))
    whole[:, :, 0, 0] = np.arange(count)[:, None] % 251 + 1
    del whole
    np.save(tmp_path / "y.npy", np.arange(count) % 10)
    import tracemalloc

    tracemalloc.start()
    data = load_dataset(str(tmp_path), limit=600)
    data.images(0, 8)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def bad_npy(images, labels=(0,)):
    def make(folder):
        np.save(folder / "x.npy", images)
        np.save(folder / "y.npy", np.array(labels))

    return make


def cut_npy(folder):
    bad_npy(IMAGES, LABELS)(folder)
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad_npy(np.array([Canary()], object)), "x.npy: contains Python objects"),
        (bad_npy(IMAGES, [None] * 7), "y.npy: contains Python objects"),
        (bad_npy(IMAGES, LABELS[:3]), "7 images but 3 labels in"),
        (bad_npy(np.zeros((1, 2))), "x.npy: images of shape 1x2"),
        (bad_npy(np.full((1, 1, 2, 2), 7.0)), "x.npy: image 0 has the value 7"),
        (bad_npy(np.zeros((1, 1, 2, 2), complex)), "images of type complex128"),
        (cut_npy, "x.npy: 1 bytes are missing at the end"),
        (lambda folder: (folder / "x.npy").write_bytes(b"\x93NUMPY\x09\x00"), "it has: x"),
        (lambda folder: np.save(folder / "fish.npy", IMAGES), "it has: fish"),
    ],
)
def test_npy_files_that_make_no_sense_are_one_line(tmp_path, make, message):
    make(tmp_path)
    with one_line(message):
        load_dataset(str(tmp_path))


# CSV


def pictures(folder, rows=range(7)):
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / f"{row}.png").write_bytes(png(IMAGES[row]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", "path,label\n" + "".join(f"p/{r}.png,{LABELS[r]}\n" for r in range(7))),
        ("own.csv", "".join(f"{NAMES[LABELS[r]]};p/{r}.png\n\n" for r in range(7))),
        ("own.csv", "path,label\n" + "".join(f"p\\{r}.png,{LABELS[r]}\n" for r in range(7))),
        (
            "own.tsv",
            "\ufefflabel\tauthor\tFILE_NAME\tsplit\n"
            + "".join(f"{NAMES[LABELS[r]]}\tme\tp/{r}.png\ttest\n" for r in range(7))
            + "aardvark\tme\tp/1.png\ttrain\n",
        ),
    ],
)
def test_a_table_of_paths_and_labels_is_a_data_set(tmp_path, name, text):
    pictures(tmp_path / "p")
    (tmp_path / name).write_text(text, encoding="utf-8")
    data = load_dataset(str(tmp_path / name))
    shifted = "aardvark" in text  # a class of another split keeps its number
    assert is_whole(data, [label + shifted for label in LABELS])
    assert ("folders_outside" in data.source) is False
    assert len(file_stamps(str(tmp_path / name), "test", None)) == 8


@pytest.mark.parametrize(
    "head",
    [
        "path,class_name,class_id",
        "path,class,label_idx",
        "path,class,target",
        "path,class_name,label",
        "path,class_id,label",
    ],
)
def test_a_table_may_say_which_number_is_whose(tmp_path, head):
    """Numbers that are not those of the alphabet; the highest class is of another split alone."""
    pictures(tmp_path / "p", range(3))
    rows = ["p/0.png,b,0,test", "p/1.png,a,1,test", "p/2.png,d,3,train"]
    (tmp_path / "own.csv").write_text("\n".join([f"{head},split", *rows]))
    data = load_dataset(str(tmp_path / "own.csv"))
    first = IMAGES[0].tolist()
    (own,) = [i for i in range(2) if (255 * data.images(i, i + 1)[0]).round().tolist() == first]
    assert data.labels.tolist() == ([0, 1] if own == 0 else [1, 0])
    assert data.classes == ("b", "a", "2", "d")


@pytest.mark.parametrize(
    ("text", "labels", "classes"),
    [
        ("path,class,target,label\n0.png,dog,0,dog\n1.png,cat,1,cat\n", [0, 1], ("dog", "cat")),
        ("path,target,class,y\n0.png,0,dog,00\n1.png,1,cat,1\n", [0, 1], ("dog", "cat")),
        ("path,label,x,y\n0.png,dog,7,5\n1.png,cat,7,5\n", [1, 0], ("cat", "dog")),
        ("path,x,y\n0.png,1,1\n1.png,1,0\n", [1, 0], ("0", "1")),
        ("path,label,label\n0.png,dog,dog\n1.png,cat,cat\n", [1, 0], ("cat", "dog")),
        ("path,target,label\n0.png,,dog\n1.png,,cat\n", [1, 0], ("cat", "dog")),
    ],
)
def test_all_columns_of_labels_count(tmp_path, text, labels, classes):
    pictures(tmp_path, range(2))
    (tmp_path / "own.csv").write_text(text)
    data = load_dataset(str(tmp_path / "own.csv"))
    made = [(255 * one).round().tolist() for one in data.images(0, 2)]
    assert [data.labels[made.index(IMAGES[row].tolist())] for row in range(2)] == labels
    assert data.classes == classes


CIFAR = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("pairs", "wanted", "labels", "names"),
    [
        # numbers alone tell where nothing is known of the network's names
        ([(3, "cat")], {"count": 10}, [3], ("0", "1", "2", "cat", *"456789")),
        ([(n, "abcd"[n]) for n in range(4)], {"count": 10}, [0, 1, 2, 3], (*"abcd", *"456789")),
        ([(0, "b"), (1, "a")], {}, [0, 1], ("b", "a")),
        ([(0, "b"), (1, "a")], {"count": 2}, [0, 1], ("b", "a")),
        # else names do, of those classes that have one
        ([(3, "cat")], {"names": CIFAR, "count": 10}, [3], CIFAR),
        ([(3, "cat"), (5, "Dog")], {"names": CIFAR, "count": 10}, [3, 5], CIFAR),
        ([(1, "cat"), (4, "bird")], {"names": CIFAR, "count": 10}, [3, 2], CIFAR),
        ([(3, "kitten"), (9, "truck")], {"names": CIFAR, "count": 10}, [3, 9], CIFAR),
        ([(1, "goldfish"), (7, "cock")], {"count": 1000}, [1, 7], IMAGENET),
        ([(0, "cock"), (2, "goldfish")], {"count": 1000}, [7, 1], IMAGENET),
        # unless it is said
        ([(1, "x"), (4, "y")], {"names": CIFAR, "count": 10, "given": "8,2"}, [8, 2], CIFAR),
        ([(1, "x"), (4, "y")], {"names": CIFAR, "count": 10, "given": "number"}, [1, 4], CIFAR),
        ([(1, "x"), (4, "y")], {"names": CIFAR, "count": 10, "given": "cat,dog"}, [3, 5], CIFAR),
    ],
)
def test_numbers_of_a_table_are_kept_and_classes_without_a_name_have_none(
    tmp_path, pairs, wanted, labels, names
):
    pictures(tmp_path, range(len(pairs)))
    rows = [f"{row}.png,{number},{name}" for row, (number, name) in enumerate(pairs)]
    (tmp_path / "own.csv").write_text("\n".join(["path,class_id,class_name", *rows]))
    data = load_dataset(str(tmp_path / "own.csv"), classes=WantedClasses(**wanted))
    places = [(255 * one).round().astype(np.uint8).tolist() for one in data.images(0, len(pairs))]
    found = [data.labels[places.index(IMAGES[row].tolist())] for row in range(len(pairs))]
    assert found == labels
    assert data.classes == names


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(3, "kitten")], "its class 'kitten' is none of the network's 10"),
        ([(3, "cat"), (5, "Cat")], "'cat' and 'Cat' both match the network's class 3"),
        ([(0, "plane"), (1, "zeppelin")], "its class 'zeppelin' is none of"),
    ],
)
def test_names_of_a_table_that_the_network_has_not_are_refused(tmp_path, pairs, message):
    pictures(tmp_path, range(len(pairs)))
    rows = [f"{row}.png,{number},{name}" for row, (number, name) in enumerate(pairs)]
    (tmp_path / "own.csv").write_text("\n".join(["path,class_id,class_name", *rows]))
    with one_line(message):
        load_dataset(str(tmp_path / "own.csv"), classes=WantedClasses(names=CIFAR, count=10))


def test_a_data_sets_file_names_the_classes_that_its_table_numbers(tmp_path):
    pictures(tmp_path, [0, 1])
    (tmp_path / "own.csv").write_text("path,class_id,class\n0.png,2,c\n1.png,0,a\n")
    described = 'title = "t"\nsource = "own.csv"\nclasses = '
    (tmp_path / "own.toml").write_text(described + '["a", "b", "c", "d"]')
    data = load_dataset(str(tmp_path / "own.toml"))
    assert (sorted(data.labels), data.classes) == ([0, 2], ("a", "b", "c", "d"))
    (tmp_path / "own.toml").write_text(described + '["a", "c", "b", "d"]')
    with one_line("the class 'c' has the number 2, but .*own.toml names 'b' there"):
        load_dataset(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text(described + '["a", "b"]')
    with one_line("3 classes found, but .*own.toml names 2"):
        load_dataset(str(tmp_path / "own.toml"))


def test_a_column_of_numbers_alone_is_one_of_labels(tmp_path):
    pictures(tmp_path, range(2))
    (tmp_path / "own.csv").write_text("path,class_id\n0.png,1\n1.png,0\n")
    assert sorted(load_dataset(str(tmp_path / "own.csv")).labels) == [0, 1]


def test_a_table_of_another_encoding_is_told_so(tmp_path):
    pictures(tmp_path, [0])
    (tmp_path / "own.csv").write_bytes("path,label\n0.png,café\n".encode("cp1252"))
    with one_line("not UTF-8 text: save it as UTF-8"):
        load_dataset(str(tmp_path / "own.csv"))


def test_pictures_in_one_folder_beside_their_table_are_not_one_class(tmp_path):
    pictures(tmp_path / "images")
    (tmp_path / "labels.csv").write_text("path,label\nimages/0.png,1\n")
    with one_line("all images are in one folder, 'images'; name the table instead"):
        load_dataset(str(tmp_path))


def test_two_class_folders_out_of_order_are_a_note(tmp_path):
    for name in ("9", "10"):
        pictures(tmp_path / name, range(2))
    assert "label 0 is the folder '10'" in load_dataset(str(tmp_path)).warnings[0]


def test_pictures_outside_of_the_tables_folder_are_on_record(tmp_path):
    pictures(tmp_path / "p")
    (tmp_path / "t").mkdir()
    path = tmp_path / "t" / "own.csv"
    rows = [f"../p/{r}.png,{LABELS[r]}\n" for r in range(6)]
    path.write_text("".join([*rows, f"{tmp_path}/p/6.png,{LABELS[6]}\n"]))
    data = load_dataset(str(path))
    assert is_whole(data)
    assert set(data.source["folders_outside"]) == {f"{tmp_path}/t/../p", f"{tmp_path}/p"}


def test_pictures_that_a_table_lists_again_are_told(tmp_path):
    pictures(tmp_path, [0, 1])
    (tmp_path / "own.csv").write_text("path,label\n0.png,0\n1.png,1\n0.png,0\n")
    data = load_dataset(str(tmp_path / "own.csv"))
    assert len(data) == 3
    assert any(note.endswith("1 of 3 rows list a picture again, and count") for note in data.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.csv: the file is empty"),
        ("path,label\n", "no rows in the split 'test'"),
        ("path,label\nhttps://a.b/c.png,1\n", "line 2: 'https://a.b/c.png' is a web address"),
        ("path,label\n0.png,1\ngone.png,1\n", "line 3: '.*gone.png': no such file; paths are rel"),
        ("path,label\n0.png,1\n0.png\n", "line 3: 1 columns where the first line has 2"),
        ("path,label\n0.png,\n", "line 2: no label"),
        ("path,label\n0.png,1\n0.png,cat\n", "line 2: the label '1' is a number, but 'cat' is"),
        ("path,label\n0.png,-1\n", "line 2: label -1"),
        ("path,label\n0.png,2.0\n0.png,10.0\n", "line 2: the label '2.0' is not an integer"),
        ("path,author\n0.png,me\n", "no column named labels"),
        ("a,b,c\n0.png,1,2\n", "line 1: expected a header with 'path' and 'label'"),
        ("path,label,split\n0.png,1,train\n", "no rows in the split 'test'; it has: train"),
        (",".join(map(str, range(9000))), "9,000 columns"),
        ("," * 1_000_000, "line 1: longer than"),
        ('path,label\n"0.png,1\n', "1 columns where|unexpected end"),
        ("path,label\n0.png\0,1\n", "no such file"),
        ("path,class,class_id\n0.png,a,0\n0.png,a,1\n", "line 3: the class 'a' has the number '1'"),
        ("path,class,class_id\n0.png,a,0\n0.png,b,0\n", "have one number, 0"),
        ("path,class,class_id\n0.png,a,x\n", "the class 'a' has the number 'x'"),
        ("path,label,class_id\n0.png,3,7\n", "two columns of labels"),
        (
            "path,label,category\n0.png,cat,pet\n",
            "line 2: two columns of labels, 'label' and 'category', with 'cat' and 'pet'; keep one",
        ),
        ("path,class,y,target\n0.png,cat,3,4\n", "two columns of labels, 'target' and 'y'"),
        ("path,class,target\n0.png,cat,0\n0.png,dog,0\n", "have one number, 0"),
        (
            "path,class,class_id,split\n0.png,a,0,test\n0.png,b,99999999999,train\n",
            "the class 'b' has the number '99999999999'",
        ),
        ("path,label\n0.png,1\n0.png,2\n", "line 3: .* has the label '2', and '1' in line 2"),
    ],
)
def test_a_table_that_makes_no_sense_is_one_line(tmp_path, text, message):
    pictures(tmp_path, [0])
    (tmp_path / "own.csv").write_text(text)
    with one_line(message):
        load_dataset(str(tmp_path / "own.csv"))


# Flipped bits


def write_names(path):
    pictures = [png(image) for image in IMAGES]
    names = [NAMES[label] for label in LABELS]
    pq.write_table(pa.table({"image": pictures, "label": names}), path)


def write_classes(path):
    features = {**FEATURES, "image": FEATURES["pic"], "label": FEATURES["kind"]}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": [png(image) for image in IMAGES], "label": LABELS})
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="gzip")


WRITTEN = {
    "names.parquet": write_names,
    "classes.parquet": write_classes,
    "x.arrow": lambda path: write_stream(path, range(7), LABELS),
    "x.npz": lambda path: np.savez(path, images=IMAGES, labels=LABELS),
    "images.npy": lambda path: np.save(path, IMAGES),
    "x.pt": lambda path: torch.save((torch.tensor(IMAGES), torch.tensor(LABELS)), path),
    "x.tar": lambda path: write_tar(path, [sample(row) for row in range(7)]),
}


@pytest.mark.one_of_many(32)
@pytest.mark.parametrize("seed", range(32))
@pytest.mark.parametrize("name", WRITTEN)
def test_a_flipped_bit_is_one_line_or_leaves_a_data_set(tmp_path, name, seed):
    path = tmp_path / name
    WRITTEN[name](path)
    if name == "images.npy":
        np.save(tmp_path / "labels.npy", LABELS)
    content = path.read_bytes()
    for bit in random.Random(seed).sample(range(8 * len(content)), 20):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        for place in (path, tmp_path):
            with suppress(DataError):
                opened = open_path(place, "all")
                list(opened.source.read(range(len(opened.source.labels))))


def test_a_parquet_file_with_fewer_pictures_than_labels_is_one_line(tmp_path, monkeypatch):
    write_names(tmp_path / "names.parquet")
    pictures = _ParquetTable.pictures
    monkeypatch.setattr(_ParquetTable, "pictures", lambda *a: islice(pictures(*a), 5))
    with one_line(r"names.parquet: fewer images than it says; it is damaged or truncated"):
        list(open_path(tmp_path / "names.parquet", "all").source.read(range(7)))


@pytest.mark.parametrize("name", ["x.arrow", "names.parquet"])
def test_a_column_beside_class_folders_whose_name_is_no_text_does_not_matter(tmp_path, name):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(png(IMAGES[0]))
    WRITTEN[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content.replace(b"image", b"im\xe1ge"))
    with suppress(DataError):
        open_path(tmp_path, "all")


# a column of splits

OF_ROWS = ["train", "test", "Test", "train", "validation", "test", "train"]


def table_with(folder, column, words, labels):
    folder.mkdir(parents=True)
    pictures(folder)
    rows = [f"{r}.png,{labels[r]},a text {r},{words[r] or ''}\n" for r in range(7)]
    (folder / "own.csv").write_text(f"path,label,caption,{column}\n" + "".join(rows))
    return folder / "own.csv"


def columns_with(column, words, labels):
    rows = [{"bytes": png(image), "path": None} for image in IMAGES]
    texts = [f"a text {r}" for r in range(7)]
    return pa.table({"image": rows, "label": labels, "caption": texts, column: words})


def parquet_with(folder, column, words, labels):
    folder.mkdir(parents=True)
    pq.write_table(columns_with(column, words, labels), folder / "own.parquet", row_group_size=3)
    return folder / "own.parquet"


def parquets_with(folder, column, words, labels):
    """In a folder of two files."""
    folder.mkdir(parents=True)
    table = columns_with(column, words, labels)
    pq.write_table(table[:4], folder / "a.parquet")
    pq.write_table(table[4:], folder / "b.parquet")
    return folder


def arrow_with(folder, column, words, labels):
    folder.mkdir(parents=True)
    table = columns_with(column, words, labels)
    with (
        pa.OSFile(str(folder / "own.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=2)
    return folder / "own.arrow"


def saved_with(folder, column, words, labels):
    path = arrow_with(folder, column, words, labels)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}]}))
    return folder


WITH_A_COLUMN = [table_with, parquet_with, parquets_with, arrow_with, saved_with]


@pytest.mark.parametrize("make", WITH_A_COLUMN)
@pytest.mark.parametrize("names", [False, True])
def test_a_column_says_which_rows_are_of_which_split(tmp_path, make, names):
    # a class of the training alone keeps its number
    labels = ["aardvark", *(NAMES[label] for label in LABELS[1:])] if names else [3, *LABELS[1:]]
    path = make(tmp_path / "own", "split", OF_ROWS, labels)
    every = from_arrays(IMAGES, LABELS, name="x").ids
    for split, rows in (("test", [1, 2, 5]), ("train", [0, 3, 6]), ("val", [4])):
        data = load_dataset(path, split=split)
        numbers = [("aardvark", *NAMES).index(labels[r]) if names else labels[r] for r in rows]
        expected = dict(zip([every[r] for r in rows], numbers, strict=True))
        assert (data.split, dict(zip(data.ids, data.labels.tolist(), strict=True))) == (
            split,
            expected,
        )
        data.images(0, len(rows))  # which are those of the ids
    assert set(load_dataset(path, split="all").ids) == set(every)
    assert load_dataset(path, split="Val").ids == (every[4],)
    with one_line("no rows in the split 'extra'; it has: '?test'?, '?train'?, '?val"):
        load_dataset(path, split="extra")


@pytest.mark.parametrize("make", WITH_A_COLUMN)
def test_a_column_of_another_name_that_seems_to_be_of_splits_is_no_guess(tmp_path, make):
    path = make(tmp_path / "own", "subset", [*OF_ROWS[:3], None, *OF_ROWS[4:]], LABELS)
    with one_line("column 'subset' has test and train and validation; if it says which rows"):
        load_dataset(path)
    assert is_whole(load_dataset(path, split="all"))
    # all are of the split that is asked for, or one row says something else
    assert is_whole(load_dataset(make(tmp_path / "test", "subset", ["test"] * 7, LABELS)))
    words = [*OF_ROWS[:-1], "held out"]
    assert is_whole(load_dataset(make(tmp_path / "other", "subset", words, LABELS)))
    with one_line("no split 'train'|no rows in the split 'train'"):
        load_dataset(make(tmp_path / "third", "subset", words, LABELS), split="train")
