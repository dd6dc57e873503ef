"""The parts of others' formats that robustkit writes, as their own schemas have them.

SARIF 2.1.0 (OASIS, sarif-schema-2.1.0) and JUnit XML (Jenkins' junit-10.xsd): the same required
keys, types, patterns and words, and no key or attribute that those schemas do not know.
"""

import re
from xml.etree import ElementTree


def _closed(required: str, **properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_TEXT: dict[str, object] = {"type": "string"}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_MESSAGE = _closed("text", text=_TEXT)
_URI = {
    "type": "string",
    "pattern": r"^([A-Za-z][A-Za-z0-9+.-]*:)?[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*$",
}
_LOCATION = _closed(
    "physicalLocation",
    physicalLocation=_closed(
        "artifactLocation",
        artifactLocation=_closed("uri", uri=_URI),
        region=_closed("startLine", startLine={"type": "integer", "minimum": 1}),
    ),
)
_RULE = _closed(
    "id", id=_TEXT, shortDescription=_MESSAGE, defaultConfiguration=_closed("level", level=_LEVEL)
)
_RESULT = _closed(
    "message",
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": -1},
    level=_LEVEL,
    message=_MESSAGE,
    locations={"type": "array", "items": _LOCATION, "uniqueItems": True},
    partialFingerprints={"type": "object", "additionalProperties": _TEXT},
)
_RUN = _closed(
    "tool",
    tool=_closed(
        "driver",
        driver=_closed(
            "name",
            name=_TEXT,
            version=_TEXT,
            rules={"type": "array", "items": _RULE, "uniqueItems": True},
        ),
    ),
    automationDetails=_closed("", id=_TEXT),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": _RESULT},
    properties={"type": "object"},
)
SARIF = _closed(
    "version runs",
    **{"$schema": {"type": "string", "format": "uri"}},
    version={"const": "2.1.0"},
    runs={"type": "array", "items": _RUN},
)

_COUNT = re.compile(r"\d+")
_JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (
        {"testsuite"},
        set(),
        {"name", "time", "tests", "failures", "disabled", "errors"},
    ),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
        },
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "classname"},
        {"time", "group"},
    ),
    "failure": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
}
"""of each element: its children, the attributes that it must have, and those that it may have"""


def junit_faults(text: str) -> list[str]:
    """What the schema has against a file."""
    root = ElementTree.fromstring(text.partition("?>")[2])
    found = [] if root.tag in ("testsuites", "testsuite") else [f"root {root.tag}"]
    for element in root.iter():
        if element.tag not in _JUNIT:
            found.append(f"element {element.tag}")
            continue
        children, must, may = _JUNIT[element.tag]
        found += [f"{child.tag} in {element.tag}" for child in element if child.tag not in children]
        found += [f"{element.tag} without {name}" for name in must - set(element.keys())]
        found += [f"{element.tag} with {name}" for name in set(element.keys()) - must - may]
        counts = {"tests", "failures", "errors", "skipped"} & set(element.keys())
        found += [
            f"{n}: {element.get(n)}" for n in counts if not _COUNT.fullmatch(element.get(n, ""))
        ]
    return found
