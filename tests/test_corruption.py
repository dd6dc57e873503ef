"""The common corruptions against independent computations and closed forms."""

import colorsys
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from robustkit.corruption import (
    GROUPS,
    NAMES,
    SEVERITIES,
    corrupt,
    departure_notes,
    measure,
    parameters,
)
from robustkit.corruption.draws import source
from robustkit.corruption.kinds import KINDS
from robustkit.corruption.weather import plasma
from robustkit.data import load_dataset
from robustkit.errors import DataError, EvaluationFailed, InputError, UnknownName

EXACT = {"contrast", "brightness", "pixelate", "jpeg-compression", "zoom-blur", "defocus-blur"}
"""what leaves nothing to chance"""
UNEVEN = {"elastic-transform", "glass-blur", "frost"}
"""whose published constants do not rise from severity to severity"""


def natural(n: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Images with the falling spectrum of photographs, and colours that go together."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / height
    fields = rng.normal(size=(n, channels + 1, height, width))
    smooth = np.fft.ifft2(np.fft.fft2(fields) / frequency**1.3).real
    mixed = smooth[:, :1] + 0.4 * smooth[:, 1:]
    mixed -= mixed.mean((2, 3), keepdims=True)
    images = 0.5 + 0.22 * mixed / mixed.std((2, 3), keepdims=True)
    return torch.from_numpy((images.clip(0, 1) * 255).round() / 255).float()


def named(n: int) -> list[str]:
    return [f"image-{i}" for i in range(n)]


def once(image: Tensor, name: str, severity: int) -> np.ndarray:
    """One image, C × H × W in [0, 1], corrupted; levels, H × W × C."""
    made = corrupt(image[None], name, severity, ["a"])[0]
    return (made * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def levels(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def drawn(image: Tensor, name: str, severity: int) -> tuple[np.ndarray, ...]:
    """What is drawn for the image that `once` corrupts."""
    constants = parameters(name, *image.shape[1:]).levels[severity - 1]
    pixels = (image * 255).round().to(torch.uint8)
    return tuple(
        d.numpy() for d in KINDS[name].draw(pixels, constants, source(0, name, severity, "a"))
    )


# --- what holds for all of them -------------------------------------------------------------------


def test_there_are_fifteen_in_four_groups():
    assert len(NAMES) == len(set(NAMES)) == 15
    assert [name for group in GROUPS.values() for name in group] == list(NAMES)
    assert set(KINDS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 8, 11), (1, 33, 20), (3, 90, 86)])
def test_any_size_and_colour_gives_levels_of_8_bits(name, shape):
    images = natural(2, *shape)
    for severity in (1, 5):
        made = corrupt(images, name, severity, named(2))
        assert made.shape == images.shape
        assert made.dtype == torch.float32
        assert bool(((made >= 0) & (made <= 1)).all())
        assert bool(((made * 255).round() / 255 == made).all())
        assert bool((made != images).any()) or (name, severity) == ("glass-blur", 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 40)])
def test_a_batch_changes_nothing(name, shape):
    images, ids = natural(7, *shape), named(7)
    order = [4, 0, 6, 2, 5, 1, 3]
    for severity in (2, 5):
        whole = corrupt(images, name, severity, ids)
        assert torch.equal(whole, corrupt(images, name, severity, ids))
        turned = corrupt(images[order], name, severity, [ids[i] for i in order])
        assert torch.equal(whole[order], turned)
        parts = [corrupt(images[i : i + 1], name, severity, ids[i : i + 1]) for i in range(7)]
        assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("name", NAMES)
def test_chance_is_keyed_by_seed_and_id(name):
    images = natural(1, 3, 32, 32)
    first = corrupt(images, name, 5, ["a"])
    for other in (corrupt(images, name, 5, ["b"]), corrupt(images, name, 5, ["a"], seed=1)):
        assert torch.equal(first, other) == (name in EXACT)


