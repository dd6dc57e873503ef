"""transformers' `preprocessor_config.json` as data: what its processor makes of a picture.

What a file leaves open is the processor's own default, which the table below has by its class, so
that a folder can be described where the library is not installed. Each was read off the class of
that name in transformers 5, `models/*/image_processing_*.py`; a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robustkit.checkpoint.libraries import table
from robustkit.checkpoint.libraries.declared import Normalisation, installed
from robustkit.data.pipeline import Pipeline
from robustkit.data.shelf import Interpolation
from robustkit.errors import CheckpointError, cut

CONFIG = "preprocessor_config.json"
OF_PROCESSOR = "processor_config.json"
"""has the same table under `image_processor`"""
INTERPOLATIONS: tuple[Interpolation, ...] = (
    "nearest",
    "lanczos",
    "bilinear",
    "bicubic",
    "box",
    "hamming",
)
"""in the order of Pillow's numbers"""
STANDARD = [0.5, 0.5, 0.5]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
Layout = Literal["plain", "convnext", "levit", "poolformer"]
"""how the sizes in the file become those of resize and crop"""


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor's defaults where they differ from these."""

    resample: int
    size: Mapping[str, int]
    normalised: tuple[list[float], list[float]] | None = (STANDARD, STANDARD)
    crop: Mapping[str, int] | None = None
    """None: no centre crop"""
    layout: Layout = "plain"
    square: bool = True
    """whether a size that is one number is that of a square"""
    converts: bool = False
    """whether it puts what is transparent on white, `do_convert_rgb`, unless a file says not"""
    crops: bool = True
    """whether it crops where a file says do_center_crop"""
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """As a file would have them."""
        mean, std = self.normalised or (STANDARD, STANDARD)
        return {
            "do_resize": True,
            "size": self.size,
            "resample": self.resample,
            "do_center_crop": self.crop is not None,
            "crop_size": self.crop,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": self.normalised is not None,
            "image_mean": mean,
            "image_std": std,
            "do_convert_rgb": self.converts,
            **self.others,
        }


_EDGE = {"shortest_edge": 224}
PROCESSORS: Mapping[str, Processor] = {
    "BeitImageProcessor": Processor(
        3, _square(224), others={"do_center_crop": False, "crop_size": _square(224)}
    ),
    "BitImageProcessor": Processor(3, _EDGE, CLIP, _square(224), square=False, converts=True),
    "CLIPImageProcessor": Processor(3, _EDGE, CLIP, _square(224), square=False, converts=True),
    "ConvNextImageProcessor": Processor(
        3, {"shortest_edge": 384}, layout="convnext", square=False, others={"crop_pct": 224 / 256}
    ),
    "DeiTImageProcessor": Processor(3, _square(256), crop=_square(224)),
    "EfficientNetImageProcessor": Processor(
        3,
        _square(346),
        others={
            "do_center_crop": False,
            "crop_size": _square(289),
            "rescale_offset": False,
            "include_top": True,
        },
    ),
    "LevitImageProcessor": Processor(3, _EDGE, IMAGENET, _square(224), "levit", square=False),
    "MobileNetV1ImageProcessor": Processor(
        2, {"shortest_edge": 256}, crop=_square(224), square=False
    ),
    "MobileNetV2ImageProcessor": Processor(
        2, {"shortest_edge": 256}, crop=_square(224), square=False
    ),
    "MobileViTImageProcessor": Processor(
        3, _EDGE, None, _square(256), square=False, others={"do_flip_channel_order": True}
    ),
    "PoolFormerImageProcessor": Processor(
        3, _EDGE, IMAGENET, _square(224), "poolformer", square=False, others={"crop_pct": 0.9}
    ),
    "PvtImageProcessor": Processor(3, _square(224), IMAGENET),
    "SegformerImageProcessor": Processor(2, _square(512), IMAGENET, crops=False),
    "SiglipImageProcessor": Processor(3, _square(224), square=False, converts=True),
    "ViTImageProcessor": Processor(2, _square(224)),
}
"""by class, as the library names them since version 5"""


