"""Folders whose JSON names an architecture of a library: read as data, built by its own code."""

from robustkit.checkpoint.libraries import robustbench, timm, torchvision
from robustkit.checkpoint.libraries.declared import Declared
from robustkit.checkpoint.libraries.reading import build, read_declared, reading_of

__all__ = [
    "Declared",
    "build",
    "read_declared",
    "reading_of",
    "robustbench",
    "timm",
    "torchvision",
]
