"""foolbox's attacks that look for the smallest perturbation, mended where they need it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustkit.attacks.draws import generator
from robustkit.attacks.library import eagerpy, foolbox, goal, unit_box
from robustkit.attacks.projections import onto_l1_ball, onto_l2_ball
from robustkit.attacks.targets import likeliest
from robustkit.errors import InputError
from robustkit.geometry import DUAL, column, length, of_length, project
from robustkit.network import answer
from robustkit.network import gradient as gradient_of
from robustkit.protocol import Norm


class _OverTheBoundary:
    """Onto ball and box at once, and a hair further.

    FMN projects onto the distance at which the linearised boundary lies, then onto the box, which
    takes away what it went beyond: an iterate with pixels at the wall then stands still short of
    the boundary, for good. And where the boundary really is linear, foolbox's iterate sits on it
    and rounding decides whether it ever crosses.
    """

    nearest: Callable[[Tensor, Tensor, Tensor], Tensor]
    """projection of points N × D onto the ball of a radius N around images, within the box"""

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        starting_points: Any = None,
        early_stop: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """The smallest perturbation; step sizes are meant for [0, 1], whatever the bounds."""
        box = unit_box(model, inputs)
        starts = None if starting_points is None else unit_box(model, starting_points).images
        found = super().run(  # type: ignore[misc]
            box.model,
            box.images,
            criterion,
            starting_points=starts,
            early_stop=None if early_stop is None else early_stop / box.width,
            **kwargs,
        )
        return box.back(found)

    def normalize(self, gradients: Any) -> Any:
        """Gradients of length 1 in L2, however short; foolbox's own divides by 1e-12 at least."""
        slope = gradients.raw.clone()
        return eagerpy.astensor(of_length(slope, torch.ones_like(slope.flatten(1)[:, 0])))

    def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
        """Onto the balls of radius epsilon, N, around x0, and a 100,000th further."""
        points, images = x.raw.flatten(1), x0.raw.flatten(1)
        # of no margin and no gradient foolbox makes NaN: 0 / 0
        radius = epsilon.raw.nan_to_num(nan=0.0, posinf=None, neginf=None)
        nearest = type(self).nearest(points, images, radius * (1 + 1e-5) + 1e-7)
        return eagerpy.astensor(nearest.view(x0.shape))


class LinfFMN(_OverTheBoundary, foolbox.attacks.LInfFMNAttack):  # type: ignore[misc]
    """FMN in Linf."""

    nearest = staticmethod(partial(project, norm="linf"))


class L2FMN(_OverTheBoundary, foolbox.attacks.L2FMNAttack):  # type: ignore[misc]
    """FMN in L2; foolbox 3.3.4 leaves the projection out: it divides norms by norms."""

    nearest = staticmethod(onto_l2_ball)


class L1FMN(_OverTheBoundary, foolbox.attacks.L1FMNAttack):  # type: ignore[misc]
    """FMN in L1."""

    nearest = staticmethod(onto_l1_ball)


PAST = 1e-4
"""how far beyond a linearised boundary DeepFool goes, as foolbox's own does"""
MENDED_FMN: dict[Norm, type[Any]] = {"linf": LinfFMN, "l2": L2FMN, "l1": L1FMN}


