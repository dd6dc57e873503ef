"""Networks with closed forms, images inside the box and protocols for the tests of attacks."""

import math

import torch
from torch import Tensor

from robustkit import protocol as protocols
from robustkit.attacks import Block
from robustkit.protocol import Protocol
from robustkit.seeding import seeded

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


class Linear(torch.nn.Module):
    """Two classes, float64: the smallest perturbation is |margin| / ‖w‖_dual."""

    def __init__(self, pixels: int = 100, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.w = torch.randn(pixels, generator=torch.Generator().manual_seed(seed)).double()
        self.scale = scale
        self.rows: list[int] = []
        self.eval()

    def margin(self, x: Tensor) -> Tensor:
        # summed row by row: a matrix product may round differently in batches of different size
        return ((x.flatten(1).double() - 0.5) * self.w).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        margin = self.margin(x)
        return torch.stack([torch.zeros_like(margin), margin], 1) * self.scale

    def closest(self, x: Tensor, norm: str) -> Tensor:
        return self.margin(x).abs() / torch.linalg.vector_norm(self.w, ord=DUAL[norm])


class Small(torch.nn.Module):
    """A little convolutional network with random weights, three classes."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(3, torch.device("cpu")):
            self.conv = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.fc = torch.nn.Linear(4 * 64, 3)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1)) * 5


def images(n: int = 60, side: int = 10, seed: int = 1) -> Tensor:
    """In the middle of the box, so that the balls of these tests lie inside it."""
    draw = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return draw * 0.4 + 0.3


def block(x: Tensor, labels: Tensor) -> Block:
    return Block(x, labels, [f"image {i}" for i in range(len(x))], 0)


def right(model: torch.nn.Module, x: Tensor) -> Block:
    """A block whose labels are the model's own predictions."""
    return block(x, model(x).argmax(1))


def make(norm: str, *attacks: dict, epsilon=("1/10",), **more: str) -> Protocol:
    """A protocol; `more` are further keys of its file, such as target and search."""
    table = {"title": "", "norm": norm, "attack": list(attacks), "epsilon": list(epsilon)}
    return protocols.parse_protocol({**table, **more}, "test", "test")
