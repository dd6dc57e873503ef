"""The page of an evaluation: one self-contained HTML file. Rebuilt from records; needs no torch.

What a page says follows from the evaluations alone: no date, no network, no script. Every string
that comes from a record is escaped.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from robustkit import figures
from robustkit.errors import InputError, shown
from robustkit.files import read_text, shipped
from robustkit.parsing import parse_toml
from robustkit.protocol import Epsilon, parse_protocol, protocol_options, protocol_toml
from robustkit.protocol.norms import symbol
from robustkit.record import CLEAN, Evaluation, Example, MeanPasses, Point, mean_passes
from robustkit.reporting.html import render
from robustkit.reporting.methods import of_evaluations, together
from robustkit.reporting.wording import attacks, count, interval, percent, readable
from robustkit.results.command import data_options, network_flags, network_options
from robustkit.statistics import Estimate, Method
from robustkit.statistics.comparison import listed
from robustkit.summary import (
    ClassAccuracy,
    accuracy_by_passes,
    attack_labels,
    certified_points,
    class_accuracy,
    found_by,
    median_distance,
    median_is_hidden,
    passes_by_attack,
    reference,
    robust_points,
)

CLASSES_SHOWN = 20
"""with more classes than this, only those with the lowest robust accuracy are listed"""
EXAMPLES_SHOWN = 12
PIXELS_SHOWN = 400_000
"""per gallery, so that a page of large images stays small"""


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One entry of the gallery."""

    title: str
    caption: str
    panels: Mapping[str, str]
    """`data:` addresses by what they show"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the page says about one evaluation."""

    label: str
    sentence: str
    evaluation: Evaluation
    clean: Estimate
    points: Sequence[Point]
    certified: Sequence[Point]
    """at the same budgets; empty where nothing was proved"""
    at: Point
    """the budget that is quoted in words and per class"""
    found_by: Mapping[str, int]
    withstood: int
    """images that nothing fooled"""
    median: str
    passes: Mapping[str, MeanPasses]
    """an image, by attack; empty where the record does not say"""
    all_passes: MeanPasses | None
    classes: Sequence[ClassAccuracy]
    class_count: int
    gallery: Sequence[GalleryImage]
    provenance: Mapping[str, Mapping[str, str]]
    command: str


@dataclass(frozen=True, slots=True)
class EvaluationGroup:
    """Evaluations that may be compared: the same images, protocol and surrogate."""

    findings: Sequence[Finding]
    curve: Markup
    costs: Markup | None
    """accuracy against passes; None where no record tells them"""
    attacks: Mapping[str, Mapping[str, str]]
    """every number of each attack, by the attack's label"""
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    toml: str | None
    """the protocol with every number spelled out, where no shipped file says it all"""


def page(
    evaluations: Sequence[Evaluation],
    failures: Sequence[Mapping[str, Any]] = (),
    method: Method = "wilson",
) -> str:
    """One HTML page on evaluations, and on checkpoints that failed (see `summary.failure`).

    The same evaluations give the same bytes.
    """
    labels = _labels([e.header["checkpoint"]["path"] for e in evaluations])
    findings = [_finding(e, label, method) for e, label in zip(evaluations, labels, strict=True)]
    groups = _groups(findings)
    return render(
        "evaluation.html.jinja",
        title=_title(labels or [PurePath(f["checkpoint"]["path"]).name for f in failures]),
        groups=groups,
        methods=together(
            [
                of_evaluations([f.evaluation for f in group.findings], group.findings[0].clean)
                for group in groups
            ]
        ),
        findings=findings,
        failures=failures,
        warnings=_warnings(findings),
    )


def _title(labels: Sequence[str]) -> str:
    return f"Robustness of {labels[0] if len(labels) == 1 else f'{len(labels)} checkpoints'}"


