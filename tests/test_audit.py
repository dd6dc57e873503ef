"""Audits from checkpoint to verdict: what ran, what was kept, and what a user is told."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
from helpers import schemas
from helpers.audits import full
from helpers.defences import Before, Detached, Noisy, Rounded
from helpers.evaluations import evaluation as rows_of

import robustkit.calls.audit as calls
from robustkit import evaluation
from robustkit import protocol as protocols
from robustkit.auditing import counts
from robustkit.auditing import plan as plans
from robustkit.auditing.adaptive import TITLES
from robustkit.auditing.adaptive_stage import AdaptiveSuccess, add_adaptive, attack_rest
from robustkit.auditing.branching import branch
from robustkit.auditing.cache import Parts
from robustkit.auditing.context import AuditContext, Effort
from robustkit.auditing.outcome import BRANCHING, Stage
from robustkit.auditing.policy import parse_policy
from robustkit.auditing.request import TrainingImages
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import (
    BLACK_BOX,
    AttackedImages,
    StageSettings,
    ThreatModel,
    _StageRunner,
    plain_protocol,
    run_stages,
)
from robustkit.auditing.verdict import parse_claim
from robustkit.calls.given import ImageOptions
from robustkit.certification import AttackedSmoothed
from robustkit.checkpoint import read_checkpoint
from robustkit.cli.commands import app
from robustkit.data import from_arrays, load_dataset
from robustkit.errors import EvaluationFailed, InputError, RecordError, UnknownName
from robustkit.evaluation.model import SeenImages
from robustkit.evaluation.verification import RULE
from robustkit.files import canonical, shipped
from robustkit.protocol import parse_epsilon
from robustkit.reporting.audit import read_audit, write
from robustkit.seals import sealed

PLAN = """
title      = "Tiny"
images     = 24
delta      = 0.2
indicators = 4
certified  = 4
multiplications = 2e9
corrupted  = 4

[[stage]]
attack   = "fgsm"
budgets  = "all"
required = true

[[stage]]
attack   = "pgd"
budgets  = "all"
required = true
set      = ["steps=5", "restarts=1", "relative_step=1/2"]

[[stage]]
attack   = "square"
required = true
set      = ["queries=60"]

[[stage]]
attack    = "hopskipjump"
required  = false
survivors = 1
set       = ["steps=1"]

[smoothing]
images = 4
sigma  = 0.25
draws  = 50
"""


ATTACKS_ALONE = (
    PLAN.replace("indicators = 4", "indicators = 1")
    .replace("certified  = 4", "certified  = 1")
    .replace("corrupted  = 4", "corrupted  = 1")
    .replace("multiplications = 2e9", "multiplications = 0")
)
ATTACKS_ALONE = ATTACKS_ALONE[: ATTACKS_ALONE.index("[smoothing]")]


LITTLE = Effort(steps=20, restarts=1, draws=4, queries=100, passes=5)


@pytest.fixture(scope="module", autouse=True)
def little_effort():
    """Adaptive attacks try little: what becomes of their answers is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustkit.auditing.run.AuditContext", partial(AuditContext, effort=LITTLE))
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.toml"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def images():
    return load_dataset("mnist5k", limit=24)


def request_for(plan, images, *, model=None, judged="0.1", norm="linf", **changes):
    budgets = tuple(parse_epsilon(e) for e in ("0.02", judged))
    asked = {"budget": "tiny", "command": "robustkit audit"}
    return AuditRequest(
        model=model or evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k")),
        data=images,
        threat=ThreatModel(norm, budgets[-1], budgets, 0),
        plan=plans.load_plan(str(plan)),
        **{**asked, **changes},
    )


def settings_in(folder, parts=None, over=lambda: False):
    def begin(part, count):
        if parts is not None:
            parts.append(part)
        return lambda done: None

    return StageSettings(folder, evaluation.RunOptions(device="cpu"), begin, over)


@pytest.fixture(scope="module")
def audited(plan, images, tmp_path_factory):
    folder, parts = tmp_path_factory.mktemp("audit"), []
    policy = parse_policy(
        {
            "title": "gate",
            "require": [
                {"accuracy": "clean", "at_least": 0.5},
                {"robust": "linf:0.1", "at_least": 0.999, "confidence": 0.95},
            ],
        },
        "gate.toml",
    )
    other = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    asked = request_for(plan, images, policy=policy, against={"other": other, "again": other})
    return asked, folder, run_audit(asked, settings_in(folder, parts)), parts


def test_an_audit_holds_what_its_parts_found(audited, images):
    _, _, audit, parts = audited
    names = [s.name for s in audit.stages]
    assert names[:5] == ["fgsm", "pgd: fgsm", "pgd: pgd", "square", "hopskipjump"]
    assert all(s.status == "complete" for s in audit.stages)
    so_far = [s.so_far.value for s in audit.stages]
    assert so_far == sorted(so_far, reverse=True)
    assert so_far[-1] == audit.survived.value
    assert sum(s.first for s in audit.stages) == round(
        24 * (audit.clean.value - audit.survived.value)
    )
    assert [level.epsilon for level in audit.robust] == ["0.02", "0.1"]
    assert np.array(audit.confusion).sum() == 24
    for row in audit.classes:
        assert row.robust.value <= row.clean.value
    for bound in audit.certificate.levels:
        attacked = next(lv for lv in audit.robust if lv.epsilon == bound.epsilon)
        assert bound.certified.value * audit.certificate.n <= attacked.accuracy.value * 24 + 1e-9
        assert sum(bound.methods.values()) == round(bound.certified.value * audit.certificate.n)
        assert 0 < bound.rounding < 0.1
        assert bound.lost == 0
    assert audit.certificate.levels[0].methods
    assert len(audit.corruptions.rows) == 15
    for level in audit.smoothed.levels:
        assert level.certified.value <= level.attacked.value <= audit.smoothed.clean.value
    assert len(audit.indicators) > 20
    assert audit.claim.source.startswith("plain pgd")
    assert audit.verdict.word in ("believable", "not established")
    assert audit.comparisons[0].difference.value == 0
    # a further network widens no interval
    first, second = (replace(one, b="") for one in audit.comparisons)
    assert first == second
    assert first.correction == ""
    assert [rule.passed for rule in audit.policy] == [True, False]
    assert "square" in parts


def test_what_a_kind_of_attack_leaves_does_not_depend_on_who_came_first(images):
    n = len(images)
    everything = np.ones(n, bool)
    attacked = AttackedImages(
        images,
        ThreatModel("linf", parse_epsilon("0.1"), (parse_epsilon("0.1"),), 0),
        everything.copy(),
        {"0.1": ~everything},
        ["noise", "noise", "pgd", "square"] + [""] * (n - 4),
        np.zeros(n, np.int64),
        families={"noise": "floor", "pgd": "white box", "square": "black box"},
        alone={"pgd": np.array([False, True, False] + [True] * (n - 3))},
    )
    assert attacked.after("white box")[:4].tolist() == [False, True, False, True]
    assert attacked.after("black box")[:4].tolist() == [True, True, True, False]
    assert attacked.after("floor")[:4].tolist() == [False, False, True, True]


