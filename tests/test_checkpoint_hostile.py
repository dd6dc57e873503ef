import os
import sys
import time

import pytest
import torch
from helpers import checkpoint_files as files

from robustkit import checkpoint
from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.errors import CheckpointError, InputError
from robustkit.files import file_digest

LOADS = {
    "in-metadata", "in-optimizer", "as-a-key", "deep", "setstate", "legacy", "among-weights",
}  # fmt: skip


def peak_memory():
    """The most bytes that this process has ever held."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def outcome(path, **options):
    """The loaded network, or the error's one line."""
    try:
        return read_checkpoint(path, **options).load()
    except InputError as error:
        line = str(error)
    assert "\n" not in line
    assert line.startswith(str(path))
    return line


@pytest.mark.parametrize("name", files.HOSTILE)
def test_no_hostile_file_runs_code(name, tmp_path):
    sentinel = tmp_path / "ran"
    path = files.HOSTILE[name](tmp_path / f"{name}.pt", sentinel)
    start = time.process_time()  # the machine may be busy with other things
    before = peak_memory()
    result = outcome(path)
    assert not sentinel.exists()
    assert time.process_time() - start < 10
    assert peak_memory() - before < 300e6
    if name in LOADS:
        expected = files.network()
        x = torch.rand(2, 1, 28, 28)
        assert torch.equal(result(x), expected(x))
    else:
        assert isinstance(result, str)


def test_the_sentinel_would_appear_if_such_a_file_ran(tmp_path):
    sentinel = tmp_path / "ran"
    path = files.HOSTILE["in-metadata"](tmp_path / "x.pt", sentinel)
    torch.load(path, weights_only=False)
    assert sentinel.exists()


def test_a_call_of_the_shell_is_named_in_a_warning(tmp_path):
    path = files.HOSTILE["in-metadata"](tmp_path / "x.pt", tmp_path / "ran")
    warnings = read_checkpoint(path).warnings
    assert any(f"{os.system.__module__}.system" in warning for warning in warnings)


def test_a_weight_that_needs_a_call_is_refused_by_name(tmp_path):
    path = files.HOSTILE["instead-of-a-weight"](tmp_path / "x.pt", tmp_path / "ran")
    with pytest.raises(CheckpointError, match=r"conv1\.weight.*system") as caught:
        read_checkpoint(path, model="lenet5")
    assert "\n" not in str(caught.value)


def test_a_tensor_subclass_among_the_weights_is_refused_by_name(tmp_path):
    class Marked(torch.Tensor):
        pass

    Marked.__qualname__ = "Marked"
    globals()["Marked"] = Marked
    state = files.network().state_dict()
    state["fc1.weight"] = state["fc1.weight"].as_subclass(Marked)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"fc1\.weight.*Marked"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_hostile_sample_input_in_an_export_does_not_run_untrusted(tmp_path):
    sentinel = tmp_path / "ran"
    path = files.exported(tmp_path / "x.pt2", files.saved(files._runs(sentinel)))
    assert "--trust-program" in outcome(path)
    assert not sentinel.exists()


def evil_file(tmp_path, sentinel):
    """A file whose import leaves a trace."""
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(sentinel)!r}, 'w').close()\ndef build():\n    return None\n")
    return f"{path}:build"


def test_a_sidecar_cannot_have_code_imported(tmp_path):
    sentinel, path = tmp_path / "ran", tmp_path / "x.pt"
    spec = evil_file(tmp_path, sentinel)
    torch.save(files.network().state_dict(), path)
    (tmp_path / "x.pt.toml").write_text(f'model = "{spec}"\n')
    read = read_checkpoint(path)
    assert ("model", spec) in checkpoint.describe(read)
    with pytest.raises(CheckpointError, match="--model"):
        read.load()
    assert not sentinel.exists()


