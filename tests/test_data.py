import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torchvision.transforms import v2

from robustkit.data import from_arrays, load_dataset, read_dataset_spec
from robustkit.data.shelf import Interpolation
from robustkit.errors import DataError, InputError, UnknownName
from robustkit.files import names, shipped


def lit(images):
    """The images with a bright pixel each: a set that is all but black is refused."""
    images[:, 0, 0, 0] |= 128
    return images


PICTURES = arrays(
    np.uint8,
    st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(2, 5)),
).map(lit)


def some_images(n=6, channels=1, height=4, width=5, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, channels, height, width), np.uint8)


def test_mnist5k_is_1000_test_and_4000_training_images_100_and_400_of_each_digit():
    for split, per_class in (("test", 100), ("train", 400)):
        data = load_dataset("mnist5k", split=split)
        assert len(data) == 10 * per_class
        assert np.bincount(data.labels).tolist() == [per_class] * 10
        assert (data.shape, data.split) == ((1, 28, 28), split)
        assert data.source["all_training_images_of"] == "mnist"
        json.dumps(data.source)


def test_no_picture_of_mnist5k_is_in_both_halves():
    train, test = load_dataset("mnist5k", split="train"), load_dataset("mnist5k")
    assert len({*train.ids, *test.ids}) == 5000


def test_the_embedded_digits_take_at_most_a_megabyte():
    assert (shipped("data") / "mnist5k.npz").stat().st_size <= 1_000_000


def test_a_class_sorted_source_is_shuffled_so_that_its_first_images_are_a_fair_sample():
    data = load_dataset("mnist5k", limit=200)
    assert data.order == "digest-shuffled"
    assert len(data) == 200
    assert np.bincount(data.labels, minlength=10).min() >= 8


def test_the_order_of_a_shuffled_source_is_the_same_in_every_version():
    assert load_dataset("mnist5k").labels[:10].tolist() == [7, 3, 2, 6, 2, 1, 9, 5, 9, 1]


@pytest.mark.parametrize("name", names("data"))
def test_every_file_on_the_shelf_parses_and_names_licence_and_origin(name):
    known = read_dataset_spec(name)
    assert known.title
    assert known.licence
    assert known.origin
    assert known.splits or name == "lfw-pairs"  # ten folds, of which each is tested by the others


def test_usual_budgets_are_exact_text_and_absent_where_unknown():
    assert "8/255" in read_dataset_spec("cifar10").budgets["linf"]
    assert load_dataset("mnist5k", limit=1).budgets["linf"][-1] == "0.3"
    assert read_dataset_spec("lfw").budgets == {}


def test_a_specification_is_read_without_torch_or_numpy():
    code = (
        "import sys; from robustkit.data import read_dataset_spec; read_dataset_spec('mnist');"
        "sys.exit(bool({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_splits_and_limits_are_one_line_with_advice():
    with pytest.raises(UnknownName, match="did you mean 'mnist'"):
        load_dataset("mnst")
    with pytest.raises(DataError, match="no split 'val'; it has: train, test"):
        load_dataset("mnist5k", split="val")
    with pytest.raises(DataError, match="--limit must be at least 1"):
        load_dataset("mnist5k", limit=0)
    assert len(load_dataset("mnist5k", limit=10_000)) == 1000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ('bounds = ["-1", "1"]', "bounds"),
        ("shape = [1, 2]", "shape"),
        ('budgets = {l3 = ["1"]}', "unknown norm 'l3'"),
        ('budgets = {l2 = ["-1"]}', "must be above 0"),
        ('classes = ["a"]\nfolders = ["x", "y"]', "2 names for 1 classes"),
    ],
)
def test_a_data_sets_file_with_a_mistake_is_refused_by_its_key(tmp_path, line, message):
    path = tmp_path / "own.toml"
    path.write_text(f'title = "own"\nsource = "own.npz"\n{line}\n')
    with pytest.raises(InputError, match=message):
        read_dataset_spec(str(path))


# arrays


