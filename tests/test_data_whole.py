"""One data set and all of it: shards, configurations, names of classes, and a fair beginning."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.travel import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustkit.data.order import is_grouped
from robustkit.data.shards import find_split
from robustkit.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 5), np.uint8)


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


def png(row):
    target = io.BytesIO()
    Image.fromarray(IMAGES[row, 0]).save(target, "PNG")
    return target.getvalue()


def write_parquet(path, labels=(1, 0, 1), names=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    table = pa.table({"image": pictures, "label": list(labels)})
    if names:
        feature = {"label": {"_type": "ClassLabel", "names": list(names)}}
        described = json.dumps({"info": {"features": feature}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)


def write_arrow(path, labels=(1, 0, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    table = pa.table({"image": pictures, "label": list(labels)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


def write_tar(path, labels=(1, 0, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for row, label in enumerate(labels):
            for extension, content in (("png", png(row)), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{row:03}.{extension}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


WRITERS = {"parquet": write_parquet, "arrow": write_arrow, "tar": write_tar}


# shards, configurations and revisions


@pytest.mark.parametrize("kind", WRITERS)
def test_one_of_several_configurations_is_chosen_by_its_folder(tmp_path, kind):
    for name in ("en", "fr"):
        WRITERS[kind](tmp_path / name / f"test-00000-of-00001.{kind}")
        WRITERS[kind](tmp_path / name / f"train-00000-of-00001.{kind}", (0, 1))
    with one_line(f"revisions of a data set, en, fr; give one of them: --data {tmp_path}/en$"):
        load_dataset(str(tmp_path))
    assert len(load_dataset(str(tmp_path / "fr"))) == 3
    assert len(load_dataset(str(tmp_path / "fr"), split="train")) == 2


@pytest.mark.parametrize("kind", WRITERS)
def test_a_shard_that_is_missing_is_named(tmp_path, kind):
    for number in (0, 2):
        WRITERS[kind](tmp_path / "data" / f"train-{number:05}-of-00003.{kind}")
    with one_line("1 of 3 shards is missing: train-00001-of-00003; put what is missing there"):
        load_dataset(str(tmp_path), split="train")
    one = tmp_path / "data" / f"train-00002-of-00003.{kind}"
    assert len(load_dataset(str(one), split="train")) == 3
    WRITERS[kind](tmp_path / "data" / f"train-00001-of-00003.{kind}", (1, 1))
    assert len(load_dataset(str(tmp_path), split="train")) == 8


def files_of(tmp_path, names, split="test"):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return find_split(tmp_path, Path(names[0]).suffix, split)


UUID = "1f0c2d5e-4a4b-4f7b-abcd-0d9f8e7c6b5a"


@pytest.mark.parametrize(
    "names",
    [
        ["default/test/0000.parquet", "default/test/0001.parquet"],
        ["test/part-0/a.parquet", "test/part-1/a.parquet"],
        ["00/test.parquet", "01/test.parquet"],
        ["test/lang=en/0.parquet", "test/lang=fr/0.parquet"],
        ["test/cat.tar", "test/dog.tar"],
        ["a.parquet", "b.parquet"],
        ["test1.parquet", "test2.parquet", "test3.parquet"],
        ["imagenet1k-test-0000.tar", "imagenet1k-test-0001.tar"],
        ["test-00000-of-00002-1b3c.parquet", "test-00001-of-00002-feed.parquet"],
        ["test-00001-of-00002.parquet", "test-00002-of-00002.parquet"],
        [f"test-{UUID}.parquet", f"test-{UUID[::-1]}.parquet"],
        ["n01440764.tar", "n01443537.tar"],
    ],
)
def test_files_of_one_data_set_are_taken_together(tmp_path, names):
    # those of another split, of other numbers and in other folders, are none of its business
    others = [f"other/train-00000-of-00001{Path(names[0]).suffix}"]
    inside = all("test" in name for name in names)
    part = files_of(tmp_path, [*names, *(others if inside else [])])
    assert [path.relative_to(tmp_path).as_posix() for path in part.files] == names
    assert part.warnings == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["d--x/snapshots/1a/data/test.parquet", "d--x/snapshots/2b/data/test.parquet"],
            "d--x/snapshots/1a, d--x/snapshots/2b; give one of them: --data .*/snapshots/1a$",
        ),
        (["x/0.0.0/1a/x-test.arrow", "x/0.0.0/2b/x-test.arrow"], "x/0.0.0/1a, x/0.0.0/2b;"),
        (["plain/test/0000.parquet", "augmented/test/0000.parquet"], "set, augmented, plain;"),
        (["test/0000.parquet", "partial-test/0000.parquet"], "set, partial-test, test;"),
        (["1/test.parquet", "2/test.parquet", "3/test.parquet"], "set, 1, 2, 3;"),
        (["test/32/0.tar", "test/64/0.tar"], "set, test/32, test/64;"),
        (["test-0.parquet", "more/test-1.parquet"], "more, test-0.parquet; .*--data .*/more$"),
        (["cifar10-test.parquet", "cifar100-test.parquet"], "--data .*/cifar10-test.parquet$"),
        (["test_v4.parquet", "test_v6.parquet"], "test_v4.parquet, test_v6.parquet; give one"),
        (
            [
                "en-test-00000-of-00002.tar",
                "en-test-00001-of-00002.tar",
                "fr-test-00000-of-00001.tar",
            ],
            "en-test-00000-of-00002.tar, fr-.*; put the files of one in a folder of their own",
        ),
        (
            ["test-00000-of-00001.tar", "test-00000-of-00002.tar", "test-00001-of-00002.tar"],
            "several configurations or revisions",
        ),
        (
            ["test-00000-of-00001-1b3c.parquet", "test-00000-of-00001-feed.parquet"],
            "-1b3c.parquet and test-00000-of-00001-feed.parquet are the same shard",
        ),
        (
            ["part-0/test-00000-of-00001.tar", "part-1/test-00000-of-00001.tar"],
            "part-0/test-00000-of-00001.tar and part-1/.* are the same shard",
        ),
        ([f"{c}{c}/test.parquet" for c in "abcdefg"], "set, aa, bb, cc, dd, ee and 2 more; give"),
        (["test-3-of-3.tar"], "2 of 3 shards are missing: test-1-of-3, test-2-of-3;"),
        (["test_0_of_2.tar"], "1 of 2 shards is missing: test_1_of_2;"),
        (["test-0-of-999999999.tar"], "test-5-of-999999999 and 999,999,993 more; put"),
    ],
)
def test_files_that_are_no_one_data_set_are_one_line(tmp_path, names, message):
    with one_line(message):
        files_of(tmp_path, names)


def test_a_configuration_below_the_folder_of_a_split_is_chosen_as_the_line_says(tmp_path):
    for name in ("en", "fr"):
        write_parquet(tmp_path / "train" / name / "0000.parquet")
    with one_line(f"train/en, train/fr; give one of them: --data {tmp_path}/train/en --split all$"):
        load_dataset(str(tmp_path), split="train")
    assert len(load_dataset(str(tmp_path / "train" / "en"), split="all")) == 3


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([0, 1, 3, 4], "no test-002.parquet among 4 files numbered alike"),
        ([2, 3, 4, 7, 8], "no test-005.parquet and 1 more among 5 files numbered alike"),
        ([3, 4, 5], ""),
        ([1, 900], ""),
    ],
)
def test_numbers_that_are_left_out_are_told(tmp_path, numbers, told):
    for number in numbers:
        write_parquet(tmp_path / f"test-{number:03}.parquet")
    warnings = load_dataset(str(tmp_path)).warnings
    assert len(warnings) == bool(told)
    assert all(told in warning for warning in warnings)


def test_a_known_data_sets_missing_shard_is_named(tmp_path):
    write_parquet(tmp_path / "cifar10-test-00001-of-00002.parquet")
    with one_line("1 of 2 shards is missing: cifar10-test-00000-of-00002"):
        load_dataset("cifar10", root=tmp_path)


def test_files_that_call_classes_otherwise_are_no_one_data_set(tmp_path):
    write_parquet(tmp_path / "a.parquet", names=["cat", "dog"])
    write_parquet(tmp_path / "b.parquet")
    assert load_dataset(str(tmp_path)).classes == ("cat", "dog")
    write_parquet(tmp_path / "b.parquet", names=["cat", "emu"])
    with one_line("b.parquet: names its classes .*class 1 is 'dog' there, 'emu' here"):
        load_dataset(str(tmp_path))
    write_parquet(tmp_path / "b.parquet", names=["cat", "dog", "emu"])
    with one_line("b.parquet: names its classes .*2 classes there, 3 here"):
        load_dataset(str(tmp_path))


def test_each_arrow_file_is_described_by_the_json_beside_it(tmp_path):
    for name, classes in (("part-0", ["cat", "dog"]), ("part-1", ["dog", "cat"])):
        write_arrow(tmp_path / name / "data.arrow")
        features = {"label": {"_type": "ClassLabel", "names": classes}}
        (tmp_path / name / "dataset_info.json").write_text(json.dumps({"features": features}))
    with one_line("part-1/data.arrow: names its classes .*class 0 is 'cat' there, 'dog' here"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_file_has_its_digest_on_record_though_two_are_called_alike(tmp_path, kind):
    WRITERS[kind](tmp_path / "part-0" / f"own.{kind}")
    WRITERS[kind](tmp_path / "part-1" / f"own.{kind}", (0, 1))
    found = load_dataset(str(tmp_path)).source["sha256"]
    assert sorted(found) == [f"part-0/own.{kind}", f"part-1/own.{kind}"]
    assert len(set(found.values())) == 2


# a fair beginning


def of_labels(tmp_path, labels, **how):
    np.savez(tmp_path / "own.npz", images=IMAGES[: len(labels)], labels=labels)
    return load_dataset(str(tmp_path / "own.npz"), **how)


@pytest.mark.parametrize(
    "labels",
    [
        np.repeat([0, 1, 2], 20),
        np.repeat([2, 1, 0], 20),
        np.repeat([1, 3, 0, 2], 15),
        np.tile(np.repeat([2, 0], 15), 2),
        [1] * 45 + [0] * 15,
        [*np.repeat([2, 0], 20), 1, *[3] * 19],
        [1, 1, 0, 0],
    ],
    ids=["ascending", "descending", "by name", "two shards", "unequal", "one alone", "four"],
)
def test_images_grouped_by_class_in_any_order_have_a_fair_beginning(tmp_path, labels):
    whole = of_labels(tmp_path, labels)
    assert whole.order == "digest-shuffled"
    part = of_labels(tmp_path, labels, limit=len(labels) // 2)
    assert part.ids == whole.ids[: len(part)]
    taken, all_ = np.bincount(part.labels, minlength=max(labels) + 1), np.bincount(labels)
    common = all_ >= 15
    assert (taken > 0.2 * all_)[common].all()
    assert (taken < 0.8 * all_)[common].all()


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        [1, 0, 0],
        [2, 0, 1],
        [0, 1, 0, 1],
        [1] + [0] * 59,
        [0] * 30 + [1] + [0] * 29,
        [0] * 60,
        np.tile([2, 1, 0], 20),
        np.repeat(np.tile([2, 1, 0], 10), 2),
    ],
)
def test_other_orders_stay_as_they_are_stored(tmp_path, labels):
    assert of_labels(tmp_path, labels).order == "as stored"


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 10), st.integers(40, 400), st.integers(0, 2**32 - 1))
def test_no_order_by_chance_is_taken_for_a_grouped_one(classes, count, seed):
    labels = np.random.default_rng(seed).permutation(np.arange(count) % classes)
    assert not is_grouped(labels)


def test_every_format_of_grouped_images_has_the_same_beginning(tmp_path):
    labels = np.repeat([2, 0, 1], 20)
    wanted = of_labels(tmp_path, labels, limit=12)
    for kind, write in WRITERS.items():
        write(tmp_path / kind / f"own.{kind}", labels.tolist())
        data = load_dataset(str(tmp_path / kind), limit=12)
        assert (data.ids, data.labels.tolist()) == (wanted.ids, wanted.labels.tolist())


# names of classes beside tars


def test_the_file_of_a_neighbour_names_no_classes(tmp_path):
    (tmp_path / "classes.txt").write_text("oak\nelm\n")
    write_tar(tmp_path / "birds" / "own.tar")
    for place in ("birds", "birds/own.tar"):
        data = load_dataset(str(tmp_path / place))
        assert (data.classes, data.notes) == (("0", "1"), ())


@pytest.mark.parametrize("place", ["", "test", "test/0.tar", "test/{0..0}.tar"])
def test_names_of_classes_stand_in_the_data_set_or_above_its_split(tmp_path, place):
    (tmp_path / "classes.txt").write_text("oak\nelm\n")
    own = tmp_path / "birds"
    write_tar(own / "test" / "0.tar")
    (own / "classnames.txt").write_text("\ufeffwren\nrook\n\n")
    data = load_dataset(str(own / place))
    assert data.classes == ("wren", "rook")
    assert data.notes == (f"classes are named by {own / 'classnames.txt'}",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wren\n", "classes.txt: names 1 classes, but .*own.tar: 000.png has label 1; give"),
        ("wren\n\nrook\n", "classes.txt: line 2 is empty; expected the name of a class"),
        ("\n\n", "classes.txt: names 0 classes, but"),
    ],
)
def test_names_that_do_not_fit_the_labels_are_refused(tmp_path, text, message):
    write_tar(tmp_path / "own.tar")
    (tmp_path / "classes.txt").write_text(text)
    with one_line(message):
        load_dataset(str(tmp_path))


# grey pixels of more than 8 bits

DEEP = np.array([[0, 1, 1000], [40000, 65534, 65535]], np.uint16)


def tiff(values, *, order="<", bits=16, kind=1, black=1):
    """Grey pixels, 3 x 2; `values` are bytes where they are packed."""
    content = values if isinstance(values, bytes) else values.astype(f"{order}u2").tobytes()
    tags = {256: 3, 257: 2, 258: bits, 259: 1, 262: black, 273: 134, 277: 1, 278: 2}
    tags |= {279: len(content), 339: kind}
    number = {"<": "little", ">": "big"}[order]
    head = {"<": b"II*\0\x08\0\0\0", ">": b"MM\0*\0\0\0\x08"}[order]
    entries = [
        tag.to_bytes(2, number) + (4).to_bytes(2, number) + (1).to_bytes(4, number)
        + value.to_bytes(4, number)
        for tag, value in tags.items()
    ]  # fmt: skip
    return head + len(tags).to_bytes(2, number) + b"".join(entries) + bytes(4) + content


def only(folder, name, content):
    (folder / "only").mkdir(exist_ok=True)
    (folder / "only" / name).write_bytes(content)
    return load_dataset(str(folder))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("raw.pgm", b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes(), DEEP / 65535),
        ("text.pgm", b"P2 3 2 65535\n" + b" ".join(b"%d" % v for v in DEEP.flat), DEEP / 65535),
        ("ten.pgm", b"P5 3 2 1000\n" + (DEEP // 66).astype(">u2").tobytes(), DEEP // 66 / 1000),
        ("little.tif", tiff(DEEP), DEEP / 65535),
        ("big.tif", tiff(DEEP, order=">"), DEEP / 65535),
    ],
)
def test_grey_pixels_of_more_than_8_bits_keep_their_range(tmp_path, name, content, expected):
    found = only(tmp_path, name, content).images(0, 1)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_twelve_bits_of_a_tiff_go_up_to_4095(tmp_path):
    packed = bytes.fromhex("000fff8000" + "001000fff0")  # each row is filled up to whole bytes
    found = only(tmp_path, "own.tif", tiff(packed, bits=12)).images(0, 1)[0, 0]
    np.testing.assert_allclose(found * 4095, [[0, 4095, 2048], [1, 0, 4095]], atol=0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(DEEP, kind=2), "own.tif: 32 bits per channel, or signed numbers; save"),
        (tiff(DEEP, black=0), "own.tif: 16 bits, of which 0 is white; save"),
    ],
)
def test_deep_pixels_of_another_scale_are_refused(tmp_path, content, message):
    with one_line(message):
        only(tmp_path, "own.tif", content)


def test_a_deep_picture_from_memory_is_not_told_to_be_clipped():
    from robustkit.data.batches import from_memory

    with one_line("a picture of mode I;16; give its pixels as floats in"):
        from_memory([(Image.fromarray(DEEP), 0), (Image.fromarray(DEEP), 1)])
