"""The attacks' algorithms as their papers print them: one image, one loop, float64 numpy.

Nothing of robustkit is imported. Each search is a generator that yields, for every step, what it
knows when the step is done; a reader holds it beside the paper's page. `loss(x)` gives the value
to be raised and its gradient, `margin(x)` the value alone, and each is called once for every
iterate, in their order. Images lie in the box [0, 1].

Where the authors' code settles what a page leaves open, a comment says so.
"""

from bisect import bisect_left
from fractions import Fraction
from math import ceil, floor, sqrt
from typing import NamedTuple

import numpy as np

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def length(change, norm):
    return np.linalg.norm(change.ravel(), ORDER[norm])


def crossing(curve, kinks, level):
    """Where a rising curve, straight between its kinks, takes a level; the last kink if nowhere."""
    kinks = sorted({0.0, *kinks})
    at = bisect_left(kinks, level, key=curve)
    if at == 0 or at == len(kinks):
        return kinks[min(at, len(kinks) - 1)]
    low, high = kinks[at - 1], kinks[at]
    return low + (level - curve(low)) / (curve(high) - curve(low)) * (high - low)


# --- APGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1) ------------------------------------


class Ascended(NamedTuple):
    """APGD when a step is done."""

    x: np.ndarray
    """the iterate that the step leads to"""
    size: float
    """of that step"""
    best: np.ndarray
    """the best iterate before it"""
    best_value: float
    checkpoint: bool
    """whether the step size was reconsidered before it"""
    back: bool
    """whether the step begins at the best iterate"""
    sparsity: float
    """L1: how many pixels the step changes"""


def checkpoints(steps):
    """The paper's: ⌈p_j · steps⌉ with p_0 = 0, p_1 = 0.22 and shorter and shorter windows."""
    last, p, found = Fraction(0), Fraction("0.22"), []
    while p < 1:
        found.append(ceil(p * steps))
        last, p = p, p + max(p - last - Fraction("0.03"), Fraction("0.06"))
    return found


def checkpoints_in_whole_steps(steps):
    """Those of the authors' code: every window cut to whole steps, one at least."""
    window, at, found = max(floor(Fraction("0.22") * steps), 1), 0, []
    while at + window < steps:
        at += window
        found.append(at)
        shorter = window - max(floor(Fraction("0.03") * steps), 1)
        window = max(shorter, floor(Fraction("0.06") * steps), 1)
    return found


def onto_ball_and_box(x, image, epsilon, norm):
    """P_S. In L2 first the ball, then the box, as the authors' code has it."""
    if norm == "linf":
        return np.clip(np.clip(x, image - epsilon, image + epsilon), 0, 1)
    change = x - image
    size = length(change, norm)
    return np.clip(image + (change * (epsilon / size) if size > epsilon else change), 0, 1)


def steepest(gradient, norm):
    if norm == "linf":
        return np.sign(gradient)
    size = length(gradient, norm)
    return gradient / size if size else gradient


def apgd(
    loss,
    image,
    start,
    epsilon,
    steps,
    norm,
    *,
    at=None,
    rho=0.75,
    alpha=0.75,
    ties=True,
):
    """Algorithm 1 in Linf and L2; `at` are the checkpoints, the paper's if not given.

    A checkpoint w is met when w steps have been made. Condition 1 counts the steps since the last
    one that raised the loss; the paper asks for fewer than a share rho of them, the authors' code
    (`ties`) for no more. Condition 2 asks whether the last checkpoint left the step size as it was
    and the best loss is still that of then; it is not asked at the first checkpoint.
    """
    at = checkpoints(steps) if at is None else at
    x, previous, size = start, start, 2 * epsilon
    best, best_value, best_gradient = None, -np.inf, None
    rises, last_checkpoint, value_then, halved_then = 0, 0, None, True
    last_value = None
    for k in range(steps):
        value, gradient = loss(x)
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        if last_value is not None and value > last_value:
            rises += 1
        last_value = value
        halved = False
        if k in at:
            wanted = rho * (k - last_checkpoint)
            condition_1 = rises <= wanted if ties else rises < wanted
            condition_2 = not halved_then and best_value == value_then
            halved = condition_1 or condition_2
            rises, last_checkpoint, value_then, halved_then = 0, k, best_value, halved
        if halved:
            size = size / 2
            x, gradient = best, best_gradient
        z = onto_ball_and_box(x + size * steepest(gradient, norm), image, epsilon, norm)
        if k > 0:
            z = x + alpha * (z - x) + (1 - alpha) * (x - previous)
            z = onto_ball_and_box(z, image, epsilon, norm)
        previous, x = x, z
        yield Ascended(x, size, best, best_value, k in at, halved, np.nan)
    value, _ = loss(x)
    return x if value > best_value else best, value