def test_images_are_float32_in_the_unit_interval_block_by_block():
    images = some_images(7)
    data = from_arrays(images, np.arange(7) % 3, name="own")
    block = data.images(2, 5)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, images[2:5].astype(np.float32) / np.float32(255))
    assert data.images(5, 99).shape == (2, 1, 4, 5)
    assert data.images(7, 9).shape == (0, 1, 4, 5)


def test_arrays_keep_their_order_even_when_sorted_by_class():
    data = from_arrays(some_images(4), [0, 0, 1, 1], name="own", classes=["cat", "dog"])
    assert data.order == "as stored"
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.classes == ("cat", "dog")


def test_tensors_are_taken_and_give_the_same_data_set():
    images, labels = some_images(4, 3), np.array([1, 0, 1, 0])
    ours = from_arrays(images, labels, name="own")
    theirs = from_arrays(torch.tensor(images) / 255, torch.tensor(labels), name="own")
    assert theirs.digest == ours.digest
    np.testing.assert_array_equal(theirs.images(0, 4), ours.images(0, 4))


def test_values_between_the_grid_of_8_bits_stay_as_they_are():
    images = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    data = from_arrays(images, [0, 1, 0], name="own")
    np.testing.assert_array_equal(data.images(0, 3), images)


def bad(value):
    images = np.full((3, 1, 2, 2), 0.3, np.float32)
    images[1, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (bad(1.5), [0, 1, 0], "image 1 has the value 1.5"),
        (bad(-0.1), [0, 1, 0], "image 1 has the value -0.1"),
        (bad(np.nan), [0, 1, 0], "image 1 has the value nan"),
        (bad(np.inf), [0, 1, 0], "image 1 has the value inf"),
        (bad(0.2), [0, 1], "3 images but 2 labels"),
        (bad(0.2), [0, -1, 0], "image 1 has label -1"),
        (bad(0.2), [0, 5, 0], "image 1 has label 5, but there are 2 classes"),
        (bad(0.2), [0.0, 0.5, 0.0], "labels of type float64"),
        (bad(0.2), [0.0, np.nan, 0.0], "labels of type float64"),
        (bad(0.2), [[0, 1], [1, 0], [0, 1]], "labels of shape .* one-hot labels take the argmax"),
        (bad(0.2)[0, 0], [0, 1], "images of shape 2x2"),
        (np.zeros((0, 1, 2, 2), np.uint8), [], "labels of type float64|no images"),
        (np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, int), "no images"),
        (np.full((1, 1, 2, 2), 256), [0], "image 0 has the value 256, outside 0 to 255"),
        (np.zeros((1, 1, 2, 2), complex), [0], "images of type complex128"),
    ],
)
def test_arrays_out_of_range_name_the_first_offending_image(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(images, labels, name="own", classes=["a", "b"])
    assert "\n" not in str(caught.value)


# ids and digests


def test_repeated_pixels_are_told_apart_by_their_occurrence():
    images = some_images(3)
    data = from_arrays(images[[0, 1, 0, 0]], [0, 1, 0, 1], name="own")
    first, other, second, third = data.ids
    assert len({first, other, second, third}) == 4
    assert [i.split(":")[1] for i in data.ids] == ["1", "1", "2", "3"]
    assert first.split(":")[0] == second.split(":")[0] == third.split(":")[0]


def test_the_same_bytes_in_another_shape_are_another_image():
    wide = from_arrays(np.zeros((1, 1, 2, 8), np.uint8), [0], name="own")
    high = from_arrays(np.zeros((1, 1, 8, 2), np.uint8), [0], name="own")
    assert wide.ids != high.ids


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(PICTURES)
def test_a_picture_has_one_id_whatever_it_is_stored_as(tmp_path_factory, images):
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = tmp_path_factory.mktemp("formats")
    labels = np.zeros(len(images), int)
    ids = from_arrays(images, labels, name="own").ids
    floats = images / 255
    assert from_arrays(floats, labels, name="own").ids == ids
    assert from_arrays(floats.astype(np.float32), labels, name="own").ids == ids
    np.savez(place / "stored.npz", images=floats.astype(np.float32), labels=labels)
    (place / "pngs" / "only").mkdir(parents=True)
    rows = []
    for number, image in enumerate(images):
        path = place / "pngs" / "only" / f"{number:03}.png"
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
        rows.append({"image": {"bytes": path.read_bytes(), "path": None}, "label": 0})
    pq.write_table(pa.Table.from_pylist(rows), place / "rows.parquet")
    assert load_dataset(str(place / "stored.npz")).ids == ids
    assert load_dataset(str(place / "pngs")).ids == ids
    assert load_dataset(str(place / "rows.parquet")).ids == ids


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(PICTURES, st.data())
def test_a_limit_takes_the_first_images_and_changes_no_id(tmp_path_factory, images, data):
    labels = data.draw(arrays(np.int64, len(images), elements=st.integers(0, 3)))
    limit = data.draw(st.integers(1, len(images)))
    path = tmp_path_factory.mktemp("limit") / "own.npz"
    np.savez(path, images=images, labels=labels)
    whole, part = load_dataset(str(path)), load_dataset(str(path), limit=limit)
    assert part.ids == whole.ids[:limit]
    assert part.labels.tolist() == whole.labels[:limit].tolist()
    assert part.classes == whole.classes
    np.testing.assert_array_equal(part.images(0, limit), whole.images(0, limit))


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(PICTURES, st.data())
def test_the_digest_changes_with_pixels_labels_and_transform_and_with_nothing_else(images, data):
    labels = np.zeros(len(images), int)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in images.shape)
    digest = from_arrays(images, labels, name="own").digest
    changed = images.copy()
    changed[place] ^= 1
    relabelled = labels.copy()
    relabelled[place[0]] = 1
    assert from_arrays(images / 255, labels, name="a", split="b", title="c").digest == digest
    assert from_arrays(images, labels, name="own", resize=min(images.shape[2:])).digest == digest
    assert from_arrays(changed, labels, name="own").digest != digest
    assert from_arrays(images, relabelled, name="own").digest != digest
    assert from_arrays(images, labels, name="own", resize=7).digest != digest


