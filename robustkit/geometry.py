"""Steps, projections and distances in the three norms; every image with a budget of its own.

Images are N × C × H × W, budgets and step sizes N.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from robustkit.protocol import Norm

ORDER: dict[Norm, float] = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
"""the p of each norm"""
DUAL: dict[Norm, float] = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
"""the p of each norm's dual"""
COUNTED: tuple[Norm, ...] = ("l0", "l0-features", "patch")
"""norms in which it counts where an image changed, not how far"""
TOLERANCE = 1e-6
"""A distance counts as within ε up to this much above it, relative to max(1, ε): float32 rounding
of pixels in [0, 1] stays below, or is mended by `drawn_in`, and no attack gains by it."""
ROUNDING = 2.0**-25
"""At most so far from the number that is meant lies a float32 in [0, 1]."""
EXACT_UP_TO = int(TOLERANCE / ROUNDING) ** 2
"""so many values cannot, by their rounding, leave an L2 ball by more than the tolerance"""


def column(values: Tensor, like: Tensor) -> Tensor:
    """One number per image, shaped to broadcast over its pixels."""
    return values.view(-1, *[1] * (like.ndim - 1))


def distance(images: Tensor, perturbed: Tensor, norm: Norm) -> Tensor:
    """Norm of the perturbation of each image, float64, N.

    In l0 the number of changed pixels, whichever of their channels, in l0-features that of changed
    values; of a patch the side of the smallest square that holds all changed pixels.
    """
    if norm in COUNTED:
        return _counted(perturbed != images, norm)
    return length((perturbed.double() - images.double()).flatten(1), ORDER[norm])


def length(rows: Tensor, order: float) -> Tensor:
    """p-norm over the last dimension, of order 1, 2 or inf."""
    if order == float("inf"):
        return rows.abs().amax(-1)  # ten times as fast as `vector_norm`, which is not vectorised
    result: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=-1)
    return result


def entries(images: Tensor, norm: Norm) -> Tensor:
    """The values of what l0 counts, N × V × E: of each pixel its channels, of a feature itself."""
    return images.flatten(2) if norm == "l0" else images.flatten(1)[:, None]


def _counted(changed: Tensor, norm: Norm) -> Tensor:
    """What is counted of changed values, N × C × H × W, as float64 N."""
    if norm == "l0-features":
        return changed.flatten(1).sum(1).double()
    pixels = changed.any(1)
    if norm == "l0":
        return pixels.flatten(1).sum(1).double()
    return torch.maximum(_extent(pixels.any(1)), _extent(pixels.any(2))).double()


def _extent(marked: Tensor) -> Tensor:
    """From the first marked place to the last, both counted, of rows N × L: int64 N."""
    first, last = marked.int().argmax(1), marked.shape[1] - marked.flip(1).int().argmax(1)
    return torch.where(marked.any(1), last - first, 0)


def in_budget(distances: Tensor, epsilon: Tensor | float) -> Tensor:
    """Whether distances are within budgets, up to `TOLERANCE`."""
    budget = torch.as_tensor(epsilon, dtype=torch.float64, device=distances.device)
    return distances <= budget + TOLERANCE * budget.clamp(min=1)


def transformed(images: Tensor, transforms: Tensor) -> Tensor:
    """Each image rotated about its centre, then moved; float32 N × C × H × W.

    Bilinear, black where nothing of the image comes to lie (Engstrom et al. 2019, section 3). In
    float64, so that whole pixels are moved without a trace.

    Args:
        images: N × C × H × W.
        transforms: degrees counter-clockwise, pixels down and pixels right, float64 N × 3.
    """
    height, width = images.shape[-2:]
    angle, down, right = (
        transforms.to(images.device).double().deg2rad()[:, 0],
        *(column(transforms[:, k].to(images.device).double(), images[:, 0]) for k in (1, 2)),
    )
    rows = torch.arange(height, device=images.device, dtype=torch.float64)[:, None]
    columns = torch.arange(width, device=images.device, dtype=torch.float64)[None]
    # where each pixel comes from: moved back, then turned back
    v = rows - (height - 1) / 2 - down
    u = columns - (width - 1) / 2 - right
    cosine, sine = column(angle.cos(), v), column(angle.sin(), v)
    across = cosine * u - sine * v
    along = sine * u + cosine * v
    places = torch.stack([across * (2 / width), along * (2 / height)], dim=3)
    moved = grid_sample(images.double(), places, align_corners=False)
    return moved.clamp_(0, 1).float()


