"""Images in memory in whatever form Python has them: pairs, lists, torch's data sets and loaders."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from robustkit.calls.given import ImageOptions
from robustkit.checkpoint import read_checkpoint
from robustkit.data import from_arrays, load_dataset
from robustkit.data.batches import from_memory
from robustkit.errors import DataError, InputError
from robustkit.evaluation import check_classes

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


class Featured(list):
    """A data set of Hugging Face's, as far as it is looked at: rows, and features by column."""

    def __init__(self, names, column="label", **others):
        rows = [{"image": i, column: n, **dict.fromkeys(others, 0)} for i, n in PAIRS]
        super().__init__(rows)
        self.features = {"image": SimpleNamespace(decode=True)}
        for name, own in ({column: names} | others).items():
            feature = SimpleNamespace(dtype="int64", **({"names": own} if own else {}))
            self.features[name] = feature


def renamed(rows):
    """A batch as a collate function of transformers' examples makes it."""
    pixels = torch.stack([torch.as_tensor(np.asarray(row["image"])) for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([int(row["label"]) for row in rows])}


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (lambda: Featured(["eel", "cat", "owl"]), ("eel", "cat", "owl")),
        (lambda: Subset(Featured(["eel", "cat", "owl"]), range(4)), ("eel", "cat", "owl")),
        (
            lambda: DataLoader(Featured(["eel", "cat", "owl"]), 2, collate_fn=renamed),
            ("eel", "cat", "owl"),
        ),
        # of several columns the one that is read
        (
            lambda: Featured(["eel", "cat", "owl"], "fine_label", coarse_label=["fish", "fowl"]),
            ("eel", "cat", "owl"),
        ),
        (lambda: Featured(None, coarse_label=["eel", "cat", "owl"]), ("0", "1", "2")),
        # fewer than there are labels, and no names
        (lambda: Featured(["eel", "cat"]), ("0", "1", "2")),
        (lambda: Featured([1, 2, 3]), ("0", "1", "2")),
        (lambda: Featured("eel"), ("0", "1", "2")),
    ],
)
def test_names_of_classes_are_those_of_the_features_of_the_column_of_labels(make, classes):
    assert from_memory(make()).classes == classes


def test_names_of_features_in_another_order_than_the_networks_are_not_taken_by_place():
    named = replace(read_checkpoint("lenet5-mnist5k"), label_names=("cat", "eel", "owl"))
    with pytest.raises(DataError, match="'eel' is 1 there, but 0 here"):
        check_classes(named, from_memory(Featured(["eel", "cat", "owl"])))


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


