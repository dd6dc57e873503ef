"""Options that several commands share."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import typer

from robustkit.errors import InputError

Model = Annotated[
    str | None,
    typer.Option(help="Architecture: a registry name, torchvision:NAME, timm:NAME, FILE.py:FUNC."),
]
NumClasses = Annotated[int | None, typer.Option(min=1, help="Where the weights do not tell.")]
Mean = Annotated[str | None, typer.Option(help="Per channel, of [0, 1] pixels: 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Likewise.")]
Data = Annotated[
    str | None,
    typer.Option(help="A name (`robustkit list data`) or a path; else the checkpoint's own."),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where its files stand.")]
Split = Annotated[str, typer.Option(help="Which part of the data.")]
Resize = Annotated[int | None, typer.Option(min=1, help="Shorter side.")]
Crop = Annotated[int | None, typer.Option(min=1, help="Then a central square.")]
Channels = Annotated[int | None, typer.Option(min=1, help="1 or 3.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.")]
BatchSize = Annotated[str, typer.Option(metavar="N|auto", help="Images a pass.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU.")]
TrustProgram = Annotated[
    bool,
    typer.Option(
        "--trust-program",
        help="Load TorchScript or .pt2: a program, whose loading can run any code.",
    ),
]


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Numbers from "0.1,0.2".

    Raises:
        InputError: not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers such as 0.485,0.456,0.406") from error


def share(text: str, option: str) -> Fraction:
    """An exact number from "0.05", "1/20" or "5%".

    Raises:
        InputError: anything else.
    """
    with suppress(ValueError, ZeroDivisionError):
        return Fraction(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    raise InputError(f"{option} {text}: expected a number such as 0.05, 1/20 or 5%")


def images_a_pass(text: str) -> int | Literal["auto"]:
    """What --batch-size says.

    Raises:
        InputError: neither a number above 0 nor auto.
    """
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch-size {text}: expected a number above 0, or auto")
    return int(text)
