"""Proving before attacking: an image that provably withstands a budget needs no attack there.

Whether bounds are worth their price is decided once for an evaluation, from counted multiplications
and from what they prove of a few images. Proofs are held against attacks: of the pairs of image and
budget that are proved some are attacked all the same, and one success ends the evaluation.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor

from robustkit.attacks import Block, Outcomes, in_budget
from robustkit.attacks.block import Progress, Prove
from robustkit.attacks.draws import seed_of
from robustkit.attacks.passes import Passes
from robustkit.attacks.planned import planned_passes
from robustkit.certification.graph import Unsupported
from robustkit.certification.prover import INTERVAL, Prover
from robustkit.errors import ProofContradicted, one_line
from robustkit.evaluation.config import Config
from robustkit.network import answer
from robustkit.protocol import Protocol

FEW = 8
"""right images that are bounded first, to see what bounds prove of this network"""
LOOKED = 64
"""images among which these are looked for"""
BATCH = 32
"""images bounded at once, at most"""
SHARE = 0.2
"""of the multiplications that the attack plans for an image at a budget, what bounds may take"""
SLOW = 8.0
"""times that a multiplication of a bound takes as long as one of a pass over a batch: bounds are
float64, and many linear functions of few images. Measured on one core: 7 to 8 on LeNet-5"""
SMALL = 3e5
"""multiplications that a pass of an image takes as long as, however small the network"""
TRACING = 1e10
"""multiplications that writing a network down takes as long as, once a process (0.7 to 1.6 s)"""
CHECKED = 0.05
"""share of the proved pairs that are attacked all the same"""
LEAST = 20
"""and how many at least, of the whole evaluation; all where there are fewer"""


@dataclass(slots=True)
class Spent:
    """What proving took."""

    seconds: float = 0.0
    """of the processor"""
    multiplications: float = 0.0
    """at most"""
    attacked: int = 0
    """proved pairs of image and budget that were attacked all the same"""


@dataclass(slots=True)
class Proving:
    """How the images of an evaluation are bounded before they are attacked."""

    prover: Prover | None
    """None: they are not"""
    budget: float
    """multiplications that the linear relaxation may take for an image at a budget"""
    reason: str
    """why they are not, in a few words; "" where they are"""
    spent: Spent
    """before the first block"""
    pairs: int = 0
    """of image and budget, proved in all blocks before, as far as they are known"""
    share: float = 1.0
    """of the time for the last block, that its attack takes, and not the check of its proofs"""

    @property
    def plan(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"why": self.reason, "budget": self.budget}

    def total(self, blocks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What proving took in all; pairs are those attacked all the same."""
        parts = [asdict(self.spent), *blocks]
        return {key: sum(part[key] for part in parts) for key in asdict(self.spent)}

    def of(self, block: Block, batch_size: int, spent: Spent) -> Prove | None:
        """What the engine asks of a block; adds to what is `spent`.

        Raises:
            ProofContradicted: when asked, and the network is another than the bounds are of.
        """
        prover = self.prover
        if prover is None:
            return None

        def prove(right: Tensor) -> Tensor:
            began, size = time.process_time(), min(batch_size, BATCH)
            try:
                found = prover.prove(block.images, block.labels, right, size, self.budget)
            except Unsupported as error:
                raise ProofContradicted(
                    f"images {block.first} to {block.first + len(right) - 1}: {error}, "
                    "although they agreed on the first images, so that no proof counts; "
                    "evaluate with --prove off"
                ) from error
            spent.seconds += time.process_time() - began
            spent.multiplications += found.multiplications
            self.share = self._share(right, found.count)
            return found.count

        return prove

    def _share(self, right: Tensor, proven: Tensor) -> float:
        # those that are checked will hardly fall, and cost about as much as those that are open
        checked = due(int(proven.sum()), self.pairs)
        left = int((right & (proven == 0)).sum())
        return left / (left + checked) if checked else 1.0

    def check(
        self,
        block: Block,
        protocol: Protocol,
        outcomes: Outcomes,
        attack: Callable[..., Outcomes],
        progress: Progress,
    ) -> int:
        """Attack some of the proved pairs of a block; how many.

        Args:
            block: the images.
            protocol: all that they were attacked with.
            outcomes: what came of it.
            attack: carries out a protocol on the block; told `prove`, as `attack_block`.
            progress: told the share of the block's time that is gone.

        Raises:
            ProofContradicted: one of them was fooled.
        """
        chosen, done = self._chosen(block, protocol, outcomes.proven), 0.0
        costs: list[tuple[list[int], Passes]] = []
        for level, epsilon in enumerate(protocol.epsilons):
            left_out = torch.ones_like(outcomes.proven)
            rows = [row for row, at in chosen if at == level]
            left_out[rows] = 0
            if rows:
                alone = replace(protocol, epsilons=(epsilon,))
                told = partial(self._told, progress, done, len(rows) / len(chosen))
                found = attack(alone, prove=_said(left_out), progress=told)
                done += len(rows) / len(chosen)
                costs.append((rows, found.passes))
                self.contradicted(block, alone, found, 1 - left_out)
        for rows, cost in costs:  # once all are done: a check that breaks off begins anew
            outcomes.passes.forward[:, rows] += cost.forward[:, rows]
            outcomes.passes.backward[:, rows] += cost.backward[:, rows]
        return len(chosen)

    def _told(self, progress: Progress, done: float, part: float, share: float) -> None:
        progress(self.share + (1 - self.share) * (done + part * share))

    def _chosen(self, block: Block, protocol: Protocol, proven: Tensor) -> list[tuple[int, int]]:
        """Rows and levels of the proved pairs that are attacked, by a draw of their own."""
        pairs = [(row, level) for row, n in enumerate(proven.tolist()) for level in range(n)]

        def draw(pair: tuple[int, int]) -> int:
            row, level = pair
            return seed_of(protocol.seed, block.ids[row], "proof", protocol.epsilons[level].value)

        return sorted(pairs, key=draw)[: due(len(pairs), self.pairs)]

    @staticmethod
    def contradicted(block: Block, protocol: Protocol, outcomes: Outcomes, proven: Tensor) -> None:
        """Hold proofs against what an attack found.

        Raises:
            ProofContradicted: an image was fooled within a budget at which it is proved.
        """
        for row in proven.nonzero()[:, 0].tolist():
            epsilon = protocol.epsilons[int(proven[row]) - 1]
            if in_budget(outcomes.distance[row], float(epsilon)):
                raise ProofContradicted(
                    f"image {block.first + row} is proved robust at {protocol.norm} "
                    f"{epsilon.text}, but was fooled there by {outcomes.fooled_by[row]}: "
                    "the bounds or the network are faulty, and nothing was kept; use "
                    "--prove off, and please report it"
                )


