"""Label noise: exact, nested, spread as it says, and in no way dependent on the order of the data."""

import json
import math
import os
import struct
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from robustkit.data import from_arrays, load_dataset
from robustkit.data import noise as noises
from robustkit.data.draws import generator
from robustkit.data.noise import LabelNoise, apply_label_noise, parse_label_noise
from robustkit.errors import InputError, UnknownName

DRAWN = ["symmetric", "symmetric-any", "pair", "instance"]
RATES = st.fractions(0, Fraction(99, 100), max_denominator=100)
SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=6)
WHICH = [4, 9, 12, 16, 21, 25, 32, 35]
LABELS = {"symmetric": [2, 0, 9, 1, 6, 6, 6, 6], "instance": [5, 1, 7, 3, 9, 3, 5, 2]}


def made(labels, classes, seed=0, side=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, side, side), np.uint8)
    names = [str(i) for i in range(classes)]
    return from_arrays(pixels, labels, name="made", classes=names, split="train")


def of_sizes(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return made(np.random.default_rng(seed).permutation(labels), len(sizes), seed)


def noised(data, noise, seed=0, positions=None):
    return apply_label_noise(
        data, np.arange(len(data)) if positions is None else positions, noise, seed
    )


def cells(corruption, classes):
    """How many images of each clean class (row) were given each label (column)."""
    pairs = corruption.clean * classes + corruption.labels
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def matrix_file(folder, rows, name="matrix.csv"):
    path = folder / name
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DRAWN), SIZES, RATES, RATES, st.booleans(), st.integers(0, 9))
def test_rates_are_exact_flips_nested_and_an_images_wrong_label_is_one(
    kind, sizes, one, other, stratified, seed
):
    data = of_sizes(sizes, seed)
    less, more = (noised(data, LabelNoise(kind, r, stratified), seed) for r in sorted((one, other)))
    for rate, got in zip(sorted((one, other)), (less, more), strict=True):
        flips, asked = got.flipped.sum(), rate * len(data)
        assert abs(flips - asked) <= Fraction(1, 2) or (kind == "symmetric-any" and flips <= asked)
        if stratified and kind != "symmetric-any":
            per_class = np.bincount(got.clean[got.flipped], minlength=len(sizes))
            assert np.abs(per_class - flips * np.array(sizes) / len(data)).max() < 1
        assert got.clean.tolist() == data.labels.tolist()
        assert set(got.labels) <= set(range(len(sizes)))
    assert (less.labels[less.flipped] == more.labels[less.flipped]).all()


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("kind", DRAWN)
def test_the_order_of_the_data_changes_nothing(kind, stratified):
    data = made(np.random.default_rng(1).integers(0, 5, 900), 5)
    order = np.random.default_rng(2).permutation(900)
    other = from_arrays(
        data.images(0, 900)[order], data.labels[order], name="made", classes=data.classes
    )
    noise = LabelNoise(kind, Fraction("0.37"), stratified)
    one, two = noised(data, noise, 4), noised(other, noise, 4)
    assert one.flipped.any()
    by_id = dict(zip(other.ids, two.labels, strict=True))
    assert [by_id[name] for name in data.ids] == one.labels.tolist()


def test_the_flips_of_a_part_are_exact_and_another_seed_makes_others():
    data = made(np.random.default_rng(1).integers(0, 5, 1000), 5)
    part = np.arange(0, 1000, 2)
    one, two = (noised(data, parse_label_noise("symmetric", "0.4"), seed, part) for seed in (0, 1))
    assert one.flipped.sum() == two.flipped.sum() == 200
    assert 50 < (one.flipped & two.flipped).sum() < 110  # 80 expected
    assert one.clean.tolist() == data.labels[part].tolist()


def test_symmetric_flips_are_spread_evenly_over_the_images_and_the_other_classes():
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(5), 2000))
    got = noised(made(labels, 5, side=2), parse_label_noise("symmetric", "0.4"))
    counts = cells(got, 5)
    off = counts[~np.eye(5, dtype=bool)].reshape(5, 4)
    assert chisquare(off.ravel()).pvalue > 0.01
    assert chisquare(np.add.reduceat(got.flipped, np.arange(0, 10_000, 500))).pvalue > 0.01


