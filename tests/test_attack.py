"""The engine against closed forms, and against each of foolbox's traps."""

import math

import pytest
import torch
from helpers.attacked import DUAL, Linear, Small, block, images, make, right
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustkit import protocol as protocols
from robustkit.attacks import Block, Outcomes, attack_block, in_budget
from robustkit.attacks.draws import generator, in_ball, on_sphere
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.library import foolbox, foolbox_model
from robustkit.attacks.search import Search
from robustkit.errors import DataError, EvaluationFailed
from robustkit.geometry import distance, project, steepest_step
from robustkit.seeding import seeded

NORMS = list(DUAL)

FGSM = {"kind": "fgsm"}
BIM = {"kind": "pgd", "steps": 20, "relative_step": "1/10", "random_start": False}
PGD = {"kind": "pgd", "steps": 100, "relative_step": "1/16"}
MIFGSM = {"kind": "mifgsm", "steps": 20, "relative_step": "1/10"}
DDN, FMN = {"kind": "ddn", "steps": 40}, {"kind": "fmn", "steps": 40}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [FGSM, BIM, PGD, MIFGSM], ids=["fgsm", "bim", "pgd", "mifgsm"])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_attacks_at_fixed_budgets_are_exact_on_linear_models(norm, attack, loss):
    model, x = Linear(), images(20 if attack is PGD else 60)
    truth = model.closest(x, norm)
    levels = [f"{float(q):.6f}" for q in truth.quantile(torch.tensor([0.1, 0.3, 0.5]).double())]
    assert float(levels[-1]) < 0.3  # the ball stays inside the box
    outcomes = attack_block(
        model, right(model, x), make(norm, attack | {"loss": loss}, epsilon=levels), 64
    )
    for level in map(float, levels):
        clear = (truth - level).abs() > 1e-5
        assert torch.equal(in_budget(outcomes.distance, level)[clear], (truth <= level)[clear])


def test_a_transfer_attack_moves_by_the_surrogate_and_is_judged_by_the_model():
    model, surrogate, x = Linear(seed=0), Linear(seed=1), images(200)
    surrogate.w = 0.6 * model.w + 0.8 * surrogate.w
    levels = ("0.01", "0.02", "0.04")
    queries, model.rows = len(x), []
    outcomes = attack_block(
        model,
        right(model, x),
        make("linf", FGSM, epsilon=levels),
        64,
        surrogate=surrogate,
    )
    sign = model.margin(x).sign()
    # the surrogate climbs its own loss of the true class, whatever it predicts itself
    loss = (model.w * surrogate.w.sign()).sum()
    for level in map(float, levels):
        left = sign * model.margin(x) - level * loss
        broken = torch.stack(
            [sign * model.margin(x) < f * loss for f in map(float, levels) if f <= level]
        ).any(0)
        clear = left.abs() > 1e-4
        assert torch.equal(in_budget(outcomes.distance, level)[clear], broken[clear])
    assert 0 < in_budget(outcomes.distance, 0.04).sum() < 200
    assert in_budget(outcomes.distance, 0.04).sum() < (model.closest(x, "linf") <= 0.04).sum()
    # predicting twice, then at most one query a level, and the check of each that is claimed
    assert sum(model.rows) <= queries * (2 + 2 * len(levels))


