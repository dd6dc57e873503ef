import re
import shlex
import tomllib
from dataclasses import replace
from html import unescape
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.evaluations import PROTOCOL, evaluation
from helpers.pages import Outline

from robustkit import figures
from robustkit.protocol import parse_protocol, protocol_toml
from robustkit.record import Evaluation, table
from robustkit.reporting import page
from robustkit.summary import failure


def changed(record: Evaluation, **parts) -> Evaluation:
    """The evaluation with some keys of its header's sections replaced."""
    header = {k: v | parts[k] if k in parts else v for k, v in record.header.items()}
    return Evaluation(header, record.run, record.table, record.examples)


@pytest.fixture(scope="module")
def single():
    return evaluation(n=1000, warnings=["pgd cannot cross its ball"])


@pytest.fixture(scope="module")
def html(single):
    return page([single])


@pytest.fixture(scope="module")
def text(html):
    return Outline(html).text


@pytest.fixture(scope="module")
def beside(single):
    """The page of two evaluations."""
    return page([single, evaluation("b.pt", seed=1)])


@pytest.fixture
def undrawn(monkeypatch):
    """Pages whose figures are there, and empty."""
    monkeypatch.setattr(figures, "svg", lambda *_: "<svg></svg>")


@pytest.mark.thorough
def test_one_sentence_says_the_result(single, text):
    robust, clean = single.robust()[1].accuracy, single.clean()
    assert (
        f"At ε = 0.2 (ℓ∞), {100 * robust.value:.1f} % of 1,000 images are still classified correctly "
        f"(95 % CI {100 * robust.low:.1f} to {100 * robust.high:.1f}), "
        f"against {100 * clean.value:.1f} % without attack; "
        "worst case per image over fgsm and pgd." in text
    )


def test_the_parts_come_in_order(text):
    parts = [
        "Robustness of mnist-cnn.pt",
        "still classified correctly",
        "pgd cannot cross its ball",
        "clean mistakes counted as wrong",
        "ε = 0 is accuracy without attack",
        "Which attack found what",
        "correctly without attack",
        "Accuracy per class",
        "Smallest successful perturbations",
        "Protocol: pgd",
        "Provenance",
        "How to reproduce",
    ]
    places = [text.index(part, 10) for part in parts[1:]]
    assert places == sorted(places)


def test_every_estimate_stands_with_its_interval(single, text):
    for estimate in [single.clean(), *(p.accuracy for p in single.robust())]:
        assert f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}" in text


def test_the_method_of_the_interval_is_named(single, html, undrawn):
    assert "Clopper-Pearson, 95 %" in page([single], method="exact")
    assert "Wilson, 95 %" in html


@pytest.mark.thorough
def test_the_same_evaluations_give_the_same_bytes(single, beside):
    assert page([single, evaluation("b.pt", seed=1)]) == beside


