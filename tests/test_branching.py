"""Bounds with chosen multipliers, and branch and bound over the signs of ReLUs."""

import time
from fractions import Fraction
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.traces import traced_once
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import nn

from robustkit.attacks import Block
from robustkit.attacks.draws import generator
from robustkit.certification import certify, refine, search
from robustkit.certification.bounds import Multipliers, intervals, lowest
from robustkit.certification.complete import decide
from robustkit.certification.conversion import convert
from robustkit.certification.deterministic import differences
from robustkit.certification.domains import Problem
from robustkit.certification.graph import Relu
from robustkit.certification.leaves import solve
from robustkit.certification.region import Region, reach
from robustkit.checkpoint.adapter import Classifier, freeze
from robustkit.errors import InputError
from robustkit.geometry import TOLERANCE, distance
from robustkit.protocol import PGD, Protocol


def made(seed, *, leaky=False):
    """A frozen network with random weights: a convolution, then two dense layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        act = nn.LeakyReLU(0.1) if leaky else nn.ReLU()
        module = nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2),
            act,
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2, 6),
            act,
            nn.Linear(6, 3),
        )
        return freeze(Classifier(module, [0.4], [0.5]))


def pictures(seed, n=4, side=6):
    return torch.rand(n, 1, side, side, generator=generator("pictures", seed))


@pytest.mark.thorough
@pytest.mark.parametrize("leaky", [False, True])
def test_whatever_the_multipliers_no_point_of_the_presumed_signs_lies_below_the_bound(leaky):
    source, checked = generator("multipliers", leaky), 0
    for seed, radius in product(range(3), (0.02, 0.2)):
        model, x = made(seed, leaky=leaky), pictures(seed)
        graph, region = convert(model, x[0]), Region("linf", x.double(), radius)
        bounds = intervals(graph, region)
        noise = torch.rand(300, *x.shape, generator=source).double()
        noise[:150] = noise[:150].round()  # corners, where a linear function is least
        points = (x + radius * (2 * noise - 1)).clamp(0, 1)
        values = graph.values(points.flatten(0, 1))
        last = len(graph.steps) - 1
        slopes = torch.randn(4, 3, 3, generator=source).double()
        reached = torch.einsum("pnk,nsk->pns", values[last].view(300, 4, 3), slopes)
        alpha, beta, inside = {}, {}, torch.ones(300, 4, dtype=torch.bool)
        for i, step in enumerate(graph.steps):
            if isinstance(step, Relu):
                low, high = bounds[step.source]
                open_ = (low < 0) & (high > 0)
                sign = torch.randint(-1, 2, low.shape, generator=source) * open_
                # one neuron or two, so that points are left on the presumed side
                sign *= torch.rand(low.shape, generator=source) < 0.2
                share = torch.rand(4, 3, *low.shape[1:], generator=source)
                alpha[i] = step.slope + (1 - step.slope) * share.sqrt()
                beta[i] = -sign[:, None] * torch.rand(low.shape, generator=source)[:, None]
                before = values[step.source].view(300, *low.shape)
                inside &= (before * sign >= 0).flatten(2).all(2)
                bounds[step.source] = (
                    torch.where(sign > 0, low.clamp(min=0), low),
                    torch.where(sign < 0, high.clamp(max=0), high),
                )
        found = lowest(
            graph, bounds, region, last, slopes, relax=True, multipliers=Multipliers(alpha, beta)
        ).values
        below = found[None] <= reached + 1e-9
        assert bool((below | ~inside[:, :, None]).all())
        checked += int(inside.sum())
    assert checked > 100


# -- the search itself ---------------------------------------------------------------------------


def dense(seed, widths, side=2, gain=1.5):
    """A frozen network of dense layers with random weights, on 1 × side × side images, 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = [side * side, *widths]
        layers = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(sizes[-1], 3))
        for layer in network[1::2]:
            layer.weight.data *= gain
        return freeze(Classifier(network, [0.0], [1.0]))


def weak(epsilon, norm="linf"):
    """An attack that finds nothing, so that branch and bound has to."""
    nothing = PGD(1, Fraction(1, 10**6), random_start=False)
    return Protocol(nothing, norm, epsilon)


