"""What choosing by noisy held-out labels cost, by their clean labels: a diagnostic.

It is an upper estimate: the best configuration is chosen and measured on the same images, so that
among configurations that are equally good regret is above 0, too.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustkit.analysis.outcome import Chosen, Regret
from robustkit.spec import CHOSEN, Score, Study, Tuning
from robustkit.study.selection import Candidate, Chooser, Context, best_pass

Cells = Mapping[str, dict[str, Any] | None]


def regrets(
    study: Study, plan: Mapping[str, Any], tried: Iterable[Candidate], done: Cells
) -> Iterable[Regret]:
    """The best configuration's clean held-out accuracy minus the chosen one's, by method and level.

    Those that were dropped, or failed at one of the levels that decide together, are not among
    them. Where networks are stopped at the best pass, the best of all configurations and kept
    passes counts.
    """
    tuning = study.tuning or Tuning()
    groups: dict[Chooser, dict[int, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for one in tried:
        if one.cell not in plan.get("dropped", {}):
            who = Chooser(one.method, None if tuning.at else one.context, one.seed)
            groups[who][one.configuration].append(one)
    found: dict[tuple[str, str, Chosen], dict[int, float]] = defaultdict(dict)
    kinds: list[Chosen] = ["end"]
    if any(analysis.passes == CHOSEN for analysis in study.analyses):
        kinds.append("stopped")
    for who, every in groups.items():
        whole = [ones for ones in every.values() if all(_is_done(one, done) for one in ones)]
        ones = [one for each in whole for one in each]
        # a training from before regret was kept has no accuracy by clean labels
        if any("held_out_clean" not in (done[one.cell] or {}) for one in ones):
            continue
        level = _level(who.context, tuning)
        for kind in kinds:
            number = _chosen(plan, ones[0], who, kind, tuning) if ones else None
            if number is not None and any(one.configuration == number for one in ones):
                best, taken = _accuracies(ones, number, kind, tuning.recorded_score, done)
                found[who.method, level, kind][who.seed] = best - taken
    for (method, level, kind), each in found.items():
        seeds = tuple(sorted(each))
        yield Regret(method, level, kind, seeds, tuple(each[seed] for seed in seeds))


def _is_done(one: Candidate, done: Cells) -> bool:
    return (done.get(one.cell) or {}).get("status") == "done"


def _level(where: Context | None, tuning: Tuning) -> str:
    if where is None:
        return ", ".join(tuning.at)
    return where.label_noise if where.data_fraction == "1" else ", ".join(where)


def _chosen(
    plan: Mapping[str, Any], one: Candidate, who: Chooser, kind: Chosen, tuning: Tuning
) -> int | None:
    """The configuration that the plan has for somebody; None: nobody asked, or not yet."""
    by = f" | seed {who.seed}" if tuning.every_seed else ""
    by += " | stopped" if kind == "stopped" else ""
    where = f"{one.method} | noise {one.context.label_noise} | fraction {one.context.data_fraction}"
    chosen: int | None = plan["chosen"].get(where + by)
    return chosen


def _accuracies(
    ones: Sequence[Candidate], number: int, kind: Chosen, score: Score | None, done: Cells
) -> tuple[float, float]:
    """The best clean accuracy, and the chosen one's, as means over contexts."""
    best: dict[int, list[float]] = defaultdict(list)
    taken: list[float] = []
    for one in ones:
        cell = done[one.cell] or {}
        known = cell["snapshots"] if kind == "stopped" else {"end": cell}
        clean = {passes: made["held_out_clean"] or 0.0 for passes, made in known.items()}
        best[one.configuration].append(max(clean.values()))
        if one.configuration == number:
            at = best_pass(cell, score) if kind == "stopped" else "end"
            taken.append(clean[at])
    return max(sum(values) / len(values) for values in best.values()), sum(taken) / len(taken)
