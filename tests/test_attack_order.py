"""In which order budgets are tried: what is asked, what it saves, and that verdicts hold."""

from math import inf, log

import pytest
import torch
from helpers.attacked import Linear, images, make, right
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from robustkit.attacks import Block, attack_block, engine, in_budget
from robustkit.attacks.queue import Queue
from robustkit.attacks.search import Attempt, Search
from robustkit.protocol.order import DEARER, most_searches

EIGHT = [f"{k}/50" for k in range(1, 9)]
FGSM = {"kind": "fgsm"}
BIM = {"kind": "pgd", "steps": 20, "relative_step": "1/10", "random_start": False}
PGD = {"kind": "pgd", "steps": 6, "relative_step": "1/4", "restarts": 2}


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_order_finds_the_smallest_budget_that_succeeds_and_bisection_asks_little(data):
    levels = data.draw(st.integers(1, 20))
    restarts = data.draw(st.integers(1, 3))
    image = st.tuples(st.integers(0, levels), st.integers(0, levels), st.integers(1, restarts))
    # open levels, the smallest that succeeds, the attempt that finds it
    known = data.draw(st.lists(image, min_size=1, max_size=6))
    opened = [range(min(a, b), max(a, b)) for a, b, _ in known]
    smallest = [data.draw(st.integers(r.start, r.stop)) for r in opened]
    attempts = [Attempt(k, 0, k) for k in range(restarts)]
    for order in ("bisect", "scan"):
        attacked = data.draw(st.booleans())
        queue = Queue(opened, attempts, order, attacked)
        best, asked, cost = [r.stop for r in opened], [0] * len(known), [0] * len(known)
        while len(queue):
            for task in queue.take(data.draw(st.integers(1, 4))):
                own, (_, _, which) = task.image, known[task.image]
                assert task.level in opened[own]
                assert task.level < best[own]
                asked[own] += task.attempt.number == 0
                if task.level >= smallest[own] and task.attempt.number == which - 1:
                    best[own], cost[own] = task.level, cost[own] + 1
                    queue.claim(own, torch.zeros(1))
                else:
                    last = task.attempt.number == restarts - 1
                    cost[own] += DEARER * restarts * last
                    queue.fail(own)
            for find in queue.take_finds():
                queue.succeed(find.task.image, find.task.level)
        assert best == smallest
        for k, (r, least) in enumerate(zip(opened, smallest, strict=True)):
            if order == "scan":
                assert asked[k] == least - r.start + (least < r.stop)
            elif attacked and least == r.stop:
                assert asked[k] == bool(r)
            else:
                # a success leaves a share x of the levels, a failure x^ratio of them
                ratio = DEARER * restarts
                share = brentq(lambda x, ratio=ratio: x + x**ratio - 1, 0, 1)
                assert cost[k] <= log(len(r) + 1) / -log(share) + 2 * (1 + ratio)
                if not attacked:
                    assert cost[k] <= most_searches(len(r), restarts) * ratio + 1e-9


def test_bisection_gives_the_same_verdicts_in_fewer_passes():
    model, x = Linear(), images(30)
    truth = model.closest(x, "linf")
    budgets = [f"{float(q):.6f}" for q in truth.quantile(torch.linspace(0.1, 0.9, 8).double())]
    distances, passes = [], []
    for order in ("bisect", "scan"):
        model.rows.clear()
        protocol = make("linf", BIM, epsilon=budgets, search=order)
        distances.append(attack_block(model, right(model, x), protocol, 16).distance)
        passes.append(sum(model.rows))
    for budget in map(float, budgets):
        clear = (truth - budget).abs() > 1e-5
        for found in distances:
            assert torch.equal(in_budget(found, budget)[clear], (truth <= budget)[clear])
    assert passes[0] < 0.6 * passes[1]


