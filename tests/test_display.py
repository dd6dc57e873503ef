"""What results show of themselves on a prompt and in a notebook."""

from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from helpers import audits, outcomes
from helpers.evaluations import certification, evaluation
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import robustkit
from robustkit.analysis.rank import Ranking
from robustkit.display.results import view
from robustkit.errors import InputError, shown
from robustkit.integrity import CheckedFile, FileCheck
from robustkit.record import table
from robustkit.reporting.wording import ends, in_points, percent, with_interval
from robustkit.statistics import friedman
from robustkit.training import TrainingResult

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def ranking():
    accuracies = ((0.9, 0.8, 0.7), (0.8, 0.7, 0.75), (0.7, 0.6, 0.5))
    return Ranking(
        ("a", "b", "c"), ("x", "y", "z"), ("clean",) * 3, accuracies,
        friedman(accuracies), (evaluation("net.pt", n=3).header,) * 3,
    )  # fmt: skip


def training():
    lines = [
        {
            "epoch": epoch, "step": 10 * epoch, "loss": 1 / epoch, "accuracy_given": 0.7,
            "accuracy_clean": 0.8, "memorised": None if epoch < 3 else 0.1, "held_out": 0.6,
            "held_out_clean": 0.7,
        }
        for epoch in range(1, 41)
    ]  # fmt: skip
    record = {"model": {"name": HOSTILE}, "loss": {"name": "hinge"}, "history": lines}
    return TrainingResult(Path("net.safetensors"), record | {"epoch_kept": 40})


def described():
    return robustkit.describe("lenet5-mnist5k")


def planned():
    return robustkit.power(delta=1, seed_sd=0.8, discordant=6, images=10_000)


RESULTS = {
    "training": training,
    "description": described,
    "power": planned,
    "evaluation": evaluation,
    "attacked by nothing": lambda: evaluation(epsilons=()),
    "evaluation of 40 budgets": lambda: evaluation(epsilons=[f"{i}/255" for i in range(1, 41)]),
    "certification": certification,
    "audit": audits.full,
    "broken audit": audits.broken,
    "minimal audit": audits.minimal,
    "comparison": lambda: robustkit.compare(evaluation("a.pt"), evaluation("b.pt", seed=1)),
    "ranking": ranking,
    "study": outcomes.outcome,
    "hostile study": outcomes.hostile,
    "hostile audit": audits.hostile,
    "hostile evaluation": lambda: evaluation(HOSTILE, classes=[HOSTILE] * 10),
    "data set": lambda: robustkit.load_dataset("mnist5k", limit=20),
    "arrays": lambda: robustkit.from_arrays(np.zeros((3, 1, 4, 4)) + 0.5, [0, 1, 1], name=HOSTILE),
    "leaderboard": lambda: robustkit.leaderboard(
        evaluation("a.pt"), evaluation(f"{HOSTILE}.pt", seed=1)
    ),
    "verification": lambda: FileCheck(
        {Path("x"): (CheckedFile(Path("y"), HOSTILE, "damaged", HOSTILE),)}
    ),
    "names": lambda: robustkit.list("models"),
    "checkpoint": lambda: robustkit.read_checkpoint("lenet5-mnist5k"),
}
NO_FIGURE = {
    "attacked by nothing",
    "certification",
    "checkpoint",
    "description",
    "power",
    "verification",
    "names",
}


@pytest.fixture(scope="module", params=RESULTS)
def named(request):
    return request.param, RESULTS[request.param]()


def test_a_prompt_shows_a_few_short_lines(named):
    lines = repr(named[1]).splitlines()
    assert 1 < len(lines) < 10
    assert max(map(len, lines)) <= 100
    assert len(repr(named[1])) < 1000
    assert all(shown(line) == line for line in lines)


@pytest.mark.one_of_many(4)
def test_a_notebook_gets_a_whole_element_in_which_nothing_acts(named):
    root = ElementTree.fromstring(named[1]._repr_html_())
    assert root.tag == "div"
    assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in ("script", "style", "link")]
    rows = root.findall(".//tbody/tr")
    assert len(rows) == named[1].to_markdown().count("\n") - 1 or not rows


