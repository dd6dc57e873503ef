"""Examples: the images and labels of a run, on the device, and the batches that they make."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robustkit.data import Dataset
from robustkit.data.draws import Positions
from robustkit.data.subset import Part
from robustkit.errors import DataError
from robustkit.files import digest
from robustkit.training.recipe import Augment

BLOCK = 4096
"""images read at a time"""
SHIFT = 4
"""pixels that a crop may move an image"""


class Batch(NamedTuple):
    """One batch: images N×C×H×W in [0, 1], the labels that training sees, and the true ones."""

    images: Tensor
    given: Tensor
    clean: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images as bytes where that loses nothing, else float32, with both kinds of labels."""

    images: Tensor
    given: Tensor
    clean: Tensor
    name: str
    """digest of the image ids: which examples these are"""

    def __len__(self) -> int:
        return len(self.given)

    def key(self, purpose: str, seed: int, *place: int) -> int:
        """What seeds the draws for one purpose at one place of a training on these examples."""
        return int(digest(purpose, self.name, str(seed), *map(str, place))[:15], 16)

    def batches(self, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
        """Rows of an epoch's batches, in an order that is drawn."""
        generator = torch.Generator().manual_seed(self.key("order", seed, epoch))
        return order(len(self), batch_size, generator)

    def take(self, rows: Tensor) -> Batch:
        """The batch of these rows."""
        images = self.images[rows]
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(255)
        return Batch(images, self.given[rows], self.clean[rows])


def gather(data: Dataset, part: Part, device: torch.device) -> Examples:
    """Read a part's images, and put them on the device.

    Raises:
        DataError: unreadable, or too many for the memory.
    """
    try:
        pieces = _pieces(data, part.positions)
        # all or nothing: one float block makes the whole set float
        if not all(piece.dtype == torch.uint8 for piece in pieces):
            pieces = [
                piece.float().div_(255) if piece.dtype == torch.uint8 else piece for piece in pieces
            ]
        images = torch.cat(pieces).to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DataError(
            f"{data.name}: {len(part)} images of {'x'.join(map(str, data.shape))} do not "
            "fit into memory; train on fewer with --data-fraction, or reduce them with "
            "--resize"
        ) from error
    return Examples(
        images,
        torch.tensor(part.noisy_labels.labels, device=device),
        torch.tensor(part.noisy_labels.clean, device=device),
        part.ids,
    )


def _pieces(data: Dataset, positions: Positions) -> list[Tensor]:
    """The wanted images block by block; positions ascend."""
    pieces = []
    for start in range(0, len(data), BLOCK):
        low, high = np.searchsorted(positions, (start, start + BLOCK))
        if low < high:
            block = data.images(start, min(start + BLOCK, len(data)))
            pieces.append(_compact(torch.from_numpy(block[positions[low:high] - start])))
    return pieces


def _compact(images: Tensor) -> Tensor:
    """As bytes, if the very same numbers come back."""
    # a quarter of the memory; dividing gives the same float32, which is checked, not assumed
    rounded = images.mul(255).round_().to(torch.uint8)
    same = torch.equal(rounded.to(torch.float32).div_(255), images)
    return rounded if same else images


def order(count: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Rows of an epoch's batches: each row once, in batches that differ in size by one at most."""
    batches = max(1, -(-count // batch_size))
    # even batches: a last one of few images would weigh each of them many times as much
    return torch.randperm(count, generator=generator).tensor_split(batches)


def augmented(images: Tensor, kinds: tuple[Augment, ...], generator: torch.Generator) -> Tensor:
    """The images mirrored and shifted, each by its own draw from a generator on the CPU."""
    n, _, height, width = images.shape
    if "flip" in kinds:
        mirror = (torch.rand(n, generator=generator) < 0.5).to(images.device)
        images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    if "crop" in kinds:
        shift = torch.randint(0, 2 * SHIFT + 1, (2, n), generator=generator).to(images.device)
        padded = torch.nn.functional.pad(images, (SHIFT,) * 4)
        rows = shift[0][:, None] + torch.arange(height, device=images.device)
        columns = shift[1][:, None] + torch.arange(width, device=images.device)
        which = torch.arange(n, device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
        images = images.permute(0, 3, 1, 2).contiguous()
    return images
