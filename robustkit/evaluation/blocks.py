"""The attack, block by block; each is kept as soon as it is done, so that little can be lost."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from robustkit.attacks import (
    Block,
    Experience,
    Outcomes,
    SearchNetwork,
    attack_block,
    in_budget,
    search_network,
)
from robustkit.attacks.company import FEW
from robustkit.attacks.draws import seed_of
from robustkit.attacks.inside import stepping_inside, steps_inside
from robustkit.attacks.lasting import FirstAnswers, NetworkChanged
from robustkit.attacks.planned import searched_passes
from robustkit.attacks.prepared import pays
from robustkit.data import Dataset
from robustkit.device import fitting
from robustkit.errors import ProofContradicted
from robustkit.evaluation.config import Config
from robustkit.evaluation.probe import few_images
from robustkit.evaluation.proving import Proving, Spent
from robustkit.protocol import Epsilon, Protocol, labels_of
from robustkit.record import Blocks, Example, FinishedBlock, table
from robustkit.seeding import seeded

T = TypeVar("T")
FEWEST, EACH = 64, 2
"""images a block, and blocks a device, where there are several GPUs"""
UNSTARTED = "unstarted"
"""by attack: how many images of a block it left alone for want of a point to start from"""
BROKEN = "broken"
"""by attack: at how many images of a block a gradient was no finite number"""
EXAMPLES = 8
"""how many of the smallest successful perturbations are kept for looking at"""


class Networks(NamedTuple):
    """Frozen modules on pixels in [0, 1], on the device."""

    model: torch.nn.Module
    surrogate: torch.nn.Module | None
    search_by: SearchNetwork | None = None
    """the model, or the surrogate, made cheaper to search by"""


class Random(NamedTuple):
    """Which networks draw at random, by what the probe found: for all blocks alike."""

    model: bool
    surrogate: bool = False


def load_networks(config: Config) -> Networks:
    """The networks of an evaluation, on its device."""
    surrogate = None if config.surrogate is None else config.surrogate.load(config.device)
    return Networks(config.model.load(config.device), surrogate)


def searching(config: Config, networks: Networks, *, random: bool) -> Networks:
    """The networks with what is searched by, where that pays; `random`: one draws at random."""
    data, precision = config.data, config.low and config.low.precision
    if not config.protocol.attacks:
        return networks
    images = torch.from_numpy(data.images(0, min(FEW, len(data)))).to(config.device)
    passes = searched_passes(config.protocol, len(data.classes)) * len(data)
    model, found = networks.surrogate or networks.model, None
    # a copy could not be compared with one that draws, nor would it draw
    if not random and (precision is not None or (passes and pays(images, passes))):
        found = search_network(model, images, precision)
    if steps_inside(model, images, config.protocol):
        found = stepping_inside(found or SearchNetwork(model))
    return networks._replace(search_by=found)  # None: by the network as it is


def block_size(data: Dataset, device: torch.device) -> int:
    """Images a block: what an interruption may lose on a CPU, what fills a GPU."""
    pixels = int(np.prod(data.shape))
    return 256 if device.type == "cpu" else max(64, min(2048, 2**24 // pixels))


def size_for(data: Dataset, devices: Sequence[torch.device]) -> int:
    """Images a block where these devices share them: fewer, where GPUs would be left without."""
    size = block_size(data, devices[0])
    if devices[0].type == "cpu" or len(devices) == 1:
        return size
    return min(size, max(FEWEST, ceil(len(data) / (EACH * len(devices)))))


def planned_sizes(
    data: Dataset,
    devices: Sequence[torch.device],
    blocks: Blocks,
    batch_size: int | Literal["auto"],
) -> dict[str, Any]:
    """Sizes of blocks and batches: as an interrupted run had them, so that rows come out alike."""
    device, pixels = devices[0], int(np.prod(data.shape))
    size = size_for(data, devices)
    # a GPU starts from a whole block and halves it where its memory does not suffice
    fitting = max(1, min(128, 2**22 // pixels)) if device.type == "cpu" else size
    first = fitting if batch_size == "auto" else batch_size
    plan = blocks.plan({"batch_size": first, "block_size": size, "events": []})
    return plan if batch_size == "auto" else plan | {"batch_size": batch_size}


class BlockSpan(NamedTuple):
    """Which images make a block."""

    number: int
    start: int
    stop: int

    def __str__(self) -> str:
        return f"images {self.start} to {self.stop - 1}"


def spans(count: int, size: int) -> list[BlockSpan]:
    """So many images in blocks of that size."""
    return [BlockSpan(n, i, min(i + size, count)) for n, i in enumerate(range(0, count, size))]


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """An attacked block, of whose proofs none has been checked."""

    span: BlockSpan
    block: Block
    outcomes: Outcomes
    spent: Spent

    @property
    def pairs(self) -> int:
        """How many pairs of image and budget are proved."""
        return int(self.outcomes.proven.sum())


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What there is to keep of a block."""

    span: BlockSpan
    rows: pa.Table
    examples: list[Example]
    images: npt.NDArray[np.float32] | None
    """the perturbed ones, where they are to be kept"""
    spent: dict[str, Any]
    """what proving its images took, and under `UNSTARTED` and `BROKEN` what attacks could not do"""


