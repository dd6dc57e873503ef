"""Checkpoints that are folders: one file or shards, JSON as data, and nothing read outside."""

import json
import os

import pytest
import torch
from helpers import checkpoint_files as files
from safetensors.torch import save_file

from robustkit.checkpoint import read_checkpoint
from robustkit.checkpoint.folder import open_folder
from robustkit.errors import CheckpointError


@pytest.fixture(scope="module")
def state():
    return files.network().state_dict()


def halves(state):
    names = sorted(state)
    return [{name: state[name] for name in part} for part in (names[:3], names[3:])]


def sharded(folder, state, form="safetensors"):
    """The shards of a state dict and their index, as transformers writes them."""
    folder.mkdir(exist_ok=True)
    stem, suffix = ("model", form) if form == "safetensors" else ("pytorch_model", form)
    homes = {}
    for number, part in enumerate(halves(state), 1):
        name = f"{stem}-0000{number}-of-00002.{suffix}"
        homes |= dict.fromkeys(part, name)
        if form == "safetensors":
            save_file(part, folder / name)
        else:
            torch.save(part, folder / name)
    index(folder, homes, f"{stem}.{suffix}.index.json")
    return folder


def index(folder, homes, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": homes}))


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert line.isprintable()
    return line


def answers(path, state):
    """Whether a checkpoint's network is the one that the state is of."""
    expected, x = files.network(), torch.rand(2, 1, 28, 28)
    expected.load_state_dict(state)
    return torch.equal(read_checkpoint(path).load()(x), expected.eval()(x))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_shards_with_an_index_are_the_network_that_a_whole_file_is(form, tmp_path, state):
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(state, whole / "model.safetensors")
    folder = sharded(tmp_path / "shards", state, form)
    assert answers(whole, state)
    assert answers(folder, state)
    found, one = read_checkpoint(folder), read_checkpoint(whole)
    assert found.identity == one.identity
    assert found.sha256 != one.sha256
    assert found.format.startswith("2 shards")


def test_the_digest_of_a_folder_is_of_the_files_that_were_read(tmp_path, state):
    folder = sharded(tmp_path / "x", state)
    before = read_checkpoint(folder).sha256
    (folder / "README.md").write_text("of no account")
    assert read_checkpoint(folder).sha256 == before
    (folder / "config.json").write_text("{}")
    assert read_checkpoint(folder).sha256 != before


def test_the_words_of_a_folder_are_plain_data(tmp_path, state):
    folder = sharded(tmp_path / "x", state)
    (folder / "config.json").write_text('{"architectures": ["X"], "label2id": {"a": 1}}')
    (folder / "notes.json").write_text("[1, 2]")
    with open_folder(folder) as found:
        assert found.words == {"config.json": {"architectures": ["X"], "label2id": {"a": 1}}}
        assert set(found.weights.state) == set(state)


BOMBS = {
    "deep": "[" * 5000 + "]" * 5000,
    "deep in a table": '{"a":' * 60 + "1" + "}" * 60,
    "twice": '{"a": 1, "a": 2}',
    "digits": '{"a": ' + "9" * 5000 + "}",
    "long": '{"a": "' + "x" * 2**23 + '"}',
    "no JSON": "\x1b[31m",
    "no table": "[]",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_no_library_writes_is_one_line(bomb, name, tmp_path, state):
    folder = sharded(tmp_path / "x", state)
    (folder / name).write_text(BOMBS[bomb])
    assert name in refusal(folder)


def test_nothing_outside_the_folder_is_read(tmp_path, state):
    outside = tmp_path / "secret.safetensors"
    save_file(state, outside)
    folder = tmp_path / "x"
    folder.mkdir()
    for home in ("../secret.safetensors", str(outside), "a/../../secret.safetensors"):
        index(folder, dict.fromkeys(state, home))
        assert "outside" in refusal(folder)
    (folder / "model.safetensors").symlink_to(outside)
    assert "outside" in refusal(folder)
    (folder / "model.safetensors").unlink()
    (folder / "sub").symlink_to(tmp_path)
    index(folder, dict.fromkeys(state, "sub/secret.safetensors"))
    assert "outside" in refusal(folder)
    (folder / "config.json").symlink_to(tmp_path / "nothing.json")
    assert "outside" in refusal(folder)


def test_links_inside_a_folder_and_to_the_blobs_of_its_repository_are_followed(tmp_path, state):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    blob = tmp_path / "models--a--b" / "blobs" / "abcd"
    blob.parent.mkdir()
    save_file(state, blob)
    (snapshot / "model.safetensors").symlink_to("../../blobs/abcd")
    assert answers(snapshot, state)
    inside = sharded(tmp_path / "x", state)
    first = inside / "model-00001-of-00002.safetensors"
    first.rename(inside / "first")
    first.symlink_to("first")
    assert answers(inside, state)
    (tmp_path / "link").symlink_to(inside)
    assert answers(tmp_path / "link", state)


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert "no plain file" in refusal(tmp_path)


def test_an_index_that_does_not_hold_is_told(tmp_path, state):
    folder = sharded(tmp_path / "x", state)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(folder)
    index(folder, dict.fromkeys(state, "model-00001-of-00002.safetensors"))
    assert "lacks it" in refusal(folder)
    index(folder, {f"w{i}": f"model-{i}.safetensors" for i in range(3000)})
    assert "3000 are missing" in refusal(folder)
    sharded(folder, state)
    save_file(state, folder / "model-00002-of-00002.safetensors")
    assert "two shards hold" in refusal(folder)


def test_several_files_are_refused_by_their_names(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    assert "a.pt, b.pt" in refusal(tmp_path)
    (tmp_path / "b.pt").unlink()
    assert answers(tmp_path, state)