def test_what_was_asked_for_and_broke_off_is_not_said_to_be_missing(images):
    attacked = nothing_fooled(images)
    assert counts.missing(attacked) == {}
    attacked.stages += [
        Stage("square", "Square", "black box", True, "skipped", "no time was left"),
        Stage("transfer", "Transfer from b.pt", "transfer", False, "failed", "NaN logits"),
        Stage("noise", "Noise", "floor", False, "complete"),
    ]
    assert counts.missing(attacked) == {
        "black": "Square has no result: no time was left",
        "transfer": "Transfer from b.pt has no result: NaN logits",
    }
    attacked.stages.append(Stage("decisions", "HopSkipJump", "black box", False, "complete"))
    assert "black" not in counts.missing(attacked)


@pytest.mark.thorough
def test_copies_of_an_image_are_one_image(images, tmp_path):
    """Nine hundred copies of ten images would buy any verdict."""
    plan = tmp_path / "attacks.toml"
    plan.write_text(ATTACKS_ALONE)
    pixels = images.images(0, 4)
    copies = from_arrays(
        np.tile(pixels, (40, 1, 1, 1)), np.tile(images.labels[:4], 40), name="copies"
    )
    audit = run_audit(request_for(plan, copies), settings_in(tmp_path))
    assert (audit.data["n"], audit.clean.n, audit.survived.n) == (4, 4, 4)
    assert "156 duplicate images are left out" in audit.warnings
    assert audit.verdict.word != "believable"
    assert images.distinct() is images


def nothing_fooled(images, *budgets):
    """Images of which all are right before any attack at two budgets, 0.1 and 0.2 by default."""
    budgets = tuple(parse_epsilon(e) for e in budgets or ("0.1", "0.2"))
    nothing = np.zeros(len(images), bool)
    return AttackedImages(
        images,
        ThreatModel("linf", budgets[1], budgets, 0),
        ~nothing,
        {e.text: nothing.copy() for e in budgets},
        [""] * len(images),
        images.labels.copy(),
    )


def test_stages_only_add_successes_and_the_first_to_fool_an_image_has_it(images):
    attacked = nothing_fooled(images)
    n, budgets = len(images), attacked.threat.budgets
    rows = {"strong": range(n), "weak": range(n), "on some": range(5, 15)}
    strengths = {"strong": 0.15, "weak": 0.3, "on some": 0.1}
    broken, new = np.full((3, n), np.inf), {}
    for stage, (name, own) in enumerate(rows.items()):
        found = rows_of(n=len(own), seed=stage, strength=strengths[name], examples=())
        broken[stage, own] = found.broken_at
        new[name], _ = attacked.add(name, "white box", list(own), found)
    for epsilon in budgets:
        fooled = (broken <= float(epsilon)).any(axis=0)
        assert attacked.fooled[epsilon.text].tolist() == fooled.tolist()
        assert attacked.level(epsilon).accuracy.value == pytest.approx(1 - fooled.mean())
    names = np.array([*rows, ""])
    hits = np.vstack([broken <= 0.2, np.ones((1, n), bool)])  # whoever is not fooled is nobody's
    first = names[hits.argmax(axis=0)].tolist()
    assert attacked.by == first
    assert new == {name: first.count(name) for name in rows}
    assert min(new.values()) > 0


def test_what_was_fooled_before_makes_no_stage_of_adaptive_attacks(images):
    attacked = nothing_fooled(images)
    attacked.fooled["0.2"][3] = True
    again = {images.ids[3]: AdaptiveSuccess("silent-success", 1)}
    add_adaptive(attacked, again, tried=False)
    assert attacked.stages == []
    add_adaptive(
        attacked, again | {images.ids[5]: AdaptiveSuccess("silent-success", 1)}, tried=False
    )
    (stage,) = attacked.stages
    assert (stage.first, stage.found_by) == (1, {"silent-success": 1})


@pytest.mark.parametrize(
    ("limit", "first", "taken"),
    [(None, 0, None), (None, 500, 500), (20, 0, 20), (20, 500, 20), (900, 500, 500)],
)
def test_published_corruptions_are_no_more_images_than_were_asked_for(
    monkeypatch, limit, first, taken
):
    asked = []
    monkeypatch.setattr("robustkit.calls.audit.corruption_splits", lambda *_: ["fog-1", "fog-2"])
    monkeypatch.setattr(ImageOptions, "load", lambda self, model: asked.append(self))
    for level in calls._published("folder", ImageOptions(data="mnist5k", limit=limit), None, first):
        level()
    assert [(one.split, one.limit) for one in asked] == [("fog-1", taken), ("fog-2", taken)]


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_what_no_verdict_can_come_of_is_said_before_any_work(
    images, tmp_path, monkeypatch, capsys, norm
):
    plan = tmp_path / "own.toml"
    plan.write_text(PLAN.replace("required  = false", "required  = true"))

    def audited(request, settings):
        assert ("hopskipjump, which has no l1 version" in capsys.readouterr().err) == (norm == "l1")
        return full()

    monkeypatch.setattr(calls, "run_audit", audited)
    monkeypatch.setattr(calls, "write", lambda *_: None)
    where = {"budget": str(plan), "norm": norm, "epsilon": "5", "out": tmp_path, "progress": True}
    found = calls.audit("lenet5-mnist5k", images, **where)
    assert any("which has no l1 version" in text for text in found.warnings) == (norm == "l1")


@pytest.mark.parametrize("count", [0, 20])
def test_every_part_of_an_audit_takes_images_of_all_classes(tmp_path, monkeypatch, count):
    """In whatever form they are given by class, and whether the plan cuts them or not."""
    some = load_dataset("mnist5k", limit=60)
    by_class = some.take(np.argsort(some.labels, kind="stable"))
    x, y = by_class.images(0, 60), by_class.labels
    np.savez(tmp_path / "own.npz", images=x, labels=y)
    (tmp_path / "own.toml").write_text(PLAN.replace("images     = 24", f"images = {count}"))
    asked = []
    monkeypatch.setattr(
        calls, "run_audit", lambda request, settings: asked.append(request) or full()
    )
    monkeypatch.setattr(calls, "write", lambda *_: None)
    monkeypatch.setattr(calls, "claimed_elsewhere", lambda where, made, data: [data["digest"]])
    ask = partial(calls.audit, "lenet5-mnist5k", budget=str(tmp_path / "own.toml"), out=tmp_path)
    ask = partial(ask, norm="linf", epsilon="0.1")
    own = from_arrays(x, y, name="own")
    for given in (tmp_path / "own.npz", (x, y), list(zip(x, y, strict=True)), own):
        ask(given)
    assert {one.data.digest for one in asked} == {asked[0].data.digest}
    assert asked[0].data.order == "digest-shuffled"
    # the evaluation whose claim is judged had the same images, in their own order
    record = rows_of([0.0], epsilons=("0.1",))
    monkeypatch.setattr(calls, "audit_question", partial(_without_claim, calls.audit_question))
    assert (own.digest in ask(own, claim_from=record).warnings) == (count == 0)


def _without_claim(question, claim, source, **asked):
    return question(claim, None, **asked)


