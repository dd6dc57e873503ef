"""What of pictures is left out as torchvision leaves it out is noted, and changes no image."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from robustkit.data import from_arrays, load_dataset
from robustkit.data.pipeline import Pipeline
from robustkit.errors import DataError

ORIENTATION = 274
TURNED = "of 4 images have an EXIF orientation, which is not applied, as in torchvision's"
CLEAR = "of 4 images have transparent pixels, whose transparency is dropped, as in torchvision's"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3), np.uint8)


def picture(number, mode="RGB", alpha=None):
    made = Image.fromarray(PIXELS[number]).convert(mode)
    if alpha is not None:
        made.putalpha(Image.fromarray(np.full((4, 5), alpha, np.uint8)))
    return made


def encoded(made, kind="PNG", orientation=None, **options):
    stream = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    made.save(stream, kind, **options)
    return stream.getvalue()


def folder_of(place, contents):
    for number, content in enumerate(contents):
        path = place / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def table_of(place, contents):
    folder_of(place, contents)
    rows = [f"{path.relative_to(place)},{path.parent.name}" for path in place.rglob("*.png")]
    (place / "own.csv").write_text("\n".join(["path,label", *rows]))
    return place / "own.csv"


def parquet_of(place, contents):
    rows = [{"image": {"bytes": c, "path": None}, "label": n % 2} for n, c in enumerate(contents)]
    place.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), place / "own.parquet")
    return place / "own.parquet"


def tar_of(place, contents):
    place.mkdir()
    with tarfile.open(place / "own.tar", "w") as archive:
        for number, content in enumerate(contents):
            for end, data in (("png", content), ("cls", str(number % 2).encode())):
                entry = tarfile.TarInfo(f"{number}.{end}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return place / "own.tar"


@pytest.mark.parametrize("kept", [folder_of, table_of, parquet_of, tar_of])
def test_orientation_and_transparency_are_counted_in_every_format(tmp_path, kept):
    contents = [
        encoded(picture(0), orientation=6),
        encoded(picture(1), orientation=1),
        encoded(picture(2, alpha=9), orientation=3),
        encoded(picture(3)),
    ]
    data = load_dataset(str(kept(tmp_path / "own", contents)))
    turned, clear = data.notes
    assert turned.startswith(f"2 {TURNED}")
    assert clear.startswith(f"1 {CLEAR}")
    stored = from_arrays(PIXELS, [0, 1, 0, 1], name="own")
    assert sorted(data.ids) == sorted(stored.ids)
    plain = [encoded(picture(number)) for number in range(4)]
    other = load_dataset(str(kept(tmp_path / "plain", plain)))
    assert (other.notes, other.digest) == ((), data.digest)


@pytest.mark.parametrize(
    ("kind", "orientation", "noted"),
    [
        ("JPEG", 8, True), ("PNG", 2, True), ("WEBP", 3, True), ("JPEG", 1, False),
        ("JPEG", 9, False), ("JPEG", 0, False), ("PNG", None, False),
        ("TIFF", 6, False),  # Pillow turns it, and so torchvision's loader does
    ],
)  # fmt: skip
def test_an_orientation_that_is_not_applied_is_noted(tmp_path, kind, orientation, noted):
    contents = [encoded(picture(0), kind, orientation), *(encoded(picture(n)) for n in (1, 2, 3))]
    if kind == "TIFF":
        contents = [encoded(picture(n), kind, orientation) for n in range(4)]
    notes = load_dataset(str(folder_of(tmp_path, contents))).notes
    assert [note.startswith(f"1 {TURNED}") for note in notes] == [True] * noted


def test_metadata_that_cannot_be_read_are_no_concern(tmp_path):
    broken = encoded(picture(0), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    contents = [broken, *(encoded(picture(n)) for n in (1, 2, 3))]
    assert load_dataset(str(folder_of(tmp_path, contents))).notes == ()


@pytest.mark.parametrize(
    ("made", "options", "noted"),
    [
        (picture(0, alpha=254), {}, True),
        (picture(0, alpha=255), {}, False),
        (picture(0, "L", alpha=0), {}, True),
        (picture(0, "L", alpha=255), {}, False),
        (picture(0, "L"), {"transparency": int(np.asarray(picture(0, "L"))[0, 0])}, True),
        (picture(0, "P"), {"transparency": int(np.asarray(picture(0, "P"))[0, 0])}, True),
        (picture(0, "P"), {"transparency": b"\xff" * 256}, False),
        (picture(0), {"transparency": tuple(map(int, PIXELS[0, 0, 0]))}, True),
        (picture(0), {}, False),
    ],
)
def test_only_pixels_that_are_transparent_count(tmp_path, made, options, noted):
    contents = [encoded(made, **options), *(encoded(picture(n)) for n in (1, 2, 3))]
    notes = load_dataset(str(folder_of(tmp_path, contents))).notes
    clear = [note for note in notes if "transparen" in note]
    assert [note.startswith(f"1 {CLEAR}") for note in clear] == [True] * noted


@pytest.mark.parametrize("as_the_library", [True, False])
def test_a_pipeline_that_applies_them_has_nothing_to_note(tmp_path, as_the_library):
    contents = [encoded(picture(0, alpha=9), orientation=3), *(encoded(picture(1)),) * 3]
    pipeline = Pipeline(
        library="transformers 5",
        processor="ViTImageProcessor",
        resize=(4, 4),
        interpolation="bilinear",
        by="Pillow",
        crop=None,
        centre="rounded",
        upright=as_the_library,
        on_white=as_the_library,
    )
    notes = load_dataset(str(folder_of(tmp_path, contents)), pipeline=pipeline).notes
    assert sum("torchvision" in note for note in notes) == 2 * (not as_the_library)


@pytest.mark.thorough
def test_perturbed_images_that_were_saved_are_data(tmp_path, robustkit):
    """Of `evaluate --save-adversarial`: under their labels, and fooling as the record says."""
    file = tmp_path / "adversarial.npz"
    asked = ["--attack", "fgsm", "--limit", "20", "--epsilon", "0.1"]
    status, _, err = robustkit("evaluate", "lenet5-mnist5k", *asked, "--save-adversarial", file)
    assert status == 0, err
    with np.load(file) as saved:
        expected = from_arrays(saved["images"], saved["label"], name="own")
        wrong = (saved["fooled_at"] != "").sum()
    data = load_dataset(file)
    assert sorted(zip(data.ids, data.labels.tolist(), strict=True)) == sorted(
        zip(expected.ids, expected.labels.tolist(), strict=True)
    )
    assert (data.source["images"], data.source["labels"]) == ("images", "label")
    status, out, err = robustkit("evaluate", "lenet5-mnist5k", "--data", file, "--attack", "clean")
    assert status == 0, err
    assert 0 < wrong <= 20
    assert f"{100 * (20 - wrong) / 20:.1f}" in out


@pytest.mark.parametrize("make", [folder_of, table_of, parquet_of, tar_of])
@pytest.mark.parametrize("allowed", [True, False])
def test_truncated_pictures_are_none_whatever_the_program_has_pillow_do(
    tmp_path, make, allowed, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
    contents = [encoded(Image.fromarray(pixels).resize((64, 64)), "JPEG") for pixels in PIXELS]
    whole = make(tmp_path / "whole", contents)
    assert load_dataset(whole).images(0, 4).shape == (4, 3, 64, 64)
    contents[1] = contents[1][: len(contents[1]) - 200]
    with pytest.raises(DataError, match=r"unreadable image: .*truncated"):
        load_dataset(make(tmp_path / "cut", contents))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is allowed
