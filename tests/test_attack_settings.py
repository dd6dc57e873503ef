"""That what a protocol says reaches its attack: every number, target, loss and seed."""

import dataclasses
import hashlib
from functools import cache

import pytest
import torch
from helpers.attacked import Linear, Small, block, images, make, right

from robustkit.attacks import attack_block, build_search
from robustkit.attacks.build import SEARCHES, build_minimal_norm
from robustkit.attacks.draws import in_ball
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.library import foolbox, foolbox_model
from robustkit.attacks.objectives import towards
from robustkit.attacks.search import Search
from robustkit.files import names
from robustkit.protocol import APGD, BEYOND, BUDGETLESS, KINDS, PGD, load_protocol, norms_of

OTHERS = {
    "deepfool": {"steps": 1, "candidates": 2, "overshoot": "1/2"},
    "ddn": {"steps": 7, "gamma": "1/2"},
    "fmn": {"steps": 7, "max_step": "1/50", "gamma": "1/2"},
    "fab": {
        "steps": 3,
        "restarts": 2,
        "targets": 2,
        "alpha_max": "1/1000",
        "eta": "5/4",
        "beta": "1/4",
        "patience": 2,
    },
    "cw": {"steps": 20, "search_steps": 2, "step_size": "1/2", "confidence": "1/2"},
    "apgd": {"steps": 9, "rho": "1/20", "restarts": 2, "loss": "dlr", "eot": 2},
    "square": {"queries": 40, "restarts": 2, "p_init": "1/20"},
    "mifgsm": {"steps": 9, "relative_step": "1/50", "momentum": "0", "loss": "margin"},
    "noise": {"draws": 3, "distribution": "gaussian"},
}
"""for each attack, values unlike the ones it is tried with below"""
USUAL = {
    "deepfool": {"steps": 20, "candidates": 5, "overshoot": "1/50"},
    "ddn": {"steps": 20},
    "fmn": {"steps": 20},
    "fab": {"steps": 10, "targets": 0},
    "cw": {"steps": 40, "search_steps": 4, "step_size": "1/100"},
    "apgd": {"steps": 20},
    "square": {"queries": 100},
    "mifgsm": {"steps": 20, "relative_step": "1/10"},
    "noise": {"draws": 1},
}


