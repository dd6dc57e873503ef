"""foolbox's drive of our attacks: whatever the model's bounds, the criterion and the shape."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustkit.attacks.apgd import ApgdSearch
from robustkit.attacks.fab import FabSearch
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.library import eagerpy, foolbox
from robustkit.attacks.mended import MENDED_FMN, MendedDDN
from robustkit.attacks.projections import onto_l2_ball
from robustkit.attacks.square import SquareSearch
from robustkit.errors import InputError
from robustkit.geometry import ORDER
from robustkit.protocol import BALLS

SIZE = {"linf": 0.12, "l2": 0.4, "l1": 1.2}
"""budgets on pixels in [0, 1] at which a good attack finds most, and none is sure"""
BOUNDS = [(0, 1), (0, 255), (-1, 1), (0, 0.5), (-3, 7)]
SHAPES = [(1, 4, 4), (16,), (13,), (4, 4), (8, 2), (2, 2, 2, 2), (1, 1, 16)]
FEW = [(13,), (2, 2, 2, 2)]


def ascent(norm):
    return ASCENT[norm](steps=20, rel_stepsize=0.1, random_start=True)


FIXED = {
    **{f"ascent {n}": lambda n=n: ascent(n) for n in BALLS},
    **{f"apgd {n}": lambda n=n: ApgdSearch(n, steps=20) for n in BALLS},
    **{f"square {n}": lambda n=n: SquareSearch(n, queries=100) for n in BALLS},
}
MINIMAL = {
    **{f"fab {n}": lambda n=n: FabSearch(n, steps=20, targets=2) for n in BALLS},
    **{f"fmn {n}": lambda n=n: MENDED_FMN[n](steps=40) for n in BALLS},
    "ddn l2": lambda: MendedDDN(steps=40),
}
ATTACKS = FIXED | MINIMAL
THEIRS = {
    "ascent linf": lambda: foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.1),
    "ascent l2": lambda: foolbox.attacks.L2PGD(steps=20, rel_stepsize=0.1),
    "ascent l1": lambda: foolbox.attacks.L1PGD(steps=20, rel_stepsize=0.1),
    "fmn linf": lambda: foolbox.attacks.LInfFMNAttack(steps=40),
    "fmn l2": lambda: foolbox.attacks.L2FMNAttack(steps=40),
    "fmn l1": lambda: foolbox.attacks.L1FMNAttack(steps=40),
    "ddn l2": lambda: foolbox.attacks.DDNAttack(steps=40),
}


def problem(shape=(1, 4, 4), n=12):
    """A linear model on pixels in [0, 1], images and the classes that it gives them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        images = torch.rand(n, *shape)
        network = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 4)).eval()
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    return model, images, network(images).argmax(1)


def run(attack, model, images, criterion, epsilon):
    _, clipped, success = attack(
        model, eagerpy.astensor(images), criterion, epsilons=float(epsilon)
    )
    return clipped.raw, success.raw


def attacked(make, norm, bounds):
    """What an attack finds on pixels within the bounds, and where it succeeds."""
    model, images, labels = problem()
    low, high = bounds
    model, images = model.transform_bounds(bounds), images * (high - low) + low
    criterion = foolbox.Misclassification(eagerpy.astensor(labels))
    return run(make(), model, images, criterion, SIZE[norm] * (high - low))


@cache
def found(name, bounds=(0, 1)):
    return attacked(ATTACKS[name], name.split()[1], bounds)


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        # each attack within one, each kind of attack within several
        pytest.param(
            name, bounds, marks=[pytest.mark.slow] * ((i - k) % 4 > 0 and name != "ddn l2")
        )
        for i, name in enumerate(ATTACKS)
        for k, bounds in enumerate(BOUNDS[1:])
    ],
    ids=str,
)
def test_bounds_change_nothing_but_the_units(name, bounds):
    low, high = bounds
    _, here = found(name)
    there, success = found(name, bounds)
    assert int(here.sum()) >= 3
    assert abs(int(here.sum()) - int(success.sum())) <= 1  # rounding
    assert bool(((there >= low) & (there <= high)).all())


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("bounds", BOUNDS[:2], ids=str)
@pytest.mark.parametrize("name", THEIRS)
def test_ours_finds_no_less_than_foolboxs_own(name, bounds):
    torch.manual_seed(0)
    _, theirs = attacked(THEIRS[name], name.split()[1], bounds)
    _, ours = found(name, bounds)
    assert int(ours.sum()) >= int(theirs.sum()) - 1


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", [n for n in ATTACKS if not n.startswith("fab")])
def test_a_targeted_criterion_is_headed_for(name):
    model, images, labels = problem()
    targets = (labels + 1) % 4
    criterion = foolbox.TargetedMisclassification(eagerpy.astensor(targets))
    norm = name.split()[1]
    epsilon = 6 * SIZE[norm]
    clipped, success = run(ATTACKS[name](), model, images, criterion, epsilon)
    assert int(success.sum()) >= 3
    assert torch.equal(model(clipped).argmax(1) == targets, success)
    reached = torch.linalg.vector_norm((clipped - images).flatten(1), ord=ORDER[norm], dim=1)
    assert float(reached.max()) <= epsilon * 1.0001


