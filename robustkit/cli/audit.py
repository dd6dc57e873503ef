"""`robustkit audit`: can this robustness number be believed?"""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustkit.cli import completion, tracking
from robustkit.cli.options import (
    CKPT,
    BatchSize,
    Channels,
    CheckpointOptions,
    Classes,
    Crop,
    Data,
    DataRoot,
    Device,
    Ignore,
    ImageByImage,
    ImageOptions,
    Interpolation,
    Mean,
    Model,
    NumClasses,
    Precision,
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
from robustkit.cli.output import check_file, check_folder, say, tell
from robustkit.errors import InputError
from robustkit.protocol import NORMS, Norm

if TYPE_CHECKING:
    from robustkit.auditing.outcome import Audit, RobustnessClaim
    from robustkit.auditing.plan import AuditPlan
    from robustkit.auditing.policy import Policy
    from robustkit.auditing.run import AuditRequest
    from robustkit.checkpoint import Checkpoint
    from robustkit.data import Dataset
    from robustkit.evaluation import RunOptions
    from robustkit.tracking import Tracker

FAILED_POLICY = 1
"""exit status where a rule of the policy does not hold"""


@dataclass(frozen=True, slots=True)
class _ParsedOptions:
    """What is told before torch is imported."""

    plan: "AuditPlan"
    minutes: float | None
    policy: "Policy | None"
    claim: "RobustnessClaim | None"


@dataclass(frozen=True, slots=True)
class _RuleFiles:
    """The file of a policy, and those that say how its rules came out."""

    policy: Path | None
    junit: Path | None
    sarif: Path | None

    def check(self) -> None:
        """Nothing, if all can be written.

        Raises:
            InputError: one cannot, or there is no policy to tell of.
        """
        for option, path in (("--junit", self.junit), ("--sarif", self.sarif)):
            if path is not None and self.policy is None:
                raise InputError(f"{option} reports the rules of a policy; give --policy too")
            check_file(option, path)

    def write(self, found: "Audit") -> None:
        """Both, as far as they are asked for."""
        from robustkit.auditing.junit import junit
        from robustkit.auditing.sarif import sarif
        from robustkit.files import write_atomic

        if self.junit is not None:
            write_atomic(self.junit, junit(found, found.policy).encode())
        if self.sarif is not None and self.policy is not None:
            write_atomic(self.sarif, sarif(found, found.policy, self.policy).encode())


def audit(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help=CKPT, autocompletion=completion.checkpoints)
    ],
    claim: Annotated[
        str | None,
        typer.Option(metavar="NORM:EPS=ACC", help="The number to judge: linf:8/255=0.45."),
    ] = None,
    claim_from: Annotated[
        Path | None,
        typer.Option(metavar="EVALUATION", help="Or an evaluation's record, or its --json."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="OTHER", help="A checkpoint to compare with; repeatable."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Rules; exit status 1 if one fails.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE.xml", help="The rules' outcomes for a CI system.")
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(metavar="FILE.sarif", help="Failed rules as SARIF, for code scanning."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="quick|standard|thorough|MINUTES|FILE.toml",
            help="Effort; the standard audit stops after so many minutes.",
        ),
    ] = "standard",
    norm: Annotated[Norm | None, typer.Option(help=f"Else the claim's, or {NORMS[0]}.")] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="The judged budget; else the claim's or the largest usual."),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Also try transfer attacks crafted on this network."),
    ] = None,
    corruptions: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Corrupted images as published, instead of those made here."
        ),
    ] = None,
    model: Model = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first N images; else as the budget says.")
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = "auto",
    device: Device = "auto",
    precision: Precision = "float32",
    out: Annotated[Path, typer.Option(help="Folder of the audit.")] = Path("audit"),
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
    """Attack harder, look for failed attacks, and say whether a robustness number can be believed.

    Writes audit.html, audit.json and audit.md to the folder of --out; a repeated command goes on
    where the last one stopped.
    """
    rules = _RuleFiles(policy, junit, sarif)
    tracker = tracking.asked(track)
    parsed = _parse_options(claim, claim_from, rules, budget, epsilon, out)
    from robustkit import evaluation
    from robustkit.auditing.request import TrainingImages, threat_model
    from robustkit.auditing.run import AuditRequest

    reading = CheckpointOptions.parse(
        model=model,
        num_classes=num_classes,
        mean=mean,
        std=std,
        trust_program=trust_program,
        taken=TakenWeights(weights, ignore, rename),
    )
    form: dict[str, Any] = {"resize": resize, "crop": crop, "channels": channels}
    form["interpolation"] = interpolation
    form |= {"classes": classes, "limit": limit or parsed.plan.images or None}
    images = ImageOptions(data=data, root=data_root, split=split, **form)
    audited = reading.read(checkpoint)
    dataset = images.load(audited)
    count = len(dataset.classes)
    other = partial(
        images.other_model, dataset, trust_program=trust_program, image_by_image=image_by_image
    )
    request = AuditRequest(
        model=evaluation.from_checkpoint(audited, count, image_by_image=image_by_image),
        data=dataset,
        threat=threat_model(dataset, parsed.claim, norm=norm, epsilon=epsilon, seed=seed),
        plan=parsed.plan,
        claim=parsed.claim,
        against={path: other(path) for path in against or ()},
        surrogate=None if surrogate is None else other(surrogate),
        policy=parsed.policy,
        budget=budget,
        command=shlex.join(["robustkit", *sys.argv[1:]]),
        training=TrainingImages.of(audited, data_root, dataset),
        published=_published(corruptions, images, audited, parsed.plan.corrupted),
    )
    options = evaluation.RunOptions(
        batch_size=images_per_batch(batch_size), device=device, precision=precision
    )
    return _write_and_show(_run(request, options, out, parsed.minutes), out, rules, tracker)


