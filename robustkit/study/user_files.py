"""The user's own files among what a study names: an edited one is another, and amends the study.

What ships with robustkit is known by its name, and a change of it raises `REVISION`. Files of
theirs that a user's file imports belong to it (`models/imported.py`). Needs no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit import losses, models
from robustkit.data.noise import LabelNoise, parse_label_noise
from robustkit.data.shelf import Budgets, checked_budgets, read_dataset_spec
from robustkit.errors import UnknownName, Unready
from robustkit.files import Shelf, canonical, digest, file_digest, find, is_own, read_toml
from robustkit.protocol import Norm, load_protocol, resolve_budgets
from robustkit.spec import Study

UNREAD = ("title", "licence", "origin")
"""keys of an attack's or a data set's file that say something to a reader and decide nothing"""
CHANGED = "changed since the study was planned; run the study again"


@dataclass(frozen=True, slots=True)
class UserFiles:
    """Digests of what the trainings of a study name; None: it is robustkit's, or not named."""

    model: str | None
    losses: Mapping[str, str | None]
    noise: str | None
    """of the file that says which labels are wrong"""

    def named(self, model: str | None, noise: Path | None) -> dict[str, str | None]:
        """The digests by what the study's file says of the user's files."""
        every = {str(model): self.model, **self.losses, str(noise): self.noise}
        return {name: found for name, found in every.items() if found is not None}


def read_user_files(
    model: str | None, names: Iterable[str] = (), noise: Path | None = None
) -> UserFiles:
    """The digests of an architecture's file, losses' files and a file of label noise.

    Raises:
        InputError: one of the files is not there, or cannot be read.
    """
    return UserFiles(
        models.source(model) if model and models.names_code(model) else None,
        {name: losses.source(name) if models.names_code(name) else None for name in names},
        None if noise is None else file_digest(noise),
    )


def protocol_digest(name: str, norm: Norm | None, epsilons: Sequence[str], data: str) -> str | None:
    """The digest of a protocol with its budgets on a data set; None: both ship with robustkit.

    Raises:
        InputError: no such protocol, or it or the data set's file makes no sense.
    """
    own = is_own("attacks", name)
    usual: Budgets = {}
    with suppress(UnknownName):  # a folder, or a file of images, which knows no budgets
        own = is_own("data", data) or own
        usual = checked_budgets(read_dataset_spec(data).budgets, data) if own else {}
    if not own:
        return None
    return resolve_budgets(load_protocol(name, norm=norm), epsilons, usual).digest


def described_files(study: Study) -> dict[str, str | None]:
    """The digests of the files that describe a study's attacks and data sets.

    None: it ships with robustkit, or the data set has no such file.
    """
    attacks = {study.tested.protocol, *(one.protocol for one in study.analyses if one.protocol)}
    data = {study.tested.data, *([study.trained.data] if study.trained else [])}
    return {f"attack {name!r}": _described("attacks", name) for name in sorted(attacks)} | {
        f"data set {name!r}": _described("data", name) for name in sorted(data)
    }


def _described(shelf: Shelf, name: str) -> str | None:
    with suppress(UnknownName):  # a folder, or a file of images
        if is_own(shelf, name):
            table = read_toml(find(shelf, name))
            return digest(canonical({k: v for k, v in table.items() if k not in UNREAD}))
    return None


def noise_of(kind: str, rate: str) -> LabelNoise:
    """The label noise of a cell: at level 0 none, but where a file has the labels, as it says."""
    return parse_label_noise(kind, None if rate == "0" and kind.startswith("file:") else rate)


def check_user_files(cell: Mapping[str, Any]) -> None:
    """See that the user's own files are still what a cell's key says.

    Raises:
        InputError: one is gone.
        Unready: one has changed since the plan was made.
    """
    model, loss, noise = cell["model"], cell.get("loss", ""), cell.get("noise", {})
    path = noise_of(noise["kind"], noise["rate"]).path if noise else None
    now = read_user_files(model, (loss,), path)
    for name, planned, found in (
        (model, cell.get("model_code"), now.model),
        (loss, cell.get("loss_code"), now.losses[loss]),
        (path, noise.get("sha256"), now.noise),
    ):
        if planned != found:
            raise Unready(f"{name}: {CHANGED}")
