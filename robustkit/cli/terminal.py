"""What a terminal shows: progress on stderr, the table on stdout."""

from typing import TYPE_CHECKING, Literal

from rich.table import Table

from robustkit.cli.output import (
    console,
    say,
    say_styled,
    styled,
    tell_notes,
    tell_warnings,
)
from robustkit.display.pace import span
from robustkit.display.progress import epoch_text
from robustkit.errors import shown
from robustkit.parsing import ends_in_percent, in_percent
from robustkit.protocol import by_transfer, symbol

if TYPE_CHECKING:
    from robustkit import training
    from robustkit.auditing.outcome import Audit
    from robustkit.display.studies import StudyPlan
    from robustkit.record import Evaluation
    from robustkit.record.certification import Certification
    from robustkit.statistics import Estimate


def show(evaluation: "Evaluation", interval: Literal["wilson", "exact"]) -> None:
    """The table of one evaluation on stdout; what was assumed, and its warnings, on stderr."""
    from robustkit.record import mean_passes
    from robustkit.reporting.wording import passes

    header = evaluation.header
    tell_notes(*header["checkpoint"]["notes"], *header["data"].get("notes", ()))
    tell_warnings(header["warnings"])
    data, protocol = header["data"], header["protocol"]
    target = protocol["resolved"]["target"]
    towards = "" if target == "none" else f" towards {target}"
    title = (
        f"{header['checkpoint']['path']} on {data['name']} {data['split']} ({data['n']:,} images), "
        f"{protocol['name']}{towards}{by_transfer(header)}, {symbol(protocol['norm'])}"
    )
    table = Table()
    table.add_column("ε", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % CI", justify="right")
    if (precision := header.get("precision", "float32")) != "float32":
        title += f", searched in {precision}"
    for name in ("certified", "95 % CI") if evaluation.proved else ():
        table.add_column(name, justify="right")
    table.add_row("clean", *_cells(evaluation.clean(interval)))
    certified = {p.epsilon: _cells(p.accuracy) for p in evaluation.certified(interval)}
    for epsilon, accuracy in evaluation.robust(interval):
        table.add_row(shown(epsilon.text), *_cells(accuracy), *certified.get(epsilon, ()))
    say(title)
    console().print(table)
    if (cost := mean_passes(evaluation.table)) is not None:
        say(f"passes per image: {passes(cost)}")
    say(f"record: {evaluation.path}")


def show_certification(found: "Certification", interval: Literal["wilson", "exact"]) -> None:
    """How the images ended, and what that says of robust accuracy, on stdout."""
    header = found.header
    tell_notes(*header["data"].get("notes", ()))
    tell_warnings(header["warnings"])
    data, protocol = header["data"], header["protocol"]
    table = Table()
    for name in ("outcome", "images", "share", "95 % CI"):
        table.add_column(name, justify="left" if name == "outcome" else "right")
    for outcome in ("certified", "fooled", "open"):
        share = found.share(outcome, interval)
        table.add_row(outcome, f"{found.count(outcome):,}", *_cells(share))
    where = f"{data['name']} {data['split']} ({data['n']:,} images)"
    epsilon = protocol["epsilons"][0]["epsilon"]
    say(f"{header['checkpoint']['path']} on {where}, {symbol(protocol['norm'])} {epsilon}")
    console().print(table)
    lower, upper = found.share("certified", interval), found.upper(interval)
    most = f"robust accuracy at most {in_percent(upper.value)}"
    say(f"certified accuracy is {in_percent(lower.value)}, {most}")
    say(f"record: {found.path}")


def show_audit(audit: "Audit") -> None:
    """Stages, what stayed unresolved, and the verdict with its reasons, on stdout."""
    table = Table()
    for name in ("stage", "newly fooled", "robust accuracy", "95 % CI"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    table.add_row("clean", "", *_cells(audit.clean))
    for stage in audit.stages:
        cells = _cells(stage.so_far) if stage.so_far else (stage.status, "")
        table.add_row(shown(stage.name), f"{stage.first:,}" if stage.so_far else "", *cells)
    where = f"{audit.data['name']} {audit.data['split']} ({audit.data['n']:,} images)"
    title = f"{audit.checkpoint['path']} on {where}, {symbol(audit.norm)} {audit.epsilon}"
    say(title)
    console().print(table)
    tell_notes(*audit.data.get("notes", ()))
    tell_warnings(audit.warnings)
    for reading in audit.unresolved:
        say(f"unresolved: {reading.title} {reading.evidence}")
    say_styled(audit.verdict.sentence, "bold")
    for reason in audit.verdict.reasons:
        say(f"- {reason}")


def show_plan(found: "StudyPlan") -> None:
    """What a study still needs, by method, and how long that takes, on stdout."""
    if (expected := found.expected) is not None:
        table = Table()
        for column in ("", "now", "after selection", "ms per step", "time"):
            table.add_column(column, justify="right" if column else "left")
        for row in expected.rows:
            step = "?" if row.step is None else f"{1000 * row.step:.1f}"
            taken = "?" if row.seconds is None else span(row.seconds)
            table.add_row(styled(row.method), str(row.now), str(row.later), step, taken)
        table.add_section()
        counts = str(expected.evaluations), str(expected.pending)
        table.add_row("evaluations", *counts, "", span(expected.evaluating))
        console().print(table)
    say(found.text)


def show_training(trained: "training.TrainingResult") -> None:
    """What was trained, on stdout; what a user should know of it, on stderr.

    Of several processes that train together only the first speaks.
    """
    if not trained.first:
        return
    record = trained.record
    train = record["data"]["train"]
    noise = train["noise"]
    kept = next(line for line in record["history"] if line["epoch"] == record["epoch_kept"])
    lines = [
        f"{record['loss']['name']}, {record['model']['name']}: {train['images']:,} images of "
        f"{record['data']['name']}, {noise['flipped']:,} noisy labels "
        f"({in_percent(noise['realised'])})",
        f"epoch {kept['epoch']}: {epoch_text(kept)}",
    ]
    if sent := record.get("communication"):
        share = f"{in_percent(sent['ratio'], 2)} of uncompressed"
        lines.append(f"{sent['scheme']}: {sent['bytes_per_step']:,} bytes per step, {share}")
    lines += [f"snapshot: {path}" for path in trained.snapshots]
    for line in [*lines, f"checkpoint: {trained.path}"]:
        say(line)
    if trained.warning:
        tell_warnings([trained.warning])


def share_cell(estimate: "Estimate") -> str:
    """A share and its interval below it, for tables with many columns."""
    from robustkit.reporting.wording import interval

    return f"{in_percent(estimate.value)}\n{interval(estimate)}"


def _cells(estimate: "Estimate") -> tuple[str, str]:
    ends = ends_in_percent(estimate.low, estimate.value, estimate.high)
    return in_percent(estimate.value), ends
