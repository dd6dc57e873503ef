"""A protocol: a threat model and the attacks that search it, ready to be hashed and run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from robustkit.errors import ProtocolError, UnknownName, quoted
from robustkit.files import canonical, digest
from robustkit.parsing import plain_number
from robustkit.protocol.attacks import (
    APGD,
    KINDS,
    LATER,
    OFFERED,
    UNTARGETED,
    Attack,
    DeepFool,
    Patch,
    SparsePGD,
    SpatialGrid,
    SpatialRandom,
    Square,
    kind_of,
    labels_of,
    weakness,
)
from robustkit.protocol.budgets import Epsilon, Epsilons, check_budgets, parse_epsilon
from robustkit.protocol.norms import BALLS, NORMS, Norm, parse_norm

Target = Literal["none", "next", "random", "least-likely"]
BudgetOrder = Literal["bisect", "scan"]


@dataclass(frozen=True, slots=True, repr=False)
class Protocol:
    """A threat model and an ordered tuple of attacks; the worst case over them is what counts.

        Protocol([PGD(steps=40), APGD()], norm="linf", epsilons=["4/255", "8/255"])

    In Python attacks may be one or a list, and budgets text or numbers. Without attacks, said by
    `attack = []` in a file, there are no budgets: only the clean accuracy counts.

    Raises:
        ProtocolError: what is given is no attack or no budget, or attacks share no norm.
    """

    attacks: tuple[Attack, ...]
    norm: Norm = None  # type: ignore[assignment]
    """linf where nothing is given and every attack has it, else the first that all have"""
    epsilons: tuple[Epsilon, ...] = ()
    """budgets in rising order; in pixel units of [0, 1] images"""
    target: Target = "none"
    search: BudgetOrder = "bisect"
    """how an image's smallest budget that succeeds is found: a budget that fails closes all smaller
    ones, or every budget is tried, from the smallest up"""
    seed: int = 0
    name: str = ""
    """that of its file; of one that has none, "custom-" and its attacks"""
    title: str = ""
    text: str = ""
    """the file's own text, for the record"""

    def __post_init__(self) -> None:
        attacks, budgets = _attacks(self.attacks), _budgets(self.epsilons)
        norm = _shared_norm(attacks) if self.norm is None else parse_norm(self.norm, "norm")
        named = "+".join(labels_of(attacks)) or "clean"
        settled = {
            "attacks": attacks,
            "norm": norm,
            "epsilons": budgets,
            "name": self.name or f"custom-{named}",
            "title": self.title or ", ".join(map(repr, attacks)) or "No attack",
        }
        for key, value in settled.items():
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        given = {"norm": self.norm, "epsilons": [e.text for e in self.epsilons]}
        plain = type(self)(self.attacks, self.norm)
        others = ("target", "search", "seed", "name", "title")
        given |= {k: getattr(self, k) for k in others if getattr(self, k) != getattr(plain, k)}
        attacks = ", ".join(map(repr, self.attacks))
        return f"Protocol([{attacks}], {', '.join(f'{k}={v!r}' for k, v in given.items())})"

    def resolved(self) -> dict[str, Any]:
        """Everything that can change an outcome, as plain JSON. The name is no part of it.

        Without the key `search` budgets are scanned, as they all were before they were searched;
        with one budget there is nothing to search.
        """
        bisected = self.search == "bisect" and len(self.epsilons) > 1
        return {
            **({"search": self.search} if bisected else {}),
            "norm": self.norm,
            "target": self.target,
            "seed": self.seed,
            "epsilons": [e.exact for e in self.epsilons],
            "attacks": [{"kind": kind_of(a), **_plain(a)} for a in self.attacks],
        }

    @property
    def digest(self) -> str:
        """SHA-256 of `resolved()`."""
        return digest(canonical(self.resolved()))

    @property
    def weaknesses(self) -> list[str]:
        """Sentences about attacks that cannot do what their name promises."""
        return [sentence for a in self.attacks if (sentence := weakness(a))]


def _attacks(given: object) -> tuple[Attack, ...]:
    """One attack or several."""
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for one in several:
        if isinstance(one, type) and one in KINDS.values():
            raise ProtocolError(f"{one.__name__}: a kind of attack; write {one.__name__}()")
        if type(one) not in KINDS.values():
            raise ProtocolError(
                f"{quoted(one)}: no attack; expected such as PGD(steps=40), from robustkit.attacks"
            )
    return tuple(several)