def test_no_global_state_is_read_or_changed():
    images = natural(1, 3, 16, 16)
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    made = [corrupt(images, name, 3, ["a"]) for name in NAMES]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    torch.manual_seed(1)
    np.random.seed(1)
    assert all(
        torch.equal(m, corrupt(images, n, 3, ["a"])) for m, n in zip(made, NAMES, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_distortion_rises_with_the_severity(name):
    count = 30
    images = natural(count, 3, 32, 32)
    errors = [
        float((corrupt(images, name, s, named(count)) - images).double().pow(2).mean())
        for s in SEVERITIES
    ]
    if name == "elastic-transform":
        assert min(errors) > 0.01  # its published displacements shrink as they become rougher
    elif name in UNEVEN:
        assert errors[0] < errors[3], errors
        assert errors[0] < errors[4], errors
    else:
        assert errors[0] < errors[2] < errors[4], errors


def test_images_are_not_changed_in_place():
    images = natural(2, 3, 16, 16)
    kept = images.clone()
    for name in NAMES:
        corrupt(images, name, 5, named(2))
        assert torch.equal(images, kept)


def test_an_empty_batch_stays_one():
    assert corrupt(torch.zeros(0, 3, 32, 32), "fog", 1, []).shape == (0, 3, 32, 32)


def test_black_and_white_images_stay_numbers():
    for value in (0.0, 1.0):
        images = torch.full((1, 3, 16, 16), value)
        for name in NAMES:
            assert bool(corrupt(images, name, 3, ["a"]).isfinite().all()), name


@pytest.mark.parametrize("name", ["defocus-blur", "glass-blur", "zoom-blur", "pixelate"])
def test_blur_leaves_a_flat_image_as_it_is(name):
    images = torch.full((1, 3, 32, 32), 77 / 255)
    for severity in SEVERITIES:
        assert float((corrupt(images, name, severity, ["a"]) - images).abs().max()) <= 1.001 / 255


# --- against independent computations -------------------------------------------------------------


@pytest.mark.parametrize("severity", [1, 4])
def test_contrast(severity):
    image = natural(1, 3, 32, 32)[0]
    pixels = levels(image) / 255
    mean = pixels.mean((0, 1))
    expected = (pixels - mean) * [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1] + mean
    assert np.abs(once(image, "contrast", severity) - (expected * 255).astype(np.uint8)).max() == 0


def test_brightness_beside_colorsys():
    image = natural(1, 3, 32, 32)[0]
    expected = np.empty((32, 32, 3))
    for at in np.ndindex(32, 32):
        hue, saturation, value = colorsys.rgb_to_hsv(*levels(image)[at] / 255)
        expected[at] = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
    assert np.abs(once(image, "brightness", 4) - expected * 255).max() < 1 + 1e-9


def test_defocus_beside_a_sum_over_a_disk():
    image = natural(1, 3, 224, 224)[0]
    y, x = np.mgrid[-10:11, -10:11]
    kernel = (y**2 + x**2 <= 100) / (y**2 + x**2 <= 100).sum()
    soft = np.exp(-2 * np.arange(-2, 3) ** 2.0)
    soft = np.outer(soft, soft) / soft.sum() ** 2
    kernel = ndimage.correlate(kernel, soft, mode="mirror")
    expected = ndimage.convolve(levels(image)[..., 0].astype(float), kernel, mode="mirror")
    expected = expected.clip(0, 255)
    difference = expected - once(image, "defocus-blur", 5)[..., 0]
    assert difference.min() > -0.01
    assert difference.max() < 1.01


@pytest.mark.parametrize(("side", "severity"), [(32, 3), (48, 5)])
def test_zoom_beside_scipy(side, severity):
    image = natural(1, 1, side, side)[0]
    pixels = levels(image)[..., 0] / 255
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity - 1], 0.01)
    total = pixels.copy()
    for factor in factors:
        kept = math.ceil(side / factor)
        first = (side - kept) // 2
        large = ndimage.zoom(
            pixels[first : first + kept, first : first + kept], factor, order=1, mode="nearest"
        )
        trim = (len(large) - side) // 2
        total += large[trim : trim + side, trim : trim + side]
    expected = total / (len(factors) + 1) * 255
    difference = expected - once(image, "zoom-blur", severity)[..., 0]
    assert difference.min() > -0.001
    assert difference.max() < 1.001


