"""Which networks count as seeds of one method, and which of several records of one counts."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.evaluations import evaluation

import robustkit
from robustkit import record, spec
from robustkit.analysis.findings import Findings
from robustkit.analysis.judge import judge_study
from robustkit.analysis.leaderboard import leaderboard
from robustkit.analysis.record_folder import findings_of_records
from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.evaluation.model import from_checkpoint
from robustkit.files import file_digest
from robustkit.models import build
from robustkit.results.records import open_record

STUDY = """
title    = "t"
question = "q"

[checkpoints]
runs = "runs"

[test]
data = "mnist5k"

[[analysis]]
name = "made"
"""
NOISE, ATTACK = 'factor = "label_noise"\n', 'factor = "epsilon"\nprotocol = "pgd"\n'
TRAINING = {
    "recipe": {"learning_rate": 0.01, "steps": 20, "augment": [], "clip": None},
    "loss": {"name": "hinge", "settings": {"margin": 1.0, "squared": False}},
    "data": {"train": {"noise": {"kind": "symmetric", "seed": 0, "realised": 0.2}}},
    "keep": "last",
    "compress": None,
    "device": "cpu",
    "torch": "2.11",
    "history": [],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets").mkdir()


def kept(name, seed, digest=None, precision=None, started=None, **facts):
    """A record of a network of that seed; its path."""
    made = evaluation(f"nets/{name}", n=60, seed=seed, checkpoint={"seed": seed} | facts)
    header = made.header | ({"precision": precision} if precision else {})
    header |= {"digest": digest or made.digest}
    run = made.run | ({"started": started} if started else {})
    with record.Store(Path("runs")).claim(header["digest"], lambda: None) as blocks:
        blocks.finish(header, run, made.table)
    return Path("runs") / f"{header['digest'][:32]}.parquet"


def trained(seed, part="", **changes):
    """The record of a network in a file that tells its training, with changes to a part of it."""
    training = TRAINING | {"device": f"cuda:{seed}", "torch": f"2.{seed}", "history": [seed]}
    if part in ("keep", "compress"):
        training |= changes
    elif part == "settings":
        training["loss"] = training["loss"] | {part: training["loss"][part] | changes}
    elif part == "noise":
        training["data"] = {"train": {"noise": {"seed": seed} | changes}}
    elif part:
        training[part] = training[part] | changes
    path = Path(f"nets/{seed}.safetensors")
    save_checkpoint(path, build("lenet5"), model="lenet5", seed=seed, training=training)
    return kept(path.name, seed, loss="hinge", sha256=file_digest(path))


def reported(factor):
    """What a report of the folder is made of."""
    Path("made.toml").write_text(STUDY + factor)
    study = spec.load_study("made.toml")
    return study, findings_of_records(study, Path("runs"), "command")


def methods(found: Findings):
    return sorted({(number.method, number.seed) for number in found.numbers})


def boards():
    return leaderboard([open_record(path) for path in sorted(Path("runs").glob("*.parquet"))])


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [NOISE, ATTACK])
@pytest.mark.parametrize(
    ("feature", "values"),
    [("model", ("lenet5", "mnist-cnn")), ("trained_on", ("mnist", "mnist5k"))],
)
def test_networks_of_one_loss_that_are_no_replicates_are_two_methods(factor, feature, values):
    for seed, value in enumerate(values):
        kept(f"hinge{seed}", seed, loss="hinge", **{feature: value})
        kept(f"ce{seed}", seed, loss="cross-entropy", **{feature: values[0]})
    one, other = (f"hinge, {value}" for value in values)
    alike = [("cross-entropy", 0), ("cross-entropy", 1)]
    assert methods(reported(factor)[1]) == [*alike, (one, 0), (other, 1)]


def test_networks_of_several_label_noises_are_several_methods_where_all_are_taken():
    """A share that came of random labels is another with every seed, and no other method."""
    for seed, noise in enumerate((0.399902, 0.400146, 0.2, 0.2)):
        kept(f"{seed}", seed, loss="hinge", label_noise=noise)
    expected = {"hinge, label noise 0.399902": (0, 1), "hinge, label noise 0.2": (2, 3)}
    _, found = reported(ATTACK)
    assert methods(found) == sorted((name, s) for name, own in expected.items() for s in own)
    compared = robustkit.compare("runs/*.parquet")
    assert {side.name: side.seeds for side in compared.sides} == expected
    assert not any("differ in" in note for note in compared.notes)


def test_seeds_whose_draws_came_to_several_shares_are_of_the_rate_that_was_asked_for():
    """Of random labels the share that came of them is another with every seed, by some per cent."""
    shares = {"hinge": (0.196, 0.204, 0.39, 0.4), "cross-entropy": (0.204, 0.2, 0.4, 0.41)}
    for loss, realised in shares.items():
        for seed, share in enumerate(realised):
            asked = {"label_noise": share, "asked_label_noise": 0.4 if share > 0.3 else 0.2}
            kept(f"{loss}{seed}", seed, loss=loss, **asked)
    names = [f"{loss}, label noise {share}" for loss in sorted(shares) for share in (0.2, 0.4)]
    assert [side.name for side in robustkit.compare("runs/*.parquet").sides] == names
    (board,) = boards().boards
    rows = {row.name: len(row.networks) for row in board.rows}
    assert rows == dict.fromkeys(names, 2)
    _, found = reported(NOISE)
    assert {(n.method, n.level, n.seed) for n in found.numbers} == {
        (loss, level, seed)
        for loss in shares
        for seed, level in enumerate(("0.2", "0.2", "0.4", "0.4"))
    }


@pytest.mark.parametrize("said", [None, 0.3])
def test_the_rate_that_was_asked_for_is_on_record_unless_another_share_is_said(said):
    noise = {"kind": "symmetric-any", "rate": "1/5", "realised": 0.196}
    training = TRAINING | {"data": {"train": {"noise": noise}}}
    net = build("lenet5")
    save_checkpoint("a.safetensors", net, model="lenet5", label_noise=0.196, training=training)
    if said is not None:
        Path("a.safetensors.toml").write_text(f"label_noise = {said}\n")
    header = from_checkpoint(read_checkpoint("a.safetensors")).header
    assert header["label_noise"] == (said or 0.196)
    assert header.get("asked_label_noise") == (None if said else 0.2)


# --- what is told of one method -------------------------------------------------------------------


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("", {}, ""),
        ("recipe", {"learning_rate": 0.001, "steps": 5}, "learning_rate and steps"),
        ("recipe", {"augment": ["flip"]}, "augment"),
        ("recipe", {"clip": 0.5}, "clip"),
        ("settings", {"squared": True}, "loss.squared"),
        ("noise", {"kind": "pair"}, "noise_kind"),
        ("keep", {"keep": "best"}, "keep"),
        ("compress", {"compress": "sign"}, "compress"),
    ],
)
def test_networks_of_a_method_that_were_trained_in_another_way_are_told(part, changes, told):
    trained(0)
    trained(1, part, **changes)
    for seed in (0, 1):
        kept(f"ce{seed}", seed, loss="cross-entropy")
    study, found = reported(NOISE)
    start = "Networks of hinge differ in "
    page = judge_study(study, found).notes
    compared = robustkit.compare("runs/*.parquet").notes
    power = robustkit.power("runs/*.parquet", delta=1).notes
    for notes in (page, compared, power, boards().notes):
        said = [note.partition(start)[2].partition(", not only")[0] for note in notes]
        assert [text for text in said if text] == [told] * bool(told)


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_is_not_what_was_evaluated_tells_nothing(gone):
    trained(0)
    trained(1, "recipe", steps=5)
    path = Path("nets/1.safetensors")
    if gone:
        path.unlink()
    else:
        save_checkpoint(path, build("lenet5"), model="lenet5", training=TRAINING)
    assert not any("differ in" in note for note in reported(NOISE)[1].notes)


def test_what_a_pattern_or_a_list_puts_together_is_told():
    for seed, model in enumerate(("lenet5", "mnist-cnn")):
        for loss in ("hinge", "ce"):
            Path(f"nets/{loss}_seed{seed}.pt").write_text(f"{loss} {seed}")
            sha256 = file_digest(Path(f"nets/{loss}_seed{seed}.pt"))
            kept(f"{loss}_seed{seed}.pt", seed, loss=loss, model=model, sha256=sha256)
    lists = [[f"nets/{loss}_seed{seed}.pt" for seed in (0, 1)] for loss in ("ce", "hinge")]
    for given in (["nets/{loss}_seed{seed}.pt"], lists):
        compared = robustkit.compare(*given)
        assert [(side.name, side.seeds) for side in compared.sides] == [
            ("ce", (0, 1)),
            ("hinge", (0, 1)),
        ]
        for notes in (compared.notes, robustkit.power(*given, delta=1).notes):
            for name in ("ce", "hinge"):
                assert any(f"Networks of {name} differ in model, " in note for note in notes)


# --- several records of one network ---------------------------------------------------------------

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"


@pytest.mark.parametrize("digests", [("0" * 64, "f" * 64), ("f" * 64, "0" * 64)])
@pytest.mark.parametrize(
    ("taken", "other"),
    [(("float32", EARLY), ("bf16", LATE)), (("float32", LATE), ("float32", EARLY))],
)
def test_report_and_compare_take_the_same_record_of_a_network(digests, taken, other):
    network = {"loss": "hinge", "weights": "w"}
    paths = [
        kept("a", 0, digest, precision, started, **network)
        for digest, (precision, started) in zip(digests, (taken, other), strict=True)
    ]
    baseline = kept("b", 0, loss="cross-entropy")
    study, found = reported(ATTACK)
    assert {number.path for number in found.numbers} == {paths[0], baseline}
    assert (
        f"Left out, since {paths[0].name} is of the same network: {paths[1].name}." in found.notes
    )
    side = robustkit.compare("nets/b", "nets/a").sides[1]
    assert side.rows[0].header["digest"] == digests[0]
    (panel,) = judge_study(study, found).panels
    assert not any("precision" in note for note in panel.notes)


def test_of_conditions_that_fit_as_many_networks_the_later_counts():
    for digest, started in (("0" * 64, EARLY), ("f" * 64, LATE)):
        path = kept("a", 0, digest, None, started)
        header = record.read(path).header
        if started == EARLY:
            protocol = header["protocol"] | {
                "resolved": header["protocol"]["resolved"] | {"seed": 9}
            }
            old = replace(record.read(path), header=header | {"protocol": protocol})
            path.unlink()
            record.Blocks(path).finish(old.header, old.run, old.table)
    (number,) = reported(ATTACK)[1].numbers
    assert number.path.stem == "f" * 32


def test_attacks_in_several_precisions_are_told_in_a_report_as_in_a_comparison():
    kept("a", 0, None, "bf16", loss="hinge")
    kept("b", 0, loss="cross-entropy")
    said = "Not all attacks searched in the same precision: bf16 and float32."
    for factor, told in ((ATTACK, True), (NOISE, False)):
        study, found = reported(factor)
        (panel,) = judge_study(study, found).panels
        assert (said in panel.notes) is told
    assert said in robustkit.compare("nets/b", "nets/a").notes
