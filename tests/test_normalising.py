"""Who normalises the pixels: the network itself, what is said of it, and never both in silence."""

import json
import textwrap

import numpy as np
import pytest
import timm
import torch
from torch import nn

from robustkit import evaluate, models
from robustkit.checkpoint import describe, read_checkpoint, save_checkpoint, write_sidecar
from robustkit.data import from_arrays
from robustkit.errors import CheckpointError
from robustkit.evaluation.chance import chance_warnings, settled_by
from robustkit.protocol import FGSM

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
X = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TWICE, ASIDE = "pixels are normalised twice", "are not applied"
LAYERS = {
    "buffers": (
        """
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
                self.register_buffer("std", torch.full((3, 1, 1), 0.25))
            def forward(self, x):
                return (x - self.mean) / self.std
        """,
        "0.mean",
    ),
    "not in the file": (
        """
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mu", torch.tensor([0.5]), persistent=False)
                self.register_buffer("sigma", torch.tensor([0.25]), persistent=False)
            def forward(self, x):
                return (x - self.mu) / self.sigma
        """,
        "0.mu",
    ),
    "lists": (
        """
        from torchvision.transforms import Normalize
        class Own(Normalize):
            def __init__(self):
                super().__init__([0.5] * 3, [0.25] * 3)
        """,
        "0.mean",
    ),
    "numbers": (
        """
        class Normalisation(nn.Module):
            mean = "of the class and not of the layer"
            def __init__(self):
                super().__init__()
                self.mean, self.std = 0.5, 0.25
            def forward(self, x):
                return (x - self.mean) / self.std
        Own = Normalisation
        """,
        "0.mean",
    ),
}
NOISE = """
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.std = 0.0, 0.1
    @property
    def mu(self):
        raise SystemExit("a property was asked for")
    def forward(self, x):
        return x
"""


def network(folder, layer):
    """FILE.py:build of a network that begins with such a layer, and weights for it."""
    source = folder / "net.py"
    head = "import torch\nfrom torch import nn\n"
    build = "\ndef build():\n    return nn.Sequential(Own(), nn.Flatten(), nn.Linear(192, 5))\n"
    source.write_text(head + textwrap.dedent(layer) + build)
    made = models.build(f"{source}:build", seed=5).eval()
    torch.save(made.state_dict(), folder / "net.pt")
    return folder / "net.pt", f"{source}:build", made


def warned(checkpoint, text):
    return [warning for warning in checkpoint.warnings if text in warning]


def normalised(x, mean=MEAN, std=STD):
    column = [torch.tensor(values).view(-1, 1, 1) for values in (mean, std)]
    return (x - column[0]) / column[1]


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_mean_that_is_given_beside_a_networks_own_is_applied_and_told(kind, tmp_path):
    layer, name = LAYERS[kind]
    path, spec, made = network(tmp_path, layer)
    plain = read_checkpoint(path, model=spec)
    assert (plain.preprocessing, plain.mean, plain.warnings) == ("in the checkpoint", None, ())
    close(plain.load()(X), made(X))
    given = read_checkpoint(path, model=spec, mean=MEAN, std=STD)
    (warning,) = warned(given, TWICE)
    assert f"by the network itself ({name})" in warning
    assert (given.preprocessing, given.mean) == ("given", MEAN)
    close(given.load()(X), made(normalised(X)))
    # a sidecar says it again, and so does the record
    write_sidecar(given)
    again = read_checkpoint(path, model=spec)
    assert len(warned(again, TWICE)) == 1
    assert again.identity == given.identity
    data = from_arrays(X.numpy(), [0, 1, 2], name="x", classes=list("abcde"))
    found = evaluate(again, data, FGSM(), epsilon=["1/8"], device="cpu", out=tmp_path / "runs")
    assert [text for text in found.header["warnings"] if TWICE in text]


def test_a_layer_of_noise_normalises_nothing(tmp_path):
    path, spec, _ = network(tmp_path, NOISE)
    assert read_checkpoint(path, model=spec).preprocessing == "assumed none"
    assert not warned(read_checkpoint(path, model=spec, mean=MEAN, std=STD), TWICE)