def decided(model, x, labels, protocol, limit=60.0):
    ids = [f"image {i}" for i in range(len(x))]
    block = Block(x, labels, ids, 0)
    with traced_once():
        found = dict(decide(model, block, protocol, time_limit=limit, budget=0))
    return [found[row] for row in range(len(x))]


def layers_of(model):
    dense_layers = [m for m in model.network if isinstance(m, nn.Linear)]
    return [(m.weight.double().numpy(), m.bias.double().numpy()) for m in dense_layers]


def enumerated(model, x, label, radius):
    """The smallest margin over the region: a linear programme for every pattern of signs."""
    layers, least = layers_of(model), np.inf
    low, high = (x.double().flatten() + s * radius for s in (-1, 1))
    box = [*zip(low.clamp(min=0).tolist(), high.clamp(max=1).tolist(), strict=True)]
    for signs in product((0, 1), repeat=sum(len(b) for _, b in layers[:-1])):
        W, c, rows, limits, at = np.eye(len(box)), np.zeros(len(box)), [], [], 0
        for weight, bias in layers[:-1]:
            W, c = weight @ W, weight @ c + bias
            on = np.array(signs[at : at + len(bias)], float)
            at += len(bias)
            flip = 1 - 2 * on[:, None]
            rows, limits = [*rows, flip * W], [*limits, -flip[:, 0] * c]
            W, c = on[:, None] * W, on * c
        W, c = layers[-1][0] @ W, layers[-1][0] @ c + layers[-1][1]
        for other in set(range(len(c))) - {label}:
            answer = linprog(
                W[label] - W[other], np.concatenate(rows), np.concatenate(limits), bounds=box
            )
            if answer.status == 2:  # no point has these signs
                break
            assert answer.status == 0
            least = min(least, answer.fun + c[label] - c[other])
    return least


@cache
def least_of(seed):
    model, x = dense(seed, (4, 3), gain=3.0), pictures(seed, 1, 2)
    return enumerated(model, x[0], int(model(x).argmax(1)), reach(0.3))


def sharpened(seed, margin):
    """A network, an image and its label; over the ball of 0.3 the smallest margin is as given."""
    model, x = dense(seed, (4, 3), gain=3.0), pictures(seed, 1, 2)
    label, least = int(model(x).argmax(1)), least_of(seed)
    with torch.no_grad():
        model.network[-1].bias[label] += margin - least
    return model, x, torch.tensor([label])


# the few are all left to branch and bound
few_and_all = pytest.mark.parametrize(
    "seeds", [(1, 4, 7), pytest.param(range(8), marks=pytest.mark.slow)]
)


@pytest.mark.thorough
@few_and_all
@pytest.mark.parametrize("margin", [0.002, -0.002])
def test_every_image_ends_as_all_patterns_of_signs_say(margin, seeds):
    found = []
    for seed in seeds:
        model, x, label = sharpened(seed, margin)
        if int(model(x).argmax(1)) == int(label):
            (one,) = decided(model, x, label, weak("0.3"))
            assert one.outcome == ("certified" if margin > 0 else "fooled")
            assert one.margin <= margin
            found.append(one)
    assert sum(one.by == "branch and bound" for one in found) >= min(4, len(seeds))
    assert max(one.domains for one in found) > (6 if margin > 0 else 1)


@pytest.mark.thorough
@few_and_all
@pytest.mark.parametrize("steps", [0, 5])
def test_linear_leaves_decide_what_ascent_leaves_open(monkeypatch, steps, seeds):
    solved = []

    def watched(problem, domain):
        lower, point = solve(problem, domain)
        solved.append((float(domain.lower), lower))
        return lower, point

    monkeypatch.setattr(search, "STEPS", 0)
    monkeypatch.setattr(search, "STALE", 10**9)
    monkeypatch.setattr(search, "ROOT_STEPS", steps)
    monkeypatch.setattr(search, "solve", watched)
    for seed, margin in product(seeds, (0.002, -0.002)):
        model, x, label = sharpened(seed, margin)
        if int(model(x).argmax(1)) == int(label):
            (one,) = decided(model, x, label, weak("0.3"))
            assert one.outcome == ("certified" if margin > 0 else "fooled")
    assert sum(after > 0 >= before for before, after in solved) > 3


