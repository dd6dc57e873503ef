"""ONNX files: what is read, converted and refused, held against onnxruntime."""

import gzip
import json
from contextlib import suppress

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.travel import read_checkpoint
from onnx import TensorProto, helper, numpy_helper

from robustkit import evaluate
from robustkit.checkpoint import describe, write_sidecar
from robustkit.checkpoint.onnxfile import library, wire
from robustkit.checkpoint.onnxfile.layout import RANGES
from robustkit.errors import CheckpointError, RobustkitError

FLOAT = TensorProto.FLOAT


def node(kind, *inputs, out, **attributes):
    return helper.make_node(kind, list(inputs), [out], **attributes)


def weight(*shape):
    # the same whichever tests ran before
    source = np.random.default_rng(shape)
    return (source.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def model(nodes, shape, constants, out=("y", ["N", 4]), opset=17, functions=(), domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(out[0], FLOAT, out[1])],
        [numpy_helper.from_array(np.array(v), k) for k, v in constants.items()],
    )
    imports = [helper.make_opsetid(d, v) for d, v in (("", opset), *domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=9)


def convolutions(batch):
    """A network in a verifier's dialect, written for a number of images."""
    nodes = [
        node("Sub", "x", "mean", out="a"),
        node("Div", "a", "std", out="b"),
        node("Pad", "b", "pads", out="c"),
        node("Conv", "c", "w", "v", out="d", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("BatchNormalization", "d", "s", "v", "v", "s", out="e"),
        node("LeakyRelu", "e", out="f", alpha=0.1),
        node("MaxPool", "f", out="g", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "g", "flat", out="h"),
        node("Gemm", "h", "m", "n", out="z", transB=1),
        node("Softmax", "z", out="y"),
    ]
    constants = {
        "mean": np.float32(0.1307), "std": np.float32(0.3081), "pads": np.zeros(8, np.int64),
        "w": weight(3, 1, 3, 3), "v": weight(3), "s": np.abs(weight(3)) + 1,
        "flat": np.array([batch, 12 if batch == 1 else -1]), "m": weight(4, 12), "n": weight(4),
    }  # fmt: skip
    return model(nodes, [batch, 1, 8, 8], constants, ("y", [batch, 4]))


def flat(shape, kind):
    """A perceptron on a flat image: columns, rows, or a row in a batch."""
    w, b, m, n = weight(9, 64), weight(9), weight(4, 9), weight(4)
    if kind == "columns":
        b, n = b[:, None], n[:, None]
        steps = [("MatMul", "w", "x"), ("Add", "p", "b"), ("Relu", "q"), ("MatMul", "m", "r")]
    else:
        w, m = w.T, m.T
        steps = [("MatMul", "x", "w"), ("Add", "p", "b"), ("Relu", "q"), ("MatMul", "r", "m")]
    names = ["p", "q", "r", "s"]
    nodes = [node(*step, out=name) for step, name in zip(steps, names, strict=True)]
    nodes.append(node("Add", "s", "n", out="y"))
    out = [4] if len(shape) == 1 else [4, 1] if kind == "columns" else [1, 4]
    return model(nodes, shape, {"w": w, "b": b, "m": m, "n": n}, ("y", out))


def channels_last():
    nodes = [
        node("Transpose", "x", out="a", perm=[0, 3, 1, 2]),
        node("Conv", "a", "w", out="b"),
        node("Shape", "b", out="s"),
        node("Gather", "s", "zero", out="t"),
        node("Unsqueeze", "t", "axes", out="u"),
        node("Concat", "u", "rest", out="v", axis=0),
        node("Reshape", "b", "v", out="c"),
        node("MatMul", "c", "m", out="y"),
    ]
    constants = {
        "w": weight(2, 1, 3, 3), "zero": np.array(0), "axes": np.array([0]),
        "rest": np.array([-1]), "m": weight(72, 4),
    }  # fmt: skip
    return model(nodes, ["N", 8, 8, 1], constants)


def folded_batch():
    """Attention's reshapes: a constant token beside the image's, the images within a dimension."""
    nodes = [
        node("Reshape", "x", "tokens", out="a"),
        node("Concat", "cls", "a", out="b", axis=1),
        node("Transpose", "b", out="c", perm=[1, 0, 2]),
        node("Reshape", "c", "heads", out="d"),
        node("Transpose", "d", out="e", perm=[1, 0, 2]),
        node("ReduceMean", "e", out="f", axes=[1], keepdims=0),
        node("Reshape", "f", "back", out="h"),
        node("MatMul", "h", "m", out="y"),
    ]
    constants = {
        "tokens": np.array([1, 8, 8]), "cls": weight(1, 1, 8), "heads": np.array([9, 2, 4]),
        "back": np.array([1, 8]), "m": weight(8, 4),
    }  # fmt: skip
    return model(nodes, [1, 1, 8, 8], constants, ("y", [1, 4]))


def tokens(rows):
    """Four images at a time, each beside a constant token."""
    nodes = [
        node("Reshape", "x", "tokens", out="a"),
        node("Concat", "cls", "a", out="b", axis=1),
        node("ReduceMean", "b", out="c", axes=[1], keepdims=0),
        node("MatMul", "c", "m", out="y"),
    ]
    constants = {"tokens": np.array([4, 8, 8]), "cls": rows, "m": weight(8, 4)}
    return model(nodes, [4, 1, 8, 8], constants, ("y", [4, 4]))


def strided():
    """Numbers of a flat value by their places, as `as_strided` is exported."""
    nodes = [
        node("Reshape", "x", "flat", out="a"),
        node("Gather", "a", "places", out="b"),
        node("MatMul", "b", "m", out="y"),
    ]
    places = np.arange(64).reshape(8, 8).T.reshape(1, 64)
    constants = {"flat": np.array([-1]), "places": places, "m": weight(64, 4)}
    return model(nodes, [1, 1, 8, 8], constants, ("y", [1, 4]))


def quantised():
    nodes = [
        node("Flatten", "x", out="f"),
        node("Gemm", "f", "w", "b", out="a"),
        node("QuantizeLinear", "a", "scale", "zero", out="q"),
        node("DequantizeLinear", "q", "scale", "zero", out="d"),
        node("MatMul", "d", "m", out="y"),
    ]
    constants = {
        "w": weight(64, 9), "b": weight(9), "scale": np.float32(0.25), "zero": np.int8(3), "m": weight(9, 4),
    }  # fmt: skip
    return model(nodes, ["N", 1, 8, 8], constants)


def unordered():
    made = convolutions(1)
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(nodes))
    return made


def masked():
    nodes = [
        node("Greater", "x", "half", out="bright"),
        node("Where", "bright", "x", "nothing", out="kept"),
        node("Flatten", "kept", out="row"),
        node("Gemm", "row", "m", "n", out="y", transB=1),
    ]
    half, nothing = np.float32(0.5), np.float32(0)
    constants = {"half": half, "nothing": nothing, "m": weight(4, 64), "n": weight(4)}
    return model(nodes, ["N", 1, 8, 8], constants)


GRAPHS = {
    "masked": (masked, (1, 1, 8, 8)),
    "convolutions": (lambda: convolutions(1), (1, 1, 8, 8)),
    "sixteen": (lambda: convolutions(16), (16, 1, 8, 8)),
    "columns": (lambda: flat([64, 1], "columns"), (64, 1)),
    "vector": (lambda: flat([64], "rows"), (64,)),
    "row": (lambda: flat([1, 64], "rows"), (1, 64)),
    "channels last": (channels_last, (1, 8, 8, 1)),
    "folded batch": (folded_batch, (1, 1, 8, 8)),
    "a token for each of four": (lambda: tokens(np.repeat(weight(1, 1, 8), 4, 0)), (4, 1, 8, 8)),
    "strided": (strided, (1, 1, 8, 8)),
    "quantised": (quantised, (1, 1, 8, 8)),
    "unordered": (unordered, (1, 1, 8, 8)),
}


def written(path, made):
    path.write_bytes(made.SerializeToString())
    return path


def original(made, x, shape):
    """What onnxruntime gives for each image, probabilities as logits."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    size = shape[0] if len(shape) == 4 else 1
    rows = []
    for image in x:
        copies = image[None].expand(size, *image.shape).reshape(shape)
        rows.append(session.run(None, {"x": copies.numpy()})[0].reshape(-1)[:4])
    return torch.tensor(np.array(rows))


def images(n):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_onnxruntime_for_any_number_of_images(tmp_path, name):
    make, shape = GRAPHS[name]
    made = make()
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    assert network.network.steps.pieces is None
    x = images(7).requires_grad_()
    logits = network(x)
    assert logits.shape == (7, 4)
    expected = original(made, x.detach(), shape)
    found = logits.softmax(1) if "Softmax" in {n.op_type for n in made.graph.node} else logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(network(x[3:4]), logits[3:4], atol=1e-5)
    # an image may stand where every ReLU is off
    assert (torch.autograd.grad(logits.sum(), x)[0].abs().amax((1, 2, 3)) > 0).sum() > 3
    assert not any(weight.requires_grad for weight in network.parameters())


def test_logits_that_depend_on_an_image_s_place_in_the_batch_are_refused(tmp_path):
    said = refusal(written(tmp_path / "a.onnx", tokens(weight(4, 1, 8))))
    assert "differ from onnxruntime's" in said


def test_operations_in_a_circle_are_damage(tmp_path):
    nodes = [node("Add", "x", "b", out="a"), node("Relu", "a", out="b"), node("Relu", "b", out="y")]
    said = refusal(written(tmp_path / "a.onnx", model(nodes, [1, 1, 8, 8], {})))
    assert "a cycle" in said


def test_a_graph_that_mixes_its_one_image_is_run_in_pieces(tmp_path):
    nodes = [node("Squeeze", "x", "axes", out="a"), node("Gemm", "a", "w", out="b"),
             node("ReduceMean", "b", out="y", axes=[0], keepdims=1)]  # fmt: skip
    constants = {"axes": np.array([0, 1]), "w": weight(8, 4)}
    made = model(nodes, [1, 1, 8, 8], constants, ("y", [1, 4]))
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    x = images(5)
    assert network.network.steps.pieces == 1
    assert torch.allclose(network(x), original(made, x, (1, 1, 8, 8)), atol=1e-5)
    assert "fixed batch size" in network.network.told(x)[-1]


def of_batch(*nodes, **constants):
    """A network of a dynamic batch, with something before its layers."""
    layers = [node("Flatten", "a", out="b"), node("Gemm", "b", "w", "n", out="z", transB=1)]
    end = [] if any("y" in one.output for one in nodes) else [node("Identity", "z", out="y")]
    start = [] if any("a" in one.output for one in nodes) else [node("Identity", "x", out="a")]
    constants |= {"w": weight(4, 64), "n": weight(4)}
    before = [one for one in nodes if "y" not in one.output]
    after = [one for one in nodes if "y" in one.output]
    return model([*start, *before, *layers, *after, *end], ["N", 1, 8, 8], constants)


def centred(share):
    return of_batch(
        node("ReduceMean", "x", out="m", axes=[0], keepdims=1),
        node("Mul", "m", "share", out="part"),
        node("Sub", "x", "part", out="a"),
        share=np.float32(share),
    )


DEPENDENT = {
    "a mean of the batch": lambda: centred(1),
    "a little of the mean of the batch": lambda: centred(1e-3),
    "a maximum of the batch": lambda: of_batch(
        node("ReduceMax", "x", out="m", keepdims=1), node("Div", "x", "m", out="a")
    ),
    "a softmax over the batch": lambda: of_batch(node("Softmax", "z", out="y", axis=0)),
    "one image replaced": lambda: of_batch(
        node("ScatterND", "x", "first", "dark", out="a"),
        first=np.array([[0]]),
        dark=np.zeros((1, 1, 8, 8), np.float32),
    ),
    "one answer for all": lambda: of_batch(node("ReduceMean", "z", out="y", axes=[0], keepdims=1)),
}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", DEPENDENT)
def test_a_graph_of_any_batch_that_depends_on_it_is_evaluated_image_by_image_or_not_at_all(
    name, tmp_path
):
    found = read_checkpoint(written(tmp_path / "a.onnx", DEPENDENT[name]()))
    data = (images(6), np.arange(6) % 4)
    with pytest.raises(RobustkitError, match=r"depend on the rest of its batch.*--image-by-image"):
        evaluate(found, data, "clean", out=tmp_path / "runs")
    record = evaluate(found, data, "clean", out=tmp_path / "runs", image_by_image=True)
    expected = original(DEPENDENT[name](), images(6), (1, 1, 8, 8)).argmax(1)
    assert record.rows["predicted"].tolist() == expected.tolist()
    assert not any("fixed batch size" in text for text in record.header["warnings"])


def test_a_graph_of_any_batch_that_is_run_in_pieces_is_not_called_fixed(tmp_path):
    """It shifts by a mean that it takes off again."""
    made = of_batch(
        node("ReduceMean", "x", out="m", axes=[0], keepdims=1),
        node("Mul", "m", "none", out="part"),
        node("Add", "x", "part", out="a"),
        none=np.float32(0),
    )
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    x = images(5)
    assert torch.allclose(network(x), original(made, x, (1, 1, 8, 8)), atol=1e-5)
    assert network.network.told(x)[-1] == "the graph runs in batches of 1, which is slower"


def test_a_description_says_what_stands_in_the_graph(tmp_path):
    rows = dict(describe(read_checkpoint(written(tmp_path / "a.onnx", convolutions(1)))))
    assert rows["format"] == "ONNX"
    assert rows["opset"] == "17"
    assert "Conv 1" in rows["operations"]
    assert "Softmax" not in rows["operations"]
    assert "before the final Softmax" in rows["note"]


def test_weights_and_graph_are_the_identity_and_labels_are_not(tmp_path):
    made = convolutions(1)
    first = read_checkpoint(written(tmp_path / "a.onnx", made)).identity
    made.graph.node[3].name, made.producer_name, made.doc_string = "other", "me", "text"
    assert read_checkpoint(written(tmp_path / "b.onnx", made)).identity == first
    made.graph.node[5].attribute[0].f = 0.2
    slope = read_checkpoint(written(tmp_path / "c.onnx", made)).identity
    assert slope["graph"] != first["graph"]
    assert slope["weights"] == first["weights"]
    (tmp_path / "d.onnx.gz").write_bytes(gzip.compress(made.SerializeToString()))
    assert read_checkpoint(tmp_path / "d.onnx.gz").identity == slope


CONFIG = {"model_type": "vit", "id2label": {str(i): f"class {i}" for i in range(4)}}
PICTURES = {
    "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8},
    "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7],
}  # fmt: skip


def colours():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def exported(folder, name="model.onnx", config=CONFIG, pictures=PICTURES):
    """A folder as optimum leaves it: a graph, and the JSON of the network that it was."""
    nodes = [node("Flatten", "x", out="a"), node("Gemm", "a", "w", out="y")]
    made = model(nodes, ["N", 3, 8, 8], {"w": weight(192, 4)})
    for place, said in (("config.json", config), ("preprocessor_config.json", pictures)):
        if said is not None:
            (folder / place).write_text(said if isinstance(said, str) else json.dumps(said))
    (folder / name).parent.mkdir(exist_ok=True)
    written(folder / name, made)
    return made


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_the_json_beside_a_graph_says_what_its_pictures_and_classes_are(tmp_path, name, whole):
    made = exported(tmp_path, name)
    found = read_checkpoint(tmp_path if whole else tmp_path / name)
    assert found.path == str(tmp_path if whole else tmp_path / name)
    assert found.label_names == ("class 0", "class 1", "class 2", "class 3")
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert found.pipeline.described().startswith("resized to 8×8")
    assert any("preprocessor_config.json in" in note for note in found.notes)
    assert any("network from" in note for note in found.notes) == whole
    x = colours()
    mean, std = (torch.tensor(PICTURES[k])[:, None, None] for k in ("image_mean", "image_std"))
    expected = original(made, (x - mean) / std, (3, 3, 8, 8))
    assert torch.allclose(found.load()(x), expected, atol=1e-5)
    given = read_checkpoint(tmp_path / name, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.allclose(given.load()(x), original(made, x, (3, 3, 8, 8)), atol=1e-5)


def test_a_file_is_found_again_from_another_folder(tmp_path, monkeypatch):
    made = exported(tmp_path, config=None, pictures=None)
    monkeypatch.chdir(tmp_path)
    found, x = read_checkpoint("model.onnx"), colours()
    monkeypatch.chdir("/")
    assert torch.allclose(found.load()(x), original(made, x, (3, 3, 8, 8)), atol=1e-5)


def test_a_graph_may_be_given_its_channels_in_the_other_order(tmp_path):
    made = exported(tmp_path, config=None)
    plain = read_checkpoint(tmp_path / "model.onnx")
    exported(tmp_path, config=None, pictures={**PICTURES, "do_flip_channel_order": True,
             "image_processor_type": "MobileViTImageProcessor", "do_center_crop": False})  # fmt: skip
    found, x = read_checkpoint(tmp_path / "model.onnx"), colours()
    assert found.identity != plain.identity
    assert torch.allclose(found.load()(x), original(made, x.flip(1), (3, 3, 8, 8)), atol=1e-5)


FLIPPING = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True,
            "size": {"height": 8, "width": 8}, "do_center_crop": False}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "pictures", "order", "factor"),
    [
        ({"Image.BitmapPixelFormat": "Rgb8"}, None, [0, 1, 2], 1),
        ({"Image.BitmapPixelFormat": "Bgr8"}, None, [2, 1, 0], 1),
        ({"image.bitmappixelformat": "BGRA8"}, None, [2, 1, 0, 3], 1),
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, FLIPPING, [2, 1, 0], 255),
        ({"Image.BitmapPixelFormat": "Bgr8"}, FLIPPING, [2, 1, 0], None),
    ],
)
def test_metadata_say_the_order_of_channels(tmp_path, said, pictures, order, factor):
    C = len(order)
    nodes = [node("Flatten", "x", out="a"), node("Gemm", "a", "w", out="y")]
    made = model(nodes, ["N", C, 8, 8], {"w": weight(C * 64, 4)})
    plain = read_checkpoint(written(tmp_path / "plain.onnx", made))
    helper.set_model_props(made, said)
    if pictures is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    given = {} if factor else {"mean": (0,) * C, "std": (1,) * C}
    found = read_checkpoint(written(tmp_path / "a.onnx", made), **given)
    x = torch.rand(3, C, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = original(made, x[:, order] * (factor or 1), (3, C, 8, 8))
    assert torch.allclose(found.load()(x), expected, rtol=1e-4, atol=1e-4)
    told = any("blue, green, red" in note for note in found.notes)
    assert told == any("itmap" in key and order[0] == 2 for key in map(str.lower, said))
    if pictures is None:
        assert (found.identity != plain.identity) == (order[0] == 2)


def test_a_grey_image_has_no_order_of_channels(tmp_path):
    plain, said = convolutions(1), convolutions(1)
    helper.set_model_props(said, {"Image.BitmapPixelFormat": "Bgr8"})
    one, other = (read_checkpoint(written(tmp_path / f"{i}.onnx", made))
                  for i, made in enumerate((plain, said)))  # fmt: skip
    assert one.identity == other.identity


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"config": {**CONFIG, "id2label": {"0": "a", "1": "b"}}}, "classes 2, but the graph's 4"),
        ({"pictures": {**PICTURES, "size": {"height": 9, "width": 9}}}, "but the graph's"),
        ({"pictures": {"image_processor_type": "OwnProcessor"}}, "OwnProcessor"),
        ({"config": "[1]"}, "config.json"),
    ],
)
def test_json_of_another_network_is_not_taken_and_told(tmp_path, said, told):
    exported(tmp_path, **said)
    found = read_checkpoint(tmp_path / "model.onnx")
    assert (found.mean, found.label_names, found.pipeline) == (None, (), None)
    (line,) = [line for line in found.warnings if line.startswith("not used: ")]
    assert told in line
    assert any("unknown preprocessing" in line for line in found.warnings)


def test_of_several_graphs_in_a_folder_none_is_guessed(tmp_path):
    exported(tmp_path)
    exported(tmp_path, "onnx/model_quantized.onnx")
    with pytest.raises(
        CheckpointError, match=r"name one of them: model\.onnx, onnx/model_quantized\.onnx"
    ):
        read_checkpoint(tmp_path)
    (tmp_path / "onnx/model_quantized.onnx").unlink()
    (tmp_path / "model.onnx").rename(tmp_path.parent / "elsewhere.onnx")
    (tmp_path / "model.onnx").symlink_to(tmp_path.parent / "elsewhere.onnx")
    with pytest.raises(CheckpointError, match="link out of the folder"):
        read_checkpoint(tmp_path)


def test_a_sigmoid_at_the_end_hides_no_gradient(tmp_path):
    made = exported(tmp_path, config=None, pictures=None)
    made.graph.node.append(node("Sigmoid", "y", out="p"))
    large = numpy_helper.to_array(made.graph.initializer[0]) * 1000
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(large, "w"))
    made.graph.output[0].name = "p"
    found = read_checkpoint(written(tmp_path / "b.onnx", made))
    assert any("before the final Sigmoid" in note for note in found.notes)
    x = colours().requires_grad_()
    logits = found.load()(x)
    assert torch.allclose(logits.sigmoid(), original(made, x.detach(), (3, 3, 8, 8)), atol=1e-3)
    assert (torch.autograd.grad(logits.sum(), x)[0] != 0).all()


def test_numbers_of_a_folder_s_one_graph_are_no_weights_beside_it(tmp_path):
    made = exported(tmp_path)
    onnx.save(made, tmp_path / "model.onnx", save_as_external_data=True, location="numbers.bin",
              size_threshold=0)  # fmt: skip
    x = colours()
    expected = read_checkpoint(tmp_path / "model.onnx").load()(x)
    assert torch.equal(read_checkpoint(tmp_path).load()(x), expected)
    torch.save({"fc.weight": torch.ones(2, 3)}, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"numbers\.bin: unknown format"):
        read_checkpoint(tmp_path)  # no graph is taken where there are weights, too


def test_a_graph_of_bytes_is_compared_on_bytes_whatever_the_images_are(tmp_path):
    nodes = [
        node("Cast", "x", out="f", to=1),
        node("Flatten", "f", out="row"),
        node("Gemm", "row", "m", "n", out="y", transB=1),
    ]
    made = model(nodes, ["N", 1, 8, 8], {"m": weight(4, 64), "n": weight(4)})
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    checkpoint = read_checkpoint(written(tmp_path / "a.onnx", made))
    found = checkpoint.load().network.agreement(255 * images(9))
    assert (found.images, found.same) == (9, 9)


def test_names_in_a_file_are_never_run(tmp_path):
    made, sign = convolutions(1), tmp_path / "sign"
    for item in made.graph.node:
        item.name = f'a"), open({str(sign)!r}, "w"), ("'
    read_checkpoint(written(tmp_path / "a.onnx", made)).load()(images(2))
    assert not sign.exists()


def refusal(path, **options):
    with pytest.raises(RobustkitError) as caught:
        read_checkpoint(path, **options).load()
    line = str(caught.value)
    assert line.isprintable()
    assert str(path) in line
    return line


def one(kind, domain="", opset=17, shape=(1, 1, 8, 8), **attributes):
    made = helper.make_node(kind, ["x"], ["y"], name="here", domain=domain, **attributes)
    return model([made], list(shape), {}, opset=opset, domains=[(domain, 1)] if domain else ())


def test_operations_that_are_not_followed_are_named_with_their_place(tmp_path):
    path = tmp_path / "a.onnx"
    assert "NonZero (here)" in refusal(written(path, one("NonZero")))
    assert "FusedGelu (here)" in refusal(written(path, one("FusedGelu", "com.microsoft")))
    assert "RandomNormalLike (here)" in refusal(written(path, one("RandomNormalLike")))
    branch = helper.make_graph(
        [node("Relu", "x", out="z")], "g", [], [onnx.ValueInfoProto(name="z")]
    )
    held = node("If", "c", out="y", then_branch=branch, else_branch=branch)
    made = model([held], [1, 1, 8, 8], {"c": np.array(True)})
    assert "If (number 1)" in refusal(written(path, made))
    made = convolutions(1)
    made.opset_import[0].version = 99
    assert "update" in refusal(written(path, made))
    two = convolutions(1)
    two.graph.input.add().CopyFrom(helper.make_tensor_value_info("k", FLOAT, [1]))
    two.graph.node.insert(0, node("Mul", "x", "k", out="xk"))
    two.graph.node[1].input[0] = "xk"
    assert "2 inputs (x, k)" in refusal(written(path, two))
    trained = convolutions(1)
    trained.graph.node.append(node("Dropout", trained.graph.output[0].name, "", "on", out="end"))
    trained.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
    trained.graph.output[0].name = "end"
    assert "in training mode (export model.eval() instead) is" in refusal(written(path, trained))
    padded = one("Pad", mode="reflect")
    padded.graph.node[0].input.append("pads")
    pads = numpy_helper.from_array(np.array([0, 1, 0, 0, 0, 1, 0, 0]), "pads")
    padded.graph.initializer.append(pads)
    assert "Pad (here) along channels, but by a constant, is" in refusal(written(path, padded))
    larger = one("Resize", mode="linear")
    larger.graph.node[0].input.extend(["", "scales"])
    scales = numpy_helper.from_array(np.array([1, 1, 1.3, 1.3], np.float32), "scales")
    larger.graph.initializer.append(scales)
    assert "Resize (here) by a factor that gives no whole side is" in refusal(written(path, larger))
    shapeless = convolutions(1)
    shapeless.graph.input[0].type.tensor_type.ClearField("shape")
    assert "its input has no shape; export" in refusal(written(path, shapeless))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "missing", "", "a\\b"])
def test_numbers_beside_a_file_stay_in_its_folder(tmp_path, location):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    (folder / "link").symlink_to(tmp_path / "secret")
    path = written(folder / "a.onnx", outside(convolutions(1), location))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert str(folder) in str(caught.value)


def outside(made, location, **more):
    tensor = next(t for t in made.graph.initializer if t.name == "m")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return made


def test_numbers_beside_a_file_are_read(tmp_path):
    made = convolutions(1)
    numbers = next(t for t in made.graph.initializer if t.name == "m").raw_data
    (tmp_path / "numbers").write_bytes(b"xx" + numbers)
    x = images(3)
    inside = read_checkpoint(written(tmp_path / "a.onnx", made))
    beside = read_checkpoint(written(tmp_path / "b.onnx", outside(made, "numbers", offset=2)))
    assert inside.identity == beside.identity
    assert torch.equal(inside.load()(x), beside.load()(x))


@pytest.mark.parametrize(
    "more", [{"offset": 10**17}, {"length": 1}, {"offset": -1}, {"length": "x"}]
)
def test_impossible_places_of_numbers_are_refused(tmp_path, more):
    (tmp_path / "numbers").write_bytes(b"\0" * 192)
    refusal(written(tmp_path / "a.onnx", outside(convolutions(1), "numbers", **more)))


def grow(kind, size):
    nodes = [node(kind, *(["big"] if kind == "ConstantOfShape" else ["x", "big"]), out="a"),
             node("Add", "x", "a", out="y")]  # fmt: skip
    return model(nodes, [1, 1, 8, 8], {"big": np.array([size] * 4)})


@pytest.mark.thorough
def test_bombs_are_refused_before_they_go_off(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "MOST_FIELDS", 20_000)  # to count two millions takes seconds
    path = tmp_path / "a.onnx"
    assert "numbers" in refusal(written(path, grow("ConstantOfShape", 10_000)))
    refusal(written(path, grow("Tile", 10_000)))
    nested = b"\x0a\x00"  # nodes of no bytes: a hundred bytes of memory each
    nested *= 30_000
    path.write_bytes(b"\x08\x08\x3a" + varint(len(nested)) + nested)
    assert "entries" in refusal(path)
    path.write_bytes(gzip.compress(b"\x08\x08" + b"\0" * 10**8, 1))
    path.rename(path.with_suffix(".onnx.gz"))
    assert "which is not read" in refusal(tmp_path / "a.onnx.gz")
    calls = [
        helper.make_function("f", f"f{i}", ["x"], ["y"], [
            helper.make_node(f"f{i + 1}", ["x"], ["a"], domain="f"),
            helper.make_node(f"f{i + 1}", ["a"], ["y"], domain="f"),
        ], [helper.make_opsetid("f", 1)])
        for i in range(40)
    ]  # fmt: skip
    calls.append(helper.make_function("f", "f40", ["x"], ["y"], [node("Relu", "x", out="y")],
                                      [helper.make_opsetid("", 17)]))  # fmt: skip
    start = helper.make_node("f0", ["x"], ["y"], domain="f")
    made = model([start], [1, 4], {}, functions=calls, domains=[("f", 1)])
    assert "functions" in refusal(written(tmp_path / "b.onnx", made))


def varint(number):
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "empty"),
        (b"\x08\x08\x3a\x7f", "truncated"),
        (b"\xff" * 64, "ONNX"),
    ],
)
def test_what_is_no_onnx_file_is_told(tmp_path, content, said):
    (tmp_path / "a.onnx").write_bytes(content)
    assert said in refusal(tmp_path / "a.onnx")


def pooled(opset, **pool):
    nodes = [
        node("Conv", "x", "w", out="a", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a", "s", "s", "v", "s", out="h"),
        node("Relu", "h", out="b"),
        node("MaxPool", "b", out="c", kernel_shape=[3, 3], strides=[2, 2], **pool),
        node("Flatten", "c", out="d"),
        node("Gemm", "d", "m", "n", out="y", transB=1),
    ]
    side = 4 if pool else 3
    constants = {
        "w": weight(2, 1, 3, 3), "m": weight(4, 2 * side * side), "n": weight(4), "v": weight(2),
        "s": np.abs(weight(2)) + 1,
    }  # fmt: skip
    return model(nodes, ["N", 1, 8, 8], constants, opset=opset)


@pytest.mark.parametrize("pool", [{}, {"ceil_mode": 1}], ids=["plain", "rounded up"])
@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 17, 21, 22, 23])
def test_a_network_of_any_opset_that_torch_exports_is_converted(opset, pool, tmp_path):
    if pool and opset < 10:
        pytest.skip("no such attribute")
    made = pooled(opset, **pool)
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    x = images(5)
    assert torch.allclose(network(x), original(made, x, (1, 1, 8, 8)), atol=1e-5)


def test_an_opset_that_is_not_supported_says_which_are(tmp_path):
    said = refusal(written(tmp_path / "a.onnx", pooled(6)))
    assert "opset 6 is older than onnxruntime supports (7)" in said
    newest = onnx.defs.onnx_opset_version()
    if onnx.defs.get_schema("Celu", newest).since_version == 12:
        pytest.skip("all operations are as they were")
    said = refusal(written(tmp_path / "a.onnx", one("Celu", opset=newest)))
    assert f"as in opset {newest} is not supported; export with an opset from 7 to 23" in said


@pytest.mark.parametrize("kind", sorted(library.OFFERED))
def test_an_operation_has_a_converter_in_every_opset_that_has_it(kind):
    first, last = map(int, library.OPSETS.split(" to "))
    for opset in range(first, last + 1):
        with suppress(onnx.defs.SchemaError):
            version = onnx.defs.get_schema(kind, opset).since_version
            assert library.converter_of(kind, version) is not None, f"opset {opset}"


@pytest.mark.parametrize(
    ("kind", "opset"),
    [("Sum", 7), ("Mean", 7), ("Max", 7), ("Min", 7), ("ArgMax", 7), ("ArgMin", 10)],
)
def test_an_operation_older_than_its_converter_is_onnxruntime(kind, opset, tmp_path):
    if kind.startswith("Arg"):
        nodes = [node(kind, "z", out="i", axis=1), node("Cast", "i", out="j", to=FLOAT)]
        nodes += [node("Add", "z", "j", out="y")]
    else:
        nodes = [node("Neg", "z", out="i"), node(kind, "z", "i", "i", out="y")]
    made = model([node("Flatten", "x", out="a"), node("Gemm", "a", "w", "n", out="z", transB=1),
                  *nodes], ["N", 1, 8, 8], {"w": weight(4, 64), "n": weight(4)}, opset=opset)  # fmt: skip
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    x = images(5)
    assert torch.allclose(network(x), original(made, x, (1, 1, 8, 8)), atol=1e-5)


def normalised(opset, more=(), **attributes):
    """Batch norm of the images, with further outputs."""
    outputs = ["a", *more]
    made = helper.make_node("BatchNormalization", ["x", *"stuv"], outputs, **attributes)
    found = of_batch(made, **dict.fromkeys("stuv", np.ones(1, np.float32)))
    found.opset_import[0].version = opset
    return found


@pytest.mark.parametrize(
    ("opset", "more", "attributes", "said"),
    [
        (8, (), {"spatial": 0}, "with spatial = 0"),
        (8, ("c", "d", "e", "f"), {}, "in training mode"),
        (13, ("c", "d", "e", "f"), {}, "in training mode"),
        (15, ("c", "d"), {"training_mode": 1}, "in training mode"),
    ],
)
def test_batch_norm_that_depends_on_the_batch_or_the_place_is_refused(
    opset, more, attributes, said, tmp_path
):
    assert said in refusal(written(tmp_path / "a.onnx", normalised(opset, more, **attributes)))


def with_more(kind, opset, more, *, read=False):
    """An operation with optional outputs, one of which something takes, or nothing does."""
    attributes = {"kernel_shape": [1, 1]} if kind == "MaxPool" else {}
    inputs = ["x", "ones"] if kind == "LayerNormalization" else ["x"]
    made = helper.make_node(kind, inputs, ["first", *more], **attributes)
    taken = node("Cast", more[-1], out="a", to=FLOAT) if read else node("Relu", "first", out="a")
    found = of_batch(made, taken, ones=np.ones(8, np.float32))
    found.opset_import[0].version = opset
    return found


MORE = {
    "Dropout, opset 7": ("Dropout", 7, ["_mask"]),
    "Dropout, opset 10": ("Dropout", 10, ["_mask"]),
    "Dropout, opset 13": ("Dropout", 13, ["_mask"]),
    "MaxPool": ("MaxPool", 13, ["indices"]),
    "LayerNormalization": ("LayerNormalization", 17, ["mean", "deviation"]),
    "LayerNormalization, one left out": ("LayerNormalization", 17, ["", "deviation"]),
}


@pytest.mark.parametrize("name", MORE)
def test_an_optional_output_that_nothing_takes_is_left_aside(name, tmp_path):
    made = with_more(*MORE[name])
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    x = images(5)
    assert torch.allclose(network(x), original(made, x, (1, 1, 8, 8)), atol=1e-5)
    assert "with additional outputs" in refusal(
        written(tmp_path / "b.onnx", with_more(*MORE[name], read=True))
    )


@pytest.mark.parametrize("batch", ["N", 1, 3])
@pytest.mark.parametrize("opset", [11, 13, 16, 18])
def test_replaced_rows_of_an_image_are_onnxruntime(opset, batch, tmp_path):
    """As torch writes x[:, :, i] = y: rows first, replaced, and back."""
    nodes = [
        node("Transpose", "x", out="rows", perm=[2, 1, 0, 3]),
        node("Gather", "rows", "taken", out="new"),
        node("ScatterND", "rows", "places", "new", out="put"),
        node("Transpose", "put", out="a", perm=[2, 1, 0, 3]),
        node("Flatten", "a", out="b"),
        node("Gemm", "b", "w", "n", out="y", transB=1),
    ]
    constants = {"taken": np.array([2, 0]), "places": np.array([[5], [-1]]), "w": weight(4, 64),
                 "n": weight(4)}  # fmt: skip
    made = model(nodes, [batch, 1, 8, 8], constants, ("y", [batch, 4]), opset=opset)
    network = read_checkpoint(written(tmp_path / "a.onnx", made)).load()
    assert network.network.steps.pieces is None
    x = images(5)
    shape = (1 if batch == "N" else batch, 1, 8, 8)
    assert torch.allclose(network(x), original(made, x, shape), atol=1e-5)


@pytest.mark.parametrize("pixels", ["uint8", *RANGES])
def test_a_sidecar_that_repeats_a_graph_s_pixels_changes_nothing(pixels, tmp_path):
    """The graph normalises what it says it takes, whoever says so again."""
    kind = TensorProto.UINT8 if pixels == "uint8" else FLOAT
    nodes = [
        node("Cast", "x", out="f", to=FLOAT),
        node("Sub", "f", "mean", out="g"),
        node("Div", "g", "std", out="h"),
        node("Flatten", "h", out="a"),
        node("Gemm", "a", "w", "n", out="y", transB=1),
    ]
    constants = {"mean": np.float32(0.4), "std": np.float32(0.3), "w": weight(4, 64),
                 "n": weight(4)}  # fmt: skip
    made = model(nodes, ["N", 1, 8, 8], constants)
    made.graph.input[0].type.tensor_type.elem_type = kind
    if kind == FLOAT:
        made.metadata_props.add(key="Image.NominalPixelRange", value=pixels)
    path, x = written(tmp_path / "a.onnx", made), images(5)
    first = read_checkpoint(path)
    assert not any("normalised twice" in warning for warning in first.warnings)
    write_sidecar(first)
    second = read_checkpoint(path)
    assert (second.warnings, second.mean, second.std, second.preprocessing) == (
        first.warnings, first.mean, first.std, first.preprocessing
    )  # fmt: skip
    assert torch.equal(first.load()(x), second.load()(x))
    again = read_checkpoint(path, mean=first.mean, std=first.std)
    assert not any("normalised twice" in warning for warning in again.warnings)
    for other in ({"mean": 0.25, "std": first.std}, {"mean": first.mean, "std": 0.75}):
        assert any("normalised twice" in w for w in read_checkpoint(path, **other).warnings)
