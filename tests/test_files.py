from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import pytest

from robustkit import files
from robustkit.errors import EvaluationFailed, InputError, UnknownName


@dataclass(frozen=True)
class Thing:
    name: str
    size: Fraction = Fraction(1)
    count: int = 0
    rate: float = 0.0
    on: bool = False
    word: Literal["a", "b"] = "a"
    parts: tuple[str, ...] = ()
    tables: dict[str, int] | None = None


def test_a_table_becomes_a_frozen_dataclass():
    table = {
        "name": "x",
        "size": "8/255",
        "parts": ["p"],
        "tables": {"k": 1},
        "on": True,
        "rate": 2,
    }
    assert files.build(Thing, table, "here") == Thing(
        "x", Fraction(8, 255), rate=2.0, on=True, parts=("p",), tables={"k": 1}
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "the key 'name' is missing"),
        ({"name": "x", "cuont": 1}, "unknown key 'cuont'; did you mean 'count'?"),
        ({"name": 1}, "name: expected str, got 1"),
        ({"name": "x", "count": True}, "count: expected int, got True"),
        ({"name": "x", "count": "3"}, "count: expected int, got '3'"),
        ({"name": "x", "size": 0.1}, 'size: expected a number such as "8/255"'),
        ({"name": "x", "size": "1/0"}, "size: expected a number"),
        ({"name": "x", "word": "c"}, "word: unknown value 'c'"),
        ({"name": "x", "parts": "p"}, "parts: expected a list"),
        ({"name": "x", "tables": [1]}, "tables: expected a table"),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_place(table, message):
    with pytest.raises(InputError, match=r"^here: ") as caught:
        files.build(Thing, table, "here")
    assert message in str(caught.value)


def test_a_name_means_a_path_then_the_users_shelf_then_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.find("attacks", "pgd") == files.shipped("attacks") / "pgd.toml"
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "pgd.toml").write_text("")
    (tmp_path / "attacks" / "mine.toml").write_text("")
    assert files.find("attacks", "pgd").resolve() == tmp_path / "attacks" / "pgd.toml"
    assert "mine" in files.names("attacks")
    with pytest.raises(UnknownName, match="unknown attack 'pdg'; did you mean 'pgd'"):
        files.find("attacks", "pdg")
    with pytest.raises(InputError, match=r"no/such\.toml: no such file"):
        files.find("attacks", "no/such.toml")


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe"])
def test_broken_toml_is_named(tmp_path, content):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.toml: not readable as TOML"):
        files.read_toml(tmp_path / "x.toml")


def test_digests_tell_parts_apart():
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert files.digest("ab") == files.digest(b"ab")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "out"
    files.write_atomic(target, b"old")

    def pieces():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(EvaluationFailed, match=r"cannot write .*out: No space left on device"):
        files.write_atomic(target, pieces())
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
