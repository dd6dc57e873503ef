"""`robustkit audit`: can this robustness number be believed?"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli import completion
from robustkit.cli.options import (
    CKPT,
    BatchSize,
    Channels,
    CheckpointOptions,
    Classes,
    Crop,
    Data,
    DataRoot,
    Devices,
    Ignore,
    ImageByImage,
    Interpolation,
    Mean,
    Model,
    NumClasses,
    Precision,
    Ray,
    Rename,
    Resize,
    Seed,
    Split,
    Std,
    TakenWeights,
    Track,
    TrustProgram,
    Weights,
    images_per_batch,
)
from robustkit.cli.output import check_files, check_folder, say, tell
from robustkit.protocol import NORMS, Norm

if TYPE_CHECKING:
    from robustkit.auditing.outcome import Audit

FAILED_POLICY = 1
"""exit status where a rule of the policy does not hold"""


def audit(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help=CKPT, autocompletion=completion.checkpoints)
    ],
    claim: Annotated[
        str | None,
        typer.Option(metavar="NORM:EPS=ACC", help="Claim to judge: linf:8/255=0.45."),
    ] = None,
    claim_from: Annotated[
        Path | None,
        typer.Option(
            metavar="EVALUATION",
            help="Take the claim from an evaluation: its record or its --json.",
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="OTHER", help="Checkpoint to compare with; repeatable."),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Rules to check; exit status 1 if one fails."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE.xml", help="Write the rules' outcomes as JUnit XML."),
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(metavar="FILE.sarif", help="Write failed rules as SARIF, for code scanning."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="quick|standard|thorough|MINUTES|FILE.toml",
            help="Effort, or a time limit in minutes for the standard audit.",
        ),
    ] = "standard",
    norm: Annotated[
        Norm | None, typer.Option(help=f"Norm of ε; default: the claim's, or {NORMS[0]}.")
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="ε to judge; default: the claim's, or the largest usual one."),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Also try transfer attacks crafted on this network."),
    ] = None,
    corruptions: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Published corrupted images (CIFAR-10-C), instead of generated ones.",
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = "test",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first N images; default: as many as --budget says."),
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = "auto",
    device: Devices = "auto",
    precision: Precision = "float32",
    ray: Ray = None,
    out: Annotated[Path, typer.Option(help="Folder for the audit.")] = Path("audit"),
    track: Track = None,
    num_classes: NumClasses = None,
    mean: Mean = None,
    std: Std = None,
    trust_program: TrustProgram = False,
    weights: Weights = None,
    ignore: Ignore = None,
    rename: Rename = None,
    image_by_image: ImageByImage = False,
    resize: Resize = None,
    interpolation: Interpolation = None,
    crop: Crop = None,
    channels: Channels = None,
    classes: Classes = None,
) -> int:
    """Judge a claimed robustness: believable, overstated or neither.

    Runs attacks of rising cost, certified bounds, corruptions and indicators of failed attacks.
    Writes audit.html, audit.json and audit.md to the folder of --out; a repeated command continues
    where the last one stopped, and replaces them, as does one with another claim or --budget. A
    folder that holds the audit of another network, of other images or at another ε is refused.
    """
    _check(claim, claim_from, policy, {"--junit": junit, "--sarif": sarif}, budget, epsilon, out)
    reading = CheckpointOptions.parse(
        model=model,
        num_classes=num_classes,
        mean=mean,
        std=std,
        trust_program=trust_program,
        taken=TakenWeights(weights, ignore, rename),
    )
    images: dict[str, Any] = {"data": data, "data_root": data_root, "split": split, "limit": limit}
    images |= {"resize": resize, "crop": crop, "channels": channels, "classes": classes}
    images["interpolation"] = interpolation
    from robustkit.calls.audit import audit as audited
    from robustkit.cli.others import read_other

    network = reading.read(checkpoint)
    found = audited(
        network,
        claim=claim,
        claim_from=claim_from,
        against={path: read_other(path, reading) for path in against or ()},
        policy=policy,
        junit=junit,
        sarif=sarif,
        budget=budget,
        norm=norm,
        epsilon=epsilon,
        surrogate=None if surrogate is None else read_other(surrogate, reading),
        corruptions=corruptions,
        seed=seed,
        image_by_image=image_by_image,
        batch_size=images_per_batch(batch_size),
        device=device,
        precision=precision,
        ray=ray,
        out=out,
        track=track,
        command=shlex.join(["robustkit", *sys.argv[1:]]),
        progress=True,
        **images,
    )
    return _show(found, out)


def _check(
    claim: str | None,
    claim_from: Path | None,
    policy: Path | None,
    told_in: dict[str, Path | None],
    budget: str,
    epsilon: str | None,
    out: Path,
) -> None:
    """What can be told before torch is imported."""
    from robustkit.auditing.asked import audit_question

    check_folder("--out", out)
    check_files(told_in)
    audit_question(
        claim, claim_from, policy=policy, budget=budget, epsilon=epsilon, told_in=told_in
    )


def _show(found: "Audit", out: Path) -> int:
    """Say what was found; 1 where a rule fails."""
    from robustkit.cli import stepsummary
    from robustkit.cli.terminal import show_audit
    from robustkit.reporting.modelcard import half_page

    show_audit(found)
    say(f"report: {out / 'audit.html'}")
    stepsummary.append(lambda: f"{half_page(found)}\n\n")
    failed = [rule for rule in found.policy if not rule.passed]
    for rule in failed:
        tell(f"robustkit: policy: {rule.sentence}")
    return FAILED_POLICY if failed else 0
