"""The report of a study: what a reader, a browser, LaTeX and a pipeline find in its folder."""

import csv
import hashlib
import io
import json
import re
import sys
from base64 import b64encode
from dataclasses import fields, is_dataclass, replace
from io import BytesIO
from itertools import pairwise
from math import inf

import pytest
from helpers.outcomes import (
    HOSTILE,
    METHODS,
    adversarial,
    comparison,
    data_fraction,
    hostile,
    label_noise,
    not_tested,
    outcome,
)
from helpers.pages import Outline
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from robustkit.analysis.outcome import Amendment, Outcome, Regret
from robustkit.analysis.registration import rule_amendment
from robustkit.errors import CannotWrite, InputError, UnknownName
from robustkit.figures import output
from robustkit.reporting.illustrations import illustrations
from robustkit.reporting.numbers import COLUMNS, _plain, numbers_csv
from robustkit.reporting.study import stable, write
from robustkit.reporting.tables import (
    accuracy_table,
    cost_table,
    difference_table,
    escaped,
    tables,
)
from robustkit.reporting.wording import ends, in_points, p_value
from robustkit.statistics import Estimate

EMPTY = Outcome("empty", "An empty study", "Is there anything?", (), (), ())


@pytest.fixture(scope="module")
def study():
    """Small, so that it is quickly drawn: one panel, with everything else beside it."""
    whole = outcome(2)
    return replace(whole, panels=whole.panels[:1])


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    return write(study, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(report):
    return report.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    study = hostile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustkit.reporting.study.render", nothing)
        return write(
            replace(study, panels=study.panels[:1] * 2, histories=study.histories[:1], costs=()),
            tmp_path_factory.mktemp("hostile"),
        )


@pytest.fixture
def page_alone(monkeypatch):
    """Figures are drawn for the page; the files beside it are there, and empty."""
    monkeypatch.setattr("robustkit.reporting.study.render", nothing)


@pytest.fixture
def undrawn(page_alone, monkeypatch):
    """Figures are named, and drawn nowhere."""
    monkeypatch.setattr("robustkit.reporting.study.svg", lambda *_: "<svg></svg>")


def nothing(draw, name, **_):
    return dict.fromkeys(("pdf", "svg", "png"), b"")


def rows(outcome):
    return list(csv.DictReader(io.StringIO(numbers_csv(outcome).decode())))


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- the folder


@pytest.mark.thorough
def test_the_folder_holds_what_the_manifest_names_with_its_digests(report):
    found = contents(report.folder)
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest["files"] == {n: hashlib.sha256(c).hexdigest() for n, c in found.items()}
    assert manifest["files"] == report.files
    assert manifest["study"] == "0123abcd" * 8
    assert {"report.html", "numbers.csv", "tables/claims.tex", "tables/label-noise.tex"} <= set(
        found
    )
    figures = {name for name in found if name.startswith("figures/")}
    assert {f"figures/label-noise.{suffix}" for suffix in ("pdf", "svg", "png")} <= figures


def test_a_rebuild_removes_what_the_earlier_build_wrote_and_nothing_else(tmp_path):
    two = replace(EMPTY, judgements=outcome(2).judgements)
    write(two, tmp_path)
    mine = tmp_path / "tables" / "mine.tex"
    mine.write_text("kept")
    written = write(EMPTY, tmp_path)
    assert written.removed == ("tables/claims.tex",)
    assert set(contents(tmp_path)) == {
        "report.html",
        "numbers.csv",
        "manifest.json",
        "tables/mine.tex",
    }


def test_a_report_that_cannot_be_written_whole_leaves_the_earlier_one_whole(tmp_path):
    write(replace(EMPTY, judgements=outcome(2).judgements), tmp_path)
    (tmp_path / "evidence.parquet").mkdir()
    (tmp_path / "evidence.parquet" / "mine").write_text("kept")
    before = contents(tmp_path)
    with pytest.raises(CannotWrite):
        write(replace(EMPTY, title="Another"), tmp_path, source=b"evidence")
    assert contents(tmp_path) == before


def test_a_file_that_was_changed_since_is_not_removed(tmp_path):
    write(replace(EMPTY, judgements=outcome(2).judgements), tmp_path)
    (tmp_path / "tables" / "claims.tex").write_text("edited by hand")
    assert write(EMPTY, tmp_path).removed == ()
    assert (tmp_path / "tables" / "claims.tex").read_text() == "edited by hand"


@pytest.mark.parametrize("name", ["../victim", "/victim", "tables/../../victim", "link/victim"])
def test_no_manifest_can_have_a_file_outside_removed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    name = str(victim) if name.startswith("/") else name
    manifest = {
        "schema": "robustkit.report/1",
        "files": {name: hashlib.sha256(b"precious").hexdigest()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert write(EMPTY, folder).removed == ()
    assert victim.exists()


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"schema": "other/1", "files": {}}'])
def test_a_folder_with_a_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: not the manifest of a report"):
        write(EMPTY, tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text


def test_an_unknown_style_is_named_with_the_closest(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'neurips'"):
        write(EMPTY, tmp_path, style="neurisp")
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_another_style_changes_the_figures_and_no_number(study, report, tmp_path):
    small = replace(study, figures=("curves",))
    other = contents(write(small, tmp_path, style="icml").folder)
    assert other["figures/label-noise.pdf"] != contents(report.folder)["figures/label-noise.pdf"]
    assert other["tables/label-noise.tex"] == contents(report.folder)["tables/label-noise.tex"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("curves", {"label-noise"}),
        ("differences", {"label-noise-differences"}),
        ("memorisation", {"memorised-0.8"}),
        ("held-out", {"held_out-0.8"}),
        ("cost", {"cost-label-noise-80"}),
        ("transfer", {"transfer-fgsm-at-0.2"}),
        ("examples", {"examples-pgd"}),
    ],
)
def test_only_the_figures_that_are_asked_for_are_drawn(
    study, report, undrawn, tmp_path, kind, names
):
    written = write(replace(study, figures=(kind,)), tmp_path)
    drawn = {name for name in written.files if name.startswith("figures/")}
    assert {name for name in report.files if name in drawn} == drawn  # under the same names
    assert {name.removeprefix("figures/").rpartition(".")[0] for name in drawn} == names
    page = written.page.read_text(encoding="utf-8")
    assert page.count('<figure class="curve">') == 1
    assert "No number yet" not in page
    assert set(written.files) - drawn == {n for n in report.files if not n.startswith("figures/")}


def test_only_the_tables_that_are_asked_for_are_written(study, report, tmp_path):
    bare = replace(study, figures=(), tables=())
    written = write(bare, tmp_path)
    assert not [name for name in written.files if name.startswith(("tables/", "figures/"))]
    page = written.page.read_text(encoding="utf-8")
    for caption in ("shares1", "differences1", "costtable"):
        assert f'id="{caption}"' in report.page.read_text(encoding="utf-8")
        assert f'id="{caption}"' not in page
    assert rows(bare) == rows(study)
    kinds = {
        "claims": "claims",
        "cost": "costs",
        "accuracy": "label-noise",
        "differences": "label-noise-differences",
    }
    for kind, name in kinds.items():
        assert tables(replace(study, tables=(kind,))) == {
            f"{name}.tex": tables(study)[f"{name}.tex"]
        }


# ---- the page


@pytest.mark.parametrize(
    "fixed",
    [
        "changed later, see the notes",
        "before the first evaluation here; the networks were made elsewhere",
    ],
)
def test_nothing_is_said_to_be_fixed_beforehand_that_was_not(study, tmp_path, fixed):
    told = study.provenance["study"] | {"claims fixed": fixed}
    free = tuple(replace(one, registered="not preregistered") for one in study.judgements)
    late = replace(study, judgements=free, provenance={"Study": told}, figures=())
    text = Outline(write(late, tmp_path).page.read_text(encoding="utf-8")).text
    assert "preregistered" not in text
    assert "Δ = ±0.5 points: half a point" in text


def test_what_options_changed_stands_beside_the_studys_file(study, tmp_path):
    changed = replace(study, changes={"test": {"limit": 200}, "": {"baseline": "a<b"}}, figures=())
    page = write(changed, tmp_path).page.read_text(encoding="utf-8")
    assert page.index("The study's file, ") < page.index("<code>[test] limit = 200</code>")
    assert "<code>baseline = a&lt;b</code>" in page


def test_the_parts_come_in_order(html):
    text = Outline(html).text
    parts = [
        "Does a large margin make a network",
        "5 claims: 2 hold, 1 contradicted, 1 undecided, 1 not tested",
        "Scope and limitations",
        "1 of 30 trainings failed: no number",
        "1 On MNIST with 80 % noisy labels",
        "Points are offset horizontally",
        "l2-margin minus cross-entropy",
        "Gain over the baseline",
        "FGSM at ε = 0.2: accuracy",
        "Smallest successful perturbations (ℓ∞) of cross-entropy, seed 0, under pgd",
        "Share of noisy labels memorised",
        "Protocol: pgd",
        "28 done, 1 failed, 1 missing",
        "versions robustkit",
        "robustkit report elsayed2018-mnist",
        'title = "Large-margin',
    ]
    places = [text.index(part, 30) for part in parts]
    assert places == sorted(places)


def test_every_claim_stands_with_its_verdict_sentence_delta_and_reason(study, html):
    end = "</details></td></tr>"
    _, *found = html.split('<tr class="claim ')
    texts = [
        Outline(f'<table><tr class="{row[: row.rindex(end)]}{end}</table>').text for row in found
    ]
    for judgement, text in zip(study.judgements, texts, strict=True):
        assert judgement.text in text
        assert f" {judgement.verdict}" in text
        assert judgement.sentence in text
        assert f"Source: {judgement.source}" in text
        if judgement.delta is not None:
            assert f"±0.5 points, preregistered: {judgement.reason}" in text
    assert "× 2.10 1.96 to 2.25 15 rounds" in texts[2]
    assert "Claimed: × 1.2 to 1.6" in texts[2]
    assert "✓ holds +2.5 1.1 to 3.9 5 paired seeds, 10,000 images" in texts[0]


def test_an_amended_claim_links_to_what_it_was(study, tmp_path):
    first, second, *rest = study.judgements
    words = Amendment("wording", "It buys <nothing>.", first.text, "after the results were in")
    rule = rule_amendment("chance", "contradicted", "undecided")
    changed = (
        replace(first, registered="wording amended", amendments=(words,)),
        replace(second, verdict="undecided", amendments=(rule,), without="contradicted"),
    )
    late = replace(study, judgements=(*changed, *rest), figures=())
    page = write(late, tmp_path).page.read_text(encoding="utf-8")
    assert "preregistered as it stands unless it says otherwise" in page
    for place, told in (
        (1, "amended: wording"),
        (2, "by a rule newer than the data; before: contra"),
    ):
        assert f'<a href="#amended{place}">{told}' in page
        assert page.count(f'id="amended{place}"') == 1
    assert "It buys &lt;nothing&gt;.</td>" in page
    assert "neither method is above chance decides nothing" in page
    table = (tmp_path / "tables" / "claims.tex").read_text()
    assert "by a rule newer than the data; before: contradicted" in table
    assert [row.count("preregistered") for row in table.splitlines()[5:10]] == [0, 1, 1, 1, 1]


def test_an_undecided_claim_says_what_is_missing(tmp_path):
    open_claim = replace(outcome(2).judgements[3], needs="It takes 12 seeds.", percent=True)
    text = Outline(
        write(replace(EMPTY, judgements=(open_claim,)), tmp_path).page.read_text(encoding="utf-8")
    ).text
    assert "It takes 12 seeds." in text
    assert "40 % +0.4 −0.5 to 1.3 ? inconclusive" in text
    assert "80 % – – – not tested1 of 2 cells failed" in text


def test_what_all_comparisons_share_stands_in_the_caption_alone(html):
    table = re.search(r'<p[^>]*id="differences1">(.*?)</table>', html, re.S)[0]
    caption, body = Outline(table[: table.index("</p>") + 4]).text, table.split("</p>")[1]
    assert caption == (
        "MNIST under label noise: l2-margin minus cross-entropy. Two-way t, Holm over 5 levels, "
        "5 paired seeds, 10,000 images. Equivalence margin Δ = ±0.5 points. Sign-flip "
        "permutation cannot decide with 5 seeds."
    )
    assert "two-way" not in body
    assert body.count(">0.062<") == 5  # p values have a column of their own


def test_what_differs_between_comparisons_has_a_column(tmp_path):
    panel = label_noise(3)
    first, *rest = panel.comparisons
    odd = replace(first, unit="2 paired seeds, 10,000 images", delta=0.02, b="another")
    study = replace(EMPTY, panels=(replace(panel, comparisons=(odd, *rest)),), figures=())
    text = Outline(write(study, tmp_path).page.read_text(encoding="utf-8")).text
    assert "MNIST under label noise: differences. Sign-flip" in text
    heads = "method level vs difference 95 % CI verdict p p, equivalence Δ p, sign-flip permutation"
    assert f"{heads} test" in text
    assert "two-way t, Holm over 5 levels, 2 paired seeds, 10,000 images" in text


def test_every_point_of_a_figure_says_its_numbers(html):
    titles = re.findall(r"<use[^>]*><title>(.*?)</title></use>", html)
    assert "cross-entropy, label noise 0\u00a0%: 99.2 % (99.0 to 99.4)" in titles
    assert "l2-margin, 0\u00a0%: −0.2 (−0.5 to 0.1)" in titles
    assert "l2-margin: × 1.40, +2.5 (1.3 to 3.7) points" in titles
    assert any(re.fullmatch(r"cross-entropy, step [\d,]+: [\d.]+ %", title) for title in titles)
    assert not re.search(r"<script[^>]*>.*hover", html)


@pytest.mark.thorough
def test_a_level_at_chance_is_marked_and_not_coloured(page_alone, tmp_path):
    panel = adversarial(2)
    chance = tuple(replace(c, at_chance=True) for c in panel.comparisons)
    study = replace(EMPTY, panels=(replace(panel, comparisons=chance, chance=0.1),))
    html = write(study, tmp_path).page.read_text(encoding="utf-8")
    verdicts = re.findall(r'<strong class="verdict (\w+)">.*?</span> (.*?)</strong>', html)
    assert verdicts == [("open", "both at chance")] * 4
    assert Outline(html).text.count("decides nothing") == 2 * 4  # in the table, and in sentences
    alternative = re.search(r'aria-label="Differences\. (.*?)"', html)[1]
    assert re.findall(r"points \(.*?\), ([a-z ]+)\.", alternative) == ["both at chance"] * 4
    assert "Chance: 10.0 %" in Outline(html).text
    assert html.count(">both at chance</text>") == 4
    assert ">chance</text>" in html
    written = {
        path.name: path.read_text()
        for path in tmp_path.rglob("*.*")
        if path.is_file() and path.suffix in (".tex", ".csv")
    }
    tables = "".join(text for name, text in written.items() if name.endswith(".tex"))
    assert tables.count("both at chance") == 4
    assert "$^{+}$" not in tables
    assert written["numbers.csv"].count("both at chance") == 4


def test_notes_of_all_analyses_are_said_once(undrawn, tmp_path):
    panels = [replace(label_noise(1), notes=("Same.", note)) for note in ("One.", "Two.")]
    html = write(replace(EMPTY, panels=tuple(panels)), tmp_path).page.read_text(encoding="utf-8")
    text = Outline(html).text
    assert [text.count(note) for note in ("Same.", "One.", "Two.")] == [1, 1, 1]
    assert text.index("In all analyses") < text.index("Same.") < text.index("One.")


def test_every_estimate_stands_with_its_interval_and_every_comparison_in_words(study, html):
    text = Outline(html).text
    (panel,) = study.panels
    for line in panel.lines:
        for v in line.values:
            e = v.estimate
            assert f"{100 * e.value:.1f} %{100 * e.low:.1f} to {100 * e.high:.1f}" in text
    for c in stable(panel.comparisons):
        where = f"at {100 * float(c.level):g} % label noise"
        assert " ".join(c.sentence(where=where).replace("\u00a0", " ").split()) in text


def test_a_failed_cell_is_shown_with_its_reason_and_never_as_a_number(html):
    table = re.search(
        r'<table class="sortable compact">\s*<caption id="celltable">.*?</table>', html, re.S
    )[0]
    found = re.findall(r"<tr>(?:(?!</tr>).)*failed.*?</tr>", table, re.S)
    (row,) = found
    assert "the loss became NaN or infinite at step 1,312" in row
    assert "12.3" not in row
    assert "61.2" not in row
    assert re.findall(r'<td data-value="([^"]*)">', row) == ["", "", ""]
    assert rows(outcome(2))[-1]["status"] == "missing"
    (failed,) = [r for r in rows(outcome(2)) if r["status"] == "failed"]
    assert failed["value"] == ""
    assert failed["note"] == "the loss became NaN or infinite at step 1,312"


def test_only_the_pages_own_script_may_run(html):
    outline = Outline(html)
    (policy,) = [m["content"] for m in outline.named("meta") if m.get("http-equiv")]
    (code,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_links_go_to_files_of_the_report_and_images_nowhere(report, html):
    addresses = [
        value
        for _, attributes in Outline(html).elements
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "action", "srcset")
    ]
    ids = {a["id"] for _, a in Outline(html).elements if "id" in a}
    for address in addresses:
        if address.startswith("data:image/png;base64,"):
            continue  # a picture that is part of the page
        if address.startswith("#"):
            assert address[1:] in ids
        else:
            assert address in report.files or address == "manifest.json"
    assert "figures/label-noise.pdf" in addresses
    assert "url(http" not in html
    assert "@import" not in html


def test_a_screen_reader_finds_its_way(html):
    outline = Outline(html)
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    assert all(th.get("scope") for th in outline.named("th"))
    svgs = outline.named("svg")
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in svgs)
    assert "l2-margin: 99.0\u00a0%" in svgs[0]["aria-label"]
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_tables_sort_by_numbers_and_not_by_their_words(html):
    values = re.findall(r'data-value="([^"]*)"', html)
    assert values
    for value in values:
        assert value == "" or float(value) is not None


@pytest.mark.thorough
def test_hostile_words_stay_words(hostile_report):
    html = hostile_report.page.read_text(encoding="utf-8")
    outline = Outline(html)
    tags = [tag for tag, _ in outline.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert not any(name.startswith("on") for _, a in outline.elements for name in a)
    assert HOSTILE in outline.text
    assert not re.search("[\x07\u202e]", html)
    for name in hostile_report.files:
        assert re.fullmatch(r"(figures/|tables/)?[a-z0-9._-]+", name)


@pytest.mark.thorough
def test_hostile_words_stay_words_in_latex(hostile_report):
    for name in hostile_report.files:
        if name.endswith(".tex"):
            text = (hostile_report.folder / name).read_text(encoding="utf-8")
            check_latex(text)
            assert "\\input{x}" not in re.sub("^%.*", "", text, flags=re.M)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "study",
    [
        EMPTY,
        replace(EMPTY, panels=(label_noise(1, ["0.4"]),)),
        replace(EMPTY, panels=(replace(label_noise(2), lines=(), comparisons=()),)),
        replace(
            EMPTY,
            panels=(
                replace(data_fraction(1), comparisons=(not_tested("a", "b", "1"),)),
                replace(data_fraction(1), baseline=None),
            ),
        ),
    ],
    ids=["nothing", "one level of one method", "no lines", "same name twice, not tested"],
)
def test_reports_of_all_sizes_are_well_formed(study, page_alone, tmp_path):
    report = write(study, tmp_path)
    outline = Outline(report.page.read_text(encoding="utf-8"))
    assert "nan" not in outline.text.lower().split()
    assert len(report.files) == len(contents(tmp_path)) - 1


@pytest.mark.thorough
def test_many_cells_stay_a_page(tmp_path):
    many = replace(EMPTY, cells=outcome(2).cells * 100)
    text = (write(many, tmp_path).folder / "report.html").read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert "100 of 3,000 trainings failed" in text
    assert "And 50 more" in text
    assert len(rows(many)) == 3_000


# ---- numbers


def test_every_number_has_a_row(study):
    found = rows(study)
    assert list(found[0]) == list(COLUMNS)
    (panel,) = study.panels
    by_section = {}
    for row in found:
        by_section.setdefault(row["section"], []).append(row)
    for row, v in zip(
        by_section["estimate"], (v for x in panel.lines for v in x.values), strict=True
    ):
        assert (float(row["value"]), float(row["low"]), float(row["high"])) == (
            v.estimate.value,
            v.estimate.low,
            v.estimate.high,
        )
        assert row["level"] == v.level
        assert float(row["x"]) == v.x
    assert len(by_section["seed"]) == sum(len(v.each) for x in panel.lines for v in x.values)
    claimed = sum(len(j.comparisons) for j in study.judgements)
    assert len(by_section["comparison"]) == len(panel.comparisons) + claimed
    assert {r["verdict"] for r in by_section["claim"]} == {j.verdict for j in study.judgements}
    assert len(by_section["history"]) == sum(2 * len(h.steps) for h in study.histories)
    assert len(by_section["cost"]) == 2 * len(study.costs)
    assert len(by_section["transfer"]) == 4
    assert len(by_section["cell"]) == len(study.cells)


def summed_up(infinite=False):
    """A panel whose lines have bands, areas and medians."""
    panel = adversarial(2)
    high = float("inf") if infinite else 0.17
    return replace(
        panel,
        lines=tuple(
            replace(
                line,
                values=tuple(
                    replace(v, band=replace(v.estimate, low=0.01, high=0.99, method="max-t"))
                    for v in line.values
                ),
                area=Estimate(0.412, 0.396, 0.428, 1000, "two-way t"),
                median=Estimate(0.1503, 0.1441, high, 1000, "at the median"),
            )
            for line in panel.lines
        ),
    )


@pytest.mark.parametrize("infinite", [False, True])
def test_bands_areas_and_medians_have_rows_and_a_table_on_the_page_and_in_latex(
    undrawn, tmp_path, infinite
):
    study = replace(EMPTY, panels=(summed_up(infinite),))
    found = rows(study)
    bands = [r for r in found if r["section"] == "band"]
    assert [(r["method"], r["level"]) for r in bands] == [
        (r["method"], r["level"]) for r in found if r["section"] == "estimate"
    ]
    assert {(r["low"], r["high"], r["interval"]) for r in bands} == {("0.01", "0.99", "max-t")}
    areas = [r for r in found if r["section"] == "area"]
    assert [(r["method"], r["value"], r["low"]) for r in areas] == [
        (method, "0.412", "0.396") for method in METHODS[:2]
    ]
    medians = [r for r in found if r["section"] == "median"]
    assert {(r["value"], r["high"]) for r in medians} == {("0.1503", "" if infinite else "0.17")}
    written = write(study, tmp_path)
    text = Outline(written.page.read_text(encoding="utf-8")).text
    end = "∞" if infinite else "0.17"
    assert f" 41.2 %39.6 to 42.8 0.150.144 to {end}" in text
    assert "area: mean accuracy in % for ε (ℓ∞) from 0.05 to 0.3; median:" in text
    assert "Shaded: max-t." in text
    table = (tmp_path / "tables" / "fgsm-areas.tex").read_text(encoding="utf-8")
    check_latex(table)
    assert "l2-margin & 41.2 {\\scriptsize (39.6--42.8)} & 0.15 {\\scriptsize (0.144 to" in table


def test_a_panel_without_areas_has_no_such_table(study):
    assert not [name for name in tables(study) if "areas" in name]
    assert not [r for r in rows(study) if r["section"] in ("band", "area", "median")]


@pytest.mark.thorough
@pytest.mark.parametrize("width", ["single", "double"])
def test_all_figures_are_as_wide_as_asked(tmp_path, monkeypatch, width):
    monkeypatch.setattr("robustkit.reporting.study.svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr(output, "_FORMATS", {"png": output._FORMATS["png"]})
    wide = outcome(2)
    small = replace(wide, panels=wide.panels[:1], histories=(), costs=())
    write(small, tmp_path, style="icml", width=width)
    assert json.loads((tmp_path / "manifest.json").read_bytes())["width"] == width
    files = (tmp_path / "figures").glob("*.png")
    widths = {Image.open(BytesIO(path.read_bytes())).width for path in files}
    assert widths == {{"single": 975, "double": 2025}[width]}


@pytest.mark.thorough
def test_what_a_huge_interval_is_stands_in_the_figure_and_its_caption(page_alone, tmp_path):
    panel = label_noise(2)
    huge = comparison(METHODS[1], METHODS[0], "0.8", 0.001, 0.4)
    study = replace(EMPTY, panels=(replace(panel, comparisons=(*panel.comparisons[:4], huge)),))
    html = write(study, tmp_path).page.read_text(encoding="utf-8")
    assert "+0.1 (−39.9 to 40.1)" in re.search(r"<svg.*?</svg>.*?(<svg.*?</svg>)", html, re.S)[1]
    assert "Arrows: intervals longer than the axis" in Outline(html).text


def test_what_was_not_tested_has_no_number():
    study = replace(
        EMPTY, panels=(replace(label_noise(1), comparisons=(not_tested("a", "b", "0"),)),)
    )
    (row,) = [r for r in rows(study) if r["section"] == "comparison"]
    assert row["verdict"] == "not tested"
    assert row["note"] == "1 of 2 cells failed"
    assert {row[key] for key in ("value", "low", "high", "p", "p_equivalence")} == {""}


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_no_number_is_nan_or_infinite(odd):
    panel = label_noise(1, ["0.4"])
    (line,) = panel.lines
    value = replace(line.values[0], estimate=Estimate(0.5, odd, odd, 3, "t"))
    study = replace(EMPTY, panels=(replace(panel, lines=(replace(line, values=(value,)),)),))
    row = rows(study)[0]
    assert (row["value"], row["low"], row["high"]) == ("0.5", "", "")


# ---- LaTeX and words


def check_latex(table):
    """Commands balance, and every row has as many cells as there are columns."""
    body = "\n".join(line for line in table.splitlines() if not line.startswith("%"))
    columns = re.search(r"\\begin\{tabular\}\{(.*)\}\n", body)[1]
    columns = len(re.sub(r"\{[^}]*\}", "", columns))
    plain = body.replace("\\\\", "\n").replace("\\{", "").replace("\\}", "")
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    for line in body.splitlines():
        if line.endswith("\\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
            assert not re.search(r"(?<!\\)[#%]", line)
            assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0


@pytest.mark.parametrize(
    "study", [outcome(2), outcome(8), hostile()], ids=["two", "eight", "hostile"]
)
def test_tables_are_latex(study):
    found = tables(study)
    assert {"claims.tex", "costs.tex"} <= set(found)
    for table in found.values():
        check_latex(table)
        for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
            assert table.count(rule) == 1


def test_a_table_marks_what_differs_from_the_baseline():
    panel = label_noise(2, ["0", "0.8"])
    verdicts = [
        comparison(METHODS[1], METHODS[0], v, d, 0.001) for v, d in (("0", -0.02), ("0.8", 0))
    ]
    table = accuracy_table(replace(panel, comparisons=tuple(verdicts)))
    row = next(line for line in table.splitlines() if line.startswith("l2-margin"))
    assert row.startswith("l2-margin & 99.0$^{-}$ {\\scriptsize (")
    assert row.count("$^{=}$") == 1
    assert "0~\\% & 80~\\%" in table


def test_a_table_of_differences_says_each_in_points():
    table = difference_table([comparison("a_b", "c&d", "0.8", 0.025, 0.014)], percent=True)
    assert "a\\_b & c\\&d & 80~\\% & +2.5 & 1.1 to 3.9 & \\textless{} 0.001 & better \\\\" in table


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0.0003, 0.0002, 0.0004), "+0.03 (0.02 to 0.04)"),
        ((0.006, 0.0004, 0.0116), "+0.60 (0.04 to 1.16)"),
        ((-0.006, -0.0116, -0.0004), "−0.60 (−1.16 to −0.04)"),
        ((0.02, 0.01, 0.03), "+2.0 (1.0 to 3.0)"),
        ((0.0, 0.0, 0.0), "0.0 (0.0 to 0.0)"),
        ((0.5, -inf, inf), "+50.0 (−∞ to ∞)"),
    ],
)
def test_a_gain_is_told_alike_wherever_it_stands(study, page_alone, tmp_path, numbers, told):
    gain = Estimate(*numbers, 5, "t")
    row = replace(label_noise(2).comparisons[0], difference=gain, delta=None)
    assert f"{in_points(row)} ({ends(row)})" == told
    one = replace(study.costs[0], gain=gain)
    regret = Regret("a", "0.8", "end", (0, 1), (gain.value,) * 2, gain)
    changed = replace(study, costs=(one,), regrets=(regret,))
    assert escaped(told) in cost_table([one])
    (drawn,) = illustrations(changed).costs
    assert f"time, {told} points." in drawn.alternative
    figure = Figure()
    drawn.draw(figure.add_subplot())
    assert any(f", {told} points" in str(one.get_label()) for one in figure.findobj(Line2D))
    html = write(changed, tmp_path).page.read_text(encoding="utf-8")
    value, _, range_ = told.removesuffix(")").partition(" (")
    assert html.count(f'">{value}<span class="range">{range_}</span></td>') == 2


