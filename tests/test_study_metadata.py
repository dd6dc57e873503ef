"""What is on record of networks made elsewhere: in sidecars and in the files themselves."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from helpers.studies import Here, begin, external_study, found

from robustkit.checkpoint import save_checkpoint
from robustkit.errors import InputError
from robustkit.files import digest, file_digest
from robustkit.results.grid import gaps
from robustkit.study.cells import Cell
from robustkit.study.run import in_words
from robustkit.study.selection import Context


def trained(rate="0.4", *, gamma=2.0, learning_rate=0.1):
    """The record of a training, as far as a study looks at it."""
    return {
        "data": {"train": {"noise": {"rate": rate}}},
        "loss": {"settings": {"gamma": [gamma], "stabiliser": 1e-6, "norm": "l2"}},
        "recipe": {"learning_rate": learning_rate, "stabiliser": 1e-8, "steps": 30},
    }


def keep(path, seed=0, **metadata):
    """A safetensors file of a linear network, with what is said to be recorded in it."""

    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    save_checkpoint(path, net, model="net.py:net", seed=seed, **metadata)
    return path


def aside(path, text):
    path.with_name(f"{path.name}.toml").write_text(text)


@pytest.fixture
def silent(tmp_path):
    """Networks whose names say nothing: two losses, two shares of wrong labels, two seeds."""
    for place in product(("ce", "l2"), (0.0, 0.36), (0, 1)):
        loss, noise, seed = place
        asked = trained("0.4" if noise else "0")
        path = tmp_path / f"{digest(str(place))[:8]}.safetensors"
        keep(path, seed, loss=loss, label_noise=noise, training=asked)
    return tmp_path


def planned(tiny, nets, tmp_path, pattern, change=("", "")):
    """The numbers that are wanted, each with its file."""
    tmp_path.mkdir(exist_ok=True)
    path = external_study(tiny, nets, tmp_path, pattern)
    path.write_text(path.read_text().replace(*change))
    plan = begin(path, tmp_path / "out").plan()
    files = {key: cell.asked["checkpoint"] for key, cell in plan.cells.items()}
    return {(w.method, w.level, w.seed): files[w.cell] for w in plan.wanted}, plan


def reported(tmp_path):
    """What the report says of what was planned."""
    return found(tmp_path / "brought.toml", tmp_path / "out")


def refused(tiny, nets, tmp_path, pattern, change=("", "")):
    """Why nothing can be planned, in one line."""
    with pytest.raises(InputError) as caught:
        planned(tiny, nets, tmp_path, pattern, change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()  # a corrected pattern is no other study
    return str(caught.value)


@pytest.mark.thorough
def test_what_names_do_not_say_is_taken_from_the_files(tiny, silent, tmp_path):
    found, plan = planned(tiny, silent, tmp_path, "*.safetensors")
    # the share of wrong labels that was asked for, not the one that the draws came to
    assert set(found) == set(product(("ce", "l2"), ("0", "0.4"), (0, 1)))
    assert all(
        digest(str((loss, 0.36 if level == "0.4" else 0.0, seed)))[:8] in path
        for (loss, level, seed), path in found.items()
    )
    assert {cell.context.label_noise for cell in plan.cells.values()} == {"0", "0.4"}
    begin(tmp_path / "brought.toml", tmp_path / "out").finish(Here(tmp_path / "out"))
    result = reported(tmp_path)
    assert [c.unit for c in result.panels[0].comparisons] == ["2 paired seeds, 50 images"] * 2
    assert not result.notes


def test_what_names_do_not_say_is_taken_from_sidecars(tiny, nets, tmp_path):
    for i, path in enumerate(sorted(nets.glob("*_seed0.pt"))):
        (tmp_path / f"{i}.pt").write_bytes(path.read_bytes())
        loss, noise = ("ce", "l2")[i // 2], (0.4, 0)[i % 2]
        aside(tmp_path / f"{i}.pt", f'loss = "{loss}"\nlabel_noise = {noise}\nseed = 3')
    assert set(planned(tiny, tmp_path, tmp_path, "*.pt")[0]) == set(
        product(("ce", "l2"), ("0", "0.4"), (3,))
    )
    # the name goes first, and of what a name and a sidecar say the method alone is not compared
    assert set(planned(tiny, tmp_path, tmp_path / "b", "{loss}.pt")[0]) == {
        ("0", "0.4", 3), ("1", "0", 3), ("2", "0.4", 3), ("3", "0", 3)
    }  # fmt: skip


@pytest.mark.parametrize(("said", "level"), [("0.2", "0.2"), ("0.36", "0.4"), (None, "0.4")])
def test_a_sidecar_goes_before_the_file(tiny, tmp_path, said, level):
    keep(tmp_path / "a.safetensors", 1, loss="ce", label_noise=0.36, training=trained("0.4"))
    # one that was written from the file repeats the share that the draws came to
    aside(tmp_path / "a.safetensors", f"label_noise = {said}" if said else 'trained_on = "mnist"')
    assert set(planned(tiny, tmp_path, tmp_path, "*.safetensors")[0]) == {("ce", level, 1)}


@pytest.mark.parametrize(
    ("factor", "levels"),
    [
        ("gamma", {"1", "2.5"}),
        ("loss.gamma", {"1", "2.5"}),
        ("learning_rate", {"0.1", "0.02"}),
        ("recipe.stabiliser", {"1e-08"}),
        ("loss.stabiliser", {"1e-06"}),
        ("width", {"3", "4"}),
    ],
)
def test_any_number_on_record_can_be_a_factor(tiny, tmp_path, factor, levels):
    for i, (gamma, rate) in enumerate([(1.0, 0.1), (2.5, 0.02)]):
        record = trained("0", gamma=gamma, learning_rate=rate)
        keep(tmp_path / f"{i}.safetensors", i, loss="l2", width=3 + i, training=record)
    change = ('factor = "label_noise"', f'factor = "{factor}"')
    found, _ = planned(tiny, tmp_path, tmp_path, "*.safetensors", change)
    assert {level for _, level, _ in found} == levels


def test_a_factor_that_is_not_on_record_is_told(tiny, silent, tmp_path):
    def ask(factor):
        change = ('factor = "label_noise"', f'factor = "{factor}"')
        return refused(tiny, silent, tmp_path, "*.safetensors", change)

    assert "has loss.stabiliser and recipe.stabiliser on record" in ask("stabiliser")
    assert "its name has no width, and nothing on record says it" in ask("width")
    assert "the file itself says norm 'l2', which is not a number" in ask("norm")


@pytest.mark.parametrize("name", ["0.4", "0.40", "0.36", "0.402"])
def test_a_name_may_say_what_the_file_says(tiny, tmp_path, name):
    path = tmp_path / f"ce_noise{name}_seed01.safetensors"
    keep(path, 1, loss="cross-entropy", label_noise=0.36, training=trained())
    pattern = "{loss}_noise{label_noise}_seed{seed}.safetensors"
    assert set(planned(tiny, tmp_path, tmp_path, pattern)[0]) == {("ce", name, 1)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ce_noise0_seed1", "its name says label_noise 0, but the file itself says 0.4; rename it"),
        ("ce_noise0.41_seed1", "leave {label_noise} out of the pattern"),
        ("ce_noise0.4_seed2", "its name says seed 2, but the file itself says 1"),
        ("ce_noisehigh_seed1", "label_noise in its name is 'high', not a number"),
        ("ce_noise1e999999999_seed1", "not a number"),
        ("ce_noise0.4_seed²", "seed '²' is not an integer"),
    ],
)
def test_a_name_is_not_believed_over_the_file(tiny, tmp_path, name, message):
    keep(tmp_path / f"{name}.safetensors", 1, label_noise=0.4, training=trained())
    said = refused(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.safetensors")
    assert message in said
    assert f"{name}.safetensors" in said
    # what is left out of the pattern is read from the file
    if "seed1" in name:
        found, _ = planned(tiny, tmp_path, tmp_path, "{loss}_*_seed{seed}.safetensors")
        assert set(found) == {("ce", "0.4", 1)}


def test_a_name_is_not_believed_over_a_sidecar(tiny, nets, tmp_path):
    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    aside(tmp_path / "l2_noise0_seed1.pt", "label_noise = 0.2")
    said = refused(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    assert "l2_noise0_seed1.pt: its name says label_noise 0, but its sidecar says 0.2" in said


@pytest.mark.thorough
def test_a_name_is_not_believed_over_what_a_pt_file_says_inside(tiny, nets, tmp_path):

    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = torch.load(tmp_path / "l2_noise0_seed1.pt")
    settings = {"seed": 1, "label_noise": 0.2}
    torch.save({"state_dict": state, "args": settings}, tmp_path / "l2_noise0_seed1.pt")
    path = external_study(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    failed = [c for c in found(path, tmp_path / "out").cells if c.status == "failed"]
    assert [(c.method, c.seed) for c in failed] == [("l2", 1)]
    assert "its name says label_noise 0, but the file itself says 0.2" in failed[0].reason


def test_one_number_in_two_ways_to_write_it_is_one_level(tiny, nets, tmp_path):
    for seed, noise in enumerate(("0.4", "0.40")):
        source = nets / f"ce_noise0.40_seed{seed}.pt"
        (tmp_path / f"ce_noise{noise}_seed{seed}.pt").write_bytes(source.read_bytes())
    pattern = "{loss}_noise{label_noise}_seed{seed}.pt"
    found, _ = planned(tiny, tmp_path, tmp_path, pattern)
    assert len({level for _, level, _ in found}) == 1


ATTACKED = (
    'factor = "label_noise"',
    'factor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]\n[[analysis]]\n'
    'name = "again"\nfactor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]',
)


def test_networks_that_an_analysis_leaves_out_are_told(tiny, silent, tmp_path):
    found, plan = planned(tiny, silent, tmp_path, "*.safetensors", ATTACKED)
    assert set(found) == {(loss, "", seed) for loss in ("ce", "l2") for seed in (0, 1)}
    (note,) = plan.notes
    assert note == (
        "Not in the analyses label-noise and again: 4 of 8 networks, trained with other label "
        "noise than 0."
    )
    run = begin(tmp_path / "brought.toml", tmp_path / "out")
    run.store.keep_plan(plan)
    assert reported(tmp_path).notes[0] != note  # that the cells are missing is told first
    assert note in reported(tmp_path).notes
    change = (ATTACKED[0], ATTACKED[1] + '\nlabel_noise = "0.2"\ndata_fraction = "0.5"')
    _, plan = planned(tiny, silent, tmp_path / "b", "*.safetensors", change)
    assert plan.notes[1] == (
        "Not in the analysis again: 8 of 8 networks, trained with other label noise than 0.2."
    )


def test_nothing_to_compare_is_no_report(tiny, silent, tmp_path):
    change = (ATTACKED[0], 'factor = "data_fraction"\nlabel_noise = "0.2"')
    for path in silent.glob("*.safetensors"):
        aside(path, "data_fraction = 1")
    said = refused(tiny, silent, tmp_path, "*.safetensors", change)
    assert "nothing to compare: Not in the analysis label-noise: 8 of 8 networks" in said


def test_networks_that_the_full_grid_lacks_are_told(tiny, nets, tmp_path):
    for path in nets.glob("*.pt"):
        if path.name not in ("l2_noise0.40_seed1.pt", "ce_noise0_seed0.pt"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    path = external_study(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    run = begin(path, tmp_path / "out")
    run.store.keep_plan(run.plan())
    assert reported(tmp_path).notes[-1] == (
        "Missing from the full grid of methods, levels and seeds of label-noise: ce at 0, seed 0; "
        "l2 at 0.40, seed 1."
    )


def test_a_grid_has_the_levels_that_were_asked_for_and_names_a_few():
    there = [("noise", (method, "0.40", 0)) for method in "abcdef"]
    assert list(gaps(there, {})) == []
    (said,) = gaps(there, {"noise": ("0.4", "0.6")})
    assert "a at 0.6, seed 0; b at 0.6" in said
    assert said.endswith("e at 0.6, seed 0; and 1 more.")
    twice = [(name, ("a", "", seed)) for name in ("x", "y") for seed in (0, 1)]
    assert list(gaps([*twice, ("x", ("b", "", 0)), ("y", ("b", "", 0))], {})) == [
        "Missing from the full grid of methods, levels and seeds of x and y: b, seed 1."
    ]


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def spoilt(path, text):
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 0), "its header is incomplete"),
        (lambda path: cut(path, 50), "its header is incomplete"),
        (lambda path: spoilt(path, "{nonsense"), "its header is invalid"),
        (lambda path: spoilt(path, "[1, 2]"), "its header is invalid"),
        (lambda path: spoilt(path, '{"__metadata__": 3}'), "its header is invalid"),
        (
            lambda path: spoilt(path, '{"__metadata__": {"robustkit.seed": "{"}}'),
            "its robustkit metadata is not JSON",
        ),
        (
            lambda path: spoilt(path, '{"__metadata__": {"robustkit.label_noise": "[]"}}'),
            "label_noise: expected float",
        ),
        (lambda path: aside(path, "label_noise = = 1"), "not readable as TOML"),
        (lambda path: aside(path, "label_nose = 1"), "did you mean 'label_noise'?"),
        (lambda path: aside(path, 'label_noise = "high"'), "expected float, got 'high'"),
        (lambda path: path.unlink(), "no checkpoint matches"),
    ],
)
def test_a_bad_file_is_told_in_one_line(robustkit, tiny, tmp_path, spoil, message):
    spoil(keep(tmp_path / "one.safetensors", label_noise=0.4))
    path = external_study(tiny, tmp_path, tmp_path, "*.safetensors")
    status, out, err = robustkit("report", str(path), "--out", str(tmp_path / "out"))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "one.safetensors" in err or "no checkpoint" in err


def test_a_damaged_file_whose_name_says_enough_is_a_failed_cell(tiny, silent, tmp_path):
    for seed in (0, 1):
        keep(tmp_path / f"ce_noise0_seed{seed}.st.safetensors", seed, label_noise=0.0)
    cut(tmp_path / "ce_noise0_seed1.st.safetensors", 50)
    path = external_study(
        tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.st.safetensors"
    )
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    cells = found(path, tmp_path / "out").cells
    assert sorted((c.seed, c.status) for c in cells) == [(0, "done"), (1, "failed")]


def test_a_file_that_cannot_be_read_is_told(tiny, nets, tmp_path, monkeypatch):
    class Failing(type(nets)):
        def open(self, *arguments):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(
        "robustkit.study.external.file_digest", lambda path: file_digest(Failing(path))
    )
    said = refused(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    assert said.endswith(".pt: cannot be read: Input/output error")


@pytest.mark.thorough
def test_networks_are_planned_without_torch(tiny, silent, tmp_path):
    path = external_study(tiny, silent, tmp_path, "*.safetensors")
    code = (
        "import sys\n"
        "from robustkit import spec\n"
        "from robustkit.study.external import ExternalPlanner\n"
        f"study = spec.load_study({str(path)!r})\n"
        "plan = ExternalPlanner(study, study.external, lambda limit: '').plan()\n"
        "sys.exit('torch' in sys.modules or len(plan.wanted) != 8)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_share_may_be_written_as_a_fraction():
    cell = Cell("ce", Context("1/3", "1/64"), 0, 0, {})
    assert in_words(cell) == "ce, 33\u00a0% label noise, 0.01562 of the data, seed 0"
