"""`robustkit rank`: made-up records of several methods on several data sets."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.ranked import METHODS, made
from scipy.stats import friedmanchisquare, rankdata

import robustkit as robustkit_calls
from robustkit.errors import InputError
from robustkit.files import digest
from robustkit.record import Store
from robustkit.statistics.comparison import listed

DATA = ("cifar10", "mnist", "svhn", "mine")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with the records, and what they say."""
    folder = tmp_path_factory.mktemp("ranked")
    before = Path.cwd()
    os.chdir(folder)
    found = {
        (method, data, seed): made(method, data, seed)
        for method in METHODS
        for data in DATA
        for seed in range(2)
    }
    os.chdir(before)
    return folder, found


@pytest.fixture(autouse=True)
def records(kept, tmp_path, monkeypatch):
    """They lie in the folder that a test works in."""
    folder, found = kept
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return found


def ranked(robustkit, *arguments):
    status, out, err = robustkit("rank", *arguments, "--json", "-")
    assert (status, err) == (0, "")
    return json.loads(out)


def refused(robustkit, *arguments):
    status, out, err = robustkit("rank", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def accuracies(records, epsilon):
    """Means over seeds, data sets × methods, both by name."""
    return [
        [
            sum((records[m, d, s].broken_at > epsilon).mean() for s in range(2)) / 2
            for m in sorted(METHODS)
        ]
        for d in sorted(DATA)
    ]


@pytest.mark.thorough
def test_methods_are_ranked_within_each_data_set(robustkit, records):
    found = ranked(robustkit, "runs/*.parquet", "--at", "0.2")
    expected = accuracies(records, 0.2)
    assert found["methods"] == sorted(METHODS)
    assert found["data"] == sorted(DATA)
    assert found["accuracies"] == [pytest.approx(row) for row in expected]
    ranks = [rankdata([-x for x in row]) for row in expected]
    assert found["ranks"]["mean_ranks"] == pytest.approx(
        [sum(c) / 4 for c in zip(*ranks, strict=True)]
    )
    assert found["ranks"]["p"] == pytest.approx(
        friedmanchisquare(*map(list, zip(*expected, strict=True))).pvalue
    )
    said = " ".join(found["sentences"])
    assert "l2-margin ranks above cross-entropy" in said
    assert "fewer than 10 data sets" in said


def test_each_data_set_may_have_a_budget_of_its_own(robustkit, records):
    found = ranked(robustkit, "runs/*.parquet", "--at", "0.1", "--at", "mine=0.3")
    assert found["levels"] == ["0.1", "0.3", "0.1", "0.1"]
    place = found["data"].index("mine")
    assert found["accuracies"][place] == pytest.approx(accuracies(records, 0.3)[place])


def test_a_patterns_data_field_is_no_part_of_a_methods_name(robustkit):
    found = ranked(robustkit, "nets/{loss}_{data}_seed{seed}.pt", "--at", "0.2")
    assert found == ranked(robustkit, "runs/*.parquet", "--at", "0.2")


@pytest.mark.parametrize("seed", ["0", "{seed}"])
def test_a_pattern_may_be_a_method(robustkit, records, seed):
    names = [f"nets/{method}_{{data}}_seed{seed}.pt" for method in METHODS]
    found = ranked(robustkit, *names)
    assert found["methods"] == sorted(names)
    if seed != "0":
        assert found["accuracies"] == [pytest.approx(row) for row in accuracies(records, 0)]


def test_networks_of_a_method_that_differ_in_more_than_seeds_are_told(robustkit):
    assert ranked(robustkit, "nets/{loss}_{data}_seed{seed}.pt")["notes"] == []
    made("hinge", "svhn", 2, model="lenet5")
    found = ranked(robustkit, "nets/{loss}_{data}_seed{seed}.pt")
    (note,) = found["notes"]
    assert note.startswith("Networks of hinge differ in model, ")
    assert found["sentences"][-1] == note


CHANGES = {
    "norm": {"norm": "l2"},
    "target": {"target": "next"},
    "protocol": {"name": "other"},
    "settings of the attack": {"attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 7}]},
}


@pytest.mark.parametrize("kinds", [(), *((kind,) for kind in CHANGES), ("norm", "target"), CHANGES])
def test_attacks_that_differ_between_data_sets_are_told_and_each_is_named(
    robustkit, records, kinds
):
    change = {key: value for kind in kinds for key, value in CHANGES[kind].items()}
    for (_, data, _), made_ in records.items():
        if data == "svhn":
            protocol = made_.header["protocol"]
            resolved = protocol["resolved"] | {k: v for k, v in change.items() if k != "name"}
            own = {key: change[key] for key in ("norm", "name") if key in change}
            header = made_.header | {"protocol": protocol | own | {"resolved": resolved}}
            Path(f"runs/{header['digest'][:32]}.parquet").unlink()
            with Store(Path("runs")).claim(header["digest"], lambda: None) as blocks:
                blocks.finish(header, made_.run, made_.table)
    found = ranked(robustkit, "runs/*.parquet", "--at", "0.2")
    names = [kind for kind in kinds if kind != "settings of the attack" or len(kinds) == 1]
    note = f"Data sets differ in {listed(names)}: mean ranks are over different threats."
    assert found["notes"] == [note] * bool(kinds)
    tested = dict(zip(found["data"], found["tested"], strict=True))
    images = {"name": "mnist", "split": "test", "n": 300, "digest": digest("mnist")}
    assert tested["mnist"]["data"] == images
    assert tested["mnist"]["protocol"]["norm"] == "linf"
    expected = {"norm": "linf", "target": "none", "name": "pgd"} | change
    attack = tested["svhn"]["protocol"]
    assert attack["digest"]
    assert attack["norm"] == expected["norm"]
    assert attack["targeted"] == expected["target"]
    assert attack["name"] == expected["name"]
    assert "Evaluated: pgd (ℓ∞, ε = 0.2) on 300 test images of mnist." in found["sentences"]
    towards = " towards next" if "target" in kinds else ""
    norm = "ℓ₂" if "norm" in kinds else "ℓ∞"
    line = f"Evaluated: {expected['name']}{towards} ({norm}, ε = 0.2) on 300 test images of svhn."
    assert line in found["sentences"]
    title = repr(robustkit_calls.rank("runs/*.parquet", at="0.2")).splitlines()[0]
    own = f"{expected['name']}{towards} ({norm}, ε = 0.2)"
    usual = "pgd (ℓ∞, ε = 0.2)"
    assert title.endswith(f"data sets: {usual}" if own == usual else f"{listed([usual, own])}")


def test_a_data_set_without_an_attack_beside_attacked_ones_is_told(robustkit):
    both = ranked(robustkit, "runs/*.parquet")
    assert both["notes"] == []
    assert {one["protocol"] for one in both["tested"]} == {None}
    assert "Evaluated: no attack on 300 test images of mnist." in both["sentences"]
    mixed = ranked(robustkit, "runs/*.parquet", "--at", "0.2", "--at", "mine=clean")
    (note,) = mixed["notes"]
    assert note.startswith("Data sets differ in norm and protocol: ")


def test_the_table_and_the_figure(robustkit, tmp_path):
    status, out, _ = robustkit("rank", "runs/*.parquet", "--at", "0.2", "--figure", "ranks.pdf")
    assert status == 0
    lines = out.splitlines()
    order = [next(i for i, line in enumerate(lines) if m in line) for m in ("l2-margin", "hinge")]
    assert order == sorted(order)
    assert (tmp_path / "ranks.pdf").read_bytes().startswith(b"%PDF")


def test_methods_that_were_not_shown_to_differ_have_no_pairs(robustkit, records):
    for (method, data, seed), _ in records.items():
        if data in ("mine", "svhn"):
            Path(f"runs/{digest(method, data, str(seed))[:32]}.parquet").unlink()
    found = ranked(robustkit, "runs/*.parquet")
    assert "were not shown to differ" in found["sentences"][0]
    assert "ranks above" not in " ".join(found["sentences"])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (lambda m, d: d != "mnist", "all evaluations are on mnist"),
        (lambda m, d: m == "hinge", "three methods or more"),
        (lambda m, d: (m, d) == ("hinge", "svhn"), "hinge: no evaluation on svhn"),
    ],
)
def test_what_cannot_be_ranked(robustkit, records, gone, message):
    for method, data, seed in records:
        if gone(method, data):
            Path(f"runs/{digest(method, data, str(seed))[:32]}.parquet").unlink()
    assert message in refused(robustkit, "runs/*.parquet")