def test_a_mean_in_the_file_is_not_applied_before_a_network_that_has_it(tmp_path):
    path, spec, made = network(tmp_path, LAYERS["numbers"][0])
    beside = {"normalize.mean": torch.full((3, 1, 1), 0.5), "normalize.std": torch.full((3,), 0.25)}
    torch.save(beside | {f"model.{k}": v for k, v in made.state_dict().items()}, path)
    found = read_checkpoint(path, model=spec)
    assert warned(found, ASIDE)
    close(found.load()(X), made(X))


def test_a_training_that_normalised_twice_is_evaluated_so_and_told(tmp_path):
    _, spec, made = network(tmp_path, LAYERS["buffers"][0])
    save_checkpoint(tmp_path / "a.safetensors", made, model=spec, mean=MEAN, std=STD)
    found = read_checkpoint(tmp_path / "a.safetensors", model=spec)
    assert len(warned(found, TWICE)) == 1
    close(found.load()(X), made(normalised(X)))


# -- of a library ----------------------------------------------------------------------------------


def folder_of(tmp_path, state):
    """A folder whose JSON says mean and std, for a network of the user's own."""
    said = {"architecture": "resnet18", "num_classes": 5, "pretrained_cfg": {
        "mean": list(MEAN), "std": list(STD), "input_size": [3, 8, 8]}}  # fmt: skip
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(said))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("kind", LAYERS)
def test_a_librarys_mean_is_not_applied_before_a_networks_own(kind, tmp_path):
    _, spec, made = network(tmp_path, LAYERS[kind][0])
    folder = folder_of(tmp_path, made.state_dict())
    found = read_checkpoint(folder, model=spec)
    (warning,) = warned(found, ASIDE)
    assert "the mean and std of its library" in warning
    assert (found.mean, found.preprocessing) == (None, "in the checkpoint")
    close(found.load()(X), made(X))
    given = read_checkpoint(folder, model=spec, mean=MEAN, std=STD)
    assert (len(warned(given, TWICE)), len(warned(given, ASIDE))) == (1, 0)
    close(given.load()(X), made(normalised(X)))


def test_a_librarys_mean_does_not_replace_that_in_the_file(tmp_path):
    made = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    beside = {"normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.25)}
    state = beside | {f"model.{k}": v for k, v in made.state_dict().items()}
    found = read_checkpoint(folder_of(tmp_path, state), model=f"{tmp_path}/net.py:build")
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
    close(found.load()(X), made(normalised(X, (0.5,), (0.25,))))


def test_a_librarys_mean_before_a_network_of_a_file_is_told(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        "from torch import nn\n"
        "class Own(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward((x - 0.5) / 0.25)\n"
        "def build():\n"
        "    return Own(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    made = models.build(f"{source}:build", seed=5).eval()
    folder, told = folder_of(tmp_path, made.state_dict()), "--mean 0 --std 1"
    found = read_checkpoint(folder, model=f"{source}:build")
    (warning,) = warned(found, told)
    assert f"{folder} are applied in front of {source}:build" in warning
    close(found.load()(X), made(normalised(X)))
    itself = read_checkpoint(folder, model=f"{source}:build", mean=0, std=1)
    assert not warned(itself, told)
    close(itself.load()(X), made(X))
    assert not warned(read_checkpoint(folder, model=f"{source}:build", mean=MEAN, std=STD), told)


def test_pixels_as_they_are_in_the_files_own_record_go_before_its_library(tmp_path):
    made = timm.create_model("mobilenetv3_small_050").eval()
    name = "timm:mobilenetv3_small_050.lamb_in1k"
    save_checkpoint(tmp_path / "a.safetensors", made, model="timm:mobilenetv3_small_050")
    found = read_checkpoint(tmp_path / "a.safetensors", model=name)
    assert (found.mean, found.preprocessing) == (None, "recorded")
    assert found.pipeline is not None


# -- programs and graphs ---------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.25))
        self.layer = nn.Linear(192, 5)

    def forward(self, x):
        return self.layer(((x - self.mean) / self.std).flatten(1))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_program_that_normalises_itself_is_told(kind, tmp_path):
    made = Own().eval()
    if kind == "TorchScript":
        path = tmp_path / "net.pt"
        torch.jit.save(torch.jit.trace(made, X), path)
    else:
        path = tmp_path / "net.pt2"
        torch.export.save(torch.export.export(made, (X,)), path)
    plain = read_checkpoint(path, trust_program=True)
    assert plain.preprocessing == "in the checkpoint"
    given = read_checkpoint(path, trust_program=True, mean=MEAN, std=STD)
    assert "(mean)" in warned(given, TWICE)[0]
    close(given.load()(X), made(normalised(X)))


def graph(path, kinds, constants, *, written=False):
    """With its numbers among the weights, or written into operations, as of Python's numbers."""
    onnx = pytest.importorskip("onnx")
    names, nodes = ["x"], []
    for number, (kind, value) in enumerate(zip(kinds, constants, strict=True)):
        inputs = [names[-1]] if value is None else [names[-1], f"c{number}"]
        names.append(f"v{number}")
        nodes.append(onnx.helper.make_node(kind, inputs, [names[-1]]))
    nodes.append(onnx.helper.make_node("Flatten", [names[-1]], ["flat"]))
    nodes.append(onnx.helper.make_node("Gemm", ["flat", "w"], ["y"]))
    values = {f"c{n}": v for n, v in enumerate(constants) if v is not None}
    if written:
        held = {k: onnx.numpy_helper.from_array(np.float32(v)) for k, v in values.items()}
        nodes[:0] = [onnx.helper.make_node("Constant", [], [k], value=v) for k, v in held.items()]
        values = {}
    values["w"] = np.random.default_rng(0).standard_normal((192, 5))
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in values.items()
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, 8, 8]), ("y", ["N", 5]))
    ]
    made = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(made, opset_imports=opset, ir_version=9), path)


