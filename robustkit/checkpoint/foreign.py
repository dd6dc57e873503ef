"""Files and folders of other kinds, told by name or first bytes, each with the way out.

Nothing here reads more than names and the beginning of a file.
"""

import re
from collections.abc import Iterable

TO_ONNX = "export the network to ONNX and name that file"
TO_TORCH = "load it with its library and save model.state_dict()"
MERGE = "merge it into its model first: model.merge_and_unload().save_pretrained(FOLDER)"
TENSORFLOW = f"a TensorFlow checkpoint; {TO_ONNX} (with tf2onnx)"
ITS_FOLDER = "one of a checkpoint's several files; name its folder"

BY_NAME_ALONE = (
    (r".*\.distcp|\.metadata", f"part of a torch.distributed.checkpoint; {ITS_FOLDER}"),
    (r".*\.index\.json", "a shard index, not the weights; name its folder"),
    (r"adapter_(model|config)\..*|pytorch_lora_weights\..*", f"a LoRA or PEFT adapter; {MERGE}"),
    (r"(random_states|rng_state).*", "random number generator states, not weights"),
    (r".*optim_states\.pt", "an optimiser state, not weights"),
    (r".*\.(pdparams|pdmodel|pdiparams)", f"PaddlePaddle weights; {TO_ONNX} (with paddle2onnx)"),
)
"""patterns of names that tell whatever stands in the file, and what it is"""
BY_NAME = (
    (r".*\.json", "a configuration file, not weights; name its folder"),
    (r".*\.keras|.*\.weights\.h5|.*\.h5|.*\.hdf5", f"Keras weights; {TO_ONNX}"),
    (r".*\.msgpack", f"Flax (JAX) weights; {TO_ONNX}, or convert them with transformers 4"),
    (r"manifest\.ocdbt|_CHECKPOINT_METADATA", f"an Orbax (JAX) checkpoint; {TO_ONNX}"),
    (r"saved_model\.pb|.*\.pb|.*\.pbtxt", f"a TensorFlow graph; {TO_ONNX} (with tf2onnx)"),
    (r".*\.data-\d+-of-\d+|.*\.index|.*\.ckpt(-\d+)?\.meta|checkpoint", TENSORFLOW),
    (r".*\.tflite", f"a TensorFlow Lite model; {TO_ONNX} (with tf2onnx)"),
    (
        r".*\.ml(model|package)",
        "a Core ML model, which runs on Apple systems only; use the model that it was "
        "converted from",
    ),
    (r".*\.xml", "an OpenVINO model; name the ONNX or torch file that it was converted from"),
    (r".*\.(engine|plan|trt)", "a TensorRT engine; name the ONNX file that it was built from"),
    (r".*\.params", f"an MXNet or MindSpore model; {TO_ONNX}"),
    (r".*\.(caffemodel|prototxt)", f"a Caffe model; {TO_ONNX}"),
    (r".*\.weights|.*\.cfg", f"Darknet weights; {TO_TORCH}"),
    (r".*\.mat", f"a MATLAB file; {TO_ONNX}"),
    (
        r".*\.(gguf|ggml)",
        "quantised weights of llama.cpp; use the weights that they were converted from",
    ),
    (r".*\.pte", "an ExecuTorch program; name the weights that it was exported from"),
    (r".*\.joblib", f"a joblib file, as scikit-learn writes; {TO_TORCH}"),
    (r".*\.(mar|nemo)", "an archive; unpack it and name the weights inside"),
)
"""likewise, unless the first bytes are those of a format that is read"""
BY_HEAD = (
    (0, b"\x89HDF", f"an HDF5 file, as Keras writes; {TO_ONNX}"),
    (0, b"GGUF", "quantised weights of llama.cpp; use the weights that they were converted from"),
    (4, b"TFL3", f"a TensorFlow Lite model; {TO_ONNX} (with tf2onnx)"),
    (4, b"ET1", "an ExecuTorch program; name the weights that it was exported from"),
    (0, b"\x93NUMPY", "a single unnamed NumPy array; save a state dict"),
    (0, b"MATLAB", f"a MATLAB file; {TO_ONNX}"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (0, b"BZh", "compressed with bzip2; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it and name the weights inside"),
    (0, b"Rar!", "a rar archive; unpack it and name the weights inside"),
    (0, b"Entry not found", "a server's error message, not weights; download it again"),
    (0, b"Access to model", "a server's error message, not weights; download it again"),
)
"""place, bytes, and what the file is"""
BY_MEMBER = (
    (r"(.*/)?model\.weights\.h5", f"a Keras model; {TO_ONNX}"),
    (r"(params/)?(resnet|Transformer|embedding|opt/target)/.*\.npy", "big vision"),
    (r".*\.npy", "numpy"),
    (r"(.*/)?MAR-INF/.*", "a TorchServe archive; unpack it and name the weights inside"),
)
BIG_VISION = (
    "JAX weights in .npz, as BiT and ViT were published; load them with "
    "timm.create_model(NAME, checkpoint_path=FILE) and save model.state_dict()"
)
ARRAYS = (
    "a NumPy .npz; if its names are those of a torch network, save "
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
        return "an OpenVINO model; name the ONNX or torch file that it was converted from"
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
    (r"saved_model\.pb(txt)?", f"a TensorFlow SavedModel; {TO_ONNX} (with tf2onnx)"),
    (r".*\.data-\d+-of-\d+", TENSORFLOW),
    (r"model\.json", f"a TensorFlow.js model; {TO_ONNX}"),
    (r"(manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA)", f"an Orbax (JAX) checkpoint; {TO_ONNX}"),
    (r".*\.msgpack", f"Flax (JAX) weights; {TO_ONNX}, or convert them with transformers 4"),
    (r".*\.(keras|h5|hdf5)", f"Keras weights; {TO_ONNX}"),
    (r".*\.xml", "an OpenVINO model; name the ONNX or torch file that it was converted from"),
    (
        r"coremldata\.bin|Manifest\.json",
        "a Core ML package; use the model that it was converted from",
    ),
    (r".*\.tflite", f"a TensorFlow Lite model; {TO_ONNX} (with tf2onnx)"),
    (r".*\.(pdparams|pdmodel|pdiparams)", f"PaddlePaddle weights; {TO_ONNX} (with paddle2onnx)"),
    (
        r"layer_\d+.*model_states\.pt",
        "a DeepSpeed pipeline checkpoint; convert it with ds_to_universal.py",
    ),
    (r".*\.gguf", "quantised weights of llama.cpp; use the weights that they were converted from"),
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
    (r"StructuredToParameterName@@", f"PaddlePaddle weights; {TO_ONNX} (with paddle2onnx)"),
    (r"params\.\w+\..*\.kernel|(.*\.)?kernel", f"JAX or Keras weights; {TO_ONNX}"),
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