def test_data_sets_that_share_images_are_refused(robustkit):
    for method in METHODS:
        made(method, "mnist5k")
    assert "mnist and mnist5k share images" in refused(robustkit, "runs/*.parquet")


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("pictures", "shared", "refusal"),
    [(300, 300, True), (300, 151, True), (300, 150, False), (100, 51, True), (100, 50, False)],
)
def test_one_data_set_under_two_names_is_refused_and_one_that_shares_pictures_is_not(
    robustkit, records, pictures, shared, refusal
):
    """More than half of the smaller one's pictures, however often each is there."""
    theirs = [name[:-2] for name in records["hinge", "mine", 0].table["sample"].to_pylist()]
    own = [theirs[i] if i < shared else digest(f"copy {i}")[:32] for i in range(pictures)]
    images = [f"{name}:{k}" for k in range(1, 1 + 300 // pictures) for name in own]
    for method in METHODS:
        made(method, "copy", images=images)
    if refusal:
        line = refused(robustkit, "runs/*.parquet")
        assert f"copy and mine share {shared} images, so they are not independent data sets" in line
    else:
        assert "copy" in ranked(robustkit, "runs/*.parquet")["data"]


def test_names_and_numbers_that_make_no_sense(robustkit):
    assert "unknown data set 'mnost'" in refused(robustkit, "runs/*.parquet", "--at", "mnost=0.1")
    assert "0.15" in refused(robustkit, "runs/*.parquet", "--at", "0.15")
    assert "level 1.5" in refused(robustkit, "runs/*.parquet", "--level", "1.5")
    assert "ends in .pdf" in refused(robustkit, "runs/*.parquet", "--figure", "ranks.doc")
    assert "name evaluated networks" in refused(robustkit)
    twice = refused(robustkit, "runs/*.parquet", "--at", "0.1", "--at", "0.2")
    assert "0.1 and 0.2 for all data sets; a ranking has one" in twice
    again = refused(robustkit, "runs/*.parquet", "--at", "mnist=0.1", "--at", "mnist=clean")
    assert "the data set mnist" in again
    with pytest.raises(InputError, match=r"0\.1, 0\.2; a ranking has one"):
        robustkit_calls.rank("runs/*.parquet", at=[0.1, 0.2])
