"""The attack, block by block; each is kept as soon as it is done, so that little can be lost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from robustkit.attacks import Block, Experience, Outcomes, SearchNetwork, attack_block, in_budget
from robustkit.data import Dataset
from robustkit.errors import EvaluationFailed, ProofContradicted
from robustkit.evaluation.config import Config
from robustkit.evaluation.proving import Proving, Spent
from robustkit.protocol import Epsilon, Protocol
from robustkit.record import Blocks, Example, FinishedBlock, table

EXAMPLES = 8
"""how many of the smallest successful perturbations are kept for looking at"""


class Networks(NamedTuple):
    """Frozen modules on pixels in [0, 1], on the device."""

    model: torch.nn.Module
    surrogate: torch.nn.Module | None
    search_by: SearchNetwork | None = None
    """the model, or the surrogate, made cheaper to search by"""


def block_size(data: Dataset, device: torch.device) -> int:
    """Images a block: what an interruption may lose on a CPU, what fills a GPU."""
    pixels = int(np.prod(data.shape))
    return 256 if device.type == "cpu" else max(64, min(2048, 2**24 // pixels))


def planned_sizes(
    data: Dataset, device: torch.device, blocks: Blocks, batch_size: int | Literal["auto"]
) -> dict[str, Any]:
    """Sizes of blocks and batches: as an interrupted run had them, so that rows come out alike."""
    size, pixels = block_size(data, device), int(np.prod(data.shape))
    # a GPU starts from a whole block and halves it where its memory does not suffice
    fitting = max(1, min(128, 2**22 // pixels)) if device.type == "cpu" else size
    first = fitting if batch_size == "auto" else batch_size
    plan = blocks.plan({"batch_size": first, "block_size": size, "events": []})
    return plan if batch_size == "auto" else plan | {"batch_size": batch_size}


def attack_rows(
    config: Config,
    networks: Networks,
    proving: Proving,
    plan: dict[str, Any],
    blocks: Blocks,
    keep_images: bool,
    report: Callable[[float, int], None],
) -> Iterator[FinishedBlock]:
    """Each block in turn: those on file, else attacked now and kept.

    Args:
        config: what is evaluated.
        networks: likewise, on the device.
        proving: how images are bounded first.
        plan: sizes of blocks and batches; changed where the memory does not suffice.
        blocks: where finished ones are kept.
        keep_images: keep the perturbed images, too; a block without them is attacked again.
        report: told how many images are done and how many there are: a share of the time, as far as
            it can be told.

    Raises:
        ProofContradicted: an image was fooled where it is proved; all blocks are dropped.
    """
    data, protocol, experience = config.data, config.protocol, Experience()
    for number, start in enumerate(range(0, len(data), plan["block_size"])):
        stop = min(start + plan["block_size"], len(data))
        done = blocks.done(number, start, stop - start)
        if done is None or (keep_images and blocks.images(number) is None):

            def progress(share: float, start: int = start, stop: int = stop) -> None:
                if share < 1:  # a block is done once it is kept
                    report(start + share * (stop - start), len(data))

            block, spent = block_of(data, start, stop, config.device), Spent()
            try:
                outcomes = _attack(
                    networks, block, protocol, proving, spent, plan, blocks, progress, experience
                )
            except ProofContradicted:
                blocks.drop()  # their proofs are of the same making
                raise
            rows = _rows(block, outcomes, protocol.epsilons)
            images = outcomes.perturbed.cpu().numpy() if keep_images else None
            examples = _examples(block, outcomes, blocks.examples())
            blocks.write(number, rows, examples, images, asdict(spent))
            done = FinishedBlock(rows, None, asdict(spent))
        else:
            proving.skip(_proved_pairs(done.rows, protocol.epsilons))
        report(stop, len(data))
        yield done


def block_of(data: Dataset, start: int, stop: int, device: torch.device) -> Block:
    """Images from one place to before another, on a device."""
    return Block(
        torch.from_numpy(data.images(start, stop)).to(device),
        torch.from_numpy(data.labels[start:stop]).to(device),
        data.ids[start:stop],
        start,
        data.fixed_channels,
    )


def _attack(
    networks: Networks,
    block: Block,
    protocol: Protocol,
    proving: Proving,
    spent: Spent,
    plan: dict[str, Any],
    blocks: Blocks,
    progress: Callable[[float], None],
    experience: Experience,
) -> Outcomes:
    """Attack a block; when the GPU's memory does not suffice, with half the batch, and say so."""
    model, surrogate, search_by = networks
    while True:
        try:
            size = plan["batch_size"]
            attack = partial(
                attack_block,
                model,
                block,
                batch_size=size,
                surrogate=surrogate,
                search_by=search_by,
            )
            prove = proving.of(block, size, spent)
            proving.share = 1.0
            outcomes = attack(
                protocol,
                progress=lambda share: progress(proving.share * share),
                experience=experience,
                prove=prove,
            )
            spent.attacked = proving.check(block, protocol, outcomes, attack, progress)
            return outcomes
        except torch.cuda.OutOfMemoryError as error:
            if plan["batch_size"] == 1:
                raise EvaluationFailed("the GPU has too little memory for one image") from error
        # outside of the handler, whose traceback would hold on to the tensors of the failed pass
        torch.cuda.empty_cache()
        plan["batch_size"] //= 2
        plan["events"].append(
            f"out of GPU memory at image {block.first}: batch size halved to {plan['batch_size']}"
        )
        blocks.replan(plan)


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


def _proved_pairs(rows: pa.Table, epsilons: Sequence[Epsilon]) -> int:
    """How many pairs of image and budget are proved."""
    count = {None: 0} | {epsilon.text: n for n, epsilon in enumerate(epsilons, 1)}
    return sum(count[text] for text in rows["certified_at"].to_pylist())


def _examples(block: Block, outcomes: Outcomes, earlier: Sequence[Example]) -> list[Example]:
    """The smallest perturbations so far, each image once."""
    distances = outcomes.distance.cpu()
    order = distances.argsort(stable=True).tolist()
    smallest = [i for i in order if 0 < distances[i] < float("inf")][:EXAMPLES]
    new = [
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
    # a block that was cut after its examples were kept is attacked again: the new ones count
    indices = {e.index for e in new}
    every = [*new, *(e for e in earlier if e.index not in indices)]
    return sorted(every, key=lambda e: (e.distance, e.index))[:EXAMPLES]
