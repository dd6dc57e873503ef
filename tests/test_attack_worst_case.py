"""What the worst-case protocol is made of: probability margins, nearest classes, Square's patience."""

import gc

import pytest
import torch
from helpers.attacked import Small, images, make, right
from helpers.defences import Before, Rounded, Scaled
from torch import nn

from robustkit import geometry
from robustkit.attacks import attack_block, fab, in_budget
from robustkit.attacks.objectives import objective, towards
from robustkit.attacks.targets import CANDIDATES, likeliest, nearest
from robustkit.errors import ProtocolError
from robustkit.geometry import DUAL
from robustkit.protocol import load_protocol

APGD = {"kind": "apgd", "steps": 20, "loss": "probability-margin"}
PATIENT = {"kind": "square", "queries": 200, "patience": 40}


class Counting(nn.Module):
    """Counts the images that it is asked for, each by the first of its pixels."""

    def __init__(self, network):
        super().__init__()
        self.network, self.asked = network, 0
        self.requires_grad_(False).eval()

    def forward(self, x):
        self.asked += len(x)
        return self.network(x)


def linear(classes, pixels=9, seed=0, dtype=torch.float64):
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes, dtype=dtype))
    draw = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=dtype)
    return network.requires_grad_(False).eval()


# --- the probability margin ---------------------------------------------------------------------


def test_no_scale_saturates_the_probability_margin():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.5, 3.0, 2.0]], requires_grad=True)
    clean, labels = torch.tensor([[3.0, 1.0, 0.0], [0.0, 4.0, 1.0]]), torch.tensor([0, 1])
    plain = objective(logits, labels, clean, "probability-margin")
    huge = objective(logits * 1e6, labels, clean * 1e6, "probability-margin")
    assert torch.allclose(plain, huge, atol=1e-4)
    # by hand: logits times 4 over the clean gap, 2 and 3
    p, q = (torch.tensor(v).softmax(0) for v in ([4.0, 2.0, -2.0], [2 / 3, 4.0, 8 / 3]))
    assert plain.tolist() == pytest.approx([float(p[1] - p[0]), float(q[2] - q[1])], abs=1e-6)
    (slope,) = torch.autograd.grad(huge.sum(), logits)
    assert slope.abs().amax(1).min() > 1e-3
    aimed = towards(logits, labels, torch.tensor([2, 0]), clean, "probability-margin")
    assert aimed.tolist() == pytest.approx([float(p[2] - p[0]), float(q[0] - q[1])], abs=1e-6)


def test_logits_beyond_all_measure_have_a_probability_margin():
    clean = torch.tensor([[1e30, 1e30, 0.0]])
    value = objective(clean, torch.tensor([0]), clean, "probability-margin")
    assert bool(torch.isfinite(value).all())


def test_it_finds_what_cross_entropy_cannot_see():
    model, x = Small(), images(40, side=8)
    saturated = nn.Sequential(model, Scaled(1e4)).eval()
    block = right(model, x)
    found = {
        loss: int(
            in_budget(
                attack_block(saturated, block, make("linf", APGD | {"loss": loss}), 20).distance,
                0.1,
            ).sum()
        )
        for loss in ("cross-entropy", "probability-margin")
    }
    assert found["probability-margin"] > found["cross-entropy"] + 3


# --- the nearest classes ------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_classes_are_ordered_by_the_distance_of_their_boundary(norm):
    model = linear(7)
    x = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    clean = model(x)
    labels, weight = clean.argmax(1), model[1].weight
    found = nearest(model, x, labels, clean, norm)
    for i, y in enumerate(labels.tolist()):
        distance = {
            j: float((clean[i, y] - clean[i, j]) / (weight[y] - weight[j]).norm(p=DUAL[norm]))
            for j in range(7)
            if j != y
        }
        assert found[i].tolist() == sorted(distance, key=distance.get)
    assert not torch.equal(found, likeliest(clean, labels)), "or the test sees nothing"
    alone = [nearest(model, x[[i]], labels[[i]], clean[[i]], norm)[0] for i in range(12)]
    assert torch.equal(torch.stack(alone), found)


def test_only_likely_classes_are_ordered_and_one_without_a_slope_comes_last():
    model = linear(CANDIDATES + 30)
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    clean = model(x)
    found = nearest(model, x, clean.argmax(1), clean, "l2")
    likely = likeliest(clean, clean.argmax(1))[:, :CANDIDATES]
    assert torch.equal(found.sort(1).values, likely.sort(1).values)
    flat = linear(3)
    flat[1].weight.data[1] = flat[1].weight[0]
    clean = torch.tensor([[3.0, 2.9, 0.0]], dtype=torch.float64)
    flat[1].bias.data = clean[0] - flat[1].weight @ torch.zeros(9, dtype=torch.float64)
    zero = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    assert nearest(flat, zero, torch.tensor([0]), clean, "l2").tolist() == [[2, 1]]


