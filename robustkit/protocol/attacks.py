"""Kinds of attack, every number spelled out: a frozen dataclass each.

Each is run by one `match` arm in `robustkit.attacks`, which is also where Python finds them:

    from robustkit.attacks import APGD, PGD
    robustkit.evaluate(model, data, [PGD(steps=40), APGD(loss="dlr", targets=9)])
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin

from robustkit.errors import InputError, ProtocolError, UnknownName, quoted
from robustkit.files import whole_number
from robustkit.parsing import exact
from robustkit.protocol.norms import Norm

Loss = Literal["cross-entropy", "margin", "dlr", "rescaled-cross-entropy", "probability-margin"]
TargetOrder = Literal["confidence", "distance"]


LATER = {"later": True}
"""metadata of a field that came later: no part of a resolved protocol where it has its default, so
that the records of before are found"""


class Settings:
    """What all kinds share: numbers are exact, and `repr` is the call that makes the same attack.

    A `Fraction` may be given as text ("1/16"), as an integer, or as a float.

    Raises:
        ProtocolError: a setting of another type, or none of the values that there are.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                read = _read(one.type, value, f"{_called(type(self))}: {one.name}")
                object.__setattr__(self, one.name, read)

    def __repr__(self) -> str:
        given = ((one.name, getattr(self, one.name)) for one in fields(self))  # type: ignore[arg-type]
        written = (f"{name}={str(v) if isinstance(v, Fraction) else v!r}" for name, v in given)
        return f"{type(self).__name__}({', '.join(written)})"


def _read(kind: Any, value: object, where: str) -> Any:
    """A setting as its field has it."""
    try:
        if kind is Fraction:
            return exact(value, where)
        if kind is int:
            return whole_number(value, where)
    except InputError as error:
        raise ProtocolError(str(error)) from error
    known = get_args(kind) if get_origin(kind) is Literal else (True, False)
    if value not in known or (kind is bool) != isinstance(value, bool):
        problem = f"expected True or False, got {quoted(value)}"
        if kind is not bool:
            problem = str(UnknownName("value", str(value), known))
        raise ProtocolError(f"{where}: {problem}")
    return value


@dataclass(frozen=True, slots=True, repr=False)
class FGSM(Settings):
    """One step of size ε (Goodfellow et al. 2015); the fast gradient method in L2 and L1."""

    loss: Loss = "cross-entropy"


@dataclass(frozen=True, slots=True, repr=False)
class PGD(Settings):
    """Projected gradient ascent (Madry et al. 2018); without random start it is BIM, or IFGSM."""

    steps: int = 40
    relative_step: Fraction = None  # type: ignore[assignment]
    """step size as a share of ε; 2.5 / steps where nothing is given, which crosses the ball from
    any random start"""
    restarts: int = 1
    """1 without a random start, from which every other would be the first again"""
    random_start: bool = True
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        _spread(self, Fraction(5, 2))
        if not self.random_start:
            # a number below 1 is refused with the protocol
            object.__setattr__(self, "restarts", min(1, self.restarts))


@dataclass(frozen=True, slots=True, repr=False)
class MIFGSM(Settings):
    """Momentum iterative FGSM (Dong et al. 2018, algorithm 1)."""

    steps: int = 10
    relative_step: Fraction = None  # type: ignore[assignment]
    """step size as a share of ε; 1 / steps where nothing is given, as published"""
    momentum: Fraction = Fraction(1)
    """decay factor μ of the accumulated gradient"""
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        _spread(self, Fraction(1))


@dataclass(frozen=True, slots=True, repr=False)
class Noise(Settings):
    """Random points of the ball: the floor that every attack must beat."""

    draws: int = 100
    distribution: Literal["uniform", "gaussian"] = "uniform"


@dataclass(frozen=True, slots=True, repr=False)
class DeepFool(Settings):
    """Steps to the nearest linearised boundary (Moosavi-Dezfooli et al. 2016). L2 and Linf."""

    steps: int = 50
    candidates: int = 10
    """how many of the likeliest classes are considered"""
    overshoot: Fraction = Fraction(1, 50)


@dataclass(frozen=True, slots=True, repr=False)
class DDN(Settings):
    """Decoupled direction and norm (Rony et al. 2019). L2."""

    steps: int = 100
    gamma: Fraction = Fraction(1, 20)
    """relative change of the norm per step"""


