"""`robustkit describe`: what a checkpoint holds, as far as it can be told without running it."""

from pathlib import Path

import typer

from robustkit.cli.options import Mean, Model, NumClasses, Std, TrustProgram, numbers


def describe(
    checkpoint: str = typer.Argument(..., metavar="CKPT", help="A file, or a shipped name."),
    model: Model = None,
    num_classes: NumClasses = None,
    mean: Mean = None,
    std: Std = None,
    trust_program: TrustProgram = False,
    sidecar: bool = typer.Option(
        False, "--sidecar", help="Write what is known to a .toml beside the checkpoint."
    ),
    sidecar_path: Path | None = typer.Option(
        None, "--sidecar-path", help="Write it there instead."
    ),
) -> None:
    """Print what was recognised: container, prefix, architecture, classes, training conditions."""
    from robustkit import checkpoint as checkpoints

    found = checkpoints.read(
        checkpoint,
        model=model,
        num_classes=num_classes,
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        trust_program=trust_program,
    )
    rows = checkpoints.describe(found)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        typer.echo(f"{label:<{width}}  {text}")
    if sidecar or sidecar_path:
        typer.echo(f"wrote {checkpoints.write_sidecar(found, sidecar_path)}", err=True)