def ascent(loss, image, start, epsilon, steps, size, norm, *, decay=None):
    """PGD (Madry et al. 2018); with a decay MI-FGSM (Dong et al. 2018, algorithm 1)."""
    x, velocity = start, np.zeros_like(image)
    for _ in range(steps):
        _, direction = loss(x)
        if decay is not None:
            velocity = decay * velocity + direction / np.abs(direction).sum()
            direction = velocity
        x = onto_ball_and_box(x + size * steepest(direction, norm), image, epsilon, norm)
        yield x


# --- APGD in L1 (Croce and Hein 2021, arXiv 2103.01208) -------------------------------------------


def onto_l1_ball_and_box(x, image, epsilon):
    """The nearest point of the intersection (proposition 2.1): every change shrinks alike."""
    change = x - image
    size, room = np.abs(change), np.where(change > 0, 1 - image, image)

    def kept(less):
        return np.minimum(np.maximum(size - less, 0), room)

    kinks = [v for v in np.concatenate([size.ravel(), (size - room).ravel()]) if v > 0]
    less = crossing(lambda v: -kept(v).sum(), kinks, -epsilon)
    return image + np.sign(change) * kept(less)


def sparse_step(gradient, sparsity):
    """The signs of so many pixels of steepest slope (no fewer: a part counts whole), L1 norm 1."""
    falling = sorted(np.abs(gradient).ravel(), reverse=True)
    count = min(max(ceil(sparsity), 1), gradient.size)
    chosen = np.abs(gradient) >= falling[count - 1]
    step = np.sign(gradient) * chosen
    return step / np.abs(step).sum()


def apgd_l1(loss, image, start, epsilon, steps, *, warm=False):
    """Steps of length ε and of d / 5 pixels, then of 1.5 times fewer than the best iterate changes.

    Every 4 % of the steps: if the best iterate has become sparser, by 5 % or more, the next step is
    of length ε again and begins there; otherwise its length is 1.5 times smaller, at least ε / 10.
    A `warm` start is the end of another search: its sparsity is what counts.
    """
    every = max(floor(Fraction("0.04") * steps), 1)
    x, size = start, epsilon
    changed = float(image.size)
    sparsity = image.size / 5
    if warm:
        changed = float((start != image).sum())
        sparsity = changed / 1.5
    best, best_value, best_gradient = None, -np.inf, None
    for k in range(steps):
        value, gradient = loss(x)
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        sparser = False
        if k > 0 and k % every == 0:
            now = float((best != image).sum())
            sparser = now / changed < 0.95
            size = epsilon if sparser else max(size / 1.5, epsilon / 10)
            sparsity, changed = now / 1.5, now
        if sparser:
            x, gradient = best, best_gradient
        x = onto_l1_ball_and_box(x + size * sparse_step(gradient, sparsity), image, epsilon)
        yield Ascended(x, size, best, best_value, k > 0 and k % every == 0, sparser, sparsity)
    value, _ = loss(x)
    return x if value > best_value else best, value


def falling_radii(search, project, start, epsilon, steps):
    """A search of the ball of 3 ε in 30 % of the steps, of 2 ε in 30 %, of ε in the rest.

    Each begins at the best iterate of the one before, projected onto its own ball. That projection
    counts as a step here, so that as many iterates are evaluated as the steps say; the authors'
    code evaluates it beside them. `search(start, epsilon, steps, warm)` is one of those above,
    `project(x, epsilon)` leads into its ball.
    """
    part = ceil(Fraction("0.3") * steps)
    best, value = yield from search(start, 3 * epsilon, part, False)
    for factor, count in (2, part - 1), (1, steps - 2 * part - 1):
        x = project(best, factor * epsilon)
        yield Ascended(x, np.nan, x, -np.inf, False, False, np.nan)
        best, value = yield from search(x, factor * epsilon, count, True)
    return best, value


