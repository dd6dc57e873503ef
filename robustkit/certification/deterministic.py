"""Which images no perturbation of a norm ball can fool: proved, not tried.

The function is the attacked one, pixels in [0, 1] to logits with its normalisation inside, and so
is the set: the ball of ε that attacks are held to (with their tolerance), inside the box. An attack
gives an upper bound of robust accuracy, `certify` a lower bound; the truth lies between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, prod

import torch
from torch import Tensor, nn

from robustkit.attacks.lasting import held_throughout
from robustkit.certification.agreement import OTHER, check_logits
from robustkit.certification.bounds import Interval, chunk, intervals, local_errors, lowest
from robustkit.certification.conversion import convert
from robustkit.certification.graph import BoundGraph, Unsupported
from robustkit.certification.precision import check_convolutions, roundoff_of
from robustkit.certification.refine import refined
from robustkit.certification.region import Region, reach
from robustkit.certification.roundoff import IEEE
from robustkit.checkpoint.adapter import replica
from robustkit.errors import DataError, InputError
from robustkit.geometry import ORDER
from robustkit.network import answer
from robustkit.protocol import Norm

BUDGET = 2e9
"""multiplications that the linear relaxation may take for an image: up to a second on one core"""
MENDED_ONLY = (
    "; nothing can be proved of it as it is, but it can be attacked one image at a time "
    "(robustkit evaluate --image-by-image; image_by_image=True in Python)"
)
"""what is said of a network whose logits depend on the batch, besides how to mend it"""
METHODS = ("interval", "linear", "linear throughout")
"""interval bounds; linear relaxation over them; and with the layers between bounded likewise"""
RUN = "evaluation"
"""the network's answers on the image itself, at ε = 0"""
CLEAR = 50
"""by how many times float32's measured error they must be clear"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What is proved of each of N images at one ε."""

    epsilon: float
    robust: Tensor
    """bool N: right, and right for every x of the ball and the box"""
    margin: Tensor
    """float64 N: a lower bound over the region of the smallest logit_label − logit_other that
    float32 computes; −inf where nothing is known, as for a clean mistake"""
    rounding: Tensor
    """float64 N: what `margin` lost to float32's rounding, step by step, on the way back; NaN where
    nothing is known"""
    by: tuple[str, ...]
    """the first of `METHODS` that proved it, or `RUN`, N; "" where none did"""
    method: str
    """in words, with what was left out and why"""
    reason: str = ""
    """why the network is unsupported, in one line; "" where it is not"""

    @property
    def lost_to_rounding(self) -> Tensor:
        """Bool N: not certified, but for what was taken off for rounding."""
        return ~self.robust & (self.margin + self.rounding > 0)

    @property
    def median_rounding(self) -> float | None:
        """What rounding took off a margin in the middle; None where nothing is known."""
        known = self.rounding[self.rounding.isfinite()]
        return float(known.median()) if len(known) else None


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: Norm,
    epsilon: float,
    batch_size: int = 32,
    *,
    budget: float = BUDGET,
) -> Certificates:
    """Which images are provably right throughout ball(x, ε) ∩ [0, 1]^d.

    An image counts as robust only if the float32 network itself predicts its label and every margin
    that it can compute in the region, rounding included, is above 0. `roundoff.py` derives that
    and says what is assumed: that no convolution is done by Winograd's or Fourier transforms.

    At ε = 0 there is but one point, and what the network answers there can be looked at. Where no
    bound decides, it counts if the label leads by `CLEAR` times the largest error that float32 is
    seen to make, in a batch and alone. That is measured for the kernels at hand, not proved for
    every order of summation: no bound could, as there may be an order that fools such an image.

    Args:
        model: frozen, in eval mode, pixels in [0, 1] to N × K logits.
        images: float32 N × C × H × W in [0, 1].
        labels: int64 N.
        norm: of the perturbation.
        epsilon: its largest size, ≥ 0.
        batch_size: images at once; it changes no verdict but by rounding.
        budget: multiplications that the linear relaxation may take for an image; 0 leaves it out.

    Raises:
        DataError: images or labels of another kind or shape.
        InputError: an unknown norm, a negative ε, or a model in training mode or whose logits
            depend on the batch.
        EvaluationFailed: the model broke.
    """
    return certify_rising(model, images, labels, norm, [epsilon], batch_size, budget=budget)[0]


