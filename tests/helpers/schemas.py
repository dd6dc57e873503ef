"""The shipped JSON Schemas (draft 2020-12)."""

import json
from typing import Any

from robustkit.files import shipped


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads((shipped("reports") / name).read_text(encoding="utf-8")))


AUDIT = _read("audit-1.schema.json")
EVALUATIONS = _read("evaluation-1.schema.json")
"""of a list of evaluations, as `--json` writes it"""
