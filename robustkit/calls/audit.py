"""`robustkit.audit`: can this robustness number be believed?"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

from robustkit.auditing import junit as junits
from robustkit.auditing import sarif as sarifs
from robustkit.auditing import stored
from robustkit.auditing.asked import audit_question, unanswerable
from robustkit.auditing.outcome import Audit, RobustnessClaim
from robustkit.auditing.plan import out_of_reach
from robustkit.auditing.policy import Policy
from robustkit.auditing.request import TrainingImages, threat_model
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import Begin, StageSettings, minutes
from robustkit.auditing.verdict import claimed_elsewhere
from robustkit.calls import tracking
from robustkit.calls.given import (
    Data,
    ImageKeywords,
    ImageOptions,
    Loaded,
    Network,
    evaluated,
    image_options,
    name_of,
    network,
    path_of,
    scratch_folder,
)
from robustkit.calls.spoken import spoken
from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset
from robustkit.data.loading import corruption_splits
from robustkit.defaults import torch_defaults
from robustkit.display.progress import AuditBar, seen
from robustkit.errors import InputError
from robustkit.evaluation import RunOptions
from robustkit.evaluation.options import Precision
from robustkit.files import write_atomic
from robustkit.parallel.cluster import connected
from robustkit.protocol import Norm, Number
from robustkit.record import Evaluation
from robustkit.reporting.audit import write

Others = Sequence[Network] | Mapping[str, Network]


@torch_defaults()
def audit(
    model: Network,
    data: Data | None = None,
    *,
    claim: RobustnessClaim | str | None = None,
    claim_from: Evaluation | Path | str | None = None,
    against: Others | Network = (),
    policy: Policy | Path | str | None = None,
    junit: Path | str | None = None,
    sarif: Path | str | None = None,
    budget: str | float = "standard",
    norm: Norm | None = None,
    epsilon: Number | None = None,
    surrogate: Network | None = None,
    corruptions: Path | str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    image_by_image: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    ray: str | None = None,
    out: Path | str = "audit",
    track: str | None = None,
    command: str | None = None,
    progress: bool | None = None,
    **images: Unpack[ImageKeywords],
) -> Audit:
    """Attack harder, look for failed attacks, and say whether a robustness number can be believed.

        found = robustkit.audit("net.pt", "mnist", claim="linf:0.1=0.93", budget="quick")
        found.verdict.sentence

    Writes audit.html, audit.json and audit.md to `out`; a repeated call goes on where the last one
    stopped. Another claim or budget takes the place of the last; a folder that holds the audit of
    another network, of other images or at another ε is refused.

    Args:
        model: as for `evaluate`.
        data: likewise.
        claim: the number to judge: "linf:8/255=0.45".
        claim_from: or the evaluation that claims it, or the file of its record or its --json.
        against: networks to compare with, or a mapping from their names.
        policy: rules, or their file; `found.policy` says which of them hold.
        junit: file (.xml) for the rules' outcomes.
        sarif: file for the failed rules, for code scanning.
        budget: "quick", "standard", "thorough", a plan's file, or minutes.
        norm: of the budget; otherwise the claim's, or linf.
        epsilon: the judged budget; otherwise the claim's, or the largest usual.
        surrogate: a network for transfer attacks, too.
        corruptions: folder of corrupted images as published, instead of those made here.
        split: as for `evaluate`, and so are seed, device, precision, batch_size and images.
        limit: only the first so many images; otherwise as the budget says.
        seed: of every random draw.
        name: keeps the work on a module in memory under this name; without it only the report.
        image_by_image: pass images one at a time.
        batch_size: images at once.
        device: "cpu", "cuda:1"; "auto" takes a GPU; "cuda:0,cuda:1" or "all" GPUs share the
            images of each stage; whatever else an audit does, the first of them does alone.
        ray: a Ray cluster that shares the images out, "auto" or "HOST:6379".
        precision: that attacks search in; verdicts are float32's.
        out: folder of the audit.
        track: where the audit is tracked: mlflow, wandb or tensorboard, with `:WHERE`.
        command: what the report says it was made by; otherwise this call.
        progress: False shows none; True says each part also where no bar is seen.
        images: how the images of a named data set are made.

    Raises:
        InputError: something given is unusable; one line says what.
        EvaluationFailed: the network breaks without any attack, or a certified image was fooled.
    """
    command = command or spoken("audit", audit, locals())
    _check_sarif(sarif, policy)
    tracker, budget = tracking.asked(track), str(budget)
    told_in = {"--junit": junit, "--sarif": sarif}
    question = audit_question(
        claim, claim_from, policy=policy, budget=budget, epsilon=epsilon, told_in=told_in
    )
    plan, stated, loaded = question.plan, question.claim, network(model)
    count = (plan.images or None) if limit is None else limit
    asked = replace(image_options(audit, data, split, count, images), fair=limit is None)
    given = asked.load(loaded)
    dataset = given.shuffled()  # bounds, indicators and corruptions take the first images
    other = partial(asked.other_model, dataset, image_by_image=image_by_image)
    request = AuditRequest(
        model=evaluated(loaded, dataset, name, image_by_image=image_by_image),
        data=dataset,
        threat=threat_model(dataset, stated, norm=norm, epsilon=epsilon, seed=seed),
        plan=plan,
        claim=stated,
        against={word: other(one) for word, one in _named(against).items()},
        surrogate=None if surrogate is None else other(surrogate),
        policy=question.policy,
        budget=budget,
        command=command,
        training=_training(loaded, asked, dataset),
        published=_published(corruptions, asked, loaded, plan.corrupted),
    )
    _check_replaces(Path(out), request)
    hopeless = _in_vain(request)
    elsewhere = [*_claimed_elsewhere(claim_from, request, given), *hopeless]
    options = RunOptions(batch_size, device, precision, ray=ray)
    with scratch_folder() as scratch, AuditBar() if seen(progress) else nullcontext() as bar:
        kept = isinstance(loaded, Checkpoint) or name is not None
        work = Path(out) / "work" if kept else scratch
        if bar:
            bar.warn(hopeless)
        begin: Begin = bar.begin if bar else _unseen
        settings = StageSettings(work, options, begin, minutes(question.minutes))
        with nullcontext() if ray is None else connected(ray):  # once, for all stages
            found = run_audit(request, settings)
    found = replace(found, warnings=(*found.warnings, *elsewhere))
    write(found, Path(out))
    _write_rules(found, policy, junit, sarif)
    tracking.track_audit(tracker, found, Path(out))
    return found


def _in_vain(asked: AuditRequest) -> list[str]:
    """What cannot come out, whatever the network: the verdict, or rules of the policy."""
    plan, threat, names = asked.plan, asked.threat, asked.against.keys()
    rules = unanswerable(asked.policy, plan, threat.norm, threat.budgets, names)
    return [*out_of_reach(plan, threat.norm), *rules]


def _check_sarif(sarif: Path | str | None, policy: Policy | Path | str | None) -> None:
    if sarif is not None and isinstance(policy, Policy):
        raise InputError("sarif points into the rules' file; give policy as its path")


def _claimed_elsewhere(
    source: Evaluation | Path | str | None, asked: AuditRequest, images: Dataset
) -> list[str]:
    """Warnings where the claim was made of another network or of other images.

    `images` are those of the audit in the order in which an evaluation has them.
    """
    if source is None:
        return []
    where = source if isinstance(source, Evaluation) else Path(source)
    data = {name: getattr(images, name) for name in ("name", "split", "digest", "transform", "ids")}
    return claimed_elsewhere(where, asked.model.header, data | {"n": len(images)})


def _check_replaces(folder: Path, asked: AuditRequest) -> None:
    """Nothing, unless a folder holds an audit of something else, which would be lost."""
    images, threat = asked.data.distinct(), asked.threat
    data = {name: getattr(images, name) for name in ("name", "split", "digest", "transform")}
    data |= {"n": len(images), stored.FIRST: images.ids[0]}
    stored.check_replaces(
        folder / "audit.json", asked.model.header, data, threat.norm, threat.judged
    )


def _write_rules(
    found: Audit,
    policy: Policy | Path | str | None,
    junit: Path | str | None,
    sarif: Path | str | None,
) -> None:
    """The files that say how the rules came out."""
    if junit is not None:
        write_atomic(Path(junit), junits.junit(found).encode())
    if sarif is not None:
        text = sarifs.sarif(found, Path(str(policy)))
        write_atomic(Path(sarif), text.encode())


def _unseen(part: str, images: int) -> Callable[[float], None]:
    """Nobody watches."""
    return lambda done: None


def _named(given: Others | Network) -> Mapping[str, Network]:
    """Networks by the names that the audit calls them by."""
    if isinstance(given, Mapping):
        return given
    several: Sequence[Any] = given if isinstance(given, list | tuple) else [given]
    words = [str(one) if isinstance(one, str | Path) else name_of(one) for one in several]
    for word in words:
        if words.count(word) > 1:
            raise InputError(f"against: two are called {word}; give a dict with a name for each")
    return dict(zip(words, several, strict=True))


def _training(model: Loaded, asked: ImageOptions, images: Dataset) -> TrainingImages:
    """What is known of the images that the network was trained on."""
    if not isinstance(model, Checkpoint):
        return TrainingImages()
    return TrainingImages.of(model, path_of(asked.data_root), images)


def _published(
    folder: Path | str | None, images: ImageOptions, audited: Loaded, first: int
) -> list[Callable[[], Dataset]]:
    """What reads the levels of a set of corrupted images, the first images of each.

    Raises:
        InputError: the folder is no such set.
    """
    if folder is None:
        return []
    if not (splits := corruption_splits(Path(folder), "all")):
        raise InputError(
            f"--corruptions {folder}: no set of corrupted images, as the folder of CIFAR-10-C is"
        )
    asked = [n for n in (first, images.limit) if n]  # 0 and None are all
    level = replace(images, data=Path(folder), limit=min(asked, default=None))
    return [partial(replace(level, split=split).load, audited) for split in splits]