def certify_rising(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norm: Norm,
    epsilons: Sequence[float],
    batch_size: int = 32,
    *,
    budget: float = BUDGET,
) -> list[Certificates]:
    """`certify` for rising ε; an image that fails at one is not tried again at a larger one.

    Raises:
        DataError: images or labels of another kind or shape.
        InputError: an unknown norm, ε that are negative or do not rise, or a model in training or
            whose logits depend on the batch.
        EvaluationFailed: the model broke.
    """
    _check(model, images, labels, norm, epsilons)
    try:
        roundoff_of(model, images.device)  # half weights cannot be asked with these images
        with held_throughout(model, images, MENDED_ONLY, batch_size) as model:
            graph = graph_of(model, images[0])
            right = clean_right(model, graph, images, labels, batch_size)
    except Unsupported as error:
        return [_nothing(epsilon, len(images), str(error)) for epsilon in epsilons]
    results = []
    for epsilon in epsilons:
        certifier = Certifier(model, graph, norm, reach(epsilon), budget)
        result = certifier.run(images, labels, right, epsilon, batch_size)
        results.append(result)
        right = result.robust
    return results


def graph_of(model: nn.Module, image: Tensor) -> BoundGraph:
    """The steps of a frozen module, C × H × W to logits, and how it rounds them where it runs.

    Raises:
        Unsupported: an operation without bounds, or kernels whose error nothing bounds.
    """
    graph = replace(convert(model, image), roundoff=roundoff_of(model, image.device))
    check_convolutions(graph)
    return graph


def _check(
    model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, epsilons: Sequence[float]
) -> None:
    if norm not in ORDER:
        raise InputError(f"unknown norm {norm!r}; known: {', '.join(ORDER)}")
    rising = list(epsilons) == sorted(epsilons)
    if not (rising and epsilons and all(isfinite(e) and e >= 0 for e in epsilons)):
        raise InputError(f"epsilons {list(epsilons)}: finite, rising numbers from 0 are needed")
    if images.dim() != 4 or len(images) == 0 or not images.is_floating_point():
        raise DataError(f"images of shape {tuple(images.shape)}: N×C×H×W numbers are needed")
    if not (images.min() >= 0 and images.max() <= 1):  # NaN too is outside
        raise DataError("images with pixels outside [0, 1]")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise DataError(f"labels of shape {tuple(labels.shape)}: one int64 per image is needed")
    if any(module.training for module in model.modules()):
        raise InputError("the model is in training mode; call eval() on it first")


def _nothing(epsilon: float, n: int, reason: str) -> Certificates:
    return Certificates(
        epsilon,
        torch.zeros(n, dtype=torch.bool),
        torch.full((n,), -torch.inf, dtype=torch.float64),
        torch.full((n,), torch.nan, dtype=torch.float64),
        ("",) * n,
        "none",
        reason,
    )


