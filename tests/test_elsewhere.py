"""Everything that a GPU is given, on a device that is not there: what meets the CPU's is refused."""

import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers.attacked import Small
from helpers.attacked import images as drawn
from helpers.crews import TakingTurns
from helpers.elsewhere import ELSEWHERE, elsewhere
from safetensors.torch import load_file

from robustkit import audit, certify, evaluate, from_arrays, training
from robustkit.attacks import contract
from robustkit.attacks.passes import Passes
from robustkit.corruption import corrupt
from robustkit.corruption.kinds import KINDS
from robustkit.data import load_dataset
from robustkit.evaluation import blocks, spreading
from robustkit.files import names
from robustkit.losses import LOSSES
from robustkit.protocol import kind_of, load_protocol, norms_of
from robustkit.training.defaults import default_recipe


def test_what_a_gpu_refuses_is_refused():
    with elsewhere():
        there, here = torch.ones(2, 3, device=ELSEWHERE), torch.ones(2, 3)
        assert (there * 2 + torch.tensor(1.0))[torch.tensor([1])].tolist() == [[3.0, 3.0, 3.0]]
        for mixed in (
            lambda: there + here,
            lambda: here[torch.zeros(1, dtype=torch.long, device=ELSEWHERE)],
            lambda: there.index_put_((torch.tensor([0]),), here[0]),
            lambda: torch.rand(2, device=ELSEWHERE, generator=torch.Generator()),
            lambda: torch.rand(2, generator=torch.Generator(ELSEWHERE)),
        ):
            with pytest.raises(RuntimeError, match=r"device|CPU"):
                mixed()
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        assert there.cpu().numpy().sum() == 6


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_protocol_on_the_shelf_runs_in_each_of_its_norms_and_on_any_device(
    whole, monkeypatch
):
    # of the network, which is the same for all, little is asked
    monkeypatch.setattr(contract, "PASSES", 2)
    monkeypatch.setattr(contract, "AGAIN", 2)
    digits = load_dataset("mnist5k", limit=2)
    network = Small()
    few = drawn(2, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    seen = set()
    for name, norm in [(a, n) for a in names("attacks") for n in norms_of(a)]:
        # nothing of a protocol but its efforts, so that each runs in a moment
        attacks = load_protocol(name, norm=norm).attacks
        kinds = {kind_of(attack) for attack in attacks}
        # elsewhere each kind of attack runs once in each norm, by default once at all
        met = {(kind, norm) for kind in kinds} if whole else kinds | {norm}
        if met <= seen and not whole:
            continue
        small = {
            "steps": 2,
            "search_steps": 2,
            "draws": 2,
            "queries": 3,
            "restarts": 1,
            "eot": 2,
            "angles": 2,
            "shifts": 2,
            "trials": 2,
        }
        small |= {"steps": 10} if any(getattr(a, "larger_first", False) for a in attacks) else {}
        small |= {"steps": 1} if "hopskipjump" in kinds else {}
        options = {
            "settings": [
                f"{k}={v}" for k, v in small.items() if any(hasattr(a, k) for a in attacks)
            ],
            "epsilon": digits.budgets[norm][:1] if attacks else (),
            "norm": norm,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            here = evaluate(network, data, name, **options, device="cpu")
        assert len(here.rows) == 2, (name, norm)
        assert here.header["protocol"]["norm"] == norm
        if not met <= seen:
            seen |= met
            with elsewhere() as there:
                away = evaluate(network, data, name, **options, device=str(there))
            assert away.rows_digest == here.rows_digest, (name, norm)


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_searching_in_less_precision_runs_on_any_device(precision):
    network = Small()
    few = drawn(4, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    with elsewhere() as there:
        found = evaluate(
            network, data, "pgd", epsilon=["1/10"], device=str(there), precision=precision
        )
    assert len(found.rows) == 4


@pytest.mark.thorough
def test_several_workers_run_on_any_device(monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 2)
    network = Small()
    few = drawn(6, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    here = evaluate(network, data, "fgsm", epsilon=["1/10"], device="cpu")
    with elsewhere() as there:
        monkeypatch.setattr(spreading, "Processes", crew := TakingTurns([1]))
        away = evaluate(network, data, "fgsm", epsilon=["1/10"], device=f"{there},{there}")
    assert len(crew.benches) == 2
    assert away.rows_digest == here.rows_digest


PLAN = """
title = "All parts"
images = 6
delta = 0.2
indicators = 3
certified = 4
multiplications = 2e9
corrupted = 1
smoothing = {{sigma = 0.25, images = 2, draws = 50, alpha = 0.01, radii = [0.1]}}

[[stage]]
attack = "{attack}"
budgets = "all"
required = true
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "attack"),
    [("linf:0.002=1", "pgd"), ("l1:0.1=1", "pgd"), ("l0:1=1", "sparse"), ("patch:1=1", "patch")],
)
def test_all_parts_of_an_audit_run_on_any_device(claim, attack, tmp_path):
    network = Small()
    few = drawn(6, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(attack=attack))

    def audited(place, device):
        found = audit(
            network, data, claim=claim, budget=str(plan), device=device, out=tmp_path / place
        )
        stages = tuple(replace(stage, seconds=None, digest="") for stage in found.stages)
        return replace(found, stages=stages, provenance={}, examples=(), command="")

    here = audited("here", "cpu")
    assert sum(one.status in ("passed", "resolved") for one in here.indicators) >= 10
    with elsewhere() as there:
        assert audited("there", str(there)) == here


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_certification_runs_on_any_device(norm):
    network = Small()
    few = drawn(3, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    here = certify(network, data, "1/100", norm=norm)
    with elsewhere() as there:
        away = certify(Small(), data, "1/100", norm=norm, device=str(there))
    assert away.rows == here.rows


@pytest.mark.thorough
def test_a_counterexample_that_bounds_lead_to_counts_on_any_device():
    network = Small()
    few = drawn(3, side=8)
    data = from_arrays(few, network(few).argmax(1), name="drawn")
    here = certify(network, data, "1/20", norm="linf", attack="fgsm")
    with elsewhere() as there:
        away = certify(Small(), data, "1/20", norm="linf", attack="fgsm", device=str(there))
    assert away.rows == here.rows
    counts, rows = Passes.none_yet(2), torch.tensor([1])
    with elsewhere() as there:
        counts.add(rows.to(there), 2, rows.to(there))
    assert counts.forward.tolist() == [0, 2]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_corruptions_are_made_on_any_device(kind):
    images, ids = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a", "b"]
    here = corrupt(images, kind, 3, ids)
    with elsewhere() as there:
        away = corrupt(images.to(there), kind, 3, ids)
        assert away.device == there
        assert torch.equal(away.cpu(), here)


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        *((loss, {}) for loss in sorted(LOSSES)),
        ("large-margin", {"layers": ["input", "conv1"], "norm": "linf", "aggregate": "sum"}),
        ("large-margin", {"layers": ["all"], "norm": "l1", "top_k": 3}),
    ],
)
def test_every_loss_trains_on_any_device(loss, settings, tmp_path, monkeypatch):
    # torch lists the devices whose updates it fuses
    optimizer = import_module("torch.optim.optimizer")
    known = ["cpu", ELSEWHERE.type]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: known)
    images = drawn(24, side=28).numpy()
    config = training.TrainingConfig(
        model="lenet5",
        data=from_arrays(images, np.arange(24) % 10, name="drawn"),
        loss=loss,
        settings=settings,
        recipe=replace(default_recipe(loss, "mnist"), steps=2, batch_size=8, hold_out="1/4"),
        seed=0,
    )
    training.train(config, tmp_path / "here", training.TrainingOptions(device="cpu"))
    with elsewhere() as there:
        training.train(config, tmp_path / "there", training.TrainingOptions(device=str(there)))
    here, away = (load_file(tmp_path / name) for name in ("here", "there"))
    for name, weight in here.items():
        torch.testing.assert_close(away[name], weight, rtol=0, atol=1e-6)
