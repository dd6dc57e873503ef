"""Adaptive attacks as a stage: what they fooled where indicators looked, and on all other images.

Indicators look at the first images alone. What lowers accuracy there would lower it elsewhere, and
among many images that only weaker attacks have met a find on a few would hardly be seen.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from robustkit.auditing.adaptive import TITLES, AdaptiveAttack, made_for, run_adaptive_attack
from robustkit.auditing.cache import Parts
from robustkit.auditing.context import AuditContext
from robustkit.auditing.indicators import INDICATORS
from robustkit.auditing.indicators.run import BROKE, IndicatorRun
from robustkit.auditing.outcome import Stage
from robustkit.auditing.stages import AttackedImages, plain_protocol
from robustkit.errors import first_line

CHUNK = 256
"""images between two looks at the clock"""
ContextOf = Callable[[Sequence[int]], AuditContext]
"""the context of the images at these rows"""


class AdaptiveSuccess(NamedTuple):
    """What an adaptive attack made of an image."""

    by: str
    """the attack, or the indicator that called for it"""
    taken_for: int
    """the class that the network gives it then; -1 where a stage alone fooled it"""


def doubted_attacks(runs: Collection[IndicatorRun]) -> list[AdaptiveAttack]:
    """The adaptive attacks of indicators that stayed unresolved, each once, in their order."""
    unresolved = {run.result.name for run in runs if run.result.status == "unresolved"}
    kinds = [k for i in INDICATORS if i.name in unresolved for k in i.adaptive_attacks]
    return [kind for kind in dict.fromkeys(kinds) if kind != "unseen"]  # that one is no attack


def attack_rest(
    attacked: AttackedImages,
    first: int,
    kinds: Sequence[AdaptiveAttack],
    parts: Parts,
    context_of: ContextOf,
    begin: Callable[[str, int], object],
    note: Callable[[str], object],
) -> Iterator[tuple[str, AdaptiveSuccess]]:
    """Ids of images after the `first` that an adaptive attack fools, and how, as they are found.

    `begin` is told each attack and how many images it meets; what it raises ends the work. `note`
    is told of an attack that broke off; one that is done is kept, and answers when the audit is
    repeated.
    """
    data = attacked.data
    rows = [row for row in attacked.survivors.nonzero()[0].tolist() if row >= first]
    for kind in made_for(attacked.threat.norm, kinds):
        if not rows:
            return

        def compute(kind: AdaptiveAttack, rows: Sequence[int]) -> Mapping[str, object]:
            context, classes = context_of(rows), []
            for start in range(0, len(rows), CHUNK):
                chunk = torch.arange(start, min(start + CHUNK, len(rows)))
                begin(f"adaptive: {TITLES[kind]}", len(chunk))
                fooled = run_adaptive_attack(kind, context, chunk)
                classes += torch.where(fooled, context.taken_for[chunk], -1).tolist()
            return {"taken_for": classes}

        part = data.take(rows)
        try:
            key = parts.key("adaptive", part, kind, plain_protocol(attacked).digest)
            classes = parts.part(key, partial(compute, kind, rows))["taken_for"]
        except BROKE as error:
            note(f"{TITLES[kind]}, beyond the first {first:,} images: {first_line(error)}")
            continue
        yield from (
            (part.ids[i], AdaptiveSuccess(kind, c)) for i, c in enumerate(classes) if c >= 0
        )
        rows = [row for row, c in zip(rows, classes, strict=True) if c < 0]


def add_adaptive(
    attacked: AttackedImages, fooled: Mapping[str, AdaptiveSuccess], *, tried: bool
) -> None:
    """What adaptive attacks fooled, by image id, is a stage like any other.

    `tried` says whether there were any; without, nothing is added.
    """
    places = {name: row for row, name in enumerate(attacked.data.ids)}
    rows = sorted(places[i] for i in fooled)
    new = [row for row in rows if attacked.survivors[row]]
    if not tried and not new:
        return
    by: dict[str, int] = {}
    for row in new:
        find = fooled[attacked.data.ids[row]]
        by[find.by] = by.get(find.by, 0) + 1
        attacked.by[row], attacked.taken_for[row] = "adaptive", find.taken_for
    judged = float(attacked.threat.judged)
    for epsilon in attacked.threat.budgets:
        if float(epsilon) >= judged:
            attacked.fooled[epsilon.text][rows] = True
    attacked.families["adaptive"] = "adaptive"
    now = attacked.level(attacked.threat.judged)
    attacked.stages.append(
        Stage(
            "adaptive",
            "Adaptive attacks, for indicators that fired",
            "adaptive",
            False,
            "complete",
            robust=(now,),
            so_far=now.accuracy,
            first=len(new),
            found_by=by,
        )
    )
