"""A user's own files in a study: what is edited is worked out anew, and nothing else."""

import shutil

import numpy as np
import pytest
from helpers.studies import EXTERNAL, NET, Here, begin, digits

from robustkit import files, spec
from robustkit.checkpoint.sidecar import sidecar_path
from robustkit.errors import DataError, InputError, Unready
from robustkit.study.findings import findings_of_store
from robustkit.study.store import StudyStore
from robustkit.study.user_files import protocol_digest

STUDY = """
title    = "Own files"
question = "Are they read again?"
baseline = "own"

[train]
model      = "net.py:net"
data       = "digits.npz"
seeds      = [0, 1]
steps      = 2
batch_size = 16
hold_out   = "100"
noise_kind = "matrix:matrix.csv"

[test]
data  = "own"
limit = 20

[[method]]
name = "own"
loss = "loss.py:loss"

[[method]]
name = "hinge"
loss = "hinge"

[[analysis]]
name        = "own attack"
factor      = "epsilon"
label_noise = "0.05"
protocol = "own"
delta    = 1.0

[[analysis]]
name        = "shipped attack"
factor      = "epsilon"
label_noise = "0.05"
protocol = "fgsm"
levels   = ["0.1"]
delta    = 1.0

[[analysis]]
name        = "cost"
factor      = "cost"
label_noise = "0.05"
"""
LOSS = """
from torch.nn.functional import cross_entropy

def loss(logits, labels):
    return 1.0 * cross_entropy(logits, labels)
"""
ATTACK = """
title = "Own"
norm  = "linf"

[[attack]]
kind          = "pgd"
steps         = 2
relative_step = "1/2"
"""
DATA = """
title   = "Own"
source  = "SOURCE"
splits  = ["train", "test"]

[budgets]
linf = ["0.1"]
"""


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder with a study, all that it names, and what it came to."""
    folder = tmp_path_factory.mktemp("own")
    digits(folder / "digits.npz")
    matrix = np.full((10, 10), 0.01) + 0.9 * np.eye(10)
    np.savetxt(folder / "matrix.csv", matrix, delimiter=",")
    for name, text in {
        "study.toml": STUDY,
        "net.py": NET,
        "loss.py": LOSS,
        "attacks/own.toml": ATTACK,
        "data/own.toml": DATA.replace("SOURCE", str(files.shipped("data") / "mnist5k.npz")),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("robustkit.study.run.ROUNDS", 1)
        begin("study.toml", folder / "out").finish(Here(folder / "out"))
    return folder


@pytest.fixture
def own(worked, tmp_path, monkeypatch):
    """A copy of that folder, in which the study is run again."""
    shutil.copytree(worked, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr("robustkit.study.run.ROUNDS", 1)
    return tmp_path / "copy"


def run_again(own):
    """How many networks are trained and how many evaluations made, with none that fails."""
    executor = Here(own / "out")
    plan = begin("study.toml", own / "out", amend=True).finish(executor)
    assert statuses(own / "out", plan.tests) == {"done"}
    return len(executor.trained), sum(len(job.tests) for job in executor.done)


def statuses(folder, tests):
    return {(StudyStore(folder).test(key) or {"status": "missing"})["status"] for key in tests}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("attack", "data", "counts"),
    [("fgsm", "mnist5k", False), ("own", "mnist5k", True), ("fgsm", "own", True)],
)
def test_a_protocol_counts_by_content_where_it_or_its_usual_budgets_are_the_users(
    own, attack, data, counts
):
    assert (protocol_digest(attack, None, (), data) is not None) is counts


@pytest.mark.thorough
def test_a_study_whose_files_stay_is_not_run_again(own):
    assert run_again(own) == (0, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["attacks/own.toml", "data/own.toml"])
def test_a_title_in_an_edited_file_decides_nothing(own, file):
    edit(own / file, '"Own"', '"Ours"')
    assert run_again(own) == (0, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("file", "old", "new", "trained", "evaluated", "told"),
    [
        ("loss.py", "1.0 *", "2.0 *", 2, 4, "loss.py:loss: other contents"),
        (
            *("net.py", "nn.Flatten()", "nn.Flatten(), nn.Identity()"),
            *(4, 8, "net.py:net: other contents"),
        ),
        ("matrix.csv", "9.1", "9.10000000001", 4, 8, "matrix.csv: other contents"),
        ("attacks/own.toml", "= 2", "= 3", 0, 4, "attack 'own': other contents"),
        ("data/own.toml", '["0.1"]', '["0.2"]', 0, 4, "data set 'own': other contents"),
    ],
)
def test_what_an_edited_file_decides_amends_a_study_and_is_worked_out_anew(
    own, file, old, new, trained, evaluated, told
):
    edit(own / file, old, new)
    with pytest.raises(InputError, match="--amend") as caught:
        begin("study.toml", own / "out")
    assert f"({told})" in str(caught.value)
    assert run_again(own) == (trained, evaluated)
    assert run_again(own) == (0, 0)
    assert note_of(own) == (
        "The study, or a file that it names, was amended after 4 cells were done, so what was "
        f"amended is not preregistered: {told}."
    )
    begin("study.toml", own / "out")  # what was amended stands
    first, then = findings_of_store(
        spec.load_study("study.toml"), StudyStore(own / "out"), ""
    ).asked
    assert first["user_files"] != then["user_files"]


def note_of(own, name="study.toml"):
    """What a study's report says of amendments."""
    study = spec.load_study(name)
    notes = findings_of_store(study, StudyStore(own / "out"), "").notes
    return next((note for note in notes if "preregistered" in note), "")