def test_symmetric_any_keeps_a_label_as_often_as_chance_does():
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(5), 2000))
    data = made(labels, 5, side=2)
    got, proper = (
        noised(data, parse_label_noise(kind, "0.5")) for kind in ("symmetric-any", "symmetric")
    )
    kept = 5000 - got.flipped.sum()
    assert abs(kept - 1000) < 3 * math.sqrt(5000 * 0.2 * 0.8)
    assert (proper.flipped | ~got.flipped).all()  # the same images are chosen
    assert chisquare(np.bincount(got.labels[proper.flipped])).pvalue > 0.01
    assert got.record()["kind"] == "symmetric-any"
    assert got.record()["realised"] == got.flipped.sum() / 10_000 < 0.5


def test_a_pair_flip_gives_the_next_class():
    got = noised(of_sizes([10, 20, 30]), parse_label_noise("pair", "1/2"))
    wrong = {0: 1, 1: 2, 2: 0}
    assert all(
        wrong[c] == g for c, g in zip(got.clean[got.flipped], got.labels[got.flipped], strict=True)
    )
    assert got.flipped.sum() == 30


def test_instance_noise_follows_the_softmax_of_the_projected_pixels():
    # two pictures, 3000 times each, so that the odds of each can be counted
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, 2, 3), np.uint8)
    data = from_arrays(
        np.repeat(pictures, 3000, 0), np.full(6000, 1), name="two", classes=["a", "b", "c", "d"]
    )
    got = noised(data, parse_label_noise("instance", "0.5"), seed=7)
    weights = generator(noises.WEIGHTS, 7, 1).standard_normal((6, 4))
    shares = []
    for i, picture in enumerate(pictures):
        x = [value / 255 for value in picture.ravel().tolist()]
        scores = [sum(x[p] * weights[p, j] for p in range(6)) for j in range(4)]
        total = sum(math.exp(scores[j]) for j in (0, 2, 3))
        shares.append([math.exp(scores[j]) / total for j in (0, 2, 3)])
        rows = slice(3000 * i, 3000 * (i + 1))
        counts = np.bincount(got.labels[rows][got.flipped[rows]], minlength=4)
        assert counts[1] == 0
        expected = np.array(shares[i]) * counts.sum()
        assert chisquare(counts[[0, 2, 3]], expected).pvalue > 0.001
    assert max(abs(a - b) for a, b in zip(*shares, strict=True)) > 0.1  # the pixels do matter


def test_instance_noise_flips_the_images_that_symmetric_noise_flips():
    data = of_sizes([40, 40, 40])
    one, two = (noised(data, parse_label_noise(kind, "0.25")) for kind in ("instance", "symmetric"))
    assert (one.flipped == two.flipped).all()


def test_instance_noise_of_a_part_reads_no_more_than_a_block_at_once():
    reads = []

    class Watched:
        def __init__(self, data):
            self.data = data

        def __getattr__(self, name):
            return getattr(self.data, name)

        def images(self, start, stop):
            reads.append(stop - start)
            return self.data.images(start, stop)

    data = made(np.random.default_rng(1).integers(0, 3, 2000), 3)
    part = np.flatnonzero(np.arange(2000) % 7 == 0)
    got = noised(Watched(data), parse_label_noise("instance", "0.5"), positions=part)
    assert max(reads) <= noises.BLOCK < 2000
    whole = noised(data, parse_label_noise("instance", "0.9"))
    both = got.flipped & whole.flipped[part]
    assert both.sum() > 50
    assert (got.labels[both] == whole.labels[part][both]).all()


def test_instance_noise_with_too_many_weights_says_so(monkeypatch):
    monkeypatch.setattr(noises, "LARGEST", 3 * 9 * 3 * 8 - 1)
    with pytest.raises(InputError, match=r"GiB of weights for 3 classes of 9 values per image"):
        noised(of_sizes([9, 9, 9]), parse_label_noise("instance", "0.9"))


