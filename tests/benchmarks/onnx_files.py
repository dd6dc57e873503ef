"""ONNX files: robustkit's logits beside onnxruntime's, and PGD's images in onnxruntime.

    python tests/benchmarks/onnx_files.py [WORD ...]

Networks of torchvision, timm and a few of our own with random weights, exported by torch's two
exporters (the newer one needs onnxscript, which may stand on PYTHONPATH), for one image, for
several or for any number; rewritten as others write them (channels last, flat, bytes in, 16 bits,
quantised, a label and a map of probabilities); and graphs that must be refused. Each row is what
`robustkit evaluate FILE --attack pgd` made of it on drawn images: the largest difference of logits
as a share of the largest logit, over more batch sizes than one; how many images it takes at a time;
how many of PGD's images robustkit counts as wrong, and in how many of them onnxruntime agrees; or
its one line. onnxruntime's own optimiser is on here but for quantised files, whose pairs of operations it fuses
into others that round elsewhere; it is off where robustkit compares.
"""

import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from hugging_face import stir
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor, nn

import robustkit.cli
from robustkit.checkpoint import read_checkpoint

CLASSES = 5
IMAGES = 7
COARSE = 5e-2
"""as `Made.target` of quantised files: a sum that is rounded otherwise may fall to the next step,
and a network with random weights makes more of it from layer to layer"""


class Made(NamedTuple):
    """An ONNX file, and how it takes images."""

    path: Path
    shape: tuple[int, int, int]
    """C × H × W"""
    given: Callable[[Tensor], Tensor] = lambda x: x
    """what onnxruntime is handed for images N × C × H × W in [0, 1]"""
    several: int | None = 1
    """images at a time that the file takes; None: any, 0: it has no dimension of them"""
    output: int = 0
    """which of the outputs are logits, or what is monotone in them"""
    target: float = 1e-4
    """of the largest logit: how far the two may lie apart"""


Build = Callable[[], tuple[nn.Module, tuple[int, int, int]]]


def stirred(
    network: nn.Module, *shape: int, gain: float = 1.0
) -> tuple[nn.Module, tuple[int, int, int]]:
    stir(network, shape, gain)
    return network.eval(), (shape[0], shape[1], shape[2])


def of_torchvision(name: str, size: int = 64, gain: float = 1.0, **settings: Any) -> Build:
    def build() -> tuple[nn.Module, tuple[int, int, int]]:
        made = torchvision.models.get_model(name, num_classes=CLASSES, weights=None, **settings)
        return stirred(made, 3, size, size, gain=gain)

    return build


def of_timm(name: str, size: int = 64, **settings: Any) -> Build:
    def build() -> tuple[nn.Module, tuple[int, int, int]]:
        return stirred(timm.create_model(name, num_classes=CLASSES, **settings), 3, size, size)

    return build


def convolutional() -> tuple[nn.Module, tuple[int, int, int]]:
    layers = [nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()]
    return stirred(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 10 * 10, CLASSES)), 1, 28, 28
    )


def perceptron() -> tuple[nn.Module, tuple[int, int, int]]:
    layers = [nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, CLASSES)]
    return stirred(nn.Sequential(*layers), 1, 28, 28)


NETWORKS: dict[str, Build] = {
    "torchvision resnet18": of_torchvision("resnet18"),
    "torchvision mobilenet_v3_small": of_torchvision("mobilenet_v3_small"),
    "torchvision shufflenet_v2_x0_5": of_torchvision("shufflenet_v2_x0_5"),
    "torchvision squeezenet1_1": of_torchvision("squeezenet1_1", gain=2**0.5),
    "timm densenet121": of_timm("densenet121", growth_rate=8),
    "torchvision vit": lambda: stirred(
        torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 48, num_classes=CLASSES), 3, 64, 64
    ),
    "torchvision swin": lambda: stirred(
        torchvision.models.SwinTransformer(
            [4, 4], 16, [1, 2], [2, 2], [4, 4], num_classes=CLASSES
        ), 3, 64, 64,
    ),
    "timm vit": of_timm("vit_tiny_patch16_224", img_size=64, depth=2),
    "timm convnext_atto": of_timm("convnext_atto"),
    "timm efficientnet_b0": of_timm("efficientnet_b0"),
    "timm efficientvit_b0": of_timm("efficientvit_b0"),
    "timm mixer": of_timm("mixer_s32_224", img_size=64),
    "timm resnetv2": of_timm("resnetv2_18d"),
    "timm levit_128s": of_timm("levit_128s", 224),
    "timm poolformer_s12": of_timm("poolformer_s12"),
    "timm repvgg_a0": of_timm("repvgg_a0"),
    "timm swin": of_timm(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=24, depths=(1, 2, 1, 1)
    ),
    "own convolutions": convolutional,
    "own perceptron": perceptron,
}  # fmt: skip


