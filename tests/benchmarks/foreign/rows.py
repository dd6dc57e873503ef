"""What a row is made of: a function that writes a file or folder and gives its library's own logits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hugging_face import CLASSES, stir

RESIZE, CROP = 36, 32
"""of the pictures of networks that no library's folder says it for"""
PIXELS = f"--resize {RESIZE} --crop {CROP}"


class Made(NamedTuple):
    """A file or folder, and what its own library answers to the pictures."""

    path: Path
    logits: torch.Tensor | None = None
    """None: no network that could be evaluated, so the file must be refused"""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    make: Callable[[Path, list[Path]], Made]
    """from an empty folder and the pictures to what was made"""
    flags: str = ""
    expected: str = "evaluated"
    """or refused"""


@dataclass
class Family:
    """Rows that a module collects, each from a function of a few lines."""

    rows: list[Row] = field(default_factory=list)

    def row(self, name: str, flags: str = "", expected: str = "evaluated") -> Callable[..., Any]:
        """Take a function as a row."""

        def take(make: Callable[[Path, list[Path]], Made]) -> Callable[[Path, list[Path]], Made]:
            self.rows.append(Row(name, make, flags, expected))
            return make

        return take


def network(name: str = "test_resnet") -> torch.nn.Module:
    """A small network of timm's whose logits hang on the picture."""
    import timm

    torch.manual_seed(0)
    return stirred(timm.create_model(name, pretrained=False, num_classes=CLASSES))


def stirred(made: torch.nn.Module) -> torch.nn.Module:
    """The network with numbers as after a training."""
    stir(made, (3, CROP, CROP))
    return made.eval()


def torchvision_pixels(pictures: list[Path]) -> torch.Tensor:
    """The pictures as torchvision's ImageFolder and transforms make them."""
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    steps = [transforms.Resize(RESIZE), transforms.CenterCrop(CROP), transforms.ToTensor()]
    make = transforms.Compose(steps)
    return torch.stack([make(default_loader(str(path))) for path in pictures])


def answered(model: torch.nn.Module, pictures: list[Path]) -> torch.Tensor:
    """The logits of a network for the pictures."""
    with torch.no_grad():
        return model(torchvision_pixels(pictures))
