"""The engine: from images and a protocol to one honest outcome per image.

Whatever an attack claims is recomputed, in a forward pass of its own, on the float32 pixels that
came back: finite logits, pixels in [0, 1], distance within the budget, prediction.
"""

from dataclasses import replace
from time import perf_counter

import torch
from torch import Tensor

from robustkit.attacks.block import Block, Outcomes, Progress, Prove, batches
from robustkit.attacks.build import build_search
from robustkit.attacks.clean import clean_pass
from robustkit.attacks.fixed_budget import FixedBudgets
from robustkit.attacks.forecast import BlockForecast, Experience
from robustkit.attacks.inside import uncopied
from robustkit.attacks.minimal_norm import MinimalNorm
from robustkit.attacks.spatial import SpatialAttack
from robustkit.attacks.step_model import SearchNetwork, StepModel
from robustkit.attacks.targets import likeliest
from robustkit.attacks.verdicts import Verifier
from robustkit.attacks.victim import Victim
from robustkit.errors import ProtocolError
from robustkit.network import answer
from robustkit.protocol import Protocol, SpatialGrid, SpatialRandom, labels_of


def attack_block(
    model: torch.nn.Module,
    block: Block,
    protocol: Protocol,
    batch_size: int,
    progress: Progress = lambda share: None,
    surrogate: torch.nn.Module | None = None,
    search_by: SearchNetwork | None = None,
    experience: Experience | None = None,
    prove: Prove | None = None,
    *,
    random: bool = False,
) -> Outcomes:
    """Run every attack of a protocol on a block of images.

    `model` is frozen, in eval mode and on the block's device. Images that are misclassified clean
    are never attacked. The same draws are made whatever the batch size. With a surrogate the attack
    takes every step by it, and the model is asked once, after the last: a transfer attack
    (Papernot et al. 2017) with one query a budget and restart. `search_by` is the model, or the
    surrogate, made cheaper to search by (`search_network`), with gradients a little inside
    where it steps so (`stepping_inside`); of a model that draws at random it is the model itself.
    Images are attacked only at budgets that `prove` does not say they withstand; it is not asked of
    a model that draws at random, which is tried on the block unless it is known: `random`.

    Raises:
        DataError: the model has fewer classes than the labels.
        EvaluationFailed: logits that are NaN or infinite, or an attack that returned NaN pixels.
    """
    # proofs are part of a block's time
    known, proofs = experience or Experience(), prove is not None
    forecast = BlockForecast(protocol, batch_size, known, progress, proofs=proofs)
    victim, clean, outcomes = clean_pass(
        model, block, protocol, batch_size, forecast.looked, random=random
    )
    attacks = protocol.attacks
    if prove is not None and victim.votes == 1:
        outcomes.proven = prove((outcomes.distance > 0).cpu())
    if search_by is None or victim.votes > 1:
        search_by = uncopied(search_by, model if surrogate is None else surrogate)
    step_logits = clean
    if surrogate is not None:
        step_logits = _clean_logits(replace(victim, model=surrogate), block, batch_size)
    step_model = StepModel(search_by, step_logits, surrogate is not None)
    searches = [build_search(attack, protocol.norm) for attack in attacks]
    if forecast.needs_forward and victim.votes == 1:
        forecast.took_forward(_seconds(search_by.exact, block.images[:batch_size]))
    for position, (attack, name) in enumerate(zip(attacks, labels_of(attacks), strict=True)):
        search = searches[position]
        of_this = replace(victim, passes=outcomes.passes.part(1 + position))
        verifier = Verifier(of_this, block, protocol.norm, outcomes)
        if isinstance(attack, SpatialGrid | SpatialRandom):
            if block.fixed:
                raise ProtocolError(f"{name}: would transform both pictures of a pair")
            SpatialAttack(verifier, protocol, attack, name, position, batch_size, forecast).run()
        elif search is not None:
            FixedBudgets(
                verifier,
                protocol,
                search,
                name,
                position,
                step_model,
                batch_size,
                likeliest(step_model.clean, outcomes.classes),
                any(other is not None and other.compares for other in searches[position + 1 :]),
                forecast,
            ).run()
        else:
            given = (verifier, protocol, attack, name, position, batch_size, forecast)
            MinimalNorm(*given, clean).run()
    progress(1.0)
    return outcomes


def _seconds(network: torch.nn.Module, images: Tensor) -> float:
    """Of a pass forward, an image: of the second of two, since a first one makes ready."""
    began = 0.0
    # not in inference mode, where a network that takes gradients inside its pass has none
    with torch.no_grad():
        for _ in range(2):
            began = perf_counter()
            answer(network, images).max().item()  # a device is waited for
    return (perf_counter() - began) / len(images)


def _clean_logits(surrogate: Victim, block: Block, batch_size: int) -> Tensor:
    rows = batches(torch.arange(len(block.images)), batch_size)
    return torch.cat([surrogate.logits(block.images[r], r, "surrogate") for r in rows])
