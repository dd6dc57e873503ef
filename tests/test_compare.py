"""`robustkit compare` and `robustkit power`: made-up records, and two networks end to end."""

import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluations import evaluation
from safetensors.numpy import save_file

import robustkit as package
from robustkit.analysis.needs import Needs, PowerAnalysis
from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.cli.terminal import share_cell
from robustkit.errors import InputError
from robustkit.files import file_digest
from robustkit.models import build
from robustkit.protocol import parse_protocol
from robustkit.record import Store, table
from robustkit.results.command import data_options
from robustkit.statistics import (
    Components,
    Estimate,
    compare_images,
    compare_seeds,
    compare_unpaired,
    components,
    plan,
)

STRONG, WEAK = "l2-margin", "cross-entropy"


def write(found, folder="runs"):
    """An evaluation's record in a folder; the path of its file."""
    store = Store(Path(folder))
    with store.claim(found.digest, lambda: None) as blocks:
        blocks.finish(found.header, found.run, found.table)
    return store.path(found.digest)


def made(loss, seed, *, path=None, strength=None, n=300, **changes):
    """An evaluation of a network made with a loss and a seed."""
    strength = strength or {STRONG: 0.22}.get(loss, 0.15)
    facts = {"loss": loss, "seed": seed}
    path = path or f"nets/{loss}_seed{seed}.pt"
    return evaluation(path, n=n, strength=strength, seed=seed or 0, checkpoint=facts, **changes)


def with_header(found, section, name=None, /, **changes):
    """The evaluation with other entries in a part of its header, and a digest of its own."""
    header = {**found.header, section: {**found.header[section], **changes}}
    return replace(found, header={**header, "digest": name or found.digest[::-1]})


def fgsm(found):
    """The evaluation as if made by another protocol."""
    resolved = {**found.header["protocol"]["resolved"], "attacks": [{"kind": "fgsm"}]}
    columns = found.table.to_pydict()
    passes = {name: [one[:2] for one in columns[name]] for name in ("forward", "backward")}
    found = replace(found, table=table(columns | passes))
    return with_header(found, "protocol", name="fgsm", digest="f" * 64, resolved=resolved, file="")


def in_l2(found):
    """The evaluation as if made in the other norm of its protocol's file."""
    protocol = found.header["protocol"]
    file = protocol["file"].replace('norm = "linf"', 'norm = ["linf", "l2"]')
    assert file != protocol["file"]
    resolved = {**protocol["resolved"], "norm": "l2"}
    return with_header(found, "protocol", norm="l2", digest="2" * 64, resolved=resolved, file=file)


def aimed(found):
    """The evaluation as if its attack had headed for the next class."""
    resolved = {**found.header["protocol"]["resolved"], "target": "next"}
    return with_header(found, "protocol", digest="a" * 64, resolved=resolved)


def folder_of_seeds(seeds=range(3), losses=(WEAK, STRONG)):
    return {(loss, seed): made(loss, seed) for loss in losses for seed in seeds}


def right(found, epsilon=None):
    return found.broken_at > (epsilon or 0)


def numbers(robustkit, *arguments):
    status, out, err = robustkit(*arguments, "--json", "-")
    assert (status, err) == (0, "")
    return json.loads(out)


