"""Evaluate one checkpoint: from a question to its record.

The question's digest covers everything that can change a row; the answer is computed in fixed
blocks, each kept as soon as it is done, so that an interrupted run loses at most one block.
"""

import platform
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from robustkit import checkpoint as checkpoints
from robustkit import data as datasets
from robustkit import machine
from robustkit import protocol as protocols
from robustkit.attack import REVISION, Block, Outcomes, attack_block, search, within
from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.errors import DataError, EvaluationFailed, InputError, ProtocolError, first_line
from robustkit.files import canonical, digest, shipped
from robustkit.protocol import Epsilon, Protocol, Target, kind
from robustkit.record import VERSION, Blocks, Evaluation, Example, Store, table

EXAMPLES = 8
"""how many of the smallest successful perturbations are kept for looking at"""

CHECKPOINT_KEYS = (
    *("path", "sha256", "weights", "model", "loss", "label_noise", "data_fraction", "seed"),
    *("trained_on", "recorded_accuracy", "preprocessing", "notes", "mean", "std"),
)
"""what a record's header says of the checkpoint"""
DATA_KEYS = ("name", "title", "split", "digest", "order", "transform", "source", "classes", "shape")
"""likewise of the data, beside the number of images"""

Progress = Callable[[float, int], None]
"""told how many images are done (in fractions) and how many there are"""


class Subject(NamedTuple):
    """What is evaluated: a checkpoint, or a module in memory."""

    identity: Mapping[str, Any]
    """everything that can change a logit, as JSON"""
    header: Mapping[str, Any]
    """the record's `checkpoint` entry"""
    warnings: Sequence[str]
    load: Callable[[torch.device], torch.nn.Module]
    """a frozen module on pixels in [0, 1]"""
    shape: tuple[int, int, int] | None = None
    """C, H, W of the training images, where that is recorded"""


@dataclass(frozen=True, slots=True)
class Options:
    """How an evaluation is run; none of it changes a row beyond float32 rounding."""

    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    fresh: bool = False
    """ask anew, even where the answer is on file"""
    save_adversarial: Path | None = None
    """where to keep the perturbed images, as .npz of float32"""
    progress: Progress = lambda done, total: None
    waiting: Callable[[], None] = lambda: None
    """called when another process is at work on the same question"""


def evaluate(
    model: torch.nn.Module | Checkpoint | str | Path,
    data: Dataset | tuple[Any, Any] | str | Path,
    protocol: Protocol | str = "pgd",
    *,
    epsilons: Sequence[str | float] = (),
    target: Target = "none",
    seed: int = 0,
    settings: Sequence[str] = (),
    limit: int | None = None,
    name: str | None = None,
    out: Path | str = "runs",
    options: Options | None = None,
) -> Evaluation:
    """Attack a model and return one row per image.

    Args:
        model: a module taking float32 N × C × H × W in [0, 1] and returning logits N × K, or a
            checkpoint, or the path of one. A module is copied, never moved or changed.
        data: a data set, its name or path, or images N × C × H × W in [0, 1] with labels N.
        protocol: a protocol, its name, or the path of its file.
        epsilons: budgets ("8/255"); otherwise the protocol's own, otherwise the data set's usual.
        target: attack towards the next, a random or the least likely class, not any wrong one.
        seed: of every random draw.
        settings: `key=value` changes to the protocol's attacks.
        limit: only the first so many images.
        name: caches the record of a module in memory under this name; without it nothing is kept.
        out: folder of the records.
        options: batch size, device and the like.

    Raises:
        InputError: something given is unusable; one line says what.
        EvaluationFailed: the evaluation broke; finished blocks are kept.
    """
    options = options or Options()
    if not isinstance(model, torch.nn.Module | Checkpoint):
        model = checkpoints.read(model)
    images = _dataset(data, limit, model)
    asked = resolve(protocol, images, epsilons, target=target, seed=seed, settings=settings)
    with ExitStack() as stack:
        if isinstance(model, torch.nn.Module):
            subject = _module(model, name)
            if name is None:
                out = stack.enter_context(tempfile.TemporaryDirectory(prefix="robustkit-"))
        else:
            subject = of_checkpoint(model)
        return run(subject, images, asked, Path(out), options)


