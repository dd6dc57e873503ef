"""Temperature scaling (Guo et al. 2017): likelihoods of networks whose logits have any scale."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]
REVISION = 2
"""raised by whatever changes a likelihood; `KEY.calibration` of a study's cells"""
PRIOR = 0.5
"""images whose labels are taken to be drawn from all classes alike, beside those that are given"""
LARGEST = 2.0**20
"""inverse temperature, in units of the logits' spread, that is never reached"""


def inverse_temperature(logits: Floats, labels: NDArray[Any]) -> float:
    """The β at which softmax(β · logits) gives labels the largest likelihood; it is convex in β.

    To the N labels comes `PRIOR` of an image with labels of all classes, as half a success is added
    to counts (Jeffreys): where every label is the largest logit, none would be the largest β, and
    the first error in other images would cost as many nats as it likes.

    Args:
        logits: N × K.
        labels: N, in 0..K-1.

    Returns:
        0 where the logits say nothing of the labels.
    """
    from scipy.optimize import brentq  # half a second

    centred = logits - logits.mean(1, keepdims=True)
    if not (spread := float(centred.std())):
        return 0.0
    scaled = centred / spread
    own = scaled[np.arange(len(labels)), labels]
    prior = PRIOR / len(labels)

    def slope(beta: float) -> float:
        # of an image with labels of all classes, the own logit is their mean, which is 0
        expected = (softmax(beta * scaled, axis=1) * scaled).sum(1)
        return float(((1 + prior) * expected - own).mean())

    if slope(0.0) >= 0:
        return 0.0
    return float(brentq(slope, 0.0, LARGEST, xtol=1e-12, rtol=1e-12)) / spread


def log_likelihood(logits: Floats, labels: NDArray[Any], beta: float) -> float:
    """Mean log-probability of the labels under softmax(β · logits), in nats an image."""
    found = log_softmax(beta * logits, axis=1)[np.arange(len(labels)), labels]
    return float(found.mean())
