"""What a terminal shows of a set of corrupted images: a table a network, not one a level."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from robustkit.cli.output import console, say, tell_notes, tell_warnings
from robustkit.cli.terminal import share_cell, show
from robustkit.corruption.published import is_level, tabulate
from robustkit.errors import shown
from robustkit.parsing import in_percent
from robustkit.protocol import by_transfer, symbol
from robustkit.protocol.file import towards
from robustkit.statistics.estimate import counted

if TYPE_CHECKING:
    from robustkit.record import Evaluation


def show_all(evaluations: "Iterable[Evaluation]", interval: Literal["wilson", "exact"]) -> None:
    """What evaluations found; levels of corrupted images in one table a network."""
    levels: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        if is_level(evaluation):
            levels.setdefault(evaluation.header["checkpoint"]["path"], []).append(evaluation)
        else:
            show(evaluation, interval)
    for path, found in levels.items():
        if len(found) > 1:
            _show_levels(path, found, interval)
        else:
            show(found[0], interval)


def _show_levels(
    path: str, evaluations: "list[Evaluation]", interval: Literal["wilson", "exact"]
) -> None:
    """Accuracy by corruption and severity, without an attack and at every budget."""
    header = evaluations[0].header
    notes = (note for one in evaluations for note in one.header["data"].get("notes", ()))
    tell_notes(*dict.fromkeys((*header["checkpoint"]["notes"], *notes)))
    tell_warnings(_by_level(evaluations))
    counts = sorted({one.header["data"]["n"] for one in evaluations})
    images = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    protocol = header["protocol"]
    attack = f"{protocol['name']}{towards(protocol)}{by_transfer(header)}"
    norm = symbol(protocol["norm"])
    for epsilon in (None, *evaluations[0].epsilons):
        found = tabulate(evaluations, epsilon, interval)
        at = "" if epsilon is None else f", {attack} ({norm}, ε = {epsilon.text})"
        severities = sorted({s for row in found.rows.values() for s in row}, key=lambda s: s or 0)
        table = Table(show_lines=True)
        table.add_column("corruption", no_wrap=True)
        for severity in (*severities, *(["mean"] if severities != [None] else [])):
            table.add_column("accuracy" if severity is None else str(severity), justify="right")
        for name, row in found.rows.items():
            cells = [share_cell(row[s]) if s in row else "" for s in severities]
            mean = [in_percent(1 - found.error(name))] if severities != [None] else []
            table.add_row(shown(name), *cells, *mean)
        where = f"{path} on {header['data']['name']} ({images} images per level){at}"
        say(f"{where}: accuracy, 95 % CI below")
        console().print(table)
        if (error := found.mean_error) is not None:
            over = counted(len(found.counted), "corruption")
            say(
                f"mean accuracy {in_percent(1 - error)}, mean error {in_percent(error)} over {over}"
            )
        elif not found.even:
            say("no mean over corruptions: their severities differ")
        # AlexNet's errors are those without an attack
        if epsilon is None and (mce := found.mce) is not None:
            say(f"mean corruption error (mCE) {in_percent(mce)}, each error divided by AlexNet's")
        elif epsilon is None and found.is_imagenet_c:
            say(
                "no mean corruption error (mCE): images were resized or cropped, and AlexNet's "
                "were not"
            )
    folder = evaluations[0].path and evaluations[0].path.parent
    say(f"records: {len(evaluations)} in {folder}")


def _by_level(evaluations: "list[Evaluation]") -> "Iterable[str]":
    """The warnings of several levels: what all have once, the rest with the level."""
    common = set.intersection(*(set(one.header["warnings"]) for one in evaluations))
    yield from (w for w in evaluations[0].header["warnings"] if w in common)
    for one in evaluations:
        split = one.header["data"]["split"]
        yield from (f"{split}: {w}" for w in one.header["warnings"] if w not in common)