def refused(robustkit, *arguments):
    """The one line by which a command refuses."""
    status, out, err = robustkit(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("robustkit: error: ")
    assert err.count("\n") == 1
    return err


# --- what is computed -----------------------------------------------------------------------------


def test_two_records_are_compared_by_image_the_first_is_the_baseline(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    found = numbers(robustkit, "compare", write(weak), write(strong), "--delta", "3")
    assert [one["level"] for one in found["comparisons"]] == ["clean", "0.1", "0.2", "0.3"]
    for one, epsilon in zip(found["comparisons"], (None, 0.1, 0.2, 0.3), strict=True):
        expected = compare_images(right(strong, epsilon), right(weak, epsilon))
        low, high = expected.interval(0.05 / 4)
        assert one["difference"]["value"] == expected.difference
        assert (one["difference"]["low"], one["difference"]["high"]) == (low, high)
        assert one["p"] == min(1, 4 * expected.p)
        assert (one["a"], one["b"]) == ("nets/l2-margin_seed1.pt", "nets/cross-entropy_seed0.pt")
    assert found["comparisons"][2]["verdict"] == "better"
    accuracy = found["sides"][1]["accuracy"][2]
    assert accuracy["value"] == right(strong, 0.2).mean()


def test_the_cost_of_the_attacks_stands_beside_the_accuracy(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    paths = write(weak), write(strong)
    found = numbers(robustkit, "compare", *paths)["sides"]
    for side, record in zip(found, (weak, strong), strict=True):
        for way in ("forward", "backward"):
            assert side["passes"][way] == pytest.approx(record.rows[way].map(sum).mean())
    _, out, _ = robustkit("compare", *paths)
    assert "Passes per image: " in out


def test_the_sentences_table_and_notes_are_told(robustkit):
    status, out, err = robustkit("compare", write(made(WEAK, 0)), write(made(STRONG, 1)))
    assert (status, err) == (0, "")
    assert "Under pgd at ε = 0.2, nets/l2-margin_seed1.pt is " in out
    assert "is better than nets/cross-entropy_seed0.pt: +" in out
    assert "(simultaneous 95 % CI " in out
    assert "Not decided: nets/l2-margin_seed1.pt at clean; two seeds or more" in out
    assert "one network each" in out
    assert max(map(len, out.split("Under pgd")[0].splitlines()[1:-1])) <= 80


@pytest.mark.parametrize(
    ("of_weak", "of_strong", "planned"),
    [((0,), (0,), False), ((0, 1), (0, 1), True), ((0, 1), (2, 3), False), ((0, 1), (1,), False)],
)
def test_what_is_not_decided_leads_to_power_where_that_answers(
    robustkit, of_weak, of_strong, planned
):
    for loss, seeds in ((WEAK, of_weak), (STRONG, of_strong)):
        for seed in seeds:
            write(made(loss, seed, strength=0.15))
    _, out, _ = robustkit("compare", "runs/*.parquet")
    told = " ".join(out.split()).partition("Not decided: ")[2]
    assert ("; two seeds or more that both share would tell" in told) is not planned
    assert ("; robustkit power tells how many seeds" in told) is planned
    status, _, err = robustkit("power", "runs/*.parquet", "--delta", "1")
    assert (status, "at least two seeds" in err) == ((0, False) if planned else (2, True))


def test_a_level_at_chance_is_not_called_undecided(robustkit):
    """Of two classes, so that both are no better than a guess under attack, but without one."""
    for loss in (WEAK, STRONG):
        for seed in (0, 1):
            write(with_header(made(loss, seed, strength=0.15), "data", classes=["0", "1"]))
    found = numbers(robustkit, "compare", "runs/*.parquet")["comparisons"]
    chance = [one["level"] for one in found if one["at_chance"]]
    rest = [
        one["level"] for one in found if one["verdict"] == "inconclusive" and not one["at_chance"]
    ]
    assert chance
    assert all(one["verdict"] == "inconclusive" for one in found if one["at_chance"])
    _, out, _ = robustkit("compare", "runs/*.parquet")
    told = " ".join(out.split()).partition("Not decided: ")[2].partition(";")[0]
    assert told == ", ".join(
        f"{STRONG} at {level if level == 'clean' else f'ε = {level}'}" for level in rest
    )


def test_a_target_is_told_in_sentences_and_in_json(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    ways = {
        "none": ("Under pgd at ε = 0.2, ", (weak, strong)),
        "next": (
            "Under pgd towards next (ℓ₂) at ε = 0.2, ",
            [aimed(in_l2(weak)), aimed(in_l2(strong))],
        ),
    }
    for target, (begins, both) in ways.items():
        found = numbers(robustkit, "compare", *(write(one, target) for one in both))
        assert found["protocol"]["targeted"] == target
        assert found["comparisons"][2]["sentence"].startswith(begins)


@pytest.mark.parametrize(
    ("value", "low", "high", "told"),
    [
        (0.0, 0.0, 0.000384, "0.0\u00a0%\n0.00 to 0.04"),
        (1.0, 0.999616, 1.0, "100.0\u00a0%\n99.96 to 100.00"),
        (0.5, 0.4, 0.6, "50.0\u00a0%\n40.0 to 60.0"),
    ],
)
def test_an_accuracys_interval_is_never_told_as_one_number(value, low, high, told):
    assert share_cell(Estimate(value, low, high, 10_000, "Wilson, 95 %")) == told


def test_intervals_are_headed_simultaneous_where_they_are_corrected_for_several_levels(robustkit):
    """However many are shown: what --at leaves out still belongs to the family."""
    paths = [write(made(loss, seed)) for seed, loss in enumerate((WEAK, STRONG, "hinge"))]
    (one,) = numbers(robustkit, "compare", *paths[:2], "--at", "clean")["comparisons"]
    assert one["correction"] == "Bonferroni over 4 levels"
    _, out, _ = robustkit("compare", *paths[:2], "--at", "clean")
    assert "simultaneous" in out.partition("└")[0]
    # attacked in three ways, so that clean images are all that they share
    unlike = [made(loss, seed) for seed, loss in enumerate((WEAK, STRONG, "hinge"), 5)]
    asked = unlike[0].header["protocol"]["resolved"]
    alone = [
        write(with_header(one, "protocol", digest=str(seed) * 64, resolved=asked | {"seed": seed}))
        for seed, one in enumerate(unlike, 1)
    ]
    found = numbers(robustkit, "compare", *alone, "--at", "clean")["comparisons"]
    assert [one["correction"] for one in found] == ["", ""]
    _, out, _ = robustkit("compare", *alone, "--at", "clean")
    assert "simultaneous" not in out


def test_a_folder_of_seeds_is_paired_by_the_records_own_loss_and_seed(robustkit):
    records = folder_of_seeds()
    for found in records.values():
        write(found)
    found = numbers(robustkit, "compare", "runs/*.parquet", "--at", "0.2", "--at", "clean")
    assert found["baseline"] == WEAK
    assert [side["seeds"] for side in found["sides"]] == [[0, 1, 2], [0, 1, 2]]
    (attacked, clean) = found["comparisons"]
    assert (attacked["level"], clean["level"]) == ("0.2", "clean")
    a, b = (np.stack([right(records[loss, s], 0.2) for s in range(3)]) for loss in (STRONG, WEAK))
    expected = compare_seeds(a, b, np.random.default_rng(0))
    assert attacked["difference"]["value"] == expected.difference
    assert attacked["p"] == 4 * expected.p  # of all levels on file, whichever are shown
    assert attacked["unit"] == "3 paired seeds, 300 images"
    assert attacked["correction"] == "Bonferroni over 4 levels"
    whole = numbers(robustkit, "compare", "runs/*.parquet")["comparisons"]
    assert [one for one in whole if one["level"] == "0.2"] == [attacked]
    _, out, _ = robustkit("compare", "runs/*.parquet")
    assert "Sign-flip permutation and Wilcoxon cannot decide with 3 seeds" in out
    assert out.count("cannot decide") == 1


def test_the_share_of_seeds_won_stands_beside(robustkit):
    records = folder_of_seeds()
    paths = {key: str(write(found)) for key, found in records.items()}
    (one,) = numbers(robustkit, "compare", "runs/*.parquet", "--at", "0.2")["comparisons"]
    won = [
        right(records[STRONG, seed], 0.2).mean() > right(records[WEAK, seed], 0.2).mean()
        for seed in range(3)
    ]
    assert one["outperforms"]["value"] == np.mean(won)
    assert one["outperforms"]["n"] == 3
    alone = numbers(robustkit, "compare", paths[WEAK, 0], paths[STRONG, 0], "--at", "0.2")
    assert alone["comparisons"][0]["outperforms"] is None


def test_each_of_several_is_a_family_with_the_baseline(robustkit):
    for found in folder_of_seeds(losses=(WEAK, STRONG, "hinge")).values():
        write(found)
    found = numbers(robustkit, "compare", "runs/*.parquet", "--baseline", "hinge")
    assert [side["name"] for side in found["sides"]] == ["hinge", WEAK, STRONG]
    assert len(found["comparisons"]) == 8
    assert {one["correction"] for one in found["comparisons"]} == {"Bonferroni over 4 levels"}
    assert any("both methods hold together with at least 90 %" in note for note in found["notes"])
    assert {one["b"] for one in found["comparisons"]} == {"hinge"}
    line = refused(robustkit, "compare", "runs/*.parquet", "--baseline", "hing")
    assert "did you mean 'hinge'?" in line


def test_seeds_that_do_not_match_are_compared_unpaired(robustkit):
    weak, strong = [made(WEAK, s) for s in (0, 1, 2)], [made(STRONG, s) for s in (7, 8)]
    for found in (*weak, *strong):
        write(found)
    found = numbers(robustkit, "compare", "runs/*.parquet", "--at", "0.2")
    a, b = (np.stack([right(one, 0.2) for one in side]) for side in (strong, weak))
    assert found["comparisons"][0]["p"] == min(1, 4 * compare_unpaired(a, b).p)
    assert found["comparisons"][0]["unit"] == "2 and 3 unpaired seeds, 300 images"
    assert "not matched" in found["notes"][0]


def test_seeds_without_a_partner_are_left_out_and_told(robustkit):
    for found in (made(WEAK, 0), made(WEAK, 1), made(WEAK, 5), made(STRONG, 0), made(STRONG, 1)):
        write(found)
    found = numbers(robustkit, "compare", "runs/*.parquet")
    assert found["comparisons"][0]["unit"] == "2 paired seeds, 300 images"
    assert found["notes"] == [f"{WEAK}: omitted for lack of a partner: seeds 5."]


@pytest.mark.parametrize(
    ("baseline", "others", "apart"),
    [
        ((2,), [(0, 1, 2)], False),
        ((0, 1, 2), [(2,)], False),
        ((0, 1, 2, 5), [(1, 2, 7)], False),
        ((0, 1, 2), [(0, 1), (0, 1, 4)], False),
        ((0, 1), [(2, 3, 4)], False),
        ((7,), [(8,)], False),
        # two differences of different networks cannot both be of the baseline's one accuracy
        ((0, 1, 2), [(0, 1), (1, 2)], True),
        ((0, 1, 2), [(0,), (0, 1, 2)], True),
    ],
)
def test_accuracies_and_their_difference_are_of_the_same_networks(baseline, others, apart):
    def of(loss, seeds):
        return [made(loss, seed, strength=0.12 + 0.1 * (seed == 2)) for seed in seeds]

    methods = dict(zip((STRONG, "hinge"), others, strict=False))
    called = [of(loss, seeds) for loss, seeds in methods.items()]
    found = package.compare(of(WEAK, baseline), *called)
    base, *rest = found.sides
    for side, given in zip(rest, others, strict=True):
        alone = min(len(baseline), len(given)) == 1 < max(len(baseline), len(given))
        told = [note for note in found.notes if note.startswith(f"{side.name} and {base.name}: ")]
        assert all(("one network each" in note) is not alone for note in told)
        missing = sorted({*base.seeds} - {*given}) if {*given} & {*baseline} else []
        for one in found.of(side):
            a, b = (found.accuracies[name, one.level].value for name in (one.a, one.b))
            if not (apart and missing):
                assert a - b == pytest.approx(one.difference.value, abs=1e-12)
        if apart and missing:
            listed = ", ".join(map(str, missing))
            assert (
                f"{WEAK}: omitted from the difference to {side.name}, not from the accuracies, for "
                f"lack of a partner: seeds {listed}."
            ) in found.notes
    assert apart is any("not from the accuracies" in note for note in found.notes)
    # as few records are told as networks are compared
    for side in found.sides:
        assert len(side.seeds) == len(side.rows)
        assert [rows.header["checkpoint"]["seed"] for rows in side.rows] == [*side.seeds]


@pytest.mark.parametrize("paired_at_chance", [True, False])
def test_chance_is_judged_by_the_networks_that_are_compared(paired_at_chance):
    """Of two classes; the networks without a partner would decide otherwise."""

    def of(seed, loss=WEAK):
        weak = loss == STRONG or (seed == 2) is paired_at_chance
        found = made(loss, seed, strength=0.1 if weak else 0.6)
        return with_header(found, "data", found.digest, classes=["0", "1"])

    several = [of(seed) for seed in range(3)]
    for methods in (([of(2, STRONG)], several), (several, [of(2, STRONG)])):
        (one,) = package.compare(*methods, at="0.2").comparisons
        assert one.at_chance is paired_at_chance


def test_a_single_network_beside_several_needs_its_seed(robustkit):
    for seed in (0, 1):
        write(made(WEAK, seed))
    lone = write(made(STRONG, 7))
    line = refused(robustkit, "compare", "nets/cross*", lone)
    assert "no checkpoint matches" in line
    line = refused(robustkit, "compare", "runs/*.parquet")
    assert "none of its seed" in line


def test_python_gives_the_comparisons_of_the_command(robustkit):
    records = folder_of_seeds(seeds=range(2))
    paths = {key: write(found) for key, found in records.items()}
    weak, strong = ([records[loss, s] for s in (0, 1)] for loss in (WEAK, STRONG))
    told = numbers(robustkit, "compare", "runs/*.parquet", "--at", "0.3", "--delta", "1")
    (one,) = package.compare(weak, strong, at=["0.3"], delta=1).comparisons
    (mixed,) = package.compare(
        [paths[WEAK, 1], records[WEAK, 0]], [str(paths[STRONG, 0]), strong[1]], at=["3/10"]
    ).comparisons
    assert (one.a, one.b, one.verdict) == (STRONG, WEAK, told["comparisons"][0]["verdict"])
    assert one.p == mixed.p == told["comparisons"][0]["p"]
    assert one.difference.low == told["comparisons"][0]["difference"]["low"]
    with pytest.raises(package.errors.InputError, match="at least two"):
        package.compare(weak)
    with pytest.raises(package.errors.InputError, match="empty list"):
        package.compare(weak, [])


def test_neither_names_nor_the_order_of_seeds_change_a_number():
    records = [made(WEAK, s, n=60) for s in range(10)], [made(STRONG, s, n=60) for s in range(10)]
    straight = package.compare(*records, at=["0.2"]).comparisons
    turned = package.compare(records[0][::-1], records[1][3:] + records[1][:3], at=["0.2"])
    assert straight == turned.comparisons
    assert straight[0].secondary[-1].test == "bootstrap over seeds"


def test_levels_without_an_attack_are_no_family_with_those_of_different_attacks(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    other = with_header(strong, "protocol", digest="5" * 64)
    resolved = other.header["protocol"]["resolved"] | {"seed": 5}
    names = [write(weak), write(with_header(other, "protocol", resolved=resolved))]
    (one,) = numbers(robustkit, "compare", *names, "--at", "clean")["comparisons"]
    assert one["correction"] == ""
    (one,) = numbers(robustkit, "compare", *names[:1], write(strong), "--at", "clean")[
        "comparisons"
    ]
    assert one["correction"] == "Bonferroni over 4 levels"


def test_a_search_in_low_precision_is_told_and_counts_only_where_there_is_no_other(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    low = replace(made(WEAK, 9), header=made(WEAK, 9).header | {"precision": "bf16"})
    later = with_header(low, "checkpoint", "9" * 64, **weak.header["checkpoint"])
    later = replace(later, run={**later.run, "started": "2027-01-01T00:00:00+00:00"})
    for found in (weak, strong, later):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    told = numbers(robustkit, "compare", *names)
    assert told["sides"][0]["records"] == [weak.header["digest"]]
    assert "precision" not in " ".join(told["notes"])
    told = numbers(robustkit, "compare", write(later, "low"), write(strong, "low"))
    assert "Not all attacks searched in the same precision: bf16 and float32." in told["notes"]


# --- what is looked up ----------------------------------------------------------------------------


def test_checkpoints_that_are_gone_are_found_by_their_path(robustkit):
    for found in folder_of_seeds(seeds=[4]).values():
        write(found, "elsewhere")
    names = ["nets/cross-entropy_seed4.pt", "./nets/l2-margin_seed4.pt"]
    found = numbers(robustkit, "compare", *names, "--runs", "elsewhere")
    assert [side["name"] for side in found["sides"]] == names
    line = refused(robustkit, "compare", names[0], "nets/l2-margin_seed5.pt", "--runs", "elsewhere")
    assert "did you mean 'nets/l2-margin_seed4.pt'?" in line


def checkpoints(tmp_path, losses=(WEAK, STRONG), seeds=range(2), **changes):
    """Files that stand for checkpoints, each with its record."""
    (tmp_path / "nets").mkdir(exist_ok=True)
    for loss in losses:
        for seed in seeds:
            path = Path(f"nets/{loss}_seed{seed}.pt")
            path.write_text(f"{loss} {seed}")
            found = made(loss, seed, **changes)
            write(with_header(found, "checkpoint", found.digest, sha256=file_digest(path)))


@pytest.mark.parametrize(
    "names",
    [
        ["nets/{loss}_seed{seed}.pt"],
        ["nets/*.pt"],
        ["nets/cross-entropy_seed{seed}.pt", "nets/l2-margin_seed*.pt"],
    ],
)
def test_patterns_find_the_networks_of_a_method(robustkit, tmp_path, names):
    checkpoints(tmp_path)
    found = numbers(robustkit, "compare", *names, "--at", "0.1")
    assert [(side["name"], side["seeds"]) for side in found["sides"]] == [
        (WEAK, [0, 1]),
        (STRONG, [0, 1]),
    ]


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ({"seed": 5}, "seed 0, but its record says 5; rename it, or leave {seed} out"),
        ({"label_noise": 0.1}, "label_noise 0.4, but its record says 0.1"),
        ({"data_fraction": 0.25}, "data_fraction 0.5, but its record says 0.25"),
        # what came of the noise that was asked for is another share with every seed
        ({"label_noise": 0.38, "asked_label_noise": 0.3}, "label_noise 0.4, but its record says"),
        ({"label_noise": 0.38, "asked_label_noise": 0.4}, ""),
        ({"label_noise": 0.4, "asked_label_noise": 0.45}, ""),
        ({"seed": None, "label_noise": None, "data_fraction": None}, ""),
    ],
)
@pytest.mark.parametrize("command", [["compare"], ["power", "--delta", "1"], ["rank"]])
def test_a_name_that_contradicts_the_record_is_refused(robustkit, command, says, told):
    pattern = "nets/{loss}_noise{label_noise}_part{data_fraction}_seed{seed}.pt"
    for loss in (WEAK, STRONG):
        for seed in (0, 1):
            name = pattern.format(loss=loss, label_noise=0.4, data_fraction=0.5, seed=seed)
            found = made(loss, seed, path=name)
            known = {"seed": seed, "label_noise": 0.4, "data_fraction": 0.5}
            known |= says if (loss, seed) == (WEAK, 0) else {}
            write(with_header(found, "checkpoint", found.digest, **known))
            Path("nets").mkdir(exist_ok=True)
            Path(name).write_text(name)
    for path in Path("runs").glob("*.parquet"):
        found = package.read_record(path)
        sha256 = file_digest(Path(found.header["checkpoint"]["path"]))
        write(with_header(found, "checkpoint", found.digest, sha256=sha256))
    if told:
        line = refused(robustkit, *command, pattern)
        assert f"nets/{WEAK}_noise0.4_part0.5_seed0.pt: its name says {told}" in line
    elif command == ["rank"]:
        assert "ranks need two independent data sets" in refused(robustkit, *command, pattern)
    else:
        told = numbers(robustkit, *command, pattern)
        assert [side["seeds"] for side in told.get("sides", ())] in ([], [[0, 1], [0, 1]])


def weights_folder(name, number):
    """A folder with the weights of a network, as libraries save them."""
    Path(name).mkdir(parents=True, exist_ok=True)
    save_file({"layer.weight": np.full((2, 3), number, np.float32)}, f"{name}/model.safetensors")


def evaluated_folders():
    for number, (loss, seed) in enumerate(
        (loss, seed) for loss in (WEAK, STRONG) for seed in (0, 1)
    ):
        path = f"nets/{loss}_seed{seed}"
        weights_folder(path, number)
        found = made(loss, seed, path=path)
        sha256 = read_checkpoint(path).sha256
        write(with_header(found, "checkpoint", found.digest, sha256=sha256))


@pytest.mark.parametrize(
    "names",
    [
        ["nets/{loss}_seed{seed}"],
        ["nets/{loss}_seed{seed}", "--runs", "./runs/"],
        ["nets/*_seed{seed}"],
        ["nets/cross-entropy_seed?", "nets/l2-margin_seed{seed}"],
    ],
)
def test_checkpoints_that_are_folders_are_found_as_files_are(robustkit, names):
    evaluated_folders()
    Path("nets/logs_seed").mkdir()
    (Path("nets") / "logs_seed" / "events.txt").write_text("no weights")
    found = numbers(robustkit, "compare", *names, "--at", "0.1")
    assert [(side["name"], side["seeds"]) for side in found["sides"]] == [
        (WEAK, [0, 1]),
        (STRONG, [0, 1]),
    ]


def test_a_folder_is_named_alone_and_from_anywhere(robustkit, tmp_path):
    evaluated_folders()
    names = ["nets/cross-entropy_seed0/", str(tmp_path / "nets" / "l2-margin_seed1")]
    assert len(numbers(robustkit, "compare", *names)["sides"]) == 2
    Path("nets/l2-margin_seed1").rename("moved")
    assert len(numbers(robustkit, "compare", names[0], "moved")["sides"]) == 2
    status, out, err = robustkit("leaderboard", "nets/*", "moved")
    assert (status, err) == (0, "")
    assert "l2-margin" in out
    # nothing can be read of the one that is on record: it is found by its path
    Path("nets/cross-entropy_seed0/model.safetensors").unlink()
    assert len(numbers(robustkit, "compare", names[0], "moved")["sides"]) == 2


def test_a_folder_that_is_not_evaluated_or_none_is_told_and_never_left_out(robustkit):
    evaluated_folders()
    for pattern in ("nets/{loss}_seed{seed}", "nets/*"):
        weights_folder("nets/l2-margin_seed2", 9)
        line = refused(robustkit, "compare", pattern, "nets/cross-entropy_seed0")
        assert "nets/l2-margin_seed2: has no such evaluation in runs" in line
    weights_folder("nets/l2-margin_seed1", 8)
    line = refused(robustkit, "compare", "nets/l2-margin_seed1", "nets/cross-entropy_seed0")
    assert "has changed since its evaluation in runs" in line
    for folder in ("nets", "runs"):
        line = refused(robustkit, "compare", folder, "nets/cross-entropy_seed0")
        assert f"{folder}: is a folder; name records or checkpoints in it: '{folder}/*'" in line
    # beside files, what wildcards find counts if it is evaluated
    weights_folder("nets/l2-margin_seed1", 3)
    Path("nets/other.pt").write_text("of another kind")
    line = refused(robustkit, "compare", "nets/*", "nets/cross-entropy_seed0")
    assert "nets/other.pt: has no such evaluation" in line


def test_methods_of_one_loss_are_told_apart_by_what_differs(robustkit):
    for seed in (0, 1):
        for noise in (0.0, 0.4):
            found = made(WEAK, seed, path=f"nets/{noise}_{seed}.pt")
            write(with_header(found, "checkpoint", found.digest, label_noise=noise))
    found = numbers(robustkit, "compare", "runs/*.parquet")
    names = [f"{WEAK}, label noise 0", f"{WEAK}, label noise 0.4"]
    assert sorted(side["name"] for side in found["sides"]) == names


def test_a_checkpoint_not_evaluated_gets_the_command_that_does_it(robustkit, tmp_path):
    checkpoints(tmp_path)
    Path("nets/new net.pt").write_text("new")
    line = refused(robustkit, "compare", "nets/l2-margin_seed0.pt", "nets/new net.pt")
    assert "nets/new net.pt: has no such evaluation in runs" in line
    assert shlex.split(line.split("run: ")[1]) == shlex.split(
        "robustkit evaluate 'nets/new net.pt' --attack pgd --epsilon 0.1 --epsilon 0.2 "
        "--epsilon 0.3 --data mnist5k --limit 300"
    )
    Path("nets/l2-margin_seed1.pt").write_text("trained on")
    line = refused(robustkit, "compare", "nets/l2-margin_seed0.pt", "nets/l2-margin_seed1.pt")
    assert "has changed since its evaluation in runs" in line
    line = refused(robustkit, "compare", "nets/new net.pt", "nets/new net.pt", "--attack", "fgsm")
    assert "run: robustkit evaluate 'nets/new net.pt' --attack fgsm" in line


def test_several_ways_of_evaluation_must_be_chosen_from(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    for found in (weak, strong, fgsm(weak), fgsm(strong)):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    line = refused(robustkit, "compare", *names)
    assert "2 ways" in line
    assert (
        "fgsm (ℓ∞, ε = 0.1, 0.2, 0.3) on 300 test images of mnist5k [norm linf, attack ffffffff"
        in line
    )
    for choice in ("fgsm", "ffffffff"):
        found = numbers(robustkit, "compare", *names, "--attack", choice)
        assert found["protocol"]["name"] == "fgsm"
    assert numbers(robustkit, "compare", *names, "--at", "clean")["comparisons"][0]["difference"]
    line = refused(robustkit, "compare", *names, "--attack", "cw")
    assert "was attacked by" in line
    assert "--attack cw --data mnist5k --limit 300" in line
    line = refused(robustkit, "compare", *names, "--data", "mnist")
    assert "was evaluated on mnist5k, not on mnist" in line


def later(found, day):
    """The evaluation as if made on another day."""
    return replace(found, run={**found.run, "started": f"2026-02-{day:02}T00:00:00+00:00"})


@pytest.mark.parametrize("turned", [False, True])
def test_clean_images_alone_are_compared_under_the_attack_that_is_asked(robustkit, turned):
    """Whichever attack each network was evaluated by last."""
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    ways = [weak, fgsm(weak), strong, fgsm(strong)]
    days = [2, 1, 1, 2] if turned else [1, 2, 2, 1]
    for found, day in zip(ways, days, strict=True):
        write(later(found, day))
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    for attack, records in (("pgd", ways[::2]), ("fgsm", ways[1::2])):
        whole = numbers(robustkit, "compare", *names, "--attack", attack)
        clean = numbers(robustkit, "compare", *names, "--attack", attack, "--at", "clean")
        assert clean["comparisons"] == whole["comparisons"][:1]
        assert clean["protocol"] == whole["protocol"]
        for shown, full, record in zip(clean["sides"], whole["sides"], records, strict=True):
            assert shown["records"] == full["records"] == [record.header["digest"]]
            assert shown["passes"] == full["passes"]
    # nor does it hang on the day which of several is meant where none is asked for
    told = numbers(robustkit, "compare", *names, "--at", "clean")
    assert told["protocol"]["name"] == "pgd"
    assert told["comparisons"][0]["correction"] == "Bonferroni over 4 levels"
    _, out, _ = robustkit("compare", *names, "--at", "clean")
    assert out.startswith("pgd (ℓ∞, ε = 0.1, 0.2, 0.3) on 300 test images of mnist5k\n")


@pytest.mark.parametrize("turned", [False, True])
def test_a_family_has_the_budgets_that_all_share_whichever_were_evaluated_last(robustkit, turned):
    """Budgets were scanned, so that records with other ones answer for a smaller budget, too."""
    names = []
    for seed, loss in enumerate((WEAK, STRONG)):
        few = scanned(made(loss, seed, epsilons=("0.1", "0.2")))
        many = with_header(made(loss, seed), "protocol", str(seed) * 64, **few.header["protocol"])
        asked = {**few.header["protocol"]["resolved"], "epsilons": ["0.1", "0.2", "0.3"]}
        budgets = made(loss, seed).header["protocol"]["epsilons"]
        many = with_header(many, "protocol", str(seed) * 64, resolved=asked, epsilons=budgets)
        write(later(few, 1 + (seed == turned)))
        write(later(many, 1 + (seed != turned)))
        names.append(few.header["checkpoint"]["path"])
    for level in ("clean", "0.1", "0.2", "0.3"):
        (one,) = numbers(robustkit, "compare", *names, "--at", level)["comparisons"]
        assert one["correction"] == "Bonferroni over 4 levels"


@pytest.mark.parametrize(
    ("other", "asked"),
    [
        (lambda found: fgsm(found), []),
        (lambda found: in_l2(found), []),
        (lambda found: found, ["--attack", "fgsm"]),
        (lambda found: found, ["--norm", "l2"]),
    ],
)
def test_where_no_attack_is_shared_none_is_told_of_clean_images(robustkit, other, asked):
    weak, strong = made(WEAK, 0), other(made(STRONG, 1))
    for found in (weak, strong):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    command = ("compare", *names, "--at", "clean", *asked)
    told = numbers(robustkit, *command)
    assert told["protocol"] is None
    assert [side["passes"] for side in told["sides"]] == [None, None]
    assert [one["correction"] for one in told["comparisons"]] == [""]
    _, out, _ = robustkit(*command)
    assert out.startswith("no attack on 300 test images of mnist5k\n")
    assert "Passes per image" not in out
    title = str(package.compare(weak, strong, at="clean"))
    assert ("no attack on 300" in title) is not asked


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        (["compare"], ""),  # and what the others need beside
        (["power", "--delta", "1"], "seeds"),
        (["rank", "--at", "0.1"], "all evaluations are on mnist5k"),
    ],
)
def test_a_protocol_is_meant_by_its_file_too(robustkit, command, lacking):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    for found in (weak, strong, fgsm(weak), fgsm(strong)):
        write(with_header(found, "protocol", found.digest[::-1], name="mine"))
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    text = weak.header["protocol"]["file"]
    Path("own").mkdir()
    # neither comments nor titles are part of what is run, nor budgets that were given
    retitled = text.replace("FGSM, then PGD", "mine")
    for content in (text, f"# mine\n{text}", f'epsilon = ["0.7"]\n{retitled}'):
        Path("own/mine.toml").write_text(content)
        asked = (*command, *names, "--attack", "own/mine.toml")
        if lacking:
            assert lacking in refused(robustkit, *asked)
        else:
            digest = numbers(robustkit, *asked)["protocol"]["digest"]
            assert digest == weak.header["protocol"]["digest"]
    Path("nets").mkdir()
    Path("nets/new.pt").write_text("new")
    line = refused(robustkit, *command, "nets/new.pt", names[0], "--attack", "own/mine.toml")
    asked = "--attack own/mine.toml --epsilon 0.1 --epsilon 0.2 --epsilon 0.3 --data mnist5k"
    assert f"run: robustkit evaluate nets/new.pt {asked} --limit 300" in line
    for content in (text.replace("steps = 40", "steps = 41"), "no protocol", "[["):
        Path("own/mine.toml").write_text(content)
        line = refused(robustkit, *command, *names, "--attack", "own/mine.toml")
        told = (
            "was attacked by mine, but own/mine.toml has been changed since, or is another; run: "
        )
        assert told in line
        assert f"{asked} --limit 300" in line
    line = refused(robustkit, *command, *names, "--attack", "own/yours.toml")
    assert "was attacked by mine, not by own/yours.toml" in line
    Path("own/mine.toml").unlink()
    if not lacking:
        assert "2 ways" in refused(robustkit, "compare", *names, "--attack", "own/mine.toml")


def test_a_protocols_file_may_be_a_path_in_python(robustkit):
    names = [str(write(made(loss, seed))) for loss, seed in ((WEAK, 0), (STRONG, 1))]
    Path("pgd.toml").write_text(made(WEAK, 0).header["protocol"]["file"])
    assert package.compare(*names, attack=Path("pgd.toml"), at="0.1").comparisons
    with pytest.raises(InputError, match=r"was attacked by pgd, not by .*fgsm\.toml"):
        package.compare(*names, attack=Path("fgsm.toml"), at="0.1")


def test_a_later_revision_drops_earlier_ones_of_its_own_attack_alone(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    for one in (weak, strong):
        write(one)
        write(with_header(fgsm(one), "engine", f"aaaa{one.digest[4:]}", revision=2))
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    assert "2 ways; choose one" in refused(robustkit, "compare", *names)
    for command in (["power", "--delta", "1"], ["compare"]):
        found = refused(robustkit, *command, *names, "--at", "0.1")
        assert "2 ways; choose one" in found
    for one in (weak, strong):
        write(with_header(one, "engine", f"bbbb{one.digest[4:]}", revision=2))
    found = numbers(robustkit, "compare", *names, "--attack", "pgd")
    assert [side["records"][0][:4] for side in found["sides"]] == ["bbbb", "bbbb"]


def test_of_one_attack_in_two_norms_one_must_be_chosen(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    for found in (weak, strong, in_l2(weak), in_l2(strong)):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    line = refused(robustkit, "compare", *names, "--attack", "pgd")
    assert "2 ways; choose one with --attack, --data (by name or digest), --norm and --at" in line
    for norm, told in (("linf", "Under pgd at"), ("l2", "Under pgd (ℓ₂) at")):
        found = numbers(robustkit, "compare", *names, "--norm", norm)
        assert found["protocol"]["norm"] == norm
        assert found["comparisons"][1]["sentence"].startswith(told)
    for command in (["compare"], ["power", "--delta", "1"], ["rank", "--at", "0.1"]):
        line = refused(robustkit, *command, *names, "--norm", "l1")
        assert "was attacked in linf, not in l1" in line
        assert "--attack pgd --norm l1 " in line


def test_the_command_for_a_missing_evaluation_names_a_norm_that_is_no_default(robustkit):
    write(in_l2(made(WEAK, 0)))
    Path("nets").mkdir()
    Path("nets/new.pt").write_text("new")
    line = refused(robustkit, "compare", "nets/cross-entropy_seed0.pt", "nets/new.pt")
    assert "run: robustkit evaluate nets/new.pt --attack pgd --norm l2 --epsilon 0.1" in line
    assert "--set" not in line


@pytest.mark.parametrize(("steps", "named"), [(40, "pgd"), (3, "pgd.toml")])
def test_the_command_for_a_missing_evaluation_names_no_other_attack(robustkit, steps, named):
    """Of a file `x/pgd.toml` of one's own the name is that of a shipped one."""
    found = made(WEAK, 0)
    text = found.header["protocol"]["file"].replace("steps = 40", f"steps = {steps}")
    own = replace(parse_protocol(tomllib.loads(text), "pgd", "pgd"), epsilons=found.epsilons)
    entry = {"file": text, "resolved": own.resolved(), "digest": own.digest}
    write(with_header(found, "protocol", found.digest, **entry))
    Path("nets").mkdir()
    Path("nets/new.pt").write_text("new")
    line = refused(robustkit, "compare", "nets/cross-entropy_seed0.pt", "nets/new.pt")
    assert f"run: robustkit evaluate nets/new.pt --attack {named} --epsilon 0.1" in line
    Path("attacks").mkdir()
    Path("attacks/pgd.toml").write_text(text)  # now it is what the name means
    line = refused(robustkit, "compare", "nets/cross-entropy_seed0.pt", "nets/new.pt")
    assert "run: robustkit evaluate nets/new.pt --attack pgd --epsilon 0.1" in line


def images_at(found, **changes):
    """The evaluation as one of a folder's images, made and numbered as was asked."""
    source = {"folder": "my images/faces", "class_map": {"classes": "imagenet"}}
    how = {"resize": 32, "pipeline": {"of": "a library"}}
    entry = {"name": "faces", "title": "my images/faces", "source": source, "transform": how}
    entry |= changes
    return with_header(found, "data", f"cccc{found.digest[4:]}", **entry)


def test_the_command_names_the_images_as_they_were_given(robustkit):
    write(images_at(made(WEAK, 0)))
    Path("nets").mkdir()
    Path("nets/new.pt").write_text("new")
    names = "nets/cross-entropy_seed0.pt", "nets/new.pt"
    line = refused(robustkit, "compare", *names)
    words = shlex.split(line.split("run: ")[1])
    place = words.index("--data")
    expected = ["--data", "my images/faces", "--limit", "300", "--resize", "32"]
    assert words[place:] == [*expected, "--classes", "imagenet"]
    for data in ("my images/faces", "./my images/faces", Path("my images/faces").absolute()):
        line = refused(robustkit, "compare", *names, "--data", data)
        assert "nets/new.pt: has no such evaluation" in line
        assert "--data 'my images/faces' --limit 300" in line
    evaluated = images_at(made(STRONG, 1))
    write(evaluated)
    names = names[0], evaluated.header["checkpoint"]["path"]
    for data in ("my images/faces", "faces"):
        assert numbers(robustkit, "compare", *names, "--data", data)["comparisons"]
    line = refused(robustkit, "compare", *names, "--data", "other/faces")
    assert "was evaluated on faces, not on other/faces" in line
    assert "--data other/faces" in line


PREPARED = {
    "library": "timm 1", "processor": "create_transform", "resize": 256, "by": "Pillow",
    "interpolation": "bicubic", "crop": [224, 224], "centre": "rounded", "upright": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"resize": 235}, {"resize": 256}, "resize 235 against 256; evaluate both with the same"),
        ({"resize": [224, 224]}, {}, "resize 224×224 against 256; evaluate both"),
        ({"by": "torch", "library": "transformers 5"}, {}, "by torch against Pillow\n"),
        ({}, None, "interpolation bicubic against bilinear; evaluate both"),
    ],
)
def test_networks_whose_libraries_prepare_images_otherwise_have_no_command(
    robustkit, one, other, told
):
    """It would evaluate each by its own library again."""
    how = {"pipeline": PREPARED | one}
    own = {"resize": 256, "crop": 224} if other is None else {"pipeline": PREPARED | other}
    second = images_at(made(STRONG, 1), transform=how, digest="1" * 64)
    first = images_at(made(WEAK, 0), transform=own, digest="0" * 64)
    names = [found.header["checkpoint"]["path"] for found in (first, second)]
    write(first)
    write(second)
    line = refused(robustkit, "compare", *names)
    assert f"evaluated on the same images, prepared otherwise: {told}" in line
    assert "run:" not in line


def test_the_command_names_where_pairs_stand_and_not_that_they_are_pairs(robustkit):
    source = {"origin": "Huang et al.", "folder": "lfw", "pairs": "0" * 64}
    names = {"name": "lfw-pairs", "title": "Labeled Faces in the Wild"}
    write(images_at(made(WEAK, 0), **names, source=source, transform={"pairs": True}))
    Path("nets").mkdir()
    Path("nets/new.pt").write_text("new")
    line = refused(robustkit, "compare", "nets/cross-entropy_seed0.pt", "nets/new.pt")
    assert line.strip().endswith("--data lfw-pairs --data-root lfw --limit 300")


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        # a file of the user's own says nothing of an origin
        ({"name": "mine", "title": "mine", "source": {"folder": "pics"}}, "mine"),
        ({"name": "b", "title": "a/b", "source": {"folder": "a/b"}}, "a/b"),
        ({"name": "c", "title": "c.npz", "source": {"file": "c.npz"}}, "c.npz"),
        ({"name": "d", "title": "My own", "source": {"path": "sets/d.toml"}}, "sets/d.toml"),
    ],
)
def test_images_are_named_by_their_path_where_that_was_given(entry, place):
    made = {"split": "test", "n": 3, "transform": {"pairs": True} if place == "a/b" else {}}
    options = data_options({**entry, **made})
    assert (options["--data"], options["--data-root"]) == ([place], [])


