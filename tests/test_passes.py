"""Passes in the record are those that the network itself counts."""

from dataclasses import fields, replace

import pytest
import torch
from helpers.attacked import Small, images, make, right
from torch import Tensor

from robustkit.attacks import SearchNetwork, attack_block, build_search
from robustkit.attacks.precision import LowPrecision
from robustkit.files import names
from robustkit.protocol import (
    BALLS,
    kind_of,
    labels_of,
    load_protocol,
    most_passes,
    norms_of,
    parse_epsilon,
)
from robustkit.protocol.attacks import UNTARGETED

PGD = {"kind": "pgd", "steps": 4, "relative_step": "1/4", "restarts": 2}
APGD = {"kind": "apgd", "steps": 6}
SQUARE = {"kind": "square", "queries": 20}
BUDGETS = ("1/200", "1/100", "1/50")
N = 12


class Counting(torch.nn.Module):
    """Small in float64, so that nothing hangs on a batch's rounding; it counts what it is asked."""

    def __init__(self, counts: list[int] | None = None, shift: float = 0.0, noise: float = 0.0):
        super().__init__()
        self.network, self.shift, self.noise = Small().double(), shift, noise
        self.counts = [0, 0] if counts is None else counts
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.counts[0] += len(x)
        logits: Tensor = self.network(x.double())
        logits = logits + self.shift * torch.arange(3) + self.noise * torch.randn_like(logits)
        if logits.requires_grad:
            logits.register_hook(self._gradient)
        return logits

    def _gradient(self, signal: Tensor) -> None:
        self.counts[1] += len(signal)


def counted(*attacks: dict, batch_size: int, model: Counting | None = None, **more):
    """Passes by image, and how many the network itself has counted."""
    model = model or Counting()
    block = right(model, images(N, side=8))
    model.counts[:] = 0, 0
    protocol = make(more.pop("norm", "linf"), *attacks, epsilon=BUDGETS)
    passes = attack_block(model, block, protocol, batch_size, **more).passes
    # the first batch is passed once more, to try whether passes can be repeated
    tried = min(batch_size, N)
    return passes, (model.counts[0] - tried, model.counts[1])


CASES = {
    "fgsm, then pgd with restarts": [{"kind": "fgsm"}, PGD],
    "apgd with targets": [APGD | {"targets": 2, "loss": "dlr"}],
    "the nearest targets": [APGD | {"targets": 2, "target_order": "distance"}],
    "over transformations": [APGD | {"eot": 3}],
    "square": [SQUARE],
    "fab with targets": [{"kind": "fab", "steps": 5, "targets": 2}],
    "fab of every class": [{"kind": "fab", "steps": 5, "targets": 0}],
    "smallest perturbations": [{"kind": "fmn", "steps": 5}, {"kind": "deepfool", "steps": 4}],
}


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize("attacks", CASES.values(), ids=CASES)
def test_every_pass_is_counted_once_with_its_image_and_its_attack(attacks):
    passes, (forward, backward) = counted(*attacks, batch_size=1)
    assert passes.forward.shape == passes.backward.shape == (1 + len(attacks), N)
    assert (int(passes.forward.sum()), int(passes.backward.sum())) == (forward, backward)
    assert passes.forward[0].tolist() == [1] * N
    in_company, _ = counted(*attacks, batch_size=5)
    assert in_company.forward.tolist() == passes.forward.tolist()
    assert in_company.backward.tolist() == passes.backward.tolist()


@pytest.mark.thorough
def test_attacks_by_decisions_are_counted_point_by_point():
    attack = {"kind": "hopskipjump", "steps": 2}
    passes, (forward, backward) = counted(attack, batch_size=5, norm="l2")
    assert (int(passes.forward.sum()), int(passes.backward.sum())) == (forward, backward)
    assert passes.forward[1].min() > 100


