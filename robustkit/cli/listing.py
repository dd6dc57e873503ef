"""`robustkit list`: what stands on the shelves. Imports no torch."""

import typer

from robustkit.cli.output import say, tell
from robustkit.errors import shown
from robustkit.files import Listed


def list_names(
    what: Listed = typer.Argument(..., help="Which names to list."),
) -> None:
    """List the names of attacks, data, losses, models or reports."""
    from robustkit.shelves import list_names as listed

    found = listed(what).titles
    width = max((len(shown(name)) for name in found), default=0)
    for name, title in found.items():
        say(f"{shown(name):<{width}}  {title}")
    if not found:
        tell(f"no {what} yet")
