"""The figures of a study: what stands on the axes, and the files they become."""

import re
import zlib
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.outcomes import (
    EPSILONS,
    HOSTILE,
    METHODS,
    adversarial,
    comparison,
    cost,
    data_fraction,
    history,
    label_noise,
    not_tested,
)
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from robustkit import figures
from robustkit.analysis.outcome import TransferMatrix
from robustkit.figures.style import map_text
from robustkit.record import Example
from robustkit.reporting.wording import difference, signed
from robustkit.statistics import Estimate, friedman


@pytest.fixture
def ax():
    return Figure(figsize=(5.5, 3), layout="constrained").add_subplot()


def lines(ax):
    return [container[0] for container in ax.containers if hasattr(container, "has_yerr")]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def inside(ax, artists):
    """Whether the artists lie inside the figure, once it is laid out."""
    ax.figure.draw_without_rendering()
    box = ax.figure.bbox
    extents = [artist.get_window_extent() for artist in artists]
    return all(
        box.x0 - 1 <= e.x0 and e.x1 <= box.x1 + 1 and box.y0 - 1 <= e.y0 and e.y1 <= box.y1 + 1
        for e in extents
    )


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("panel", [label_noise, data_fraction], ids=["noise", "fraction"])
def test_curves_go_through_the_estimates_with_their_intervals(ax, panel, count):
    panel = panel(count)
    assert figures.accuracy_curves(ax, panel) is ax
    for container, line in zip(ax.containers, panel.lines, strict=True):
        assert list(container[0].get_xdata()) == [v.x for v in line.values]
        assert list(container[0].get_ydata()) == [v.estimate.value for v in line.values]
        for bar, v in zip(container[2][0].get_segments(), line.values, strict=True):
            np.testing.assert_allclose(bar[:, 1], [v.estimate.low, v.estimate.high], atol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("panel", [label_noise, data_fraction, adversarial])
def test_every_interval_lies_inside_the_limits(ax, panel, count):
    panel = panel(count)
    figures.accuracy_curves(ax, panel)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for line in panel.lines:
        for v in line.values:
            assert left < v.x < right
            assert bottom <= v.estimate.low
            assert v.estimate.high <= top


def test_levels_are_ticks_in_per_cent_and_fractions_stand_on_a_logarithmic_axis(ax):
    figures.accuracy_curves(ax, data_fraction())
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "data fraction (%)"
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels[0] == "0.125"
    assert labels[-1] == "100"


def test_budgets_are_written_as_they_were_and_reach_from_nothing_to_all(ax):
    figures.robustness(ax, adversarial())
    assert [t.get_text() for t in ax.get_xticklabels()] == list(EPSILONS)
    assert ax.get_ylim()[0] <= 0 <= 1 <= ax.get_ylim()[1]


def test_eight_methods_differ_by_marker_and_by_dash_and_marker_without_colour(ax):
    figures.accuracy_curves(ax, label_noise(8))
    looks = [(line.get_marker(), line.get_linestyle()) for line in lines(ax)]
    assert len({marker for marker, _ in looks}) == 8
    assert len({dash for _, dash in looks}) == 4


def test_colours_of_three_methods_stay_apart_for_the_red_green_blind(ax):
    """By Viénot's (1999) matrices for protanopia and deuteranopia, in linear RGB."""
    figures.accuracy_curves(ax, label_noise(3))
    colours = np.array([to_rgb(line.get_color()) for line in lines(ax)]) ** 2.2
    protan = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
    deutan = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]
    for matrix in (protan, deutan):
        seen = np.clip(colours @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
        assert min(apart) > 0.15


def test_a_method_looks_the_same_in_every_figure(ax):
    figures.accuracy_curves(ax, replace(label_noise(3), lines=label_noise(3).lines[2:]), METHODS)
    other = Figure().add_subplot()
    figures.accuracy_curves(other, label_noise(3), METHODS)
    alone, among = lines(ax)[0], lines(other)[2]
    assert alone.get_color() == among.get_color()
    assert alone.get_marker() == among.get_marker()
    third = Figure().add_subplot()
    figures.cost_against_gain(third, [cost(METHODS[2], 1.5, 0.01)], METHODS)
    assert lines(third)[0].get_color() == among.get_color()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "panel",
    [
        label_noise(1, ["0.4"]),
        replace(label_noise(2), lines=()),
        replace(label_noise(2), lines=(replace(label_noise(1).lines[0], values=()),)),
        replace(data_fraction(1), lines=label_noise(1).lines),  # a logarithmic axis with a level 0
    ],
    ids=["one level", "no lines", "no values", "zero on a log axis"],
)
def test_odd_panels_can_be_drawn(ax, panel):
    figures.accuracy_curves(ax, panel)
    ax.figure.draw_without_rendering()


