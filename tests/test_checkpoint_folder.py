"""Checkpoints that are folders: one file or shards, JSON as data, and nothing read outside."""

import copy
import json
import os
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from helpers import checkpoint_files as files
from helpers.travel import read_checkpoint
from safetensors.torch import save_file

from robustkit.checkpoint import save_checkpoint
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
    assert found.format.startswith("2 files")


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
    assert "not a regular file" in refusal(tmp_path)


def test_an_index_that_does_not_hold_is_told(tmp_path, state):
    folder = sharded(tmp_path / "x", state)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(folder)
    index(folder, dict.fromkeys(state, "model-00001-of-00002.safetensors"))
    assert "lacks it" in refusal(folder)
    index(folder, {f"w{i}": f"model-{i}.safetensors" for i in range(3000)})
    assert "3000 of its 3000 shards are missing" in refusal(folder)
    sharded(folder, state)
    save_file(state, folder / "model-00002-of-00002.safetensors")
    assert "its index places" in refusal(folder)


def test_several_files_are_refused_by_their_names(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    assert answers(tmp_path, state), "the same twice"
    torch.save({key: value + 1 for key, value in state.items()}, tmp_path / "b.pt")
    assert "a.pt, b.pt" in refusal(tmp_path)
    (tmp_path / "b.pt").unlink()
    torch.save({"param_groups": [], "state": {}}, tmp_path / "c.pt")
    assert answers(tmp_path, state)
    assert any("without weights: c.pt" in note for note in read_checkpoint(tmp_path).notes)


@pytest.mark.parametrize("names", ["x-{}-of-2.bin", "part{}.pt", "model_0000{}_of_00002.pth"])
def test_shards_without_an_index_are_put_together(names, tmp_path, state):
    first, second = halves(state)
    torch.save({"state_dict": first}, tmp_path / names.format(1))
    torch.save(second, tmp_path / names.format(2))
    assert answers(tmp_path, state)
    (tmp_path / names.format(1)).unlink()
    if "of" in names:
        assert "number 1" in refusal(tmp_path)
    else:
        assert read_checkpoint(tmp_path).model is None


def test_what_a_file_says_of_itself_is_heard_in_a_folder(tmp_path):
    save_checkpoint(
        tmp_path / "model.safetensors", files.network(), model="lenet5", mean=(0.5,), std=(0.2,)
    )
    torch.save([1, 2], tmp_path / "history.pkl")
    assert read_checkpoint(tmp_path).mean == (0.5,)


def test_what_stands_beside_weights_is_passed_over(tmp_path, state):
    for name in (
        "optimizer.bin",
        "scheduler.bin",
        "random_states_0.pkl",
        "custom_checkpoint_0.pkl",
    ):
        torch.save(state, tmp_path / name)
    save_file(state, tmp_path / "model.safetensors")
    assert answers(tmp_path, state)
    save_file(state, tmp_path / "model_1.safetensors")
    assert "model.safetensors, model_1.safetensors" in refusal(tmp_path)


def test_the_only_folder_inside_that_holds_weights_is_taken(tmp_path, state):
    inside = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    inside.mkdir(parents=True)
    torch.save({"state_dict": state}, inside / "epoch=1.ckpt")
    (tmp_path / "data").symlink_to("/")
    assert answers(tmp_path, state)
    (tmp_path / "lightning_logs" / "version_1").mkdir()
    torch.save(state, tmp_path / "lightning_logs" / "version_1" / "last.ckpt")
    assert "version_0/checkpoints, lightning_logs/version_1" in refusal(tmp_path)


# --- cut up among processes -----------------------------------------------------------------------


def pieces(tensor):
    """Two pieces of a tensor with their offsets; one, where there is no row to cut."""
    rows = len(tensor) // 2
    return [((0, *[0] * (tensor.dim() - 1)), tensor[:rows])] * bool(rows) + [
        ((rows, *[0] * (tensor.dim() - 1)), tensor[rows:])
    ]


def distributed(folder, state, home="__{}_0.distcp"):
    """The files of two processes, with torch's own classes in the metadata."""
    folder.mkdir(exist_ok=True)
    files = [(folder / f"__{rank}_0.distcp").open("wb") for rank in range(2)]
    tensors, places, paths = {}, {}, {}
    for key, tensor in state.items():
        name, chunks = f"model.{key}", []
        paths[name] = ("model", key)
        for rank, (offsets, piece) in enumerate(pieces(tensor)):
            start = files[rank].tell()
            torch.save(piece.clone(), files[rank])
            chunks.append(dcp.metadata.ChunkStorageMetadata(torch.Size(offsets), piece.size()))
            length = files[rank].tell() - start
            places[dcp.metadata.MetadataIndex(name, offsets)] = dcp.filesystem._StorageInfo(
                home.format(rank), start, length
            )
        kind = dcp.metadata.TensorProperties(dtype=tensor.dtype)
        tensors[name] = dcp.metadata.TensorStorageMetadata(kind, tensor.size(), chunks)
    for file in files:
        file.close()
    metadata = dcp.metadata.Metadata(tensors, paths, places)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return metadata


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_torch_saved_by_its_own_hand_is_read(tmp_path, state):
    saved = {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    assert answers(tmp_path, state)
    found = read_checkpoint(tmp_path)
    assert found.container == "model"
    assert found.extra == {"epoch": 3}


def test_pieces_of_several_processes_are_put_together(tmp_path, state):
    distributed(tmp_path, state)
    assert answers(tmp_path, state)
    in_half = {key: value.bfloat16() for key, value in state.items()}
    distributed(tmp_path / "half", in_half)
    read = read_checkpoint(tmp_path / "half")
    assert "bfloat16 converted to float32" in read.notes
    torch.save(in_half, tmp_path / "half.pt")
    assert read.identity == read_checkpoint(tmp_path / "half.pt").identity


def test_pieces_that_do_not_make_a_whole_are_refused(tmp_path, state):
    metadata = distributed(tmp_path, state)

    def changed(change):
        told = copy.deepcopy(metadata)
        change(told.state_dict_metadata["model.fc1.weight"].chunks, told)
        (tmp_path / ".metadata").write_bytes(pickle.dumps(told))
        return refusal(tmp_path)

    assert "is missing" in changed(lambda chunks, _: chunks.pop())
    assert "overlap" in changed(lambda chunks, _: chunks.append(chunks[0]))
    assert "the location of a piece" in changed(lambda _, told: told.storage_data.clear())
    assert "contains no weights" in changed(lambda _, told: told.state_dict_metadata.clear())
    distributed(tmp_path / "x", state, "../__{}_0.distcp")
    assert "outside" in refusal(tmp_path / "x")
    distributed(tmp_path / "y", state)
    (tmp_path / "y" / "__1_0.distcp").unlink()
    assert "__1_0.distcp is missing" in refusal(tmp_path / "y")
    distributed(tmp_path / "z", state)
    file = tmp_path / "z" / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:5000])
    assert "truncated" in refusal(tmp_path / "z")


