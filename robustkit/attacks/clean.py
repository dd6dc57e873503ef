"""The clean pass: what the model makes of the images before any attack."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from robustkit.attacks.block import Block, Outcomes, batches
from robustkit.attacks.draws import generator
from robustkit.attacks.passes import Passes
from robustkit.attacks.victim import VOTES, Victim, draws_at_random
from robustkit.errors import DataError
from robustkit.protocol import Protocol
from robustkit.record import CLEAN


def clean_pass(
    model: torch.nn.Module,
    block: Block,
    protocol: Protocol,
    batch_size: int,
    looked: Callable[[int, int, int, int], None] = lambda *_: None,
    *,
    random: bool = False,
) -> tuple[Victim, Tensor, Outcomes]:
    """The victim, with more votes if the model draws at random; its clean logits; outcomes so far.

    Whether it does is tried, unless it is known already: `random`.
    `looked` is told, between passes, how many classes the model has, how many images the block has,
    how many of them were passed, those that were passed again included, and how many are left.

    Raises:
        DataError: the model has fewer classes than the labels.
        EvaluationFailed: logits that are NaN or infinite.
    """
    images, labels = block.images, block.labels
    passes = Passes.none_yet(1 + len(protocol.attacks), len(images))
    victim = Victim(model, block.place, protocol.target != "none", passes.part(0))
    first, *others = batches(torch.arange(len(images)), batch_size)
    victim, once, made = _first_batch(victim, images, first, looked, known=random)
    found, left = [once], len(images) - len(first)
    for rows in others:
        looked(once.shape[1], len(images), made, left * victim.votes)
        found.append(victim.mean_logits(images[rows], rows, CLEAN))
        made, left = made + len(rows) * victim.votes, left - len(rows)
    logits = torch.cat(found)
    if int(labels.max()) >= logits.shape[1]:
        raise DataError(
            f"label {int(labels.max())} of image {block.place(int(labels.argmax()))} is "
            f"outside the model's {logits.shape[1]} classes"
        )
    predicted = logits.argmax(1)
    right = predicted == labels
    nothing = torch.full_like(right, torch.inf, dtype=torch.float64)
    outcomes = Outcomes(
        predicted,
        _classes(logits, block, protocol),
        # a clean mistake needs no perturbation: it is never attacked
        torch.where(right, nothing, 0.0),
        [None if ok else CLEAN for ok in right.tolist()],
        images.clone(),
        predicted.clone(),
        torch.full((len(images), len(protocol.epsilons)), -torch.inf, device=logits.device),
        passes,
        torch.zeros(len(images), dtype=torch.int64),
        torch.full((len(images), 3), torch.nan, dtype=torch.float64),
    )
    return victim, logits, outcomes


def _first_batch(
    victim: Victim,
    images: Tensor,
    rows: Tensor,
    looked: Callable[[int, int, int, int], None],
    *,
    known: bool,
) -> tuple[Victim, Tensor, int]:
    """The victim with as many votes as it takes, logits of the first rows, and images passed.

    `known`: to draw at random.
    """
    random, made = known, 0
    if not known:
        # the same images twice: all that a verdict is worth depends on whether a pass is repeatable
        trial = replace(victim, passes=Passes.none_yet(len(images)))
        once = trial.logits(images[rows], rows, CLEAN)
        looked(once.shape[1], len(images), len(rows), len(images))
        random = draws_at_random(once, trial.logits(images[rows], rows, CLEAN))
        made = 2 * len(rows)
    if random:
        victim = replace(victim, votes=VOTES)
        # every batch by as many passes: an image's verdict must not hang on where it stands
        once = victim.mean_logits(images[rows], rows, CLEAN)
        made += VOTES * len(rows)
    else:
        victim.passes.add(rows, 1)
    if known:
        looked(once.shape[1], len(images), made, (len(images) - len(rows)) * VOTES)
    return victim, once, made


def _classes(logits: Tensor, block: Block, protocol: Protocol) -> Tensor:
    """The labels, or for a targeted protocol the class that each image is to be taken for."""
    labels, k = block.labels, logits.shape[1]
    match protocol.target:
        case "none":
            return labels
        case "next":
            return (labels + 1) % k
        case "random":
            sources = [generator(protocol.seed, i, "target") for i in block.ids]
            draws = [int(torch.randint(1, k, (), generator=source)) for source in sources]
            return (labels + torch.tensor(draws, device=labels.device)) % k
        case "least-likely":
            own = torch.zeros_like(logits).scatter(1, labels[:, None], float("inf"))
            return (logits + own).argmin(1)