def test_a_network_that_is_its_own_surrogate_loses_only_what_the_last_step_finds():
    model, x = Small(), images(40, side=8)
    own = attack_block(model, right(model, x), make("linf", FGSM, epsilon=("1/50", "1/10")), 16)
    other = attack_block(
        model,
        right(model, x),
        make("linf", FGSM, epsilon=("1/50", "1/10")),
        16,
        surrogate=Small(),
    )
    assert torch.equal(own.distance, other.distance)
    assert 0 < torch.isfinite(own.distance).sum() < 40


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        ("linf", {"kind": "deepfool"}),
        ("l2", {"kind": "deepfool"}),
        ("l2", {"kind": "ddn"}),
        ("linf", {"kind": "fmn"}),
        ("l2", {"kind": "fmn"}),
        ("l1", {"kind": "fmn"}),
        ("l2", {"kind": "cw", "steps": 200, "step_size": "1/400"}),
    ],
)
def test_minimal_norm_attacks_come_close_to_the_closed_form(norm, attack):
    # Carlini and Wagner's takes nine times 200 steps
    model, x = Linear(), images(10 if attack["kind"] == "cw" else 100)
    outcomes = attack_block(model, right(model, x), make(norm, attack), 50)
    ratio = outcomes.distance / model.closest(x, norm)
    assert ratio.min() > 1 - 1e-5
    assert (ratio <= 1.25).double().mean() >= 0.95


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("norm", "kind"), [("l2", "boundary"), ("l2", "hopskipjump"), ("linf", "hopskipjump")]
)
def test_decision_attacks_find_true_perturbations_image_by_image(norm, kind):
    model, x = Linear(), images(3)
    protocol = make(norm, {"kind": kind, "steps": 20 if kind == "boundary" else 3})
    together = attack_block(model, right(model, x), protocol, 3)
    assert (together.distance >= model.closest(x, norm) * (1 - 1e-6)).all()
    assert torch.isfinite(together.distance).all()
    alone = attack_block(model, Block(x[2:], model(x[2:]).argmax(1), ["image 2"], 2), protocol, 1)
    assert alone.distance[0] == together.distance[2]


@pytest.mark.parametrize("norm", NORMS)
def test_noise_stays_in_its_ball_and_finds_less_than_an_attack(norm):
    model, x = Linear(), images(60)
    level = f"{float(model.closest(x, norm).median()):.5f}"
    noise = attack_block(
        model, right(model, x), make(norm, {"kind": "noise", "draws": 20}, epsilon=[level]), 64
    )
    attack = attack_block(model, right(model, x), make(norm, FGSM, epsilon=[level]), 64)
    found = torch.isfinite(noise.distance)
    assert found.sum() < torch.isfinite(attack.distance).sum()
    assert in_budget(noise.distance[found], float(level)).all()


@pytest.mark.thorough
@given(st.data())
@settings(max_examples=8, deadline=None)
def test_order_and_batch_size_change_nothing_on_float64_linear_models(data):
    model, x = Linear(), images(12)
    order = torch.tensor(data.draw(st.permutations(range(12))))
    size = data.draw(st.integers(1, 15))
    norm = data.draw(st.sampled_from(NORMS))
    pgd = {"kind": "pgd", "steps": 6, "relative_step": "1/4", "restarts": 2}
    protocol = make(
        norm, pgd, {"kind": "noise", "draws": 3}, epsilon=["1/200", "1/100", "1/50", "1/10"]
    )
    whole = right(model, x)
    first = attack_block(model, whole, protocol, 12)
    shuffled = Block(x[order], whole.labels[order], [whole.ids[i] for i in order], 0)
    second = attack_block(model, shuffled, protocol, size)
    assert torch.equal(first.distance[order], second.distance)
    assert torch.equal(first.perturbed[order], second.perturbed)
    assert [first.fooled_by[i] for i in order] == second.fooled_by


@pytest.mark.thorough
def test_batch_size_changes_hardly_anything_on_a_float32_network():
    model, x = Small(), images(40, side=8)
    protocol = make("linf", PGD | {"steps": 20}, epsilon=["1/50", "1/20", "1/10"])
    one, many = (attack_block(model, right(model, x), protocol, size) for size in (7, 40))
    both = torch.isfinite(one.distance) & torch.isfinite(many.distance)
    assert torch.equal(torch.isfinite(one.distance), torch.isfinite(many.distance))
    assert (one.distance - many.distance)[both].abs().max() <= 1e-3


def test_a_seed_gives_the_same_draws_and_another_seed_others():
    from dataclasses import replace

    model, x = Small(), images(20, side=8)
    protocol = make("linf", {"kind": "noise", "draws": 3}, epsilon=["3/10"])
    first, again = (attack_block(model, right(model, x), protocol, 20) for _ in range(2))
    other = attack_block(model, right(model, x), replace(protocol, seed=1), 20)
    assert torch.equal(first.perturbed, again.perturbed)
    assert not torch.equal(first.perturbed, other.perturbed)