def test_images_are_meant_by_the_file_that_describes_them(robustkit):
    source = {"path": "sets/faces.toml", "folder": "faces"}
    one, other = (
        images_at(found, title="My faces", source=source)
        for found in (made(WEAK, 0), made(STRONG, 1))
    )
    write(one), write(other)
    names = [found.header["checkpoint"]["path"] for found in (one, other)]
    assert numbers(robustkit, "compare", *names, "--data", "sets/faces.toml")["comparisons"]
    assert "was evaluated on faces" in refused(
        robustkit, "compare", *names, "--data", "sets/others.toml"
    )


def test_of_code_that_was_edited_the_last_evaluations_count(robustkit):
    old, new, other = made(WEAK, 0), made(WEAK, 0, n=300), made(STRONG, 1)
    write(with_header(old, "checkpoint", old.digest, network="aa"))
    new = with_header(new, "checkpoint", network="bb")
    write(replace(new, run={**new.run, "started": "2027-01-01T00:00:00+00:00"}))
    write(other)
    files = [found.header["checkpoint"]["path"] for found in (new, other)]
    assert numbers(robustkit, "compare", *files)["comparisons"]
    # but other weights' architecture or preprocessing is no edit
    write(with_header(made(WEAK, 0), "checkpoint", "dd" * 32, network="cc", model="mlp"))
    assert "different architectures" in refused(robustkit, "compare", *files)


