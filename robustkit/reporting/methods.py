"""A methods paragraph and the publications behind it, made from what is on record."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from robustkit.analysis.outcome import Outcome
from robustkit.auditing.completed import completed
from robustkit.auditing.outcome import Audit
from robustkit.protocol.norms import symbol, within
from robustkit.record import Evaluation
from robustkit.reporting.references import (
    CERTIFICATES,
    INTERVALS,
    attack_reference,
    bibtex,
    cited,
    compression_key,
    loss_reference,
)
from robustkit.reporting.wording import readable
from robustkit.spec import ACCURACY, merged_table
from robustkit.statistics import Estimate
from robustkit.statistics.comparison import listed
from robustkit.statistics.estimate import counted
from robustkit.study.findings import WORDS

BOUNDS = (CERTIFICATES["interval"], CERTIFICATES["linear"])
_VERIFIED = (
    "An image counts as robust at ε if it is classified correctly and none of the attacks finds an "
    "adversarial example within ε (worst case per image); each is checked again in float32."
)
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
    versions = sorted({part.version for part in parts})
    return Methods(paragraphs, keys, ", ".join(versions))


def of_evaluations(evaluations: Sequence[Evaluation], clean: Estimate) -> Methods:
    """Of evaluations of the same images under the same protocol; `clean` tells the interval."""
    header = evaluations[0].header
    protocol, engine = header["protocol"], header["engine"]
    attacks, norm = protocol["resolved"]["attacks"], protocol["norm"]
    which = listed(list(dict.fromkeys(str(e.header["checkpoint"]["path"]) for e in evaluations)))
    proved = any(e.proved for e in evaluations)
    sentences = [
        f"We evaluated {which} on {_images(header['data'])}.",
        *(_attacked(attacks, norm, _budgets(protocol), protocol["resolved"])),
        *([] if attacks else ["Nothing was attacked."]),
        *(_transferred(header) if attacks else ()),
        *([_VERIFIED] if attacks else []),
        *(_spared(evaluations) if proved else ()),
        _intervals(clean.method),
        _versions(engine, header.get("precision", "float32")),
    ]
    keys = [*_attack_keys(attacks, norm), *_engine_keys(engine), *_interval_keys(clean.method)]
    return _methods(sentences, [*keys, *(BOUNDS if proved else ())], engine)


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
    protocols = [p for p in outcome.protocols.values() if p["resolved"]["attacks"]]
    measures = dict.fromkeys(panel.measure for panel in outcome.panels)
    trained = _trained(outcome)
    sentences = [*_networks(outcome), *_made(outcome), *_losses(trained), *_selected(outcome)]
    sentences += [*([f"Measured: {'; '.join(measures)}."] if measures else [])]
    keys = [*_engine_keys(versions), *(key for method in trained for key in _training_keys(method))]
    for protocol in protocols:
        attacks, norm = protocol["resolved"]["attacks"], protocol["norm"]
        sentences += _attacked(attacks, norm, _budgets(protocol), protocol["resolved"])
        keys += _attack_keys(attacks, norm)
    precision = _study_file(outcome).get("test", {}).get("precision", "") if protocols else ""
    searched = {"auto": "whichever precision was fastest"}.get(precision, precision)
    sentences += [*([_VERIFIED] if protocols else []), *_tests(outcome)]
    sentences += [_versions(versions, searched)]
    return _methods(list(dict.fromkeys(sentences)), keys, versions)


def _methods(sentences: Iterable[str], keys: Iterable[str], engine: Mapping[str, Any]) -> Methods:
    paragraph = " ".join(filter(None, sentences))
    return Methods((paragraph,), tuple(keys), str(engine.get("robustkit", "")))


# ---- sentences


def _images(data: Mapping[str, Any]) -> str:
    n = data.get("n")
    count = f"{n:,} " if isinstance(n, int) else ""
    return f"{count}{data.get('split')} images of {data.get('title') or data.get('name')}"


def _budgets(protocol: Mapping[str, Any]) -> list[str]:
    return [str(entry["epsilon"]) for entry in protocol["epsilons"]]


def _networks(outcome: Outcome) -> Iterator[str]:
    done = [c for c in outcome.cells if c.purpose == "compared" and c.status == "done"]
    methods = dict.fromkeys(line.method for panel in outcome.panels for line in panel.lines)
    seeds = sorted({cell.seed for cell in done})
    if done:
        yield (
            f"We compared {listed(list(methods))}: {len(done):,} networks, random seeds "
            f"{listed([str(seed) for seed in seeds])}."
        )


def _study_file(outcome: Outcome) -> Mapping[str, Any]:
    """What the study's file says."""
    with suppress(ValueError):  # an outcome that was made by hand has no whole file
        return merged_table(outcome.file, outcome.changes)
    return {}