class ByClass(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (
            (torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(i)), i // 20)
            for i in range(60)
        )


def test_an_audits_own_number_of_images_is_none_of_a_few_classes(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "run_audit", lambda request, settings: full())
    monkeypatch.setattr(calls, "write", lambda *_: None)
    ask = partial(calls.audit, "lenet5-mnist5k", budget=str(plan), out=tmp_path, epsilon="0.1")
    with pytest.raises(
        InputError, match="the first 24 images are of 2 classes, since they stand by"
    ):
        ask(ByClass())
    ask(ByClass(), limit=24)  # asked for, and warned of


def test_an_image_certified_where_it_was_fooled_ends_the_audit(images):
    attacked = nothing_fooled(images)
    attacked.fooled["0.2"][3], attacked.by[3] = True, "pgd"
    counts.check_sandwich(attacked, "0.1", np.ones(8, bool))
    counts.check_sandwich(attacked, "0.2", np.arange(8) != 3)
    with pytest.raises(EvaluationFailed, match=r"image 3 is certified at linf 0\.2, .* by pgd"):
        counts.check_sandwich(attacked, "0.2", np.arange(8) == 3)


def attacked_at_judged(attacked, **changes):
    """A stage that completed."""
    level = attacked.level(attacked.threat.judged)
    return replace(Stage("pgd", "PGD", "white box", True, "complete", robust=(level,)), **changes)


def test_classes_and_confusion_are_under_attack_or_not_there(images):
    attacked = nothing_fooled(images)
    for stages in ([], [attacked_at_judged(attacked, status="failed", robust=())]):
        attacked.stages = stages
        assert counts.classes(attacked) == counts.confusion(attacked) == ()
    attacked.stages = [attacked_at_judged(attacked)]
    assert len(counts.classes(attacked)) == len(set(images.labels.tolist()))
    assert np.trace(counts.confusion(attacked)) == len(images)


def test_where_no_attack_completed_no_number_is_called_robust(plan, images, tmp_path):
    """The clean images would say it: what was not attacked is unknown."""
    other = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    asked = request_for(plan, images, against={"other": other})
    audit = run_audit(asked, settings_in(tmp_path, over=lambda: True))
    assert {s.status for s in audit.stages} == {"skipped"}
    assert (audit.survived, audit.robust, audit.classes, audit.confusion) == (None, (), (), ())
    (compared,) = audit.comparisons
    assert (compared.difference, compared.verdict) == (None, "not tested")
    assert compared.reason.startswith("no attack completed on either network")
    points = {p.point: p for p in audit.annex.provisions}
    assert points["15(5), model flaws"].answer == "not covered"
    assert points["MEASURE 2.5, limits"].answer == "not covered"
    assert "The metrics (clean accuracy), how they" in points["15(3)"].how
    written = write(audit, tmp_path / "report")
    jsonschema.validate(json.loads(written.json.read_text()), schemas.AUDIT)
    assert read_audit(written.json).classes == ()
    page, card = written.page.read_text(), written.card.read_text()
    for told in ("Accuracy per class", "under attack at", 'href="#classes"', 'href="#confusion"'):
        assert told not in page
    assert "The worst" not in card


def test_shares_of_a_class_are_of_all_its_images(images):
    attacked = nothing_fooled(images)
    own = np.flatnonzero(images.labels == images.labels[0])
    attacked.right[own[0]] = False
    attacked.fooled["0.2"][own[:2]] = True
    attacked.stages.append(attacked_at_judged(attacked))
    row = next(r for r in counts.classes(attacked) if r.name == images.classes[images.labels[0]])
    assert len(own) > 2
    assert (row.clean.value, row.clean.n) == (1 - 1 / len(own), len(own))
    assert (row.robust.value, row.robust.n) == (1 - 2 / len(own), len(own))


def test_the_plain_claim_is_what_all_plain_stages_left_together(images):
    attacked = nothing_fooled(images)
    n = len(images)
    assert counts.plain_claim(attacked).number is None  # nothing completed
    attacked.plain |= dict.fromkeys(["pgd: fgsm", "pgd: pgd"], protocols.load_protocol("pgd"))
    attacked.alone["pgd: fgsm"] = np.arange(n) >= 2
    assert counts.plain_claim(attacked).number is None
    attacked.alone["pgd: pgd"] = np.arange(n) < n - 3
    claim = counts.plain_claim(attacked)
    assert (claim.norm, claim.epsilon) == ("linf", "0.2")
    assert claim.number == pytest.approx((n - 5) / n)


@pytest.mark.parametrize(
    "stages",
    [
        ['attack = "square"'],
        ['attack = "pgd"'],  # on what survived
        ['attack = "pgd"\nrandom = true\nbudgets = "all"'],
        ['attack = "sparse"\nbudgets = "all"', 'attack = "fgsm"\nbudgets = "all"'],
    ],
)
def test_without_a_claim_a_plan_must_run_the_attack_that_makes_one(images, tmp_path, stages):
    plan = tmp_path / "plan.toml"
    head = PLAN[: PLAN.index("[[stage]]")]
    plan.write_text(head + "".join(f"[[stage]]\nrequired = true\n{stage}\n" for stage in stages))
    asked, parts = request_for(plan, images), []
    with pytest.raises(
        InputError, match=r"the plan plan does not run pgd on all images; give --claim"
    ):
        run_audit(asked, settings_in(tmp_path, parts))
    assert parts == []


@pytest.mark.thorough
def test_the_plain_evaluation_is_judged_where_its_attack_comes_again_on_survivors(images, tmp_path):
    plan = tmp_path / "plan.toml"
    again = 'attack = "pgd"\nrequired = true\nset = ["steps=2", "restarts=2"]'
    once = 'attack = "pgd"\nbudgets = "all"\nrequired = true\nset = ["steps=1", "restarts=1"]'
    asked = {}
    for name, stages in {"both": [again, once], "again alone": [again]}.items():
        head = PLAN[: PLAN.index("[[stage]]")]
        plan.write_text(head + "".join(f"[[stage]]\n{stage}\n" for stage in stages))
        asked[name] = request_for(plan, images.take(range(4)))
    attacked = {
        name: run_stages(one.model, one.data, one.threat, one.plan, settings_in(tmp_path))
        for name, one in asked.items()
    }
    claim = counts.plain_claim(attacked["both"])
    assert claim.source == "plain pgd, run by this audit"
    assert claim.number == np.logical_and.reduce(list(attacked["both"].alone.values())).mean()
    # indicators examine the attack that makes the claim; under a claim of the user's, what ran
    for name, steps in {"both": 1, "again alone": 2}.items():
        assert plain_protocol(attacked[name]).attacks[-1].steps == steps
    assert counts.plain_claim(attacked["again alone"]).number is None


@pytest.mark.thorough
def test_an_attack_that_a_plan_names_again_is_a_stage_of_its_own(images, tmp_path):
    plan = tmp_path / "plan.toml"
    weak, strong = 'set = ["steps=1", "restarts=1"]', 'set = ["steps=9", "restarts=1"]'
    stages = [
        ("fgsm", 'budgets = "all"'),
        ("fgsm", 'budgets = "all"'),
        ("fgsm", ""),
        ("pgd", f'budgets = "all"\n{weak}'),
        ("pgd", f'budgets = "all"\n{strong}'),
        ("mifgsm", "survivors = 3"),
        ("mifgsm", "survivors = 3"),
    ]
    tables = (f'[[stage]]\nattack = "{name}"\nrequired = true\n{more}\n' for name, more in stages)
    plan.write_text(PLAN[: PLAN.index("[[stage]]")] + "".join(tables))
    asked, few = request_for(plan, images), images.take(range(6))
    attacked = run_stages(asked.model, few, asked.threat, asked.plan, settings_in(tmp_path))
    names = ["fgsm", "fgsm (2)", "fgsm (3)", "pgd: fgsm", "pgd: pgd", "pgd (2): fgsm"]
    names += ["pgd (2): pgd", "mifgsm", "mifgsm (2)"]
    assert [stage.name for stage in attacked.stages] == names == list(attacked.toml)
    assert len({stage.title for stage in attacked.stages}) == len(names)
    assert "steps = 1\n" in attacked.toml["pgd: pgd"]
    assert "steps = 9\n" in attacked.toml["pgd (2): pgd"]
    assert list(attacked.plain) == [name for name in names if name.startswith("pgd")]
    assert counts.plain_claim(attacked).number is not None


@pytest.mark.parametrize("behind", ["itself", "the audited network"])
def test_whoever_met_fewer_attacks_is_named(images, behind):
    own, other = nothing_fooled(images), nothing_fooled(images)
    both = Stage("pgd", "PGD", "white box", True, "complete")
    further = Stage("square", "Square, 60 queries", "black box", False, "complete")
    own.stages, other.stages = [both, further], [both, further]
    assert counts.unlike(own, other, "itself") == ""
    for nobody in ([], [replace(both, status="failed")]):
        own.stages, other.stages = nobody, []
        assert counts.unlike(own, other, "itself") == "no attack completed on either network"
    own.stages, other.stages = [both, further], [both, further]
    fewer = other if behind == "itself" else own
    for stages in ([both], [both, replace(further, status="failed")]):
        fewer.stages = stages
        reason = f"{behind} was not attacked by Square, 60 queries"
        assert counts.unlike(own, other, "itself") == reason


@pytest.mark.thorough
def test_networks_that_did_not_meet_the_same_attacks_are_not_compared(plan, images, tmp_path):
    """A network beside itself, of whose two audits the second runs out of time."""
    same = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    parts = []

    def over():
        return parts.count("square") > 0

    policy = parse_policy(
        {"title": "gate", "require": [{"not_worse_than": "itself", "by_more_than": 1.0}]}, "gate"
    )
    asked = request_for(plan, images, against={"itself": same}, policy=policy)
    audit = run_audit(asked, settings_in(tmp_path, parts, over))
    (found,) = audit.comparisons
    assert (found.difference, found.verdict) == (None, "not tested")
    assert found.reason.startswith("itself was not attacked by ")
    (rule,) = audit.policy
    assert not rule.passed
    assert found.reason.rstrip(".") in rule.sentence


def test_what_is_written_validates_and_says_the_verdict_first(audited, tmp_path):
    _, _, audit, _ = audited
    written = write(audit, tmp_path)
    jsonschema.validate(json.loads(written.json.read_text()), schemas.AUDIT)
    page = written.page.read_text()
    assert page.index(audit.verdict.word) < page.index("Attacks")
    assert audit.verdict.word in written.card.read_text()


def test_an_audit_from_its_files_says_how_often_each_stage_asked_the_network(audited):
    asked, folder, audit, _ = audited
    again = run_audit(asked, settings_in(folder))
    first = {stage.name: (stage.forward, stage.backward) for stage in audit.stages}
    assert {stage.name: (stage.forward, stage.backward) for stage in again.stages} == first
    assert first["square"][0] > 1
    assert first["square"][1] == 0
    assert first["fgsm"][1] > 0


def test_nothing_is_done_twice_but_what_could_not_be_examined_is_tried_again(audited, monkeypatch):
    asked, folder, audit, _ = audited

    def refuse(*_, **__):
        raise AssertionError("done twice")

    monkeypatch.setattr("robustkit.evaluation.blocks.attack_block", refuse)
    monkeypatch.setattr("robustkit.auditing.run.certify_rising", refuse)
    monkeypatch.setattr("robustkit.auditing.run.smooth", refuse)
    monkeypatch.setattr("robustkit.corruption.measure", refuse)
    parts = []
    again = run_audit(asked, settings_in(folder, parts))
    tried = [p.removeprefix("indicator: ") for p in parts if p.startswith("indicator: ")]
    assert tried == [i.name for i in audit.indicators if not i.examined]
    nobody_gave = {
        "clean-accuracy",
        "training-overlap",
        "transfer-beats-direct",
        "noise-beats-gradient",
    }
    assert {i.name for i in audit.indicators if i.status == "not applicable"} == nobody_gave
    assert set(tried) == nobody_gave
    assert again.verdict == audit.verdict
    assert again.robust == audit.robust
    assert again.indicators == audit.indicators
    assert again.confusion == audit.confusion


WEAK = """
title      = "Weak"
images     = 24
delta      = 0.2
indicators = 8
certified  = 1
multiplications = 0
corrupted  = 1

[[stage]]
attack   = "{attack}"
budgets  = "all"
required = true
set      = {changes}
"""


@pytest.mark.thorough
def test_indicators_and_transfer_are_of_the_attack_that_the_audit_ran(images, tmp_path):
    plan = tmp_path / "weak.toml"
    changes = ["pgd.steps=2", "pgd.relative_step=1/100", "pgd.restarts=1"]
    plan.write_text(WEAK.format(attack="pgd", changes=changes))
    surrogate = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    asked = request_for(plan, images.take(range(3)), surrogate=surrogate)
    audit = run_audit(asked, settings_in(tmp_path / "out"))
    travel = next(r for r in audit.indicators if r.name == "short-travel")
    assert (travel.value, travel.status != "passed") == (0.02 / 2, True)
    assert "steps = 2\n" in audit.protocols["transfer"]
    assert 'relative_step = "1/100"' in audit.protocols["transfer"]


@pytest.mark.thorough
def test_other_numbers_of_the_plain_attack_are_other_parts_though_they_fool_the_same(
    images, tmp_path
):
    """Nothing survives 0.5, so that masks do not tell attacks apart."""
    steps = []
    for count in (4, 5, 4):
        plan = tmp_path / "plan.toml"
        plan.write_text(WEAK.format(attack="pgd", changes=[f"pgd.steps={count}"]))
        asked = request_for(plan, images.take(range(6)), judged="0.5")
        audit = run_audit(asked, settings_in(tmp_path / "out"))
        assert audit.survived.value == 0
        steps.append(next(r for r in audit.indicators if r.name == "short-travel").value)
    assert steps == [4 / 32, 5 / 32, 4 / 32]


@pytest.mark.thorough
def test_training_images_are_looked_for_again_until_they_are_there_and_when_they_change(
    audited, images, tmp_path
):
    asked, folder, _, _ = audited
    shutil.copytree(folder, tmp_path / "out")
    path, parts = tmp_path / "training.npz", []

    def write(count):
        np.savez(path, x_train=images.images(0, count), y_train=images.labels[:count])

    def overlap():
        parts.clear()
        request = replace(asked, training=TrainingImages(str(path)))
        audit = run_audit(request, settings_in(tmp_path / "out", parts))
        return next(i for i in audit.indicators if i.name == "training-overlap")

    assert overlap().status == "not applicable"
    write(3)
    assert overlap().value == 3 / 4
    assert overlap().value == 3 / 4
    assert "indicator: training-overlap" not in parts
    write(1)
    assert overlap().value == 1 / 4
    assert [p for p in parts if p.startswith("indicator: ")] == [
        "indicator: clean-accuracy",
        "indicator: training-overlap",
        "indicator: transfer-beats-direct",
        "indicator: noise-beats-gradient",
    ], "no other indicator asks for training images"
    path.unlink()
    assert overlap().status == "not applicable"


@pytest.mark.thorough
def test_accuracy_on_record_is_held_beside_that_of_as_many_images_as_it_is_of(images, tmp_path):
    plan, parts = tmp_path / "plan.toml", []
    plan.write_text(ATTACKS_ALONE.replace("indicators = 1", "indicators = 12"))
    known = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))

    def asked(count, name="mnist5k", recorded=0.1):
        parts.clear()
        told = SeenImages(name, "train", "another", count)
        header = {**known.header, "recorded_accuracy": recorded}
        model = replace(known, header=header, trained_on=told)
        audit = run_audit(request_for(plan, images, model=model), settings_in(tmp_path, parts))
        return next(i for i in audit.indicators if i.name == "clean-accuracy")

    assert asked(None).status == "not applicable"
    assert asked(400, "mnist").status == "not applicable"
    assert asked(400).status == "unresolved"
    assert "10.0\u00a0% of 400 held-out ones is on record" in asked(400).evidence
    assert not any(part.startswith("indicator: clean") for part in parts)
    assert asked(2).status == "passed"  # what so few say accuses nobody
    assert [part for part in parts if "accuracy" in part] == ["indicator: clean-accuracy"]


