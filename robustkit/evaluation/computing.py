"""A record that is computed, under a lock, unless it turns out to be on file."""

import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from robustkit import machine
from robustkit.attacks import SearchNetwork, search_network
from robustkit.attacks.contract import FEW
from robustkit.attacks.planned import searched_passes
from robustkit.attacks.prepared import pays
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.device import tf32
from robustkit.errors import EvaluationFailed, InputError
from robustkit.evaluation.adversarial import save_adversarial
from robustkit.evaluation.blocks import Networks, attack_rows, planned_sizes
from robustkit.evaluation.chance import chance_warnings, settled_by
from robustkit.evaluation.config import Config, Prove, record_header
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.outputs import Outputs, agree
from robustkit.evaluation.probe import probe
from robustkit.evaluation.proving import begin
from robustkit.evaluation.speed import batch_size, searched_by
from robustkit.protocol import Protocol
from robustkit.record import Blocks, Evaluation, Store


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
    config = Config(model, data, protocol, find_device(options.device), surrogate, prove=prove)
    config = searched_by(config, options, out)
    header = record_header(config)
    name, store = header["digest"], Store(out)
    outputs = None if model.outputs is None else model.outputs(data.shape, config.device)

    def is_of_model(earlier: Outputs | None) -> bool:
        return model.outputs is None or agree(outputs, earlier)

    def on_file() -> Evaluation | None:
        if options.anew:
            return None
        cached = store.find(name)
        return cached if cached and is_of_model(cached.outputs) else None

    # before any lock: a finished record may stand where nothing can be written
    if (cached := on_file()) is not None:
        return cached
    with store.claim(name, options.waiting) as blocks:
        if (cached := on_file()) is not None:  # another process may have finished it meanwhile
            return cached
        if options.fresh or not is_of_model(blocks.outputs()):
            blocks.drop()
        if outputs is not None:
            blocks.keep_outputs(outputs)
        _compute(config, header, blocks, options)
        return store.find(name) or _vanished(store.path(name))


def _vanished(path: Path) -> Evaluation:
    raise EvaluationFailed(f"{path} disappeared right after it was written")


def _compute(
    config: Config, header: Mapping[str, Any], blocks: Blocks, options: RunOptions
) -> None:
    """Compute what is missing, block by block, and write the final record."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    device, data, path = config.device, config.data, options.save_adversarial
    networks = Networks(
        config.model.load(device),
        None if config.surrogate is None else config.surrogate.load(device),
    )
    options.stage("checking the network")
    found, random = _probed(config, networks)
    if config.protocol.attacks and not random:
        networks = networks._replace(search_by=_search_network(config, networks))
    size = batch_size(config, options, blocks)
    plan = planned_sizes(data, device, blocks, size)
    options.stage("")
    with tf32(allowed=False):  # verdicts are float32's, and torch lets a GPU's convolutions cut it
        proving = begin(config, networks.model, random, plan.get("prove"))
        if "prove" not in plan:
            plan["prove"] = proving.plan  # a resumed run proves as the first one did
            blocks.replan(plan)
        keep = path is not None
        done = list(attack_rows(config, networks, proving, plan, blocks, keep, options.progress))
    rows = pa.concat_tables([block.rows for block in done])
    if path is not None:
        save_adversarial(path, blocks, rows, data.shape, len(done))
    details = _details(device) | {"started": started, "seconds": round(time.monotonic() - clock, 3)}
    predicted = rows["predicted"].to_numpy().astype(np.int64)
    settled = settled_by(config.model.header.get("preprocessing"), data.source)
    chance = chance_warnings(data.labels, predicted, len(data.classes), settled)
    warnings = [*found, *chance, *data.changed()]
    how = {"asked": config.prove, "on": proving.prover is not None, "why": proving.reason}
    whole = {**header, "prove": how, "warnings": [*header["warnings"], *warnings]}
    details |= {key: plan[key] for key in plan if key != "prove"}
    details |= {"proof": proving.total(block.proof for block in done)}
    blocks.finish(whole, details, rows)


def _search_network(config: Config, networks: Networks) -> SearchNetwork | None:
    """What is searched by; None: the network as it is."""
    images = torch.from_numpy(config.data.images(0, min(FEW, len(config.data))))
    model = networks.surrogate or networks.model
    precision = config.low and config.low.precision
    passes = searched_passes(config.protocol, len(config.data.classes)) * len(config.data)
    if precision is None and not (passes and pays(images, passes)):
        return None
    return search_network(model, images.to(config.device), precision)


def _probed(config: Config, networks: Networks) -> tuple[list[str], bool]:
    """What the probe warns of in both networks; whether one of them draws at random.

    Raises:
        InputError: one of them cannot be evaluated.
    """
    model, surrogate = networks.model, networks.surrogate
    steps = bool(config.protocol.attacks)
    given, instead = (config.data, config.device), config.model.instead
    own = probe(model, *given, instead, gradients=steps and surrogate is None)
    if surrogate is None or config.surrogate is None:
        return own.warnings, own.random
    try:
        other = probe(surrogate, *given, config.surrogate.instead, gradients=steps)
    except InputError as error:
        raise InputError(f"the surrogate: {error}") from error
    warnings = [*own.warnings, *(f"the surrogate: {text}" for text in other.warnings)]
    return warnings, own.random or other.random


def _details(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device_name": name or platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": machine.cores(),
    }
