"""`robustkit leaderboard`: made-up records of several methods, their table, page and JSON."""

import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from helpers.audits import full
from helpers.evaluations import evaluation
from helpers.pages import Outline

import robustkit
from robustkit import figures
from robustkit.analysis.leaderboard import AuditMark, Leaderboard, leaderboard
from robustkit.auditing.stored import encoded
from robustkit.corruption import NAMES
from robustkit.errors import InputError
from robustkit.files import digest
from robustkit.protocol import check_budgets, parse_epsilon
from robustkit.record import Store, table
from robustkit.reporting.leaderboard import page
from robustkit.reporting.wording import interval
from robustkit.results.records import condition, identity_of, open_record
from robustkit.statistics import over_seeds


def made(method, seed=0, strength=0.2, data="mnist", n=80, path="", source=None, **checkpoint):
    """A record in the folder, and what it says."""
    name = path or f"nets/{method}_seed{seed}.pt"
    weights = checkpoint.pop("weights", digest(method, str(seed)))
    budgets = checkpoint.pop("epsilons", ())
    precision = {"precision": given} if (given := checkpoint.pop("precision", None)) else {}
    run = {"started": given} if (given := checkpoint.pop("started", None)) else {}
    found = evaluation(
        name,
        n=n,
        strength=strength,
        seed=seed,
        epsilons=budgets or ("0.1", "0.2"),
        checkpoint={"loss": method, "seed": seed, "weights": weights} | checkpoint,
        run=run,
    )
    origin = {**found.header["data"]["source"], **(source or {})}
    images = digest(data, str(n), *([str(source)] if source else []))
    facts = found.header["data"] | {"name": data, "digest": images, "source": origin}
    key = digest(method, data, str(seed), name, str(n), str(origin), str(checkpoint), weights)
    key = digest(key, str(precision), *budgets) if precision or budgets else key
    found = replace(found, header=found.header | {"data": facts, "digest": key} | precision)
    with Store(Path("runs")).claim(key, lambda: None) as blocks:
        blocks.finish(found.header, found.run, found.table)
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def boards(**how) -> Leaderboard:
    return leaderboard([open_record(p) for p in sorted(Path("runs").glob("*.parquet"))], **how)


def test_seeds_of_a_method_are_one_row_with_their_interval_and_the_most_robust_comes_first():
    weak = [made("cross-entropy", seed, 0.05) for seed in range(3)]
    made("hinge", 0, 0.5)
    (board,) = boards().boards
    assert [(row.name, len(row.networks)) for row in board.rows] == [
        ("hinge_seed0.pt", 1),
        ("cross-entropy", 3),
    ]
    right = [record.broken_at > 0.1 for record in weak]
    assert board.rows[1].robust["0.1"] == over_seeds(right)
    assert board.rows[1].seeds == (0, 1, 2)
    (single,) = boards(by_method=False).boards
    assert len(single.rows) == 4
    assert {r.method for r in single.rows} == {"hinge_seed0.pt", "cross-entropy"}


def test_networks_that_nothing_tells_apart_but_their_files_are_rows_of_their_own():
    made("ce", 0, weights="a" * 64, path="nets/a/net.pt")
    made("ce", 0, weights="b" * 64, path="nets/b/net.pt")
    (board,) = boards().boards
    assert sorted(row.name for row in board.rows) == ["a/net.pt", "b/net.pt"]


def test_only_what_was_tested_alike_shares_a_board():
    made("a", data="mnist")
    made("b", data="mnist")
    made("a", data="svhn")
    made("c", n=60)
    titles = [(board.title, len(board.rows)) for board in boards().boards]
    assert titles == [
        ("mnist test (80 images), pgd, ℓ∞", 2),
        ("mnist test (60 images), pgd, ℓ∞", 1),
        ("svhn test (80 images), pgd, ℓ∞", 1),
    ]


def test_a_budget_that_a_network_was_not_attacked_at_has_no_number():
    made("a", epsilons=("0.1",))
    made("b", epsilons=("0.1", "0.2"))
    (board,) = boards().boards
    assert board.levels == ("0.1", "0.2")
    assert {row.method[0]: set(row.robust) for row in board.rows} == {
        "a": {"0.1"},
        "b": {"0.1", "0.2"},
    }
    html = page(boards(), "t")
    assert html.count('<td data-value="">–</td>') == 1