def test_only_the_provenance_differs_between_two_runs(undrawn):
    a, b = (page([evaluation(run={"seconds": s, "machine": "m"})]) for s in (1.25, 99.5))
    differing = [(x, y) for x, y in zip(a.splitlines(), b.splitlines(), strict=True) if x != y]
    assert differing == [("<dt>seconds</dt><dd>1.25</dd>", "<dt>seconds</dt><dd>99.5</dd>")]


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>&{{ 7*7 }}"""


@pytest.mark.thorough
def test_hostile_strings_stay_text():
    record = evaluation(
        f"runs/{HOSTILE}.pt",
        classes=(HOSTILE, "b"),
        warnings=[HOSTILE],
        checkpoint={"model": HOSTILE, "notes": [HOSTILE]},
        run={"events": [HOSTILE], "device_name": HOSTILE},
    )
    record = changed(
        record,
        data={"title": HOSTILE, "name": HOSTILE, "source": {HOSTILE: HOSTILE}},
        protocol={"title": HOSTILE, "name": HOSTILE, "file": HOSTILE},
    )
    other = evaluation(f"{HOSTILE}2", seed=1)
    outline = Outline(page([record, other], [failure(HOSTILE, HOSTILE)]))
    tags = {tag for tag, _ in outline.elements}
    assert "script" not in tags
    assert all(img["src"].startswith("data:image/png;base64,") for img in outline.named("img"))
    assert not any(name.startswith("on") for _, a in outline.elements for name in a)
    assert HOSTILE in outline.text


@pytest.mark.thorough
def test_paths_that_are_not_text_do_not_break_the_page():
    odd = ["a\udcff.pt", "b\x00\x1b[31m.pt", "c\nd.pt"]
    html = page([evaluation(path, seed=i) for i, path in enumerate(odd)])
    html.encode("utf-8")
    assert not re.search("[\x00\x1b]", html)


def test_the_page_reaches_for_nothing_outside(beside):
    outline = Outline(beside)
    (policy,) = [m for m in outline.named("meta") if m.get("http-equiv")]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in policy["content"]
    assert not {"script", "link", "iframe", "object", "form"} & {t for t, _ in outline.elements}
    addresses = [
        value
        for _, attributes in outline.elements
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "action", "srcset")
    ]
    assert addresses
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in addresses)
    assert "url(http" not in beside
    assert "@import" not in beside


@pytest.mark.thorough
def test_ids_are_unique_and_named_ones_exist():
    other_data = changed(evaluation("c.pt", seed=2), data={"digest": "d"})
    outline = Outline(page([evaluation(), evaluation("b.pt", seed=1), other_data]))
    ids = [a["id"] for _, a in outline.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in outline.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(key, ids[0]) in ids
        assert (attributes.get("xlink:href") or f"#{ids[0]}")[1:] in ids


def test_a_screen_reader_finds_its_way(beside):
    outline = Outline(beside)
    assert outline.named("html")[0]["lang"] == "en"
    assert all(th.get("scope") for th in outline.named("th"))
    assert all(img.get("alt") for img in outline.named("img"))
    svgs = outline.named("svg")
    assert svgs
    assert all(svg.get("role") == "img" and "%" in svg.get("aria-label") for svg in svgs)
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_only_evaluations_of_the_same_data_and_protocol_share_a_figure(undrawn):
    a, b = evaluation("a.pt"), evaluation("b.pt", seed=1)
    each = 2  # against ε, and against passes
    assert page([a, b]).count("<svg") == each
    assert page([a, changed(b, data={"digest": "other"})]).count("<svg") == 2 * each
    assert page([a, evaluation("b.pt", epsilons=["0.1"])]).count("<svg") == 2 * each


def test_the_page_tells_the_passes_of_each_attack_where_the_record_does(undrawn):
    made = evaluation("a.pt")
    mean = made.rows.forward.map(sum).mean()
    text = Outline(page([made])).text
    assert "What the attacks cost" in text
    assert f"{mean:,.4g}" in text
    columns = made.table.drop_columns(["forward", "backward"]).to_pydict()
    old = page([replace(made, table=table(columns))])
    assert "What the attacks cost" not in old
    assert old.count("<svg") == 1


def test_checkpoints_are_told_apart_by_the_end_of_their_paths(undrawn):
    text = Outline(page([evaluation(f"runs/{x}/last.pt") for x in "ab"])).text
    assert "a/last.pt: At ε" in text
    assert "b/last.pt: At ε" in text
    twice = Outline(page([evaluation("last.pt", seed=i) for i in (0, 1)])).text
    assert "last.pt (1)" in twice
    assert "last.pt (2)" in twice


def test_a_failed_checkpoint_is_named_with_its_error_and_no_number():
    outline = Outline(page([], [failure("runs/broken.pt", "the file is truncated")]))
    assert "runs/broken.pt: the file is truncated" in outline.text
    assert "Robustness of broken.pt" in outline.text
    assert "%" not in outline.text


def test_a_page_of_nothing_says_so():
    assert "Nothing was evaluated." in Outline(page([])).text


def test_a_warning_of_several_checkpoints_stands_once(undrawn):
    records = [evaluation(f"{i}.pt", seed=i, warnings=["weak"] * (i < 2)) for i in range(3)]
    text = Outline(page(records)).text
    assert text.count("weak") == 1
    assert "weak (0.pt, 1.pt)" in text


def test_counts_by_attack_add_up_to_all_images(text):
    found = re.search(
        r"misclassified when clean (\S+) .*?fgsm (\S+) .*?pgd (\S+) .*?every budget (\S+) ", text
    )
    assert sum(int(x) for x in found.groups()) == 1000


def test_the_gallery_shows_the_smallest_perturbations_first(undrawn):
    record = evaluation(n=500)
    backwards = Evaluation(record.header, record.run, record.table, record.examples[::-1])
    html = page([record])
    assert html == page([backwards])
    shown = re.findall(r"ℓ∞ distance (\S+?)</", html)
    assert shown == [f"{e.distance:.3g}" for e in record.examples]


def test_large_images_are_few(undrawn):
    image = np.zeros((3, 500, 500), np.float32)
    small = evaluation().examples[0]
    large = [replace(small, index=i, clean=image, perturbed=image + 0.1) for i in range(9)]
    html = page([evaluation(shape=(3, 500, 500), examples=large)])
    assert html.count("<figcaption><strong>") == 3


def test_without_examples_there_is_no_gallery(undrawn):
    assert "Smallest successful" not in page([evaluation(examples=())])


@pytest.mark.thorough
def test_a_thousand_classes_stay_a_page():
    names = [f"class-{i:04}" for i in range(1000)]
    html = page([evaluation(n=3000, classes=names, examples=())])
    assert len(html) < 100_000
    assert html.count('<th scope="row">class-') == 20


CORNERS = [(1, 1, 2), (8, 8, 100)]
SIZES = product([1, 2, 8], [1, 8], [2, 100])


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    ("count", "budgets", "classes"),
    [pytest.param(*size, marks=[pytest.mark.slow] * (size not in CORNERS)) for size in SIZES],
)
def test_pages_of_all_sizes_are_well_formed(count, budgets, classes):
    records = [
        evaluation(
            f"{i}.pt",
            seed=i,
            epsilons=[f"{e}/255" for e in range(1, budgets + 1)],
            classes=[str(c) for c in range(classes)],
            examples=(),
        )
        for i in range(count)
    ]
    Outline(page(records))


def by_transfer(record):
    other = {"path": "nets/other one.pt", "weights": "ab12", "sha256": "cd34"}
    return Evaluation(record.header | {"surrogate": other}, record.run, record.table)


def test_a_transfer_attack_is_said_to_be_one_and_stands_apart(undrawn):
    direct = evaluation()
    text = Outline(page([by_transfer(direct)])).text
    assert "worst case per image over fgsm and pgd, by transfer from nets/other one.pt." in text
    both = page([direct, by_transfer(direct)])
    assert Outline(both).text.count("by transfer from") == 1
    assert both.count("Robust accuracy against ε") == 2 * page([direct]).count(
        "Robust accuracy against ε"
    )


def test_a_targeted_attack_is_not_said_to_be_about_being_right(undrawn):
    record = evaluation()
    resolved = record.header["protocol"]["resolved"] | {"target": "next"}
    text = Outline(page([changed(record, protocol={"resolved": resolved})])).text
    assert "not turned into their target class (next)" in text
    assert "still classified correctly" not in text


def commands(html):
    joined = unescape(html).replace("\\\n", " ")
    return [
        shlex.split(line)
        for line in joined.replace("<pre><code>", "\n").splitlines()
        if line.startswith("robustkit evaluate")
    ]


def options(words):
    pairs = list(zip(words[3::2], words[4::2], strict=True))
    return {name: [v for n, v in pairs if n == name] for name, _ in pairs}


def test_the_command_asks_the_same_question_again(undrawn):
    path = "my models/it's.pt"
    (words,) = commands(page([evaluation(path, n=123)]).replace("</code>", ""))
    assert words[:3] == ["robustkit", "evaluate", path]
    given = options(words)
    assert given["--attack"] == ["pgd"]
    assert given["--data"] == ["mnist5k"]
    assert given["--limit"] == ["123"]
    assert given["--epsilon"] == ["0.1", "0.2", "0.3"]
    assert given["--seed"] == ["0"]


def test_the_command_gives_back_what_the_user_gave(undrawn):
    record = evaluation(checkpoint={"preprocessing": "given", "mean": [0.1], "std": [0.3]})
    resolved = record.header["protocol"]["resolved"] | {"target": "next"}
    source = {"folder": "my images"}
    record = changed(
        record,
        protocol={"resolved": resolved},
        data={"transform": {"resize": 32}, "source": source, "title": "my images"},
    )
    (words,) = commands(page([record]).replace("</code>", ""))
    given = options(words)
    assert (given["--mean"], given["--std"]) == (["0.1"], ["0.3"])
    assert given["--data"] == ["my images"]
    assert given["--resize"] == ["32"]
    assert given["--target"] == ["next"]
    assert given["--attack"] == ["pgd"]


def test_the_command_has_no_option_that_there_is_not(undrawn):
    source = {"origin": "Huang et al.", "folder": "my lfw", "pairs": "0" * 64}
    entry = {"name": "lfw-pairs", "transform": {"pairs": True}, "source": source}
    (words,) = commands(page([changed(evaluation(), data=entry)]).replace("</code>", ""))
    given = options(words)
    assert (given["--data"], given["--data-root"]) == (["lfw-pairs"], ["my lfw"])
    assert "--pairs" not in given


def test_the_command_names_the_surrogate_and_how_the_network_was_read(undrawn):
    read = {"ignore": ["loss.*", "ema.*"], "rename": ["a.=b."], "image_by_image": True}
    read["weights_key"] = "model"
    record = by_transfer(evaluation(checkpoint=read))
    (words,) = commands(page([record]).replace("</code></pre>", ""))
    assert words.pop() == "--image-by-image"
    given = options(words)
    assert given["--surrogate"] == ["nets/other one.pt"]
    assert (given["--ignore"], given["--rename"]) == (["loss.*,ema.*"], ["a.=b."])
    assert given["--weights"] == ["model"]
    record.header["surrogate"]["sha256"] = None
    assert commands(page([record])) == []


@pytest.mark.parametrize("program", ["checkpoint", "surrogate"])
def test_the_command_trusts_a_program_which_is_refused_otherwise(undrawn, program):
    """Of a program the weights' digest is that of its file."""
    record = by_transfer(evaluation())
    weights = {"weights": "a" * 64, "sha256": "b" * 64}
    record = changed(record, checkpoint=weights, surrogate=weights)
    (words,) = commands(page([record]).replace("</code></pre>", ""))
    assert "--trust-program" not in words
    record = changed(record, **{program: {"weights": "b" * 64}})
    (words,) = commands(page([record]).replace("</code></pre>", ""))
    assert words.pop() == "--trust-program"
    assert "--surrogate" in options(words)


