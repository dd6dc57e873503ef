"""An ONNX graph as a network: images in, arranged as the file takes them, and logits out."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from robustkit.checkpoint.adapter import Flipped
from robustkit.checkpoint.onnxfile.conversion import GraphPlan, constants_of
from robustkit.checkpoint.onnxfile.sizes import Shape
from robustkit.errors import InputError


class BlueFirst(Flipped):
    """A network that takes blue, green, red, and then what images have beside, such as opacity."""

    def forward(self, x: Tensor) -> object:
        """As the network: N × C × H × W to what it returns."""
        return self.network(torch.cat([x[:, :3].flip(1), x[:, 3:]], 1))


class GraphNetwork(torch.nn.Module):
    """The steps of a plan.

    Its input is N × C × H × W; its output what the file returns, by name where that is several.
    """

    def __init__(
        self, plan: GraphPlan, dims: tuple[int | None, ...], *, channels_last: bool
    ) -> None:
        super().__init__()
        self.steps = plan.steps
        self.ends = dict(plan.ends)
        self.pieces = plan.mode.pieces
        self.whole: Shape | None = plan.dims if plan.mode.shifted and self.pieces else None
        self.dims = dims
        self.channels_last = channels_last
        self.modules_by_name = torch.nn.ModuleDict(dict(plan.modules))
        self.places: dict[int, str] = {}
        for slot, value in constants_of(plan):
            self.places[slot] = f"constant{slot}"
            self.register_buffer(self.places[slot], value)
        last: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            last |= dict.fromkeys((*step.inputs, *step.outputs), at)
        kept = {*self.ends.values(), *self.places}
        self.done = [
            tuple(slot for slot, end in last.items() if end == at and slot not in kept)
            for at in range(len(self.steps))
        ]

    def forward(self, x: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Images, N × C × H × W, to what the file returns of them."""
        x = arranged(x, self.dims, channels_last=self.channels_last)
        if self.pieces is None:
            return self._returned(self._run(x, len(x)), len(x))
        parts = []
        for piece in torch.split(x, self.pieces):
            missing = self.pieces - len(piece)
            full = torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])])
            full = full if self.whole is None else full.reshape(self.whole)
            found = self._returned(self._run(full, self.pieces), self.pieces)
            parts.append({key: value[: len(piece)] for key, value in _named(found).items()})
        whole = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return whole if len(whole) > 1 else next(iter(whole.values()))

    def _run(self, x: Tensor, n: int) -> dict[int, Tensor]:
        values = {slot: getattr(self, name) for slot, name in self.places.items()}
        values[0] = x
        for step, done in zip(self.steps, self.done, strict=True):
            call = self.modules_by_name[step.call] if isinstance(step.call, str) else step.call
            sizes = {name: size.at(n) for name, size in step.sizes.items()}
            found = call(*[values[slot] for slot in step.inputs], **sizes)
            results = found if isinstance(found, tuple | list) else (found,)
            values.update(zip(step.outputs, results, strict=False))
            for slot in done:
                values.pop(slot, None)
        return values

    def _returned(self, values: Mapping[int, Tensor], n: int) -> Tensor | dict[str, Tensor]:
        found = {name: _row_an_image(values[slot], n) for name, slot in self.ends.items()}
        return found if len(found) > 1 else next(iter(found.values()))


def _named(found: Tensor | Mapping[str, Tensor]) -> Mapping[str, Any]:
    return {"": found} if isinstance(found, Tensor) else found


def _row_an_image(x: Tensor, n: int) -> Tensor:
    """Logits with the dimensions of 1 behind or before them taken off."""
    if (
        x.dim() != 2
        and x.numel()
        and x.numel() // n == max(x.shape[1:] if len(x) == n else x.shape)
    ):
        return x.reshape(n, -1)
    return x


def arranged(x: Tensor, dims: tuple[int | None, ...], *, channels_last: bool) -> Tensor:
    """Images as a file's input has them, with the dimension of images in front.

    Args:
        x: N × C × H × W.
        dims: the input's, for one image; None: any.
        channels_last: where both would fit, and of what is flat.

    Raises:
        InputError: the images do not fit.
    """
    N, C, H, W = x.shape
    if len(dims) == 3:
        first, last = fits(dims, (C, H, W)), fits(dims, (H, W, C))
        if first and not (last and channels_last):
            return x
        if last:
            return x.permute(0, 2, 3, 1)
    if all(size is not None for size in dims):
        sizes = [size for size in dims if size is not None]
        if prod(sizes) == C * H * W:
            flat = x.permute(0, 2, 3, 1) if channels_last else x
            return flat.reshape(N, *sizes)
    text = "×".join(str(size or "?") for size in dims)
    raise InputError(f"the network takes images of {text}, but these are {C}×{H}×{W}")


def fits(dims: tuple[int | None, ...], shape: Shape) -> bool:
    """Whether a shape is one that an input takes."""
    return len(dims) == len(shape) and all(d in (None, s) for d, s in zip(dims, shape, strict=True))
