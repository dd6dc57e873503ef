"""What results show of themselves on a prompt and in a notebook."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import audits, outcomes
from helpers.evaluations import certification, evaluation
from matplotlib.figure import Figure

import robustkit
from robustkit.analysis.rank import Ranking
from robustkit.display.results import view
from robustkit.errors import InputError, shown
from robustkit.integrity import CheckedFile, FileCheck
from robustkit.statistics import friedman
from robustkit.training import TrainingResult

HOSTILE = "<script>alert(1)</script>\x1b[31m"


def ranking():
    accuracies = ((0.9, 0.8, 0.7), (0.8, 0.7, 0.75), (0.7, 0.6, 0.5))
    return Ranking(
        ("a", "b", "c"), ("x", "y", "z"), ("clean",) * 3, accuracies,
        friedman(accuracies),
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


def test_what_is_shown_in_text_and_page_is_what_was_found():
    found = robustkit.compare(evaluation("a.pt"), evaluation("b.pt", seed=1, strength=0.5))
    for text in (repr(found), found._repr_html_()):
        assert "better" in text
        assert "b.pt" in text
    assert found.comparisons[0].sentence(where="without an attack")[:20] in found._repr_html_()