def test_claims_that_do_not_hold_up_have_cost_their_passes():
    model = Counting()
    liar = Counting(model.counts, shift=100.0)  # takes everything for the last class
    passes, counts = counted(PGD, batch_size=1, model=model, search_by=SearchNetwork(liar))
    assert (int(passes.forward.sum()), int(passes.backward.sum())) == counts
    lied_about = model(images(N, side=8)).argmax(1) != 2
    forward, backward = (p[1][lied_about] for p in (passes.forward, passes.backward))
    assert forward.min() > 0
    # every attempt goes on to its last iterate, which needs no gradient
    assert (backward % PGD["steps"] == 0).all()
    searched = backward + backward // PGD["steps"]
    # a pass to search, and one to refute it, but where an iterate leaves its ball by rounding
    assert (searched < forward).all()
    assert (forward <= 2 * searched).all()


def test_a_surrogate_s_passes_are_counted_beside_the_model_s():
    model = Counting()
    surrogate = Counting(model.counts, shift=0.1)
    passes, counts = counted(PGD, batch_size=1, model=model, surrogate=surrogate)
    assert (int(passes.forward.sum()), int(passes.backward.sum())) == counts
    assert passes.forward[0].tolist() == [2] * N, "the clean image is passed through both"


@pytest.mark.thorough
def test_rows_of_low_precision_that_float32_passes_again_count_twice():
    model = Counting()
    low = LowPrecision("bf16", Counting(model.counts), 2.0)
    passes, counts = counted(
        PGD, APGD, batch_size=1, model=model, search_by=SearchNetwork(model, low)
    )
    exact, _ = counted(PGD, APGD, batch_size=1)
    assert (int(passes.forward.sum()), int(passes.backward.sum())) == counts
    assert passes.forward.sum() > exact.forward.sum()


@pytest.mark.parametrize("eot", [1, 4])
def test_every_vote_of_a_network_that_draws_at_random_is_a_pass(eot):
    passes, (forward, _) = counted(APGD | {"eot": eot}, batch_size=5, model=Counting(noise=0.01))
    assert int(passes.forward.sum()) == forward - 5, "it was tried twice, and votes besides"
    assert passes.forward[0].tolist() == [20] * N


class Firm(torch.nn.Module):
    """Five classes, of which none but the first ever leads."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.weights = torch.randn(64, 5, generator=source)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights + torch.tensor([1e4, 0, 0, 0, 0])


FEW = {"steps": 4, "search_steps": 3, "restarts": 2, "queries": 7, "trials": 2, "draws": 4}
FEW |= {"angles": 2, "shifts": 2, "eot": 2}
SMALL = {"linf": ("1/1000", "1/500", "1/400"), "spatial": ("1deg+1px", "2deg+2px", "3deg+3px")}


def on_the_shelf(small=SMALL):
    """Each attack of the shelf with few steps, alone in a protocol, and its kind."""
    for name, norm in [(a, n) for a in names("attacks") for n in norms_of(a)]:
        protocol = load_protocol(name, norm=norm)
        for attack in protocol.attacks:
            own = {field.name for field in fields(attack)} & set(FEW)
            few = {key: min(getattr(attack, key), FEW[key]) for key in own}
            budgets = tuple(map(parse_epsilon, small.get(norm, ("1", "2", "3"))))
            yield (
                kind_of(attack),
                replace(protocol, attacks=(replace(attack, **few),), epsilons=budgets, seed=0),
            )


@pytest.mark.thorough
@pytest.mark.parametrize("order", ["scan", "bisect"])
def test_no_attack_takes_more_passes_of_an_image_that_withstands_than_are_foretold(order):
    network, x = Firm(), images(2, side=8)
    met = set()
    for kind, protocol in on_the_shelf():
        asked = replace(protocol, search=order)
        if repr((asked.attacks, asked.norm)) in met:
            continue
        met.add(repr((asked.attacks, asked.norm)))
        outcomes = attack_block(network, right(network, x), asked, 2)
        assert not outcomes.distance.isfinite().any(), kind
        most = most_passes(asked.attacks[0], 3, 5, order)
        forward, backward = (
            int(p[1].max()) for p in (outcomes.passes.forward, outcomes.passes.backward)
        )
        told = (kind, asked.norm, forward, backward, most)
        assert backward <= most.gradients + 1e-9, told
        assert forward <= most.gradients + most.forwards + 1e-9, told


class Curved(torch.nn.Module):
    """Five classes, curved enough that images end at different steps; float64."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.first = 0.5 * torch.randn(64, 32, generator=source).double()
        self.last = 2 * torch.randn(32, 5, generator=source).double()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.double().flatten(1) - 0.5) @ self.first) @ self.last


