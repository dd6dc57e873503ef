"""Every broken defence is caught and undone; sound networks are left in peace."""

import math
import re
import tomllib
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.contexts import attacked_context
from helpers.defences import (
    After,
    BatchNormalised,
    Before,
    Climbing,
    Detached,
    Jpeg,
    Noisy,
    NotANumber,
    Resized,
    Rounded,
    RoundedInline,
    Scaled,
    Shattered,
    WinnersLeNet,
)
from torch import nn

import robustkit
from robustkit import protocol as protocols
from robustkit.auditing import adaptive
from robustkit.auditing.ascent import (
    GradientView,
    LossTrajectory,
    averaged_gradient,
    run_ascent,
)
from robustkit.auditing.context import AuditContext, Effort
from robustkit.auditing.indicators import INDICATORS, settled
from robustkit.auditing.indicators.run import IndicatorRun, run_indicators
from robustkit.auditing.straight_through import blocked, straight_through
from robustkit.auditing.thresholds import checked
from robustkit.auditing.trained import all_seen
from robustkit.checkpoint import read_checkpoint
from robustkit.data import from_arrays, load_dataset
from robustkit.errors import InputError
from robustkit.evaluation.model import SeenImages
from robustkit.models.lenet5 import LeNet5
from robustkit.protocol import FGSM, PGD
from robustkit.seeding import seeded

N = 10
NAMES = [indicator.name for indicator in INDICATORS]
SHIPPED = checked({}, "thresholds.toml")
QUICK = Effort(steps=20, restarts=1, draws=4, queries=200, passes=5)
WHOLE = Effort(steps=20, restarts=2, draws=6, queries=600, passes=5)
PLAIN = replace(
    protocols.load_protocol("pgd"),
    attacks=(FGSM(), PGD(20, Fraction(1, 8), 1)),
    epsilons=(protocols.parse_epsilon("0.2"),),
)


@pytest.fixture(scope="module")
def network():
    path = robustkit.files.shipped("data") / "lenet5-mnist5k.safetensors"
    return read_checkpoint(path).load(torch.device("cpu"))


@cache
def shipped(count):
    found = load_dataset("mnist5k", limit=count)
    return torch.from_numpy(found.images(0, count)), torch.from_numpy(found.labels), found.ids


@pytest.fixture(scope="module")
def digits():
    return shipped(N)


def make(model, protocol=PLAIN, epsilon="", count=N, **known):
    known = {"effort": QUICK, **known}
    return attacked_context(model, *shipped(count), protocol, epsilon, **known)


@pytest.fixture(scope="module")
def undefended(network):
    """Whom the plain attack does not fool without a defence."""
    return make(network, count=2 * N).plain


def examined(context, names=NAMES, known=()):
    """Runs of these indicators, by name, but for those of an interrupted audit."""
    others = {n: IndicatorRun(None) for n in NAMES if n not in names}
    runs = {}
    run_indicators(
        context,
        SHIPPED,
        {**others, **dict(known)},
        lambda indicator: None,
        lambda run: runs.update({run.result.name: run}),
    )
    return runs


def only(context, *names):
    """Examine some indicators; the results by name, and what is left."""
    runs = examined(context, names)
    for name, run in runs.items():
        if name not in OF_STAGES:
            taken_for_another_class(context, run.fooled)
    fooled = {i for run in runs.values() for i in run.fooled}
    left = context.plain & torch.tensor([i not in fooled for i in context.ids])
    return {name: run.result for name, run in runs.items()}, left


OF_STAGES = ("transfer-beats-direct", "noise-beats-gradient", "black-beats-white")


def taken_for_another_class(context, fooled):
    """Whatever was fooled is known to be taken for a class that it is not of."""
    labels = dict(zip(context.ids, context.labels.tolist(), strict=True))
    assert all(label not in (-1, labels[image]) for image, label in fooled.items()), fooled


def lenet(network):
    return next(m for m in network.modules() if isinstance(m, LeNet5))


# --- broken defences --------------------------------------------------------------------------


DEFENCES = {
    "detached": (lambda net: Before(Detached(), net), ["zero-gradients"]),
    "rounded": (lambda net: Before(Rounded(), net), ["zero-gradients", "unbounded", "half"]),
    "rounded by integers": (RoundedInline, ["zero-gradients"]),
    "jpeg": (lambda net: Before(Jpeg(), net), ["zero-gradients", "unbounded", "half"]),
    "scaled": (
        lambda net: After(Scaled(), net),
        ["zero-gradients", "saturated-loss", "logit-scale", "larger-epsilon", "unbounded", "half"],
    ),
    "resized": (lambda net: Before(Resized(), net), ["random-model"]),
    "noisy": (lambda net: Before(Noisy(), net), ["random-model"]),
    "winners take all": (lambda net: WinnersLeNet(lenet(net)), ["unstable-predictions"]),
    "shattered": (lambda net: Before(Shattered(), net), ["single-beats-iterative"]),
    "probabilities": (
        lambda net: After(nn.Sequential(Scaled(20), nn.Softmax(1)), net),
        ["probabilities", "zero-gradients"],
    ),
    "batch norm": (
        lambda net: Before(BatchNormalised(), net),
        ["batch-size", "batch-neighbours"],
    ),
    "not a number": (lambda net: Before(NotANumber(), net), ["nan-gradients"]),
    "climbing": (lambda net: Climbing(net), ["dynamic-model"]),
}