def _dataset(
    data: Dataset | tuple[Any, Any] | str | Path,
    limit: int | None,
    model: torch.nn.Module | Checkpoint,
) -> Dataset:
    if isinstance(data, str | Path) and isinstance(model, Checkpoint):
        return images_for(model, str(data), limit=limit)
    if isinstance(data, str | Path):
        return datasets.load(str(data), limit=limit)
    if isinstance(data, tuple):
        images, labels = data
        return datasets.from_arrays(images[:limit], labels[:limit], name="arrays")
    if limit is not None and limit < len(data):
        raise InputError("limit goes with a data set's name or arrays; load the Dataset with it")
    return data


def images_for(
    checkpoint: Checkpoint,
    name: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    root: Path | None = None,
    resize: int | None = None,
    crop: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """The images to judge a checkpoint by, made as those of its training were.

    Arguments are as `data.load` takes them. The data set, and how its images are made, are those
    that the checkpoint records, where nothing else is asked for.

    Raises:
        InputError: no data set is named, or the images have another shape than those of the
            training, and nothing says that they should.
    """
    if not (name := name or checkpoint.trained_on):
        raise InputError(f"{checkpoint.path}: records no data set; name one with --data")
    asked = {"resize": resize, "crop": crop, "channels": channels}
    chosen = {
        key: getattr(checkpoint, key) if value is None else value for key, value in asked.items()
    }
    data = datasets.load(name, split=split, limit=limit, root=root, **chosen)
    if asked == dict.fromkeys(asked):
        check_shape(checkpoint, data)
    return data


def check_shape(checkpoint: Checkpoint, data: Dataset) -> None:
    """Nothing, if the images have the recorded shape of the training's, or none is recorded.

    Raises:
        DataError: they have another, and accuracy on them would say little.
    """
    if checkpoint.trained_shape not in (None, data.shape):
        raise DataError(
            f"{checkpoint.path}: {_unlike(checkpoint.trained_shape, data)}; make them so with "
            "--resize, --crop or --channels, or in the data set's file "
            f"(--channels {data.shape[0]} takes them as they are)"
        )


def _unlike(shape: tuple[int, int, int] | None, data: Dataset) -> str:
    trained, found = ("×".join(map(str, some)) for some in (shape or (), data.shape))
    return f"trained on images of {trained}, but those of {data.name} are {found}"


def resolve(
    protocol: Protocol | str,
    data: Dataset,
    epsilons: Sequence[str | float] = (),
    *,
    target: Target = "none",
    seed: int = 0,
    settings: Sequence[str] = (),
) -> Protocol:
    """A protocol with its budgets filled in: as asked, else its own, else the data set's usual.

    Raises:
        ProtocolError: no budgets are known, or the protocol's parts don't go together.
    """
    if isinstance(protocol, str):
        protocol = protocols.load(protocol, settings)
    budgets = [protocols.epsilon(str(text)) for text in epsilons]
    budgets = budgets or list(protocol.epsilons)
    if budgets and not protocol.attacks:
        raise ProtocolError(f"{protocol.name}: attacks nothing, so --epsilon means nothing")
    if protocol.attacks and not budgets:
        budgets = [protocols.epsilon(e) for e in data.budgets.get(protocol.norm, ())]
    if protocol.attacks and not budgets:
        raise ProtocolError(
            f"no usual {protocol.norm} budgets are known for {data.name}; give --epsilon"
        )
    chosen = target if target != "none" else protocol.target
    return protocols.checked(
        replace(protocols.with_epsilons(protocol, budgets), target=chosen, seed=seed)
    )


def of_checkpoint(checkpoint: Checkpoint) -> Subject:
    """A checkpoint as a subject."""
    header = {key: getattr(checkpoint, key) for key in CHECKPOINT_KEYS}
    if Path(checkpoint.path).parent == shipped("data"):
        header["path"] = Path(checkpoint.path).stem  # a shipped one goes by its name
    return Subject(
        checkpoint.identity,
        header,
        checkpoint.warnings,
        lambda device: checkpoint.load(device),
        checkpoint.trained_shape,
    )


def _module(module: torch.nn.Module, name: str | None) -> Subject:
    """A module in memory as a subject; what is known of it is its weights and its name."""
    state = module.state_dict()
    weights = digest(
        *(
            part
            for key, t in state.items()
            for part in (key, t.cpu().contiguous().numpy().tobytes())
        )
    )
    path = name or f"<{type(module).__qualname__}>"
    header: dict[str, Any] = {
        **dict.fromkeys(CHECKPOINT_KEYS),
        "path": path,
        "weights": weights,
        "preprocessing": "in the module",
        "notes": [],
    }
    identity = {"module": type(module).__qualname__, "name": name, "weights": weights}
    return Subject(identity, header, (), lambda device: checkpoints.wrap(module).to(device))


def run(
    subject: Subject,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    options: Options,
    surrogate: Subject | None = None,
) -> Evaluation:
    """The record of a question: from its file, or computed now.

    With a surrogate every step of the attack is taken by it, and the subject only judges the last.

    Raises:
        InputError, EvaluationFailed: as `evaluate`.
    """
    device = find_device(options.device)
    header = question(subject, data, protocol, device, surrogate)
    store = Store(out)
    with store.claim(header["digest"], options.waiting) as blocks:
        known = store.find(header["digest"])
        if known and not options.fresh and not options.save_adversarial:
            return known
        if options.fresh:
            blocks.drop()
        _answer(subject, data, protocol, device, blocks, header, options, surrogate)
        return store.find(header["digest"]) or _vanished(store.path(header["digest"]))


def _vanished(path: Path) -> Evaluation:
    raise EvaluationFailed(f"{path} vanished right after it was written")


def question(
    subject: Subject,
    data: Dataset,
    protocol: Protocol,
    device: torch.device,
    surrogate: Subject | None = None,
) -> dict[str, Any]:
    """The header of a record; its `digest` covers everything in it that can change a row."""
    engine = {
        "revision": REVISION,
        "robustkit": version("robustkit"),
        "torch": torch.__version__,
        "foolbox": version("foolbox"),
        "device": device.type,
    }
    by = {} if surrogate is None else {"surrogate": surrogate.identity}
    if surrogate is not None and (unfit := _cannot_transfer(protocol)):
        raise ProtocolError(f"{unfit}: cannot use a surrogate; pgd, fgsm and mifgsm can")
    decisive = by | {
        "checkpoint": subject.identity,
        "data": data.digest,
        "protocol": protocol.resolved(),
        "engine": {key: value for key, value in engine.items() if key != "robustkit"},
    }
    return {
        "schema": f"robustkit.evaluation/{VERSION}",
        "digest": digest(canonical(decisive)),
        "checkpoint": dict(subject.header),
        **({} if surrogate is None else {"surrogate": dict(surrogate.header)}),
        "data": _data_header(data),
        "protocol": protocol_header(protocol),
        "engine": engine,
        "warnings": [
            *subject.warnings,
            *data.warnings,
            *([] if surrogate is None else [_transfer(surrogate)]),
            *_seen(subject, data),
            *([] if subject.shape in (None, data.shape) else [_unlike(subject.shape, data)]),
            *protocol.weaknesses,
            *protocols.adaptations(protocol.attacks, len(data.classes)),
        ],
    }


def _transfer(surrogate: Subject) -> str:
    return (
        f"attacked through {surrogate.header['path']}: a transfer attack, which says nothing "
        "of attackers who know the model"
    )


def _cannot_transfer(protocol: Protocol) -> str:
    """The first attack that cannot work on another network than the one it is to fool."""
    searches = [(kind(a), search(a, protocol.norm)) for a in protocol.attacks]
    return next((word for word, own in searches if own is None or not own.transfers), "")


def _data_header(data: Dataset) -> dict[str, Any]:
    """What a record's header says of the data."""
    return {**{key: getattr(data, key) for key in DATA_KEYS}, "n": len(data)}


def protocol_header(protocol: Protocol) -> dict[str, Any]:
    """What a record's header says of the protocol."""
    return {
        "name": protocol.name,
        "title": protocol.title,
        "norm": protocol.norm,
        "digest": protocol.digest,
        "file": protocol.text,
        "resolved": protocol.resolved(),
        "epsilons": [{"epsilon": e.text, "value": float(e)} for e in protocol.epsilons],
    }


def _seen(subject: Subject, data: Dataset) -> list[str]:
    """A warning where a model may have been trained on the images it is judged by."""
    whole = data.source.get("all_training_images_of")
    if not whole or subject.header["trained_on"] == data.name:
        return []
    return [
        f"all images of {data.name} are training images of {whole}, and this model is not recorded "
        f"as trained on {data.name}: it may have seen them, and its accuracy here may be too high"
    ]


# --- computing the answer -------------------------------------------------------------------------


def block_size(data: Dataset, device: torch.device) -> int:
    """Images a block: what an interruption may lose on a CPU, what fills a GPU."""
    pixels = int(np.prod(data.shape))
    return 256 if device.type == "cpu" else max(64, min(2048, 2**24 // pixels))


def _plan(
    data: Dataset, device: torch.device, blocks: Blocks, batch_size: int | Literal["auto"]
) -> dict[str, Any]:
    """Sizes of blocks and batches: as an interrupted run had them, so that rows come out alike."""
    size, pixels = block_size(data, device), int(np.prod(data.shape))
    # a GPU starts from a whole block and halves it where its memory does not suffice
    fitting = max(1, min(128, 2**22 // pixels)) if device.type == "cpu" else size
    first = fitting if batch_size == "auto" else batch_size
    plan = blocks.plan({"batch_size": first, "block_size": size, "events": []})
    return plan if batch_size == "auto" else plan | {"batch_size": batch_size}


def _answer(
    subject: Subject,
    data: Dataset,
    protocol: Protocol,
    device: torch.device,
    blocks: Blocks,
    header: Mapping[str, Any],
    options: Options,
    surrogate: Subject | None = None,
) -> None:
    """Compute what is missing, block by block, and write the final record."""
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    model = subject.load(device)
    other = None if surrogate is None else surrogate.load(device)
    for network in (model, other):
        if network is not None:
            _probe(network, data, device)
    plan = _plan(data, device, blocks, options.batch_size)
    tables: list[pa.Table] = []
    for number, start in enumerate(range(0, len(data), plan["block_size"])):
        stop = min(start + plan["block_size"], len(data))
        rows = blocks.done(number)
        if rows is None or (options.save_adversarial and blocks.images(number) is None):

            def progress(share: float, start: int = start, stop: int = stop) -> None:
                options.progress(start + share * (stop - start), len(data))

            block = _block(data, start, stop, device)
            outcomes = _attack(model, block, protocol, plan, blocks, progress, other)
            rows = _rows(block, outcomes, protocol.epsilons)
            if options.save_adversarial:
                blocks.keep_images(number, outcomes.perturbed.cpu().numpy())
            blocks.write(number, rows, _examples(block, outcomes, blocks.examples()))
        tables.append(rows)
        options.progress(stop, len(data))
    rows = pa.concat_tables(tables)
    if options.save_adversarial:
        _save_adversarial(options.save_adversarial, blocks, rows, data.shape, len(tables))
    details = _details(device) | {"started": started, "seconds": round(time.monotonic() - clock, 3)}
    blocks.finish(header, details | plan, rows)


def _details(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device_name": name or platform.machine(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": machine.cores(),
    }


def _probe(model: torch.nn.Module, data: Dataset, device: torch.device) -> None:
    """One image through the model, so that a misfit is told before any work."""
    image = torch.from_numpy(data.images(0, 1)).to(device)
    shape = " × ".join(map(str, image.shape[1:]))
    try:
        with torch.no_grad():
            logits = model(image)
    except RuntimeError as error:
        raise DataError(
            f"the model cannot take the {shape} images of {data.name}; see --resize, --crop and "
            f"--channels ({first_line(error)})"
        ) from error
    if logits.ndim != 2 or not _classes_fit(logits.shape[1], data):
        raise DataError(
            f"the model's output for one image of {data.name} has shape {tuple(logits.shape)}, but "
            f"the data set has {len(data.classes)} classes"
        )


def _classes_fit(count: int, data: Dataset) -> bool:
    """Whether a model of so many classes fits; classes guessed from labels may lack the last."""
    guessed = "origin" not in data.source and data.classes == tuple(
        map(str, range(len(data.classes)))
    )
    return count == len(data.classes) or (guessed and count > len(data.classes))


def _block(data: Dataset, start: int, stop: int, device: torch.device) -> Block:
    return Block(
        torch.from_numpy(data.images(start, stop)).to(device),
        torch.from_numpy(data.labels[start:stop]).to(device),
        data.ids[start:stop],
        start,
    )


def _attack(
    model: torch.nn.Module,
    block: Block,
    protocol: Protocol,
    plan: dict[str, Any],
    blocks: Blocks,
    progress: Callable[[float], None],
    surrogate: torch.nn.Module | None = None,
) -> Outcomes:
    """Attack a block; when the GPU's memory does not suffice, with half the batch, and say so."""
    while True:
        try:
            return attack_block(model, block, protocol, plan["batch_size"], progress, surrogate)
        except torch.cuda.OutOfMemoryError as error:
            if plan["batch_size"] == 1:
                raise EvaluationFailed("the GPU has too little memory for one image") from error
        torch.cuda.empty_cache()
        plan["batch_size"] //= 2
        plan["events"].append(
            f"out of GPU memory at image {block.first}: batch size halved to {plan['batch_size']}"
        )
        blocks.replan(plan)


def _rows(block: Block, outcomes: Outcomes, epsilons: Sequence[Epsilon]) -> pa.Table:
    distances = outcomes.distance.cpu()
    fooled_at: list[str | None] = [None] * len(distances)
    for e in reversed(epsilons):
        for i in within(distances, float(e)).nonzero()[:, 0].tolist():
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
            "fooled_by": outcomes.fooled_by,
            "fooled_as": [
                None if d == float("inf") else int(c)
                for d, c in zip(distances.tolist(), outcomes.perturbed_class.tolist(), strict=True)
            ],
        }
    )


def _examples(block: Block, outcomes: Outcomes, known: Sequence[Example]) -> list[Example]:
    """The smallest perturbations so far, each image once."""
    distances = outcomes.distance.cpu()
    order = distances.argsort(stable=True).tolist()
    found = [i for i in order if 0 < distances[i] < float("inf")][:EXAMPLES]
    new = [
        Example(
            block.first + i,
            int(block.labels[i]),
            int(outcomes.perturbed_class[i]),
            float(distances[i]),
            block.images[i].cpu().numpy(),
            outcomes.perturbed[i].cpu().numpy(),
        )
        for i in found
    ]
    fresh = {e.index for e in new}
    every = [*new, *(e for e in known if e.index not in fresh)]
    return sorted(every, key=lambda e: (e.distance, e.index))[:EXAMPLES]


def _save_adversarial(
    path: Path, blocks: Blocks, rows: pa.Table, shape: tuple[int, int, int], count: int
) -> None:
    """The perturbed images as .npz: float32, never 8 bits, which would undo the attack.

    Streamed block by block. Where nothing was found the clean image stands; `distance` is then NaN.
    """

    def pieces() -> Iterator[npt.NDArray[np.float32]]:
        for number in range(count):
            images = blocks.images(number)
            if images is None:
                raise EvaluationFailed(f"{path}: the images of block {number} are gone; run again")
            yield images

    columns = {
        name: rows[name].to_numpy(zero_copy_only=False) for name in ("index", "label", "distance")
    }
    columns["sample"] = np.array(rows["sample"].to_pylist(), dtype=str)
    columns["fooled_at"] = np.array([t or "" for t in rows["fooled_at"].to_pylist()], dtype=str)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as file:
                description = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_2_0(file, description)
                for images in pieces():
                    file.write(np.ascontiguousarray(images, dtype="<f4").tobytes())
            for name, column in columns.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, column, allow_pickle=False)
        partial.replace(path)
    except OSError as error:
        raise EvaluationFailed(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
