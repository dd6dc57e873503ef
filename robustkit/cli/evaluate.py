"""`robustkit evaluate`: the front door."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from robustkit import machine
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
from robustkit.cli.output import check_files, check_folder, tell, trace, write_json
from robustkit.cli.stepsummary import summarise
from robustkit.errors import EvaluationFailed, InputError, RobustkitError, shown, unforeseen
from robustkit.files import write_atomic
from robustkit.protocol import Norm

if TYPE_CHECKING:
    from robustkit.display.progress import Bar
    from robustkit.record import Evaluation
    from robustkit.statistics.estimate import Method
    from robustkit.tracking import Tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """All that one evaluation needs, in a form that travels to a worker process."""

    checkpoint: CheckpointOptions
    images: Mapping[str, Any]
    """keywords of `robustkit.evaluate`: which, and how they are made"""
    attack: str
    norm: Norm | None
    epsilon: tuple[str, ...]
    target: Literal["none", "next", "random", "least-likely"]
    settings: tuple[str, ...]
    seed: int
    batch_size: int | Literal["auto"]
    device: str
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"]
    ray: str | None
    out: Path
    fresh: bool
    save_adversarial: Path | None
    surrogate: str | None
    image_by_image: bool
    prove: Literal["auto", "off"]

    def keywords(self) -> dict[str, Any]:
        """What the calls from Python are asked, but for the network and the records' folder."""
        from robustkit.cli.others import read_other

        other = self.surrogate
        surrogate = None if other is None else read_other(other, self.checkpoint)
        same = (
            "attack", "norm", "epsilon", "target", "settings", "seed", "prove", "image_by_image",
            "batch_size", "device", "precision", "ray", "fresh", "save_adversarial",
        )  # fmt: skip
        return {name: getattr(self, name) for name in same} | {
            "surrogate": surrogate,
            **self.images,
        }


class EvaluationJob(NamedTuple):
    """One evaluation of several."""

    path: str
    """of the checkpoint"""
    request: EvaluationRequest


def evaluate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CKPT...", help=CKPT, autocompletion=completion.checkpoints),
    ],
    attack: Annotated[
        str,
        typer.Option(
            help="Attack protocol: a name (`robustkit list attacks`) or FILE.toml.",
            autocompletion=completion.attacks,
        ),
    ] = "pgd",
    norm: Annotated[
        Norm | None, typer.Option(help="Norm of ε; default: the attack's first.")
    ] = None,
    model: Model = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    epsilon: Annotated[
        list[str] | None, typer.Option(help="Budget ε, such as 8/255; repeatable.")
    ] = None,
    target: Annotated[
        Literal["none", "next", "random", "least-likely"],
        typer.Option(help="Targeted attack: towards this class instead of any wrong one."),
    ] = "none",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Protocol setting: steps=100; repeatable."),
    ] = None,
    seed: Seed = 0,
    batch_size: BatchSize = "auto",
    device: Devices = "auto",
    precision: Precision = "float32",
    ray: Ray = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Checkpoints evaluated in parallel (CPU).")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the records.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Re-run even if cached.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and how long it takes; stop.")
    ] = False,
    json_: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write a JSON summary.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    save_adversarial: Annotated[
        Path | None, typer.Option(help="Save the adversarial images as float32 .npz.")
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Transfer attack, crafted on this network."),
    ] = None,
    prove: Annotated[
        Literal["auto", "off"],
        typer.Option(
            help="auto: do not attack what cheap bounds certify; off: attack all images, which "
            "FAB's median distance may need."
        ),
    ] = "auto",
    interval: Annotated[
        Literal["wilson", "exact"], typer.Option(help="Kind of 95 % confidence interval.")
    ] = "wilson",
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
    """Attack checkpoints and report robust accuracy with intervals.

    Keeps one row per image in --out, from which a repeated command is answered.
    """
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
    request = EvaluationRequest(
        checkpoint=reading,
        images=images,
        attack=attack,
        norm=norm,
        epsilon=tuple(epsilon or ()),
        target=target,
        settings=tuple(set_ or ()),
        seed=seed,
        batch_size=images_per_batch(batch_size),
        device=device,
        precision=precision,
        ray=ray,
        out=out,
        fresh=fresh,
        save_adversarial=save_adversarial,
        surrogate=surrogate,
        image_by_image=image_by_image,
        prove=prove,
    )
    from robustkit.calls import tracking
    from robustkit.cli import dryrun, levels

    _check(request, {"--json": json_, "--html": html}, track, dry_run=dry_run)
    tracker = tracking.asked(track)
    jobs = _jobs(checkpoints, request, workers)
    if dry_run:
        return _status(jobs, dryrun.show_plans(jobs, workers))
    failures: dict[str, RobustkitError] = {}
    records = _evaluate_all(jobs, workers, failures)
    _write(jobs, records, failures, json_, html, interval)
    levels.show_all(records.values() if json_ != "-" else (), interval)
    _pass_on(tracker, records, interval)
    return _status(jobs, failures)


