"""The evidence annex as page and card show it: each answer with links to what it rests on."""

import re
from dataclasses import dataclass

from robustkit.auditing.outcome import Audit, EvidenceAnnex, Provision
from robustkit.reporting.markdown import escaped, table

TITLE = "Evidence annex"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a result stands in a report."""

    title: str
    anchor: str
    """of the page's section"""
    heading: str
    """of the card's"""


def places(audit: Audit) -> dict[str, Place]:
    """Where the results that an annex names stand, by their keys in `audit.json`."""
    accuracy = "Accuracy"
    return {
        "clean": Place("clean accuracy", "budgets", accuracy),
        "robust": Place("robust accuracy", "budgets", accuracy),
        "certificate": Place("certified accuracy", "budgets", accuracy),
        "stages": Place("attacks", "stages", "Attacks"),
        "indicators": Place("indicators", "indicators", "Indicators of failing attacks"),
        "corruptions": Place("common corruptions", "corruptions", "Common corruptions"),
        "classes": Place("classes", "classes", classes_heading(audit)),
        "policy": Place("policy", "policy", "Policy"),
        "checkpoint": Place("checkpoint", "provenance", AUDITED),
        "data": Place("images", "provenance", AUDITED),
    }


AUDITED = "What was audited"
CLASSES_SHOWN = 5


def classes_heading(audit: Audit) -> str:
    """What the card calls its part on classes."""
    shown = min(CLASSES_SHOWN, len(audit.classes))
    return f"The worst {shown} of {len(audit.classes):,} classes"


def section(audit: Audit) -> str:
    """The annex in Markdown, without its heading; nothing for an audit that has none."""
    found = audit.annex
    if found is None:
        return ""
    where = places(audit)
    blocks = [escaped(found.statement)]
    for source in found.sources:
        blocks.append(f"#### {escaped(source.name)}\n\n{escaped(source.citation)}")
        blocks.append(escaped(source.read))
        rows = [(p.point, p.asks, p.answer, p.how, "") for p in _of(found, source.name)]
        head = ("point", "what it asks", "in this audit", "with what, or why not", "results")
        links = [_links(p, where) for p in _of(found, source.name)]
        lines = table(head, rows, words=5).splitlines()
        # links are markup of our own, so that they come in after the cells are escaped
        filled = [line[:-1] + link + " |" for line, link in zip(lines[2:], links, strict=True)]
        blocks.append("\n".join([*lines[:2], *filled]))
    return "\n\n".join(blocks)


def _of(annex: EvidenceAnnex, framework: str) -> list[Provision]:
    return [provision for provision in annex.provisions if provision.framework == framework]


def _links(provision: Provision, where: dict[str, Place]) -> str:
    """Links within the card, to headings as code hosts and model hubs name them."""
    known = [where[key] for key in provision.results if key in where]
    return ", ".join(f"[{place.title}](#{slug(place.heading)})" for place in known)


def slug(heading: str) -> str:
    """The anchor that a heading gets: lower case, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
