"""A record that is computed, under a lock, unless it turns out to be on file."""

import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from robustkit import machine
from robustkit.attacks.contract import check_batch
from robustkit.data import Dataset
from robustkit.device import devices, in_float32
from robustkit.errors import EvaluationFailed, InputError
from robustkit.evaluation.adversarial import save_adversarial
from robustkit.evaluation.blocks import (
    BROKEN,
    UNSTARTED,
    Attacker,
    Networks,
    Random,
    attack_rows,
    load_networks,
    missing,
    planned_sizes,
    searching,
)
from robustkit.evaluation.chance import chance_warnings, settled_by, surrogate_warnings
from robustkit.evaluation.config import Config, Prove, record_header
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.outputs import Outputs, agree
from robustkit.evaluation.probe import (
    NetworkTraits,
    few_images,
    losses_away,
    probe,
)
from robustkit.evaluation.proving import Proving, begin
from robustkit.evaluation.speed import batch_size, searched_by
from robustkit.evaluation.spreading import BlockSite, Spread, crew_of
from robustkit.parallel.processes import check_guarded
from robustkit.protocol import Protocol
from robustkit.record import Blocks, Evaluation, FinishedBlock, Store
from robustkit.record.columns import integers
from robustkit.statistics.estimate import counted


@in_float32()  # verdicts and what is measured are float32's, whatever the program around has
def computed(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    options: RunOptions,
    surrogate: EvaluatedModel | None,
    prove: Prove,
) -> Evaluation:
    """The record, computed where it is not on file; as `run.run`."""
    device = workers_of(options)[0]
    config = Config(model, data, protocol, device, surrogate, prove=prove)
    config = searched_by(config, options, out)
    header = record_header(config)
    name, store = header["digest"], Store(out)
    outputs = _outputs(config)

    def on_file() -> Evaluation | None:
        if options.anew:
            return None
        cached = store.find(name)
        return cached if cached and are_those(outputs, cached.outputs) else None

    # before any lock: a finished record may stand where nothing can be written
    if (cached := on_file()) is not None:
        return cached
    with store.claim(name, options.waiting) as blocks:
        if (cached := on_file()) is not None:  # another process may have finished it meanwhile
            return cached
        if options.fresh or not are_those(outputs, blocks.outputs()):
            blocks.drop()
        if kept := [one for one in outputs if one is not None]:
            blocks.keep_outputs(np.concatenate(kept, axis=1))
        _compute(config, header, blocks, options)
        return store.find(name) or _vanished(store.path(name))


def workers_of(options: RunOptions) -> tuple[torch.device, ...]:
    """The devices, each of which has a worker where there are several; the first decides.

    Raises:
        InputError: one that there is not, or several in a process that may have none of its own.
    """
    found = devices(options.device)
    if len(found) > 1:
        check_guarded()
    return found


def _outputs(config: Config) -> list[Outputs | None]:
    """Logits on noise of each network whose file does not say all; the judged one comes first."""
    networks = [config.model, *([] if config.surrogate is None else [config.surrogate])]
    asked = [one.outputs for one in networks if one.outputs is not None]
    return [outputs(config.data.shape, config.device) for outputs in asked]


def are_those(now: Sequence[Outputs | None], earlier: Outputs | None) -> bool:
    """Whether what was kept, N × K side by side, is of these very networks; each by its spread."""
    there = [one for one in now if one is not None]
    if not now or len(there) < len(now) or earlier is None:
        return not now
    columns = np.cumsum([one.shape[1] for one in there])
    if earlier.shape != (len(there[0]), columns[-1]):  # of one network alone, say
        return False
    return all(map(agree, there, np.split(earlier, columns[:-1], axis=1)))


def _vanished(path: Path) -> Evaluation:
    raise EvaluationFailed(f"{path} disappeared right after it was written")


def _compute(
    config: Config, header: Mapping[str, Any], blocks: Blocks, options: RunOptions
) -> None:
    """Compute what is missing, block by block, and write the final record."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    resumed = blocks.begun()  # what its blocks took is not known
    data, path, workers = config.data, options.save_adversarial, devices(options.device)
    decided = _decided(config, blocks, options)
    found, proving, plan = decided.warnings, decided.proving, decided.plan
    done = list(_done(config, decided, workers, blocks, options))
    rows = pa.concat_tables([block.rows for block in done])
    if path is not None:
        save_adversarial(path, blocks, rows, data.shape, len(done))
    details = _details(config.device) | {"started": started}
    details["seconds"] = None if resumed else round(time.monotonic() - clock, 3)
    if len(workers) > 1:
        details["devices"] = [str(device) for device in workers]
    if options.ray is not None:
        details["ray"] = options.ray
    predicted = integers(rows["predicted"])
    settled = settled_by(config.model.header.get("preprocessing"), data.source)
    chance = chance_warnings(data.labels, predicted, len(data.classes), settled)
    vain = [*_unstarted(done, len(data)), *_unfollowed(done, len(data))]
    warnings = [*found, *chance, *vain, *data.changed()]
    how = {"asked": config.prove, "on": not proving.reason, "why": proving.reason}
    whole = {**header, "prove": how, "warnings": [*header["warnings"], *warnings]}
    details |= {key: plan[key] for key in plan if key != "prove"}
    details |= {"proof": proving.total(block.proof for block in done)}
    blocks.finish(whole, details, rows)


@dataclass(slots=True)
class _Decided:
    """What is decided once, however many devices take part."""

    warnings: list[str]
    """of the probe"""
    random: Random
    proving: Proving
    plan: dict[str, Any]
    """sizes of blocks and batches"""
    networks: Networks
    traits: NetworkTraits
    """what the probe found of the network that is judged"""

    def free(self) -> None:
        """Leave the device's memory to those who work on it."""
        self.networks = Networks(torch.nn.Identity(), None)
        self.proving.prover = None
        torch.cuda.empty_cache()