def test_one_budget_is_the_same_in_both_orders_pass_by_pass():
    model, x = Linear(), images(40)
    level = f"{float(model.closest(x, 'linf').median()):.6f}"
    rows = []
    for order in ("bisect", "scan"):
        model.rows.clear()
        protocol = make("linf", PGD, BIM, epsilon=[level], search=order)
        found = attack_block(model, right(model, x), protocol, 16)
        rows.append((model.rows.copy(), found.distance.tolist(), found.fooled_by))
    assert rows[0] == rows[1]


def test_a_search_at_a_budget_starts_alike_in_both_orders(monkeypatch):
    starts = {"bisect": {}, "scan": {}}

    def observed(attack, norm, of=engine.build_search):
        own = of(attack, norm)
        begin = own.start

        def start(state, sources):
            state = begin(state, sources)
            of_row = zip(
                state.images[:, 0, 0, 0], state.epsilon, state.restart_index, state.x, strict=True
            )
            starts[order].update({tuple(map(float, row[:3])): row[3] for row in of_row})
            return state

        own.start = start
        return own

    monkeypatch.setattr(engine, "build_search", observed)
    model, x = Linear(), images(12)
    for order in starts:
        attack_block(model, right(model, x), make("l2", PGD, epsilon=EIGHT, search=order), 5)
    both = starts["bisect"].keys() & starts["scan"].keys()
    differs = {key for key in both if not torch.equal(starts["bisect"][key], starts["scan"][key])}
    # but for first attempts that go on from what was found at a larger budget
    assert 0 < len(differs) < len(both) - len(x)
    assert all(restart == 0 for _, _, restart in differs)


@pytest.mark.parametrize(
    ("attack", "order", "budgets", "goes_on"),
    [
        (PGD, "bisect", EIGHT, True),
        ({"kind": "apgd", "steps": 5, "targets": 2}, "bisect", EIGHT, True),
        (PGD, "scan", EIGHT, False),
        (PGD, "bisect", EIGHT[:1], False),
        (BIM, "bisect", EIGHT, False),
        ({"kind": "noise", "draws": 2}, "bisect", EIGHT, False),
        ({"kind": "fab", "steps": 2, "restarts": 2}, "bisect", EIGHT, False),
    ],
)
def test_first_attempts_go_on_from_what_is_found(monkeypatch, attack, order, budgets, goes_on):
    model, x, given = Linear(), images(20), []

    def observed(attack, norm, of=engine.build_search):
        own = of(attack, norm)
        begin = own.start

        def start(state, sources):
            elsewhere = (state.x != state.images).flatten(1).any(1)
            given.extend(zip(state.x[elsewhere], state.restart_index[elsewhere], strict=True))
            if own.random_start:
                assert [source is None for source in sources] == elsewhere.tolist()
            return begin(state, sources)

        own.start = start
        return own

    monkeypatch.setattr(engine, "build_search", observed)
    protocol = make("linf", FGSM, attack, epsilon=budgets, search=order)
    attack_block(model, right(model, x), protocol, 7)
    assert bool(given) == goes_on
    if goes_on:
        points, restarts = (torch.stack(part) for part in zip(*given, strict=True))
        assert not restarts.any()
        # each fools, within a larger budget
        nearest = (points[:, None] - x).abs().flatten(2).amax(2).argmin(1)
        assert (model(points).argmax(1) != model(x[nearest]).argmax(1)).all()


class Claimant(Search):
    """Claims at once that a shift of every pixel, in units of the budget, succeeds."""

    norm = "linf"
    steps = 0
    random_start = False

    def __init__(self, *shares: float) -> None:
        self.shares = torch.tensor(shares)
        self.restarts = len(shares)
        self.levels: list[float] = []

    def start(self, state, sources):
        self.levels += state.epsilon.tolist()
        shift = (self.shares[state.restart_index] * state.epsilon).view(-1, 1, 1, 1)
        return state.started(state.images + shift, None)

    def value(self, logits, state, targeted):
        return logits[:, 0]

    def claims(self, state, fooled):
        return torch.ones_like(fooled), state.x