RANDOM = ("resized", "noisy")
"""draw, so that the plain attack asks again what fools: at 0.2 it leaves next to nothing to undo"""
SLOW = ("climbing", "jpeg", "rounded by integers", "noisy")
"""three times the passes; "rounded" in another shape; as `Inline` below; random as "resized" is"""
MORE = ("noisy", "batch norm", "not a number", "climbing")
"""of which ten images show too little"""


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in DEFENCES]
)
def test_a_broken_defence_is_caught_and_undone(name, network, undefended):
    build, expected = DEFENCES[name]
    context = make(
        build(network),
        epsilon="0.15" if name in RANDOM else "",
        count=2 * N if name in MORE else N,
        effort=WHOLE if name == "climbing" else QUICK,
    )
    results, left = only(context, *expected)
    for result in results.values():
        assert result.status == "unresolved", result
        assert result.adaptive_attack
        assert result.before > result.after
    # without the defence nothing survives at 0.2
    assert not undefended.any()
    gained = float(context.plain.double().mean() - left.double().mean())
    assert gained >= 0.05, (gained, results)
    # climbing takes back a quarter of the budget in truth
    assert float(left.double().mean()) <= (0.35 if name == "climbing" else 0.25), results
    assert not (left & ~context.plain).any()


@pytest.mark.thorough
def test_a_sound_network_is_left_in_peace(network):
    context = make(network, PLAIN, "0.05", recorded_accuracy=0.965)
    assert context.plain.double().mean() >= 0.85
    peaceful(context)


def peaceful(context):
    """Nothing stays unresolved, and whatever can be looked at is."""
    found = [run.result for run in examined(context).values()]
    assert {r.status for r in found} <= {"passed", "resolved", "not applicable"}, [
        r for r in found if r.status == "unresolved"
    ]
    assert not any(" failed: " in r.evidence for r in found)
    assert [r.name for r in found] == NAMES
    apart = {r.name for r in found if r.status == "not applicable"}
    assert apart - {"clean-accuracy"} == {
        "training-overlap",
        "transfer-beats-direct",
        "black-beats-white",
    }


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", ["0.05", "0.1"])
def test_what_survives_the_shipped_protocol_is_left_in_peace(network, epsilon):
    found = load_dataset("mnist5k", limit=100)
    images, labels = torch.from_numpy(found.images(0, 100)), torch.from_numpy(found.labels[:100])
    peaceful(attacked_context(network, images, labels, found.ids, "pgd", epsilon))


@pytest.mark.slow
def test_adversarial_training_is_left_in_peace():
    """A network that is robust indeed, though trained for no more than some hundred updates."""
    train, test = load_dataset("mnist5k", split="train"), load_dataset("mnist5k", limit=100)
    images, labels = (torch.from_numpy(t) for t in (train.images(0, len(train)), train.labels))
    with seeded(0, torch.device("cpu")):
        model = LeNet5()
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        for update in range(500):
            rows = torch.randint(0, len(images), (64,))
            x, y = images[rows], labels[rows]
            radius = 0.1 * min(1.0, update / 200)
            at = x + radius * (2 * torch.rand_like(x) - 1)
            for _ in range(5):
                at.requires_grad_()
                (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(at), y), at)
                at = at.detach() + radius / 2 * g.sign()
                at = at.clamp(x - radius, x + radius).clamp(0, 1)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(at), y).backward()
            optimiser.step()
    model.requires_grad_(False).eval()
    images, labels = torch.from_numpy(test.images(0, 100)), torch.from_numpy(test.labels[:100])
    context = attacked_context(model, images, labels, test.ids, "pgd", "0.1")
    assert context.plain.double().mean() > 0.75
    peaceful(context)


# --- published definitions ----------------------------------------------------------------------


def pintor(loss):
    """incomplete_optimization_indicator, transcribed."""
    loss = loss.copy()
    if loss.max() != 0:
        loss -= loss.min()
        loss /= loss.max()
    lowest = loss[0]
    for i in range(len(loss)):
        if loss[i] < lowest:
            lowest = loss[i]
        else:
            loss[i] = lowest
    last = loss[-min(len(loss), 10) :]
    return last.max() - last.min()