PER_CHANNEL = np.full((1, 3, 1, 1), 0.5)
GRAPHS = {
    "torch's": (("Sub", "Div"), (PER_CHANNEL, PER_CHANNEL), True),
    "scaled by a factor": (("Identity", "Add", "Mul"), (None, -0.5, 4.0), True),
    "bytes first": (("Div", "Sub", "Div"), (2.0, PER_CHANNEL, PER_CHANNEL), True),
    "batch norm": (("Mul", "Add"), (PER_CHANNEL, PER_CHANNEL), False),
    "one alone": (("Sub",), (PER_CHANNEL,), False),
    "a mask": (("Sub", "Mul"), (PER_CHANNEL, np.ones((8, 8))), False),
    "after something": (("Relu", "Sub", "Div"), (None, PER_CHANNEL, PER_CHANNEL), False),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_that_normalises_itself_is_told(case, tmp_path):
    kinds, constants, own = GRAPHS[case]
    graph(tmp_path / "net.onnx", kinds, constants)
    plain = read_checkpoint(tmp_path / "net.onnx")
    assert plain.preprocessing == ("in the checkpoint" if own else "assumed none")
    given = read_checkpoint(tmp_path / "net.onnx", mean=MEAN, std=STD)
    assert len(warned(given, TWICE)) == own
    close(given.load()(X), plain.load()(normalised(X)))


def test_python_s_numbers_in_a_graph_are_its_normalisation_too(tmp_path):
    graph(tmp_path / "net.onnx", ("Mul", "Sub"), (2.0, 1.0), written=True)
    assert read_checkpoint(tmp_path / "net.onnx").preprocessing == "assumed none"
    graph(tmp_path / "net.onnx", ("Sub", "Div"), (0.5, 0.5), written=True)
    assert read_checkpoint(tmp_path / "net.onnx").preprocessing == "in the checkpoint"


@pytest.mark.parametrize("case", ["torch's", "one alone"])
def test_the_json_beside_a_graph_is_not_applied_to_one_that_normalises_itself(case, tmp_path):
    kinds, constants, own = GRAPHS[case]
    graph(tmp_path / "net.onnx", kinds, constants)
    said = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD,
            "size": {"height": 8, "width": 8}}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = read_checkpoint(tmp_path / "net.onnx")
    assert (found.mean, len(warned(found, ASIDE))) == ((None, 1) if own else (MEAN, 0))
    assert found.pipeline is not None