@pytest.mark.parametrize(("shape", "share"), [((3, 32, 32), 0.65), ((1, 224, 100), 0.25)])
def test_pixelate_is_pillows(shape, share):
    image = natural(1, *shape)[0]
    picture = Image.fromarray(levels(image).squeeze())
    small = (int(picture.width * share), int(picture.height * share))
    expected = picture.resize(small, Image.Resampling.BOX).resize(
        picture.size, Image.Resampling.BOX
    )
    assert (once(image, "pixelate", 5).squeeze() == np.asarray(expected)).all()


def test_jpeg_is_pillows():
    image = natural(1, 3, 40, 36)[0]
    file = BytesIO()
    Image.fromarray(levels(image)).save(file, "JPEG", quality=40)
    assert (once(image, "jpeg-compression", 5) == np.asarray(Image.open(file))).all()


@pytest.mark.parametrize("severity", [1, 3])
def test_motion_beside_shifted_copies(severity):
    image = natural(1, 3, 32, 32)[0]
    radius, sigma = [(6, 1), (6, 1.5), (6, 2)][severity - 1]
    angle = math.radians(float(drawn(image, "motion-blur", severity)[0]))
    assert abs(angle) <= math.pi / 4
    weights = stats.norm.pdf(np.arange(2 * radius + 1) / sigma)
    expected = np.zeros((32, 32, 3))
    for step, weight in enumerate(weights / weights.sum()):
        down, across = (math.ceil(step * f(angle) - 0.5) for f in (math.sin, math.cos))
        expected += weight * ndimage.shift(
            levels(image).astype(float), (-down, -across, 0), order=0, mode="nearest"
        )
    difference = expected - once(image, "motion-blur", severity)
    assert difference.min() > -0.01
    assert difference.max() < 1.01


@pytest.mark.parametrize(("side", "severity"), [(32, 5), (80, 5)])
def test_glass_beside_a_walk_over_the_pixels(side, severity):
    image = natural(1, 3, side, side)[0]
    sigma, reach, rounds = parameters("glass-blur", side, side).levels[severity - 1]
    reach = int(reach)
    soft = (sigma, sigma, 0)
    pixels = ndimage.gaussian_filter(levels(image) / 255, soft, mode="nearest")
    pixels = (pixels * 255).astype(np.uint8)
    (steps,) = drawn(image, "glass-blur", severity)
    assert steps.min() == -reach
    assert steps.max() == reach - 1
    for turn in range(int(rounds)):
        for y in range(side - reach, reach, -1):
            for x in range(side - reach, reach, -1):
                down, across = steps[turn, :, y, x]
                pixels[y, x] = pixels[y + down, x + across]
    expected = ndimage.gaussian_filter(pixels / 255, soft, mode="nearest") * 255
    assert (once(image, "glass-blur", severity) == expected.astype(np.uint8)).all()


@pytest.mark.parametrize("severity", [2, 5])
def test_elastic_beside_scipy(severity):
    image = natural(1, 1, 48, 48)[0]
    alpha, sigma, shift = parameters("elastic-transform", 48, 48).levels[severity - 1]
    corners, fields = drawn(image, "elastic-transform", severity)
    before = np.array([[40, 40], [40, 8], [8, 8]]).astype(float)
    back = np.linalg.solve(np.c_[before + shift * corners, np.ones(3)], before)
    y, x = np.mgrid[:48, :48]
    source_x, source_y = np.einsum("khw,kc->chw", np.stack([x, y, np.ones((48, 48))]), back)
    pixels = levels(image)[..., 0].astype(float)
    warped = ndimage.map_coordinates(pixels, [source_y, source_x], order=1, mode="mirror")
    move = [alpha * ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) for f in fields]
    expected = ndimage.map_coordinates(warped, [y + move[1], x + move[0]], order=1, mode="reflect")
    # positions of the affine map are rounded to 1/32 of a pixel
    slope = np.abs(np.diff(pixels, axis=0)).max() + np.abs(np.diff(pixels, axis=1)).max()
    difference = expected - once(image, "elastic-transform", severity)[..., 0]
    assert np.abs(difference).max() < 1 + slope / 32
    assert abs(difference.mean() - 0.5) < 0.1