def test_the_order_is_that_of_budgets_at_which_all_were_attacked():
    """One that was attacked at the smallest alone is not above one that is better there."""
    made("weak", strength=0.25, epsilons=("0.1",))
    made("strong", strength=0.5, epsilons=("0.1", "0.4"))
    found = boards()
    assert [row.method.split("_")[0] for row in found.boards[0].rows] == ["strong", "weak"]
    assert "the order is that of accuracy at ε = 0.1" in found.notes[0]
    made("other", strength=0.9, epsilons=("0.3",))
    found = boards()
    clean = [row.clean.value for row in found.boards[0].rows]
    assert clean == sorted(clean, reverse=True)
    assert "the order is that of clean accuracy" in found.notes[0]


def test_corruptions_that_not_all_were_shown_are_in_no_mean():
    for method, names in (("a", ("fog", "snow")), ("b", ("fog",)), ("c", ())):
        made(method, weights=digest(method))
        for name in names:
            made(method, weights=digest(method), source={"corruption": name, "severity": 1})
    found = boards()
    rows = {row.method[0]: row for row in found.boards[0].rows}
    assert [rows[m].corruptions for m in "ab"] == [1, 1]
    assert rows["c"].corrupted is None
    made("c", weights=digest("c"), source={"corruption": "snow", "severity": 1})
    found = boards()
    assert {row.corrupted for row in found.boards[0].rows} == {None}
    assert "no corrupted images were shown to all" in found.notes[0]


def test_the_mean_over_corruptions_is_that_of_the_benchmark():
    """Clean levels and further corruptions stand in no mean, nor does one level count twice."""
    made("a", weights=digest("a"))
    shares = {}
    for strength, name in enumerate([*NAMES, "spatter", "identity"]):
        level = {"corruption": name, "severity": 1}
        found = made("a", weights=digest("a"), strength=0.05 + 0.05 * strength, source=level)
        shares[name] = (found.broken_at > 0).mean()
    level = {"corruption": "fog", "severity": 1}
    made("a", weights=digest("a"), n=20, source=level)
    (row,) = boards().boards[0].rows
    assert row.corrupted == pytest.approx(np.mean([shares[name] for name in NAMES]))
    assert row.corruptions == 15
    made("a", weights=digest("a"), source={"corruption": "fog", "severity": 2})
    found = boards()
    assert found.boards[0].rows[0].corrupted is None
    assert "no mean over corruptions, whose severities differ" in found.notes[0]


def test_clean_levels_alone_are_no_corruptions():
    made("a", weights=digest("a"))
    made("a", weights=digest("a"), source={"corruption": "identity", "severity": None})
    found = boards()
    assert found.boards[0].rows[0].corrupted is None
    assert found.notes == ()


def test_float32_counts_before_a_search_in_low_precision():
    first = made("a", weights=digest("a"), strength=0.2)
    later = made("a", weights=digest("a"), strength=0.9, precision="bf16", started="2030")
    right = (first.broken_at > 0.1).mean()
    assert right != (later.broken_at > 0.1).mean()
    (board,) = (found := boards()).boards
    assert board.rows[0].robust["0.1"].value == right
    assert found.notes == ()
    made("b", weights=digest("b"), precision="bf16")
    assert "some attacks searched in bf16, the others in float32" in boards().notes[0]


def test_rotations_are_compared_and_ranked_like_any_other_budget(tmp_path):
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 8, 8, generator=draw)
    labels = torch.randint(0, 3, (30,), generator=draw)
    found = [
        robustkit.evaluate(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(),
            (images, labels),
            attack="spatial-random",
            epsilon=["10deg+1px", "30deg+3px"],
            name=name,
            out="runs",
            progress=False,
        )
        for name in ("a", "b")
    ]
    (board,) = robustkit.leaderboard(*found).boards
    assert board.levels == ("10deg+1px", "30deg+3px")
    assert all(set(row.robust) == set(board.levels) for row in board.rows)
    for at, levels in ((None, ("clean", *board.levels)), ("30.0deg+3px", ("30.0deg+3px",))):
        compared = robustkit.compare(*found, **({} if at is None else {"at": at}))
        assert tuple(one.level for one in compared.comparisons) == levels
    with pytest.raises(InputError, match="40deg"):
        robustkit.compare(*found, at="40deg+4px")