def _pass_on(
    tracker: "Tracker | None", records: Mapping[str, "Evaluation"], interval: "Method"
) -> None:
    """To a pipeline's page and to trackers."""
    from robustkit.calls import tracking

    summarise(records.values(), method=interval)
    command = shlex.join(["robustkit", *sys.argv[1:]])
    for name, record in records.items():
        tracking.track_evaluation(tracker, name, record, command, interval)


def _check(
    request: EvaluationRequest, written: Mapping[str, Any], track: str | None, *, dry_run: bool
) -> None:
    """What can be told before torch is imported and hours are spent."""
    from robustkit import protocol

    for option, given in {**written, "--track": track}.items():
        if dry_run and given is not None:
            raise InputError(f"{option} does not go with --dry-run: nothing is evaluated")
    protocol.load_protocol(request.attack, request.settings, request.norm)
    for text in request.epsilon:
        protocol.parse_epsilon(text)
    check_files({**written, "--save-adversarial": request.save_adversarial})
    check_folder("--out", request.out)


def _jobs(
    checkpoints: Sequence[str], request: EvaluationRequest, workers: int
) -> dict[str, EvaluationJob]:
    """The evaluations by name: one a checkpoint, or one a level of a set of corrupted images.

    Raises:
        InputError: adversarial images of several are to be saved, or several take turns on GPUs.
    """
    from robustkit.data.loading import corruption_splits

    splits: list[str] = []
    data, asked = request.images["data"], request.images["split"]
    if data is not None:
        with suppress(InputError):  # told by whoever reads the data
            splits = corruption_splits(data, asked)
    jobs = {}
    for path in dict.fromkeys(checkpoints):
        for split in splits or [asked]:
            images = {**request.images, "split": split}
            name = f"{path} on {split}" if len(splits) > 1 else path
            jobs[name] = EvaluationJob(path, replace(request, images=images))
    if request.save_adversarial and len(jobs) > 1:
        raise InputError(
            "--save-adversarial takes one checkpoint at a time, and one corruption and severity, "
            "as --split fog-3"
        )
    if workers > 1 and len(jobs) > 1 and (request.ray or request.device not in ("cpu", "auto")):
        raise InputError("--workers is for one CPU; on GPUs or --ray checkpoints take turns")
    return jobs


def _evaluate_all(
    jobs: Mapping[str, EvaluationJob], workers: int, failures: dict[str, RobustkitError]
) -> dict[str, "Evaluation"]:
    """The records by name, in order; what fails goes into `failures`, the rest goes on."""
    if workers > 1 and len(jobs) > 1:
        return _in_processes(jobs, min(workers, len(jobs)), failures)
    from robustkit.display.progress import Bar

    records = {}
    for number, (name, (path, request)) in enumerate(jobs.items(), 1):
        which = f"{number} of {len(jobs)}" if len(jobs) > 1 else ""
        try:
            records[name] = _attempted(path, request, Bar(name, which))
        except RobustkitError as error:
            trace(error)
            failures[name] = error
    return records