# --- FAB (Croce and Hein 2020, arXiv 1907.02044, algorithm 1) -------------------------------------


class Nearing(NamedTuple):
    """FAB when a step is done."""

    reached: np.ndarray
    """where the step led"""
    fooled: bool
    x: np.ndarray
    """the next iterate: nearer to the image where the step fooled"""
    best: np.ndarray | None
    distance: float
    """of the best"""


def step_onto(x, w, b, norm):
    """The smallest step from x in the box to ⟨w, z⟩ = b, or to the box's point nearest to it."""
    gap = (w * x).sum() - b
    direction = -np.sign(w) * np.sign(gap)
    room = np.where(direction > 0, 1 - x, x) * (w != 0)
    slope = np.abs(w)
    if norm == "l1":
        # the steepest pixel as far as it goes, then the next one
        step, missing = np.zeros_like(x), abs(gap)
        for i in sorted(range(w.size), key=lambda i: -slope.flat[i]):
            if slope.flat[i] > 0:
                step.flat[i] = min(room.flat[i], missing / slope.flat[i])
                missing = max(missing - slope.flat[i] * room.flat[i], 0)
        return direction * step
    # all pixels at once, each as fast as its slope (Linf: alike), until it meets the box
    speed = np.ones_like(w) if norm == "linf" else slope
    moves = speed * room > 0
    time = crossing(
        lambda t: (slope * np.minimum(t * speed, room)).sum(),
        (room[moves] / speed[moves]).tolist(),
        abs(gap),
    )
    return direction * np.minimum(time * speed, room)


def fab(
    network,
    image,
    label,
    start,
    steps,
    norm,
    *,
    target=None,
    alpha_max=0.1,
    eta=1.05,
    beta=0.9,
    every=False,
    patience=0,
):
    """Algorithm 1 without its final search; `network(x)` gives K logits and their K gradients.

    With a `target` the only boundary is the one to that class (the authors' FAB-T). Two things the
    paper has not: with `every`, starts and points drawn back to the image count as well where they
    fool; with `patience`, an iterate leaps to the corner of the box that w points to after so many
    steps that found no point nearer by a thousandth.
    """
    x, best, distance = start, None, np.inf
    idle, distance_then = 0, np.inf
    for _ in range(steps):
        logits, gradients = network(x)
        if every and logits.argmax() != label and length(x - image, norm) < distance:
            best, distance = x, length(x - image, norm)
        nearest = np.inf
        for other in range(len(logits)) if target is None else [target]:
            if other == label:
                continue
            value = logits[other] - logits[label]
            slope = gradients[other] - gradients[label]
            away = abs(value) / np.linalg.norm(slope.ravel(), DUAL[norm])
            if away < nearest:
                nearest, f, w = away, value, slope
        b = (w * x).sum() - f
        from_x, from_image = step_onto(x, w, b, norm), step_onto(image, w, b, norm)
        one, two = max(length(from_x, norm), 1e-8), max(length(from_image, norm), 1e-8)
        alpha = min(one / (one + two), alpha_max)
        there = (1 - alpha) * (x + eta * from_x) + alpha * (image + eta * from_image)
        there = np.clip(there, 0, 1)
        if patience and idle >= patience:
            there, idle = np.where(w == 0, x, w > 0), 0
        fooled = bool(network(there)[0].argmax() != label)
        x = there
        if fooled:
            if length(there - image, norm) < distance:
                best, distance = there, length(there - image, norm)
            x = (1 - beta) * image + beta * there
        if distance < 0.999 * distance_then:
            distance_then, idle = distance, 0
        else:
            idle += 1
        yield Nearing(there, fooled, x, best, distance)


# --- Square (Andriushchenko et al. 2020, arXiv 1912.00049, algorithms 1 to 3) ---------------------


class Draws(NamedTuple):
    """What Square draws for one proposal."""

    at: tuple[float, float]
    """row and column of the window, in [0, 1): the share of the places that lie before it"""
    other: tuple[float, float]
    """L2 and L1: of the window that is emptied"""
    signs: np.ndarray
    """of each channel, ±1"""
    turned: bool
    """L2 and L1: peak and trough side by side, not one above the other"""


