"""Which configurations are dropped and chosen, by what held-out images say. Needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, NamedTuple

from robustkit.spec import ACCURACY, Halving, Score

AVERAGED = 3
"""passes whose held-out accuracies are averaged, at most"""


class Context(NamedTuple):
    """What networks are trained on, beside the loss and the seed."""

    label_noise: str
    data_fraction: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that was tried for a method."""

    method: str
    context: Context
    configuration: int
    cell: str
    seed: int = 0
    """an earlier version, in which all had the same, wrote none"""


class Chooser(NamedTuple):
    """For whom one configuration is chosen."""

    method: str
    context: Context | None
    """None: the levels at which configurations are tried, together"""
    seed: int


class Choice(NamedTuple):
    """The configuration with the best score, the first of equals."""

    configuration: int
    lead: float | None
    """of its score, on the next; None: all others were dropped"""


class Dropped(NamedTuple):
    """A training that was given up before its end."""

    rung: int
    """of successive halving, from 0 on"""
    score: float | None
    """None: it failed"""


@dataclass(frozen=True, slots=True)
class Scores:
    """What is known of trainings, by the key of their cell; one that failed has -inf."""

    end: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    """after the best of the passes that are kept; `end` where none are"""
    rungs: tuple[Mapping[str, float], ...] = ()
    """at each rung of successive halving"""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the scores decide."""

    end: dict[Chooser, Choice | None] = field(default_factory=dict)
    """by the scores at the end; None: not all that was to be tried for it is done"""
    best: dict[Chooser, Choice | None] = field(default_factory=dict)
    """likewise by the best of all passes, for networks that are stopped there"""
    rungs: dict[str, int] = field(default_factory=dict)
    """by cell: the rung to which it is trained before anything of its chooser goes on"""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """by cell"""
    shares: dict[str, float] = field(default_factory=dict)
    """by cell: what is expected to be trained of it from its last rung on, where that is not all"""


def select(
    candidates: Iterable[Candidate],
    scores: Scores,
    *,
    together: bool = False,
    halving: Sequence[Halving] = (),
) -> Decisions:
    """What is chosen, dropped, and to be trained how far.

    Args:
        candidates: what is tried.
        scores: as far as they are known.
        together: those at all contexts are added up.
        halving: the rungs.
    """
    tried: dict[Chooser, list[Candidate]] = {}
    for one in candidates:
        who = Chooser(one.method, None if together else one.context, one.seed)
        tried.setdefault(who, []).append(one)
    found = Decisions()
    for who, ones in tried.items():
        alive = _survivors(ones, scores, halving, found)
        found.end[who] = None if alive is None else _choice(alive, scores.end)
        found.best[who] = None if alive is None else _choice(alive, scores.best)
    return found


def _survivors(
    tried: list[Candidate], scores: Scores, halving: Sequence[Halving], found: Decisions
) -> list[Candidate] | None:
    """The candidates that go on to the end; None: some have yet to come to a rung."""
    before = 0.0
    for number, rung in enumerate(halving):
        known = scores.rungs[number]
        if any(one.cell not in known for one in tried):
            rest = _expected(len({one.configuration for one in tried}), halving[number:])
            for one in tried:
                found.rungs[one.cell] = number
                found.shares[one.cell] = rest + (0 if one.cell in known else rung.after - before)
            return None
        order, before = _ranked(tried, known), rung.after
        kept = order[: _kept(len(order), rung)]
        for one in tried:
            if one.configuration not in kept:
                score = known[one.cell]
                found.dropped[one.cell] = Dropped(number, None if score == -inf else score)
        tried = [one for one in tried if one.configuration in kept]
    if halving:
        found.shares.update({one.cell: 1 - before for one in tried})
    return tried


def _kept(configurations: int, rung: Halving) -> int:
    return max(1, ceil(configurations * rung.keep - 1e-9))


def _expected(configurations: int, rungs: Sequence[Halving]) -> float:
    """The share of a training that follows the first of these rungs, of as many on average."""
    if not rungs:
        return 0.0
    kept, after = _kept(configurations, rungs[0]), rungs[1].after if len(rungs) > 1 else 1.0
    return kept / configurations * (after - rungs[0].after + _expected(kept, rungs[1:]))


def _totals(tried: Sequence[Candidate], known: Mapping[str, float]) -> dict[int, float]:
    total: dict[int, float] = {}
    for one in tried:
        total[one.configuration] = total.get(one.configuration, 0.0) + known[one.cell]
    return total


def _ranked(tried: Sequence[Candidate], known: Mapping[str, float]) -> list[int]:
    """Configurations, the best first, and of equals the first."""
    total = _totals(tried, known)
    return sorted(total, key=lambda number: -total[number])


def _choice(tried: Sequence[Candidate], known: Mapping[str, float]) -> Choice | None:
    if any(one.cell not in known for one in tried):
        return None
    total, order = _totals(tried, known), _ranked(tried, known)
    if len(order) == 1:
        return Choice(order[0], None)
    best, second = (total[number] for number in order[:2])
    # of two that failed neither leads
    lead = 0.0 if best == second else (best - second) * len(total) / len(tried)
    return Choice(order[0], lead)


# --- scores ---------------------------------------------------------------------------------------


def score_at(made: Mapping[str, Any], score: Score | None, number: int | None = None) -> float:
    """The score of a training, higher is better; -inf where it failed.

    Args:
        made: what the training came to, or had come to when it paused.
        score: None: nothing but the held-out accuracy was asked of it.
        number: after that pass; None: at the end.
    """
    if made["status"] == "failed":
        return -inf
    if score is None:
        known = made if number is None else made["snapshots"][str(number)]
        return float(known["held_out"])
    looks = [line for line in made["history"] if "log_likelihood" in line][:number]
    if score == "calibrated log-likelihood":
        return float(looks[-1]["log_likelihood"])
    last = looks[-1:] if score == ACCURACY else looks[-AVERAGED:]
    return float(sum(line["held_out"] for line in last) / len(last))


def best_pass(made: Mapping[str, Any], score: Score | None) -> str:
    """The pass whose weights have the best score, the first of equals."""
    kept: list[str] = sorted(made["snapshots"], key=int)
    return max(kept, key=lambda number: score_at(made, score, int(number)))


def best_score(made: Mapping[str, Any], score: Score | None) -> float:
    """The score after that pass; at the end, where no weights are kept on the way."""
    if made["status"] == "failed" or not made.get("snapshots"):
        return score_at(made, score)
    return score_at(made, score, int(best_pass(made, score)))
