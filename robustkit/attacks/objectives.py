"""What attacks ascend: losses of the logits, one number an image."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustkit.protocol import Loss

_TINY = 1e-12
CLEAN_GAP = 4.0
"""between the two largest logits of a clean image, where probabilities are taken of logits: such as
a trained network has whose probabilities still move; 2, 4 and 8 do about as well"""
_NEAR = 1 / 20
"""of the gap between the largest logit and an ordinary one: so far from the runner-up at least is
an image taken to be"""


def objective(
    logits: Tensor, classes: Tensor, clean: Tensor, loss: Loss, targeted: bool = False
) -> Tensor:
    """A loss to be raised, N; `classes` N are the labels, or the targets to be reached.

    `clean` N × K are the logits of the clean images, from which scales are taken. The losses:

    - `cross-entropy` (Madry et al. 2018), whose gradient vanishes where softmax saturates;
    - `margin`: the largest other logit minus the class's own (Carlini and Wagner 2017, f6);
    - `dlr`: the difference of logits ratio (Croce and Hein 2020, equation 6), blind to the logits'
      shift and scale; with two classes, where it is not defined, the margin over the clean gap;
    - `rescaled-cross-entropy`: cross-entropy of logits over the clean image's gap between the two
      largest, so that no scale saturates it (after Yu and Xu 2023, who rescale at every step);
    - `probability-margin`: the largest other probability minus the class's own (PMA, Xie et al.
      2024), of logits brought to a clean gap of 4, so that no scale saturates them.

    With two classes both of the latter rise and fall with the margin, and are it, over the clean
    gap: where that is next to nothing they would saturate.
    """
    if logits.shape[1] == 2 and loss in ("rescaled-cross-entropy", "probability-margin"):
        loss = "dlr"
    match loss:
        case "cross-entropy":
            value = cross_entropy(logits, classes, reduction="none")
        case "rescaled-cross-entropy":
            scaled = (logits - logits.detach().amax(1, keepdim=True)) / _gap(clean)[:, None]
            value = cross_entropy(scaled, classes, reduction="none")
        case "margin":
            value = _margin(logits, classes)
        case "probability-margin":
            value = _margin(_probabilities(logits, clean), classes)
        case "dlr":
            value = _margin(logits, classes) / _spread(logits, clean)
    return -value if targeted else value


def towards(logits: Tensor, classes: Tensor, targets: Tensor, clean: Tensor, loss: Loss) -> Tensor:
    """A loss to be raised on the way from the labels N to one target class an image, N.

    `dlr` is the targeted one (Croce and Hein 2020, equation 7), which needs four classes: with
    three the last of its scale's two classes is left out, with two the scale is the clean gap.
    Both cross-entropies lower the target's own.
    """
    two = logits.shape[1] == 2  # one other class: the loss that has none in particular
    if two or loss in ("cross-entropy", "rescaled-cross-entropy"):
        return objective(logits, targets, clean, loss, targeted=True)
    rows = torch.arange(len(logits), device=logits.device)
    if loss == "probability-margin":
        probabilities = _probabilities(logits, clean)
        return probabilities[rows, targets] - probabilities[rows, classes]
    difference = logits[rows, targets] - logits[rows, classes]
    if loss == "margin":
        return difference
    if logits.shape[1] < 4:
        return difference / _spread(logits, clean)
    top = logits.topk(4, dim=1).values
    return difference / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    own = logits.gather(1, classes[:, None])[:, 0]
    others = logits.scatter(1, classes[:, None], float("-inf"))
    return others.amax(1) - own


def _probabilities(logits: Tensor, clean: Tensor) -> Tensor:
    shifted = logits - logits.detach().amax(1, keepdim=True)
    probabilities: Tensor = (shifted * (CLEAN_GAP / _gap(clean))[:, None]).softmax(1)
    return probabilities


def _spread(logits: Tensor, clean: Tensor) -> Tensor:
    """From the largest logit to the third, or with two classes the clean gap."""
    if logits.shape[1] < 3:
        return _gap(clean)
    top = logits.topk(3, dim=1).values
    return top[:, 0] - top[:, 2] + _TINY


def _gap(clean: Tensor) -> Tensor:
    """Between the two largest logits, N, at least a share of that to an ordinary one (`_NEAR`).

    Of an image on the boundary it is next to nothing, and a loss over it would saturate as soon as
    the image moves.
    """
    classes = clean.shape[1]
    top = clean.topk(min(10, classes - classes // 2 + 1), dim=1).values
    least = _NEAR * (top[:, 0] - top[:, -1])
    least = torch.where(least.isfinite(), least, 0)  # a class may be masked by -inf
    return torch.maximum(top[:, 0] - top[:, 1], least) + _TINY