def steepest_step(x: Tensor, gradient: Tensor, size: Tensor, norm: Norm) -> Tensor:
    """Move each image by the steepest step of a given length in a norm. Overwrites `gradient`.

    Linf: the sign of the gradient. L2: the gradient's direction. L1: the pixels of the largest
    slope first, each as far as the box lets it: the maximum of the linearised loss over the
    intersection of the ball around x and the box. A zero gradient moves nothing.
    """
    if norm == "linf":
        return gradient.sign_().mul_(column(size, x)).add_(x)
    if norm == "l2":
        return of_length(gradient, size).add_(x)
    return _steepest_l1(x, gradient, size).add_(x)


def of_length(gradient: Tensor, size: Tensor) -> Tensor:
    """Gradients, N × …, as long as `size`, N, in L2; zero ones as they are. May overwrite them."""
    length = gradient.flatten(1).norm(dim=1)
    # scaled by the largest entry first: squares of tiny gradients underflow in float32
    if bool((length < 1e-12).any()):
        largest = gradient.flatten(1).abs().amax(1)
        gradient = gradient / column(largest.clamp(min=1e-38), gradient)
        length = gradient.flatten(1).norm(dim=1)
    # any other is longer by now, if need be by scaling: only a zero one is below the clamp
    return gradient.mul_(column(size / length.clamp(min=1e-12), gradient))


def _steepest_l1(x: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
    slope = gradient.flatten(1)
    room = torch.where(slope > 0, 1 - x.flatten(1), x.flatten(1)) * (slope != 0)
    order = slope.abs().argsort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    before = room.cumsum(1) - room
    amount = torch.minimum(room, (size[:, None] - before).clamp(min=0))
    step = torch.zeros_like(amount).scatter_(1, order, amount) * slope.sign()
    return step.view_as(x)


def projection(images: Tensor, epsilon: Tensor, norm: Norm) -> Callable[[Tensor], Tensor]:
    """`project` for several points around the same images."""
    if norm != "linf":
        return lambda x: project(x, images, epsilon, norm)
    budget = column(epsilon, images)
    low, high = images - budget, images + budget
    return lambda x: x.clamp(low, high).clamp_(0, 1)


def project(
    x: Tensor, images: Tensor, epsilon: Tensor, norm: Norm, *, exact: bool = True
) -> Tensor:
    """The nearest point (Euclidean) of the ball around each image, then of the box [0, 1].

    Args:
        x: points, N × …
        images: N × … in [0, 1].
        epsilon: the balls' radii, N.
        norm: of the balls.
        exact: whether rounding may not lead out of a ball, which verification would refute.
    """
    if norm == "linf":
        return projection(images, epsilon, norm)(x)
    change = x - images
    if norm == "l2":
        length = change.flatten(1).norm(dim=1)
        change = change * column((epsilon / length.clamp(min=1e-38)).clamp(max=1), x)
    else:
        change = _onto_l1_ball(change.flatten(1), epsilon).view_as(x)
    nearest = (images + change).clamp_(0, 1)
    return drawn_in(nearest, images, epsilon, norm) if exact else nearest


def drawn_in(x: Tensor, images: Tensor, epsilon: Tensor, norm: Norm) -> Tensor:
    """Points of [0, 1] that rounding led out of their L2 or L1 balls, back on the way to the image.

    Each value is rounded by up to `ROUNDING`, and in large images the sum over all counts: of
    224 × 224 pixels alike, all changed alike, every one may be rounded upwards. Sums of so many
    squares in float32 fall short besides, so that their points lie too far outside.
    """
    if norm == "l2" and images[0].numel() <= EXACT_UP_TO:
        return x
    reached = distance(images, x, norm)
    rows = (~in_budget(reached, epsilon)).nonzero()[:, 0]
    if not len(rows):
        return x
    near = images[rows].double()
    change = (x[rows].double() - near).flatten(1)
    # a value without a change is met exactly; all others may be rounded away from the image
    changed = (change != 0).sum(1).double()
    slack = ROUNDING * (changed.sqrt() if norm == "l2" else changed)
    share = (epsilon[rows].double() - slack).clamp(min=0) / reached[rows]
    result = x.clone()
    result[rows] = (near + (change * share[:, None]).view_as(near)).to(x.dtype)
    return result


def _onto_l1_ball(change: Tensor, epsilon: Tensor) -> Tensor:
    """Euclidean projection of rows onto L1 balls (Duchi et al. 2008, figure 1)."""
    size = change.abs()
    outside = size.sum(1) > epsilon
    if not bool(outside.any()):
        return change
    # only rows outside need the sort; float64 keeps the running sums of many pixels exact
    rows, budget = size[outside].double(), epsilon[outside].double()[:, None]
    falling = rows.sort(dim=1, descending=True).values
    excess = falling.cumsum(1) - budget
    counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    support = (falling * counts > excess).sum(1, keepdim=True).clamp(min=1)
    threshold = excess.gather(1, support - 1) / support
    result = change.clone()
    result[outside] = (rows - threshold).clamp(min=0).to(change.dtype) * change[outside].sign()
    return result
