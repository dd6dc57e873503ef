"""`robustkit verify`: every kind of file that is kept, as written, changed and gone."""

import json
import os
import re
import shutil
import sys
from dataclasses import fields

import numpy as np
import pytest
from helpers.audits import full
from helpers.evaluations import evaluation

from robustkit import integrity, record
from robustkit.auditing.stored import read_audit
from robustkit.checkpoint import save_checkpoint
from robustkit.cli import main
from robustkit.errors import RecordError
from robustkit.files import shipped
from robustkit.integrity import check_files
from robustkit.models import build
from robustkit.record.certification import (
    SCHEMA,
    CertifiedImage,
    certification_name,
    encode_certification,
)
from robustkit.reporting.audit import write
from robustkit.seals import seal_of_bytes, sealed
from robustkit.study.store import StudyStore

NAME, UNFINISHED = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    made = evaluation("net.pt", n=20)
    store = record.Store(folder / "study" / "runs")
    with store.claim(NAME, str) as blocks:
        blocks.write(0, made.table, made.examples)
        blocks.finish({**made.header, "digest": NAME}, made.run, made.table)
    with store.claim(UNFINISHED, str) as blocks:
        blocks.plan({"batch_size": 8, "block_size": 20})
        blocks.write(0, made.table, made.examples, np.zeros((20, 1, 2, 2), np.float32))
    certified = {"schema": SCHEMA, "digest": NAME}
    row = dict.fromkeys(f.name for f in fields(CertifiedImage)) | {"outcome": "fooled"}
    picture = np.zeros((1, 1, 2, 2), np.float32)
    (folder / "study" / "runs" / certification_name(NAME)).write_bytes(
        encode_certification(certified, {}, [row | {"perturbed": 0}], picture)
    )
    study = StudyStore(folder / "study")
    study.keep_asked({"digest": "d", "amendments": []})
    study.keep("cell", "k", {"status": "done"})
    study.keep("test", "k", {"status": "done", "evaluation": NAME})
    study.keep("cost", "c", {"seconds": {}})
    net = folder / "study" / "checkpoints" / "net.safetensors"
    net.parent.mkdir()
    save_checkpoint(net, build("lenet5", num_classes=10, seed=0), model="lenet5")
    state = net.with_name("other.safetensors.partial") / "state.pt"
    state.parent.mkdir()
    state.write_bytes(b"torch's" + seal_of_bytes(b"torch's"))
    write(full(), folder / "audit")
    part = folder / "audit" / "work" / "certificate-0.json"
    part.parent.mkdir()
    part.write_text(json.dumps(sealed({"robust": [[True]], "file": part.name})))
    report = shipped("reports") / "liu2016-mnist"
    shutil.copytree(report, folder / "report")
    return folder


def kinds(folder):
    return {(str(f.path.relative_to(folder)), f.state) for f in check_files(folder)}


PARTIAL = f"study/runs/{'b' * 32}.partial"
FILES = [
    f"study/runs/{'a' * 32}.parquet",
    f"study/runs/{'a' * 32}.examples.npz",
    "study/runs/robustkit.json",
    f"study/runs/certification-{'a' * 32}.npz",
    f"{PARTIAL}/block-000000.parquet",
    f"{PARTIAL}/block-000000.npy",
    f"{PARTIAL}/best.examples.npz",
    f"{PARTIAL}/plan.json",
    "study/study.json",
    "study/cells/k.json",
    "study/tests/k.json",
    "study/costs/c.json",
    "study/checkpoints/net.safetensors",
    "study/checkpoints/other.safetensors.partial/state.pt",
    "audit/audit.json",
    "audit/work/certificate-0.json",
    "report/manifest.json",
    "report/evidence.parquet",
]