def _made(outcome: Outcome) -> Iterator[str]:
    """How long networks were trained, and on what."""
    if asked := _study_file(outcome).get("train"):
        batch = f" of {size:,} images" if (size := asked.get("batch_size")) else ""
        yield (
            f"Each network ({asked.get('model')}) was trained on {asked.get('data')} for "
            f"{asked.get('steps', 0):,} updates{batch}."
        )


def _selected(outcome: Outcome) -> Iterator[str]:
    """Which configurations won, where there were several, and by which score."""
    file, chosen = _study_file(outcome), outcome.provenance.get("Selected configurations")
    # earlier versions told the only configuration of a method, too, as if it were a choice
    if chosen and any(len(method.get("choose", ())) > 1 for method in file.get("method", ())):
        told = "; ".join(f"{method}: {text}" for method, text in chosen.items())
        score = file.get("tuning", {}).get("score", ACCURACY)
        yield f"Configurations, selected by {WORDS.get(score, score)}: {told}."


def _trained(outcome: Outcome) -> Sequence[Mapping[str, Any]]:
    """The methods of the study's file that are trained."""
    return [method for method in _study_file(outcome).get("method", ()) if method.get("loss")]


def _losses(trained: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How each method was trained."""
    if trained:
        yield f"Training losses: {'; '.join(map(_loss, trained))}."


def _loss(method: Mapping[str, Any]) -> str:
    """'l2-margin: large-margin loss (Elsayed et al., 2018; norm ℓ₂, alpha none)'."""
    settings = method.get("settings", {})
    numbers = ", ".join(
        f"{key.replace('_', ' ')} {symbol(str(value)) if key == 'norm' else readable(value)}"
        for key, value in settings.items()
    )
    name, keys = loss_reference(str(method["loss"]))
    inside = "; ".join(filter(None, (cited(keys), numbers)))
    named = name if method["name"] == name else f"{method['name']}: {name}"
    text = f"{named}{f' ({inside})' if inside else ''}"
    recipe = method.get("recipe", {})
    text += f", by {world} processes" if (world := recipe.get("processes", 1)) > 1 else ""
    if not (scheme := str(recipe.get("compress", ""))):
        return text
    by = cited(compression_key(scheme))
    return f"{text}, gradients compressed by {scheme}{f' ({by})' if by else ''}"


def _training_keys(method: Mapping[str, Any]) -> tuple[str, ...]:
    scheme = str(method.get("recipe", {}).get("compress", ""))
    return (*loss_reference(str(method["loss"])).keys, *compression_key(scheme))


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
    """How methods were compared, each way once."""
    found = (c for panel in outcome.panels for c in panel.comparisons)
    ways = dict.fromkeys(
        ", ".join(filter(None, (c.test, c.correction, c.unit))) for c in found if c.test
    )
    if ways:
        yield f"Comparisons: {'; '.join(ways)}."


def _intervals(method: str) -> str:
    """`method` is an estimate's: "Wilson, 95 %"."""
    name, keys = method.partition(",")[0], _interval_keys(method)
    return f"Accuracies are shares of all images, with 95\u00a0% intervals ({cited(keys) or name})."


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
