"""Images in memory in whatever form Python has them: pairs, lists, torch's data sets and loaders."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from robustkit.calls.given import ImageOptions
from robustkit.data.batches import from_memory
from robustkit.errors import DataError, InputError

IMAGES = torch.from_numpy(np.random.default_rng(0).random((10, 1, 4, 4), np.float32))
LABELS = torch.arange(10) % 3
PAIRS = TensorDataset(IMAGES, LABELS)


class Keyed(Dataset):
    """Dictionaries, as Hugging Face has them."""

    def __len__(self):
        return 10

    def __getitem__(self, place):
        return {"pixel_values": IMAGES[place], "label": int(LABELS[place])}


class Flipped(Keyed):
    """Another image each time."""

    def __init__(self):
        self.read = 0

    def __getitem__(self, place):
        self.read += 1
        return (IMAGES[place] + self.read * 1e-3).clamp(0, 1), LABELS[place]


class Stream(IterableDataset):
    """No positions, and perhaps no order."""

    def __init__(self, shuffles=False):
        self.shuffles = shuffles

    def __iter__(self):
        order = torch.randperm(10) if self.shuffles else range(10)
        return iter([(IMAGES[i], LABELS[i]) for i in order])


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (list(IMAGES), LABELS.tolist()),
        (IMAGES.permute(0, 2, 3, 1), LABELS),
        (IMAGES, LABELS.double()),
        (IMAGES.clone().requires_grad_(), LABELS),
        {"images": IMAGES, "labels": LABELS},
        list(zip(IMAGES, LABELS, strict=True)),
        tuple(zip(IMAGES, LABELS, strict=True)),
        [(image.numpy(), int(label)) for image, label in PAIRS],
        [(image.permute(1, 2, 0).numpy(), int(label)) for image, label in PAIRS],
        PAIRS,
        Subset(PAIRS, range(10)),
        DataLoader(PAIRS, 4),
        list(DataLoader(PAIRS, 4)),
        DataLoader(PAIRS, batch_size=None),
        Keyed(),
        DataLoader(Keyed(), 4),
        Stream(),
        DataLoader(Stream(), 4),
    ],
)
def test_whatever_hands_out_the_same_images_gives_the_same_data_set(given):
    data = from_memory(given)
    assert data.digest == from_memory((IMAGES, LABELS)).digest
    assert np.array_equal(data.images(0, 10), IMAGES.numpy())
    assert len(from_memory(given, 5)) == 5
    assert from_memory(given, 5).digest == from_memory((IMAGES[:5], LABELS[:5])).digest


def test_pictures_of_pillow_are_read_as_they_are():
    pixels = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
    data = from_memory([(Image.fromarray(one), 0) for one in pixels])
    assert np.array_equal(data.images(0, 2), pixels.transpose(0, 3, 1, 2) / np.float32(255))


def test_names_of_classes_are_those_of_the_data_set_within():
    named = TensorDataset(IMAGES, LABELS)
    named.classes = ["cat", "dog", "owl", "eel"]
    assert from_memory(DataLoader(Subset(named, [0, 1]), 2)).classes == tuple(named.classes)
    named.classes = ["cat"]
    assert from_memory(named).classes == ("0", "1", "2")


def test_what_was_taken_from_where_is_noted():
    assert from_memory(DataLoader(PAIRS, 4, drop_last=True)).notes == (
        "DataLoader: drop_last leaves out the last 2 images",
    )
    assert from_memory(Keyed()).notes == ("Keyed: images are 'pixel_values', labels are 'label'",)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (DataLoader(PAIRS, 4, shuffle=True), "shuffles its images"),
        (Stream(shuffles=True), "are others when it is read again"),
        (DataLoader(Stream(shuffles=True), 4), "are others when it is read again"),
        (Flipped(), "transforms at random"),
        (DataLoader(Flipped(), 4), "transforms at random"),
        (zip(IMAGES, LABELS, strict=True), "can be read only once"),
        (DataLoader(TensorDataset(2 * IMAGES - 1, LABELS), 4), "they look normalised"),
        ((2 * IMAGES - 1, LABELS), "they look normalised"),
        (DataLoader(TensorDataset(255 * IMAGES, LABELS), 4), "divide them by 255"),
        (TensorDataset(IMAGES * float("nan"), LABELS), "has the value nan"),
        (DataLoader(TensorDataset(IMAGES, LABELS, LABELS), 4), "has 3 parts"),
        (DataLoader(TensorDataset(IMAGES), 4), "has 1 parts"),
        (DataLoader([{"a": 1, "b": 2}]), "the keys a, b"),
        (DataLoader(TensorDataset(IMAGES, torch.eye(3)[LABELS]), 4), "one-hot"),
        ([(image, torch.eye(3)[0]) for image in IMAGES], "one-hot"),
        ([(IMAGES, LABELS[:3])], "labels of shape 3"),
        ([(IMAGES[0], 0), (IMAGES[1, :, :3], 1)], "image 1 is 1x3x4"),
        (([IMAGES[0], IMAGES[1, :, :3]], [0, 1]), "as one array"),
        ([(Image.new("RGBA", (4, 4)), 0)], "mode RGBA"),
        ([(IMAGES[0], None)], "labels of type"),
        (IMAGES, "need their labels"),
        (list(IMAGES), "of type Tensor"),
        ((IMAGES, LABELS, LABELS), "of type Tensor"),
        ([], "no images"),
        (5, "no images"),
    ],
)
def test_what_cannot_be_evaluated_is_told_in_one_line(given, line):
    with pytest.raises((DataError, InputError), match=line) as caught:
        from_memory(given)
    assert "\n" not in str(caught.value)


def test_every_call_reads_them():
    loader = DataLoader(PAIRS, 4)
    assert len(ImageOptions(data=loader, limit=7).load(torch.nn.Flatten())) == 7


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((IMAGES, None), "labels"),
        (({"image": IMAGES}, LABELS), "images of shape none"),
        ((IMAGES, LABELS[None]), "labels of shape"),
        ((IMAGES, LABELS + 0.5), "labels of type"),
        ((IMAGES - 0.01, LABELS), "they look normalised"),
    ],
)
def test_pairs_that_are_none_are_told_in_one_line(given, words):
    with pytest.raises(DataError, match=words):
        from_memory(given)


def test_pixels_outside_by_rounding_alone_are_moved_to_the_end():
    white = IMAGES.clone()
    white[0], white[1] = 1.0, 0.0
    near = white.clone()
    near[0] += 2e-7
    near[1] -= 1e-8
    assert from_memory((near, LABELS)).digest == from_memory((white, LABELS)).digest


def test_true_and_false_are_labels():
    yes = LABELS.double().mean() < LABELS
    assert from_memory((IMAGES, yes)).labels.tolist() == yes.int().tolist()