@pytest.mark.parametrize(("norm", "option"), [("linf", None), ("l2", ["l2"])])
def test_the_command_names_a_norm_that_is_not_its_files_default(undrawn, norm, option):
    file = PROTOCOL.replace('norm = "linf"', 'norm = ["linf", "l2"]')
    attack = parse_protocol(tomllib.loads(file), "pgd", "pgd.toml", norm=norm)
    record = evaluation()
    resolved = replace(attack, epsilons=record.epsilons).resolved()
    entries = {"file": file, "norm": norm, "resolved": resolved}
    (words,) = commands(page([changed(record, protocol=entries)]))
    assert options(words)["--attack"] == ["pgd"]
    assert options(words).get("--norm") == option


def test_a_module_in_memory_gets_no_command_line(undrawn):
    record = evaluation("<Net>", checkpoint={"sha256": None, "model": None})
    record = changed(record, protocol={"file": ""})
    html = page([record])
    assert commands(html) == []
    assert "only in memory" in html


def with_more_steps(record):
    """As if `--set steps=77` had changed the protocol, but not its file."""
    attack = parse_protocol(tomllib.loads(PROTOCOL), "pgd", "pgd.toml", ["pgd.steps=77"])
    attack = replace(attack, epsilons=record.epsilons, seed=5)
    return changed(record, protocol={"resolved": attack.resolved(), "digest": attack.digest})