@dataclass(slots=True)
class Attacker:
    """Attacks blocks in any order: what comes of one hangs on no other."""

    config: Config
    networks: Networks
    proving: Proving
    """how images are bounded first"""
    random: Random
    batch_size: int
    keep_images: bool
    """whether results hold the perturbed images, too"""
    halved: Callable[[int, str], None]
    """told a smaller batch size, and why in words"""
    before: torch.Tensor | None = None
    """what the probe found that the model answers to a few images; None: it is asked here"""
    experience: Experience = field(default_factory=Experience)
    """of how long attacks take; it decides on nothing but the bar"""
    first: list[FirstAnswers] = field(init=False)
    """of model and surrogate, before any work"""

    def __post_init__(self) -> None:
        few = few_images(self.config.data, self.config.device)
        model, surrogate, _ = self.networks
        if self.before is None:
            self.first = [FirstAnswers.of(model, few, random=self.random.model)]
        else:
            self.first = [FirstAnswers(model, few, random=False, logits=self.before)]
        if surrogate is not None:  # one that turns makes the transferred attack a weaker one
            drawn, whose = self.random.surrogate, "the surrogate: "
            self.first.append(FirstAnswers.of(surrogate, few, random=drawn, whose=whose))

    def attack(self, span: BlockSpan, progress: Callable[[float], None]) -> OpenBlock:
        """Attack a block.

        Args:
            span: which.
            progress: told the share of its work that is done.

        Raises:
            ProofContradicted: an image was fooled where it is proved.
        """
        config, spent = self.config, Spent()
        block = block_of(config.data, span.start, span.stop, config.device)
        self.proving.share = 1.0

        def attack() -> Outcomes:
            with self._draws(block):
                return self._attack_block(
                    block,
                    config.protocol,
                    progress=lambda share: progress(self.proving.share * share),
                    experience=self.experience,
                    prove=self.proving.of(block, self.batch_size, spent),
                )

        outcomes = self._fitting(span, attack)
        self.proving.contradicted(block, config.protocol, outcomes, outcomes.proven)
        return OpenBlock(span, block, outcomes, spent)

    def finish(
        self, attacked: OpenBlock, before: int, progress: Callable[[float], None]
    ) -> BlockResult:
        """Check some of a block's proofs, and say what came of it.

        Args:
            attacked: the block.
            before: how many pairs of image and budget are proved in all blocks before it.
            progress: as for `attack`.

        Raises:
            ProofContradicted: an image was fooled where it is proved.
            NetworkChanged: a network answers otherwise than before its work.
        """
        block, outcomes = attacked.block, attacked.outcomes
        protocol, proving = self.config.protocol, self.proving
        proving.pairs, again = before, partial(self._attack_block, block)
        checked = self._fitting(
            attacked.span,
            lambda: proving.check(block, protocol, outcomes, again, progress),
        )
        # before a row is kept: a run that is cut off later, and goes on, asks of no block on file
        for network in self.first:
            network.check()
        return BlockResult(
            attacked.span,
            _rows(block, outcomes, protocol.epsilons),
            _examples(block, outcomes),
            outcomes.perturbed.cpu().numpy() if self.keep_images else None,
            asdict(replace(attacked.spent, attacked=checked))
            | {UNSTARTED: outcomes.unstarted, BROKEN: _broken(outcomes, protocol)},
        )

    def _attack_block(self, block: Block, protocol: Protocol, **how: Any) -> Outcomes:
        model, surrogate, search_by = self.networks
        given = (model, block, protocol, self.batch_size)
        how |= {"surrogate": surrogate, "search_by": search_by, "random": self.random.model}
        return attack_block(*given, **how)

    def _draws(self, block: Block) -> AbstractContextManager[None]:
        """Seeds what a network draws from: of a block on its own, whatever came before it."""
        if not any(self.random):
            return nullcontext()
        protocol = self.config.protocol
        return seeded(seed_of(protocol.seed, protocol.digest, *block.ids), self.config.device)

    def _fitting(self, span: BlockSpan, work: Callable[[], T]) -> T:
        """Do work on a block; where the GPU's memory does not suffice, with half the batch."""

        def halved(size: int) -> None:
            self.batch_size = size
            said = f"out of GPU memory at image {span.start}: batch size halved to"
            self.halved(size, f"{said} {size}")

        return fitting(lambda _: work(), self.batch_size, halved)


def _broken(outcomes: Outcomes, protocol: Protocol) -> dict[str, int]:
    counts = (outcomes.passes.broken[1:] > 0).sum(1).tolist()
    return {name: n for name, n in zip(labels_of(protocol.attacks), counts, strict=True) if n}