def exported(build: Build, at: Path, batch: int | None, *, dynamo: bool, **settings: Any) -> Made:
    """A network as one of torch's exporters writes it; `batch` None: for any number of images."""
    torch.manual_seed(0)
    network, shape = build()
    x, path = torch.rand(batch or 2, *shape), at / "model.onnx"
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], **settings}
    if batch is None and dynamo:
        names["dynamic_shapes"] = ({0: torch.export.Dim("n", min=1, max=999)},)
    elif batch is None:
        names["dynamic_axes"] = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(network, (x,), path, dynamo=dynamo, verbose=False, **names)
    return Made(path, shape, several=batch)


def rewritten(made: Made, change: Callable[[onnx.ModelProto], Any], **others: Any) -> Made:
    """A file after a change of its graph."""
    model = onnx.load(made.path)
    model = change(model) or model
    onnx.save(model, made.path)
    return made._replace(**others)


def reshaped(shape: list[Any], back: list[int]) -> Callable[[onnx.ModelProto], Any]:
    """An input of another shape, brought to the network's by a reshape."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(back, np.int64), "back"))
        graph.input[0].CopyFrom(helper.make_tensor_value_info("flat", TensorProto.FLOAT, shape))
        graph.node.insert(0, helper.make_node("Reshape", ["flat", "back"], ["x"]))

    return change


def channels_last(model: onnx.ModelProto) -> None:
    sizes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    shape = [sizes[0], *sizes[2:], sizes[1]]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("last", TensorProto.FLOAT, shape))
    model.graph.node.insert(0, helper.make_node("Transpose", ["last"], ["x"], perm=[0, 3, 1, 2]))


def bytes_in(model: onnx.ModelProto) -> None:
    graph = model.graph
    shape = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("bytes", TensorProto.UINT8, shape))
    graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "scale"))
    graph.node.insert(0, helper.make_node("Mul", ["floats", "scale"], ["x"]))
    graph.node.insert(0, helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT))


def softmax(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Softmax", ["y"], ["p"], axis=-1))
    model.graph.output[0].name = "p"


def labelled(model: onnx.ModelProto) -> None:
    """A label and a map of probabilities, as skl2onnx writes."""
    graph = model.graph
    softmax(model)
    graph.node.append(helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0))
    names = [f"class{i}" for i in range(CLASSES)]
    graph.node.append(
        helper.make_node("ZipMap", ["p"], ["map"], domain="ai.onnx.ml", classlabels_strings=names)
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    item = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, []))
    graph.output.append(helper.make_value_info("map", helper.make_sequence_type_proto(item)))
    graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, CLASSES]))


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)


class Calibration(CalibrationDataReader):
    """Images by which a quantiser finds ranges."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.batches = iter([{"x": images(shape).numpy()[i : i + 1]} for i in range(4)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def quantised(made: Made) -> Made:
    path = made.path.with_name("quantised.onnx")
    quantize_static(made.path, path, Calibration(made.shape), quant_format=QuantFormat.QDQ)
    return made._replace(path=path, target=COARSE)


def dynamically(made: Made) -> Made:
    path = made.path.with_name("quantised.onnx")
    quantize_dynamic(made.path, path)
    return made._replace(path=path)


