"""Branch and bound as a stage: the images that neither bounds nor attacks have decided."""

from dataclasses import replace
from typing import Any

import numpy as np

from robustkit.auditing.outcome import BRANCHING, Stage
from robustkit.auditing.stages import TIME_UP, AttackedImages, Bools, OutOfTime, StageSettings
from robustkit.device import devices
from robustkit.errors import RobustkitError, first_line
from robustkit.evaluation import EvaluatedModel
from robustkit.evaluation.certifying import certify_images
from robustkit.protocol import Protocol
from robustkit.record.certification import Certification


def branch(
    model: EvaluatedModel,
    attacked: AttackedImages,
    found: dict[str, Any],
    time_limit: float,
    settings: StageSettings,
) -> dict[str, Any]:
    """What was kept of certified bounds, with what branch and bound proves at the judged budget.

    What it fools counts as a stage's. Nothing happens without a time limit, bounds or open images.
    """
    if found["reason"] or not time_limit:
        return found
    robust = np.array(found["levels"][-1]["robust"], bool)
    rows = np.flatnonzero(attacked.survivors[: len(robust)] & ~robust).tolist()
    if not rows:
        return found
    stage = Stage(BRANCHING, _title(len(rows), time_limit), "white box", False, "complete")
    try:
        decided = _decided(model, attacked, rows, time_limit, settings)
    except OutOfTime:
        attacked.stages.append(replace(stage, status="skipped", reason=TIME_UP))
        return found
    except (RobustkitError, RuntimeError) as error:
        attacked.stages.append(replace(stage, status="failed", reason=first_line(error)))
        return found
    _count(attacked, decided, rows, stage)
    proved = np.zeros(len(robust), bool)
    proved[[rows[row.index] for row in decided.rows if row.outcome == "certified"]] = True
    found = found | {"levels": [_with(level, proved) for level in found["levels"]]}
    if proved.any():
        found["method"] = f"{found['method']}, then branch and bound over the signs of ReLUs"
    return found


def _with(level: dict[str, Any], proved: Bools) -> dict[str, Any]:
    """A level with what is proved at the judged budget, the largest: it holds at each smaller one.

    Of its own methods an image keeps the one that proved it first.
    """
    robust = np.array(level["robust"], bool)
    new = int((proved & ~robust).sum())
    methods = level["methods"] | ({BRANCHING: new} if new else {})
    # of those that rounding alone had left open it is not known which are proved now
    lost = {"lost": None} if new and level.get("lost") else {}
    return level | {"robust": (robust | proved).tolist(), "methods": methods} | lost


def _title(count: int, time_limit: float) -> str:
    return (
        f"Branch and bound over the signs of ReLUs, at most {time_limit:g} s per image, on "
        f"the {count:,} images that neither bounds nor attacks decided"
    )


def _decided(
    model: EvaluatedModel,
    attacked: AttackedImages,
    rows: list[int],
    time_limit: float,
    settings: StageSettings,
) -> Certification:
    threat = attacked.threat
    if settings.over():
        raise OutOfTime
    watch = settings.begin(BRANCHING, len(rows))

    def progress(done: float, total: int) -> None:
        watch(done)
        if settings.over():
            raise OutOfTime

    # without an attack: those of the audit have had their turn
    protocol = Protocol(
        (), threat.norm, (threat.judged,), seed=threat.seed, name=BRANCHING, title=BRANCHING
    )
    # on one device, and in float32, whatever the attacks searched in: a bound allows no less
    device = str(devices(settings.options.device)[0])
    options = replace(settings.options, progress=progress, device=device, precision="float32")
    data = attacked.data.take(rows)
    return certify_images(model, data, protocol, settings.out, time_limit, options)


def _count(attacked: AttackedImages, decided: Certification, rows: list[int], stage: Stage) -> None:
    """What was fooled counts as by any other stage."""
    for row in decided.rows:
        if row.perturbed is not None and row.fooled_as is not None:
            place = rows[row.index]
            attacked.fooled[attacked.judged][place] = True
            attacked.by[place] = BRANCHING
            attacked.taken_for[place] = row.fooled_as
    attacked.families[BRANCHING] = "white box"
    now, fooled = attacked.level(attacked.threat.judged), decided.count("fooled")
    attacked.stages.append(
        replace(
            stage,
            title=(
                f"{stage.title}: {decided.count('certified')} certified, {fooled} fooled, "
                f"{decided.count('open')} undecided"
            ),
            robust=(now,),
            so_far=now.accuracy,
            first=fooled,
            found_by={BRANCHING: fooled} if fooled else {},
            seconds=sum(row.seconds for row in decided.rows),
            digest=str(decided.header["digest"]),
        )
    )
