"""Markdown as code hosts and model hubs show it.

Whatever comes from a checkpoint, a data set or a file is escaped: it is shown, never obeyed.
"""

import re
from collections.abc import Sequence

from robustkit.errors import shown

_ESCAPES = str.maketrans(
    {
        **{character: f"\\{character}" for character in "\\`*_{}[]#|~$"},
        # entities where a backslash is shown by some, or where links and mentions arise without
        "<": "&lt;",
        ">": "&gt;",
        "&": "&amp;",
        "@": "&#64;",
    }
)
_LINK = re.compile(r"://|(?<=www)\.", re.IGNORECASE)
_MARKER = re.compile(r"^(\s*\d*)([-+=]|(?<=\d)[.)](?=\s|$))")


def escaped(text: str) -> str:
    """Text as Markdown shows it: on one line, nothing in it is markup, a link or a mention."""
    # a space that holds a number and its unit together stays
    plain = shown(re.sub(r"[ \t-\r]+", " ", text).strip()).translate(_ESCAPES)
    plain = _LINK.sub(lambda m: "&#58;//" if m[0] == "://" else "&#46;", plain)
    return _MARKER.sub(r"\1\\\2", plain)


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code, whose fence is longer than any in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = "\n".join(shown(line) for line in text.splitlines())
    return f"{fence}{language}\n{body}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table; cells are escaped here. The first `words` columns stand left, the others right."""
    rule = ["---" if i < words else "---:" for i in range(len(head))]
    body = [[escaped(cell) for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [[escaped(h) for h in head], rule, *body]]
    return "\n".join(lines) if rows else ""
