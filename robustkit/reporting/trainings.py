"""How a study's networks were made and judged: sentences of its methods paragraph."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from robustkit.analysis.outcome import Outcome, Panel
from robustkit.analysis.table import WORDS as FACTORS
from robustkit.figures.names import level_text
from robustkit.protocol import budget_key
from robustkit.protocol.norms import symbol
from robustkit.reporting.references import cited, compression_key, loss_reference
from robustkit.reporting.wording import readable
from robustkit.spec import ACCURACY, CHOSEN, merged_table
from robustkit.spec.checks import UNCHANGED
from robustkit.statistics.comparison import listed
from robustkit.study.findings import WORDS


def sentences(outcome: Outcome) -> Iterator[str]:
    """All but what attacks worked on, see `surrogates`."""
    yield from _networks(outcome)
    yield from _made(outcome)
    yield from _noise(outcome)
    yield from _attacked(outcome)
    if trained := methods(outcome):
        yield f"Training losses: {'; '.join(map(_loss, trained))}."
    yield from _selected(outcome)
    yield from _passes(outcome)


def file_of(outcome: Outcome) -> Mapping[str, Any]:
    """What the study's file says."""
    with suppress(ValueError):  # an outcome that was made by hand has no whole file
        return merged_table(outcome.file, outcome.changes)
    return {}


def methods(outcome: Outcome) -> Sequence[Mapping[str, Any]]:
    """The methods of the study's file that are trained."""
    return [method for method in file_of(outcome).get("method", ()) if method.get("loss")]


def keys(method: Mapping[str, Any]) -> tuple[str, ...]:
    """The publications behind a method."""
    scheme = str(method.get("recipe", {}).get("compress", ""))
    return (*loss_reference(str(method["loss"])).keys, *compression_key(scheme))


def surrogates(outcome: Outcome) -> Iterator[str]:
    """On which networks adversarial examples were crafted that were tried by transfer."""
    titles = defaultdict[str, list[str]](list)
    for panel, analysis in _asked(outcome):
        if name := analysis.get("surrogate"):
            titles[name].append(panel.title)
    seed = file_of(outcome).get("tuning", {}).get("seed")
    of_seed = "" if seed is None else f" and seed {seed}"
    for name, where in titles.items():
        of = f" ({'; '.join(where)})" if len(titles) > 1 else ""
        yield (
            f"By transfer{of}, adversarial examples were crafted on the surrogate, a network that "
            f"was trained with {name}{of_seed} and is not among those compared."
        )


def _asked(outcome: Outcome) -> list[tuple[Panel, Mapping[str, Any]]]:
    """Each panel that shows something, with its analysis in the study's file."""
    known = {analysis["name"]: analysis for analysis in file_of(outcome).get("analysis", ())}
    shown = [panel for panel in outcome.panels if panel.lines]
    return [(panel, known[panel.name]) for panel in shown if panel.name in known]


def _networks(outcome: Outcome) -> Iterator[str]:
    done = [c for c in outcome.cells if c.purpose == "compared" and c.status == "done"]
    names = dict.fromkeys(line.method for panel in outcome.panels for line in panel.lines)
    seeds = sorted({cell.seed for cell in done})
    if done:
        yield (
            f"We compared {listed(list(names))}: {len(done):,} networks, random seeds "
            f"{listed([str(seed) for seed in seeds])}."
        )


def _made(outcome: Outcome) -> Iterator[str]:
    """How long networks were trained, and on what."""
    fractions = _levels(outcome, "data_fraction")
    part = ""
    if any(budget_key(share)[0] != 1 for share in fractions):
        part = _shares(fractions).replace(" and ", " or ")
    if asked := file_of(outcome).get("train"):
        # a batch has no more images than there are
        batch = f" of up to {size:,} images" if (size := asked.get("batch_size")) else ""
        of = f"{part} of the training images of " if part else ""
        less = " that are not held out" if part else ""
        yield (
            f"Each network ({asked.get('model')}) was trained on {of}{asked.get('data')}{less} for "
            f"{asked.get('steps', 0):,} updates{batch}."
        )
    elif part:
        yield f"Networks were trained on {part} of the training images."