class MendedDDN(foolbox.attacks.DDNAttack):  # type: ignore[misc]
    """DDN (Rony et al. 2019, algorithm 1); a vanished gradient draws on the image's own pixels.

    foolbox's own draws one tensor for the whole batch there, so that a result depends on who
    shares the batch, and divides by zero where a perturbation is still nothing.
    """

    def run(self, model: Any, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """The smallest adversarial iterate of each image; the image itself where there is none."""
        kwargs.pop("early_stop", None)
        foolbox.attacks.base.raise_if_kwargs(kwargs)
        classes, targeted = goal(criterion)
        model, images, _, back = unit_box(model, inputs)
        sign = -1.0 if targeted else 1.0

        delta = torch.zeros_like(images)
        best, smallest = delta, torch.full((len(images),), math.inf, device=images.device)
        worst = torch.maximum(images, 1 - images).flatten(1).norm(dim=1)
        epsilon = torch.full_like(worst, self.init_epsilon)
        for step in range(self.steps):
            rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            x = (images + delta).requires_grad_()
            logits = answer(model, x)
            gradient = gradient_of(sign * cross_entropy(logits, classes, reduction="sum"), x)
            hit = (logits.argmax(1) == classes) == targeted
            length = delta.flatten(1).norm(dim=1)
            better = hit & (length < smallest)
            smallest = torch.where(better, length, smallest)
            best = torch.where(column(better, delta), delta, best)
            delta = delta + rate * _direction(gradient, images, step)
            epsilon = epsilon * torch.where(hit, 1 - self.gamma, 1 + self.gamma)
            epsilon = torch.minimum(epsilon, worst)
            length = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
            delta = (images + delta * column(epsilon / length, delta)).clamp(0, 1) - images
        return back((images + best).clamp(0, 1))


def _direction(gradient: Tensor, images: Tensor, step: int) -> Tensor:
    """Unit gradients; where one vanishes, a random direction keyed by the image and the step."""
    for i in (gradient.flatten(1) == 0).all(1).nonzero()[:, 0].tolist():
        source = generator("ddn", images[i].cpu().numpy().tobytes().hex(), step)
        gradient[i] = torch.randn(gradient[i].shape, generator=source).to(gradient)
    return of_length(gradient, torch.ones_like(gradient.flatten(1)[:, 0]))


class MendedDeepFool(foolbox.attacks.base.MinimizationAttack):  # type: ignore[misc]
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2; in Linf section 5.1), from the label.

    foolbox's own starts from the class that it ranks first: where another ties with the label, it
    walks towards the label. It passes each candidate through the network anew, too.
    """

    def __init__(self, norm: Norm, steps: int, candidates: int, overshoot: float) -> None:
        self.norm = norm
        self.steps = steps
        self.candidates = candidates
        self.overshoot = overshoot

    @property
    def distance(self) -> Any:
        """The norm, in foolbox's words."""
        return getattr(foolbox.distances, self.norm)

    def run(self, model: Any, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """The first iterate of each image that is not taken for its label, or the last one.

        Raises:
            InputError: the criterion is towards given classes.
        """
        kwargs.pop("early_stop", None)
        foolbox.attacks.base.raise_if_kwargs(kwargs)
        classes, targeted = goal(criterion)
        if targeted:
            raise InputError("DeepFool heads for the nearest class, not for a given one")
        model, images, _, back = unit_box(model, inputs)
        with torch.no_grad():
            others = likeliest(answer(model, images), classes)[:, : self.candidates - 1]
        x, total = images, torch.zeros_like(images)
        for _ in range(self.steps):
            point = x.detach().requires_grad_()
            logits = answer(model, point)
            done = logits.argmax(1) != classes
            if bool(done.all()):
                break
            total = total + self._step(point, logits, classes, others)
            further = (images + (1 + self.overshoot) * total).clamp(0, 1)
            x = torch.where(column(done, x), x, further)
        return back(x)

    def _step(self, x: Tensor, logits: Tensor, classes: Tensor, others: Tensor) -> Tensor:
        """To the nearest of the linearised boundaries, and a hair further; N × C × H × W."""
        gaps = (logits.gather(1, others) - logits.gather(1, classes[:, None])).unbind(1)
        slope, nearest = torch.zeros_like(x), torch.full_like(gaps[0], torch.inf).double()
        for gap in gaps:  # the nearest so far is kept alone: gradients are as large as the images
            own = gradient_of(gap.sum(), x, retain_graph=gap is not gaps[-1])
            # where one has no number `foolbox_model` makes it 0, and so where it is too small
            steepness = length(own.flatten(1).double(), DUAL[self.norm])
            far = gap.detach().double().abs() / steepness
            far = torch.where(steepness > 0, far, torch.inf)
            slope = torch.where(column(far < nearest, x), own, slope)
            nearest = nearest.minimum(far)
        far = nearest.to(x) + PAST
        far = torch.where(far.isfinite(), far, 0)  # no slope leads anywhere
        step = column(far, x) * slope.sign() if self.norm == "linf" else of_length(slope, far)
        return step


class MendedHopSkipJump(foolbox.attacks.HopSkipJumpAttack):  # type: ignore[misc]
    """HopSkipJump, whose bisection ends near the boundary in images of few pixels, too.

    It ends at a share γ / d^1.5 of the way, or γ / d²: of one pixel that is the whole.
    """

    def run(self, model: Any, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """As foolbox's own."""
        self.gamma = min(1.0, inputs[0].numel() ** 1.5 / 1000)
        return super().run(model, inputs, criterion, **kwargs)
