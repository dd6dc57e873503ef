"""Networks whose logits or weights are no plain numbers are told of in a line."""

import numpy as np
import pytest
import torch
from torch import nn

from robustkit import attack, evaluate
from robustkit.data import from_arrays
from robustkit.errors import RobustkitError

DATA = (np.random.default_rng(0).random((6, 1, 4, 4), np.float32), np.arange(6) % 3)


class Returns(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.fc, self.of = nn.Linear(16, 3), of

    def forward(self, x):
        return self.of(self.fc(x.flatten(1)))


def nested(z):
    return torch.nested.as_nested_tensor(list(z))


def ragged(z):
    return torch.nested.as_nested_tensor(list(z), layout=torch.jagged)


UNUSUAL = {
    "sparse coo": torch.Tensor.to_sparse,
    "sparse csr": torch.Tensor.to_sparse_csr,
    "mkldnn": torch.Tensor.to_mkldnn,
    "meta": lambda z: z.to("meta"),
    "masked": lambda z: torch.masked.masked_tensor(z, z > 0),
    "nested": nested,
    "nested, ragged": ragged,
    "nested, named": lambda z: {"logits": nested(z)},
}


def refusal(network, tmp_path):
    with pytest.raises(RobustkitError) as caught:
        evaluate(network, DATA, "clean", out=tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:.*prototype stage", "ignore:Sparse CSR.*")
@pytest.mark.parametrize("name", UNUSUAL)
def test_logits_that_are_not_dense_are_told_of(name, tmp_path):
    kind = name.partition(",")[0]
    expected = f"the model returns a {kind} tensor; expected a dense one of N×classes logits"
    assert refusal(Returns(UNUSUAL[name]), tmp_path) == expected


class Raises:
    @property
    def logits(self):
        raise RuntimeError("not\nyet")


class Itself:
    @property
    def logits(self):
        return self


class Deeper:
    @property
    def logits(self):
        return Deeper()


@pytest.mark.parametrize(
    ("answer", "told"),
    [(Raises, "RuntimeError: not"), (Itself, "returns Itself, not"), (Deeper, "returns Deeper")],
)
def test_an_answer_without_end_or_that_raises_is_told_of(answer, told, tmp_path):
    assert told in refusal(Returns(lambda z: answer()), tmp_path)


def test_of_several_tensors_a_sparse_one_is_not_the_logits(tmp_path):
    network = Returns(lambda z: (z.to_sparse(), z))
    assert len(evaluate(network, DATA, "clean", out=tmp_path).rows) == 6
    assert "2 tensors (sparse coo, " in refusal(Returns(lambda z: (z.to_sparse(), z[0])), tmp_path)


def partly_empty():
    network = Returns(nn.Identity())
    network.register_buffer("mask", torch.ones(3, device="meta"))
    return network


@pytest.mark.parametrize(
    ("make", "first"),
    [(lambda: Returns(nn.Identity()).to("meta"), "fc.weight"), (partly_empty, "mask")],
)
def test_a_module_without_its_weights_is_told_of(make, first, tmp_path):
    said = refusal(make(), tmp_path)
    assert said.startswith(f"the model's {first} is empty (on the meta device")
    with pytest.raises(RobustkitError, match=r"is empty \(on the meta device"):
        attack(make(), "fgsm", epsilon="0.1")(*map(torch.as_tensor, DATA))


class Heads(nn.Module):
    """One that says what is in the image, and one of whether it is of a domain; or features."""

    def __init__(self, others):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(16, 10)
        self.others = nn.Linear(16, others)

    def forward(self, x):
        return self.fc(x.flatten(1)), self.others(x.flatten(1))


def test_of_two_heads_the_smaller_is_not_taken_for_labels_that_the_other_says(tmp_path):
    images = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Heads(2)
    network.fc.bias.data[:2] += torch.tensor([0.9, 0.3])
    labels = network(images)[0].argmax(1)
    rows = labels < 2
    assert labels[rows].unique().tolist() == [0, 1]
    with pytest.raises(RobustkitError, match="×10 outputs, and the labels, up to 1, fit both"):
        evaluate(network, (images[rows], labels[rows]), "clean", out=tmp_path)
    named = from_arrays(
        images[rows].numpy(), labels[rows].numpy(), name="digits", classes=list("abcdefghij")
    )
    assert evaluate(network, named, "clean", out=tmp_path).clean().value == 1


def test_features_beside_logits_are_no_second_head(tmp_path):
    images = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Heads(64)
    labels = network(images)[0].argmax(1)
    labels[-1] = 9
    assert evaluate(network, (images, labels), "clean", out=tmp_path).clean().value > 0.9
