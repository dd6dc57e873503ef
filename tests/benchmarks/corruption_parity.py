"""The corruptions beside the published code, given the same draws.

Usage: python tests/benchmarks/corruption_parity.py [--official DIR] [--root DIR] [--small 32]
       [--large 4] [--only NAME]

Needs an environment of its own, where the references still run: robustkit, imagecorruptions 1.1.2,
opencv < 4.11, scikit-image 0.20, scipy < 1.12, numpy < 2, setuptools < 80; and for `--official`
wand with ImageMagick 6. DIR holds the benchmarks' make_cifar_c.py, make_imagenet_c.py and their
frost images; without it only imagecorruptions is compared, which has ImageNet-C's constants.

Both corrupt the same images of 8 bits: CIFAR-10's first test images, and the same enlarged to 224
pixels. What a reference draws is recorded and fed to ours. Differences are in levels of 255, over
all severities; where the draws cannot be fed, both are described: mean, standard deviation and PSNR
to the clean images in dB, severity by severity.
"""

import argparse
import ast
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustkit.corruption import NAMES, SEVERITIES, corrupt, parameters
from robustkit.corruption.kinds import KINDS
from robustkit.data import load_dataset

warnings.simplefilter("ignore")
Functions = dict[str, Any]
Recorded = list[tuple[str, tuple[Any, ...], np.ndarray]]


class Reference(NamedTuple):
    """A module of functions that corrupt a PIL image."""

    title: str
    side: int
    functions: Functions
    folder: Path


def published(path: Path, side: int, title: str) -> Reference:
    """The imports, functions and classes of a script, without running the rest of it."""
    space: Functions = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            if not ast.unparse(node).startswith("wandlibrary"):
                continue
        elif "torch" in ast.unparse(node)[:20]:
            continue
        with suppress(ImportError, NameError):
            exec(compile(ast.Module([node], []), str(path), "exec"), space)
    space["gaussian"] = _gaussian(space["gaussian"])
    return Reference(title, side, space, path.parent)


def packaged() -> Reference:
    """imagecorruptions."""
    from imagecorruptions import corruptions  # the one import that need not be there

    corruptions.gaussian = _gaussian(corruptions.gaussian)
    return Reference("imagecorruptions", 224, vars(corruptions), Path())


def _gaussian(function: Callable[..., Any]) -> Callable[..., Any]:
    """scikit-image's filter with the argument that it has renamed since."""

    def call(image: np.ndarray, *arguments: Any, **settings: Any) -> Any:
        if settings.pop("multichannel", False):
            settings["channel_axis"] = -1
        return function(image, *arguments, **settings)

    return call


@contextmanager
def recording(functions: Functions) -> Iterator[Recorded]:
    """What is drawn from numpy's global generator, in order: function, arguments, numbers."""
    found: Recorded = []
    with ExitStack() as stack:
        for function in ("normal", "uniform", "randint", "poisson"):
            original = getattr(np.random, function)

            def draw(*args: Any, _call: Any = original, _name: str = function, **named: Any) -> Any:
                numbers = _call(*args, **named)
                found.append((_name, args, np.asarray(numbers)))
                return numbers

            stack.enter_context(mock.patch.object(np.random, function, draw))

        def salt_and_pepper(
            image: np.ndarray,
            *args: Any,
            _call: Any = functions["sk"].util.random_noise,
            **named: Any,
        ) -> Any:
            rng = np.random.default_rng(7)
            found.append(("random", (), np.stack([rng.random(image.shape) for _ in range(2)])))
            return _call(image, *args, **named, seed=7)

        stack.enter_context(
            mock.patch.object(functions["sk"].util, "random_noise", salt_and_pepper)
        )
        yield found


