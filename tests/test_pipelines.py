"""What an audit hands to pipelines: a card that hubs read, SARIF for code hosts, a step's summary."""

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from helpers.audits import HOSTILE, audited, broken, full, hostile, minimal
from helpers.evaluations import evaluation
from helpers.formats import SARIF, junit_faults
from helpers.outcomes import outcome

from robustkit.auditing.junit import junit
from robustkit.auditing.sarif import sarif
from robustkit.cli import stepsummary
from robustkit.reporting.modelcard import half_page, model_card

GATE = """title = "gate"

[[require]]
accuracy = "clean"
at_least = 0.5

[[require]]
unresolved_indicators = 0

[[require]]
verdict = "believable"
"""
STRANGE = "a\n---\n\x85\u2028\x00\ud800\x7f \U0001f600 'x' \"y\" \\ : # - [ {0} %TAG"


# ---- model-index


@pytest.fixture(scope="module")
def read():
    """huggingface_hub's own parser, which tells of what it does not take by the log alone."""
    from huggingface_hub.repocard import ModelCard

    def parse(text, told):
        with told.at_level(logging.WARNING):
            card = ModelCard(text)
        assert not told.records
        return card

    return parse


@pytest.mark.parametrize(
    "found", [full(), broken(), minimal(), hostile(), hostile(STRANGE)], ids=range(5)
)
def test_the_hubs_own_parser_takes_the_metadata_of_every_audit(read, caplog, found):
    card = read(model_card(found), caplog)
    results = card.data.eval_results
    assert results[0].metric_value == round(found.clean.value, 4)
    assert all(r.task_type == "image-classification" for r in results)
    assert card.text.lstrip().startswith("## Robustness audit of")
    assert read(str(card), caplog).data.eval_results == results  # and writes it again


def test_the_metadata_has_the_audits_numbers_with_their_intervals(read, caplog):
    found = full()
    results = {r.metric_name: r for r in read(model_card(found), caplog).data.eval_results}
    robust = results["Robust accuracy (ℓ∞, ε = 8/255), upper bound"]
    low, high = (round(end, 4) for end in (found.survived.low, found.survived.high))
    assert robust.metric_value == 0.451
    assert robust.metric_args == {
        "norm": "linf",
        "epsilon": "8/255",
        "images": 1000,
        "confidence": 0.95,
        "low": low,
        "high": high,
    }
    assert robust.dataset_args == {"digest": found.data["digest"]}
    assert results["Certified accuracy (ℓ∞, ε = 2/255), lower bound"].metric_value == 0.58


def test_a_number_without_its_required_attacks_is_not_published(read, caplog):
    """At 2/255 and in the broken audit not all of them completed."""
    names = {
        found.checkpoint["path"]: [
            r.metric_name for r in read(model_card(found), caplog).data.eval_results
        ]
        for found in (full(), broken(), replace(full(), stages=full().stages[:2]))
    }
    assert all("Robust accuracy (ℓ∞, ε = 2/255)" not in " ".join(n) for n in names.values())
    assert not any("Robust" in name for name in names[broken().checkpoint["path"]])
    assert "(not all required attacks completed)" in half_page(broken())
    assert "not all" not in half_page(full())


def test_the_half_page_names_what_failed_and_stays_half_a_page():
    rules = full().policy * 20
    text = half_page(replace(full(), policy=rules))
    failed = [rule for rule in rules if not rule.passed]
    assert text.count("Failed rule: ") == 5
    assert f"and {len(failed) - 5} more" in text
    assert len(text.splitlines()) < 40
    assert "| policy | 100 of 160 rules passed |" in text


# ---- SARIF


@pytest.mark.parametrize("found", [full(), broken(), hostile(), hostile(STRANGE), minimal()])
def test_sarif_has_a_result_for_each_rule_that_failed(found, tmp_path):
    log = json.loads(sarif(found, tmp_path / "gate.toml"))
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules, failed = run["tool"]["driver"]["rules"], [r for r in found.policy if not r.passed]
    assert log["version"] == "2.1.0"
    assert len(rules) == len(found.policy)
    assert len(run["results"]) == len(failed)
    for result, rule in zip(run["results"], failed, strict=True):
        assert found.policy[result["ruleIndex"]] == rule
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        text = result["message"]["text"]
        assert text.replace("\u00a0", " ").isprintable()
        # what stands in single brackets and braces would be a link and a placeholder
        assert "[l](" not in text
        assert set(re.findall(r"{+", text)) <= {"{{", "{{{{"}
    assert len({r["partialFingerprints"]["rule/v1"] for r in run["results"]}) == len(failed)


@pytest.mark.parametrize("found", [full(), broken(), hostile(), hostile(STRANGE), minimal()])
def test_junit_is_what_its_schema_asks(found):
    text = junit(found)
    assert junit_faults(text) == []
    assert text.count("<failure ") == sum(not rule.passed for rule in found.policy)


