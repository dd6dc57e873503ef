"""Hold-out, fractions and the order behind them: nested, in shares, whatever the order of the data."""

import csv
import io
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from robustkit.data import from_arrays, load_dataset, prepare_training_data
from robustkit.data.draws import interleave, numbers, shuffled, uniform
from robustkit.data.noise import parse_label_noise, written
from robustkit.data.recovered import flips, recover, table
from robustkit.data.subset import choose_fraction, choose_held_out
from robustkit.errors import InputError

SHARES = st.fractions(Fraction(1, 1000), 1, max_denominator=1000)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
HELD_OUT = [12, 71, 102, 104, 118]
TRAINED_ON = [39, 88, 216, 405, 418]


def labelled(labels, seed=0, classes=None):
    """A data set of small random pictures with these labels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 2, 3), np.uint8)
    names = [str(i) for i in range(classes or max(labels) + 1)]
    return from_arrays(pixels, labels, name="made", classes=names, split="train")


def of_sizes(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return labelled(np.random.default_rng(seed).permutation(labels), seed)


def reordered(dataset, order):
    pixels = dataset.images(0, len(dataset))[order]
    return from_arrays(
        pixels, dataset.labels[order], name="made", classes=dataset.classes, split="train"
    )


def everything(dataset):
    return np.arange(len(dataset))


def ids(dataset, positions):
    return {dataset.ids[position] for position in positions}


def test_an_image_has_the_same_number_whatever_stands_around_it():
    names = [f"image {i}" for i in range(50)]
    together = numbers("purpose", 3, names)
    assert [int(numbers("purpose", 3, [name])[0]) for name in names] == together.tolist()
    assert not set(together) & set(numbers("purpose", 4, names))
    assert not set(together) & set(numbers("another", 3, names))


def test_the_numbers_are_uniform():
    draws = uniform("purpose", 0, (str(i) for i in range(20_000)))
    assert kstest(draws, "uniform").pvalue > 0.01
    assert 0 <= draws.min() < draws.max() < 1


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any), st.integers(0, 300))
def test_at_every_moment_each_party_has_had_its_share_rounded_up_or_down(weights, length):
    turns = interleave(weights, length)
    for party, weight in enumerate(weights):
        had = np.cumsum(turns == party).tolist()
        shares = [Fraction(h * weight, sum(weights)) for h in range(1, length + 1)]
        assert all(math.floor(s) <= n <= math.ceil(s) for n, s in zip(had, shares, strict=True))


@settings(max_examples=50)
@given(SIZES, st.integers(0, 9))
def test_an_order_has_every_image_once_and_stratified_its_beginnings_have_shares(sizes, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    keys = numbers("purpose", seed, map(str, range(len(labels))))
    for stratified in (False, True):
        order = shuffled(keys, labels, stratified=stratified)
        assert sorted(order) == list(range(len(labels)))
        for c in range(len(sizes) if stratified else 0):
            share = np.arange(1, len(order) + 1) * sizes[c] / len(order)
            assert np.abs(np.cumsum(labels[order] == c) - share).max() < 1


def test_which_class_a_remainder_falls_to_is_random():
    firsts = [
        int(
            shuffled(
                numbers("purpose", seed, map(str, range(30))), np.arange(30) % 3, stratified=True
            )[0]
            % 3
        )
        for seed in range(90)
    ]
    assert min(np.bincount(firsts, minlength=3)) > 15


@settings(max_examples=50, deadline=None)
@given(SIZES, SHARES, SHARES, st.integers(0, 9))
def test_fractions_are_exact_nested_and_in_shares(sizes, one, other, seed):
    data = of_sizes(sizes, seed)
    whole = everything(data)
    taken = []
    for share in sorted((one, other)):
        try:
            taken.append(choose_fraction(data, whole, share, seed))
        except InputError as error:
            smallest = Fraction(str(error).rpartition(" ")[2])
            assert share < smallest <= 1
            continue
        counts = np.bincount(data.labels[taken[-1]])
        assert counts.sum() == math.floor(share * len(data))
        assert counts.min() >= 1
        assert np.abs(counts - counts.sum() * np.array(sizes) / len(data)).max() < 1
        assert (np.diff(taken[-1]) > 0).all()
    if len(taken) == 2:
        assert set(taken[0]) <= set(taken[1])


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(0, 9))
def test_the_smallest_fraction_that_is_named_works_and_one_image_fewer_does_not(sizes, seed):
    data = of_sizes(sizes, seed)
    n = len(data)
    with pytest.raises(InputError, match="smallest fraction is") as caught:
        choose_fraction(data, everything(data), Fraction(1, n + 1), seed)
    smallest = Fraction(str(caught.value).rpartition(" ")[2])
    taken = choose_fraction(data, everything(data), smallest, seed)
    assert set(data.labels[taken]) == set(data.labels)
    if smallest > Fraction(1, n):
        with pytest.raises(InputError, match="too few"):
            choose_fraction(data, everything(data), smallest - Fraction(1, n), seed)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.data(), st.integers(0, 9))
def test_a_hold_out_has_its_size_and_shares_and_leaves_every_class_an_image(sizes, draw, seed):
    data = of_sizes(sizes, seed)
    spare = len(data) - len(sizes)
    count, more = sorted(draw.draw(st.integers(0, spare)) for _ in range(2))
    held = choose_held_out(data, Fraction(count), seed)
    counts = np.bincount(data.labels[held], minlength=len(sizes))
    assert counts.sum() == len(set(held)) == count
    assert (counts < sizes).all()
    if spare:
        assert np.abs(counts - count * (np.array(sizes) - 1) / spare).max() < 1
    assert set(held) <= set(choose_held_out(data, Fraction(more), seed))
    with pytest.raises(InputError, match=f"at most {spare} can"):
        choose_held_out(data, Fraction(spare + 1), seed)


def test_neither_choice_depends_on_the_order_of_the_data():
    data = of_sizes([30, 50, 20])
    order = np.random.default_rng(5).permutation(100)
    other = reordered(data, order)
    for seed in range(3):
        one, two = (
            prepare_training_data(d, hold_out=20, fraction="0.3", seed=seed) for d in (data, other)
        )
        assert ids(data, one.held_out.positions) == ids(other, two.held_out.positions)
        assert ids(data, one.train.positions) == ids(other, two.train.positions)


def test_another_seed_chooses_others():
    data = of_sizes([200, 200])
    one, two = (
        prepare_training_data(data, hold_out=100, fraction="1/2", seed=seed) for seed in (0, 1)
    )
    assert 10 < len({*one.held_out.positions} & {*two.held_out.positions}) < 50  # 25 expected
    assert 50 < len({*one.train.positions} & {*two.train.positions}) < 90


def test_hold_out_and_fraction_do_not_overlap_and_no_position_decides():
    data = load_dataset("mnist5k", split="train")
    made = prepare_training_data(data, hold_out=400, fraction="1/4")
    held, train = made.held_out.positions, made.train.positions
    assert not {*held} & {*train}
    assert (len(held), len(train)) == (400, 900)
    assert np.bincount(data.labels[held]).tolist() == [40] * 10
    assert np.bincount(data.labels[train]).tolist() == [90] * 10
    # of a uniform choice the mean position is normal with this spread
    for chosen in (held, train):
        spread = 4000 / math.sqrt(12 * len(chosen))
        assert abs(chosen.mean() - 1999.5) < 3 * spread


@pytest.mark.thorough
def test_the_papers_smallest_mnist_set_has_68_images_of_all_classes():
    data = labelled(np.random.default_rng(0).integers(0, 10, 60_000))
    whole, small = (
        prepare_training_data(data, hold_out=5000, fraction=f) for f in ("1", "0.00125")
    )
    assert (len(whole.held_out), len(whole.train), len(small.train)) == (5000, 55_000, 68)
    assert np.bincount(small.train.labels).min() >= 6
    assert len(prepare_training_data(data, hold_out="1/12").held_out) == 5000


def test_the_choices_are_the_same_in_every_version():
    data = load_dataset("mnist5k", split="train")
    made = prepare_training_data(data, hold_out=100, fraction="0.01")
    assert made.held_out.positions[:5].tolist() == HELD_OUT
    assert made.train.positions[:5].tolist() == TRAINED_ON


def test_without_a_hold_out_there_is_none_and_the_whole_is_the_whole():
    data = of_sizes([5, 6])
    made = prepare_training_data(data)
    assert made.held_out is None
    assert made.train.positions.tolist() == list(range(11))
    assert made.train.labels.tolist() == data.labels.tolist()
    assert made.record()["held_out"] is None


def test_held_out_labels_are_as_wrong_as_those_of_the_training_unless_clean_ones_are_asked_for():
    data = of_sizes([300, 200, 100])
    noise = parse_label_noise("symmetric", "0.4")
    same = prepare_training_data(data, hold_out=100, fraction="1/2", noise=noise)
    clean = prepare_training_data(
        data, hold_out=100, fraction="1/2", noise=noise, clean_selection=True
    )
    assert (same.train.noisy_labels.flipped.sum(), len(same.train)) == (100, 250)
    assert same.held_out.noisy_labels.flipped.sum() == 40
    assert not clean.held_out.noisy_labels.flipped.any()
    assert clean.train.labels.tolist() == same.train.labels.tolist()
    assert clean.record()["selection"] != same.record()["selection"]


def test_the_record_has_every_count_and_is_json():
    data = of_sizes([30, 30])
    record = prepare_training_data(
        data, hold_out="1/10", fraction="0.5", noise=parse_label_noise("pair", "1/3")
    ).record()
    assert json.loads(json.dumps(record)) == record
    assert (record["hold_out"], record["fraction"], record["seed"]) == ("0.1", "0.5", 0)
    assert (record["train"]["images"], record["held_out"]["images"]) == (27, 6)
    assert record["train"]["noise"]["flipped"] == 9
    assert record["held_out"]["noise"]["flipped"] == 2
    other = prepare_training_data(data, hold_out="1/10", fraction="0.5", seed=1).record()
    assert other["train"]["ids"] != record["train"]["ids"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(2, 5), "0.4"),
        (Fraction(1, 3), "1/3"),
        (Fraction(5000), "5000"),
        (Fraction(0), "0"),
    ],
)
def test_exact_numbers_are_written_as_people_write_them(value, text):
    assert written(value) == text


def test_what_is_prepared_cannot_be_changed_by_accident():
    part = prepare_training_data(of_sizes([5, 5]), hold_out=2).train
    for array in (part.positions, part.labels, part.noisy_labels.clean):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"fraction": "0"}, "above 0 and at most 1, got 0"),
        ({"fraction": "1.5"}, "above 0 and at most 1"),
        ({"fraction": "nan"}, "expected a number such as"),
        ({"fraction": float("nan")}, "expected a number such as"),
        ({"fraction": 0.5}, "data fraction: expected a number such as"),
        ({"fraction": "0.1"}, "is 1, too few for one image of each of 2 classes"),
        ({"hold_out": -1}, "hold-out: expected a number of images"),
        ({"hold_out": "2.5"}, "hold-out: expected a number of images"),
        ({"hold_out": "many"}, "hold-out: expected a number"),
        ({"hold_out": 11}, "at most 8 can"),
        ({"hold_out": "0.95"}, "cannot hold out 9 of 10 images"),
    ],
)
def test_what_makes_no_sense_gets_one_line(asked, says):
    with pytest.raises(InputError, match=says) as caught:
        prepare_training_data(of_sizes([5, 5]), **asked)
    assert "\n" not in str(caught.value)


# --- the labels of a training, once more -------------------------------------------------------------


def recorded(dataset, **asked):
    """What a checkpoint keeps of a training, as JSON, and the training."""
    training = prepare_training_data(dataset, **asked)
    record = training.record() | {"name": dataset.name, "digest": dataset.digest}
    return json.loads(json.dumps(record)), training


@pytest.mark.parametrize("kind", ["symmetric", "symmetric-any", "pair", "instance"])
@pytest.mark.parametrize("selection", [False, True])
def test_labels_are_recovered_from_the_record_of_a_training(kind, selection):
    data = of_sizes([40, 30, 50])
    record, training = recorded(
        data,
        hold_out="1/5",
        fraction="2/3",
        noise=parse_label_noise(kind, "0.4", stratified=True),
        seed=7,
        clean_selection=selection,
    )
    again = recover(data, record)
    for one, two in ((again.train, training.train), (again.held_out, training.held_out)):
        assert one.positions.tolist() == two.positions.tolist()
        assert one.labels.tolist() == two.labels.tolist()
    written_rows = list(csv.DictReader(io.StringIO(table(data, again).decode())))
    assert [int(row["index"]) for row in written_rows] == sorted(
        [*training.train.positions, *training.held_out.positions]
    )
    assert sum(row["held_out"] == "true" for row in written_rows) == 24
    for row in written_rows:
        assert data.ids[int(row["index"])] == row["sample"]
        assert data.labels[int(row["index"])] == int(row["clean"])
    wrong = sum(row["clean"] != row["given"] and row["held_out"] == "false" for row in written_rows)
    assert wrong == record["train"]["noise"]["flipped"] == sum(f.wrong for f in flips(data, again))
    for name, row in zip(data.classes, flips(data, again), strict=True):
        own = [r for r in written_rows if r["clean"] == name and r["held_out"] == "true"]
        assert (row.held_out, row.held_out_wrong) == (
            len(own),
            sum(r["given"] != name for r in own),
        )


def test_labels_of_a_training_without_held_out_images_are_recovered():
    data = of_sizes([10, 10])
    record, training = recorded(data, noise=parse_label_noise("pair", "0.5"))
    assert recover(data, record).train.labels.tolist() == training.train.labels.tolist()
    assert {row.held_out for row in flips(data, training)} == {0}


def test_labels_from_a_file_are_recovered_with_that_file_alone(tmp_path):
    data = of_sizes([12, 12, 12])
    human = (data.labels + (np.arange(36) % 5 == 0)) % 3
    np.savez(tmp_path / "human.npz", worse=human, better=data.labels)
    noise = parse_label_noise(f"file:{tmp_path / 'human.npz'}#worse")
    record, training = recorded(data, hold_out=6, noise=noise)
    with pytest.raises(
        InputError, match=r"from the file human\.npz; give it with --noise-kind file"
    ):
        recover(data, record)
    moved = (tmp_path / "human.npz").rename(tmp_path / "moved.npz")
    again = recover(data, record, f"file:{moved}#worse")
    assert again.train.labels.tolist() == training.train.labels.tolist()
    with pytest.raises(InputError, match="given labels of the part 'train'"):
        recover(data, record, f"file:{moved}#better")
    np.savez(moved, worse=human, other=human)
    with pytest.raises(InputError, match="labels' file of the part 'train'"):
        recover(data, record, f"file:{moved}#worse")


def test_other_labels_than_those_of_the_training_are_told_in_one_line():
    data = of_sizes([12, 12])
    record, _ = recorded(data, hold_out=6, noise=parse_label_noise("symmetric", "0.5"))
    for wrong, says in [
        ({"digest": "0"}, "not the images and labels of this training"),
        ({"seed": 1}, "the images of the part 'train'"),
        ({"held_out": None}, "the images of the part 'held_out'"),
        ({"selection": "clean labels"}, "given labels of the part 'held_out'"),
        ({"train": record["train"] | {"noise": None}}, "record of the training is incomplete"),
        ({"hold_out": "many"}, "hold-out: expected a number"),
    ]:
        with pytest.raises(InputError, match=says) as caught:
            recover(data, record | wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="incomplete"):
        recover(data, {"digest": data.digest})
