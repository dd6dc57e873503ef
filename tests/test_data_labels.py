"""Columns of labels: names and numbers beside each other mean the same in every format."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.travel import load_dataset
from PIL import Image

from robustkit.data.classes import WantedClasses
from robustkit.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), np.uint8)
NAMES = ["neutral", "angry", "sad", "angry", "neutral", "sad"]
IDS = {"angry": 0, "sad": 1, "neutral": 2}  # FER2013's, which are not those of the alphabet
NUMBERS = [IDS[name] for name in NAMES]


def png(image):
    target = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(target, "PNG")
    return target.getvalue()


def one_line(match):
    return pytest.raises(DataError, match=rf"\A[^\n]*(?:{match})[^\n]*\Z")


def as_csv(folder, columns):
    for row, image in enumerate(IMAGES):
        (folder / f"{row}.png").write_bytes(png(image))
    rows = zip(*columns.values(), strict=True)
    lines = [",".join([f"{n}.png", *map(str, row)]) for n, row in enumerate(rows)]
    (folder / "own.csv").write_text("\n".join([",".join(["path", *columns]), *lines]))
    return folder / "own.csv"


def table_of(columns):
    pictures = [{"bytes": png(image), "path": None} for image in IMAGES]
    return pa.table({"image": pictures, **columns})


def as_parquet(folder, columns):
    pq.write_table(table_of(columns), folder / "own.parquet", row_group_size=4)
    return folder / "own.parquet"


def as_parquets(folder, columns):
    table = table_of(columns)
    (folder / "set").mkdir()
    pq.write_table(table[:4], folder / "set" / "a.parquet")
    pq.write_table(table[4:], folder / "set" / "b.parquet")
    return folder / "set"


def as_arrow(folder, columns):
    """As `save_to_disk` leaves it."""
    table = table_of(columns)
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    with (
        pa.OSFile(str(folder / "saved" / "x.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=2)
    return folder / "saved"


def as_tar(folder, columns):
    with tarfile.open(folder / "own.tar", "w") as archive:
        for number, (image, *row) in enumerate(zip(IMAGES, *columns.values(), strict=True)):
            said = json.dumps(dict(zip(columns, row, strict=True))).encode()
            for extension, content in (("png", png(image)), ("json", said)):
                entry = tarfile.TarInfo(f"{number}.{extension}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder / "own.tar"


FORMATS = (as_parquet, as_parquets, as_arrow, as_tar)
PAIRED = {
    "names first": {"label": NAMES, "label_id": NUMBERS},
    "numbers first": {"label": NUMBERS, "class_name": NAMES},
    "other words": {"class": NAMES, "ClassId": NUMBERS},
    "numbers under a label's name": {"label": NAMES, "target": NUMBERS},
    "numbers as texts": {"label": NAMES, "label_idx": list(map(str, NUMBERS))},
    "texts": {"label": list(map(str, NUMBERS)), "label_name": NAMES},
    "one class left out": {"label": ["ant" if n == "sad" else n for n in NAMES],
                           "class_id": [7 if n == 1 else n for n in NUMBERS]},
}  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("columns", PAIRED.values(), ids=PAIRED)
@pytest.mark.parametrize(
    "network",
    [{}, {"count": 9}, {"names": ("sad", "neutral", "angry", "ant"), "count": 4}],
    ids=["alone", "unnamed", "named"],
)
def test_a_name_and_a_number_mean_the_same_in_every_format(tmp_path, write, columns, network):
    wanted = WantedClasses(**network)
    table = load_dataset(as_csv(tmp_path, columns), classes=wanted)
    data = load_dataset(write(tmp_path, columns), classes=wanted)
    assert data.labels.tolist() == table.labels.tolist()
    assert (data.digest, data.classes) == (table.digest, table.classes)
    if not network and "ant" not in columns.get("label", ()):
        assert data.labels.tolist() == NUMBERS
        assert data.classes == ("angry", "sad", "neutral")


@pytest.mark.parametrize("write", [as_csv, *FORMATS])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": NAMES, "label_id": [2, 0, 1, 0, 2, 0]},
            "the class 'sad' has the number '0', and '1' before",
        ),
        ({"label": NAMES, "label_id": [2, 0, 0, 0, 2, 0]}, "'angry' and 'sad' have one number, 0"),
        ({"label": ["3"] * 6, "label_id": [3, 3, 3, 7, 3, 3]}, "two columns of labels"),
        ({"label": NAMES, "label_id": [2, 0, 10**9, 0, 2, 10**9]}, "the number '1000000000'|label 1000000000; "),
    ],
)  # fmt: skip
def test_a_name_and_a_number_that_do_not_go_together_are_refused(tmp_path, write, columns, message):
    with one_line(message):
        load_dataset(write(tmp_path, columns))


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize(
    "columns",
    [
        {"label": NUMBERS, "category": ["face"] * 6},  # of several classes
        {"label": NUMBERS, "class_name": ["a", "b", "c", "d", "e", "f"]},
        {"label": NUMBERS, "label_name": ["angry", *[""] * 5]},
        {"label": NUMBERS, "y": [f"at {row}" for row in range(6)]},
        {"label": NUMBERS, "label_id": [5, 4, 3, 2, 1, 0]},
    ],
)
def test_what_does_not_name_the_numbers_is_passed_over(tmp_path, write, columns):
    data = load_dataset(write(tmp_path, columns))
    assert (data.labels.tolist(), data.classes) == (NUMBERS, ("0", "1", "2"))


@pytest.mark.parametrize("write", [as_parquet, as_arrow])
def test_numbers_that_became_floats_are_numbers_and_a_column_of_nothing_is_none(tmp_path, write):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    floats = {"label": NAMES, "label_id": [float(number) for number in NUMBERS]}
    assert load_dataset(write(tmp_path / "a", floats)).labels.tolist() == NUMBERS
    nothing = {"label": NAMES, "label_id": pa.array([None] * 6, pa.int64())}
    assert load_dataset(write(tmp_path / "b", nothing)).classes == ("angry", "neutral", "sad")
    some = {"label": NAMES, "label_id": pa.array([None, *NUMBERS[1:]], pa.int64())}
    with one_line("the class 'neutral' has the number '2', and '' before"):
        load_dataset(write(tmp_path / "c", some))


def test_names_whose_numbers_one_file_lacks_are_no_data_set(tmp_path):
    table = table_of({"label": NAMES, "label_id": NUMBERS})
    pq.write_table(table[:4], tmp_path / "a.parquet")
    pq.write_table(table[4:].drop_columns("label_id"), tmp_path / "b.parquet")
    with one_line("b.parquet: has no numbers of its labels, but files beside it have"):
        load_dataset(tmp_path)
    # what is no number is missed by nobody, nor are names beside numbers
    for columns in ({"label": NAMES, "category": ["face"] * 6}, {"label": NUMBERS, "class": NAMES}):
        table = table_of(columns)
        pq.write_table(table[:4], tmp_path / "a.parquet")
        pq.write_table(table[4:].drop_columns(list(columns)[1]), tmp_path / "b.parquet")
        expected = ("0", "1", "2") if columns["label"] is NUMBERS else tuple(sorted(IDS))
        assert load_dataset(tmp_path).classes == expected


# headers of tables


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (
            "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path",
            "5,4,0,0,4,3,LABEL,FILE",
        ),  # GTSRB
        ("Filename;Width;Height;ClassId", "FILE;5;4;LABEL"),
        ("image_id,label", "FILE,LABEL"),  # Cassava
        ("Image Name,Class ID", "FILE,LABEL"),
        ("Label-Index,IMAGE-ID", "LABEL,FILE"),
        ("File Path,class name", "FILE,LABEL"),
    ],
)
def test_a_header_is_known_however_it_is_spelled(tmp_path, head, line):
    whole = load_dataset(as_csv(tmp_path, {"label": NUMBERS}))
    rows = [line.replace("FILE", f"{n}.png").replace("LABEL", str(NUMBERS[n])) for n in (1, 2)]
    (tmp_path / "own.csv").write_text("\n".join([head, *rows]))
    data = load_dataset(tmp_path / "own.csv")
    assert dict(zip(data.ids, data.labels.tolist(), strict=True)) == {
        whole.ids[n]: NUMBERS[n] for n in (1, 2)
    }


def test_an_id_without_an_ending_is_the_one_picture_of_that_name(tmp_path):
    whole = load_dataset(as_csv(tmp_path, {"label": NUMBERS}))
    (tmp_path / "own.csv").write_text("image_id,label\n3,1\n1,0\n5,1\n")
    data = load_dataset(tmp_path / "own.csv")
    assert set(data.ids) == {whole.ids[row] for row in (1, 3, 5)}
    (tmp_path / "3.jpg").write_bytes(b"another")
    with one_line("line 2: '.*/3': no such file"):
        load_dataset(tmp_path / "own.csv")
