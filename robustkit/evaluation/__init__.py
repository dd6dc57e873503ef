"""Evaluate one model: from its configuration to a record of one row per image.

- call: `evaluate` and `certify`, the calls from Python
- images: the images to evaluate a checkpoint on
- model: what is evaluated, a checkpoint or a module in memory
- tree, outputs: what a module in memory computes, by its source and on noise
- config: everything that decides on the rows, and the record's header
- run: the record, from its file or computed
- certifying: each image certified, fooled or open, and the file that keeps it
- blocks: the attack, block by block
- probe: a few images through the model before any work, alone and in company
- chance: whether the clean accuracy can be told from guessing
- adversarial: the perturbed images as a file
"""

from robustkit.evaluation.blocks import block_size
from robustkit.evaluation.call import certify, evaluate
from robustkit.evaluation.config import Config, protocol_header, record_header, resolve_protocol
from robustkit.evaluation.images import check_shape, images_for
from robustkit.evaluation.model import EvaluatedModel, from_checkpoint, from_module
from robustkit.evaluation.run import RunOptions, run

__all__ = [
    "Config",
    "EvaluatedModel",
    "RunOptions",
    "block_size",
    "certify",
    "check_shape",
    "evaluate",
    "from_checkpoint",
    "from_module",
    "images_for",
    "protocol_header",
    "record_header",
    "resolve_protocol",
    "run",
]
