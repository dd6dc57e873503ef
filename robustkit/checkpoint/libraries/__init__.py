"""Folders whose JSON names an architecture of a library: read as data, built by its own code."""

from robustkit.checkpoint.libraries import robustbench, timm, torchvision
from robustkit.checkpoint.libraries.declared import Declared
from robustkit.checkpoint.libraries.reading import (
    build,
    check_buildable,
    read_declared,
    read_prepared,
    reading_of,
    rows_of_head,
)

__all__ = [
    "Declared",
    "build",
    "check_buildable",
    "read_declared",
    "read_prepared",
    "reading_of",
    "robustbench",
    "rows_of_head",
    "timm",
    "torchvision",
]
