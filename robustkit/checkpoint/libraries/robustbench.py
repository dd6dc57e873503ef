"""RobustBench's zoo: `DATASET/THREAT/NAME`, built by its own package, with weights read here.

Its networks take pixels in [0, 1] and normalise them themselves. As its own loader does, names lose
`module.` and `model.` in front and gain `model.` where the network has it, and the constants of a
normalisation, which most files lack, are the package's.

Source: robustbench 1.1, utils.py (load_model) and data.py (PREPROCESSINGS).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustkit import models
from robustkit.checkpoint import architecture
from robustkit.checkpoint.libraries.declared import Declared, Normalisation, installed
from robustkit.checkpoint.normalising import normalising_layer
from robustkit.checkpoint.readings import StateReading, listed
from robustkit.data.pipeline import Pipeline
from robustkit.data.shelf import Interpolation
from robustkit.errors import CheckpointError, RobustkitError, UnknownName, one_line
from robustkit.fetching import Remote
from robustkit.models import Layout
from robustkit.unpickling.tensors import State

if TYPE_CHECKING:
    import torch

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
ADDRESS = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
LAST = ("Andriushchenko2020Understanding", "Kireev2021Effectiveness")
"""whose files hold two sets of weights, of which the last is meant"""
KEYS = ("state_dict",)
"""of the set that its loader takes of any other file, whatever averages stand beside it"""
KEYS_OF_LAST = ("last.state_dict", "last")
KEYS_OF_TIMM = ("model", "state_dict")
"""likewise, of files that it has timm load"""
OWN = ("mean", "std", "mu", "sigma")
"""constants that the package's network has and its file need not have"""
IDLE = ("model_preact_hl1.", ".scores")
"""what files hold beside the network, at the front or the end of a name"""
ADDED = "model."
PREPARED: Mapping[str, tuple[int | tuple[int, int] | None, Interpolation, int | None]] = {
    "Res256Crop224": (256, "bilinear", 224),
    "BicubicRes256Crop224": (256, "bicubic", 224),
    "Crop288": (None, "bilinear", 288),
    "Res224": ((224, 224), "bilinear", None),
}
"""resize, interpolation and crop by the zoo's words"""
MOST = 2**33
"""bytes of a file"""


def declare(text: str) -> Declared:
    """What the zoo says of a network, by DATASET/THREAT/NAME, or by NAME if there is but one.

    Raises:
        CheckpointError: no such network, one of several files, or the package is not there.
    """
    place, entry = _found(text)
    dataset = place.partition("/")[0]
    side = 224 if dataset == "imagenet" else 32
    pipeline = _pipeline(place, entry) if dataset == "imagenet" else None
    crop = (pipeline.crop or (side, side)) if pipeline else (side, side)
    return Declared(
        library="robustbench",
        architecture=place,
        arguments={},
        num_classes=CLASSES.get(dataset),
        label_names=(),
        normalisation=Normalisation(),
        input_shape=(3, *crop),
        pipeline=pipeline,
        trained_on=dataset,
        keys=_keys(place),
    )


def _keys(place: str) -> tuple[str, ...]:
    if _timm_name(place):
        return KEYS_OF_TIMM
    return KEYS_OF_LAST if place.rpartition("/")[2].startswith(LAST) else KEYS


def published(declared: Declared) -> Remote:
    """Where its file is. No digest of it is stated anywhere.

    Raises:
        CheckpointError: it has no file of its own.
    """
    place = declared.architecture
    entry, said = _found(place)[1], declared.model
    if name := _timm_name(place):
        url = import_module("timm").get_pretrained_cfg(name).url
    else:
        url = f"{ADDRESS}{entry['gdrive_id']}" if entry.get("gdrive_id") else ""
    if not url:
        raise CheckpointError(f"{said}: RobustBench publishes no weights of its own for it")
    return Remote(url, said, most=MOST)


def fit(declared: Declared, variants: Sequence[StateReading], where: str) -> architecture.Fit:
    """The zoo's network with the weights in it, all of them and no others.

    Raises:
        CheckpointError: it cannot be built, or the weights do not fit.
    """
    from robustkit.checkpoint.adapter import filled, replica  # torch

    module = _built(declared.architecture)
    layout = models.layout_of(module)
    plain = [reading for reading in variants if reading.mean is None]
    tried = [*plain, *(_with_front(reading) for reading in plain)]
    trimmed = [replace(r, state=_trimmed(r.state, layout)) for r in tried]
    own = {key for key, slot in layout.items() if _is_own(key, slot)}
    needed = {key: slot for key, slot in layout.items() if key not in own}
    reading, _ = architecture.closest(needed, trimmed)
    missing = own - reading.state.keys()
    expected = {key: slot for key, slot in layout.items() if key not in missing}
    if (wrong := architecture.difference(expected, reading.state)).size:
        told = architecture.misfit(declared.model, expected, reading.state, wrong, variants)
        raise CheckpointError(f"{where}: {told}")
    architecture.check_numbers(expected, reading.state, where)
    constants = {k: v.detach().numpy() for k, v in module.state_dict().items() if k in missing}
    notes = reading.notes
    if constants:
        notes += (f"constants set by RobustBench that the file lacks: {listed(sorted(constants))}",)
    reading = replace(reading, state={**reading.state, **constants}, notes=notes)
    made = partial(replica, filled(module, reading.state, where))
    layer = normalising_layer(module)
    return architecture.Fit(layout, made, reading, declared.num_classes, layer)


