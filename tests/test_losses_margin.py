"""The large-margin loss: closed forms, finite differences, and one pass beside two."""

import itertools
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from robustkit import losses, models
from robustkit.errors import InputError
from robustkit.losses import fused_backward
from robustkit.losses.loss import Step
from robustkit.losses.trace import WORDS, Use

ORDER = {"linf": 1, "l2": 2, "l1": math.inf}
NORMS = list(ORDER)


def step():
    return Step(0, torch.Generator())


def margin(**settings):
    return losses.build("large-margin", settings)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def initialised(network, seed=0):
    """Weights of a seed of their own, large enough for margins of every size."""
    for i, parameter in enumerate(network.parameters()):
        parameter.data = draw(*parameter.shape, seed=100 * seed + i).to(parameter) * 0.5
    return network


class Smooth(nn.Module):
    """A network without kinks whose stages a test can run one by one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.fc1 = nn.Linear(3 * 16, 6)
        self.fc2 = nn.Linear(6, 5)

    def stage(self, i, h):
        if i == 0:
            return self.conv(h)
        if i == 1:
            return self.fc1(functional.softplus(h).flatten(1))
        return self.fc2(torch.tanh(h)) * 2

    def forward(self, x):
        return self.stage(2, self.stage(1, self.stage(0, x)))


PLACES = ["input", "conv", "fc1", "output"]


def smooth():
    return initialised(Smooth()).double()


def vector(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach()


class Reference:
    """The formula, an image and a class at a time, with gradients by whole Jacobians and numpy."""

    def __init__(self, loss, images, labels):
        self.loss, self.images, self.labels = loss, images, labels

    def scores(self, logits):
        return logits.softmax(-1) if self.loss.on == "probabilities" else logits

    def heads(self, network):
        """From each place to the scores of one image."""

        def head(start):
            def run(h):
                h = h[None]
                for i in range(start, 3):
                    h = network.stage(i, h)
                return self.scores(h)[0]

            return run

        return [head(i) for i in range(4)]

    def stages(self, network, image):
        found = [image]
        for i in range(3):
            found.append(network.stage(i, found[-1][None])[0].detach())
        return found

    def norms(self, network):
        """Images × places × classes."""
        every = []
        for image, y in zip(self.images, self.labels.tolist(), strict=True):
            rows = []
            for head, h in zip(self.heads(network), self.stages(network, image), strict=True):
                jacobian = torch.autograd.functional.jacobian(head, h).flatten(1).numpy()
                difference = jacobian[y] - jacobian
                norm = np.linalg.norm(difference, ord=ORDER[self.loss.norm], axis=1)
                size = h.numel() ** (1 / ORDER[self.loss.norm]) if self.loss.normalise else 1
                rows.append(norm / size + self.loss.stabiliser)
            every.append(rows)
        return np.array(every)

    def value(self, network, norms=None):
        norms = self.norms(network) if norms is None else norms
        logits = network(self.images).detach()
        scores = self.scores(logits).numpy()
        gammas = self.loss.gamma if len(self.loss.gamma) > 1 else self.loss.gamma * 4
        total = 0.0
        for n, y in enumerate(self.labels.tolist()):
            others = sorted(set(range(5)) - {y}, key=lambda j: -float(logits[n, j]))
            for place, gamma in enumerate(gammas):
                lacks = []
                for j in others[: self.loss.top_k]:
                    lack = max(0.0, gamma - (scores[n, y] - scores[n, j]) / norms[n, place, j])
                    if self.loss.alpha is not None:
                        lack = min(lack, self.loss.alpha * gamma)
                    lacks.append(lack)
                total += max(lacks) if self.loss.aggregate == "max" else sum(lacks)
            entropy = math.log(np.exp(logits[n].numpy()).sum()) - float(logits[n, y])
            total += self.loss.cross_entropy_weight * entropy
        return total / len(self.labels)

    def slope(self, network, direction, h=1e-6):
        """The derivative along a direction of the parameters, by central differences."""
        start = vector(network)
        fixed = None if self.loss.differentiate else self.norms(network)
        ends = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * h * direction, network.parameters())
            ends.append(self.value(network, fixed))
        nn.utils.vector_to_parameters(start, network.parameters())
        return (ends[0] - ends[1]) / (2 * h)


COMBINATIONS = list(
    itertools.product(NORMS, ["logits", "probabilities"], ["max", "sum"], [1, 3], [False, True])
)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(("norm", "on", "aggregate", "top_k", "differentiate"), COMBINATIONS)
def test_value_and_gradient_are_those_of_the_formula(norm, on, aggregate, top_k, differentiate):
    # what else is offered alternates, so that each meets each norm, class choice and order
    odd = (NORMS.index(norm) + (on == "logits") + (aggregate == "max") + top_k // 3) % 2
    loss = margin(
        norm=norm,
        layers=PLACES,
        gamma=[9.0, 11.0, 12.0, 13.0] if odd else [0.9, 1.1, 1.2, 1.3],
        alpha=4.0 if odd else None,
        on=on,
        aggregate=aggregate,
        top_k=top_k,
        differentiate=differentiate,
        normalise=bool(odd),
        cross_entropy_weight=0.0 if odd else 0.3,
    )
    network, images = smooth(), draw(3, 1, 4, 4, seed=9)
    labels = torch.tensor([0, 3, 1])
    reference = Reference(loss, images, labels)
    result = loss(network, images, labels, step())
    assert result.loss.item() == pytest.approx(reference.value(network), rel=1e-10)
    assert torch.equal(result.logits, network(images))
    result.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert float(gradient.norm()) > 1e-3
    direction = draw(len(gradient), seed=5)
    slope = reference.slope(network, direction)
    assert float(gradient @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("place", ["input", "output"])
def test_on_a_linear_model_the_distance_is_the_exact_one(norm, place):
    model = initialised(nn.Sequential(nn.Flatten(), nn.Linear(12, 4))).double()
    images, labels = draw(1, 1, 3, 4, seed=2), torch.tensor([2])
    logits = model(images)[0]
    rival = int(logits.clone().index_fill_(0, labels, -math.inf).argmax())
    slope = (model[1].weight[2] - model[1].weight[rival]).detach()
    if place == "output":
        slope = torch.eye(4, dtype=torch.float64)[2] - torch.eye(4, dtype=torch.float64)[rival]
    loss = margin(norm=norm, layers=place, gamma=1000.0, stabiliser=0.0)
    distance = 1000 - loss(model, images, labels, step()).loss.item()
    # the shortest way in each norm, walked
    if norm == "linf":
        way = slope.sign()
    elif norm == "l2":
        way = slope / slope.norm()
    else:
        way = torch.zeros_like(slope)
        way[slope.abs().argmax()] = slope[slope.abs().argmax()].sign()
    length = {"linf": way.abs().max(), "l2": way.norm(), "l1": way.abs().sum()}[norm]
    assert float(length) == pytest.approx(1)
    start = images.flatten() if place == "input" else logits.detach()
    end = start - distance * way
    after = model(end.view(1, 1, 3, 4))[0] if place == "input" else end
    assert (after[2] - after[rival]).item() == pytest.approx(0, abs=1e-9)


def test_the_published_settings_give_the_published_formula():
    network, images = smooth(), draw(6, 1, 4, 4, seed=3)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    gamma, alpha, epsilon = 10000.0, 4.0, 1e-6
    loss = margin(
        norm="linf",
        layers=PLACES[:3],
        gamma=gamma,
        alpha=alpha,
        on="probabilities",
        normalise=True,
        stabiliser=epsilon,
    )
    means = []
    for start in range(3):
        kept = []
        for n, y in enumerate(labels.tolist()):
            h = images[n : n + 1]
            for i in range(start):
                h = network.stage(i, h)
            h = h.detach().requires_grad_()
            logits = h
            for i in range(start, 3):
                logits = network.stage(i, logits)
            p = torch.exp(logits - torch.logsumexp(logits, 1))[0]
            j = max(set(range(5)) - {y}, key=lambda c: p[c].item())
            (slope,) = torch.autograd.grad(p[y] - p[j], h)
            distance = (p[y] - p[j]).item() / (float(slope.abs().mean()) + epsilon)
            kept.append(min(max(distance, gamma * (1 - alpha)), gamma))
        means.append(-np.mean(kept))
    published = np.mean(means)
    ours = loss(network, images, labels, step()).loss.item()
    # ours sums over layers where the code averages, and counts from γ
    assert ours / 3 - gamma == pytest.approx(published, rel=1e-9)


class Twisted(nn.Module):
    """Strides, dilation, groups, no bias, layers used twice, in place, frozen, and of rank three."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.c = nn.Linear(8, 8)
        self.d = nn.Linear(8 * 25, 20)
        self.e = nn.Linear(20, 4)
        self.drop = nn.Dropout(0.3)
        self.e.bias.requires_grad_(False)

    def forward(self, x):
        x = self.act(self.a(x))
        x = self.b(self.b(x).relu_())
        x = self.c(x.flatten(2).transpose(1, 2)).relu_()
        return self.e(self.drop(self.d(x.flatten(1)).tanh()))


