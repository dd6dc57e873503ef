import io
from base64 import b64decode
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.evaluations import evaluation
from matplotlib.figure import Figure
from PIL import Image

from robustkit import figures
from robustkit.record import Example


def curves(count=1, epsilons=("0.1", "0.2", "0.3"), label="model {}.pt"):
    records = [evaluation(seed=i, strength=0.05 * (i + 1), epsilons=epsilons) for i in range(count)]
    return [
        figures.CheckpointCurve(label.format(i), record.clean(), record.robust())
        for i, record in enumerate(records)
    ]


def drawn(curves):
    ax = Figure(layout="constrained").add_subplot()
    assert figures.robustness_curve(ax, curves, "linf") is ax
    return ax


def rendered(curves, prefix="a"):
    return figures.svg(
        lambda ax: figures.robustness_curve(ax, curves, "linf"), (4, 3), prefix, "what it shows"
    )


def example(clean, perturbed):
    return Example(0, 1, 2, 0.1, np.float32(clean), np.float32(perturbed))


def test_the_curve_goes_through_the_estimates_from_clean_to_the_largest_budget():
    (curve,) = curves()
    line = drawn([curve]).containers[0][0]
    assert list(line.get_xdata()) == [0, 0.1, 0.2, 0.3]
    expected = [curve.clean.value, *(p.accuracy.value for p in curve.points)]
    assert list(line.get_ydata()) == expected


def test_error_bars_end_at_the_interval():
    (curve,) = curves()
    bars = drawn([curve]).containers[0][2][0].get_segments()
    for bar, estimate in zip(bars, [curve.clean, *(p.accuracy for p in curve.points)], strict=True):
        np.testing.assert_allclose(bar[:, 1], [estimate.low, estimate.high], rtol=0, atol=1e-12)


def test_every_point_and_interval_lies_inside_the_axes():
    ax = drawn(curves(8, epsilons=["1/255", "16/255"]))
    ax.figure.draw_without_rendering()
    left, right = ax.bbox.x0, ax.bbox.x1
    for container in ax.containers:
        line = container[0]
        x = line.get_transform().transform(line.get_xydata())[:, 0]
        assert left < x.min() < x.max() < right


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("count", [1, 2, 8, 44])
def test_lines_stay_apart_without_colour(count):
    (curve,) = curves()
    many = [curve._replace(label=f"model {i}.pt") for i in range(count)]
    lines = [container[0] for container in drawn(many).containers]
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == count


def test_a_legend_stands_only_where_there_is_a_choice():
    assert not drawn(curves(1)).figure.legends
    (legend,) = drawn(curves(3)).figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["model 0.pt", "model 1.pt", "model 2.pt"]


@pytest.mark.parametrize(
    "epsilons",
    [
        ["8/255"],
        [f"{i}/255" for i in range(1, 9)],
        [f"{2**i}/255" for i in range(8)],
        [f"{i}/1000" for i in range(1, 61)],
    ],
    ids=["one", "even", "doubling", "sixty"],
)
def test_tick_labels_do_not_overlap(epsilons):
    figure = Figure(figsize=(4.5, 2.8), layout="constrained")
    ax = figures.robustness_curve(figure.add_subplot(), curves(1, epsilons), "linf")
    figure.draw_without_rendering()
    labels = [t for t in ax.get_xticklabels() if t.get_text()]
    assert {"0", epsilons[-1]} <= {t.get_text() for t in labels}
    boxes = [t.get_window_extent() for t in labels]
    assert len(boxes) >= 2
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    assert len(ax.get_xticks()) == len(epsilons) + 1


def test_an_svg_is_the_same_bytes_each_time():
    assert rendered(curves(2)) == rendered(curves(2))


def test_ids_of_two_figures_differ_and_references_resolve():
    seen = set()
    for prefix in ("a", "b"):
        root = ElementTree.fromstring(rendered(curves(2), prefix))
        ids = {e.get("id") for e in root.iter() if e.get("id")}
        wanted = {
            value.split("#")[1].rstrip(")")
            for e in root.iter()
            for key, value in e.items()
            if (key.endswith("href") or "url(#" in value) and "#" in value
        }
        assert wanted <= ids
        assert wanted
        assert not seen & ids
        seen |= ids


def test_an_svg_has_no_rules_or_metadata_and_takes_the_ink_of_its_page():
    text = rendered(curves(2))
    root = ElementTree.fromstring(text)
    tags = {e.tag.rpartition("}")[2] for e in root.iter()}
    assert not tags & {"style", "metadata", "script", "image"}
    assert figures.INK not in text
    assert root.get("role") == "img"
    assert root.get("aria-label") == "what it shows"


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "label", ["<script>x</script>", "a$b$c_{d}", "_hidden", "模型.pt", 'id="x" url(#y)', "&amp;"]
)
def test_labels_come_through_as_they_are(label):
    first, second = curves(2)
    root = ElementTree.fromstring(rendered([first._replace(label=label), second]))
    texts = ["".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("}text")]
    assert label in texts
    assert not any(e.tag.endswith("script") for e in root.iter())


@pytest.mark.parametrize(
    ("change", "factor"), [(1.0, 0.5), (0.4, 1), (0.25, 2), (8 / 255, 10), (1e-4, 5000), (0, 50000)]
)
def test_a_difference_names_a_factor_that_keeps_it_in_range(change, factor):
    image, named = figures.difference(example(np.zeros((1, 2, 2)), np.full((1, 2, 2), change)))
    assert named == factor
    np.testing.assert_allclose(image, 0.5 + factor * change, atol=1e-6)
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_holds_the_pixels_to_eight_bits(channels):
    image = np.random.default_rng(0).random((channels, 5, 7), dtype=np.float32)
    uri = figures.png_uri(image)
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(data)))) / 255
    assert pixels.shape == (5, 7, 3)
    shown = image[:3] if channels >= 3 else image[[0, 0, 0]]
    np.testing.assert_allclose(np.moveaxis(pixels, -1, 0), shown, atol=0.5 / 255 + 1e-6)


def test_nothing_touches_the_global_figure_state():
    from matplotlib import pyplot

    before, shown = dict(pyplot.rcParams), pyplot.get_fignums()
    rendered(curves(2))
    assert pyplot.get_fignums() == shown
    assert dict(pyplot.rcParams) == before


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("most", [40, 900, 50_000])
def test_passes_are_told_in_plain_numbers(most):
    curve = figures.CostCurve("net.pt", [1, most / 3, most], [1.0, 0.6, 0.2])
    shown = figures.svg(
        lambda ax: figures.accuracy_against_passes(ax, [curve]), (4, 3), "a", "what it shows"
    )
    text = [e.text for e in ElementTree.fromstring(shown).iter() if e.tag.endswith("text")]
    numbers = [t for t in text if t and t.replace(",", "").isdigit()]
    assert {"1", "10"} <= set(numbers)
    assert not [t for t in text if t and "$" in t]
