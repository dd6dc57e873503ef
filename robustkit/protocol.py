"""Protocols: what is attacked with, every number spelled out. Needs no torch.

A protocol is a file of the shelf `attacks/` with its budgets filled in. Each kind of attack is a
frozen dataclass here and one `match` arm in `robustkit.attack`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from robustkit.errors import InputError, ProtocolError, UnknownName
from robustkit.files import build, canonical, digest, find, fraction, read_toml

Norm = Literal["linf", "l2", "l1"]
Loss = Literal["cross-entropy", "margin", "dlr", "rescaled-cross-entropy"]
Target = Literal["none", "next", "random", "least-likely"]


@dataclass(frozen=True, slots=True)
class Fgsm:
    """One step of size ε (Goodfellow et al. 2015); the fast gradient method in L2 and L1."""

    loss: Loss = "cross-entropy"


@dataclass(frozen=True, slots=True)
class Pgd:
    """Projected gradient ascent (Madry et al. 2018); without random start it is BIM, or IFGSM."""

    steps: int
    relative_step: Fraction
    """step size as a share of ε"""
    restarts: int = 1
    random_start: bool = True
    loss: Loss = "cross-entropy"


@dataclass(frozen=True, slots=True)
class Mifgsm:
    """Momentum iterative FGSM (Dong et al. 2018, algorithm 1)."""

    steps: int
    relative_step: Fraction
    """step size as a share of ε"""
    momentum: Fraction = Fraction(1)
    """decay factor μ of the accumulated gradient"""
    loss: Loss = "cross-entropy"


@dataclass(frozen=True, slots=True)
class Noise:
    """Random points of the ball: the floor that every attack must beat."""

    draws: int
    distribution: Literal["uniform", "gaussian"] = "uniform"


@dataclass(frozen=True, slots=True)
class DeepFool:
    """Steps to the nearest linearised boundary (Moosavi-Dezfooli et al. 2016). L2 and Linf."""

    steps: int = 50
    candidates: int = 10
    """how many of the likeliest classes are considered"""
    overshoot: Fraction = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class Ddn:
    """Decoupled direction and norm (Rony et al. 2019). L2."""

    steps: int = 100
    gamma: Fraction = Fraction(1, 20)
    """relative change of the norm per step"""


@dataclass(frozen=True, slots=True)
class Fmn:
    """Fast minimum norm (Pintor et al. 2021)."""

    steps: int = 100
    max_step: Fraction = Fraction(1)
    gamma: Fraction = Fraction(1, 20)
    """initial relative change of the norm per step"""


@dataclass(frozen=True, slots=True)
class CarliniWagner:
    """The L2 attack of Carlini and Wagner (2017), without the early abort that couples images."""

    steps: int = 200
    search_steps: int = 9
    """binary search steps over the trade-off constant"""
    step_size: Fraction = Fraction(1, 100)
    confidence: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The boundary attack on decisions alone (Brendel et al. 2018), image by image. L2."""

    steps: int = 5000


@dataclass(frozen=True, slots=True)
class HopSkipJump:
    """Decision-based gradient estimation (Chen et al. 2020), image by image. L2 and Linf."""

    steps: int = 32


@dataclass(frozen=True, slots=True)
class Apgd:
    """Gradient ascent that sets its own step size (Croce and Hein 2020; in L1 Croce and Hein 2021).

    With targets it is APGD-T: so many of the likeliest wrong classes are headed for in turn, and
    `dlr` is the targeted one.
    """

    steps: int = 100
    restarts: int = 1
    """for each target"""
    loss: Loss = "cross-entropy"
    targets: int = 0
    eot: int = 1
    """passes over which gradients and logits are averaged, for models that draw at random"""
    rho: Fraction = Fraction(3, 4)
    """share of a window's steps that must raise the loss for the step size to stay"""
    larger_first: bool = False
    """whether balls of 3 ε and 2 ε are searched before that of ε"""


