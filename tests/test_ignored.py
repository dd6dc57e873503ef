"""What a call would ignore, overwrite or tell twice in different words, and what it does instead."""

import inspect
import json
from dataclasses import replace

import pytest
import torch
from helpers.evaluations import evaluation
from helpers.studies import EXTERNAL
from torch import nn

import robustkit as package
from robustkit.attacks import FGSM
from robustkit.cli.output import check_files
from robustkit.data.recovered import Flips
from robustkit.errors import InputError, RobustkitError
from robustkit.figures.hover import estimate_text
from robustkit.reporting.names import Names
from robustkit.reporting.wording import percent
from robustkit.results.finder import Finder
from robustkit.results.pattern import match_files
from robustkit.results.records import Record, RecordQuery
from robustkit.statistics import proportion


def own():
    """An attack on a network of three classes."""
    return package.attack(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), FGSM(), epsilon=0.1)


def attacked(**asked):
    return package.attack(nn.Linear(2, 2), FGSM(), epsilon=0.1, **asked)


TINY = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def evaluated(model=TINY, **asked):
    images = None if isinstance(model, str) else (torch.zeros(2, 1, 2, 2), [0, 1])
    limit = 2 if images is None else None
    return package.evaluate(model, images, "clean", limit=limit, device="cpu", **asked)


def read(**asked):
    return package.describe(package.read_checkpoint("lenet5-mnist5k"), **asked)


def planned(**asked):
    return package.power(**{"delta": 1, "seed_sd": 0.8, "discordant": 6, "images": 1000} | asked)


def reported(**asked):
    return package.report("elsayed2018-mnist-small", **asked)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: attacked(target="Random"), "target 'Random'"),
        (lambda: attacked(batch_size=0), "batch_size must be at least 1"),
        (lambda: attacked(batch_size=-1), "batch_size must be at least 1"),
        (lambda: attacked(batch_size="auto"), "batch_size must be a whole number"),
        (lambda: own()(torch.zeros(2, 1, 4, 4), torch.zeros(2) * 1j), "a tensor of integers"),
        (lambda: read(model="mnist-cnn"), "model says how a file is read"),
        (lambda: read(mean=[0.1]), "mean says how a file is read"),
        (lambda: read(trust_program=True), "trust_program says how a file is read"),
        (lambda: package.audit("lenet5-mnist5k", limit=0, device="cpu"), "must be at least 1"),
        (lambda: planned(images=-5), "--images must be at least 2"),
        (lambda: planned(images=10.5), "--images must be a whole number"),
        (lambda: planned(family=0), "--family must be at least 1"),
        (lambda: planned(at="0.1"), "--at chooses networks"),
        (lambda: planned(attack="pgd"), "--attack chooses networks"),
        (lambda: planned(baseline="ce"), "--baseline chooses networks"),
        (lambda: reported(style="nips"), "unknown style 'nips'"),
        (lambda: reported(width="triple"), "unknown width 'triple'"),
        (lambda: reported(workers=-3), "--workers must be at least 1"),
        (lambda: evaluated(target="next"), "clean: contains no attack, so --target does not"),
        (lambda: evaluated(surrogate=TINY), "clean: contains no attack, so --surrogate does not"),
        (lambda: evaluated(epsilon="0.1"), "clean: contains no attack, so --epsilon does not"),
        (lambda: evaluated("lenet5-mnist5k", name="x"), "name 'x': is for a module in memory"),
        (lambda: package.audit("lenet5-mnist5k", limit=9, name="x"), "name 'x': is for a module"),
        (lambda: package.frame(".", ["lable"]), "unknown column 'lable'; did you mean 'label'?"),
    ],
)
def test_what_would_be_ignored_or_break_later_is_refused_in_one_line(
    call, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RobustkitError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("limit", 3),
        ("model", "lenet5"),
        ("retry", True),
        ("amend", True),
        ("hours", 1),
        ("workers", 2),
        ("ray", "auto"),
        ("gpus_per_cell", 1),
        ("shared", "s3://bucket"),
        ("checkpoints", "nowhere/*.pt"),
        ("data_root", "nowhere"),
        ("device", "cpu"),
    ],
)
def test_a_report_of_evaluations_takes_no_option_of_trainings(tmp_path, option, value):
    path = tmp_path / "own.toml"
    path.write_text(EXTERNAL.replace('pattern = "PATTERN"\nmodel   = "NET"', 'runs = "runs"'))
    asked = {"runs": tmp_path / "runs", "out": tmp_path / "out", option: value}
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} does not go with --runs"):
        package.report(path, **asked)


@pytest.mark.parametrize("option", ["hours", "workers", "cpus_per_cell", "data_root", "device"])
def test_a_report_of_cached_results_takes_none_either(tmp_path, option):
    with pytest.raises(InputError, match="does not go with --only-report: nothing is trained"):
        reported(only_report=True, out=tmp_path, **{option: 1})


def test_a_plan_is_tracked_nowhere(tmp_path):
    with pytest.raises(InputError, match="--track does not go with --plan: nothing is reported"):
        reported(plan=True, out=tmp_path / "out", track="mlflow")


