"""The record of a certification: each image certified, fooled or open at one ε, kept as it grows.

`OUT/certification-DIGEST.npz` holds two arrays: `record`, a JSON text with header and rows, and
`perturbed`, the verified counterexamples, float32 F × C × H × W, to which rows refer by number.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from robustkit.attack import Block
from robustkit.certification import OUTCOMES, REVISION, Decision, Outcome, decide
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.errors import InputError, RecordError, first_line
from robustkit.evaluation.config import Config, record_header
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.probe import probe
from robustkit.evaluation.run import RunOptions
from robustkit.files import canonical, digest, write_atomic
from robustkit.keys import CertificationKey
from robustkit.protocol import Protocol
from robustkit.record import Store
from robustkit.statistics import Estimate, Method, proportion

SCHEMA = "robustkit.certification/1"
BATCH = 32
"""images at once, where the user names no other number"""
OFTEN = 2.0
"""seconds between two writes of what is known so far"""
UNREADABLE = (OSError, EOFError, KeyError, TypeError, ValueError, RecursionError, BadZipFile)
Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CertifiedImage:
    """One row: an image and what became of it."""

    sample: str
    """id of the image, from its pixels"""
    index: int
    """place in the data set's order"""
    label: int
    predicted: int
    """class of the clean image"""
    outcome: Outcome
    by: str
    """the method that proved it, or the attack that fooled it; "" where it is open"""
    margin: float | None
    """a lower bound of the smallest logit_label − logit_other within ε; None where none is known"""
    distance: float | None
    """of the counterexample; 0 for a clean mistake"""
    fooled_as: int | None
    """its class"""
    domains: int
    """how many branch and bound has bounded"""
    seconds: float
    """that branch and bound took"""
    time_limit: float
    """that it was given"""
    perturbed: int | None = None
    """place of the counterexample among those of the record"""


@dataclass(frozen=True, slots=True)
class Certification:
    """What is proved, what is refuted and what is not known of each image at one ε."""

    header: Mapping[str, Any]
    """checkpoint, data, protocol and engine, as of an evaluation's record"""
    rows: Sequence[CertifiedImage]
    perturbed: Images
    """counterexamples, F × C × H × W"""
    path: Path

    def count(self, outcome: Outcome) -> int:
        """Images that ended so."""
        return sum(row.outcome == outcome for row in self.rows)

    def share(self, outcome: Outcome, method: Method = "wilson") -> Estimate:
        """Their share of all images, with its interval."""
        return proportion(self.count(outcome), len(self.rows), method)

    def upper(self, method: Method = "wilson") -> Estimate:
        """The share of images that nothing has fooled: robust accuracy is at most that."""
        return proportion(len(self.rows) - self.count("fooled"), len(self.rows), method)


def certify_images(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    time_limit: float,
    options: RunOptions,
) -> Certification:
    """Each image's outcome: from its file, else found now.

    An image that is open on file is tried again where it is given more time.

    Raises:
        InputError: not one ε without a target, or a network without bounds.
        EvaluationFailed: logits that are NaN or infinite.
        RecordError: the file was changed since it was written.
    """
    if len(protocol.epsilons) != 1:
        raise InputError(f"{len(protocol.epsilons)} budgets: one --epsilon is needed")
    config = Config(model, data, protocol, find_device(options.device))
    header = _header(config)
    name, store = str(header["digest"]), Store(out)
    path = out / f"certification-{name[:32]}.npz"
    with store.claim(name, options.waiting):
        run = _Run(config, header, path, time_limit, options)
        run.complete({} if options.fresh else _known(path, name))
    return read_certification(path)


def _header(config: Config) -> dict[str, Any]:
    whole, key = record_header(config), config.key
    own = CertificationKey(
        revision=REVISION,
        checkpoint=key.checkpoint,
        data=key.data,
        protocol=key.protocol,
        engine=key.engine,
    )
    return {**whole, "schema": SCHEMA, "digest": own.digest, "evaluation": whole["digest"]}