def test_clean_mistakes_are_never_attacked_and_count_as_fooled_at_zero():
    model, x = Linear(), images(30)
    labels = model(x).argmax(1)
    labels[:10] = 1 - labels[:10]
    model.rows.clear()
    outcomes = attack_block(model, block(x, labels), make("linf", FGSM, epsilon=["1/1000000"]), 30)
    assert (outcomes.distance[:10] == 0).all()
    assert outcomes.fooled_by[:10] == ["clean"] * 10
    assert torch.equal(outcomes.perturbed[:10], x[:10])
    # thirty clean, twice, to see whether the model draws at random; then only the twenty that were
    # right: one step and its outcome
    assert model.rows == [30, 30, 20, 20]


def test_an_image_leaves_at_its_first_success_and_restarts_are_for_survivors():
    model, x = Linear(), images(50)
    protocol = make("linf", PGD | {"steps": 40, "restarts": 3}, epsilon=["3/10"])
    attack_block(model, right(model, x), protocol, 50)
    # every image falls at this budget long before the first restart is over
    assert sum(model.rows) < 50 * 40


def test_slots_are_refilled_so_that_batches_stay_full():
    model, x = Linear(), images(64)
    levels = [
        f"{float(q):.6f}"
        for q in model.closest(x, "linf").quantile(torch.linspace(0.1, 0.9, 5).double())
    ]
    attack_block(model, right(model, x), make("linf", BIM, epsilon=levels), 16)
    attacking = model.rows[4:]
    assert sum(n == 16 for n in attacking) / len(attacking) > 0.8


def test_the_callers_model_is_left_as_it_was():
    from robustkit import checkpoint

    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(64, 3)
    ).train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    frozen, x = checkpoint.wrap(model), images(10, side=8)
    attack_block(frozen, right(frozen, x), make("l2", PGD, {"kind": "ddn", "steps": 5}), 10)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_global_random_state_is_untouched():
    import numpy as np

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy()
    model, x = Linear(), images(4)
    attack_block(
        model,
        right(model, x),
        make("l2", PGD, {"kind": "cw", "steps": 5}, {"kind": "boundary", "steps": 3}),
        4,
    )
    assert torch.equal(torch.rand(3), expected)
    assert (np.random.get_state()[1] == before).all()


def test_saturated_logits_hide_from_cross_entropy_but_not_from_the_margin():
    model, x = Linear(scale=1e6), images(60)
    level = f"{float(model.closest(x, 'linf').max() * 1.01):.6f}"
    # float32 logits, as networks have: softmax rounds to exactly 0 and 1
    model.forward = lambda x: Linear.forward(model, x).float()  # type: ignore[method-assign]
    hidden = attack_block(model, right(model, x), make("linf", BIM, epsilon=[level]), 60)
    seen = attack_block(
        model, right(model, x), make("linf", BIM | {"loss": "margin"}, epsilon=[level]), 60
    )
    assert torch.isfinite(seen.distance).all()
    assert torch.isfinite(hidden.distance).double().mean() < 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("attack", [PGD, {"kind": "deepfool"}])
def test_logits_that_are_not_finite_are_an_error_and_no_success(value, attack):
    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return torch.where(x.flatten(1).amax(1, keepdim=True) > 0.71, value, logits)

    model = Broken()
    with pytest.raises(EvaluationFailed, match=r"logits .* NaN or infinite .*at image \d+"):
        attack_block(model, right(model, images(20)), make("linf", attack, epsilon=["2/10"]), 20)


def test_an_attack_that_lies_is_not_believed(monkeypatch):
    from robustkit.attacks import minimal_norm

    class Liar:
        def run(self, model, x, criterion):
            return x + 100  # out of the box, and clamped back it fools nobody

    monkeypatch.setattr(minimal_norm, "build_minimal_norm", lambda attack, norm: Liar())
    model = Linear()
    model.w = torch.ones(100).double()
    x = images(5) + 0.25
    outcomes = attack_block(model, right(model, x), make("l2", {"kind": "ddn"}), 5)
    assert torch.isinf(outcomes.distance).all()
    assert torch.equal(outcomes.perturbed, x)


