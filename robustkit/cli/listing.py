"""`robustkit list`: what stands on the shelves. Imports no torch."""

from typing import Literal

import typer

from robustkit.files import find, names, read_toml


def list_names(
    what: Literal["attacks", "data", "losses", "models", "reports"] = typer.Argument(
        ..., help="Which names to list."
    ),
) -> None:
    """List the names that other commands take."""
    titles = _models() if what == "models" else _losses() if what == "losses" else _shelf(what)
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        typer.echo(f"{name:<{width}}  {title}")
    if not titles:
        typer.echo(f"no {what} yet", err=True)


def _shelf(what: Literal["attacks", "data", "reports"]) -> dict[str, str]:
    return {name: str(read_toml(find(what, name)).get("title", "")) for name in names(what)}


def _models() -> dict[str, str]:
    from robustkit.models import MODELS

    return {name: entry.title for name, entry in sorted(MODELS.items())} | {
        "torchvision:NAME": "any classification model of torchvision",
        "timm:NAME": "any model of timm, with the extra robustkit[timm]",
        "FILE.py:FUNCTION": "your own: a function that returns a torch.nn.Module",
    }


def _losses() -> dict[str, str]:
    from robustkit.losses import LOSSES

    return {name: entry.title for name, entry in LOSSES.items()} | {
        "FILE.py:FUNCTION": "your own: (model, images, labels) or (logits, labels) to a scalar",
    }
