"""Certified bounds as a part of an audit: what is kept of them, and what its outcome tells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from robustkit.auditing.counts import check_sandwich
from robustkit.auditing.outcome import Bound, Certificate
from robustkit.auditing.stages import AttackedImages
from robustkit.certification import AttackedSmoothed, Certificates
from robustkit.statistics import proportion


def kept(certificates: Sequence[Certificates]) -> dict[str, Any]:
    """As JSON, at rising budgets."""
    levels = [
        {
            "robust": one.robust.tolist(),
            "methods": dict(Counter(method for method in one.by if method)),
            "rounding": one.median_rounding,
            "lost": int(one.lost_to_rounding.sum()),
        }
        for one in certificates
    ]
    first = certificates[0]
    return {"method": first.method, "reason": first.reason, "levels": levels}


def certificate(found: Mapping[str, Any], attacked: AttackedImages) -> Certificate:
    """Of what was kept, beside the attacks on the same images.

    Raises:
        EvaluationFailed: an image is certified and was fooled.
    """
    n = len(found["levels"][0]["robust"])
    if found["reason"]:
        return Certificate(found["method"], reason=found["reason"], n=n)
    bounds = []
    for epsilon, level in zip(attacked.threat.budgets, found["levels"], strict=True):
        robust = np.array(level["robust"], bool)
        check_sandwich(attacked, epsilon.text, robust)
        share = proportion(int(robust.sum()), n, "exact")
        told = {key: level[key] for key in ("methods", "rounding", "lost")}
        bounds.append(Bound(epsilon.text, float(epsilon), share, **told))
    return Certificate(found["method"], tuple(bounds), n=n)


def smoothed_levels(
    tried: Mapping[float, AttackedSmoothed],
) -> tuple[list[tuple[float, int, int]], npt.NDArray[np.bool_]]:
    """By rising radius how many images are certified, and withstand; and which are neither, N.

    What breaks an image within a radius lies within every larger one, too.
    """
    neither = np.any([one.contradicted for one in tried.values()], axis=0)
    levels, stands = [], ~neither
    for radius, one in tried.items():
        stands = stands & one.attacked
        levels.append((radius, int((one.certified & stands).sum()), int(stands.sum())))
    return levels, neither