# transforms


@pytest.mark.parametrize(("resize", "crop"), [(8, 8), (None, 9), (20, None), (13, 12), (30, 21)])
def test_resize_and_crop_are_those_of_torchvision_pixel_for_pixel(resize, crop):
    image = some_images(1, 3, 14, 17)[0]
    data = from_arrays(image[np.newaxis], [0], name="own", resize=resize, crop=crop)
    picture = Image.fromarray(image.transpose(1, 2, 0))
    if resize:
        picture = v2.Resize(resize, antialias=True)(picture)
    if crop:
        picture = v2.CenterCrop(crop)(picture)
    expected = np.asarray(picture).transpose(2, 0, 1)
    assert data.shape == expected.shape
    np.testing.assert_array_equal(np.rint(data.images(0, 1)[0] * 255), expected)


@pytest.mark.parametrize("name", get_args(Interpolation))
def test_every_interpolation_is_that_of_torchvision_pixel_for_pixel_and_another_answer(name):
    image = some_images(1, 3, 14, 17)[0]
    data = from_arrays(image[np.newaxis], [0], name="own", resize=9, interpolation=name)
    resized = v2.Resize(9, v2.InterpolationMode[name.upper()])(
        Image.fromarray(image.transpose(1, 2, 0))
    )
    found = np.rint(data.images(0, 1)[0] * 255)
    np.testing.assert_array_equal(found, np.asarray(resized).transpose(2, 0, 1))
    usual = from_arrays(image[np.newaxis], [0], name="own", resize=9)
    assert (
        (data.digest == usual.digest) == (data.transform == {"resize": 9}) == (name == "bilinear")
    )