REACHED = {
    "linf": ("1/100", "1/20"),
    "l2": ("1/10", "1/2"),
    "spatial": ("10deg+1px", "30deg+3px"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["none", "next"])
def test_what_an_image_costs_hangs_on_no_company(target):
    network, x = Curved(), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    met, apart = set(), set()
    for kind, protocol in on_the_shelf(REACHED):
        (attack,) = protocol.attacks
        if target != "none" and (isinstance(attack, UNTARGETED) or getattr(attack, "targets", 0)):
            continue
        own = {"targets": 2, "restarts": 1} | ({"steps": 50} if kind == "deepfool" else {})
        own = {key: value for key, value in own.items() if getattr(attack, key, 0)}
        asked = replace(protocol, attacks=(replace(attack, **own),), target=target)
        if repr(asked.resolved()) in met:
            continue
        met.add(repr(asked.resolved()))
        alone, together = (attack_block(network, right(network, x), asked, n) for n in (1, 4))
        assert alone.distance.tolist() == pytest.approx(together.distance.tolist()), kind
        for name in ("forward", "backward", "broken"):
            one, other = (getattr(found.passes, name).tolist() for found in (alone, together))
            assert one == other, (kind, asked.norm, name)
        apart |= {kind} if len(set(alone.passes.forward[1].tolist())) > 1 else set()
    assert target != "none" or apart >= {"deepfool", "sigma-zero", "pgd"}


@pytest.mark.thorough
def test_images_whose_verdict_is_known_cost_no_attack_at_fixed_budgets_anything():
    network, x = Curved(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (first,) = make("linf", {"kind": "pgd", "steps": 20, "relative_step": "1/8"}).attacks
    made, met = right(network, x), set()
    for kind, protocol in on_the_shelf({"linf": ("1/10",), "l2": ("1",), "l1": ("8",)}):
        (attack,) = protocol.attacks
        if protocol.norm not in BALLS or build_search(attack, protocol.norm) is None:
            continue
        met.add((kind, getattr(attack, "target_order", "")))
        asked = replace(protocol, attacks=(first, attack))
        found = attack_block(network, made, asked, 4)
        fooled = torch.tensor([by == labels_of(asked.attacks)[0] for by in found.fooled_by])
        assert fooled.sum() > 2
        none = attack_block(network, made, asked, 4, prove=lambda right: torch.ones(6).long())
        for name in ("forward", "backward"):
            assert getattr(found.passes, name)[2][fooled].sum() == 0, kind
            assert getattr(none.passes, name)[1:].sum() == 0, kind
    assert met >= {("apgd", "distance"), ("apgd", "confidence"), ("fab", ""), ("square", "")}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["boundary", "hopskipjump"])
def test_nor_do_attacks_by_decisions_that_find_a_start(kind):
    model = Counting()
    attack = {"kind": kind, "steps": 12 if kind == "boundary" else 2}
    passes, _ = counted(attack, batch_size=5, model=model, norm="l2")
    (made,) = make("l2", attack, epsilon=BUDGETS).attacks
    assert 0 < int(passes.forward[1].max()) <= most_passes(made, 3, 3, "bisect").forwards