def test_every_result_with_numbers_has_a_figure_and_draws_it_where_it_is_told(named):
    name, result = named
    if name in NO_FIGURE:
        with pytest.raises(InputError, match="nothing to draw"):
            result.plot()
        return
    ax = Figure().add_subplot()
    assert result.plot(ax) is ax
    assert ax.has_data() or ax.texts


def test_tables_are_as_long_as_what_they_tell_and_obey_nothing(named):
    _, result = named
    assert "<script" not in result.to_markdown()
    latex = result.to_latex()
    body = latex.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    assert body.count("\\\\\n") == max(result.to_markdown().count("\n") - 1, 0) or not body
    assert "\x1b" not in latex
    frame = result.to_frame()
    assert len(frame.columns) > 1


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ({"delta": 1}, "Seeds for 1 point, power 80\u00a0%"),
        ({"delta": 0.7, "power": 0.999}, "Seeds for 0.7 points, power 99.9\u00a0%"),
    ],
)
def test_a_plan_of_seeds_is_headed_by_what_was_asked(asked, title):
    found = robustkit.power(seed_sd=0.8, discordant=6, images=10_000, **asked)
    assert view(found).title == title


def test_the_frame_has_the_numbers_of_the_curve():
    found = evaluation(n=50)
    frame = found.to_frame()
    assert frame["epsilon"].tolist() == ["clean", "0.1", "0.2", "0.3"]
    assert frame["value"].tolist() == [
        found.clean().value,
        *(p.accuracy.value for p in found.robust()),
    ]
    assert (frame["low"] <= frame["value"]).all()


def test_a_figure_of_its_own_is_one_that_a_notebook_shows():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    ax = evaluation(n=50).plot()
    assert pyplot.figure(pyplot.get_fignums()[-1]) is ax.figure
    assert len(pyplot.get_fignums()) == len(before) + 1
    pyplot.close(ax.figure)


MATHS = "$x_1_2$"
"""no formula, and a traceback where it is taken for one"""


def with_dollars(name):
    """A result whose names hold dollar signs."""
    called = [{"loss": f"{MATHS}{i}"} for i in range(3)]
    several = [evaluation(f"{MATHS}{i}.pt", seed=i, checkpoint=c) for i, c in enumerate(called)]
    if name == "leaderboard":
        return robustkit.leaderboard(*several)
    if name == "comparison":
        return robustkit.compare(*several[:2])
    if name == "ranking":
        found = ranking()
        return replace(found, methods=(MATHS, "b", "c"))
    return robustkit.from_arrays(
        np.zeros((2, 1, 4, 4)) + 0.5, [0, 1], name="x", classes=[MATHS, "b"]
    )


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", ["leaderboard", "comparison", "ranking", "data set"])
def test_a_dollar_sign_in_a_name_stays_one(name, own):
    from matplotlib import pyplot

    figure = Figure(figsize=(8, 4))
    FigureCanvasAgg(figure)
    ax = with_dollars(name).plot(None if own else figure.add_subplot())
    ax.figure.canvas.draw()
    told = [text for text in ax.figure.findobj(Text) if "$" in text.get_text()]
    assert told
    assert not any(text.get_parse_math() for text in told)
    if own:
        pyplot.close(ax.figure)


def test_a_figure_leaves_the_callers_own_formulas_alone():
    ax = Figure().add_subplot()
    ax.set_title("$x^2$")
    ax.plot([0, 1], [1, 1], label="mine")
    assert with_dollars("leaderboard").plot(ax) is ax
    assert ax.title.get_parse_math()
    assert ax.text(0, 0, "$y$").get_parse_math()


@pytest.mark.parametrize("name", ["leaderboard", "audit", "training"])
@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_a_legend_on_axes_among_others_stays_within_them(name, layout):
    figure = Figure(figsize=(9, 4), layout=layout)
    FigureCanvasAgg(figure)
    for ax in figure.subplots(1, 2):
        ax.plot([0, 0.1], [0.5, 0.5], label="mine")
        result = with_dollars(name) if name == "leaderboard" else RESULTS[name]()
        result.plot(ax)
        result.plot(ax)  # above what is there
    figure.canvas.draw()
    assert figure.legends == []
    for ax in figure.axes:
        box, around = ax.get_legend().get_window_extent(), ax.get_window_extent()
        assert around.x0 <= box.x0 < box.x1 <= around.x1
        assert around.y0 <= box.y0 < box.y1 <= around.y1
        assert len(ax.get_legend().get_texts()) > 1


