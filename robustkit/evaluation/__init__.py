"""Evaluate one model: from its configuration to a record of one row per image.

- images: the images to evaluate a checkpoint on
- model, module: what is evaluated, a checkpoint or a module in memory
- tree, outputs: what a module in memory computes, by its source and on noise
- config: everything that decides on the rows, and the record's header
- run: the record, from its file or computed
- verification, similarity: pairs of pictures, compared by their features
- computing: it is computed, under a lock
- certifying: each image certified, fooled or open, and the file that keeps it
- blocks: the attack, block by block
- probe: a few images through the model before any work, alone and in company
- chance: whether the clean accuracy can be told from guessing
- adversarial: the perturbed images as a file

What leads to a record on file needs no torch.
"""

from typing import TYPE_CHECKING

from robustkit.evaluation.config import Config, protocol_header, record_header, resolve_protocol
from robustkit.evaluation.images import check_classes, check_shape, images_for
from robustkit.evaluation.model import EvaluatedModel, from_checkpoint
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.run import run
from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.evaluation.blocks import block_size
    from robustkit.evaluation.module import from_module

__all__ = [
    "Config",
    "EvaluatedModel",
    "RunOptions",
    "block_size",
    "check_classes",
    "check_shape",
    "from_checkpoint",
    "from_module",
    "images_for",
    "protocol_header",
    "record_header",
    "resolve_protocol",
    "run",
]

_HOMES = {
    "block_size": "blocks",
    "from_module": "module",
}

__getattr__ = lazily(__name__, _HOMES)
"""The names that need torch, when they are first asked for."""
