"""Files and folders of other kinds, told by name or first bytes, each with the way out.

Nothing here reads more than names and the beginning of a file.
"""

import re
from collections.abc import Iterable

TO_ONNX = "export the network to ONNX and name that file"
TO_TORCH = "load it with its library and save model.state_dict()"
MERGE = "merge it into its model first: model.merge_and_unload().save_pretrained(FOLDER)"
ITS_FOLDER = "one file of a checkpoint in several; name its folder"

BY_NAME_ALONE = (
    (r".*\.distcp|\.metadata", f"of torch.distributed.checkpoint: {ITS_FOLDER}"),
    (r".*\.index\.json", "an index of shards, not the weights; name its folder"),
    (r"adapter_(model|config)\..*|pytorch_lora_weights\..*", f"a LoRA or PEFT adapter; {MERGE}"),
    (r"(random_states|rng_state).*", "the states of random generators, not weights"),
    (r".*optim_states\.pt", "the state of an optimiser, not weights"),
    (r".*\.(pdparams|pdmodel|pdiparams)", f"PaddlePaddle's; {TO_ONNX} (paddle2onnx does it)"),
)
"""patterns of names that tell whatever stands in the file, and what it is"""
BY_NAME = (
    (r".*\.json", "a file of settings, not weights; name its folder"),
    (r".*\.keras|.*\.weights\.h5|.*\.h5|.*\.hdf5", f"Keras weights; {TO_ONNX}"),
    (r".*\.msgpack", f"Flax weights, of JAX; {TO_ONNX}, or convert them with transformers 4"),
    (r"manifest\.ocdbt|_CHECKPOINT_METADATA", f"of Orbax, which JAX uses; {TO_ONNX}"),
    (r"saved_model\.pb|.*\.pb|.*\.pbtxt", f"a TensorFlow graph; {TO_ONNX} (tf2onnx does it)"),
    (
        r".*\.data-\d+-of-\d+|.*\.ckpt(-\d+)?\.(index|meta)|checkpoint",
        f"of a TensorFlow checkpoint; {TO_ONNX} (tf2onnx does it)",
    ),
    (r".*\.tflite", f"TensorFlow Lite; {TO_ONNX} (tf2onnx does it)"),
    (r".*\.ml(model|package)", "Core ML, which runs on Apple's systems; take what it was made of"),
    (r".*\.xml", "OpenVINO's network; name the ONNX or torch file that it was made of"),
    (r".*\.(engine|plan|trt)", "a TensorRT engine; name the ONNX file that it was made of"),
    (r".*\.params", f"MXNet's or MindSpore's; {TO_ONNX}"),
    (r".*\.(caffemodel|prototxt)", f"Caffe's; {TO_ONNX}"),
    (r".*\.weights|.*\.cfg", f"Darknet's; {TO_TORCH}"),
    (r".*\.mat", f"MATLAB's; {TO_ONNX}"),
    (r".*\.(gguf|ggml)", "quantised weights of llama.cpp; take the ones that they were made of"),
    (r".*\.pte", "ExecuTorch's program; name the weights that it was made of"),
    (r".*\.joblib", f"of joblib, as scikit-learn writes; {TO_TORCH}"),
    (r".*\.(mar|nemo)", "an archive; unpack it and name the weights inside"),
)
"""likewise, unless the first bytes are those of a format that is read"""
BY_HEAD = (
    (0, b"\x89HDF", f"an HDF5 file, as Keras writes; {TO_ONNX}"),
    (0, b"GGUF", "quantised weights of llama.cpp; take the ones that they were made of"),
    (4, b"TFL3", f"TensorFlow Lite; {TO_ONNX} (tf2onnx does it)"),
    (4, b"ET1", "ExecuTorch's program; name the weights that it was made of"),
    (0, b"\x93NUMPY", "a single NumPy array without a name; save a state dict"),
    (0, b"MATLAB", f"MATLAB's; {TO_ONNX}"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
    (0, b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (0, b"BZh", "compressed by bzip2; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it and name the weights inside"),
    (0, b"Rar!", "a rar archive; unpack it and name the weights inside"),
    (0, b"Entry not found", "an error message of the server, not weights; download it again"),
    (0, b"Access to model", "an error message of the server, not weights; download it again"),
)
"""place, bytes, and what the file is"""
BY_MEMBER = (
    (r"(.*/)?model\.weights\.h5", f"a Keras network; {TO_ONNX}"),
    (r"(params/)?(resnet|Transformer|embedding|opt/target)/.*\.npy", "big vision"),
    (r".*\.npy", "numpy"),
    (r"(.*/)?MAR-INF/.*", "an archive of TorchServe; unpack it and name the weights inside"),
)
BIG_VISION = (
    "weights of JAX in NumPy's .npz, as BiT and ViT were published; load them with "
    "timm.create_model(NAME, checkpoint_path=FILE) and save model.state_dict()"
)
ARRAYS = (
    "NumPy's .npz; if its names are a torch network's, save "
    "{name: torch.from_numpy(array)} with torch.save"
)
SHARD = re.compile(
    r"(?P<stem>.*?)[-_.]?(?P<number>\d{1,6})[-_]of[-_](?P<count>\d{1,6})(?P<end>\..*)"
)
"""model-00001-of-00003.safetensors"""
OLD_TORCH = (b"sys_info", b"pickle", b"storages", b"tensors")
"""members of torch's tar format"""


def foreign_file(name: str, head: bytes) -> str:
    """What a file that is named by itself is, if of another kind, and what to do; else ""."""
    if (shard := SHARD.fullmatch(name)) and int(shard["count"]) > 1 and len(shard["count"]) > 3:
        return f"one of {int(shard['count'])} shards; name its folder"
    known = head.startswith((b"PK\x03\x04", b"\x80")) or head[8:9] == b"{"
    for pattern, what in BY_NAME_ALONE if known else (*BY_NAME_ALONE, *BY_NAME):
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return what
    return ""


def foreign_head(head: bytes) -> str:
    """The same by a file's first bytes, whatever its name."""
    for place, start, what in BY_HEAD:
        if head[place:].startswith(start):
            return what
    if b"<net name=" in head:
        return "OpenVINO's network; name the ONNX or torch file that it was made of"
    if head[257:262] == b"ustar" and not head.startswith(OLD_TORCH):
        return "a tar archive; unpack it and name the weights inside"
    return ""


def foreign_archive(names: Iterable[str]) -> str:
    """The same of a zip, by the names in it."""
    names = list(names)
    for pattern, what in BY_MEMBER:
        if any(re.fullmatch(pattern, name) for name in names[:1000]):
            return {"big vision": BIG_VISION, "numpy": ARRAYS}.get(what, what)
    return ""


FOLDERS = (
    (r"adapter_config\.json", f"a LoRA or PEFT adapter; {MERGE}"),
    (r"saved_model\.pb(txt)?", f"a TensorFlow SavedModel; {TO_ONNX} (tf2onnx does it)"),
    (r".*\.data-\d+-of-\d+", f"a TensorFlow checkpoint; {TO_ONNX} (tf2onnx does it)"),
    (r"model\.json", f"a network of TensorFlow.js; {TO_ONNX}"),
    (r"(manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA)", f"an Orbax checkpoint of JAX; {TO_ONNX}"),
    (r".*\.msgpack", f"Flax weights, of JAX; {TO_ONNX}, or convert them with transformers 4"),
    (r".*\.(keras|h5|hdf5)", f"Keras weights; {TO_ONNX}"),
    (r".*\.xml", "OpenVINO's network; name the ONNX or torch file that it was made of"),
    (r"coremldata\.bin|Manifest\.json", "a Core ML package; take what it was made of"),
    (r".*\.tflite", f"TensorFlow Lite; {TO_ONNX} (tf2onnx does it)"),
    (r".*\.(pdparams|pdmodel|pdiparams)", f"PaddlePaddle's; {TO_ONNX} (paddle2onnx does it)"),
    (r"layer_\d+.*model_states\.pt", "a DeepSpeed pipeline's; convert it with ds_to_universal.py"),
    (r".*\.gguf", "quantised weights of llama.cpp; take the ones that they were made of"),
)
"""names of files, and what a folder is that has one"""


def foreign_folder(names: Iterable[str]) -> str:
    """What a folder of another kind is, and what to do; "" where no file's name tells."""
    names = list(names)
    for pattern, what in FOLDERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return what
    return ""


WEIGHTS = (
    (
        r"(.*\.)?(lora_\w+|hada_w\d_\w|ia3_l|oft_r|vera_lambda_\w)(\..*)?",
        f"a LoRA or PEFT adapter among its weights; {MERGE}",
    ),
    (r".*\.(SCB|quant_state\.bitsandbytes__\w+|nested_absmax|quant_map)", "bitsandbytes"),
    (r".*\.(qzeros|g_idx)", "GPTQ or AWQ"),
    (r".*\.(weight_packed|weight_zero_point|weight_scale_inv)", "compressed-tensors"),
    (r".*\.(W_q|weight\._data|weight\._scale|weight_fake_quant\.scale)", "HQQ, quanto or torch"),
    (r"(.*\.)?scale_weight|scaled_fp8", "scaled float8"),
    (r"StructuredToParameterName@@", f"PaddlePaddle's weights; {TO_ONNX} (paddle2onnx does it)"),
    (r"params\.\w+\..*\.kernel|(.*\.)?kernel", f"weights of JAX or Keras; {TO_ONNX}"),
)  # fmt: skip
QUANTISED = (
    "weights quantised by {}, which stand for others in a way of its own; save the network as it "
    "was before, or hand the module itself to robustkit.evaluate in Python"
)


def foreign_weights(names: Iterable[str]) -> str:
    """What a set of weights of another kind is, by their names; "" where they do not tell."""
    names = list(names)
    for pattern, what in WEIGHTS:
        if any(re.fullmatch(pattern, name) for name in names):
            return what if ";" in what else QUANTISED.format(what)
    return ""


RANDOM = re.compile(
    r"random_state|numpy_random_seed|torch_\w*_(seed|state)|python|numpy|cpu|cuda|npu|xpu|mps|step"
)
"""names in what accelerate and transformers keep of random generators"""


def is_random_state(names: Iterable[str]) -> bool:
    """Whether names are those of the states of random generators."""
    names = list(names)
    return bool(names) and all(map(RANDOM.fullmatch, names))
