"""A methods paragraph and the publications behind it, made from what is on record."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustkit.analysis.outcome import Outcome
from robustkit.auditing.completed import completed
from robustkit.auditing.outcome import Audit
from robustkit.data.transform import USUAL
from robustkit.files import canonical
from robustkit.protocol import BUDGETLESS, KINDS, search_of
from robustkit.protocol.norms import symbol, within
from robustkit.record import Evaluation
from robustkit.reporting import trainings
from robustkit.reporting.references import (
    CERTIFICATES,
    INTERVALS,
    attack_reference,
    bibtex,
    cited,
)
from robustkit.reporting.wording import readable
from robustkit.results.command import TRANSFORM
from robustkit.statistics import Estimate
from robustkit.statistics.comparison import listed
from robustkit.statistics.estimate import counted, percent

BOUNDS = (CERTIFICATES["interval"], CERTIFICATES["linear"])
_COUNTED = (
    "An image counts as robust at ε{} if it is classified correctly and none of the attacks{} "
    "finds an adversarial example within ε (worst case per image); each is checked again in "
    "float32."
)
_VERIFIED = _COUNTED.format("", "")
_VERIFIED_ALONE = _COUNTED.format(" under a protocol", " of that protocol")
_SEARCHED = {
    "bisect": "Budgets were bisected for each image: where an attack failed, it tried no smaller "
    "one, and where it succeeded, it went on below.",
    "scan": "Each attack tried the budgets of an image from the smallest up to the first success.",
}
"""in which order budgets were tried"""
NO_NUMBERS = ("kind", "random_start", "target_order")
"""keys of an attack that its name tells, or that say nothing where they are as usual"""


@dataclass(frozen=True, slots=True)
class Methods:
    """What a paper says of how its numbers were made."""

    paragraphs: tuple[str, ...]
    keys: tuple[str, ...]
    """of the publications behind them"""
    version: str
    """of robustkit"""

    @property
    def bibtex(self) -> str:
        """The publications, after robustkit itself."""
        return bibtex(self.keys, self.version)


def together(parts: Sequence[Methods]) -> Methods:
    """Of several groups of results on one page."""
    paragraphs = tuple(text for part in parts for text in part.paragraphs)
    keys = tuple(key for part in parts for key in part.keys)
    return Methods(paragraphs, keys, _told(v for part in parts for v in part.version.split(", ")))


def of_evaluations(evaluations: Sequence[Evaluation], clean: Estimate) -> Methods:
    """Of evaluations of the same images under the same protocol; `clean` tells the interval."""
    header, engines = evaluations[0].header, [e.header["engine"] for e in evaluations]
    protocol = header["protocol"]
    attacks, norm = protocol["resolved"]["attacks"], protocol["norm"]
    which = listed(list(dict.fromkeys(str(e.header["checkpoint"]["path"]) for e in evaluations)))
    proved = any(e.proved for e in evaluations)
    alike = len({canonical(e.header["data"].get("transform")) for e in evaluations}) == 1
    sentences = [
        f"We evaluated {which} on {_images(header['data'], by=alike)}.",
        *(_attacked(attacks, norm, _budgets(protocol), protocol["resolved"])),
        *_searched([(search_of(protocol["resolved"]), attacks)]),
        *([] if attacks else ["Nothing was attacked."]),
        *(_transferred(header) if attacks else ()),
        *([_VERIFIED] if attacks else []),
        *(_spared(evaluations) if proved else ()),
        _intervals(clean.method),
        *_software([e.header for e in evaluations]),
    ]
    keys = [*_attack_keys(attacks, norm), *(key for e in engines for key in _engine_keys(e))]
    keys += [*_interval_keys(clean.method), *(BOUNDS if proved else ())]
    return _methods(sentences, keys, *engines)


def of_audit(audit: Audit) -> Methods:
    """Of an audit: every attack of every stage that completed, bounds, corruptions, indicators."""
    ran, claim = completed(audit), audit.claim
    engine = next((audit.provenance[k] for k in ("Engine", "engine") if k in audit.provenance), {})
    seed = audit.provenance.get("Run", {}).get("seed")
    at = f"ε = {claim.epsilon} ({symbol(claim.norm)})"
    judged = (
        f"no claim at {at} was judged: none was given, and the plain evaluation did not complete"
        if claim.number is None
        else f"a claim of {100 * claim.number:.6g}\u00a0% robust accuracy at {at} was judged with "
        f"a tolerance of {100 * audit.verdict.delta:.6g} points"
    )
    sentences = [
        f"We audited {audit.checkpoint.get('path')} on {_images(audit.data)} (budget: "
        f"{audit.budget}): {judged}.",
        *_attacked(ran.attacks, audit.norm, [lv.epsilon for lv in audit.robust], {"seed": seed}),
        *_searched(ran.searches),
        *([_VERIFIED] if ran.attacks else ["Nothing was attacked."]),
        *_looked(audit),
        _intervals(audit.clean.method),
        _versions(engine, str(engine.get("precision", ""))),
    ]
    keys = [*_attack_keys(ran.attacks, audit.norm), *_engine_keys(engine), *_audit_keys(audit)]
    return _methods(sentences, keys, engine)


def of_study(outcome: Outcome) -> Methods:
    """Of a study: its networks, seeds, attacks, and how methods were compared."""
    versions = outcome.provenance.get("Versions", {})
    protocols = {n: p for n, p in outcome.protocols.items() if p["resolved"]["attacks"]}
    measures = dict.fromkeys(panel.measure for panel in outcome.panels)
    trained = trainings.methods(outcome)
    keys = [*_engine_keys(versions), *(key for m in trained for key in trainings.keys(m))]
    for protocol in protocols.values():
        keys += _attack_keys(protocol["resolved"]["attacks"], protocol["norm"])
    precision = trainings.file_of(outcome).get("test", {}).get("precision", "") if protocols else ""
    searched = {"auto": "whichever precision was fastest"}.get(precision, precision)
    sentences = [
        *trainings.sentences(outcome),
        *([f"Measured: {'; '.join(measures)}."] if measures else []),
        *_protocols(protocols),
        *trainings.surrogates(outcome),
        *_tests(outcome),
        _versions(versions, searched),
    ]
    return _methods(sentences, keys, versions)


def _methods(sentences: Iterable[str], keys: Iterable[str], *engines: Mapping[str, Any]) -> Methods:
    paragraph = " ".join(filter(None, sentences))
    version = _told(str(engine.get("robustkit", "")) for engine in engines)
    return Methods((paragraph,), tuple(dict.fromkeys(keys)), version)


def _told(versions: Iterable[str]) -> str:
    """Each version once."""
    return ", ".join(sorted(set(filter(None, versions))))


# ---- sentences


def _images(data: Mapping[str, Any], *, by: bool = True) -> str:
    """Which images: how many, of what, and how they were made; `by` which library's rule."""
    n = data.get("n")
    count = f"{n:,} " if isinstance(n, int) else ""
    whose = data.get("title") or data.get("name")
    return f"{count}{data.get('split')} images of {whose}{_made(data, by)}{_subset(data)}"