def dialects() -> Iterator[tuple[str, Callable[[Path], Made], bool]]:
    """Name, what makes a file of another kind, and whether it must be refused."""
    old = {"dynamo": False}

    def cnn(at: Path, batch: int | None = None) -> Made:
        return exported(convolutional, at, batch, **old)

    def mlp(at: Path, batch: int | None = None) -> Made:
        return exported(perceptron, at, batch, **old)

    def resnet(at: Path) -> Made:
        return exported(NETWORKS["torchvision resnet18"], at, None, **old)

    flat = [1, 1, 28, 28]
    yield (
        "channels last",
        lambda at: rewritten(resnet(at), channels_last, given=lambda x: x.permute(0, 2, 3, 1)),
        False,
    )
    yield (
        "input (784,)",
        lambda at: rewritten(
            mlp(at, 1), reshaped([784], flat), given=lambda x: x.reshape(-1, 784), several=0
        ),
        False,
    )
    yield (
        "input (784, 1)",
        lambda at: rewritten(
            cnn(at, 1), reshaped([784, 1], flat), given=lambda x: x.reshape(-1, 784, 1), several=0
        ),
        False,
    )
    yield (
        "input (1, 784)",
        lambda at: rewritten(
            cnn(at, 1), reshaped([1, 784], flat), given=lambda x: x.reshape(-1, 784)
        ),
        False,
    )
    yield (
        "input (n, 784)",
        lambda at: rewritten(
            cnn(at), reshaped(["n", 784], [-1, 1, 28, 28]), given=lambda x: x.reshape(-1, 784)
        ),
        False,
    )
    yield (
        "input (1, 28, 28)",
        lambda at: rewritten(
            cnn(at, 1), reshaped([1, 28, 28], flat), given=lambda x: x.reshape(-1, 28, 28)
        ),
        False,
    )
    yield "batch of 4", lambda at: exported(NETWORKS["timm vit"], at, 4, **old), False
    yield (
        "bytes in",
        lambda at: rewritten(resnet(at), bytes_in, given=lambda x: (x * 255).round().byte()),
        False,
    )
    yield "softmax at the end", lambda at: rewritten(resnet(at), softmax), False
    yield "label and ZipMap", lambda at: rewritten(resnet(at), labelled, output=2), False
    yield "float16 weights", lambda at: rewritten(resnet(at), halved), False
    yield "quantised, QDQ", lambda at: quantised(cnn(at)), False
    yield "quantised, resnet, QDQ", lambda at: quantised(resnet(at)), False
    yield "quantised, dynamically", lambda at: dynamically(mlp(at)), True
    yield "external data", external, False
    yield "external data at ../", outside, True
    yield (
        "opset 9",
        lambda at: exported(NETWORKS["torchvision resnet18"], at, None, opset_version=9, **old),
        False,
    )
    yield (
        "opset 20",
        lambda at: exported(NETWORKS["timm convnext_atto"], at, None, opset_version=20, **old),
        False,
    )
    yield "upsampling", lambda at: exported(upsampling, at, None, **old), False
    yield "group normalisation", lambda at: exported(normalised, at, None, **old), False
    yield "sort of pixels", lambda at: exported(sorting, at, None, **old), True
    yield "a loop", loop, True
    yield "two inputs", two_inputs, True


def external(at: Path) -> Made:
    made = exported(NETWORKS["torchvision resnet18"], at, None, dynamo=False)
    model = onnx.load(made.path)
    onnx.save(model, made.path, save_as_external_data=True, location="numbers.bin")
    return made


def outside(at: Path) -> Made:
    (at / "inner").mkdir()
    made = external(at)
    content = made.path.read_bytes().replace(b"numbers.bin", b"../umbers.b")
    (at / "umbers.b").write_bytes((at / "numbers.bin").read_bytes())
    path = at / "inner" / "model.onnx"
    path.write_bytes(content)
    return made._replace(path=path)


def upsampling() -> tuple[nn.Module, tuple[int, int, int]]:
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")]
    more = [nn.Upsample(size=(20, 24), mode="bicubic"), nn.AvgPool2d((10, 12)), nn.Flatten()]
    return stirred(nn.Sequential(*layers, *more, nn.Linear(32, CLASSES)), 3, 32, 32)


def normalised() -> tuple[nn.Module, tuple[int, int, int]]:
    layers = [
        nn.Conv2d(3, 8, 3, 2),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.InstanceNorm2d(8),
        nn.Flatten(),
    ]
    return stirred(nn.Sequential(*layers, nn.Linear(8 * 15 * 15, CLASSES)), 3, 32, 32)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(x.flatten(1).sort(1).values[:, :64])


def sorting() -> tuple[nn.Module, tuple[int, int, int]]:
    return stirred(Sorted(), 1, 28, 28)


def loop(at: Path) -> Made:
    made = exported(perceptron, at, None, dynamo=False)

    def change(model: onnx.ModelProto) -> None:
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["c"], ["d"]),
                helper.make_node("Mul", ["v", "v"], ["w"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("d", TensorProto.BOOL, []),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
            ],
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(3), "times"))
        model.graph.node.append(helper.make_node("Loop", ["times", "", "y"], ["z"], body=body))
        model.graph.output[0].name = "z"

    return rewritten(made, change)


def two_inputs(at: Path) -> Made:
    made = exported(perceptron, at, None, dynamo=False)

    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [CLASSES])
        )
        model.graph.node.append(helper.make_node("Mul", ["y", "mask"], ["z"]))
        model.graph.output[0].name = "z"

    return rewritten(made, change)


def images(shape: tuple[int, int, int]) -> Tensor:
    """Smooth pictures of whole bytes."""
    source = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, shape[0], 4, 4, generator=source)
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round() / 255