def fed(
    name: str, constants: tuple[float, ...], found: Recorded, side: int
) -> tuple[Tensor, ...] | None:
    """A reference's draws as ours; None where they mean something else."""
    numbers = [torch.from_numpy(np.array(values)) for _, _, values in found]
    match name:
        case "gaussian-noise":
            return (numbers[0].permute(2, 0, 1) / constants[0],)
        case "shot-noise":
            return (numbers[0].permute(2, 0, 1).double(),)
        case "impulse-noise":
            return (numbers[0].permute(0, 3, 1, 2),)
        case "motion-blur":
            return (numbers[0],)
        case "snow":
            return (numbers[0] - constants[0]) / constants[1], numbers[1]
        case "fog":
            return (
                torch.cat(
                    [n.flatten() / args[1] for n, (_, args, _) in zip(numbers, found, strict=True)]
                ),
            )
        case "elastic-transform" if len(numbers) == 3:
            return numbers[0] / constants[2], torch.stack(numbers[1:])
        case "glass-blur":
            reach, rounds = int(constants[1]), int(constants[2])
            steps = torch.zeros(rounds, 2, side, side, dtype=torch.int64)
            n = side - 2 * reach
            # drawn from the last pixel to the first; across, then down
            drawn = torch.stack(numbers).view(rounds, n, n, 2).flip((1, 2))
            steps[:, :, reach + 1 : side - reach + 1, reach + 1 : side - reach + 1] = drawn.flip(
                3
            ).permute(0, 3, 1, 2)
            return (steps,)
        case "frost" | "elastic-transform":
            return None
    return ()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def compare(reference: Reference, name: str, images: np.ndarray, ids: list[str]) -> str:
    """One line of the table; images are uint8 N × H × W × C."""
    function = reference.functions[name.replace("-", "_")]
    levels = parameters(name, reference.side, reference.side).levels
    differences, described = [], []
    for severity in SEVERITIES:
        np.random.seed(severity)
        theirs, ours = [], []
        for image in images:
            with recording(reference.functions) as found:
                theirs.append(np.uint8(function(Image.fromarray(image), severity)))
            drawn = fed(name, levels[severity - 1], found, reference.side)
            if drawn is not None:
                pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
                result = KINDS[name].apply(
                    pixels, levels[severity - 1], tuple(d[None] for d in drawn)
                )
                ours.append(result[0].numpy().transpose(1, 2, 0))
        if not ours:
            batch = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
            made = corrupt(batch, name, severity, ids)
            ours = list((made * 255).round().numpy().transpose(0, 2, 3, 1))
            described.append(
                tuple((np.mean(x), np.std(x), psnr(np.array(x), images)) for x in (theirs, ours))
            )
        else:
            differences.append(np.abs(np.array(theirs).astype(int) - np.array(ours)))
    if described:
        return "; ".join(
            f"{severity}: " + " | ".join(f"{a:.1f} {b:.1f} {c:.2f} dB" for a, b, c in pair)
            for severity, pair in zip(SEVERITIES, described, strict=True)
        )
    every = np.stack(differences)
    return f"max {every.max():3d}  mean {every.mean():.5f}  alike {100 * (every == 0).mean():.3f} %  beyond 1 {100 * (every > 1).mean():.4f} %"


def pictures(side: int, count: int, root: Path | None) -> tuple[np.ndarray, list[str]]:
    """CIFAR-10's first test images as uint8 N × side × side × 3, and their ids."""
    found = load_dataset("cifar10", root=root, limit=count)
    stored = (found.images(0, count) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    resized = [
        np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC))
        for x in stored
    ]
    return np.stack(resized), list(found.ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--small", type=int, default=32, help="images of 32 pixels")
    parser.add_argument("--large", type=int, default=4, help="images of 224 pixels")
    parser.add_argument("--only", choices=NAMES)
    given = parser.parse_args()
    references = [packaged()]
    if given.official:
        folder = given.official.resolve()
        references.insert(0, published(folder / "make_cifar_c.py", 32, "CIFAR-10-C"))
        references.insert(1, published(folder / "make_imagenet_c.py", 224, "ImageNet-C"))
    for reference in references:
        count = given.small if reference.side == 32 else given.large
        images, ids = pictures(reference.side, count, given.root)
        print(f"\n{reference.title}, {count} images of {reference.side} pixels", flush=True)
        os.chdir(reference.folder)
        for name in [given.only] if given.only else NAMES:
            try:
                line = compare(reference, name, images, ids)
            except Exception as error:  # a reference may break in any way
                line = f"not compared: {type(error).__name__}: {error}"
            print(f"{name:18} {line}", flush=True)


if __name__ == "__main__":
    main()