def _noise(outcome: Outcome) -> Iterator[str]:
    """Of which kind label noise was, and how much there was of it."""
    levels = _levels(outcome, "label_noise")
    if not any(budget_key(level)[0] for level in levels):
        return
    asked = file_of(outcome).get("train")
    kind = f" ({asked.get('noise_kind', 'symmetric')})" if asked else ""
    held = ", and of those held out" if asked else ""
    yield f"Label noise{kind}: {_shares(levels)} of the training labels{held}."


def _attacked(outcome: Outcome) -> Iterator[str]:
    """Which networks were attacked, where not all were trained alike."""
    words = {"label_noise": "with {} label noise", "data_fraction": "on {} of the training images"}
    varied = [factor for factor in words if len(_levels(outcome, factor)) > 1]
    found = dict.fromkeys(
        " and ".join(words[factor].format(_share(_constant(a, factor))) for factor in varied)
        for _, a in _asked(outcome)
        if a["factor"] == "epsilon" and file_of(outcome).get("train")
    )
    if varied and found:
        yield f"Attacked were networks that were trained {'; '.join(found)}."


def _constant(analysis: Mapping[str, Any], factor: str) -> str:
    return str(analysis.get(factor, UNCHANGED[factor]))


def _levels(outcome: Outcome, factor: str) -> list[str]:
    """The label noise or data fractions of the networks shown, as far as is known, rising."""
    file = file_of(outcome)
    shown = [panel for panel in outcome.panels if panel.factor == FACTORS[factor]]
    found = [v.level for panel in shown for line in panel.lines for v in line.values]
    if file.get("train"):
        found += [_constant(a, factor) for _, a in _asked(outcome) if a["factor"] != factor]
    unique = {budget_key(level): level for level in found}
    return [unique[key] for key in sorted(unique)]


def _shares(levels: Sequence[str]) -> str:
    return listed(list(map(_share, levels)))


def _share(level: str) -> str:
    return level_text(level, True)


def _passes(outcome: Outcome) -> Iterator[str]:
    """After which passes networks are judged, where not at the end of their training."""
    file, titles = file_of(outcome), defaultdict[str, list[str]](list)
    for panel, analysis in _asked(outcome):
        if after := str(analysis.get("passes", "")):
            titles[after].append(f"“{panel.title}”")
    score = file.get("tuning", {}).get("score", ACCURACY)
    kept = listed([str(n) for n in sorted(file.get("train", {}).get("snapshots", ()))])
    for after, where in titles.items():
        when = (
            f"the pass over the data, of {kept}, selected by {WORDS.get(score, score)}"
            if after == CHOSEN
            else f"{after} passes over the data"
        )
        yield f"In {listed(where)}, networks are judged after {when}."


def _selected(outcome: Outcome) -> Iterator[str]:
    """Which configurations won, where there were several, and by which score."""
    file, chosen = file_of(outcome), outcome.provenance.get("Selected configurations")
    # earlier versions told the only configuration of a method, too, as if it were a choice
    if chosen and any(len(method.get("choose", ())) > 1 for method in file.get("method", ())):
        told = "; ".join(f"{method}: {text}" for method, text in chosen.items())
        score = file.get("tuning", {}).get("score", ACCURACY)
        yield f"Configurations, selected by {WORDS.get(score, score)}: {told}."


def _loss(method: Mapping[str, Any]) -> str:
    """'l2-margin: large-margin loss (Elsayed et al., 2018; norm ℓ₂, alpha none)'."""
    settings = method.get("settings", {})
    numbers = ", ".join(
        f"{key.replace('_', ' ')} {symbol(str(value)) if key == 'norm' else readable(value)}"
        for key, value in settings.items()
    )
    name, references = loss_reference(str(method["loss"]))
    inside = "; ".join(filter(None, (cited(references), numbers)))
    named = name if method["name"] == name else f"{method['name']}: {name}"
    text = f"{named}{f' ({inside})' if inside else ''}"
    recipe = method.get("recipe", {})
    text += f", by {world} processes" if (world := recipe.get("processes", 1)) > 1 else ""
    if not (scheme := str(recipe.get("compress", ""))):
        return text
    by = cited(compression_key(scheme))
    return f"{text}, gradients compressed by {scheme}{f' ({by})' if by else ''}"
