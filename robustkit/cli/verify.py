"""`robustkit verify`: whether the files in folders are what robustkit wrote. Imports no torch."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from robustkit.cli.output import say
from robustkit.errors import RecordError

FIRST = ("intact", "no digest", "left over", "damaged")


def verify(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER|FILE...", help="Records, audits, studies, checkpoints, reports."
        ),
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also list the files that are intact.")
    ] = False,
) -> int:
    """Check that files are as they were written.

    Records, audits, studies, checkpoints and reports. Exit status 2 where a file is not, or where
    there is none.
    """
    from robustkit.calls.verify import verify as verified

    damaged = 0
    for place in places:
        counts: Counter[tuple[str, str]] = Counter()
        for found in verified(place).files:
            counts[found.state, found.kind] += 1
            if found.state == "damaged":
                say(f"damaged: {found.kind}: {found.reason}")
            elif verbose or found.state == "left over":
                say(f"{found.state}: {found.kind}: {found.path}")
        for state in FIRST:
            kinds = {kind: n for (own, kind), n in sorted(counts.items()) if own == state}
            if kinds:
                listed = ", ".join(f"{kind} {n}" for kind, n in kinds.items())
                say(f"{place}: {sum(kinds.values())} {state} ({listed})")
        damaged += sum(n for (state, _), n in counts.items() if state == "damaged")
    return RecordError.exit_status if damaged else 0
