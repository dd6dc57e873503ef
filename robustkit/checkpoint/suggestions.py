"""Which `--model` a file of unknown architecture seems to be for, by what it says of itself.

Words in a file (`arch`, `args.model`), the class of a pickled module, names and shapes. What comes
of it is printed, and never built or imported unasked.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from robustkit.checkpoint.fingerprints import alike, known_names
from robustkit.checkpoint.weights import Weights

SAYING = (
    "arch", "architecture", "model", "model_name", "model_type", "model_arch", "net", "network",
    "backbone", "backbone_name", "encoder", "encoder_name", "name",
)  # fmt: skip
"""keys under which training code keeps an architecture's name"""
FROM_HUB = (
    "_name_or_path", "name_or_path", "model_name_or_path", "pretrained_model_name_or_path",
    "hf_model", "model_id", *SAYING,
)  # fmt: skip
"""and those under which it keeps a repository's"""
SHOWN = 3
OF_TRANSFORMERS = {
    "vit": "ViT", "deit": "DeiT", "beit": "BEiT", "swin": "Swin", "swinv2": "Swin V2",
    "dinov2": "DINOv2", "convnext": "ConvNeXt", "convnextv2": "ConvNeXt V2", "levit": "LeViT",
    "mobilenet_v2": "MobileNetV2", "mobilevit": "MobileViT", "efficientnet": "EfficientNet",
    "regnet": "RegNet", "resnet": "ResNet", "segformer": "SegFormer", "poolformer": "PoolFormer",
    "pvt": "PVT", "cvt": "CvT", "bit": "BiT", "siglip": "SigLIP",
}  # fmt: skip
"""by what the names of transformers' image classifiers begin with"""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PICKLED = re.compile(r"a pickled module \((?:\w+\.)*(?P<name>[A-Za-z_]\w*)[),]")
_FILES = (".py", ".pt", ".pth", ".ckpt", ".yaml", ".yml", ".json", ".safetensors", ".bin")


def suggest(parts: Weights) -> str:
    """What to try as `--model`, and why; "" where nothing tells."""
    fitting = _fitting(parts)
    for key, word in _texts(parts.extra, SAYING):
        if chosen := _of_word(word, fitting or known_names(), parts.notes):
            fits = ", and its names and shapes fit" if fitting else ""
            return f"it calls itself {word} ({key}){fits}: try --model {chosen}"
    if fitting:
        return _by_shape(_preferred(fitting, parts.notes))
    for key, value in _texts(parts.extra, FROM_HUB):
        if _REPOSITORY.fullmatch(value) and not value.endswith(_FILES):
            return f"it names {value} ({key}): try --model hf:{value}, if that is a repository"
    return _transformers(parts) or _own_class(parts.notes)


def _own_class(notes: Sequence[str]) -> str:
    """What is said of a pickled network whose class is of nobody's library."""
    for note in notes:
        if found := _PICKLED.match(note):
            name = found["name"]
            return f"it is a whole {name}: try --model FILE.py:{name}, the file that defines it"
    return ""


def _fitting(parts: Weights) -> tuple[str, ...]:
    """Architectures of the file's names and shapes, wrappers taken off."""
    for reading in parts.variants:
        if found := alike((name, value.shape) for name, value in reading.state.items()):
            return found
    return ()


def _by_shape(fitting: Sequence[str]) -> str:
    if len(fitting) == 1:
        return f"its names and shapes are those of {fitting[0]}: try --model {fitting[0]}"
    more = f" and {len(fitting) - SHOWN} more" if len(fitting) > SHOWN else ""
    return (
        f"its names and shapes are those of {', '.join(fitting[:SHOWN])}{more}, which need not all "
        f"compute the same: try --model {fitting[0]}, or the one that it was trained as"
    )


def _preferred(fitting: Sequence[str], notes: Sequence[str]) -> list[str]:
    """Those of the library whose classes the file names first."""
    said = " ".join(notes)
    named = [library for library in ("timm", "torchvision") if f"{library}." in said]
    return sorted(fitting, key=lambda spec: spec.partition(":")[0] not in named)


def _of_word(word: str, among: Sequence[str] | frozenset[str], notes: Sequence[str]) -> str:
    """The architecture that a word names; "" for none of them."""
    plain = word.lower().replace("-", "_").removeprefix("timm/").removeprefix("torchvision.")
    plain = plain.removeprefix("timm:").removeprefix("torchvision:").partition(".")[0]
    named = [f"{library}:{plain}" for library in ("torchvision", "timm")]
    found = [spec for spec in named if spec in among]
    return _preferred(found, notes)[0] if found else ""


def _texts(extra: Mapping[str, object], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The texts whose dotted keys end so."""
    for key, value in extra.items():
        if isinstance(value, str) and key.rpartition(".")[2] in keys:
            yield key, value


def _transformers(parts: Weights) -> str:
    """What is said of weights that transformers has named."""
    for reading in parts.variants:
        fronts = {name.partition(".")[0] for name in reading.state}
        known = [front for front in fronts if front in OF_TRANSFORMERS]
        inside = any(".embeddings." in n or ".encoder." in n for n in reading.state)
        if len(known) == 1 and inside and len(fronts) <= 3:
            return (
                f"named as transformers names {OF_TRANSFORMERS[known[0]]}: give the folder with "
                "its config.json, or --model hf:ORG/NAME, the repository that it was trained from"
            )
    return ""