def twisted(kind=torch.float64):
    return initialised(Twisted()).to(kind)


def gradients(way, model, images, labels):
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(4)  # for dropout
        result = way(model, images, labels)
    return result, [p.grad for p in model.parameters()]


def gap(one, two):
    assert [g is None for g in one] == [g is None for g in two]
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None]
    assert any(float(b.norm()) > 0 for _, b in pairs)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def compare(loss, model, images, labels):
    one, first = gradients(loss.fused, model, images, labels)
    two, second = gradients(loss.two_passes, model, images, labels)
    assert float(one.loss) == pytest.approx(float(two.loss), rel=1e-5)
    assert torch.equal(one.logits, two.logits)
    return gap(first, second)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("top_k", "aggregate"), [(1, "max"), (3, "max"), (3, "sum")])
@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_one_pass_gives_the_gradient_of_two(norm, top_k, aggregate, on):
    model, images = twisted(), draw(5, 2, 9, 9, seed=1)
    loss = margin(
        norm=norm,
        layers=["input", "a", "c", "d", "output"],
        gamma=2.0,
        alpha=2.0,
        top_k=top_k,
        aggregate=aggregate,
        on=on,
    )
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert compare(loss, model, images, torch.arange(5) % 4) < 1e-10


class Counting(nn.Sequential):
    """A network that counts how often a gradient is sent back through it."""

    sent = 0

    def forward(self, x):
        h = self[0](x)
        h.register_hook(self.count)
        return self[1](h)

    def count(self, gradient):
        self.sent += 1