def _made(data: Mapping[str, Any], by: bool) -> str:
    """How they were made: ', resized to 256 (shorter side, bilinear, Pillow) and cropped to …'."""
    made = data.get("transform") or {}
    whole = made.get("pipeline") or made
    size, crop, fit = whole.get("resize"), whole.get("crop"), whole.get("fit", "stretched")
    steps = []
    if not whole.get("library") and whole.get("channels"):
        steps.append("converted to grey" if whole["channels"] == 1 else "converted to RGB")
    if size:
        side = "shorter side, " if isinstance(size, int) else ""
        how = f"{side}{whole.get('interpolation') or USUAL}, {whole.get('by', 'Pillow')}"
        steps.append(f"resized to {_sides(size)} ({how}{f', {fit}' * (fit != 'stretched')})")
    if crop:
        steps.append(f"cropped to {_sides([crop, crop] if isinstance(crop, int) else crop)}")
    # a level of corrupted images is left as it was published, whatever the library does to others
    as_published = "corruption" in (data.get("source") or {}) and not size
    rule = ""
    if by and whole.get("library") and not as_published:
        asked = [f"{key} {made[key]}" for key in TRANSFORM if "pipeline" in made and key in made]
        but = f", but with {listed(asked)} as asked" if asked else ""
        rule = f", as {whole['processor']} of {whole['library']} does{but}"
    return f", {listed(steps)}{rule}" if steps else ""


def _sides(size: int | Sequence[int]) -> str:
    return f"{size}" if isinstance(size, int) else "×".join(map(str, size))


