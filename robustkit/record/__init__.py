"""The record of an evaluation: one row per test image, in one Parquet file. Needs no torch."""

from robustkit.record.blocks import Blocks, FinishedBlock
from robustkit.record.evaluation import (
    ADDED,
    CLEAN,
    SCHEMA,
    VERSION,
    Evaluation,
    Example,
    Point,
    rows_digest,
    table,
)
from robustkit.record.examples import decode_examples, encode_examples
from robustkit.record.file import encode, examples, read, read_header, read_table
from robustkit.record.folder import Store, check_folder, frame
from robustkit.record.passes import MeanPasses, mean_passes, passes_of

__all__ = [
    "ADDED",
    "CLEAN",
    "SCHEMA",
    "VERSION",
    "Blocks",
    "Evaluation",
    "Example",
    "FinishedBlock",
    "MeanPasses",
    "Point",
    "Store",
    "check_folder",
    "decode_examples",
    "encode",
    "encode_examples",
    "examples",
    "frame",
    "mean_passes",
    "passes_of",
    "read",
    "read_header",
    "read_table",
    "rows_digest",
    "table",
]