def _in_processes(
    jobs: Mapping[str, EvaluationJob], workers: int, failures: dict[str, RobustkitError]
) -> dict[str, "Evaluation"]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from robustkit.parallel.processes import end_with, end_workers

    threads = machine.threads(workers)
    records = {}
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with, (os.getpid(),)) as pool:
        running = {name: pool.submit(_work, *job, threads) for name, job in jobs.items()}
        try:
            for name, future in running.items():
                try:
                    records[name] = future.result()
                except RobustkitError as error:
                    trace(error)
                    failures[name] = error
                except BrokenProcessPool:
                    failures[name] = EvaluationFailed(f"{name}: its worker process died")
        except BaseException:
            # an interruption: leaving the pool would wait for all of its jobs
            end_workers(pool)
            raise
    return records


def _work(path: str, request: EvaluationRequest, threads: int) -> "Evaluation":
    import torch

    machine.keep_memory()
    torch.set_num_threads(threads)
    return _attempted(path, replace(request, device="cpu"), None)


def _attempted(path: str, request: EvaluationRequest, bar: "Bar | None") -> "Evaluation":
    """The record of one of several checkpoints, of which the others must not miss theirs.

    Raises:
        RobustkitError: for whatever reason there is none.
    """
    try:
        return evaluate_checkpoint(path, request, bar)
    except RobustkitError:
        raise
    except (Exception, SystemExit) as error:
        raise EvaluationFailed(unforeseen(error)) from error


def evaluate_checkpoint(path: str, request: EvaluationRequest, bar: "Bar | None") -> "Evaluation":
    """The record of one checkpoint.

    Raises:
        RobustkitError: bad input, or a failed evaluation.
    """
    from robustkit.calls.evaluate import evaluate as evaluated

    found: Evaluation = evaluated(
        request.checkpoint.read(path), out=request.out, **request.keywords(), progress=bar or False
    )
    return found


def _write(
    jobs: Mapping[str, EvaluationJob],
    records: dict[str, "Evaluation"],
    failures: dict[str, RobustkitError],
    json_: str | None,
    html: Path | None,
    interval: "Method",
) -> None:
    """The summary and the page; a checkpoint that failed stands in both, with its reason."""
    if json_ is None and html is None:
        return
    from robustkit import summary

    failed = {
        name: summary.failure(jobs[name].path, _error_text(name, error))
        for name, error in failures.items()
    }
    if json_ is not None:
        objects: list[dict[str, Any]] = [
            failed[name] if name in failed else summary.summarise(records[name], interval)
            for name in jobs
        ]
        write_json(objects, json_)
    if html is not None:
        from robustkit import reporting

        page = reporting.page(list(records.values()), list(failed.values()), interval)
        write_atomic(html, page.encode())


def _error_text(name: str, error: RobustkitError) -> str:
    """An error that names its checkpoint."""
    text = str(error)
    return text if text.startswith(shown(name)) else str(RobustkitError(f"{name}: {text}"))


def _status(jobs: Mapping[str, EvaluationJob], failures: dict[str, RobustkitError]) -> int:
    """Tell what failed. The status: 0; the error's own if nothing was evaluated; 3 if some were."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, error in failures.items():
        alike.setdefault((jobs[name].path, str(error)), []).append(name)
    for (path, _), names in alike.items():
        # a checkpoint that cannot be read, say, is told once and not at every level
        error = failures[names[0]]
        tell(f"robustkit: error: {_error_text(names[0] if len(names) == 1 else path, error)}")
    if not failures:
        return 0
    if len(failures) == len(jobs):
        return max(error.exit_status for error in failures.values())
    return EvaluationFailed.exit_status
