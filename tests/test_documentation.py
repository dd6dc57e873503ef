"""README and the site: short enough, every command one that there is, and each of them run."""

import csv
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import permutations
from pathlib import Path

import pytest
from helpers import reader

from robustkit.cli.commands import _commands
from robustkit.statistics import mean_over_seeds

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "pages"
TEXTS = {
    str(p.relative_to(ROOT)): p.read_text("utf-8")
    for p in (ROOT / "README.md", *sorted(PAGES.rglob("*.md")))
}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"# ([\w/-]+\.(?:py|toml))\n")
"""the first line of a block that is a file of the reader's"""
INSTALLS = re.compile(r"python3 -m venv|\.venv/bin/|\. \.venv|pip install|mkdocs")
"""what `.ci/run` does"""
CLUSTER = "--ray"
"""what needs a package that no test has; its options are parsed all the same"""


def blocks(page, *languages):
    return [text for language, text in BLOCK.findall(TEXTS[page]) if language in languages]


def lines(page):
    """Each command of a page on one line."""
    joined = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def arguments(line):
    """Of robustkit in a line; None where it is another program's."""
    words = shlex.split(line, comments=True)
    stop = next((i for i, word in enumerate(words) if word in {"||", "&&", "|"}), len(words))
    places = [i for i, word in enumerate(words[:stop]) if word.endswith("robustkit")]
    return words[places[0] + 1 : stop] if places else None


def parsed(words):
    name, *rest = words
    command = _commands().commands[name]
    return command.make_context(name, rest).params


COMMANDS = [(page, line) for page in TEXTS for line in lines(page)]
INLINE = [
    (page, code)
    for page, text in TEXTS.items()
    for code in re.findall(r"`(robustkit [a-z]+ [^`]+)`", BLOCK.sub("", text))
]


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 50
    assert len(INLINE) > 3


@pytest.mark.parametrize(("page", "line"), [*COMMANDS, *INLINE])
def test_every_command_is_one_that_there_is(page, line):
    words = arguments(line)
    if words is None:
        assert INSTALLS.match(line), f"{page}: {line}"
    else:
        parsed(words)


def test_a_command_that_there_is_not_is_seen():
    with pytest.raises(Exception, match="No such option"):
        parsed(arguments("robustkit evaluate a.pt --epsilons 1"))


def test_every_option_that_is_spoken_of_is_one_that_there_is():
    known = {
        option
        for one in (_commands(), *_commands().commands.values())
        for parameter in one.params
        for option in parameter.opts
    }
    others = {"--help", "--build-arg", "--inner"}  # the last two of docker and of a benchmark
    for page, text in TEXTS.items():
        spoken = {
            option
            for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text))
            for option in re.findall(r"(?:^|\s)(--[a-z][a-z-]+)", code)
        }
        assert spoken <= known | others, page


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].split()) <= 1200


def test_no_point_of_a_list_is_empty():
    for page, text in TEXTS.items():
        assert not re.findall(r"^\s*[-*+]\s*$", BLOCK.sub("", text), re.MULTILINE), page


def test_what_is_said_to_have_a_figure_has_one():
    """A figure of each result but those of which a page says that they have none."""
    (said,) = re.findall(
        r"^(Audits, .*) have the same methods; (\w+) have all", GUIDE, re.MULTILINE
    )
    drawn = {name for name, body in VIEWS.items() if "draw=" in body}
    kinds = {
        "Audits": "Audit",
        "comparisons": "Compared",
        "rankings": "Ranking",
        "studies": "Outcome",
        "data sets": "Dataset",
        "certifications": "Certification",
    }
    assert {kinds[word] for word in re.split(", | and ", said[0])} <= drawn
    assert kinds[said[1]] not in drawn