def test_claims_are_judged_whatever_was_asked(plan, images, audited, tmp_path):
    _, folder, audit, _ = audited
    high = request_for(plan, images, claim=parse_claim("linf:0.1=0.999"))
    found = run_audit(high, settings_in(folder))
    assert found.survived == audit.survived
    assert found.verdict.word == "overstated"
    assert found.verdict.by == pytest.approx(0.999 - audit.survived.high)


@pytest.mark.thorough
def test_a_model_without_gradients_fails_the_attacks_and_not_the_audit(plan, images, tmp_path):
    inner = read_checkpoint("lenet5-mnist5k").load(torch.device("cpu"))
    defended = evaluation.from_module(Before(Detached(), inner), "detached")
    audit = run_audit(request_for(plan, images, model=defended), settings_in(tmp_path))
    by_name = {s.name: s for s in audit.stages}
    assert by_name["pgd: pgd"].status == "failed"
    assert "no gradient" in by_name["pgd: pgd"].reason
    assert by_name["square"].status == "complete"
    assert audit.claim.number is None  # naive PGD would have said the accuracy without attack
    assert audit.survived.value < audit.clean.value  # square or an adaptive attack told better
    assert audit.verdict.word != "believable"


def on_the_diagonal(audit):
    """Share of the images that the confusion matrix counts as right."""
    table = np.array(audit.confusion)
    return np.trace(table) / table.sum()