def _labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of the paths that tell the checkpoints apart; numbered where none does."""
    parts = [PurePath(path).parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(p[-depth:]) for p in parts]
        if len(set(labels)) == len(labels):
            return [shown(label) for label in labels]
    return [f"{shown(label)} ({i})" for i, label in enumerate(labels, 1)]


def _warnings(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Each warning once, with the labels of the checkpoints it concerns."""
    result: dict[str, list[str]] = {}
    for finding in findings:
        for text in finding.evaluation.header["warnings"]:
            result.setdefault(text, []).append(finding.label)
    return result


def _finding(evaluation: Evaluation, label: str, method: Method) -> Finding:
    curve = robust_points(evaluation, method)
    clean, found = evaluation.clean(method), found_by(evaluation)
    # without attacks there is one point, at no budget at all
    at = reference(curve) if curve else Point(Epsilon(Fraction(0), "0"), clean)
    classes = class_accuracy(evaluation, at.epsilon, method)
    return Finding(
        label=label,
        sentence=sentence(evaluation, clean, at),
        evaluation=evaluation,
        clean=clean,
        points=curve,
        certified=certified_points(evaluation, method),
        at=at,
        found_by=found,
        withstood=clean.n - sum(found.values()),
        median=_median(evaluation, clean.n - found[CLEAN]),
        passes=passes_by_attack(evaluation),
        all_passes=mean_passes(evaluation.table),
        classes=_lowest(classes),
        class_count=len(classes),
        gallery=gallery(
            evaluation.examples,
            evaluation.header["data"]["classes"],
            evaluation.header["protocol"]["norm"],
        ),
        provenance=_provenance(evaluation),
        command=_command(evaluation),
    )


def sentence(evaluation: Evaluation, clean: Estimate, at: Point) -> str:
    """The result in words, at one budget."""
    protocol, robust = evaluation.header["protocol"], at.accuracy
    labels = attack_labels(protocol)
    if not labels:
        return (
            f"{percent(clean.value)} of {count(clean.n)} images are classified correctly "
            f"(95\u00a0% CI {interval(clean)}); nothing was attacked."
        )
    by = f"worst case per image over {listed(labels)}" if len(labels) > 1 else f"under {labels[0]}"
    if "surrogate" in evaluation.header:
        by += f", by transfer from {shown(evaluation.header['surrogate']['path'])}"
    target = protocol["resolved"]["target"]
    verdict = "are still classified correctly"
    if target != "none":
        verdict = f"are classified correctly and not turned into their target class ({target})"
    return (
        f"At ε = {at.epsilon.text} ({symbol(protocol['norm'])}), {percent(robust.value)} of "
        f"{count(robust.n)} images {verdict} (95\u00a0% CI {interval(robust)}), "
        f"against {percent(clean.value)} without attack; {by}.{_proved(evaluation, at)}"
    )


def _proved(evaluation: Evaluation, at: Point) -> str:
    """What is known for certain, as a further sentence."""
    found = {point.epsilon: point.accuracy for point in evaluation.certified()}
    if at.epsilon not in found:
        return ""
    return f" Of all, {percent(found[at.epsilon].value)} provably are, whatever the attack."


def _median(evaluation: Evaluation, right: int) -> str:
    """The median smallest perturbation, in words."""
    norm, median = evaluation.header["protocol"]["norm"], median_distance(evaluation)
    if right == 0:
        return "No image is classified correctly without attack, so there is nothing to perturb."
    of = f"of the {count(right)} images classified correctly without attack"
    if median_is_hidden(evaluation):
        return (
            f"The median smallest perturbation {of} is not known: images proved at ε = "
            f"{evaluation.epsilons[-1].text} were not attacked there."
        )
    if median is None:
        return f"For more than half {of}, no perturbation that fools the model was found."
    return (
        f"Half {of} were fooled at an {symbol(norm)} distance of {median:.3g} or less: the median "
        "smallest perturbation found, an upper bound on the true one (attacks that spend a whole "
        "budget measure no finer than the budgets)."
    )


