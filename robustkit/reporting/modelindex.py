"""An audit's numbers as the `model-index` metadata of Hugging Face's model cards, in YAML."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import PurePath
from typing import Any

from robustkit.auditing.outcome import Audit
from robustkit.auditing.policy import complete_at
from robustkit.errors import shown
from robustkit.protocol.norms import symbol
from robustkit.statistics import Estimate

DIGITS = 4
"""of a share: hundredths of a point. Smaller ones would need an exponent, which YAML 1.1 reads as
text where it has no sign"""


def front_matter(audit: Audit) -> str:
    """The metadata between its two lines of dashes; every share has its interval beside it.

    What attacks left is here only at budgets at which every required attack completed: who reads
    metadata alone sees no list of what is missing.
    """
    metrics = list(_metrics(audit))
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": _dataset(audit.data),
        "metrics": metrics,
    }
    name = PurePath(str(audit.checkpoint.get("path"))).name
    index = {"model-index": [{"name": name, "results": [result]}]}
    return "\n".join(["---", *_yaml(index), "---"])


def _dataset(data: Mapping[str, Any]) -> dict[str, Any]:
    name = str(data.get("name"))
    return {
        "type": re.sub(r"[^\w.-]+", "-", PurePath(name).name, flags=re.ASCII).strip("-") or "data",
        "name": str(data.get("title") or name),
        "split": str(data.get("split")),
        "args": {"digest": str(data.get("digest"))},
    }


def _metrics(audit: Audit) -> Iterator[dict[str, Any]]:
    yield _metric("Clean accuracy", audit.clean)
    for level in sorted(audit.robust, key=lambda level: level.value):
        if complete_at(audit, level.epsilon):
            where = _where(audit.norm, level.epsilon)
            yield _metric(f"Robust accuracy{where}, upper bound", level.accuracy, audit, level)
    for bound in sorted(audit.certificate.levels, key=lambda bound: bound.value):
        where = _where(audit.norm, bound.epsilon)
        yield _metric(f"Certified accuracy{where}, lower bound", bound.certified, audit, bound)
    found = audit.corruptions
    if found.mean is not None and isfinite(found.mean):
        title = f"Mean accuracy over {found.counted} common corruptions"
        yield {"type": "accuracy", "name": title, "value": round(found.mean, DIGITS)} | {
            "args": {"images": found.n}
        }


def _where(norm: str, epsilon: str) -> str:
    return f" ({symbol(norm)}, ε = {epsilon})"


def _metric(
    name: str, share: Estimate, audit: Audit | None = None, level: Any = None
) -> dict[str, Any]:
    threat = {"norm": audit.norm, "epsilon": level.epsilon} if audit else {}
    ends = {"low": round(share.low, DIGITS), "high": round(share.high, DIGITS)}
    return {
        "type": "accuracy",
        "name": name,
        "value": round(share.value, DIGITS),
        "args": {**threat, "images": share.n, "confidence": 0.95, **ends},
    }


def _yaml(value: object, depth: int = 0) -> Iterator[str]:
    """Block style, every text in quotes: YAML that is also read by parsers of JSON's scalars."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list):
                yield f"{pad}{key}:"
                yield from _yaml(item, depth + 1)
            else:
                yield f"{pad}{key}: {_scalar(item)}"
    elif isinstance(value, Sequence):
        for item in value:
            first, *rest = _yaml(item, depth + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from rest


def _scalar(value: object) -> str:
    return json.dumps(shown(value) if isinstance(value, str) else value, ensure_ascii=False)