class Proposed(NamedTuple):
    """Square when a proposal is made."""

    x: np.ndarray
    """the proposal"""
    best: np.ndarray
    """what it is made from"""
    best_value: float
    side: int


def side_of_square(done, h, w, norm, p_init):
    """For the proposal after so many: p is halved after 10, 50, 200, ... of 10,000."""
    p = p_init
    for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if done > after:
            p = p / 2
    side = round(sqrt(p * h * w))
    if norm == "linf":
        return min(max(side, 1), h, w)
    side = max(side, 3)
    return min(side + (side % 2 == 0), h, w)


def rectangles(height, width, norm):
    """η of a part of a window: rectangles inside one another, the n-th from within by 1 / n²."""
    shape = np.zeros((height, width))
    for n in range(1, max(height // 2, width // 2) + 2):
        for i in range(height):
            for j in range(width):
                if abs(i - height // 2) < n and abs(j - width // 2) < n:
                    shape[i, j] += 1 / n ** (2 if norm == "l2" else 4)
    return shape / length(shape, norm) if shape.size else shape


def peak_and_trough(side, norm, turned=False):
    upper = rectangles(side // 2, side, norm)
    shape = np.concatenate([upper, -rectangles(side - side // 2, side, norm)])
    shape = shape / length(shape, norm)
    return shape.T if turned else shape


def filled(change, image, epsilon, norm):
    """The image with a change that fills the ball, in the box."""
    if norm == "l1":
        return onto_l1_ball_and_box(image + change, image, epsilon)
    return np.clip(image + change / length(change, norm) * epsilon, 0, 1)


def stripes_or_tiles(image, epsilon, norm, signs):
    """The first query; `signs` are C × W in Linf, C × 5 × 5 otherwise."""
    c, h = image.shape[:2]
    if norm == "linf":
        return np.clip(image + epsilon * signs[:, None, :], 0, 1)
    side, change = h // 5, np.zeros_like(image)
    margin = (h - 5 * side) // 2
    for channel in range(c):
        for i in range(5):
            for j in range(5):
                top, left = margin + i * side, margin + j * side
                tile = signs[channel, i, j] * peak_and_trough(side, norm)
                change[channel, top : top + side, left : left + side] = tile
    return filled(change, image, epsilon, norm)


def proposal(best, image, epsilon, norm, side, draws):
    c, h, w = image.shape
    (top, left), (top_2, left_2) = (
        (floor(row * (h - side + 1)), floor(column * (w - side + 1)))
        for row, column in (draws.at, draws.other)
    )
    window = np.s_[top : top + side, left : left + side]
    emptied = np.s_[top_2 : top_2 + side, left_2 : left_2 + side]
    if norm == "linf":
        step = np.zeros_like(image)
        for channel in range(c):
            step[channel][window] = 2 * epsilon * draws.signs[channel]
        return np.clip(np.clip(best + step, image - epsilon, image + epsilon), 0, 1)
    change = best - image
    power = 2 if norm == "l2" else 1
    unused = max(epsilon**power - length(change, norm) ** power, 0)
    both = np.zeros((h, w), dtype=bool)
    both[window] = both[emptied] = True
    new = change.copy()
    for channel in range(c):
        old = change[channel][window]
        shape = draws.signs[channel] * peak_and_trough(side, norm, draws.turned)
        shape = shape + old / max(length(old, norm), 1e-12)
        shape = shape / max(length(shape, norm), 1e-12)
        held = length(change[channel][both], norm) ** power
        # the authors' code multiplies by the channels in L1; the projection brings it back
        mass = sqrt(held + unused / c) if norm == "l2" else c * (held + unused / c)
        new[channel][emptied] = 0
        new[channel][window] = mass * shape
    return filled(new, image, epsilon, norm)


def square(margin, image, start, epsilon, steps, norm, draws, *, p_init=0.8):
    """Random search: what is proposed is kept where it raises the margin."""
    x, best, best_value = start, None, -np.inf
    for i in range(steps):
        value = margin(x)
        if value > best_value:
            best, best_value = x, value
        side = side_of_square(i, *image.shape[1:], norm, p_init)
        x = proposal(best, image, epsilon, norm, side, draws[i])
        yield Proposed(x, best, best_value, side)
