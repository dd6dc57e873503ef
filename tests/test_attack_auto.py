"""APGD, FAB and Square against closed forms, projections against independent solutions."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from helpers.attacked import Linear, Small, block, images, make, right
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustkit.attacks import attack_block, build_search, in_budget
from robustkit.attacks.draws import stream
from robustkit.attacks.library import foolbox, foolbox_model
from robustkit.attacks.objectives import objective, towards
from robustkit.attacks.projections import onto_hyperplane, onto_l1_ball
from robustkit.errors import ProtocolError
from robustkit.protocol import APGD, FAB, Loss, Square, adaptations, labels_of, load_protocol

NORMS = ["linf", "l2", "l1"]
APGD_TABLE = {"kind": "apgd", "steps": 40}
FAB_TABLE = {"kind": "fab", "steps": 30}
SQUARE = {"kind": "square", "queries": 300}


def levels(truth: Tensor, *shares: float) -> list[str]:
    return [f"{float(q):.6f}" for q in truth.quantile(torch.tensor(shares).double())]


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("norm", "loss"),
    [
        # every loss in one norm, and the one that others are measured by in each
        pytest.param(n, loss, marks=[pytest.mark.slow] * (i % 3 != k and loss != "cross-entropy"))
        for k, n in enumerate(NORMS)
        for i, loss in enumerate(get_args(Loss))
    ],
)
def test_apgd_is_exact_on_linear_models(norm, loss):
    model, x = Linear(), images(60)
    truth = model.closest(x, norm)
    budgets = levels(truth, 0.2, 0.5)
    found = attack_block(
        model, right(model, x), make(norm, APGD_TABLE | {"loss": loss}, epsilon=budgets), 32
    )
    for level in map(float, budgets):
        # sparse steps in L1 leave a few just inside the ball, as those of its authors do
        clear = (truth / level - 1).abs() > (0.2 if norm == "l1" else 0.01)
        assert torch.equal(in_budget(found.distance, level)[clear], (truth <= level)[clear])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targets", [0, 9])
def test_fab_finds_the_nearest_point_of_a_linear_boundary(norm, targets):
    model, x = Linear(), images(60)
    truth = model.closest(x, norm)
    attack = FAB_TABLE | {"targets": targets}
    found = attack_block(model, right(model, x), make(norm, attack, epsilon=["1/1000"]), 32)
    # the budget is out of reach for most: what remains is the nearest point that was met
    assert (found.distance >= truth - 1e-6).all()
    assert (found.distance / truth).median() < 1.01
    assert (found.distance / truth).max() < (1.2 if norm == "l1" else 1.1)


class Wavy(torch.nn.Module):
    """A boundary at a grey of about 0.75, behind waves whose slopes lead nowhere."""

    def forward(self, x):
        grey = x.flatten(1).mean(1)
        value = grey - 0.8 + 0.1 * torch.sin(60 * grey)
        return torch.stack([torch.zeros_like(value), value], 1)


def test_fab_leaps_where_gradients_lead_nowhere():
    x = torch.linspace(0.1, 0.4, 8).view(8, 1, 1, 1).expand(8, 1, 4, 4).contiguous()
    criterion = foolbox.criteria.Misclassification(torch.zeros(8).long())

    def found(patience):
        result = build_search(FAB(patience=patience), "l2").run(Wavy(), x, criterion)
        return int(Wavy()(result).argmax(1).sum())

    assert found(patience=0) < 6
    assert found(patience=20) == 8


@pytest.mark.parametrize("norm", NORMS)
def test_fab_stops_at_the_budget(norm):
    model, x = Linear(), images(60)
    truth = model.closest(x, norm)
    (budget,) = levels(truth, 0.5)
    found = attack_block(model, right(model, x), make(norm, FAB_TABLE, epsilon=[budget]), 32)
    clear = (truth / float(budget) - 1).abs() > 0.02
    assert torch.equal(
        in_budget(found.distance, float(budget))[clear], (truth <= float(budget))[clear]
    )


@pytest.mark.thorough
@pytest.mark.parametrize("norm", NORMS)
def test_square_finds_what_lies_well_inside_the_ball_and_nothing_outside(norm):
    model, x = Linear(pixels=64, seed=5), images(60, side=8)
    truth = model.closest(x, norm)
    (budget,) = levels(truth, 0.5)
    attack = SQUARE | {"queries": 600 if norm == "linf" else 300}
    found = attack_block(model, right(model, x), make(norm, attack, epsilon=[budget]), 32)
    broken = in_budget(found.distance, float(budget))
    assert not (broken & (truth > float(budget) * (1 + 1e-5))).any()
    near = {"linf": 0.8, "l2": 0.4, "l1": 0.15}[norm]
    easy = truth < near * float(budget)
    assert easy.sum() >= 3
    assert broken[easy].all()


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("attack", [APGD_TABLE, FAB_TABLE, SQUARE], ids=["apgd", "fab", "square"])
@pytest.mark.parametrize("norm", NORMS)
def test_company_in_the_batch_changes_nothing(attack, norm):
    model, x = Linear(pixels=64), images(10, side=8)
    own = right(model, x)
    whole = attack | ({"queries": 30} if "queries" in attack else {"steps": 15})
    truth = model.closest(x, norm)
    protocol = make(norm, whole, epsilon=levels(truth, 0.3, 0.6))
    a, b = (attack_block(model, own, protocol, size) for size in (3, 10))
    assert torch.equal(a.distance, b.distance)
    assert a.fooled_by == b.fooled_by
    turned = block(x.flip(0), own.labels.flip(0))
    turned.ids[:] = turned.ids[::-1]
    c = attack_block(model, turned, protocol, 4)
    assert torch.equal(a.distance, c.distance.flip(0))


def test_targets_adapt_to_few_classes():
    model, x = Small(), images(20, side=8)
    assert len(build_search(APGD(loss="dlr", targets=9), "linf").attempts(3)) == 2
    assert len(build_search(FAB(), "linf").attempts(2)) == 1
    assert len(build_search(FAB(restarts=2, targets=3), "linf").attempts(10)) == 6
    names = [{"kind": "apgd", "loss": "dlr", "targets": 9, "steps": 20}, FAB_TABLE, SQUARE]
    found = attack_block(model, right(model, x), make("linf", *names, epsilon=["3/10"]), 8)
    assert in_budget(found.distance, 0.3).any()


def test_what_few_classes_change_is_told():
    attacks = load_protocol("autoattack").attacks
    assert adaptations(attacks, 10) == []
    assert adaptations(attacks, 8) == [
        "apgd-t: 8 classes leave 7 targets, not 9",
        "fab-t: 8 classes leave 7 targets, not 9",
    ]
    assert "3 classes have no targeted DLR" in " ".join(adaptations(attacks, 3))
    assert "2 classes have no DLR" in " ".join(adaptations(attacks, 2))
    assert "leave 1 target," in " ".join(adaptations(attacks, 2))


def test_a_target_is_where_each_attempt_goes_and_any_wrong_class_counts():
    model, x = Small(), images(30, side=8)
    own = right(model, x)
    t = attack_block(
        model,
        own,
        make("linf", {"kind": "apgd", "loss": "dlr", "targets": 2, "steps": 40}, epsilon=["1/5"]),
        8,
    )
    u = attack_block(
        model,
        own,
        make(
            "linf",
            {"kind": "pgd", "steps": 40, "relative_step": "1/10", "loss": "margin", "restarts": 3},
            epsilon=["1/5"],
        ),
        8,
    )
    assert in_budget(t.distance, 0.2).sum() >= 0.9 * in_budget(u.distance, 0.2).sum() > 0


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("loss", ["dlr", "margin", "rescaled-cross-entropy", "probability-margin"])
def test_losses_that_do_not_saturate(loss):
    x = images(60)
    model = Linear(scale=1e6)
    truth = model.closest(x, "linf")
    (budget,) = levels(truth, 0.6)
    blind = attack_block(model, right(model, x), make("linf", APGD_TABLE, epsilon=[budget]), 32)
    found = attack_block(
        model, right(model, x), make("linf", APGD_TABLE | {"loss": loss}, epsilon=[budget]), 32
    )
    assert in_budget(blind.distance, float(budget)).sum() < 3
    assert in_budget(found.distance, float(budget)).sum() >= 34


def _dlr(z: np.ndarray, y: int) -> float:
    falling = sorted(z, reverse=True)
    other = max(v for i, v in enumerate(z) if i != y)
    return -(z[y] - other) / (falling[0] - falling[2])


def _dlr_targeted(z: np.ndarray, y: int, t: int) -> float:
    falling = sorted(z, reverse=True)
    return -(z[y] - z[t]) / (falling[0] - (falling[2] + falling[3]) / 2)


def test_the_difference_of_logits_ratio_is_that_of_the_paper():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(50) % 6
    rivals = (labels + 1 + torch.arange(50) % 5) % 6
    plain = objective(logits, labels, logits, "dlr")
    aimed = towards(logits, labels, rivals, logits, "dlr")
    for i in range(50):
        z, y, t = logits[i].numpy(), int(labels[i]), int(rivals[i])
        assert float(plain[i]) == pytest.approx(_dlr(z, y), rel=1e-9)
        assert float(aimed[i]) == pytest.approx(_dlr_targeted(z, y, t), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("loss", ["dlr", "rescaled-cross-entropy", "probability-margin"])
def test_scale_and_shift_of_the_logits_do_not_matter(classes, loss):
    draw = torch.Generator().manual_seed(1)
    logits, clean = torch.randn(2, 30, classes, generator=draw).double()
    labels = torch.arange(30) % classes
    rivals = (labels + 1) % classes
    for f in (
        lambda z, c: objective(z, labels, c, loss),
        lambda z, c: towards(z, labels, rivals, c, loss),
    ):
        value = f(logits, clean)
        assert torch.isfinite(value).all()
        assert torch.allclose(value, f(1e5 * logits + 7, 1e5 * clean + 7), rtol=1e-6)


# --- projections --------------------------------------------------------------------------------


def _step_by_bisection(x: np.ndarray, w: np.ndarray, b: float, norm: str) -> np.ndarray:
    """The same root by brute force: a coordinate's size as a function of λ, λ by bisection."""
    gap = w @ x - b
    direction = -np.sign(w) * np.sign(gap)
    room = np.where(direction > 0, 1 - x, x) * (w != 0)

    def step(multiplier: float) -> np.ndarray:
        if norm == "linf":
            return direction * np.minimum(multiplier, room)
        return direction * np.minimum(multiplier * np.abs(w), room)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(w @ step(middle)) < abs(gap) else (low, middle)
    return step(high)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["linf", "l2"]), st.floats(-2, 2))