def test_what_leaves_the_box_counts_where_the_box_ends(monkeypatch):
    from robustkit.attacks import minimal_norm

    class Careless:
        def run(self, model, x, criterion):
            return x - 100

    monkeypatch.setattr(minimal_norm, "build_minimal_norm", lambda attack, norm: Careless())
    model = Linear()
    model.w = torch.ones(100).double()
    x = images(5) + 0.25
    outcomes = attack_block(model, right(model, x), make("l2", {"kind": "ddn"}), 5)
    assert torch.equal(outcomes.perturbed, torch.zeros_like(x))
    assert torch.allclose(outcomes.distance, x.double().flatten(1).norm(dim=1))


class Claimant(Search):
    """Claims at once that a shift of every pixel succeeds: one shift for each restart."""

    norm = "linf"
    steps = 0
    random_start = False

    def __init__(self, *shifts: float) -> None:
        self.shifts = torch.tensor(shifts)
        self.restarts = len(shifts)

    def start(self, state, sources):
        shift = self.shifts[state.restart_index].view(-1, 1, 1, 1)
        return state.started(state.images + shift, None)

    def value(self, logits, state, targeted):
        return logits[:, 0]

    def claims(self, state, fooled):
        return torch.ones_like(fooled), state.x


@pytest.mark.parametrize(
    ("epsilon", "shifts", "found"),
    [
        ("1/10", (-0.08,), 0.08),
        ("1/100", (-0.08,), math.inf),  # fools, but outside its ball
        ("2", (-0.8,), math.inf),  # fools inside its ball, but below the box
        ("1/10", (-0.02,), math.inf),  # does not fool
        ("1/10", (-0.2, -0.9, 0.02, -0.09), 0.09),  # three bad claims, then one that holds
    ],
)
def test_a_search_that_lies_is_not_believed(monkeypatch, epsilon, shifts, found):
    from robustkit.attacks import engine, forecast

    for module in (engine, forecast):
        monkeypatch.setattr(module, "build_search", lambda attack, norm: Claimant(*shifts))
    model, x = Linear(), torch.full((3, 1, 10, 10), 0.55)
    model.w = torch.ones(100).double()  # the boundary lies 0.05 below
    outcomes = attack_block(model, right(model, x), make("linf", FGSM, epsilon=[epsilon]), 2)
    assert outcomes.distance.tolist() == pytest.approx([found] * 3, abs=1e-7)
    assert outcomes.fooled_by == [None if found == math.inf else "fgsm"] * 3


@pytest.mark.parametrize("norm", NORMS)
def test_a_search_that_leaves_its_ball_by_a_hair_is_not_believed(monkeypatch, norm):
    from robustkit.attacks import engine

    monkeypatch.setattr(engine, "build_search", lambda attack, norm: Claimant(-0.08))
    model, x = Linear(), torch.full((3, 1, 10, 10), 0.55)
    model.w = torch.ones(100).double()
    length = {"linf": 0.08, "l2": 0.8, "l1": 8.0}[norm]
    for budget, holds in ((length * 0.9999, False), (length * 1.0001, True)):
        protocol = make(norm, FGSM, epsilon=[f"{budget:.6f}"])
        outcomes = attack_block(model, right(model, x), protocol, 2)
        assert torch.isfinite(outcomes.distance).tolist() == [holds] * 3
        assert outcomes.fooled_by == ["fgsm" if holds else None] * 3


def test_a_search_that_leaves_its_ball_by_a_hair_goes_on_until_it_is_inside(monkeypatch):
    from robustkit.attacks import engine

    class Drifting(Search):
        norm, steps, random_start = "linf", 3, False

        def start(self, state, sources):
            return state.started(state.images - 1.0001 * state.epsilon.view(-1, 1, 1, 1), None)

        def value(self, logits, state, targeted):
            return logits[:, 0]

        def advance(self, state, value, gradient):
            state.x = state.x + 0.00006 * state.epsilon.view(-1, 1, 1, 1)

    monkeypatch.setattr(engine, "build_search", lambda attack, norm: Drifting())
    model, x = Linear(), torch.full((3, 1, 10, 10), 0.55)
    model.w = torch.ones(100).double()
    outcomes = attack_block(model, right(model, x), make("linf", FGSM, epsilon=["0.1"]), 2)
    assert outcomes.distance.tolist() == pytest.approx([0.099998] * 3, abs=1e-6)


