"""What a result tells a tracker: parameters, numbers by ε, a figure and its files."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustkit import figures
from robustkit.analysis.outcome import Outcome
from robustkit.auditing.outcome import Audit
from robustkit.display.results import view
from robustkit.record import Evaluation
from robustkit.record.certification import OUTCOMES, Certification
from robustkit.reporting.wording import verdict_in_words
from robustkit.showing import Shown
from robustkit.statistics import Estimate
from robustkit.statistics.estimate import Method
from robustkit.summary import (
    attack_labels,
    certified_points,
    median_distance,
    passes_by_attack,
    robust_points,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A result as a tracker keeps it."""

    parameters: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    figure: Callable[[], bytes] | None = None
    """draws a PNG"""
    figure_name: str = "robust accuracy"
    files: Sequence[Path] = field(default=())


def of_evaluation(found: Evaluation, method: Method = "wilson") -> Content:
    """A record: shares of all images, clean mistakes counted as wrong."""
    header, norm = found.header, found.header["protocol"]["norm"]
    parameters = _asked(header) | {
        "precision": header.get("precision", "float32"),
        "record": found.digest,
    }
    cost = passes_by_attack(found).values()
    metrics: dict[str, float | None] = {
        **_ends("clean_accuracy", found.clean(method)),
        **{
            key: value
            for kind, points in (
                ("robust_accuracy", robust_points(found, method)),
                ("certified_accuracy", certified_points(found, method)),
            )
            for point in points
            for key, value in _ends(_at(kind, norm, point.epsilon.text), point.accuracy).items()
        },
        "median_distance": median_distance(found),
        **({"passes_forward": sum(c.forward for c in cost)} if cost else {}),
        **({"passes_backward": sum(c.backward for c in cost)} if cost else {}),
    }
    return Content(
        parameters=parameters,
        metrics=metrics,
        figure=_figure(found, method=method),
        files=[found.path] if found.path is not None else [],
    )


def _asked(header: Mapping[str, Any]) -> dict[str, Any]:
    """What a record's header says of network, images, attacks and machine."""
    protocol = header["protocol"]
    return {
        **flat(header["checkpoint"], "checkpoint", ("path", "sha256", "model", "loss")),
        **flat(header["data"], "data", ("name", "split", "n", "digest")),
        **flat(protocol, "protocol", ("name", "norm", "digest")),
        **flat(protocol["resolved"], "protocol", ("target", "seed")),
        "protocol.attacks": ", ".join(attack_labels(protocol)),
        "protocol.epsilons": ", ".join(entry["epsilon"] for entry in protocol["epsilons"]),
        **flat(header["engine"], "engine"),
    }


def of_certification(found: Certification, method: Method = "wilson") -> Content:
    """What is proved, fooled and open at one ε, as shares of all images."""
    protocol = found.header["protocol"]
    at = protocol["norm"], protocol["epsilons"][0]["epsilon"]
    metrics: dict[str, float | None] = {}
    for outcome in OUTCOMES:
        metrics |= _ends(_at(f"{outcome}_share", *at), found.share(outcome, method))
    return Content(
        parameters=_asked(found.header), metrics=metrics, files=[found.path] if found.path else []
    )


def of_study(found: Outcome, folder: Path) -> Content:
    """A study's claims, its accuracies, and the report that lies in `folder`."""
    told = {title.lower(): keys for title, keys in found.provenance.items()}
    parameters = {
        "study": found.name,
        **flat(told.get("study", {}), "study"),
        **flat(told.get("versions", {}), "versions"),
        **{f"claim.{one.name}": verdict_in_words(one) for one in found.judgements},
    }
    metrics: dict[str, float | None] = {}
    for panel in found.panels:
        for line in panel.lines:
            for value in line.values:
                place = f"{panel.name}/{_plain(line.method)}/{value.level.replace('/', '_')}"
                metrics |= _ends(place, value.estimate)
    return Content(
        parameters=parameters,
        metrics=metrics,
        figure=_figure(found),
        figure_name="accuracy",
        files=[folder / name for name in ("report.html", "numbers.csv", "evidence.parquet")],
    )


def _plain(name: str) -> str:
    """A method's name in the letters that trackers take."""
    return re.sub(r"[^\w .-]", "_", name, flags=re.ASCII)


def of_audit(found: Audit, folder: Path) -> Content:
    """An audit whose report lies in `folder`."""
    parameters = {
        **flat(found.checkpoint, "checkpoint", ("path", "sha256", "model", "loss")),
        **flat(found.data, "data", ("name", "split", "n", "digest")),
        "norm": found.norm,
        "epsilon": found.epsilon,
        "budget": found.budget,
        **flat({"claim": found.claim.number}, ""),
        "claim.source": found.claim.source,
        "verdict": found.verdict.word,
        "delta": found.verdict.delta,
        **flat(found.provenance.get("Engine", {}), "engine"),
    }
    return Content(
        parameters=parameters,
        metrics=dict(_audit_metrics(found)),
        figure=_figure(found),
        files=[folder / name for name in ("audit.json", "audit.html", "audit.md")],
    )


def _audit_metrics(found: Audit) -> Iterator[tuple[str, float | None]]:
    yield from _ends("clean_accuracy", found.clean).items()
    for level in found.robust:
        yield from _ends(_at("robust_accuracy", found.norm, level.epsilon), level.accuracy).items()
    for bound in found.certificate.levels:
        key = _at("certified_accuracy", found.norm, bound.epsilon)
        yield from _ends(key, bound.certified).items()
    yield "corruption_accuracy", found.corruptions.mean
    examined = any(result.examined for result in found.indicators)
    unknown = [result for result in found.indicators if result.status == "not examined"]
    yield "unresolved_indicators", float(len(found.unresolved)) if examined else None
    yield "unexamined_indicators", float(len(unknown))
    if found.policy:
        yield "failed_rules", float(sum(not rule.passed for rule in found.policy))


def of_training(record: Mapping[str, Any], files: Sequence[Path]) -> Content:
    """A training that is done, by the checkpoint's own account of it."""
    told = {key: value for key, value in record.items() if key != "history"}
    last = next(line for line in record["history"] if line["epoch"] == record["epoch_kept"])
    return Content(
        parameters=flat(told, ""),
        metrics={f"kept_{k}": value for k, value in line_metrics(last).items() if k != "epoch"},
        files=files,
    )


def line_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of a training's history."""
    return {key: float(value) for key, value in line.items() if isinstance(value, int | float)}


def flat(
    table: Mapping[str, Any], prefix: str, keys: Sequence[str] | None = None
) -> dict[str, Any]:
    """Tables within tables as `outer.inner`; what is not known is left out."""
    found: dict[str, Any] = {}
    for key in table if keys is None else [key for key in keys if key in table]:
        name, value = f"{prefix}.{key}" if prefix else str(key), table[key]
        if isinstance(value, Mapping):
            found |= flat(value, name)
        elif value is not None:
            found[name] = value
    return found


def _at(kind: str, norm: str, epsilon: str) -> str:
    """'robust_accuracy/linf/8_255': a slash would be a group of its own."""
    return f"{kind}/{norm}/{epsilon.replace('/', '_')}"


def _ends(name: str, share: Estimate) -> dict[str, float]:
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}


def _figure(found: Shown, **how: Any) -> Callable[[], bytes] | None:
    shown = view(found, **how)
    if shown.draw is None:
        return None
    draw, (_, height) = shown.draw, shown.size()
    return lambda: figures.render(draw, "tracked", style="neurips", height=height)["png"]
