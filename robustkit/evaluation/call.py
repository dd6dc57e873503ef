"""The calls from Python: a model, data and a protocol to a record."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from robustkit import data as datasets
from robustkit.certification import TIME_LIMIT
from robustkit.checkpoint import Checkpoint, read_checkpoint
from robustkit.data import Dataset, load_dataset
from robustkit.errors import InputError
from robustkit.evaluation.certifying import certify_images
from robustkit.evaluation.config import Prove, resolve_protocol
from robustkit.evaluation.images import check_classes, images_for
from robustkit.evaluation.model import from_checkpoint
from robustkit.evaluation.module import from_module
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.run import run
from robustkit.files import whole_number
from robustkit.protocol import Norm, Protocol, Target
from robustkit.record import Evaluation
from robustkit.record.certification import Certification


def evaluate(
    model: torch.nn.Module | Checkpoint | str | Path,
    data: Dataset | tuple[Any, Any] | str | Path,
    protocol: Protocol | str = "pgd",
    *,
    norm: Norm | None = None,
    epsilons: Sequence[str | float] = (),
    target: Target = "none",
    seed: int = 0,
    settings: Sequence[str] = (),
    limit: int | None = None,
    name: str | None = None,
    image_by_image: bool = False,
    prove: Prove = "auto",
    out: Path | str = "runs",
    options: RunOptions | None = None,
) -> Evaluation:
    """Attack a model and return one row per image.

    Args:
        model: a module taking float32 N × C × H × W in [0, 1] and returning logits N × K, or a
            checkpoint, or the path of one. A module is copied, never moved or changed.
        data: a data set, its name or path, or images N × C × H × W in [0, 1] with labels N.
        protocol: a protocol, its name, or the path of its file.
        norm: one of those of the protocol's file; otherwise its default.
        epsilons: budgets ("8/255"); otherwise the protocol's own, otherwise the data set's usual.
        target: attack towards the next, a random or the least likely class, not any wrong one.
        seed: of every random draw.
        settings: `key=value` changes to the protocol's attacks.
        limit: only the first so many images.
        name: caches the record of a module in memory under this name; without it nothing is kept.
        image_by_image: pass images one at a time, for a network whose outputs depend on the batch,
            which is refused without.
        prove: "auto" attacks no image at budgets that it provably withstands, where bounds are
            cheap beside the attack; "off" attacks all.
        out: folder of the records.
        options: batch size, device and the like.

    Raises:
        InputError: something given is unusable; one line says what.
        EvaluationFailed: the evaluation broke; finished blocks are kept.
    """
    if not isinstance(model, torch.nn.Module | Checkpoint):
        model = read_checkpoint(model)
    images = _dataset(data, limit, model)
    resolved = resolve_protocol(
        protocol, images, epsilons, norm=norm, target=target, seed=seed, settings=settings
    )
    with ExitStack() as stack:
        if isinstance(model, Checkpoint):
            evaluated = from_checkpoint(model, len(images.classes), image_by_image=image_by_image)
        else:
            evaluated = from_module(model, name, len(images.classes), image_by_image=image_by_image)
            if name is None:
                out = stack.enter_context(tempfile.TemporaryDirectory(prefix="robustkit-"))
        given = options or RunOptions()
        return run(evaluated, images, resolved, Path(out), given, prove=prove)


def certify(
    model: torch.nn.Module | Checkpoint | str | Path,
    data: Dataset | tuple[Any, Any] | str | Path,
    epsilon: str | float,
    *,
    norm: Norm | None = None,
    attack: Protocol | str = "pgd",
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
    limit: int | None = None,
    out: Path | str = "runs",
    options: RunOptions | None = None,
) -> Certification:
    """Prove images robust within ε, or fool them: bounds, an attack, then branch and bound.

    Args:
        model: as for `evaluate`; of a module in memory nothing is kept.
        data: likewise.
        epsilon: the budget ("8/255").
        norm: one of those of the attack's file; otherwise its default.
        attack: a protocol, its name, or the path of its file.
        time_limit: seconds that branch and bound may take for an image; 0 leaves it out.
        seed: of the attack's draws.
        limit: only the first so many images.
        out: folder of the records.
        options: batch size, device and the like.

    Raises:
        InputError: something given is unusable, or the network has no bounds; one line says what.
        EvaluationFailed: the network broke; what is decided is kept.
    """
    if not isinstance(model, torch.nn.Module | Checkpoint):
        model = read_checkpoint(model)
    images = _dataset(data, limit, model)
    protocol = resolve_protocol(attack, images, (epsilon,), norm=norm, seed=seed)
    with ExitStack() as stack:
        if isinstance(model, Checkpoint):
            evaluated = from_checkpoint(model)
        else:
            evaluated = from_module(model, None)
            out = stack.enter_context(tempfile.TemporaryDirectory(prefix="robustkit-"))
        given = options or RunOptions()
        return certify_images(evaluated, images, protocol, Path(out), time_limit, given)


def _dataset(
    data: Dataset | tuple[Any, Any] | str | Path,
    limit: int | None,
    model: torch.nn.Module | Checkpoint,
) -> Dataset:
    if isinstance(data, str | Path) and isinstance(model, Checkpoint):
        return images_for(model, str(data), limit=limit)
    if isinstance(data, str | Path):
        return load_dataset(str(data), limit=limit)
    if isinstance(data, tuple):
        images, labels = data
        # cut here: a large array is checked in full otherwise
        count = None if limit is None else whole_number(limit, "--limit", least=1)
        return datasets.from_arrays(images[:count], labels[:count], name="arrays")
    if limit is not None and whole_number(limit, "--limit", least=1) < len(data):
        raise InputError("limit goes with a data set's name or arrays; load the Dataset with it")
    if isinstance(model, Checkpoint):
        check_classes(model, data)
    return data