def test_metadata_of_pieces_runs_no_code(tmp_path, state):
    distributed(tmp_path, state)
    sentinel = tmp_path / "ran"
    (tmp_path / ".metadata").write_bytes(pickle.dumps(files._runs(sentinel)))
    refusal(tmp_path)
    assert not sentinel.exists()


def zero3(folder, state, frozen=("conv1.bias",)):
    """The files of two processes of DeepSpeed's third stage, as its engine lays them out."""
    tag = folder / "global_step2"
    tag.mkdir(parents=True)
    (folder / "latest").write_text("global_step2")
    groups = [
        [k for k in state if k not in frozen and (state[k].dim() > 1) == wide] for wide in (1, 0)
    ]
    shapes = [{key: state[key].shape for key in group} for group in groups]
    for rank in range(2):

        def part(value, rank=rank):
            flat = value.flatten()
            flat = torch.cat([flat, torch.zeros(len(flat) % 2)])
            return flat.chunk(2)[rank].clone()

        model = {
            "module": {key: torch.empty(0) for key in state},
            "buffer_names": [],
            "param_shapes": shapes,
            "frozen_param_shapes": {key: state[key].shape for key in frozen},
            "frozen_param_fragments": {key: part(state[key]) for key in frozen},
            "shared_params": {},
            "ds_version": "0.19",
        }
        flat = [torch.cat([part(state[key]) for key in group]) for group in groups]
        states = {"zero_stage": 3, "partition_count": 2, "fp32_flat_groups": flat}
        name = f"zero_pp_rank_{rank}_mp_rank_00_{{}}_states.pt"
        torch.save(model, tag / name.format("model"))
        torch.save({"optimizer_state_dict": states}, tag / name.format("optim"))
    return tag


def test_weights_that_deepspeed_cut_up_are_put_together(tmp_path, state):
    tag = zero3(tmp_path, state)
    assert answers(tmp_path, state)
    assert answers(tag, state)
    (tag / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    assert "zero_to_fp32.py" in refusal(tmp_path)
    (tag / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    assert "written by 2 processes" in refusal(tmp_path)


def test_whole_weights_of_deepspeed_are_its_models_states(tmp_path, state):
    torch.save({"module": state, "ds_version": "0.19"}, tmp_path / "mp_rank_00_model_states.pt")
    torch.save({}, tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert answers(tmp_path, state)
    torch.save({"module": state}, tmp_path / "mp_rank_01_model_states.pt")
    assert "several processes" in refusal(tmp_path)
