"""The large-margin loss of Elsayed et al. 2018: the distance to the decision boundary, anywhere.

To first order (section 3 of the paper), the distance of a representation h from where classes y and
j tie is, in the norm p, d_j = (f_y − f_j) / ‖∇ₕ(f_y − f_j)‖_q with 1/p + 1/q = 1; negative on the
wrong side. The loss is

    mean over images of Σ over layers of A_j clip(γ − d_j, 0, αγ),

A the maximum or the sum over the top-k other classes. That is the paper's loss; the clip at αγ and
the constant norm come from the code published with it, where layers are averaged, not summed.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from robustkit.errors import InputError, first_line
from robustkit.losses import fused_backward
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
from robustkit.losses.trace import (
    Representation,
    Trace,
    gradients,
    layer_names,
    modules_of,
    representations,
    trace,
)
from robustkit.protocol import Ball

TOLERANCE = 1e-6
"""relative difference up to which float64 gradients, found in two ways, are the same"""
PROBED = 8
"""images on which backward modes are compared"""
UNPREPARED = "the network was not prepared"

Backward = Callable[["LargeMargin", nn.Module, Tensor, Tensor], Result]
"""a backward mode: from settings, network, images and labels"""


@dataclass(frozen=True, slots=True)
class LargeMargin(Loss):
    """Settings of the large-margin loss; see the module for the formula.

    Where batch norm couples the images of a batch, the gradient is that of the sum over the batch,
    as in the code published with the paper.
    """

    norm: Ball = "l2"
    """in which distances are measured"""
    layers: tuple[str, ...] = ("input",)
    """input, output (the logits, where the distance is exact), hidden, all, or names as in
    `model.named_modules()`, whose outputs are meant"""
    gamma: tuple[float, ...] = (1.0,)
    """wanted distance γ, one for all layers or one for each"""
    alpha: float | None = None
    """what falls short by more than αγ does not count; none: everything counts"""
    top_k: int = 1
    """how many other classes, of the largest logits, are kept away"""
    aggregate: Literal["max", "sum"] = "max"
    """over these classes"""
    on: Literal["logits", "probabilities"] = "logits"
    """the paper writes f for logits, its code uses softmax probabilities"""
    differentiate: bool = False
    """whether the gradient's norm is differentiated too (second order), or held constant"""
    normalise: bool = False
    """divide each gradient norm by n^(1/q), n the layer's units: for linf, by n, as the code"""
    cross_entropy_weight: float = 0.0
    stabiliser: float = 1e-6
    """added to gradient norms"""

    def __post_init__(self) -> None:
        expect(bool(self.layers), "large-margin: layers must name at least one", self.layers)
        for gamma in self.gamma or (0.0,):
            expect(gamma > 0, "large-margin: gamma must be above 0", gamma)
        if self.alpha is not None:
            expect(self.alpha > 0, "large-margin: alpha must be above 0 or none", self.alpha)
        expect(self.top_k >= 1, "large-margin: top_k must be at least 1", self.top_k)
        weight = self.cross_entropy_weight
        expect(weight >= 0, "large-margin: cross_entropy_weight must be at least 0", weight)
        expect(self.stabiliser >= 0, "large-margin: stabiliser must be at least 0", self.stabiliser)

    def prepare(self, model: nn.Module, images: Tensor) -> "PreparedLargeMargin":
        """Check layers and classes, and which faster backward modes give this network's gradient.

        Raises:
            InputError: a layer that is not there, not used once, or without influence on the
                logits; a wrong number of margins; fewer classes than `top_k` needs.
        """
        inner = unwrapped(model)
        layers = layer_names(self.layers, inner)
        if len(self.gamma) not in (1, len(layers)):
            raise InputError(
                f"large-margin: {len(self.gamma)} values of gamma for {len(layers)} layers "
                f"({', '.join(layers)}); give one, or one for each"
            )
        with probing(inner, images), torch.enable_grad():
            traced = trace(inner, images, modules_of(layers, inner))
            self._check(traced, layers, inner)
        return PreparedLargeMargin(
            self,
            inner,
            fused_backward.obstacle(inner) or self._compared(LargeMargin.fused, inner, images),
            self._compared(LargeMargin.shortcut, inner, images),
        )

    def _check(self, traced: Trace, layers: list[str], model: nn.Module) -> None:
        classes = checked_logits(traced.logits).shape[1]
        if self.top_k >= classes:
            raise InputError(
                f"large-margin: top_k is {self.top_k}, but there are {classes - 1} other classes"
            )
        edges = [point.edge for point in representations(traced, layers, model)]
        found = gradients(traced.logits, edges)
        if dead := [layer for layer, signal in zip(layers, found, strict=True) if signal is None]:
            raise InputError(
                f"large-margin: the logits do not depend on layer {dead[0]!r}; choose another"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        return self._differentiable(model, images, labels)

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """Add the loss's gradient to that of the parameters, in two passes; see `prepare`."""
        return self.two_passes(model, images, labels)

    def backward_mode(self, model: nn.Module) -> str:
        """Two passes, and why: see `Loss`."""
        return f"two passes: {self.obstacle(model) or UNPREPARED}"

    def obstacle(self, model: nn.Module) -> str:
        """Why the fused backward will not do, as far as can be told without trying it."""
        if self.differentiate:
            return "the gradient's norm is differentiated"
        if self.cross_entropy_weight:
            return "the cross-entropy term needs a signal of its own"
        if isinstance(model, DistributedDataParallel):
            return "the network is trained by several processes"
        return fused_backward.obstacle(model)

    def _differences(self, logits: Tensor, labels: Tensor) -> Tensor:
        """f_y − f_j for the top-k other classes j, N × k."""
        own = labels[:, None]
        # which classes are meant is a choice, no function to be differentiated; and by their logits
        # even on probabilities, whose order is the same but for saturation
        others = logits.detach().scatter(1, own, -torch.inf).topk(self.top_k).indices
        scores = logits.softmax(1) if self.on == "probabilities" else logits
        return scores.gather(1, own) - scores.gather(1, others)

    def _norms(self, found: list[list[Tensor | None]], places: list[Representation]) -> Tensor:
        """Dual norms, layers × N × k, from the gradients at k × layers, each N × …."""
        columns = [
            torch.stack([self._norm(*pair) for pair in zip(signals, places, strict=True)])
            for signals in found
        ]
        # distances stay finite where a gradient vanishes
        return torch.stack(columns, dim=2) + self.stabiliser

    def _norm(self, signal: Tensor | None, place: Representation) -> Tensor:
        """The dual norm of the gradient at one place, N × …, as N."""
        if signal is None:
            raise InputError("large-margin: the logits do not depend on a layer with a margin")
        norm = _dual_norm(as_float32(signal), self.norm)
        # ‖1‖_q of a layer with n units is n^(1/q): divided by it, layers of any size share one γ
        power = {"linf": 1.0, "l2": 0.5, "l1": 0.0}[self.norm]
        return norm / place.units**power if self.normalise else norm

    def _value(self, differences: Tensor, norms: Tensor) -> Tensor:
        """The margin's loss from differences, N × k, and norms, layers × N × k."""
        # the quotient is d_j of this module's formula: f is linear in h to first order, so the step
        # of norm p that closes the gap f_y − f_j has length gap / ‖∇(f_y − f_j)‖_q, by Hölder
        gamma = differences.new_tensor(self.gamma)[:, None, None]
        lack = (gamma - differences / norms).clamp(min=0)
        if self.alpha is not None:
            lack = torch.minimum(lack, self.alpha * gamma)
        # A of the paper over classes j: the nearest boundary alone, or all k of them
        each = lack.amax(2) if self.aggregate == "max" else lack.sum(2)
        return each.sum(0).mean()

    def _differentiable(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, shortcut: bool = False
    ) -> Result:
        """The loss as a graph: the gradient norms in a pass of their own, or within it."""
        layers = layer_names(self.layers, model)
        takers = fused_backward.known_layers(model) if shortcut else []
        traced = trace(model, images, [*modules_of(layers, model), *takers])
        logits = as_float32(traced.logits)
        differences = self._differences(logits, labels)
        places = representations(traced, layers, model)

        def signals(column: Tensor) -> list[Tensor | None]:
            if shortcut:
                return fused_backward.at_places(traced, column, _edges(layers, places))
            edges = [place.edge for place in places]
            # a denominator held constant is the published code's stop_gradient: it needs no second
            # derivatives, and the norms' own slope no longer works on the weights
            return gradients(column, edges, differentiable=self.differentiate)

        found = [signals(column) for column in differences.unbind(1)]
        loss = self._value(differences, self._norms(found, places))
        if self.cross_entropy_weight:
            loss = loss + self.cross_entropy_weight * functional.cross_entropy(logits, labels)
        return Result(loss, logits.detach())

    def two_passes(self, model: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """Backward mode of last resort: the loss is built as a graph, and that differentiated."""
        return _differentiated(self._differentiable(model, images, labels), model)

    def shortcut(self, model: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """As `two_passes`, the first-order gradient at the images by `fused_backward`'s means."""
        result = self._differentiable(model, images, labels, shortcut=True)
        return _differentiated(result, model)

    def fused(self, model: nn.Module, images: Tensor, labels: Tensor) -> Result:
        """One backward pass for gradient norms and weights; see `robustkit.losses.fused_backward`.

        The norms are constants here, so that what each difference's signal must be multiplied by is
        the slope of the loss in that difference: a function of N × k numbers, differentiated alone.
        """
        layers = layer_names(self.layers, model)
        watched = [*modules_of(layers, model), *fused_backward.trainable_layers(model)]
        traced = trace(model, images, watched)
        # autocast is for the network: sums over images and norms are not cut
        with torch.autocast(images.device.type, enabled=False):
            return self._fused(traced, layers, model, labels)

    def _fused(self, traced: Trace, layers: list[str], model: nn.Module, labels: Tensor) -> Result:
        logits = as_float32(traced.logits)
        differences = self._differences(logits, labels)
        places = representations(traced, layers, model)
        edges = _edges(layers, places)
        found = [fused_backward.signals(traced, column, edges) for column in differences.unbind(1)]
        # a leaf of its own cuts the graph at the differences: what is above it is N × k numbers
        leaf = differences.detach().requires_grad_()
        loss = self._value(leaf, self._norms([signals.places for signals in found], places))
        (scales,) = torch.autograd.grad(loss, leaf)
        fused_backward.accumulate(traced.uses, [signals.layers for signals in found], scales)
        return Result(loss.detach(), logits.detach())

    def _compared(self, mode: Backward, model: nn.Module, images: Tensor) -> str:
        """What stands against a backward mode on this network, where two passes are tried, too.

        What couples images, or uses a weight past its layer, is not to be seen on the modules; on
        a copy in float64 it shows.
        """
        try:
            twin = copy.deepcopy(model).double()
            # every image counts, whatever its distance, so that every gradient is compared
            probe = replace(self, gamma=(1e9,), alpha=None)
            found = [
                _gradients(partial(tried, probe), twin, images[:PROBED].double())
                for tried in (mode, LargeMargin.two_passes)
            ]
        except Exception as error:  # not every network can be copied, or runs in float64
            return f"one pass could not be tried: {first_line(error)}"
        gap = _gap(*found)
        return "" if gap <= TOLERANCE else f"here one pass would be off by {gap:.1g}"


@dataclass(frozen=True, slots=True)
class PreparedLargeMargin(Loss):
    """The large-margin loss of a network on which the faster backward modes were tried."""

    settings: LargeMargin
    network: nn.Module
    """out of its wrapper; for any other, this is the loss without preparation"""
    fused_obstacle: str
    """what stands against the fused backward there; empty if nothing does"""
    shortcut_obstacle: str
    """likewise against the input-gradient shortcut"""

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """The loss of a batch; see `Loss`."""
        return self.settings(model, images, labels, step)

    def backward(self, model: nn.Module, images: Tensor, labels: Tensor, step: Step) -> Result:
        """Add the loss's gradient to that of the parameters, in the fastest mode that is right."""
        if not self._obstacle(model) and not self._cheaper_as_graph:
            return self.settings.fused(model, images, labels)
        if unwrapped(model) is self.network and not self.shortcut_obstacle:
            return self.settings.shortcut(model, images, labels)
        return self.settings.two_passes(model, images, labels)

    def backward_mode(self, model: nn.Module) -> str:
        """One pass or two, and why two: see `Loss`."""
        reason = "" if self._cheaper_as_graph else self._obstacle(model)
        return f"two passes: {reason}" if reason else "one pass"

    @property
    def _cheaper_as_graph(self) -> bool:
        """Whether gradients stop where they begin, at the output: norms then take no pass at all.

        The fused backward sends each of the top-k differences through the network.
        """
        return self.settings.layers == ("output",) and self.settings.top_k > 1

    def _obstacle(self, model: nn.Module) -> str:
        """Why the fused backward will not do; empty if it will.

        Asked anew at each step: batch norm may have been put into another mode, hooks added.
        """
        tried = self.fused_obstacle if model is self.network else UNPREPARED
        return self.settings.obstacle(model) or tried

    def warning(self, updates: int) -> str:
        """As its settings'; see `Loss`."""
        return self.settings.warning(updates)

    def spell(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return self.settings.spell()


def _differentiated(result: Result, model: nn.Module) -> Result:
    """Add the gradient of a loss that is a graph to that of the parameters."""
    # without a list of parameters the images' own gradient would be computed too
    wrapped = isinstance(model, DistributedDataParallel)
    wanted = None if wrapped else [p for p in model.parameters() if p.requires_grad]
    result.loss.backward(inputs=wanted)  # type: ignore[no-untyped-call]
    return Result(result.loss.detach(), result.logits)


def _edges(layers: list[str], places: list[Representation]) -> list[GradientEdge | None]:
    """Where gradients are wanted, as `fused_backward.signals` takes it."""
    pairs = zip(layers, places, strict=True)
    return [None if layer == "input" else place.edge for layer, place in pairs]


def _gradients(
    backward: Callable[[nn.Module, Tensor, Tensor], Result], model: nn.Module, images: Tensor
) -> list[Tensor | None]:
    """The parameters' gradients in one backward mode; labels are just numbered through."""
    model.zero_grad()
    labels = torch.arange(len(images), device=images.device)
    with (
        probing(model, images, evaluate=False),
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
    ):
        backward(model, images, labels % 2)
    return [parameter.grad for parameter in model.parameters()]


def _gap(one: list[Tensor | None], two: list[Tensor | None]) -> float:
    """The largest relative distance of two gradients of a parameter; infinite if one is missing."""
    if [g is None for g in one] != [g is None for g in two]:
        return math.inf
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    largest = max((float(b.norm()) for _, b in pairs), default=0.0)
    # where a gradient vanishes but for rounding, its own size says nothing
    least = 1e-6 * largest + 1e-30
    return max((float((a - b).norm()) / max(float(b.norm()), least) for a, b in pairs), default=0.0)


def _dual_norm(values: Tensor, norm: Ball) -> Tensor:
    """The norm dual to `norm` of each image's values, N × …, as N."""
    dimensions = tuple(range(1, values.ndim))
    if norm == "l2":
        euclidean: Tensor = torch.linalg.vector_norm(values, dim=dimensions)
        return euclidean
    # q = 1 for linf and ∞ for l1; written out, since torch's own vector norms are many times slower
    # on a CPU for these
    size = values.abs()
    return size.sum(dimensions) if norm == "linf" else size.amax(dimensions)
