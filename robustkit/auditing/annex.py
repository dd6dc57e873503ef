"""The evidence annex: what an audit's results say to points of published frameworks. No torch.

No conformity is claimed. "covered" is said only where a result of the audit answers all that a
row asks; what depends on the system around the network, or on documents that an audit does not
see, is at most "in part". Where a framework's text could not be read, no row is "covered".
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from robustkit.auditing.outcome import (
    Audit,
    EvidenceAnnex,
    FrameworkSource,
    Provision,
    worst_classes,
)
from robustkit.auditing.policy import complete_at
from robustkit.auditing.wording import at_most, budget, counted
from robustkit.parsing import in_percent
from robustkit.protocol.norms import within
from robustkit.statistics.comparison import listed

STATEMENT = (
    "This annex lists which results of this audit bear on points of published frameworks, and "
    "which points it does not touch. It is no assessment of conformity, claims none, and gives no "
    "legal advice. An audit sees one trained network and a set of images, not the system around it."
)
AI_ACT = FrameworkSource(
    name="EU AI Act, Article 15",
    citation="Regulation (EU) 2024/1689 (Artificial Intelligence Act), Article 15: Accuracy, "
    "robustness and cybersecurity. Official Journal of the European Union, L, 2024/1689, 12 July "
    "2024; CELEX 32024R1689.",
    read="Paragraphs 1 to 5 were read in public reproductions of the Official Journal's text, not "
    "in the Official Journal itself; amendments since are not considered. What a row asks is a "
    "paraphrase.",
)
ISO = FrameworkSource(
    name="ISO/IEC 24029-2:2023",
    citation="ISO/IEC 24029-2:2023, Artificial intelligence (AI): Assessment of the robustness of "
    "neural networks. Part 2: Methodology for the use of formal methods.",
    read="The standard's text could not be read: only its published scope and table of contents "
    "were. The rows go by the titles of its clauses, and none of them is more than in part.",
)
NIST = FrameworkSource(
    name="NIST AI RMF 1.0, MEASURE 2.5 to 2.7",
    citation="National Institute of Standards and Technology, Artificial Intelligence Risk "
    "Management Framework (AI RMF 1.0), NIST AI 100-1, January 2023, table 3.",
    read="The three subcategories were read in public reproductions of the framework's table, not "
    "in NIST's own publication. What a row asks is a paraphrase.",
)


class Evidence(NamedTuple):
    """What a point comes to."""

    answer: Literal["covered", "in part", "not covered"]
    how: str
    results: tuple[str, ...] = ()
    """keys of the audit's JSON that hold it"""


def annex(audit: Audit) -> EvidenceAnnex:
    """Every point with what the audit has on it; `audit.annex` itself is not looked at."""
    rows = (
        Provision(source.name, point, asks, *answer(audit)) for source, point, asks, answer in ROWS
    )
    return EvidenceAnnex(STATEMENT, (AI_ACT, ISO, NIST), tuple(rows))


# ---- what there is


def _clean(audit: Audit) -> Evidence:
    return Evidence("covered", f"{_measured(audit)}.", ("clean", "data"))


def _measured(audit: Audit) -> str:
    n = counted(audit.clean.n, "image")
    return (
        f"Clean accuracy is {in_percent(audit.clean.value)} on {n}, with a 95\u00a0% interval; "
        "whether the images are those of the intended use is not for an audit to say"
    )


def _declared(audit: Audit) -> Evidence:
    bounds = audit.certificate.levels
    there = ("clean", *("robust",) * bool(audit.robust), *("certified",) * bool(bounds))
    return Evidence(
        "in part",
        f"The metrics ({listed(there)} accuracy), how they were measured and their intervals are "
        "here and in audit.md; declaring them in instructions for use is the provider's.",
        ("clean", *("robust",) * bool(audit.robust)),
    )


def _robust(audit: Audit) -> Evidence:
    """Attacks at the judged budget: in full only where all completed that a finding needs."""
    left, size = audit.survived, budget(audit.norm, audit.epsilon)
    if left is None:
        return Evidence("not covered", f"No attack completed at {size}.")
    results = ("robust", "stages", *("indicators",) * bool(audit.indicators))
    of = f"{in_percent(left.value)} of {counted(left.n, 'image')}"
    found = f"{of} are still classified correctly at {size}"
    if not complete_at(audit, audit.epsilon):
        return Evidence("in part", f"{found}, but not all required attacks completed.", results)
    return Evidence("covered", f"{found}; an upper bound on robust accuracy there.", results)