@pytest.mark.parametrize(
    "make",
    [
        *(lambda n=n: ApgdSearch(n, steps=5, targets=3) for n in BALLS),
        *(lambda n=n, t=t: FabSearch(n, steps=5, targets=t) for n in BALLS for t in (0, 3)),
    ],
)
def test_attacks_with_targets_of_their_own_refuse_others(make):
    model, images, labels = problem()
    criterion = foolbox.TargetedMisclassification(eagerpy.astensor((labels + 1) % 4))
    with pytest.raises(InputError, match="its own target classes"):
        make().run(model, images, criterion, epsilon=0.1)


def test_another_criterion_is_refused_in_one_line():
    class Odd(foolbox.criteria.Criterion):
        def __repr__(self):
            return "odd"

        def __call__(self, perturbed, outputs):
            return outputs.argmax(-1) == 0

    model, images, _ = problem()
    for attack in (SquareSearch("linf", queries=5), MendedDDN(steps=3), ascent("l2")):
        with pytest.raises(InputError, match="criterion Odd is not supported"):
            attack.run(model, images, Odd())


@pytest.mark.one_of_many(6)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # Square's proposals depend on the shape, other attacks' steps hardly
        pytest.param(name, s, marks=[pytest.mark.slow] * ("square" not in name and s not in FEW))
        for name in ATTACKS
        for s in SHAPES
    ],
    ids=str,
)
def test_every_attack_works_on_inputs_of_any_shape(name, shape):
    model, images, labels = problem(shape)
    norm = name.split()[1]
    criterion = foolbox.Misclassification(eagerpy.astensor(labels))
    clipped, success = run(ATTACKS[name](), model, images, criterion, 1.5 * SIZE[norm])
    assert clipped.shape == images.shape
    assert int(success.sum()) >= 3
    assert bool(((clipped >= 0) & (clipped <= 1)).all())


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("norm", BALLS)
def test_fmn_does_not_stand_still_at_the_wall_short_of_the_boundary(norm):
    """Its projection and the box, one after the other, have fixed points that fool nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        images = torch.rand(12, 1, 4, 4)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4))
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    labels = network(images).argmax(1)
    found = MENDED_FMN[norm](steps=100).run(model, images, labels)
    assert bool((network(found).argmax(1) != labels).all())


@given(st.integers(0, 10_000), st.floats(0.01, 4))
@settings(max_examples=50)
def test_the_projection_onto_an_l2_ball_within_the_box_is_the_nearest_point(seed, epsilon):
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 6, generator=source, dtype=torch.float64)
    points = images + 3 * torch.randn(3, 6, generator=source, dtype=torch.float64)
    points[0, :2] = images[0, :2]
    radius = torch.full((3,), epsilon, dtype=torch.float64)
    ours = onto_l2_ball(points, images, radius)
    low, high = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    inside = (points.clamp(0, 1) - images).norm(dim=1) <= epsilon
    for _ in range(60):  # the factor of the change, by bisection
        middle = (low + high) / 2
        short = ((images + middle * (points - images)).clamp(0, 1) - images).norm(dim=1) < epsilon
        low, high = (
            torch.where(short[:, None], middle, low),
            torch.where(short[:, None], high, middle),
        )
    theirs = (images + low * (points - images)).clamp(0, 1)
    theirs[inside] = points[inside].clamp(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_square_on_vectors_stays_within_its_budget():
    model, images, labels = problem((13,))
    for norm in BALLS:
        x = SquareSearch(norm, queries=100).run(model, images, labels, epsilon=SIZE[norm])
        reached = torch.linalg.vector_norm(x - images, ord=ORDER[norm], dim=1)
        assert float(reached.max()) <= SIZE[norm] * 1.0001