@dataclass(frozen=True, slots=True)
class Processing:
    """What a processor does to a picture, in this order."""

    processor: str
    """its class, as the file names it"""
    slow: bool
    """whether Pillow resizes; else torch"""
    resize: int | tuple[int, int] | None
    """shorter side, or height and width"""
    interpolation: Interpolation
    crop: tuple[int, int] | None
    """height and width of the centre; zeros where there is less"""
    on_white: bool
    """whether a colour that stands for transparency becomes white"""
    normalisation: Normalisation

    def pipeline(self, channels: int) -> Pipeline:
        """As code carries it out; the library's loader of files turns pictures upright."""
        return Pipeline(
            library=f"transformers {installed('transformers') or ''}".strip(),
            processor=self.processor,
            resize=self.resize,
            interpolation=self.interpolation,
            by="Pillow" if self.slow else "torch",
            crop=self.crop,
            centre="rounded down, padded up" if self.slow else "rounded down",
            upright=True,
            on_white=self.on_white,
            channels=channels,
        )

    @property
    def output(self) -> tuple[int, int] | None:
        """Height and width of what it hands over, where they are the same for all pictures."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)


def read_processing(words: Mapping[str, Mapping[str, Any]], where: str) -> Processing | None:
    """What a folder says of its images; None where it says nothing.

    Raises:
        CheckpointError: a processor whose way is not known, or a value that makes no sense.
    """
    said, file = words.get(OF_PROCESSOR, {}).get("image_processor"), OF_PROCESSOR
    if not isinstance(said, Mapping):
        said, file = words.get(CONFIG), CONFIG
    if said is None:
        return None
    where = f"{where}: {file}"
    name, slow = _class(said, words.get("config.json", {}), where)
    known = PROCESSORS[name]
    given = known.defaults | {key: value for key, value in said.items() if value is not None}
    resize, crop = _geometry(known, given, where)
    resample = given["resample"]
    if type(resample) is not int or not 0 <= resample < len(INTERPOLATIONS):
        table.refuse(where, "resample", resample, "a resampling number of Pillow, 0 to 5")
    return Processing(
        name,
        slow,
        resize,
        INTERPOLATIONS[resample],
        crop,
        table.flag(given, "do_convert_rgb", where, default=False),
        _normalisation(given, where),
    )


def _class(said: Mapping[str, Any], config: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """The processor's class under its present name, and whether it is the slow one."""
    named = table.text(said, "image_processor_type", where)
    named = named or table.text(said, "feature_extractor_type", where)
    named = named.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    usual = OF_MODELS.get(str(config.get("model_type")), "")
    name = named.removesuffix("Pil") or f"{usual}ImageProcessor"
    if name not in PROCESSORS:
        what = f"image_processor_type {cut(named)}" if named else "no image_processor_type"
        raise CheckpointError(
            f"{where}: {what}: not an image processor that robustkit can reproduce "
            f"({', '.join(PROCESSORS)}); build the network in FILE.py, pass --model, and "
            "give the preprocessing with --resize, --crop, --mean and --std"
        )
    return name, named.endswith("Pil")


OF_MODELS = {
    "beit": "Beit", "convnext": "ConvNext", "convnextv2": "ConvNext", "cvt": "ConvNext",
    "deit": "DeiT", "dinov2": "Bit", "levit": "Levit", "mobilevit": "MobileViT",
    "poolformer": "PoolFormer", "regnet": "ConvNext", "resnet": "ConvNext",
    "segformer": "Segformer", "swin": "ViT", "swinv2": "ViT", "vit": "ViT",
}  # fmt: skip
"""the processors of models whose early files name none, as the library's table has them"""