@pytest.mark.parametrize("steps", [3, 10, 41])
def test_incomplete_optimisation_is_that_of_pintor(steps):
    losses = np.random.default_rng(steps).normal(size=(50, steps)).cumsum(1)
    ours = settled(torch.from_numpy(losses))
    assert ours.numpy() == pytest.approx([pintor(row) for row in losses], abs=1e-12)


def test_incomplete_optimisation_on_losses_made_up():
    falling = torch.linspace(1, 0, 41).double()
    assert settled(falling[None]).item() == pytest.approx(9 / 40)
    early = torch.cat([torch.linspace(1, 0, 20), torch.zeros(21)]).double()
    assert settled(early[None]).item() == 0
    assert settled(torch.full((1, 12), 3.0)).item() == 0


class Answers(nn.Module):
    """Fixed answers, one after the other."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.asked = answers, 0

    def forward(self, x):
        self.asked += 1
        answer = torch.tensor(self.answers[self.asked % len(self.answers)])
        return answer.expand(len(x), len(answer)) + 0 * x.flatten(1).sum(1, keepdim=True)


def bare(model, n=4, norm="linf", epsilon="0.1", images=None, labels=None, **known):
    """A context of which everything survived."""
    images = (
        torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        if images is None
        else images
    )
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    all_right = torch.ones(len(images), dtype=torch.bool)
    protocol = replace(PLAIN, norm=norm, epsilons=(protocols.parse_epsilon(epsilon),))
    ids = tuple(f"{i}:0" for i in range(len(images)))
    return AuditContext(
        model, images, labels, ids, protocol, all_right, all_right, **{"effort": QUICK, **known}
    )


def seen(context, name):
    indicator = next(i for i in INDICATORS if i.name == name)
    evidence = indicator.look(context, SHIPPED[name])
    return evidence.value, indicator.fired(evidence.value, SHIPPED[name])


def test_random_models_by_autoattacks_measure():
    value, fired = seen(bare(Answers([3.0, 0.0], [0.0, 4.0])), "random-model")
    assert fired
    assert value == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "outputs",
    [
        [[3.0, 0.0], [4.0, 0.0]],  # of one direction, and equally many right
        [[3.0, 0.0, -1e9], [0.0, 4.0, -1e9]],  # a masked class
        [[3.0, 0.0, 1.0, -1e9], [2.0, 0.0, 1.5, -1e9]],  # that leaves all predictions alone
        [[1e5 + 3, 1e5], [1e5 + 2, 1e5]],  # an offset of all logits
    ],
)
def test_random_models_that_autoattacks_measure_does_not_see(outputs):
    context = bare(Answers(*outputs))
    assert context.is_random
    value, fired = seen(context, "random-model")
    assert fired
    assert value > 0.1


def test_models_that_answer_alike_are_not_random():
    for offset in (0.0, 1e5, -1e9):
        context = bare(Answers([3.0, 0.0, offset]))
        assert not context.is_random
        assert seen(context, "random-model") == (0, False)


@pytest.mark.parametrize(
    ("outputs", "fired"),
    [
        ([0.7, 0.3], True),
        ([1.000001, -0.000001], True),
        ([1.0001, -0.0001], False),
        ([0.7, 0.2], False),
        ([5.0, -4.0], False),
    ],
)
def test_probabilities_by_autoattacks_measure(outputs, fired):
    assert seen(bare(Answers(outputs)), "probabilities")[1] is fired
    x = torch.tensor(outputs, dtype=torch.float64)
    assert fired == bool(x.max() < 1 + 1e-5 and x.min() > -1e-5 and abs(x.sum() - 1) < 1e-5)


def test_unstable_predictions_count_relative_changes():
    assert seen(bare(Answers([1.0, 0.0])), "unstable-predictions") == (0, False)
    value, fired = seen(bare(Answers([0.0, 50.0], [50.0, 0.0])), "unstable-predictions")
    assert fired
    assert value == 1  # capped


def said(context, name, threshold):
    """What an indicator sees, in words."""
    return next(i for i in INDICATORS if i.name == name).look(context, threshold).sentence


def test_shares_that_differ_and_small_ones_are_told_as_such():
    n, none = 2500, torch.zeros(2500).bool()
    context = replace(bare(Answers([1.0, 0.0]), n=n), fgsm=torch.arange(n) >= 1250)
    falling = torch.arange(3 * n).reshape(n, 3).double()
    path = LossTrajectory(torch.arange(n), none[:, None], falling, torch.arange(n) < 1249)
    context.once("trajectory", lambda: path)
    told = "robust accuracy is 50.04\u00a0% after all steps and 50.00\u00a0% after one"
    assert said(context, "single-beats-iterative", 0) == told
    told = said(context, "incomplete-optimisation", 0.004)
    assert told.startswith(
        f"for {n} of {n} survivors the loss still changed by more than 0.4\u00a0%"
    )
    changing = bare(Answers([1.0, 0.0], [1.0, 0.01]))
    assert re.search(
        "by 0\\.[1-9]\\d*\u00a0% on average", said(changing, "unstable-predictions", 0)
    )


def test_recorded_accuracy_by_an_exact_test():
    """Fisher's: given how many of both samples are right, how many of one are is hypergeometric."""
    from scipy.stats import hypergeom

    context = bare(Answers([1.0, 0.0]), n=20, recorded_accuracy=0.8, recorded_images=50)
    value, fired = seen(context, "clean-accuracy")
    chances = hypergeom(70, 60, 20).pmf(np.arange(21))
    assert value == pytest.approx(chances[chances <= chances[20] * (1 + 1e-9)].sum())
    assert not fired
    assert seen(replace(context, recorded_accuracy=0.6), "clean-accuracy")[1]


