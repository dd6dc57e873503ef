"""Norms: the only list of their names. An attack, a file or a data set may have some of them."""

from typing import Literal, get_args

from robustkit.errors import InputError

Ball = Literal["linf", "l2", "l1"]
BALLS: tuple[Ball, ...] = get_args(Ball)
"""norms in the strict sense: what is near an image is a convex ball"""
Norm = Literal["linf", "l2", "l1", "l0", "l0-features", "patch", "spatial"]
"""those, and what else can be near an image, under the same option"""
NORMS: tuple[Norm, ...] = get_args(Norm)
WORDS = {
    "l0": "ℓ₀ of pixels",
    "l0-features": "ℓ₀ of features",
    "patch": "patch",
    "spatial": "rotation and translation",
}
"""what has no plain symbol"""
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def parse_norm(text: str, where: str) -> Norm:
    """The norm of that name.

    Raises:
        InputError: there is none.
    """
    for norm in NORMS:
        if text == norm:
            return norm
    raise InputError(f"{where}: unknown norm {text!r}; known: {', '.join(NORMS)}")


def check_bounded(norm: Norm) -> None:
    """Nothing, if there are bounds in a norm.

    Raises:
        InputError: there are none.
    """
    if norm not in BALLS:
        raise InputError(f"--norm {norm}: bounds are known in {', '.join(BALLS)} only")


def within(norm: str) -> str:
    """What an attacker may do, as the end of a sentence."""
    return {
        "patch": "inside a square patch",
        "spatial": "by rotation and translation alone",
    }.get(norm, f"bounded in {symbol(norm)}")


def symbol(norm: str) -> str:
    """ℓ∞, ℓ₂: what a reader is shown; `linf` and `l2` are for code and options."""
    if norm in WORDS:
        return WORDS[norm]
    return "ℓ" + norm[1:].replace("inf", "∞").translate(SUBSCRIPTS)
