"""Lower bounds: images that provably no perturbation fools, and smoothed classifiers."""

from robustkit.certification.deterministic import Certificates, certify, certify_rising
from robustkit.certification.smoothing import (
    ABSTAIN,
    AttackedSmoothed,
    SmoothedCertificates,
    SmoothingNoise,
    attack_smoothed,
    predict,
    smooth,
)

__all__ = [
    "ABSTAIN",
    "AttackedSmoothed",
    "Certificates",
    "SmoothedCertificates",
    "SmoothingNoise",
    "attack_smoothed",
    "certify",
    "certify_rising",
    "predict",
    "smooth",
]