def original(made: Made, x: Tensor) -> Tensor:
    """What onnxruntime gives for images, by the file's own way to take them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if "quantised" in made.path.name:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.path, options, ["CPUExecutionProvider"])
    name, out = session.get_inputs()[0].name, session.get_outputs()[made.output].name
    given = made.given(x)
    size = len(given) if made.several is None else max(1, made.several)
    parts = []
    for part in torch.split(given, size):
        full = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        full = full[0] if made.several == 0 else full
        found = torch.from_numpy(session.run([out], {name: full.numpy()})[0])
        parts.append(found.reshape(-1, CLASSES)[: len(part)])
    return torch.cat(parts)


def told(made: Made, at: Path) -> str:
    """What robustkit makes of a file: a row's words."""
    x = images(made.shape)
    try:
        truth = original(made, x)
    except (
        Exception
    ) as error:  # a graph that onnxruntime refuses has no truth; robustkit must say so
        truth, said = None, f"onnxruntime: {type(error).__name__}"
    labels = torch.zeros(len(x), dtype=torch.long) if truth is None else truth.argmax(1)
    np.savez(at / "images.npz", images=x.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    status, said = command(
        "evaluate", made.path, "--data", at / "images.npz", "--attack", "pgd", "--epsilon", "0.5",
        "--set", "steps=8", "--out", at / "runs", "--save-adversarial", at / "adversarial.npz",
        "--prove", "off", "--num-classes", CLASSES,
    )  # fmt: skip
    if status:
        return f"{'refused' if said.count(chr(10)) == 1 else 'LINES'}  {said.strip()}"
    assert truth is not None
    model = read_checkpoint(made.path, num_classes=CLASSES).load()
    with torch.no_grad():
        found = [torch.cat([model(part) for part in torch.split(x, size)]) for size in (7, 1, 3)]
    if list(model.network.graph.ends) != ["y"]:
        found = [logits.softmax(1) for logits in found]
    apart = max((logits - truth).abs().max().item() for logits in found) / truth.abs().max().item()
    spread = truth.std(0).mean().item() / truth.abs().max().item()
    pieces = model.network.steps.pieces or "any"
    with np.load(at / "adversarial.npz") as saved:
        fooled = ~np.isin(saved["fooled_at"], ["", "0"])
        perturbed, label = torch.from_numpy(saved["images"][fooled]), saved["label"][fooled]
    agreed = int((original(made, perturbed).argmax(1).numpy() != label).sum()) if len(label) else 0
    text = f"{apart:.1e} of {spread:.1e}  {pieces} at a time  {agreed} of {len(label)} wrong"
    faults = {
        "FLAT": spread < 0.01,
        "OTHER": apart > made.target,
        "UNFOOLED": not 0 < agreed == len(label),
    }
    return "  ".join([text, *(fault for fault, holds in faults.items() if holds)])


def command(*words: Any) -> tuple[int, str]:
    """Status and stderr of a command of `robustkit`, carried out in this process."""
    errors = io.StringIO()
    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(errors),
        patch.object(sys, "argv", ["robustkit", *map(str, words)]),
        pytest.raises(SystemExit) as ended,
    ):
        robustkit.cli.main()
    if ended.value.code > 128:  # a signal, which was meant for this script
        raise KeyboardInterrupt
    return int(ended.value.code or 0), errors.getvalue()


def rows() -> Iterator[tuple[str, Callable[[Path], Made], bool]]:
    """Name, what makes the file, and whether it must be refused."""
    yield from dialects()
    for name, build in NETWORKS.items():
        for way, dynamo, batch in (
            ("for 1", False, 1),
            ("for any", False, None),
            ("dynamo for 1", True, 1),
            ("dynamo for any", True, None),
        ):
            yield (
                f"{name}, {way}",
                lambda at, b=build, d=dynamo, n=batch: exported(b, at, n, dynamo=d),
                False,
            )


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make, refused) in enumerate(rows()):
            if words and not any(word in name for word in words):
                continue
            at, start = Path(folder) / str(number), time.process_time()
            at.mkdir()
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    made = make(at)
            except ModuleNotFoundError as error:
                text = f"absent    {error.name} is not installed"
            except Exception as error:  # the exporter itself failed; the next row is tried
                text = f"not made  {type(error).__name__}: {str(error).splitlines()[0][:120]}"
            else:
                text = told(made, at).replace(str(at), "FOLDER")
                good = text.startswith("refused") if refused else text.endswith("wrong")
                faults += not good
                text = f"{'ok' if good else 'FAULT':9} {text}"
            print(f"{name:42} {text}  {time.process_time() - start:.1f} s", flush=True)
    print(f"{faults} faults")


if __name__ == "__main__":
    main(sys.argv[1:])
