"""Networks made elsewhere: found by their names, and compared."""

import numpy as np
import pytest
import torch
from helpers.publishers import publishing
from helpers.studies import CLAIM, Here, begin, external_study, found

from robustkit.analysis.record_folder import findings_of_records
from robustkit.errors import InputError, RecordError, Unready
from robustkit.files import shipped
from robustkit.record import read
from robustkit.reporting.methods import of_study
from robustkit.results.pattern import match_files
from robustkit.spec import load_study
from robustkit.study import exchange, work
from robustkit.study.findings import findings_of_store
from robustkit.study.store import StudyStore

MADE = ("ce", "l2")
"""methods of the networks that `nets` made"""


def test_networks_are_found_by_a_pattern(nets):
    found = match_files(str(nets / "{loss}_noise{label_noise}_seed{seed}.pt"))
    assert len(found) == 8
    assert found[0].fields == {"loss": "ce", "label_noise": "0.40", "seed": "0"}
    assert len(match_files("{loss}_*_seed0.pt", nets)) == 4
    with pytest.raises(InputError, match="no checkpoint matches"):
        match_files(str(nets / "{loss}.onnx"))
    with pytest.raises(InputError, match="occurs twice"):
        match_files(str(nets / "{loss}_{loss}.pt"))


@pytest.mark.thorough
def test_networks_made_elsewhere_become_a_report(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    run = begin(path, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    (panel,) = result.panels
    assert [line.method for line in panel.lines] == ["ce", "l2"]
    assert [v.level for v in panel.lines[0].values] == ["0", "0.40"]
    assert [c.unit for c in panel.comparisons] == ["2 paired seeds, 50 images"] * 2
    assert result.provenance["Study"]["claims fixed"] == (
        "before the first evaluation here; the networks were made elsewhere"
    )
    assert "50 images" in result.provenance["Data"]["mnist5k, test"]
    # the same from the records alone, by what the records say; these say nothing of the loss
    with pytest.raises(RecordError, match="no evaluation in it fits"):
        findings_of_records(run.study, tmp_path / "out" / "runs", "")


@pytest.mark.thorough
def test_networks_are_named_by_what_publishes_them_or_by_their_path(
    tiny, nets, tmp_path, monkeypatch
):
    weights = (shipped("data") / "lenet5-mnist5k.safetensors").read_bytes()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ROBUSTKIT_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HF_HOME", "ROBUSTKIT_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    own = tmp_path / "own.safetensors"
    own.write_bytes(weights)
    path = external_study(tiny, nets, tmp_path, "{loss}_noise0_seed0.pt")
    head, _ = path.read_text().split('name   = "label-noise"')
    attacked = 'name = "small"\nfactor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]\n'
    path.write_text(head + attacked)
    without = load_study(str(path)).digest
    names = f'names = {{here = ["{own}"], there = ["hf:org/net/a.safetensors"]}}'
    path.write_text(path.read_text().replace("[test]", f"{names}\n[test]"))
    with publishing() as publisher:
        monkeypatch.setenv("HF_ENDPOINT", publisher.address)
        publisher.repository("org/net", {"a.safetensors": weights})
        run = begin(path, tmp_path / "out")
        run.finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    assert load_study(str(path)).digest != without
    (panel,) = result.panels
    assert [line.method for line in panel.lines] == ["ce", "here", "l2", "there"]
    values = {line.method: line.values[0].estimate.value for line in panel.lines}
    assert values["here"] == values["there"] > max(values["ce"], values["l2"])
    cells = [StudyStore(tmp_path / "out").cell(w.cell) for w in run.plan().wanted]
    assert [c["checkpoint"] for c in cells if c["checkpoint"][:3] == "hf:"] == [
        "hf:org/net/a.safetensors"
    ]
    assert all(name[:3] != "hf:" for cell in cells for name in exchange.network(cell))


@pytest.mark.parametrize(
    ("names", "message"),
    [('{a = ["gone.pt"]}', "gone.pt: no such file"), ('{a = "b"}', "expected a list")],
)
def test_a_name_of_nothing_is_told_before_anything_is_evaluated(
    tiny, nets, tmp_path, names, message
):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise0_seed0.pt")
    path.write_text(path.read_text().replace("[test]", f"names = {names}\n[test]"))
    with pytest.raises(InputError, match=message):
        begin(path, tmp_path / "out")


@pytest.mark.thorough
def test_one_attack_in_two_norms_is_two_evaluations_and_told_apart(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise0_seed{seed}.pt")
    analyses = """
name     = "small"
factor   = "epsilon"
protocol = "fgsm"
levels   = ["0.1"]

[[analysis]]
name     = "far"
factor   = "epsilon"
protocol = "fgsm"
norm     = "l2"
levels   = ["1"]
"""
    head, _ = path.read_text().split('name   = "label-noise"')
    path.write_text(head + analyses)
    run = begin(path, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    assert [panel.factor for panel in result.panels] == ["ε (ℓ∞)", "ε (ℓ₂)"]
    norms = {name: protocol["norm"] for name, protocol in result.protocols.items()}
    assert norms == {"fgsm": "linf", "fgsm (ℓ₂)": "l2"}


@pytest.mark.thorough
def test_attacks_search_in_the_precision_of_the_file(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    attacked = (
        '\n[[analysis]]\nname = "a"\nfactor = "epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]\n'
    )
    path.write_text(path.read_text() + attacked)
    plain = load_study(str(path)).digest
    path.write_text(path.read_text().replace("[test]", '[test]\nprecision = "float32"'))
    assert load_study(str(path)).digest == plain
    path.write_text(path.read_text().replace('"float32"', '"bf16"'))
    assert load_study(str(path)).digest != plain
    run = begin(path, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    headers = [read(one).header for one in sorted((tmp_path / "out" / "runs").glob("*.parquet"))]
    used = {(h["protocol"]["name"], h["precision"]) for h in headers}
    assert used == {("clean", "float32"), ("fgsm", "bf16")}
    (methods,) = of_study(found(path, tmp_path / "out")).paragraphs
    assert "searches in bf16" in methods
    path.write_text(path.read_text().replace('"bf16"', '"int8"'))
    with pytest.raises(InputError, match="precision: unknown value 'int8'"):
        load_study(str(path))


def test_a_method_that_no_network_is_of_is_told(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    claim = (
        CLAIM.format(says="better").replace('a = "a"', 'a = "l1"').replace('b = "b"', 'b = "l2"')
    )
    path.write_text(path.read_text().replace('baseline = "ce"', 'baseline = "xent"') + claim)
    run = begin(path, tmp_path / "out")
    run.store.keep_plan(run.plan())
    notes = findings_of_store(run.study, run.store, "").notes
    assert "No network of method xent, the baseline, was found; methods found: ce, l2." in notes
    assert (
        "No network of method l1 was found, of which claim better speaks; methods found: ce, l2."
    ) in notes
    assert not any("method l2 was" in note for note in notes)


@pytest.mark.thorough
def test_other_images_under_the_same_name_are_tested_anew(tiny, nets, tmp_path):
    def write(seed):
        source = np.random.default_rng(seed)
        images = source.integers(0, 256, (50, 1, 28, 28), np.uint8)
        np.savez(tmp_path / "own.npz", images=images, labels=np.arange(50) % 10)

    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    path.write_text(path.read_text().replace('"mnist5k"', f'"{tmp_path / "own.npz"}"'))
    write(0)
    first = begin(path, tmp_path / "out")
    first.finish(Here(tmp_path / "out"))
    assert not first.missing(first.plan())
    write(1)
    again = begin(path, tmp_path / "out", amend=True)
    (job, *_) = again.missing(again.plan())
    assert job.tests
    write(2)  # and nowhere may other images than the planned ones be tested
    with pytest.raises(Unready, match="not those that the study was planned with"):
        work.carry_out(job, work.WorkerConfig(tmp_path / "out"))
    assert StudyStore(tmp_path / "out").test(job.tests[0].key) is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{loss}_noise*_seed{seed}.pt", "has no label_noise"),
        ("{loss}_noise{label_noise}_seed*.pt", "tell them apart by a field"),
        ("{kind}_noise{label_noise}_seed{seed}.pt", "has no field {loss}"),
        ("{loss}_noise{seed}_seed{label_noise}.pt", "is not an integer"),
    ],
)
def test_a_pattern_that_does_not_tell_networks_apart(tiny, nets, tmp_path, pattern, message):
    path = external_study(tiny, nets, tmp_path, pattern)
    with pytest.raises(InputError) as caught:
        begin(path, tmp_path / "out").plan()
    assert message in str(caught.value)


def test_a_network_of_unknown_seed_is_not_paired_with_seed_0(tiny, nets, tmp_path):
    for seed in (0, 1):
        name = f"ce_noise0_{seed}.pt"
        (tmp_path / name).write_bytes((nets / f"ce_noise0_seed{seed}.pt").read_bytes())
        (tmp_path / f"{name}.toml").write_text(f"seed = {seed}\n")
    (tmp_path / "l2_noise0_a.pt").write_bytes((nets / "l2_noise0_seed1.pt").read_bytes())
    path = external_study(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_*.pt")
    with pytest.raises(InputError, match=r"l2_noise0_a\.pt: nothing says its seed"):
        begin(path, tmp_path / "out").plan()


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ('methods = ["ce"]', [("ce", 0), ("ce", 1)]),
        ("seeds = [1]", [("ce", 1), ("l2", 1)]),
        ('methods = ["l2"]\nseeds = [0]', [("l2", 0)]),
        ('methods = ["l2", "ce"]\nseeds = [1, 0]', [(m, s) for m in MADE for s in (0, 1)]),
    ],
)
@pytest.mark.parametrize("way", ["pattern", "names"])
def test_an_analysis_takes_the_methods_and_seeds_that_it_names(
    tiny, nets, tmp_path, named, wanted, way
):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    text = path.read_text().replace("delta  = 1.0", named)
    levels = 2 if way == "pattern" else 1
    if way == "names":
        files = {m: [str(nets / f"{m}_noise0_seed{s}.pt") for s in (0, 1)] for m in MADE}
        listed = ", ".join(f"{m} = {files[m]}" for m in MADE).replace("'", '"')
        (pattern,) = [line for line in text.splitlines() if line.startswith("pattern")]
        text = text.replace(pattern, f"names = {{{listed}}}")
        text = text.replace('factor = "label_noise"', 'factor = "epsilon"\nprotocol = "fgsm"')
    path.write_text(text)
    plan = begin(path, tmp_path / "out").plan()
    assert sorted((w.method, w.seed) for w in plan.wanted) == sorted(wanted * levels)
    assert len(plan.cells) == len(wanted) * levels
    left = f"{(4 - len(wanted)) * levels} of {4 * levels} networks"
    told = (
        f"Not in the analysis label-noise: {left}, of other methods or seeds than are named there."
    )
    assert plan.notes == ((told,) if len(wanted) < 4 else ())


def test_an_analysis_of_methods_that_are_not_there_is_refused(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    path.write_text(path.read_text().replace("delta  = 1.0", 'methods = ["xent"]'))
    with pytest.raises(InputError, match=r"nothing to compare: .* 8 of 8 networks, of other"):
        begin(path, tmp_path / "out")


@pytest.mark.thorough
def test_one_network_in_files_of_several_seeds_is_one(tiny, nets, tmp_path):
    for seed in (0, 1):
        state = torch.load(nets / "ce_noise0_seed0.pt", weights_only=True)
        torch.save({"state_dict": state, "epoch": seed}, tmp_path / f"ce_noise0_seed{seed}.pt")
        name = f"l2_noise0_seed{seed}.pt"
        (tmp_path / name).write_bytes((nets / name).read_bytes())
    path = external_study(tiny, tmp_path, tmp_path, "{loss}_noise0_seed{seed}.pt")
    attacked = '"epsilon"\nprotocol = "fgsm"\nlevels = ["0.1"]'
    path.write_text(path.read_text().replace('factor = "label_noise"', f"factor = {attacked}"))
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    (panel,) = found(path, tmp_path / "out").panels
    assert {c.unit for c in panel.comparisons} == {"1 pair of checkpoints, 50 images"}
    assert "ce: omitted as the same network as seed 0: seeds 1." in panel.notes


@pytest.mark.thorough
def test_an_unreadable_network_is_a_failed_cell(tiny, nets, tmp_path):
    for path in nets.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "l2_noise0_seed1.pt").write_bytes(b"<html>not found</html>")
    path = external_study(tiny, tmp_path, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    begin(path, tmp_path / "out").finish(Here(tmp_path / "out"))
    result = found(path, tmp_path / "out")
    failed = [cell for cell in result.cells if cell.status == "failed"]
    assert [(c.method, c.seed) for c in failed] == [("l2", 1)]
    assert result.panels[0].comparisons[0].unit.startswith("1 pair of checkpoints")