def test_a_protocol_that_its_file_does_not_tell_is_written_out(undrawn):
    record = with_more_steps(evaluation())
    html = page([record])
    (words,) = commands(html.replace("</code>", ""))
    assert options(words)["--attack"] == ["pgd.toml"]
    assert unescape(protocol_toml(record.header["protocol"])) in unescape(html)


@pytest.mark.parametrize(
    ("name", "steps", "of_a_file"),
    [
        ("pgd", 3, True),  # as of x/pgd.toml
        ("pgd", 3, False),  # made in Python
        ("mine", 40, True),
        ("../attacks/pgd", 40, True),
    ],
)
def test_a_protocol_that_does_not_ship_is_written_out(undrawn, name, steps, of_a_file):
    """Its name would be another protocol's, or none's, where the command is run again."""
    record = evaluation()
    text = PROTOCOL.replace("steps = 40", f"steps = {steps}")
    own = replace(parse_protocol(tomllib.loads(text), name, name), epsilons=record.epsilons)
    entry = {"name": name, "file": text * of_a_file, "resolved": own.resolved()}
    record = changed(record, protocol=entry | {"digest": own.digest})
    html = unescape(page([record]))
    (words,) = commands(html.replace("</code>", ""))
    assert options(words)["--attack"] == [f"{name}.toml"]
    assert f"to be saved as <code>{name}.toml</code>" in html
    assert protocol_toml(record.header["protocol"]) in html


