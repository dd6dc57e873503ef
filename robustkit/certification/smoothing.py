"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019): another classifier, with an L2 radius.

The smoothed classifier g(x) is the class that the network f says most often of x + noise, the
noise Gaussian with standard deviation σ and, as in the paper, not held inside the box [0, 1]. What
is certified of g says nothing of f: accuracies of g stand beside those of g alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from robustkit.attacks.draws import generator
from robustkit.attacks.lasting import held_throughout
from robustkit.errors import DataError, EvaluationFailed, InputError
from robustkit.geometry import column, in_budget, project
from robustkit.geometry import distance as distance_of
from robustkit.network import answer
from robustkit.network import gradient as gradient_of
from robustkit.statistics.estimate import exact_lower

BLOCK = 100
"""draws made together: a draw depends on seed, image and its number, never on how many follow"""
ABSTAIN = -1
"""in place of a class: no class is sure enough"""


@dataclass(frozen=True, slots=True)
class SmoothingNoise:
    """The noise of a smoothed classifier and how much of it is looked at."""

    sigma: float
    """standard deviation, in pixels of [0, 1]"""
    alpha: float = 0.001
    """share of wrong answers: of radii too large, and of confident predictions that are not g's"""
    n0: int = 100
    """draws that choose the class"""
    n: int = 10_000
    """draws that bound its probability, or decide a prediction"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (isfinite(self.sigma) and self.sigma > 0):
            raise InputError(f"sigma {self.sigma}: a positive number is needed")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha {self.alpha}: a number between 0 and 1 is needed")
        if self.n0 < 1 or self.n < 1:
            raise InputError(f"n0 {self.n0} and n {self.n}: at least one draw each is needed")


@dataclass(frozen=True, slots=True)
class SmoothedCertificates:
    """What is known of the smoothed classifier g at N images; not of the network inside it.

    An answer of an image is wrong with probability `noise.alpha` at most, each by itself.
    """

    noise: SmoothingNoise
    predicted: npt.NDArray[np.int64]
    """class of g, N; `ABSTAIN` where its probability is not surely above one half"""
    radius: npt.NDArray[np.float64]
    """in L2, N: g says the same of every x' nearer than this; 0 where it abstains"""
    lower: npt.NDArray[np.float64]
    """lower bound of the probability of the class chosen, N"""

    def certified(self, labels: npt.ArrayLike, epsilon: float) -> npt.NDArray[np.bool_]:
        """Whether g is right at the image and within ε of it in L2, bool N."""
        right: npt.NDArray[np.bool_] = self.predicted == np.asarray(labels)
        return right & (self.radius > epsilon)


@dataclass(frozen=True, slots=True)
class AttackedSmoothed:
    """The smoothed classifier g under an attack, beside its certificate; each bool N.

    `attacked` are the images whose confident prediction of `smooth` is right and for which no
    point was found at which g says another class or abstains; `certified`, a part of them, those
    that are certified, too, where abstaining breaks nothing.
    """

    attacked: npt.NDArray[np.bool_]
    certified: npt.NDArray[np.bool_]
    contradicted: npt.NDArray[np.bool_]
    """certified by `smooth`, yet broken: one of the two answers is wrong, which has probability
    2·alpha at most; such images are counted as neither"""


def smooth(
    model: nn.Module,
    images: Tensor,
    ids: Sequence[str],
    noise: SmoothingNoise,
    batch_size: int = 500,
) -> SmoothedCertificates:
    """CERTIFY of the paper for each of N images in [0, 1], N × C × H × W.

    `n0` draws choose the class, `n` others bound its probability p from below (Clopper and Pearson
    1934, one-sided at alpha); radius σ Φ⁻¹(p). The draws belong to `ids` and `noise.seed`.

    Raises:
        DataError: not one id per image.
        InputError: a model whose logits depend on the batch, or change during the work.
        EvaluationFailed: the model broke, or its logits are NaN.
    """
    _check(images, ids)
    chosen, lower = np.zeros(len(images), np.int64), np.zeros(len(images))
    batch = min(batch_size, max(noise.n0, noise.n))
    with held_throughout(model, images, batch=batch) as asked:
        for i, (image, name) in enumerate(zip(images, ids, strict=True)):
            # draws that chose the class may not bound it as well: the largest of several counts is
            # biased upwards, and the interval would not hold
            first = _counts(asked, image, noise, noise.n0, ("choose", name), batch_size)
            chosen[i] = int(first.argmax())
            counts = _counts(asked, image, noise, noise.n, ("estimate", name), batch_size)
            lower[i] = lower_bound(int(counts[chosen[i]]), noise.n, noise.alpha)
    # p bounds the top class alone, and the runner-up by 1 − p, as in the paper: (Φ⁻¹(p) − Φ⁻¹(1 −
    # p)) / 2 = Φ⁻¹(p). At p ≤ 1/2 another class may be as likely, so nothing may be said
    sure = lower > 0.5
    radius = np.where(sure, noise.sigma * ndtri(np.maximum(lower, 0.5)), 0.0)
    return SmoothedCertificates(noise, np.where(sure, chosen, ABSTAIN), radius, lower)


def lower_bound(successes: int, n: int, alpha: float) -> float:
    """Of a probability, one-sided at 1 − alpha (Clopper and Pearson 1934)."""
    return exact_lower(successes, n, 2 * alpha)


