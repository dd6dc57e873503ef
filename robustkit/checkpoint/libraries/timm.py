"""timm's layout: `config.json` with `architecture`, `num_classes` and `pretrained_cfg`.

The name stands in timm's registry; what the network is built by are plain values. timm gets neither
a path nor an address, and loads no weights.
"""

import json
import math
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from robustkit import models
from robustkit.checkpoint.architecture import check_numbers, difference, misfit
from robustkit.checkpoint.libraries import table
from robustkit.checkpoint.libraries.declared import Normalisation, installed
from robustkit.checkpoint.readings import StateReading
from robustkit.data.pipeline import Fit, Pipeline
from robustkit.data.shelf import Interpolation
from robustkit.errors import CheckpointError, UnknownName, cut
from robustkit.fetching import Repository
from robustkit.unpickling.tensors import State

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
BUILT_BY = (
    "input_size",
    "fixed_input_size",
    "global_pool",
    "first_conv",
    "classifier",
)
"""of `pretrained_cfg`, what timm builds the network by; the rest are addresses and descriptions"""
LOADING = (
    "cache_dir", "checkpoint_path", "custom_load", "exportable", "features_only", "file",
    "hf_hub_id", "model_name", "no_jit", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "pretrained_custom_load", "pretrained_filter_fn", "pretrained_strict", "scriptable", "url",
)  # fmt: skip
"""arguments by which timm loads something, or makes something else of the network"""
FITS: Mapping[str, Fit] = {"center": "cover", "squash": "stretched", "border": "contain"}
"""by `crop_mode`; "center" of a square is a shorter side, by which the other is rounded down"""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""timm's own where nothing is said"""


def published(name: str, tag: str) -> Mapping[str, Any]:
    """What timm says of weights of its own, as their `config.json` has it; its default's, untagged.

    Raises:
        CheckpointError: it is not installed, or has none of that name.
    """
    return json.loads(json.dumps(_described(_registered(name, tag))))  # type: ignore[no-any-return]


def repository(name: str, tag: str) -> Repository:
    """Where such weights are.

    Raises:
        CheckpointError: as `published`, or in no repository of timm's layout.
    """
    found = _registered(name, tag)
    said = f"timm:{'.'.join(filter(None, (name, tag)))}"
    if not found.hf_hub_id:
        at = f"; download {found.url} and pass it with --model timm:{name}" if found.url else ""
        raise CheckpointError(f"{said}: timm names no repository with its weights{at}")
    return Repository.parse(found.hf_hub_id)


def _registered(name: str, tag: str) -> Any:
    """The configuration of published weights.

    Raises:
        CheckpointError: timm is not installed, or has none of that name.
    """
    if installed("timm") is None:
        raise CheckpointError(
            f"timm:{name}: timm is not installed; install it with: pip install 'robustkit[timm]'"
        )
    timm: Any = import_module("timm")
    if not timm.is_model(name):
        raise CheckpointError(str(UnknownName("timm model", name, timm.list_models())))
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise CheckpointError(str(UnknownName(f"weights of timm:{name}", tag, tags)))
    found = timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name, allow_unregistered=False)
    if found is None or not found.has_weights:
        raise CheckpointError(f"timm:{name}: timm has no pretrained weights for it")
    return found


def _described(found: Any) -> dict[str, Any]:
    """A configuration as timm writes it beside weights."""
    said = found.to_dict()
    return {
        "architecture": found.architecture,
        "num_classes": said.get("num_classes"),
        "label_names": said.get("label_names"),
        "pretrained_cfg": {key: value for key, value in said.items() if value is not None},
    }


