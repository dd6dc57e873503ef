import os
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest

from robustkit import files
from robustkit.calls import train
from robustkit.calls.sources import code_of
from robustkit.checkpoint import read_checkpoint
from robustkit.checkpoint.sidecar import read_sidecar, sidecar_path, write_sidecar
from robustkit.cli.output import check_file
from robustkit.data.noise import LabelNoise
from robustkit.errors import EvaluationFailed, InputError, UnknownName
from robustkit.study.store import StudyStore
from robustkit.training.saved import state_path
from robustkit.training.snapshots import snapshot_path


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


def test_a_name_is_one_by_its_very_letters_whatever_the_system_takes(tmp_path, monkeypatch):
    def careless(path):
        return path.parent.is_dir() and path.name.lower() in {
            other.name.lower() for other in path.parent.iterdir()
        }

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "is_file", careless)
    for shelf, name in (("data", "MNIST"), ("attacks", "PGD")):
        assert files.find(shelf, name.lower())
        with pytest.raises(UnknownName):
            files.find(shelf, name)


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


# --- what is written to and cannot be replaced ----------------------------------------------------


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "far").mkdir()
    for name, target in (("old", tmp_path / "far" / "a"), ("new", tmp_path / "far" / "b")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "far" / "a").write_text("before")
    (tmp_path / "twice").symlink_to(tmp_path / "old")
    for name in ("old", "new", "twice"):
        files.write_atomic(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == name
    files.write_together(tmp_path, {"old": b"1", "new": b"2", "plain": b"3"})
    assert (tmp_path / "far" / "a").read_text() == "1"
    assert (tmp_path / "old").is_symlink()
    assert {p.name for p in tmp_path.rglob("*")} == {
        "far",
        "a",
        "b",
        "old",
        "new",
        "twice",
        "plain",
    }


def test_a_loop_of_links_is_one_line(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(EvaluationFailed, match="symbolic links"):
        files.write_atomic(tmp_path / "a", b"x")


@pytest.mark.parametrize("write", ["alone", "together", "streamed"])
def test_a_named_pipe_is_written_through_and_stays(tmp_path, write):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    if write == "alone":
        files.write_atomic(pipe, b"content")
    elif write == "together":
        files.write_together(tmp_path, {"pipe": b"content", "other": b""})
    else:
        with files.writing(pipe) as file:
            file.write(b"con")
            file.write(b"tent")
    reader.join(10)
    assert got == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_through_and_stays(tmp_path):
    link = tmp_path / "nothing"
    link.symlink_to("/dev/null")
    for path in (link, Path("/dev/null")):
        files.write_atomic(path, b"x")
        assert stat.S_ISCHR(path.stat().st_mode)
    with pytest.raises(EvaluationFailed, match="cannot write /dev/full: No space left"):
        files.write_atomic(Path("/dev/full"), b"x")
    files.write_together(Path("/dev"), {"null": b"x"})
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_descriptor_is_written_to_where_it_stands(tmp_path):
    with (tmp_path / "out").open("w+b") as out:
        out.write(b"before ")
        out.flush()
        files.write_atomic(Path(f"/dev/fd/{out.fileno()}"), b"content ")
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{out.fileno()}")
        files.write_atomic(tmp_path / "link", b"again")
        out.seek(0)
        assert out.read() == b"before content again"
    with pytest.raises(EvaluationFailed, match="Bad file descriptor"):
        files.write_atomic(Path("/dev/fd/987"), b"x")


def test_stdout_takes_what_is_written_in_order(tmp_path):
    code = (
        "from pathlib import Path\nfrom robustkit.files import write_atomic\n"
        "print('first'); write_atomic(Path('/dev/stdout'), b'second\\n'); print('third')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text().split() == ["first", "second", "third"]
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout.split() == [b"first", b"second", b"third"]


def test_a_pipe_that_nobody_reads_any_more_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    files.write_atomic(Path(f"/dev/fd/{write}"), b"x" * 10**6)
    os.close(write)


def test_names_are_as_long_as_the_system_takes(tmp_path):
    files.write_atomic(tmp_path / ("a" * 255), b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a" * 255]
    with pytest.raises(EvaluationFailed, match="File name too long"):
        files.write_atomic(tmp_path / ("a" * 256), b"x")
    with pytest.raises(EvaluationFailed, match="is a folder"):
        files.write_atomic(tmp_path, b"x")


LONG = ["結" * 83, "結" * 80 + ".json", "🙂" * 62, "e\u0301" * 84, "a" * 255]


@pytest.mark.parametrize("name", LONG, ids=["kanji", "kanji.json", "emoji", "accents", "ASCII"])
def test_a_name_is_as_long_as_the_system_takes_in_bytes(tmp_path, name):
    check_file("--json", tmp_path / name)
    files.write_atomic(tmp_path / name, b"x")
    files.write_together(tmp_path, {name: b"y", "b": b"z"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {name: b"y", "b": b"z"}


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param(lambda out: state_path(out).parent, id="unfinished training"),
        pytest.param(lambda out: snapshot_path(out, 12), id="snapshot"),
        pytest.param(sidecar_path, id="sidecar"),
        pytest.param(lambda out: Path(code_of(a_loss, out, "--loss").file[0]), id="code"),
        pytest.param(lambda out: StudyStore(out.parent)._place("cost", out.name), id="cost"),
        pytest.param(lambda out: out.with_name(trained_as("x", out.stem)), id="training"),
    ],
)
def test_what_is_named_after_a_file_fits_where_it_does(tmp_path, beside):
    """And of two names that begin alike each has its own."""
    short, *places = [tmp_path / name for name in ("net.pt", *LONG)]
    places += [place.with_stem(f"{place.stem[:-1]}b") for place in places]
    assert len({beside(place).name for place in places}) == len(places)
    for place in places:
        files.write_atomic(beside(place), b"x")
    assert "net" in beside(short).name


def a_loss(logits, labels):
    return logits.sum(1)


def trained_as(loss, data):
    return train._name(loss, {}, "lenet5", data, LabelNoise(), Fraction(1), None, 0)


def test_a_checkpoint_of_a_long_name_is_read(tmp_path):
    path = tmp_path / ("結" * 84)
    path.write_bytes((files.shipped("data") / "lenet5-mnist5k.safetensors").read_bytes())
    found = read_checkpoint(path)
    assert read_checkpoint(path).model == found.model == "lenet5"
    write_sidecar(found)
    assert read_sidecar(path).model == "lenet5"