@pytest.mark.parametrize("path", ["nets/cross-entropy_seed0.pt", "nets/new.pt"])
def test_the_command_has_what_was_given_of_the_network(robustkit, path):
    """What no file says is as for the network beside it; of an earlier evaluation it is all."""
    facts = {"model": "my nets.py:build", "preprocessing": "given", "mean": [0.5], "std": [0.25]}
    one, other = made(WEAK, 0), made(STRONG, 1)
    write(with_header(one, "checkpoint", one.digest, **facts))
    write(with_header(other, "checkpoint", other.digest, weights_key="ema", **facts))
    Path("nets").mkdir()
    Path(path).write_text("new")
    line = refused(robustkit, "compare", "nets/l2-margin_seed1.pt", path)
    words = shlex.split(line.split("run: ")[1])
    end = ["--model", "my nets.py:build", "--mean", "0.5", "--std", "0.25"]
    assert words[-6:] == end
    Path(path).unlink()
    line = refused(
        robustkit,
        "compare",
        "nets/l2-margin_seed1.pt",
        "nets/cross-entropy_seed0.pt",
        "--attack",
        "cw",
    )
    assert shlex.split(line.split("run: ")[1])[-2:] == ["--weights", "ema"]


def scanned(found):
    """The evaluation as if its budgets had been scanned from the smallest up."""
    protocol = found.header["protocol"]
    resolved = {k: v for k, v in protocol["resolved"].items() if k != "search"}
    assert resolved != protocol["resolved"]
    return with_header(found, "protocol", digest="5" * 64, resolved=resolved)


