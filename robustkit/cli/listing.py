"""`robustkit list`: what stands on the shelves. Imports no torch."""

from typing import Literal

import typer

from robustkit.cli.output import say, tell
from robustkit.errors import shown
from robustkit.files import find, names, read_toml
from robustkit.protocol import norms_of

Shelf = Literal["attacks", "data", "losses", "models", "reports"]


def list_names(
    what: Shelf = typer.Argument(..., help="Which names to list."),
) -> None:
    """List the names of attacks, data, losses, models or reports."""
    found = titles(what)
    width = max((len(shown(name)) for name in found), default=0)
    for name, title in found.items():
        say(f"{shown(name):<{width}}  {title}")
    if not found:
        tell(f"no {what} yet")


def titles(what: Shelf) -> dict[str, str]:
    """The names that there are, each with what it is."""
    match what:
        case "attacks":
            return _attacks()
        case "models":
            return _models()
        case "losses":
            return _losses()
        case _:
            return _shelf(what)


def _attacks() -> dict[str, str]:
    """Norms, the default first, and title."""
    titles = _shelf("attacks")
    norms = {name: ", ".join(norms_of(name)) for name in titles}
    width = max(map(len, norms.values()), default=0)
    return {name: f"{norms[name]:<{width}}  {title}" for name, title in titles.items()}


def _shelf(what: Literal["attacks", "data", "reports"]) -> dict[str, str]:
    return {name: str(read_toml(find(what, name)).get("title", "")) for name in names(what)}


def _models() -> dict[str, str]:
    from robustkit.models import MODELS

    return {name: entry.title for name, entry in sorted(MODELS.items())} | {
        "torchvision:NAME": "any classification model of torchvision",
        "timm:NAME": "any model of timm, with the extra robustkit[timm]",
        "hf:ORG/NAME": "what a repository of Hugging Face says in its config.json",
        "robustbench:NAME": "a network of RobustBench's, built by its package",
        "FILE.py:FUNCTION": "your own: a function that returns a torch.nn.Module",
    }


def _losses() -> dict[str, str]:
    from robustkit.losses import LOSSES

    return {name: entry.title for name, entry in LOSSES.items()} | {
        "FILE.py:FUNCTION": "your own: (model, images, labels) or (logits, labels) to a scalar",
    }
