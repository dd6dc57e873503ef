"""Evaluations as they are on file, before anything is made of their rows. Needs no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustkit.files import canonical, digest
from robustkit.models import names_code
from robustkit.protocol import Norm, budget_key, parse_epsilon, pools, search_of
from robustkit.record import mean_passes, read_header, read_table
from robustkit.results.rows import UNBROKEN, Rows, read_rows

if TYPE_CHECKING:
    from robustkit.record import Evaluation

CLEAN = "clean"
"""the level at which nothing is attacked"""
NETWORK = ("weights", "model", "mean", "std")
"""networks of two records are the same one where these are, and `COMPUTED` where both have it"""
COMPUTED = "network"
"""of a record's checkpoint: digest of what is computed with the weights, where its name does not
say that; "" where it could not be read, and older records have none"""


@dataclass(frozen=True, eq=False)
class Record:
    """One evaluation, on file or in memory."""

    header: Mapping[str, Any]
    source: "Path | Evaluation"
    started: str = ""
    """when it was made, in UTC"""

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """What is known of the network."""
        made: Mapping[str, Any] = self.header["checkpoint"]
        return made

    @property
    def identity(self) -> str:
        """Equal for equal networks, wherever their files stand.

        A record that does not tell its network is of one of its own.
        """
        made = self.checkpoint
        if made.get("weights") and made.get(COMPUTED) != "":
            return identity_of(made)
        return str(self.source if isinstance(self.source, Path) else id(self.source))

    @property
    def low_precision(self) -> str:
        """By which the attack searched; "" where that was float32."""
        precision = precision_of(self.header)
        return "" if precision == "float32" else precision

    @property
    def standing(self) -> tuple[bool, str]:
        """Of two records by one condition that counts where this is larger.

        Whose attack searched in float32, by which others are judged, then the later.
        """
        return not self.low_precision, self.started

    @cached_property
    def rows(self) -> Rows:
        """Which budget broke each image."""
        if isinstance(self.source, Path):
            return read_rows(self.source)
        budgets = self.source.epsilons
        broken_at = self.source.broken_at
        places = np.searchsorted([0.0, *map(float, budgets)], broken_at)
        broken = np.where(np.isinf(broken_at), UNBROKEN, places).astype(np.int8)
        passes = mean_passes(self.source.table)
        return Rows(self.header, broken, tuple(e.text for e in budgets), passes)

    @property
    def pixels(self) -> frozenset[str]:
        """Fingerprints of its images' pixels; an image that is there twice counts once."""
        table = read_table(self.source)[1] if isinstance(self.source, Path) else self.source.table
        return frozenset(name.partition(":")[0] for name in table["sample"].to_pylist())


@dataclass(frozen=True, slots=True)
class NetworkRecords:
    """A network and its evaluations."""

    name: str
    """what the user may call it: the path of a checkpoint or of a record"""
    seed: int | None
    records: tuple[Record, ...]
    fields: tuple[tuple[str, str], ...] = ()
    """what a pattern found in its name, but for the seed"""


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """Which evaluations are meant, where several are on file."""

    at: tuple[str, ...] = ()
    """budgets, and "clean" for no attack; everything that is on file where empty"""
    attack: str | None = None
    """name of the protocol, its file (.toml), or the beginning of its digest"""
    data: str | None = None
    """name of the data set, or the beginning of its digest"""
    surrogate: str | None = None
    """path of the network whose attacks were transferred; None for attacks on the network itself"""
    norm: Norm | None = None
    """of the attack; any where None"""

    def __post_init__(self) -> None:
        for text in self.budgets:
            parse_epsilon(text, "--at")

    @property
    def budgets(self) -> tuple[str, ...]:
        """Those of `at`."""
        return tuple(text for text in self.at if text != CLEAN)

    @property
    def largest(self) -> Fraction | float:
        """Largest budget that plays a part; 0 where there is none."""
        return max((budget_key(text)[0] for text in self.budgets), default=0) if self.at else inf


class Condition(NamedTuple):
    """How a network was tested; those that are compared are equal in all of it."""

    data: str
    """digest of images and labels"""
    protocol: str
    """digest of attacks, norm, target and seed"""
    epsilons: tuple[str, ...]
    """budgets that play a part: what a smaller one broke is broken at a larger one, and where they
    are not scanned a larger one that failed speaks for the smaller"""
    surrogate: str
    """digest of weights"""
    revision: int
    """of the attack engine"""


def condition(header: Mapping[str, Any], largest: Fraction | float) -> Condition:
    """The condition of a record, as far as it can change a row at budgets up to `largest`."""
    data = header["data"]["digest"]
    if not largest:
        return Condition(data, "", (), "", 0)
    asked = dict(header["protocol"]["resolved"])
    search = search_of(asked)
    budgets = tuple(map(budget_key, asked.pop("epsilons")))
    whole = search == "bisect" or pools(asked)
    tried = tuple(text for value, text in budgets if value <= largest or whole)
    return Condition(
        data,
        digest(canonical([asked, tried] if pools(asked) else asked)),
        tried,
        header.get("surrogate", {}).get("weights", ""),
        header["engine"]["revision"],
    )


def identity_of(checkpoint: Mapping[str, Any]) -> str:
    """Equal for equal networks, by what a record says of them."""
    known = [checkpoint.get(key) for key in NETWORK]
    computed = checkpoint.get(COMPUTED)
    return canonical([*known, computed] if computed else known)


def may_be_one(records: Iterable[Record]) -> bool:
    """Whether nothing on record says that the networks of some records are several."""
    made = [record.checkpoint for record in records]
    computed = {one.get(COMPUTED) for one in made} - {None, ""}
    return len(computed) <= 1 and len({identity_of({**one, COMPUTED: None}) for one in made}) <= 1


def computed_by(identity: Mapping[str, Any], model: str | None) -> str | None:
    """What tells networks of equal weights apart: a graph's digest, or that of the user's own code.

    None: the architecture's name does. The code of robustkit and of libraries is another with each
    version, which makes no other network.

    Args:
        identity: of a checkpoint.
        model: its architecture, as the checkpoint names it.
    """
    known = identity.get("graph") or (identity.get("code") if names_code(model or "") else None)
    return None if known is None else str(known)


def precision_of(header: Mapping[str, Any]) -> str:
    """By which the attack of a record searched."""
    return str(header.get("precision", "float32"))


def open_record(path: Path) -> Record:
    """A record without its rows.

    Raises:
        RecordError: no such file, an evaluation that has not finished, not one of ours, or changed.
    """
    found = read_header(path)
    return Record(found.header, path, found.run.get("started", ""))
