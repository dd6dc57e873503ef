"""APGD, FAB and Square held beside their papers, step by step, in float64."""

from functools import partial
from math import isclose

import numpy as np
import pytest
import torch
from helpers import papers

from robustkit.attacks.apgd import ApgdSearch
from robustkit.attacks.draws import generator, stream
from robustkit.attacks.fab import FabSearch
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.search import passes
from robustkit.attacks.square import SquareSearch
from robustkit.attacks.state import State

EPSILONS = {"linf": (0.03, 0.1, 0.3), "l2": (0.3, 1.0, 3.0), "l1": (1.0, 4.0, 12.0)}


class Bumpy(torch.nn.Module):
    """A convolutional network in float64 whose losses rise, fall and stall; images one by one.

    One by one, so that what an image comes to depends on no other's company, to the last bit.
    """

    def __init__(self, side, channels=1, classes=4, waves=1, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        normal = partial(torch.randn, generator=draw, dtype=torch.float64)
        self.first = normal(6, channels, 3, 3) * waves
        self.second = normal(4, 6, 3, 3) / 4
        self.last = normal(classes, 4 * side * side) / side

    def one(self, x):
        conv = torch.nn.functional.conv2d
        y = torch.sin(conv(x - 0.5, self.first, padding=1))
        y = torch.tanh(conv(y, self.second, padding=1))
        return y.flatten(1) @ self.last.T

    def forward(self, x):
        return torch.cat([self.one(row) for row in x.split(1)])


def scenes(epsilons, side, channels=1, n=6, seed=0):
    """Images at every budget in turn, some pixels of each at the end of the box."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, side, side, generator=draw, dtype=torch.float64)
    x = (1.2 * x - 0.1).clamp(0, 1).repeat(len(epsilons), 1, 1, 1)
    return x, torch.tensor(epsilons, dtype=torch.float64).repeat_interleave(n)


def unstarted(model, images, epsilon, key=0, target=None, restart=None):
    """Rows as the engine hands them to a search, each labelled with its image's class."""
    n, clean = len(images), model(images)
    zero = torch.zeros(n, dtype=torch.int64)
    target, restart = (zero if t is None else t for t in (target, restart))
    keys, labels = key + torch.arange(n), clean.argmax(1)
    nowhere = torch.full_like(epsilon, -torch.inf)
    return State(
        images, images, labels, clean, epsilon, target, restart, keys, zero.clone(), nowhere, None
    )


def attempted(search, model, images, epsilon):
    """Rows that are at the search's attempts in turn, started."""
    clean = model(images)
    attempts = search.attempts(clean.shape[1])
    attempts = [attempts[i % len(attempts)] for i in range(len(images))]
    wrong = search.wrong_classes(model, images, clean.argmax(1), clean)
    target = wrong[torch.arange(len(images)), [a.target_index for a in attempts]]
    restart = torch.tensor([a.restart_index for a in attempts])
    state = unstarted(model, images, epsilon, target=target, restart=restart)
    return search.start(state, sources(len(images)))


def sources(n):
    return [generator("papers", i) for i in range(n)]


def steps_of(search, model, state):
    """Drive a search as the engine does: what it knows when each step is done."""
    for _ in range(search.steps):
        logits, value, gradient, _ = passes(model, state, search, False, True)
        search.claims(state, logits.argmax(1) != state.classes)
        search.advance(state, value, gradient)
        state.step = state.step + 1
        reached, fooled = state.x, None
        if search.needs_outcome:
            fooled = model(state.x).argmax(1) != state.classes
            search.observe(state, fooled)
        yield reached, fooled, state


def hold(ours, theirs, where):
    """Equal but for rounding; theirs goes on from ours, so that rounding never adds up."""
    assert np.abs(array(ours) - theirs).max() <= 1e-9, where
    theirs[...] = array(ours)


def array(t):
    return t.detach().numpy().copy()


# --- APGD -----------------------------------------------------------------------------------------


def cross_entropy(model, label):
    def loss(x):
        x = torch.tensor(x)[None].requires_grad_()
        value = torch.nn.functional.cross_entropy(model(x), label[None], reduction="sum")
        return value.item(), array(torch.autograd.grad(value, x)[0][0])

    return loss


def targeted_dlr(model, label, target):
    """Croce and Hein 2020, equation 7."""

    def loss(x):
        x = torch.tensor(x)[None].requires_grad_()
        z = model(x)[0]
        falling = z.sort(descending=True).values
        value = (z[target] - z[label]) / (falling[0] - (falling[2] + falling[3]) / 2)
        return value.item(), array(torch.autograd.grad(value, x)[0][0])

    return loss


def scripted(values, gradients):
    """A loss whose n-th iterate has the n-th value and gradient, whatever it is."""
    found = iter(zip(values, gradients, strict=True))
    return lambda x: next(found)


def searched(norm, image, epsilon, steps, larger_first, at, rho=0.75):
    """One of the papers' searches, as a function of loss and start."""

    def one(loss, start, radius, steps, warm):
        if norm == "l1":
            return papers.apgd_l1(loss, image, start, radius, steps, warm=warm)
        return papers.apgd(loss, image, start, radius, steps, norm, at=at(steps), rho=rho)

    def whole(loss, start):
        if not larger_first:
            return one(loss, start, epsilon, steps, False)
        project = partial(papers.onto_ball_and_box, image=image, norm=norm)
        if norm == "l1":
            project = partial(papers.onto_l1_ball_and_box, image=image)
        return papers.falling_radii(
            partial(one, loss), lambda x, e: project(x, epsilon=e), start, epsilon, steps
        )

    return whole


def hold_apgd(search, state, advances, theirs):
    """Compare each step; returns how often each row's step size was halved, or set anew."""
    back = torch.zeros(len(state), dtype=torch.int64)
    for number, _ in enumerate(advances):
        m = state.buffers
        values, sizes = m.best_value.tolist(), m.step_size.tolist()
        for i, one in enumerate(theirs):
            due = next(one)
            where = f"row {i}, step {number}"
            hold(state.x[i], due.x, where)
            assert np.array_equal(array(m.best[i]), due.best), where
            assert isclose(values[i], due.best_value, rel_tol=1e-8, abs_tol=1e-9), where
            if not np.isnan(due.size):
                assert isclose(sizes[i], due.size, rel_tol=1e-12), where
            if not np.isnan(due.sparsity):
                changed = float(m.sparsity.share[i]) * due.x.size
                assert isclose(changed, due.sparsity, rel_tol=1e-12), where
            back[i] += due.back
    return back


def begun(search, model, images, epsilon):
    """Rows that are started, every other one from a point of the box far outside its ball."""
    state, draws = unstarted(model, images, epsilon), sources(len(images))
    given = torch.rand(images.shape, generator=generator("far"), dtype=torch.float64)
    state.x = torch.where((torch.arange(len(images)) % 2 == 1)[:, None, None, None], given, images)
    draws[1::2] = [None] * len(draws[1::2])
    started = search.start(state, draws)
    multiple = 3 if getattr(search, "larger_first", False) else 1
    for i in range(1, len(images), 2):
        onto = partial(papers.onto_ball_and_box, norm=search.norm)
        if search.norm == "l1":
            onto = papers.onto_l1_ball_and_box
        expected = onto(array(given[i]), array(images[i]), multiple * float(epsilon[i]))
        assert np.abs(array(started.x[i]) - expected).max() < 1e-9
    return started


@pytest.mark.thorough
@pytest.mark.parametrize("larger_first", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_takes_the_papers_steps_on_a_network(norm, larger_first):
    model = Bumpy(6, waves=2)
    images, epsilon = scenes(EPSILONS[norm], 6, n=2)
    steps = 50 if larger_first else 100
    search = ApgdSearch(norm, steps=steps, larger_first=larger_first)
    state = begun(search, model, images, epsilon)
    at = papers.checkpoints_in_whole_steps if larger_first else papers.checkpoints
    theirs = [
        searched(norm, array(images[i]), float(epsilon[i]), steps, larger_first, at)(
            cross_entropy(model, state.classes[i]), array(state.x[i])
        )
        for i in range(len(state))
    ]
    back = hold_apgd(search, state, steps_of(search, model, state), theirs)
    # a test of schedules that all agree would see little
    assert len(back.unique()) > 2


@pytest.mark.parametrize("restarts", [1, 2])
def test_apgd_heads_for_the_likeliest_wrong_classes(restarts):
    model = Bumpy(8, classes=5)
    n = 3 * restarts
    images, epsilon = scenes((0.1,), 8, n=n)
    search = ApgdSearch("linf", steps=20, loss="dlr", targets=3, restarts=restarts)
    state = attempted(search, model, images, epsilon)
    order = model(images).argsort(dim=1, descending=True)
    assert torch.equal(state.target, order[torch.arange(n), 1 + torch.arange(n) // restarts])
    at = papers.checkpoints_in_whole_steps
    theirs = []
    for i, target in enumerate(state.target.tolist()):
        loss = targeted_dlr(model, int(order[i, 0]), target)
        whole = searched("linf", array(images[i]), 0.1, 20, False, at)
        theirs.append(whole(loss, array(state.x[i])))
    hold_apgd(search, state, steps_of(search, model, state), theirs)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(("steps", "rho"), [(12, 0.75), (100, 0.75), (100, 0.5), (137, 0.75)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_takes_the_papers_decisions_whatever_the_losses_are(norm, steps, rho):
    n, side = 12, 4
    draw = torch.Generator().manual_seed(steps)
    images, _ = scenes((1.0,), side, n=n)
    epsilon = torch.rand(n, generator=draw, dtype=torch.float64) + 0.05
    # losses that rise in a share of the steps of their own, so that every decision falls both ways
    rises = torch.rand(steps + 1, n, generator=draw) < torch.linspace(0.3, 1, n)
    size = torch.rand(steps + 1, n, generator=draw, dtype=torch.float64)
    values = (size * torch.where(rises, 1, -3)).cumsum(0).round(decimals=1)
    gradients = torch.randn(steps + 1, n, 1, side, side, generator=draw, dtype=torch.float64)
    search = ApgdSearch(norm, steps=steps, rho=rho)
    state = search.start(unstarted(Bumpy(side), images, epsilon), sources(n))
    theirs = [
        searched(
            norm,
            array(images[i]),
            float(epsilon[i]),
            steps,
            False,
            papers.checkpoints_in_whole_steps if steps % 100 else papers.checkpoints,
            rho,
        )(scripted(values[:, i].tolist(), array(gradients[:, i])), array(state.x[i]))
        for i in range(n)
    ]

    def advances():
        for step in range(steps):
            search.advance(state, values[step], gradients[step].clone())
            state.step = state.step + 1
            yield

    back = hold_apgd(search, state, advances(), theirs)
    assert len(back.unique()) > (1 if steps < 30 else 2)


def test_whole_windows_are_the_papers_where_its_shares_are_whole():
    for steps in (100, 200, 1000):
        assert papers.checkpoints_in_whole_steps(steps) == papers.checkpoints(steps)
    assert papers.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]  # its example


@pytest.mark.parametrize("larger_first", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_apgd_starts_at_random_points_of_the_first_ball(norm, larger_first):
    images = torch.full((20, 1, 8, 8), 0.5, dtype=torch.float64)
    epsilon = torch.linspace(0.02, 0.1, 20, dtype=torch.float64) * (5 if norm == "l1" else 1)
    state = attempted(
        ApgdSearch(norm, steps=20, larger_first=larger_first), Bumpy(8), images, epsilon
    )
    radius = epsilon * (3 if larger_first else 1)
    change = (state.x - images).flatten(1) / radius[:, None]
    size = torch.linalg.vector_norm(change, ord=papers.ORDER[norm], dim=1)
    assert (size <= 1 + 1e-6).all()
    assert (size > (0.9 if norm == "linf" else 1 - 1e-6)).all()
    assert len({tuple(row.tolist()) for row in change}) == 20
    if norm == "linf":  # uniform: half of the pixels in the middle half
        assert 0.4 < (change.abs() < 0.5).double().mean() < 0.6
    if norm == "l1":  # a projected Gaussian draw: few pixels carry it
        assert (change.abs().amax(1) > 10 / 64).all()


# --- PGD and MI-FGSM ------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steepest_ascent_takes_the_papers_steps(norm, momentum):
    model = Bumpy(8, waves=2)
    images, epsilon = scenes(EPSILONS[norm], 8, n=2)
    search = ASCENT[norm](steps=10, rel_stepsize=0.15, random_start=True, momentum=momentum)
    state = begun(search, model, images, epsilon)
    theirs = [
        papers.ascent(
            cross_entropy(model, state.classes[i]),
            array(images[i]),
            array(state.x[i]),
            float(epsilon[i]),
            10,
            0.15 * float(epsilon[i]),
            norm,
            decay=momentum,
        )
        for i in range(len(state))
    ]
    for number, _ in enumerate(steps_of(search, model, state)):
        for i, one in enumerate(theirs):
            hold(state.x[i], next(one), f"row {i}, step {number}")


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_ascent_starts_in_the_ball_or_on_its_sphere(norm, distribution):
    images = torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)
    epsilon = torch.linspace(0.02, 0.3, 400, dtype=torch.float64)
    search = ASCENT[norm](steps=1, rel_stepsize=1.0, random_start=True, distribution=distribution)
    state = attempted(search, Bumpy(2), images, epsilon)
    change = (state.x - images).flatten(1) / epsilon[:, None]
    size = torch.linalg.vector_norm(change, ord=papers.ORDER[norm], dim=1)
    if distribution == "gaussian":
        assert torch.allclose(size, torch.ones_like(size), atol=1e-6)
    else:  # of volume r⁴ in four dimensions
        assert 0.4 < (size**4 < 0.5).double().mean() < 0.6
        assert size.max() <= 1 + 1e-6
    assert (change.mean(0).abs() < 0.1).all()
    assert (change.abs() > 0.01).double().mean() > 0.9


# --- FAB ------------------------------------------------------------------------------------------


def logits_and_gradients(model):
    def network(x):
        x = torch.tensor(x)[None].requires_grad_()
        logits = model(x)[0]
        rows = [torch.autograd.grad(v, x, retain_graph=True)[0][0] for v in logits]
        return array(logits), [array(row) for row in rows]

    return network


FAB_SETTINGS = {
    "published": {"patience": 0},
    "patient": {"patience": 4},
    "short": {"patience": 0, "alpha_max": 0.5, "eta": 0.98, "beta": 0.7},
}
FAB_CASES = [(n, t, s) for n in ("linf", "l2", "l1") for t in (0, 3) for s in FAB_SETTINGS]
FAB_DEFAULT = [
    *(("linf", 0, "published"), ("linf", 3, "patient"), ("linf", 0, "short")),
    *(("l2", 3, "published"), ("l2", 0, "patient"), ("l2", 3, "short")),
    *(("l1", 0, "published"), ("l1", 3, "patient"), ("l1", 3, "short")),
]


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize(
    ("norm", "targets", "settings"),
    [
        *FAB_DEFAULT,
        *(pytest.param(*c, marks=pytest.mark.slow) for c in FAB_CASES if c not in FAB_DEFAULT),
    ],
)
def test_fab_takes_the_papers_steps(norm, targets, settings):
    settings = FAB_SETTINGS[settings]
    model = Bumpy(5, waves=4)
    images, _ = scenes((1.0,), 5, n=6)
    epsilon = torch.full((6,), {"linf": 0.1, "l2": 0.6, "l1": 3.0}[norm], dtype=torch.float64)
    search = FabSearch(norm, steps=15, restarts=2, targets=targets, **settings)
    # first and second start, on the way to each of the targets
    state = attempted(search, model, images, epsilon)
    assert torch.equal((state.x != images).flatten(1).any(1), torch.arange(6) % 2 == 1)
    theirs = [
        papers.fab(
            logits_and_gradients(model),
            array(images[i]),
            int(state.classes[i]),
            array(state.x[i]),
            15,
            norm,
            target=int(state.target[i]) if targets else None,
            every=True,
            **settings,
        )
        for i in range(6)
    ]
    went = {True: 0, False: 0}
    for number, (reached, fooled, _) in enumerate(steps_of(search, model, state)):
        m = state.buffers
        for i, one in enumerate(theirs):
            due, where = next(one), f"row {i}, step {number}"
            hold(reached[i], due.reached, where)
            assert bool(fooled[i]) == due.fooled, where
            hold(state.x[i], due.x, where)
            assert isclose(m.best_distance[i], due.distance, rel_tol=0, abs_tol=1e-9), where
            if due.best is not None:
                assert np.array_equal(array(m.best[i]), due.best), where
            went[due.fooled] += 1
    if "eta" in settings:  # steps that fall short: some fool, some do not
        assert min(went.values()) > 0


@pytest.mark.parametrize("epsilon", [0.1, torch.inf])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fab_starts_at_the_image_then_half_a_budget_away(norm, epsilon):
    images = torch.full((12, 1, 8, 8), 0.5, dtype=torch.float64)
    budgets = torch.full((12,), epsilon, dtype=torch.float64)
    state = attempted(FabSearch(norm, restarts=2, targets=3), Bumpy(8), images, budgets)
    size = torch.linalg.vector_norm((state.x - images).flatten(1), ord=papers.ORDER[norm], dim=1)
    # without a budget: what the authors' code takes in each norm
    half = (epsilon if epsilon < torch.inf else {"linf": 0.3, "l2": 1.0, "l1": 5.0}[norm]) / 2
    assert (size[::2] == 0).all()
    assert (size[1::2] <= half * (1 + 1e-6)).all()
    assert (size[1::2] > half * (0.9 if norm == "linf" else 1 - 1e-6)).all()


# --- Square ---------------------------------------------------------------------------------------


def margins(model, label):
    def margin(x):
        logits = model(torch.tensor(x)[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        return float(others.max() - logits[label])

    return margin


def drawn(state, step, channels, i):
    """Row i's draws for the proposal after so many, in the order in which ours are taken."""
    u = stream(state.key, torch.full_like(state.step, step + 1), 5 + channels)[i].tolist()
    signs = np.array([-1.0 if v < 0.5 else 1.0 for v in u[4 : 4 + channels]])
    return papers.Draws((u[0], u[1]), (u[2], u[3]), signs, u[4 + channels] < 0.5)


def first_signs(state, shape, i):
    count = int(np.prod(shape))
    u = stream(state.key, torch.zeros_like(state.step), count)[i]
    return np.where(u.numpy() < 0.5, -1.0, 1.0).reshape(shape)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_makes_the_papers_proposals(norm, channels):
    side, steps = 16, 55  # squares shrink after 10 and 50
    model = Bumpy(side, channels)
    images, epsilon = scenes(EPSILONS[norm], side, channels, n=1)
    search = SquareSearch(norm, queries=steps + 1)
    state = search.start(unstarted(model, images, epsilon, key=7), [])
    shape = (channels, side) if norm == "linf" else (channels, 5, 5)
    theirs = []
    for i in range(len(state)):
        image, e = array(images[i]), float(epsilon[i])
        start = papers.stripes_or_tiles(image, e, norm, first_signs(state, shape, i))
        hold(state.x[i], start, f"row {i}")
        draws = [drawn(state, step, channels, i) for step in range(steps)]
        margin = margins(model, int(state.classes[i]))
        theirs.append(papers.square(margin, image, start, e, steps, norm, draws))
    taken = 0
    before = [np.inf] * len(state)
    for number, _ in enumerate(steps_of(search, model, state)):
        m = state.buffers
        for i, one in enumerate(theirs):
            due, where = next(one), f"row {i}, step {number}"
            hold(state.x[i], due.x, where)
            assert np.array_equal(array(m.best[i]), due.best), where
            assert isclose(m.best_value[i], due.best_value, rel_tol=1e-8, abs_tol=1e-9), where
            taken += due.best_value > before[i]
            before[i] = due.best_value
    assert 0.02 < taken / (steps * len(state)) < 0.9


@pytest.mark.parametrize("p_init", [0.8, 0.3])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_squares_shrink_as_the_paper_says(norm, p_init):
    turns = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    done = torch.tensor([0, *(t + k for t in turns for k in (0, 1)), 9999])
    n = len(done)
    model = Bumpy(40, classes=2)
    images, epsilon = scenes((0.5,), 40, n=n)
    search = SquareSearch(norm, queries=10_000, p_init=p_init)
    state = search.start(unstarted(model, images, epsilon, key=3), [])
    start = array(state.x)
    state.step = done.clone()
    search.advance(state, torch.zeros(n, dtype=torch.float64), state.x)
    for i, k in enumerate(done.tolist()):
        side = papers.side_of_square(k, 40, 40, norm, p_init)
        due = papers.proposal(start[i], array(images[i]), 0.5, norm, side, drawn(state, k, 1, i))
        hold(state.x[i], due, f"after {k}")