def test_a_larger_budget_plays_no_part_where_budgets_were_scanned_and_one_where_bisected(robustkit):
    few, many = made(STRONG, 3, epsilons=("0.1", "0.2")), made(WEAK, 0)
    at = ("--at", "1/10", "--at", "0.2")
    found = numbers(robustkit, "compare", write(scanned(many)), write(scanned(few)), *at)
    assert [one["level"] for one in found["comparisons"]] == ["1/10", "0.2"]
    line = refused(robustkit, "compare", write(many), write(few), *at)
    assert "at other budgets" in line
    line = refused(robustkit, "compare", write(many), write(scanned(few)), *at)
    assert "with another attack" in line
    assert "--set search=scan" in refused(robustkit, "compare", write(scanned(many)), write(few))


def test_of_two_records_by_one_condition_the_later_counts(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    later = with_header(made(WEAK, 9), "checkpoint", "9" * 64, **weak.header["checkpoint"])
    later = replace(later, run={**later.run, "started": "2027-01-01T00:00:00+00:00"})
    for found in (weak, strong, later):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    assert numbers(robustkit, "compare", *names)["sides"][0]["records"] == ["9" * 64]


def test_transfer_attacks_are_looked_up_by_their_surrogate_only(robustkit):
    weak, strong = made(WEAK, 0), made(STRONG, 1)
    through = [
        with_header(found, "surrogate", path="nets/other.pt", sha256="0" * 64, weights="w")
        for found in (
            replace(one, header={**one.header, "surrogate": {}}) for one in (weak, strong)
        )
    ]
    for found in (weak, strong, *through):
        write(found)
    names = [found.header["checkpoint"]["path"] for found in (weak, strong)]
    plain = numbers(robustkit, "compare", *names)
    transfer = numbers(robustkit, "compare", *names, "--surrogate", "nets/other.pt")
    assert plain["sides"][0]["records"] == [weak.digest]
    assert transfer["sides"][0]["records"] == [weak.digest[::-1]]
    assert "by transfer" in transfer["comparisons"][1]["sentence"]
    line = refused(robustkit, "compare", write(weak), write(through[1]))
    assert "by way of another network" in line


# --- what is refused ------------------------------------------------------------------------------


def test_evaluations_that_do_not_belong_together(robustkit):
    weak = write(made(WEAK, 0))
    line = refused(robustkit, "compare", weak, write(made(STRONG, 1, n=100)))
    assert "on other images" in line
    assert "--limit 300" in line
    line = refused(robustkit, "compare", weak, write(fgsm(made(STRONG, 2))))
    assert "with another attack" in line
    assert "compare --at clean, or run: robustkit evaluate nets/" in line
    other = made(STRONG, 3, epsilons=("0.1", "0.2"))
    line = refused(robustkit, "compare", weak, write(other))
    assert "at other budgets" in line
    line = refused(robustkit, "compare", weak, write(other), "--at", "0.3")
    assert "was not attacked at ε = 0.3, only at 0.1, 0.2; run: robustkit evaluate nets/" in line
    assert "--epsilon 0.3" in line
    newer = with_header(made(STRONG, 4), "engine", revision=9)
    assert "another revision" in refused(robustkit, "compare", weak, write(newer))


def test_one_network_twice_and_one_seed_twice(robustkit):
    found = made(WEAK, 0)
    first, again = write(found), write(fgsm(found))
    assert "are the same network" in refused(robustkit, "compare", first, first)
    assert "are the same network" in refused(robustkit, "compare", first, again)
    write(made(WEAK, 0, path="nets/copy.pt"))
    line = refused(robustkit, "compare", "runs/*.parquet", first, "--attack", "pgd")
    assert "are both cross-entropy, seed 0" in line or "are the same network" in line
    line = refused(robustkit, "compare", "runs/*.parquet")
    assert "are both cross-entropy, seed 0" in line


def test_files_and_numbers_that_make_no_sense(robustkit, tmp_path):
    weak, strong = write(made(WEAK, 0)), write(made(STRONG, 1))
    (tmp_path / "x.parquet").write_bytes(weak.read_bytes()[:-50])
    assert "not a robustkit evaluation" in refused(robustkit, "compare", weak, "x.parquet")
    for command in (["compare", weak], ["power", weak, "--delta", "1"], ["rank"], ["leaderboard"]):
        assert "gone.parquet: no such file" in refused(robustkit, *command, "gone.parquet")
    (tmp_path / "y.partial").mkdir()
    assert "not finished" in refused(robustkit, "compare", weak, "y.parquet")
    assert "is a folder" in refused(robustkit, "compare", weak, "runs")
    assert "at least two" in refused(robustkit, "compare", weak)
    assert "name two networks" in refused(robustkit, "compare")
    assert "--delta 0" in refused(robustkit, "compare", weak, strong, "--delta", "0")
    assert "--at" in refused(robustkit, "compare", weak, strong, "--at", "much")
    assert "level 2" in refused(robustkit, "compare", weak, strong, "--level", "2")
    assert "is a folder" in refused(robustkit, "compare", weak, strong, "--json", "runs")


def test_networks_of_one_name_are_numbered(robustkit):
    """One file before and after another training, or modules of one class."""
    early, late = (
        with_header(made(WEAK, s, path="last.pt"), "checkpoint", str(s) * 64, weights=str(s))
        for s in (0, 1)
    )
    found = package.compare(early, late)
    assert [side.name for side in found.sides] == ["last.pt (1)", "last.pt (2)"]
    assert found.accuracies["last.pt (1)", "clean"].value == right(early).mean()
    assert found.accuracies["last.pt (2)", "clean"].value == right(late).mean()
    (first, *_) = found.comparisons
    assert (first.a, first.b) == ("last.pt (2)", "last.pt (1)")
    three = package.compare(early, late, made(STRONG, 2), baseline="last.pt (2)")
    names = ["last.pt (2)", "last.pt (1)", "nets/l2-margin_seed2.pt"]
    assert [side.name for side in three.sides] == names
    files = write(early), write(late)
    assert [side.name for side in package.compare(*files).sides] == [*map(str, files)]


def test_networks_that_compute_something_else_with_equal_weights_are_two(robustkit):
    one, other, unread = (
        with_header(made(WEAK, seed), "checkpoint", str(seed) * 64, weights="w", network=network)
        for seed, network in enumerate(("a" * 64, "b" * 64, ""))
    )
    assert len(package.compare(one, other).sides) == 2
    # of what nobody could read nothing says that it is the same
    assert len(package.compare(one, unread).sides) == 2
    with pytest.raises(InputError, match="are the same network"):
        package.compare(unread, unread)
    blank = [with_header(made(WEAK, s), "checkpoint", str(s) * 64, weights="") for s in (3, 4)]
    assert len(package.compare(*blank).sides) == 2
    again = with_header(one, "checkpoint", "5" * 64, path="copy.pt")
    with pytest.raises(InputError, match="are the same network"):
        package.compare(one, again)


def test_older_records_of_a_network_do_not_say_what_it_computes_and_are_its_own(robustkit):
    old = with_header(fgsm(made(WEAK, 0)), "checkpoint", "0" * 64)
    new, beside = made(WEAK, 0), made(STRONG, 1)
    new = with_header(new, "checkpoint", "1" * 64, network="a" * 64)
    for one in (old, new, beside):
        write(one)
    names = "nets/cross-entropy_seed0.pt", "nets/l2-margin_seed1.pt"
    assert numbers(robustkit, "compare", *names)["sides"][0]["records"] == ["1" * 64]
    # and once its code was edited, neither says what the present one does
    edited = with_header(scanned(made(WEAK, 0)), "checkpoint", "2" * 64, network="b" * 64)
    write(replace(edited, run={**edited.run, "started": "2027-01-01T00:00:00+00:00"}))
    write(with_header(scanned(beside), "checkpoint", "3" * 64))
    assert numbers(robustkit, "compare", *names)["sides"][0]["records"] == ["2" * 64]


# --- power ----------------------------------------------------------------------------------------


def test_power_plans_from_the_spread_on_file_for_the_family_of_compare(robustkit):
    records = folder_of_seeds()
    for found in records.values():
        write(found)
    told = numbers(robustkit, "power", "runs/*.parquet", "--delta", "4", "--power", "0.9")
    assert [one["level"] for one in told["comparisons"]] == ["clean", "0.1", "0.2", "0.3"]
    a, b = (np.stack([right(records[loss, s], 0.2) for s in range(3)]) for loss in (STRONG, WEAK))
    expected = plan(components(a, b), delta=0.04, power=0.9, family=4)
    found = told["comparisons"][2]["power"]
    assert found["rows"][0]["difference"] == expected.rows[0].difference
    assert found["family"] == 4
    status, out, err = robustkit("power", "runs/*.parquet", "--delta", "4", "--at", "0.2")
    assert (status, err) == (0, "")
    expected = plan(components(a, b), delta=0.04, family=4)
    assert expected.sentence() in out
    assert "upper 80 % bounds of the spread of 3 paired seeds on 300 images" in out


def test_the_observed_difference_plays_no_part(robustkit):
    """Where a and b change places on a mirrored set of images, only the difference changes."""
    records = folder_of_seeds()
    for found in records.values():
        write(found)
    one = numbers(robustkit, "power", "runs/*.parquet", "--delta", "4", "--at", "0.2")
    swapped = {(WEAK, s): made(WEAK, s, strength=0.22) for s in range(3)}
    swapped |= {(STRONG, s): made(STRONG, s, strength=0.15) for s in range(3)}
    for found in swapped.values():
        write(found, "other")
    two = numbers(robustkit, "power", "other/*.parquet", "--delta", "4", "--at", "0.2")
    assert one["comparisons"][0]["power"]["rows"] == two["comparisons"][0]["power"]["rows"]


def test_power_tells_what_takes_most(robustkit):
    for found in folder_of_seeds().values():
        write(found)
    status, out, err = robustkit("power", "runs/*.parquet", "--delta", "20")
    assert (status, err) == (0, "")
    told = numbers(robustkit, "power", "runs/*.parquet", "--delta", "20")
    rows = {one["level"]: one["power"]["rows"] for one in told["comparisons"]}
    fewest = {
        level: next((row["seeds"] for row in own if row["equivalence"] >= 0.8), 51)
        for level, own in rows.items()
    }
    most = max(fewest, key=fewest.__getitem__)
    assert f"Most demanding: {STRONG} and {WEAK}, ε = {most}." in out


def test_what_takes_most_is_told_of_either_goal(robustkit, monkeypatch):
    """A level whose spread is over images is the hardest for one goal alone."""
    spreads = {"clean": (1e-5, 0.06), "0.1": (1e-3, 0.01), "0.2": (1e-4, 0.01)}
    plans = {
        level: plan(Components(seed, image, 0.02, 5, 2000), delta=0.02, family=4)
        for level, (seed, image) in spreads.items()
    }
    words = [power.in_words for power in plans.values()]
    assert words[:2] == [("7", "more than 50"), ("36", "47")]
    found = PowerAnalysis(tuple(Needs(STRONG, WEAK, at, power) for at, power in plans.items()))
    said = f"36 paired seeds ({STRONG} and {WEAK}, ε = 0.1); to show equivalence"
    assert said in found.sentence
    assert found.sentence.endswith(f"more than 50 seeds ({STRONG} and {WEAK}, clean).")
    monkeypatch.setattr("robustkit.calls.compare.power", lambda *_, **__: found)
    _, out, _ = robustkit("power", "--delta", "2")
    assert f"Most demanding for a difference: {STRONG} and {WEAK}, ε = 0.1." in out
    assert f"Most demanding for equivalence: {STRONG} and {WEAK}, clean." in out
    # one level that takes most for both is told once, and its sentence is its own
    for one in (("0.1", "0.2"), ("clean", "0.2")):
        few = PowerAnalysis(tuple(Needs(STRONG, WEAK, at, plans[at]) for at in one))
        assert few.sentence == plans[one[0]].sentence()


def test_power_by_hand_and_what_it_refuses(robustkit):
    given = ["power", "--delta", "1", "--seed-sd", "0.5", "--discordant", "4"]
    status, out, _ = robustkit(*given, "--images", "10000")
    assert status == 0
    assert "To show a true difference of 1 point with power 80 % on 10,000 images takes" in out
    few = numbers(robustkit, *given, "--images", "1000")["comparisons"][0]["power"]["rows"]
    many = numbers(robustkit, *given, "--images", "10000")["comparisons"][0]["power"]["rows"]
    assert all(x["difference"] < y["difference"] for x, y in zip(few, many, strict=True))
    assert "go together" in refused(robustkit, *given)
    assert "not both" in refused(robustkit, *given, "--images", "10", "runs/x.parquet")
    pair = write(made(WEAK, 0)), write(made(STRONG, 1))
    assert "at least two seeds" in refused(robustkit, "power", *pair, "--delta", "1")
    assert "--delta 200" in refused(robustkit, "power", *pair, "--delta", "200")


# --- one network in several files -----------------------------------------------------------------


def saved(path, number, **facts):
    """A network's file and its record in another container: what of it a record says."""
    with torch.random.fork_rng():
        torch.manual_seed(number)
        save_checkpoint(path, build("lenet5"), model="lenet5", **facts)
    return read_checkpoint(path)


def record_of(checkpoint, seed, digest=None, **changes):
    facts = {key: getattr(checkpoint, key) for key in ("sha256", "weights", "model", "mean", "std")}
    found = made(WEAK, seed, path=str(checkpoint.path))
    return with_header(found, "checkpoint", digest or found.digest, **(facts | changes))


def test_a_network_in_another_file_is_found_by_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = saved("a.safetensors", 0), saved("b.safetensors", 1)
    write(record_of(first, 0, sha256="0" * 64))  # evaluated before it was saved again
    write(record_of(second, 1))
    copy = saved("copy.safetensors", 0, seed=3)
    for name in ("a.safetensors", "copy.safetensors"):
        found = package.compare(name, "b.safetensors", at="0.1")
        assert [side.name for side in found.sides] == [name, "b.safetensors"]
    # one file has a record of its own, which is of another attack
    write(with_header(fgsm(record_of(copy, 0)), "checkpoint", "c" * 64))
    found = package.compare("copy.safetensors", "b.safetensors", attack="pgd", at="0.1")
    assert found.sides[0].rows[0].header["digest"] != "c" * 64


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"mean": (0.5,), "std": (0.5,)}, "has no such evaluation in runs"),
        ({"weights": 2}, "has changed since its evaluation in runs"),
    ],
)
def test_another_network_is_not_found_by_its_weights(robustkit, facts, told):
    write(record_of(saved("a.safetensors", 0), 0, sha256="0" * 64))
    write(record_of(saved("b.safetensors", 1), 1))
    path = "a.safetensors" if "weights" in facts else "copy.safetensors"
    saved(path, facts.pop("weights", 0), **facts)
    assert told in refused(robustkit, "compare", path, "b.safetensors")