# -- of pixels of 0 to 255 -------------------------------------------------------------------------


def channels(*values):
    return np.reshape(values, (1, 3, 1, 1))


CAFFE = channels(123.675, 116.28, 103.53), channels(58.395, 57.12, 57.375)
SCALED = channels(0.485, 0.456, 0.406), channels(0.229, 0.224, 0.225)
OF_BYTES = {
    "OpenMMLab's": (("Sub", "Div"), CAFFE),
    "by a factor": (("Identity", "Add", "Mul"), (None, -CAFFE[0], 1 / CAFFE[1])),
    "folded": (("Mul", "Sub"), (1 / CAFFE[1], CAFFE[0] / CAFFE[1])),
    "EfficientNet of Keras": (("Mul", "Sub", "Div"), (1 / 255, *SCALED)),
    "MobileNet of Keras": (("Mul", "Add"), (1 / 127.5, -1.0)),
    "a factor alone": (("Div",), (255.0,)),
    "a mean alone": (("Sub",), CAFFE[:1]),
}
OF_ONE = {
    "multiplied by 255": (("Mul", "Sub", "Div"), (255.0, *CAFFE)),
    "of 0 to 1": (("Sub", "Div"), SCALED),
    "learnt": (("Mul", "Add"), (channels(0.2, 4.0, 0.005), channels(-0.9, 0.5, -1.0))),
    "a small factor": (("Mul",), (0.1,)),
    "centred": (("Mul", "Sub"), (2.0, 1.0)),
}


def check_told(path, spec, made):
    """A checkpoint whose network takes pixels of 0 to 255 says so, and stops where it gets them."""
    plain = read_checkpoint(path, **spec)
    (warning,) = plain.warnings
    assert "0 to 255" in warning
    assert "pass --mean 0 --std 1/255" in warning
    assert dict(describe(plain))["preprocessing"] == "in the checkpoint, of pixels of 0 to 255"
    close(plain.load()(X), made(X))
    assert not settled_by(plain.preprocessing, {}).preprocessing
    (chance,) = chance_warnings(
        np.arange(9) % 3, np.zeros(9, int), 3, settled_by(plain.preprocessing, {})
    )
    assert "a pixel scale" in chance
    assert "the checkpoint's own" not in chance
    bytes_ = read_checkpoint(path, **spec, mean=(0,), std=(1 / 255,))
    assert (bytes_.warnings, bytes_.preprocessing) == ((), "given")
    close(bytes_.load()(X), made(255 * X))
    other = read_checkpoint(path, **spec, mean=MEAN, std=STD)
    (warning,) = other.warnings
    assert TWICE in warning
    assert "pass --mean 0 --std 1/255 instead" in warning
    close(other.load()(X), made(normalised(X)))
    # a sidecar says it again, of which only the one is settled
    for said, settled in ((bytes_, True), (other, False)):
        write_sidecar(said)
        again = read_checkpoint(path, **spec)
        assert (again.warnings == (), again.identity) == (settled, said.identity)
        assert settled_by(again.preprocessing, {}).preprocessing == settled


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("case", OF_BYTES)
def test_a_graph_of_pixels_of_0_to_255_is_told(case, written, tmp_path):
    path, (kinds, constants) = tmp_path / "net.onnx", OF_BYTES[case]
    graph(path, kinds, constants, written=written)
    check_told(path, {}, read_checkpoint(path).load())


@pytest.mark.parametrize("case", OF_ONE)
def test_a_graph_of_other_numbers_is_of_0_to_1(case, tmp_path):
    kinds, constants = OF_ONE[case]
    graph(tmp_path / "net.onnx", kinds, constants)
    for given in ({}, {"mean": (0,), "std": (1 / 255,)}):
        found = read_checkpoint(tmp_path / "net.onnx", **given)
        assert not warned(found, "0 to 255")