@pytest.mark.parametrize("on", ["logits", "probabilities"])
def test_a_margin_at_the_output_costs_one_pass_however_many_classes_count(on):
    model, images = initialised(Counting(nn.Linear(6, 8), nn.Linear(8, 10))), draw(4, 6).float()
    for top_k in (1, 9):
        loss = margin(layers=["output"], aggregate="sum", gamma=5.0, top_k=top_k, on=on)
        prepared = loss.prepare(model, images)
        assert prepared.backward_mode(model) == "one pass"
        model.sent = 0
        labels = torch.arange(4)
        _, once = gradients(
            lambda *a, one=prepared: one.backward(*a, step()), model, images, labels
        )
        assert model.sent == 1
        assert gap(once, gradients(loss.two_passes, model, images, labels)[1]) < 1e-5


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", ["input", "all"])
def test_one_pass_is_right_in_single_precision_on_the_papers_network(norm, layers):
    model = models.build("mnist-cnn", seed=0)
    images = draw(6, 1, 28, 28).float().to(memory_format=torch.channels_last)
    loss = margin(norm=norm, layers=layers, gamma=100.0)
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert compare(loss, model, images, torch.arange(6)) < 1e-5


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(5, 1, 2, 1), (3, 2, 0, 1), ((2, 3), (3, 1), (1, 2), (1, 2)), (1, 4, 0, 1), (2, 2, 1, 3)],
)
def test_what_a_convolution_sends_to_its_images(kernel, stride, padding, dilation):
    """Also where the last pixels are not reached."""
    layer = nn.Conv2d(2, 32, kernel, stride, padding, dilation).double()
    x = torch.rand(3, 2, 11, 12, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    signal = torch.randn(output.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(output, x, signal)
    for last in (False, True):
        sent = signal.to(memory_format=torch.channels_last) if last else signal
        found = fused_backward.input_gradient(Use(layer, (x,), None, 0), sent)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_signal_in_low_precision_is_added_up_in_float32(layout):
    """25 products of 8 bits each lie within half a unit of 8 bits, as their sum would not."""
    layer = nn.Conv2d(1, 32, 5, padding=2)
    signal = draw(8, 32, 12, 12).bfloat16().to(memory_format=layout)
    use = Use(layer, (torch.rand(8, 1, 12, 12),), None, 0)
    found = fused_backward.input_gradient(use, signal)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    exact = fused_backward.input_gradient(use, signal.double())
    assert (found - exact).norm() / exact.norm() < 2**-9


@pytest.mark.parametrize("groups", [2, 4])
def test_what_a_convolution_in_groups_sends_to_its_images(groups):
    layer = nn.Conv2d(4, 32, 3, padding=1, groups=groups).double()
    x = torch.rand(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    signal = draw(*output.shape)
    (expected,) = torch.autograd.grad(output, x, signal)
    found = fused_backward.input_gradient(Use(layer, (x,), None, 0), signal)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Entrances(nn.Module):
    """Images enter by some layers, in parallel, or by none."""

    def __init__(self, count):
        super().__init__()
        self.enter = nn.ModuleList(nn.Conv2d(2, 3, 3) for _ in range(count))
        self.last = nn.Linear(3 * 49 if count else 162, 4)

    def forward(self, x):
        h = sum((layer(x).tanh() for layer in self.enter), start=torch.zeros(()))
        return self.last((h if self.enter else x.square()).flatten(1))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_one_pass_is_right_wherever_images_enter(count, norm):
    model = initialised(Entrances(count)).double()
    images, labels = draw(5, 2, 9, 9, seed=1), torch.arange(5) % 4
    loss = margin(norm=norm, gamma=9.0)
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert prepared.shortcut_obstacle == ""
    assert compare(loss, model, images, labels) < 1e-10
    _, short = gradients(loss.shortcut, model, images, labels)
    _, expected = gradients(loss.two_passes, model, images, labels)
    assert gap(short, expected) < 1e-10


class Gated(nn.Module):
    """A layer works without a gradient, where no margin is imposed."""

    def __init__(self):
        super().__init__()
        self.gate, self.fc = nn.Linear(4, 1), nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            gate = self.gate(x).sigmoid()
        return self.fc(x) * gate


def test_a_layer_without_a_gradient_is_no_obstacle_to_two_passes():
    model, images = initialised(Gated()).double(), draw(5, 4, seed=2)
    labels = torch.arange(5) % 3
    prepared = margin(gamma=9.0).prepare(model, images)
    assert prepared.backward_mode(model) == (
        "two passes: one pass could not be tried: large-margin: a layer of type Linear returns "
        "no tensor with a gradient; choose another layer"
    )
    result, found = gradients(lambda *a: prepared.backward(*a, step()), model, images, labels)
    # for a network that is linear but for a constant factor, by hand
    x, gate = images.numpy(), torch.sigmoid(model.gate(images)).detach().numpy()[:, 0]
    weight, bias = model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy()
    total = 0.0
    for n, y in enumerate(labels.tolist()):
        logits = (weight @ x[n] + bias) * gate[n]
        j = max(set(range(3)) - {y}, key=lambda c, logits=logits: logits[c])
        norm = gate[n] * np.linalg.norm(weight[y] - weight[j]) + 1e-6
        total += max(0.0, 9 - (logits[y] - logits[j]) / norm)
    assert result.loss.item() == pytest.approx(total / 5, rel=1e-10)
    assert found[0] is None
    assert float(found[2].norm()) > 0


def test_called_it_is_the_loss_without_preparation():
    model, images, labels = initialised(Smooth()).double(), draw(5, 1, 4, 4), torch.arange(5)
    loss = margin(gamma=9.0)
    value = loss.prepare(model, images)(model, images, labels, step()).loss
    assert value.item() == loss(model, images, labels, step()).loss.item() > 0


def test_a_network_none_of_whose_trained_weights_count_is_prepared():
    model = nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)
    model[0].idle = nn.Linear(1, 1)
    images, labels = torch.rand(5, 4), torch.arange(5) % 3
    prepared = margin(gamma=9.0).prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert prepared.backward(model, images, labels, step()).loss.item() > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.thorough
def test_one_pass_is_right_in_mixed_precision_and_another_layout():
    model = models.build("mnist-cnn", seed=0).to(memory_format=torch.channels_last)
    images = draw(6, 1, 28, 28).float().to(memory_format=torch.channels_last)
    loss = margin(layers="all", gamma=100.0)
    prepared = loss.prepare(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert prepared.backward_mode(model) == "one pass"
        assert compare(loss, model, images, torch.arange(6)) < 0.02


def test_gradients_are_added_to_those_that_are_there():
    model, images, labels = twisted().eval(), draw(5, 2, 9, 9), torch.arange(5) % 4
    loss = margin(gamma=3.0)
    prepared = loss.prepare(model, images)
    prepared.backward(model, images, labels, step())
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    result = prepared.backward(model, images, labels, step())
    assert not result.loss.requires_grad
    assert not images.requires_grad
    twice = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(2 * a, b) for a, b in zip(once, twice, strict=True))


class Mixing(nn.Module):
    """Takes the batch's mean away, with no module that would tell."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.fc(x.flatten(1))
        return torch.tanh(x - x.mean(0))


class Borrowing(nn.Module):
    """Uses a weight past its layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return functional.linear(self.fc(x.flatten(1)).tanh(), self.fc.weight)


class Skipping(nn.Module):
    """Images enter by a layer and also past it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) + x.square()


HOOKS = {
    "forward": lambda layer: layer.register_forward_hook(lambda *_: None),
    "forward pre": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "backward pre": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "gradient": lambda layer: layer.weight.register_hook(lambda *_: None),
    "bias's gradient": lambda layer: layer.bias.register_hook(lambda *_: None),
    "accumulated": lambda layer: layer.weight.register_post_accumulate_grad_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_layer_with_a_hook_of_any_kind_has_no_fused_gradient(kind):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    assert fused_backward.obstacle(model) == ""
    handle = HOOKS[kind](model[1])
    told = "layer '1' has hooks, which would not see its gradient"
    assert fused_backward.obstacle(model) == told
    model[1].requires_grad_(False)
    assert fused_backward.obstacle(model) == "", "nothing of it is trained"
    model[1].requires_grad_(True)
    handle.remove()
    assert fused_backward.obstacle(model) == ""


def with_hook():
    model = nn.Sequential(nn.Linear(4, 3))
    HOOKS["backward"](model[0])
    return model


SPOILED = {
    "batch norm '1' couples the images of a batch": nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
    ),
    "the weights of '1', a LayerNorm, have no fused gradient": nn.Sequential(
        nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)
    ),
    "layer '0' has hooks, which would not see its gradient": with_hook(),
    "the weights of '', a ParametrizedLinear, have no fused gradient": parametrizations.weight_norm(
        nn.Linear(4, 3)
    ),
    "layer '1' does not pad with zeros": nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "the weights of '1', a Conv2d, have no fused gradient": nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "here one pass would be off by 3e+05": Mixing(),
    "here one pass would be off by 1": Borrowing(),
    "here one pass would be off by 1 ": Skipping(),
}


@pytest.mark.parametrize("reason", SPOILED)
def test_two_passes_are_taken_where_one_would_be_wrong(reason):
    model = initialised(SPOILED[reason]).double()
    images, labels = draw(6, 4, seed=2), torch.arange(6) % 3
    loss = margin(gamma=50.0, norm="linf")
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == f"two passes: {reason.strip()}"
    _, found = gradients(lambda *a: prepared.backward(*a, step()), model, images, labels)
    model.zero_grad()
    loss(model, images, labels, step()).loss.backward()
    assert gap(found, [p.grad for p in model.parameters()]) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("top_k", "weight"), [(1, 0.0), (1, 10.0), (3, 0.5)])
def test_the_short_cut_at_the_images_gives_the_same_gradient(norm, top_k, weight):
    """Also with batch norm in training mode and a cross-entropy term, where one pass will not."""
    layers = [nn.Conv2d(2, 30, 3), nn.BatchNorm2d(30), nn.Tanh(), nn.Flatten(), nn.Linear(1470, 4)]
    model = initialised(nn.Sequential(*layers)).double()
    images, labels = draw(6, 2, 9, 9, seed=3), torch.arange(6) % 4
    settings = {"layers": ["input", "0"], "gamma": 9.0, "cross_entropy_weight": weight}
    loss = margin(norm=norm, top_k=top_k, **settings)
    short, first = gradients(loss.shortcut, model, images, labels)
    two, second = gradients(loss.two_passes, model, images, labels)
    assert short.loss.item() == pytest.approx(two.loss.item(), rel=1e-12)
    assert gap(first, second) < 1e-10


def test_what_was_not_prepared_or_needs_more_signals_takes_two_passes():
    model = twisted()
    for settings, reason in (
        ({}, "the network was not prepared"),
        ({"differentiate": True}, "the gradient's norm is differentiated"),
        ({"cross_entropy_weight": 0.1}, "the cross-entropy term needs a signal of its own"),
    ):
        assert margin(**settings).backward_mode(model) == f"two passes: {reason}"


@pytest.mark.parametrize(
    ("error", "told"), [("cannot be copied\nsecond line", "cannot be copied"), ("", "RuntimeError")]
)
def test_a_network_that_cannot_be_tried_on_a_copy_takes_two_passes(error, told):
    class Unique(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError(error)

    frozen = Unique(4, 4).requires_grad_(False)
    model = initialised(nn.Sequential(frozen, nn.Tanh(), nn.Linear(4, 3)))
    loss, images, labels = margin(gamma=9.0), draw(5, 4).float(), torch.arange(5) % 3
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == f"two passes: one pass could not be tried: {told}"
    _, found = gradients(lambda *a: prepared.backward(*a, step()), model, images, labels)
    _, expected = gradients(loss.two_passes, model, images, labels)
    assert gap(found, expected) == 0


def test_what_is_known_of_one_network_is_not_taken_for_another():
    """Equal settings and equal classes: the one's single pass would be off by far for the other."""
    plain, mixing = initialised(nn.Sequential(nn.Linear(4, 3))).double(), Mixing().double()
    images, labels = draw(6, 4, seed=2), torch.arange(6) % 3
    loss = margin(gamma=50.0, norm="linf")
    prepared, other = loss.prepare(plain, images), loss.prepare(mixing, images)
    assert prepared.backward_mode(plain) == "one pass"
    assert "off by" in other.backward_mode(mixing)
    assert "not prepared" in loss.backward_mode(plain)
    assert "not prepared" in prepared.backward_mode(mixing)
    assert losses.spell(prepared) == losses.spell(loss)
    _, found = gradients(lambda *a: prepared.backward(*a, step()), mixing, images, labels)
    _, expected = gradients(loss.two_passes, mixing, images, labels)
    assert gap(found, expected) < 1e-12


def test_the_shortcut_of_one_network_is_not_taken_for_another():
    """With cross-entropy there is no fused backward, but a shortcut; past the layer it is wrong."""
    plain, skipping = initialised(nn.Sequential(nn.Linear(4, 4))).double(), Skipping().double()
    images, labels = draw(6, 4, seed=2), torch.arange(6) % 4
    loss = margin(gamma=50.0, cross_entropy_weight=0.1)
    prepared = loss.prepare(plain, images)
    _, found = gradients(lambda *a: prepared.backward(*a, step()), skipping, images, labels)
    _, expected = gradients(loss.two_passes, skipping, images, labels)
    assert gap(found, expected) < 1e-12
    _, wrong = gradients(loss.shortcut, skipping, images, labels)
    assert gap(wrong, expected) > 1e-3
    assert prepared.shortcut_obstacle == ""
    told = loss.prepare(skipping, images).shortcut_obstacle
    assert told.startswith("here one pass would be off by ")


def test_a_norm_that_is_differentiated_is_so_after_preparing():
    model, images, labels = smooth(), draw(4, 1, 4, 4), torch.arange(4) % 5
    loss = margin(differentiate=True, gamma=9.0)
    prepared = loss.prepare(model, images)
    _, found = gradients(lambda *a: prepared.backward(*a, step()), model, images, labels)
    model.zero_grad()
    loss(model, images, labels, step()).loss.backward()
    assert gap(found, [p.grad for p in model.parameters()]) < 1e-12
    _, constant = gradients(loss.shortcut, model, images, labels)
    assert gap(found, constant) > 1e-3


def test_frozen_batch_norm_couples_nothing():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 3))
    initialised(model).double()
    model[1].requires_grad_(False).eval()
    images = draw(4, 2, 9, 9)
    loss = margin(layers=["input", "1"], gamma=9.0)
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert compare(loss, model, images, torch.arange(4) % 3) < 1e-10
    model.train()
    assert "batch norm '1'" in prepared.backward_mode(model)


