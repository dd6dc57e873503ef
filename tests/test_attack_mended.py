"""foolbox's attacks where we mend them: ties, gradients of any size, few pixels, draws a pass."""

import pytest
import torch
from helpers.attacked import Linear, Small, block, images, make, right
from torch import Tensor, nn

from robustkit import evaluate
from robustkit.attacks import attack_block
from robustkit.attacks.library import DecidedOnce, foolbox
from robustkit.attacks.mended import MendedDeepFool


class Faint(nn.Module):
    """A linear model of two classes whose logits are of a given size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = Linear(), scale
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) * self.scale).float()


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize("power", [-60, -40, 0, 40])
@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        *((norm, {"kind": "deepfool"}) for norm in ("linf", "l2")),
        *((norm, {"kind": "fmn", "steps": 50}) for norm in ("linf", "l2", "l1")),
        *((norm, {"kind": "fab", "steps": 10, "targets": 0}) for norm in ("linf", "l2", "l1")),
    ],
)
def test_the_size_of_the_logits_changes_nothing(norm, attack, power):
    x = images(20)
    far = attack_block(Faint(2.0**power), right(Linear(), x), make(norm, attack), 20).distance
    closest = Linear().closest(x, norm)
    assert torch.isfinite(far).all()
    # DeepFool goes 10⁻⁴ further
    assert (far < 1.3 * closest + 2e-4).all()


def test_ddn_follows_the_gradient_of_a_confident_network_to_its_end():
    x = images(200)
    x = x[Linear().margin(x) < -0.5]
    closest = Linear().closest(x, "l2")
    faint = [60 / float(Linear().margin(x[i : i + 1]).abs()) for i in range(len(x))]
    for i in range(0, len(x), 10):
        one = x[i : i + 1]
        found = attack_block(Faint(faint[i]), right(Linear(), one), make("l2", {"kind": "ddn"}), 1)
        assert float(found.distance) < 1.05 * float(closest[i])


class Tied(nn.Module):
    """Three classes, of which two are equally likely at the middle of the box."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.weights = torch.randn(100, 3, generator=source)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weights - torch.tensor([0.0, 0.0, 5.0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("label", [0, 1])
def test_deepfool_leaves_the_label_where_another_class_ties_with_it(norm, label):
    class Turned(Tied):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits if label == 0 else logits[:, [1, 0, 2]]

    x = torch.full((1, 1, 10, 10), 0.5)
    model = Turned()
    assert model(x)[0, 0] == model(x)[0, 1]
    own = block(x, model(x).argmax(1))
    found = attack_block(model, own, make(norm, {"kind": "deepfool"}), 1)
    assert float(found.distance) < 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfool_takes_foolboxs_steps_where_nothing_ties(norm):
    model, x = Small(), images(30, side=8)
    labels = model(x).argmax(1)
    kind = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1))
    criterion = foolbox.criteria.Misclassification(labels)
    reference = kind[norm](steps=20, candidates=3).run(theirs, x, criterion)
    ours = MendedDeepFool(norm, 20, 3, 0.02).run(theirs, x, criterion)
    assert torch.allclose(ours, reference, atol=1e-4)
    assert (model(ours).argmax(1) != labels).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hopskipjump_ends_near_the_boundary_of_one_grey_pixel(norm):
    model, x = Linear(pixels=1), images(6, side=1)
    found = attack_block(model, right(model, x), make(norm, {"kind": "hopskipjump", "steps": 3}), 6)
    assert (found.distance / model.closest(x, norm)).max() < 1.1


class OneDraw(nn.Module):
    """One draw for all images of a pass, or one for each of them."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.each, self.source, self.asked = each, torch.Generator().manual_seed(0), 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        rows = len(x) if self.each else 1
        noise = torch.randn(rows, 1, generator=self.source).expand(len(x), 1)
        return torch.cat([noise, -noise], 1)


@pytest.mark.parametrize("each", [False, True])
def test_a_point_is_decided_by_as_many_draws_as_votes(each):
    model = OneDraw(each)
    means = torch.cat([DecidedOnce(model, 20)(torch.rand(1, 1, 2, 2)) for _ in range(200)])
    assert means[:, 0].std() == pytest.approx(20**-0.5, rel=0.25)
    assert model.asked == (200 if each else 200 * 20)


class Sunken(Small):
    """The root of a corner's square, which has no slope where that is black."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + (x[:, :, 0, 0] ** 2).sum(1).sqrt())[:, None]


@pytest.mark.parametrize(
    ("norm", "attack"),
    [
        ("linf", "pgd"),
        ("linf", "deepfool"),
        ("l2", "ddn"),
        ("linf", "autoattack"),
        ("l0", "sigma-zero"),
    ],
)
def test_gradients_that_are_no_numbers_are_counted_by_image(norm, attack):
    x = images(12, side=8)
    x[[2, 5, 7], :, 0, 0] = 0
    model = Sunken().eval()
    data = (x, model(x).argmax(1))
    epsilon = {"linf": "1/1000", "l2": "1/1000", "l0": "1"}[norm]
    found = evaluate(model, data, attack, norm=norm, epsilon=[epsilon]).header["warnings"]
    told = [text for text in found if "held NaN or an infinity" in text]
    assert told
    # those that leave a budget, or change few pixels, make other corners black
    assert attack in ("autoattack", "sigma-zero") or "at 3 of 12 images" in told[0]
    if attack == "sigma-zero":  # which paints pixels black of its own accord
        return
    x[:, :, 0, 0] = 0.5
    found = evaluate(model, (x, model(x).argmax(1)), attack, norm=norm, epsilon=[epsilon])
    assert not any("held NaN" in text for text in found.header["warnings"])
