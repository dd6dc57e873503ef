"""Images for a checkpoint whose library says how they are prepared, and options beside that."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustkit.calls.given import ImageOptions
from robustkit.checkpoint import Checkpoint
from robustkit.data import load_dataset
from robustkit.data.pipeline import Pipeline
from robustkit.errors import DataError
from robustkit.evaluation import images_for

PIPELINE = Pipeline(
    library="timm 1",
    processor="create_transform",
    resize=20,
    interpolation="bicubic",
    by="Pillow",
    crop=(16, 16),
    centre="rounded",
    upright=False,
)
PARTS = {
    "resize": (18, {"resize": 18}),
    "crop": (12, {"crop": (12, 12)}),
    "channels": (1, {"channels": 1}),
    "interpolation": ("nearest", {"interpolation": "nearest"}),
}


def checkpoint(pipeline=PIPELINE, shape=(3, 16, 16), **known):
    return Checkpoint(
        path="net.pt", sha256="", format="", container="", prefix="", weights="",
        pipeline=pipeline, trained_shape=shape, **known,
    )  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Pictures of several sizes and one turned by its EXIF orientation."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(24, 31), (40, 22), (30, 30), (26, 50)]):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        turned = Image.Exif()
        turned[0x0112] = 6 if number == 1 else 1
        picture.save(folder / str(number % 2) / f"{number}.png", exif=turned)
    return str(folder)


@pytest.mark.parametrize("pipeline", [PIPELINE, replace(PIPELINE, upright=True)])
@pytest.mark.parametrize("name", PARTS)
def test_an_option_replaces_its_part_of_a_librarys_pipeline_and_no_other(
    name, pipeline, photographs
):
    value, part = PARTS[name]
    found = images_for(checkpoint(pipeline, None), photographs, **{name: value})
    expected = load_dataset(photographs, pipeline=replace(pipeline, **part))
    assert found.ids == expected.ids
    assert np.array_equal(found.images(0, 4), expected.images(0, 4))
    assert found.digest != load_dataset(photographs, pipeline=pipeline).digest
    # what a command that repeats the record has to name, beside the pipeline
    assert {key: kept for key, kept in found.transform.items() if key != "pipeline"} == {
        name: value
    }
    assert f"but with {name} {value} as asked" in " ".join(found.notes)
    json.dumps(found.transform)
    assert np.array_equal(pickle.loads(pickle.dumps(found)).images(0, 4), found.images(0, 4))


OBLONG, SQUARE = [(24, 31), (40, 22)], [(24, 24), (40, 40)]


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, OBLONG),
        ({"library": "torchvision 9", "processor": "another"}, OBLONG),
        ({"upright": True, "on_white": True}, OBLONG),
        ({"fill": (9, 9, 9)}, OBLONG),
        ({"resize": (20, 20)}, SQUARE),
        ({"resize": (20, 20), "fit": "cover"}, SQUARE),
        ({"centre": "rounded down, padded up"}, SQUARE),
        ({"resize": None, "centre": "rounded down", "interpolation": "box"}, SQUARE),
        ({"resize": None, "by": "torch"}, OBLONG),
    ],
)
def test_the_same_pixels_have_one_digest_whichever_library_prepares_them(changes, sizes, tmp_path):
    """And that of the options which do the same."""
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).mkdir()
        picture = Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8))
        picture.save(tmp_path / str(number) / "a.png")
    pipeline = replace(PIPELINE, **changes)
    found = load_dataset(tmp_path, split="all", pipeline=pipeline)
    options = {"resize": 20, "interpolation": "bicubic"} if pipeline.resize else {}
    plain = load_dataset(tmp_path, split="all", crop=16, **options)
    assert np.array_equal(found.images(0, 2), plain.images(0, 2))
    assert found.digest == plain.digest
    assert found.take([1]).digest == plain.take([1]).digest
    assert found.transform["pipeline"]["library"] == pipeline.library


@pytest.mark.parametrize(
    "changes",
    [
        {"by": "torch"},
        {"resize": 21},
        {"resize": (20, 20)},
        {"interpolation": "bilinear"},
        {"crop": (16, 15)},
        {"crop": (24, 24)},
        {"crop": (24, 24), "fill": (7,)},
        {"crop": (23, 23), "centre": "rounded down, padded up"},
        {"crop": (17, 17), "centre": "rounded down"},
        {"channels": 1},
    ],
)
def test_other_pixels_have_another_digest(changes, photographs):
    pytest.importorskip("torchvision")
    plain = load_dataset(photographs, pipeline=PIPELINE)
    other = load_dataset(photographs, pipeline=replace(PIPELINE, **changes))
    assert other.digest != plain.digest
    for name in {"fill", "centre"} & changes.keys():
        rest = {key: value for key, value in changes.items() if key != name}
        usual = load_dataset(photographs, pipeline=replace(PIPELINE, **rest))
        alike = np.array_equal(usual.images(0, 4), other.images(0, 4))
        assert alike == (usual.digest == other.digest)


def test_options_that_say_what_the_library_does_change_nothing(photographs):
    same = {"resize": 20, "crop": 16, "channels": 3, "interpolation": "bicubic"}
    plain = images_for(checkpoint(), photographs)
    assert images_for(checkpoint(), photographs, **same).digest == plain.digest


def test_what_a_sidecar_says_of_images_goes_before_the_library(photographs):
    found = images_for(checkpoint(resize=18), photographs)
    expected = images_for(checkpoint(), photographs, resize=18)
    assert found.digest == expected.digest
    back = images_for(checkpoint(resize=18), photographs, resize=20)
    assert back.digest == images_for(checkpoint(), photographs).digest


@pytest.mark.parametrize(
    ("pipeline", "options", "told"),
    [
        (replace(PIPELINE, resize=None), {"interpolation": "box"}, "nothing is resized"),
        (replace(PIPELINE, by="torch"), {"interpolation": "lanczos"}, "by torch"),
        (PIPELINE, {"crop": 21}, "--crop 21 is larger than the image of"),
        (PIPELINE, {"interpolation": "cubic"}, "--interpolation must be one of"),
        (PIPELINE, {"resize": 0}, "--resize must be"),
    ],
)
def test_options_that_a_pipeline_has_no_use_for_end_in_one_line(
    pipeline, options, told, photographs
):
    with pytest.raises(DataError, match=told) as caught:
        images_for(checkpoint(pipeline, None), photographs, **options)
    assert "\n" not in str(caught.value)


def test_a_colour_around_the_picture_becomes_grey_with_it(photographs):
    framed = replace(PIPELINE, resize=(12, 12), fit="contain", fill=(124, 116, 104))
    images = images_for(checkpoint(framed, None), photographs, channels=1).images(0, 4)
    grey = np.asarray(Image.new("RGB", (1, 1), framed.fill).convert("L")).item()
    assert images.shape == (4, 1, 16, 16)
    assert set(images[:, 0, 0, 0].tolist()) == {np.float32(grey / np.float32(255))}


WRONG = [
    ({}, "3×16×16", ("--resize 14",)),
    ({"channels": 3}, "3×16×16", ("--resize 14",)),
    ({"interpolation": "nearest"}, "3×16×16", ("--resize 14",)),
    ({"resize": 20}, "1×14×14", ("--channels 3",)),
    ({"interpolation": "nearest"}, "1×16×16", ("--channels 3", "--resize 14")),
]


@pytest.mark.parametrize(("options", "trained", "accepting"), WRONG)
def test_shapes_are_checked_as_far_as_no_option_names_them(
    options, trained, accepting, photographs
):
    shape = tuple(map(int, trained.split("×")))
    network = checkpoint(replace(PIPELINE, crop=(14, 14)), shape)
    with pytest.raises(DataError, match=rf"trained on images of {trained}, but .* 3×14×14") as told:
        images_for(network, photographs, **options)
    assert f"({' '.join(accepting)} accepts them as they are)" in str(told.value)


@pytest.mark.parametrize("options", [{"crop": 12}, {"resize": 18, "crop": 12}, {"channels": 1}])
def test_a_shape_that_is_asked_for_is_taken(options, photographs):
    assert images_for(checkpoint(), photographs, **options).shape != (3, 16, 16)


def test_a_surrogate_is_held_against_the_images_as_far_as_no_option_names_them(photographs):
    asked = ImageOptions(data=photographs, interpolation="nearest", crop=16)
    images = load_dataset(photographs, resize=16, crop=16)
    other = checkpoint(pipeline=None, shape=(1, 16, 16), num_classes=2)
    with pytest.raises(DataError, match="--channels 3"):
        asked.other_model(images, other)
    asked = replace(asked, channels=3)
    assert asked.other_model(images, other).shape == (1, 16, 16)
