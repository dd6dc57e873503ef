"""`robustkit audit`: can this robustness number be believed?"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustkit.cli.options import (
    BatchSize,
    Channels,
    Crop,
    Data,
    DataRoot,
    Device,
    Mean,
    Model,
    NumClasses,
    Resize,
    Seed,
    Split,
    Std,
    TrustProgram,
    images_a_pass,
    numbers,
)
from robustkit.errors import InputError, RobustkitError
from robustkit.protocol import NORMS, Norm

if TYPE_CHECKING:
    from robustkit.audit.outcome import Audit, RobustnessClaim
    from robustkit.audit.plan import AuditPlan
    from robustkit.audit.policy import Policy
    from robustkit.audit.stages import ThreatModel
    from robustkit.checkpoint import Checkpoint
    from robustkit.data import Dataset
    from robustkit.evaluation import EvaluatedModel

FAILED_POLICY = 1
"""exit status where a rule of the policy does not hold"""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is told before torch is imported."""

    plan: "AuditPlan"
    minutes: float | None
    policy: "Policy | None"
    claim: "RobustnessClaim | None"


def audit(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A file, or a shipped name.")],
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
    budget: Annotated[
        str,
        typer.Option(
            metavar="quick|standard|thorough|MINUTES|FILE.toml",
            help="How hard; minutes stop the standard audit where they are up.",
        ),
    ] = "standard",
    norm: Annotated[Norm | None, typer.Option(help=f"Else the claim's, or {NORMS[0]}.")] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="The judged budget; else the claim's or the largest usual."),
    ] = None,
    surrogate: Annotated[
        str | None, typer.Option(metavar="CKPT", help="Try transfer from this network too.")
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
    out: Annotated[Path, typer.Option(help="Folder of the audit.")] = Path("audit"),
    num_classes: NumClasses = None,
    mean: Mean = None,
    std: Std = None,
    trust_program: TrustProgram = False,
    resize: Resize = None,
    crop: Crop = None,
    channels: Channels = None,
) -> int:
    """Attack harder, look for failed attacks, and say whether a robustness number can be believed.

    Writes audit.html, audit.json and audit.md to the folder of --out; a repeated command goes on
    where the last one stopped.
    """
    asked = _asked(claim, claim_from, policy, junit, budget, epsilon, out)
    from robustkit import evaluation
    from robustkit.audit.run import AuditRequest, run_audit
    from robustkit.audit.stages import StageSettings, minutes
    from robustkit.checkpoint import read_checkpoint
    from robustkit.cli.terminal import AuditBar

    def read(path: str) -> "Checkpoint":
        return read_checkpoint(
            path,
            model=model,
            num_classes=num_classes,
            mean=numbers(mean, "--mean"),
            std=numbers(std, "--std"),
            trust_program=trust_program,
        )

    audited = read(checkpoint)
    images = evaluation.images_for(
        audited,
        data,
        split=split,
        limit=limit or asked.plan.images or None,
        root=data_root,
        resize=resize,
        crop=crop,
        channels=channels,
    )
    threat = _threat(images, asked.claim, norm, epsilon, seed)

    def other(path: str) -> "EvaluatedModel":
        found = read_checkpoint(path)
        if (resize, crop, channels) == (None, None, None):
            evaluation.check_shape(found, images)
        return evaluation.from_checkpoint(found)

    request = AuditRequest(
        evaluation.from_checkpoint(audited),
        images,
        threat,
        asked.plan,
        asked.claim,
        {path: other(path) for path in against or ()},
        None if surrogate is None else other(surrogate),
        asked.policy,
        budget,
        shlex.join(["robustkit", *sys.argv[1:]]),
        lambda: _training_ids(audited, data_root, images),
    )
    options = evaluation.RunOptions(images_a_pass(batch_size), device)
    with AuditBar() as bar:
        settings = StageSettings(out / "work", options, bar.begin, minutes(asked.minutes))
        found = run_audit(request, settings)
    return _told(found, out, junit)