@pytest.mark.thorough
def test_an_attack_or_images_that_take_anothers_name_amend_a_study(own, monkeypatch):
    (own / "attacks" / "fgsm.toml").write_text(ATTACK)
    text = (own / "data" / "own.toml").read_text()
    with np.load(files.shipped("data") / "mnist5k.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(own / "own.npz", **arrays | {"test_images": 255 - arrays["test_images"]})
    (own / "data" / "own.toml").write_text(
        text.replace(str(files.shipped("data") / "mnist5k.npz"), str(own / "own.npz"))
    )
    run_again(own)
    told = note_of(own)
    for name in ("attack 'fgsm'", "data set 'own'", "images of 'own', test, first 20"):
        assert f"{name}: other contents" in told
    assert "mnist5k" not in told


def test_words_in_the_files_that_a_study_names_are_free(own):
    edit(own / "attacks/own.toml", '"Own"', '"Ours"')
    edit(own / "data/own.toml", '"Own"', '"Ours"')
    begin("study.toml", own / "out")
    assert note_of(own) == ""


def test_before_the_first_cell_a_file_may_be_edited(own):
    shutil.rmtree(own / "out" / "cells")
    edit(own / "loss.py", "1.0 *", "2.0 *")
    begin("study.toml", own / "out")
    assert note_of(own) == ""


def test_a_study_of_an_earlier_version_has_no_digests_of_files_and_is_read(own):
    store = StudyStore(own / "out")
    asked = store.asked()
    del asked["user_files"]
    store.keep_asked(asked)
    edit(own / "loss.py", "1.0 *", "2.0 *")
    begin("study.toml", own / "out")
    assert note_of(own) == ""
    edit(own / "loss.py", "2.0 *", "3.0 *")
    with pytest.raises(InputError, match=r"loss\.py:loss: other contents"):
        begin("study.toml", own / "out")


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["attacks/own.toml", "loss.py", "net.py", "matrix.csv"])
def test_a_file_edited_while_a_study_runs_gives_no_answer_to_what_was_planned(own, file):
    for path in (own / "out").glob("*s/*.json"):
        path.unlink()
    shutil.rmtree(own / "out" / "checkpoints")
    run = begin("study.toml", own / "out")
    plan = run.plan()
    text = (own / file).read_text()
    (own / file).write_text(text.replace("steps         = 2", "steps = 3") + "\n")
    with pytest.raises(Unready, match="changed since the study was planned; run the study again"):
        list(Here(own / "out").execute(run.missing(plan), lambda job: None))
    kind = run.store.test if file == "attacks/own.toml" else run.store.cell
    keys = plan.tests if file == "attacks/own.toml" else plan.cells
    # a failure would be a result, and decide what is chosen
    assert not [one for key in keys if (one := kind(key)) and one["status"] == "failed"]
    assert run_again(own)[1]


