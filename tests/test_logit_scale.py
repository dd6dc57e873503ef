"""Differences of logits, however large a masked class or an offset of all of them is."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks.precision import lowered
from robustkit.attacks.prepared import agrees
from robustkit.checkpoint.onnxfile.agreement import compare
from robustkit.errors import CheckpointError, InputError
from robustkit.evaluation import outputs
from robustkit.network import apart, spread

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def by_group(z: Tensor, group: Tensor) -> Tensor:
    """Two groups of three classes, of which that is masked which an image is not of, N of 0 or 1."""
    return z.masked_fill(torch.arange(6) // 3 != group[:, None], -1e9)


ENDINGS = {
    "plain": lambda z: z,
    "masked": lambda z: torch.cat([z, torch.full((len(z), 2), -1e9)], 1),
    "masked at the end of float32": lambda z: torch.cat([torch.full_like(z, -3e38), z], 1),
    "masked by a sum": lambda z: torch.cat([z, z], 1) + torch.tensor([0.0] * 3 + [-1e4] * 3),
    "masked by group": lambda z: by_group(torch.cat([z, z.flip(1)], 1), torch.arange(len(z)) % 2),
    "offset": lambda z: z + 1e6,
    "offset by image": lambda z: z + 1e5 * torch.arange(len(z))[:, None],
}


class Net(nn.Module):
    """A small network of fixed weights, a way of treating its input, and an ending."""

    def __init__(self, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        source = torch.Generator().manual_seed(0)
        for weight in self.net.parameters():
            weight.data = torch.randn(weight.shape, generator=source) * 2
        self.before, self.after = before, after
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


def evaluated(before, after):
    labels = Net(after=after)(IMAGES).argmax(1)
    return evaluate(Net(before, after), (IMAGES, labels), "fgsm", epsilon=["0.05"])


def from_the_system(x):
    noise = np.frombuffer(os.urandom(x.numel()), np.uint8).reshape(x.shape)
    return x + torch.from_numpy(noise / np.float32(255) - np.float32(0.5))


@pytest.fixture(params=[name for name in ENDINGS if not name.endswith(("by image", "by group"))])
def ending(request):
    return ENDINGS[request.param]


def test_a_network_that_mixes_its_batch_is_refused_behind_any_ending(ending):
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        evaluated(lambda x: x - 0.9 * x.mean(0), ending)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("before", [nn.Dropout().train(), from_the_system])
def test_one_that_draws_is_found_out_behind_any_ending(before, ending):
    found = evaluated(lambda x: before(x), ending).header["warnings"]
    assert any("is randomised" in text for text in found)
    assert not any("taken for deterministic" in text for text in found)


@pytest.mark.parametrize(
    ("before", "told"),
    [(lambda x: x - 0.5 * x.mean(0), "rest of its batch"), (nn.Dropout().train(), "is randomised")],
)
def test_a_mask_that_moves_from_image_to_image_hides_neither(before, told):
    class Grouped(Net):
        def forward(self, x):
            z = super().forward(x)
            return by_group(torch.cat([z, z.flip(1)], 1), (x.mean((1, 2, 3)) > 0.5).long())

    labels = Grouped()(IMAGES).argmax(1)
    try:
        found = str(
            evaluate(
                Grouped(lambda x: before(x)), (IMAGES, labels), "fgsm", epsilon=["0.05"]
            ).header["warnings"]
        )
    except InputError as error:
        found = str(error)
    assert told in found


@pytest.mark.one_of_many(2)
def test_one_that_keeps_the_contract_is_evaluated_behind_any_ending(ending):
    found = evaluated(lambda x: x, ending)
    assert found.clean().value > 0.9
    assert not any("randomised" in text for text in found.header["warnings"])


@pytest.mark.parametrize("name", ENDINGS)
def test_rounding_is_no_difference_and_other_images_are(name):
    logits = Net()(IMAGES)
    one, other = (ENDINGS[name](z) for z in (logits, logits * (1 + 1e-7)))
    assert apart(one, other, spread(other)) < 1e-5
    one = ENDINGS[name](Net()(IMAGES.flip(3)))
    assert apart(one, other, spread(other)) > 0.1


def test_a_copy_a_record_and_a_file_are_held_against_what_the_logits_say(ending):
    network, other = Net(after=ending), Net(lambda x: x.flip(3), after=ending)
    assert agrees(network, network, IMAGES[:4])
    assert not agrees(other, network, IMAGES[:4])
    now, then = (n(IMAGES).double().numpy() for n in (network, other))
    assert outputs.agree(now, now)
    assert not outputs.agree(then, now)
    mine, theirs = ({"z": n(IMAGES)} for n in (other, network))
    assert compare(theirs, theirs, len(IMAGES), 1e-3, "file").same == len(IMAGES)
    with pytest.raises(CheckpointError, match="predictions agree"):
        compare(mine, theirs, len(IMAGES), 1e-3, "file")


def test_a_file_of_coarse_steps_does_not_predict_otherwise_where_a_class_led_clearly():
    theirs = torch.tensor([[1.0, 0, 0]]).repeat(16, 1)
    theirs[0] *= 40
    mine = theirs.flip(1)
    mine[0] = theirs[0]
    assert apart(mine, theirs, spread(theirs)) < 5e-2
    with pytest.raises(CheckpointError, match="1 of 16 predictions agree"):
        compare({"z": mine}, {"z": theirs}, 16, 5e-2, "file")


def test_low_precision_is_no_help_where_an_offset_takes_its_digits():
    assert lowered(*[Net(after=ENDINGS["masked"])] * 2, "bf16", IMAGES[:8]).error < 1e8
    with pytest.raises(InputError, match="of their spread"):
        lowered(*[Net(after=lambda z: z + 3e4)] * 2, "bf16", IMAGES[:8])