@dataclass(frozen=True, slots=True, repr=False)
class FMN(Settings):
    """Fast minimum norm (Pintor et al. 2021)."""

    steps: int = 100
    max_step: Fraction = Fraction(1)
    gamma: Fraction = Fraction(1, 20)
    """initial relative change of the norm per step"""


@dataclass(frozen=True, slots=True, repr=False)
class CW(Settings):
    """The L2 attack of Carlini and Wagner (2017), without the early abort that couples images."""

    steps: int = 200
    search_steps: int = 9
    """binary search steps over the trade-off constant"""
    step_size: Fraction = Fraction(1, 100)
    confidence: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True, repr=False)
class Boundary(Settings):
    """The boundary attack on decisions alone (Brendel et al. 2018), image by image. L2."""

    steps: int = 5000


@dataclass(frozen=True, slots=True, repr=False)
class HopSkipJump(Settings):
    """Decision-based gradient estimation (Chen et al. 2020), image by image. L2 and Linf."""

    steps: int = 32


@dataclass(frozen=True, slots=True, repr=False)
class APGD(Settings):
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
    target_order: TargetOrder = field(default="confidence", metadata=LATER)
    """which wrong classes come first: the likeliest, or those whose linearised boundary is nearest
    (MALT, Melamed et al. 2024)"""


@dataclass(frozen=True, slots=True, repr=False)
class FAB(Settings):
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


@dataclass(frozen=True, slots=True, repr=False)
class Square(Settings):
    """Random search with squares, by the scores alone (Andriushchenko et al. 2020)."""

    queries: int = 5000
    restarts: int = 1
    p_init: Fraction = Fraction(4, 5)
    """share of the pixels in the first square"""
    patience: int = field(default=0, metadata=LATER)
    """queries after which a search stops that has come less close to success than the gradient
    attacks before it did; 0: none stops"""


@dataclass(frozen=True, slots=True, repr=False)
class SigmaZero(Settings):
    """The fewest changed pixels or features, by gradients (Cinà et al. 2025, algorithm 1)."""

    steps: int = 1000
    step_size: Fraction = Fraction(1)
    """of the first step; it falls to a tenth"""
    sigma: Fraction = Fraction(1, 1000)
    """a change δ counts as δ² / (δ² + σ)"""
    threshold: Fraction = Fraction(3, 10)
    """changes below it are set back; it follows success"""
    adaptation: Fraction = Fraction(1, 100)
    """by how much it follows, as a share of the step size"""


@dataclass(frozen=True, slots=True, repr=False)
class SparsePGD(Settings):
    """Few pixels or features, by gradients at a fixed number (Zhong et al. 2024)."""

    steps: int = 300
    restarts: int = 1
    step_size: Fraction = Fraction(1, 4)
    """of the changes, in units of the box"""
    mask_step: Fraction = Fraction(1, 4)
    """of the mask, in units of the square root of how many entries it has"""
    patience: int = 3
    """steps in a row without another choice, 1 or more, after which it is drawn anew"""
    loss: Loss = "margin"


@dataclass(frozen=True, slots=True, repr=False)
class SparseRS(Settings):
    """Random search over few pixels or features, by the scores alone (Croce et al. 2022)."""

    queries: int = 10000
    restarts: int = 1
    alpha_init: Fraction = Fraction(3, 10)
    """share of the changed entries that first moves"""


@dataclass(frozen=True, slots=True, repr=False)
class SpatialGrid(Settings):
    """Every rotation and translation of a grid (Engstrom et al. 2019)."""

    angles: int = 31
    """evenly from one end of the budget to the other, both included"""
    shifts: int = 5
    """likewise along each axis"""


@dataclass(frozen=True, slots=True, repr=False)
class SpatialRandom(Settings):
    """The worst of so many random rotations and translations (Engstrom et al. 2019).

    Of so many at each budget: those of all budgets that lie within one count there.
    """

    draws: int = 10


@dataclass(frozen=True, slots=True, repr=False)
class Patch(Settings):
    """A square of any content: places by the linearised gain, then ascent inside the best ones."""

    steps: int = 60
    """of ascent, at each place that is gone on with"""
    step_size: Fraction = Fraction(1, 4)
    """of the first step, in units of the box; it falls to a fiftieth"""
    places: int = 3
    """that are gone on with"""
    trials: int = 20
    """places that are tried for each of those"""
    loss: Loss = "margin"
    targets: int = 0
    """how many of the likeliest wrong classes are headed for in turn; 0: none in particular"""