def _published(
    folder: str | None, images: ImageOptions, audited: "Checkpoint", first: int
) -> "list[Callable[[], Dataset]]":
    """What reads the levels of a set of corrupted images, the first images of each.

    Raises:
        InputError: the folder is no such set.
    """
    if folder is None:
        return []
    from robustkit.data.loading import corruption_splits

    if not (splits := corruption_splits(folder, "all")):
        raise InputError(
            f"--corruptions {folder}: no set of corrupted images, as the folder of CIFAR-10-C is"
        )
    level = replace(images, data=folder, limit=first or None)
    return [partial(replace(level, split=split).load, audited) for split in splits]


def _parse_options(
    claim: str | None,
    claim_from: Path | None,
    rules: _RuleFiles,
    budget: str,
    epsilon: str | None,
    out: Path,
) -> _ParsedOptions:
    from robustkit.auditing import plan as plans
    from robustkit.auditing import policy as policies
    from robustkit.auditing import verdict

    if claim is not None and claim_from is not None:
        raise InputError("--claim and --claim-from exclude each other; give one of them")
    rules.check()
    check_folder("--out", out)
    stated = None
    if claim is not None:
        stated = verdict.parse_claim(claim)
    elif claim_from is not None:
        stated = verdict.claim_from(claim_from, epsilon)
    plan, limit = plans.parse_budget(budget)
    policy = policies.read_policy(rules.policy) if rules.policy else None
    return _ParsedOptions(plan, limit, policy, stated)


def _run(request: "AuditRequest", options: "RunOptions", out: Path, limit: float | None) -> "Audit":
    from robustkit.auditing.run import run_audit
    from robustkit.auditing.stages import StageSettings, minutes
    from robustkit.cli.terminal import AuditBar

    with AuditBar() as bar:
        return run_audit(request, StageSettings(out / "work", options, bar.begin, minutes(limit)))


def _write_and_show(found: "Audit", out: Path, rules: _RuleFiles, tracker: "Tracker | None") -> int:
    """Write the report, say what was found; 1 where a rule fails."""
    from robustkit.cli import stepsummary
    from robustkit.cli.terminal import show_audit
    from robustkit.reporting.audit import write
    from robustkit.reporting.modelcard import half_page

    written = write(found, out)
    rules.write(found)
    show_audit(found)
    say(f"report: {written.page}")
    stepsummary.append(lambda: f"{half_page(found)}\n\n")
    tracking.track_audit(tracker, found, out)
    failed = [rule for rule in found.policy if not rule.passed]
    for rule in failed:
        tell(f"robustkit: policy: {rule.sentence}")
    return FAILED_POLICY if failed else 0