def with_budgets(name, texts, number):
    """An evaluation as if by rotation and translation, within these budgets."""
    found = made(name, started=str(number))
    budgets = tuple(map(parse_epsilon, texts))
    protocol = found.header["protocol"]
    resolved = protocol["resolved"] | {"epsilons": texts, "norm": "spatial"}
    resolved |= {"search": "scan"} if len(texts) > 1 else {}
    protocol |= {
        "norm": "spatial",
        "resolved": resolved,
        "epsilons": [{"epsilon": b.text, "value": float(b)} for b in budgets],
    }
    places = {"0.1": texts[0], "0.2": texts[-1], "0": "0", None: None}
    fooled = [places[text] for text in found.table["fooled_at"].to_pylist()]
    rows = table(found.table.to_pydict() | {"fooled_at": fooled})
    return replace(found, header=found.header | {"protocol": protocol}, table=rows)


SPATIAL = {"degrees": ["30deg"], "pixels": ["3px", "4px"], "0.1": ["10deg+1px", "20deg+2px"]}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (["degrees"], ["pixels"]),
        (["degrees", "pixels"], ["degrees", "pixels"]),
        (["pixels", "0.1"], ["degrees", "0.1"]),
    ],
)
def test_transforms_that_are_in_no_proportion_are_on_boards_of_their_own(a, b):
    found = [
        with_budgets(name, SPATIAL[kind], number)
        for name, kinds in (("a", a), ("b", b))
        for number, kind in enumerate(kinds)
    ]
    made = robustkit.leaderboard(*found)
    assert {
        (board.levels, tuple(sorted(row.name[0] for row in board.rows))) for board in made.boards
    } == {
        (tuple(SPATIAL[kind]), tuple(name for name in "ab" if kind in {"a": a, "b": b}[name]))
        for kind in {*a, *b}
    }
    for board in made.boards:
        check_budgets("spatial", [parse_epsilon(text) for text in board.levels])
    assert made.notes == ()
    words = {
        "degrees": "budgets in degrees",
        "pixels": "budgets in pixels",
        "0.1": "budgets of 1/10 px per degree",
    }
    ends = {board.title.rpartition(", ")[2] for board in made.boards}
    assert ends == {words[kind] for kind in {*a, *b}}


def test_a_transform_of_the_same_proportion_in_another_evaluation_is_told():
    found = [with_budgets("a", ["30deg"], 0), with_budgets("a", ["10deg", "20deg"], 1)]
    (note,) = robustkit.leaderboard(*found).notes
    assert "was attacked at ε = 30deg as well, in another evaluation" in note
    check_budgets("spatial", [parse_epsilon(f"{n}deg") for n in (10, 20, 30)])


def test_what_was_tried_at_other_budgets_too_is_on_a_board_of_its_own():
    """Of rotations those that are tried for one budget count at all that hold it."""

    def rotated(name, texts):
        found = with_budgets(name, texts, 0)
        resolved = found.header["protocol"]["resolved"]
        resolved |= {"attacks": [{"kind": "spatial-random", "draws": 10}]}
        return found

    once, among = rotated("a", ["20deg"]), rotated("b", ["10deg", "20deg"])
    assert len(robustkit.leaderboard(once, among).boards) == 2
    assert len(robustkit.leaderboard(once, rotated("b", ["20deg"])).boards) == 1
    conditions = {condition(one.header, 20) for one in (once, among, rotated("b", ["20deg"]))}
    assert len(conditions) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_sets_of_corrupted_images_one_is_in_the_mean_whatever_their_order(first):
    made("a", weights=digest("a"))
    levels = [(name, text) for text in ("x", "y") for name in ("fog", "snow")]
    shares = {}
    for name, text in [*levels[2 * first :], *levels[: 2 * first]]:
        source = {"corruption": name, "severity": 1}
        strength = 0.1 if text == "x" else 0.4
        found = made("a", data=text, strength=strength, weights=digest("a"), source=source)
        shares[name, text] = (found.broken_at > 0).mean()
    found = boards()
    (row,) = found.boards[0].rows
    assert row.corrupted == pytest.approx((shares["fog", "y"] + shares["snow", "y"]) / 2)
    assert row.corruptions == 2
    assert found.notes == (f"{found.boards[0].title}: corruptions are those of y.",)
    made("a", data="x", weights=digest("a"), source={"corruption": "brightness", "severity": 1})
    assert boards().boards[0].rows[0].corruptions == 3  # the set of most levels


