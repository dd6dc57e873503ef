"""One image through a model, so that a misfit is told before any work."""

import torch

from robustkit.data import Dataset
from robustkit.errors import DataError, EvaluationFailed, NetworkFailed, one_line


def probe(model: torch.nn.Module, data: Dataset, device: torch.device) -> None:
    """Nothing, if the model takes an image and returns a logit for each class.

    Raises:
        DataError: it does not.
    """
    image = torch.from_numpy(data.images(0, 1)).to(device)
    shape = " × ".join(map(str, image.shape[1:]))
    try:
        with torch.no_grad():
            logits = model(image)
    except NetworkFailed as error:
        raise DataError(
            f"the model cannot take the {shape} images of {data.name}; see --resize, --crop and "
            f"--channels ({one_line(error.__cause__ or error)})"
        ) from error
    except torch.OutOfMemoryError as error:
        raise EvaluationFailed(f"too little memory for one image of {data.name}") from error
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