class Raising(Keyed):
    """A file of the user's is broken, or his code is."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, place):
        if place == 5:
            raise self.error
        return IMAGES[place], int(LABELS[place])


class Endless(IterableDataset):
    """What an IterableDataset may be, and no length tells."""

    def __iter__(self):
        while True:
            yield from PAIRS


TRUNCATED = OSError("image file is truncated (3 bytes not processed)\nand more")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (Raising(TRUNCATED), "Raising: image 5: OSError: image file is truncated (3 bytes not"),
        (Raising(KeyError("cat")), "Raising: image 5: KeyError: 'cat'"),
        (Raising(ValueError()), "Raising: image 5: ValueError"),
        (Raising(StopIteration()), "Raising: image 5: "),
        (
            DataLoader(Raising(TRUNCATED), 4),
            "DataLoader: the batch from image 4 on: OSError: image",
        ),
        (
            DataLoader(Raising(TRUNCATED), 4, num_workers=1),
            "DataLoader: the batch from image 4 on: ",
        ),
        (DataLoader([*PAIRS, (IMAGES[0, :, :3], 1)], 4), "the batch from image 8 on: RuntimeError"),
    ],
)
def test_what_a_users_data_raises_is_one_line_with_the_images_number(given, line):
    with pytest.raises(DataError, match=re.escape(line)) as caught:
        from_memory(given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert len(from_memory(given, 4)) == 4


@pytest.mark.thorough
def test_the_cause_in_a_loaders_worker_is_told():
    text = (
        "Caught OSError in DataLoader worker process 0.\nOriginal Traceback\n  x\nOSError: short\n"
    )
    with pytest.raises(DataError, match=r"image 5: OSError: short$"):
        from_memory(Raising(OSError(text)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "given",
    [
        Endless(),
        DataLoader(Endless(), 4),
        DataLoader(Endless(), batch_size=None),
        DataLoader(PAIRS, batch_sampler=[[0, 1]] * 40),
    ],
    ids=["data", "loader", "samples", "sampler"],
)
def test_what_never_ends_is_asked_for_a_limit(given, monkeypatch):
    for name, least in (("MOST_UNCOUNTED", 30), ("MOST_BYTES", 30 * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(f"robustkit.data.batches.{name}", least)
            if given.__class__ is DataLoader and given.batch_sampler.__class__ is list:
                assert len(from_memory(given)) == 80  # as it has a length
            else:
                with pytest.raises(DataError, match="no end after 30 images; give limit"):
                    from_memory(given)
            assert len(from_memory(given, 40)) == 40
            assert len(from_memory(Stream())) == 10


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    ("images", "line"),
    [
        (IMAGES.to("meta"), "no data"),
        (IMAGES.to("meta", torch.bfloat16), "no data"),
        (IMAGES.to_sparse(), "Sparse"),
    ],
)
def test_tensors_without_an_array_are_told_in_one_line(images, line, limit):
    pairs = [(image, 0) for image in images]
    for given in ((images, LABELS), (IMAGES, LABELS.to("meta")), pairs):
        with pytest.raises(DataError, match=f"{line}|no data") as caught:
            from_memory(given, limit)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=line):
        from_arrays(images, LABELS, name="own")


BYTES = (IMAGES * 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("first", "other", "line"),
    [
        (BYTES, IMAGES, "image 3 is of float32, image 0 of uint8; give all as uint8 in 0 to 255"),
        (IMAGES, BYTES, "image 3 is of uint8, image 0 of float32; give all as uint8 in 0 to 255"),
        (IMAGES.half(), BYTES > 9, "image 3 is of bool, image 0 of float16; give all"),
        (IMAGES.bfloat16(), BYTES.long(), "image 3 is of int64, image 0 of b?float"),
        (IMAGES.numpy(), BYTES.numpy(), "image 3 is of uint8, image 0 of float32; give all"),
    ],
)
def test_images_of_several_scales_are_told_so(first, other, line):
    images = [*first[:3], *other[3:]]
    for given in ((images, LABELS), list(zip(images, LABELS, strict=True))):
        with pytest.raises(DataError, match=line) as caught:
            from_memory(given)
        assert "Resize" not in str(caught.value)


def test_floats_of_several_lengths_go_together():
    images = [*IMAGES[:3], *IMAGES[3:].double()]
    for given in ((images, LABELS), list(zip(images, LABELS, strict=True))):
        assert from_memory(given).digest == from_memory((IMAGES, LABELS)).digest


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_that_stood_last_are_noted(channels):
    images = torch.rand(10, 5, 6, channels, generator=torch.Generator().manual_seed(0))
    first = images.permute(0, 3, 1, 2)
    told = f": images of 10x5x6x{channels} are N x H x W x C"
    pairs = [(image, int(label)) for image, label in zip(images, LABELS, strict=True)]
    for given, name in (
        ((images, LABELS), "arrays"),
        ({"image": images, "label": LABELS}, "dict"),
        (pairs, "list"),
        (DataLoader(pairs, 4), "DataLoader"),
    ):
        data = from_memory(given)
        assert data.notes[-1] == name + told
        assert data.digest == from_memory((first, LABELS)).digest
    assert from_arrays(images, LABELS, name="own").notes == ("own" + told,)
    assert from_arrays(first, LABELS, name="own").notes == from_memory((first, LABELS)).notes == ()
    assert from_arrays(images[..., 0], LABELS, name="own").notes == ()


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


@pytest.mark.parametrize("limit", [None, 3, 8])
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, LABELS[:9]),
        (IMAGES[:9], LABELS),
        (list(IMAGES), LABELS[:9].tolist()),
        (IMAGES.numpy()[:9], LABELS.tolist()),
    ],
)
def test_images_and_labels_of_two_counts_are_refused_however_few_are_taken(images, labels, limit):
    told = f"{len(images)} images but {len(labels)} labels"
    for given in ((images, labels), {"image": images, "label": labels}):
        with pytest.raises(DataError, match=told):
            from_memory(given, limit)
    with pytest.raises(DataError, match=told):
        from_arrays(images, labels, name="own", limit=limit)


@pytest.mark.parametrize("mode", ["P", "1", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"])
def test_pictures_of_other_modes_are_refused_in_whatever_they_are_handed_out(mode):
    pictures = [Image.new("RGB", (4, 4), (10, 200, 90)).convert("L" if mode in "IF" else "RGB")] * 2
    pictures[1] = pictures[1].convert(mode) if mode != "LAB" else Image.new("LAB", (4, 4), 77)
    for given in (
        (pictures, [0, 1]),
        (tuple(pictures), np.arange(2)),
        {"image": pictures, "label": [0, 1]},
        [(pictures, torch.arange(2))],
        list(zip(pictures, [0, 1], strict=True)),
    ):
        with pytest.raises(DataError, match=f"is a picture of mode {mode}; ") as caught:
            from_memory(given)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=f"own: image 1 is a picture of mode {mode}; "):
        from_arrays(pictures, [0, 1], name="own")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lists_of_pictures_are_their_pixels(mode):
    shape = (3, 4, 5, 3) if mode == "RGB" else (3, 4, 5)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    wanted = from_arrays(pixels, [0, 1, 0], name="own")
    for data in (
        from_arrays(pictures, [0, 1, 0], name="own"),
        from_memory((pictures, [0, 1, 0])),
        from_memory({"image": pictures, "label": [0, 1, 0]}),
        from_memory({"image": pictures, "label": [0, 1, 0]}, 3),
    ):
        assert (data.digest, data.ids) == (wanted.digest, wanted.ids)


class Renumbered(Dataset):
    """Some of another data set's images, under labels of their own."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, place):
        image, label = self.dataset[place]
        return image, int(label) % 2


