"""`robustkit.certify`: each image certified, fooled, or open."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Literal, Unpack

from robustkit.calls import tracking
from robustkit.calls.given import (
    Data,
    ImageKeywords,
    Network,
    evaluated,
    image_options,
    name_of,
    network,
    scratch_folder,
)
from robustkit.calls.spoken import spoken
from robustkit.certification import TIME_LIMIT
from robustkit.checkpoint import Checkpoint
from robustkit.defaults import torch_defaults
from robustkit.display.progress import Watch, watched
from robustkit.errors import InputError
from robustkit.evaluation import RunOptions, resolve_protocol
from robustkit.evaluation.certifying import certify_images, save_counterexamples
from robustkit.evaluation.config import renewed
from robustkit.protocol import Given, Norm, Number
from robustkit.record.certification import Certification


@torch_defaults()
def certify(
    model: Network,
    data: Data | None = None,
    epsilon: Number | None = None,
    *,
    norm: Norm | None = None,
    time_limit: float = TIME_LIMIT,
    attack: Given = "pgd",
    seed: int | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    out: Path | str = "runs",
    fresh: bool = False,
    save_adversarial: Path | str | None = None,
    track: str | None = None,
    command: str | None = None,
    progress: Watch = None,
    **images: Unpack[ImageKeywords],
) -> Certification:
    """Prove images robust within ε, or fool them: bounds, an attack, then branch and bound.

        found = robustkit.certify(model, "mnist5k", "0.02", limit=100)
        found.share("certified"), found.share("fooled"), found.share("open")

    Args:
        model: as for `evaluate`; of a module in memory nothing is kept.
        data: likewise.
        epsilon: the budget ("8/255").
        norm: of the budget; otherwise the attack's default.
        time_limit: seconds that branch and bound may take for an image; 0 leaves it out.
        attack: tried before branch and bound, as for `evaluate`.
        seed: of the attack's draws; otherwise its protocol's.
        split: as for `evaluate`, and so are limit, batch_size, device, progress and images.
        limit: only the first so many images.
        batch_size: images at once.
        device: "cpu", "cuda:1"; "auto" takes a GPU.
        out: folder of the records.
        fresh: decide anew, even what is on file.
        save_adversarial: file (.npz) for the counterexamples.
        track: where the result is tracked: mlflow, wandb or tensorboard, with `:WHERE`.
        command: what the tracker is told it was made by; otherwise this call.
        progress: who is told how far it is.
        images: how the images of a named data set are made.

    Raises:
        InputError: something given is unusable, or the network has no bounds; one line says what.
        EvaluationFailed: the network broke; what is decided is kept.
    """
    command = command or spoken("certify", certify, locals())
    tracker = tracking.asked(track)
    if epsilon is None:
        raise InputError("certify takes one budget: give epsilon, such as '8/255'")
    if not isinstance(time_limit, int | float) or not 0 <= time_limit < inf:
        raise InputError(f"--time-limit {time_limit!r}: expected a number of seconds, 0 or more")
    loaded = network(model)
    dataset = image_options(certify, data, split, limit, images).load(loaded)
    protocol = resolve_protocol(attack, dataset, epsilon, norm=norm, seed=seed)
    given = RunOptions(batch_size, device, "float32", fresh)
    with watched(given, progress, name_of(loaded)) as options, scratch_folder() as scratch:
        own = evaluated(loaded, dataset)
        kept = isinstance(loaded, Checkpoint)
        folder = Path(out) if kept else scratch
        found = certify_images(own, dataset, protocol, folder, time_limit, options)
        found = replace(found, header=renewed(found.header, dataset, own))
        if save_adversarial is not None:
            save_counterexamples(Path(save_adversarial), found)
        tracking.track_certification(tracker, name_of(loaded), found, command)
        return found if kept else replace(found, path=None)
