"""What a reader of the documentation has: networks, images, and folders beside them."""

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import resnet18

from helpers.ranked import METHODS, made
from robustkit.files import shipped

NAMES = """
import torch
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
import matplotlib
matplotlib.use("Agg")
model = read_checkpoint("lenet5-mnist5k").load()
_data = load_dataset("mnist5k", limit=4)
images = torch.from_numpy(_data.images(0, 4))
labels = torch.from_numpy(_data.labels)
"""
"""what code of a page may speak of"""

SMALL = """import torch


def build():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    )
"""


def files(folder: Path) -> None:
    """Put them into a folder."""
    (folder / "net.py").write_text(SMALL)
    space: dict[str, object] = {}
    exec(SMALL, space)
    torch.manual_seed(0)
    for name in ("net.pt", "a.pt"):
        torch.save(space["build"]().state_dict(), folder / name)  # type: ignore[operator]
    state = space["build"]().state_dict()  # type: ignore[operator]
    torch.save({"state_dict": state, "epoch": 1}, folder / "b.ckpt")
    save_file(state, folder / "c.safetensors")
    torch.save(resnet18(num_classes=10).state_dict(), folder / "resnet.pt")
    (folder / "gate.toml").write_text(
        'title = "gate"\n\n[[require]]\nrobust = "linf:0.1"\nat_least = 0.45\n'
    )
    _photos(folder)
    _corrupted(folder / "CIFAR-10-C")
    _ranked(folder)
    reports = shipped("reports")
    for one in ("gradient-compression", "elsayed2018-mnist", "elsayed2018-mnist-losses"):
        shutil.copytree(reports / one, folder / "reports" / one)


def _photos(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(10):
        place = folder / "photos" / f"class{number}"
        place.mkdir(parents=True)
        for image in range(2):
            pixels = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{image}.png")
    shutil.copytree(folder / "photos", folder / "path" / "to" / "images")


def _corrupted(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    np.save(folder / "fog.npy", draw.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(10, dtype=np.uint8), 5))


def _ranked(folder: Path) -> None:
    for method in METHODS:
        for data in ("cifar10", "mnist", "svhn"):
            made(method, data, folder=folder)