class Halved(Subset):
    """Others that are made so."""

    def __getitem__(self, place):
        image, label = super().__getitem__(place)
        return image, int(label) % 2

    def __getitems__(self, places):
        return [self[place] for place in places]


def named(**fields):
    data = TensorDataset(IMAGES, LABELS)
    for name, value in ({"classes": ["cat", "dog", "owl", "eel"]} | fields).items():
        setattr(data, name, value)
    return data


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (Renumbered(named()), 2),
        (DataLoader(Renumbered(named()), 4), 2),
        (Subset(Renumbered(named()), range(10)), 2),
        (Halved(named(), range(10)), 2),
        (named(target_transform=lambda label: label % 2), 3),
        (DataLoader(Subset(named(target_transform=int), range(10)), 4), 3),
        (Subset(named(target_transform=int), range(10)), 3),
    ],
)
def test_names_of_classes_that_are_numbered_otherwise_are_not_taken(data, classes):
    assert from_memory(data).classes == tuple("012"[:classes])


def test_names_are_taken_where_nothing_changes_the_labels():
    within = named(target_transform=None)
    for data in (within, Subset(Subset(within, range(10)), range(9)), DataLoader(within, 4)):
        assert from_memory(data).classes == ("cat", "dog", "owl", "eel")
    outside = Renumbered(within)
    outside.classes = ["even", "odd"]
    assert from_memory(outside).classes == ("even", "odd")


# images that stand by class

SORTED = np.random.default_rng(1).integers(0, 256, (60, 1, 4, 5), np.uint8)
SORTED[7] = SORTED[3]  # one that is there twice
BY_CLASS = np.repeat([2, 0, 1, 3], 15)
FLOATS = torch.from_numpy(SORTED) / 255


class Labelled(Dataset):
    """As torchvision's: labels are known before an image is read."""

    def __init__(self, labels, attribute="targets"):
        setattr(self, attribute, labels)
        self.read = 0

    def __len__(self):
        return len(BY_CLASS)

    def __getitem__(self, place):
        self.read += 1
        return FLOATS[place], int(BY_CLASS[place])


class Columns(Labelled):
    """As Hugging Face's, which decodes what it is asked for."""

    def __init__(self):
        super().__init__(None)
        self.features = {"image": None, "label": None}

    def with_format(self, kind):
        assert kind is None
        return {"label": BY_CLASS.tolist()}


class Unlabelled(Labelled):
    def __init__(self):
        super().__init__(None)


class Rows(IterableDataset):
    def __iter__(self):
        return iter([(FLOATS[i], int(BY_CLASS[i])) for i in range(60)])


PARTS = TensorDataset(FLOATS[:40], torch.tensor(BY_CLASS[:40])), Labelled(BY_CLASS[40:])
PARTS[1].__class__ = type(
    "Rest",
    (Labelled,),
    {
        "__len__": lambda self: 20,
        "__getitem__": lambda self, n: Labelled.__getitem__(self, 40 + n),
    },
)


def whole():
    return from_arrays(SORTED, BY_CLASS, name="own")