def _evasion(audit: Audit) -> Evidence:
    """Article 15(5) asks for measures against adversarial examples: an audit measures alone."""
    found = _robust(audit)
    return found._replace(
        answer="not covered" if found.answer == "not covered" else "in part",
        how=f"{found.how.rstrip('.')}. Perturbations of other kinds, and measures to detect or to "
        "respond, were not looked at.",
    )


def _resilience(audit: Audit) -> Evidence:
    found = _robust(audit)
    how = f"{found.how.rstrip('.')}. Of threats to security, evasion within this budget alone."
    return found._replace(answer=_at_most_in_part(found), how=how)


def _at_most_in_part(found: Evidence) -> Literal["in part", "not covered"]:
    return "not covered" if found.answer == "not covered" else "in part"


def _corruptions(audit: Audit) -> Evidence:
    found = audit.corruptions
    if not found.rows:
        return Evidence("not covered", f"Not tried: {found.reason or 'no reason recorded'}.")
    mean = "" if found.mean is None else f"; mean accuracy {in_percent(found.mean)}"
    how = f"{counted(found.counted, 'common corruption')} on {counted(found.n, 'image')}{mean}."
    return Evidence("in part", how, ("corruptions",))


def _limits(audit: Audit) -> Evidence:
    found = _corruptions(audit)
    known = (
        *found.results,
        *("robust",) * bool(audit.robust),
        *("classes",) * bool(audit.classes),
    )
    tried = f" {found.how}" if found.results else ""
    return Evidence(
        "in part" if known else "not covered",
        f"Images, budgets and classes at which accuracy falls.{tried} Other conditions of use were "
        "not tried."
        if known
        else "Nothing but these images as they are was tried.",
        known,
    )


def _flaws(audit: Audit) -> Evidence:
    if not audit.classes:
        return Evidence("not covered", "No breakdown by class was made.")
    worst, n = worst_classes(audit.classes), len(audit.classes)
    found, images = in_percent(worst[0].robust.value), counted(worst[0].robust.n, "image")
    if len(worst) > 1:
        alike = f"{len(worst):,} of {n:,} classes alike, {found} of each"
        names = at_most([row.name for row in worst])
        how = f"Accuracy under attack is lowest for {alike}: {names}."
    elif n == 1:
        how = f"There is one class, {worst[0].name}; accuracy under attack is {found} of {images}."
    else:
        how = f"Accuracy under attack is lowest for class {worst[0].name}: {found} of {images}."
    return Evidence("in part", how, ("classes",))


def _tolerance(audit: Audit) -> Evidence:
    if not audit.policy:
        return Evidence("not covered", "No policy with thresholds was given to the audit.")
    held = sum(rule.passed for rule in audit.policy)
    how = (
        f"{held:,} of {counted(len(audit.policy), 'rule')} hold of a policy that the user wrote; "
        "whether its thresholds are a tolerance of risk is not for an audit to say."
    )
    return Evidence("in part", how, ("policy",))


def _metrics(audit: Audit) -> Evidence:
    found = _robust(audit)
    how = f"{found.how.rstrip('.')}. Monitoring and response times were not looked at."
    return Evidence(_at_most_in_part(found), how, found.results)


# ---- certificates


def _stable(audit: Audit) -> Evidence:
    found = audit.certificate
    if not found.levels:
        return Evidence("not covered", f"No bound: {found.reason or 'none was computed'}.")
    proved = at_most(
        [f"{in_percent(level.certified.value)} at ε = {level.epsilon}" for level in found.levels]
    )
    how = f"Certified over the whole ball, of {counted(found.n, 'image')}: {proved}."
    return Evidence("in part", how, ("certificate",))


def _domain(audit: Audit) -> Evidence:
    return Evidence(
        "in part",
        f"The domain is all perturbations {within(audit.norm)} up to ε = {audit.epsilon} of "
        f"{counted(audit.clean.n, 'image')}, each within [0, 1]; no operating domain is described.",
        ("data",),
    )


def _concerned(audit: Audit) -> Evidence:
    model = audit.checkpoint.get("model") or "not recorded"
    return Evidence("in part", f"Image classification; architecture: {model}.", ("checkpoint",))


def _verifier(audit: Audit) -> Evidence:
    if not audit.certificate.levels:
        return _stable(audit)
    return Evidence("in part", f"Bounds by {audit.certificate.method}.", ("certificate",))


def _arithmetic(audit: Audit) -> Evidence:
    if all(level.rounding is None for level in audit.certificate.levels):
        return Evidence("not covered", "No bound that accounts for rounding was computed.")
    how = "What rounding in float32 can change is taken off every proved margin."
    return Evidence("in part", how, ("certificate",))