def test_preparing_leaves_everything_as_it_was():
    model = models.build("mnist-cnn-bn", seed=0)
    model.bn2.eval()
    model.fc1.weight.grad = torch.ones_like(model.fc1.weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random = torch.get_rng_state()
    margin(layers="all").prepare(model, torch.rand(4, 1, 28, 28, generator=torch.Generator()))
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.fc1.weight.grad, torch.ones_like(model.fc1.weight))
    assert model.fc2.weight.grad is None


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)
        self.pair = nn.LSTM(4, 4)

    def forward(self, x):
        self.idle(x)
        return self.twice(self.twice(self.once(self.pair(x)[0])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "onse"}, "unknown layer 'onse'; did you mean 'once'?"),
        *(
            (
                {"layers": name},
                f"large-margin: the network uses layer '{name}' {times} times in a forward pass; "
                "a margin needs a layer that is used once",
            )
            for name, times in (("twice", 2), ("never", 0))
        ),
        (
            {"layers": "idle"},
            "large-margin: the logits do not depend on layer 'idle'; choose another",
        ),
        (
            {"layers": "pair"},
            "large-margin: a layer of type LSTM returns no tensor with a gradient; "
            "choose another layer",
        ),
        ({"top_k": 4}, "large-margin: top_k is 4, but there are 3 other classes"),
        (
            {"layers": ["input", "once"], "gamma": [1, 2, 3]},
            "large-margin: 3 values of gamma for 2 layers (input, once); give one, or one for each",
        ),
    ],
)
def test_settings_that_do_not_fit_the_network_are_told_in_one_line(settings, message):
    with pytest.raises(InputError) as caught:
        margin(**settings).prepare(Branches(), torch.rand(3, 4))
    assert str(caught.value) == message


