"""Files and folders of other kinds are told by name, in one line with the way out."""

import io
import pickle
import random
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers import checkpoint_files as files
from safetensors.torch import save_file

from robustkit.checkpoint import read_checkpoint
from robustkit.errors import CheckpointError


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options).load()
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line


def a_zip(*names):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return made.getvalue()


def an_npz(**arrays):
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def a_tar():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"), io.BytesIO())
    return made.getvalue()


HDF = b"\x89HDF\r\n\x1a\n" + bytes(600)
KINDS = {
    "adapter_model.safetensors": (b"", "merge_and_unload()"),
    "x.keras": (a_zip("metadata.json", "config.json", "model.weights.h5"), "Keras"),
    "x.h5": (HDF, "Keras"),
    "tf_model.bin": (HDF, "Keras"),
    "flax_model.msgpack": (b"\x81\xa6params", "Flax"),
    "BiT-M-R50x1.npz": (an_npz(**{"resnet/root_block/standardized_conv2d/kernel": [1]}), "timm."),
    "weights.npz": (an_npz(weight=[1]), "torch.from_numpy"),
    "x.npy": (b"\x93NUMPY\x01\x00", "NumPy"),
    "saved_model.pb": (b"\x08\x01\x12\x04", "TensorFlow"),
    "model.ckpt.index": (bytes(100), "TensorFlow"),
    "variables.index": (bytes(100), "TensorFlow"),
    "model.ckpt-1.data-00000-of-00001": (bytes(100), "TensorFlow"),
    "x.tflite": (b"\x1c\0\0\0TFL3", "Lite"),
    "__0_0.distcp": (b"PK\x03\x04", "name its folder"),
    "x.tar": (a_tar(), "tar archive; unpack it"),
    "random_states_0.pkl": (pickle.dumps({"random_state": random.getstate()}), "random number gen"),
    "x_optim_states.pt": (files.saved({}), "optimiser"),
    "model-00002-of-00003.safetensors": (b"", "one of 3 shards; name its folder"),
    "model.safetensors.index.json": (b"{}", "name its folder"),
    "config.json": (b"{}", "name its folder"),
    "x.gguf": (b"GGUF\x03", "quantised"),
    "x.mlmodel": (b"\x08\x04\x12", "Core ML"),
    "x.xml": (b'<?xml version="1.0"?><net name="x" version="11">', "OpenVINO"),
    "x.pdparams": (pickle.dumps({"fc.weight": np.ones((2, 2))}), "PaddlePaddle"),
    "x.bin": (b"Entry not found", "download it again"),
    "x.zst": (b"\x28\xb5\x2f\xfd", "unpack it first"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_kind_is_told_with_the_way_out(name, tmp_path):
    content, said = KINDS[name]
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_tensorflow_s_name_of_several_files_is_told(tmp_path):
    for end in ("index", "data-00000-of-00001"):
        (tmp_path / f"ckpt-1.{end}").write_bytes(bytes(100))
    assert "a TensorFlow checkpoint; export" in refusal(tmp_path / "ckpt-1")


@pytest.mark.parametrize("name", ["checkpoint", "model.weights", "net.params", "fold-1-of-5.pt"])
def test_weights_under_an_odd_name_are_weights(name, tmp_path):
    torch.save(files.network().state_dict(), tmp_path / name)
    assert read_checkpoint(tmp_path / name).model == "lenet5"


FOLDERS = {
    "adapter": (["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload()"),
    "adapter beside its model": (["adapter_config.json", "model.safetensors"], "merge"),
    "tensorflow": (["saved_model.pb", "fingerprint.pb"], "SavedModel"),
    "tensorflow checkpoint": (["checkpoint", "m.index", "m.data-00000-of-00001"], "TensorFlow"),
    "tensorflow.js": (["model.json", "group1-shard1of1.bin"], "TensorFlow.js"),
    "flax": (["config.json", "flax_model.msgpack"], "Flax"),
    "orbax": (["_CHECKPOINT_METADATA", "manifest.ocdbt"], "Orbax"),
    "keras": (["tf_model.h5", "config.json"], "Keras"),
    "openvino": (["openvino_model.xml", "openvino_model.bin"], "OpenVINO"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_kind_is_told_with_the_way_out(name, tmp_path):
    names, said = FOLDERS[name]
    for inside in names:
        (tmp_path / inside).write_bytes(b"{}")
    assert said in refusal(tmp_path)


def test_weights_beside_those_of_other_libraries_are_taken(tmp_path):
    save_file(files.network().state_dict(), tmp_path / "model.safetensors")
    for name in ("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx"):
        (tmp_path / name).write_bytes(b"x")
    assert read_checkpoint(tmp_path).model == "lenet5"


STATE = files.network().state_dict()
ODD = {
    "LoRA": ({**STATE, "fc1.lora_A.default.weight": torch.ones(2)}, "merge_and_unload()"),
    "bitsandbytes": ({**STATE, "fc1.SCB": torch.ones(2)}, "bitsandbytes"),
    "GPTQ": ({"fc1.qweight": torch.ones(2), "fc1.qzeros": torch.ones(2)}, "GPTQ or AWQ"),
    "JAX": ({"params.conv.kernel": torch.ones(2)}, "JAX"),
}


@pytest.mark.parametrize("model", [None, "lenet5"])
@pytest.mark.parametrize("name", ODD)
def test_weights_of_another_kind_are_told_by_their_names(name, model, tmp_path):
    state, said = ODD[name]
    torch.save(state, tmp_path / "x.pt")
    assert said in refusal(tmp_path / "x.pt", model=model)


def test_states_of_random_generators_are_no_weights(tmp_path):
    torch.save({"python": random.getstate(), "cpu": torch.get_rng_state()}, tmp_path / "x.pt")
    assert "random number generator states" in refusal(tmp_path / "x.pt")
