"""A module's operations as torch.export writes them down, in float64."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, fx, nn

from robustkit.certification.graph import Unsupported
from robustkit.checkpoint.adapter import OneByOne, replica
from robustkit.errors import one_line

BATCH = 13
"""images of the pass that is written down; not 1, which broadcasts, nor what channels, classes or
sides are likely to be, so that a dimension is not taken for the images"""


def trace(model: nn.Module, image: Tensor) -> torch.export.ExportedProgram:
    """The operations of a frozen module on a batch of `BATCH` images like one, C × H × W.

    Raises:
        Unsupported: a module that cannot be exported.
    """
    if any(isinstance(part, OneByOne) for part in model.modules()):
        raise Unsupported(
            "the network is evaluated one image at a time, for which there are no bounds"
        )
    batch = torch.zeros(BATCH, *image.shape, dtype=torch.float64, device=image.device)
    try:
        with _quietly():
            network = replica(model).to(image.device, torch.float64)
            program = torch.export.export(network, (batch,), strict=False)
            if any(_mutates(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # what is overwritten gets a new name
    except Exception as error:  # a user's module may refuse in any way
        raise Unsupported(f"cannot be traced ({one_line(error)})") from error
    return program


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's own account of what it cannot follow, which is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nor an error of torch's own where these are errors
            yield
    finally:
        logging.disable(before)
