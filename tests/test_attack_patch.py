"""Patches, against every place and content of small pictures."""

import itertools

import pytest
import torch
from helpers.attacked import Small, block, images, make, right
from torch import Tensor
from torch.nn.functional import unfold

from robustkit.attacks import attack_block
from robustkit.errors import ProtocolError
from robustkit.geometry import distance
from robustkit.protocol import excessive_budgets, parse_epsilon

PATCH = {"kind": "patch", "steps": 10, "places": 2, "trials": 5}
SIDES = ["1", "2", "3", "4"]


class Linear(torch.nn.Module):
    """Two classes of a linear model on colour pictures, wider than they are high."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(7)).double()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        margin = ((x.double() - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(margin), margin], 1)

    def smallest(self, x: Tensor) -> Tensor:
        """Side of the smallest square that holds enough, N; its best place by trying all."""
        margin = self(x)[:, 1]
        slope = -margin.sign()[:, None, None, None] * self.w
        gain = slope * (torch.where(slope > 0, 1.0, 0.0) - x.double())
        found = torch.full_like(margin, torch.inf)
        for side in range(6, 0, -1):
            most = unfold(gain, side).sum(1).amax(1)
            found = torch.where(most > margin.abs(), float(side), found)
        return found


def test_a_patch_goes_where_it_does_most_to_a_linear_model():
    model = Linear()
    x = torch.rand(60, 3, 6, 8, generator=torch.Generator().manual_seed(4)) * 0.4 + 0.3
    x = x + 0.2 * torch.linspace(-1, 1, 60)[:, None, None, None] * model.w.sign().float()
    found = attack_block(model, right(model, x), make("patch", PATCH, epsilon=SIDES), 32)
    smallest = model.smallest(x)
    assert sorted(set(smallest.tolist()))[:3] == [1, 2, 3]
    smallest[smallest > 4] = torch.inf
    assert torch.equal(found.distance, smallest)


def places(x: Tensor, side: int) -> Tensor:
    """One picture with every corner colouring of every square of a side in grey, P × 1 × H × W."""
    size = x.shape[-1]
    made = []
    for top, left in itertools.product(range(size - side + 1), repeat=2):
        for colours in itertools.product((0.0, 1.0), repeat=side**2):
            one = x.clone()
            one[0, top : top + side, left : left + side] = torch.tensor(colours).view(side, side)
            made.append(one)
    return torch.stack(made)


def surer(model: torch.nn.Module, x: Tensor, step: float) -> Tensor:
    """Pictures a step further into their class, which a pixel alone does not undo."""
    point = x.clone().requires_grad_()
    top = model(point).topk(2, dim=1).values
    (slope,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), point)
    return (x + step * torch.linspace(0, 1, len(x))[:, None, None, None] * slope.sign()).clamp(0, 1)


@pytest.mark.thorough
def test_a_patch_finds_what_every_place_and_colouring_finds():
    model = Small()
    x = surer(model, images(16, side=8), 0.2)
    rows = right(model, x)
    attack = {"kind": "patch", "steps": 15, "places": 4, "trials": 16}
    found = attack_block(model, rows, make("patch", attack, epsilon=["1", "2"]), 64)
    best = []
    for image, label in zip(x, rows.labels, strict=True):
        hits = [(model(places(image, side)).argmax(1) != label).any() for side in (1, 2)]
        best.append(1.0 if hits[0] else 2.0 if hits[1] else float("inf"))
    assert {1.0, 2.0} <= set(best)
    every = torch.tensor(best, dtype=torch.float64)
    assert (found.distance <= every).double().mean() >= 0.95


@pytest.mark.thorough
def test_a_patch_stays_in_its_square_and_no_batch_changes_it():
    model = Small()
    x = surer(model, images(8, side=8), 0.2)
    rows = right(model, x)
    short = PATCH | {"steps": 3, "trials": 3}
    protocol = make("patch", short, short | {"targets": 2, "places": 1}, epsilon=["1", "2"])
    found = attack_block(model, rows, protocol, 32)
    fooled = found.distance.isfinite()
    assert fooled.sum() > 2
    for i in fooled.nonzero()[:, 0].tolist():
        changed = (found.perturbed[i] != x[i]).any(0).nonzero()
        spread = changed.amax(0) - changed.amin(0) + 1
        assert float(spread.max()) == found.distance[i]
    alone = attack_block(model, rows, protocol, 1)
    assert torch.equal(alone.distance, found.distance)
    back = block(x.flip(0), rows.labels.flip(0))
    assert torch.equal(attack_block(model, back, protocol, 7).distance.flip(0), found.distance)


def test_the_size_of_a_patch_is_that_of_the_square_around_all_that_changed():
    x = torch.full((4, 3, 9, 9), 0.5)
    changed = x.clone()
    changed[1, 0, 2, 3] = 0.6
    changed[2, 1, 0, 0] = changed[2, 2, 8, 1] = 1
    changed[3, :, 4:6, 2:7] = 0
    assert distance(x, changed, "patch").tolist() == [0, 1, 9, 5]


def test_more_places_find_no_less():
    model = Small()
    x = surer(model, images(40, side=8), 0.1)
    rows = right(model, x)
    few, many = (
        attack_block(
            model, rows, make("patch", PATCH | {"places": n, "trials": 1}, epsilon=["1"]), 64
        ).distance
        for n in (1, 12)
    )
    assert (many <= few).all()
    assert (many < few).any()


def test_a_patch_is_counted_in_whole_pixels_and_may_not_be_the_picture():
    with pytest.raises(ProtocolError, match="counts pixels along a square's side; give a whole"):
        make("patch", PATCH, epsilon=["1.5"])
    (told,) = excessive_budgets("patch", [parse_epsilon("32")], (3, 32, 32))
    assert "covers the whole image, 32 pixels along a square's side" in told
    assert not excessive_budgets("patch", [parse_epsilon("31")], (3, 32, 32))