def _decided(config: Config, blocks: Blocks, options: RunOptions) -> _Decided:
    networks = load_networks(config)
    options.stage("checking the network")
    found, random, own = probed(config, networks)
    size = batch_size(config, options, blocks, random=any(random))
    plan = planned_sizes(config.data, devices(options.device), blocks, size)
    check_batches(config, networks, random, plan["batch_size"])
    proving = begin(config, networks.model, any(random), plan.get("prove"))
    if "prove" not in plan:
        plan["prove"] = proving.plan  # a resumed run proves as the first one did
        blocks.replan(plan)
    return _Decided(found, random, proving, plan, networks, own)


def _done(
    config: Config,
    decided: _Decided,
    workers: Sequence[torch.device],
    blocks: Blocks,
    options: RunOptions,
) -> Iterator[FinishedBlock]:
    """All blocks, by as many workers as there are devices and blocks."""
    random, proving, plan = decided.random, decided.proving, decided.plan
    keep = options.save_adversarial is not None
    left = missing(config.data, plan["block_size"], blocks, keep)
    on_file = len(config.data) - sum(span.stop - span.start for span in left)
    several = len(workers) > 1 or options.ray is not None
    if config.protocol.attacks and several and len(left) > 1:
        decided.free()
        site = BlockSite(config.to_travel(), proving.plan, random, keep)
        with crew_of(site, workers, len(left), blocks.folder / "shared.bin", options) as crew:
            options.began(on_file / len(config.data))
            yield from Spread(crew, site, plan, blocks, options.progress, options.told).rows()
        return

    def halved(size: int, why: str) -> None:
        plan["batch_size"] = size
        plan["events"].append(why)
        blocks.replan(plan)

    networks = searching(config, decided.networks, random=any(random)) if left else decided.networks
    size, before = plan["batch_size"], decided.traits.logits
    attacker = Attacker(config, networks, proving, random, size, keep, halved, before)
    options.began(on_file / len(config.data))
    yield from attack_rows(attacker, plan, blocks, options.progress)


def _unstarted(done: Sequence[FinishedBlock], images: int) -> list[str]:
    """A warning for each attack that left images alone since it had no point to start from."""
    return [
        f"{name} left {count} of {counted(images, 'image')} without an attack, which is not "
        "robustness: no noise, plain colour, blot or find of an attack before it fooled the "
        "network, to start from; square and attacks by gradients start from the image itself"
        for name, count in _summed(done, UNSTARTED).items()
    ]


def _unfollowed(done: Sequence[FinishedBlock], images: int) -> list[str]:
    """A warning for each attack that met gradients which are no finite numbers."""
    return [
        f"{name}: at {count} of {counted(images, 'image')} the network's gradient held NaN or an "
        "infinity, at one step or more, and a pixel whose gradient is NaN is not moved, which is "
        "not robustness; square needs no gradients"
        for name, count in _summed(done, BROKEN).items()
    ]


def _summed(done: Sequence[FinishedBlock], kind: str) -> Counter[str]:
    """What blocks have counted by attack."""
    counts: Counter[str] = Counter()
    for block in done:
        counts.update(block.proof.get(kind, {}))  # blocks of before know none
    return counts


def probed(config: Config, networks: Networks) -> tuple[list[str], Random, NetworkTraits]:
    """What the probe warns of in both networks; which of them draw at random; all of the first.

    Raises:
        InputError: one of them cannot be evaluated.
    """
    model, surrogate, protocol = networks.model, networks.surrogate, config.protocol
    steps = bool(protocol.attacks)
    given, instead = (config.data, config.device), config.model.instead
    losses = losses_away(protocol)
    own = probe(model, *given, instead, gradients=steps and surrogate is None, losses=losses)
    if surrogate is None or config.surrogate is None:
        return own.warnings, Random(own.random), own
    try:
        instead = config.surrogate.instead
        other = probe(surrogate, *given, instead, gradients=steps, losses=losses)
    except InputError as error:
        raise InputError(f"the surrogate: {error}") from error
    warnings = [*own.warnings, *(f"the surrogate: {text}" for text in other.warnings)]
    said = config.surrogate.header.get("preprocessing")
    warnings += surrogate_warnings(surrogate, *given, said)
    return warnings, Random(own.random, other.random), own


def check_batches(config: Config, networks: Networks, random: Random, size: int) -> None:
    """Nothing, if batches larger than any that the probe tried change no logits either.

    Raises:
        InputError: they do.
    """
    size, few = min(size, len(config.data)), few_images(config.data, config.device)
    for network, model, drawn in (
        (networks.model, config.model, random.model),
        (networks.surrogate, config.surrogate, random.surrogate),
    ):
        if network is not None and model is not None:
            check_batch(network, few, size, model.instead, random=drawn)


def _details(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device_name": name or platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": machine.cores(),
    }
