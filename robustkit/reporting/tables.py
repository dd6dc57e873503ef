"""LaTeX tables for a paper; they need the package booktabs and nothing else."""

import re
from collections.abc import Iterable, Iterator, Sequence

from robustkit.analysis.outcome import Cost, Judgement, Line, Outcome, Panel
from robustkit.errors import shown
from robustkit.figures import level_text
from robustkit.reporting.names import Names
from robustkit.reporting.wording import (
    delta_in_points,
    difference,
    difference_ends,
    distance,
    distances,
    ends,
    in_points,
    interval,
    p_value,
    tenths_of_all,
    verdict_in_words,
)
from robustkit.spec import Table as Kind
from robustkit.statistics import Comparison, Estimate
from robustkit.statistics.comparison import times

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",  # LaTeX's usual encoding has no other for it
        "−": "$-$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "≻": r"$\succ$",
        "≈": r"$\approx$",
        "ε": r"$\varepsilon$",
        "Δ": r"$\Delta$",
        "∞": r"$\infty$",
        "ℓ": r"$\ell$",
        **{subscript: f"$_{digit}$" for digit, subscript in enumerate("₀₁₂")},
        "–": "--",
        "…": r"\ldots{}",
        "→": r"$\to$",
        "\u00a0": "~",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)
_LIGATURES = re.compile("(?<=[-–])(?=[-–])|(?<=[?!`])(?=`)|(?<=')(?=')|(?<=,)(?=,)")
"""where LaTeX would make one sign of two"""
_MARKS = {"better": "$^{+}$", "worse": "$^{-}$", "equivalent": "$^{=}$"}


def escaped(text: str) -> str:
    """Text as LaTeX shows it: on one line, nothing in it is a command.

    Letters that LaTeX's fonts lack need an engine and a font that have them.
    """
    apart = _LIGATURES.sub("\0", shown(text))  # in which no such character is left
    whole = apart.translate(_ESCAPES).replace("\0", "{}")
    # a bracket or a star after the end of a line would be taken for that line's option
    whole = whole.replace("[", "{[}").replace("*", "{*}")
    return whole.replace(r"$\ell$$\infty$", r"$\ell_\infty$").replace(r"$\ell$$_", r"$\ell_")


def tables(outcome: Outcome) -> dict[str, str]:
    """Every table that the study asks for and has numbers for, by its file's name."""
    wanted = outcome.tables
    return {f"{name}.tex": table for kind, name, table in _tables(outcome) if kind in wanted}


def _tables(outcome: Outcome) -> Iterator[tuple[Kind, str, str]]:
    """Kind, name and text of each table; a name is the same whichever are asked for."""
    names = Names()
    if outcome.judgements:
        yield "claims", names.new("claims"), claim_table(outcome.judgements)
    if outcome.costs:
        yield "cost", names.new("costs"), cost_table(outcome.costs)
    for panel in outcome.panels:
        yield "accuracy", (name := names.new(panel.name)), accuracy_table(panel)
        if summed_up(panel):
            yield "areas", names.new(f"{name}-areas"), area_table(panel)
        if panel.comparisons:
            table = difference_table(panel.comparisons, panel.percent)
            yield "differences", names.new(f"{name}-differences"), table


def accuracy_table(panel: Panel) -> str:
    """Methods by levels: estimates in per cent with intervals, and marks against the baseline."""
    levels = {v.level: v.x for line in panel.lines for v in line.values}
    ordered = sorted(levels, key=lambda level: levels[level])
    verdicts = {(c.a, c.level): c.word for c in panel.comparisons if c.b == panel.baseline}
    body = []
    for line in panel.lines:
        values = {value.level: value.estimate for value in line.values}
        cells = [
            _estimate(values.get(level), verdicts.get((line.method, level), ""))
            for level in ordered
        ]
        body.append([escaped(line.method), *cells])
    head = [escaped(panel.factor), *(escaped(level_text(v, panel.percent)) for v in ordered)]
    legend = ""
    if panel.baseline is not None and verdicts:
        legend = f"; +, -, =: better than, worse than, equivalent to {panel.baseline}"
    return tabular(
        f"{panel.measure}, in %, with intervals{legend}", "l" + "r" * len(ordered), head, body
    )