@dataclass(slots=True)
class _Run:
    config: Config
    header: Mapping[str, Any]
    path: Path
    time_limit: float
    options: RunOptions

    def complete(self, known: "dict[int, tuple[CertifiedImage, Images | None]]") -> None:
        """Decide what is not, and write as it goes; what is interrupted keeps what it has."""
        left = [i for i in range(len(self.config.data)) if not self._settled(known.get(i))]
        if not left:
            return
        device = self.config.device
        network = self.config.model.load(device)
        probe(network, self.config.data, device)
        batch = self.options.batch_size
        decisions = decide(
            network,
            self._block(left),
            self.config.protocol,
            time_limit=self.time_limit,
            batch_size=BATCH if batch == "auto" else batch,
        )
        written = time.monotonic()
        try:
            for row, decision in decisions:
                known[left[row]] = self._row(left[row], decision)
                self.options.progress(len(known), len(self.config.data))
                if time.monotonic() > written + OFTEN:
                    self._write(known)
                    written = time.monotonic()
        finally:
            self._write(known)

    def _settled(self, found: "tuple[CertifiedImage, Images | None] | None") -> bool:
        return found is not None and (
            found[0].outcome != "open" or found[0].time_limit >= self.time_limit
        )

    def _block(self, rows: Sequence[int]) -> Block:
        data = self.config.data.take(rows)
        images, labels = data.images(0, len(rows)), data.labels.copy()
        device = self.config.device
        return Block(
            torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device), data.ids, 0
        )

    def _row(self, index: int, found: Decision) -> "tuple[CertifiedImage, Images | None]":
        row = CertifiedImage(
            sample=self.config.data.ids[index],
            index=index,
            label=int(self.config.data.labels[index]),
            predicted=found.predicted,
            outcome=found.outcome,
            by=found.by,
            margin=found.margin if np.isfinite(found.margin) else None,
            distance=found.distance,
            fooled_as=found.fooled_as,
            domains=found.domains,
            seconds=round(found.seconds, 3),
            time_limit=self.time_limit,
        )
        return row, None if found.perturbed is None else found.perturbed.numpy()

    def _write(self, known: "Mapping[int, tuple[CertifiedImage, Images | None]]") -> None:
        rows: list[dict[str, Any]] = []
        images: list[Images] = []
        for index in sorted(known):
            row, image = known[index]
            rows.append({**asdict(row), "perturbed": None if image is None else len(images)})
            images += [] if image is None else [image]
        perturbed = np.stack(images) if images else np.zeros((0, *self.config.data.shape), "<f4")
        details = {"robustkit": version("robustkit"), "torch": torch.__version__}
        text = canonical({"header": self.header, "run": details, "rows": rows})
        buffer = BytesIO()
        np.savez(
            buffer,
            record=np.array(text),
            perturbed=perturbed.astype("<f4"),
            seal=np.array(_seal(text, perturbed)),
        )
        write_atomic(self.path, buffer.getvalue())


def _seal(text: str, perturbed: Images) -> str:
    return digest(text.encode(), np.ascontiguousarray(perturbed, "<f4").tobytes())


def _known(path: Path, name: str) -> "dict[int, tuple[CertifiedImage, Images | None]]":
    """What is on file, by image."""
    if not path.exists():
        return {}
    found = read_certification(path)
    if found.header["digest"] != name:
        raise RecordError(f"{path}: is of another certification than its name says; delete it")
    return {
        row.index: (row, None if row.perturbed is None else found.perturbed[row.perturbed])
        for row in found.rows
    }


def read_certification(path: Path | str) -> Certification:
    """A certification from its file.

    Raises:
        RecordError: no such file, not one of ours, or changed since it was written.
    """
    path = Path(path)
    try:
        # numpy leaves a file open that it cannot read
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            text, perturbed = str(arrays["record"]), np.asarray(arrays["perturbed"])
            seal = str(arrays["seal"])
        said = json.loads(text)
        header, names = said["header"], {f.name for f in fields(CertifiedImage)}
        rows = [CertifiedImage(**{k: row[k] for k in names}) for row in said["rows"]]
        known = header["schema"] == SCHEMA and all(row.outcome in OUTCOMES for row in rows)
    except UNREADABLE as error:
        raise RecordError(f"{path}: not a robustkit certification: {first_line(error)}") from error
    if not known or seal != _seal(text, perturbed):
        raise RecordError(f"{path}: was changed since it was written; delete it and run again")
    return Certification(header, rows, perturbed, path)


def save_counterexamples(path: Path, found: Certification) -> None:
    """Write the counterexamples as .npz, whose they are and what they are taken for."""
    rows = [row for row in found.rows if row.perturbed is not None]
    buffer = BytesIO()
    np.savez(
        buffer,
        images=found.perturbed,
        index=np.array([row.index for row in rows], np.int64),
        label=np.array([row.label for row in rows], np.int64),
        fooled_as=np.array([row.fooled_as for row in rows], np.int64),
        distance=np.array([row.distance for row in rows], np.float64),
        sample=np.array([row.sample for row in rows], dtype=str),
    )
    write_atomic(path, buffer.getvalue())


def summarise_certification(found: Certification, method: Method = "wilson") -> dict[str, Any]:
    """What `robustkit certify --json` writes."""
    header, protocol = found.header, found.header["protocol"]
    shares: dict[str, Any] = {outcome: asdict(found.share(outcome, method)) for outcome in OUTCOMES}
    return {
        "checkpoint": header["checkpoint"],
        "data": header["data"],
        "norm": protocol["norm"],
        "epsilon": protocol["epsilons"][0]["epsilon"],
        "attack": protocol["name"],
        "n": len(found.rows),
        **shares,
        "robust_accuracy": {
            "at_least": shares["certified"],
            "at_most": asdict(found.upper(method)),
        },
        "rows": [asdict(row) for row in found.rows],
        "record": str(found.path),
        "digest": header["digest"],
        "warnings": header["warnings"],
    }
