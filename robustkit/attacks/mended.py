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
from robustkit.geometry import column, project
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
    length = gradient.flatten(1).norm(dim=1)
    for i in (length == 0).nonzero()[:, 0].tolist():
        source = generator("ddn", images[i].cpu().numpy().tobytes().hex(), step)
        gradient[i] = torch.randn(gradient[i].shape, generator=source).to(gradient)
    length = gradient.flatten(1).norm(dim=1).clamp(min=1e-38)
    return gradient / column(length, gradient)
