"""Lower bounds: images that provably no perturbation fools, and smoothed classifiers."""

from robustkit.certification.deterministic import Certified, certify, certify_rising
from robustkit.certification.smoothing import (
    ABSTAIN,
    AttackedSmoothed,
    Noise,
    Smoothed,
    attack_smoothed,
    predict,
    smooth,
)

__all__ = [
    "ABSTAIN",
    "AttackedSmoothed",
    "Certified",
    "Noise",
    "Smoothed",
    "attack_smoothed",
    "certify",
    "certify_rising",
    "predict",
    "smooth",
]
