"""The checklist of Carlini et al. 2019, answered from what an audit did. No torch.

"On Evaluating Adversarial Robustness" (arXiv 1902.06705), in short words. Its authors call it
neither necessary nor sufficient. An answer is "done" only where a stage that completed, or an
indicator that was examined, shows it; whatever the audit cannot know is at most "in part".
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from robustkit.auditing.completed import CompletedAudit, completed, target_of
from robustkit.auditing.outcome import Audit, Family, IndicatorResult, Item, Stage
from robustkit.auditing.wording import at_most, budget, capital, counted, shares
from robustkit.parsing import in_percent
from robustkit.protocol import KINDS, parse_epsilon
from robustkit.protocol.norms import symbol
from robustkit.protocol.words import kind_in_words

SEVERE = "Common severe flaws"
PITFALLS = "Common pitfalls"
SPECIAL = "Special cases"

SINGLE_STEP = ("fgsm",)
ITERATIVE = ("pgd", "mifgsm", "apgd", "fab", "deepfool", "ddn", "fmn", "cw")
SPATIAL = ("spatial-grid", "spatial-random")
DECISIONS_ONLY = ("boundary", "hopskipjump", *SPATIAL)
SCORES_ONLY = ("square", "sparse-rs")
NOISE_DRAWS = 10_000
"""draws an image that the checklist asks of random noise"""
RESTARTS = 10
"""random starts that it asks for"""

# indicators by what they look at; each was asked for by an item of the checklist
STEPS = ("more-steps",)
STARTS = ("more-restarts",)
CONVERGED = ("more-steps", "incomplete-optimisation")
ITERATIONS = ("single-beats-iterative",)
LARGER = ("larger-epsilon",)
UNBOUNDED = ("half", "unbounded")
LESS_KNOWING = ("noise-beats-gradient", "black-beats-white", "transfer-beats-direct")
GRADIENTS = ("zero-gradients", "nan-gradients")
RANDOMNESS = ("random-model",)


class Answer(NamedTuple):
    """What an item comes to."""

    answer: Literal["done", "did not hold", "in part", "not done", "not applicable"]
    how: str


def fill(audit: Audit) -> tuple[Item, ...]:
    """Every item of the checklist with its answer; `audit.checklist` itself is not looked at."""
    ran = completed(audit)
    return tuple(Item(part, text, *answer(ran)) for part, text, answer in ITEMS)


# ---- severe flaws


def _threat_model(ran: CompletedAudit) -> Answer:
    knows = [
        "the weights" * bool(ran.family("white box")),
        "outputs alone" * bool(ran.family("black box")),
        "a similar network" * bool(ran.family("transfer")),
    ]
    summary = at_most([k for k in knows if k]) if any(knows) else "nothing"
    return Answer(
        "in part",
        f"The goal is any wrong class, the capability {budget(ran.audit.norm, ran.audit.epsilon)} "
        f"on pixels in [0, 1], the knowledge {summary}. Whether this models a real adversary is "
        "not for an audit to say.",
    )


def _adaptive(ran: CompletedAudit) -> Answer:
    if tried := ran.family("adaptive"):
        return Answer(
            "in part",
            f"Indicators that fired led to {_titles(tried)}; no attack was written for this "
            "defence by hand.",
        )
    return Answer("not done", "The attacks are general; none was written for this defence.")


def _release(ran: CompletedAudit) -> Answer:
    if ran.audit.checkpoint.get("sha256") and ran.audit.command:
        return Answer(
            "in part",
            "The checkpoint is named by its digest and the command that repeats the audit is "
            "given; whether weights and training code are public is not known.",
        )
    return Answer("not done", "The audit cannot be repeated from a file and a command.")


def _clean(ran: CompletedAudit) -> Answer:
    clean = ran.audit.clean
    return Answer("done", f"{in_percent(clean.value)} of {counted(clean.n, 'image')}.")


def _iterative(ran: CompletedAudit) -> Answer:
    single = ran.lowest_by(SINGLE_STEP)
    iterative = ran.lowest_by(ITERATIVE)
    if single is None or iterative is None:
        return _examined(ran.indicators(ITERATIONS)) or Answer(
            "not done", "No single-step and iterative attack met all images as stages of their own."
        )
    low, high = shares(iterative, single)
    if iterative <= single:
        return Answer("done", f"Iterative attacks left {low}, single-step attacks {high}.")
    return Answer("did not hold", f"Iterative attacks left {low}, single-step attacks {high}.")


def _enough(names: Sequence[str], what: str) -> Callable[[CompletedAudit], Answer]:
    """Whether more of something was tried: iterations, random starts."""

    def answer(ran: CompletedAudit) -> Answer:
        return _examined(ran.indicators(names)) or Answer(
            "not done", f"No indicator examined whether more {what} fool further images."
        )

    return answer


def _examined(found: Sequence[IndicatorResult]) -> Answer | None:
    """What indicators answer: they looked, and it held or not; None where none looked."""
    if not found:
        return None
    if all(r.status == "passed" for r in found):
        return Answer("done", f"{capital(_results(found))}.")
    tried = _adaptive_attacks(found) or "none"
    return Answer("did not hold", f"{capital(_results(found))}. Adaptive attack: {tried}.")


def _adaptive_attacks(found: Sequence[IndicatorResult]) -> str:
    return at_most([r.adaptive_attack.rstrip(".") for r in found if r.adaptive_attack])


def _strictly(ran: CompletedAudit) -> Answer:
    levels = ran.levels
    if len(levels) < 2:
        return _examined(ran.indicators(LARGER)) or Answer(
            "not done", f"{counted(len(levels), 'budget')} attacked; two are needed."
        )
    values = [level.accuracy.value for level in levels]
    flat = [
        f"{a.epsilon} and {b.epsilon}"
        for a, b, x, y in zip(levels, levels[1:], values, values[1:], strict=False)
        if y >= x > 0
    ]
    if flat:
        return Answer("did not hold", f"Accuracy does not fall between ε = {at_most(flat)}.")
    fallen = next((level for level in levels if not level.accuracy.value), levels[-1])
    if fallen is levels[0]:
        return Answer("in part", f"Accuracy is 0 at every budget, from ε = {fallen.epsilon} on.")
    if fallen is not levels[-1]:
        how = f"Accuracy falls at each budget until it is 0, at ε = {fallen.epsilon}."
        return Answer("done", how)
    return Answer("done", f"Accuracy falls at each of {counted(len(levels), 'budget')}.")


def _chance(ran: CompletedAudit) -> Answer:
    if (examined := _examined(ran.indicators(UNBOUNDED))) is not None:
        return examined
    levels, classes = ran.levels, len(ran.audit.confusion) or len(ran.audit.classes)
    if not levels or not classes:
        return Answer("not done", "No budget was attacked, or the classes are not known.")
    lowest = levels[-1]
    left, chance = shares(lowest.accuracy.value, 1 / classes)
    summary = f"{left} at ε = {lowest.epsilon}, chance is {chance}"
    if lowest.accuracy.value <= 1 / classes:
        return Answer("done", f"{summary}.")
    return Answer("not done", f"{summary}; no larger budget was attacked.")


def _curve(ran: CompletedAudit) -> Answer:
    levels = ran.levels
    if not levels:
        return Answer("not done", "No budget was attacked.")
    last = levels[-1]
    summary = (
        f"{counted(len(levels), 'budget')}, down to {in_percent(last.accuracy.value)} at ε = "
        f"{last.epsilon}"
    )
    if len(levels) > 2 and last.accuracy.value == 0:
        return Answer("done", f"{summary}.")
    return Answer("in part", f"{summary}; a whole curve has several budgets and ends at 0.")


def _strongest(ran: CompletedAudit) -> Answer:
    others = ran.family("floor", "black box", "transfer")
    if not ran.family("white box") or not others:
        return Answer("not done", "It takes a white-box attack and one that knows less.")
    first = ran.stages.index(ran.family("white box")[0])
    later = [s for s in others if ran.stages.index(s) > first]
    if not later:
        return Answer(
            "in part",
            f"{_titles(others)} ran before the white-box attacks, which saw the images that were "
            "left.",
        )
    found = sum(s.first for s in later)
    summary = (
        f"Image by image: {_titles(later)} fooled {counted(found, 'image')} that the attacks "
        "before had not"
    )
    results = ran.indicators(LESS_KNOWING)
    return Answer("done", f"{summary}; {_results(results)}." if results else f"{summary}.")


def _described(ran: CompletedAudit) -> Answer:
    missing = [s.title for s in ran.stages if s.name not in ran.audit.protocols]
    if not ran.stages:
        return Answer("not done", "No attack completed.")
    if missing:
        return Answer("in part", f"Without a protocol on record: {at_most(missing)}.")
    return Answer("done", "The protocol of every stage is given, every number spelled out.")


# ---- pitfalls


def _diverse(ran: CompletedAudit) -> Answer:
    kinds = dict.fromkeys(s.family for s in ran.family("white box", "black box", "transfer"))
    if not kinds:
        return Answer("not done", "No attack beyond random draws completed.")
    return Answer(
        "done" if len(kinds) > 1 else "in part",
        f"By knowledge: {at_most(list(kinds))}; {counted(len(ran.stages), 'stage')} in all.",
    )


def _gradient_free(ran: CompletedAudit) -> Answer:
    asked = (SCORES_ONLY, DECISIONS_ONLY)
    scores, decisions = (at_most([*map(kind_in_words, ran.kinds(one))]) for one in asked)
    if scores and decisions:
        return Answer("done", f"Score-based: {scores}; decision-based: {decisions}.")
    if decisions:
        return Answer("done", f"Decision-based, so without gradients: {decisions}.")
    if scores:
        return Answer("in part", f"Score-based: {scores}; no decision-based attack.")
    return Answer("not done", "No attack without gradients completed.")


def _transfer(ran: CompletedAudit) -> Answer:
    stages = ran.family("transfer")
    if not stages:
        return Answer("not done", _why_not(ran, "transfer"))
    return Answer("done", f"{_titles(stages)}. How alike the other network is, is not known.")


def _randomised(ran: CompletedAudit) -> Answer:
    found = ran.indicators(RANDOMNESS)
    if not found:
        return Answer("not done", "Whether the network draws random numbers was not examined.")
    if all(r.status == "passed" for r in found):
        return Answer("not applicable", f"The network is not random: {_results(found)}.")
    if any(a.get("eot", 1) > 1 for a in ran.attacks if type(a.get("eot", 1)) is int):
        return Answer("done", f"{_results(found)}; gradients were averaged over several passes.")
    if tried := _adaptive_attacks(found):
        return Answer("in part", f"{tried}.")
    return Answer("not done", f"{_results(found)}; no attack averaged over the randomness.")


def _differentiable(ran: CompletedAudit) -> Answer:
    found = ran.indicators(GRADIENTS)
    if not found:
        return Answer("not done", "Whether gradients vanish was not examined.")
    if all(r.status == "passed" for r in found):
        return Answer("not applicable", f"Gradients are available: {_results(found)}.")
    if tried := _adaptive_attacks(found):
        return Answer("in part", f"{tried}.")
    return Answer("not done", f"{_results(found)}; no component was replaced.")


def _hyperparameters(ran: CompletedAudit) -> Answer:
    restarts = ran.largest("restarts")
    if not restarts:
        return Answer("not done", "No attack with random starts completed.")
    summary = f"{counted(restarts, 'random start')} at most"
    if ran.indicators(STARTS) and restarts >= RESTARTS:
        return Answer("done", f"{summary}; whether more starts fool more was examined.")
    return Answer(
        "in part", f"{summary}; the checklist asks for {RESTARTS}, and then for twice that."
    )


def _prior_work(ran: CompletedAudit) -> Answer:
    tested = [c for c in ran.audit.comparisons if c.difference is not None]
    if not tested:
        return Answer("not done", "The network was compared with no other.")
    return Answer("in part", f"Compared on the same images with {at_most([c.b for c in tested])}.")


def _broader(ran: CompletedAudit) -> Answer:
    corruptions, moved = ran.audit.corruptions, _moved(ran)
    why = corruptions.reason or "Common corruptions were not tried."
    if not corruptions.rows and not moved:
        return Answer("not done", why)
    tried = counted(corruptions.counted, "common corruption") if corruptions.rows else why
    searched = f"{' and '.join(moved)} were" if moved else "no rotation or translation was"
    whole = corruptions.rows and len(moved) == 2
    return Answer("done" if whole else "in part", f"{tried.rstrip('.')}; {searched} searched for.")


def _moved(ran: CompletedAudit) -> list[str]:
    """What attacks that completed searched for, of rotations and translations."""
    if not ran.kinds(SPATIAL):
        return []
    epsilon = parse_epsilon(ran.audit.epsilon)
    kinds = {"rotations": epsilon.degrees, "translations": epsilon.shift}
    return [kind for kind, size in kinds.items() if size is not None]


# ---- special cases


def _provable(ran: CompletedAudit) -> Answer:
    if ran.audit.certificate.levels:
        size = counted(ran.audit.certificate.n, "image")
        return Answer("done", f"Lower bounds by {ran.audit.certificate.method}, {size}.")
    return Answer("not done", ran.audit.certificate.reason or "No bound was computed.")


def _noise(ran: CompletedAudit) -> Answer:
    draws = sum(a["draws"] for a in ran.attacks if a.get("kind") == "noise" and "draws" in a)
    if not draws:
        return Answer("not done", "No random noise was tried.")
    summary = f"{draws:,} draws per image, in {symbol(ran.audit.norm)}"
    if draws >= NOISE_DRAWS:
        return Answer("done", f"{summary}.")
    return Answer("in part", f"{summary}; the checklist asks for {NOISE_DRAWS:,}.")


def _targeted(ran: CompletedAudit) -> Answer:
    protocols = [ran.audit.protocols.get(s.name, "") for s in ran.stages]
    if ran.largest("targets") or any(target_of(toml) != "none" for toml in protocols):
        return Answer("done", "Both targeted and untargeted attacks completed.")
    if not ran.stages:
        return Answer("not done", "No attack completed.")
    return Answer("in part", "Untargeted attacks only.")


def _ablation(ran: CompletedAudit) -> Answer:
    return Answer("not done", "An audit takes the network as a whole, not its components.")


def _new_attacks(ran: CompletedAudit) -> Answer:
    if ran.attacks and all(a.get("kind") in KINDS for a in ran.attacks):
        return Answer("not applicable", "Every attack that ran is a published one.")
    return Answer("not done", "Attacks that are not among the published ones were not validated.")


def _domain(ran: CompletedAudit) -> Answer:
    return Answer("not applicable", "The network classifies images.")


def _per_example(ran: CompletedAudit) -> Answer:
    if not ran.stages:
        return Answer("not done", "No attack completed.")
    n = ran.audit.survived.n if ran.audit.survived else ran.audit.clean.n
    return Answer(
        "done",
        f"Each of {counted(n, 'image')} counts as robust only if it is classified correctly under "
        "every attack.",
    )


def _titles(stages: Sequence[Stage]) -> str:
    return at_most([stage.title for stage in stages])


def _results(results: Sequence[IndicatorResult]) -> str:
    return at_most([f"“{r.title}”: {r.status}" for r in results])


def _why_not(ran: CompletedAudit, family: Family) -> str:
    """Why no stage of a family completed."""
    tried = [s for s in ran.audit.stages if s.family == family]
    if not tried:
        return f"No {family} attack was asked for."
    return f"{tried[0].title}: {tried[0].reason or tried[0].status}."


ITEMS: tuple[tuple[str, str, Callable[[CompletedAudit], Answer]], ...] = (
    (SEVERE, "State a precise threat model: goals, knowledge, capabilities.", _threat_model),
    (SEVERE, "Attack adaptively: know the defence, and attack it end to end.", _adaptive),
    (SEVERE, "Release the model and the code, so that others can try.", _release),
    (SEVERE, "Report accuracy without attack.", _clean),
    (SEVERE, "Sanity: iterative attacks are stronger than single-step ones.", _iterative),
    (SEVERE, "Sanity: more iterations fool no more images.", _enough(STEPS, "iterations")),
    (
        SEVERE,
        "Sanity: more random starts fool no more images.",
        _enough(STARTS, "random starts"),
    ),
    (SEVERE, "Sanity: a larger budget strictly increases success.", _strictly),
    (SEVERE, "Sanity: with a large enough budget, accuracy falls to chance.", _chance),
    (SEVERE, "Show success against the budget, up to 100 %.", _curve),
    (
        SEVERE,
        "Check, image by image, that the strongest attack is stronger than black-box attacks, "
        "transfer and random noise.",
        _strongest,
    ),
    (SEVERE, "Describe the attacks with all hyperparameters.", _described),
    (PITFALLS, "Apply a diverse set of attacks.", _diverse),
    (
        PITFALLS,
        "Try at least one gradient-free attack and one decision-based attack.",
        _gradient_free,
    ),
    (PITFALLS, "Try a transfer attack from a similar network.", _transfer),
    (PITFALLS, "For randomised defences, average over the randomness.", _randomised),
    (
        PITFALLS,
        "For components without useful gradients, replace them in the backward pass.",
        _differentiable,
    ),
    (PITFALLS, "Verify that the attacks converged.", _enough(CONVERGED, "iterations")),
    (
        PITFALLS,
        "Investigate the attacks' hyperparameters, random starts above all.",
        _hyperparameters,
    ),
    (PITFALLS, "Compare with prior work.", _prior_work),
    (PITFALLS, "Test broader threats: corruptions, rotation, translation.", _broader),
    (SPECIAL, "Where bounds can be proved, prove them.", _provable),
    (SPECIAL, "Try random noise of the right norm.", _noise),
    (SPECIAL, "Try targeted and untargeted attacks.", _targeted),
    (SPECIAL, "Remove the defence's components one by one.", _ablation),
    (SPECIAL, "Validate new attacks on defences that are known to be broken.", _new_attacks),
    (SPECIAL, "In other domains than images, choose suitable attacks.", _domain),
    (
        SPECIAL,
        "Take the worst case for each image, not the worst attack over all images.",
        _per_example,
    ),
)
"""part, what is asked, and how to answer it"""