def attack_rows(
    attacker: Attacker,
    plan: dict[str, Any],
    blocks: Blocks,
    report: Callable[[float, int], None],
) -> Iterator[FinishedBlock]:
    """Each block in turn: those on file, else attacked now and kept.

    Args:
        attacker: attacks them.
        plan: sizes of blocks and batches.
        blocks: where finished ones are kept.
        report: told how many images are done and how many there are: a share of the time, as far as
            it can be told.

    Raises:
        ProofContradicted: an image was fooled where it is proved; all blocks are dropped.
        NetworkChanged: a network answers otherwise than before its work; likewise.
    """
    data, epsilons, pairs = attacker.config.data, attacker.config.protocol.epsilons, 0
    for span in spans(len(data), plan["block_size"]):
        done = kept_block(span, blocks, attacker.keep_images)
        if done is None:

            def progress(share: float, span: BlockSpan = span) -> None:
                if share < 1:  # a block is done once it is kept
                    report(span.start + share * (span.stop - span.start), len(data))

            try:
                opened = attacker.attack(span, progress)
                result = attacker.finish(opened, pairs, progress)
            except (ProofContradicted, NetworkChanged):
                blocks.drop()  # they are of the same making
                raise
            done = keep(result, blocks)
        pairs += proved_pairs(done.rows, epsilons)
        report(span.stop, len(data))
        yield done


def missing(data: Dataset, size: int, blocks: Blocks, images: bool) -> list[BlockSpan]:
    """The blocks that are still to be attacked; `images` as for `kept_block`."""
    return [span for span in spans(len(data), size) if kept_block(span, blocks, images) is None]


def kept_block(span: BlockSpan, blocks: Blocks, images: bool) -> FinishedBlock | None:
    """A block on file, if it is there, with its perturbed images where these are wanted."""
    done = blocks.done(span.number, span.start, span.stop - span.start)
    if done is not None and images and blocks.images(span.number) is None:
        return None
    return done


def keep(result: BlockResult, blocks: Blocks) -> FinishedBlock:
    """Keep a block, and its examples among those of the others."""
    examples = _smallest(result.examples, blocks.examples())
    blocks.write(result.span.number, result.rows, examples, result.images, result.spent)
    return FinishedBlock(result.rows, None, result.spent)


def block_of(data: Dataset, start: int, stop: int, device: torch.device) -> Block:
    """Images from one place to before another, on a device."""
    return Block(
        torch.from_numpy(data.images(start, stop)).to(device),
        torch.from_numpy(data.labels[start:stop]).to(device),
        data.ids[start:stop],
        start,
        data.fixed_channels,
    )


def _rows(block: Block, outcomes: Outcomes, epsilons: Sequence[Epsilon]) -> pa.Table:
    distances = outcomes.distance.cpu()
    fooled_at: list[str | None] = [None] * len(distances)
    # from the largest budget down, so that the smallest one that succeeded is what stays
    for e in reversed(epsilons):
        for i in in_budget(distances, float(e)).nonzero()[:, 0].tolist():
            fooled_at[i] = e.text
    for i in (distances == 0).nonzero()[:, 0].tolist():
        fooled_at[i] = "0"
    return table(
        {
            "sample": block.ids,
            "index": range(block.first, block.first + len(distances)),
            "label": block.labels.cpu().numpy(),
            "predicted": outcomes.predicted.cpu().numpy(),
            "fooled_at": fooled_at,
            "distance": [None if d == float("inf") else d for d in distances.tolist()],
            "certified_at": [epsilons[n - 1].text if n else None for n in outcomes.proven.tolist()],
            "fooled_by": outcomes.fooled_by,
            "forward": outcomes.passes.forward.T.tolist(),
            "backward": outcomes.passes.backward.T.tolist(),
            "transform": [None if t[0] != t[0] else t for t in outcomes.transform.tolist()],
            "fooled_as": [
                None if d == float("inf") else int(c)
                for d, c in zip(distances.tolist(), outcomes.perturbed_class.tolist(), strict=True)
            ],
        }
    )


def proved_pairs(rows: pa.Table, epsilons: Sequence[Epsilon]) -> int:
    """How many pairs of image and budget are proved."""
    count = {None: 0} | {epsilon.text: n for n, epsilon in enumerate(epsilons, 1)}
    return sum(count[text] for text in rows["certified_at"].to_pylist())


def _examples(block: Block, outcomes: Outcomes) -> list[Example]:
    """The smallest perturbations of a block."""
    distances = outcomes.distance.cpu()
    order = distances.argsort(stable=True).tolist()
    smallest = [i for i in order if 0 < distances[i] < float("inf")][:EXAMPLES]
    return [
        Example(
            block.first + i,
            int(block.labels[i]),
            int(outcomes.perturbed_class[i]),
            float(distances[i]),
            block.images[i, block.fixed :].cpu().numpy(),
            outcomes.perturbed[i, block.fixed :].cpu().numpy(),
        )
        for i in smallest
    ]


def _smallest(new: Sequence[Example], earlier: Sequence[Example]) -> list[Example]:
    """The smallest perturbations so far, each image once."""
    # a block that was cut after its examples were kept is attacked again: the new ones count
    indices = {e.index for e in new}
    every = [*new, *(e for e in earlier if e.index not in indices)]
    return sorted(every, key=lambda e: (e.distance, e.index))[:EXAMPLES]