def test_one_target_in_that_order_finds_what_the_likeliest_misses():
    """A class that is nearly as likely, but whose logit hardly moves, and one that is near."""
    model = linear(3)
    model[1].weight.data = torch.tensor([[0.0] * 9, [0.01] * 9, [1.0] * 9]).double()
    model[1].bias.data = torch.tensor([1.0, 0.5, -5.0]).double()
    x = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    # margins at the image: 0.455 with a slope of 0.09 to class 1, 1.5 with one of 9 to class 2
    block = right(model, x)
    aimed = {"kind": "apgd", "steps": 10, "loss": "margin", "targets": 1}
    budget = ["1/5"]
    for order, broken in (("confidence", True), ("distance", True)):
        protocol = make("linf", aimed | {"target_order": order}, epsilon=budget)
        assert bool(in_budget(attack_block(model, block, protocol, 4).distance, 0.2)) == broken
    assert nearest(model, x, block.labels, model(x), "linf").tolist() == [[2, 1]]


# --- Square's patience --------------------------------------------------------------------------


def rows(model, x, *attacks, batch=40, labels=None, **more):
    found = attack_block(model, labels or right(model, x), make("linf", *attacks, **more), batch)
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("batch", [7, 40])
def test_square_stops_where_gradients_come_closer(batch):
    model, x = Counting(Small()), images(40, side=8)
    block = right(model, x)
    weak = ["1/100"]
    survivors = int((~in_budget(rows(model, x, APGD, epsilon=weak).distance, 0.01)).sum())
    spent = {}
    for patience in (0, 40):
        square = PATIENT | {"patience": patience}
        model.asked = 0
        rows(model, x, APGD, batch=batch, labels=block, epsilon=weak)
        before, model.asked = model.asked, 0
        rows(model, x, APGD, square, batch=batch, labels=block, epsilon=weak)
        spent[patience] = model.asked - before
    assert survivors > 20
    assert spent[0] >= survivors * 199
    # hardly any goes on to its last query
    assert survivors * 39 <= spent[40] <= survivors * 60


@pytest.mark.thorough
def test_square_goes_on_where_gradients_are_masked_or_nobody_came_before():
    x = images(40, side=8)
    masked = Before(Rounded(), Small())
    # a random start may come close by chance: until Square has caught up it must be left alone
    whole = rows(masked, x, APGD, PATIENT | {"patience": 0})
    patient = rows(masked, x, APGD, PATIENT | {"patience": 100})
    assert torch.equal(whole.distance, patient.distance)
    assert "square" in patient.fooled_by
    model = Counting(Small())
    block = right(model, x)
    for attacks in ([PATIENT], [APGD | {"steps": 10, "larger_first": True}, PATIENT]):
        patient = rows(model, x, *attacks, labels=block, epsilon=["1/100"])
        whole = rows(
            model, x, *attacks[:-1], PATIENT | {"patience": 0}, labels=block, epsilon=["1/100"]
        )
        assert torch.equal(whole.distance, patient.distance)


@pytest.mark.thorough
def test_patience_has_no_part_in_company():
    """Which images share the block changes nothing of what becomes of one."""
    masked, x = Before(Rounded(), Small()), images(30, side=8)
    block = right(masked, x)
    together = rows(masked, x, APGD, PATIENT, labels=block)
    for part in (slice(0, 11), slice(11, 30)):
        some = type(block)(x[part], block.labels[part], block.ids[part], 0)
        alone = rows(masked, x, APGD, PATIENT, labels=some)
        assert torch.equal(alone.distance, together.distance[part])


# --- protocols ----------------------------------------------------------------------------------


def test_what_came_later_is_no_part_of_a_protocol_that_does_not_use_it():
    plain = load_protocol("autoattack").resolved()["attacks"]
    assert not {"target_order", "patience"} & {k for a in plain if a["kind"] != "fab" for k in a}
    ours = load_protocol("worst-case").resolved()["attacks"]
    assert [a.get("target_order") for a in ours] == [None, "distance", None]
    assert ours[2]["patience"] == 500


