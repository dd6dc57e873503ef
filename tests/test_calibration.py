"""A calibrated likelihood: comparable over scales, and decided by no single image."""

import numpy as np
import pytest

from robustkit.statistics.calibration import inverse_temperature, log_likelihood


def network(images, errors, seed, scale=1.0, classes=10):
    """Logits of a network, as sure of its errors as of the rest, and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    said = labels.copy()
    wrong = draw.permutation(images)[:errors]
    said[wrong] = (said[wrong] + 1) % classes
    logits = draw.normal(size=(images, classes))
    logits[np.arange(images), said] += 6
    return scale * logits, labels


def score(logits, labels):
    half = len(labels) // 2
    beta = inverse_temperature(logits[:half], labels[:half])
    return log_likelihood(logits[half:], labels[half:], beta)


@pytest.mark.thorough
def test_the_better_network_wins_wherever_its_errors_lie():
    """With four errors in 400 images one half has none in one draw of sixteen, and in many few."""
    for seed in range(100):
        assert score(*network(400, 4, seed)) > score(*network(400, 60, seed))


@pytest.mark.parametrize("images", [4, 40, 4000])
def test_a_half_without_error_is_no_proof_that_there_are_none(images):
    logits, labels = network(images, 0, 0)
    beta = inverse_temperature(logits, labels)
    one = np.eye(10)[[0]] * 6
    # what an error costs grows as the logarithm of the images that had none
    assert 0 < -log_likelihood(one, np.array([1]), beta) < 5 + 3 * np.log(images)


def test_the_scale_of_logits_says_nothing():
    plain, wide = network(200, 20, 1), network(200, 20, 1, scale=1e4)
    assert score(*wide) == pytest.approx(score(*plain), rel=1e-9)


def test_logits_that_say_nothing_of_the_labels_are_no_better_than_a_guess():
    logits, labels = network(200, 0, 2)
    assert inverse_temperature(-logits, labels) == 0
    assert inverse_temperature(np.ones((5, 10)), np.arange(5)) == 0
    assert score(-logits, labels) == pytest.approx(-np.log(10))
