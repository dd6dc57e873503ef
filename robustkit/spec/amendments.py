"""What changed in a study's file between two times that it was asked."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from robustkit.spec.reading import merged_table

PARTS = ("method", "analysis", "claim")
"""arrays of tables whose entries have names"""
WORDS = ("text", "source", "reason")
"""of a claim: what it says and why, which no digest covers"""
FREE = ("title", "question", "notes", "figures", "tables")
"""keys that may change at any time"""
LONGEST = 160
"""letters of a value that is told"""
Table = Mapping[str, Any]
_ABSENT = object()


class Change(NamedTuple):
    """One change of a study's file, or of a file that it names."""

    part: str
    """"claim", "method" or "analysis"; "" where it concerns the whole study"""
    name: str
    """of the entry in that part; "" where all entries are concerned"""
    key: str
    """what of it; "" where the entry itself came or went"""
    was: str
    """the whole value; "" where there was none"""
    now: str
    text: str
    """the change in words, long values cut"""


def differences(before: Table, after: Table) -> list[Change]:
    """Every change from one entry of `study.json` to another, but for words that are free.

    Both have the keys `file` and `changes`, and but for those of earlier versions `user_files`.
    """
    old, new = (merged_table(entry["file"], entry["changes"]) for entry in (before, after))
    return [*_changes(old, new), *edited(before, after)]


def reworded(before: Table, after: Table) -> list[Change]:
    """The changes in the words of claims only."""
    old, new = (_named(merged_table(e["file"], e["changes"]), "claim") for e in (before, after))
    return [
        change
        for name in old
        if name in new
        for key in WORDS
        for change in _value(("claim", name, key), old[name].get(key), new[name].get(key))
    ]


def edited(before: Table, after: Table) -> list[Change]:
    """The changes in what a study names: code, attacks, images, networks made elsewhere.

    What is named anew, or no longer, is a change of the file.
    """
    old, new = (entry.get("user_files", {}) for entry in (before, after))
    return [
        Change("", "", name, "", "other contents", f"{name}: other contents")
        for name in old
        if name in new and old[name] != new[name]
    ]


def _changes(old: Table, new: Table) -> Iterator[Change]:
    for key in dict.fromkeys([*old, *new]):
        was, now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if key in PARTS:
            yield from _parts(_named(old, key), _named(new, key), key)
        elif isinstance(was, dict) and isinstance(now, dict):
            yield from _keys(was, now, ("", "", f"[{key}] "))
        elif isinstance(was, dict) or isinstance(now, dict):
            done = "removed" if now is _ABSENT else "added"
            yield Change("", "", f"[{key}]", "", done, f"[{key}] was {done}")
        elif key not in FREE:
            yield from _value(("", "", key), was, now)


def _named(table: Table, part: str) -> dict[str, Table]:
    return {entry["name"]: entry for entry in table.get(part, ())}


def _parts(old: Mapping[str, Table], new: Mapping[str, Table], part: str) -> Iterator[Change]:
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            yield Change(part, name, "", "", "removed", f"{part} {name!r} was removed")
        elif name not in old:
            yield Change(part, name, "", "", "added", f"{part} {name!r} was added")
        else:
            yield from _keys(old[name], new[name], (part, name, ""))
    common = [name for name in old if name in new]
    if common != [name for name in new if name in old]:
        yield Change(part, "", "", "", "", f"the order of [[{part}]] was changed")


def _keys(old: Table, new: Table, where: tuple[str, str, str]) -> Iterator[Change]:
    part, name, before = where
    for key in dict.fromkeys([*old, *new]):
        if key not in FREE:
            place = (part, name, f"{before}{key}")
            yield from _value(place, old.get(key, _ABSENT), new.get(key, _ABSENT))


def _value(where: tuple[str, str, str], was: object, now: object) -> Iterator[Change]:
    if was != now:
        part, name, key = where
        what = f"{part} {name!r}, {key}" if part else key
        text = f"{what}: {_told(was)} became {_told(now)}"
        yield Change(*where, _whole(was), _whole(now), text)


def _whole(value: object) -> str:
    if value is _ABSENT or value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _told(value: object) -> str:
    if value is _ABSENT or value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
