"""The page of a step that GitHub Actions and its kin show: what is appended to a file they name."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustkit.cli.output import tell_warnings, trace
from robustkit.errors import first_line

if TYPE_CHECKING:
    from robustkit.showing import Shown

VARIABLE = "GITHUB_STEP_SUMMARY"
LIMIT = 2**20
"""bytes of a step's summary; a longer one is not shown at all"""
CUT = "\n\n… cut: a step's summary has no room for more.\n"


def summarise(results: "Iterable[Shown]", **how: Any) -> None:
    """Append title, table and sentences of each result to the step's summary, where one is set.

    `how` is what `view` takes for results of this kind.
    """

    def text() -> str:
        from robustkit.display.results import view

        return "".join(f"{view(result, **how).section()}\n\n" for result in results)

    append(text)


def append(text: Callable[[], str]) -> None:
    """Append Markdown to the step's summary, where one is set.

    It is asked for only then. By now the results are on disk, so that whatever goes wrong is a
    warning and no more.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return
    try:
        _append(Path(path), text())
    except Exception as error:
        trace(error)
        tell_warnings([f"{VARIABLE}: {path} was not written: {first_line(error)}"])


def _append(path: Path, text: str) -> None:
    written = path.stat().st_size if path.exists() else 0
    whole = text.encode("utf-8", "replace")
    room = LIMIT - written
    if len(whole) > room:
        kept = whole[: max(0, room - len(CUT.encode()))]
        # at the end of a line: half a row would break the table, half a letter the text
        whole = kept[: kept.rfind(b"\n") + 1] + CUT.encode()
        tell_warnings([f"{VARIABLE}: cut, a step's summary holds {LIMIT:,} bytes"])
    if len(whole) <= room:
        with path.open("ab") as file:
            file.write(whole)