@torch.no_grad()
def clean_right(
    model: nn.Module, graph: BoundGraph, images: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    """Whether the network itself is right on the clean images, bool N on the CPU.

    Its logits are also held against the written-down steps, in float64 and, within rounding, in
    float32: else they are not the same function and nothing may be said.
    """
    found, exact = [], replica(model).to(images.device, torch.float64)
    for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        logits = answer(model, x)
        classes = logits.shape[1]
        if not 0 <= int(y.min()) <= int(y.max()) < classes:
            raise DataError(f"a label outside the model's {classes} classes")
        low, high = intervals(graph, Region("linf", x.double(), 0.0))[-1]
        if not bool(((low <= logits) & (logits <= high)).all()):
            raise Unsupported(OTHER)
        check_logits(graph, x.double(), answer(exact, x.double()))
        found.append((logits.argmax(1) == y).cpu())
    return torch.cat(found)


@dataclass(slots=True)
class Certifier:
    """One radius; methods in turn, each for the images the one before could not prove."""

    model: nn.Module
    graph: BoundGraph
    norm: Norm
    radius: float
    budget: float

    @torch.no_grad()
    def run(
        self, images: Tensor, labels: Tensor, tried: Tensor, epsilon: float, batch_size: int
    ) -> Certificates:
        """What is proved of the images that are `tried`, bool N on the CPU."""
        margin = torch.full((len(images),), -torch.inf, dtype=torch.float64)
        rounding = torch.full_like(margin, torch.nan)
        by = [""] * len(images)
        for rows in torch.split(tried.nonzero()[:, 0], batch_size):
            if len(rows) == 0:
                continue
            there = rows.to(images.device)
            region = Region(self.norm, images[there].double(), self.radius)
            best, lost, methods = self._batch(region, labels[there])
            margin[rows], rounding[rows] = best.cpu(), lost.cpu()
            for row, method in zip(rows.tolist(), methods, strict=True):
                by[row] = method
        return Certificates(epsilon, margin > 0, margin, rounding, tuple(by), self._words())

    def _batch(self, region: Region, labels: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        bounds = intervals(self.graph, region)
        best, lost = self._margins(region, labels, bounds, relax=False)
        methods = [METHODS[0] if value > 0 else "" for value in best.tolist()]
        for name in METHODS[1:]:
            rows = (best <= 0).nonzero()[:, 0]
            if len(rows) == 0 or not self._affordable():
                break
            part = region.take(rows)
            known = [(low[rows], high[rows]) for low, high in bounds]
            if name == METHODS[2]:
                known, layers = refined(self.graph, known, part, self.budget - self._cost())
                if layers == 0:
                    break
            value, cost = self._margins(part, labels[rows], known, relax=True)
            lost[rows] = torch.where(value > best[rows], cost, lost[rows])
            best[rows] = torch.maximum(best[rows], value)
            for row, proved in zip(rows.tolist(), (value > 0).tolist(), strict=True):
                methods[row] = name if proved else ""
        # where factors may be cut, what one kernel does says nothing of another
        rows = (best <= 0).nonzero()[:, 0]
        if region.radius == 0 and len(rows) and self.graph.roundoff == IEEE:
            margins, error = observed(self.model, self.graph, region.images.float(), rows, labels)
            for row, margin, off in zip(rows.tolist(), margins, error, strict=True):
                if margin > off:
                    best[row], lost[row], methods[row] = margin - off, off, RUN
        return best, lost, methods

    def _margins(
        self, region: Region, labels: Tensor, bounds: list[Interval], *, relax: bool
    ) -> tuple[Tensor, Tensor]:
        """A lower bound of each image's smallest margin, N, and what rounding took of it."""
        slopes = differences(labels, self._classes())
        errors = local_errors(self.graph, bounds)
        last = len(self.graph.steps) - 1
        parts = [
            lowest(self.graph, bounds, region, last, part, relax=relax, errors=errors)
            for part in torch.split(slopes, chunk(self.graph, len(slopes), 1), dim=1)
        ]
        # a network whose numbers may overflow has bounds that are none
        values = torch.cat([part.values for part in parts], 1).nan_to_num(nan=-torch.inf)
        least = values.min(1)
        rounding = torch.cat([part.rounding for part in parts], 1)
        return least.values, rounding.gather(1, least.indices[:, None])[:, 0]

    def _classes(self) -> int:
        return prod(self.graph.steps[-1].shape)

    def _cost(self) -> float:
        """Multiplications of the linear relaxation for one image, without layers between."""
        last = len(self.graph.steps) - 1
        return float((self._classes() - 1) * self.graph.work_below(last))

    def _affordable(self) -> bool:
        return self._cost() <= self.budget

    def _words(self) -> str:
        if self._affordable():
            return "interval bounds and linear relaxation (CROWN), the better for each image"
        return (
            f"interval bounds; linear relaxation left out: it takes {self._cost():.2g} "
            f"multiplications an image, more than the budget of {self.budget:.2g}"
        )


def observed(
    model: nn.Module, graph: BoundGraph, x: Tensor, rows: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Least margins of some images, in their batch and alone, and `CLEAR` times the error there."""
    exact = graph.values(x[rows].double())[-1]
    alone = torch.cat([answer(model, x[[row]]) for row in rows.tolist()])
    logits = torch.stack([answer(model, x)[rows], alone]).double()
    label = labels[rows].expand(2, -1)[..., None]
    others = logits.scatter(2, label, -torch.inf).amax(2)
    error = (logits - exact).abs().amax((0, 2))
    # not even a last rounding is seen: exact by symmetry or chance, which says nothing of errors
    error = torch.where(error > IEEE.unit / 8 * exact.abs().amax(1), error, torch.inf)
    return (logits.gather(2, label)[..., 0] - others).amin(0), CLEAR * error


def differences(labels: Tensor, classes: int) -> Tensor:
    """Slopes of logit_label − logit_other for each other class, N × (K − 1) × K."""
    every = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    others = every[every != labels[:, None]].view(len(labels), classes - 1)
    identity = torch.eye(classes, dtype=torch.float64, device=labels.device)
    return identity[labels][:, None] - identity[others]
