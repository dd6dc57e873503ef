"""The evidence annex: nothing is called covered that no result of the audit shows."""

import re
from dataclasses import replace
from functools import cache

import pytest
from helpers.audits import broken, full, minimal
from helpers.pages import Outline

from robustkit.auditing.annex import AI_ACT, ISO, annex
from robustkit.auditing.outcome import Corruptions
from robustkit.auditing.stored import encoded
from robustkit.reporting.annex import places, slug
from robustkit.reporting.audit import page
from robustkit.reporting.modelcard import model_card

AUDITS = {
    "full": full(),
    "broken": broken(),
    "minimal": replace(minimal(), annex=annex(minimal())),
}


@cache
def shown_as(name):
    return page(AUDITS[name]), model_card(AUDITS[name])


def shown(found):
    """Page and card."""
    return shown_as(next(name for name, one in AUDITS.items() if one is found))


def answer(found, framework, point):
    (row,) = (
        p for p in annex(found).provisions if (p.framework, p.point) == (framework.name, point)
    )
    return row


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("found", AUDITS.values(), ids=AUDITS)
def test_every_answer_links_to_a_result_that_is_there(found):
    stored = encoded(found)
    html, card = shown(found)
    ids = {a["id"] for _, a in Outline(html).elements if "id" in a}
    headings = {slug(h) for h in re.findall(r"^### (.*)$", card, re.M)}
    for row in found.annex.provisions:
        assert bool(row.results) == (row.answer != "not covered"), row
        assert row.how.endswith(".")
        for key in row.results:
            assert stored[key], f"{row.point}: {key} is empty"
            assert places(found)[key].anchor in ids
            assert slug(places(found)[key].heading) in headings
    assert set(re.findall(r"\]\(#([^)]*)\)", card)) <= headings


def test_robustness_is_covered_only_where_all_required_attacks_completed():
    at = ("EU AI Act, Article 15", "15(1), robustness")
    rows = {
        name: next(p for p in found.annex.provisions if (p.framework, p.point) == at)
        for name, found in AUDITS.items()
    }
    assert {name: row.answer for name, row in rows.items()} == {
        "full": "covered",
        "broken": "in part",
        "minimal": "not covered",
    }
    assert "45.1\u00a0%" in rows["full"].how
    assert "not all required attacks completed" in rows["broken"].how


def test_an_unread_standard_is_never_covered_and_said_to_be_unread():
    for found in AUDITS.values():
        answers = {p.answer for p in annex(found).provisions if p.framework == ISO.name}
        assert answers <= {"in part", "not covered"}
    assert "could not be read" in ISO.read
    assert answer(full(), ISO, "5.3 Stability").answer == "in part"
    assert "Softmax has no bound" in answer(broken(), ISO, "5.3 Stability").how


def test_what_was_not_done_is_not_covered():
    def told(found):
        return {f"{p.framework}: {p.point}": p.answer for p in annex(found).provisions}

    before = told(full())
    without = told(replace(full(), corruptions=Corruptions(reason="no"), policy=(), classes=()))
    assert {key for key in before if before[key] != without[key]} == {
        "EU AI Act, Article 15: 15(4), errors and faults",
        "EU AI Act, Article 15: 15(5), model flaws",
        "NIST AI RMF 1.0, MEASURE 2.5 to 2.7: MEASURE 2.6, tolerance",
    }
    assert set(told(minimal()).values()) == {"covered", "in part", "not covered"}
    assert list(told(minimal()).values()).count("covered") == 1  # clean accuracy


def test_metrics_are_said_to_be_here_where_they_are():
    told = {
        "full": "(clean, robust and certified accuracy)",
        "broken": "(clean and robust accuracy)",
        "minimal": "(clean accuracy)",
    }
    for name, metrics in told.items():
        assert metrics in answer(AUDITS[name], AI_ACT, "15(3)").how


def test_no_conformity_is_claimed_and_each_source_is_cited():
    html, card = shown(full())
    for text in (Outline(html).text, card.replace("\\", "")):
        assert "It is no assessment of conformity, claims none, and gives no legal advice." in text
        for source in full().annex.sources:
            assert source.citation in text
            assert source.read in text
    rows = " ".join(f"{p.asks} {p.how}" for p in full().annex.provisions)
    assert not re.search(r"compl(y|ies|iant|iance)|conform", rows, re.I)


def test_an_audit_from_before_has_a_report_without_it():
    stored = encoded(minimal())
    assert stored["annex"] is None
    assert "Evidence annex" not in page(minimal()) + model_card(minimal())