@dataclass(frozen=True, slots=True)
class Fab:
    """Fast adaptive boundary attack (Croce and Hein 2020b), FAB-T where it has targets."""

    steps: int = 100
    restarts: int = 1
    """for each target; the first starts from the image"""
    targets: int = 9
    alpha_max: Fraction = Fraction(1, 10)
    """largest weight of the step from the image"""
    eta: Fraction = Fraction(21, 20)
    """extrapolation past the linearised boundary"""
    beta: Fraction = Fraction(9, 10)
    """share of the perturbation that is kept after a success"""
    patience: int = 20
    """steps without a nearer point after which the search leaps to a far corner; 0: never"""


@dataclass(frozen=True, slots=True)
class Square:
    """Random search with squares, by the scores alone (Andriushchenko et al. 2020)."""

    queries: int = 5000
    restarts: int = 1
    p_init: Fraction = Fraction(4, 5)
    """share of the pixels in the first square"""


Attack = (
    Fgsm
    | Pgd
    | Mifgsm
    | Apgd
    | Fab
    | Square
    | Noise
    | DeepFool
    | Ddn
    | Fmn
    | CarliniWagner
    | Boundary
    | HopSkipJump
)
KINDS: dict[str, type[Attack]] = {
    "fgsm": Fgsm,
    "pgd": Pgd,
    "mifgsm": Mifgsm,
    "apgd": Apgd,
    "fab": Fab,
    "square": Square,
    "noise": Noise,
    "deepfool": DeepFool,
    "ddn": Ddn,
    "fmn": Fmn,
    "cw": CarliniWagner,
    "boundary": Boundary,
    "hopskipjump": HopSkipJump,
}
NORMS: dict[type[Attack], tuple[Norm, ...]] = {
    DeepFool: ("linf", "l2"),
    Ddn: ("l2",),
    CarliniWagner: ("l2",),
    Boundary: ("l2",),
    HopSkipJump: ("linf", "l2"),
}
UNTARGETED: tuple[type[Attack], ...] = (DeepFool, Boundary, HopSkipJump, Fab)
"""attacks that can only look for any wrong class"""


@dataclass(frozen=True, slots=True, order=True)
class Epsilon:
    """A budget: the exact number, and the text it was written as."""

    value: Fraction
    text: str

    def __float__(self) -> float:
        return float(self.value)


def epsilon(text: object, where: str = "--epsilon") -> Epsilon:
    """A budget from "8/255" or "0.3".

    Raises:
        ProtocolError: not a number, or not above 0.
    """
    try:
        value = fraction(text, where)
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if value <= 0:
        raise ProtocolError(f"{where}: a budget must be above 0, got {text}")
    return Epsilon(value, str(text).strip())


def kind(attack: Attack) -> str:
    """The word for an attack's class in a protocol's file."""
    return next(word for word, cls in KINDS.items() if type(attack) is cls)


def labels_of(attacks: Sequence[Attack]) -> tuple[str, ...]:
    """A name for each attack: its kind, its loss if not the usual, numbered if twice."""
    plain = [_word(a) for a in attacks]
    return tuple(
        f"{word} {plain[:i].count(word) + 1}" if plain.count(word) > 1 else word
        for i, word in enumerate(plain)
    )


def _word(attack: Attack) -> str:
    """What the literature calls it: apgd-ce, apgd-t, fab-t, pgd-margin."""
    word, loss = kind(attack), getattr(attack, "loss", "cross-entropy")
    if isinstance(attack, Apgd | Fab) and attack.targets:
        return f"{word}-t" if loss in ("dlr", "cross-entropy") else f"{word}-t-{loss}"
    if loss != "cross-entropy":
        return f"{word}-{loss}"
    return f"{word}-ce" if isinstance(attack, Apgd) else word