@pytest.mark.thorough
def test_images_whose_smoothed_certificate_an_attack_breaks_are_told(
    plan, images, tmp_path, monkeypatch
):
    from robustkit.auditing import run

    def broken(*given, real=run.attack_smoothed):
        tried = real(*given)
        tried.contradicted[:2] = True
        return tried

    monkeypatch.setattr(run, "attack_smoothed", broken)
    audit = run_audit(request_for(plan, images), settings_in(tmp_path))
    (note,) = [text for text in audit.warnings if "smoothed classifier" in text]
    assert note.startswith("smoothed classifier: 2 of 4 images, certified, fell to an attack")
    smoothing = plans.load_plan(str(plan)).smoothing
    radii, alpha = len(smoothing.radii), smoothing.alpha
    assert f"{1 + radii} answers is wrong with a probability of {(1 + radii) * alpha:g}" in note


def test_what_breaks_a_smoothed_image_breaks_it_within_every_larger_radius():
    from robustkit.auditing.certified import smoothed_levels

    def tried(attacked, certified, contradicted):
        return AttackedSmoothed(np.array(attacked), np.array(certified), np.array(contradicted))

    levels, neither = smoothed_levels(
        {
            0.25: tried([False, True, False], [False, True, False], [True, False, False]),
            0.5: tried([True, True, True], [True, True, False], [False, False, False]),
        }
    )
    assert levels == [(0.25, 1, 1), (0.5, 1, 1)]
    assert neither.tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_no_shipped_plan_asks_for_a_radius_that_no_network_can_reach(name):
    smoothing = plans.load_plan(name).smoothing
    if smoothing is not None:
        unanimous = NormalDist().inv_cdf(smoothing.alpha ** (1 / smoothing.draws))
        assert max(smoothing.radii) < smoothing.sigma * unanimous


@pytest.mark.thorough
def test_minutes_end_an_audit_with_what_is_done(plan, images, tmp_path):
    calls = []

    def over():
        calls.append(0)
        return len(calls) > 1

    audit = run_audit(request_for(plan, images), settings_in(tmp_path, over=over))
    statuses = [s.status for s in audit.stages]
    assert "skipped" in statuses
    assert audit.verdict.word == "not established"
    assert any("time was up" in r for r in audit.verdict.reasons)
    assert "no smoothed classifier: the audit's time was up" in audit.warnings
    write(audit, tmp_path / "report")


@pytest.mark.thorough
def test_what_adaptive_attacks_fooled_counts_when_the_minutes_end_in_the_middle(images, tmp_path):
    plan = tmp_path / "gradients.toml"
    stages = PLAN[: PLAN.index('[[stage]]\nattack   = "square"')]
    plan.write_text(stages.replace("indicators = 4", "indicators = 8"))
    inner = read_checkpoint("lenet5-mnist5k").load(torch.device("cpu"))
    defended = evaluation.from_module(Before(Rounded(), inner), "rounded")
    parts = []

    def over():
        return "indicator: zero-gradients" in parts

    audit = run_audit(request_for(plan, images, model=defended), settings_in(tmp_path, parts, over))
    assert any(r.status == "not examined" and "time was up" in r.evidence for r in audit.indicators)
    assert any(r.adaptive_attack and r.after < r.before for r in audit.indicators)
    adaptive = next(s for s in audit.stages if s.name == "adaptive")
    assert adaptive.first > 0
    assert on_the_diagonal(audit) == audit.survived.value
    assert audit.survived == adaptive.so_far
    fooled = sum(stage.first for stage in audit.stages)
    assert fooled == round(24 * (audit.clean.value - audit.survived.value))


