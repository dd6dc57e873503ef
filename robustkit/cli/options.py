"""Options that several commands share."""

from typing import Annotated

import typer

from robustkit.errors import InputError

Model = Annotated[
    str | None,
    typer.Option(help="Architecture: a registry name, torchvision:NAME, timm:NAME, FILE.py:FUNC."),
]
NumClasses = Annotated[int | None, typer.Option(min=1, help="Where the weights do not tell.")]
Mean = Annotated[str | None, typer.Option(help="Per channel, of [0, 1] pixels: 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Likewise.")]
TrustProgram = Annotated[
    bool,
    typer.Option(
        "--trust-program",
        help="Load TorchScript or .pt2: a program, whose loading can run any code.",
    ),
]


def numbers(text: str | None, option: str) -> list[float] | None:
    """Numbers from "0.1,0.2".

    Raises:
        InputError: not numbers.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers such as 0.485,0.456,0.406") from error
