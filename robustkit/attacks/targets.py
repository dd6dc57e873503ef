"""Which wrong classes an attack heads for, and in which order."""

from typing import Any

import torch
from torch import Tensor

from robustkit.attacks.library import finite
from robustkit.geometry import DUAL, length
from robustkit.network import answer, gradient
from robustkit.protocol import Norm
from robustkit.protocol.passes import CANDIDATES


def likeliest(clean: Tensor, classes: Tensor) -> Tensor:
    """The wrong classes of each image by their clean logits N × K, largest first, N × (K − 1)."""
    own = torch.zeros_like(clean).scatter(1, classes[:, None], float("-inf"))
    return (clean + own).argsort(dim=1, descending=True, stable=True)[:, :-1]


def nearest(model: Any, images: Tensor, classes: Tensor, clean: Tensor, norm: Norm) -> Tensor:
    """The likeliest wrong classes by the distance of their linearised boundary, N × C.

    MALT (Melamed et al. 2024, algorithm 1): |f_y − f_j| over the norm of its gradient in the
    pixels, here the dual of the attack's, which makes it the distance to the boundary of the
    linearised network in that norm.
    """
    candidates = likeliest(clean, classes)[:, :CANDIDATES]
    x = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = answer(model, x)
        gaps = logits.gather(1, classes[:, None]) - logits.gather(1, candidates)
        if not gaps.requires_grad:  # which the search itself tells, where it needs a gradient
            return candidates
        columns, lengths = gaps.unbind(1), torch.empty_like(gaps, dtype=x.dtype)
        for place, gap in enumerate(columns):  # one gradient at a time, each as large as the images
            slope = finite(gradient(gap.sum(), x, retain_graph=gap is not columns[-1]))
            lengths[:, place] = length(slope.flatten(1), DUAL[norm])  # as the search will step
    # a gradient that vanishes leads nowhere: its class comes last
    distances = torch.where(lengths > 0, gaps.detach() / lengths, torch.inf)
    return candidates.gather(1, distances.argsort(dim=1, stable=True))