def test_metadata_cannot_have_code_imported(tmp_path):
    sentinel, path = tmp_path / "ran", tmp_path / "x.safetensors"
    spec = evil_file(tmp_path, sentinel)
    save_checkpoint(path, files.network(), model=spec)
    read = read_checkpoint(path)
    assert read.model == spec
    with pytest.raises(CheckpointError, match="--model"):
        read.load()
    assert not sentinel.exists()


def test_names_in_a_file_cannot_break_lines_or_talk_to_the_terminal(tmp_path):
    path = tmp_path / "x.pt"
    odd = "a\n\x1b[31mb"
    torch.save({odd: {odd: torch.zeros(3)}, "args": {odd: 1}}, path)
    read = read_checkpoint(path)
    assert all(text.isprintable() for row in checkpoint.describe(read) for text in row)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, model="lenet5")
    assert str(caught.value).isprintable()
    save_checkpoint(tmp_path / "y.safetensors", files.network(), model="lenet5", extra_fact=odd)
    table = tmp_path / "y.safetensors.toml"
    table.write_text('loss = "a\\nb"')
    with pytest.raises(CheckpointError, match="control characters"):
        read_checkpoint(tmp_path / "y.safetensors")


@pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
def test_every_truncation_is_one_line(form, tmp_path):
    whole = files.saved(files.network().state_dict(), _use_new_zipfile_serialization=form)
    path = tmp_path / "x.pt"
    for cut in [1, 2, 8, 30, 100, 700, *range(1000, len(whole) - 1, len(whole) // 12)]:
        path.write_bytes(whole[:cut])
        assert isinstance(outcome(path), str), cut


@pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
def test_flipped_bytes_load_or_give_one_line(form, tmp_path):
    whole = files.saved(files.network().state_dict(), _use_new_zipfile_serialization=form)
    path = tmp_path / "x.pt"
    step = 61
    for place in range(0, 3000, step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        outcome(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n  <!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"just some words", "unknown format"),
        (b"sys_info" + b"\0" * 249 + b"ustar" + b"\0" * 100, "tar format"),
        (b"\0" * 257 + b"ustar" + b"\0" * 100, "a tar archive; unpack it"),
        (b"\x1f\x8b" + b"\0" * 50, "gzip"),
        (b"PK\x03\x04" + b"\0" * 100, "truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_gets_its_line(content, says, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    assert says in outcome(path)


def test_a_flipped_weight_is_noticed_unless_torch_wrote_no_checksums(tmp_path):
    path, weight = tmp_path / "x.pt", files.network().state_dict()["fc1.weight"]
    whole = files.saved(files.network().state_dict())
    place = whole.index(weight.numpy().tobytes()) + 1000
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "checksum" in outcome(path)
    torch.serialization.set_crc32_options(False)
    try:
        path.write_bytes(files.saved(files.network().state_dict()))
    finally:
        torch.serialization.set_crc32_options(True)
    assert not isinstance(outcome(path), str)


def test_missing_files_and_folders_get_their_line(tmp_path):
    assert "no such file" in outcome(tmp_path / "x.pt")
    assert "a folder" in outcome(tmp_path)
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        read_checkpoint("no-such-shipped-checkpoint")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value, tmp_path):
    state = files.network().state_dict()
    state["fc2.bias"][3] = value
    torch.save(state, tmp_path / "x.pt")
    assert "'fc2.bias'" in outcome(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "text",
    [
        "model = 3",
        'modle = "lenet5"',
        "mean = [0.5]",
        "std = [0.0]\nmean = [0.1]",
        "x",
        "seed = 1.5",
    ],
)
def test_a_sidecar_that_makes_no_sense_gets_its_line(text, tmp_path):
    path = tmp_path / "x.pt"
    torch.save(files.network().state_dict(), path)
    (tmp_path / "x.pt.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"x\.pt\.toml"):
        read_checkpoint(path)


def test_reading_changes_nothing_on_disk(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(files.network().state_dict(), path)
    before = file_digest(path)
    read_checkpoint(path).load()
    assert file_digest(path) == before
    assert list(tmp_path.iterdir()) == [path]