def test_a_layer_without_influence_is_told_without_preparation_too():
    loss = losses.build("large-margin", {"layers": "idle"})
    with pytest.raises(InputError) as caught:
        loss(Branches(), draw(2, 4).float(), torch.tensor([0, 1]), step())
    told = "large-margin: the logits do not depend on a layer with a margin"
    assert str(caught.value) == told


def test_all_other_classes_may_be_kept_away():
    margin(top_k=3).prepare(Branches(), torch.rand(3, 4))


def test_all_means_the_input_and_every_layer_but_the_logits():
    from robustkit.losses.trace import layer_names

    model = models.build("mnist-cnn")
    assert layer_names(["all"], model) == ["input", "conv1", "conv2", "fc1"]
    assert layer_names(["output", "hidden", "conv1"], model) == ["output", "conv1", "conv2", "fc1"]


class Named(nn.Module):
    """One network whatever its layers are called; torch refuses no name without a dot."""

    def __init__(self, conv, act, fc, last="last"):
        super().__init__()
        self.order = (conv, act, fc, last)
        layers = (nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Linear(12, 6), nn.Linear(6, 4))
        for name, layer in zip(self.order, layers, strict=True):
            self.add_module(name, layer)

    def forward(self, x):
        conv, act, fc, last = (self.get_submodule(name) for name in self.order)
        return last(act(fc(act(conv(x)).flatten(1))))


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    "called",
    [
        ("input", "act", "hidden"),
        ("output", "all", "input"),
        ("hidden", "output", "all", "input"),
        ("module:input", "word:all", "module:hidden"),
    ],
)
@pytest.mark.parametrize(
    ("layers", "same"),
    [
        ("all", ["input", "conv", "fc"]),
        ("hidden", ["conv", "fc"]),
        (["word:output", "word:input", "{fc}"], ["output", "input", "fc"]),
        (["{conv}", "word:hidden"], ["conv", "fc"]),
        ("word:all", ["input", "conv", "fc"]),
    ],
)
def test_a_layers_name_changes_nothing_even_if_it_is_also_a_word(called, layers, same):
    plain, shadowed = Named("conv", "act", "fc"), Named(*called)
    layers = [layers] if isinstance(layers, str) else layers
    asked = [f"word:{layer}" if layer in {*called} & {*WORDS} else layer for layer in layers]
    asked = [layer.format(conv=f"module:{called[0]}", fc=f"module:{called[2]}") for layer in asked]
    images, labels = draw(5, 1, 4, 4).abs(), torch.arange(5) % 4
    found = [grads_of(plain, same, images, labels), grads_of(shadowed, asked, images, labels)]
    for (value, expected), (other, got) in zip(*found, strict=True):
        assert value == other
        assert value > 0.1
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def grads_of(network, layers, images, labels):
    """Loss and gradients in one pass, and in two, with and without the short cut."""
    initialised(network.double())
    found = []
    for weight, plain in ((0.0, False), (0.0, True), (1.0, False)):
        loss = margin(layers=layers, gamma=5.0, cross_entropy_weight=weight)
        prepared = loss.prepare(network, images)
        assert (prepared.backward_mode(network) == "one pass") == (weight == 0)
        way = loss.two_passes if plain else lambda *a, loss=prepared: loss.backward(*a, step())
        result, grads = gradients(way, network, images, labels)
        found.append((result.loss.item(), grads))
    return found


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        *(
            (
                layers,
                f"large-margin: layer '{word}' may mean the network's module of that name or what "
                f"the word stands for; write module:{word} or word:{word}",
            )
            for layers, word in (("hidden", "hidden"), (["act", "input"], "input"))
        ),
        ("module:act2", "unknown layer 'module:act2'; did you mean 'module:input'?"),
        ("module:output", "unknown layer 'module:output'; did you mean 'module:input'?"),
        (
            "word:act",
            "unknown layer 'word:act'; known: act, all, hidden, input, last, module:hidden, "
            "module:input, output",
        ),
    ],
)
def test_a_word_that_is_also_a_modules_name_is_refused_in_one_line(layers, message):
    with pytest.raises(InputError) as caught:
        margin(layers=layers).prepare(Named("input", "act", "hidden"), torch.rand(3, 1, 4, 4))
    assert str(caught.value) == message


