"""The failed rules of a policy as SARIF 2.1.0, which code hosts show beside the code. No torch.

Standard: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0.
"""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from robustkit.auditing.outcome import Audit, RuleResult
from robustkit.auditing.policy import properties
from robustkit.errors import shown
from robustkit.files import digest

VERSION = "2.1.0"
SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
"""a name by which readers know the format; nothing is fetched from there"""
HEADER = "[[require]]"
"""begins a rule in a policy's file"""
_ESCAPES = str.maketrans({"{": "{{", "}": "}}", "[": "\\[", "]": "\\]"})
"""of a message: what would be a placeholder (section 3.11.5) or a link (3.11.6)"""


def sarif(audit: Audit, policy: Path) -> str:
    """SARIF: all rules of the policy, and a result for each that failed, at its place in the file.

    The same audit and file give the same text. A rule's fingerprint hangs on the rule and on the
    checkpoint's path, so that a code host recognises a failure when it comes again.
    """
    rules = audit.policy
    places = _lines(policy, len(rules))
    results = [
        _result(audit, rules[: number + 1], policy, line)
        for number, (rule, line) in enumerate(zip(rules, places, strict=True))
        if not rule.passed
    ]
    run = {
        "tool": {
            "driver": {
                "name": "robustkit",
                "version": version("robustkit"),
                "rules": [_rule(rule, number) for number, rule in enumerate(rules)],
            }
        },
        "automationDetails": {"id": f"robustkit-audit/{shown(str(audit.checkpoint.get('path')))}/"},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "properties": {name: shown(value) for name, value in properties(audit).items()},
    }
    log = {"$schema": SCHEMA, "version": VERSION, "runs": [run]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _rule(rule: RuleResult, number: int) -> dict[str, Any]:
    return {
        "id": _id(number),
        "shortDescription": {"text": _message(rule.rule)},
        "defaultConfiguration": {"level": "error"},
    }


def _message(text: str) -> str:
    return shown(text).translate(_ESCAPES)


def _id(number: int) -> str:
    return f"policy-{number + 1}"


def _result(audit: Audit, rules: Sequence[RuleResult], policy: Path, line: int) -> dict[str, Any]:
    """Of the last of these rules."""
    checkpoint, rule, number = str(audit.checkpoint.get("path")), rules[-1], len(rules) - 1
    again = sum(other.rule == rule.rule for other in rules)  # two of one name are two failures
    region = {"startLine": line}
    return {
        "ruleId": _id(number),
        "ruleIndex": number,
        "level": "error",
        "message": {"text": _message(f"{checkpoint}: {rule.sentence}")},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": _uri(policy)}, "region": region}}
        ],
        "partialFingerprints": {"rule/v1": digest(shown(checkpoint), shown(rule.rule), str(again))},
    }


def _uri(policy: Path) -> str:
    """Relative to the checkout, else to the working directory: code hosts know files by that."""
    path = policy.resolve()
    for root in (os.environ.get("GITHUB_WORKSPACE"), Path.cwd()):
        if root and path.is_relative_to(here := Path(root).resolve()):
            return quote(path.relative_to(here).as_posix().encode("utf-8", "surrogateescape"))
    return "file://" + quote(path.as_posix().encode("utf-8", "surrogateescape"))


def _lines(policy: Path, count: int) -> list[int]:
    """Where each rule begins; the first line where the file does not write them as tables."""
    try:
        lines = policy.read_text("utf-8").splitlines()
    except (OSError, ValueError):  # read before; gone since, or not a file that is read twice
        lines = []
    found = [n for n, line in enumerate(lines, 1) if "".join(line.split()).startswith(HEADER)]
    return found if len(found) == count else [1] * count