def least_by_integers(model, x, label, other, radius):
    """The smallest logit_label − logit_other by mixed-integer programming (Tjeng et al. 2019)."""
    layers, n = layers_of(model), x.numel()
    low, high = (x.double().flatten() + s * radius for s in (-1, 1))
    low, high = low.clamp(min=0).numpy(), high.clamp(max=1).numpy()
    below, above, whole = [*low], [*high], [0] * n
    conditions, inputs = [], list(range(n))  # numbers of the variables that enter a layer

    for weight, bias in layers[:-1]:
        middle, half = weight @ (low + high) / 2 + bias, np.abs(weight) @ (high - low) / 2
        lower, upper = middle - half, middle + half
        outputs = []
        for k in range(len(bias)):
            out, on = len(below), len(below) + 1
            below, above, whole = [*below, 0, 0], [*above, max(0, upper[k]), 1], [*whole, 0, 1]
            z = dict(zip(inputs, weight[k], strict=True))
            # out ≥ z, out ≤ z − lower (1 − on), out ≤ upper on
            conditions.append(({**{i: -v for i, v in z.items()}, out: 1}, bias[k], np.inf))
            least = min(lower[k], 0)
            conditions.append(
                ({**{i: -v for i, v in z.items()}, out: 1, on: -least}, -np.inf, bias[k] - least)
            )
            conditions.append(({out: 1, on: -max(0, upper[k])}, -np.inf, 0))
            outputs.append(out)
        inputs, low, high = outputs, np.maximum(lower, 0), np.maximum(upper, 0)
    A = np.zeros((len(conditions), len(below)))
    for r, (entries, _, _) in enumerate(conditions):
        for column, value in entries.items():
            A[r, column] = value
    weight, bias = layers[-1]
    cost = np.zeros(len(below))
    cost[inputs] = weight[label] - weight[other]
    limits = LinearConstraint(A, [c[1] for c in conditions], [c[2] for c in conditions])
    answer = milp(cost, constraints=limits, bounds=Bounds(below, above), integrality=whole)
    assert answer.status == 0
    return answer.fun + bias[label] - bias[other]


@pytest.mark.thorough
def test_branch_and_bound_agrees_with_mixed_integer_programming():
    outcomes = set()
    for seed in range(2):
        model, x = dense(seed, (10, 8), side=3), pictures(seed, 4, 3)
        labels = model(x).argmax(1)
        for k, one in enumerate(decided(model, x, labels, weak("0.12"))):
            least = min(
                least_by_integers(model, x[k], int(labels[k]), other, reach(0.12))
                for other in {0, 1, 2} - {int(labels[k])}
            )
            assert abs(least) > 1e-4
            assert one.outcome == ("certified" if least > 0 else "fooled")
            outcomes.add(one.outcome)
    assert outcomes == {"certified", "fooled"}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_planted_counterexample_is_found_and_one_just_missed_is_never_certified(norm):
    text = {"linf": "0.1", "l2": "0.25", "l1": "0.6"}[norm]
    epsilon, found = float(text), []
    for seed in range(4):
        model, x = dense(seed, (12, 12), side=3), pictures(seed, 1, 3)
        label = int(model(x).argmax(1))
        other = int(model(x)[0].topk(2).indices[1])
        slope = torch.randn(9, generator=generator("planted", seed)).view(1, 1, 3, 3)
        length = torch.linalg.vector_norm(slope, float({"linf": "inf", "l2": 2, "l1": 1}[norm]))
        point = (x + 0.999 * epsilon * (slope.sign() if norm == "linf" else slope / length)).clamp(
            0, 1
        )
        with torch.no_grad():
            logits = model(point)[0]
            # the planted point is wrong by a hair, the image itself by a lot right
            model.network[-1].bias[other] += logits[label] - logits[other] + 1e-3
        if int(model(x).argmax(1)) != label:
            continue
        assert int(model(point).argmax(1)) != label
        (one,) = decided(model, x, torch.tensor([label]), weak(text, norm))
        assert one.outcome == "fooled"
        assert int(model(one.perturbed[None]).argmax(1)) == one.fooled_as != label
        reached = float(distance(x, one.perturbed[None], norm))
        assert reached == one.distance
        assert reached <= epsilon + TOLERANCE
        assert 0 <= float(one.perturbed.min()) <= float(one.perturbed.max()) <= 1
        found.append(one.by)
    assert "branch and bound" in found