def is_config(said: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is timm's, or transformers' around a network of timm's."""
    return isinstance(said.get("architecture"), str) and (
        said.get("model_type") in (None, "timm_wrapper")
    )


def processing(said: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What is said of the images; in older files it stands at the top."""
    found = said.get("pretrained_cfg", said)
    if not isinstance(found, Mapping):
        table.refuse(where, "pretrained_cfg", found, "a table")
    return found


def architecture(said: Mapping[str, Any], where: str) -> str:
    """The name in timm's registry, without the tag of its weights.

    Raises:
        CheckpointError: it is a path or an address.
    """
    name = table.text(said, "architecture", where)
    if not name.replace(".", "_").replace("-", "_").isidentifier():
        table.refuse(where, "architecture", name, "a name of timm's")
    return name.partition(".")[0]


def num_classes(said: Mapping[str, Any], where: str) -> int:
    """How many there are.

    Raises:
        CheckpointError: none, as of a file of features.
    """
    found = said.get("num_classes", processing(said, where).get("num_classes", 1000))
    if found == 0:
        raise CheckpointError(
            f"{where}: num_classes is 0: a feature extractor without a classifier has no "
            "accuracy; save the network with its head"
        )
    return table.classes(found, "num_classes", where)


def label_names(said: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names of the classes: synsets, for those trained on ImageNet."""
    inner = processing(said, where)
    for key in ("label_names", "labels"):
        for place in (said, inner):
            if place.get(key):
                return table.names(place[key], key, where)
    return ()


def normalisation(said: Mapping[str, Any], where: str) -> Normalisation:
    """Mean and std, timm's own where nothing is said."""
    inner = processing(said, where)
    mean = table.numbers(inner["mean"], "mean", where) if inner.get("mean") else MEAN
    std = table.numbers(inner["std"], "std", where) if inner.get("std") else STD
    return Normalisation(mean, std)


def input_shape(said: Mapping[str, Any], where: str) -> tuple[int, int, int]:
    """C, H, W of the images that the pipeline hands over."""
    size = processing(said, where).get("input_size") or [3, 224, 224]
    if not isinstance(size, list) or len(size) != 3:
        table.refuse(where, "input_size", size, "three numbers, [C, H, W]")
    channels, height, width = (table.side(value, "input_size", where) for value in size)
    return channels, height, width


def pipeline(said: Mapping[str, Any], where: str) -> Pipeline:
    """How timm prepares pictures for an evaluation.

    Raises:
        CheckpointError: in a way that is not supported.
    """
    inner = processing(said, where)
    channels, *size = input_shape(said, where)
    share = table.number(inner.get("crop_pct") or 0.875, "crop_pct", where)
    if not 0.05 <= share <= 2:
        table.refuse(where, "crop_pct", share, "a share of the image's side")
    scaled = [math.floor(side / share) for side in size]
    mode = table.text(inner, "crop_mode", where) or "center"
    if mode not in FITS:
        table.refuse(where, "crop_mode", mode, " or ".join(FITS))
    if inner.get("crop_border_pixels"):
        table.refuse(where, "crop_border_pixels", inner["crop_border_pixels"], "none")
    square = mode == "center" and size[0] == size[1]
    named = table.text(inner, "interpolation", where) or "bicubic"
    known = [name for name in get_args(Interpolation) if name == named]
    if not known:
        table.refuse(where, "interpolation", named, " or ".join(get_args(Interpolation)))
    return Pipeline(
        library=f"timm {installed('timm') or ''}".strip(),
        processor=f"create_transform ({mode})",
        resize=scaled[0] if square else (scaled[0], scaled[1]),
        fit="stretched" if square else FITS[mode],
        fill=_border(inner, channels, where) if mode == "border" else (0,),
        interpolation=known[0],
        by="Pillow",
        crop=(size[0], size[1]),
        centre="rounded",
        upright=False,
        channels=channels,
    )


def _border(inner: Mapping[str, Any], channels: int, where: str) -> tuple[int, ...]:
    """The colour around a picture: the mean's."""
    mean = table.numbers(inner["mean"], "mean", where) if inner.get("mean") else MEAN
    if len(mean) not in (1, channels) or not all(0 <= value <= 1 for value in mean):
        table.refuse(where, "mean", inner["mean"], f"{channels} numbers from 0 to 1")
    return tuple(round(255 * value) for value in mean)


def arguments(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the network is built by: plain values.

    Raises:
        CheckpointError: something would be loaded, or is of absurd size.
    """
    own = said.get("model_args") or {}
    if not isinstance(own, Mapping):
        table.refuse(where, "model_args", own, "a table")
    if taken := [key for key in own if key in LOADING or not key.isidentifier()]:
        raise CheckpointError(
            f"{where}: model_args: {cut(', '.join(taken))}: not accepted from a folder, "
            "because timm would load something by it"
        )
    inner = processing(said, where)
    built_by = {key: inner[key] for key in BUILT_BY if inner.get(key) is not None}
    found = {"model_args": dict(own), "pretrained_cfg": built_by}
    table.check_sizes(found, where)
    return {**found, "num_classes": num_classes(said, where)}


def check_known(name: str, where: str) -> None:
    """Nothing, if timm has an architecture of that name.

    Raises:
        CheckpointError: it has none.
    """
    timm: Any = import_module("timm")
    if ":" in name or not timm.is_model(name):
        raise CheckpointError(f"{where}: {UnknownName('timm model', name, timm.list_models())}")


def build(name: str, said: Mapping[str, Any], state: State, where: str) -> "torch.nn.Module":
    """The network with the file's weights in it, all of them and no others.

    Args:
        name: in timm's registry.
        said: the `arguments` of a `config.json`.
        state: the file's weights, by the network's names.
        where: for messages.

    Raises:
        CheckpointError: timm has no such architecture, or the weights do not fit.
    """
    import torch

    from robustkit.checkpoint.adapter import filled
    from robustkit.checkpoint.libraries.built import no_larger

    check_known(name, where)
    timm: Any = import_module("timm")
    own = {**said["model_args"], "num_classes": said["num_classes"]}
    known = getattr(import_module("timm.models"), "PretrainedCfg").__dataclass_fields__  # noqa: B009
    described = {
        key: _plain(value) for key, value in said["pretrained_cfg"].items() if key in known
    }

    def make() -> torch.nn.Module:
        made: torch.nn.Module = timm.create_model(
            name, pretrained=False, pretrained_cfg=dict(described), **own
        )
        return made

    with torch.random.fork_rng(devices=[]), no_larger(state):
        try:
            with torch.device("meta"):
                make()
        except RuntimeError as error:
            if "meta" not in str(error):  # else a constructor that computes with its numbers
                raise
        made = make()
    layout = models.layout_of(made)
    if (wrong := difference(layout, state)).size:
        raise CheckpointError(
            f"{where}: {misfit(f'timm:{name}', layout, state, wrong, [StateReading(state)])}"
        )
    check_numbers(layout, state, where)
    return filled(made, state, where)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