def test_what_the_schemas_do_not_know_is_seen(tmp_path):
    log = json.loads(sarif(full(), tmp_path / "gate.toml"))
    log["runs"][0]["results"] += [{"ruleId": "x"}]
    with pytest.raises(jsonschema.ValidationError, match="'message' is a required property"):
        jsonschema.validate(log, SARIF)
    text = junit(full()).replace("<testcase ", '<testcase line="3" ')
    assert set(junit_faults(text)) == {"testcase with line"}


def test_a_failed_rule_stands_at_its_place_in_the_policy(tmp_path):
    policy = tmp_path / "gate.toml"
    rules = tuple(replace(rule, passed=False) for rule in full().policy[:3])
    tables = "[[require]]\nx = 1\n# [[require]]\n [[ require ]] # why\nx = 2\n[[require]]\n"
    for text, places in ((tables, [2, 5, 7]), ("require = [{}, {}, {}]\n", [1, 1, 1])):
        policy.write_text('title = "gate"\n' + text if places[0] > 1 else text)
        results = json.loads(sarif(replace(full(), policy=rules), policy))["runs"][0]["results"]
        found = [r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in results]
        assert found == places


# ---- the page of a step


@pytest.fixture
def page(monkeypatch, tmp_path):
    path = tmp_path / "summary.md"
    monkeypatch.setenv(stepsummary.VARIABLE, str(path))
    return path


@pytest.mark.thorough
def test_an_audit_writes_sarif_and_its_half_page_into_the_summary(
    robustkit, monkeypatch, page, tmp_path
):
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path.parent))
    monkeypatch.setattr("robustkit.calls.audit.run_audit", audited)
    (tmp_path / "gate.toml").write_text(GATE)
    command = (
        "audit",
        "lenet5-mnist5k",
        "--limit",
        "5",
        "--device",
        "cpu",
        "--sarif",
        "rules.sarif",
    )
    page.write_text("before\n")
    assert robustkit(*command, "--policy", "gate.toml")[0] == 1
    results = json.loads((tmp_path / "rules.sarif").read_text())["runs"][0]["results"]
    places = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results]
    assert places == [f"{tmp_path.name}/gate.toml"] * 2  # as the code host knows it
    text = page.read_text()
    assert text.startswith("before\n## Robustness audit of")
    assert text.count("Failed rule: ") == 2
    assert "model-index" not in text
    status, _, err = robustkit(*command)
    assert status == 2
    assert "--sarif reports the rules of a policy; give --policy too" in err


def test_an_evaluation_is_appended_with_its_table(robustkit, page):
    command = (
        "evaluate",
        "lenet5-mnist5k",
        "--attack",
        "clean",
        "--limit",
        "20",
        "--device",
        "cpu",
    )
    assert robustkit(*command)[0] == 0
    assert page.read_text().startswith("### Evaluation of lenet5-mnist5k")
    assert "| clean | 95.0\u00a0% | 76.4 to 99.1 |" in page.read_text()
    page.unlink()
    assert robustkit(*command, "--interval", "exact")[0] == 0
    assert "| clean | 95.0\u00a0% | 75.1 to 99.9 |" in page.read_text()


def test_every_kind_of_result_has_its_part_of_a_summary(page):
    found = outcome()
    stepsummary.summarise([found, evaluation(), full()])
    text = page.read_text()
    assert re.findall(r"^### (\w+)", text, re.M) == ["Study", "Evaluation", "Audit"]
    assert all(judgement.verdict in text for judgement in found.judgements)


def test_a_summary_that_has_no_room_is_cut_between_rows_and_told(page, capsys):
    page.write_bytes(b"x" * (stepsummary.LIMIT - 1000))
    rows = "".join(f"| {HOSTILE} | {n} |\n" for n in range(1000))
    stepsummary.append(lambda: rows)
    text = page.read_text()
    assert stepsummary.LIMIT - 200 < page.stat().st_size <= stepsummary.LIMIT
    kept = text[stepsummary.LIMIT - 1000 : -len(stepsummary.CUT)]
    assert rows.startswith(kept)
    assert kept.endswith("|\n")
    stepsummary.append(lambda: rows)  # no room for the word that it is cut, either
    assert page.stat().st_size <= stepsummary.LIMIT
    assert capsys.readouterr().err.count("warning: ") == 2


@pytest.mark.parametrize("target", ["no/such/folder/summary.md", "."])
def test_a_summary_that_cannot_be_written_is_a_warning(monkeypatch, capsys, target):
    monkeypatch.setenv(stepsummary.VARIABLE, target)
    stepsummary.append(lambda: "text")
    stepsummary.append(lambda: 1 / 0)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"warning: GITHUB_STEP_SUMMARY: {target} was not written: ")
    assert told[1].endswith("was not written: division by zero")


def test_without_the_variable_nothing_is_asked(monkeypatch):
    monkeypatch.delenv(stepsummary.VARIABLE, raising=False)
    stepsummary.append(lambda: pytest.fail("asked"))
    assert not Path(os.curdir, "None").exists()