@dataclass(frozen=True, slots=True)
class Protocol:
    """A threat model and an ordered tuple of attacks; the worst case over them is what counts.

    Without attacks, said by `attack = []`, there are no budgets: only the clean accuracy counts.
    """

    name: str
    title: str
    norm: Norm
    attacks: tuple[Attack, ...]
    epsilons: tuple[Epsilon, ...] = ()
    """budgets in rising order; in pixel units of [0, 1] images"""
    target: Target = "none"
    seed: int = 0
    text: str = ""
    """the file's own text, for the record"""

    def resolved(self) -> dict[str, Any]:
        """Everything that can change an outcome, as plain JSON. The name is no part of it."""
        return {
            "norm": self.norm,
            "target": self.target,
            "seed": self.seed,
            "epsilons": [str(e.value) for e in self.epsilons],
            "attacks": [{"kind": kind(a), **_plain(a)} for a in self.attacks],
        }

    @property
    def digest(self) -> str:
        """SHA-256 of `resolved()`."""
        return digest(canonical(self.resolved()))

    @property
    def weaknesses(self) -> list[str]:
        """Sentences about attacks that cannot do what their name promises."""
        return [sentence for a in self.attacks if (sentence := _weakness(a))]


def adaptations(attacks: Sequence[Attack], classes: int) -> list[str]:
    """Sentences about attacks that few classes make other than they were published."""
    told = []
    for attack, name in zip(attacks, labels_of(attacks), strict=True):
        targets, loss = getattr(attack, "targets", 0), getattr(attack, "loss", "")
        if targets > classes - 1:
            left = "1 target" if classes == 2 else f"{classes - 1} targets"
            told.append(f"{name}: {classes} classes leave {left}, not {targets}")
        if loss == "dlr" and classes == 2:
            told.append(f"{name}: 2 classes have no DLR; the margin over the clean gap instead")
        if loss == "dlr" and classes == 3 and targets:
            told.append(
                f"{name}: 3 classes have no targeted DLR; its scale is from the first to the third"
            )
    return told


def travel(attack: Attack) -> Fraction | None:
    """How far an iterative attack can move, in units of ε: steps × relative step."""
    if isinstance(attack, Pgd | Mifgsm):
        return attack.steps * attack.relative_step
    return None


def _weakness(attack: Attack) -> str:
    distance, random = travel(attack), isinstance(attack, Pgd) and attack.random_start
    needed = 2 if random else 1
    if distance is None or distance >= needed:
        return ""
    start = "a random start" if random else "the image"
    return (
        f"{kind(attack)}: {attack.steps} steps of {attack.relative_step} ε travel "  # type: ignore[union-attr]
        f"{float(distance):.3g} ε, but crossing the ball from {start} takes {needed} ε: "
        "robust accuracy may be overstated"
    )


def _plain(attack: Attack) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Fraction) else value
        for key, value in asdict(attack).items()
    }


@dataclass(frozen=True, slots=True)
class _File:
    """The top level of a protocol's TOML file."""

    title: str
    norm: Norm
    attack: tuple[dict, ...]  # type: ignore[type-arg]
    epsilon: tuple[str, ...] = ()
    target: Target = "none"


def load(name: str, settings: Sequence[str] = ()) -> Protocol:
    """A protocol by name or path, with `key=value` settings applied, budgets as in its file.

    Raises:
        UnknownName: no such protocol.
        ProtocolError: a key, type or number that makes no sense; the message names file and key.
    """
    path = find("attacks", name)
    text = path.read_text(encoding="utf-8")
    return replace(parse(read_toml(path), path.stem, str(path), settings), text=text)


def parse(
    table: Mapping[str, Any], name: str, where: str, settings: Sequence[str] = ()
) -> Protocol:
    """A protocol from the table of its file; see `load`."""
    try:
        file = build(_File, table, where)
        attacks = [
            _attack(entry, f"{where}: [[attack]] {i}") for i, entry in enumerate(file.attack, 1)
        ]
    except ProtocolError:
        raise
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if not attacks and file.epsilon:
        raise ProtocolError(f"{where}: attacks nothing, so it cannot have budgets")
    for setting in settings:
        attacks = _set(attacks, setting)
    budgets = tuple(epsilon(text, f"{where}: epsilon") for text in file.epsilon)
    protocol = Protocol(name, file.title, file.norm, tuple(attacks), target=file.target)
    return checked(with_epsilons(protocol, budgets))


def with_epsilons(protocol: Protocol, epsilons: Sequence[Epsilon]) -> Protocol:
    """The protocol with these budgets, sorted, each value once."""
    unique = {e.value: e for e in reversed(epsilons)}
    return replace(protocol, epsilons=tuple(unique[value] for value in sorted(unique)))