@pytest.mark.parametrize("images", [None, 0])
def test_an_accuracy_of_nobody_knows_how_many_images_accuses_nobody(images):
    context = bare(Answers([1.0, 0.0]), n=20, recorded_accuracy=0.1, recorded_images=images)
    result = only(context, "clean-accuracy")[0]["clean-accuracy"]
    assert result.status == "not applicable"
    assert "10.0\u00a0% is on record" in result.evidence


@pytest.mark.parametrize("truth", [0.8, 0.97])
def test_a_sound_network_is_accused_in_one_of_a_hundred_audits_at_most(truth):
    """What is on record is a sample's accuracy, too, as is the one that is found."""
    rng, n, held_out, draws = np.random.default_rng(0), 200, 400, 150
    context = bare(Answers([1.0, 0.0]), n=n, recorded_images=held_out)
    accused = 0
    for _ in range(draws):
        right = torch.arange(n) < int(rng.binomial(n, truth))
        recorded = rng.binomial(held_out, truth) / held_out
        asked = replace(context, clean_right=right, recorded_accuracy=recorded)
        accused += INDICATORS[0].look(asked, 0.01).value < 0.01
    assert accused <= 4  # more would come in one of a hundred such tests
    assert INDICATORS[0].name == "clean-accuracy"


def test_images_that_the_record_says_were_trained_on_are_all_seen():
    """Their ids may not be to be had, or not be those of the split that was trained on."""
    for ids in (None, frozenset({"9:0"})):
        context = bare(Answers([1.0, 0.0]), n=4, training_ids=lambda ids=ids: ids, all_seen=True)
        result = only(context, "training-overlap")[0]["training-overlap"]
        assert (result.status, result.value, result.after) == ("unresolved", 1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "split", "digest", "stem", "whole", "seen_all"),
    [
        ("mnist", "train", "d", "mnist", "", False),
        ("mnist5k", "test", "d", "mnist5k", "mnist", True),  # these very images
        ("images", "all", "d", "images", "", False),  # a name that others have, too
        ("images", "all", "own", "images", "", True),
        ("mnist", "train", "d", "mnist", "mnist", True),  # a set that has all of these
        (None, "", "", "mnist", "mnist", True),  # another program's record
        (None, "", "", "mnist5k", "mnist", False),
        (None, "", "", None, "mnist", False),
        (None, "", "", None, None, False),
    ],
)
def test_what_a_record_says_of_the_audited_images(name, split, digest, stem, whole, seen_all):
    images = replace(load_dataset("mnist5k", limit=2), source={"all_training_images_of": whole})
    own = images.digest if digest == "own" else digest
    told = None if name is None else SeenImages(name, split, own)
    assert (
        all_seen(SimpleNamespace(header={"trained_on": stem}, trained_on=told), images) is seen_all
    )


def test_images_that_an_audit_shuffles_are_known_as_those_that_were_trained_on_as_given():
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2)
    given = from_arrays(images, np.array([0, 0, 1, 1, 2, 2]), name="mine")
    audited = given.shuffled()
    assert audited.ids != given.ids
    assert SeenImages("mine", "all", given.digest).are(audited)
    assert not SeenImages("mine", "all", given.take(range(5)).digest).are(audited)


def test_training_images_are_told_and_left_out():
    context = bare(Answers([1.0, 0.0]), n=4, training_ids=lambda: frozenset({"2:7", "9:0"}))
    context = replace(context, plain=torch.tensor([False, False, True, False]))
    result = only(context, "training-overlap")[0]["training-overlap"]
    assert result.value == 0.25
    assert (result.before, result.after) == (0.25, 0)
    # one image of four is within the doubt that a single image is given
    assert result.status == "resolved"


