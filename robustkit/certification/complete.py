"""The sandwich closed: each image certified, fooled, or open where the time did not suffice.

What is cheap comes first: `certify`, then an attack, for all images at once; branch and bound takes
what is left one by one. Certified means proved, as of `deterministic.py`; fooled means a perturbed
image that the engine has verified in float32.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustkit.attacks import Block, Outcomes, SearchNetwork, attack_block
from robustkit.attacks.clean import clean_pass
from robustkit.attacks.inside import stepping_inside, steps_inside, zero_slopes
from robustkit.attacks.verdicts import Verifier
from robustkit.certification.bounds import intervals
from robustkit.certification.counterexample import Trial
from robustkit.certification.deterministic import BUDGET, certify, differences, graph_of
from robustkit.certification.domains import Problem
from robustkit.certification.graph import BoundGraph
from robustkit.certification.refine import refined
from robustkit.certification.region import Region, reach
from robustkit.certification.search import BranchAndBound, until
from robustkit.checkpoint.adapter import classifier
from robustkit.errors import InputError
from robustkit.geometry import in_budget
from robustkit.protocol import Protocol
from robustkit.record.certification import Outcome

BRANCHED = "branch and bound"
TIME_LIMIT = 30.0
"""seconds that branch and bound may take for an image, where the user names no other number"""
REVISION = 4
"""raised whenever a change can change what is proved or found of an image"""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known of one image at one ε."""

    outcome: Outcome
    by: str
    """the method that proved it, or the attack that fooled it; "" where it is open"""
    predicted: int
    """class of the clean image"""
    margin: float
    """a lower bound of the smallest logit_label − logit_other over the region; −inf where nothing
    is known, as for a fooled image"""
    distance: float | None = None
    """of the counterexample; 0 for a clean mistake"""
    fooled_as: int | None = None
    """its class"""
    perturbed: Tensor | None = None
    """float32 C × H × W: the counterexample"""
    domains: int = 0
    """how many branch and bound has bounded"""
    seconds: float = 0.0
    """that branch and bound took"""


def decide(
    model: nn.Module,
    block: Block,
    protocol: Protocol,
    *,
    time_limit: float = TIME_LIMIT,
    batch_size: int = 32,
    budget: float = BUDGET,
) -> Iterator[tuple[int, Decision]]:
    """Rows of a block and what became of them, as soon as each is decided.

    Args:
        model: frozen, in eval mode, pixels in [0, 1] to N × K logits.
        block: the images.
        protocol: norm, one ε, and the attack that is tried before branch and bound.
        time_limit: seconds that branch and bound may take for an image; 0 leaves it out.
        batch_size: images at once, of bounds and of the attack.
        budget: multiplications that the linear relaxation may take for an image.

    Raises:
        DataError: images or labels of another kind or shape.
        InputError: not one ε without a target, or a model in training mode, without bounds or
            whose logits depend on the batch.
        EvaluationFailed: logits that are NaN or infinite.
    """
    if len(protocol.epsilons) != 1 or protocol.target != "none":
        raise InputError("give one ε and no target class")
    epsilon = float(protocol.epsilons[0])
    proved = certify(
        model, block.images, block.labels, protocol.norm, epsilon, batch_size, budget=budget
    )
    model = classifier(model)
    if proved.reason:
        raise InputError(f"nothing can be certified: {proved.reason}")
    predicted = _clean(model, block, protocol, batch_size).predicted.tolist()
    for row in proved.robust.nonzero()[:, 0].tolist():
        margin = float(proved.margin[row])
        yield row, Decision("certified", proved.by[row], predicted[row], margin)
    left = (~proved.robust).nonzero()[:, 0]
    if len(left) == 0:
        return
    part = _taken(block, left)
    inside = stepping_inside(SearchNetwork(model))
    search_by = inside if steps_inside(model, block.images, protocol) else None
    outcomes = attack_block(model, part, protocol, batch_size, search_by=search_by)
    open_ = []
    for k, row in enumerate(left.tolist()):
        # attacks for the smallest perturbation may find one outside of the budget alone
        if in_budget(outcomes.distance[k], epsilon):
            yield row, _fooled(outcomes, k)
        else:
            open_.append(row)
    if open_:
        # its own steps follow the gradient, whether those of the attack do or not
        followed = inside.exact if zero_slopes(model, block.images).drop else model
        graph = graph_of(model, block.images[0])
        brancher = _Brancher(model, followed, graph, protocol, budget, time_limit)
        for row in open_:
            before = float(proved.margin[row])
            yield row, brancher.decide(_taken(block, torch.tensor([row])), before)


def _taken(block: Block, rows: Tensor) -> Block:
    there = rows.to(block.images.device)
    kept = rows.tolist()
    ids, places = [block.ids[i] for i in kept], [block.place(i) for i in kept]
    return Block(block.images[there], block.labels[there], ids, places[0], places=places)


def _clean(model: nn.Module, block: Block, protocol: Protocol, batch_size: int) -> Outcomes:
    return clean_pass(model, block, protocol, batch_size)[2]


def _fooled(outcomes: Outcomes, row: int) -> Decision:
    return Decision(
        "fooled",
        str(outcomes.fooled_by[row]),
        int(outcomes.predicted[row]),
        -torch.inf,
        float(outcomes.distance[row]),
        int(outcomes.perturbed_class[row]),
        outcomes.perturbed[row].cpu(),
    )


@dataclass(frozen=True, slots=True)
class _Brancher:
    """Branch and bound for one image after the other."""

    model: nn.Module
    followed: nn.Module
    """whose gradients are followed"""
    graph: BoundGraph
    protocol: Protocol
    budget: float
    time_limit: float

    @torch.no_grad()
    def decide(self, block: Block, margin: float) -> Decision:
        """One image that is right, and that neither bounds nor the attack decided."""
        began, over = time.monotonic(), until(self.time_limit)
        victim, _, outcomes = clean_pass(self.model, block, self.protocol, 1)
        verifier = Verifier(victim, block, self.protocol.norm, outcomes)
        epsilon = float(self.protocol.epsilons[0])
        if over():
            return Decision("open", "", int(outcomes.predicted), margin)
        trial = Trial(self.model, self.followed, verifier, epsilon)
        search = BranchAndBound(self._problem(block), trial, over)
        found = search.run()
        seconds = time.monotonic() - began
        if found.fooled:
            decision = _fooled(outcomes, 0)
        elif found.certified:
            decision = Decision("certified", BRANCHED, int(outcomes.predicted), found.lower)
        else:
            decision = Decision("open", "", int(outcomes.predicted), max(margin, found.lower))
        return replace(decision, domains=found.domains, seconds=seconds)

    def _problem(self, block: Block) -> Problem:
        radius = reach(float(self.protocol.epsilons[0]))
        region = Region(self.protocol.norm, block.images.double(), radius)
        bounds = intervals(self.graph, region)
        bounds, _ = refined(self.graph, bounds, region, self.budget)
        classes = self.graph.steps[-1].shape[0]
        return Problem.of(self.graph, region, bounds, differences(block.labels, classes)[0])
