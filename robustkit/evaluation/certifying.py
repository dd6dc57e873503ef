"""From a question to a certification: each image certified, fooled or open at one ε."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit.attacks import Block
from robustkit.attacks.lasting import FirstAnswers, NetworkChanged
from robustkit.certification import MENDED_ONLY, REVISION, Decision, decide
from robustkit.data import Dataset
from robustkit.device import device as find_device
from robustkit.device import in_float32
from robustkit.errors import InputError, NetworkFailed, RecordError
from robustkit.evaluation.chance import chance_warnings, settled_by
from robustkit.evaluation.config import Config, record_header
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.outputs import Outputs, agree
from robustkit.evaluation.probe import few_images, probe
from robustkit.files import write_atomic
from robustkit.keys import CertificationKey
from robustkit.protocol import Protocol, check_bounded
from robustkit.record import Store
from robustkit.record.certification import (
    OUTCOMES,
    SCHEMA,
    Certification,
    CertifiedImage,
    Images,
    anew,
    certification_name,
    encode_certification,
    read_certification,
)
from robustkit.statistics import Method

BATCH = 32
"""images at once, where the user names no other number"""
OFTEN = 2.0
"""seconds between two writes of what is known so far"""
Known = dict[int, tuple[CertifiedImage, Images | None]]
"""what is decided, by image"""


@in_float32()
def certify_images(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    out: Path,
    time_limit: float,
    options: RunOptions,
) -> Certification:
    """Each image's outcome: from its file, else found now.

    An image that is open on file is tried again where it is given more time. Of user code, which
    may depend on more than its source, nothing on file counts but what has its outputs.

    Raises:
        InputError: not one ε without a target, or a network without bounds.
        NetworkChanged: it answers otherwise than before its work.
        EvaluationFailed: logits that are NaN or infinite.
        RecordError: the file was changed since it was written.
    """
    if len(protocol.epsilons) != 1:
        raise InputError(f"{len(protocol.epsilons)} budgets: give one --epsilon")
    if protocol.target != "none":
        raise InputError(
            f"{protocol.name}: has the target {protocol.target!r}, but a certificate is against "
            "every wrong class; remove the target"
        )
    check_bounded(protocol.norm)
    data.check_pictures("no bounds are of")
    if options.precision != "float32":
        raise InputError("precision: certification attacks in float32; leave it out")
    config = Config(model, data, protocol, find_device(options.device))
    header = _header(config)
    name, store = str(header["digest"]), Store(out)
    path = out / certification_name(name)
    outputs = None if model.outputs is None else model.outputs(data.shape, config.device)
    run = _Run(config, header, path, time_limit, options, outputs)
    # before any lock: a finished record may stand where nothing can be written
    if (finished := run.finished()) is not None:
        return finished
    with store.claim(name, options.waiting):
        run.complete()
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
    outputs: Outputs | None
    """of user code: logits on fixed noise"""
    found: Sequence[str] = ()
    """what the probe warns of"""
    place: Path = field(init=False)
    """where what is decided goes until all is"""

    def finished(self) -> Certification | None:
        """The record on file, where nothing is left to be done."""
        if self.options.fresh or self._own(anew(self.path)) is not None:
            return None
        found = self._own(self.path)
        return found if found is not None and not self._left(_rows(found)) else None

    def complete(self) -> None:
        """Decide what is not, and write as it goes; what is interrupted keeps what it has."""
        known = self._begun()
        if left := self._left(known):
            self._decide(left, known)

    def _begun(self) -> Known:
        """What is decided already. A whole record is not written over by one that is not."""
        beside, self.place = anew(self.path), self.path
        if self.options.fresh:
            beside.unlink(missing_ok=True)
        elif (begun := self._own(beside)) is not None:
            self.place = beside
            return _rows(begun)
        elif (found := self._own(self.path)) is not None:
            return _rows(found)
        if _is_whole(self.path):
            self.place = beside
        return {}

    def _own(self, path: Path) -> Certification | None:
        """What is on file of this very network, whole or not."""
        if not path.exists():
            return None
        try:
            found = read_certification(path, unfinished=True)
        except RecordError:
            if path.exists():
                raise
            return None  # another process has just finished it
        same = self.config.model.outputs is None or agree(self.outputs, found.outputs)
        return found if same else None

    def _left(self, known: Known) -> list[int]:
        return [i for i in range(len(self.config.data)) if not self._settled(known.get(i))]

    def _decide(self, left: Sequence[int], known: Known) -> None:
        device = self.config.device
        network = self.config.model.load(device)
        steps = bool(self.config.protocol.attacks)
        batch = BATCH if self.options.batch_size == "auto" else self.options.batch_size
        given = (network, self.config.data, device, MENDED_ONLY)
        found = probe(*given, gradients=steps, batch=batch)
        self.found, few = found.warnings, few_images(self.config.data, device)
        first = FirstAnswers.of(network, few, random=found.random)
        decisions = decide(
            network,
            self._block(left),
            self.config.protocol,
            time_limit=self.time_limit,
            batch_size=batch,
        )
        written = time.monotonic()
        try:
            for row, decision in decisions:
                known[left[row]] = self._row(left[row], decision)
                self.options.progress(len(known), len(self.config.data))
                if time.monotonic() > written + OFTEN:
                    self._keep(known, first)
                    written = time.monotonic()
        finally:
            warnings = [*self.header["warnings"], *self.config.data.changed()]
            self.header = {**self.header, "warnings": warnings}
            self._keep(known, first)

    def _keep(self, known: Known, first: FirstAnswers) -> None:
        """Write what is known, as long as the network answers as it did before its work.

        Raises:
            NetworkChanged: it does not; what is begun is dropped, a whole record stays.
        """
        try:
            first.check()
        except NetworkChanged:
            if not _is_whole(self.place):
                self.place.unlink(missing_ok=True)
            raise
        except (NetworkFailed, torch.OutOfMemoryError):
            pass  # it broke, which is told by the work: what was decided before is kept
        self._write(known)

    def _settled(self, found: tuple[CertifiedImage, Images | None] | None) -> bool:
        return found is not None and (
            found[0].outcome != "open" or found[0].time_limit >= self.time_limit
        )

    def _block(self, rows: Sequence[int]) -> Block:
        data = self.config.data.take(rows)
        images, labels = data.images(0, len(rows)), data.labels.copy()
        device = self.config.device
        pixels, labelled = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        return Block(pixels, labelled, data.ids, rows[0], places=rows)

    def _row(self, index: int, found: Decision) -> tuple[CertifiedImage, Images | None]:
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

    def _write(self, known: Known) -> None:
        if not known:  # nothing is decided, if only since nothing can be
            return
        rows: list[dict[str, Any]] = []
        images: list[Images] = []
        for index in sorted(known):
            row, image = known[index]
            rows.append({**asdict(row), "perturbed": None if image is None else len(images)})
            images += [] if image is None else [image]
        perturbed = np.stack(images) if images else np.zeros((0, *self.config.data.shape), "<f4")
        run: dict[str, Any] = {"robustkit": version("robustkit"), "torch": torch.__version__}
        if self.outputs is not None:
            run["outputs"] = self.outputs.tolist()
        header = {**self.header, "warnings": [*self.header["warnings"], *self._warnings(rows)]}
        whole = len(rows) == len(self.config.data)
        content = encode_certification(header, run, rows, perturbed)
        write_atomic(self.path if whole else self.place, content)
        if whole and self.place != self.path:
            self.place.unlink(missing_ok=True)

    def _warnings(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """What was found of the network: by the probe and, once all images are there, by them."""
        data = self.config.data
        if len(rows) < len(data):
            return [*self.found]
        predicted = np.array([row["predicted"] for row in rows], np.int64)
        settled = settled_by(self.config.model.header.get("preprocessing"), data.source)
        said = chance_warnings(data.labels, predicted, len(data.classes), settled)
        return [*self.found, *said]


def _rows(found: Certification) -> Known:
    """What is on file, by image."""
    return {
        row.index: (row, None if row.perturbed is None else found.perturbed[row.perturbed])
        for row in found.rows
    }


def _is_whole(path: Path) -> bool:
    """Whether a finished record stands there, whosever it is."""
    with suppress(RecordError):
        return read_certification(path, unfinished=True).whole
    return False


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