def _geometry(
    known: Processor, given: Mapping[str, Any], where: str
) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """What is resized to, and what is cut out."""
    crop = None
    if known.crops and table.flag(given, "do_center_crop", where, default=False):
        cut_out = _size(given["crop_size"], "crop_size", where, square=True)
        if isinstance(cut_out, int):
            table.refuse(where, "crop_size", given["crop_size"], "a height and a width")
        crop = cut_out
    if table.flag(given, "do_pad", where, default=False):
        raise CheckpointError(f"{where}: do_pad: padding is not supported")
    if not table.flag(given, "do_resize", where, default=True):
        return None, crop
    size = _size(given["size"], "size", where, square=known.square)
    share = table.number(given.get("crop_pct", 1.0), "crop_pct", where)
    if not 0.05 <= share <= 1:
        table.refuse(where, "crop_pct", share, "a share of the image's side")
    match known.layout:
        case "convnext":
            return _as_convnext(size, share, crop, where)
        case "levit" if isinstance(size, int):
            return _checked(int(256 / 224 * size), where), crop
        case "poolformer" if isinstance(size, int) or size[0] == size[1]:
            side = size if isinstance(size, int) else size[0]
            return _checked(int(side / share), where), crop
        case "poolformer":
            table.refuse(where, "size", size, "a square")
        case _:
            return size, crop


def _as_convnext(
    size: int | tuple[int, int], share: float, crop: tuple[int, int] | None, where: str
) -> tuple[int | tuple[int, int], tuple[int, int] | None]:
    """The shorter side enlarged and a square cut out; from 384 on the whole picture, distorted."""
    if not isinstance(size, int):
        table.refuse(where, "size", size, "a shortest_edge")
    if crop is not None:
        table.refuse(where, "do_center_crop", True, "false, because it crops the square itself")
    if size >= 384:
        return (size, size), None
    return _checked(int(size / share), where), (size, size)


def _checked(side: int, where: str) -> int:
    return table.side(side, "size", where)


def _size(value: object, key: str, where: str, *, square: bool) -> int | tuple[int, int]:
    """The shorter side, or height and width."""
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, Mapping):
        side = table.side(value, key, where)
        return (side, side) if square else side
    known = {name: given for name, given in value.items() if given is not None}
    if set(known) == {"height", "width"}:
        return table.side(known["height"], key, where), table.side(known["width"], key, where)
    if set(known) != {"shortest_edge"}:
        table.refuse(where, key, dict(value), "height and width, or shortest_edge")
    return table.side(known["shortest_edge"], key, where)


def _normalisation(given: Mapping[str, Any], where: str) -> Normalisation:
    """The processor's arithmetic, a step after the other, as one mean and std of [0, 1] pixels."""
    flipped = table.flag(given, "do_flip_channel_order", where, default=False)
    factor = table.number(given["rescale_factor"], "rescale_factor", where)
    scale = 255 * factor if table.flag(given, "do_rescale", where, default=True) else 255.0
    if scale <= 0:
        table.refuse(where, "rescale_factor", factor, "a number above 0")
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale  # 1/255 is often written with few digits
    moved = -1.0 if table.flag(given, "rescale_offset", where, default=False) else 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if table.flag(given, "do_normalize", where, default=True):
        mean = table.numbers(given["image_mean"], "image_mean", where)
        std = table.numbers(given["image_std"], "image_std", where)
    # EfficientNet's divides by it once more
    top = table.flag(given, "include_top", where, default=False)
    again = table.numbers(given["image_std"], "image_std", where) if top else (1.0,)
    if len({len(mean), len(std), len(again)} - {1}) > 1 or min(*std, *again) <= 0:
        table.refuse(
            where, "image_std", given["image_std"], "as many numbers as image_mean, all above 0"
        )
    channels = max(len(mean), len(std), len(again))
    centre, spread, more = (v * (channels // len(v)) for v in (mean, std, again))
    centre = tuple((value - moved) / scale for value in centre)
    spread = tuple(value * other / scale for value, other in zip(spread, more, strict=True))
    if not any(centre) and set(spread) == {1.0}:
        return Normalisation(flipped=flipped)
    return Normalisation(centre, spread, flipped)
