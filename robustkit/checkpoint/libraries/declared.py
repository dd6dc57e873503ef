"""What a folder says of its network, as data, and which library would build it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Self

from robustkit.checkpoint.metadata import CheckpointMetadata
from robustkit.data.pipeline import Pipeline
from robustkit.files import canonical, digest

Library = Literal["transformers", "timm", "torchvision", "robustbench"]
INSTALLED_BY: Mapping[Library, str] = {
    "transformers": "'robustkit[hf]'",
    "timm": "'robustkit[timm]'",
    "torchvision": "torchvision",
    "robustbench": "robustbench",
}
"""what pip installs to have a library"""


def installed(library: Library) -> str | None:
    """A library's version without its build's suffix; None: it is not installed."""
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a network's own pipeline makes of pixels in [0, 1], by channel: (x - mean) / std."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """None, both: nothing"""
    flipped: bool = False
    """whether red and blue change places"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a folder says of its network. Nothing of it was built, or looked up in a library."""

    library: Library
    architecture: str
    """a class of transformers, or timm's name"""
    arguments: Mapping[str, Any]
    """that the library builds it by"""
    num_classes: int | None
    label_names: tuple[str, ...]
    normalisation: Normalisation | None
    """None: nothing is said"""
    input_shape: tuple[int, int, int] | None
    pipeline: Pipeline | None = None
    """None: nothing is said"""
    trained_on: str | None = None
    """the name of a data set"""
    keys: tuple[str, ...] = ()
    """of the set that the library takes of a file with several: the first that is there"""
    name: str = ""
    """under which all of this is said, if that is more than the architecture's"""

    @property
    def model(self) -> str:
        """What identifies the architecture."""
        return f"{self.library}:{self.architecture}"

    @property
    def called(self) -> str:
        """As `Checkpoint.model` has it: given as the architecture again, it says all of this."""
        return self.name or self.model

    def with_head(self, count: int) -> Self:
        """The architecture alone, for so many classes."""
        own: dict[str, Any] = {"num_labels": count, "labels": None}
        if self.library == "timm":
            own = {"num_classes": count}
        return replace(
            self,
            arguments={**self.arguments, **own},
            num_classes=count,
            label_names=(),
            normalisation=None,
            pipeline=None,
        )

    @property
    def plain(self) -> str:
        """The architecture alone, as `--model` has it."""
        return f"{self.library}:{self.architecture.partition('.')[0]}"

    @property
    def known(self) -> CheckpointMetadata:
        """What of it a checkpoint's metadata has a place for."""
        said = self.normalisation
        return CheckpointMetadata(
            model=self.called,
            num_classes=self.num_classes,
            input_shape=self.input_shape,
            mean=said.mean if said else None,
            std=said.std if said else None,
            normalised=False if said and said.mean is None else None,
            trained_on=self.trained_on,
        )

    @property
    def flipped(self) -> bool:
        """Whether red and blue change places in front of the network."""
        return self.normalisation is not None and self.normalisation.flipped

    @property
    def version(self) -> str | None:
        """Of the library; None: it is not installed."""
        return installed(self.library)

    @property
    def code(self) -> str:
        """What identifies the network beside its weights, as `CheckpointKey` has it."""
        said = digest(canonical([self.arguments, self.flipped]))
        return f"{self.library} {self.version} {said}"

    @property
    def unmet(self) -> str:
        """What has to be installed first, or ""."""
        if self.version is not None:
            return ""
        return (
            f"built by {self.library}, which is not installed; install it with: "
            f"pip install {INSTALLED_BY[self.library]}"
        )