def test_networks_that_only_corrupted_images_are_known_of_are_named():
    fog = {"corruption": "fog", "severity": 1}
    made("a")
    for name in ("b", "c"):
        made(name, source=fog)
    found = boards()
    assert [row.name for board in found.boards for row in board.rows] == ["a_seed0.pt"]
    (note,) = found.notes
    assert "only corrupted images evaluated: nets/b_seed0.pt and nets/c_seed0.pt" in note
    made("b")
    (_, note) = boards().notes
    assert "only corrupted images evaluated: nets/c_seed0.pt;" in note


def test_corruptions_and_audits_stand_beside_the_network_that_they_are_of():
    made("a", weights="a" * 64)
    made("b", weights="b" * 64)
    shares = [
        (
            made("a", weights="a" * 64, source={"corruption": name, "severity": 1}).broken_at > 0
        ).mean()
        for name in ("fog", "snow")
    ]
    network = open_record(sorted(Path("runs").glob("*.parquet"))[0]).checkpoint
    network = identity_of({**network, "weights": "a" * 64})
    own = ("a" * 64, "linf", "0.1", 0.5, "overstated", "audit/audit.json", "mnist", "test", network)
    mark = AuditMark(*own)
    others = [mark._replace(norm="l2"), mark._replace(data="cifar10"), mark._replace(split="train")]
    others.append(mark._replace(network=identity_of({"weights": "a" * 64, "mean": [0.5]})))
    (board,) = boards(audits=[mark, *others]).boards
    a, b = sorted(board.rows, key=lambda row: row.name)
    assert (a.corrupted, a.corruptions) == (pytest.approx(sum(shares) / 2), 2)
    assert a.audits == (mark,)
    assert (b.corrupted, b.audits) == (None, ())
    assert boards().notes == (f"{board.title}: corruptions are those of mnist.",)
    text = Outline(page(boards(audits=[mark]), "Mine")).text
    assert "✗ overstated50.0 % at ε = 0.1" in text


def test_a_verdict_says_of_how_many_of_a_methods_networks_it_is(robustkit):
    made("hinge", 0, weights=full().checkpoint["weights"])
    made("hinge", 1)
    Path("audits/hinge").mkdir(parents=True)
    audit = replace(full(), norm="linf", data={**full().data, "name": "mnist"})
    Path("audits/hinge/audit.json").write_text(json.dumps(encoded(audit)))
    asked = ("leaderboard", "--audits", "audits")
    status, out, err = robustkit(*asked, "--html", "board.html")
    assert (status, err) == (0, "")
    assert "(1 of 2 networks)" in " ".join(re.findall(r"[^│\s]+", out))
    assert "(1 of 2 networks)" in Outline(Path("board.html").read_text()).text
    _, out, _ = robustkit(*asked, "--each")  # a row a network
    assert audit.verdict.word in out
    assert "networks)" not in out


def test_each_verdict_stands_once_with_the_networks_it_is_of():
    for seed in range(3):
        made("hinge", seed)
    first, second, _ = (open_record(path).identity for path in Path("runs").glob("*.parquet"))
    mark = AuditMark("w", "linf", "0.1", 0.5, "believable", "a.json", "mnist", "test", first)
    again = mark._replace(path="b.json")
    alike, other = mark._replace(network=second), mark._replace(network=second, claimed=0.6)
    (board,) = boards(audits=[mark, again, alike, other]).boards
    (row,) = board.rows
    assert row.verdicts == ((mark, "2 of 3 networks"), (other, "1 of 3 networks"))
    alone = [row.verdicts for row in boards(audits=[mark, again], by_method=False).boards[0].rows]
    assert sorted(alone) == [(), (), ((mark, ""),)]