def test_snow_beside_scipy():
    image = natural(1, 3, 32, 32)[0]
    field, angle = drawn(image, "snow", 2)
    flakes = 0.1 + 0.2 * field
    flakes = np.floor(np.where(flakes < 0.5, 0, flakes).clip(0, 1) * 255)
    weights = stats.norm.pdf(np.arange(21) / 4)
    fallen = np.zeros((32, 32))
    for step, weight in enumerate(weights / weights.sum()):
        down, across = (math.ceil(step * f(np.deg2rad(angle)) - 0.5) for f in (np.sin, np.cos))
        fallen += weight * ndimage.shift(flakes, (-down, -across), order=0, mode="nearest")
    fallen = np.floor(fallen + 1e-3) / 255
    pixels = levels(image) / 255
    grey = np.asarray(pixels @ [0.299, 0.587, 0.114])[..., None]
    expected = 0.9 * pixels + 0.1 * np.maximum(pixels, 1.5 * grey + 0.5)
    expected = (expected + (fallen + fallen[::-1, ::-1])[..., None]).clip(0, 1) * 255
    difference = expected - once(image, "snow", 2)
    assert difference.min() > -0.01
    assert difference.max() < 1.01


def test_fog_is_below_the_brightest_value_and_follows_the_plasma():
    image = natural(1, 3, 32, 32)[0] * (200 / 255)
    image = (image * 255).round() / 255
    (chances,) = drawn(image, "fog", 5)
    clouds = plasma(torch.from_numpy(chances)[None], 32, 1.75)[0].numpy()[..., None]
    assert clouds.min() == 0
    assert clouds.max() == 1
    pixels = levels(image) / 255
    expected = (pixels + 1.5 * clouds) * pixels.max() / (pixels.max() + 1.5) * 255
    assert np.abs(once(image, "fog", 5) - np.floor(expected)).max() <= 1
    assert once(image, "fog", 5).max() <= levels(image).max()


def test_a_plasma_is_built_from_means_of_four():
    """Without chance but at the first level, everything below is a mean of its neighbours."""
    chances = torch.zeros(1, 16 * 16 - 1, dtype=torch.float64)
    chances[0, :3] = torch.tensor([0.9, -0.3, 0.2])
    field = np.zeros((16, 16))
    field[8, 8], field[0, 8], field[8, 0] = 0.9, 0, 0
    field[0, 8] = (2 * field[8, 8]) / 4 - 0.3
    field[8, 0] = (2 * field[8, 8]) / 4 + 0.2
    for step in (8, 4, 2):
        half = step // 2
        at = range(0, 16, step)
        for y in at:
            for x in at:
                corners = [field[(y + a) % 16, (x + b) % 16] for a in (0, step) for b in (0, step)]
                field[y + half, x + half] = np.mean(corners)
        for y in at:
            for x in at:
                for a, b in ((0, half), (half, 0)):
                    across = [(half, 0), (-half, 0), (0, half), (0, -half)]
                    near = [field[(y + a + p) % 16, (x + b + q) % 16] for p, q in across]
                    field[y + a, x + b] = np.mean(near)
    expected = (field - field.min()) / (field.max() - field.min())
    assert np.allclose(plasma(chances, 16, 2.0)[0].numpy(), expected, atol=1e-12)


