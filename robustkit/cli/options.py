"""Options that several commands share."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from robustkit.cli import completion
from robustkit.errors import InputError
from robustkit.parsing import parse_fraction, parse_integer

if TYPE_CHECKING:
    from robustkit.checkpoint import Checkpoint

CKPT = (
    "A file or folder, a shipped name, or published weights: hf:ORG/NAME, timm:NAME.TAG, "
    "torchvision:NAME.WEIGHTS, robustbench:cifar10/Linf/NAME."
)
"""what a checkpoint is named by"""
Model = Annotated[
    str | None,
    typer.Option(
        help="Architecture: a registry name, torchvision:NAME, timm:NAME or FILE.py:FUNCTION; "
        "or the name of published weights, for their architecture and preprocessing.",
        autocompletion=completion.models,
    ),
]
NumClasses = Annotated[
    int | None, typer.Option(min=1, help="Number of classes, where the weights do not show it.")
]
Mean = Annotated[
    str | None, typer.Option(help="Normalisation mean per channel: 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(help="Normalisation standard deviation per channel.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Data set: a name (`robustkit list data`) or a path; default: on record in CKPT.",
        autocompletion=completion.data,
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Directory with the data files.")]
Split = Annotated[str, typer.Option(help="Split of the data set.")]
Resize = Annotated[
    int | None, typer.Option(min=1, help="Resize the shorter side to so many pixels.")
]
Interpolation = Annotated[
    Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] | None,
    typer.Option(help="Interpolation for --resize, as Pillow does it; default: bilinear."),
]
Crop = Annotated[int | None, typer.Option(min=1, help="Then crop the central square of this side.")]
Channels = Annotated[int | None, typer.Option(min=1, help="Convert to 1 or 3 channels.")]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|LIST",
        help="Class names of the network, or for each class of the data its index in the network: "
        "0,217,482. `number`: the data's classes are named by that index. `name`: integer labels "
        "are the network's class names.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
BatchSize = Annotated[str, typer.Option(metavar="N|auto", help="Images per batch.")]
Precision = Annotated[
    Literal["auto", "float32", "tf32", "bf16", "fp16"],
    typer.Option(
        help="Precision of the attacks' search; verdicts are always float32. auto: the fastest."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1; auto: a GPU if there is one.")]
Devices = Annotated[
    str,
    typer.Option(
        help="cpu, cuda or cuda:1; auto: a GPU if there is one; several by commas, as "
        "cuda:0,cuda:1, share the images; all: every GPU."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="auto|HOST:6379",
        help="Share the images out over a Ray cluster; auto: RAY_ADDRESS, or its own.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="Which set of weights, where a file holds several: ema_model."
    ),
]
Ignore = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN,…", help="Weights to leave out, which the network does not have: 'loss.*'."
    ),
]
Rename = Annotated[
    str | None,
    typer.Option(
        metavar="OLD=NEW,…", help="Prefixes of weights to rename: 'backbone.=,head.=fc.'."
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        metavar="mlflow|wandb|tensorboard[:WHERE]",
        help="Log parameters, metrics by ε, figures and files to an experiment tracker.",
    ),
]
ImageByImage = Annotated[
    bool,
    typer.Option(
        "--image-by-image",
        help="Evaluate images one at a time, for networks whose output depends on the batch.",
    ),
]
TrustProgram = Annotated[
    bool,
    typer.Option(
        "--trust-program",
        help="Load TorchScript or .pt2, which are programs: loading one can run any code.",
    ),
]


class TakenWeights(NamedTuple):
    """What is taken of a file's weights, as `read_checkpoint` has it."""

    weights: str | None = None
    ignore: str | None = None
    rename: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How a checkpoint is read, in a form that travels to a worker process."""

    model: str | None
    num_classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    trust_program: bool
    taken: TakenWeights

    @classmethod
    def parse(cls, *, mean: str | None, std: str | None, **options: Any) -> "CheckpointOptions":
        """The options with numbers for texts; the others as the fields.

        Raises:
            InputError: not numbers.
        """
        return cls(mean=numbers(mean, "--mean"), std=numbers(std, "--std"), **options)

    def read(self, path: str) -> "Checkpoint":
        """The checkpoint of that name or path.

        Raises:
            InputError: it cannot be read so.
        """
        from robustkit.checkpoint import read_checkpoint
        from robustkit.cli.output import FetchLines

        return read_checkpoint(
            path,
            progress=FetchLines(),
            model=self.model,
            num_classes=self.num_classes,
            mean=self.mean,
            std=self.std,
            trust_program=self.trust_program,
            **self.taken._asdict(),
        )


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Numbers from "0.1,0.2".

    Raises:
        InputError: not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(parse_fraction(part)) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers such as 0.485,0.456,0.406") from error


def images_per_batch(text: str) -> int | Literal["auto"]:
    """What --batch-size says.

    Raises:
        InputError: neither a number above 0 nor auto.
    """
    if text == "auto":
        return "auto"
    with suppress(ValueError):
        if (number := parse_integer(text)) > 0:
            return number
    raise InputError(f"--batch-size {text}: expected a number above 0, or auto")
