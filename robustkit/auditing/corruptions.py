"""Accuracy under common corruptions: made here, or images that others published."""

from collections.abc import Callable, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit import corruption
from robustkit.attacks.lasting import held_throughout
from robustkit.auditing.cache import Parts
from robustkit.auditing.outcome import Corrupted, Corruptions
from robustkit.auditing.stages import TIME_UP, OutOfTime
from robustkit.corruption.draws import VERSION as DRAWS
from robustkit.corruption.measuring import predict
from robustkit.corruption.published import arranged
from robustkit.data import Dataset
from robustkit.data.corrupted import CLEAN
from robustkit.statistics import Estimate, proportion

GROUPS = {name: group for group, names in corruption.GROUPS.items() for name in names}
OTHER = "other"
"""group of corruptions that are none of the fifteen"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionRun:
    """What it takes to try a network on corrupted images, as a part of an audit."""

    model: Callable[[], torch.nn.Module]
    """frozen, on `device`"""
    parts: Parts
    batch_size: int
    device: torch.device
    seed: int
    begin: Callable[[str, int], Callable[[float], None]]
    """tells what begins and on how many images, and gives what is told how many are done"""
    over: Callable[[], bool]
    """whether the time is up"""

    def procedural(self, images: Dataset) -> Corruptions:
        """The fifteen corruptions at five severities, made of these images."""
        n, (channels, height, width) = len(images), images.shape
        if channels not in (1, 3) or min(height, width) < corruption.SMALLEST:
            reason = f"not defined for images of {channels} × {height} × {width}"
            return Corruptions(n=n, reason=reason)
        key = self.parts.key("corruptions", images, DRAWS)
        right = np.array(self.parts.part(key, lambda: self._made(images))["right"])
        rows = tuple(
            Corrupted(
                name,
                GROUPS[name],
                tuple(proportion(int(k), n, "exact") for k in row),
                corruption.SEVERITIES,
            )
            for name, row in zip(corruption.NAMES, right, strict=True)
        )
        notes = corruption.departure_notes(corruption.NAMES, height, width, channels)
        return Corruptions(rows, float(right.mean() / n), notes, n)

    def _made(self, images: Dataset) -> dict[str, Any]:
        n = len(images)
        watch = self.begin("common corruptions", n)

        def progress(done: int, total: int) -> None:
            watch(n * done / total)
            if self.over():
                raise OutOfTime(TIME_UP)

        right = corruption.measure(
            self.model(),
            images.images,
            images.labels,
            images.ids,
            self.batch_size,
            seed=self.seed,
            device=self.device,
            progress=progress,
        )
        return {"right": right.sum(2).tolist()}

    def published(
        self, levels: Sequence[Callable[[], Dataset]], sources: MutableMapping[str, str]
    ) -> Corruptions:
        """The levels of a set of corrupted images.

        Args:
            levels: each gives one, which is read when its turn comes.
            sources: is told the digest of each level's images, and of the files that they are in.
        """
        found: dict[str, dict[int | None, Estimate]] = {}
        told: dict[str, str] = {}
        for load in levels:
            images = load()
            source = images.source
            folder, files = Path(source["folder"]).name, source.get("sha256", {})
            told |= {images.split: images.digest}
            told |= {f"{folder}/{name}": sha256 for name, sha256 in files.items()}
            key = self.parts.key("corruptions", images, "published")
            right = self.parts.part(key, partial(self._seen, images))["right"]
            accuracy = proportion(int(right), len(images), "exact")
            found.setdefault(source["corruption"], {})[source["severity"]] = accuracy
        table = arranged(found)
        rows = tuple(
            Corrupted(name, GROUPS.get(name, OTHER), tuple(row.values()), tuple(row))
            for name, row in sorted(table.rows.items(), key=lambda item: item[0] not in GROUPS)
        )
        n = max(s.n for row in rows for s in row.severities)
        sources.update(told)
        notes = [f"Images as published, of {images.name}; digests are under Provenance."]
        left_out = [name for name in table.rows if name not in (*table.counted, *CLEAN)]
        if not table.even:
            notes.append("No mean: severities differ from corruption to corruption.")
        elif left_out:
            notes.append(
                f"The mean is over the benchmark's fifteen, without {', '.join(left_out)}."
            )
        error = table.mean_error
        return Corruptions(rows, None if error is None else 1 - error, tuple(notes), n)

    def _seen(self, images: Dataset) -> dict[str, Any]:
        """How many images of a level are right."""
        watch = self.begin(f"corruption: {images.split}", len(images))
        model, right = self.model(), 0
        size = self.batch_size
        with ExitStack() as stack:
            for start in range(0, len(images), size):
                if self.over():
                    raise OutOfTime(TIME_UP)
                block = torch.from_numpy(images.images(start, start + size)).to(self.device)
                if start == 0:
                    model = stack.enter_context(held_throughout(model, block, batch=size))
                labels = images.labels[start : start + size]
                right += int((predict(model, block, images.split, start) == labels).sum())
                watch(min(start + size, len(images)))
        return {"right": right}