def _asked(
    claim: str | None,
    claim_from: Path | None,
    policy: Path | None,
    junit: Path | None,
    budget: str,
    epsilon: str | None,
    out: Path,
) -> _Asked:
    from robustkit.audit import plan as plans
    from robustkit.audit import policy as policies
    from robustkit.audit import verdict

    if claim is not None and claim_from is not None:
        raise InputError("--claim and --claim-from: give one of them")
    if junit is not None and policy is None:
        raise InputError("--junit tells of a policy's rules; give --policy too")
    if out.is_file():
        raise InputError(f"--out {out}: is a file; give the name of a folder")
    if junit is not None and junit.is_dir():
        raise InputError(f"--junit {junit}: is a folder; give the name of a file")
    stated = None
    if claim is not None:
        stated = verdict.parse_claim(claim)
    elif claim_from is not None:
        stated = verdict.claim_from(claim_from, epsilon)
    number = budget.removesuffix("min").strip()
    limit = float(number) if number.replace(".", "", 1).isdigit() else None
    if limit is not None and limit <= 0:
        raise InputError(f"--budget {budget}: minutes must be above 0")
    plan = plans.load_plan(plans.DEFAULT if limit is not None else budget)
    return _Asked(plan, limit, policies.read_policy(policy) if policy else None, stated)


def _threat(
    data: "Dataset",
    claim: "RobustnessClaim | None",
    norm: Norm | None,
    epsilon: str | None,
    seed: int,
) -> "ThreatModel":
    """The judged budget and those around it: the data set's usual ones."""
    from robustkit import protocol as protocols
    from robustkit.audit.stages import ThreatModel

    if claim is not None and norm not in (None, claim.norm):
        raise InputError(f"--norm {norm}: the claim is about {claim.norm}")
    chosen = protocols.parse_norm(norm or (claim.norm if claim else NORMS[0]), "--norm")
    usual = [protocols.parse_epsilon(e) for e in data.budgets.get(chosen, ())]
    text = epsilon or (claim.epsilon if claim else None)
    if text is None and not usual:
        raise InputError(f"no usual {chosen} budgets are known for {data.name}; give --epsilon")
    judged = max(usual) if text is None else protocols.parse_epsilon(text)
    if claim is not None and judged.value != protocols.parse_epsilon(claim.epsilon).value:
        raise InputError(f"--epsilon {epsilon}: the claim is about {claim.epsilon}")
    if claim is not None:
        judged = protocols.parse_epsilon(claim.epsilon)
    # beyond the judged budget only the cheap attacks would run, and a curve there would mislead
    budgets = {e.value: e for e in [*usual, judged] if e.value <= judged.value}
    return ThreatModel(chosen, judged, tuple(budgets[value] for value in sorted(budgets)), seed)


def _training_ids(
    checkpoint: "Checkpoint", root: Path | None, images: "Dataset"
) -> frozenset[str] | None:
    """Ids of the images that the network was trained on; None where they are not to be had."""
    from robustkit.data import load_dataset

    if checkpoint.trained_on is None or (root is None and checkpoint.trained_on != images.name):
        return None
    try:
        training = load_dataset(checkpoint.trained_on, split="train", root=root)
    except RobustkitError:
        return None
    return frozenset(training.ids)


def _told(found: "Audit", out: Path, junit: Path | None) -> int:
    """Write the report, say what was found; 1 where a rule fails."""
    from robustkit.audit.policy import junit as as_junit
    from robustkit.cli.terminal import show_audit
    from robustkit.files import write_atomic
    from robustkit.report.audit import write

    written = write(found, out)
    if junit is not None:
        write_atomic(junit, as_junit(found, found.policy).encode())
    show_audit(found)
    typer.echo(f"report: {written.page}")
    failed = [rule for rule in found.policy if not rule.passed]
    for rule in failed:
        typer.echo(f"robustkit: policy: {rule.sentence}", err=True)
    return FAILED_POLICY if failed else 0