def test_a_search_that_leaves_the_box_above_is_not_believed(monkeypatch):
    from robustkit.attacks import engine

    monkeypatch.setattr(engine, "build_search", lambda attack, norm: Claimant(0.6))
    model, x = Linear(), torch.full((3, 1, 10, 10), 0.45)
    model.w = torch.ones(100).double()
    assert (model(x + 0.6).argmax(1) != model(x).argmax(1)).all()
    outcomes = attack_block(model, right(model, x), make("linf", FGSM, epsilon=["2"]), 2)
    assert torch.isinf(outcomes.distance).all()


def test_progress_rises_to_the_whole():
    shares = []
    model, x = Linear(), images(20)
    ddn = {"kind": "ddn", "steps": 5}
    attacks = make("l2", PGD | {"steps": 5, "restarts": 2}, ddn, epsilon=["1/100", "1/50"])
    attack_block(model, right(model, x), attacks, 3, progress=shares.append)
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert any(0.5 < s < 1 for s in shares)


@pytest.mark.parametrize(
    "attack",
    [
        {"kind": "noise", "draws": 3},
        {"kind": "noise", "draws": 3, "distribution": "gaussian"},
        {"kind": "pgd", "steps": 2, "relative_step": "1/10", "restarts": 3},
        {"kind": "apgd", "steps": 2, "restarts": 3},
        {"kind": "fab", "steps": 2, "restarts": 3},
        {"kind": "square", "queries": 2, "restarts": 3},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
@pytest.mark.parametrize("norm", NORMS)
def test_every_restart_of_every_image_at_every_budget_starts_elsewhere(monkeypatch, attack, norm):
    from robustkit.attacks import engine

    changes = {}

    def observed(attack, norm, of=engine.build_search):
        own = of(attack, norm)
        begin = own.start

        def start(state, sources):
            state = begin(state, sources)
            # in units of the budget, so that the same draw is the same at every budget
            change = (state.x - state.images) / state.epsilon.view(-1, 1, 1, 1)
            rows = zip(
                state.images[:, 0, 0, 0], state.epsilon, state.restart_index, change, strict=True
            )
            changes.update({tuple(map(float, row[:3])): row[3] for row in rows})
            return state

        own.start = start
        return own

    monkeypatch.setattr(engine, "build_search", observed)
    # budgets out of reach, so that every restart is needed
    model, x = Linear(), images(3)
    x = x[model.closest(x, norm) > 1e-3]
    levels = ["1/100000", "1/50000"]
    attack_block(model, right(model, x), make(norm, attack, epsilon=levels, search="scan"), 4)
    assert len(changes) == 2 * 3 * len(x)
    first = attack["kind"] == "fab"  # whose first start is the image itself
    moved = [change for (_, _, restart), change in changes.items() if restart or not first]
    assert all(bool(change.abs().max() > 0) for change in moved)
    # in L1 two may fall on the same pixel by chance
    distinct = {tuple(change.flatten().mul(50).round().tolist()) for change in moved}
    assert len(distinct) > (0.7 if norm == "l1" else 0.99) * len(moved)


def test_an_attack_that_returns_nan_fails_loudly(monkeypatch):
    from robustkit.attacks import minimal_norm

    class Broken:
        def run(self, model, x, criterion):
            return x * math.nan

    monkeypatch.setattr(minimal_norm, "build_minimal_norm", lambda attack, norm: Broken())
    model = Linear()
    with pytest.raises(EvaluationFailed, match="not finite at image 0"):
        attack_block(model, right(model, images(5)), make("l2", {"kind": "ddn"}), 5)


def test_labels_outside_the_models_classes_are_an_error():
    with pytest.raises(DataError, match="label 2 of image 1 is outside the model's 2 classes"):
        attack_block(Linear(), block(images(2), torch.tensor([0, 2])), make("linf", FGSM), 2)


@pytest.mark.parametrize("target", ["next", "random", "least-likely"])
@pytest.mark.parametrize("attack", [PGD | {"steps": 40}, DDN, FMN])
def test_targeted_attacks_reach_their_target_and_nothing_else_counts(target, attack):
    model, x = Small(), images(30, side=8)
    own = right(model, x)
    outcomes = attack_block(model, own, make("l2", attack, epsilon=["3"], target=target), 30)
    assert (outcomes.classes != own.labels).all()
    found = torch.isfinite(outcomes.distance)
    assert found.any()
    assert torch.equal(model(outcomes.perturbed[found]).argmax(1), outcomes.classes[found])
    if target == "least-likely":
        assert torch.equal(outcomes.classes, model(x).argmin(1))


def test_every_claim_holds_when_recomputed():
    model, x = Small(), images(50, side=8)
    own = right(model, x)
    for norm, level in (("linf", "1/20"), ("l2", "1/2"), ("l1", "3")):
        outcomes: Outcomes = attack_block(
            model, own, make(norm, FGSM, PGD | {"steps": 20}, epsilon=[level]), 16
        )
        found = torch.isfinite(outcomes.distance)
        assert found.any()
        p = outcomes.perturbed[found]
        assert ((p >= 0) & (p <= 1)).all()
        assert (model(p).argmax(1) != own.labels[found]).all()
        assert torch.equal(distance(x[found], p, norm), outcomes.distance[found])
        assert in_budget(outcomes.distance[found], float(protocols.parse_epsilon(level))).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_classes_are_foolbox_attacks_and_agree_with_the_engine(norm):
    model, x = Small(), images(20, side=8)
    own = right(model, x)
    attack = ASCENT[norm](steps=20, rel_stepsize=0.1, random_start=False)
    wrapped = foolbox_model(model, torch.device("cpu"))
    level = {"linf": 0.05, "l2": 0.4, "l1": 2.0}[norm]
    _, clipped, success = attack(
        wrapped, x, foolbox.Misclassification(own.labels), epsilons=[level]
    )
    outcomes = attack_block(model, own, make(norm, BIM, epsilon=[str(level)]), 20)
    # the engine keeps the first success, foolbox judges the last iterate alone
    assert success.any()
    assert not (success[0] & torch.isinf(outcomes.distance)).any()
    assert clipped[0].shape == x.shape


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_random_start_steps_are_foolboxs_own(norm):
    # logits × 5 apart: nothing is fooled, so that ours too runs to the last step
    model, x = Small(), images(10, side=8)
    labels = model(x).argmax(1)
    model.fc.bias[labels.mode().values] += 100
    labels = model(x).argmax(1)
    wrapped = foolbox_model(model, torch.device("cpu"))
    name = {"linf": "LinfBasicIterativeAttack", "l2": "L2BasicIterativeAttack"}[norm]
    theirs = getattr(foolbox.attacks, name)(rel_stepsize=0.2, steps=7)
    ours = ASCENT[norm](steps=7, rel_stepsize=0.2, random_start=False)
    criterion = foolbox.Misclassification(labels)
    difference = ours.run(wrapped, x, criterion, epsilon=0.1) - theirs.run(
        wrapped, x, criterion, epsilon=0.1
    )
    assert difference.abs().max() < 1e-5


def _l1_projection_by_bisection(change: Tensor, radius: float) -> Tensor:
    low, high = 0.0, float(change.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        if float((change.abs() - middle).clamp(min=0).sum()) > radius:
            low = middle
        else:
            high = middle
    return (change.abs() - high).clamp(min=0) * change.sign()


@given(st.integers(0, 10_000), st.floats(0.01, 3.0))
@settings(max_examples=40, deadline=None)
def test_the_l1_projection_is_the_nearest_point(seed, radius):
    source = torch.Generator().manual_seed(seed)
    change = torch.randn(1, 30, generator=source) * 0.1
    middle = torch.full((1, 30), 0.5)
    found = project(middle + change, middle, torch.tensor([radius]), "l1") - middle
    expected = (
        change if change.abs().sum() <= radius else _l1_projection_by_bisection(change, radius)
    )
    assert (found - expected.clamp(-0.5, 0.5)).abs().max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 2.0))
@settings(max_examples=20, deadline=None)
def test_projections_land_in_ball_and_box_and_are_idempotent(norm, seed, size):
    source = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 1, 5, 5, generator=source)
    x = clean + torch.randn(clean.shape, generator=source)
    budget = torch.full((3,), size)
    once = project(x, clean, budget, norm)
    assert in_budget(distance(clean, once, norm), size).all()
    assert ((once >= 0) & (once <= 1)).all()
    assert (project(once, clean, budget, norm) - once).abs().max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_no_feasible_step_gains_more_than_the_steepest(norm, seed):
    """In L1 also where the box is in the way: the step is a linear programme's optimum."""
    source = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 1, 4, 4, generator=source)
    if norm != "l1":
        x = x * 0.2 + 0.4
    gradient = torch.randn(x.shape, generator=source)
    step = steepest_step(x, gradient.clone(), torch.tensor([0.3]), norm) - x
    assert in_budget(distance(x, x + step, norm), 0.3).all()
    for _ in range(50):
        rival = (x + 0.3 * in_ball(norm, x.shape[1:], source)).clamp(0, 1) - x
        assert (gradient * rival).sum() <= (gradient * step).sum() + 1e-6
    if norm == "l1":
        order = gradient.flatten().abs().argsort(descending=True)
        best, left = 0.0, 0.3
        for i in order.tolist():
            slope, value = float(gradient.flatten()[i]), float(x.flatten()[i])
            move = min(left, 1 - value if slope > 0 else value)
            best, left = best + move * abs(slope), left - move
        assert abs(float((gradient * step).sum()) - best) < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_moves_nothing_and_a_tiny_one_a_whole_step(norm):
    x = torch.full((2, 1, 4, 4), 0.5)
    gradient = torch.zeros(x.shape)
    gradient[1, 0, 0, 0] = 1e-30
    step = steepest_step(x, gradient, torch.tensor([40.0, 0.4]), norm) - x
    assert step[0].abs().max() == 0
    assert abs(float(distance(x, x + step, norm)[1]) - 0.4) < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_draws_fill_the_unit_ball_uniformly(norm):
    """The radius of a uniform point in n dimensions has the distribution function r^n."""
    order = {"linf": math.inf, "l2": 2.0, "l1": 1.0}[norm]
    shape = torch.Size((1, 2, 2))
    radii = torch.tensor(
        [
            float(torch.linalg.vector_norm(in_ball(norm, shape, generator("ball", i)), ord=order))
            for i in range(2000)
        ]
    )
    assert radii.max() <= 1 + 1e-6
    uniform = (radii**4).sort().values
    # Kolmogorov's distance at level 0.001 for 2,000 draws is 0.0436
    assert (uniform - (torch.arange(2000) + 0.5) / 2000).abs().max() < 0.0436
    sphere = on_sphere(norm, shape, generator("sphere"))
    assert float(torch.linalg.vector_norm(sphere, ord=order)) == pytest.approx(1)


def test_zero_gradients_move_nothing_and_break_nothing():
    class Flat(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0 + torch.tensor([1.0, 0.0]) + 0 * x.sum()

    model, x = Flat(), images(5)
    for norm in NORMS:
        outcomes = attack_block(model, right(model, x), make(norm, FGSM, BIM, MIFGSM), 5)
        assert torch.isinf(outcomes.distance).all()
    both = make("l2", {"kind": "ddn", "steps": 5}, {"kind": "fmn", "steps": 5})
    assert torch.isinf(attack_block(model, right(model, x), both, 5).distance).all()


@pytest.mark.parametrize("norm", NORMS)
def test_equal_logits_without_a_gradient_break_nothing(norm):
    class Flat(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0

    model, x = Flat(), images(5)
    fmn = make(norm, {"kind": "fmn", "steps": 5})
    outcomes = attack_block(model, right(model, x), fmn, 5)
    assert torch.isinf(outcomes.distance).all()


def test_random_state_is_restored_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(1, torch.device("cpu")):
        _ = float(torch.rand(3)[0]) / 0
    assert torch.equal(torch.get_rng_state(), before)