def test_the_legend_fits_below_and_names_every_line_in_order():
    figure = Figure(figsize=(3.25, 3), layout="constrained")
    ax = figures.accuracy_curves(figure.add_subplot(), label_noise(8))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.get_texts()} == set(METHODS)
    assert inside(ax, [legend])
    drawn = {m: line.get_marker() for m, line in zip(METHODS, lines(ax), strict=True)}
    samples = [line.get_marker() for line in legend.findobj(Line2D)]
    samples = [marker for marker in samples if marker in drawn.values()]
    names = [text.get_text() for text in legend.get_texts()]
    assert dict(zip(names, samples, strict=True)) == drawn


def test_a_forest_shows_differences_in_points_and_words(ax):
    rows = [
        comparison("l2", "ce", "0", 0.001, 0.003),
        comparison("l2", "ce", "0.8", 0.025, 0.014),
        comparison("l1", "ce", "0", -0.02, 0.01),
        not_tested("l1", "ce", "0.8"),
    ]
    assert figures.forest(ax, rows, percent=True) is ax
    drawn = [(line.get_xdata()[0], line.get_marker()) for line in lines(ax)]
    np.testing.assert_allclose([x for x, _ in drawn], [0.1, 2.5, -2.0])
    assert len({marker for _, marker in drawn}) == 3
    words = [w for w in texts(ax) if w not in ("l2", "l1")]
    assert words == ["equivalent", "better", "worse", "not tested"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["", "0\u00a0%", "80\u00a0%"] * 2
    ends = [container[2][0].get_segments()[0][:, 0] for container in ax.containers]
    np.testing.assert_allclose(ends[1], [1.1, 3.9])
    assert ax.get_xlabel() == "difference to ce (percentage points)\nshaded: ±Δ"
    assert figures.forest_rows(rows) == 6
    assert inside(ax, [*ax.texts, *ax.get_yticklabels(), ax.xaxis.label])


def test_intervals_longer_to_one_side_are_drawn_so(ax):
    one = comparison("l2", "ce", "0.8", 0.025, 0.014)
    one = replace(one, difference=replace(one.difference, low=0.02, high=0.05))
    figures.forest(ax, [one])
    np.testing.assert_allclose(ax.containers[0][2][0].get_segments()[0][:, 0], [2, 5])


def test_costs_and_gains_have_their_own_intervals(ax):
    gain = Estimate(0.02, 0.015, 0.04, 5, "t")
    figures.cost_against_gain(ax, [replace(cost("a", 1.5, 0.02), gain=gain)])
    across, upwards = (bars.get_segments()[0] for bars in ax.containers[0][2])
    np.testing.assert_allclose(across[:, 0], [0.95 * 1.5, 1.06 * 1.5])
    np.testing.assert_allclose(upwards[:, 1], [1.5, 4])


TIGHT = [comparison("l2", "ce", v, d, 0.003) for v, d in (("0", 0.001), ("0.2", -0.002))]


def test_a_huge_interval_does_not_stretch_the_axis_and_says_its_numbers_below_an_arrow(ax):
    huge = comparison("l2", "ce", "0.8", 0.001, 0.4)
    rows = [*TIGHT, huge]
    figures.forest(ax, rows, percent=True, numbers=lambda c: f"numbers of {c.level}")
    left, right = ax.get_xlim()
    assert -0.7 < left < -0.5
    assert 0.5 < right < 0.7
    assert figures.beyond(rows) == [huge]
    assert figures.forest_rows(rows) == 5
    (told,) = [t for t in ax.texts if t.get_text().startswith("numbers")]
    assert (told.get_text(), told.get_position()[1]) == ("numbers of 0.8", 4)
    arrows = {line.get_marker(): line.get_ydata()[0] for line in ax.lines}
    assert (arrows["<"], arrows[">"]) == (3, 3)
    assert ax.get_xlabel().endswith("shaded: ±Δ; arrows: beyond the axis")
    words = [t for t in ax.texts if t.get_text() in ("equivalent", "inconclusive")]
    assert inside(ax, [*ax.texts, *ax.get_yticklabels(), ax.xaxis.label])
    assert all(t.get_window_extent().x0 > ax.get_window_extent().x1 for t in words)


@pytest.mark.parametrize(("value", "arrow"), [(-0.5, "<"), (0.5, ">")])
def test_a_difference_beyond_the_axis_has_an_arrow_on_its_side_only(ax, value, arrow):
    figures.forest(ax, [*TIGHT, comparison("l2", "ce", "0.8", value, 0.1)])
    assert [m for line in ax.lines if (m := line.get_marker()) in ("<", ">")] == [arrow]


def test_an_interval_without_an_end_leads_to_both_sides(ax):
    endless = comparison("l2", "ce", "0.8", 0.0, float("inf"))
    figures.forest(ax, [*TIGHT, endless])
    assert {line.get_marker() for line in ax.lines} >= {"<", ">"}
    assert np.isfinite(ax.get_xlim()).all()
    alone = Figure().add_subplot()
    figures.forest(alone, [endless])
    assert np.isfinite(alone.get_xlim()).all()


def test_rows_of_like_sizes_are_all_drawn_whole(ax):
    rows = [comparison("l2", "ce", v, 0.001, 0.02 * 2**i) for i, v in enumerate("1234")]
    figures.forest(ax, rows)
    assert figures.beyond(rows) == []
    assert ax.get_xlim()[0] < 100 * rows[-1].difference.low
    assert "arrows" not in ax.get_xlabel()
    assert figures.forest_rows(rows) == 5


def with_bands(panel):
    def value(v):
        e = v.estimate
        return replace(v, band=replace(e, low=e.low - 0.01, high=e.high + 0.01, method="band"))

    return replace(
        panel,
        lines=tuple(replace(x, values=tuple(map(value, x.values))) for x in panel.lines),
    )


def test_the_shade_around_a_line_is_its_simultaneous_band(ax):
    panel = with_bands(adversarial(3))
    figures.robustness(ax, panel)
    for shade, line in zip(ax.collections[1::2], panel.lines, strict=True):
        corners = {(round(x, 9), round(y, 9)) for x, y in shade.get_paths()[0].vertices}
        ends = {(v.x, round(e, 9)) for v in line.values for e in (v.band.low, v.band.high)}
        assert ends <= corners
    assert len(figures.banded(panel)) == 3 * len(EPSILONS)


def test_many_lines_and_lines_without_a_band_are_not_shaded_with_one(ax):
    many = with_bands(adversarial(5))
    assert figures.banded(many) == []
    figures.robustness(ax, many)
    assert not [c for c in ax.collections if hasattr(c, "get_paths") and c.get_alpha() == 0.13]
    one, two = with_bands(adversarial(2)), adversarial(2)
    mixed = replace(one, lines=(one.lines[0], two.lines[1]))
    other = Figure().add_subplot()
    figures.robustness(other, mixed)
    assert len([c for c in other.collections if c.get_alpha() == 0.13]) == 1


def test_lines_that_share_a_dash_with_the_one_before_differ_by_marker_and_fill(ax):
    figures.accuracy_curves(ax, label_noise(8))
    drawn = lines(ax)
    for a, b in zip(drawn[:4], drawn[4:], strict=True):
        assert a.get_linestyle() == b.get_linestyle()
        assert a.get_marker() != b.get_marker()
        assert a.get_fillstyle() != b.get_fillstyle()


def test_names_of_rows_wrap_instead_of_being_cut(ax):
    matrix = TransferMatrix(
        "m", ("the network itself", "another of cross-entropy"), ("c",), ((1,), (0,))
    )
    figures.transfer_matrix(ax, matrix)
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["the network\nitself", "another of\ncross-entropy"]


def test_held_out_accuracy_leads_from_look_to_look(ax):
    known = history("a", "0.8", 2.0)
    seldom = replace(known, held_out=(None, *known.held_out[1:3], None, *known.held_out[4:]))
    figures.memorisation(ax, [seldom], "held_out")
    (line,) = ax.lines
    assert len(line.get_xdata()) == len(known.steps) - 2
    assert not np.isnan(line.get_ydata()).any()


def test_the_zone_of_equivalence_reaches_from_minus_to_plus_delta(ax):
    figures.forest(ax, [comparison("a", "b", "", 0.0, 0.01, delta=0.005)])
    (zone,) = ax.patches
    assert (zone.get_x(), zone.get_width()) == pytest.approx((-0.5, 1.0))


def test_without_delta_there_is_no_zone_and_different_deltas_have_their_own(ax):
    figures.forest(ax, [comparison("a", "b", "", 0.0, 0.01, delta=None)])
    assert not ax.patches
    assert "Δ" not in ax.get_xlabel()
    other = Figure().add_subplot()
    rows = [comparison("a", "b", v, 0, 0.01, delta=d) for v, d in (("0", 0.005), ("1", 0.01))]
    figures.forest(other, rows)
    assert sorted(p.get_width() for p in other.patches) == pytest.approx([1.0, 2.0])


def test_methods_that_were_not_shown_to_differ_are_all_joined(ax):
    """However far apart their mean ranks: the test of all comes before that of pairs."""
    ranks = replace(friedman(np.eye(4)), mean_ranks=(1.0, 2.0, 3.0, 4.0), critical_difference=0.5)
    ranks = replace(ranks, permutation_p=0.053)
    figures.critical_difference(ax, list("abcd"), ranks)
    joined = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 3]
    assert [tuple(np.round(ends)) for ends in joined] == [(1, 4)]
    ax.clear()
    figures.critical_difference(ax, list("abcd"), replace(ranks, permutation_p=0.047))
    assert not [line for line in ax.lines if line.get_linewidth() == 3]