def _lowest(classes: Sequence[ClassAccuracy]) -> Sequence[ClassAccuracy]:
    """All classes where they are few, else those with the lowest robust accuracy."""
    if len(classes) <= CLASSES_SHOWN:
        return classes
    return sorted(classes, key=lambda c: (c.robust.value, c.clean.value))[:CLASSES_SHOWN]


def gallery(examples: Sequence[Example], classes: Sequence[str], norm: str) -> list[GalleryImage]:
    """The smallest successful perturbations, as many as a page can hold.

    `classes` are the names of the labels; one without a name goes by its number.
    """
    examples = sorted(examples, key=lambda e: (e.distance, e.index))
    if not examples:
        return []
    height, width = examples[0].clean.shape[1:]
    room = max(3, PIXELS_SHOWN // (height * width))
    return [_picture(e, classes, norm) for e in examples[: min(room, EXAMPLES_SHOWN)]]


def _picture(example: Example, classes: Sequence[str], norm: str) -> GalleryImage:
    change, factor = figures.difference(example)
    right, wrong = (figures.class_name(n, classes) for n in (example.label, example.predicted))
    return GalleryImage(
        title=f"{right} → {wrong}",
        caption=f"image {example.index}, {symbol(norm)} distance {example.distance:.3g}",
        panels={
            "clean": figures.png_uri(example.clean),
            "perturbed": figures.png_uri(example.perturbed),
            f"difference ×\u00a0{factor:g}": figures.png_uri(change),
        },
    )


def _groups(findings: Sequence[Finding]) -> list[EvaluationGroup]:
    """Findings by data, protocol and surrogate, in the order of their first checkpoint."""
    keys = list(dict.fromkeys(map(_key, findings)))
    return [
        _group([f for f in findings if _key(f) == key], f"curve{i}")
        for i, key in enumerate(keys, 1)
    ]


def _key(finding: Finding) -> tuple[str, str, str | None]:
    header = finding.evaluation.header
    surrogate = header.get("surrogate", {}).get("weights")
    return header["data"]["digest"], header["protocol"]["digest"], surrogate


def _group(findings: Sequence[Finding], prefix: str) -> EvaluationGroup:
    header = findings[0].evaluation.header
    protocol = header["protocol"]
    return EvaluationGroup(
        findings=findings,
        curve=_curve(findings, protocol["norm"], prefix),
        costs=_costs(findings, prefix),
        attacks=attacks(protocol),
        protocol=protocol,
        data=header["data"],
        toml=None if _of_shelf(protocol) else protocol_toml(protocol),
    )


def _curve(findings: Sequence[Finding], norm: str, prefix: str) -> Markup:
    names = figures.shortened([f.label for f in findings])
    curves = [
        figures.CheckpointCurve(name, f.clean, f.points, f.certified)
        for name, f in zip(names, findings, strict=True)
    ]
    height = 2.8 + (0.17 * len(curves) if len(curves) > 1 else 0)
    alternative = " ".join(
        f"{f.label}: {curve_in_words(f.clean, f.points, f.certified)}." for f in findings
    )
    return Markup(
        figures.svg(
            lambda ax: figures.robustness_curve(ax, curves, norm),
            (4.5, height),
            prefix,
            f"Robust accuracy against ε ({symbol(norm)}) with 95 % CI. {alternative}",
        )
    )


def _costs(findings: Sequence[Finding], prefix: str) -> Markup | None:
    names = figures.shortened([f.label for f in findings])
    known = [
        (name, finding, found)
        for name, finding in zip(names, findings, strict=True)
        if finding.points and (found := accuracy_by_passes(finding.evaluation, finding.at.epsilon))
    ]
    if not known:
        return None
    curves = [figures.CostCurve(name, x.tolist(), y.tolist()) for name, _, (x, y) in known]
    height = 2.8 + (0.17 * len(curves) if len(curves) > 1 else 0)
    epsilon = known[0][1].at.epsilon.text
    alternative = " ".join(
        f"{f.label}: {percent(float(y[-1]))} after at most {count(int(x[-1]))} passes."
        for _, f, (x, y) in known
    )
    return Markup(
        figures.svg(
            lambda ax: figures.accuracy_against_passes(ax, curves),
            (4.5, height),
            f"{prefix}costs",
            f"Accuracy at ε = {epsilon} against the passes an image is given. {alternative}",
        )
    )


def curve_in_words(clean: Estimate, points: Sequence[Point], certified: Sequence[Point]) -> str:
    """A curve for those who cannot see it."""
    values = [("0", clean), *((p.epsilon.text, p.accuracy) for p in points)]
    told = [f"{percent(e.value)} at ε = {text}" for text, e in values]
    told += [f"{percent(p.accuracy.value)} certified at {p.epsilon.text}" for p in certified]
    return ", ".join(told)


def _provenance(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    """Everything the record says of where its numbers come from, by section."""
    header = evaluation.header
    sections = {
        "Checkpoint": header["checkpoint"],
        "Data": {k: v for k, v in header["data"].items() if k not in ("classes", "source")},
        "Data source": header["data"]["source"],
        "Protocol": {k: header["protocol"][k] for k in ("name", "digest")},
        "Engine": header["engine"] | {"precision": header.get("precision", "float32")},
        "Proof": header.get("prove", {}),
        "Run": {k: v for k, v in evaluation.run.items() if k != "rows_digest"},
        "Record": {"digest": evaluation.digest, "rows digest": evaluation.rows_digest},
    }
    return {
        title: {key.replace("_", " "): readable(value) for key, value in section.items()}
        for title, section in sections.items()
    }


def _of_shelf(protocol: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The protocol with its file, where that is one that ships, and says all of what was run.

    The name of a file of one's own may be that of another on the reader's machine.
    """
    resolved, name = protocol["resolved"], protocol["name"]
    shelf = shipped("attacks")
    path = shelf / f"{name}.toml"
    if path not in shelf.glob("*.toml"):
        return None
    try:
        text = read_text(path)
        written = parse_protocol(parse_toml(text), name, name, norm=protocol["norm"])
        asked = replace(written, epsilons=resolved["epsilons"])
    except (InputError, ValueError):
        return None
    given = {key: resolved[key] for key in ("target", "seed")}
    return {**protocol, "file": text} if asked.resolved() | given == resolved else None


def _command(evaluation: Evaluation) -> str:
    """The command line that asks the same question again; "" where a part was only in memory."""
    header = evaluation.header
    checkpoint, data, protocol = (header[key] for key in ("checkpoint", "data", "protocol"))
    networks = [checkpoint, *([header["surrogate"]] if "surrogate" in header else [])]
    if any(network.get("sha256") is None for network in networks) or not data["source"]:
        return ""
    target = protocol["resolved"]["target"]
    named = _of_shelf(protocol)
    options: dict[str, Iterable[object]] = {
        "--attack": [protocol["name"] if named else f"{protocol['name']}.toml"],
        "--norm": protocol_options(named)[3:] if named else [],
        **network_options(checkpoint),
        "--surrogate": [network["path"] for network in networks[1:]],
        **data_options(data),
        "--epsilon": [entry["epsilon"] for entry in protocol["epsilons"]],
        "--target": [target] if target != "none" else [],
        "--seed": [protocol["resolved"]["seed"]],
        "--prove": ["off"] if header.get("prove", {}).get("asked") == "off" else [],
        "--device": [header["engine"]["device"]],
        "--batch-size": [evaluation.run["batch_size"]],
        "--precision": [w for w in [header.get("precision", "float32")] if w != "float32"],
    }
    lines = [f"robustkit evaluate {shlex.quote(checkpoint['path'])}"]
    lines += [f"{name} {shlex.quote(str(v))}" for name, values in options.items() for v in values]
    lines += network_flags(networks)
    return " \\\n    ".join(lines)