@pytest.mark.parametrize(
    ("setting", "bound"), [("patience=-1", "0 or more"), ("queries=-1", "above 0")]
)
def test_a_number_out_of_bounds_is_told_with_the_bound_that_holds(setting, bound):
    with pytest.raises(ProtocolError) as refused:
        load_protocol("worst-case", [setting])
    name = setting.partition("=")[0]
    assert str(refused.value) == f"square: {name} must be {bound}, got -1"


# --- images on the boundary ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["probability-margin", "rescaled-cross-entropy"])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("gap", [0.0, 1e-9])
def test_an_image_on_the_boundary_has_a_slope_wherever_it_goes(loss, classes, gap):
    clean = torch.linspace(3, -3, min(classes, 10), dtype=torch.float64)[None]
    clean = torch.cat([clean, torch.full((1, classes - clean.shape[1]), -4.0)], 1)
    clean[:, 1] = clean[:, 0] - gap
    for step in (0.3, 1e-3, -1e-3):
        logits = clean.clone()
        logits[:, 0] += step
        logits.requires_grad_()
        value = objective(logits.float(), torch.tensor([0]), clean.float(), loss)
        (slope,) = torch.autograd.grad(value.sum(), logits)
        assert slope[0, 0] < 0 < slope[0, 1]
        assert slope.abs().max() > 1e-3


def test_masked_classes_leave_an_ordinary_image_as_it_is():
    clean = torch.tensor([[3.0, 1.0, 0.0, -1.0, -2.0, -3.0]])
    logits = torch.tensor([[2.5, 1.5, 0.0, -1.0, -2.0, -3.0]])
    for mask in (-1e9, -torch.inf):
        masked = [torch.cat([t, torch.full((1, 4), mask)], 1) for t in (logits, clean)]
        for loss in ("probability-margin", "rescaled-cross-entropy"):
            found = objective(masked[0], torch.tensor([0]), masked[1], loss)
            assert found.isfinite().all()
        plain, found = (
            objective(a, torch.tensor([0]), b, "probability-margin")
            for a, b in ((logits, clean), masked)
        )
        assert torch.allclose(plain, found)


@pytest.mark.parametrize("loss", ["probability-margin", "rescaled-cross-entropy"])
def test_with_two_classes_the_loss_is_the_margin(loss):
    logits = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * 50
    labels, clean = torch.arange(20) % 2, torch.ones(20, 2) - torch.tensor([0.0, 2.0])
    rows = torch.arange(20)
    margin = logits[rows, 1 - labels] - logits[rows, labels]
    assert torch.allclose(objective(logits, labels, clean, loss), margin / 2)
    assert torch.allclose(towards(logits, labels, 1 - labels, clean, loss), margin / 2)


# --- memory ---------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Sixty classes; notes with each gradient how many tensors as large as the batch there are."""

    def __init__(self):
        super().__init__()
        self.most = 0
        self.eval()

    def forward(self, x):
        logits = x.flatten(1)[:, :60] ** 2
        if logits.requires_grad:
            logits.register_hook(lambda signal: self.look(x.numel()))
        return logits

    def look(self, size):
        gc.collect()
        # by their types: some objects, asked for their class, import what warns
        tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
        large = {t.data_ptr(): t.numel() for t in tensors if t.numel() >= size}
        self.most = max(self.most, sum(large.values()) // size)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "attack",
    [
        {"kind": "apgd", "steps": 2, "loss": "margin", "targets": 2, "target_order": "distance"},
        {"kind": "deepfool", "steps": 2, "candidates": 60},
    ],
    ids=lambda attack: attack["kind"],
)
def test_of_the_gradients_towards_many_classes_few_are_held_at_once(attack):
    network, x = Watched(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = right(network, x), make("linf", attack, epsilon=("1/100",))
    gc.collect()
    gc.freeze()  # what there is already counts no more, nor is it looked through
    try:
        attack_block(network, *asked, 3)
    finally:
        gc.unfreeze()
    assert 0 < network.most < 20


def test_fab_makes_no_float64_copy_of_all_gradients_at_once(monkeypatch):
    sizes = []

    def length(rows, order):
        sizes.append(rows.numel() * rows.element_size())
        return geometry.length(rows, order)

    monkeypatch.setattr(fab, "length", length)
    monkeypatch.setattr(Watched, "look", lambda network, size: None)
    network, x = Watched(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    protocol = make("linf", {"kind": "fab", "steps": 2, "targets": 0}, epsilon=("1/100",))
    attack_block(network, right(network, x), protocol, 3)
    assert max(sizes) == 8 * x.numel()