class Nearest(nn.Module):
    """The class of the nearest of two images."""

    def __init__(self, images):
        super().__init__()
        self.register_buffer("images", images.flatten(1))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.images)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_classifier_is_right_around_images_of_two_classes_that_are_near(norm):
    images = torch.stack([torch.full((1, 4, 4), 0.4), torch.full((1, 4, 4), 0.6)])
    apart = {"linf": 0.2, "l2": 0.8, "l1": 3.2}[norm]
    context = bare(
        Nearest(images),
        norm=norm,
        epsilon=str(apart * 0.51),
        images=images,
        labels=torch.tensor([0, 1]),
    )
    assert not context.fooled_at(images, torch.arange(2)).any()
    assert seen(context, "other-class") == (1, True)
    assert adaptive.run_adaptive_attack("midpoints", context, torch.arange(2)).sum() == 1
    smaller = replace(context.protocol, epsilons=(protocols.parse_epsilon(str(apart * 0.49)),))
    assert seen(replace(context, protocol=smaller), "other-class") == (0, False)


@pytest.mark.parametrize(
    ("attacks", "value"),
    [
        ((PGD(40, Fraction(1, 16)),), 1.25),
        ((PGD(10, Fraction(1, 40), random_start=False),), 0.25),
        ((FGSM(),), 0),
    ],
)
def test_travel(attacks, value):
    context = bare(Answers([1.0, 0.0]))
    context = replace(context, protocol=replace(context.protocol, attacks=attacks))
    assert seen(context, "short-travel") == (value, value < 1)


@pytest.mark.parametrize("kind", ["random", "black", "transfer"])
def test_other_attacks_that_find_more(kind):
    name = {"random": "noise-beats-gradient", "black": "black-beats-white"}.get(
        kind, "transfer-beats-direct"
    )
    context = replace(
        bare(Answers([1.0, 0.0]), n=4), **{kind: torch.tensor([True, True, False, False])}
    )
    results, left = only(context, name)
    assert results[name].value == 0.5
    assert results[name].status == "unresolved"
    assert (results[name].before, results[name].after) == (1, 0.5)
    assert left.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("images", "status"),
    # 0.002 of 600 images are 1.2, and half a point of 600 images are 3
    [(1, "passed"), (2, "resolved"), (3, "unresolved"), (10, "unresolved")],
)
def test_a_finding_of_half_a_point_is_not_resolved(images, status):
    context = replace(bare(Answers([1.0, 0.0]), n=600), random=torch.arange(600) >= images)
    results, left = only(context, "noise-beats-gradient")
    assert results["noise-beats-gradient"].status == status
    assert results["noise-beats-gradient"].value == images / 600
    # what was fooled counts as fooled, whether or not the indicator fired
    assert left.sum() == 600 - images


@pytest.mark.parametrize(
    ("white", "status"),
    # half a point of 400 images are 2: no white-box stage, and such as missed so many
    [(None, "unresolved"), (0, "resolved"), (1, "resolved"), (2, "unresolved"), (9, "unresolved")],
)
@pytest.mark.parametrize("name", ["saturated-loss", "logit-scale", "zero-gradients", "unbounded"])
def test_an_indicator_asks_what_all_white_box_attacks_missed(monkeypatch, name, white, status):
    """That the plain evaluation fails where others on other losses succeed is no doubt of them."""
    found = {kind: lambda context, rows: rows < 9 for kind in adaptive._ATTACKS}
    monkeypatch.setattr(adaptive, "_ATTACKS", found)
    context = bare(Answers([1000.0, 0.0]), n=400)
    if white is not None:
        context = replace(context, white=torch.arange(400) >= 9 - white)
    run = examined(context, [name])[name]
    result = run.result
    assert result.status == status
    before = 1 if white is None else 1 - (9 - white) / 400
    assert (result.before, result.after) == pytest.approx((before, 1 - 9 / 400))
    told = "the plain evaluation left 100"
    assert (told in result.evidence) == (white not in (None, 9))
    assert len(run.fooled) == (9 if white is None else white)


@pytest.mark.parametrize("kind", ["black", "transfer"])
@pytest.mark.parametrize(
    ("images", "status"),
    [(1, "passed"), (2, "resolved"), (3, "unresolved"), (10, "unresolved")],
)
@pytest.mark.parametrize("norm", ["l0", "patch", "spatial"])
def test_outside_the_balls_what_an_attack_finds_decides(norm, kind, images, status):
    """No adaptive attack is made for them, and half a point is no more there than elsewhere."""
    name = {"black": "black-beats-white", "transfer": "transfer-beats-direct"}[kind]
    context = off_the_balls(norm, n=600, **{kind: torch.arange(600) >= images})
    results, left = only(context, name)
    asked = not (norm == "spatial" and kind == "black")
    assert results[name].status == (status if asked else "not applicable")
    assert left.sum() == (600 - images if asked else 600)
    if results[name].status in ("resolved", "unresolved"):
        assert results[name].adaptive_attack == ""
        assert "no adaptive attack is made for" in results[name].evidence