class Ten(torch.nn.Module):
    """Ten classes and a curved boundary."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.first = torch.randn(64, 32, generator=draw) / 4
        self.last = torch.randn(32, 10, generator=draw) / 3
        self.asked = hashlib.sha256()
        self.eval()

    def forward(self, x):
        self.asked.update(x.detach().numpy().tobytes())
        return torch.tanh(x.flatten(1) @ self.first) @ self.last


def asked_and_found(attack: dict) -> tuple[str, bytes]:
    """What can be told of an attack from outside: what it asks the network, and what it finds."""
    model, x = Ten(), images(6, side=8)
    # out of reach for most, so that each image is attacked to the last step
    found = attack_block(model, right(model, x), make("l2", attack, epsilon=["1/20"]), 6)
    return model.asked.hexdigest(), found.perturbed.numpy().tobytes()


@cache
def usually(kind: str) -> tuple[str, bytes]:
    return asked_and_found({"kind": kind} | USUAL[kind])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("kind", OTHERS)
def test_an_attack_does_the_same_again(kind):
    assert asked_and_found({"kind": kind} | USUAL[kind]) == usually(kind)


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, values in OTHERS.items() for key in values]
)
def test_every_number_of_a_protocol_changes_what_its_attack_does(kind, key):
    changed = {"kind": kind} | USUAL[kind] | {key: OTHERS[kind][key]}
    assert asked_and_found(changed) != usually(kind)


def test_the_next_class_is_the_one_after_the_label():
    model, x = Small(), images(9, side=8)
    labels = torch.arange(9) % 3
    protocol = make("linf", {"kind": "fgsm"}, target="next")
    assert attack_block(model, block(x, labels), protocol, 9).classes.tolist() == [1, 2, 0] * 3


def test_random_targets_are_all_the_other_classes_and_come_from_the_protocols_seed():
    model, x = Ten(), images(200, side=8)
    own = block(x, torch.full((200,), 4))
    protocol = make("l2", {"kind": "fgsm"}, target="random")
    drawn = [
        attack_block(model, own, dataclasses.replace(protocol, seed=s), 64).classes
        for s in (0, 0, 1)
    ]
    assert set(drawn[0].tolist()) == set(range(10)) - {4}
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_margin_towards_a_class_is_in_logits():
    logits = torch.tensor([[3.0, 1.0, 0.5, 0.25], [0.0, 4.0, 2.0, 1.0]])
    value = towards(logits, torch.tensor([0, 1]), torch.tensor([2, 3]), logits, "margin")
    assert value.tolist() == [-2.5, -3.0]


@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "rescaled-cross-entropy"])
def test_apgd_under_foolboxs_targeted_criterion_heads_for_the_target(loss):
    model, x = Linear(), images(40)
    labels = model(x).argmax(1)
    criterion = foolbox.criteria.TargetedMisclassification(1 - labels)
    radius = float(model.closest(x, "l2").quantile(0.5))
    attack = build_search(APGD(steps=40, loss=loss), "l2")
    _, _, success = attack(foolbox_model(model, torch.device("cpu")), x, criterion, epsilons=radius)
    assert success.float().mean() == pytest.approx(0.5, abs=0.05)


def test_a_later_restart_under_foolbox_adds_to_what_earlier_ones_found():
    # a boundary so thin that a random start has to lie near it, with gradients that vanish else
    class Pocket(torch.nn.Module):
        def forward(self, x):
            inside = (x.flatten(1)[:, 0] - 0.8).abs() < 0.05
            return torch.stack([torch.zeros(len(x)), inside * 2.0 - 1], 1) + 0 * x.sum()

    x, seen = torch.full((60, 1, 1, 2), 0.5), []
    labels, model = torch.zeros(60, dtype=torch.int64), Pocket().eval()
    for restarts in (1, 2, 12):
        attack = build_search(PGD(steps=1, relative_step=0.001, restarts=restarts), "linf")
        _, _, success = attack(foolbox_model(model, torch.device("cpu")), x, labels, epsilons=0.5)
        seen.append(int(success.sum()))
    # each start falls into the pocket with probability 1/10
    assert 0 < seen[0] < seen[1] < seen[2] < 60


def test_no_pass_is_made_for_a_batch_that_is_fooled_already():
    model, x = Linear(), images(10)
    attack = build_search(PGD(steps=20, relative_step=0.1, restarts=50), "linf")
    labels = model(x).argmax(1)
    model.rows.clear()
    attack(foolbox_model(model, torch.device("cpu")), x, 1 - labels, epsilons=0.1)
    assert len(model.rows) < 10


@pytest.mark.one_of_many
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_drawn_for_an_image_does_not_depend_on_global_state(seed):
    class Flat(torch.nn.Module):
        """No gradient anywhere, so that DDN has to draw its directions."""

        def forward(self, x):
            far = (x.flatten(1) - 0.5).abs().amax(1) > 0.3
            return torch.stack([torch.zeros(len(x)), far * 2.0 - 1], 1) + 0 * x.sum()

    x, drawn, walked = images(4, side=4), [], []
    for state in (seed, seed + 7):
        torch.manual_seed(state)
        drawn += [in_ball(norm, x[0].shape, torch.Generator().manual_seed(3)) for norm in ("l1",)]
        torch.manual_seed(state)
        attack = build_minimal_norm(load_protocol("ddn").attacks[0], "l2")
        model = foolbox_model(Flat().eval(), torch.device("cpu"))
        walked.append(
            attack.run(model, x, foolbox.criteria.Misclassification(torch.zeros(4).long()))
        )
    assert torch.equal(*drawn)
    assert torch.equal(*walked)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_ddn_finds_perturbations_of_any_length(scale):
    model, x = Linear(), images(40)
    # moved along the gradient until the boundary is `scale` of its first distance away
    truth = model.closest(x, "l2")
    unit = (model.w / model.w.norm()).reshape(x[0].shape)
    sign = torch.where(model.margin(x) > 0, -1.0, 1.0)
    shift = (sign * truth * (1 - scale)).reshape(-1, 1, 1, 1)
    x = (x + shift * unit).float()
    found = attack_block(
        model, right(model, x), make("l2", {"kind": "ddn", "steps": 200}, epsilon=["2"]), 40
    )
    closest = model.closest(x, "l2")
    assert (found.distance / closest).median() < 1.05


def test_square_moves_at_least_a_pixel_however_small_its_squares_are():
    model, x = Linear(pixels=9), images(60, side=3)
    level = f"{1.5 * float(model.closest(x, 'linf').median()):.6f}"
    found = []
    for queries in (2, 300):
        # the share of the image that a square covers is far below one pixel's
        attack = {"kind": "square", "queries": queries, "p_init": "1/500"}
        outcomes = attack_block(model, right(model, x), make("linf", attack, epsilon=[level]), 60)
        found.append(int(torch.isfinite(outcomes.distance).sum()))
    assert found[0] < found[1]


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_model_that_draws_a_little_is_known_to_draw(noise):
    class Noisy(Linear):
        def forward(self, x):
            logits = super().forward(x)
            return logits + noise * logits.norm(dim=1, keepdim=True) * torch.randn_like(logits)

    model, x = Noisy(), images(8)
    own = block(x, (model.margin(x) > 0).long())
    model.rows.clear()
    attack_block(model, own, make("linf", {"kind": "fgsm"}), 8)
    # its clean verdicts are means of twenty passes
    assert sum(1 for n in model.rows if n == 8) >= 20


def test_attacks_that_keep_what_they_find_beyond_budgets_are_known_as_such():
    def keep(made):
        return made.out_of_budget_finds is not Search.out_of_budget_finds

    assert {attack for attack, made in SEARCHES.items() if keep(made)} == set(BEYOND)
    assert not any(map(keep, ASCENT.values()))


def test_attacks_that_no_order_of_budgets_concerns_are_known_as_such():
    asked = [load_protocol(name, norm=n) for name in names("attacks") for n in norms_of(name)]
    searched = {
        type(attack): build_search(attack, protocol.norm) is not None
        for protocol in asked
        for attack in protocol.attacks
    }
    assert set(searched) == set(KINDS.values())
    assert {kind for kind, own in searched.items() if not own} == set(BUDGETLESS)
