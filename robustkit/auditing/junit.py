"""The rules of a policy as JUnit XML, which build servers show. No torch."""

from collections.abc import Mapping
from xml.etree import ElementTree

from robustkit.auditing.outcome import Audit, RuleResult
from robustkit.auditing.policy import properties
from robustkit.errors import shown_lines


def junit(audit: Audit) -> str:
    """JUnit XML, as build servers read it: a test case a rule, failures with their sentence.

    The same rules give the same text.
    """
    name, rules = f"policy for {audit.checkpoint.get('path')}", audit.policy
    counts = {
        "name": name,
        "tests": str(len(rules)),
        "failures": str(sum(not rule.passed for rule in rules)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", _fit(counts))
    suite = ElementTree.SubElement(root, "testsuite", _fit(counts | {"skipped": "0"}))
    told = ElementTree.SubElement(suite, "properties")
    for key, value in properties(audit).items():
        ElementTree.SubElement(told, "property", _fit({"name": key, "value": value}))
    for number, rule in enumerate(rules, 1):
        # numbered, since servers take two cases of one name for one
        case = {"classname": "robustkit.policy", "name": f"{number}. {rule.rule}"}
        _outcome(ElementTree.SubElement(suite, "testcase", _fit(case)), rule)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _outcome(case: ElementTree.Element, rule: RuleResult) -> None:
    if rule.passed:
        ElementTree.SubElement(case, "system-out").text = shown_lines(rule.sentence)
        return
    failure = _fit({"message": rule.sentence, "type": "policy"})
    ElementTree.SubElement(case, "failure", failure).text = shown_lines(rule.sentence)


def _fit(attributes: Mapping[str, str]) -> dict[str, str]:
    """With escapes for what XML 1.0 cannot hold, and whatever else is not printable."""
    return {key: shown_lines(value) for key, value in attributes.items()}
