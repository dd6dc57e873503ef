"""A surrogate that cannot tell the classes apart is told of: an attack through it says little."""

import numpy as np
import pytest
import torch
from torch import nn

from robustkit import load_dataset, read_checkpoint
from robustkit.data import from_arrays
from robustkit.evaluation.chance import PIECE, PIECES, surrogate_warnings

CPU = torch.device("cpu")


class Short(nn.Module):
    """Has memory for few images at a time."""

    def __init__(self, network):
        super().__init__()
        self.network, self.largest = network, 0

    def forward(self, x):
        if len(x) > 10:
            raise torch.OutOfMemoryError("out of memory")
        self.largest = max(self.largest, len(x))
        return self.network(x)


class Turned(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).flip(1)


@pytest.fixture(scope="module")
def network():
    return read_checkpoint("lenet5-mnist5k").load()


@pytest.fixture(scope="module")
def digits():
    return load_dataset("mnist5k", limit=60)


def test_a_trained_surrogate_is_not_told_of(network, digits):
    assert surrogate_warnings(network, digits, CPU) == []


def test_an_untrained_surrogate_is_told_of(digits):
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    (warning,) = surrogate_warnings(untrained, digits, CPU)
    assert warning.startswith("the surrogate: clean accuracy is ")
    assert "chance" in warning
    assert "(--mean, --std)" in warning
    (warning,) = surrogate_warnings(untrained, digits, CPU, "in the checkpoint")
    assert "mean and std are the checkpoint's own" in warning


def test_a_surrogate_of_another_order_of_classes_is_told_of(network, digits):
    (warning,) = surrogate_warnings(Turned(network), digits, CPU)
    assert warning.startswith("the surrogate: clean accuracy is ")
    assert "the classes seem to be in another order" in warning


def test_where_memory_is_short_fewer_images_pass_at_a_time(network, digits):
    short = Short(Turned(network))
    assert len(surrogate_warnings(short, digits, CPU)) == 1
    assert 1 < short.largest <= 10


def test_images_of_one_class_are_the_models_to_tell(network):
    data = from_arrays(np.zeros((8, 1, 28, 28), np.float32), np.zeros(8, int), name="x")
    assert surrogate_warnings(Turned(network), data, CPU) == []


@pytest.mark.parametrize("count", [PIECE * PIECES, PIECE * PIECES + 1, 5 * PIECE * PIECES + 7])
def test_of_many_images_some_of_all_places_pass(count):
    """Sorted by class, as a folder's are, the first would be of one class."""
    labels = np.arange(count) * 10 // count
    images = np.repeat(labels[:, None], 16, 1).reshape(-1, 1, 4, 4).astype(np.float32) / 10
    passed = []

    class Reads(nn.Module):
        def forward(self, x):
            passed.append(len(x))
            return nn.functional.one_hot((x[:, 0, 0, 0] * 10).round().long(), 10).float()

    assert surrogate_warnings(Reads(), from_arrays(images, labels, name="x"), CPU) == []
    assert sum(passed) == PIECE * PIECES