def test_json_beside_a_graph_may_say_that_it_gets_pixels_of_0_to_255(tmp_path):
    path = tmp_path / "net.onnx"
    graph(path, ("Sub", "Div"), CAFFE)
    plain = read_checkpoint(path).load()
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8},
            "do_rescale": False, "do_normalize": False}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = read_checkpoint(path)
    assert found.warnings == ()
    close(found.load()(X), plain(255 * X))
    said |= {"do_rescale": True, "do_normalize": True, "image_mean": MEAN, "image_std": STD}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = read_checkpoint(path)
    assert len(warned(found, ASIDE)) == len(warned(found, "0 to 255")) == 1
    close(found.load()(X), plain(X))


class OwnBytes(Own):
    def __init__(self, persistent=True):
        super().__init__()
        for name, values in zip(("mean", "std"), CAFFE, strict=True):
            held = torch.tensor(values[0], dtype=torch.float32)
            self.register_buffer(name, held, persistent=persistent)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_program_of_pixels_of_0_to_255_is_told(kind, persistent, tmp_path):
    made, path = OwnBytes(persistent).eval(), tmp_path / "net.pt"
    if kind == "TorchScript":
        torch.jit.save(torch.jit.script(made), path)
    else:
        path = tmp_path / "net.pt2"
        images = {"x": {0: torch.export.Dim("n", min=1)}}
        torch.export.save(torch.export.export(made, (X,), dynamic_shapes=images), path)
    check_told(path, {"trust_program": True}, made)


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_of_a_network_of_pixels_of_0_to_255_are_told(kind, tmp_path):
    layer = LAYERS[kind][0].replace("0.5", "123.5").replace("0.25", "58.5")
    path, spec, made = network(tmp_path, layer)
    check_told(path, {"model": spec}, made)
    data = from_arrays(X.numpy(), [0, 1, 2], name="x", classes=list("abcde"))
    found = evaluate(made, data, FGSM(), epsilon=["1/8"], device="cpu", out=tmp_path / "runs")
    (warning,) = (text for text in found.header["warnings"] if "0 to 255" in text)
    assert "divide its mean and std by 255" in warning


# -- running statistics ----------------------------------------------------------------------------


def residual(folder, without=()):
    """A folder of transformers with batch norm; names that end so are left out of its weights."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
    )
    made = transformers.ResNetForImageClassification(config).eval()
    for value in made.buffers():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    made.save_pretrained(folder)
    state = {k: v for k, v in made.state_dict().items() if not k.endswith(tuple(without))}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return made


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (("running_mean", "running_var"), "running_mean"),
        (("running_var",), "running_var"),
        (("shortcut.normalization.running_mean", "embedder.normalization.running_mean"), "mean"),
        (("num_batches_tracked",), ""),
        ((), ""),
    ],
)
def test_running_statistics_that_the_file_lacks_are_not_made_up(without, told, tmp_path):
    made = residual(tmp_path, without)
    found = read_checkpoint(tmp_path)
    if told:
        with pytest.raises(CheckpointError, match=f"missing from the file: .*{told}") as caught:
            found.load()
        assert "\n" not in str(caught.value)
    else:
        close(found.load()(X.repeat(1, 1, 4, 4)), made(X.repeat(1, 1, 4, 4)).logits)


def test_a_function_that_loads_the_file_itself_lacks_none_either(tmp_path):
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    state = {f"x_{k}": v for k, v in made.state_dict().items() if "running" not in k}
    torch.save(state, tmp_path / "net.pt")
    (tmp_path / "net.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        def build(path):
            made = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
            )
            state = torch.load(path)
            made.load_state_dict({k[2:]: v for k, v in state.items()}, strict=False)
            return made
        """)
    )
    spec = f"{tmp_path}/net.py:build"
    with pytest.raises(CheckpointError, match=r"does not fit .*net\.py:build: missing"):
        read_checkpoint(tmp_path / "net.pt", model=spec)
    torch.save({f"x_{k}": v for k, v in made.state_dict().items()}, tmp_path / "net.pt")
    close(read_checkpoint(tmp_path / "net.pt", model=spec).load()(X), made.eval()(X))
