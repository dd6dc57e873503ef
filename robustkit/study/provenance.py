"""Where the numbers of a study come from: its digests, machines, data and versions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from robustkit.analysis.findings import ELSEWHERE, FIRST, digest_in_words, images_in_words
from robustkit.results.records import open_record
from robustkit.spec import Study
from robustkit.study.store import StudyStore


def provenance(
    study: Study,
    store: StudyStore,
    request: Mapping[str, Any],
    plan: Mapping[str, Any],
    done: Mapping[str, dict[str, Any] | None],
) -> dict[str, dict[str, str]]:
    """Sections of key and value, see `Outcome.provenance`."""
    finished = [cell for cell in done.values() if cell and cell["status"] == "done"]
    cached = {key: test for key in plan["tests"] if (test := store.test(key)) is not None}
    tested = {key: test for key, test in cached.items() if test["status"] == "done"}
    sections = {
        "Study": {"name": study.name} | _asked(study, request),
        "Cells": {
            "planned": str(len(plan["cells"])),
            "done": str(len(finished)),
            "failed": str(sum(1 for c in done.values() if c and c["status"] == "failed")),
        }
        | _machines([*finished, *tested.values()]),
        "Data": _data(store, plan, finished, tested),
        "Versions": _versions(finished),
    }
    if plan["candidates"] and plan["chosen"]:  # else a method has the one of the file
        sections["Selected configurations"] = selected(study, plan["chosen"])
    return sections


def selected(study: Study, chosen: Mapping[str, int]) -> dict[str, str]:
    """The configuration that each method has, in words; by place where it differs between them."""
    told: dict[str, dict[str, str]] = defaultdict(dict)
    choose = {method.name: method.choose for method in study.methods}
    for where, number in chosen.items():
        method = next(name for name in choose if where.startswith(f"{name} | noise "))
        told[method][where.replace(" | ", ", ")] = configuration_in_words(choose[method][number])
    sections: dict[str, str] = {}
    for method, each in told.items():
        words = list(dict.fromkeys(each.values()))
        sections |= each if len(words) > 1 else {method: words[0]}
    return sections


def configuration_in_words(configuration: Mapping[str, Any]) -> str:
    """Its keys and values: learning rate 0.1, gamma 3.0; "as given" where it changes nothing."""
    rest = configuration.get("settings", {})
    flat = {k: v for k, v in configuration.items() if k != "settings"} | rest
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in flat.items()) or "as given"


def _asked(study: Study, request: Mapping[str, Any]) -> dict[str, str]:
    """What was asked first, and what later."""
    first, *later = digests(request)
    fixed = FIRST if study.external is None else f"before the first evaluation here; {ELSEWHERE}"
    if not later:
        return {"digest": study.digest, "claims fixed": fixed}
    fixed = "changed later, see the notes"
    return {
        "digest": study.digest,
        "claims fixed": fixed if study.external is None else f"{fixed}; {ELSEWHERE}",
        "digest as first asked": first,
    } | {
        f"digest of amendment {i}": f"{one['digest']}, after {one['cells_done']} cells"
        for i, one in enumerate(request["amendments"], 1)
    }


def _machines(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Devices, threads and processors of results; networks made elsewhere say nothing of theirs."""
    known = [one for one in results if "device" in one]
    said = {
        "devices": {one["device"] for one in known},
        "threads": {str(one.get("threads", "unknown")) for one in known},
        "processors": {one.get("processor", "unknown") for one in known},
    }
    return {what: ", ".join(sorted(texts)) or "unknown" for what, texts in said.items()}


def _versions(finished: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    versions: dict[str, set[str]] = defaultdict(set)
    for cell in finished:
        for name, text in cell.get("versions", {}).items():
            versions[name].add(text)
    return {name: ", ".join(sorted(texts)) for name, texts in sorted(versions.items())}


def _data(
    store: StudyStore,
    plan: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    tested: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """The data sets that networks were trained and tested on, by name and split."""
    told: dict[str, dict[str, str]] = defaultdict(dict)  # text by digest, by name and split
    # a data set that the study names by its path has a shorter name once it is read
    read = [cell["data"]["train"] for cell in finished if "train" in cell.get("data", {})]
    called = {data["digest"]: data["name"] for data in read}
    for cell in plan["cells"].values():
        if (data := cell["asked"].get("data")) is not None:
            name = called.get(data["digest"], data["name"])
            told[f"{name}, train"][data["digest"]] = digest_in_words(data["digest"])
    for cell in finished:
        for split, data in cell.get("data", {}).items():
            told[f"{data['name']}, {split}"][data["digest"]] = images_in_words(
                data["images"], data["digest"]
            )
    for key, test in plan["tests"].items():
        data = _tested_on(store, test["digest"], tested.get(key), told)
        if data is not None:
            told[f"{data['name']}, {test['split']}"][test["digest"]] = images_in_words(
                data["images"], data["digest"]
            )
        elif not any(test["digest"] in texts for texts in told.values()):
            told[f"{test['data']}, {test['split']}"][test["digest"]] = digest_in_words(
                test["digest"]
            )
    return {name: "; ".join(texts.values()) for name, texts in told.items()}


def _tested_on(
    store: StudyStore,
    digest: str,
    test: Mapping[str, Any] | None,
    told: Mapping[str, Mapping[str, str]],
) -> Mapping[str, Any] | None:
    """Images that were tested, by an evaluation of them; None: unknown, or told already."""
    if test is None or any("images" in texts.get(digest, "") for texts in told.values()):
        return None
    if "data" in test:
        return next(iter(test["data"].values()), None)
    data = open_record(store.runs / f"{test['evaluation'][:32]}.parquet").header["data"]
    return {"name": data["name"], "images": data["n"], "digest": data["digest"]}


def askings(request: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """What was asked at first, and after each amendment."""
    kept = ("digest", "file", "changes", "user_files", "rules")
    first = {key: request[key] for key in kept if key in request}
    return first, *request["amendments"]


def digests(request: Mapping[str, Any]) -> list[str]:
    """Of all that was asked."""
    return [one["digest"] for one in askings(request)]