@pytest.mark.parametrize("name", ["zero-gradients", "random-model", "larger-epsilon"])
def test_outside_the_balls_what_is_no_attack_stays_unresolved(name):
    network = Answers([1.0, 0.0]) if name != "random-model" else Dithering()
    result = only(off_the_balls("l0", network), name)[0][name]
    assert (result.status, result.adaptive_attack) == ("unresolved", "")


class Dithering(nn.Module):
    """Right, by logits of chance."""

    def forward(self, x):
        return torch.tensor([[5.0, 0.0]]) + torch.rand(len(x), 2)


def off_the_balls(norm, network=None, n=40, **masks):
    shelf, size = {"l0": ("sparse", "5"), "patch": ("patch", "2")}.get(norm, ("spatial", "9deg"))
    plain = protocols.load_protocol(shelf, norm=norm)
    plain = replace(plain, epsilons=(protocols.parse_epsilon(size),))
    known = {"effort": QUICK, **masks}
    return replace(bare(network or Answers([1.0, 0.0]), n=n), protocol=plain, **known)


class Sure(nn.Module):
    """Right by a margin that no budget crosses; with gradients, unless they are refused."""

    def __init__(self, gradients):
        super().__init__()
        self.gradients = gradients

    def forward(self, x):
        if torch.is_grad_enabled() and not self.gradients:
            raise RuntimeError("no backward pass here")
        brightness = x.flatten(1).mean(1)
        return torch.stack([5 + brightness, -5 - brightness], 1)


def test_an_adaptive_attack_that_broke_off_resolves_nothing():
    def short_travel(model):
        """The indicator doubts every image, and longer attacks answer it."""
        short = (PGD(10, Fraction(1, 40), random_start=False),)
        context = bare(model)
        context = replace(context, protocol=replace(context.protocol, attacks=short))
        return only(context, "short-travel")[0]["short-travel"]

    assert short_travel(Sure(gradients=True)).status == "resolved"
    broken = short_travel(Sure(gradients=False))
    assert broken.status == "unresolved"
    assert "failed: the network failed on images of shape 1×4×4" in broken.evidence
    assert broken.evidence.endswith("no backward pass here")


# --- gradients straight through -------------------------------------------------------------------