def shifted(monkeypatch, *shares):
    """The distance at which a claimant's shifts fool, 0.05 below 0.55, and which budgets it tried."""
    own = Claimant(*shares)
    monkeypatch.setattr(engine, "build_search", lambda attack, norm: own)
    model, x = Linear(), torch.full((3, 1, 10, 10), 0.55)
    model.w = torch.ones(100).double()
    outcomes = attack_block(model, right(model, x), make("linf", PGD, epsilon=EIGHT), 2)
    return outcomes.distance.tolist(), [round(level * 50) for level in own.levels]


def test_claims_that_do_not_hold_close_no_budget_above_and_the_search_goes_on(monkeypatch):
    # first outside the ball, then the wrong way, then to 0.9 ε: true from ε = 3/50 on
    distance, tried = shifted(monkeypatch, -1.5, 0.9, -0.9)
    assert distance == pytest.approx([0.9 * 3 / 50] * 3, abs=1e-6)
    assert sorted(tried) == sorted([7, 6, 5, 4, 3, 2] * 9)
    # no claim is true at any budget
    distance, tried = shifted(monkeypatch, -1.5, 0.9)
    assert distance == [inf] * 3
    assert sorted(tried) == sorted([7, 8] * 6)


def test_a_find_well_inside_its_budget_closes_all_that_it_lies_within(monkeypatch):
    # at 6/50 the claim lies 0.0624 away, within 4/50: neither 5/50 nor 4/50 is asked
    distance, tried = shifted(monkeypatch, -0.52)
    assert distance == pytest.approx([0.0624] * 3, abs=1e-6)
    assert sorted(tried) == sorted([6, 3] * 3)


def test_a_later_attack_that_finds_nothing_is_asked_once_for_an_image(monkeypatch):
    model, x = Linear(), images(40)
    quantiles = model.closest(x, "linf").quantile(torch.linspace(0.1, 0.9, 8).double())
    budgets = [f"{float(q):.6f}" for q in quantiles]
    tried = []

    def observed(attack, norm, of=engine.build_search):
        own, asked = of(attack, norm), []
        begin = own.start

        def start(state, sources):
            rows = zip(state.images[:, 0, 0, 0].tolist(), state.epsilon.tolist(), strict=True)
            asked.extend(rows)
            return begin(state, sources)

        tried.append(asked)
        own.start = start
        return own

    monkeypatch.setattr(engine, "build_search", observed)
    found = attack_block(model, right(model, x), make("linf", BIM, BIM, epsilon=budgets), 16)
    # exact on a linear model: the second attack has nothing to add
    assert found.fooled_by.count("pgd 1") > 20
    expected = {
        pixels: max(levels)
        for pixels, d in zip(x[:, 0, 0, 0].tolist(), found.distance, strict=True)
        if (levels := [float(e) for e in budgets if not in_budget(d, float(e))])
    }
    assert dict(tried[1]) == pytest.approx(expected)
    assert len(tried[1]) == len(expected)
    assert len(tried[0]) > len(tried[1])


@pytest.mark.thorough
def test_company_changes_nothing_when_budgets_are_bisected_by_several_attacks():
    model, x = Linear(), images(12)
    own = right(model, x)
    whole = attack_block(model, own, make("linf", PGD, BIM, epsilon=EIGHT), 12)
    for size in (1, 7):
        parts = [
            attack_block(
                model,
                Block(x[i : i + 5], own.labels[i : i + 5], own.ids[i : i + 5], i),
                make("linf", PGD, BIM, epsilon=EIGHT),
                size,
            )
            for i in range(0, 12, 5)
        ]
        assert torch.equal(torch.cat([p.perturbed for p in parts]), whole.perturbed)
        assert [name for p in parts for name in p.fooled_by] == whole.fooled_by