def test_an_interpolation_stands_in_a_data_sets_file_and_an_option_goes_before(tmp_path):
    np.savez(tmp_path / "own.npz", test_images=some_images(2), test_labels=[0, 1])
    text = 'title = "t"\nsource = "own.npz"\nresize = 3\ninterpolation = "bicubic"\n'
    (tmp_path / "own.toml").write_text(text)
    file = str(tmp_path / "own.toml")
    assert load_dataset(file).transform == {"resize": 3, "interpolation": "bicubic"}
    assert load_dataset(file, interpolation="bilinear").transform == {"resize": 3}
    assert load_dataset(file, resize=4).transform == {}
    (tmp_path / "own.toml").write_text(text.replace("bicubic", "cubic"))
    with pytest.raises(DataError, match=r"interpolation: .*bicubic"):
        load_dataset(file)


def test_ids_are_those_of_the_pixels_before_the_transform():
    images = some_images(3, 3, 8, 8)
    plain = from_arrays(images, [0, 1, 0], name="own")
    small = from_arrays(images, [0, 1, 0], name="own", resize=4, channels=1)
    assert small.ids == plain.ids
    assert small.transform == {"resize": 4, "channels": 1}
    assert small.shape == (1, 4, 4)
    assert plain.transform == {}


def test_one_channel_is_repeated_and_three_become_luma_in_both_types():
    grey, colour = some_images(1, 1), some_images(1, 3)
    tripled = from_arrays(grey, [0], name="own", channels=3).images(0, 1)
    np.testing.assert_array_equal(tripled[:, 0], tripled[:, 2])
    luma = from_arrays(colour, [0], name="own", channels=1).images(0, 1)[0, 0]
    expected = np.asarray(Image.fromarray(colour[0].transpose(1, 2, 0)).convert("L"))
    np.testing.assert_allclose(luma * 255, expected, atol=1e-4)
    between = (colour / np.float32(255)) * np.float32(0.999)
    floats = from_arrays(between, [0], name="own", channels=1).images(0, 1)[0, 0]
    np.testing.assert_allclose(floats, luma * 0.999, atol=0.6 / 255)


def test_floats_are_resized_without_rounding_to_8_bits_and_stay_in_bounds():
    images = np.random.default_rng(1).random((2, 3, 9, 9), np.float32)
    images[:, :, :4] = 1
    small = from_arrays(images, [0, 1], name="own", resize=5).images(0, 2)
    assert 0 <= small.min() <= small.max() <= 1
    assert np.abs(small * 255 - np.rint(small * 255)).max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 9}, "--crop 9 is larger than the image of 4x5"),
        ({"crop": 0}, "--crop must be from 1 to 16384 pixels, got 0"),
        ({"resize": -1}, "--resize must be from 1 to 16384 pixels, got -1"),
        ({"resize": 10**24}, "--resize must be from 1 to 16384 pixels, got 1000"),
        ({"channels": 2}, "--channels must be 1 or 3"),
        ({"interpolation": "box"}, "--interpolation box: nothing is resized; give --resize"),
        ({"resize": 3, "interpolation": "cubic"}, "one of bilinear, .*, got 'cubic'"),
        ({"limit": 0}, "--limit must be at least 1"),
    ],
)
def test_impossible_transforms_are_refused_in_one_line(options, message):
    with pytest.raises(DataError, match=message):
        from_arrays(some_images(2), [0, 1], name="own", **options)


@pytest.mark.parametrize(("height", "width"), [(2, 20_000), (20_000, 2)])
def test_a_picture_that_is_too_narrow_to_be_resized_is_refused(height, width):
    strip = np.full((1, 1, height, width), 255, np.uint8)
    with pytest.raises(
        DataError, match=r"own: image 0: \d+x\d+ pixels after resizing; it is too n"
    ):
        from_arrays(strip, [0], name="own", resize=224, crop=224)
    # what becomes smaller, or stays, fills nothing
    assert from_arrays(strip, [0], name="own", resize=1).shape in ((1, 1, 10_000), (1, 10_000, 1))
    assert from_arrays(strip, [0], name="own", resize=2).shape == (1, height, width)


def test_two_channels_cannot_be_made_three():
    with pytest.raises(DataError, match="2 channels cannot be converted to 3"):
        from_arrays(some_images(1, 2), [0], name="own", channels=3)