MATRIX = [[0.7, 0.2, 0.1], [0, 1, 0], [0.25, 0.25, 0.5]]


def test_a_matrix_gives_every_cell_its_exact_count_where_that_is_whole(tmp_path):
    path = matrix_file(tmp_path, MATRIX)
    got = noised(of_sizes([100, 50, 40]), parse_label_noise(f"matrix:{path}"))
    assert cells(got, 3).tolist() == [[70, 20, 10], [0, 50, 0], [10, 10, 20]]
    half = noised(of_sizes([100, 50, 40]), parse_label_noise(f"matrix:{path}", "25/190"))
    assert cells(half, 3).tolist() == [[85, 10, 5], [0, 50, 0], [5, 5, 30]]
    assert (got.labels[half.flipped] == half.labels[half.flipped]).all()


@pytest.mark.thorough
@settings(max_examples=40, deadline=None)
@given(st.data(), SIZES, RATES, RATES, st.integers(0, 9))
def test_a_matrix_is_kept_to_the_rate_scaled_and_nested(
    tmp_path_factory, draw, sizes, one, other, seed
):
    k = len(sizes)
    parts = draw.draw(
        st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k)
    )
    rows = [[p + (5 if i == j else 0) for j, p in enumerate(row)] for i, row in enumerate(parts)]
    exact = [[Fraction(p, sum(row)) for p in row] for row in rows]
    path = matrix_file(tmp_path_factory.mktemp("m"), [[float(p) for p in row] for row in exact])
    data = of_sizes(sizes, seed)
    own = sum(n * (1 - exact[i][i]) for i, n in enumerate(sizes)) / len(data)
    rates = sorted((own * one, own * other))
    got = [noised(data, LabelNoise("matrix", r, path=path), seed) for r in rates]
    got.append(noised(data, LabelNoise("matrix", None, path=path), seed))
    for rate, result in zip([*rates, own], got, strict=True):
        assert abs(result.flipped.sum() - rate * len(data)) <= 0.5 + 1e-6
        counts, scale = cells(result, k), float(rate / own) if own else 0.0
        for i in range(k):
            share = [sizes[i] * scale * float(exact[i][j]) for j in range(k) if j != i]
            assert np.abs(np.delete(counts[i], i) - share).max() < 2
            assert abs(counts[i].sum() - counts[i, i] - sum(share)) < 1.5
    for less, more in pairwise(got):
        assert (less.labels[less.flipped] == more.labels[less.flipped]).all()


def test_a_class_without_images_does_not_limit_the_rate_of_a_matrix(tmp_path):
    path = matrix_file(tmp_path, [[0.9, 0.1, 0], [0.1, 0.9, 0], [1, 0, 0]])
    got = noised(made([0, 1] * 10, 3), parse_label_noise(f"matrix:{path}", "0.9"))
    assert cells(got, 3).tolist() == [[1, 9, 0], [9, 1, 0], [0, 0, 0]]


def test_ties_among_the_labels_of_a_matrix_do_not_favour_the_first_classes(tmp_path):
    uniform = np.full((40, 40), 0.5 / 39)
    np.fill_diagonal(uniform, 0.5)
    path = tmp_path / "uniform.npy"
    np.save(path, uniform)
    got = noised(of_sizes([20] * 40), parse_label_noise(f"matrix:{path}"))
    given_labels = np.bincount(got.labels[got.flipped], minlength=40)
    assert given_labels.sum() == 400
    assert given_labels[:20].sum() == pytest.approx(200, abs=40)


@pytest.mark.parametrize("name", ["m.csv", "m.json", "m.npy", "single.npy"])
def test_a_matrix_is_the_same_in_every_format(name, tmp_path):
    path = tmp_path / name
    if name == "m.csv":
        matrix_file(tmp_path, MATRIX, name)
    elif name == "m.json":
        path.write_text(json.dumps(MATRIX))
    else:
        np.save(path, np.array(MATRIX, np.float32 if name == "single.npy" else np.float64))
    got = noised(of_sizes([100, 50, 40]), parse_label_noise(f"matrix:{path}"))
    assert cells(got, 3).tolist() == [[70, 20, 10], [0, 50, 0], [10, 10, 20]]
    record = got.record()
    assert record["file"] == {"name": name, "sha256": sha256(path.read_bytes()).hexdigest()}
    assert record["rate"] is None


