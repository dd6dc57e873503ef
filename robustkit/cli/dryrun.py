"""`evaluate --dry-run`: what would run, and how long it takes at most."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from robustkit import machine
from robustkit.cli.output import say, tell_notes, tell_warnings, trace
from robustkit.display.pace import span
from robustkit.errors import RobustkitError
from robustkit.protocol import symbol
from robustkit.statistics.estimate import counted

if TYPE_CHECKING:
    from robustkit.cli.evaluate import EvaluationJob, EvaluationRequest
    from robustkit.evaluation.planning import EvaluationPlan


def show_plans(jobs: Mapping[str, "EvaluationJob"], workers: int) -> dict[str, RobustkitError]:
    """What would run, job by job, so many at a time; why the others would not."""
    from robustkit.calls.planning import plan_evaluation
    from robustkit.device import with_threads

    together = min(workers, len(jobs))
    failures: dict[str, RobustkitError] = {}
    for name, (path, request) in jobs.items():
        try:
            read, asked = request.checkpoint.read(path), request.keywords()
            if together == 1:
                found = plan_evaluation(read, out=request.out, **asked)
            else:  # on the processor, and on its share of the cores
                with with_threads(machine.threads(together)):
                    found = plan_evaluation(read, out=request.out, **asked | {"device": "cpu"})
        except RobustkitError as error:
            trace(error)
            failures[name] = error
        else:
            _show(name, request, found, together)
    return failures


def _show(path: str, request: "EvaluationRequest", plan: "EvaluationPlan", together: int) -> None:
    """The plan on stdout; what was assumed, and warnings, on stderr."""
    header = plan.model.header
    tell_notes(*header["notes"], *plan.data.notes)
    tell_warnings(plan.warnings)
    facts = dict(_facts(request, plan, together))
    width = max(map(len, facts))
    say(path)
    for label, text in facts.items():
        say(f"  {label:<{width}}  {text}")


def _facts(
    request: "EvaluationRequest", plan: "EvaluationPlan", together: int
) -> Iterator[tuple[str, str]]:
    header, data = plan.model.header, plan.data
    size = "×".join(map(str, data.shape))
    model = header["model"] or "the file's own architecture"
    digest = header["sha256"]
    yield "network", f"{model}, {plan.parameters:,} parameters"
    yield "checkpoint", f"SHA-256 {digest}" if digest else "only in memory"
    yield "data", f"{data.name} {data.split}, {len(data):,} images of {size}"
    if request.surrogate is not None:
        yield "surrogate", request.surrogate
    yield from _attacks(plan)
    precision = request.precision
    searched = "the fastest, measured at the start" if precision == "auto" else precision
    size = "chosen for speed" if request.batch_size == "auto" else f"{request.batch_size:,}"
    where = plan.device
    if where.startswith("cpu"):
        where += f", {counted(plan.threads, 'thread')}" + (" each" if "," in where else "")
    if request.ray is not None:
        where = f"a Ray cluster ({request.ray})"
    if together > 1:
        where += f"; {together} checkpoints at a time"
    yield "device", f"{where}; searches in {searched}; images per batch: {size}"
    yield from _cost(plan, of_cluster=request.ray is not None)
    yield "record", _record(request, plan)


def _record(request: "EvaluationRequest", plan: "EvaluationPlan") -> str:
    if plan.record is not None:
        return f"{plan.record}, on file: nothing would run"
    if request.fresh or request.save_adversarial is not None:
        return f"re-run, and written to {request.out}"
    if request.precision != "float32":
        return f"found when it runs, else written to {request.out}"
    return f"none on file; it would be written to {request.out}"


def _attacks(plan: "EvaluationPlan") -> Iterator[tuple[str, str]]:
    protocol = plan.protocol
    if not protocol.attacks:
        yield "attacks", "none, only the images as they are"
        return
    budgets = ", ".join(epsilon.text for epsilon in protocol.epsilons)
    target = "untargeted" if protocol.target == "none" else f"targeted ({protocol.target})"
    yield "threat", f"{symbol(protocol.norm)}, ε = {budgets}; {target}; seed {protocol.seed}"
    resolved = protocol.resolved()["attacks"]
    for number, (label, table) in enumerate(zip(plan.passes, resolved, strict=True), 1):
        name = "attacks" if len(resolved) == 1 else f"attack {number}"
        yield name, f"{label} ({_numbers(table)})" if len(table) > 1 else label


def _numbers(table: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in table.items() if key != "kind")


def _cost(plan: "EvaluationPlan", *, of_cluster: bool) -> Iterator[tuple[str, str]]:
    each = plan.each
    passes = f"{each.forwards:,.0f} forward"
    if each.gradients:
        passes += f" and {each.gradients:,.0f} forward and backward"
    yield "passes", f"at most {passes} per image; fewer once it is misclassified or certified"
    if plan.record is None:
        took, kind = plan.took.forwards, "forward"
        if each.gradients:
            took, kind = plan.took.gradients, "forward and backward"
        whole = "if every image withstands every attack" if plan.passes else "in total"
        pace = f"measured just now, a pass {kind} takes {1000 * took:.3g} ms per image"
        if of_cluster:
            whole += ", by one worker as fast as this machine"
        yield "time", f"about {span(plan.seconds)} {whole}: {pace}"
