"""The order in which a click sorts a table's rows: the script itself, in Node, where there is one."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import robustkit

NODE = shutil.which("node") or ""
SCRIPT = Path(robustkit.__file__).parent / "pages" / "sort.js"
STAGE = """
const given = JSON.parse(require("fs").readFileSync(0, "utf-8"));
let click;
const cell = (shown) => ({
  textContent: shown.text ?? "",
  dataset: "value" in shown ? {value: shown.value} : {},
});
const body = {
  rows: given.cells.map((shown, place) => ({place, cells: [cell(shown)]})),
  append: (...rows) => { body.rows = rows; },
};
const said = {};
const head = {
  childNodes: [],
  append: () => {},
  getAttribute: (name) => said[name] ?? null,
  setAttribute: (name, value) => { said[name] = value; },
  removeAttribute: () => {},
};
head.parentElement = {cells: [head]};
globalThis.document = {
  querySelectorAll: () => [{tBodies: [body], tHead: {rows: [{cells: [head]}]}}],
  createElement: () => ({append: () => {}, addEventListener: (_, told) => { click = told; }}),
};
eval(given.script);
const seen = [1, 2].map(() => { click(); return body.rows.map((row) => row.place); });
console.log(JSON.stringify(seen));
"""
"""a table of one column, as much of it as the script asks for; its head is clicked twice"""


def clicked(cells):
    """The places of a column's cells after one click and after two."""
    given = json.dumps({"script": SCRIPT.read_text(encoding="utf-8"), "cells": cells})
    done = subprocess.run(
        [NODE, "-e", STAGE], input=given, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(not NODE, reason="needs Node")
@pytest.mark.parametrize(
    "rising",
    [
        ["0\u00a0%", "2.5\u00a0%", "20\u00a0%", "80\u00a0%", "100\u00a0%"],
        ["0.125\u00a0%", "1\u00a0%", "10\u00a0%"],
        ["0", "1/255", "2/255", "8/255", "0.1"],
        ["−10", "−2.5", "-1", "0", "+3", "4"],
        ["1e-06", "0.003", "0.01", "1", "12", "1,075", "8,600"],
        ["pgd at ε = 0.05", "pgd at ε = 0.1", "pgd at ε = 0.25", "pgd-margin at ε = 0.01"],
        ["2 passes", "10 passes", "10 seeds", "a", "b 2", "b 10"],
        ["without an attack", "–"],
        ["0\u00a0%", "80\u00a0%", "", "–"],
    ],
)
def test_cells_are_sorted_by_the_numbers_in_them_and_missing_ones_stay_last(rising):
    missing = [text for text in rising if text in ("", "–")]
    known = rising[: len(rising) - len(missing)]
    mixed = rising[1::2][::-1] + rising[::2]
    once, twice = clicked([{"text": text} for text in mixed])
    assert [mixed[place] for place in once][: len(known)] == known
    assert [mixed[place] for place in twice][: len(known)] == known[::-1]
    for places in (once, twice):
        assert {mixed[place] for place in places[len(known) :]} == set(missing)


@pytest.mark.skipif(not NODE, reason="needs Node")
def test_a_cells_own_value_comes_before_its_text():
    values = ["-inf", "-0.5", "0.01", "0.2", "1e+16", "Infinity", "", "nan"]
    mixed = values[::-1]
    cells = [{"value": value, "text": f"9{9 - i}"} for i, value in enumerate(mixed)]
    once, twice = clicked(cells)
    assert [mixed[place] for place in once][:6] == values[:6]
    assert [mixed[place] for place in twice][:6] == values[:6][::-1]
