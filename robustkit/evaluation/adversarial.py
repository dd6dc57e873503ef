"""The perturbed images as .npz: float32, never 8 bits, which would undo the attack."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from robustkit.errors import EvaluationFailed
from robustkit.files import writing
from robustkit.record import Blocks


def save_adversarial(
    path: Path, blocks: Blocks, rows: pa.Table, shape: tuple[int, int, int], count: int
) -> None:
    """Write the perturbed images of all blocks, N × C × H × W, and whose they are.

    Streamed block by block. Where nothing was found the clean image stands; `distance` is then NaN.

    Args:
        path: the file.
        blocks: hold the images.
        rows: one per image.
        shape: C, H, W.
        count: of blocks.

    Raises:
        EvaluationFailed: the file cannot be written, or a block's images are gone.
    """
    with writing(path) as target, zipfile.ZipFile(target, "w") as archive:
        # one row after the other: numpy.savez would need all images in memory at once
        with archive.open("images.npy", "w", force_zip64=True) as file:
            description = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), *shape)}
            np.lib.format.write_array_header_2_0(file, description)
            for images in _pieces(path, blocks, count):
                file.write(np.ascontiguousarray(images, dtype="<f4").tobytes())
        for name, column in _columns(rows).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, column, allow_pickle=False)


def _pieces(path: Path, blocks: Blocks, count: int) -> Iterator[npt.NDArray[np.float32]]:
    for number in range(count):
        images = blocks.images(number)
        if images is None:
            raise EvaluationFailed(f"{path}: the images of block {number} are missing; run again")
        yield images


def _columns(rows: pa.Table) -> Mapping[str, npt.NDArray[np.generic]]:
    numbers = {
        name: rows[name].to_numpy(zero_copy_only=False) for name in ("index", "label", "distance")
    }
    return numbers | {
        "sample": np.array(rows["sample"].to_pylist(), dtype=str),
        "fooled_at": np.array([t or "" for t in rows["fooled_at"].to_pylist()], dtype=str),
    }
