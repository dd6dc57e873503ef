"""Large-margin softmax (Liu et al. 2016): an angle to the label's weights m times as demanding."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit.errors import InputError
from robustkit.losses.loss import (
    Loss,
    Result,
    Step,
    as_float32,
    checked_logits,
    expect,
    probing,
    unwrapped,
)
from robustkit.parsing import in_percent

WEAK = 10.0
"""λ above which the margin hardly counts: its share of the target logit is 1 / (1 + λ)"""


@dataclass(frozen=True, slots=True)
class LargeMarginSoftmax(Loss):
    """Cross-entropy with the target logit ‖W_y‖ ‖x‖ (λ cos θ + ψ(θ)) / (1 + λ).

    θ is the angle between the features x, which enter the network's last linear layer, and that
    layer's weights W_y. λ = max(λ_min, base (1 + γ n)^(−power)) falls with the number n of
    optimiser steps; base 0 goes without. The layer has no bias: `prepare` sets it to zero and
    keeps it there. Prediction uses the plain inner product, that is the network's own output.

    The defaults are those published for MNIST and 30,000 updates. Unless base, γ or the power is
    given, `robustkit train` and studies fit γ to the length of the run, and λ ends at 5.
    """

    m: Literal[1, 2, 3, 4] = 4
    """1 is cross-entropy"""
    base: float = 1000.0
    gamma: float = 2.5e-5
    power: float = 35.0
    lambda_min: float = 0.0

    def __post_init__(self) -> None:
        for name in ("base", "gamma", "power", "lambda_min"):
            value = getattr(self, name)
            expect(value >= 0, f"large-margin-softmax: {name} must be at least 0", value)

    def prepare(self, model: nn.Module, images: Tensor) -> "LargeMarginSoftmax":
        """Check that the logits come out of a linear layer, and take that layer's bias away.

        Under distributed training this must come before the network is wrapped.

        Raises:
            InputError: they don't.
        """
        inner = unwrapped(model)
        layer = last_linear(inner)
        with probing(inner, images), torch.no_grad():
            logits, features = _features(inner, layer, images)
            checked_logits(logits)
            weight = layer.weight
            if features is None or features.ndim != 2 or weight.shape[0] != logits.shape[1]:
                raise InputError(
                    "large-margin-softmax: the network's last linear layer does not give its logits"
                )
            inside = functional.linear(features, weight, layer.bias)
            if not torch.allclose(inside, logits, rtol=1e-2, atol=1e-3):
                raise InputError(
                    "large-margin-softmax: the network changes what its last linear layer gives; "
                    "the logits must be that layer's output"
                )
            if layer.bias is not None:
                layer.bias.zero_()
                layer.bias.requires_grad_(False)
        return self

    def annealing(self, number: int) -> float:
        """λ after a number of optimiser steps."""
        # ψ alone may not converge from random weights: Liu et al. 2016 begin close to cross-entropy
        # and let λ fall; the power law is that of their Caffe layer
        falling: float = self.base * (1 + self.gamma * number) ** -self.power
        return max(self.lambda_min, falling)

    def warning(self, updates: int) -> str:
        """Whether the margin hardly counted to the end; see `Loss`."""
        weight = self.annealing(updates - 1)
        if self.m == 1 or weight <= WEAK:
            return ""
        return (
            f"large-margin-softmax: λ is still {weight:.3g} at the last of {updates:,} updates, "
            f"where the margin has a share of {in_percent(1 / (1 + weight), 2)}; raise gamma or "
            "power, or train for longer"
        )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        layer = last_linear(unwrapped(model))
        output, features = _features(model, layer, images)
        if features is None:
            raise InputError("large-margin-softmax: the network does not use its last linear layer")
        logits, own = as_float32(output), labels[:, None]
        target = logits.gather(1, own)
        lengths = as_float32(layer.weight).norm(dim=1)[labels] * as_float32(features).norm(dim=1)
        cosine = target / lengths[:, None].clamp(min=1e-12)
        weight = self.annealing(step.number)
        wanted = (weight * target + lengths[:, None] * psi(cosine, self.m)) / (1 + weight)
        loss = functional.cross_entropy(logits.scatter(1, own, wanted), labels)
        return Result(loss, logits.detach())


def last_linear(model: nn.Module) -> nn.Linear:
    """The last linear layer in the order of `model.modules()`.

    Raises:
        InputError: there is none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise InputError(
            "large-margin-softmax: the network has no linear layer to take angles at; "
            "choose another network"
        )
    return layers[-1]


def psi(cosine: Tensor, m: int) -> Tensor:
    """ψ(θ) = (−1)^k cos(mθ) − 2k for θ in [kπ/m, (k+1)π/m], from cos θ of any shape.

    cos(mθ) is a polynomial in cos θ, so that the slope stays finite at θ = 0 and π.
    """
    # k of equation 6: a step function of θ, whose slope is 0
    breaks = [math.cos(i * math.pi / m) for i in range(1, m)]
    k = sum((cosine.detach() < edge for edge in breaks), start=torch.zeros_like(cosine))
    # Chebyshev's recurrence cos(m θ) = 2 cos θ cos((m − 1) θ) − cos((m − 2) θ)
    before, multiple = torch.ones_like(cosine), cosine
    for _ in range(m - 1):
        before, multiple = multiple, 2 * cosine * multiple - before
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def _features(model: nn.Module, layer: nn.Linear, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """The network's output, and what entered the layer last."""
    entered: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    try:
        logits: Tensor = model(images)
    finally:
        handle.remove()
    return logits, entered[-1] if entered else None