def test_what_was_memorised_is_drawn_of_the_methods_of_the_panel_alone(study):
    """Another method's line would look like nothing that the legend names."""
    panel = replace(study.panels[0], label_noise="0.8")
    lines = (panel.lines[0], replace(panel.lines[1], values=()))
    known = next(h for h in study.histories if h.level == "0.8")
    known = replace(known, passes=tuple(range(1, len(known.steps) + 1)))
    names = [lines[0].method, lines[1].method, "of another panel"]
    histories = tuple(replace(known, method=name) for name in names)
    changed = replace(study, panels=(replace(panel, lines=lines),), histories=histories)
    (curves,) = [one.curves for one in illustrations(changed).panels]
    figure = Figure()
    curves.draw(figure.add_subplot())
    _, below = figure.axes
    assert len(below.lines) == 1
    told = curves.alternative.partition("Wrong labels memorised")[2]
    assert [name for name in names if f"{name}:" in told] == names[:1]


@pytest.mark.parametrize("character", '\\{}$&#^_%~<>|"[*')
def test_no_character_is_a_command(character):
    text = escaped(f"a{character}b")
    assert text != f"a{character}b"
    check_latex(f"\\begin{{tabular}}{{l}}\n{text} \\\\\n\\end{{tabular}}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a--b", "a-{}-b"),
        ("---", "-{}-{}-"),
        ("?`!`", "?{}`!{}`"),
        ("``a''", "`{}`a'{}'"),
        (",,a", ",{},a"),
        ("-–-", "-{}--{}-"),
        ("1–2", "1--2"),
        ('a "b"', "a ''b''"),
        ("a-b-c, 'd'", "a-b-c, 'd'"),
    ],
)
def test_no_letters_of_a_name_become_another_sign(name, told):
    """LaTeX makes a dash of two hyphens, and ¿ of a question mark and an accent."""
    assert escaped(name) == told