def test_a_network_without_hidden_layers_has_no_margin_there():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(InputError) as caught:
        margin(layers="hidden").prepare(network, torch.rand(3, 1, 4, 4))
    told = "large-margin: the network has no hidden layer; choose input or output"
    assert str(caught.value) == told
    margin(layers="all").prepare(network, torch.rand(3, 1, 4, 4))


def test_a_vanished_gradient_stays_finite():
    model = initialised(nn.Sequential(nn.Flatten(), nn.Linear(4, 3))).double()
    model[1].weight.data.zero_()
    images, labels = draw(3, 4), torch.arange(3)
    for norm, differentiate in itertools.product(NORMS, [False, True]):
        loss = margin(norm=norm, differentiate=differentiate, alpha=4.0)
        _, found = gradients(lambda *a, way=loss: way.backward(*a, step()), model, images, labels)
        assert all(bool(torch.isfinite(g).all()) for g in found)


@pytest.mark.slow  # importing what it takes is slow
def test_a_network_trained_by_several_processes_gets_the_same_gradient(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = twisted(torch.float32)
        images, labels = draw(5, 2, 9, 9).float(), torch.arange(5) % 4
        loss = margin(layers=["input", "d"], gamma=5.0)
        prepared = loss.prepare(model, images)
        _, alone = gradients(loss.fused, model, images, labels)
        wrapped = nn.parallel.DistributedDataParallel(model)
        told = "two passes: the network is trained by several processes"
        assert prepared.backward_mode(wrapped) == told
        _, found = gradients(lambda *a: prepared.backward(*a, step()), wrapped, images, labels)
    finally:
        torch.distributed.destroy_process_group()
    assert gap(found, alone) < 1e-5


def test_a_gradient_that_vanishes_but_for_rounding_is_no_reason_for_two_passes():
    # the bias of the convolution is taken away again, image by image
    layers = [nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(196, 3)]
    model, images = initialised(nn.Sequential(*layers)).double(), draw(4, 2, 9, 9)
    loss = margin(layers=["input", "0"], gamma=9.0)
    prepared = loss.prepare(model, images)
    assert prepared.backward_mode(model) == "one pass"
    assert prepared.backward(model, images, torch.arange(4) % 3, step()).loss.item() > 0
    bias = model[0].bias.grad.norm().item()
    assert bias < 1e-10 * model[0].weight.grad.norm().item()