# --- noise against closed forms -------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity):
    scale = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    made = corrupt(torch.full((40, 3, 32, 32), 127 / 255), "gaussian-noise", severity, named(40))
    values = made.double().flatten()
    error = scale / math.sqrt(len(values))
    # truncation takes half a level off
    assert abs(float(values.mean()) - 126.5 / 255) < 5 * error
    assert abs(float(values.std()) - scale) < 5 * error


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_counts_photons(severity):
    photons = [500, 250, 100, 75, 50][severity - 1]
    made = corrupt(torch.full((40, 3, 32, 32), 102 / 255), "shot-noise", severity, named(40))
    values = made.double().flatten()
    deviation = math.sqrt(0.4 / photons)
    assert abs(float(values.mean()) - 0.4) < 5 * deviation / math.sqrt(len(values)) + 1 / 255
    # truncation widens a narrow distribution a little
    assert abs(float(values.std()) / deviation - 1) < 0.03


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_loses_its_share(severity):
    share = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    made = corrupt(torch.full((40, 3, 32, 32), 100 / 255), "impulse-noise", severity, named(40))
    salt, pepper = int((made == 1).sum()), int((made == 0).sum())
    assert int((made * 255).round().eq(100).sum()) == made.numel() - salt - pepper
    for count in (salt, pepper):
        assert stats.binomtest(count, made.numel(), share / 2).pvalue > 1e-4


def test_frost_has_the_brightness_of_the_photographs():
    """Black images show the ice alone: means of five kinds between 0.2 · 112 and 0.2 · 203."""
    made = corrupt(torch.zeros(300, 3, 32, 32), "frost", 1, named(300)).double() * 255
    means = made.mean((1, 2, 3))
    assert abs(float(means.mean()) - 0.2 * 161) < 2
    assert float(means.min()) > 0.2 * 70
    assert float(means.max()) < 0.2 * 230
    assert float((made[:, 2] - made[:, 0]).mean()) > 0  # blue above red


# --- sizes, notes, errors -------------------------------------------------------------------------


def test_the_tables_are_used_as_published_at_their_own_sizes():
    assert parameters("motion-blur", 32, 32).levels[4] == (9, 2.5)
    assert parameters("motion-blur", 224, 224).levels[4] == (20, 15)
    assert parameters("defocus-blur", 224, 300).source == "ImageNet-C's for 224 pixels"
    assert parameters("snow", 32, 32).fields[-1] == "kept"


def test_lengths_are_scaled_and_said_to_be():
    used = parameters("motion-blur", 64, 80)
    assert used.levels[4] == (18, 5.0)
    assert used.source == "CIFAR-10-C's for 32 pixels, lengths scaled to 64"
    used = parameters("motion-blur", 112, 112)
    assert used.levels[4] == (10, 7.5)
    assert used.source == "ImageNet-C's for 224 pixels, lengths scaled to 112"
    assert parameters("defocus-blur", 28, 28).levels == parameters("defocus-blur", 32, 32).levels
    assert parameters("contrast", 64, 64).levels == parameters("contrast", 32, 32).levels
    assert parameters("glass-blur", 112, 112).levels[0][1] == 1
    assert parameters("snow", 100, 100).levels[1][2] == 1


def test_notes_tell_every_departure():
    assert departure_notes(["contrast"], 32, 32, 3) == ()
    assert departure_notes(["motion-blur"], 224, 224, 3) == ()
    (only,) = departure_notes(["motion-blur"], 28, 28, 1)
    assert only.startswith(
        "motion-blur: constants: CIFAR-10-C's for 32 pixels, used at 28 unscaled"
    )
    (only,) = departure_notes(["motion-blur"], 64, 64, 3)
    assert only == "motion-blur: constants: CIFAR-10-C's for 32 pixels, lengths scaled to 64"
    assert "none is a length" in departure_notes(["contrast"], 64, 64, 3)[0]
    assert "photographs" in departure_notes(["frost"], 224, 224, 3)[0]
    assert any("grey JPEG" in note for note in departure_notes(["jpeg-compression"], 32, 32, 1))
    for name in NAMES:
        assert all(
            note.startswith(f"{name}: ") and "\n" not in note
            for note in departure_notes([name], 65, 48, 1)
        )
    together = departure_notes(NAMES, 28, 28, 1)
    assert len(together) == len({note.partition(": ")[2] for note in together})
    draw = "one draw for the grey value, where images turned to colour have three"
    assert f"gaussian-noise, shot-noise and impulse-noise: {draw}" in together