def _subset(data: Mapping[str, Any]) -> str:
    """Of how many of the network's classes there are images, where not of all."""
    found = ((data.get("source") or {}).get("class_map") or {}).get("numbers") or {}
    some, all_ = len(set(found.values())), len(data.get("classes") or ())
    return f" ({some:,} of the {all_:,} classes)" if 0 < some < all_ else ""


def _budgets(protocol: Mapping[str, Any]) -> list[str]:
    return [str(entry["epsilon"]) for entry in protocol["epsilons"]]


def _attacked(
    attacks: Sequence[Mapping[str, Any]],
    norm: str,
    epsilons: Sequence[str],
    asked: Mapping[str, Any],
) -> Iterator[str]:
    """The threat model, and the attacks with every number; nothing without attacks."""
    if not attacks:
        return
    target, seed = asked.get("target", "none"), asked.get("seed")
    kind = "untargeted" if target == "none" else f"targeted ({target})"
    at = f" at ε = {listed(list(epsilons))}" if epsilons else ""
    seeded = "" if seed is None else f", random seed {seed}"
    yield (f"Threat model: perturbations {within(norm)}{at}, on pixels in [0, 1], {kind}{seeded}.")
    yield f"Attacks: {'; '.join(dict.fromkeys(_attack(attack, norm) for attack in attacks))}."