def summed_up(panel: Panel) -> list[Line]:
    """The lines of which there is more than values: an area, or a median."""
    return [line for line in panel.lines if line.values and (line.area or line.median)]


def areas(panel: Panel) -> str:
    """What a table of areas and medians holds, in words."""
    places = {value.x: value.level for line in panel.lines for value in line.values}
    log = ", on its logarithmic axis" if panel.log and min(places) > 0 else ""
    first, last = (level_text(places[x], panel.percent) for x in (min(places), max(places)))
    words = [
        f"area: mean accuracy in % for {panel.factor} from {first} to {last}{log}",
        "median: median over images of the smallest perturbation that fools, as finely as the "
        "budgets tried tell; 0 where an image is misclassified without attack",
    ]
    return "; ".join(words[: 1 + any(line.median for line in panel.lines)]) + "; with intervals"


def area_table(panel: Panel) -> str:
    """A row a method: area under its curve in per cent and median smallest perturbation."""
    medians = any(line.median for line in panel.lines)
    body = [
        [
            escaped(line.method),
            _estimate(line.area, ""),
            *([_distance(line.median)] if medians else []),
        ]
        for line in summed_up(panel)
    ]
    head = ["method", "area", *(["median"] if medians else [])]
    return tabular(areas(panel), "l" + "r" * (len(head) - 1), head, body)


def difference_table(comparisons: Sequence[Comparison], percent: bool) -> str:
    """A row a comparison: difference in points, simultaneous interval, adjusted p, verdict."""
    body = [
        [
            escaped(cell)
            for cell in (
                c.a,
                c.b,
                level_text(c.level, percent),
                in_points(c),
                ends(c),
                p_value(c.p, c),
                c.word,
            )
        ]
        for c in comparisons
    ]
    head = ["method", "against", "level", "points", "interval", "$p$", "verdict"]
    made = dict.fromkeys(
        ", ".join(filter(None, (c.test, c.correction, c.unit))) for c in comparisons
    )
    return tabular("; ".join(filter(None, made)), "lllrrrl", head, body)


def claim_table(judgements: Sequence[Judgement]) -> str:
    """A row a claim: its words, the difference that counts as none in points, the verdict."""
    body = [
        [
            escaped(cell)
            for cell in (
                j.name,
                j.text,
                delta_in_points(j.delta),
                verdict_in_words(j),
                j.registered,
            )
        ]
        for j in judgements
    ]
    head = ["", "claim", r"$\Delta$", "verdict", "registration"]
    return tabular(
        "claims, and what the data say", r"lp{0.5\linewidth}rp{0.15\linewidth}l", head, body
    )


def cost_table(costs: Sequence[Cost]) -> str:
    """A row a method: time of a step over the baseline's, and the gain in points."""
    body = []
    for c in costs:
        value, *ends = times(c.ratio)
        ratio = f"{value} ({' to '.join(ends)})"
        gain = f"{difference(c.gain)} ({difference_ends(c.gain)})"
        body.append([escaped(cell) for cell in (c.method, ratio, gain, c.where)])
    return tabular("cost and gain", "lrrl", ["method", "time", "gain", "at"], body)


def _estimate(estimate: Estimate | None, verdict: str) -> str:
    if estimate is None:
        return "--"
    span = escaped(f"({interval(estimate).replace(' to ', '–')})")
    mark = _MARKS.get(verdict, "")
    return f"{escaped(tenths_of_all(estimate.value))}{mark} {{\\scriptsize {span}}}"


def _distance(estimate: Estimate | None) -> str:
    if estimate is None:
        return "--"
    shown = escaped(distance(estimate.value)), escaped(f"({distances(estimate)})")
    return f"{shown[0]} {{\\scriptsize {shown[1]}}}"


def tabular(comment: str, columns: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    r"""A table to be \input; cells are LaTeX already."""
    lines = [
        f"% {shown(comment)}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(head) + " \\\\",
        "\\midrule",
        *(" & ".join(row) + " \\\\" for row in body),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