@pytest.mark.parametrize(
    ("rows", "rate", "says"),
    [
        ([[0.5, 0.5]], None, "a matrix of 1x2; 2 classes need 2x2"),
        ([[0.5, 0.4], [0, 1]], None, "row 0 sums to 0.9"),
        ([[1, 0], [-0.5, 1.5]], None, r"row 1, column 0 is -0.5; expected probabilities"),
        ([[1, 0], ["nan", 1]], None, "row 1, column 0 is nan"),
        ([[1, 0], ["x", 1]], None, "expected rows of numbers"),
        ([[1, 0], [1]], None, "expected rows of numbers"),
        ([], None, "expected rows of numbers|a matrix of"),
        ([[1, 0], [0, 1]], "0.1", "the highest rate is 0"),
        ([[1, 0], [0.5, 0.5]], "0.6", "the highest rate is 0.5"),
    ],
)
def test_a_matrix_that_makes_no_sense_gets_one_line(rows, rate, says, tmp_path):
    path = matrix_file(tmp_path, rows)
    with pytest.raises(InputError, match=says) as caught:
        noised(of_sizes([10, 10]), parse_label_noise(f"matrix:{path}", rate))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def stored_by_class(folder):
    """A stored split of 120 images sorted by class, whose pixels tell their place in it."""
    images = np.zeros((120, 2, 2), np.uint8)
    images[:, 0, 0] = np.arange(120)
    np.savez(folder / "data.npz", x_train=images, y_train=np.repeat(np.arange(3), 40))
    return np.repeat(np.arange(3), 40), np.random.default_rng(0).integers(0, 3, 120)