@pytest.mark.thorough
def test_the_time_limit_holds_and_what_is_known_by_then_is_kept():
    model, x = dense(0, (60, 60, 60), side=6), pictures(0, 3, 6)
    labels = model(x).argmax(1)
    for limit in (0.0, 1.0):
        began = time.monotonic()
        found = decided(model, x, labels, weak("0.05"), limit)
        # a pass that has begun is not cut off: a second each, however busy the machine
        assert time.monotonic() - began < 3 * limit + 15
        # a second is enough for some images on a fast machine
        assert {one.outcome for one in found} <= {"open", "certified" if limit else "open"}
        assert all((one.margin < 0) == (one.outcome == "open") for one in found)
        assert all(one.perturbed is None for one in found)
        assert all((one.domains > 0) == (limit > 0) for one in found)
    plain = certify(model, x, labels, "linf", 0.05, budget=0)
    assert all(one.margin > float(m) for one, m in zip(found, plain.margin, strict=True))


# asked within: intervals bounded again, linear leaves, and a first look at many functions
@pytest.mark.parametrize(
    ("kind", "widths", "rivals"),
    [("lowest", (12, 12), 2), ("solve", (3, 2), 2), ("lower", (12, 12), 40)],
)
def test_when_the_time_is_up_no_pass_is_begun_and_the_bound_still_holds(
    monkeypatch, kind, widths, rivals
):
    model, x = dense(0, widths, side=3, gain=3.0), pictures(0, 1, 3)
    graph, region = convert(model, x[0]), Region("linf", x.double(), 0.4)
    slopes = differences(model(x).argmax(1), 3)[0].repeat(rivals // 2, 1)
    problem = Problem.of(graph, region, intervals(graph, region), slopes)
    passes = []

    def counted(owner, name):
        work = getattr(owner, name)
        return lambda *given, **more: passes.append(name) or work(*given, **more)

    for owner, name in ((Problem, "lower"), (refine, "lowest"), (search, "solve")):
        monkeypatch.setattr(owner, name, counted(owner, name))
    # many passes a round
    for name, value in {"STALE": 2, "STEPS": 1, "ROOT_STEPS": 1}.items():
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(Problem, "at_once", 2)
    monkeypatch.setattr(refine, "chunk", lambda *given: 1)

    def searched(stop):
        passes.clear()
        return search.BranchAndBound(problem, lambda x: False, lambda: len(passes) >= stop).run()

    long = searched(120)
    assert not long.certified
    first = passes.index(kind) + 1
    # just before the intervals are bounded again, signs are chosen
    for stop in (1, max(1, first - 6), first, first + 1, first + 4):
        found = searched(stop)
        # a leaf that has begun takes two more
        assert len(passes) <= stop + 2
        assert found.lower <= long.lower


def test_clean_mistakes_are_fooled_at_once_and_what_has_no_bounds_is_refused():
    model, x = dense(1, (6, 6)), pictures(1, 4, 2)
    wrong = (model(x).argmax(1) + 1) % 3
    for one in decided(model, x, wrong, weak("0.1")):
        assert (one.outcome, one.by, one.distance) == ("fooled", "clean", 0.0)
    softmax = freeze(Classifier(nn.Sequential(model.network, nn.Softmax(1)), [0.0], [1.0]))
    with pytest.raises(InputError, match="nothing can be certified: no bounds for aten"):
        decided(softmax, x, wrong, weak("0.1"))


@pytest.mark.thorough
def test_a_convolutional_network_is_decided_too():
    seen = set()
    for seed in range(5):
        model, x = made(seed, leaky=seed % 2 == 1), pictures(seed, 4)
        labels = model(x).argmax(1)
        found = decided(model, x, labels, weak("0.3"))
        noise = torch.rand(2000, *x.shape, generator=generator("convolution", seed))
        points = (x + 0.3 * (2 * noise.round() - 1)).clamp(0, 1)
        says = (model(points.flatten(0, 1)).argmax(1).view(2000, 4) == labels).all(0)
        for one, never_fooled in zip(found, says.tolist(), strict=True):
            assert one.outcome != "open"
            assert never_fooled or one.outcome == "fooled"
            seen.add((one.outcome, one.by))
    assert ("certified", "branch and bound") in seen