def _none(how: str) -> Callable[[Audit], Evidence]:
    """A point that no audit touches."""
    return lambda audit: Evidence("not covered", how)


UNREAD = "Known by its title alone."
OUTSIDE = "Outside of what an audit of a trained network sees."
ROWS: tuple[tuple[FrameworkSource, str, str, Callable[[Audit], Evidence]], ...] = (
    (AI_ACT, "15(1), accuracy", "The level of accuracy, measured.", _clean),
    (AI_ACT, "15(1), robustness", "The level of robustness, measured.", _robust),
    (
        AI_ACT,
        "15(1), life cycle",
        "Consistent performance throughout the life cycle.",
        _none("One network at one time; a later one needs an audit of its own."),
    ),
    (
        AI_ACT,
        "15(2)",
        "Benchmarks and ways to measure, encouraged by the Commission.",
        _none("Addressed to the Commission."),
    ),
    (AI_ACT, "15(3)", "Accuracy and its metrics declared in the instructions for use.", _declared),
    (
        AI_ACT,
        "15(4), errors and faults",
        "Resilience to errors, faults and inconsistencies of the system or its environment.",
        _corruptions,
    ),
    (AI_ACT, "15(4), redundancy", "Redundancy, backup and fail-safe plans.", _none(OUTSIDE)),
    (
        AI_ACT,
        "15(4), feedback loops",
        "Biased outputs of systems that go on learning.",
        _none("The network is audited as it is; nothing is learnt further."),
    ),
    (
        AI_ACT,
        "15(5), adversarial examples",
        "Measures against inputs made to cause mistakes (model evasion).",
        _evasion,
    ),
    (
        AI_ACT,
        "15(5), data and model poisoning",
        "Measures against manipulated training data or pre-trained parts.",
        _none("Training was not looked at."),
    ),
    (
        AI_ACT,
        "15(5), confidentiality",
        "Measures against attacks on confidentiality.",
        _none("No extraction, inversion or membership inference was tried."),
    ),
    (AI_ACT, "15(5), model flaws", "Measures against flaws of the model.", _flaws),
    (
        AI_ACT,
        "15(5), cybersecurity otherwise",
        "Resilience against unauthorised third parties; measures that fit the risks.",
        _none(OUTSIDE),
    ),
    (ISO, "5.2 Notion of domain", UNREAD, _domain),
    (ISO, "5.3 Stability", UNREAD, _stable),
    (ISO, "5.4 Sensitivity", UNREAD, _none("No bound on how outputs vary was computed.")),
    (ISO, "5.5 Relevance", UNREAD, _none("What a decision rests on was not examined.")),
    (ISO, "5.6 Reachability", UNREAD, _none("The network is evaluated input by input.")),
    (ISO, "6.1 Types of neural network concerned", UNREAD, _concerned),
    (ISO, "6.2.1.2 Complete vs incomplete verifiers", UNREAD, _verifier),
    (ISO, "6.2.1.5 Real vs computer arithmetic verifiers", UNREAD, _arithmetic),
    (ISO, "6.2.2 Solver", UNREAD, _none("No SMT or MILP solver was used.")),
    (ISO, "6.2.3 Abstract interpretation", UNREAD, _verifier),
    (ISO, "6.2.4 to 6.2.6 Reachability analysis, model checking", UNREAD, _none("Not used.")),
    (ISO, "7 Robustness during the life cycle", UNREAD, _none("One network at one time.")),
    (NIST, "MEASURE 2.5, validity", "Demonstrated to be valid and reliable.", _declared),
    (
        NIST,
        "MEASURE 2.5, limits",
        "Documented limits of generalising beyond the conditions of development.",
        _limits,
    ),
    (
        NIST,
        "MEASURE 2.6, regular evaluation",
        "Regular evaluation for the safety risks identified in MAP.",
        _none("One evaluation; MAP is the organisation's."),
    ),
    (NIST, "MEASURE 2.6, tolerance", "Residual risk within the tolerance of risk.", _tolerance),
    (
        NIST,
        "MEASURE 2.6, failing safely",
        "Fails safely, above all beyond the limits of what it knows.",
        _none("Out-of-distribution inputs and fallbacks were not examined."),
    ),
    (
        NIST,
        "MEASURE 2.6, metrics",
        "Safety metrics of reliability, robustness, monitoring and response times.",
        _metrics,
    ),
    (
        NIST,
        "MEASURE 2.7",
        "Security and resilience, as identified in MAP, evaluated and documented.",
        _resilience,
    ),
)
"""framework, point, what it asks, and what there is on it"""
