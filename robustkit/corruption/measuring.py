"""Which images a model still gets right, under every corruption at every severity."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustkit.attacks.lasting import held_throughout
from robustkit.corruption.kinds import check, corrupt
from robustkit.corruption.tables import NAMES, SEVERITIES
from robustkit.errors import DataError, EvaluationFailed, InputError
from robustkit.network import answer

Images = Callable[[int, int], Any]
"""images start … stop − 1 as float32 N × C × H × W in [0, 1], an array or a tensor"""


def measure(
    model: torch.nn.Module,
    images_of: Images,
    labels: npt.ArrayLike,
    ids: Sequence[str],
    batch_size: int,
    *,
    names: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.bool_]:
    """Whether each image is right under each corruption, [names, severities, N].

    Args:
        model: frozen, in eval mode, on `device`, from pixels in [0, 1] to logits N × K.
        images_of: reads images; every image is read once.
        labels: N integers.
        ids: N names, on which the draws depend.
        batch_size: images a pass; it changes no draw.
        names: corruptions.
        severities: of each.
        seed: of every draw.
        device: where images are corrupted and judged.
        progress: told how many images under a corruption are done, and how many there are.

    Raises:
        UnknownName: no such corruption.
        InputError: no such severity or batch size, images that are too small, or a model whose
            logits depend on the batch, or change while it is measured.
        DataError: labels and ids do not go together.
        EvaluationFailed: the model broke, or its logits are NaN or infinite.
    """
    truth = np.asarray(labels)
    if len(truth) != len(ids):
        raise DataError(f"{len(truth)} labels, but {len(ids)} ids")
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, got {batch_size}")
    cells = [(i, j) for i in range(len(names)) for j in range(len(severities))]
    for i, j in cells:
        check(names[i], severities[j])
    right = np.zeros((len(names), len(severities), len(truth)), bool)
    done = 0
    with ExitStack() as stack:
        for start in range(0, len(truth), batch_size):
            part = slice(start, min(start + batch_size, len(truth)))
            clean = torch.as_tensor(images_of(part.start, part.stop)).to(device)
            if start == 0:
                model = stack.enter_context(held_throughout(model, clean, batch=batch_size))
            for i, j in cells:
                images = corrupt(clean, names[i], severities[j], ids[part], seed)
                predicted = predict(model, images, f"{names[i]} at severity {severities[j]}", start)
                right[i, j, part] = predicted == truth[part]
                done += len(images)
                progress(done, right.size)
    return right


@torch.no_grad()
def predict(model: torch.nn.Module, images: Tensor, where: str, start: int) -> Any:
    """Classes, N, on the CPU; `where` and `start` name the images in an error."""
    logits: Tensor = answer(model, images)
    finite = torch.isfinite(logits).all(1)
    if not bool(finite.all()):
        bad = start + int((~finite).nonzero()[0])
        raise EvaluationFailed(f"logits are NaN or infinite at image {bad} under {where}")
    return logits.argmax(1).cpu().numpy()
