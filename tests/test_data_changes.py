"""Data files that change while they are read, or while their images are evaluated."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robustkit import evaluate
from robustkit.attacks import attack_block
from robustkit.data import from_arrays, load_dataset
from robustkit.data.loading import file_stamps
from robustkit.errors import DataError, EvaluationFailed

LABELS = [0, 1, 1, 0, 1, 0, 0, 1]
LATER = "changed since the images were listed"


def pictures(seed):
    return np.random.default_rng(seed).integers(0, 256, (len(LABELS), 1, 6, 6), np.uint8)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image[0]).save(stream, "PNG")
    return stream.getvalue()


def write_folder(place, images):
    for number, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        (place / "set" / f"{label}").mkdir(parents=True, exist_ok=True)
        (place / "set" / f"{label}" / f"{number}.png").write_bytes(png(image))
    return place / "set"


def write_parquet(place, images):
    rows = [{"image": {"bytes": png(i)}, "label": n} for i, n in zip(images, LABELS, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), place / "set.parquet", row_group_size=2)
    return place / "set.parquet"


def write_npz(place, images):
    np.savez(place / "set.npz", images=images, labels=LABELS)
    return place / "set.npz"


def write_idx(place, images):
    """As the originals of MNIST are stored, under the name of a data set of that kind."""
    for name, array in (("images-idx3", images[:, 0]), ("labels-idx1", np.array(LABELS))):
        sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
        (place / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    (place / "own.toml").write_text('title = "Own"\nsource = "torchvision:MNIST"\n')
    return place / "own.toml"


WRITERS = {"folder": write_folder, "parquet": write_parquet, "npz": write_npz, "idx": write_idx}
READ_AGAIN = ("folder", "parquet")
"""images that do not fit into memory; arrays are there as a whole"""


@pytest.fixture(params=WRITERS)
def kind(request, monkeypatch):
    monkeypatch.setattr("robustkit.data.source.Remembered.LARGEST", 0)
    monkeypatch.setattr("robustkit.data.parquet.CACHE", 0)
    return request.param


def loaded(path):
    return load_dataset(str(path), root=path.parent)


def test_an_image_has_the_pixels_of_its_id_or_is_refused(kind, tmp_path):
    data = loaded(WRITERS[kind](tmp_path, pictures(0)))
    before = data.images(0, 8)
    assert data.changed() == ()
    WRITERS[kind](tmp_path, pictures(1))
    if kind in READ_AGAIN:
        with pytest.raises(EvaluationFailed, match=rf"\A[^\n]*{LATER}[^\n]*\Z"):
            data.images(0, 8)
    else:
        assert np.array_equal(data.images(0, 8), before)
    (told,) = data.take([3, 1]).changed()
    assert str(tmp_path) in told


@pytest.mark.parametrize("what", ["time", "inode", "size", "gone"])
def test_a_file_is_another_by_its_time_inode_or_size(what, tmp_path):
    path = write_npz(tmp_path, pictures(0))
    data, state, content = loaded(path), path.stat(), path.read_bytes()
    if what == "time":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    elif what == "gone":
        path.unlink()
    else:
        copy = tmp_path / "copy" if what == "inode" else path
        copy.write_bytes(content if what == "inode" else content + b"\0")
        os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns))
        copy.replace(path)
    assert len(data.changed()) == 1


def test_a_file_that_changes_while_it_is_read_is_refused(kind, tmp_path, monkeypatch):
    path = WRITERS[kind](tmp_path, pictures(0))
    monkeypatch.setattr("robustkit.data.dataset._scan", scanned_and_changed(kind, tmp_path))
    with pytest.raises(DataError, match=r"\A[^\n]*: changed while it was read; run again[^\n]*\Z"):
        loaded(path)


def scanned_and_changed(kind, place):
    from robustkit.data.dataset import _scan

    def scan(*arguments):
        found = _scan(*arguments)
        WRITERS[kind](place, pictures(1))
        return found

    return scan


def test_arrays_that_are_written_into_are_refused():
    images = pictures(0)
    data = from_arrays(images, LABELS, name="own")
    data.images(0, 8)
    images[5] = 0
    data.images(0, 5)
    with pytest.raises(EvaluationFailed, match=f"own: image 5: {LATER}"):
        data.images(4, 8)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(36, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.linspace(-1, 1, 72).view(2, 36).cos())

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.fixture
def evaluated(kind, tmp_path, monkeypatch):
    """An evaluation in blocks of two images; told what to do after the first."""
    monkeypatch.setattr("robustkit.evaluation.blocks.block_size", lambda data, device: 2)

    def run(after_a_block=lambda: None):
        def progress(done, total):
            if done == 2:
                after_a_block()

        return evaluate(
            Net(),
            loaded(tmp_path / {"folder": "set", "idx": "own.toml"}.get(kind, f"set.{kind}")),
            "fgsm",
            epsilon=["1/50"],
            name="net",
            out=tmp_path / "runs",
            progress=progress,
        )

    WRITERS[kind](tmp_path, pictures(0))
    return run


@pytest.mark.one_of_many(3)
def test_what_changes_during_an_evaluation_never_becomes_a_row(
    evaluated, kind, tmp_path, monkeypatch
):
    attacked = []

    def attack(model, block, *rest, **more):
        attacked.append(block.first)
        return attack_block(model, block, *rest, **more)

    monkeypatch.setattr("robustkit.evaluation.blocks.attack_block", attack)

    def change():
        WRITERS[kind](tmp_path, pictures(1))

    if kind in READ_AGAIN:
        with pytest.raises(EvaluationFailed, match=LATER):
            evaluated(change)
        assert not list((tmp_path / "runs").glob("*.parquet"))
        WRITERS[kind](tmp_path, pictures(0))  # restored, the blocks before still count
        attacked.clear()
        found = evaluated()
        assert attacked == [2, 4, 6]
    else:
        found = evaluated(change)
        (told,) = [w for w in found.header["warnings"] if "written to" in w]
        assert str(tmp_path) in told
        WRITERS[kind](tmp_path, pictures(0))
    arrays = from_arrays(pictures(0), LABELS, name="set")
    undisturbed = evaluate(
        Net(), arrays, "fgsm", epsilon=["1/50"], name="net", out=tmp_path / "others"
    )
    ids = found.table["sample"].to_pylist()
    rows = dict(zip(undisturbed.table["sample"].to_pylist(), undisturbed.broken_at, strict=True))
    assert [rows[name] for name in ids] == list(found.broken_at)


@pytest.mark.one_of_many(2)
def test_what_stays_as_it_is_is_no_news(evaluated):
    assert not [w for w in evaluated().header["warnings"] if "written to" in w]


def stamped(path):
    return {one.path for one in file_stamps(str(path), "test", None)}


@pytest.mark.parametrize(
    "name", ["gone.csv", "gone.tsv", "gone.npy", "gone.parquet", "gone", "a/b.csv"]
)
def test_files_that_are_not_there_have_no_stamps(tmp_path, name):
    assert stamped(tmp_path / name) == set()
    spec = tmp_path / "own.toml"
    spec.write_text(f'title = "t"\nsource = "{name}"\n')
    assert stamped(spec) == {str(spec)}
    with pytest.raises(DataError, match=r"no such file"):
        load_dataset(str(spec))


def test_a_source_that_is_none_of_torchvisions_is_told_when_it_is_read(tmp_path):
    spec = tmp_path / "own.toml"
    spec.write_text('title = "t"\nsource = "torchvision:STL10"\n')
    assert stamped(spec) == {str(spec)}
    with pytest.raises(DataError, match="STL10"):
        load_dataset(str(spec))


def test_what_is_written_below_arrays_is_none_of_their_files(tmp_path):
    np.save(tmp_path / "x_test.npy", pictures(0))
    np.save(tmp_path / "y_test.npy", LABELS)
    before = file_stamps(str(tmp_path / "x_test.npy"), "test", None)
    assert {Path(one.path).name for one in before} == {"x_test.npy", "y_test.npy"}
    (tmp_path / "out" / "cells").mkdir(parents=True)
    (tmp_path / "out" / "cells" / "1.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("more")
    assert file_stamps(str(tmp_path / "x_test.npy"), "test", None) == before
    np.save(tmp_path / "y_test.npy", LABELS[::-1])
    assert file_stamps(str(tmp_path / "x_test.npy"), "test", None) != before


def test_pictures_that_links_lead_to_have_stamps(tmp_path):
    write_folder(tmp_path / "all", pictures(0))
    place = tmp_path / "some"
    place.mkdir()
    for name in ("0", "1"):
        (place / name).symlink_to(tmp_path / "all" / "set" / name)
    (place / "1" / "more").symlink_to(place / "1")  # to where it stands
    (place / "round").symlink_to(place)
    before = file_stamps(str(place), "test", None)
    assert len(before) == len(LABELS)
    changed = tmp_path / "all" / "set" / "1" / "1.png"
    changed.write_bytes(png(pictures(1)[0]))
    assert file_stamps(str(place), "test", None) != before