def predict(
    model: nn.Module, image: Tensor, name: str, noise: SmoothingNoise, batch_size: int
) -> int:
    """PREDICT of the paper: g's class of one image, C × H × W, or `ABSTAIN`.

    The two most frequent classes among `n` draws must differ by a binomial test at alpha.

    Raises:
        EvaluationFailed: the model broke, or its logits are NaN.
    """
    from scipy.stats import binomtest  # takes a second to import

    counts = _counts(model, image, noise, noise.n, ("verdict", name), batch_size)
    second, top = np.sort(counts)[-2:] if len(counts) > 1 else (0, counts[0])
    sure = binomtest(int(top), int(top + second), 0.5).pvalue <= noise.alpha
    return int(counts.argmax()) if sure else ABSTAIN


def attack_smoothed(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Sequence[str],
    epsilon: float,
    smoothed: SmoothedCertificates,
    batch_size: int = 500,
    *,
    steps: int = 20,
    draws: int = 16,
) -> AttackedSmoothed:
    """Try to fool g within ε in L2 and inside the box, and say what is left.

    Projected gradient descent on the mean softmax of the label over `draws` noises, fresh in each
    step (Salman et al. 2019, SmoothAdv), by steps of 2.5·ε/steps. The last point is judged by
    `predict` with draws of its own. Another class breaks the image, and so does an abstention, as
    there; but one that is certified within ε was not shown to be wrong by too few draws.

    Raises:
        DataError: not one id and one label per image.
        InputError: a model whose logits depend on the batch, or change during the work.
        EvaluationFailed: the model broke, or its logits are NaN.
    """
    _check(images, ids)
    if len(labels) != len(images) or len(smoothed.predicted) != len(images):
        raise DataError(f"{len(images)} images need as many labels and smoothed predictions")
    truth = labels.cpu().numpy()
    clean, sealed = smoothed.predicted == truth, smoothed.certified(truth, epsilon)
    broken, noise = np.zeros(len(images), np.bool_), smoothed.noise
    with held_throughout(model, images, batch=min(batch_size, noise.n)) as asked:
        for i in np.flatnonzero(clean).tolist():
            label = int(truth[i])
            x = _descend(asked, images[i], label, ids[i], epsilon, noise, steps, draws)
            if not bool(in_budget(distance_of(images[i : i + 1], x, "l2"), epsilon).all()):
                raise EvaluationFailed("the attack on the smoothed classifier left its ball")
            # draws of its own, for the same reason: the attack has seen the others
            verdict = predict(asked, x[0], ids[i], noise, batch_size)
            broken[i] = verdict != label and not (verdict == ABSTAIN and sealed[i])
    return AttackedSmoothed(clean & ~broken, sealed & ~broken, sealed & broken)


def _descend(
    model: nn.Module,
    image: Tensor,
    label: int,
    name: str,
    epsilon: float,
    noise: SmoothingNoise,
    steps: int,
    draws: int,
) -> Tensor:
    """A point within ε of one image, 1 × C × H × W, at which the label is less likely."""
    start = image[None]
    x, budget = start.clone(), torch.full((1,), epsilon, device=image.device)
    for step in range(steps):
        source = generator(noise.seed, "smoothing", "attack", name, step)
        draw = torch.randn(draws, *image.shape, generator=source).to(image.device)
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = answer(model, point + noise.sigma * draw)
            # the log of the mean softmax, which is the smoothed classifier's, not the mean of logs
            loss = logits.log_softmax(1)[:, label].logsumexp(0)
            slope = gradient_of(loss, point)
        length = column(slope.flatten(1).norm(dim=1).clamp(min=1e-30), slope)
        x = project(x - 2.5 * epsilon / steps * slope / length, start, budget, "l2")
    return x


@torch.no_grad()
def _counts(
    model: nn.Module,
    image: Tensor,
    noise: SmoothingNoise,
    n: int,
    names: tuple[str, str],
    batch_size: int,
) -> npt.NDArray[np.int64]:
    """How often f says each class of one image, C × H × W, among n draws, K."""
    total: Tensor | int = 0
    for draws in _batches(image, noise, n, names, batch_size):
        logits = answer(model, image + noise.sigma * draws.to(image.device))
        if bool(logits.isnan().any()):
            raise EvaluationFailed("the model returned NaN logits for an image with noise")
        total = total + torch.bincount(logits.argmax(1), minlength=logits.shape[1]).cpu()
    return np.asarray(total, np.int64)


def _batches(
    image: Tensor, noise: SmoothingNoise, n: int, names: tuple[str, str], batch_size: int
) -> Iterator[Tensor]:
    """The first n standard normal draws of an image and a purpose, a batch at a time."""
    blocks = max(1, batch_size // BLOCK)
    for first in range(0, n, blocks * BLOCK):
        many = [
            torch.randn(
                BLOCK,
                *image.shape,
                generator=generator(noise.seed, "smoothing", *names, number),
            )
            for number in range(first // BLOCK, min(first // BLOCK + blocks, -(-n // BLOCK)))
        ]
        yield from torch.split(torch.cat(many)[: n - first], batch_size)


def _check(images: Tensor, ids: Sequence[str]) -> None:
    if images.dim() != 4 or len(ids) != len(images):
        raise DataError(
            f"images of shape {tuple(images.shape)} and {len(ids)} ids: "
            "N×C×H×W images with one id each are needed"
        )
    # sigma and radii are of these pixels; NaN is outside, too
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise DataError("images with pixels outside [0, 1]; scale them to it")