def save_labels(path, clean, human):
    columns = {"clean_label": clean, "worse_label": human, "other": (human + 1) % 3}
    if path.name == "dictionary.npy":  # as CIFAR-10N's for TensorFlow
        np.save(path, columns, allow_pickle=True)
    elif path.suffix == ".npy":
        np.save(path, human.astype(np.uint8))
    elif path.suffix == ".pt":  # as CIFAR-10N's
        torch.save(columns, path, _use_new_zipfile_serialization=path.stem != "legacy")
    elif path.suffix == ".pth":
        torch.save({name: torch.from_numpy(column) for name, column in columns.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".json":
        path.write_text(json.dumps({name: column.tolist() for name, column in columns.items()}))
    else:
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    "name",
    [
        "l.npy",
        "l.npz#worse_label",
        "l.csv#worse_label",
        "l.json#worse_label",
        "l.pt#worse_label",
        "legacy.pt#worse_label",
        "l.pth#worse_label",
        "dictionary.npy#worse_label",
    ],
)
@pytest.mark.parametrize("limit", [None, 50])
def test_labels_of_a_file_find_their_images_in_a_shuffled_data_set(name, limit, tmp_path):
    clean, human = stored_by_class(tmp_path)
    save_labels(tmp_path / name.partition("#")[0], clean, human)
    data = load_dataset(str(tmp_path / "data.npz"), split="train", limit=limit)
    assert data.order == "digest-shuffled"
    part = np.arange(1, len(data), 2)
    got = noised(data, parse_label_noise(f"file:{tmp_path / name}"), positions=part)
    places = np.rint(data.images(0, len(data))[part, 0, 0, 0] * 255).astype(int)
    assert got.labels.tolist() == human[places].tolist()
    assert got.record()["flipped"] == (human != clean)[places].sum()


def test_a_file_with_one_column_needs_no_name_for_it(tmp_path):
    clean, human = stored_by_class(tmp_path)
    data = load_dataset(str(tmp_path / "data.npz"), split="train")
    (tmp_path / "plain.csv").write_text("\n".join(map(str, human)))
    (tmp_path / "plain.json").write_text(json.dumps(human.tolist()))
    np.savez(tmp_path / "two.npz", clean_label=clean, noisy_label=human)
    found = [noised(data, parse_label_noise(f"file:{tmp_path / name}")).labels.tolist()
             for name in ("plain.csv", "plain.json", "two.npz")]  # fmt: skip
    assert found[0] == found[1] == found[2] != data.labels.tolist()


def test_of_an_archive_of_labels_no_more_is_unpacked_than_was_asked_for(tmp_path, monkeypatch):
    clean, human = stored_by_class(tmp_path)
    data = load_dataset(str(tmp_path / "data.npz"), split="train")
    monkeypatch.setattr("robustkit.data.packed.LARGE", 2**20)
    bomb = np.zeros(2**22, np.uint8)
    np.savez_compressed(tmp_path / "l.npz", clean_label=clean, worse_label=human, other=bomb)
    read = np.lib.format.read_array
    sizes = []

    def counted(*arguments, **options):
        sizes.append((found := read(*arguments, **options)).size)
        return found

    monkeypatch.setattr("numpy.lib.format.read_array", counted)
    asked = f"file:{tmp_path / 'l.npz'}#worse_label"
    assert noised(data, parse_label_noise(asked)).labels.tolist() != data.labels.tolist()
    assert sizes == [120, 120]
    for name in ("other", "clean_label"):
        columns = {"clean_label": clean, "worse_label": human, name: bomb}
        np.savez_compressed(tmp_path / "l.npz", **columns)
        column = "other" if name == "other" else "worse_label"
        with pytest.raises(InputError, match="attempt to exhaust memory"):
            noised(data, parse_label_noise(f"file:{tmp_path / 'l.npz'}#{column}"))
    assert max(sizes) == 120


def bad_files(folder, clean, human):
    np.save(folder / "short.npy", human[:-1])
    np.save(folder / "outside.npy", np.where(np.arange(120) == 7, 3, human))
    np.save(folder / "negative.npy", np.where(np.arange(120) == 7, -1, human))
    np.save(folder / "floats.npy", human + 0.5)
    np.save(folder / "objects.npy", np.array([{}, human], object), allow_pickle=True)
    np.save(folder / "nothing.npy", {"worse_label": print}, allow_pickle=True)
    np.savez(folder / "two.npz", a=human, b=human)
    np.savez(folder / "human.npz", clean_label=clean, worse_label=human)
    np.savez(folder / "order.npz", clean_label=clean[::-1], a=human)
    torch.save({"worse_label": human[:-1]}, folder / "short.pt")
    torch.save({"worse_label": torch.eye(120)}, folder / "square.pt")
    torch.save({"worse_label": print}, folder / "code.pt")
    whole = (folder / "short.pt").read_bytes()
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "human.pkl").write_bytes(b"")
    (folder / "words.csv").write_text("label\n" + "cat\n" * 120)
    (folder / "ragged.csv").write_text("a,b\n1,2\n1\n")
    (folder / "twice.csv").write_text("1,2\n1,2\n")
    (folder / "empty.csv").write_text("")
    (folder / "broken.json").write_text("[1,")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 not an archive")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("short.npy", "119 labels; the whole split has 120 images"),
        ("outside.npy", "image 7 has label 3, but there are 3 classes"),
        ("negative.npy", "image 7 has label -1"),
        ("floats.npy", "labels of type float64; expected integers"),
        ("objects.npy", "Python objects, which are never loaded"),
        ("two.npz", "which labels.*it has: a, b"),
        ("two.npz#c", "unknown column 'c'; known: a, b"),
        ("human.npz#worse_labe", "unknown column 'worse_labe'; did you mean 'worse_label'"),
        ("short.npy#worse_label", "its columns have no names; leave #worse_label out"),
        ("order.npz", "clean_label of image 0 is 2, but in the data set it is 0"),
        ("nothing.npy", "expected one integer per image"),
        ("short.pt", "119 labels; the whole split has 120 images"),
        ("square.pt", "cannot be read"),
        ("code.pt", "expected one integer per image"),
        ("cut.pt", "cannot be read"),
        ("human.pkl", r"not one of .npy, .npz, .csv, .json, .pt, .pth"),
        ("words.csv", "not an integer"),
        ("ragged.csv", "row 3 has 1 cells, expected 2"),
        ("twice.csv", "need a header"),
        ("empty.csv", "the file is empty"),
        ("broken.json", "cannot be read"),
        ("broken.npz", "cannot be read"),
        ("missing.npy", "no such file"),
    ],
)
def test_a_file_of_labels_that_makes_no_sense_gets_one_line(name, says, tmp_path):
    bad_files(tmp_path, *stored_by_class(tmp_path))
    data = load_dataset(str(tmp_path / "data.npz"), split="train")
    with pytest.raises(InputError, match=says) as caught:
        noised(data, parse_label_noise(f"file:{tmp_path / name}"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name.partition("#")[0]) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "rate", "says"),
    [
        ("symmetric", "1", "from 0 to below 1, got 1"),
        ("symmetric", "-0.1", "from 0 to below 1"),
        ("symmetric", "nan", "expected a number such as"),
        ("pair", None, "pair needs a rate"),
        ("matrix", "0.4", "matrix needs a file: give 'matrix:PATH'"),
        ("file", None, "file needs a file"),
        ("file:labels.npy", "0.4", "has its own rate"),
        ("pair:m.csv", "0.4", "takes no file"),
    ],
)
def test_settings_that_make_no_sense_get_one_line(kind, rate, says):
    with pytest.raises(InputError, match=says) as caught:
        parse_label_noise(kind, rate)
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_gets_a_suggestion():
    with pytest.raises(UnknownName, match="did you mean 'symmetric'"):
        parse_label_noise("symetric", "0.4")


