"""In which precision a search itself is fastest, by a slice of it.

Passes alone do not tell: rows close to the boundary are searched in float32, and how many come
there, and how soon, hangs on network, attack and budget.
"""

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from robustkit.attacks import Block, SearchNetwork, attack_block, build_search
from robustkit.attacks.planned import planned_passes
from robustkit.device import fitting
from robustkit.evaluation.blocks import block_of
from robustkit.evaluation.config import Config
from robustkit.protocol import Attack, Protocol

IMAGES = 64
QUERIES = 500
"""of random search; searches by the gradient are whole, since it is their end that float32 takes"""
ROUNDS = 2
"""in turn; the fastest counts"""
WORTH = 10
"""passes that an evaluation must plan for each one of a trial"""


def trial(config: Config, networks: Mapping[str, SearchNetwork]) -> dict[str, float]:
    """Seconds that the protocol's searches take in each network's precision, for a few images.

    Raises:
        EvaluationFailed: memory is too little for one image.
    """
    block = block_of(config.data, 0, min(IMAGES, len(config.data)), config.device)
    model = config.model.load(config.device)

    def tried(size: int) -> dict[str, float]:
        seconds = dict.fromkeys(networks, 0.0)
        for protocol, weight in _slices(config):
            rounds = [
                {w: timed(model, block, protocol, network, size) for w, network in networks.items()}
                for _ in range(ROUNDS)
            ]
            for word in networks:
                seconds[word] += weight * min(found[word] for found in rounds)
        return seconds

    return fitting(tried, len(block.images))  # all of them in batches of one size


def worth(config: Config, precisions: int) -> bool:
    """Whether a trial of so many precisions costs little beside the evaluation."""
    classes, images = len(config.data.classes), len(config.data)
    once = sum(planned_passes(protocol, classes) for protocol, _ in _slices(config))
    tried = once * min(IMAGES, images) * ROUNDS * precisions
    return planned_passes(config.protocol, classes) * images >= WORTH * tried


def timed(
    model: torch.nn.Module, block: Block, protocol: Protocol, network: SearchNetwork, size: int
) -> float:
    """Seconds of the device, in such batches; of a processor its own, since others may use it."""
    device = block.images.device
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    attack_block(model, block, protocol, size, search_by=network)
    return clock() - started  # what was found is on the processor by now


def _slices(config: Config) -> list[tuple[Protocol, float]]:
    """Each attack that searches by a network, cut short, and how many times as much it plans."""
    protocol, classes, found = config.protocol, len(config.data.classes), []
    for attack in protocol.attacks:
        if build_search(attack, protocol.norm) is not None:
            one, whole = (replace(protocol, attacks=(a,)) for a in (_cut(attack), attack))
            weight = planned_passes(whole, classes) / planned_passes(one, classes)
            found.append((one, weight))
    return found


def _cut(attack: Attack) -> Attack:
    """To one attempt, and few queries."""
    most: dict[str, Any] = {"restarts": 1, "targets": 1, "queries": QUERIES, "draws": 1}
    names = {field.name for field in fields(attack)} & set(most)
    return replace(attack, **{name: min(getattr(attack, name), most[name]) for name in names})
