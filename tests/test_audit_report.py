"""The report of an audit: what a reader, a browser, a model hub and a pipeline find in its folder."""

import json
import re
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import get_args, get_type_hints

import jsonschema
import numpy as np
import pytest
from helpers import schemas
from helpers.audits import HOSTILE, N, broken, full, hostile, minimal
from helpers.pages import Outline
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from robustkit import figures
from robustkit.auditing.outcome import (
    Audit,
    Bound,
    Certificate,
    ClassRow,
    Corrupted,
    Corruptions,
    SmoothedAccuracy,
)
from robustkit.auditing.stored import LEFT_OUT, decoded, encoded
from robustkit.display.results import view
from robustkit.errors import EvaluationFailed, RecordError
from robustkit.files import write_together
from robustkit.protocol import APGD, FAB, FGSM, KINDS, PGD, Noise, Square
from robustkit.protocol.words import attack_in_words
from robustkit.reporting.audit import page, read_audit, write
from robustkit.reporting.markdown import escaped, fenced
from robustkit.reporting.modelcard import half_page, model_card
from robustkit.statistics import proportion

MANY = tuple(f"class {i:03d}" for i in range(120))
LONG = "a" * 200
VALIDATOR = jsonschema.Draft202012Validator(schemas.AUDIT)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(full(), tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def html(written):
    return written.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(html):
    return Outline(html).text


@pytest.fixture(scope="module")
def bad():
    """Words that try to be something else, one page of them."""
    return page(hostile(f"{HOSTILE} \x07 \u202e {LONG}"))


@pytest.fixture
def undrawn(monkeypatch):
    """Pages whose figures are named, and not drawn."""
    monkeypatch.setattr("robustkit.reporting.audit.svg", lambda *_: "<svg></svg>")


# ---- the folder


@pytest.mark.thorough
def test_three_files_and_nothing_else(written):
    assert {p.name for p in written.folder.iterdir()} == {"audit.html", "audit.json", "audit.md"}


@pytest.mark.thorough
def test_rebuilt_from_the_json_the_report_has_the_same_bytes(written, tmp_path):
    found = read_audit(written.json)
    assert found == replace(full(), examples=())
    again = write(replace(found, examples=full().examples), tmp_path / "deep" / "folder")
    for one, other in zip(fields(written), fields(again), strict=True):
        if one.name != "folder":
            paths = getattr(written, one.name), getattr(again, other.name)
            assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_all_files_are_written_or_none(tmp_path, name):
    files = dict.fromkeys("abc", b"new")
    for other in files:
        (tmp_path / other).write_bytes(b"old")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(EvaluationFailed, match="cannot write"):
        write_together(tmp_path, files)
    assert {p.name for p in tmp_path.iterdir()} == set("abc")
    assert all((tmp_path / other).read_bytes() == b"old" for other in set("abc") - {name})


def test_where_there_was_nothing_a_failure_leaves_nothing(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(EvaluationFailed):
        write_together(tmp_path, dict.fromkeys("abc", b"new"))
    assert {p.name for p in tmp_path.iterdir()} == {"c"}
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationFailed, match="cannot write"):
        write_together(tmp_path / "file", {"a": b""})


# ---- the JSON


@pytest.mark.parametrize("audit", [full(), broken(), minimal(), hostile(), full(MANY)])
def test_the_json_fits_its_schema_and_comes_back(audit):
    text = json.dumps(encoded(audit), allow_nan=False)
    VALIDATOR.validate(json.loads(text))
    again = decoded(json.loads(text), "audit.json")
    assert json.dumps(encoded(again), allow_nan=False) == text


def test_what_is_not_finite_is_null_and_an_interval_without_an_end_stays_so():
    (c,) = full().comparisons
    endless = replace(c.difference, low=float("-inf"), high=float("inf"))
    audit = replace(
        full(),
        comparisons=(replace(c, difference=endless),),
        provenance={"run": {"seconds": float("nan")}},
    )
    text = json.dumps(encoded(audit), allow_nan=False)
    VALIDATOR.validate(json.loads(text))
    again = decoded(json.loads(text), "audit.json")
    assert again.comparisons == audit.comparisons
    assert again.provenance == {"run": {"seconds": None}}
    assert encoded(broken())["indicators"][0]["value"] is None


def test_the_schema_describes_every_key():
    VALIDATOR.check_schema(schemas.AUDIT)
    defs = schemas.AUDIT["$defs"]
    beside = {"schema", "survived", "files", "content_digest"}
    assert set(schemas.AUDIT["properties"]) == beside | _names(Audit)
    for cls, name in _dataclasses().items():
        for key in {"Estimate": ("share", "difference")}.get(name, (name,)):
            assert set(defs[key]["properties"]) == _names(cls), key
    for part in (schemas.AUDIT, *defs.values()):
        assert part["additionalProperties"] is False
        assert all(p["description"].endswith(".") for p in part["properties"].values())


def _names(cls):
    return {f.name for f in fields(cls) if f.name not in LEFT_OUT}


def _dataclasses():
    """Every dataclass below an audit, by its name in the schema."""
    found, names, waiting = {}, {"ClassRow": "class", "Estimate": "Estimate"}, [Audit]
    while waiting:
        for name, hint in get_type_hints(waiting.pop()).items():
            inner = [hint, *get_args(hint)]
            for cls in inner:
                if is_dataclass(cls) and cls not in found and name not in LEFT_OUT:
                    snake = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", cls.__name__).lower()
                    found[cls] = names.get(cls.__name__, snake)
                    waiting.append(cls)
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "robustkit.audit/2"},
        {"extra": 1},
        {"clean": None},
        {"norm": "l3"},
        {"verdict": {**encoded(minimal())["verdict"], "by": 0.1}},
        {"verdict": {**encoded(minimal())["verdict"], "reasons": []}},
        {"stages": [{**encoded(full())["stages"][0], "status": "failed"}]},
        {"clean": {**encoded(full())["clean"], "value": 45.1}},
    ],
)
def test_the_schema_refuses_what_contradicts_itself(change):
    assert not VALIDATOR.is_valid({**encoded(minimal()), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "robustkit.audit/2"}, "written by another version"),
        ({"schema": "robustkit.evaluation/1"}, "not an audit"),
        ({"schema": None}, "not an audit"),
        ({"epsilno": "8/255"}, "did you mean 'epsilon'"),
        ({"claim": {"norm": "linf"}}, "claim: the key 'epsilon' is missing"),
        ({"norm": 3}, "norm: expected another type than 3"),
        ({"stages": {}}, "stages: expected another type"),
        ({"stages": [3]}, r"stages\[0\]: expected an object"),
        (
            {"verdict": {"word": "good", "sentence": "", "reasons": [], "delta": 0.1}},
            "verdict: word: unknown",
        ),
    ],
)
def test_what_is_no_audit_is_one_clear_line(tmp_path, change, message):
    path = tmp_path / "audit.json"
    # without its digest, as one that another program made
    made = {k: v for k, v in encoded(minimal()).items() if k != "content_digest"}
    path.write_text(json.dumps({**made, **change}))
    with pytest.raises(RecordError, match=message) as error:
        read_audit(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_one_clear_line(tmp_path, content):
    (tmp_path / "audit.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"audit\.json"):
        read_audit(tmp_path / "audit.json")


# ---- the page


def test_the_parts_come_in_order(text):
    audit = full()
    parts = [
        "✗ overstated The claim of 53.2 %",
        audit.verdict.reasons[0].replace("\u00a0", " "),
        "3 of 8 rules failed",
        "names another test set",
        "The upper curve is what the attacks left",
        "makes another classifier",
        "Attacks, in the order",
        "The worst class under attack",
        "Confusion matrix under attack",
        "Indicators of failing attacks",
        "Natural corruptions, not adversarial",
        "Compared with other checkpoints",
        "✓ passed robust =",
        "Rounded to 8 bits",
        "neither necessary nor sufficient",
        "pgd.toml",
        "Provenance",
        "robustkit audit models/mnist-cnn.pt",
    ]
    place = 0
    for part in parts:
        place = text.index(part, place)


def test_the_page_tells_which_method_certified_how_many_and_what_rounding_cost(text):
    assert (
        "At ε = 2/255: 145 by interval bounds, 145 by linear relaxation; "
        "float32 rounding took 0.0001 off the median margin and left 3 open."
    ) in text
    assert ": none; float32 rounding" in text


def corrupted(**rows):
    """Corruptions of which each has these severities, at 90 % less 10 points a severity."""
    return Corruptions(
        tuple(
            Corrupted(name, "other", tuple(proportion(900 - 100 * (s or 0), N) for s in at), at)
            for name, at in rows.items()
        ),
        0.5,
        n=N,
    )


def heat(audit):
    """Heads and rows of the page's table of corruptions: cells without their intervals."""
    table = re.search(r'<table class="heat".*?</table>', page(audit), re.S).group()
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
    return heads, {
        name: re.findall(r"<td[^>]*>([^<]*)", cells.replace("\u00a0", " ")) for name, cells in rows
    }


def on_card(audit):
    """The same of the model card."""
    _, part = model_card(audit).split("### Common corruptions")
    lines = [line for line in part.split("###")[0].splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    shares = {row[0]: [cell.split("\u00a0%")[0] + " %" for cell in row[2:]] for row in rows}
    return head, {name: [c.replace("– %", "–") for c in row] for name, row in shares.items()}


@pytest.mark.parametrize(
    ("rows", "heads", "expected"),
    [
        (
            {"fog": (3, 5), "snow": (3, 5)},
            ["3", "5"],
            {"fog": ["60.0 %", "40.0 %"], "snow": ["60.0 %", "40.0 %"]},
        ),
        (
            {"fog": (1, 5), "snow": (2,)},
            ["1", "2", "5"],
            {"fog": ["80.0 %", "–", "40.0 %"], "snow": ["–", "70.0 %", "–"]},
        ),
        ({"fog": (None,)}, ["accuracy"], {"fog": ["90.0 %"]}),
        (
            {"identity": (None,), "fog": (2, 3)},
            ["no severity", "2", "3"],
            {"identity": ["90.0 %", "–", "–"], "fog": ["–", "70.0 %", "60.0 %"]},
        ),
    ],
)
def test_corruptions_stand_under_their_own_severities(undrawn, rows, heads, expected):
    audit = replace(full(), corruptions=corrupted(**rows))
    text = json.dumps(encoded(audit), allow_nan=False)
    VALIDATOR.validate(json.loads(text))
    assert decoded(json.loads(text), "audit.json").corruptions == audit.corruptions
    assert heat(audit) == (["corruption", *heads], expected)
    assert on_card(audit) == (["corruption", "group", *heads], expected)


def test_corruptions_of_an_earlier_version_count_from_one(undrawn):
    table = json.loads(json.dumps(encoded(full())))
    del table["content_digest"]
    for row in table["corruptions"]["rows"]:
        del row["at"]
    for stage in table["stages"]:
        del stage["images"]
    VALIDATOR.validate(table)
    audit = decoded(table, "audit.json")
    assert audit == replace(full(), examples=())
    assert heat(audit)[0] == ["corruption", "1", "2", "3", "4", "5"]


def test_how_many_corruptions_a_mean_is_over_is_said_alike_everywhere():
    rows = {"identity": (None,), "fog": (3, 5), "frost": (3, 5)}
    card = model_card(replace(full(), corruptions=corrupted(**rows)))
    assert "Mean accuracy over 2 common corruptions" in card
    assert "2 kinds, 1,000 images" in card


def test_what_only_the_audited_network_met_is_said_to_be_left_out(text):
    left_out = "daptive attacks and branch and bound, which only the audited one met"
    assert left_out in text
    assert left_out in model_card(full())


def test_every_share_stands_with_its_interval(text):
    audit = full()
    shares = [audit.clean, *(lv.accuracy for lv in audit.robust)]
    shares += [b.certified for b in audit.certificate.levels]
    shares += [s.so_far for s in audit.stages if s.so_far]
    shares += [e for row in audit.corruptions.rows for e in row.severities]
    shares += [e for lv in audit.smoothed.levels for e in (lv.certified, lv.attacked)]
    shares += [e for row in audit.classes for e in (row.clean, row.robust)]
    for e in shares:
        assert f"{100 * e.value:.1f} %{100 * e.low:.1f} to {100 * e.high:.1f}" in text


def test_every_word_of_the_audit_is_there(text):
    audit = full()
    words = [*audit.verdict.reasons, *audit.warnings, *audit.corruptions.notes]
    words += [w for s in audit.stages for w in (s.title, s.family.replace("floor", ""), s.reason)]
    words += [
        w for r in audit.indicators for w in (r.title, r.status, r.evidence, r.adaptive_attack)
    ]
    words += [w for r in audit.policy for w in (r.rule, r.sentence)]
    words += [w for i in audit.checklist for w in (i.part, i.text, i.answer, i.how)]
    words += [c.sentence() for c in audit.comparisons]
    words += [audit.command, *audit.protocols.values()]
    for word in words:
        assert " ".join(word.replace("\u00a0", " ").split()) in text


@pytest.mark.thorough
def test_nothing_comes_from_outside(html, bad):
    for found in (html, bad):
        outline = Outline(found)
        policy = outline.named("meta")[1]["content"]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "script" not in {tag for tag, _ in outline.elements}
        for _, attributes in outline.elements:
            for name in ("src", "href", "xlink:href", "action", "srcset"):
                value = attributes.get(name)
                local = value is None or value.startswith(("#", "data:image/png;base64,"))
                assert local or value in ("audit.json", "audit.md")
            assert not [name for name in attributes if name.startswith("on")]
        styles = re.findall(r"<style>(.*?)</style>", found, re.S)
        assert not [s for s in styles if "url(" in s or "@import" in s]


def test_ids_are_there_once_and_every_link_has_its_place(html):
    ids = [a["id"] for _, a in Outline(html).elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for _, a in Outline(html).elements if a.get("href", "").startswith("#")]
    assert {link[1:] for link in links} <= set(ids)
    for _, attributes in Outline(html).elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids


def test_headings_skip_no_level(html):
    levels = [int(tag[1]) for tag, _ in Outline(html).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_hostile_words_are_shown_and_do_nothing(bad):
    outline = Outline(bad)
    assert "<script>alert(1)</script>" in outline.text
    assert "{{7*7}}" in outline.text
    assert not {"script", "iframe", "object"} & {tag for tag, _ in outline.elements}
    assert not [c for c in bad if (ord(c) < 32 and c not in "\n\t") or c in "\u202e\ufffe"]
    assert "alert" not in " ".join(str(a.get("style")) for _, a in outline.elements)


@pytest.mark.thorough
def test_what_failed_and_what_is_not_known_is_told():
    text = Outline(page(broken())).text
    assert "? not established" in text
    assert "✗ failed" in text
    assert "the logits are not finite" in text
    assert "No certified lower bound: Softmax has no bound." in text
    assert "Not tried: the images are smaller than 32 × 32." in text
    assert "its record has other images" in text
    assert "only in memory" in text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_an_audit_of_nothing_has_a_page():
    text = Outline(page(minimal())).text
    assert "No attack completed at any budget: robust accuracy is unknown." in text
    assert "None: nothing was attacked." in text
    assert "None was examined" in text
    assert "Policy" not in text


@pytest.mark.thorough
def test_a_hundred_and_twenty_classes():
    found = page(full(MANY))
    assert "The 20 of 120 classes with the lowest robust accuracy" in Outline(found).text
    assert len(found) < 600_000


def test_two_classes(undrawn):
    assert "lowest of 2" in Outline(page(full(("cat", "dog")))).text


# ---- figures


def drawn(draw, *values, **more):
    ax = Figure(layout="constrained").add_subplot()
    assert draw(ax, *values, **more) is ax
    return ax


def test_a_check_that_did_not_hold_is_amber_and_no_tick(undrawn):
    did_not = replace(full().checklist[0], answer="did not hold")
    html = page(replace(full(), checklist=(did_not,)))
    (mark,) = re.findall(r'<strong class="verdict (\w+)"><span[^>]*>(.)</span> did not hold', html)
    assert mark == ("unsure", "!")
    assert "1 did not hold" in Outline(html).text


def test_what_was_audited_when_and_with_what_comes_first(undrawn):
    audit = full()
    run = {"finished": "2026-03-04T05:06:07+00:00", "robustkit": "9.8.7"}
    made = replace(audit, provenance={**audit.provenance, "Run": run})
    text = Outline(page(made)).text
    path, sha256 = audit.checkpoint["path"], audit.checkpoint["sha256"]
    top = text[: text.index("The claim of")]
    assert f"{path} · 2026-03-04 · robustkit 9.8.7" in top
    assert f"SHA-256 {sha256}" in top


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (FGSM(), "FGSM"),
        (PGD(steps=40, restarts=5), "PGD, 40 steps, 5 restarts"),
        (PGD(steps=20, random_start=False), "Iterative FGSM, 20 steps"),
        (APGD(), "APGD-CE, 100 steps"),
        (APGD(loss="dlr", targets=9), "APGD-T, 100 steps, 9 targets"),
        (APGD(loss="dlr"), "APGD-DLR, 100 steps"),
        (APGD(loss="margin"), "APGD on the logit margin, 100 steps"),
        (FAB(), "FAB-T, 100 steps, 9 targets"),
        (Square(queries=1000), "Square, 1,000 queries"),
        (Noise(draws=20, distribution="gaussian"), "Gaussian noise, 20 draws"),
    ],
)
def test_an_attack_goes_by_its_name_and_numbers(attack, words):
    assert attack_in_words(attack) == words


def test_every_kind_of_attack_has_a_name_of_its_own():
    names = [attack_in_words(kind()) for kind in KINDS.values()]
    assert len(set(names)) == len(KINDS)
    assert not [n for n in names if n.startswith(tuple(KINDS))]


def over_all(audit):
    """An audit that certified as many images as it attacked."""
    levels = tuple(
        replace(b, certified=proportion(round(b.certified.value * N), N))
        for b in audit.certificate.levels
    )
    return replace(audit, certificate=replace(audit.certificate, levels=levels, n=N))


def test_bounds_on_other_images_than_the_attacks_enclose_nothing(text, undrawn):
    audit = full()
    assert (
        "the lower one what IBP and CROWN certifies of the first 500: shares of different" in text
    )
    assert "need not lie between them" in text
    ax = drawn(figures.bounds, audit.clean, audit.robust, audit.certificate.levels, audit.norm)
    _, lower = ax.containers
    assert list(lower.lines[0].get_ydata()) == [0.58, 0.32, 0.05, 0.0]
    (legend,) = ax.figure.legends
    assert {t.get_text() for t in legend.get_texts()} == {
        "under attack: an upper bound",
        "certified: a lower bound",
    }
    shown = Outline(page(over_all(audit))).text
    assert "certifies; true robust accuracy lies between them" in shown


def test_the_legend_says_which_line_is_which():
    audit = over_all(full())
    ax = drawn(figures.bounds, audit.clean, audit.robust, audit.certificate.levels, audit.norm)
    (legend,) = ax.figure.legends
    drawn_as = dict(
        zip((t.get_text() for t in legend.get_texts()), legend.legend_handles, strict=True)
    )
    assert set(drawn_as) == {
        "under attack: an upper bound",
        "certified: a lower bound",
        "between them: unknown",
    }
    upper, lower = ax.containers
    for line, name in (
        (upper, "under attack: an upper bound"),
        (lower, "certified: a lower bound"),
    ):
        assert to_hex(drawn_as[name].get_color()[0]) == to_hex(line.lines[0].get_color())
    assert list(upper.lines[0].get_ydata()) == [0.905, 0.781, 0.676, 0.451, 0.031]
    assert list(lower.lines[0].get_ydata()) == [0.905, 0.58, 0.32, 0.05, 0.0]


def ends(container, axis):
    """Where the error bars of a drawn line end, along an axis."""
    return [bar[:, axis].tolist() for bar in container[2][0].get_segments()]


def test_every_interval_ends_where_its_estimate_says():
    audit = over_all(full())
    levels, found = audit.certificate.levels, audit.smoothed
    upper, lower = drawn(figures.bounds, audit.clean, audit.robust, levels, audit.norm).containers
    known = [audit.clean, *(level.accuracy for level in audit.robust)]
    assert ends(upper, 1) == [pytest.approx([e.low, e.high]) for e in known]
    known = [audit.clean, *(bound.certified for bound in levels)]
    assert ends(lower, 1) == [pytest.approx([e.low, e.high]) for e in known]
    attacked, certified = drawn(figures.smoothed, found).containers
    known = [found.clean, *(level.attacked for level in found.levels)]
    assert ends(attacked, 1) == [pytest.approx([e.low, e.high]) for e in known]
    known = [found.clean, *(level.certified for level in found.levels)]
    assert ends(certified, 1) == [pytest.approx([e.low, e.high]) for e in known]
    rows = drawn(figures.stages, audit.clean, audit.stages).containers
    known = [audit.clean, *(stage.so_far for stage in audit.stages if stage.so_far)]
    assert [ends(row, 0) for row in rows] == [[pytest.approx([e.low, e.high])] for e in known]
    # none of this would show a mirrored interval if intervals were symmetric
    assert all(abs(e.low + e.high - 2 * e.value) > 1e-4 for e in known)


def test_without_a_bound_there_is_one_curve():
    audit = full()
    ax = drawn(figures.bounds, audit.clean, audit.robust, (), audit.norm)
    assert len(ax.containers) == 1
    assert not ax.figure.legends


def test_a_stage_without_a_result_has_a_row_and_no_number():
    audit = broken()
    ax = drawn(figures.stages, audit.clean, audit.stages, audit.claim)
    assert [t.get_text() for t in ax.get_yticklabels()][:2] == ["no attack", "Random noise"]
    assert len(ax.containers) == 1 + sum(s.status == "complete" for s in audit.stages)
    assert {"failed", "skipped", "401 new"} <= {t.get_text() for t in ax.texts}


def test_the_smoothed_classifier_has_its_own_axes(undrawn):
    found = full().smoothed
    ax = drawn(figures.smoothed, found)
    assert ax.get_xlabel() == "ℓ₂ radius"
    assert len(ax.containers) == 2
    none = SmoothedAccuracy(0.25, 10, 0.001, proportion(1, 2), 0, ())
    assert "smoothed classifier" in page(replace(minimal(), smoothed=none))


@pytest.mark.parametrize(("count", "numbers"), [(2, True), (12, True), (13, False), (120, False)])
def test_a_confusion_matrix_has_numbers_where_there_is_room(count, numbers):
    shares = np.full((count, count), 1 / count)
    ax = drawn(figures.confusion, shares.tolist(), MANY[:count])
    assert bool(ax.texts) == numbers
    assert len(ax.get_xticks()) <= 30
    assert ax.images[0].get_array().shape == (count, count)


@pytest.mark.parametrize(
    ("robust", "said", "not_said"),
    [
        ((5, 3, 9), "The worst class under attack at ε = 8/255 is b: 15.0", "alike"),
        ((3, 9, 3), "2 of 3 are alike, with 15.0", "selection"),
        ((0,) * 10, "No class is the worst under attack at ε = 8/255: 10 of 10", "selection"),
        ((7,), "images of the one class, a, are still classified correctly", "selection"),
    ],
)
def test_a_worst_class_is_said_where_there_is_one(undrawn, robust, said, not_said):
    classes = tuple(
        ClassRow(name, proportion(20 - i, 20, "exact"), proportion(count, 20, "exact"))
        for i, (name, count) in enumerate(zip("abcdefghij", robust, strict=False))
    )
    shown = Outline(page(replace(full(), classes=classes))).text.replace("\u00a0", " ")
    assert said in " ".join(shown.split())
    assert not_said not in shown[shown.index("Accuracy per class") :][:600]


def test_a_confusion_matrix_tells_nothing_as_all_that_is_not():
    shares = [[1.0, 0.0, 0.0], [0.0049, 0.995, 0.0001], [0.006, 0.0, 0.994]]
    ax = drawn(figures.confusion, shares, ["a", "b", "c"])
    assert [t.get_text() for t in ax.texts] == ["100", "<1", ">99", "<1", "1", "99"]


def test_a_confusion_matrix_has_labels_down_and_classes_under_attack_across():
    ax = drawn(figures.confusion, [[1.0, 0.0], [0.25, 0.75]], ["cat", "dog"])
    assert ax.images[0].get_array().tolist() == [[1.0, 0.0], [0.5, 0.75**0.5]]
    # "25" stands in the column of what dogs are taken for
    assert {t.get_text(): t.get_position() for t in ax.texts} == {
        "100": (0, 0),
        "25": (0, 1),
        "75": (1, 1),
    }


# ---- the model card


def cells(line):
    return re.split(r"(?<!\\)\|", line)


@pytest.mark.parametrize("audit", [full(), broken(), minimal(), hostile(), full(MANY)])
def test_every_row_of_a_table_has_as_many_cells_as_its_head(audit):
    blocks = re.findall(r"(?:^\|.*\n)+", model_card(audit), re.M)
    for block in blocks:
        widths = {len(cells(line)) for line in block.splitlines()}
        assert len(widths) == 1


def body(card):
    """What follows the metadata."""
    return card.partition("\n---\n")[2]


def test_the_card_says_what_the_page_says():
    audit, card = full(), model_card(full())
    assert body(card).startswith("\n## Robustness audit of mnist-cnn.pt\n\n")
    assert "**Overstated.** The claim of 53.2\u00a0%" in card
    for level in audit.robust:
        e = level.accuracy
        assert f"{100 * e.value:.1f}\u00a0% ({100 * e.low:.1f} to {100 * e.high:.1f})" in card
    assert "| FAILED |" in card
    assert card.endswith("```\n")


def test_hostile_words_are_no_markup():
    card = body(model_card(hostile()))
    prose = re.sub(r"```.*?```", "", card, flags=re.S)
    assert "<" not in prose
    assert "http://" not in prose
    assert "@all" not in prose
    assert not re.search(r"(?<!\\)\*\*b", prose)
    assert not re.search(
        r"(?<!\\)[\[\]`*_]", re.sub(r"^\*\*(Overstated\.)\*\*", "", prose, flags=re.M)
    )


def test_escapes():
    assert escaped("a\nb\x07 | c") == "a b\\\\x07 \\| c"
    assert escaped("# head") == "\\# head"
    assert escaped("- item") == "\\- item"
    assert escaped("+ item") == "\\+ item"
    assert escaped("12. item") == "12\\. item"
    assert escaped("12) item") == "12\\) item"
    assert escaped("45.1\u00a0% (42.0 to 48.2)") == "45.1\u00a0% (42.0 to 48.2)"
    assert escaped("www.x.y https://z") == "www&#46;x.y https&#58;//z"
    assert escaped("a_b*c`d~") == "a\\_b\\*c\\`d\\~"
    assert fenced("a ```` b") == "`````\na ```` b\n`````"


def test_an_estimate_is_never_shown_without_its_interval():
    for line in model_card(full()).splitlines():
        if line.startswith("| 8/255"):
            assert len(re.findall(r"% \(\d", line)) == 2


@pytest.mark.parametrize(("proved", "tried"), [(20, 100), (N, 100), (20, N), (N, N)])
def test_a_number_of_fewer_images_than_were_attacked_says_of_how_many(proved, tried):
    """14 of 20 certified lies above 451 of 1,000 that survived, and contradicts nothing."""
    bound = Bound("8/255", 8 / 255, proportion(round(0.7 * proved), proved, "exact"))
    audit = replace(
        full(),
        certificate=Certificate("IBP", (bound,), n=proved),
        corruptions=replace(full().corruptions, n=tried),
    )
    rows = {line.split(" | ")[0]: line for line in half_page(audit).splitlines() if "|" in line}
    certified, mean = (next(rows[r] for r in rows if w in r) for w in ("certified", "corruptions"))
    assert ("on 20 images" in certified) == (proved != N)
    assert ("on 100 images" in mean) == (tried != N)
    assert "Shares are of all 1,000 images where no other number is given" in half_page(audit)
    assert ("certified, first 20 images" in view(audit).head) == (proved != N)
