"""The finished blocks of an evaluation that still runs, each written whole and sealed.

A block counts where it is one of this very evaluation, as it was written; any other is attacked
again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.files import canonical, digest, write_atomic
from robustkit.record.evaluation import SCHEMA, Example, rows_digest
from robustkit.record.examples import decode_examples, encode_examples
from robustkit.record.file import (
    UNREADABLE,
    beside,
    decode_array,
    encode,
    encode_array,
    parquet_bytes,
)


class FinishedBlock(NamedTuple):
    """What is kept of a block."""

    rows: pa.Table
    images: str | None
    """digest of the file of its perturbed images; None: not kept"""
    proof: Mapping[str, Any] = MappingProxyType({})
    """what proving its images took, and what attacks left undone"""


class Blocks:
    """The finished blocks of an evaluation that still runs."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.folder = final.with_suffix(".partial")

    def plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The plan that the first run wrote (batch size and the like); else `wanted`, now kept."""
        found = self.kept_plan()
        if found is not None:
            return found
        self.replan(wanted)
        return dict(wanted)

    def kept_plan(self) -> dict[str, Any] | None:
        """The plan on file; None where there is none, or not as it was written."""
        with suppress(*UNREADABLE):
            plan = dict(json.loads((self.folder / "plan.json").read_text(encoding="utf-8")))
            seal = plan.pop("digest")
            if seal == digest(canonical(plan)):
                return plan
        return None

    def replan(self, plan: Mapping[str, Any]) -> None:
        """Keep a plan that the run had to change."""
        sealed = {**plan, "digest": digest(canonical(dict(plan)))}
        write_atomic(self.folder / "plan.json", canonical(sealed).encode())

    def done(self, block: int, first: int, count: int) -> FinishedBlock | None:
        """A finished block; None where it is missing, damaged, changed or another one.

        Args:
            block: its number.
            first: index of its first image.
            count: of its images.
        """
        found = self.find(block)
        if found is None:
            return None
        same = found.rows["index"].to_pylist() == [*range(first, first + count)]
        return found if same else None

    def find(self, block: int) -> FinishedBlock | None:
        """Likewise, wherever its images stand in the data set."""
        with suppress(*UNREADABLE):
            file = pq.ParquetFile(pa.BufferReader(self._path(block).read_bytes()))
            metadata = file.schema_arrow.metadata
            text = metadata[b"robustkit.block"]
            stored = file.read(use_threads=False)  # as in `read_table`
            said, rows = json.loads(text), stored.replace_schema_metadata(None).cast(SCHEMA)
            if (
                metadata[b"robustkit.digest"].decode() == digest(text)
                and said["rows_digest"] == rows_digest(rows)
                and [said["evaluation"], said["block"]] == [self.final.stem, block]
            ):
                return FinishedBlock(rows, said["images"], said["proof"])
        return None

    def write(
        self,
        block: int,
        rows: pa.Table,
        examples: Sequence[Example],
        images: npt.NDArray[np.float32] | None = None,
        proof: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Keep a finished block, and the examples found so far. The rows come last: they count.

        Args:
            block: its number.
            rows: one per image.
            examples: the smallest perturbations of all blocks so far.
            images: its perturbed images, N × C × H × W, where they are to be kept, too.
            proof: what proving its images took.
        """
        kept = None
        if images is not None:
            content = encode_array(images)
            kept = digest(content)
            write_atomic(self._images(block), content)
        write_atomic(beside(self._folder_file(), "examples"), encode_examples(examples, True))
        said = {
            "evaluation": self.final.stem,
            "block": block,
            "rows_digest": rows_digest(rows),
            "images": kept,
            "proof": dict(proof),
        }
        text = canonical(said)
        metadata = {"robustkit.block": text, "robustkit.digest": digest(text)}
        write_atomic(self._path(block), parquet_bytes(rows.replace_schema_metadata(metadata)))

    def images(self, block: int) -> npt.NDArray[np.float32] | None:
        """A block's perturbed images; None where they were not kept, or are other ones."""
        found = self.find(block)
        if found is None or found.images is None:
            return None
        with suppress(OSError):
            content = self._images(block).read_bytes()
            return decode_array(content) if digest(content) == found.images else None
        return None

    def keep_outputs(self, outputs: npt.NDArray[np.float64]) -> None:
        """Keep a module's logits on fixed noise, N × K, before the first block."""
        write_atomic(self.folder / "outputs.npy", encode_array(outputs))

    def outputs(self) -> npt.NDArray[np.float64] | None:
        """The logits on fixed noise of the module whose blocks these are, where they were kept."""
        with suppress(OSError):
            return decode_array((self.folder / "outputs.npy").read_bytes())
        return None

    def examples(self) -> list[Example]:
        """The examples of the blocks so far."""
        return decode_examples(beside(self._folder_file(), "examples"))

    def finish(self, header: Mapping[str, Any], run: Mapping[str, Any], rows: pa.Table) -> None:
        """Write the one final file, then drop the blocks."""
        write_atomic(beside(self.final, "examples"), encode_examples(self.examples(), True))
        outputs = self.outputs()
        kept = None if outputs is None else encode_array(outputs)
        write_atomic(self.final, encode(header, run, rows, kept))
        self.drop()

    def drop(self) -> None:
        """Forget all blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_unless_begun(self) -> None:
        """Forget plans for blocks of which none is done."""
        if not self.begun():
            self.drop()

    def begun(self) -> bool:
        """Whether a block is done."""
        return any(self.folder.glob("block-*.parquet"))

    def _path(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.parquet"

    def _images(self, block: int) -> Path:
        return self.folder / f"block-{block:06d}.npy"

    def _folder_file(self) -> Path:
        return self.folder / "best.parquet"
