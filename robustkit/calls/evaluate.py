"""`robustkit.evaluate`: one row per image."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from robustkit import evaluation, reporting
from robustkit.calls import tracking
from robustkit.calls.given import (
    AttackSettings,
    Data,
    ImageKeywords,
    Network,
    evaluated,
    image_options,
    name_of,
    network,
    path_of,
    scratch_folder,
    setting_texts,
)
from robustkit.calls.spoken import spoken
from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset
from robustkit.defaults import torch_defaults
from robustkit.display.progress import Watch, watched
from robustkit.evaluation import RunOptions
from robustkit.evaluation.config import Prove, renewed, resolve_protocol
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import Precision
from robustkit.files import write_atomic
from robustkit.protocol import Epsilons, Given, Norm, Target
from robustkit.record import Evaluation, Store

Images = npt.NDArray[np.float32]


@overload
def evaluate(
    model: Network,
    data: Data | None = None,
    attack: Given = "pgd",
    *,
    epsilon: Epsilons = (),
    norm: Norm | None = None,
    target: Target = "none",
    settings: AttackSettings = (),
    seed: int | None = None,
    split: str | None = None,
    limit: int | None = None,
    surrogate: Network | None = None,
    prove: Prove = "auto",
    name: str | None = None,
    image_by_image: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    ray: str | None = None,
    out: Path | str = "runs",
    fresh: bool = False,
    save_adversarial: Path | str | None = None,
    return_adversarial: Literal[False] = False,
    html: Path | str | None = None,
    track: str | None = None,
    progress: Watch = None,
    **images: Unpack[ImageKeywords],
) -> Evaluation: ...
@overload
def evaluate(
    model: Network,
    data: Data | None = None,
    attack: Given = "pgd",
    *,
    return_adversarial: Literal[True],
    **asked: Any,
) -> tuple[Evaluation, Images]: ...
@torch_defaults()  # type: ignore[misc]  # the second overload leaves its keywords open
def evaluate(
    model: Network,
    data: Data | None = None,
    attack: Given = "pgd",
    *,
    epsilon: Epsilons = (),
    norm: Norm | None = None,
    target: Target = "none",
    settings: AttackSettings = (),
    seed: int | None = None,
    split: str | None = None,
    limit: int | None = None,
    surrogate: Network | None = None,
    prove: Prove = "auto",
    name: str | None = None,
    image_by_image: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    ray: str | None = None,
    out: Path | str = "runs",
    fresh: bool = False,
    save_adversarial: Path | str | None = None,
    return_adversarial: bool = False,
    html: Path | str | None = None,
    track: str | None = None,
    progress: Watch = None,
    **images: Unpack[ImageKeywords],
) -> Evaluation | tuple[Evaluation, Images]:
    """Attack a network; keep one row per image; accuracy with intervals at every budget.

        found = robustkit.evaluate(model, "mnist5k", "pgd", epsilon=["0.1", "0.2"])
        found.robust()      # accuracy and interval at each budget
        found.plot()        # and .rows, .to_frame(), .to_markdown(), .to_latex()

    Args:
        model: a module taking float32 N × C × H × W in [0, 1] and returning logits N × K, or a
            checkpoint, or the path of one. A module is copied, never moved or changed.
        data: a data set, its name or path; images N × C × H × W in [0, 1] with labels N; a data
            loader that does not shuffle, a data set of torch, or a list of (image, label), all of
            which are read into memory. Otherwise the one that the checkpoint was trained on.
        attack: a protocol's name, the path of its file, a `Protocol`, or attacks of
            `robustkit.attacks`: `PGD(steps=40)`, or a list of them.
        epsilon: budgets, such as "8/255" or [2 / 255, 8 / 255]; otherwise the protocol's own,
            otherwise the data set's usual.
        norm: of the budgets; otherwise the attack's default.
        target: attack towards the next, a random or the least likely class, not any wrong one.
        settings: changes to the protocol's attacks: {"steps": 10}, or ["steps=10"].
        seed: of every random draw; otherwise the protocol's.
        split: of the data set; "test" where nothing is given.
        limit: only the first so many images. Where those of a class stand together, they are
            shuffled before, always alike: `from_arrays` with this limit has them as the rows do.
        surrogate: the network on which the attack is crafted; then it is a transfer attack.
        prove: "auto" attacks no image at budgets that it provably withstands, where bounds are
            cheap beside the attack; "off" attacks all, which FAB's median distance may need.
        name: keeps the record of a module in memory under this name; without it nothing is kept.
        image_by_image: pass images one at a time, for a network whose outputs depend on the batch,
            which is refused without.
        batch_size: images at once.
        device: "cpu", "cuda:1"; "auto" takes a GPU; "cuda:0,cuda:1" or "all" GPUs share the
            images, with a process each; rows differ by rounding and a network's own draws.
        ray: a Ray cluster that shares the images out, "auto" or "HOST:6379".
        precision: that attacks search in; verdicts are float32's.
        out: folder of the records.
        fresh: evaluate anew, even where the record is on file.
        save_adversarial: file (.npz) for the perturbed images.
        return_adversarial: return `(found, adversarial)`: also the perturbed images, float32
            N × C × H × W in [0, 1], in the order of the rows. Each is the smallest perturbation
            that was found and verified. An image for which none was found, and one that is wrong
            without any, stands as it is; `found.rows.distance` is null there, or 0. They are made
            anew each time: records hold no images.
        html: file for a page on the result.
        track: where the result is tracked: mlflow, wandb or tensorboard, with `:WHERE`.
        progress: a function that is told how many images are done, and of how many; True for a
            bar or, off a terminal, a line a minute; False for nothing. Otherwise a bar where one
            is seen, on a terminal or in a notebook.
        images: how the images of a named data set are made: data_root, resize, interpolation,
            crop, channels, classes, as `load_dataset` and the command line have them.

    Raises:
        InputError: something given is unusable; one line says what.
        EvaluationFailed: the evaluation broke; finished blocks are kept.
    """
    command, tracker = spoken("evaluate", evaluate, locals()), tracking.asked(track)
    loaded = network(model)
    asked = image_options(evaluate, data, split, limit, images)
    dataset = asked.load(loaded)
    protocol = resolve_protocol(
        attack,
        dataset,
        epsilon,
        norm=norm,
        target=target,
        seed=seed,
        settings=setting_texts(settings),
    )
    other = None
    if surrogate is not None:
        other = asked.other_model(dataset, surrogate, image_by_image=image_by_image)
    given = RunOptions(batch_size, device, precision, fresh, path_of(save_adversarial), ray=ray)
    with watched(given, progress, name_of(loaded, name)) as options, scratch_folder() as scratch:
        # of a module without a name nothing is kept
        kept = isinstance(loaded, Checkpoint) or name is not None
        folder = Path(out) if kept else scratch
        if return_adversarial and options.save_adversarial is None:
            options = replace(options, save_adversarial=scratch / "adversarial.npz")
        own = evaluated(loaded, dataset, name, image_by_image=image_by_image)
        found = evaluation.run(own, dataset, protocol, folder, options, other, prove)
        found = _of(dataset, own, other, found)
        if html is not None:
            write_atomic(Path(html), reporting.page([found]).encode())
        tracking.track_evaluation(tracker, name_of(loaded, name), found, command)
        found = found if kept else replace(found, path=None)
        return (found, _adversarial(options)) if return_adversarial else found


def _of(
    data: Dataset, model: EvaluatedModel, surrogate: EvaluatedModel | None, found: Evaluation
) -> Evaluation:
    """A record as one of these images and these networks, and on file, too, if it is theirs."""
    now = partial(renewed, data=data, model=model, surrogate=surrogate)
    header = now(found.header)
    own = _called(header) == _called(found.header)
    if own and header != found.header and found.path is not None:
        Store(found.path.parent).renew(found.digest, now)
    return replace(found, header=header)


def _called(header: Mapping[str, Any]) -> tuple[Any, ...]:
    """Names in a header; where others stand, the record on file remains that of those."""
    data, networks = header["data"], (header["checkpoint"], header.get("surrogate", {}))
    return data["name"], data["split"], *(one.get("path") for one in networks)


def _adversarial(options: RunOptions) -> Images:
    """The perturbed images of a file that was just written."""
    assert options.save_adversarial is not None
    with np.load(options.save_adversarial) as saved:
        images: Images = saved["images"]
        return images
