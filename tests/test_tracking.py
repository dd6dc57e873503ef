"""Trackers get what is on record, and nothing that goes wrong with them loses a result."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.audits import broken, full
from helpers.evaluations import certification, evaluation
from helpers.outcomes import outcome

from robustkit.auditing.outcome import NO_CLAIM
from robustkit.errors import InputError
from robustkit.files import shipped
from robustkit.tracking import Tracker, backends, parse_tracker
from robustkit.tracking.content import (
    of_audit,
    of_certification,
    of_evaluation,
    of_study,
    of_training,
)
from robustkit.training import run as training
from robustkit.training.saved import write_state

EVALUATE = ("evaluate", "lenet5-mnist5k", "--attack", "clean", "--limit", "20", "--device", "cpu")


class Recorder(backends.Backend):
    """A tracker that keeps what it is told, and breaks where it is told to."""

    title, package = "Recorder", "json"
    runs: list = []  # noqa: RUF012
    breaks = ""

    def __init__(self, where, title):
        self.where, self.title, self.told = where, title, []
        self.runs.append(self)

    @classmethod
    def begin(cls, where, project, title):
        if cls.breaks == "begin":
            raise ConnectionError("no route\nto host")
        return cls(where, title)

    def _tell(self, kind, *values):
        if self.breaks == kind:
            raise ValueError(f"{kind} refused")
        self.told.append((kind, *values))

    def parameters(self, values):
        self._tell("parameters", dict(values))

    def metrics(self, values, step):
        print("View the run at http://127.0.0.1")
        self._tell("metrics", dict(values), step)

    def figure(self, name, png):
        self._tell("figure", name, png)

    def artefact(self, path):
        self._tell("artefact", path)

    def close(self, failed):
        self._tell("close", failed)

    def all(self, kind):
        return [values for told, *values in self.told if told == kind]


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "mlflow", Recorder)
    monkeypatch.setattr(Recorder, "runs", [])
    return Recorder


def merged(run):
    return {k: v for (values,) in run.all("parameters") for k, v in values.items()}


def test_an_evaluation_is_one_run_with_numbers_figure_and_record(robustkit, recorder, tmp_path):
    status, _, err = robustkit(*EVALUATE, "--track", "mlflow:there")
    assert (status, err.count("warning: --track")) == (0, 0)
    (run,) = recorder.runs
    assert (run.where, run.title) == ("there", "lenet5-mnist5k clean")
    told = merged(run)
    assert told["command"].startswith("robustkit evaluate lenet5-mnist5k ")
    assert told["data.n"] == "20"
    ((metrics, step),) = run.all("metrics")
    assert (metrics["clean_accuracy"], step) == (0.95, None)
    ((record,),) = run.all("artefact")
    assert record.parent == tmp_path / "runs"
    assert record.suffix == ".parquet"
    assert run.told[-1] == ("close", False)


def test_numbers_go_by_norm_and_epsilon_with_their_intervals():
    found = evaluation(epsilons=("2/255", "8/255"))
    content = of_evaluation(found)
    for point in found.robust():
        key = f"robust_accuracy/linf/{point.epsilon.text.replace('/', '_')}"
        share = point.accuracy
        for end, value in (("", share.value), ("_low", share.low), ("_high", share.high)):
            assert content.metrics[key + end] == value
    assert content.parameters["protocol.epsilons"] == "2/255, 8/255"
    assert content.figure().startswith(b"\x89PNG")


def test_the_intervals_told_are_of_the_kind_that_is_asked_for(tmp_path):
    found, proved = evaluation(), certification(tmp_path / "c.npz")
    for content, key, estimate in (
        (of_evaluation(found, "exact"), "clean_accuracy", found.clean("exact")),
        (of_certification(proved, "exact"), "open_share", proved.share("open", "exact")),
    ):
        (name,) = (n for n in content.metrics if n.startswith(key) and n.endswith("_low"))
        assert content.metrics[name] == estimate.low != 0
        assert content.metrics[name.replace("_low", "_high")] == estimate.high


def test_an_audit_tells_its_verdict_and_its_files(tmp_path):
    content = of_audit(full(), tmp_path)
    assert content.parameters["verdict"] == "overstated"
    assert content.metrics["robust_accuracy/linf/8_255"] == 0.451
    assert content.metrics["certified_accuracy/linf/2_255"] == 0.58
    assert content.metrics["failed_rules"] == 3
    assert {p.name for p in content.files} == {"audit.json", "audit.html", "audit.md"}
    assert of_audit(broken(), tmp_path).metrics["corruption_accuracy"] is None


@pytest.mark.parametrize(
    ("statuses", "unresolved", "unexamined"),
    [
        ((), None, 0),
        (("not applicable",), None, 0),
        (("not examined", "not examined"), None, 2),
        (("passed", "not examined"), 0, 1),
        (("unresolved", "resolved", "not applicable"), 1, 0),
    ],
)
def test_indicators_that_nobody_examined_are_not_counted_as_resolved(
    statuses, unresolved, unexamined, tmp_path
):
    indicators = tuple(replace(full().indicators[0], status=status) for status in statuses)
    metrics = of_audit(replace(full(), indicators=indicators), tmp_path).metrics
    assert metrics["unresolved_indicators"] == unresolved
    assert metrics["unexamined_indicators"] == unexamined


def test_a_claim_that_nobody_made_is_not_tracked(tmp_path):
    claim = replace(full().claim, source=f"plain pgd, {NO_CLAIM}")
    assert "claim" not in of_audit(replace(full(), claim=claim), tmp_path).parameters
    assert of_audit(full(), tmp_path).parameters["claim"] == 0.532


def test_a_certification_tells_its_shares(tmp_path):
    found = of_certification(certification(tmp_path / "c.npz"))
    epsilon = certification().header["protocol"]["epsilons"][0]["epsilon"].replace("/", "_")
    assert found.metrics[f"certified_share/linf/{epsilon}"] == 0.5
    assert found.metrics[f"open_share/linf/{epsilon}"] == 0.25
    assert found.parameters["data.n"] == 4
    assert found.files == [tmp_path / "c.npz"]


@pytest.mark.thorough
def test_a_study_tells_its_claims_its_accuracies_and_its_report(tmp_path):
    found = of_study(outcome(), tmp_path)
    assert found.parameters["claim.4"] == "contradicted"
    assert found.metrics["label-noise/l2-margin/0.8"] == (
        next(v for line in outcome().panels[0].lines for v in line.values
             if (line.method, v.level) == ("l2-margin", "0.8")).estimate.value
    )  # fmt: skip
    assert "label-noise/l2-margin/0.8_low" in found.metrics
    interim = replace(outcome().judgements[0], lacking="interim: 2 of 5 planned seeds")
    found_so_far = of_study(replace(outcome(), judgements=(interim,)), tmp_path).parameters
    assert found_so_far[f"claim.{interim.name}"].endswith(" (interim: 2 of 5 planned seeds)")
    assert [path.name for path in found.files] == ["report.html", "numbers.csv", "evidence.parquet"]
    assert found.figure().startswith(b"\x89PNG")


@pytest.mark.thorough
def test_a_report_is_one_run(robustkit, recorder, tmp_path):
    made = shipped("reports") / "liu2016-mnist" / "evidence.parquet"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evidence.parquet").write_bytes(made.read_bytes())
    status, _, err = robustkit(
        "report", "liu2016-mnist", "--only-report", "--out", "out", "--track", "mlflow"
    )
    assert (status, "warning: --track" in err) == (0, False)
    (run,) = recorder.runs
    assert run.title == "liu2016-mnist study"
    assert merged(run)["command"].startswith("robustkit report liu2016-mnist ")
    assert len(run.all("artefact")) == 3


@pytest.mark.thorough
def test_a_training_tells_each_epoch_once_also_of_an_earlier_run(robustkit, recorder, tmp_path):
    command = ["train", "--model", "lenet5", "--data", "mnist5k", "--data-fraction", "0.01"]
    command += ["--epochs", "2", "--device", "cpu", "--out", "a.safetensors", "--track", "mlflow"]
    for _ in range(2):  # the second time the checkpoint is the answer
        assert robustkit(*command)[0] == 0
    first, second = recorder.runs
    for run in (first, second):
        steps = [step for _, step in run.all("metrics")]
        assert steps == [1, 2, None]
        assert run.all("artefact") == [[tmp_path / "a.safetensors"]]
        assert merged(run)["model.name"] == "lenet5"
    assert first.all("metrics") == second.all("metrics")
    # the first is told of an epoch while the training runs
    kinds = [kind for kind, *_ in first.told]
    assert kinds == [
        "parameters",
        "metrics",
        "metrics",
        "parameters",
        "metrics",
        "artefact",
        "close",
    ]


@pytest.mark.thorough
def test_a_resumed_training_tells_earlier_epochs_before_later_ones(
    robustkit, recorder, monkeypatch
):
    command = ["train", "--model", "lenet5", "--data", "mnist5k", "--data-fraction", "0.01"]
    command += ["--epochs", "3", "--device", "cpu", "--out", "a.safetensors", "--track", "mlflow"]
    saved = []

    def stop(*state):
        write_state(*state)
        saved.append(state)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_state", stop)
        assert robustkit(*command)[0] != 0
    assert robustkit(*command)[0] == 0
    # W&B drops what is of a step before the last one that it was told of
    steps = [[step for _, step in run.all("metrics")] for run in recorder.runs]
    assert steps == [[1, 2], [1, 2, 3, None]]


@pytest.mark.thorough
def test_lines_within_an_epoch_are_told_by_their_update(robustkit, recorder, tmp_path):
    command = ["train", "--model", "lenet5", "--data", "mnist5k", "--batch-size", "16"]
    command += ["--data-fraction", "0.2", "--steps", "50", "--device", "cpu"]
    command += ["--out", "a.safetensors", "--track", "mlflow"]
    for _ in range(2):  # the second time the checkpoint is the answer
        assert robustkit(*command)[0] == 0
    first, second = recorder.runs
    *lines, (kept, last) = first.all("metrics")
    assert last is None
    assert [step for _, step in lines] == [metrics["step"] for metrics, _ in lines]
    assert [step for _, step in lines] == sorted({step for _, step in lines})
    assert [metrics["epoch"] for metrics, _ in lines].count(0) > 1
    assert kept["kept_step"] == 50
    assert second.all("metrics") == first.all("metrics")
    # while the training runs, and not at its end alone
    kinds = [kind for kind, *_ in first.told]
    assert kinds[1 : len(lines) + 2] == ["metrics"] * len(lines) + ["parameters"]


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("breaks", ["begin", "parameters", "metrics", "artefact", "close"])
def test_a_tracker_that_breaks_is_one_line_and_no_lost_result(
    robustkit, recorder, breaks, tmp_path
):
    recorder.breaks = breaks
    try:
        status, out, err = robustkit(*EVALUATE, "--track", "mlflow", "--json", "-")
    finally:
        recorder.breaks = ""
    assert status == 0
    assert json.loads(out)[0]["status"] == "complete"
    assert list((tmp_path / "runs").glob("*.parquet"))
    (line,) = [line for line in err.splitlines() if "--track" in line]
    assert line.startswith("warning: --track mlflow: ")
    assert line.endswith("the results on disk are whole")
    for run in recorder.runs:  # it is closed all the same
        assert breaks == "close" or run.told[-1] == ("close", True)


def test_an_interrupted_run_is_closed_as_failed(recorder):
    with pytest.raises(KeyboardInterrupt), Tracker("mlflow").run("t", pytest.fail):
        raise KeyboardInterrupt
    assert recorder.runs[0].told == [("close", True)]


def test_a_training_tells_tables_within_tables_by_one_name():
    content = of_training(
        {"history": [{"epoch": 1, "loss": 1.0}], "epoch_kept": 1, "a": {"b": 2}}, []
    )
    assert content.parameters == {"a.b": 2, "epoch_kept": 1}
    assert content.metrics == {"kept_loss": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlfow", "unknown tracker 'mlfow'; did you mean 'mlflow'"),
        (
            "wandb:a/b",
            r"--track wandb needs Weights & Biases; install it with: pip install 'robustkit\[wandb\]'",
        ),
    ],
)
def test_what_cannot_be_tracked_is_told_before_any_work(monkeypatch, text, message):
    monkeypatch.setattr("robustkit.tracking.run.find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        parse_tracker(text)


def test_where_it_goes_may_hold_colons(recorder):
    assert parse_tracker("mlflow:http://127.0.0.1:5000") == Tracker(
        "mlflow", "http://127.0.0.1:5000"
    )


# ---- the trackers themselves, where they are installed


def tracked(tmp_path, *track, **environment):
    """A command in a process of its own: these packages leave threads and handlers behind."""
    command = [sys.executable, "-m", "robustkit", *EVALUATE, "--track", *track]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert (done.returncode, "warning: --track" in done.stderr) == (0, False), done.stderr


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_folder(tmp_path):
    pytest.importorskip("mlflow")
    tracked(tmp_path, "mlflow:kept")
    kept = list((tmp_path / "kept").rglob("*"))
    files = {path.name: path for path in kept}
    assert files["clean_accuracy"].read_text().split()[1] == "0.95"
    assert files["data.n"].read_text() == "20"
    assert any(path.suffix == ".parquet" for path in kept)
    about = [path.read_text() for path in kept if path.name == "meta.yaml"]
    assert any("run_name: lenet5-mnist5k clean" in text for text in about)


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path):
    pytest.importorskip("wandb")
    tracked(tmp_path, "wandb:mine", WANDB_MODE="offline", WANDB_SILENT="true")
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert b"clean_accuracy" in content
    assert b"data.n" in content


@pytest.mark.slow
def test_tensorboard_keeps_a_run_in_a_folder(tmp_path):
    pytest.importorskip("tensorboard")
    tracked(tmp_path, "tensorboard:kept")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "kept").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert events.Scalars("clean_accuracy")[0].value == pytest.approx(0.95)
    assert Path(folder).name == "lenet5-mnist5k_clean"