def _budgets(given: Epsilons) -> tuple[Epsilon, ...]:
    """One budget or several, sorted, each once and as it was written first."""
    given = plain_number(given)  # type: ignore[assignment]
    if isinstance(given, Epsilon | str | int | float | Fraction):
        given = (given,)
    if not isinstance(given, Iterable):
        raise ProtocolError(f"epsilons: expected budgets such as '8/255', got {quoted(given)}")
    # by both numbers: of a rotation with and without a translation the value is the same
    found = {(e.value, e.exact): e for e in reversed([parse_epsilon(one) for one in given])}
    return tuple(found[key] for key in sorted(found))


def _shared_norm(attacks: Sequence[Attack]) -> Norm:
    """The first norm that all attacks have."""
    for norm in NORMS:
        if all(norm in OFFERED.get(type(attack), BALLS) for attack in attacks):
            return norm
    raise ProtocolError(f"{', '.join(map(kind_of, attacks))}: have no norm in common")


def _plain(attack: Attack) -> dict[str, Any]:
    table = {}
    for field in fields(attack):
        value = getattr(attack, field.name)
        if field.metadata != LATER or value != field.default:
            table[field.name] = str(value) if isinstance(value, Fraction) else value
    return table


def search_of(resolved: Mapping[str, Any]) -> BudgetOrder | None:
    """How a resolved protocol's budgets were searched; None where there were not several."""
    if len(resolved["epsilons"]) < 2:
        return None
    return "bisect" if "search" in resolved else "scan"


def pools(resolved: Mapping[str, Any]) -> bool:
    """Whether what a resolved protocol tries at a budget hangs on which others are asked.

    Rotations and translations are tried at each budget, and those of smaller ones count at larger.
    """
    kinds = {kind for kind, attack in KINDS.items() if attack in (SpatialGrid, SpatialRandom)}
    return any(attack["kind"] in kinds for attack in resolved["attacks"])


def resolve_budgets(
    protocol: Protocol, chosen: Epsilons, usual: Mapping[Norm, Sequence[str]]
) -> Protocol:
    """The protocol with budgets as chosen, else its own, else a data set's usual ones, if any.

    Raises:
        ProtocolError: a budget is not a number above 0.
    """
    budgets = _budgets(chosen) or protocol.epsilons
    if protocol.attacks and not budgets:
        budgets = _budgets(usual.get(protocol.norm, ()))
    return replace(protocol, epsilons=budgets)


def checked_protocol(protocol: Protocol) -> Protocol:
    """The protocol itself, if its attacks, norm, target and numbers go together.

    Raises:
        ProtocolError: they don't; the message says which.
    """
    if protocol.search not in (orders := get_args(BudgetOrder)):
        raise ProtocolError(f"search: {UnknownName('value', protocol.search, orders)}")
    check_budgets(protocol.norm, protocol.epsilons)
    for attack in protocol.attacks:
        word = kind_of(attack)
        if protocol.norm not in (offered := OFFERED.get(type(attack), BALLS)):
            raise ProtocolError(
                f"{word}: has no {protocol.norm} version, only {', '.join(offered)}"
            )
        if protocol.target != "none" and isinstance(attack, UNTARGETED):
            raise ProtocolError(f"{word}: cannot be targeted; use pgd, mifgsm, ddn, fmn or cw")
        if protocol.target != "none" and isinstance(attack, APGD | Patch) and attack.targets:
            raise ProtocolError(f"{word}: heads for targets of its own; set targets = 0")
        for field in fields(attack):
            value = getattr(attack, field.name)
            least = 0 if field.name in ("confidence", "momentum", "patience", "targets") else None
            if isinstance(value, bool | str):
                continue
            if isinstance(attack, SparsePGD) and field.name == "patience":
                least = None  # its choice would be drawn anew at each step, and never ascend
            if value < 0 or (value == 0 and least is None):
                bound = "above 0" if least is None else "0 or more"
                raise ProtocolError(f"{word}: {field.name} must be {bound}, got {value}")
        if isinstance(attack, Square) and attack.queries < 2:
            raise ProtocolError("square: queries must be at least 2")
        if isinstance(attack, APGD) and attack.larger_first and attack.steps < 10:
            raise ProtocolError("apgd: larger_first needs at least 10 steps")
        if isinstance(attack, SpatialGrid) and min(attack.angles, attack.shifts) < 2:
            raise ProtocolError("spatial-grid: angles and shifts must be at least 2")
        if isinstance(attack, DeepFool) and attack.candidates < 2:
            raise ProtocolError("deepfool: candidates must be at least 2")
    return protocol
