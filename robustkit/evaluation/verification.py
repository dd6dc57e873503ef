"""Face verification: a network that returns features, as a classifier of pairs.

A pair is of one person where the cosine similarity of its pictures' features is above a threshold.
Each fold has the one that is best on all others, of the pictures as they are (Huang et al. 2007).
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from robustkit.data import Dataset
from robustkit.evaluation.model import EvaluatedModel, Load

if TYPE_CHECKING:
    import torch

RULE = {"verification": "cosine similarity, threshold of each fold from all others"}
"""in a key and a record's header"""


def verifying(model: EvaluatedModel, data: Dataset) -> EvaluatedModel:
    """The model itself, or where the data are pairs, its features compared."""
    if not data.fixed_channels:
        return model
    channels = data.fixed_channels - 1
    outputs = model.outputs
    return replace(
        model,
        identity={**model.identity, **RULE},
        header={**model.header, **RULE},
        load=partial(_compared, model.load, data),
        shape=None,
        outputs=outputs and (lambda shape, device: outputs((channels, *shape[1:]), device)),
    )


def _compared(load: Load, data: Dataset, device: "torch.device") -> "torch.nn.Module":
    from robustkit.evaluation.similarity import verification  # torch

    return verification(load(device), data, device)