@pytest.mark.thorough
def test_steps_are_timed_anew_on_another_device_or_of_another_network(own, monkeypatch):
    timed = []

    def time_steps(cells, config, rounds, steps):
        timed.append(config.device)
        return {cell.method: [1.0] for cell in cells}

    monkeypatch.setattr("robustkit.study.run.time_steps", time_steps)
    for device in ("cpu", "cuda:0", "cuda:1", "cpu"):
        begin("study.toml", own / "out", device=device).finish(Here(own / "out"))
    assert timed == ["cuda:0", "cpu"]
    edit(own / "net.py", "nn.Flatten()", "nn.Flatten(), nn.Identity()")
    assert run_again(own) == (4, 8)
    assert timed == ["cuda:0", "cpu", "cpu"]


# --- networks made elsewhere ----------------------------------------------------------------------


@pytest.fixture
def elsewhere(nets, tmp_path, monkeypatch):
    """A study of copies of two methods' networks, worked out."""
    shutil.copytree(nets, tmp_path / "nets")
    (tmp_path / "net.py").write_text(NET)
    text = EXTERNAL.replace("PATTERN", "nets/{loss}_noise{label_noise}_seed{seed}.pt")
    (tmp_path / "study.toml").write_text(text.replace("NET", "net.py:net"))
    monkeypatch.chdir(tmp_path)
    assert run_again(tmp_path) == (8, 8)
    assert run_again(tmp_path) == (0, 0)
    return tmp_path


@pytest.mark.thorough
def test_a_network_made_elsewhere_is_evaluated_anew_with_another_sidecar(elsewhere):
    sidecar = sidecar_path(elsewhere / "nets" / "ce_noise0_seed0.pt")
    sidecar.write_text("mean = [0.5]\nstd = [0.5]\n")
    with pytest.raises(InputError, match=r"ce_noise0_seed0\.pt\.toml: other contents.*--amend"):
        begin("study.toml", elsewhere / "out")
    assert run_again(elsewhere) == (1, 1)
    assert "after 8 cells" in note_of(elsewhere)
    edit(sidecar, "mean = [0.5]", "mean = [0.25]")
    assert run_again(elsewhere) == (1, 1)
    sidecar.unlink()
    assert run_again(elsewhere) == (0, 0)


@pytest.mark.thorough
def test_networks_made_elsewhere_are_evaluated_anew_with_another_architecture(elsewhere):
    edit(elsewhere / "net.py", "nn.Flatten()", "nn.Flatten(1)")
    assert run_again(elsewhere) == (8, 8)


@pytest.mark.thorough
def test_networks_made_elsewhere_are_evaluated_anew_with_another_revision(elsewhere, monkeypatch):
    monkeypatch.setattr("robustkit.study.external.REVISION", 2)
    assert run_again(elsewhere) == (8, 8)


def test_images_that_were_written_anew_are_read_anew(tmp_path):
    from robustkit.study.work import load_cached

    path = tmp_path / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), np.uint8)
    np.savez(path, images=images, labels=np.arange(6) % 3)
    spec = tmp_path / "own.toml"
    spec.write_text('title = "t"\nsource = "own.npz"\n')
    for name in (str(path), str(spec)):
        before = load_cached(name, "test", None, None)
        assert load_cached(name, "test", None, None) is before
        np.savez(path, images=images // 2, labels=np.arange(6) % 3)
        after = load_cached(name, "test", None, None)
        assert after.digest != before.digest
        np.savez(path, images=images, labels=np.arange(6) % 3)
        assert load_cached(name, "test", None, None).digest == before.digest


@pytest.mark.parametrize(
    ("source", "told"), [("tset.csv", "no such file"), ("torchvision:STL10", "STL10")]
)
def test_images_that_are_not_there_are_told_so_in_a_line(tmp_path, source, told):
    from robustkit.study.work import load_cached

    spec = tmp_path / "own.toml"
    spec.write_text(f'title = "t"\nsource = "{source}"\n')
    names = [str(spec)] if ":" in source else [str(spec), str(tmp_path / source)]
    for name in names:
        with pytest.raises(DataError, match=told):
            load_cached(name, "test", None, None)