def _said(proven: Tensor) -> Prove:
    """Whatever is right, so many budgets are proved of each image."""
    return lambda right: proven


def due(pairs: int, before: int) -> int:
    """How many of a block's proved pairs are attacked, after blocks in which so many are proved."""
    first, last = (min(n, max(LEAST, ceil(CHECKED * n))) for n in (before, before + pairs))
    return last - first


def begin(
    config: Config, network: torch.nn.Module, random: bool, kept: Mapping[str, Any] | None
) -> Proving:
    """Whether an evaluation proves, and how hard it tries.

    Args:
        config: what is evaluated.
        network: its model, on the device.
        random: whether that draws at random.
        kept: the `plan` of the run that is resumed, if it is.
    """
    began = time.process_time()
    reason = config.unproved or ("it draws at random" if random else "")
    if kept is not None:
        reason = str(kept["why"])
    prover, budget = None, 0.0
    if not reason:
        try:
            prover, budget, reason = _decided(config, network, kept)
        except Unsupported as error:
            reason = f"it has no bounds: {error}"
        # whatever breaks here would break no attack
        except Exception as error:
            reason = f"its bounds failed: {one_line(error)}"
    spent = Spent(time.process_time() - began)
    return Proving(None if reason else prover, budget, reason, spent)


def _decided(
    config: Config, network: torch.nn.Module, kept: Mapping[str, Any] | None
) -> tuple[Prover | None, float, str]:
    """A prover, what it may spend, and why it is not worth its price, or "".

    Raises:
        Unsupported: a network without bounds.
    """
    protocol, data = config.protocol, config.data
    planned = planned_passes(protocol, len(data.classes))
    # a pass multiplies by every weight once at least
    weights = sum(weight.numel() for weight in network.parameters())
    if kept is None and len(data) * planned * max(weights, SMALL) < TRACING:
        return None, 0.0, "the attack takes less time than writing the network down"
    image = torch.from_numpy(data.images(0, 1)).to(config.device)[0]
    epsilons = [float(epsilon) for epsilon in protocol.epsilons]
    prover = Prover.of(network, image, protocol.norm, epsilons)
    if kept is not None:
        return prover, float(kept["budget"]), ""
    attack = planned * prover.work / SLOW
    most = SHARE * attack - INTERVAL * prover.work
    if most < 0:
        return None, 0.0, "bounds would take too long beside the attack"
    budget = _best(prover, _first_right(config, network), attack, most)
    if budget is None:
        return None, 0.0, f"bounds prove too little of the first {FEW} images that are right"
    return prover, budget, ""


def _first_right(config: Config, network: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """A few images that the network is right about, and their labels."""
    data, device = config.data, config.device
    images = torch.from_numpy(data.images(0, min(LOOKED, len(data)))).to(device)
    labels = torch.from_numpy(data.labels[: len(images)]).to(device)
    with torch.no_grad():
        rows = (answer(network, images).argmax(1) == labels).nonzero()[:FEW, 0]
    return images[rows], labels[rows]


def _best(prover: Prover, few: tuple[Tensor, Tensor], attack: float, most: float) -> float | None:
    """The budget of the linear relaxation that gains most, 0 to `most`; None: none gains anything.

    What is gained are the attacks of the pairs that are proved, less what all bounds took; both in
    multiplications of bounds.
    """
    images, labels = few
    gains: dict[float, float] = {}
    for budget in (0.0, prover.relaxation, most):
        if budget <= most:
            right = torch.ones(len(images), dtype=torch.bool)
            found = prover.prove(images, labels, right, BATCH, budget)
            gains[budget] = found.held * attack - found.multiplications
    best = max(gains, key=lambda budget: gains[budget])
    return best if gains[best] > 0 else None