def _protocols(protocols: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Threat models, attacks, and what counts as robust; of several protocols each by its name.

    Every panel counts its own protocol alone.
    """
    several = len(protocols) > 1
    threats, attacks, orders = (defaultdict[str, list[str]](list) for _ in range(3))
    for name, protocol in protocols.items():
        resolved = protocol["resolved"]
        own = resolved["attacks"]
        threat, listing = _attacked(own, protocol["norm"], _budgets(protocol), resolved)
        threats[threat].append(name)
        attacks[listing].append(name)
        for order in _searched([(search_of(resolved), own)]):
            orders[order].append(name)
    for text, of in (*threats.items(), *attacks.items()):
        yield text if len(of) == len(protocols) else _of(text, of)
    for text, of in orders.items():
        theirs = f"With {listed(of)}: {text[:1].lower()}{text[1:]}"
        yield text if len(of) == len(protocols) else theirs
    if protocols:
        yield _VERIFIED_ALONE if several else _VERIFIED


def _of(text: str, names: Sequence[str]) -> str:
    """'Attacks: …' as 'Attacks of a and b: …'."""
    return text.replace(":", f" of {listed(names)}:", 1)


def _searched(
    found: Iterable[tuple[str | None, Sequence[Mapping[str, Any]]]],
) -> Iterator[str]:
    """In which order budgets were tried, of protocols that had several: the order, and attacks."""
    orders = {
        order
        for order, attacks in found
        if any(KINDS.get(str(attack.get("kind"))) not in BUDGETLESS for attack in attacks)
    }
    yield from (text for order, text in _SEARCHED.items() if order in orders)


def _transferred(header: Mapping[str, Any]) -> Iterator[str]:
    if other := header.get("surrogate"):
        yield f"Adversarial examples were crafted on {other.get('path')}, the surrogate."


def _spared(evaluations: Iterable[Evaluation]) -> Iterator[str]:
    """What proofs took the place of, and how many of them were held against an attack."""
    checked = sum(e.run.get("proof", {}).get("attacked", 0) for e in evaluations if e.proved)
    but = (
        f", but for {counted(checked, 'pair')} of image and budget, drawn at random to check the "
        "bounds"
    )
    yield (
        f"Images that bounds ({cited(BOUNDS)}) prove robust at a budget were not attacked there"
        f"{but if checked else ''}."
    )


def _attack(attack: Mapping[str, Any], norm: str) -> str:
    """'PGD (Madry et al., 2018; steps 40, relative step 1/16, restarts 5)'."""
    name, keys = attack_reference(attack, norm)
    numbers = [
        f"{key.replace('_', ' ')} {readable(value)}"
        for key, value in attack.items()
        if key not in NO_NUMBERS and value not in (0, False)
    ]
    inside = "; ".join(filter(None, (cited(keys), ", ".join(numbers))))
    return f"{name} ({inside})" if inside else name


def _looked(audit: Audit) -> Iterator[str]:
    """What else an audit did than to attack."""
    if any(stage.family == "transfer" for stage in completed(audit).stages):
        yield "Transfer attacks were crafted on another network, the surrogate."
    if audit.indicators:
        examined = sum(result.examined for result in audit.indicators)
        yield (
            f"{examined:,} indicators of failing attacks were examined, and those that fired were "
            f"answered by adaptive attacks (cf. {cited(['carlini2019evaluating'])})."
        )
    found = audit.certificate
    if found.levels:
        yield f"Certified accuracy: {found.method}, {found.n:,} images."
    if audit.smoothed is not None:
        yield f"A smoothed classifier was certified ({cited(['cohen2019certified'])})."
    if audit.corruptions.rows:
        yield (
            f"Common corruptions ({cited(['hendrycks2019benchmarking'])}): "
            f"{audit.corruptions.counted:,} kinds, {audit.corruptions.n:,} images."
        )


def _tests(outcome: Outcome) -> Iterator[str]:
    """How methods were compared, each way once, with the differences that count as none."""
    found = [c for panel in outcome.panels for c in panel.comparisons]
    found += [c for judgement in outcome.judgements for c in judgement.comparisons]
    ways: dict[str, dict[float, None]] = {}
    for c in found:
        if c.test:
            way = ways.setdefault(", ".join(filter(None, (c.test, c.correction, c.unit))), {})
            way |= {} if c.delta is None else {c.delta: None}
    if not ways:
        return
    levels = dict.fromkeys(percent(c.confidence) for c in found if c.test)
    kind = "simultaneous " if all(c.correction for c in found if c.test) else ""
    within = ", equivalent where these lie within ±Δ" if any(ways.values()) else ""
    told = (f"{way}{f', Δ = {_points(deltas)}' if deltas else ''}" for way, deltas in ways.items())
    yield (f"Comparisons by {kind}{listed(list(levels))} intervals{within}: {'; '.join(told)}.")


def _points(deltas: Iterable[float]) -> str:
    """'0.5 and 2 points'."""
    each = [f"{100 * delta:.10g}" for delta in sorted(deltas)]
    return f"{listed(each)} {'point' if each == ['1'] else 'points'}"


def _intervals(method: str) -> str:
    """`method` is an estimate's: "Wilson, 95 %"."""
    name, keys = method.partition(",")[0], _interval_keys(method)
    return f"Accuracies are shares of all images, with 95\u00a0% intervals ({cited(keys) or name})."


def _software(headers: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Versions, device and precision: once where all agree, else with whose they are."""
    found = defaultdict[str, dict[str, None]](dict)
    for header in headers:
        text = _versions(header["engine"], header.get("precision", "float32"))
        found[text][str(header["checkpoint"]["path"])] = None
    for text, of in found.items():
        yield text if len(found) == 1 else _of(text, list(of))


def _versions(engine: Mapping[str, Any], precision: str) -> str:
    known = {"robustkit": "robustkit", "torch": "PyTorch", "foolbox": "foolbox"}
    named = [f"{name} {engine[key]}" for key, name in known.items() if engine.get(key)]
    where = f" on {engine['device']}" if engine.get("device") else ""
    searched = f"; searches in {precision}" if precision else ""
    return f"Software: {listed(named)}{where}{searched}." if named else ""


# ---- publications


def _attack_keys(attacks: Iterable[Mapping[str, Any]], norm: str) -> list[str]:
    return [key for attack in attacks for key in attack_reference(attack, norm).keys]


def _engine_keys(engine: Mapping[str, Any]) -> list[str]:
    found = {"torch": "paszke2019pytorch", "foolbox": "rauber2020foolbox"}
    return [key for name, key in found.items() if engine.get(name)]


def _interval_keys(method: str) -> list[str]:
    return [key for name, key in INTERVALS.items() if method.startswith(name)]


def _audit_keys(audit: Audit) -> list[str]:
    levels = [level.methods or {} for level in audit.certificate.levels]
    methods = {name for level in levels for name, images in level.items() if images}
    return [
        *_interval_keys(audit.clean.method),
        *(key for name, key in CERTIFICATES.items() if name in methods),
        *["carlini2019evaluating"] * bool(audit.indicators or audit.checklist),
        *["cohen2019certified"] * (audit.smoothed is not None),
        *["hendrycks2019benchmarking"] * bool(audit.corruptions.rows),
    ]