@pytest.mark.thorough
def test_what_worked_on_the_first_images_meets_all_others(images, tmp_path):
    """Of many images the first few would hardly show what an adaptive attack does to all."""
    plan = tmp_path / "gradients.toml"
    stages = PLAN[: PLAN.index('[[stage]]\nattack   = "square"')]
    plan.write_text(stages.replace("corrupted  = 4", "corrupted  = 1"))
    inner = read_checkpoint("lenet5-mnist5k").load(torch.device("cpu"))
    defended = evaluation.from_module(Before(Rounded(), inner), "rounded")
    asked = request_for(plan, images, model=defended, judged="0.15")
    audit = run_audit(asked, settings_in(tmp_path / "out"))
    adaptive = next(s for s in audit.stages if s.name == "adaptive")
    beyond = {name: n for name, n in adaptive.found_by.items() if name in TITLES}
    assert sum(beyond.values()) > 4
    assert audit.survived.value < 0.5 < audit.claim.accuracy
    assert on_the_diagonal(audit) == audit.survived.value
    # again, it is only read
    parts = []
    again = run_audit(asked, settings_in(tmp_path / "out", parts))
    assert again.verdict == audit.verdict
    assert again.confusion == audit.confusion
    assert not [part for part in parts if part.startswith("adaptive")]
    # cut short, it is said
    for kept in (tmp_path / "out").glob("adaptive-*.json"):
        kept.unlink()
    parts = []

    def over():
        return any(part.startswith("adaptive") for part in parts)

    cut = run_audit(asked, settings_in(tmp_path / "out", parts, over))
    assert any(
        "not every adaptive attack covered the images after the first 4" in w for w in cut.warnings
    )
    assert cut.survived.value > audit.survived.value


def test_an_adaptive_attack_that_breaks_off_costs_no_other(images, tmp_path, monkeypatch):
    class Sevens:
        taken_for = torch.full((24,), 7)

    def break_off(kind, context, rows):
        if kind == "margin":
            raise EvaluationFailed("logits are NaN or infinite")
        return torch.arange(len(rows)) % 2 == 0

    monkeypatch.setattr("robustkit.auditing.adaptive_stage.run_adaptive_attack", break_off)
    attacked, notes = nothing_fooled(images), []
    parts = Parts(
        tmp_path,
        evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k")),
        attacked.threat,
        torch.device("cpu"),
        None,
    )
    found = list(
        attack_rest(
            attacked,
            10,
            ["margin", "smoothing"],
            parts,
            lambda rows: Sevens,
            lambda *_: None,
            notes.append,
        )
    )
    assert found == [(images.ids[row], ("smoothing", 7)) for row in range(10, 24, 2)]
    (note,) = notes
    assert note.endswith("beyond the first 10 images: logits are NaN or infinite")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", [{"precision": "auto"}, {"precision": "bf16"}, {"device": "cpu,cpu"}]
)
def test_branch_and_bound_needs_neither_the_attacks_precision_nor_their_devices(
    images, tmp_path, options
):
    """It is float32's and on one device, whatever the attacks search in and on."""
    attacked, run = nothing_fooled(images), {"device": "cpu"} | options
    settings = replace(settings_in(tmp_path), options=evaluation.RunOptions(**run))
    model = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    level = {"robust": [False, False] + [True] * 22, "methods": {}}
    branch(model, attacked, {"reason": "", "levels": [level]}, 0.01, settings)
    (stage,) = attacked.stages
    assert (stage.name, stage.status, stage.reason) == (BRANCHING, "complete", "")


def test_what_branch_and_bound_proves_holds_at_every_smaller_budget(images, tmp_path):
    attacked = nothing_fooled(images, "0.0001", "0.0002")
    model = evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k"))
    levels = [
        {"robust": [True, False] + [True] * 22, "methods": {"interval": 23}, "lost": 0},
        {"robust": [False, False] + [True] * 22, "methods": {"interval": 22}, "lost": 1},
    ]
    kept = {"method": "interval bounds", "reason": "", "levels": levels}
    found = branch(model, attacked, kept, 60, settings_in(tmp_path))
    assert [level["robust"] for level in found["levels"]] == [[True] * 24] * 2
    assert [level["methods"] for level in found["levels"]] == [
        {"interval": 23, BRANCHING: 1},
        {"interval": 22, BRANCHING: 2},
    ]
    # the image that rounding alone had left open may be one of those that are proved now
    assert [level["lost"] for level in found["levels"]] == [0, None]
    assert found["method"] == "interval bounds, then branch and bound over the signs of ReLUs"
    assert levels[0]["methods"] == {"interval": 23}  # what is kept on file is of the bounds alone
    assert kept["method"] == "interval bounds"


@pytest.mark.thorough
def test_a_random_model_draws_alike_when_its_audit_is_repeated(images, tmp_path):
    plan = tmp_path / "fgsm.toml"
    plan.write_text(PLAN[: PLAN.index('[[stage]]\nattack   = "pgd"')])
    inner = read_checkpoint("lenet5-mnist5k").load(torch.device("cpu"))
    defended = evaluation.from_module(Before(Noisy(0.6), inner), "noisy")
    found = []
    for folder in ("one", "two"):
        asked = request_for(plan, images, model=defended)
        found.append(
            run_stages(defended, images, asked.threat, asked.plan, settings_in(tmp_path / folder))
        )
        torch.rand(1000)  # the user's own draws in between
    assert found[0].right.tolist() == found[1].right.tolist()
    assert found[0].survivors.tolist() == found[1].survivors.tolist()


@pytest.mark.thorough
def test_a_norm_that_a_stage_lacks_is_skipped_and_said(images, tmp_path):
    without = tmp_path / "without.toml"
    without.write_text(
        ATTACKS_ALONE.replace('"square"', '"mifgsm"').replace("queries=60", "steps=9")
    )
    audit = run_audit(request_for(without, images, norm="l2", judged="1"), settings_in(tmp_path))
    stage = next(s for s in audit.stages if s.name == "mifgsm")
    assert (stage.status, stage.reason) == ("skipped", "it has no l2 version")
    assert audit.verdict.word == "not established"


@pytest.mark.parametrize("norm", protocols.NORMS)
@pytest.mark.parametrize("name", plans.plan_names())
def test_a_shipped_plan_requires_nothing_that_a_norm_cannot_have(name, norm):
    plan = plans.load_plan(name)
    needed = [s for s in plan.stages if s.meant(norm) and s.required_in(norm)]
    assert all(norm in protocols.norms_of(spec.attack) for spec in needed)
    assert plans.out_of_reach(plan, norm) == []
    # nothing is weaker for it: of any network, and of one that draws at random, on averages
    attacks = [protocols.load_protocol(s.attack, s.set, norm).attacks for s in needed]
    found = {kind: [a for own in attacks for a in own if isinstance(a, kind)] for kind in GRADIENT}
    blind = [a for own in attacks for a in own if isinstance(a, BLACK_BOX)]
    if norm != "patch":
        assert blind
    if norm in protocols.BALLS:
        averaged = {a.loss for a in found[protocols.APGD] if a.eot > 1}
        assert {"cross-entropy", "dlr"} <= averaged
        assert any(spec.random for spec in needed)
    elif norm != "spatial":
        assert any(found.values())