def _found(text: str) -> tuple[str, Mapping[str, Any]]:
    zoo = _zoo()
    if text in zoo:
        return text, zoo[text]
    named = [place for place in zoo if place.rpartition("/")[2] == text]
    if len(named) == 1:
        return named[0], zoo[named[0]]
    if named:
        said = " or ".join(f"robustbench:{place}" for place in named)
        raise CheckpointError(f"robustbench:{text}: specify which: {said}")
    raise CheckpointError(str(UnknownName("network of RobustBench", text, zoo)))


def _zoo() -> dict[str, Mapping[str, Any]]:
    """The zoo's entries by DATASET/THREAT/NAME.

    Raises:
        CheckpointError: the package is not installed, or cannot be imported.
    """
    try:
        dictionaries = import_module("robustbench.model_zoo").model_dicts
    except Exception as error:  # it imports much, and registers networks with timm
        if isinstance(error, ModuleNotFoundError) and error.name == "robustbench":
            raise CheckpointError(
                "robustbench: the package that builds its networks is not installed; "
                "install it with: pip install robustbench"
            ) from error
        raise CheckpointError(
            f"robustbench {installed('robustbench')}: cannot be imported "
            f"({one_line(error)}); install its dependencies"
        ) from error
    return {
        f"{dataset.value}/{threat.value}/{name}": entry
        for dataset, threats in dictionaries.items()
        for threat, entries in threats.items()
        for name, entry in entries.items()
    }


def _timm_name(place: str) -> str:
    """What the zoo registers the network as with timm; "" where it does not."""
    dataset, threat, name = place.split("/")
    registered = f"{name.lower().replace('-', '_')}_{dataset.lower()}_{threat.lower()}"
    return registered if import_module("timm").is_model(registered) else ""


def _built(place: str) -> "torch.nn.Module":
    """The network with whatever weights, nothing fetched.

    Raises:
        CheckpointError: its constructor fails or would fetch something, or it is an ensemble.
    """
    import torch

    entry, dataset = _found(place)[1], place.partition("/")[0]
    said, identifier = f"robustbench:{place}", entry.get("gdrive_id")
    if isinstance(identifier, list):
        raise CheckpointError(
            f"{said}: an ensemble of {len(identifier)} files, which is not supported"
        )
    registered = _timm_name(place)
    if not registered and not identifier:
        raise CheckpointError(
            f"{said}: RobustBench uses torchvision's weights; evaluate them as "
            "torchvision:NAME.WEIGHTS"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            if registered:
                timm: Any = import_module("timm")
                classes = CLASSES[dataset]
                made = timm.create_model(registered, num_classes=classes, pretrained=False)
            else:
                made = entry["model"]()
    except (RobustkitError, MemoryError):
        raise
    except Exception as error:  # whatever its constructors raise beside other versions
        raise CheckpointError(
            f"{said}: robustbench {installed('robustbench')} cannot build it ({one_line(error)})"
        ) from error
    network: torch.nn.Module = made.float().cpu()
    return network


def _pipeline(place: str, entry: Mapping[str, Any]) -> Pipeline | None:
    """How the zoo prepares pictures of ImageNet; None where it does not say."""
    if name := _timm_name(place):
        known = import_module("timm").get_pretrained_cfg(name)
        side = known.input_size[-1]
        steps = (math.floor(side / known.crop_pct), known.interpolation, side)
        said = f"get_timm_model_preprocessing({name})"
    elif (said := str(entry.get("preprocessing"))) in PREPARED:
        steps, said = PREPARED[said], f"PREPROCESSINGS[{said}]"
    else:
        return None
    resize, interpolation, crop = steps
    return Pipeline(
        library=f"robustbench {installed('robustbench') or ''}".strip(),
        processor=said,
        resize=resize,
        interpolation=interpolation,
        by="Pillow",
        crop=(crop, crop) if crop else None,
        centre="rounded",
        upright=False,
    )


def _with_front(reading: StateReading) -> StateReading:
    return replace(reading, state={ADDED + key: value for key, value in reading.state.items()})


def _trimmed(state: State, layout: Layout) -> State:
    """Without what the zoo's loader leaves out."""
    return {
        key: value
        for key, value in state.items()
        if key in layout or not (key.startswith(IDLE[0]) or key.endswith(IDLE[1]))
    }


def _is_own(key: str, slot: models.Slot) -> bool:
    return not slot.parameter and key.rpartition(".")[2] in OWN