class Inline(nn.Module):
    """Ways to lose a gradient inside `forward`."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how
        self.requires_grad_(False).eval()

    def forward(self, x):
        match self.how:
            case "round_":
                x = (x * 8).round_() / 8
            case "no_grad":
                with torch.no_grad():
                    x = x * 1.0
            case "data":
                x = x.data
            case "quantised":
                x = torch.quantize_per_tensor(x, 1 / 8, 0, torch.quint8).dequantize()
            case "remainder":
                x = x - x % 0.125
            case "floor division":
                x = torch.div(x, 0.125, rounding_mode="floor") * 0.125
            case "shift":
                x = (((x * 255).to(torch.uint8) >> 5) << 5).to(x) / 255
            case "threshold":
                x = (x > 0.5).float()
            case "where":
                x = torch.where(x > 0.5, 1.0, 0.0)
        return self.network(x)


INLINE = [
    "round_",
    "no_grad",
    "data",
    "quantised",
    "remainder",
    "floor division",
    "shift",
    "threshold",
    "where",
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("how", INLINE)
def test_inline_operations_are_passed_straight_through(how, network, digits):
    images, labels, _ = digits
    model = Inline(network, how)
    context = bare(
        model, images=images, labels=labels, epsilon="0.3" if how in INLINE[-2:] else "0.2"
    )
    with straight_through(blocked(model, images[:8]), how in INLINE[-2:]):
        seen = model(images.clone().requires_grad_())
    assert seen.requires_grad
    assert torch.equal(seen.detach(), model(images))
    fooled = run_ascent(context, GradientView(straight_through=True), torch.arange(N), 20, 1)
    # black and white digits are hard to change by 0.3, whichever the gradient
    assert fooled.double().mean() >= (0.2 if how in INLINE[-2:] else 0.5)


@pytest.mark.parametrize("name", DEFENCES)
def test_going_forward_nothing_changes_by_a_bit(name, network, digits):
    model, images = DEFENCES[name][0](network), digits[0]
    modules = blocked(model, images[:8])
    torch.manual_seed(1)
    plain = model(images)
    for comparisons in (False, True):
        torch.manual_seed(1)
        with straight_through(modules, comparisons):
            assert torch.equal(model(images.clone().requires_grad_()).detach(), plain)
    assert not any(m._forward_hooks for m in model.modules())


def test_rounding_has_the_gradient_of_the_network_behind_it(network, digits):
    images, labels, _ = digits
    context = bare(Before(Rounded(), network), images=images, labels=labels)
    behind = bare(network, images=(images * 8).round() / 8, labels=labels)
    _, _, ours = averaged_gradient(
        context, GradientView(straight_through=True), context.images, torch.arange(N), "margin"
    )
    _, _, theirs = averaged_gradient(
        behind, GradientView(), behind.images, torch.arange(N), "margin"
    )
    assert torch.equal(ours, theirs)
    assert ours.any()


def test_only_what_lets_no_gradient_through_is_bypassed(network, digits):
    assert blocked(network, digits[0][:8]) == []
    model = Before(nn.Sequential(nn.Identity(), Jpeg()), network)
    assert blocked(model, digits[0][:8]) == [model.defence]


# --- verdicts ----------------------------------------------------------------------------------


def test_a_success_outside_ball_or_box_is_none(network, digits):
    images, labels, _ = digits
    context = bare(network, images=images, labels=labels, epsilon="0.1")
    rows = torch.arange(len(images))[~context.fooled_at(images, torch.arange(len(images)))]
    far = torch.zeros_like(images[rows])
    assert not context.fooled_at(far, rows).any()
    assert context.fooled_at(images[rows] - 0.1, rows).sum() == 0  # below 0
    assert (network(far).argmax(1) != labels[rows]).any()


def test_random_models_are_judged_by_majority():
    # right in four passes of five, then in one of five
    mostly = bare(Answers([1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]))
    seldom = bare(Answers([0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]))
    rows = torch.arange(4)
    assert mostly.is_random
    assert not mostly.fooled_at(mostly.images, rows).any()
    assert seldom.is_random
    assert seldom.fooled_at(seldom.images, rows).all()


def test_a_random_model_takes_a_fooled_image_for_the_most_frequent_other_class():
    first, second, third = ([float(k == i) for k in range(3)] for i in range(3))
    context = bare(Answers(second, third, first, third, second))
    context = replace(context, effort=Effort(passes=5))
    rows = torch.arange(4)
    assert (context.taken_for == -1).all()
    assert context.fooled_at(context.images, rows).all()
    assert set(context.taken_for.tolist()) <= {1, 2}
    context = replace(context, model=Answers(second, third, first, third, third))
    assert context.fooled_at(context.images[:2], rows[:2]).all()
    assert context.taken_for.tolist() == [2, 2, -1, -1]


def test_the_documentation_says_when_an_indicator_is_resolved():
    """As the code has it: one image is never too many."""
    pages = robustkit.files.shipped("reports").parent / "docs/pages"
    told = [(pages / name).read_text() for name in ("guides/audit.md", "concepts/indicators.md")]
    guide, concept = (" ".join(text.split()) for text in told)
    assert "lowered robust accuracy by 0.5 points or more and by more than one image" in guide
    assert "lowered robust accuracy by less than 0.5 points, or by one image" in concept


def test_success_at_other_budgets_is_none_at_the_judged_one(network):
    context = make(network, PLAIN, "0.01")
    rows = context.survivors
    wide = replace(context.protocol, epsilons=(protocols.parse_epsilon("0.3"),))
    assert context.attacked(wide, rows).any()
    assert (context.taken_for == -1).all()


@pytest.mark.parametrize("silent", [False, True])
def test_what_an_ascent_fooled_counts_silently_or_not(silent):
    """Of six images: one that stays right, three that end fooled, one of them known already."""
    context = bare(Answers([1.0, 0.0]), n=6)
    ends = torch.tensor([False, True, True, True, False, False])
    wrong = torch.stack([torch.zeros(6).bool(), torch.arange(6) == (5 if silent else 9), ends], 1)
    path = LossTrajectory(torch.arange(6), wrong, torch.zeros(6, 3).double(), ends)
    context = replace(context, plain=torch.arange(6) != 3)
    context.once("trajectory", lambda: path)
    run = examined(context, ["silent-success"])["silent-success"]
    assert set(run.fooled) == {context.ids[1], context.ids[2]}
    # what was fooled otherwise is nothing that an image lost on the way stands for
    assert run.result.status == ("resolved" if silent else "passed")
    assert run.result.before == run.result.after


@pytest.mark.thorough
def test_an_examination_is_repeatable_resumable_and_leaves_no_trace(network):
    context = make(Before(Noisy(), network))
    torch.manual_seed(5)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    names = [
        n for n in NAMES if n in ("random-model", "zero-gradients", "silent-success", "unbounded")
    ]
    first = examined(context, names)
    assert list(first) == list(names)
    assert torch.equal(state, torch.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()
    half = {n: first[n] for n in names[:1]}
    again = examined(make(Before(Noisy(), network)), names, half)
    assert again == {n: first[n] for n in names[1:]}


def test_a_model_that_breaks_costs_one_reading():
    class OneSize(Answers):
        def forward(self, x):
            if len(x) == 1:
                raise RuntimeError("one image is too few\nat all")
            return super().forward(x)

    result = only(bare(OneSize([1.0, 0.0])), "batch-size")[0]["batch-size"]
    assert result.status == "not examined"
    assert result.evidence == "the model failed: one image is too few"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("transfer-beats-direct", "transfer"),
        ("black-beats-white", "black"),
        ("noise-beats-gradient", "random"),
        ("single-beats-iterative", "fgsm"),
    ],
)
def test_what_nobody_gave_does_not_apply_and_what_broke_off_was_not_examined(name, kind):
    model = Answers([1.0, 0.0])
    assert only(bare(model), name)[0][name].status == "not applicable"
    broken = only(bare(model, missing={kind: "it broke off"}), name)[0][name]
    assert (broken.status, broken.evidence) == ("not examined", "it broke off")


@pytest.mark.thorough
def test_where_passes_differ_by_chance_batches_cannot_be_asked_about(network):
    found = only(make(Before(Noisy(), network)), "batch-size")[0]["batch-size"]
    assert found.status == "not applicable"


class Brighter(nn.Module):
    """Class 1 where the mean pixel is above a limit."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        excess = x.flatten(1).mean(1) - self.limit
        return torch.stack([-excess, excess], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_only_what_lies_within_ball_and_box_fools(norm):
    """An image of 4 pixels at 0.9 that is class 0 up to a mean of 0.95."""
    whole = {"linf": 1, "l2": 2, "l1": 4}[norm]  # the length of a step of 1 in every pixel
    images = torch.full((1, 1, 2, 2), 0.9)
    context = bare(Brighter(0.95), norm=norm, epsilon=str(0.08 * whole), images=images)
    rows = torch.arange(1)
    for step, fooled in ((0.04, False), (0.06, True), (0.085, False)):
        assert context.fooled_at(images + step, rows).tolist() == [fooled], step
    beyond = torch.full((1, 1, 2, 2), 0.98)
    context = bare(Brighter(0.99), norm=norm, epsilon=str(0.08 * whole), images=beyond)
    assert context.fooled_at(beyond + 0.015, rows).tolist() == [True]
    assert context.fooled_at(beyond + 0.03, rows).tolist() == [False]  # white is 1


def test_a_random_model_that_is_right_in_half_of_its_passes_is_right():
    context = bare(Answers([1.0, 0.0], [0.0, 1.0]), effort=replace(QUICK, passes=10))
    assert context.is_random
    assert not context.fooled_at(context.images, torch.arange(4)).any()


# --- thresholds --------------------------------------------------------------------------------


def test_every_indicator_has_a_threshold_and_a_source():
    assert [*NAMES, "settled"] == list(SHIPPED)
    assert all(i.source and i.title.endswith("?") for i in INDICATORS)
    assert set(adaptive.TITLES) >= {r for i in INDICATORS for r in i.adaptive_attacks}


PUBLISHED = {
    # AutoAttack's checks (Croce and Hein 2020; autoattack/checks.py)
    "random-model": 1e-4,
    "dynamic-model": 0,
    "probabilities": 1e-5,
    "zero-gradients": 0,
    "transfer-beats-direct": 0.002,
    "noise-beats-gradient": 0.002,
    "black-beats-white": 0.002,
    # Pintor et al. 2022
    "silent-success": 0,
    "incomplete-optimisation": 0.05,
    # Carlini et al. 2019: any, or none
    "single-beats-iterative": 0,
    "unbounded": 0,
    "half": 1,
    "more-steps": 0,
    "more-restarts": 0,
}


def test_published_thresholds_are_as_published():
    assert {n: SHIPPED[n] for n in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("indicator", INDICATORS, ids=NAMES)
def test_an_indicator_fires_beyond_its_threshold_and_not_at_it(indicator):
    threshold = SHIPPED[indicator.name]
    beyond = math.inf if indicator.fires == "above" else -math.inf
    assert not indicator.fired(threshold, threshold)
    assert indicator.fired(math.nextafter(threshold, beyond), threshold)
    assert not indicator.fired(math.nextafter(threshold, -beyond), threshold)


def test_thresholds_of_ones_own_are_read_strictly():
    assert checked({"half": 1.5}, "own.toml") == {**SHIPPED, "half": 1.5}
    with pytest.raises(InputError, match=r"own.toml: unknown key 'logit_scales'.*'logit_scale'"):
        checked({"logit_scales": 3}, "own.toml")
    for value in (True, math.nan, math.inf):
        with pytest.raises(InputError, match=r"own.toml: half: expected"):
            checked({"half": value}, "own.toml")


def test_published_outcomes_stay_out_of_the_wheel():
    root = Path(__file__).parent.parent
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    shelf = list((root / "reports").iterdir())
    published = {f"/reports/{path.name}/" for path in shelf if path.is_dir()} - {"/reports/audit/"}
    published |= {f"/reports/{path.name}" for path in shelf if path.suffix == ".md"}
    assert set(wheel["targets"]["wheel"]["exclude"]) == published