GRADIENT = (protocols.APGD, protocols.PGD, protocols.SparsePGD, protocols.Patch)


def skipped(spec, norm, images):
    """The stage that a plan's stage leaves where the norm has no such attack."""
    attacked = replace(nothing_fooled(images), threat=ThreatModel(norm, *JUDGED))
    _StageRunner(None, attacked.threat, None, attacked, ()).protocol(spec, 1)
    return attacked


JUDGED = (parse_epsilon("0.2"), (parse_epsilon("0.1"), parse_epsilon("0.2")), 0)


@pytest.mark.parametrize(
    ("attack", "norm", "family", "kind"),
    [
        ("noise", "l1", "floor", "random"),
        ("hopskipjump", "l1", "black box", "black"),
        ("boundary", "linf", "black box", "black"),
        ("autoattack-plus", "l1", "white box", "black"),
        ("mifgsm", "l2", "white box", "black"),
    ],
)
def test_what_a_norm_cannot_have_is_said_and_required_unless_the_plan_knows(
    images, attack, norm, family, kind
):
    spec = plans.StageSpec(attack, "judged", required=True)
    attacked = skipped(spec, norm, images)
    (stage,) = attacked.stages
    assert (stage.status, stage.reason) == ("skipped", f"it has no {norm} version")
    assert (stage.family, stage.required) == (family, True)
    # nobody asked for it in this norm, so that an indicator that needs it does not apply
    assert kind not in counts.missing(attacked)
    has = protocols.norms_of(attack)
    plan = replace(plans.load_plan("quick"), name="own", stages=(spec,))
    assert plans.out_of_reach(plan, norm) == [
        f"the plan own requires {attack}, which has no {norm} version: no claim will be called "
        f"believable; where another stage does its work in {norm}, give it norms = "
        f"{json.dumps(has)}"
    ]
    knowing = replace(spec, norms=has)
    (stage,) = skipped(knowing, norm, images).stages
    assert (stage.status, stage.required) == ("skipped", False)
    assert plans.out_of_reach(replace(plan, stages=(knowing,)), norm) == []
    # where it has the norm and the plan does not want it there, there is nothing to say
    assert not replace(spec, norms=has[1:] or (norm,)).meant(has[0])


@pytest.mark.thorough
def test_a_network_that_draws_at_random_meets_averages_in_every_norm(images, tmp_path):
    stages = plans.load_plan("quick").stages
    for norm, epsilon, name in (("linf", "0.1", "autoattack-rand"), ("l1", "5", "losses")):
        # as the plan has them, in fewer steps
        own = [replace(s, set=(*s.set, "eot=2", "steps=12")) for s in stages if s.random]
        plan = tmp_path / "plan.toml"
        plan.write_text(PLAN)
        request = request_for(plan, images.take(range(2)), norm=norm, judged=epsilon)
        request = replace(request, plan=replace(request.plan, stages=tuple(own)))
        noisy = Before(Noisy(), read_checkpoint("lenet5-mnist5k").load())
        model = evaluation.from_module(noisy, "noisy")
        attacked = run_stages(
            model, request.data, request.threat, request.plan, settings_in(tmp_path)
        )
        ran = [s for s in attacked.stages if s.status == "complete"]
        assert ran
        assert all(s.name.startswith(name) and s.required for s in ran)
        assert all(not s.required for s in attacked.stages if s.status != "complete")


@pytest.mark.parametrize("name", plans.plan_names())
def test_every_shipped_plan_parses_and_names_protocols_that_exist(name):
    plan = plans.load_plan(name)
    assert plan.stages
    for spec in plan.stages:
        for norm in protocols.norms_of(spec.attack):
            assert protocols.load_protocol(spec.attack, spec.set, norm).norm == norm


ONE = '[[stage]]\nattack = "pgd"\nrequired = true\n'
STAGE = '[[stage]]\nattack = "pgd"\nrequired = true\n\n[[stage]]\nrequired = true'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("images = -1", "images must not be negative"),
        ("image = 3", "did you mean 'images'"),
        ("delta = 0.0", "delta must lie between 0 and 1, 0.05 for 5 points, got 0"),
        ("multiplications = -1", "multiplications must be a number from 0, 2e9 for example"),
        ("multiplications = inf", "multiplications: expected a finite number, got inf"),
        ("delta = 5.0", "delta must lie between 0 and 1, 0.05 for 5 points, got 5"),
        ('[[stage]]\nattack = {linf = "pgd"}\nrequired = true', "expected str"),
        ('[[stage]]\nattack = "pgd"\nrequired = true\nbudgets = "some"', "budgets"),
        (
            f'{STAGE}\nattack = "pgd"\n[thresholds]\nunbouned = 0',
            r"\[thresholds\]: .*did you mean 'unbounded'",
        ),
        (
            f'{STAGE}\nattack = "pgd"\n[thresholds]\nhalf = "much"',
            r"\[thresholds\]: half: expected",
        ),
        (f'{STAGE}\nattack = "autoatack"', r"\[\[stage\]\] 2: .*did you mean 'autoattack'"),
        (f'{STAGE}\nattack = "square"\nset = ["querys=9"]', r"\[\[stage\]\] 2: .*quer"),
        (f'{STAGE}\nattack = "square"\nset = ["queries=x"]', r"\[\[stage\]\] 2: .*queries"),
        (f'{STAGE}\nattack = "losses"\nset = ["larger_first=true", "steps=9"]', "at least 10"),
        (ONE + "[smoothing]", r"\[smoothing\]: the key 'images' is missing"),
        (ONE + "[smoothing]\nimages = -1\nsigma = 0.5\ndraws = 10", "images must not be negative"),
        (ONE + "[smoothing]\nimages = 1\nsigma = 0\ndraws = 10", "sigma must be above 0"),
        (ONE + "[smoothing]\nimages = 1\nsigma = 0.5\ndraws = 0", "draws must be 1 or more"),
        (
            ONE + "[smoothing]\nimages = 1\nsigma = 0.5\ndraws = 9\nalpha = 1.0",
            "alpha must lie between",
        ),
        (ONE + "[smoothing]\nimages = 1\nsigma = 0.5\ndraws = 9\nradii = [-0.25]", "radii must be"),
        (
            ONE + "[smoothing]\nimages = 1\nsigma = 0.25\ndraws = 1000\nradii = [0.5, 1.0]",
            "no network can be certified at radius 1: 1000 draws reach 0.616",
        ),
        (f'{STAGE}\nattack = "pgd"\nnorms = ["l3"]', r"2: norms: unknown norm 'l3'"),
        (f'{STAGE}\nattack = "mifgsm"\nnorms = ["l2"]', r"\[\[stage\]\] 2: .*l2"),
    ],
)
def test_a_plan_that_makes_no_sense_is_one_line(tmp_path, change, message):
    head = 'title = "x"\nimages = 1\ndelta = 0.05\nindicators = 1\ncertified = 1\n'
    head += "multiplications = 0\ncorrupted = 1\n"
    key = change.partition(" ")[0]
    if f"{key} = " in head:
        head = re.sub(f"^{key} = .*$", change, head, flags=re.MULTILINE)
    elif not change.startswith("["):
        head += change + "\n"
    tail = change if change.startswith("[") else '[[stage]]\nattack = "pgd"\nrequired = true'
    path = tmp_path / "p.toml"
    path.write_text(head + tail)
    with pytest.raises(InputError, match=message) as caught:
        plans.load_plan(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="standard"):
        plans.load_plan("standart")