def test_the_page_reads_without_its_scripts_and_asks_nobody():
    for seed in range(2):
        made("<b>&", seed)
    made("other", model="resnet")
    html = page(boards(), "All")
    outline = Outline(html)
    assert "<b>&" in outline.text
    assert "<b>" not in html
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    (policy,) = [m["content"] for m in outline.named("meta") if m.get("http-equiv")]
    assert len(scripts) == policy.count("'sha256-") == 2
    assert not re.search(
        r"(src|href)=\"(?!#|data:)", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)
    )
    assert "2 of" not in outline.text.split("Filter")[0]
    titles = re.findall(r"<title>(.*?)</title></", html)
    assert any(t.startswith("other_seed0.pt, ε = 0.2: ") for t in titles)


def test_more_than_eight_methods_stay_readable_and_seeds_share_a_colour():
    for number in range(10):
        made(f"m{number}", 0, 0.05 + 0.04 * number)
    made("m9", 1, 0.4)
    (board,) = boards(by_method=False).boards
    ax = matplotlib.figure.Figure(layout="constrained").add_subplot()
    figures.board_curves(ax, board)
    (legend,) = ax.figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert len(named) == figures.COLOURED + 1
    assert "2 more" in named
    drawn = {line.get_label(): line for line in ax.lines}
    colours = {
        str(label).split("\n")[1].split(",")[0]: line.get_color()
        for label, line in drawn.items()
        if str(label).startswith("_hover")
    }
    assert colours["m9_seed0.pt"] == colours["m9_seed1.pt"] != colours["m8_seed0.pt"]
    assert colours["m0_seed0.pt"] == colours["m1_seed0.pt"]  # grey, both


def test_the_command_prints_one_table_and_writes_page_and_json(robustkit):
    for seed in range(2):
        made("cross-entropy", seed)
    made("hinge", weights=full().checkpoint["weights"])
    Path("audits/hinge").mkdir(parents=True)
    audit = replace(full(), norm="linf", data={**full().data, "name": "mnist"})
    Path("audits/hinge/audit.json").write_text(json.dumps(encoded(audit)))
    status, out, err = robustkit("leaderboard", "--html", "board.html", "--audits", "audits")
    assert (status, err) == (0, "")
    assert out.count("mnist test (80 images), pgd, ℓ∞: accuracy clean and at ε") == 1
    assert "cross-entropy" in out
    assert audit.verdict.word in out
    (board,) = boards(audits=[]).boards
    words = " ".join(re.findall(r"[^│\s]+", out))
    assert all(interval(row.clean).split(" to ")[0] + " to" in words for row in board.rows)
    assert Path("board.html").read_text().startswith("<!DOCTYPE html>")
    status, out, _ = robustkit("leaderboard", "--json", "-", "--each")
    assert status == 0
    (board,) = json.loads(out)["boards"]
    assert len(board["rows"]) == 3
    status, out, err = robustkit("leaderboard", "runs/*.parquet")
    assert (status, err) == (0, "")