def _spread(attack: PGD | MIFGSM, travel: Fraction) -> None:
    """Step sizes of so many ε together, where none was given."""
    if attack.relative_step is None:
        # a number of steps below 1 is refused with the protocol
        object.__setattr__(attack, "relative_step", travel / max(1, attack.steps))


Attack = (
    FGSM
    | PGD
    | MIFGSM
    | APGD
    | FAB
    | Square
    | SigmaZero
    | SparsePGD
    | SparseRS
    | Patch
    | SpatialGrid
    | SpatialRandom
    | Noise
    | DeepFool
    | DDN
    | FMN
    | CW
    | Boundary
    | HopSkipJump
)
KINDS: dict[str, type[Attack]] = {
    "fgsm": FGSM,
    "pgd": PGD,
    "mifgsm": MIFGSM,
    "apgd": APGD,
    "fab": FAB,
    "square": Square,
    "sigma-zero": SigmaZero,
    "sparse-pgd": SparsePGD,
    "sparse-rs": SparseRS,
    "patch": Patch,
    "spatial-grid": SpatialGrid,
    "spatial-random": SpatialRandom,
    "noise": Noise,
    "deepfool": DeepFool,
    "ddn": DDN,
    "fmn": FMN,
    "cw": CW,
    "boundary": Boundary,
    "hopskipjump": HopSkipJump,
}
OFFERED: dict[type[Attack], tuple[Norm, ...]] = {
    DeepFool: ("linf", "l2"),
    DDN: ("l2",),
    CW: ("l2",),
    Boundary: ("l2",),
    HopSkipJump: ("linf", "l2"),
    SigmaZero: ("l0", "l0-features"),
    SparsePGD: ("l0", "l0-features"),
    SparseRS: ("l0", "l0-features"),
    Patch: ("patch",),
    SpatialGrid: ("spatial",),
    SpatialRandom: ("spatial",),
}
"""the norms of attacks that are not just for all balls"""
UNTARGETED: tuple[type[Attack], ...] = (DeepFool, Boundary, HopSkipJump, FAB)
"""attacks that can only look for any wrong class"""
MINIMAL: tuple[type[Attack], ...] = (DeepFool, DDN, FMN, CW, Boundary, HopSkipJump)
"""attacks that look for the smallest perturbation in a ball, within the budgets or not"""
BUDGETLESS: tuple[type[Attack], ...] = (*MINIMAL, SigmaZero, SpatialGrid, SpatialRandom)
"""attacks that look for the smallest perturbation at once, whatever the order of budgets"""
BEYOND: tuple[type[Attack], ...] = (FAB,)
"""attacks at fixed budgets that keep what they find beyond them, too"""


def kind_of(attack: Attack) -> str:
    """The word for an attack's class in a protocol's file."""
    return _called(type(attack))


def _called(kind: type) -> str:
    return next(word for word, cls in KINDS.items() if cls is kind)


def labels_of(attacks: Sequence[Attack]) -> tuple[str, ...]:
    """A name for each attack: its kind, its loss if not the usual, numbered if twice."""
    plain = [_word(a) for a in attacks]
    return tuple(
        f"{word} {plain[:i].count(word) + 1}" if plain.count(word) > 1 else word
        for i, word in enumerate(plain)
    )


def _word(attack: Attack) -> str:
    """What the literature calls it: apgd-ce, apgd-t, fab-t, pgd-margin."""
    word, loss = kind_of(attack), getattr(attack, "loss", "cross-entropy")
    if isinstance(attack, APGD | FAB | Patch) and attack.targets:
        return f"{word}-t" if loss in ("dlr", "cross-entropy") else f"{word}-t-{loss}"
    if loss != "cross-entropy":
        return f"{word}-{loss}"
    return f"{word}-ce" if isinstance(attack, APGD) else word


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
    if isinstance(attack, PGD | MIFGSM):
        return attack.steps * attack.relative_step
    return None


def weakness(attack: Attack) -> str:
    """What an attack cannot do of what its name promises, as a sentence; "" where it can."""
    distance, random = travel(attack), isinstance(attack, PGD) and attack.random_start
    needed = 2 if random else 1
    if distance is None or distance >= needed:
        return ""
    start = "a random start" if random else "the image"
    return (
        f"{kind_of(attack)}: {attack.steps} steps of {attack.relative_step} ε travel "  # type: ignore[union-attr]
        f"{float(distance):.3g} ε, but crossing the ball from {start} takes {needed} ε: "
        "robust accuracy may be overstated"
    )