@pytest.mark.parametrize(("norms", "refused"), [("", False), ('norms = ["l1"]', True)])
def test_what_changes_one_norms_attack_concerns_that_norm_alone(tmp_path, norms, refused):
    own = tmp_path / "own.toml"
    own.write_text(
        'title = "own"\nnorm = ["linf", "l1"]\n'
        '[[linf.attack]]\nkind = "pgd"\n[[l1.attack]]\nkind = "apgd"\n'
    )
    plan = tmp_path / "p.toml"
    plan.write_text(
        'title = "x"\nimages = 1\ndelta = 0.05\nindicators = 1\ncertified = 1\n'
        f'multiplications = 0\ncorrupted = 1\n[[stage]]\nattack = "{own}"\nrequired = true\n'
        f'set = ["pgd.steps=9"]\n{norms}\n'
    )
    with pytest.raises(InputError, match="pgd") if refused else nullcontext():
        plans.load_plan(str(plan))


def command(*arguments):
    line = [sys.executable, "-W", "ignore", "-m", "robustkit", "audit", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_gate_passes_and_fails_as_it_should(plan, tmp_path):
    gate, xml = tmp_path / "gate.toml", tmp_path / "junit.xml"
    common = ("lenet5-mnist5k", "--budget", plan, "--epsilon", "0.1", "--device", "cpu")
    common = (*common, "--out", tmp_path / "a", "--policy", gate, "--junit", xml)
    gate.write_text('title = "g"\n[[require]]\naccuracy = "clean"\nat_least = 0.5\n')
    passed = command(*common)
    assert passed.returncode == 0, passed.stderr
    gate.write_text('title = "g"\n[[require]]\nrobust = "linf:0.1"\nat_least = 0.999\n')
    failed = command(*common)
    assert failed.returncode == 1
    told = [line for line in failed.stderr.splitlines() if "policy" in line]
    assert len(told) == 1
    assert ElementTree.parse(xml).getroot().attrib["failures"] == "1"
    overstated = command(*common[:7], "--out", tmp_path / "a", "--claim", "linf:0.1=0.999")
    assert overstated.returncode == 0  # a verdict alone never fails the command
    assert "overstated" in overstated.stdout


@pytest.mark.slow
def test_the_gate_of_the_guide_is_green_on_its_network(tmp_path):
    text = (shipped("reports").parent / "docs/pages/guides/audit.md").read_text()
    (gate,) = re.findall(r"<!-- gate -->\n```toml\n(.*?)```", text, re.S)
    (line,) = re.findall(r"^robustkit audit (lenet5-mnist5k .*--policy gate.*)$", text, re.M)
    (tmp_path / "gate.toml").write_text(gate)
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "robustkit", "audit", *line.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert found.returncode == 0, found.stderr
    assert "is believable within 5 points: of 900 images" in found.stdout.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--claim", "linf:0.1"), "claim 'linf:0.1'"),
        (("--claim", "linf:0.1=2"), "between 0 and 1"),
        (("--claim", "linf:0.1=.5", "--claim-from", "x.json"), "give one of them"),
        (("--budget", "standart"), "did you mean 'standard'"),
        (("--budget", "0"), "above 0"),
        (("--junit", "x.xml"), "give --policy too"),
        (("--policy", "nothing.toml"), "nothing.toml"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(arguments, message, tmp_path):
    line = ["audit", "no-such-checkpoint", *arguments, "--out", str(tmp_path / "a")]
    with pytest.raises(InputError) as caught:
        app(line, standalone_mode=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def of_four(plan, images, tmp_path_factory):
    """An audit of four images with its parts on file: the question, the folder, the answer."""
    folder = tmp_path_factory.mktemp("of_four")
    asked = request_for(plan, images.take(range(4)))
    return asked, folder, run_audit(asked, settings_in(folder))


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["edited", "renamed", "unsealed", "cut"])
def test_a_part_on_file_that_is_not_what_was_written_is_worked_out_again(of_four, tmp_path, change):
    asked, folder, first = of_four
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.glob("corruptions-*.json")
    found = json.loads(path.read_text())
    found["right"] = [[4] * len(row) for row in found["right"]]
    if change == "unsealed":
        del found["content_digest"]
    elif change == "renamed":
        found = sealed({k: v for k, v in found.items() if k != "content_digest"} | {"file": "x"})
    path.write_text(json.dumps(found)[: -9 if change == "cut" else None])
    again = run_audit(asked, settings_in(tmp_path))
    assert again.corruptions == first.corruptions
    assert [note for note in again.warnings if path.name in note and "computed again" in note]
    assert not [
        note for note in run_audit(asked, settings_in(tmp_path)).warnings if path.name in note
    ]


@pytest.mark.thorough
def test_an_edited_audit_is_refused_and_one_of_an_earlier_version_is_read(audited, tmp_path):
    _, _, audit, _ = audited
    path = write(audit, tmp_path).json
    text = path.read_text()
    path.write_text(text.replace('"budget": "tiny"', '"budget": "thorough"'))
    with pytest.raises(RecordError, match="changed since it was written, by its own digest"):
        read_audit(path)
    table = json.loads(text)
    del table["content_digest"], table["files"]
    path.write_text(json.dumps(table))
    assert read_audit(path).budget == "tiny"


def test_the_schema_has_all_that_is_recorded_of_a_network():
    noise = {"training": {"data": {"train": {"noise": {"rate": "0.2", "realised": 0.19}}}}}
    known = {"weights_key": "ema", "label_noise": 0.19, "extra": noise}
    checkpoint = replace(read_checkpoint("lenet5-mnist5k"), **known)
    unreadable = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    unreadable.held = object()
    models = [
        evaluation.from_checkpoint(checkpoint, image_by_image=True),
        evaluation.from_module(unreadable, None, image_by_image=True),
    ]
    schema = {"$defs": schemas.AUDIT["$defs"], "$ref": "#/$defs/checkpoint"}
    for model in models:
        jsonschema.validate(json.loads(canonical(model.header | RULE)), schema)
    assert {"weights_key", "image_by_image", "asked_label_noise"} <= models[0].header.keys()
    assert "network" in models[1].header


def test_a_refusal_to_certify_is_asked_again(tmp_path):
    """What its message tells to switch off is in no key."""
    parts = Parts(
        tmp_path,
        evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k")),
        SimpleNamespace(judged=parse_epsilon("0.1", ""), norm="linf", seed=0),
        torch.device("cpu"),
        None,
    )
    key = parts.key("certificate", SimpleNamespace(digest="d"))
    answers = iter([{"reason": "no memory", "levels": []}, {"reason": "", "levels": [1]}])
    parts.store(key, {"reason": "of an earlier version", "levels": []})
    found = [parts.part(key, lambda: next(answers)) for _ in range(3)]
    assert [one["reason"] for one in found] == ["no memory", "", ""]
    assert found[1] == found[2]
