"""Pixels from picture files: robustkit's beside those of the libraries' own pipelines, byte by byte.

    python tests/benchmarks/pictures.py [WORD ...]

A matrix of picture files (JPEG, PNG, WebP, GIF, TIFF and BMP; colour, grey, palette, transparent, CMYK,
1-bit; turned by EXIF, with an ICC profile, animated; odd sizes, smaller than the crop, very long) and of
pipelines: every image processor of transformers that is known, by Pillow and by torch, in every
interpolation; timm's transforms for evaluation, in every interpolation and mode; torchvision's for its
weights; and, without a pipeline, torchvision's `ImageFolder` with Resize and CenterCrop. A row has how many
bytes of how many differ; target: 0. Where one side refuses a picture, that is told. WORD keeps the rows
whose names have it in them.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import numpy as np
import timm.data
import torchvision
import transformers
from PIL import Image, ImageCms
from torchvision.transforms import v2
from transformers.image_utils import load_image

from robustkit.checkpoint.libraries import timm as timm_folder
from robustkit.checkpoint.libraries.processing import INTERPOLATIONS, PROCESSORS, read_processing
from robustkit.data import load_dataset
from robustkit.errors import RobustkitError

SIZES = ((90, 71), (64, 64), (33, 51), (20, 17), (300, 9), (7, 260), (1, 1))
"""width and height"""
Pixels = np.ndarray[Any, Any]


class Row(NamedTuple):
    """A pipeline on both sides."""

    name: str
    ours: dict[str, Any]
    """how `load_dataset` is asked"""
    theirs: Callable[[Path], Any]
    """C x H x W, from 0 to 255"""


def draw_pictures(folder: Path) -> list[Path]:
    """One picture a file, each in a folder of its own, so that sizes may differ."""
    rng = np.random.default_rng(0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    paths = []
    for width, height in SIZES:
        colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        alpha = Image.fromarray(rng.integers(0, 256, (height, width), np.uint8))
        clear = colours.copy()
        clear.putalpha(alpha)
        grey = colours.convert("L")
        exif = Image.Exif()
        files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
            "rgb.jpg": (colours, {}),
            "grey.jpg": (grey, {}),
            "cmyk.jpg": (colours.convert("CMYK"), {}),
            "profile.jpg": (colours, {"icc_profile": profile}),
            "rgb.png": (colours, {}),
            "rgba.png": (clear, {}),
            "grey.png": (grey, {}),
            "grey_alpha.png": (clear.convert("LA"), {}),
            "palette.png": (colours.convert("P"), {}),
            "palette_clear.png": (colours.convert("P"), {"transparency": 3}),
            "bits.png": (colours.convert("1"), {}),
            "rgb.webp": (colours, {}),
            "rgba.webp": (clear, {}),
            "animated.gif": (colours, {"save_all": True, "append_images": [grey]}),
            "animated.webp": (colours, {"save_all": True, "append_images": [clear]}),
            "rgb.bmp": (colours, {}),
            "cmyk.tif": (colours.convert("CMYK"), {}),
        }
        for turn in (2, 3, 5, 6, 8):
            exif[0x0112] = turn
            files[f"exif{turn}.jpg"] = (colours, {"exif": exif.tobytes()})
        exif[0x0112] = 6
        files["exif6.png"] = (clear, {"exif": exif.tobytes()})
        files["exif6.webp"] = (colours, {"exif": exif.tobytes()})
        for name, (picture, options) in files.items():
            place = folder / f"{width}x{height}-{name}" / "a"
            place.mkdir(parents=True)
            picture.save(place / name, **options)
            paths.append(place / name)
    return paths


def of_transformers() -> Iterator[Row]:
    """Every processor as it is, and with other sizes and interpolations."""
    small: dict[str, dict[str, Any]] = {
        "convnext": {"size": {"shortest_edge": 33}},
        "levit": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        "poolformer": {"size": {"shortest_edge": 31}, "crop_size": {"height": 32, "width": 32}},
    }
    plain = (
        {"size": {"height": 32, "width": 29}},
        {
            "size": {"height": 40, "width": 40},
            "crop_size": {"height": 33, "width": 32},
            "do_center_crop": True,
        },
        {
            "size": {"height": 24, "width": 24},
            "crop_size": {"height": 33, "width": 28},
            "do_center_crop": True,
        },
    )
    edges = (
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 32}, "do_center_crop": True},
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 33, "width": 28}, "do_center_crop": True},
    )  # fmt: skip
    for name, known in PROCESSORS.items():
        choices: tuple[dict[str, Any], ...] = (
            (small[known.layout],) if known.layout in small else plain if known.square else edges
        )
        for slow in (False, True):
            kind = getattr(transformers, f"{name}Pil" if slow else name)
            for settings in choices:
                for resample, called in enumerate(INTERPOLATIONS):
                    said = {**settings, "resample": resample}
                    try:
                        made = kind(**said)
                    except ValueError:
                        continue
                    table = {**said, "image_processor_type": kind.__name__}
                    found = read_processing({"preprocessor_config.json": table}, name)
                    assert found is not None
                    title = f"transformers {kind.__name__} {called} {_sizes(settings)}"
                    yield Row(title, {"pipeline": found.pipeline(3)}, _by_processor(made))


def _sizes(settings: dict[str, Any]) -> str:
    said = [settings["size"], settings.get("crop_size", {})]
    return " ".join("x".join(map(str, one.values())) for one in said if one)


def _by_processor(made: Any) -> Callable[[Path], Any]:
    off = dict.fromkeys(("do_rescale", "do_normalize"), False)
    for name in ("include_top", "do_flip_channel_order"):
        if hasattr(made, name):
            off[name] = False
    return lambda path: np.asarray(made(load_image(str(path)), **off)["pixel_values"][0])


def of_timm() -> Iterator[Row]:
    """The transform for evaluation of a `pretrained_cfg`."""
    for mode in ("center", "squash", "border"):
        for size, share in (((3, 32, 32), 0.875), ((3, 33, 33), 1.0), ((3, 32, 24), 0.9)):
            for called in INTERPOLATIONS:
                cfg = {
                    "input_size": list(size), "crop_pct": share, "crop_mode": mode,
                    "interpolation": called, "mean": [0.4, 0.5, 0.45], "std": [0.2, 0.2, 0.2],
                }  # fmt: skip
                try:
                    pipeline = timm_folder.pipeline({"pretrained_cfg": cfg}, "config.json")
                except RobustkitError as error:
                    print(f"{'timm':70} refused: {error}")
                    break
                asked = timm.data.resolve_data_config(pretrained_cfg=cfg)
                made = timm.data.create_transform(**asked, normalize=False)
                title = f"timm {mode} {called} {size} {share}"
                yield Row(title, {"pipeline": pipeline}, _of_colour(made))


def _of_colour(made: Any) -> Callable[[Path], Any]:
    return lambda path: np.asarray(made(Image.open(path).convert("RGB")))


def of_torchvision() -> Iterator[Row]:
    """The usual ImageFolder, in every interpolation."""
    for called in INTERPOLATIONS:
        for resize, crop in ((33, 32), (40, 40), (300, 224)):
            how = v2.InterpolationMode[called.upper()]
            steps = v2.Compose([v2.Resize(resize, how), v2.CenterCrop(crop), v2.PILToTensor()])
            ours = {"resize": resize, "crop": crop, "interpolation": called, "channels": 3}
            yield Row(f"torchvision {called} {resize} {crop}", ours, _of_loader(steps))


def _of_loader(steps: Any) -> Callable[[Path], Any]:
    loader = torchvision.datasets.folder.default_loader
    return lambda path: np.asarray(steps(loader(str(path))))


def difference(row: Row, path: Path) -> tuple[int, int, str]:
    """Bytes that differ, bytes in all, and who refused."""
    try:
        data = load_dataset(str(path.parent.parent), **row.ours)
        ours = np.rint(data.images(0, 1)[0] * 255)
    except RobustkitError as error:
        return 0, 0, str(error).partition(": ")[2]
    try:
        theirs = row.theirs(path)
    except Exception as error:
        return 0, 0, f"library: {type(error).__name__}: {error}"
    if ours.shape != theirs.shape:
        return theirs.size, theirs.size, ""
    return int((ours != theirs).sum()), theirs.size, ""


def main(words: list[str]) -> int:
    """Print a row a pipeline; status 1 where a byte differs."""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        paths = draw_pictures(Path(place))
        rows = [row for make in (of_torchvision, of_timm, of_transformers) for row in make()]
        for row in rows:
            if not all(word in row.name for word in words):
                continue
            found = {path: difference(row, path) for path in paths}
            differ = sum(one[0] for one in found.values())
            refused = [path for path, one in found.items() if one[2]]
            total = sum(one[1] for one in found.values())
            bad += differ
            text = f"{row.name:70} {differ:>8} of {total:>9} bytes"
            if differ:
                worst = max(found, key=lambda path: found[path][0])
                count = sum(one[0] > 0 for one in found.values())
                text += f"; {count} files, as {worst.name} {worst.parent.parent.name}"
            if refused:
                text += f"; {len(refused)} refused: {refused[0].name}: {found[refused[0]][2][:90]}"
            print(text, flush=True)
    print(f"{bad} bytes differ")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