@pytest.mark.parametrize("name", ["*best", "* best", "[best]", "best*"])
def test_no_name_is_an_option_of_the_line_before_it(name):
    """LaTeX takes a star or a bracket after a line's end, spaces or not, for its own."""
    assert not re.search(r"(^|[^{])[*\[]", escaped(name))
    compared = [comparison(name, "b", v, 0.02, 0.01) for v in ("0.1", "0.2")]
    table = difference_table(compared, percent=False)
    assert not re.search(r"\\\\\s*[*\[]", table)
    check_latex(table)


def test_a_quotation_mark_needs_no_encoding_of_its_own():
    assert escaped('the "best" [net]') == "the ''best'' {[}net]"


def test_norms_are_symbols_that_every_engine_sets():
    assert escaped("ε (ℓ∞), ℓ₂, ℓ₀ of pixels").isascii()
    assert escaped("ℓ∞, ℓ₂") == r"$\ell_\infty$, $\ell_2$"
    check_latex(f"\\begin{{tabular}}{{l}}\n{escaped('ℓ∞, ℓ₁')} \\\\\n\\end{{tabular}}")


def test_rounding_never_moves_an_interval_across_zero_or_delta():
    above = comparison("a", "b", "", 0.01004, 0.01)
    assert (in_points(above), ends(above)) == ("+1.004", "0.004 to 2.004")
    inside = comparison("a", "b", "", 0.0, 0.0049996)
    assert ends(inside) == "−0.49996 to 0.49996"
    assert ends(comparison("a", "b", "", 0.0, 0.02)) == "−2.0 to 2.0"