GUIDE = (PAGES / "guides" / "python.md").read_text("utf-8")
VIEWS = dict(
    re.findall(
        r"^def _\(found: (\w+).*?\) -> View:\n(.*?)(?=^@|^def |\Z)",
        (ROOT / "robustkit" / "display" / "results.py").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
"""what shows a result, by its class"""


def test_a_link_leads_to_a_file():
    for page, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
            place = link.partition("#")[0]
            generated = {"cli.md", "python.md", "names.md"}
            if place and "://" not in place and Path(place).name not in generated:
                assert ((ROOT / page).parent / place).exists(), f"{page}: {link}"


def test_files_of_the_reader_are_whole():
    for page in TEXTS:
        for text in blocks(page, "toml"):
            tomllib.loads(text)
        for text in blocks(page, "python"):
            compile(text, page, "exec")


def test_findings_are_those_of_the_published_reports():
    for section in TEXTS["docs/pages/findings.md"].split("\n## ")[1:]:
        rows = re.findall(r"^\| (\d\w?(?:, \w+)?)\. .*? \| (.*) \|$", section, re.MULTILINE)
        if not rows:
            continue
        study = re.search(r"reports/([\w-]+)/numbers\.csv", section)[1]
        with (ROOT / "reports" / study / "numbers.csv").open() as file:
            claims = [row for row in csv.DictReader(file) if row["section"] == "claim"]
        for name, told in rows:
            named = [c for c in claims if c["panel"] == name]
            of_name = named or [c for c in claims if c["panel"].startswith(name)]
            found = {c["verdict"] for c in of_name} - {""}
            assert found, (study, name)
            assert all(word.rstrip("s") in told for word in found), (study, name, told, found)


FIGURE = r"[+−]?\d+(?:\.\d+)?"
INTERVAL = re.compile(
    rf"({FIGURE})?(?: points| times)?(?: with [^(,.]*)? \(({FIGURE}) to ({FIGURE})\)"
)


def agrees(told, value):
    """Whether a number of the page is this one, rounded as the page does."""
    decimals = len(told.partition(".")[2])
    return abs(float(told.replace("−", "-")) - value) <= 0.5001 * 10**-decimals


def keeps_side(told, value):
    """Whether a number of the page is on the side of 0 on which this one is."""
    return (float(told.replace("−", "-")) > 0) == (value > 0)


def by_hand(rows):
    """Plain paired t intervals of each two methods at each level of a panel, in points."""
    seeds = {}
    for row in (row for row in rows if row["section"] == "seed"):
        own = seeds.setdefault((row["panel"], row["level"]), {}).setdefault(row["method"], {})
        own[row["seed"]] = float(row["value"])
    for methods in seeds.values():
        for a, b in permutations(methods.values(), 2):
            if a.keys() == b.keys() and len(a) > 1:
                found = mean_over_seeds([100 * (a[seed] - b[seed]) for seed in a])
                yield found.value, found.low, found.high


def test_intervals_of_the_findings_are_those_of_the_published_reports():
    """Those that are worked out by hand are worked out again."""
    count = 0
    for section in TEXTS["docs/pages/findings.md"].split("\n## ")[1:]:
        if not (study := re.search(r"reports/([\w-]+)/numbers\.csv", section)):
            continue
        with (ROOT / "reports" / study[1] / "numbers.csv").open() as file:
            published = list(csv.DictReader(file))
        rows = [
            [float(row[name]) for name in ("value", "low", "high")]
            for row in published
            if row["value"] and row["low"] and row["high"]
        ]
        # a difference may be told from either side; what an earlier run found is in no file
        known = [(k * v, *sorted((k * a, k * b))) for v, a, b in rows for k in (1, 100, -100)]
        told = re.split(r"[Aa]n earlier run", " ".join(section.split()))[0]
        for sentence in re.split(r"(?<=[.:|]) (?=[A-Z])", told):
            made = list(by_hand(published)) if "by hand" in sentence.lower() else known
            for value, low, high in INTERVAL.findall(sentence):
                same = [
                    v
                    for v, a, b in made
                    if all(agrees(*end) and keeps_side(*end) for end in ((low, a), (high, b)))
                ]
                assert same, (study[1], low, high)
                # the number before an interval may be a level or a margin: "at ε = 0.2 (…)"
                if value[:1] in ("+", "−"):
                    assert any(agrees(value, v) for v in same), (study[1], value, low, high)
                count += 1
    assert count > 50


def write_files(page, folder):
    """What the page has its reader write."""
    for text in blocks(page, "python", "toml"):
        if named := NAMED.match(text):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def carry_out(page, folder, code):
    """Run a page's code in a folder that holds what the page speaks of."""
    write_files(page, folder)
    programs = folder / "bin"
    programs.mkdir()
    for name, module in (("robustkit", "robustkit"), ("torchrun", "torch.distributed.run")):
        shim = programs / name
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m {module} "$@"\n')
        shim.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in code:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{page}: {command[-1]}\n{done.stderr}"


IN_A_FILE = (
    "import pathlib, runpy, sys; path = pathlib.Path('page.py'); path.write_text(sys.argv[1]); "
    "runpy.run_path(str(path), run_name='__main__')"
)
"""code of a page as its reader has it: functions have a source"""


def steps(page):
    for language, text in BLOCK.findall(TEXTS[page]):
        if language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                if line and not INSTALLS.match(line) and CLUSTER not in line:
                    yield ["sh", "-c", line]
        elif language == "python" and not NAMED.match(text):
            yield [sys.executable, "-W", "ignore", "-c", IN_A_FILE, reader.NAMES + text]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXTS if list(steps(page))])
def test_every_command_of_a_page_does_what_it_says(page, tmp_path):
    reader.files(tmp_path)
    carry_out(page, tmp_path, steps(page))


def test_the_protocol_of_the_guide_runs(robustkit, tmp_path):
    page = "docs/pages/guides/protocol.md"
    write_files(page, tmp_path)
    asked = arguments(lines(page)[0])
    assert asked[0] == "evaluate"
    status, _, err = robustkit(*asked)
    assert status == 0, err
    assert list(tmp_path.glob("runs/*.parquet"))


def authors_beside_ours(text):
    """Of a table of AutoAttack's, how far ours is above and below the authors', in points."""
    found, seeds = {}, {}
    for line in text.splitlines():
        _, whose, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if whose == "ours":
            seeds = {"ours": cells[:4]}
        elif whose == "official":
            seeds["official"] = cells[:4]
            for number, pair in enumerate(zip(*seeds.values(), strict=True)):
                ours, theirs = ([float(one) for one in cell.split(", ")] for cell in pair)
                above, below = max(ours) - max(theirs), min(theirs) - min(ours)
                found[len(found), number] = (above, below)
    above, below = (max(0, *column) for column in zip(*found.values(), strict=True))
    return [round(above, 1), round(below, 1)]


def test_what_is_said_of_the_authors_autoattack_is_what_the_tables_say():
    page, other = (TEXTS[f"docs/pages/{name}.md"] for name in ("benchmarks", "comparison"))
    (section,) = (one for one in page.split("\n## ") if one.startswith("AutoAttack: agreement"))
    head = "| network | whose | APGD-CE |"
    tables = [one for one in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE) if head in one]
    linf, others = (
        authors_beside_ours(one.split("\n", 2)[2].rstrip()) for one in (tables[0], tables[-1])
    )
    assert "ℓ∞" in tables[0]
    assert {"ℓ₂", "ℓ₁"} <= set(re.findall("ℓ.", tables[-1]))
    said = rf"at most ({FIGURE})(?: points)? above[^.]*? and up to ({FIGURE}) below"
    for text in (section, other):
        told = re.findall(said, " ".join(text.split()))
        assert [[*map(float, pair)] for pair in told] == [linf, others]