def test_a_surrogate_in_another_file_is_found_by_its_weights(robustkit):
    attacker = saved("attacker.safetensors", 5)
    entry = {"path": "old.pt", "sha256": "0" * 64, "weights": attacker.weights, "model": "lenet5"}
    for one in (made(WEAK, 0), made(STRONG, 1)):
        write(
            with_header(replace(one, header={**one.header, "surrogate": {}}), "surrogate", **entry)
        )
    names = "nets/cross-entropy_seed0.pt", "nets/l2-margin_seed1.pt"
    found = numbers(robustkit, "compare", *names, "--surrogate", "attacker.safetensors")
    assert "by transfer" in found["comparisons"][1]["sentence"]


# --- end to end -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_records_are_compared_without_torch(tmp_path):
    paths = [write(made(loss, 0), tmp_path / "runs") for loss in (WEAK, STRONG)]
    code = (
        "import sys; from robustkit import cli; sys.argv[0] = 'robustkit'\n"
        "try: cli.main()\n"
        "except SystemExit as end: sys.exit(end.code or 10 * ('torch' in sys.modules))"
    )
    command = [sys.executable, "-W", "error", "-c", code, "compare", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict" in done.stdout


@pytest.mark.thorough
def test_two_networks_from_weights_to_verdict(robustkit):
    """The line that refuses has the very command after which nothing is refused."""
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_checkpoint(f"{name}.safetensors", build("lenet5"), model="lenet5", seed=0)
    names = ["a.safetensors", "b.safetensors"]
    asked = ["--attack", "pgd", "--set", "steps=2", "--set", "restarts=1", "--limit", "12"]
    asked += ["--data", "mnist5k", "--epsilon", "0.1", "--epsilon", "0.2"]
    assert robustkit("evaluate", names[0], *asked, "--seed", "3")[0] == 0
    for _ in names[1:]:
        line = refused(robustkit, "compare", *names)
        assert robustkit(*shlex.split(line.split("run: ")[1])[1:])[0] == 0
    found = numbers(robustkit, "compare", *names)
    records = [package.read_record(path) for path in sorted(Path("runs").glob("*.parquet"))]
    assert len({one.header["protocol"]["digest"] for one in records}) == 1
    rows = {one.header["checkpoint"]["path"]: one for one in records}
    for one, epsilon in zip(found["comparisons"], (None, 0.1, 0.2), strict=True):
        b, a = (right(rows[name], epsilon).mean() for name in names)
        assert one["difference"]["value"] == pytest.approx(a - b, abs=1e-12)
    assert found["comparisons"][0]["test"] == "exact McNemar"
