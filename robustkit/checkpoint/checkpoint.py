"""A trained network on disk: what is known of it, and the way to load it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from robustkit import models
from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.data.pipeline import Pipeline
from robustkit.defaults import torch_defaults
from robustkit.errors import CheckpointError
from robustkit.showing import Shown

if TYPE_CHECKING:
    import torch

ADAPTER = "robustkit.classifier/1"
"""changes when the layer around the network computes something else"""
NetworkFactory = Callable[["str | torch.device"], "torch.nn.Module"]
"""from a device to a network of its own on it"""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Checkpoint(Shown, CheckpointMetadata):
    """A trained network on disk, with all that is known of its making. Unknown is None."""

    path: str
    sha256: str
    """of the file"""
    format: str
    """torch zip, torch legacy, pickle, safetensors, ONNX, TorchScript or torch.export"""
    container: str
    """dotted keys that lead to the weights, "" where the file is the weights"""
    prefix: str
    """taken off the front of every name"""
    weights: str
    """digest of names, types, shapes and numbers, whatever the container; of a program: its file"""
    trained_shape: tuple[int, int, int] | None = None
    """C, H, W of the training images, where the file itself records it"""
    label_names: tuple[str, ...] = ()
    """of the classes, in the order of the logits; empty where nothing beside the weights says"""
    pipeline: Pipeline | None = None
    """how the library that the checkpoint is of prepares pictures, where that is known"""
    extra: dict[str, Any] = field(default_factory=dict)
    """other plain numbers and texts in the file"""
    preprocessing: str = "assumed none"
    """in the checkpoint, given, recorded or assumed none; what of it is of pixels of 0 to 255"""
    recognised: bool = False
    """whether nothing but its keys and shapes tells its architecture, which others may have, too"""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    published: str = ""
    """the name under which it was fetched: hf:ORG/NAME"""
    unmet: str = ""
    """what has to be installed before it can be loaded"""
    hint: str = ""
    """what would make its network known, where it is not"""
    identity: dict[str, Any] = field(default_factory=dict)
    """plain JSON: everything that can change a logit"""
    _network: NetworkFactory | None = field(default=None, repr=False, compare=False)

    def check_installed(self) -> None:
        """Nothing, if what builds the network is installed.

        Raises:
            CheckpointError: it is not.
        """
        if self.unmet:
            raise CheckpointError(f"{self.path}: {self.unmet}")

    @property
    def has_architecture(self) -> bool:
        """Whether its network can be built: something says of what architecture it is, and may."""
        return self._network is not None

    def check_architecture(self) -> None:
        """Nothing, if its network can be built.

        Raises:
            CheckpointError: the architecture is unknown, or named only by the file itself.
        """
        if not self.has_architecture:
            _no_architecture(self)

    @torch_defaults()
    def load(
        self, device: "str | torch.device" = "cpu", expected: int | None = None
    ) -> "torch.nn.Module":
        """The network, in eval mode, weights without gradient: N×C×H×W in [0, 1] to N×K logits.

        Args:
            device: where it is put.
            expected: K, to tell the logits among several tensors where the file does not say.

        Raises:
            CheckpointError: the architecture is unknown, or named only by the file itself.
        """
        from robustkit.checkpoint.adapter import Classifier, freeze  # torch

        self.check_architecture()
        assert self._network is not None
        network = self._network(device)
        classifier = Classifier(network, self.mean, self.std, self.num_classes, expected)
        return freeze(classifier).to(device)


def _no_architecture(checkpoint: Checkpoint) -> NoReturn:
    if checkpoint.model is not None:
        raise CheckpointError(
            f"{checkpoint.path}: the file names its architecture {checkpoint.model}, whose "
            "code is never run because a file says so; if you trust it, pass --model "
            f"{checkpoint.model}"
        )
    hint = f"; {checkpoint.hint}" if checkpoint.hint else ""
    raise CheckpointError(
        f"{checkpoint.path}: unknown architecture, and none was recognised; name it with "
        f"--model ({', '.join(models.MODELS)}, torchvision:NAME, timm:NAME, hf:ORG/NAME, "
        f"robustbench:NAME or FILE.py:FUNCTION){hint}"
    )
