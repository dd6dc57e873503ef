"""No point that an attack makes may leave its ball by rounding: it would be refuted as a claim."""

import pytest
import torch
from torch import Tensor

from robustkit.attacks import attack_block
from robustkit.attacks.apgd import ApgdSearch
from robustkit.attacks.square import SquareSearch
from robustkit.geometry import distance, drawn_in, in_budget, project
from robustkit.protocol import Norm
from tests.helpers.attacked import block, make

SIZES = [(1, 28, 28), (3, 32, 32), (3, 224, 224)]


def pictures(kind: str, size: tuple[int, ...]) -> Tensor:
    """Three images: of noise, or each of one grey, whose values are all rounded alike."""
    draw = torch.Generator().manual_seed(3)
    if kind == "noise":
        return torch.rand(3, *size, generator=draw)
    return (0.5 + 0.4 * torch.rand(3, 1, 1, 1, generator=draw)).expand(3, *size).clone()


def changes(kind: str, size: tuple[int, ...]) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    normal = torch.randn(3, *size, generator=draw)
    return {"equal": normal.sign(), "normal": normal, "heavy": normal**5}[kind]


@pytest.mark.one_of_many(7)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("change", ["equal", "normal", "heavy"])
@pytest.mark.parametrize("picture", ["noise", "grey"])
@pytest.mark.parametrize("epsilon", [0.5, 3.0, 60.0])
def test_projected_points_are_in_their_balls_whatever_is_rounded(
    size: tuple[int, ...], norm: Norm, change: str, picture: str, epsilon: float
) -> None:
    images = pictures(picture, size)
    moved, budget = images + changes(change, size), torch.full((3,), epsilon)
    x = {
        "project": project(moved, images, budget, norm),
        "apgd": ApgdSearch(norm)._project(moved, images, budget),
        "square": SquareSearch(norm)._placed(images, moved - images, budget),
    }
    for name, points in x.items():
        reached = distance(images, points, norm)
        assert in_budget(reached, epsilon).all(), (name, reached - epsilon)
        assert ((points >= 0) & (points <= 1)).all(), name


def test_what_is_drawn_in_keeps_its_direction_and_nearly_its_length() -> None:
    images = pictures("grey", (3, 224, 224))
    change = changes("normal", (3, 224, 224))
    change = change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 3
    x, budget = images + change * 1.0002, torch.full((3,), 3.0)
    drawn = drawn_in(x, images, budget, "l2")
    assert in_budget(distance(images, drawn, "l2"), 3.0).all()
    assert (distance(images, drawn, "l2") > 3 * (1 - 1e-5)).all()
    along = ((drawn - images) * change).flatten(1).sum(1) / 9
    assert torch.allclose(along, torch.ones(3), atol=1e-3)


def test_points_inside_stay_where_they_are() -> None:
    images = pictures("noise", (3, 224, 224))
    x = images + 1e-4 * changes("normal", (3, 224, 224))
    assert drawn_in(x, images, torch.full((3,), 3.0), "l2") is x


class Tilted(torch.nn.Module):
    """Errs where the mean of all values has risen by nearly what an L2 ball of radius 3 allows."""

    def __init__(self, images: Tensor, epsilon: float) -> None:
        super().__init__()
        values = images[0].numel()
        self.images = images
        self.needed = 0.9999 * epsilon / values**0.5

    def forward(self, x: Tensor) -> Tensor:
        risen = x.double().flatten(1).mean(1) - self.images.double().mean() - self.needed
        return torch.stack([torch.zeros_like(risen), 100 * risen], 1)


@pytest.mark.parametrize(
    "attack",
    [
        {"kind": "fgsm"},
        {"kind": "pgd", "steps": 3, "random_start": False},
        {"kind": "mifgsm", "steps": 3},
        {"kind": "apgd", "steps": 40},
    ],
    ids=lambda attack: attack["kind"],
)
def test_the_whole_of_a_large_ball_is_reached(attack: dict[str, object]) -> None:
    image = pictures("grey", (3, 224, 224))[:1]
    protocol = make("l2", attack, epsilon=("3",))
    outcomes = attack_block(Tilted(image, 3.0), block(image, torch.tensor([0])), protocol, 1)
    assert in_budget(outcomes.distance, 3.0).all(), outcomes.distance
