"""From a graph to a frozen network, compared with onnxruntime before it is handed out."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.onnxfile.agreement import COARSE, TOLERANCE, Agreement, Original, compare
from robustkit.checkpoint.onnxfile.conversion import GraphPlan, plan
from robustkit.checkpoint.onnxfile.graph import BYTES, Graph
from robustkit.checkpoint.onnxfile.layout import Layout
from robustkit.checkpoint.onnxfile.network import GraphNetwork, arranged
from robustkit.checkpoint.onnxfile.sizes import Shape
from robustkit.errors import CheckpointError
from robustkit.network import apart, spread

IMAGES = 5
"""of noise, on which a graph is compared"""
SIZES = (1, 2, IMAGES)
"""of batches that are compared"""
OLDEST = 7
"""opset that onnxruntime promises to run; some files of older ones run, too"""
COMPANY = 1e-4
"""of the logits' spread: how far onnxruntime's may lie apart beside other images, as in
`attacks.contract`"""
ROUNDING = 1e-5
"""of the largest logit: two ways to compute one number in float32 differ by as much"""
COARSE_KINDS = ("QuantizeLinear", "Round")
"""operations that a rounding error may push by a step"""


class OnnxNetwork(torch.nn.Module):
    """A graph as a network; its steps are found when the size of images is known.

    Raises:
        CheckpointError: an operation that is not supported, or logits that are not onnxruntime's.
    """

    def __init__(self, graph: Graph, layout: Layout, original: Original) -> None:
        super().__init__()
        self.graph = graph
        self.layout = layout
        self.original = original
        self.steps: GraphNetwork | None = None
        self.depends = False
        """whether the file's logits of an image depend on the rest of its batch"""
        if all(size is not None for size in layout.dims):
            sizes = [size for size in layout.dims if size is not None]
            self._plan(tuple(sizes), (1, 1, prod(sizes)) if layout.shape is None else layout.shape)
        self.training = False

    def forward(self, x: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Images, N × C × H × W, to what the file returns of them."""
        if self.steps is None:
            dims = arranged(x[:1], self.layout.dims, channels_last=self.layout.channels_last)
            self._plan(tuple(dims.shape[1:]), tuple(x.shape[1:]), x.device)
        assert self.steps is not None
        if self.depends and len(x) > 1:  # told by whoever asks, with what can be done
            raise RuntimeError("its logits of an image depend on the rest of its batch")
        found: Tensor | Mapping[str, Tensor] = self.steps(x)
        return found

    def agreement(self, x: Tensor) -> Agreement:
        """How its logits of images compare with onnxruntime's.

        Raises:
            CheckpointError: they differ by more than rounding.
        """
        # onnxruntime is given whole bytes; that other images are not rounded is a note
        x = x.round() if self.graph.input.kind == BYTES else x
        with torch.no_grad():
            mine = self._rows(self, x, 1 if self.depends else len(x))
        return compare(mine, self._theirs(x), len(x), self._tolerance(), str(self.original.path))

    def told(self, x: Tensor) -> tuple[str, ...]:
        """What a user should know of how it is run, and how it compares on images.

        Raises:
            CheckpointError: as `agreement`.
        """
        found = self.agreement(x)
        rounding = found.apart <= ROUNDING and found.same == found.images
        return (() if rounding else (found.text,)) + self._run_in()

    def _run_in(self) -> tuple[str, ...]:
        if self.steps is None or self.steps.pieces is None or self.depends:
            return ()
        size = self.steps.pieces
        if self.layout.batch is None and not self.layout.shifted:
            return (f"the graph runs in batches of {size}, which is slower",)
        return (
            f"the graph has a fixed batch size of {size} and runs in batches of {size}, which "
            "is slower",
        )

    def _plan(self, dims: Shape, image: Shape, device: torch.device | None = None) -> None:
        """Find the steps, and compare them with onnxruntime on noise, at several batch sizes."""
        layout, where = self.layout, str(self.original.path)
        made: GraphPlan = plan(self.graph, layout.batch, dims, layout.shifted, where)
        self.steps = GraphNetwork(made, layout.dims, channels_last=layout.channels_last)
        self.steps.eval().requires_grad_(False)
        x = self._noise(image)
        try:
            theirs = self._theirs(x)
        except CheckpointError as error:
            if self.graph.opset >= OLDEST:
                raise
            raise CheckpointError(
                f"{where}: opset {self.graph.opset} is older than onnxruntime supports ({OLDEST}); "
                "export with a higher opset"
            ) from error
        free = layout.batch is None and not layout.shifted
        self.depends = free and self.steps.pieces is not None and self._depends(x, theirs)
        for size in SIZES:
            with torch.no_grad():
                mine = self._rows(self.steps, x, size)
            try:
                compare(mine, theirs, len(x), self._tolerance(), where)
            except CheckpointError:
                if size == 1 or not free or not self._depends(x, theirs):
                    raise
                self.depends = True
            if self.depends:
                break
        self.steps.to(device or "cpu")

    def _depends(self, x: Tensor, alone: Mapping[str, Tensor]) -> bool:
        """Whether onnxruntime's logits of an image are others in a batch, where it takes one."""
        given = arranged(x, self.layout.dims, channels_last=self.layout.channels_last)
        first = given[:1].expand_as(given)
        try:
            crowd, copies = (self.original.logits(one, len(x)) for one in (given, first))
        except CheckpointError:  # it takes one image at a time
            return False
        except RuntimeError:  # what it returns does not have a row an image
            return True
        scales = {name: spread(one) for name, one in alone.items()}
        beside = [apart(copies[k][:1], crowd[k][:1], scales[k]) for k in scales]
        whole = [apart(alone[k], crowd[k], scales[k]) for k in scales]
        return max(beside) > COMPANY or max(whole) > self._tolerance()

    def _rows(self, network: torch.nn.Module, x: Tensor, size: int) -> dict[str, Tensor]:
        """What a network returns of images, so many at a time."""
        parts = [self._named(network(part)) for part in torch.split(x, size)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.original.ends}

    def _noise(self, image: Shape) -> Tensor:
        """Images of noise, bright and dark, in the pixels that the file takes."""
        source = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (IMAGES, *image), generator=source) / 255
        x[1], x[2] = x[1] / 4, 1 - x[2] / 4
        return (x * 255).round() if self.graph.input.kind == BYTES else x

    def _theirs(self, x: Tensor) -> dict[str, Tensor]:
        given = arranged(x, self.layout.dims, channels_last=self.layout.channels_last)
        if not self.layout.shifted:
            return self.original.logits(given, self.layout.batch or 1)
        return self.original.logits_alone(given)

    def _named(self, found: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if isinstance(found, Tensor):
            return {next(iter(self.original.ends)): found}
        return found

    def _tolerance(self) -> float:
        coarse = any(node.kind in COARSE_KINDS for node in self.graph.nodes)
        return COARSE if coarse or self.graph.input.kind in (10, 16) else TOLERANCE


def load_network(
    graph: Graph, layout: Layout, original: Original, device: str | torch.device
) -> torch.nn.Module:
    """A network of its own on a device.

    Raises:
        CheckpointError: as `OnnxNetwork`.
    """
    with boundary(original.path):
        return OnnxNetwork(graph, layout, original).to(device)