@pytest.mark.parametrize("options", [(), ("--audits", "empty")])
def test_nothing_to_show_is_one_line(robustkit, options):
    Path("empty").mkdir()
    if options:
        made("a")
    status, out, err = robustkit("leaderboard", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_a_seed_that_occurs_twice_leaves_the_seeds_of_a_pattern_together():
    for seed in range(2):
        made("ce", seed)
    made("ce", 0, path="other.pt", weights=digest("other"))
    (board,) = boards().boards
    assert {(row.name, len(row.networks)) for row in board.rows} == {
        ("ce_seed{seed}", 2),
        ("other.pt", 1),
    }


@pytest.mark.parametrize("part", ["header", "rows"])
def test_a_damaged_record_is_left_out_and_told(robustkit, part):
    made("a")
    if part == "header":
        (Path("runs") / "other.parquet").write_text("no record")
    else:
        before = {*Path("runs").glob("*.parquet")}
        made("b")
        (path,) = {*Path("runs").glob("*.parquet")} - before
        content = bytearray(path.read_bytes())
        content[200:400] = bytes(200)
        path.write_bytes(content)
    status, out, err = robustkit("leaderboard")
    assert status == 0
    assert err == ""
    assert "Left out: " in out
    assert "a_seed0.pt" in out


def test_an_attack_on_other_images_leaves_a_clean_board_where_it_is():
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(30, 1, 8, 8, generator=draw), torch.arange(30) % 3
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    attacked = robustkit.evaluate(net, (images, labels), "fgsm", epsilon=["0.1"])
    clean = [
        robustkit.evaluate(net, (images[:n], labels[:n]), "clean") for n in (30, 20)
    ]  # of 30 the attack has them, too
    found = robustkit.leaderboard(attacked, *clean).boards
    assert {(board.images, board.levels) for board in found} == {(30, ("0.1",)), (20, ())}


def test_budgets_of_a_record_that_does_not_count_are_told():
    made("a", started="1")
    made("a", epsilons=("0.3",), started="2")
    (note,) = boards().notes
    assert "nets/a_seed0.pt was attacked at ε = 0.3 as well, in another evaluation" in note


def test_boards_of_one_title_say_in_what_they_differ():
    found = made("a")
    header = found.header | {"engine": found.header["engine"] | {"revision": 99}}
    other = replace(found, header=header)
    titles = sorted(board.title for board in robustkit.leaderboard(found, other).boards)
    revision = found.header["engine"]["revision"]
    assert [title.partition(", attacks of ")[2] for title in titles] == sorted(
        [f"revision {revision}", "revision 99"]
    )


@pytest.mark.thorough
def test_the_call_takes_what_the_command_takes_and_evaluations_in_memory():
    found = [made("cross-entropy", seed, 0.05) for seed in range(2)] + [made("hinge")]
    whole = robustkit.leaderboard(html="board.html")
    assert whole == robustkit.leaderboard(*found)
    assert whole == robustkit.leaderboard("runs/*.parquet", runs="none")
    assert len(robustkit.leaderboard(each=True).boards[0].rows) == 3
    assert Path("board.html").read_text().startswith("<!DOCTYPE html>")
    (first, *_), table = repr(whole).splitlines(), whole.to_frame()
    assert first == "Leaderboard: mnist test (80 images), pgd, ℓ∞"
    assert set(table.epsilon) == {"clean", "0.1", "0.2"}
    assert len(whole.plot().lines) >= 2
    assert "hinge" in whole._repr_html_()


def test_one_image_is_a_row_for_each_network_and_harms_no_other_board():
    many = [made("hinge", seed) for seed in range(2)]
    for seed in range(2):
        made("hinge", seed, n=1)
    single, whole = sorted(boards().boards, key=lambda board: board.images)
    assert [row.name for row in whole.rows] == ["hinge"]
    assert whole.rows[0].clean == over_seeds([record.broken_at > 0 for record in many])
    assert sorted(row.seeds for row in single.rows) == [(0,), (1,)]
    for row in single.rows:
        assert row.clean.n == 1
        assert 0 <= row.clean.low <= row.clean.value <= row.clean.high <= 1
        assert row.clean.high - row.clean.low > 0.7  # Wilson's of one image


def test_networks_that_compute_something_else_with_equal_weights_are_rows_of_their_own():
    fog = {"corruption": "fog", "severity": 1}
    for seed, network in enumerate(("a" * 64, "b" * 64)):
        made("x", seed, path=f"{seed}", weights="w" * 64, network=network)
    found = made("x", 0, path="0", weights="w" * 64, network="a" * 64, source=fog)
    for seed in (2, 3):
        made("x", seed, path=f"{seed}", weights="")
    board, *_ = boards(by_method=False).boards
    assert {row.name: row.corrupted is None for row in board.rows} == {
        "0": False, "1": True, "2": True, "3": True
    }  # fmt: skip
    assert next(r for r in board.rows if r.name == "0").corrupted == (found.broken_at > 0).mean()


def test_no_records_are_no_leaderboard():
    with pytest.raises(InputError, match="no evaluation"):
        leaderboard([])