def test_every_option_of_a_report_counts_in_one_of_evaluations_or_is_refused(tmp_path):
    """What is neither here nor there would be ignored, and stand on the page as in force."""
    refused = {"plan", "limit", "model", "checkpoints", "data_root", "device", "workers", "hours"}
    refused |= {"ray", "cpus_per_cell", "gpus_per_cell", "shared", "retry", "amend"}
    counts = {"name", "out", "runs", "data", "baseline", "style", "width", "track", "command"}
    counts |= {"progress", "only_report"}
    assert set(inspect.signature(package.report).parameters) == refused | counts
    given = dict.fromkeys(refused, 2) | dict.fromkeys(("model", "checkpoints", "device"), "cpu")
    for option in refused:
        with pytest.raises(InputError, match=f"--{option.replace('_', '-')} "):
            package.report(
                "adversarial", runs=tmp_path, out=tmp_path / "o", **{option: given[option]}
            )


def test_a_surrogate_that_is_asked_for_counts_for_records_that_are_given_themselves(tmp_path):
    plain = [evaluation(f"{name}.pt", seed=seed) for seed, name in enumerate("ab")]
    with pytest.raises(InputError, match=r"a.pt: this evaluation is not of a transfer from c.pt"):
        package.compare(*plain, surrogate="c.pt")
    by = {"path": "c.pt", "sha256": "0" * 64, "weights": "w"}
    through = [replace(one, header={**one.header, "surrogate": by}) for one in plain]
    found = package.compare(*through, surrogate="c.pt")
    assert "by transfer" in found.comparisons[1].sentence(where=found.where("0.1"))
    # and without the option, whatever it is
    assert package.compare(*through).header["surrogate"] == by
    finder = Finder(tmp_path, RecordQuery(surrogate="d.pt"))
    with pytest.raises(InputError, match=r"transfer from d.pt"):
        finder.check_attacker("a.parquet", Record(through[0].header, through[0]))


def test_columns_of_a_frame_may_be_one_and_stand_once(tmp_path):
    assert package.frame(tmp_path, "label").columns[0] == "label"
    assert list(package.frame(tmp_path, ["label", "label"]).columns).count("label") == 1


def test_a_pattern_takes_fields_of_any_name_and_brackets_as_they_are(tmp_path):
    (tmp_path / "nets[1]").mkdir()
    path = tmp_path / "nets[1]" / "hinge_7.pt"
    path.touch()
    (match,) = match_files("nets[1]/{1st}_{seed}.pt", tmp_path)
    assert match == (path, {"1st": "hinge", "seed": "7"})


@pytest.mark.parametrize(
    "option", [("--json", "-"), ("--html", "page.html"), ("--track", "mlflow")]
)
def test_what_would_run_is_asked_for_nothing_that_only_results_go_into(robustkit, tmp_path, option):
    command = ("evaluate", "lenet5-mnist5k", "--attack", "clean", "--limit", "2", "--dry-run")
    status, out, err = robustkit(*command, *option)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{option[0]} does not go with --dry-run" in err
    assert list(tmp_path.iterdir()) == []


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "lenet5-mnist5k", "--json", "a", "--html", "a"),
        ("evaluate", "lenet5-mnist5k", "--json", "a", "--save-adversarial", "b/../a"),
        ("certify", "lenet5-mnist5k", "--epsilon", "0.1", "--json", "a", "--save-adversarial", "a"),
        ("audit", "lenet5-mnist5k", "--policy", "p.toml", "--junit", "a", "--sarif", "a"),
        ("leaderboard", "--json", "a", "--html", "a"),
        ("rank", "x", "--json", "a.png", "--figure", "a.png"),
        ("describe", "lenet5-mnist5k", "--json", "a", "--sidecar-path", "a"),
    ],
)
def test_two_options_that_name_one_file_are_refused_before_anything_is_done(
    robustkit, tmp_path, command
):
    status, out, err = robustkit(*command)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "too; give two" in err
    assert list(tmp_path.iterdir()) == []


def test_stdout_and_what_is_no_file_may_be_named_twice(tmp_path):
    check_files({"--json": "-", "--html": "-"})
    check_files({"--json": "/dev/null", "--html": "/dev/null"})
    check_files({"--json": str(tmp_path / "a"), "--html": tmp_path / "b", "--labels": None})


def test_json_stands_alone_on_stdout_whatever_else_is_written(robustkit, monkeypatch):
    from robustkit.calls import describe

    found = package.describe("lenet5-mnist5k")
    flips = [Flips("0", *range(4))]
    monkeypatch.setattr(describe, "describe", lambda *a, **k: replace(found, flips=flips))
    status, out, err = robustkit("describe", "lenet5-mnist5k", "--labels", "l.csv", "--json", "-")
    assert (status, "wrote l.csv" in err) == (0, True)
    assert json.loads(out)["sha256"]
    assert "trained on" in robustkit("describe", "lenet5-mnist5k", "--labels", "l.csv")[1]


def test_no_file_bears_the_name_of_a_device_of_windows():
    names = Names()
    found = [names.new(wanted) for wanted in ("con", "AUX", "nul.x", "com1", "console", "con")]
    assert found == ["con-", "aux-", "nul-.x", "com1-", "console", "con--2"]


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [0, 3, 5_000, 9_996, 10_000])
def test_a_figure_says_of_a_point_what_the_table_beside_it_says(right):
    share = proportion(right, 10_000)
    assert estimate_text(share).startswith(percent(share.value).replace("\u00a0", " ") + " (")
