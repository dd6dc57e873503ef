"""Rotation and translation, against SciPy's pictures and every point of the grid."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
from helpers.attacked import Small, block, images, make, right

from robustkit import evaluate
from robustkit.attacks import attack_block
from robustkit.attacks.spatial import Ray
from robustkit.errors import ProtocolError
from robustkit.geometry import transformed
from robustkit.protocol import excessive_budgets, parse_epsilon
from robustkit.record import read

GRID = {"kind": "spatial-grid", "angles": 5, "shifts": 3}
RANDOM = {"kind": "spatial-random", "draws": 30}
BUDGETS = ["4deg+1/10px", "8deg+1/5px", "12deg+3/10px"]


def scipys(image: np.ndarray, degrees: float, down: float, right: float) -> np.ndarray:
    """Counter-clockwise about the centre, then moved; order 1, black outside."""
    angle = np.deg2rad(degrees)
    # rows go down: a counter-clockwise turn takes (row, column) back by this matrix
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - back @ (centre + np.array([down, right]))
    return scipy.ndimage.affine_transform(image, back, offset, order=1, mode="grid-constant")


def test_pictures_are_turned_and_moved_as_scipy_does():
    x = torch.rand(6, 2, 9, 12, generator=torch.Generator().manual_seed(0))
    points = torch.tensor(
        [[0, 0, 0], [30, 0, 0], [0, 2, -3], [-17.5, 1.25, 2.5], [90, 0, 0], [200, -4, 4]]
    ).double()
    made = transformed(x, points).numpy()
    for i, point in enumerate(points.tolist()):
        for c in range(2):
            assert np.allclose(made[i, c], scipys(x[i, c].numpy(), *point), atol=1e-6), point
    assert np.array_equal(made[0], x[0].numpy())
    assert np.array_equal(made[2][:, 2:, :-3], x[2][:, :-2, 3:].numpy())
    assert not made[2][:, :2].any()


@pytest.mark.thorough
def test_a_grid_finds_the_nearest_of_all_its_points_and_no_batch_changes_it():
    model, x = Small(), images(30, side=8)
    rows = right(model, x)
    found = attack_block(model, rows, make("spatial", GRID, epsilon=BUDGETS), 64)
    best = [float("inf")] * len(x)
    for size in (1, 2, 3):
        angles, shifts = np.linspace(-4 * size, 4 * size, 5), np.linspace(-size / 10, size / 10, 3)
        for point in itertools.product(angles, shifts, shifts):
            away = max(abs(point[0]), 40 * abs(point[1]), 40 * abs(point[2]))
            made = np.stack([scipys(image[0].numpy(), *point) for image in x])[:, None]
            wrong = model(torch.from_numpy(made)).argmax(1) != rows.labels
            best = [min(b, away) if w else b for b, w in zip(best, wrong.tolist(), strict=True)]
    assert found.distance.tolist() == pytest.approx(best)
    assert sum(0 < d < 12 for d in best) > 3
    assert sum(d == float("inf") for d in best) > 1
    alone = attack_block(model, rows, make("spatial", GRID, epsilon=BUDGETS), 1)
    assert torch.equal(alone.distance, found.distance)
    assert torch.equal(alone.passes.forward, found.passes.forward)
    # the nearest first: no more passes than to the first that fools, and one for its verdict
    assert found.passes.forward[1].max() <= 3 * 45


def test_what_is_on_record_makes_the_picture_that_fools():
    model, x = Small(), images(30, side=8)
    rows = right(model, x)
    protocol = make("spatial", GRID, RANDOM, epsilon=BUDGETS)
    found = attack_block(model, rows, protocol, 16)
    fooled = found.distance.isfinite()
    assert torch.equal(~found.transform.isnan().any(1), fooled)
    made = transformed(x[fooled], found.transform[fooled])
    assert torch.equal(made, found.perturbed[fooled])
    assert (model(made).argmax(1) != rows.labels[fooled]).all()
    ray = Ray.of(parse_epsilon(BUDGETS[-1]))
    assert torch.allclose(ray.distance(found.transform[fooled]), found.distance[fooled])
    assert set(found.fooled_by) == {"spatial-grid", "spatial-random", None}


@pytest.mark.parametrize(
    ("budget", "still"), [("30deg", [1, 2]), ("3px", [0])], ids=["rotation", "translation"]
)
def test_rotation_and_translation_alone(budget, still):
    model, x = Small(), images(30, side=8)
    found = attack_block(model, right(model, x), make("spatial", RANDOM, epsilon=[budget]), 16)
    moved = found.transform[found.distance.isfinite()]
    assert len(moved) > 3
    assert not moved[:, still].any()
    assert (moved != 0).any()


def test_more_draws_begin_with_the_fewer_and_order_changes_nothing():
    model, x = Small(), images(20, side=8)
    rows = right(model, x)
    some, more = (
        attack_block(model, rows, make("spatial", RANDOM | {"draws": n}, epsilon=["40deg"]), 16)
        for n in (10, 40)
    )
    assert (more.distance <= some.distance).all()
    assert (more.distance < some.distance).any()
    back = block(x.flip(0), rows.labels.flip(0))
    back.ids.reverse()
    flipped = attack_block(model, back, make("spatial", RANDOM, epsilon=["40deg"]), 16)
    plain = attack_block(model, rows, make("spatial", RANDOM, epsilon=["40deg"]), 16)
    assert torch.equal(flipped.distance.flip(0), plain.distance)


def test_a_record_keeps_budgets_and_transforms(tmp_path):
    x = images(12, side=8)
    model = Small()
    labels = model(x).argmax(1)
    given = (x.numpy(), labels.numpy())
    options = {"norm": "spatial", "settings": ["angles=3", "draws=5"], "out": tmp_path}
    made = evaluate(
        model, given, "spatial", epsilon=["30deg+3px", "10deg+1px"], name="n", **options
    )
    kept = read(made.path)
    assert [e.text for e in kept.epsilons] == ["10deg+1px", "30deg+3px"]
    assert kept.header["protocol"]["resolved"]["epsilons"] == ["10deg+1px", "30deg+3px"]
    right_at = [point.accuracy.value for point in kept.robust()]
    assert right_at[0] >= right_at[1]
    rows = kept.rows
    assert (rows["transform"].isna() == rows["distance"].isna()).all()
    assert kept.rows_digest == made.rows_digest
    wider = evaluate(model, given, "spatial", epsilon=["10deg+2px"], name="n", **options)
    assert wider.digest != made.digest


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["0.1"], "0.1: write how far is rotated and moved: 30deg\\+3px, 30deg or 3px"),
        (["10deg+1px", "30deg+4px"], "not in one proportion, so neither holds the other"),
        (["10deg", "30deg+3px"], "not in one proportion"),
        (["3px+30deg"], "write 30deg\\+3px, 30deg or 3px, not '3px\\+30deg'"),
        (["1e3deg"], "write 30deg\\+3px"),
        (["-3px"], "write 30deg\\+3px"),
        (["30deg+0px"], "must be above 0"),
    ],
)
def test_budgets_that_make_no_nested_boxes_are_refused(texts, said):
    with pytest.raises(ProtocolError, match=said):
        make("spatial", GRID, epsilon=texts)


def test_a_budget_is_exact_however_it_is_written():
    assert parse_epsilon("7.5deg+3/4px").exact == "15/2deg+3/4px"
    assert parse_epsilon(parse_epsilon("7.5deg+3/4px").exact).value == parse_epsilon("7.5deg").value
    with pytest.raises(ProtocolError, match="spatial-grid: angles and shifts must be at least 2"):
        make("spatial", GRID | {"angles": 1}, epsilon=["3px"])


def test_a_budget_that_leaves_nothing_to_see_or_turns_twice_is_warned_of():
    budgets = [parse_epsilon(text) for text in ("20deg+3px", "200deg+30px")]
    away, turned = excessive_budgets("spatial", budgets, (1, 28, 32))
    assert away.startswith("spatial budget 200deg+30px: moves the whole picture, 28 pixels, out")
    assert turned == "spatial budget 200deg+30px: 180deg holds every rotation already"
    assert not excessive_budgets("spatial", budgets[:1], (1, 28, 32))