@pytest.mark.thorough
def test_every_file_of_a_folder_is_looked_at_and_sound(whole):
    assert kinds(whole) == {(name, "intact") for name in FILES}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["robustkit", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code


def test_the_command_says_what_is_sound_and_ends_with_0(whole, monkeypatch, capsys):
    assert run(monkeypatch, whole) == 0
    assert f"{whole}: {len(FILES)} intact" in capsys.readouterr().out
    assert run(monkeypatch, "--verbose", whole) == 0
    assert sum(line.startswith("intact: ") for line in capsys.readouterr().out.splitlines()) == len(
        FILES
    )


@pytest.mark.parametrize("name", FILES)
def test_one_file_may_be_named(whole, tmp_path, monkeypatch, capsys, name):
    assert run(monkeypatch, whole / name) == 0
    assert f"{whole / name}: 1 intact" in capsys.readouterr().out


def test_what_is_no_file_of_ours_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.txt").write_text("x")
    for name, said in (
        ("x.txt", "not a file that robustkit wrote"),
        ("y", "no such file or folder"),
    ):
        assert run(monkeypatch, tmp_path / name) == 2
        assert capsys.readouterr().err == f"robustkit: error: {tmp_path / name}: {said}\n"


def test_a_certification_under_another_name_is_told(whole, tmp_path):
    content = (whole / f"study/runs/certification-{'a' * 32}.npz").read_bytes()
    path = tmp_path / f"certification-{'c' * 32}.npz"
    path.write_bytes(content)
    (found,) = check_files(path)
    assert found.state == "damaged"
    assert "contains another certification than its name says" in found.reason


def flipped(content):
    """A byte of the contents is another one."""
    # of a record the header stands twice, and nobody reads the second one
    middle = 100 if content.startswith(b"PAR1") else len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("change", ["flipped", "cut"])
@pytest.mark.parametrize("name", [name for name in FILES if "manifest" not in name])
def test_a_changed_file_is_named_in_one_line_and_ends_with_2(
    whole, tmp_path, monkeypatch, capsys, name, change
):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(flipped(content) if change == "flipped" else content[: len(content) // 2])
    assert run(monkeypatch, folder) == 2
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("damaged: ")]
    # a report names its own files, too
    where = (str(path), str(path.parent))
    assert told
    assert all(any(place in line for place in where) for line in told)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npz")])
def test_a_zip_that_says_it_is_encrypted_is_damaged_and_those_after_it_are_looked_at(
    whole, tmp_path, name
):
    folder = tmp_path / "copy"
    shutil.copytree(whole / "study", folder / "study")
    path = folder / name
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    found = list(check_files(folder))
    assert [one.path for one in found if one.state == "damaged"] == [path]
    assert len(found) == sum(one.startswith("study/") for one in FILES)


def test_whatever_a_library_raises_of_a_damaged_file_is_told_of_that_file(whole, monkeypatch):
    def broken(path):
        raise NotImplementedError("zip file version 10.9")

    monkeypatch.setattr(integrity, "seal_state", broken)
    (told,) = [one for one in check_files(whole) if one.state == "damaged"]
    assert told.reason == f"{told.path}: damaged (zip file version 10.9)"


def test_a_file_of_a_report_or_a_record_that_is_gone_is_named(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "report" / "numbers.csv").unlink()
    (folder / "study" / "runs" / f"{'a' * 32}.parquet").unlink()
    reasons = {f.path.name: f.reason for f in check_files(folder) if f.state == "damaged"}
    assert set(reasons) == {"manifest.json", "k.json"}
    assert "numbers.csv: is gone" in reasons["manifest.json"]
    assert f"its record {folder}" in reasons["k.json"]


def test_a_file_without_a_digest_is_sound_as_far_as_can_be_told(whole, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(whole / "audit", folder)
    path = folder / "audit.json"
    table = json.loads(path.read_text())
    del table["content_digest"], table["files"]
    path.write_text(json.dumps(table))
    assert ("audit.json", "no digest") in kinds(folder)
    assert run(monkeypatch, folder) == 0


@pytest.mark.parametrize("name", ["audit.html", "audit.md"])
@pytest.mark.parametrize("edited", [True, False])
def test_what_an_audits_page_and_card_say_is_checked(
    whole, tmp_path, monkeypatch, capsys, name, edited
):
    folder = tmp_path / "copy"
    shutil.copytree(whole / "audit", folder)
    assert run(monkeypatch, folder) == 0
    file = folder / name
    if edited:
        text = file.read_text()
        assert "overstated" in text
        file.write_text(text.replace("overstated", "believable"))
    else:
        file.unlink()
    capsys.readouterr()
    assert run(monkeypatch, folder) == 2
    said = "changed since it was written" if edited else "is gone"
    assert f"{file}: {said}" in "".join(capsys.readouterr())


def test_an_audits_digest_is_not_lost_by_accident(whole, tmp_path, monkeypatch):
    """Whoever names the digests of the page and the card had one of its own."""
    folder = tmp_path / "copy"
    shutil.copytree(whole / "audit", folder)
    path = folder / "audit.json"
    table = json.loads(path.read_text())
    del table["content_digest"]
    path.write_text(json.dumps(table))
    assert ("audit.json", "damaged") in kinds(folder)
    with pytest.raises(RecordError, match="changed since it was written"):
        read_audit(path)


def test_what_an_interrupted_write_left_is_no_fault(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole / "audit", tmp_path / "copy")
    (tmp_path / "copy" / ".audit.json.12.tmp").write_bytes(b"x")
    assert run(monkeypatch, tmp_path / "copy") == 0
    assert "left over: temporary file" in capsys.readouterr().out


def test_files_of_others_are_passed_over_and_a_folder_of_none_ends_with_2(tmp_path, monkeypatch):
    (tmp_path / "data.json").write_text("{")
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    os.mkfifo(tmp_path / "x.safetensors")
    assert list(check_files(tmp_path)) == []
    assert run(monkeypatch, tmp_path) == 2
    with pytest.raises(RecordError, match="no such file or folder"):
        list(check_files(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", '[{"url": "/a.js"}]'),
        ("manifest.json", '{"name": "PWA", "schema": 1}'),
        ("manifest.json", '\ufeff{"manifest_version": 3}'),
        ("audit.json", '{"advisories": {}}'),
        ("audit.json", "[]"),
        ("certificate-1.json", '[{"issuer": "A"}]'),
        ("study.json", '["one"]'),
    ],
)
def test_json_of_others_under_a_name_of_ours_is_passed_over(tmp_path, name, content, monkeypatch):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(check_files(tmp_path)) == []
    assert run(monkeypatch, tmp_path / name) == 2


@pytest.mark.parametrize("name", ["report/manifest.json", "audit/audit.json"])
def test_one_of_ours_without_its_schema_is_refused_by_name(whole, tmp_path, monkeypatch, name):
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / name
    table = json.loads(path.read_text())
    del table["schema"]
    path.write_text(json.dumps(table))
    assert run(monkeypatch, path) == 2


def test_a_folder_that_cannot_be_read_is_named(whole, monkeypatch):
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("cells"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RecordError, match="cells: cannot be read: Permission denied"):
        list(check_files(whole))


def test_published_pages_name_their_studies_and_no_place_of_a_machine():
    pages = sorted(shipped("reports").glob("*/report.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert f"<code>robustkit report {page.parent.name}" in text, page
        assert not re.search("robustkit report [^<]*/(tmp|home|work|root)/", text), page