def test_steps_onto_a_hyperplane_are_the_smallest_in_the_box(seed, norm, offset):
    rng = np.random.default_rng(seed)
    x, w = rng.random(12), rng.normal(size=12) * (rng.random(12) > 0.2)
    b = float(w @ x + offset)
    ours = onto_hyperplane(
        torch.tensor(x)[None, None], torch.tensor(w)[None], torch.tensor([[w @ x - b]]), norm
    )[0, 0].numpy()
    assert ((x + ours >= -1e-12) & (x + ours <= 1 + 1e-12)).all()
    theirs = _step_by_bisection(x, w, b, norm)
    assert np.abs(w @ ours) == pytest.approx(np.abs(w @ theirs), abs=1e-7)
    order = np.inf if norm == "linf" else 2
    assert np.linalg.norm(ours, order) <= np.linalg.norm(theirs, order) + 1e-7


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(-1.5, 1.5))
def test_l1_steps_onto_a_hyperplane_solve_the_linear_programme(seed, offset):
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    x, w = rng.random(8), rng.normal(size=8)
    b = float(w @ x + offset)
    step = onto_hyperplane(
        torch.tensor(x)[None, None], torch.tensor(w)[None], torch.tensor([[w @ x - b]]), "l1"
    )[0, 0].numpy()
    # step = up − down, both at least 0, within the box
    solved = linprog(
        np.ones(16),
        A_eq=np.concatenate([w, -w])[None],
        b_eq=[b - w @ x],
        bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
    )
    if solved.success:
        assert w @ (x + step) == pytest.approx(b, abs=1e-9)
        assert np.abs(step).sum() == pytest.approx(solved.fun, abs=1e-7)
    else:
        assert abs(w @ (x + step) - b) > 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.05, 4))