def checked(protocol: Protocol) -> Protocol:
    """The protocol itself, if its attacks, norm, target and numbers go together.

    Raises:
        ProtocolError: they don't; the message says which.
    """
    for attack in protocol.attacks:
        word = kind(attack)
        if protocol.norm not in (offered := NORMS.get(type(attack), get_args(Norm))):
            raise ProtocolError(
                f"{word}: has no {protocol.norm} version, only {', '.join(offered)}"
            )
        if protocol.target != "none" and isinstance(attack, UNTARGETED):
            raise ProtocolError(f"{word}: cannot be targeted; use pgd, mifgsm, ddn, fmn or cw")
        if protocol.target != "none" and isinstance(attack, Apgd) and attack.targets:
            raise ProtocolError(f"{word}: heads for targets of its own; set targets = 0")
        for field in fields(attack):
            value = getattr(attack, field.name)
            least = 0 if field.name in ("confidence", "momentum", "targets") else None
            if isinstance(value, bool | str):
                continue
            if value < 0 or (value == 0 and least is None):
                raise ProtocolError(f"{word}: {field.name} must be above 0, got {value}")
        if isinstance(attack, Square) and attack.queries < 2:
            raise ProtocolError("square: queries must be at least 2")
        if isinstance(attack, Apgd) and attack.larger_first and attack.steps < 10:
            raise ProtocolError("apgd: larger_first needs at least 10 steps")
        if isinstance(attack, DeepFool) and attack.candidates < 2:
            raise ProtocolError("deepfool: candidates must be at least 2")
    return protocol


def protocol_toml(protocol: Mapping[str, Any]) -> str:
    """The protocol of a header as a file with every number spelled out.

    Together with its seed it has the digest of the one that was run.
    """
    resolved = protocol["resolved"]
    head = {key: protocol[key] for key in ("title", "norm")} | {
        "target": resolved["target"],
        "epsilon": [entry["epsilon"] for entry in protocol["epsilons"]],
    }
    if not resolved["attacks"]:
        head["attack"] = []
    return "\n[[attack]]\n".join(map(_toml_lines, [head, *resolved["attacks"]]))


def _toml_lines(table: Mapping[str, Any]) -> str:
    # strings, whole numbers, booleans and lists of strings read the same in JSON and TOML
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _attack(entry: Mapping[str, Any], where: str) -> Attack:
    if "kind" not in entry:
        raise ProtocolError(f"{where}: the key 'kind' is missing")
    if entry["kind"] not in KINDS:
        raise ProtocolError(f"{where}: {UnknownName('kind', str(entry['kind']), KINDS)}")
    return build(KINDS[entry["kind"]], {k: v for k, v in entry.items() if k != "kind"}, where)


def _set(attacks: list[Attack], setting: str) -> list[Attack]:
    """Apply `key=value` or `kind.key=value` to every attack that has the key."""
    key, equals, text = setting.partition("=")
    word, dot, name = key.strip().rpartition(".")
    chosen = [a for a in attacks if (not dot or kind(a) == word) and hasattr(a, name)]
    if not equals or not chosen:
        known = sorted({f.name for a in attacks for f in fields(a)})
        problem = UnknownName("setting", name, known) if equals else "expected key=value"
        raise ProtocolError(f"--set {setting}: {problem}")
    return [_changed(a, name, text.strip(), setting) if a in chosen else a for a in attacks]


def _changed(attack: Attack, name: str, text: str, setting: str) -> Attack:
    """The attack with one field read from text, as its TOML would be."""
    current = getattr(attack, name)
    value: object = text
    if isinstance(current, bool):
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif isinstance(current, int):
        value = int(text) if text.lstrip("+-").isdigit() else text
    given = {
        f.name: v for f in fields(attack) if not isinstance(v := getattr(attack, f.name), Fraction)
    }
    exact = {
        f.name: str(v) for f in fields(attack) if isinstance(v := getattr(attack, f.name), Fraction)
    }
    try:
        return build(type(attack), given | exact | {name: value}, f"--set {setting}")
    except InputError as error:
        raise ProtocolError(str(error)) from error
