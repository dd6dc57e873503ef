"""The names that there are of attacks, data, losses, models and reports. Needs no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from robustkit.errors import UnknownName
from robustkit.files import Listed, find, names, read_toml
from robustkit.losses import LOSSES
from robustkit.models import MODELS
from robustkit.protocol import norms_of
from robustkit.showing import Shown


@dataclass(frozen=True, slots=True, repr=False)
class Listing(Shown):
    """The names on a shelf, each with what it is."""

    what: Listed
    titles: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        return iter(self.titles)

    def __len__(self) -> int:
        return len(self.titles)


def list_names(what: Listed) -> Listing:
    """List the names of attacks, data, losses, models or reports.

        robustkit.list("attacks")

    Raises:
        UnknownName: no such shelf.
    """
    match what:
        case "attacks":
            return Listing(what, _attacks())
        case "models":
            return Listing(what, _models())
        case "losses":
            return Listing(what, _losses())
        case "data" | "reports":
            return Listing(what, _shelf(what))
    raise UnknownName("shelf", what, get_args(Listed))


def _attacks() -> dict[str, str]:
    """Norms, the default first, and title."""
    titles = _shelf("attacks")
    norms = {name: ", ".join(norms_of(name)) for name in titles}
    width = max(map(len, norms.values()), default=0)
    return {name: f"{norms[name]:<{width}}  {title}" for name, title in titles.items()}


def _shelf(what: Literal["attacks", "data", "reports"]) -> dict[str, str]:
    return {name: str(read_toml(find(what, name)).get("title", "")) for name in names(what)}


def _models() -> dict[str, str]:
    return {name: entry.title for name, entry in sorted(MODELS.items())} | {
        "torchvision:NAME": "any classification model of torchvision",
        "timm:NAME": "any model of timm, with the extra robustkit[timm]",
        "hf:ORG/NAME": "what a repository of Hugging Face says in its config.json",
        "robustbench:NAME": "a network of RobustBench's, built by its package",
        "FILE.py:FUNCTION": "your own: a function that returns a torch.nn.Module",
    }


def _losses() -> dict[str, str]:
    return {name: entry.title for name, entry in LOSSES.items()} | {
        "FILE.py:FUNCTION": "your own: (model, images, labels) or (logits, labels) to a scalar",
    }
