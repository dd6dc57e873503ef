"""Weights that torchvision publishes: their address, their preprocessing, and the network for them.

What torchvision builds around its own weights is not always what it builds without (googlenet's
input is transformed, its auxiliary heads taken off, old names are renamed), so that its own code is
handed the tensors in place of a download.
"""

import copy
from collections import OrderedDict
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from robustkit.checkpoint.libraries.declared import Declared, Normalisation, installed
from robustkit.data.pipeline import Pipeline
from robustkit.data.shelf import Interpolation
from robustkit.errors import CheckpointError, UnknownName
from robustkit.fetching import Remote
from robustkit.unpickling.tensors import State

if TYPE_CHECKING:
    import torch

AUXILIARY = (r"^aux[12]\.", r"^AuxLogits\.")
"""heads for the training, which are left out of a network that classifies"""
TRANSFORMED = ("torchvision:googlenet", "torchvision:inception_v3")
"""networks that transform their input where they are made from published weights, and only there"""
MOST = 2**33
"""bytes"""


def declare(name: str, tag: str) -> tuple[Declared, Remote]:
    """What torchvision says of weights of its own, and where they are; its default without a tag.

    Raises:
        CheckpointError: it has none of that name.
    """
    chosen = _weights(name, tag)
    preset = chosen.transforms()
    said = f"torchvision:{name}.{chosen.name}"
    names = tuple(map(str, chosen.meta.get("categories") or ()))
    if type(preset).__name__ != "ImageClassification" or not names:
        raise CheckpointError(f"{said}: a feature extractor without an image classifier")
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    interpolation = cast(Interpolation, preset.interpolation.value)
    declared = Declared(
        library="torchvision",
        architecture=f"{name}.{chosen.name}",
        arguments={},
        num_classes=len(names),
        label_names=names,
        normalisation=Normalisation(tuple(preset.mean), tuple(preset.std)),
        input_shape=(3, crop, crop),
        pipeline=Pipeline(
            library=f"torchvision {installed('torchvision') or ''}".strip(),
            processor=f"ImageClassification ({chosen.name})",
            resize=resize,
            interpolation=interpolation,
            by="Pillow",
            crop=(crop, crop),
            centre="rounded",
            upright=False,
        ),
    )
    return declared, Remote(chosen.url, said, sha256=_digest(chosen), most=MOST)


def caution(model: str) -> tuple[str, ...]:
    """What is to be known of an architecture that is named without its published weights."""
    if model not in TRANSFORMED:
        return ()
    name = model.partition(":")[2]
    return (
        f"torchvision's {name} sets transform_input=True when it is created from pretrained "
        "weights; it is assumed to be False here. If yours was trained from pretrained "
        "weights, build it in FILE.py with transform_input=True",
    )


def recognise(name: str, sha256: str) -> Declared | None:
    """What torchvision says of a file that is one of its own, by the digest."""
    models: Any = import_module("torchvision.models")
    if name not in models.list_models(module=models):
        return None
    for one in models.get_model_weights(name):
        if (digest := _digest(one)) and sha256.startswith(digest):
            return declare(name, one.name)[0]
    return None


def _digest(weights: Any) -> str:
    """The beginning of a file's SHA-256, which stands in its name; "" where it does not."""
    digest = str(weights.url.rpartition("-")[2].partition(".")[0])
    return digest if len(digest) >= 8 and set(digest) <= set("0123456789abcdef") else ""


def _weights(name: str, tag: str) -> Any:
    models: Any = import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise CheckpointError(str(UnknownName("torchvision model", name, known)))
    offered = models.get_model_weights(name)
    tags = [one.name for one in offered]
    if tag and tag not in tags:
        raise CheckpointError(str(UnknownName(f"weights of torchvision:{name}", tag, tags)))
    if not tags:
        raise CheckpointError(f"torchvision:{name}: torchvision has no pretrained weights for it")
    return offered[tag] if tag else offered.DEFAULT


def build(architecture: str, state: State, where: str) -> "torch.nn.Module":
    """The network as torchvision builds it for these weights, with the file's in their place.

    Raises:
        CheckpointError: they are not weights of its.
    """
    import torch

    from robustkit.checkpoint.holding import check_holds

    name, _, tag = architecture.partition(".")
    chosen = _weights(name, tag)
    tensors = OrderedDict((key, torch.from_numpy(numbers)) for key, numbers in state.items())
    if name.startswith("mnasnet"):
        # of all networks this one insists on knowing the version, of which shapes tell
        tensors._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng(devices=[]):
            models: Any = import_module("torchvision.models")
            made: torch.nn.Module = models.get_model(name, weights=_Handed(chosen, tensors))
    except RuntimeError as error:  # of load_state_dict, which lists names over many lines
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise CheckpointError(
            f"{where}: does not fit torchvision:{architecture}: {reason}"
        ) from error
    check_holds(made, state, AUXILIARY, where)
    return made


class _Handed:
    """Weights of torchvision's list whose tensors are here already."""

    def __init__(self, weights: Any, tensors: dict[str, "torch.Tensor"]) -> None:
        self._weights, self._tensors = weights, tensors

    def __getattribute__(self, name: str) -> Any:
        """As the weights', its class among them, by which torchvision knows its own."""
        if name in ("get_state_dict", "_weights", "_tensors"):
            return object.__getattribute__(self, name)
        return type(self._weights) if name == "__class__" else getattr(self._weights, name)

    def get_state_dict(self, *_: Any, **__: Any) -> dict[str, "torch.Tensor"]:
        """The tensors; nothing is fetched."""
        return copy.copy(self._tensors)