def test_a_protocol_written_out_is_the_one_that_was_run():
    protocol = with_more_steps(evaluation()).header["protocol"]
    again = parse_protocol(tomllib.loads(protocol_toml(protocol)), "pgd", "pgd.toml")
    assert replace(again, seed=5).digest == protocol["digest"]


@pytest.mark.parametrize("title", ["PGD \U0001f680", 'a "b" \\ \t\x07\x7f\u2028é'])
def test_a_title_of_any_letters_is_written_out_as_toml(title):
    protocol = evaluation().header["protocol"] | {"title": title}
    assert tomllib.loads(protocol_toml(protocol))["title"] == title


SAID_OF_ATTACKS = (
    "Which attack found what",
    "none: robust at every budget",
    "no perturbation that fools",
    "smallest perturbation found",
    "Robust accuracy: share",
)


def test_what_attacks_found_is_told_where_there_were_any(undrawn):
    html = page([evaluation()])
    text = Outline(html).text
    assert len([said for said in SAID_OF_ATTACKS if said in text]) == len(SAID_OF_ATTACKS) - 1
    assert '<th scope="col">ε&nbsp;=&nbsp;0.2</th>' in html


def test_a_record_without_attacks_has_a_page():
    from robustkit import evaluate

    images = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
    labels = np.arange(20) % 3

    class Always(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 3).float()

    record = evaluate(Always(), (images, labels), "clean")
    html = page([record])
    text = Outline(html).text
    assert "35.0" in text  # 7 of 20
    assert [said for said in SAID_OF_ATTACKS if said in text] == []
    assert '<th scope="col">ε&nbsp;=' not in html
    written = protocol_toml(record.header["protocol"])
    assert tomllib.loads(written)["attack"] == []
    assert (
        parse_protocol(tomllib.loads(written), "clean", "clean").digest
        == record.header["protocol"]["digest"]
    )
