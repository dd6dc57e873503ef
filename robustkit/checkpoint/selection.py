"""What a user asks to be taken of a file's weights: which set, which names, and under which names.

Nothing of it is ever guessed: names that are left over or missing refuse a file until they are left
out (`--ignore 'loss.*'`) or renamed (`--rename 'backbone.=,head.=fc.'`) by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from robustkit.errors import BadFile, CheckpointError, quoted

MOST = 100
"""patterns, or pairs of beginnings"""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken of a file's weights."""

    key: str | None = None
    """of the set, in a file with several"""
    ignore: tuple[str, ...] = ()
    """patterns of names that are left out"""
    rename: tuple[str, ...] = ()
    """OLD=NEW: what names begin with, and what they are to begin with instead"""

    def edited(self, names: Iterable[str]) -> dict[str, str]:
        """New names by the old ones, without those that are left out.

        Raises:
            BadFile: two weights would have one name.
        """
        pairs = [pair.split("=", 1) for pair in self.rename]
        made: dict[str, str] = {}
        taken: set[str] = set()
        for name in names:
            if any(fnmatchcase(name, pattern) for pattern in self.ignore):
                continue
            old, new = next((pair for pair in pairs if name.startswith(pair[0])), ("", ""))
            made[name] = found = new + name.removeprefix(old)
            if found in taken:
                raise BadFile(f"two weights would have the name {found[:80]!r} after --rename")
            taken.add(found)
        return made

    def without_met(self, names: Sequence[str]) -> "Selection":
        """What is left to be done once it has been done to these names: what none of them met."""
        return replace(
            self,
            ignore=tuple(p for p in self.ignore if not any(fnmatchcase(n, p) for n in names)),
            rename=tuple(
                p for p in self.rename if not any(n.startswith(p.split("=", 1)[0]) for n in names)
            ),
        )

    def along(self, other: "Selection") -> "Selection":
        """Both, this one first."""
        ignore, rename = self.ignore + other.ignore, self.rename + other.rename
        return replace(self, ignore=ignore, rename=rename)

    @property
    def options(self) -> str:
        """As it is written on a command line."""
        parts = [("--ignore", self.ignore), ("--rename", self.rename)]
        return " ".join(f"{option} '{','.join(values)}'" for option, values in parts if values)


ALL = Selection()
"""the weights as they are"""


def parse_ignored(given: str | Sequence[str] | None) -> list[str] | None:
    """Patterns from "loss.*,metric.*", or a list of them.

    Raises:
        CheckpointError: an empty one, or too many.
    """
    if given is None:
        return None
    return _checked(given.split(",") if isinstance(given, str) else list(given), "--ignore")


def parse_renamed(given: str | Sequence[str] | Mapping[str, str] | None) -> list[str] | None:
    """Pairs from "backbone.=,head.=fc.", a list of such, or a dictionary.

    Raises:
        CheckpointError: one without an equals sign, or too many.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        given = [f"{old}={new}" for old, new in given.items()]
    pairs = _checked(given.split(",") if isinstance(given, str) else list(given), "--rename")
    for pair in pairs:
        if pair.count("=") != 1 or pair == "=":
            raise CheckpointError(
                f"--rename {quoted(pair)}: expected OLD=NEW, what names begin with and what "
                "instead, such as backbone.= or head.=fc."
            )
    return pairs


def _checked(texts: list[str], option: str) -> list[str]:
    stripped = [text.strip() if isinstance(text, str) else text for text in texts]
    if not all(isinstance(text, str) and text for text in stripped) or len(stripped) > MOST:
        raise CheckpointError(
            f"{option} {quoted(','.join(map(str, texts)))}: expected up to {MOST} of them, none "
            "empty, with commas between"
        )
    return stripped
