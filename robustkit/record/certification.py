"""The record of a certification: each image certified, fooled or open at one ε. Needs no torch.

`OUT/certification-DIGEST.npz` holds two arrays: `record`, a JSON text with header and rows, and
`perturbed`, the verified counterexamples, float32 F × C × H × W, to which rows refer by number.
One that is to take the place of a whole one stands beside it until it is whole, as `.anew.npz`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustkit.errors import RecordError, unreadable
from robustkit.files import canonical, digest
from robustkit.showing import Shown
from robustkit.statistics import Estimate, Method, proportion

SCHEMA = "robustkit.certification/1"
Outcome = Literal["certified", "fooled", "open"]
OUTCOMES: tuple[Outcome, ...] = ("certified", "fooled", "open")
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


@dataclass(frozen=True, slots=True, repr=False)
class Certification(Shown):
    """What is proved, what is refuted and what is not known of each image at one ε."""

    header: Mapping[str, Any]
    """checkpoint, data, protocol and engine, as of an evaluation's record"""
    rows: Sequence[CertifiedImage]
    perturbed: Images
    """counterexamples, F × C × H × W"""
    path: Path | None
    """its file; None of a module in memory, of which none is kept"""
    outputs: npt.NDArray[np.float64] | None = None
    """logits of user code on fixed noise, N × K, by which it is told from its likes"""

    @property
    def whole(self) -> bool:
        """Whether all images are decided."""
        return len(self.rows) >= int(self.header.get("data", {}).get("n", 0))

    def count(self, outcome: Outcome) -> int:
        """Images that ended so."""
        return sum(row.outcome == outcome for row in self.rows)

    def share(self, outcome: Outcome, method: Method = "wilson") -> Estimate:
        """Their share of all images, with its interval."""
        return proportion(self.count(outcome), len(self.rows), method)

    def upper(self, method: Method = "wilson") -> Estimate:
        """The share of images that nothing has fooled: robust accuracy is at most that."""
        return proportion(len(self.rows) - self.count("fooled"), len(self.rows), method)


def certification_name(digest: str) -> str:
    """The file name of the certification of that digest."""
    return f"certification-{digest[:32]}.npz"


def anew(path: Path) -> Path:
    """Where what is to take the place of a certification stands until it is whole."""
    return path.with_suffix(".anew.npz")


def encode_certification(
    header: Mapping[str, Any],
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    perturbed: Images,
) -> bytes:
    """The bytes of a certification's file."""
    text = canonical({"header": header, "run": run, "rows": rows})
    buffer = BytesIO()
    np.savez(
        buffer,
        record=np.array(text),
        perturbed=perturbed.astype("<f4"),
        seal=np.array(_seal(text, perturbed)),
    )
    return buffer.getvalue()


def _seal(text: str, perturbed: Images) -> str:
    return digest(text.encode(), np.ascontiguousarray(perturbed, "<f4").tobytes())


def read_certification(path: Path | str, *, unfinished: bool = False) -> Certification:
    """A certification from its file.

    Args:
        path: of the file.
        unfinished: whether it may lack images, as where it was interrupted; its shares are then
            those of the images that were decided first.

    Raises:
        RecordError: no such file, not one of ours, changed since it was written, or unfinished.
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
        outputs = said.get("run", {}).get("outputs")
        noise = None if outputs is None else np.array(outputs, np.float64)
    # zipfile and NumPy's header parser raise nearly anything on broken bytes
    except Exception as error:
        raise RecordError(unreadable(path, error, "not a robustkit certification")) from error
    if not known or seal != _seal(text, perturbed):
        raise RecordError(f"{path}: changed since it was written; delete it and run again")
    name = Path(certification_name(str(header["digest"])))
    if path.name not in (name.name, anew(name).name):
        raise RecordError(f"{path}: contains another certification than its name says; delete it")
    found = Certification(header, rows, perturbed, path, noise)
    if not unfinished and not found.whole:
        raise RecordError(
            f"{path}: unfinished, {len(rows):,} of {header['data']['n']:,} images are decided; the "
            "command that wrote it goes on from there"
        )
    return found
