"""The pages in a real browser: headless Chromium, where there is one."""

import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from helpers.audits import full
from helpers.evaluations import evaluation
from helpers.outcomes import outcome

from robustkit.analysis.leaderboard import leaderboard
from robustkit.reporting import audit
from robustkit.reporting import evaluation as evaluated
from robustkit.reporting import leaderboard as ranked
from robustkit.reporting import study as studied
from robustkit.results.records import Record

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs Chromium")
WATCH = """
const seen = {errors: [], blocked: []};
addEventListener("error", (event) => seen.errors.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));
addEventListener("load", () => {
  const cells = (table, i) => [...table.tBodies[0].rows].map((row) => row.cells[i].dataset.value);
  seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  const kinds = (table, i) => new Set(cells(table, i).filter(Boolean)).size;
  const columns = [...document.querySelectorAll("table.sortable")].flatMap((table) =>
    [...table.tHead.rows[0].cells].map((_, i) => ({table, i, kinds: kinds(table, i)})));
  if (columns.length) {
    const {table, i: column} = columns.reduce((a, b) => (b.kinds > a.kinds ? b : a));
    const head = table.tHead.rows[0].cells[column];
    (head.querySelector("button") ?? head).click();
    seen.once = cells(table, column);
    (head.querySelector("button") ?? head).click();
    seen.twice = cells(table, column);
    seen.said = head.getAttribute("aria-sort");
  }
  const told = document.createElement("pre");
  told.id = "seen";
  told.textContent = JSON.stringify(seen);
  document.body.append(told);
});
"""
"""what happens while the page loads, and when a column's head is clicked twice"""


def study(folder):
    whole = outcome(2)
    return studied.write(replace(whole, panels=whole.panels[:1]), folder).page


def an_audit(folder):
    return audit.write(full(), folder).page


def an_evaluation(folder):
    page = folder / "evaluation.html"
    page.write_text(evaluated.page([evaluation()]), encoding="utf-8")
    return page


def a_leaderboard(folder):
    made = [evaluation(f"{name}.pt", strength=0.1 * i, seed=i) for i, name in enumerate("ab", 1)]
    weights = [f.header["checkpoint"] | {"weights": f.header["checkpoint"]["path"]} for f in made]
    headers = [f.header | {"checkpoint": w} for f, w in zip(made, weights, strict=True)]
    found = [Record(h, replace(f, header=h)) for f, h in zip(made, headers, strict=True)]
    page = folder / "leaderboard.html"
    page.write_text(
        ranked.page(leaderboard(found, by_method=False), "Leaderboard"), encoding="utf-8"
    )
    return page


PAGES = {
    "study": study,
    "audit": an_audit,
    "evaluation": an_evaluation,
    "leaderboard": a_leaderboard,
}


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    return PAGES[request.param](tmp_path_factory.mktemp(request.param))


def chromium(page: Path, *options: str) -> str:
    profile = page.parent / "profile"
    common = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command = [BROWSER, *common, "--virtual-time-budget=5000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def watched(page: Path) -> Path:
    """The page with a script that watches it, which its policy is told of."""
    html = page.read_text(encoding="utf-8")
    source = f"'sha256-{b64encode(hashlib.sha256(WATCH.encode()).digest()).decode()}'"
    policy, count = re.subn("script-src ", f"script-src {source} ", html, count=1)
    if not count:
        policy = html.replace(
            "default-src 'none'; ", f"default-src 'none'; script-src {source}; ", 1
        )
    assert source in policy
    copy = page.parent / "watched.html"
    # after the policy, before all else
    copy.write_text(
        re.sub(r"(<meta http-equiv[^>]*>)", rf"\1<script>{WATCH}</script>", policy, count=1)
    )
    return copy


@pytest.mark.thorough
def test_it_loads_without_an_error_or_a_request_and_sorts(page):
    dom = chromium(watched(page), "--dump-dom", "--window-size=400,800")
    seen = json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)[1]))
    assert seen["errors"] == []
    assert seen["blocked"] == []
    assert seen["requests"] == []
    assert seen["wide"] <= 0
    assert ("once" in seen) == page.parent.name.startswith(("study", "leaderboard"))
    if "once" in seen:
        once, twice = ([float(v) for v in seen[k] if v] for k in ("once", "twice"))
        assert len(set(once)) > 1
        assert {tuple(once), tuple(twice)} == {tuple(sorted(once)), tuple(sorted(once)[::-1])}
        assert seen["said"] in ("ascending", "descending")


@pytest.mark.thorough
def test_it_prints(page):
    file = page.parent / "page.pdf"
    chromium(page, f"--print-to-pdf={file}")
    content = file.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 10_000
    assert 0 < len(re.findall(rb"/Type\s*/Page\b", content)) <= 15
