"""What is done of an audit stays on file: a part is worked out once, whoever asks again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit.attacks import REVISION as ENGINE
from robustkit.auditing.indicators.run import IndicatorRun
from robustkit.auditing.outcome import IndicatorResult
from robustkit.auditing.stages import AttackedImages, ThreatModel
from robustkit.data import Dataset
from robustkit.errors import RecordError
from robustkit.evaluation import EvaluatedModel
from robustkit.evaluation.outputs import Outputs, agree
from robustkit.files import digest, write_atomic
from robustkit.keys import AuditPartKey
from robustkit.seals import read_sealed, sealed

REVISION = 8
"""raised whenever a change can change what is kept of a part"""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one audit that are on file, beside its evaluations."""

    folder: Path
    model: EvaluatedModel
    threat: ThreatModel
    device: torch.device
    outputs: Outputs | None
    """of a module in memory, logits on fixed noise: kept with each part, and compared again"""
    told: Callable[[str], None] = lambda text: None
    """told what on file is not believed"""

    def key(self, part: str, data: Dataset, *settings: Any) -> AuditPartKey:
        """What a part's file is named by.

        Args:
            part: indicators, adaptive, certificate, corruptions or smoothed.
            data: its images.
            settings: all else that decides on this part alone, as JSON.
        """
        return AuditPartKey(
            part=part,
            revision=REVISION,
            engine=ENGINE,
            checkpoint=self.model.identity,
            seed=self.threat.seed,
            epsilon=self.threat.judged.exact,
            norm=self.threat.norm,
            device=self.device.type,
            torch=torch.__version__,
            data=data.digest,
            settings=settings,
        )

    def part(self, key: AuditPartKey, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What is on file of a part, else what is computed, then kept.

        Whatever `compute` raises is passed on, and nothing is kept: what failed may succeed later.
        Nor is a part that has but a reason why there is nothing: a setting may be in the way.
        """
        found = self.stored(key)
        if not found or found.get("reason"):
            found = dict(compute())
            if not found.get("reason"):
                self.store(key, found)
        return found

    def stored(self, key: AuditPartKey) -> dict[str, Any]:
        """What is on file; empty where there is nothing, or it is another module's.

        What is not as it was written is worked out again, and told.
        """
        path = self.folder / key.file
        try:
            found, state = read_sealed(path, "it is computed again")
            if state != "sound" or found.pop("file", None) != path.name:
                raise RecordError(f"{path}: changed since it was written; it is computed again")
        except FileNotFoundError:
            return {}
        except RecordError as error:
            self.told(str(error))
            return {}
        earlier = np.array(found.pop("outputs", ()), np.float64)
        same = self.model.outputs is None or agree(self.outputs, earlier)
        return found if same else {}

    def store(self, key: AuditPartKey, found: Mapping[str, Any]) -> None:
        """Keep what was found."""
        outputs = {} if self.outputs is None else {"outputs": self.outputs.tolist()}
        content = sealed({**found, **outputs, "file": key.file})
        write_atomic(self.folder / key.file, json.dumps(content).encode())

    def indicator_runs(self, keys: Mapping[str, AuditPartKey]) -> dict[str, IndicatorRun]:
        """The indicators' runs on file, by indicator, of those that could be examined.

        The others may be now: training images may have come, or memory.
        """
        files = {key.file: key for key in keys.values()}
        found = {file: self.stored(key).get("runs", {}) for file, key in files.items()}
        runs = {n: _run_from(found[key.file][n]) for n, key in keys.items() if n in found[key.file]}
        return {name: run for name, run in runs.items() if run.result.examined}

    def store_indicator_run(
        self, run: IndicatorRun, keys: Mapping[str, AuditPartKey], runs: Mapping[str, IndicatorRun]
    ) -> None:
        """Keep a run with those so far: an interrupted audit goes on with the next indicator."""
        key = keys[run.result.name]
        plain = {
            name: {"result": asdict(one.result), "fooled": dict(one.fooled)}
            for name, one in runs.items()
            if keys[name] == key
        }
        self.store(key, {"runs": plain})


def _run_from(plain: Mapping[str, Any]) -> IndicatorRun:
    # a file may hold fields that a result no longer has
    known = {f.name for f in fields(IndicatorResult)}
    result = IndicatorResult(**{k: v for k, v in plain["result"].items() if k in known})
    return IndicatorRun(result, plain["fooled"])


def masks(attacked: AttackedImages, n: int) -> str:
    """A digest of all that the attacks said of the first n images; indicators rest on it."""
    parts = [attacked.right[:n].tobytes(), attacked.survivors[:n].tobytes()]
    parts += [name.encode() + mask[:n].tobytes() for name, mask in sorted(attacked.alone.items())]
    return digest(*parts, *attacked.by[:n])