def test_ranks_stand_at_their_means_and_bars_join_those_within_the_critical_difference(ax):
    scores = np.random.default_rng(0).normal(size=(12, 5)) + np.array([0, 0.1, 2, 2.1, 5])
    ranks, names = friedman(scores), list("abcde")
    assert figures.critical_difference(ax, names, ranks) is ax
    named = {t.get_text().replace(" ", "") for t in ax.texts}
    for name, rank in zip(names, ranks.mean_ranks, strict=True):
        assert {f"{name}{rank:.2f}", f"{rank:.2f}{name}"} & named
    joined = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 3]
    assert joined
    within = ranks.critical_difference
    for low, high in joined:
        assert high - low <= within + 0.0601
    for a in ranks.mean_ranks:
        for b in ranks.mean_ranks:
            covered = any(low <= min(a, b) and max(a, b) <= high for low, high in joined)
            assert covered == (abs(a - b) <= within) or a == b
    assert inside(ax, ax.texts)


def test_a_transfer_matrix_shows_per_cent_and_leaves_unknown_cells_blank(ax):
    matrix = TransferMatrix("m", ("a", "b"), ("c", "d"), ((0.125, None), (0.5, 1.0)))
    assert figures.transfer_matrix(ax, matrix) is ax
    assert texts(ax) == ["12.5", "50.0", "100.0"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["c", "d"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_transfer_matrix_tells_nothing_as_none_or_all_that_is_not(ax):
    values = ((0.0, 0.0004, 0.125), (0.9996, None, 1.0))
    figures.transfer_matrix(ax, TransferMatrix("m", ("a", "b"), ("c", "d", "e"), values))
    assert texts(ax) == ["0.0", "0.04", "12.5", "99.96", "100.0"]
    expected = [map_text(v) for row in values for v in row if v is not None]
    assert [t.get_color() for t in ax.texts] == expected


@pytest.mark.parametrize(
    ("gain", "told"),
    [(0.02, "+2.0"), (-0.013, "−1.3"), (0.0, "0.0"), (0.0004, "0.0"), (-0.0004, "0.0")],
)
def test_a_gain_of_nothing_has_no_sign(ax, gain, told):
    costs = [cost("a", 1.5, gain)]
    figures.cost_against_gain(ax, costs, numbers=lambda c: difference(c.gain))
    assert str(ax.containers[0][0].get_label()).endswith(f", {told} points")
    assert signed(gain) == told


def test_memorisation_has_gaps_where_nothing_is_known(ax):
    known = history("a", "0.8", 2.0)
    partly = replace(known, method="b", memorised=(None, *known.memorised[1:]))
    figures.memorisation(ax, [known, partly])
    a, b = ax.lines
    assert list(a.get_ydata()) == list(known.memorised)
    assert np.isnan(b.get_ydata()[0])
    assert list(a.get_xdata()) == list(known.steps)
    assert a.get_marker() != b.get_marker()


def test_cost_stands_across_and_gain_upwards(ax):
    figures.cost_against_gain(ax, [cost("a", 1.5, 0.02)])
    (line,) = lines(ax)
    assert (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx((1.5, 2.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_is_a_column_of_clean_perturbed_and_difference(ax, channels):
    clean = np.full((channels, 4, 4), 0.5, np.float32)
    examples = [Example(i, 7, 2, 0.1, clean, clean + np.float32(0.25)) for i in range(3)]
    assert figures.example_grid(ax, examples, list("abcdefgh")) is ax
    assert len(ax.images) == 9
    clean_shown, perturbed, change = (image.get_array() for image in ax.images[:3])
    np.testing.assert_allclose(clean_shown, 0.5)
    np.testing.assert_allclose(perturbed, 0.75, atol=1e-6)
    np.testing.assert_allclose(change, 1.0, atol=1e-6)  # twice the change, around 0.5
    assert "h → c" in texts(ax)


def draw(ax):
    return figures.accuracy_curves(ax, label_noise(2))


@pytest.fixture(scope="module")
def files():
    return figures.render(draw, "noise", style="icml", height=2)


@pytest.mark.thorough
def test_the_same_drawing_gives_the_same_files(files):
    assert figures.render(draw, "noise", style="icml", height=2) == files
    assert set(files) == {"pdf", "svg", "png"}


def test_no_file_tells_a_date_or_the_program(files):
    for content in files.values():
        assert b"CreationDate" not in content
        assert b"Software" not in content
        assert b"<dc:date>" not in content


def test_the_pdf_embeds_truetype_fonts_and_no_bitmap_or_outline_ones(files):
    pdf = files["pdf"]
    streams = [
        zlib.decompress(s)
        for s in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
        if s[:1] == b"x"
    ]
    everything = pdf + b"".join(streams)
    subtypes = set(re.findall(rb"/Subtype /(Type0|Type1|Type3|TrueType|CIDFontType\d)", everything))
    assert subtypes
    assert subtypes <= {b"Type0", b"TrueType", b"CIDFontType2"}
    assert b"/FontFile2" in everything
    assert b"STIXGeneral" in everything
    assert b"/Subtype /Image" not in everything


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("style", "width"),
    [("neurips", "single"), ("icml", "single"), ("ieee", "double"), ("talk", "double")],
)
def test_files_are_as_wide_as_the_venue_asks(style, width):
    inches = figures.STYLES[style].width(width)
    rendered = figures.render(lambda ax: ax, "blank", style=style, width=width, height=2)
    png = Image.open(BytesIO(rendered["png"]))
    assert png.width == pytest.approx(300 * inches, abs=1)
    assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    box = re.search(rb"/MediaBox \[([^\]]*)\]", rendered["pdf"])[1].split()
    assert float(box[2]) == pytest.approx(72 * inches, abs=0.1)
    root = ElementTree.fromstring(rendered["svg"])
    assert float(root.get("width").removesuffix("pt")) == pytest.approx(72 * inches, abs=0.1)


@pytest.mark.thorough
def test_a_legend_adds_to_the_height_instead_of_flattening_the_plot():
    few, many = (
        Image.open(
            BytesIO(
                figures.render(
                    lambda ax, n=n: figures.accuracy_curves(ax, label_noise(n)),
                    "x",
                    style="icml",
                    height=2,
                )["png"]
            )
        )
        for n in (1, 8)
    )
    assert few.height == 600
    assert many.height > 750


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("name", [HOSTILE, "_模型 🙂\x00\x1b[31m", "", "x" * 500])
def test_any_name_can_be_drawn_and_saved(name):
    panel = label_noise(2)
    named = replace(panel.lines[1], method=name)
    panel = replace(panel, factor=name, lines=(panel.lines[0], named))
    rendered = figures.render(
        lambda ax: figures.accuracy_curves(ax, panel), "x", style="ieee", height=2
    )
    root = ElementTree.fromstring(rendered["svg"])
    assert not any(e.tag.endswith("script") for e in root.iter())


@pytest.mark.parametrize("width", [12, 20, 48])
def test_shortened_names_stay_short_and_different(width):
    names = [f"{'a' * 60}{i}{'b' * 60}" for i in (1, 2)] + ["c" * 200, "c" * 201, "d"]
    short = figures.shortened(names, width)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= width + 5
    assert figures.shortened(["one", "two"], width) == ["one", "two"]


@pytest.mark.parametrize("width", [12, 20, 48])
@pytest.mark.parametrize(
    "names",
    [
        ["x" * 50, "x" * 50 + " with more"],
        ["x" * 50, "more of " + "x" * 50],
        ["run of a long name " * 4 + end for end in ("a", "ab", "abc")],
        ["net", "net" + "x" * 80],
        ["x" * 40 + "y" * 40, "x" * 40 + "z" + "y" * 40],
    ],
)
def test_a_name_that_is_a_part_of_another_is_still_readable(names, width):
    short = figures.shortened(names, width)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= width + 5
    for name, told in zip(names, short, strict=True):
        kept = re.sub(r"^…|…$| \(\d+\)$", "", told)
        assert len(kept) >= min(len(name), 10), told


def test_tick_labels_of_many_levels_do_not_touch():
    figure = Figure(figsize=(3.25, 2), layout="constrained")
    panel = label_noise(1, [f"{i / 40}" for i in range(41)])
    ax = figures.accuracy_curves(figure.add_subplot(), panel)
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels() if t.get_text()]
    assert len(boxes) >= 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_numbers_of_a_heat_map_are_dark_where_the_map_is_light(ax):
    matrix = TransferMatrix("m", ("a",), ("b", "c", "d", "e"), ((0.1, None, 0.6, 0.74),))
    figures.transfer_matrix(ax, matrix)
    assert [text.get_color() for text in ax.texts] == ["#ffffff", "#101010", "#101010"]
