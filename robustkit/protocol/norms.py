"""Norms: the only list of their names. An attack, a file or a data set may have some of them."""

from typing import Literal, get_args

from robustkit.errors import InputError

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)
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


def symbol(norm: str) -> str:
    """ℓ∞, ℓ₂: what a reader is shown; `linf` and `l2` are for code and options."""
    return "ℓ" + norm[1:].replace("inf", "∞").translate(SUBSCRIPTS)