def drawn_in(html):
    """The figure in words, the titles of its markers, and its height over its width."""
    svg = ElementTree.fromstring(html).find(".//{*}svg")
    _, _, width, height = map(float, svg.get("viewBox").split())
    return svg.get("aria-label"), [t.text for t in svg.findall(".//{*}title")], height / width


@pytest.mark.parametrize("budgets", [2, 32])
def test_a_comparison_says_its_numbers_and_has_room_for_its_rows(budgets):
    levels = [f"{i}/255" for i in range(1, budgets + 1)]
    found = robustkit.compare(
        evaluation("a.pt", epsilons=levels), evaluation("b.pt", seed=1, epsilons=levels)
    )
    assert len(found.comparisons) == budgets + 1
    _, titles, shape = drawn_in(found._repr_html_())
    for one in found.comparisons:
        assert any(title.endswith(f": {in_points(one)} ({ends(one)})") for title in titles)
    assert shape > 0.02 * budgets


def test_a_leaderboard_shows_its_intervals_and_tells_its_curves():
    found = robustkit.leaderboard(evaluation("a.pt"), evaluation("b.pt", seed=1))
    html = found._repr_html_()
    alternative, *_ = drawn_in(html)
    for row in found.boards[0].rows:
        for estimate in (row.clean, *row.robust.values()):
            assert with_interval(estimate) in html
            assert with_interval(estimate) in found.to_markdown()
            assert percent(estimate.value) in alternative
            assert percent(estimate.value) in repr(found)


def test_a_certified_curve_has_a_caption_and_is_told():
    found = evaluation()
    assert "Dotted" not in found._repr_html_()
    columns = found.table.to_pydict()
    columns["certified_at"] = ["0.1" if i % 2 else None for i in range(len(found.table))]
    header = found.header | {"prove": {"on": True}}
    proved = replace(found, header=header, table=table(columns))
    assert proved.certified()
    alternative, *_ = drawn_in(proved._repr_html_())
    assert "Dotted: certified accuracy" in proved._repr_html_()
    for point in proved.certified():
        assert f"{percent(point.accuracy.value)} certified at {point.epsilon.text}" in alternative


def test_a_study_tells_its_curves_in_numbers():
    found = outcomes.outcome(2)
    html = found._repr_html_()
    alternative, *_ = drawn_in(html)
    for line in found.panels[0].lines:
        for value in line.values:
            assert with_interval(value.estimate) in alternative
    assert f"{found.panels[0].title}: " in html


def test_an_audit_tells_what_is_certified():
    found = audits.full()
    alternative, *_ = drawn_in(found._repr_html_())
    assert found.certificate.levels
    for level in found.certificate.levels:
        assert f"Certified at {level.epsilon}: {percent(level.certified.value)}" in alternative


def test_what_is_shown_in_text_and_page_is_what_was_found():
    found = robustkit.compare(evaluation("a.pt"), evaluation("b.pt", seed=1, strength=0.5))
    for text in (repr(found), found._repr_html_()):
        assert "better" in text
        assert "b.pt" in text
    assert found.comparisons[0].sentence(where="without an attack")[:20] in found._repr_html_()


def test_a_result_shows_the_warnings_without_which_its_numbers_mislead():
    class Nothing(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * 0

    data = (np.random.default_rng(0).random((6, 1, 4, 4), np.float32), np.arange(6) % 3)
    found = robustkit.evaluate(Nothing(), data, "fgsm", epsilon=0.5, name="nothing")
    assert any("no gradient reaches" in text for text in found.header["warnings"])
    html, (*_, last) = unescape(found._repr_html_()), repr(found).splitlines()
    assert all(text in html for text in found.header["warnings"])
    assert last.startswith(f"Warning (1 of {len(found.header['warnings'])}): ")
    assert len(last) <= 100
    assert len(repr(found).splitlines()) <= 9