def test_the_projection_onto_ball_and_box_at_once_is_the_nearest_point(seed, epsilon):
    rng = np.random.default_rng(seed)
    x, point = rng.random(10), rng.random(10) * 3 - 1
    ours = onto_l1_ball(
        torch.tensor(point)[None],
        torch.tensor(x)[None],
        torch.tensor([epsilon], dtype=torch.float64),
    )[0].numpy()
    assert np.abs(ours - x).sum() <= epsilon + 1e-9
    assert ((ours >= -1e-12) & (ours <= 1 + 1e-12)).all()
    # the nearest: no feasible direction leads closer, tried from many feasible points
    for _ in range(200):
        other = rng.random(10)
        reach = np.abs(other - x).sum()
        other = x + (other - x) * min(1, epsilon / reach)
        assert (ours - point) @ (other - ours) >= -1e-8


# --- the rest -----------------------------------------------------------------------------------


def _splitmix64(seed: int, count: int) -> list[int]:
    whole, out = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & whole
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & whole
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
        out.append(z ^ (z >> 31))
    return out


def test_the_stream_is_splitmix64():
    assert _splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # published
    keys = [1234567, 2**62 + 5]
    draws = stream(torch.tensor(keys), torch.tensor([0, 3]), 4)
    for row, (key, step) in zip(draws.tolist(), zip(keys, [0, 3], strict=True), strict=True):
        assert row == [(v >> 11) / 2**53 for v in _splitmix64(key, 16)[4 * step : 4 * step + 4]]


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [APGD(steps=30), FAB(steps=10), Square(queries=60)])
def test_each_is_a_foolbox_attack(norm, attack):
    model, x = Linear(), images(12)
    labels = model(x).argmax(1)
    budget = float(model.closest(x, norm).max()) * 0.7
    wrapped = foolbox_model(model, torch.device("cpu"))
    _, clipped, success = build_search(attack, norm)(
        wrapped, x, foolbox.Misclassification(labels), epsilons=[budget, 2 * budget]
    )
    for level, result, ok in zip((budget, 2 * budget), clipped, success, strict=True):
        order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
        reached = torch.linalg.vector_norm((result - x).flatten(1), ord=order, dim=1)
        assert (reached <= level + 1e-4).all()
        assert torch.equal(ok, model(result).argmax(1) != labels)
    if not isinstance(attack, Square):
        assert success[1].all()