def test_rounding_never_moves_p_across_alpha():
    c = comparison("a", "b", "", 0.02, 0.01)
    assert p_value(0.0499, c) == "0.0499"
    assert p_value(0.05004, c) == "0.05004"
    assert p_value(0.2104, c) == "0.210"
    assert p_value(1e-9, c) == "< 0.001"
    assert p_value(None, c) == "–"


def test_budgets_are_told_as_they_were_written(undrawn, tmp_path):
    study = replace(EMPTY, panels=(adversarial(2),))
    outline = Outline(write(study, tmp_path).page.read_text(encoding="utf-8"))
    assert "At ε (ℓ∞) = 0.2, l2-margin is better than cross-entropy: +4.0 points (" in outline.text


def nudged(value):
    """The same values, every float by its last digit larger."""
    if isinstance(value, float):
        return value * (1 + sys.float_info.epsilon)
    if isinstance(value, tuple):
        return tuple(map(nudged, value))
    if is_dataclass(value):
        return replace(value, **{f.name: nudged(getattr(value, f.name)) for f in fields(value)})
    return value


@pytest.mark.thorough
def test_the_same_outcome_gives_the_same_bytes_but_for_last_digits_that_processors_differ_in(
    study, report, tmp_path
):
    other = replace(study, panels=nudged(study.panels), judgements=nudged(study.judgements))
    assert other != study
    again = write(other, tmp_path / "deep" / "folder")
    assert contents(again.folder) == contents(report.folder)


@pytest.mark.parametrize(
    "name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "a\n=1"]
)
def test_a_spreadsheet_takes_no_name_for_a_formula(name):
    whole = outcome(2)
    cells_of = tuple(replace(cell, method=name) for cell in whole.cells)
    text = numbers_csv(replace(whole, cells=cells_of)).decode()
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert {"cell", f"'{name}" if name[0] in "=+-@" else repr(name)[1:-1]} <= set(cells)
    assert not [c for c in cells if c.startswith(("=", "+", "@", "\t", "\r"))]
    assert len(text.splitlines()) == len(numbers_csv(whole).decode().splitlines())


@pytest.mark.parametrize("text", ["-0.5", "+1", "8/255", "-1e-3", "plain", "a=b", ""])
def test_numbers_and_names_stay_as_they_are(text):
    assert _plain(text) == text
