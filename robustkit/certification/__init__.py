"""Lower bounds: images that provably no perturbation fools, and smoothed classifiers."""

from robustkit.certification.complete import (
    REVISION,
    TIME_LIMIT,
    Decision,
    decide,
)
from robustkit.certification.deterministic import MENDED_ONLY, Certificates, certify, certify_rising
from robustkit.certification.smoothing import (
    ABSTAIN,
    AttackedSmoothed,
    SmoothedCertificates,
    SmoothingNoise,
    attack_smoothed,
    smooth,
)

__all__ = [
    "ABSTAIN",
    "MENDED_ONLY",
    "REVISION",
    "TIME_LIMIT",
    "AttackedSmoothed",
    "Certificates",
    "Decision",
    "SmoothedCertificates",
    "SmoothingNoise",
    "attack_smoothed",
    "certify",
    "certify_rising",
    "decide",
    "smooth",
]