class Dice(torch.nn.Module):
    """A linear model whose logits are shaken at every pass."""

    def __init__(self, noise: float = 3) -> None:
        super().__init__()
        self.noise = noise
        self.inner = Linear()
        self.source = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return logits + self.noise * torch.randn(logits.shape, generator=self.source).double()


@pytest.mark.one_of_many
@pytest.mark.parametrize("eot", [1, 60])
def test_lucky_passes_of_a_random_model_are_no_success(eot):
    x, inner = images(100), Linear()
    labels = inner(x).argmax(1)
    # out of reach at this budget; a shake turns the class of one pass, but not that of the mean
    sure = inner(x).diff(dim=1).abs()[:, 0] > 1.5
    own = block(x[sure], labels[sure])
    assert (inner.closest(x[sure], "linf") > 0.001).all()
    model = Dice()
    flips = torch.stack([model(own.images).argmax(1) != own.labels for _ in range(20)])
    assert flips.any(0).double().mean() > 0.9
    attack = {"kind": "apgd", "steps": 5, "restarts": 4, "eot": eot}
    found = attack_block(Dice(), own, make("linf", attack, epsilon=["0.0001"]), 64)
    lucky = torch.isfinite(found.distance)
    assert lucky.double().mean() < 0.5


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_random_models_clean_verdicts_are_those_of_mean_logits_whatever_the_batch(batch_size):
    x, inner = images(300), Linear()
    labels = inner(x).argmax(1)
    # the gap's standard deviation is 1.27 in a pass, and 0.28 in a mean over 20
    gap = inner(x).diff(dim=1).abs()[:, 0]
    sure = (gap > 1) & (gap < 1.4)
    own, model = block(x[sure], labels[sure]), Dice(0.9)
    single = torch.stack([model(own.images).argmax(1) != own.labels for _ in range(20)])
    assert len(own.labels) > 10
    assert 0.1 < single.double().mean() < 0.3
    attack = {"kind": "noise", "draws": 1}
    found = attack_block(Dice(0.9), own, make("linf", attack, epsilon=["0.0001"]), batch_size)
    assert torch.equal(found.predicted, own.labels)


def test_names_are_those_of_the_literature():
    assert labels_of(load_protocol("autoattack").attacks) == (
        "apgd-ce",
        "apgd-t",
        "fab-t",
        "square",
    )
    assert labels_of(load_protocol("autoattack-rand").attacks) == ("apgd-ce", "apgd-dlr")
    assert labels_of(load_protocol("autoattack-plus").attacks) == (
        *("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    )
    with pytest.raises(ProtocolError, match="heads for targets of its own"):
        make("linf", {"kind": "apgd", "targets": 3}, target="next")
    with pytest.raises(ProtocolError, match="cannot be targeted"):
        make("linf", FAB_TABLE, target="next")
    with pytest.raises(ProtocolError, match="at least 2"):
        make("linf", {"kind": "square", "queries": 1})
