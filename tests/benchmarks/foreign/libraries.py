"""Files and folders of other libraries, with the weights of the same small network."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision

from foreign.rows import CLASSES, PIXELS, Family, Made, answered, network, stirred

FLAGS = f"--model timm:test_resnet {PIXELS}"
family = Family()
ROWS = family.rows


@family.row("safetensors", FLAGS)
def safetensors(at: Path, pictures: list[Path]) -> Made:
    from safetensors.torch import save_file

    model = network()
    save_file(model.state_dict(), at / "model.safetensors")
    return Made(at / "model.safetensors", answered(model, pictures))


def of_torchvision(name: str) -> None:
    @family.row(f"torchvision {name}", f"--model torchvision:{name} {PIXELS}")
    def make(at: Path, pictures: list[Path]) -> Made:
        torch.manual_seed(0)
        model = stirred(torchvision.models.get_model(name, weights=None, num_classes=CLASSES))
        torch.save(model.state_dict(), at / "model.pth")
        return Made(at / "model.pth", answered(model, pictures))


for _name in ("resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"):
    of_torchvision(_name)


@family.row("ONNX", PIXELS)
def onnx(at: Path, pictures: list[Path]) -> Made:
    import onnxruntime

    from foreign.rows import torchvision_pixels

    pixels = torchvision_pixels(pictures)
    batch = {"x": {0: "n"}}
    torch.onnx.export(
        network(), (pixels,), at / "model.onnx", dynamo=False, input_names=["x"], dynamic_axes=batch
    )
    session = onnxruntime.InferenceSession(at / "model.onnx", providers=["CPUExecutionProvider"])
    return Made(at / "model.onnx", torch.from_numpy(session.run(None, {"x": pixels.numpy()})[0]))


@family.row("flax msgpack", FLAGS, "refused")
def flax(at: Path, _: list[Path]) -> Made:
    from flax import serialization

    (at / "flax_model.msgpack").write_bytes(
        serialization.to_bytes({"params": {"kernel": np.ones((3, 3), np.float32)}})
    )
    return Made(at / "flax_model.msgpack")


@family.row("orbax", FLAGS, "refused")
def orbax(at: Path, _: list[Path]) -> Made:
    import orbax.checkpoint

    orbax.checkpoint.PyTreeCheckpointer().save(at / "saved", {"kernel": np.ones((3, 3))})
    return Made(at / "saved")


def keras(file: str) -> None:
    @family.row(f"Keras, {file}", FLAGS, "refused")
    def make(at: Path, _: list[Path]) -> Made:
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        save = model.save_weights if file.endswith(".weights.h5") else model.save
        save(at / file)
        return Made(at / file)


for _file in ("model.keras", "model.h5", "model.weights.h5"):
    keras(_file)


def of_tensorflow(name: str, *, under: str) -> None:
    """A row of what a convolution's variables and function become, of which one path is named."""

    @family.row(f"TensorFlow, {name}", FLAGS, "refused")
    def make(at: Path, _: list[Path]) -> Made:
        import tensorflow as tf

        class Network(tf.Module):
            def __init__(self) -> None:
                self.kernel = tf.Variable(tf.ones((3, 3, 3, CLASSES)), name="kernel")

            @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3))])
            def logits(self, images: tf.Tensor) -> tf.Tensor:
                return tf.reduce_mean(tf.nn.conv2d(images, self.kernel, 1, "SAME"), (1, 2))

        model = Network()
        tf.saved_model.save(model, str(at / "saved"), signatures=model.logits)
        tf.train.Checkpoint(model=model).save(str(at / "checkpoints" / "ckpt"))
        (at / "graphs").mkdir()
        graph = model.logits.get_concrete_function().graph.as_graph_def()
        (at / "graphs" / "frozen.pb").write_bytes(graph.SerializeToString())
        tf.io.write_graph(graph, str(at / "graphs"), "graph.pbtxt")
        converter = tf.lite.TFLiteConverter.from_saved_model(str(at / "saved"))
        (at / "graphs" / "model.tflite").write_bytes(converter.convert())
        return Made(at / under)


for _name, _under in {
    "SavedModel": "saved",
    "SavedModel's graph": "saved/saved_model.pb",
    "SavedModel's variables": "saved/variables",
    "one file of them": "saved/variables/variables.data-00000-of-00001",
    "their index": "saved/variables/variables.index",
    "checkpoint": "checkpoints",
    "checkpoint's prefix": "checkpoints/ckpt-1",
    "checkpoint's data": "checkpoints/ckpt-1.data-00000-of-00001",
    "checkpoint's index": "checkpoints/ckpt-1.index",
    "checkpoint's state": "checkpoints/checkpoint",
    "graph": "graphs/frozen.pb",
    "graph as text": "graphs/graph.pbtxt",
    "Lite": "graphs/model.tflite",
}.items():
    of_tensorflow(_name, under=_under)


def refused(name: str, file: str, content: Callable[[], bytes]) -> None:
    """A row of bytes that are no network's."""

    @family.row(name, FLAGS, "refused")
    def make(at: Path, _: list[Path]) -> Made:
        (at / file).write_bytes(content())
        return Made(at / file)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tarred(buffer: io.BytesIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("model.pt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"PK\x03\x04"))


refused(
    "numpy .npz (BiT)",
    "BiT-S.npz",
    lambda: written(lambda b: np.savez(b, **{"resnet/root/kernel": np.ones(3)})),
)
refused("numpy .npy", "w.npy", lambda: written(lambda b: np.save(b, np.ones(3))))
refused("tar", "model.tar", lambda: written(tarred))
refused("gzip", "model.pt.gz", lambda: gzip.compress(b"weights"))
refused("HDF5 by its first bytes", "model.bin", lambda: b"\x89HDF\r\n\x1a\n" + bytes(600))
refused("web page", "model.pth", lambda: b"<!DOCTYPE html><html></html>")
refused("Git LFS pointer", "model.bin", lambda: b"version https://git-lfs.github.com/spec/v1\n")
refused("empty", "model.pt", bytes)
refused("pickle of text", "model.pkl", lambda: pickle.dumps("weights"))
refused("JSON", "model.json", lambda: json.dumps({"weights": [1]}).encode())