@pytest.mark.parametrize(
    "make",
    [
        lambda: (FLOATS, BY_CLASS),
        lambda: [list(SORTED), BY_CLASS.tolist()],
        lambda: (SORTED[:, 0], BY_CLASS[:, np.newaxis]),
        lambda: {"image": SORTED, "label": BY_CLASS},
        lambda: list(zip(SORTED, BY_CLASS, strict=True)),
        lambda: [(Image.fromarray(i[0]), n) for i, n in zip(SORTED, BY_CLASS, strict=True)],
        lambda: [{"image": i, "label": n} for i, n in zip(SORTED, BY_CLASS, strict=True)],
        lambda: list(DataLoader(TensorDataset(FLOATS, torch.tensor(BY_CLASS)), 7)),
        lambda: TensorDataset(FLOATS, torch.tensor(BY_CLASS)),
        lambda: DataLoader(TensorDataset(FLOATS, torch.tensor(BY_CLASS)), 7),
        lambda: DataLoader(TensorDataset(FLOATS, torch.tensor(BY_CLASS)), batch_size=None),
        lambda: Subset(Labelled(torch.tensor(BY_CLASS)), range(60)),
        lambda: DataLoader(Subset(Labelled(BY_CLASS.tolist(), "labels"), range(60)), 7),
        lambda: Labelled(BY_CLASS.tolist(), "_labels"),
        lambda: Columns(),
        lambda: ConcatDataset(PARTS),
        whole,
        lambda: replace(whole(), name="another"),
    ],
)
@pytest.mark.parametrize("limit", [1, 8, 30, 59])
def test_of_what_stands_by_class_those_images_are_taken_that_a_file_would_have(
    make, limit, tmp_path
):
    np.savez(tmp_path / "own.npz", images=SORTED, labels=BY_CLASS)
    wanted = load_dataset(tmp_path / "own.npz", limit=limit)
    found = ImageOptions(data=make(), limit=limit).load(torch.nn.Identity())
    assert (found.digest, found.order) == (wanted.digest, "digest-shuffled")
    assert (found.ids, found.labels.tolist()) == (wanted.ids, wanted.labels.tolist())
    assert np.array_equal(found.images(0, limit), wanted.images(0, limit))
    assert found.warnings == wanted.warnings


def test_arrays_that_stand_by_class_keep_their_order_unless_they_are_cut(tmp_path):
    np.savez(tmp_path / "own.npz", images=SORTED, labels=BY_CLASS)
    wanted = load_dataset(tmp_path / "own.npz", limit=8)
    assert from_arrays(SORTED, BY_CLASS, name="own", limit=8).digest == wanted.digest
    for limit in (None, 60, 61):
        kept = from_arrays(SORTED, BY_CLASS, name="own", limit=limit)
        assert (kept.order, kept.labels.tolist()) == ("as stored", BY_CLASS.tolist())
        for given in ((SORTED, BY_CLASS), TensorDataset(FLOATS, torch.tensor(BY_CLASS))):
            found = from_memory(given, limit)
            assert (found.order, found.digest) == ("as stored", kept.digest)
    assert kept.shuffled().digest == load_dataset(tmp_path / "own.npz").digest
    mixed = from_arrays(SORTED, np.arange(60) % 4, name="own")
    assert mixed.shuffled() is mixed
    assert mixed.first(8).labels.tolist() == [0, 1, 2, 3] * 2


def test_the_order_of_corrupted_images_is_that_of_all_levels(tmp_path):
    kept = replace(whole(), _ordered=True)
    assert kept.first(8).labels.tolist() == BY_CLASS[:8].tolist()


@pytest.mark.parametrize("make", [Unlabelled, Rows], ids=["positions", "stream"])
@pytest.mark.parametrize("loader", [False, True])
@pytest.mark.parametrize(
    ("limit", "classes"), [(12, "1 class"), (15, "1 class"), (40, "3 classes")]
)
def test_what_is_read_only_as_far_as_needed_is_told_to_stand_by_class(make, loader, limit, classes):
    given = DataLoader(make(), 5) if loader else make()
    told = f"{type(given).__name__}: the first {limit} images are of {classes}, since they stand by"
    (warning,) = from_memory(given, limit).warnings
    assert warning.startswith(told)
    with pytest.raises(DataError, match=rf"{told}.*, or limit={limit} to take these\Z"):
        from_memory(given, limit, fair=True)
    if make is Unlabelled and not loader:
        assert given.read <= 2 * (limit + 16)
    own = given.dataset if loader else given
    own.classes = list("abcdef")
    assert f"are of {classes[0]} of 6 classes, since" in from_memory(given, limit).warnings[0]


def test_what_is_mixed_all_or_too_few_to_tell_is_not_warned_of():
    for limit in (1, 5, 9, 60, 61, None):
        assert from_memory(Unlabelled(), limit, fair=True).warnings == ()
    for data in (Keyed(), Stream(), DataLoader(PAIRS, 4)):
        for limit in (3, 6, 9, 10):
            assert from_memory(data, limit, fair=True).warnings == ()