def test_mistakes_are_told_in_a_line():
    images = natural(1, 3, 16, 16)
    with pytest.raises(
        UnknownName, match=r"^unknown corruption 'gausian-noise'; did you mean 'gaussian-noise'"
    ):
        corrupt(images, "gausian-noise", 1, ["a"])
    with pytest.raises(UnknownName, match="did you mean 'fog'"):
        parameters("fogg", 32, 32)
    for severity in (0, 6, 2.5):
        with pytest.raises(
            InputError, match=r"^fog: the severity is a whole number from 1 to 5, got"
        ):
            corrupt(images, "fog", severity, ["a"])
    with pytest.raises(InputError, match="7 × 16 pixels are too small"):
        corrupt(images[:, :, :7], "fog", 1, ["a"])
    with pytest.raises(DataError, match="1 images, but 2 ids"):
        corrupt(images, "fog", 1, ["a", "b"])
    with pytest.raises(DataError, match="1 or 3 channels"):
        corrupt(images[:, :2], "fog", 1, ["a"])
    with pytest.raises(DataError, match=r"got torch\.uint8"):
        corrupt((images * 255).to(torch.uint8), "fog", 1, ["a"])
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(DataError, match=r"outside \[0, 1\]"):
            corrupt(torch.full((1, 3, 16, 16), bad), "fog", 1, ["a"])


# --- measuring ------------------------------------------------------------------------------------


class Brightest(torch.nn.Module):
    """The class is the quadrant of the brightest mean."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def test_measure_says_which_images_stay_right():
    digits = load_dataset("mnist5k", limit=30)
    images = torch.from_numpy(digits.images(0, 30))
    model = Brightest()
    labels = model(images).argmax(1).numpy()
    told: list[tuple[int, int]] = []
    names = ("gaussian-noise", "contrast", "elastic-transform")
    right = measure(
        *(model, digits.images, labels, digits.ids, 8),
        names=names,
        severities=(1, 5),
        progress=lambda done, total: told.append((done, total)),
    )
    assert right.shape == (3, 2, 30)
    assert right.dtype == bool
    for i, name in enumerate(names):
        for j, severity in enumerate((1, 5)):
            made = corrupt(images, name, severity, digits.ids)
            assert (right[i, j] == (model(made).argmax(1).numpy() == labels)).all()
    assert right[0, 0].mean() > 0.8
    assert told[-1] == (180, 180)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    again = measure(model, digits.images, labels, digits.ids, 30, names=names, severities=(1, 5))
    assert (again == right).all()


def test_measure_stops_at_logits_that_are_no_numbers():
    class Broken(Brightest):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[x.mean((1, 2, 3)) > 0.6] = math.nan
            return logits

    images = natural(6, 3, 16, 16) / 2
    images[2:] += 0.5
    settings = {"names": ["brightness"], "severities": [3]}
    with pytest.raises(EvaluationFailed, match=r"image 2 under brightness at severity 3$"):
        measure(Broken(), lambda a, b: images[a:b], [0] * 6, named(6), 4, **settings)


def test_measure_checks_before_any_work():
    def unread(start: int, stop: int) -> Tensor:
        raise AssertionError("read")

    with pytest.raises(UnknownName, match="did you mean 'snow'"):
        measure(Brightest(), unread, [0], ["a"], 4, names=["fog", "snaw"])
    with pytest.raises(InputError, match="from 1 to 5, got 7"):
        measure(Brightest(), unread, [0], ["a"], 4, severities=[1, 7])
    with pytest.raises(DataError, match="2 labels, but 1 ids"):
        measure(Brightest(), unread, [0, 1], ["a"], 4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_to_a_level(name):
    images = natural(4, 3, 64, 64)
    here = corrupt(images, name, 3, named(4))
    there = corrupt(images.cuda(), name, 3, named(4))
    assert there.is_cuda
    difference = (here - there.cpu()).abs() * 255
    assert float(difference.max()) < 1.5
    assert float((difference > 0.5).float().mean()) < 1e-3
