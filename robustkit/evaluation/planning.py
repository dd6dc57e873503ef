"""What an evaluation would do: passes at most, and what one of them takes. Writes nothing."""

import time
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path

import torch

from robustkit import machine
from robustkit.attacks import search_network
from robustkit.attacks.company import FEW
from robustkit.attacks.prepared import logits_and_gradient
from robustkit.data import Dataset
from robustkit.device import fitting, in_float32, with_threads
from robustkit.evaluation.blocks import Networks, load_networks, size_for
from robustkit.evaluation.computing import check_batches, probed, workers_of
from robustkit.evaluation.config import Config, Prove, record_header, told_by_files
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.run import check_asked
from robustkit.evaluation.speed import check_precision
from robustkit.evaluation.verification import verifying
from robustkit.network import answer
from robustkit.protocol import MostPasses, Protocol, labels_of, most_passes
from robustkit.record import Store

TIMED = 64
"""images of the passes that are timed"""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What one evaluation would do."""

    model: EvaluatedModel
    parameters: int
    data: Dataset
    protocol: Protocol
    device: str
    threads: int
    """of a worker"""
    share: int
    """images of the worker that has most: all, where there is one; of a cluster's none is known"""
    passes: dict[str, MostPasses]
    """by attack, of an image that withstands it"""
    record: Path | None
    """where it is on file already; None where it would be computed"""
    took: MostPasses
    """seconds of a pass over an image of each kind, as measured; 0 where nothing would run"""
    warnings: tuple[str, ...]

    @property
    def each(self) -> MostPasses:
        """Passes over an image that withstands all attacks, the clean one included."""
        every = self.passes.values()
        return MostPasses(sum(p.gradients for p in every), 1 + sum(p.forwards for p in every))

    @property
    def seconds(self) -> float:
        """If every image withstood every attack: where images fall it takes less."""
        each, took = self.each, self.took
        an_image = each.gradients * took.gradients + each.forwards * took.forwards
        return an_image * self.share


def plan(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    options: RunOptions,
    surrogate: EvaluatedModel | None,
    prove: Prove,
) -> EvaluationPlan:
    """What `run` would do with the same arguments.

    Raises:
        InputError: the network cannot be evaluated on these images, or not so.
    """
    check_asked(protocol, options, surrogate, prove)
    model = verifying(model, data)
    surrogate = surrogate and verifying(surrogate, data)
    workers = workers_of(options)
    config = Config(model, data, protocol, workers[0], surrogate, prove=prove)
    header, store = record_header(config), Store(out)
    plain = options.precision == "float32" and told_by_files(model, surrogate)
    found = store.find(header["digest"]) if plain and not options.anew else None
    networks = load_networks(config)
    warnings = [] if found is not None else _checked(config, networks, options)
    blocks = ceil(len(data) / (size := size_for(data, workers)))
    used = workers[:blocks] if protocol.attacks else workers[:1]
    threads = torch.get_num_threads() if len(used) == 1 else machine.threads(len(used))
    budgets, classes = len(protocol.epsilons), len(data.classes)
    return EvaluationPlan(
        model=model,
        parameters=sum(p.numel() for p in networks.model.parameters()),
        data=data,
        protocol=protocol,
        device=", ".join(map(str, used)),
        threads=threads,
        share=min(len(data), ceil(blocks / len(used)) * size),
        passes={
            label: most_passes(attack, budgets, classes, protocol.search)
            for label, attack in zip(labels_of(protocol.attacks), protocol.attacks, strict=True)
        },
        record=None if found is None else store.path(header["digest"]),
        took=MostPasses(0, 0) if found is not None else _timed(networks, config, threads),
        warnings=(*header["warnings"], *warnings),
    )


@in_float32()
def _checked(config: Config, networks: Networks, options: RunOptions) -> list[str]:
    """What the run would warn of before it attacks.

    Raises:
        InputError: it would be refused.
    """
    check_precision(config, options.precision)
    warnings, random, _ = probed(config, networks)
    if options.batch_size != "auto":
        check_batches(config, networks, random, options.batch_size)
    return warnings


def _timed(networks: Networks, config: Config, threads: int) -> MostPasses:
    """Seconds that passes of both kinds take an image, here and now, after one to warm up.

    Raises:
        EvaluationFailed: memory is too little for one image.
    """
    device, data = config.device, config.data
    images = torch.from_numpy(data.images(0, min(TIMED, len(data)))).to(device)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def timed(size: int) -> MostPasses:
        for _ in range(2):
            times = [now()]
            logits_and_gradient(searched, images[:size])
            times.append(now())
            with torch.no_grad():
                answer(searched, images[:size])
            times.append(now())
        gradient, forward = (later - sooner for sooner, later in pairwise(times))
        return MostPasses(gradient / size, forward / size)

    with in_float32(), with_threads(threads):
        searched = search_network(networks.surrogate or networks.model, images[:FEW]).exact
        return fitting(timed, len(images))
