"""A model card: the audit in Markdown, as code hosts and model hubs show it.

Whatever comes from a checkpoint, a data set or a file is escaped: it is shown, never obeyed.
"""

from collections.abc import Iterable
from pathlib import PurePath

from robustkit.auditing.outcome import Audit, Corruptions
from robustkit.auditing.policy import complete_at
from robustkit.auditing.wording import tolerance
from robustkit.protocol.norms import symbol, within
from robustkit.reporting.annex import (
    AUDITED,
    CLASSES_SHOWN,
    TITLE,
    classes_heading,
    section,
)
from robustkit.reporting.markdown import escaped, fenced, table
from robustkit.reporting.methods import of_audit
from robustkit.reporting.modelindex import front_matter
from robustkit.reporting.wording import NOTHING, ends, in_points, interval, measured, percent
from robustkit.statistics import Estimate

RULES_SHOWN = 5
"""that failed, before the whole list"""


def model_card(audit: Audit) -> str:
    """Metadata, half a page, and the whole to the command that repeats it; ends with a newline."""
    methods = of_audit(audit)
    blocks = [
        front_matter(audit),
        half_page(audit),
        _what(audit),
        _accuracy(audit),
        _smoothed(audit),
        _stages(audit),
        _classes(audit),
        _indicators(audit),
        _corruptions(audit),
        _comparisons(audit),
        _policy(audit),
        _checklist(audit),
        _section(TITLE, section(audit)),
        _section("Methods", *map(escaped, methods.paragraphs)),
        _section("References", fenced(methods.bibtex, "bibtex")),
        _section("Warnings", _list(audit.warnings)),
        _section("How to reproduce", fenced(audit.command, "sh") if audit.command else ""),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def half_page(audit: Audit) -> str:
    """What who reads no further should know: verdict, main numbers, failed rules, scope."""
    name = PurePath(str(audit.checkpoint.get("path"))).name
    failed = [rule for rule in audit.policy if not rule.passed]
    blocks = [
        f"## Robustness audit of {escaped(name)}",
        f"**{escaped(audit.verdict.word).capitalize()}.** {escaped(audit.verdict.sentence)}",
        _list(audit.verdict.reasons),
        table(("", "result"), _main_results(audit), words=2),
        _list(f"Failed rule: {rule.rule}. {rule.sentence}" for rule in failed[:RULES_SHOWN]),
        f"and {len(failed) - RULES_SHOWN:,} more, see below" if len(failed) > RULES_SHOWN else "",
        escaped(_scope(audit)),
    ]
    return "\n\n".join(filter(None, blocks))


def _main_results(audit: Audit) -> list[tuple[str, str]]:
    """The numbers to quote, each with its 95 % interval."""
    at = f"{symbol(audit.norm)}, ε = {audit.epsilon}"
    bound = next((b for b in audit.certificate.levels if b.epsilon == audit.epsilon), None)
    statuses = [result.status for result in audit.indicators]
    counts = [f"{statuses.count(word):,} {word}" for word in dict.fromkeys(statuses)]
    held = sum(rule.passed for rule in audit.policy)
    complete = complete_at(audit, audit.epsilon)
    robust = _share(audit.survived) + ("" if complete else " (not all required attacks completed)")
    proved, mean = _share(bound.certified if bound else None), percent(audit.corruptions.mean)
    rows = [
        (f"claim ({at})", percent(audit.claim.number)),
        ("clean accuracy", f"{_share(audit.clean)}, {audit.clean.n:,} images"),
        (f"robust accuracy, upper bound ({at})", robust),
        (f"certified accuracy, lower bound ({at})", _on(audit.certificate.n, proved, audit)),
        ("mean accuracy, common corruptions", _on(audit.corruptions.n, mean, audit)),
        ("indicators of failing attacks", ", ".join(counts) or "none examined"),
    ]
    if audit.policy:
        rows.append(("policy", f"{held:,} of {len(audit.policy):,} rules passed"))
    return rows


def _on(n: int, result: str, audit: Audit) -> str:
    """A result with the number of its images, where they are not those that were attacked."""
    return result if result == NOTHING or n == audit.clean.n else f"{result}, on {n:,} images"


def _scope(audit: Audit) -> str:
    return (
        f"Scope: these images, perturbations {within(audit.norm)}, the attacks listed "
        "below. A stronger attack can only lower robust accuracy. Shares are of all "
        f"{audit.clean.n:,} images where no other number is given, with 95\u00a0% intervals."
    )


def _section(title: str, *blocks: str) -> str:
    """A heading and what stands below it; nothing where there is nothing."""
    kept = [block for block in blocks if block]
    return "\n\n".join([f"### {title}", *kept]) if kept else ""


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return NOTHING
    return f"{percent(estimate.value)} ({interval(estimate)})"


def _what(audit: Audit) -> str:
    checkpoint, data, claim = audit.checkpoint, audit.data, audit.claim
    rows = [
        ("claim", f"{percent(claim.number)} at ε = {claim.epsilon} ({symbol(claim.norm)})"),
        ("claim source", claim.source),
        ("Δ", f"{tolerance(audit.verdict.delta)}: a claim too high by less may be believed"),
        ("checkpoint", str(checkpoint.get("path"))),
        ("SHA-256", str(checkpoint.get("sha256") or "not recorded")),
        ("images", f"{audit.clean.n:,} of {data.get('name')}, {data.get('split')}"),
        ("digest of the images", str(data.get("digest"))),
        ("budget of the audit", audit.budget),
    ]
    return _section(AUDITED, table(("", ""), rows, words=2))


def _accuracy(audit: Audit) -> str:
    certified = {bound.value: bound.certified for bound in audit.certificate.levels}
    attacked = {level.value: level.accuracy for level in audit.robust}
    texts = {b.value: b.epsilon for b in audit.certificate.levels}
    texts |= {level.value: level.epsilon for level in audit.robust}
    rows = [("no attack", _share(audit.clean), NOTHING, NOTHING)]
    for v in sorted(texts):
        stages = f"{len(audit.attacked_at(texts[v])):,}" if v in attacked else NOTHING
        rows.append((texts[v], _share(attacked.get(v)), stages, _share(certified.get(v))))
    how = "Share of images classified correctly, clean mistakes counted as wrong, with 95 % CI"
    bound = f"certified by {audit.certificate.method} on {audit.certificate.n:,} images"
    if not audit.certificate.levels:
        bound = f"no certified bound: {audit.certificate.reason or 'none was computed'}"
    return _section(
        "Accuracy",
        escaped(f"{how}. Under attack it is an upper bound on robust accuracy; {bound}."),
        table((f"ε ({symbol(audit.norm)})", "robust accuracy", "stages", "certified"), rows),
    )


def _smoothed(audit: Audit) -> str:
    found = audit.smoothed
    if found is None:
        return ""
    rows = [("no attack", _share(found.clean), NOTHING)]
    rows += [(f"{lv.radius:g}", _share(lv.attacked), _share(lv.certified)) for lv in found.levels]
    introduction = (
        f"Another classifier than the audited one: its most frequent class under Gaussian noise "
        f"(σ = {found.sigma:g}, {found.draws:,} draws, α = {found.alpha:g}). It abstained on "
        f"{found.abstained:,} of {found.clean.n:,} images, which count as wrong; so does an image, "
        "unless it is certified at that radius, where it abstains on the point that an attack "
        "reached."
    )
    shown = table(("ℓ₂ radius", "robust accuracy", "certified"), rows)
    return _section("The smoothed classifier", escaped(introduction), shown)


def _stages(audit: Audit) -> str:
    rows = [
        (
            s.title + " *" * s.required,
            "random draws" if s.family == "floor" else s.family,
            s.status + (f": {s.reason}" if s.reason else ""),
            _share(s.so_far),
            f"{s.first:,}" if s.status == "complete" else NOTHING,
        )
        for s in audit.stages
    ]
    head = ("stage", "kind", "outcome", "accuracy so far", "first to fool")
    introduction = (
        f"At ε = {audit.epsilon}, in the order in which they ran. The verdict needs those with *."
    )
    shown = table(head, rows, words=3)
    return _section(
        "Attacks", escaped(introduction) if shown else "", shown or "None: nothing was attacked."
    )


def _classes(audit: Audit) -> str:
    lowest = sorted(audit.classes, key=lambda c: (c.robust.value, c.clean.value))[:CLASSES_SHOWN]
    rows = [(c.name, f"{c.clean.n:,}", _share(c.clean), _share(c.robust)) for c in lowest]
    head = ("class", "images", "no attack", f"ε = {audit.epsilon}")
    return _section(classes_heading(audit), table(head, rows))


def _indicators(audit: Audit) -> str:
    rows = [
        (
            r.title,
            r.status,
            " ".join(
                filter(
                    None,
                    (
                        r.evidence,
                        f"Adaptive attack: {r.adaptive_attack}" if r.adaptive_attack else "",
                    ),
                )
            ),
            measured(r.value),
            NOTHING if r.threshold is None else f"{r.fires} {measured(r.threshold)}",
            percent(r.before),
            percent(r.after),
        )
        for r in audit.indicators
    ]
    head = ("indicator", "status", "evidence", "number", "fires", "before", "after")
    none = "None was examined: an attack that failed would not have been noticed."
    return _section("Indicators of failing attacks", table(head, rows, words=3) or none)


def _corruptions(audit: Audit) -> str:
    found = audit.corruptions
    if not found.rows:
        why = found.reason or "no reason recorded"
        return _section("Common corruptions", escaped(f"Not tried: {why}."))
    rows = [
        (r.name, r.group, *(_share(r.by_severity.get(severity)) for severity in found.severities))
        for r in found.rows
    ]
    introduction = f"Accuracy on {found.n:,} images by severity; mean {percent(found.mean)}."
    head = ("corruption", "group", *severity_heads(found))
    return _section(
        "Common corruptions", escaped(introduction), table(head, rows, words=2), _list(found.notes)
    )


def severity_heads(found: Corruptions) -> list[str]:
    """What stands above each column of accuracies under corruptions."""
    alone = "accuracy" if len(found.severities) == 1 else "no severity"
    return [alone if severity is None else str(severity) for severity in found.severities]


def _comparisons(audit: Audit) -> str:
    rows = [(c.b, c.word, in_points(c), ends(c)) for c in audit.comparisons]
    shown = table(("beside", "verdict", "points", "interval"), rows, words=2)
    introduction = (
        "Difference of robust accuracy on the same images, the audited checkpoint less the other, "
        "without adaptive attacks and branch and bound, which only the audited one met."
    )
    return _section("Beside other checkpoints", introduction if shown else "", shown)


def _policy(audit: Audit) -> str:
    rows = [
        ("passed" if rule.passed else "FAILED", rule.rule, rule.sentence) for rule in audit.policy
    ]
    return _section("Policy", table(("outcome", "rule", "why"), rows, words=3))


def _checklist(audit: Audit) -> str:
    rows = [(item.text, item.answer, item.how) for item in audit.checklist]
    shown = table(("Carlini et al. 2019 ask", "answer", "how"), rows, words=3)
    return _section("Checklist", shown)