def test_a_rate_that_is_no_exact_number_is_refused():
    with pytest.raises(InputError, match=r"must be a Fraction, got 0\.4"):
        LabelNoise("symmetric", 0.4)


def test_one_class_cannot_be_noisy_but_can_be_clean():
    data = made([0] * 5, 1)
    assert noised(data, LabelNoise()).labels.tolist() == [0] * 5
    with pytest.raises(InputError, match="at least two classes"):
        noised(data, parse_label_noise("symmetric", "0.4"))


def test_the_record_is_json_with_exact_counts_and_digests_of_the_labels():
    got = noised(made([0, 1, 2, 1], 3), parse_label_noise("pair", "0.5", stratified=True), seed=5)
    record = got.record()
    assert json.loads(json.dumps(record)) == record
    assert [record[k] for k in ("kind", "rate", "stratified", "seed")] == ["pair", "0.5", True, 5]
    assert [record[k] for k in ("flipped", "total", "realised")] == [2, 4, 0.5]
    raw = struct.pack("<4q", 0, 1, 2, 1)
    assert record["clean_labels"] == sha256(struct.pack("<Q", len(raw)) + raw).hexdigest()
    assert record["given_labels"] != record["clean_labels"]


def test_flips_are_the_same_in_every_version():
    data = load_dataset("mnist5k", split="train", limit=40)
    flips = {
        kind: noised(data, parse_label_noise(kind, "0.2")) for kind in ("symmetric", "instance")
    }
    assert np.flatnonzero(flips["symmetric"].flipped).tolist() == WHICH
    assert {k: f.labels[f.flipped].tolist() for k, f in flips.items()} == LABELS


class Hostile:
    """Pickles as a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "array.npy"])
def test_nothing_in_a_file_of_labels_is_run(name, tmp_path):
    stored_by_class(tmp_path)
    columns, trace = {"worse_label": Hostile(tmp_path / "trace")}, tmp_path / "trace"
    if name == "array.npy":
        np.save(tmp_path / name, columns, allow_pickle=True)
    else:
        zipped = name == "zip.pt"
        torch.save(columns, tmp_path / name, _use_new_zipfile_serialization=zipped)
    data = load_dataset(str(tmp_path / "data.npz"), split="train")
    with pytest.raises(InputError):
        noised(data, parse_label_noise(f"file:{tmp_path / name}"))
    assert not trace.exists()
