import argparse
import collections
import copy
import io
import json
import pickle
import textwrap
import warnings
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from helpers import checkpoint_files as files
from helpers import pickles
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import robustkit
from robustkit import checkpoint, models
from robustkit.checkpoint import architecture, program, read_checkpoint, reading, save_checkpoint
from robustkit.checkpoint.parametrizations import folded
from robustkit.checkpoint.weights import weights_digest
from robustkit.data import load_dataset
from robustkit.errors import CheckpointError, EvaluationFailed, InputError, NetworkFailed
from robustkit.evaluation import from_checkpoint
from robustkit.files import file_digest
from robustkit.unpickling import Budget, Unpickler, mapping, read_torch
from robustkit.unpickling.tensors import TYPES, TensorReader, decoded

X = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def kept(path, value, **options):
    path.write_bytes(files.saved(value, **options))
    return path


def prefixed(prefix, state=None):
    state = files.network().state_dict() if state is None else state
    return {prefix + key: value for key, value in state.items()}


def same(read, network=None, x=X):
    """Whether the checkpoint's logits are the network's, bit for bit."""
    return torch.equal(read.load()(x), (network or files.network())(x))


# -- the same numbers as torch.load ---------------------------------------------------------------


def tangled():
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    return {
        "base": base,
        "view": base[1],
        "transposed": base.transpose(0, 2),
        "strided": base[:, ::2, 1:],
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.rand(3)),
        **{k: torch.arange(7).to(getattr(torch, k)) for k in TYPES.values() if k[0] != "q"},
        "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
        "uint16": torch.tensor([1, 2], dtype=torch.uint16),
    }


def read_tensors(path):
    """Every tensor of a file, with its own type."""
    with path.open("rb") as file:
        budget = Budget.of(file.seek(0, 2))
        tree, reader = mapping(read_torch(file, budget).root), TensorReader(str(path), budget)
        return {key: reader.read(leaf, key) for key, leaf in tree.items()}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "protocol 1", "protocol 5"])
def test_every_tensor_is_what_torch_would_load(form, tmp_path):
    value, path = tangled(), tmp_path / "x.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        options = {"_use_new_zipfile_serialization": form != "legacy"}
        if form.startswith("protocol"):
            options["pickle_protocol"] = int(form[-1])
        kept(path, value, **options)
    tensors = read_tensors(path)
    assert tensors.keys() == value.keys()
    for key, expected in value.items():
        found, wanted = tensors[key], expected.detach()
        if str(wanted.dtype).startswith(("torch.bfloat", "torch.float8")):
            wanted = wanted.float()  # NumPy has no such types
        assert found.dtype == wanted.numpy().dtype
        assert found.shape == tuple(wanted.shape)
        assert found.tobytes() == wanted.contiguous().numpy().tobytes(), key


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_numbers_of_types_that_numpy_lacks_are_those_of_torch(kind):
    codes = torch.arange(2**16 if kind == "bfloat16" else 2**8).to(torch.uint16)
    raw = (codes if kind == "bfloat16" else codes.to(torch.uint8)).view(getattr(torch, kind))
    found = decoded(raw.view(torch.uint8).numpy().tobytes(), kind)
    np.testing.assert_array_equal(found, raw.float().numpy())


def quantised(scheme, dtype):
    """Three views of numbers in steps: whole, turned round, and from the second row on."""
    numbers = 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    if scheme == "tensor":
        whole = torch.quantize_per_tensor(numbers, 0.0371, 3, dtype)
        return {"whole": whole, "turned": whole.t(), "part": whole[1:]}
    axis = int(scheme[-1])
    scales = torch.linspace(0.01, 0.2, numbers.shape[axis])
    if scheme.startswith("float"):
        points = torch.linspace(0.5, 2.5, numbers.shape[axis])
    else:
        points, scales = torch.arange(numbers.shape[axis]), scales.double()
    return {"whole": torch.quantize_per_channel(numbers, scales, points, axis, dtype)}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        *product(("tensor", "channel 0", "channel 1"), (torch.qint8, torch.quint8, torch.qint32)),
        ("float 0", torch.quint8),
    ],
)
def test_quantised_tensors_are_what_torch_dequantises(scheme, dtype, form, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but files of it are about
        value = quantised(scheme, dtype)
        options = {"_use_new_zipfile_serialization": form == "zip"}
        tensors = read_tensors(kept(tmp_path / "x.pt", value, **options))
    assert tensors.keys() == value.keys()
    for key, found in tensors.items():
        expected = value[key].dequantize().numpy()
        assert found.dtype == np.float32
        # the last digit is the kernel's
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0)
        assert np.unique(found).size > 3


def test_a_network_of_quantised_weights_is_dequantised_and_said_so(tmp_path):
    whole = files.network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {
            key: torch.quantize_per_tensor(value, 1e-4, 0, torch.qint32)
            for key, value in whole.state_dict().items()
        }
        read = read_checkpoint(kept(tmp_path / "x.pt", state))
    assert any("qint32 dequantised" in note for note in read.notes)
    torch.testing.assert_close(read.load()(X), whole(X), rtol=0, atol=1e-2)


def in_steps(shape, stride, name="per_tensor_affine", *rest):
    """A quantised tensor, whatever its file says of its steps."""
    of = pickles.storage("1", 4, "torch.QInt8Storage")
    steps = (pickles.Name(f"torch.{name}"), *(rest or (0.1, 0)))
    return pickles.Call("torch._utils._rebuild_qtensor", of, 0, shape, stride, steps, False, {})


@pytest.mark.parametrize(
    "quantiser",
    [
        ("per_tensor_affine", float("inf"), 0),
        ("per_tensor_affine", 0.1, 2**40),
        ("per_tensor_affine", 0.1, "0"),
        ("per_channel_affine", pickles.tensor(shape=(3,), stride=(1,)), pickles.tensor(), 0),
        ("per_channel_affine", pickles.tensor(), pickles.tensor(), 7),
        ("per_channel_affine", 0.1, 0, 0),
        ("per_channel_affine", in_steps((2,), (1,)), in_steps((2,), (1,)), 0),
        ("system", 0.1, 0),
        None,
    ],
    ids=[
        "an infinite step",
        "a far zero",
        "a zero of text",
        "steps of another number",
        "no such axis",
        "numbers for arrays",
        "arrays of another shape",
        "no such scheme",
        "none",
    ],
)
def test_steps_that_make_no_sense_are_refused_in_one_line(quantiser, tmp_path):
    of = pickles.storage("1", 4, "torch.QInt8Storage")
    made = pickles.tensor(of) if quantiser is None else in_steps((2, 2), (2, 1), *quantiser)
    path = tmp_path / "x.pt"
    path.write_bytes(pickles.zipped({"w": made}, {"0": bytes(16), "1": bytes(4)}))
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path, model="lenet5")
    assert "\n" not in str(refused.value)
    assert "'w'" in str(refused.value)


@pytest.mark.parametrize("form", ["state", "module"])
def test_layers_that_int8_kernels_packed_are_named(form, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(files.network(), {nn.Linear}, torch.qint8)
        path = kept(tmp_path / "x.pt", packed if form == "module" else packed.state_dict())
    with pytest.raises(CheckpointError, match=r"torch\.ao\.quantization.*to robustkit\.evaluate"):
        read_checkpoint(path, model="lenet5")


OWN = """
import warnings
import torch
from torch import nn

class Extra(nn.Sequential):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}

def plain():
    return Extra(nn.Flatten(), nn.Linear(784, 10))

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

def packed():
    warnings.simplefilter("ignore")
    return torch.ao.quantization.quantize_dynamic(plain().eval(), {nn.Linear}, torch.qint8)
"""


def own_functions(folder):
    """A file of them, and what they are by name."""
    (folder / "own.py").write_text(OWN)
    made = {}
    exec(OWN, made)
    return f"{folder}/own.py", made


def test_what_a_module_keeps_beside_its_weights_is_its_own(tmp_path):
    file, made = own_functions(tmp_path)
    network = made["plain"]()
    path = kept(tmp_path / "x.pt", network.state_dict())
    loaded = read_checkpoint(path, model=f"{file}:plain").load()
    assert torch.equal(loaded(X), network(X))


KEEPING = """
import torch
from torch import nn

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def forward(self, x):
        return x * self.scale

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Flatten(), nn.Linear(784, 784), nn.Linear(784, 784)
        self.c.weight = self.b.weight
        self.d = nn.Linear(784, 10)

    def forward(self, x):
        return self.d(self.c(self.b(self.a(x))))

class Partial(nn.Sequential):
    def load_state_dict(self, state, strict=True):
        return super().load_state_dict({k: v for k, v in state.items() if "bias" in k}, False)

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def scaled():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), Scale())

def tied():
    return Tied()

def partial():
    return Partial(nn.Flatten(), nn.Linear(784, 10))

def itself(path):
    made = scaled()
    state = torch.load(path)
    made.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
    return made
"""


def keeping(folder):
    (folder / "own.py").write_text(KEEPING)
    made = {}
    exec(KEEPING, made)
    return f"{folder}/own.py", made


def test_what_a_file_keeps_beside_its_weights_is_not_left_out_in_silence(tmp_path):
    file, made = keeping(tmp_path)
    network = made["scaled"]()
    network[2].scale = -2.0
    path = kept(tmp_path / "x.pt", network.state_dict())
    (warning,) = [w for w in read_checkpoint(path, model=f"{file}:scaled").warnings if "2._e" in w]
    assert "beside its weights is not loaded: 2._extra_state;" in warning
    deep = kept(tmp_path / "d.pt", prefixed("a_long_name." * 9, network.state_dict()))
    assert any("_extra_state;" in w for w in read_checkpoint(deep, model=f"{file}:scaled").warnings)
    # a function that takes the file loads all of it
    path = kept(tmp_path / "y.pt", prefixed("net.", network.state_dict()))
    assert same(read_checkpoint(path, model=f"{file}:itself"), network)


@pytest.mark.parametrize(
    ("function", "source", "name"),
    [("tied", "tied", r"b\.weight"), ("partial", "plain", r"1\.weight")],
)
def test_a_network_that_does_not_hold_its_files_numbers_is_refused(
    function, source, name, tmp_path
):
    file, made = keeping(tmp_path)
    state = made[source]().state_dict()
    if function == "partial":
        state["1.weight"] = state["1.weight"] + 1
    else:
        same_twice = kept(tmp_path / "same.pt", state)
        assert read_checkpoint(same_twice, model=f"{file}:tied").load()(X).shape == (3, 10)
        state["c.weight"] = state["c.weight"] + 1
    path = kept(tmp_path / "x.pt", state)
    with pytest.raises(CheckpointError, match=rf"x\.pt: [^\n]* other numbers [^\n]*: {name}"):
        read_checkpoint(path, model=f"{file}:{function}")


@pytest.mark.parametrize(
    ("of_file", "of_function", "words"),
    [
        ("plain", "lazy", r"1\.weight has no size before a first pass"),
        ("plain", "packed", "no tensor, as in layers quantised"),
        ("packed", "packed", r"holds layers quantised by torch\.ao\.quantization"),
    ],
)
def test_a_function_whose_network_no_file_fills_is_refused(of_file, of_function, words, tmp_path):
    file, made = own_functions(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = kept(tmp_path / "x.pt", made[of_file]().state_dict())
        with pytest.raises(InputError, match=words) as refused:
            read_checkpoint(path, model=f"{file}:{of_function}").load()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.zeros(2), torch.zeros(3)], "a list of 2 unnamed tensors"),
        (tuple(files.network().parameters()), "a list of 10 unnamed tensors"),
        ({"epoch": 3, "params": [torch.zeros(2)]}, "under params a list of 1 unnamed tensors"),
        (torch.zeros(3), "a single unnamed tensor"),
        (torch.optim.SGD([torch.zeros(2)], 0.1, momentum=0.9).state_dict(), "an optimiser state"),
        ({"epoch": 3}, "a dictionary with epoch"),
    ],
    ids=str,
)
def test_a_file_without_weights_says_what_it_holds_and_what_to_save(value, words, tmp_path):
    with pytest.raises(CheckpointError, match=words) as refused:
        read_checkpoint(kept(tmp_path / "x.pt", value), model="lenet5")
    assert "save model.state_dict()" in str(refused.value)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
        | st.binary(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner),
        max_leaves=12,
    ),
    st.integers(0, 5),
)  # fmt: skip
def test_plain_data_comes_out_as_it_went_in(value, protocol):
    assert Unpickler(Budget()).load(io.BytesIO(pickle.dumps(value, protocol))) == value


KEYS = {"a": 1, b"a": 2, 0: 3, True: 4, 0.5: 5, None: 6, ("a", 1, None): 7, (): 8}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        KEYS,
        collections.OrderedDict(KEYS),
        files.Calls(collections.OrderedDict, list(KEYS.items())),
        files.Calls(dict, tuple(KEYS.items())),
        files.Calls(collections.defaultdict, int, KEYS),
    ],
    ids=["dict", "OrderedDict", "OrderedDict of pairs", "dict of pairs", "defaultdict"],
)
def test_no_key_of_a_dictionary_is_lost(value, protocol):
    found = Unpickler(Budget()).load(io.BytesIO(pickle.dumps(value, protocol)))
    assert list(found.items()) == list(KEYS.items())


def test_a_file_saved_on_a_gpu_loads_without_one(tmp_path):
    data = files.saved(files.network().state_dict(), _use_new_zipfile_serialization=False)
    path = tmp_path / "x.pt"
    # the device's name stands in the pickle with its length in front
    path.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in path.read_bytes()
    assert same(read_checkpoint(path))


# -- containers and prefixes ----------------------------------------------------------------------

CONTAINERS = {
    "plain": lambda s: s,
    "ordered": collections.OrderedDict,
    **{
        key: lambda s, key=key: {key: s, "epoch": 3}
        for key in ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "best")
    },
    "last": lambda s: {"last": s},
    "nested": lambda s: {"model": {"state_dict": s}},
    "list": lambda s: [s],
    "list in a container": lambda s: {"state_dict": [s], "err": 0.1},
    "of an unusual name": lambda s: {"my_classifier": s, "optimizer": {"state": {}}},
    "with a tensor beside it": lambda s: {"state_dict": s, "best_acc1": torch.tensor(93.0)},
    "lightning": lambda s: {
        "state_dict": prefixed("model.", s),
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    },
    "parallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "both": lambda s: prefixed("module._orig_mod.", s),
    "both the other way": lambda s: prefixed("_orig_mod.module.", s),
    "averaged": lambda s: prefixed("module.", s) | {"n_averaged": torch.tensor(7)},
    "opacus": lambda s: prefixed("_module.", s),
    "any shared prefix": lambda s: prefixed("student.core.", s),
    "counted by thop": lambda s: (
        s | {"total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}
    ),
}


@pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_weights_come_out_of_every_container(name, form, tmp_path):
    value = CONTAINERS[name](dict(files.network().state_dict()))
    path = kept(tmp_path / "x.pt", value, _use_new_zipfile_serialization=form)
    read = read_checkpoint(path)
    save_checkpoint(tmp_path / "y.safetensors", files.network(), model="lenet5")
    assert read.model == "lenet5"
    assert read.weights == read_checkpoint(tmp_path / "y.safetensors").weights
    assert same(read)


def test_a_pickled_module_gives_its_weights_and_runs_no_code(tmp_path):
    module = nn.DataParallel(files.network("mnist-cnn-bn"))
    read = read_checkpoint(kept(tmp_path / "x.pt", {"net": module, "epoch": 3}))
    assert same(read, files.network("mnist-cnn-bn"))
    assert any("its code is not run" in note for note in read.notes)


def test_weights_of_a_dill_file_load(tmp_path):
    dill = pytest.importorskip("dill")
    state = prefixed("module.model.") | prefixed("module.attacker.model.")
    value = {"model": state, "schedule": lambda epoch: 0.1 * epoch, "epoch": 5}
    read = read_checkpoint(kept(tmp_path / "x.pt", value, pickle_module=dill))
    assert same(read)
    assert read.extra["epoch"] == 5


def test_the_layout_of_madrylab_loads_with_its_normalisation(tmp_path):
    mean, std = torch.tensor([0.2]).view(1, 1, 1), torch.tensor([0.3]).view(1, 1, 1)
    state = (
        prefixed("module.model.")
        | prefixed("module.attacker.model.")
        | {"module.normalizer.new_mean": mean, "module.normalizer.new_std": std}
        | {"module.attacker.normalize.new_mean": mean, "module.attacker.normalize.new_std": std}
    )
    read = read_checkpoint(kept(tmp_path / "x.pt", {"model": state}))
    assert (read.prefix, read.preprocessing) == ("module.model.", "in the checkpoint")
    assert torch.equal(read.load()(X), files.network()((X - mean) / std))


@pytest.mark.parametrize(
    "names", [("mean", "std"), ("mu", "sigma"), ("normalize.mean", "normalize.std")]
)
def test_normalisation_in_the_checkpoint_is_kept(names, tmp_path):
    mean, std = torch.full((1, 1, 1, 1), 0.2), torch.full((1, 1, 1, 1), 0.3)
    beside = dict(zip(names, (mean, std), strict=True))
    state = (prefixed("model.") if "." in names[0] else files.network().state_dict()) | beside
    read = read_checkpoint(kept(tmp_path / "x.pt", state))
    assert read.preprocessing == "in the checkpoint"
    assert torch.equal(read.load()(X), files.network()((X - mean) / std))
    replaced = read_checkpoint(tmp_path / "x.pt", mean=[0.5], std=[0.5])
    assert replaced.preprocessing == "given"
    assert any("replaced" in warning for warning in replaced.warnings)
    assert torch.equal(replaced.load()(X), files.network()((X - 0.5) / 0.5))


def test_a_model_that_normalises_itself_is_known_to_do_so(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        class Normalise(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
                self.register_buffer("std", torch.full((3, 1, 1), 0.5))
            def forward(self, x):
                return (x - self.mean) / self.std
        def build():
            return nn.Sequential(Normalise(), nn.Flatten(), nn.Linear(192, 5))
        """)
    )
    network = models.build(f"{source}:build", seed=5)
    read = read_checkpoint(kept(tmp_path / "x.pt", network.state_dict()), model=f"{source}:build")
    assert (read.preprocessing, read.mean, read.warnings) == ("in the checkpoint", None, ())
    assert same(read, network, IMAGES)


def test_of_several_sets_of_weights_the_documented_one_is_used(tmp_path):
    other = {key: value + 1 for key, value in files.network().state_dict().items()}
    value = {"state_dict": other, "state_dict_ema": files.network().state_dict()}
    read = read_checkpoint(kept(tmp_path / "x.pt", value))
    assert read.container == "state_dict_ema"
    assert any("not state_dict" in note for note in read.notes)
    assert same(read)
    value = {"last": other, "best": files.network().state_dict()}
    assert same(read_checkpoint(kept(tmp_path / "y.pt", value)))
    value = {"state_dict": [files.network().state_dict(), other]}
    assert any("first" in n for n in read_checkpoint(kept(tmp_path / "z.pt", value)).notes)


def test_sets_of_weights_whose_names_tell_nothing_are_refused(tmp_path):
    value = {"teacher": files.network().state_dict(), "student": files.network().state_dict()}
    with pytest.raises(CheckpointError, match="teacher, student"):
        read_checkpoint(kept(tmp_path / "x.pt", value))


def test_a_prefix_is_stripped_from_the_front_only(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        textwrap.dedent("""
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = nn.ModuleDict({"module": nn.Linear(192, 4)})
                self.model = nn.Linear(4, 3)
            def forward(self, x):
                return self.model(self.backbone["module"](x.flatten(1)))
        """)
    )
    network = models.build(f"{path}:Net", seed=0)
    for number, prefix in enumerate(("", "module.", "model.module.")):
        file = kept(tmp_path / f"{number}.pt", prefixed(prefix, network.state_dict()))
        read = read_checkpoint(file, model=f"{path}:Net")
        assert read.prefix == prefix
        assert same(read, network, IMAGES)


# -- what stands next to the weights --------------------------------------------------------------


def test_what_research_code_saves_beside_the_weights_is_kept_or_ignored(tmp_path):
    optimizer = torch.optim.Adam(files.network().parameters())
    value = {
        "state_dict": files.network().state_dict(),
        "best_acc1": np.float64(93.5),
        "history": np.arange(5.0),
        "args": argparse.Namespace(
            seed=7, loss="margin", noise_rate=0.4, dataset="/data/MNIST", device=torch.device("cpu")
        ),
        "optimizer": optimizer.state_dict(),
        "rng": {1, 2, 3},
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
    }
    read = read_checkpoint(kept(tmp_path / "x.pt", value))
    assert same(read)
    assert (read.seed, read.loss, read.label_noise, read.trained_on) == (7, "margin", 0.4, "MNIST")
    assert read.recorded_accuracy == pytest.approx(0.935)
    assert any("argparse.Namespace" in note for note in read.notes)
    json.dumps(read.extra)


def test_weights_kept_as_numpy_arrays_load(tmp_path):
    state = {key: value.numpy() for key, value in files.network().state_dict().items()}
    state["fc1.weight"] = np.asfortranarray(state["fc1.weight"])
    path = tmp_path / "x.pkl"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"model": state}, protocol=protocol))
        assert same(read_checkpoint(path))


@pytest.mark.parametrize(
    ("dtype", "says", "tolerance"),
    [
        (torch.float16, "half precision", 1e-2),
        (torch.bfloat16, "bfloat16", 1e-1),
        (torch.float64, "double precision", 0),
    ],
)
def test_other_precisions_are_loaded_as_float32_and_said_so(dtype, says, tolerance, tmp_path):
    state = {key: value.to(dtype) for key, value in files.network().state_dict().items()}
    read = read_checkpoint(kept(tmp_path / "x.pt", state))
    assert any(says in note and "float32" in note for note in read.notes)
    logits = read.load()(X)
    assert logits.dtype == torch.float32
    assert (logits - files.network()(X)).abs().max() <= tolerance


INTEGERS = ["int8", "uint8", "int16", "int32", "int64", "bool"]


@pytest.mark.parametrize("form", ["zip", "safetensors", "numpy"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_in_the_place_of_weights_are_refused(dtype, form, tmp_path):
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pt")
    state = {
        k: (v * 100).to(getattr(torch, dtype)) for k, v in files.network().state_dict().items()
    }
    if form == "safetensors":
        save_file(state, path)
    elif form == "numpy":
        path.write_bytes(pickle.dumps({key: value.numpy() for key, value in state.items()}))
    else:
        kept(path, state)
    with pytest.raises(CheckpointError, match=f"is {dtype}, but the network expects float32"):
        read_checkpoint(path, model="lenet5")


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("key", ["bn1.running_mean", "bn2.bias", "conv1.weight"])
def test_a_single_integer_tensor_among_the_weights_is_refused(key, dtype, tmp_path):
    state = files.network("mnist-cnn-bn").state_dict()
    state[key] = (state[key] * 100).to(getattr(torch, dtype))
    with pytest.raises(CheckpointError, match=f"'{key}' is {dtype}"):
        read_checkpoint(kept(tmp_path / "x.pt", state))


@pytest.mark.parametrize("name", ["weight norm", "spectral norm", "pruning"])
def test_parametrised_weights_of_integers_are_refused_in_one_line(name, tmp_path):
    parts = {
        "weight norm": ("_g", "_v"),
        "spectral norm": ("_orig", "_u", "_v"),
        "pruning": ("_orig", "_mask"),
    }[name]
    state = files.network().state_dict()
    weight = state.pop("fc3.weight")
    for part in parts:
        state[f"fc3.weight{part}"] = (weight * 100).to(torch.int8)
    with pytest.raises(CheckpointError, match=r"fc3\.weight"):
        read_checkpoint(kept(tmp_path / "x.pt", state), model="lenet5")


def test_indices_that_were_saved_as_other_numbers_load_where_they_are_the_same(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(192, 3)
                self.register_buffer("order", torch.arange(192).flip(0))
                self.register_buffer("seen", torch.arange(192) % 2 == 0)
            def forward(self, x):
                return self.head((x.flatten(1) * self.seen)[:, self.order])
        """)
    )
    network = models.build(f"{source}:Net", seed=0)
    state = network.state_dict()
    state["order"], state["seen"] = state["order"].float(), state["seen"].to(torch.uint8)
    read = read_checkpoint(kept(tmp_path / "x.pt", state), model=f"{source}:Net")
    assert same(read, network, IMAGES)
    for key, wrong in (("order", state["order"] + 0.5), ("seen", state["seen"] * 2)):
        file = kept(tmp_path / "y.pt", state | {key: wrong})
        with pytest.raises(CheckpointError, match=f"'{key}' is \\w+, but"):
            read_checkpoint(file, model=f"{source}:Net")


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_batch_counter_may_have_any_type(dtype, tmp_path):
    state = files.network("mnist-cnn-bn").state_dict()
    for key in state:
        if key.endswith("num_batches_tracked"):
            state[key] = state[key].to(getattr(torch, dtype)) + 3
    assert same(read_checkpoint(kept(tmp_path / "x.pt", state)), files.network("mnist-cnn-bn"))


# -- parametrisations -----------------------------------------------------------------------------


def parametrised(kind):
    """A network with parametrised layers in eval mode, after some forward passes in train mode."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch deprecates the hooks, files remain
        for layer in (network[0], network[1], network[3]):
            kind(layer)
        for _ in range(30):
            network.train()(IMAGES)
    return network.eval()


KINDS = {
    "weight norm": nn.utils.weight_norm,
    "weight norm of another dimension": lambda layer: nn.utils.weight_norm(layer, dim=1),
    "weight norm of the whole": lambda layer: nn.utils.weight_norm(layer, dim=None),
    "weight norm, parametrised": parametrizations.weight_norm,
    "weight norm of the whole, parametrised": lambda layer: parametrizations.weight_norm(
        layer, dim=None
    ),
    "spectral norm": nn.utils.spectral_norm,
    "spectral norm, parametrised": parametrizations.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "pruning of the bias": lambda layer: prune.l1_unstructured(layer, "bias", amount=0.5),
}


@pytest.mark.parametrize("name", KINDS)
def test_parametrised_weights_fold_to_what_torch_computes(name, tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        textwrap.dedent("""
        from torch import nn
        def plain():
            return nn.Sequential(
                nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 3, padding=1),
                nn.Flatten(), nn.Linear(256, 5),
            )
        """)
    )
    network = parametrised(KINDS[name])
    path = kept(tmp_path / "x.pt", prefixed("module.", network.state_dict()))
    read = read_checkpoint(path, model=f"{source}:plain")
    expected = [
        getattr(layer, n)
        for layer in (network[0], network[1], network[3])
        for n in ("weight", "bias")
    ]
    loaded = read.load().network
    found = [
        getattr(layer, n) for layer in (loaded[0], loaded[1], loaded[3]) for n in ("weight", "bias")
    ]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert any("folded" in note for note in read.notes)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("sizes", [(1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
def test_weight_norm_of_a_single_channel_folds_along_its_dimension(norm, sizes, dim):
    layer = nn.ConvTranspose2d(*sizes, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as above
        norm(layer, dim=dim)
    plain, kinds = folded({k: v.numpy() for k, v in layer.state_dict().items()}, {})
    layer(torch.ones(1, sizes[0], 3, 3))
    assert kinds == ("weight norm",)
    assert np.array_equal(plain["weight"], layer.weight.detach().numpy())


def test_a_model_that_is_parametrised_itself_is_not_folded(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(
        textwrap.dedent("""
        from torch import nn
        from torch.nn.utils.parametrizations import weight_norm
        def build():
            return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(192, 5)))
        """)
    )
    network = models.build(f"{source}:build", seed=5)
    read = read_checkpoint(kept(tmp_path / "x.pt", network.state_dict()), model=f"{source}:build")
    assert same(read, network, IMAGES)
    assert not any("folded" in note for note in read.notes)


# -- fit and recognition --------------------------------------------------------------------------


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", models.MODELS)
def test_every_registry_model_is_recognised_with_its_classes(name, tmp_path):
    network = files.network(name, num_classes=7)
    read = read_checkpoint(kept(tmp_path / "x.pt", network.state_dict()))
    assert (read.model, read.num_classes) == (name, 7)
    assert read.input_shape == models.MODELS[name].shape
    assert guesses(read) == [architecture.guess(name)]
    assert same(read, network, torch.rand(2, *read.input_shape))


def guesses(read):
    """The warnings that an architecture was recognised by keys and shapes alone."""
    return [warning for warning in read.warnings if "by its keys and shapes alone" in warning]


def cifar_resnet_with_its_pool():
    made = torchvision.models.resnet18(num_classes=10)
    made.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return made.eval()


def test_a_network_that_only_looks_like_one_of_the_registrys_is_warned_of(tmp_path):
    network, x = cifar_resnet_with_its_pool(), torch.rand(2, 3, 32, 32)
    read = read_checkpoint(kept(tmp_path / "x.pt", network.state_dict()))
    assert (read.model, read.recognised) == ("resnet18-cifar", True)
    assert not torch.allclose(read.load()(x), network(x), atol=1e-2)
    (told,) = guesses(read)
    assert "--model resnet18-cifar says that it is this one" in told
    assert ("warning", told) in checkpoint.describe(read)
    # from there it goes to the terminal, the record and its page
    assert told in from_checkpoint(read).warnings


def test_who_says_which_architecture_it_is_is_not_warned(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    assert guesses(read_checkpoint(path))
    said = read_checkpoint(path, model="lenet5")
    assert (guesses(said), said.recognised) == ([], False)
    checkpoint.write_sidecar(said)
    assert guesses(read_checkpoint(path)) == []
    save_checkpoint(tmp_path / "x.safetensors", files.network(), model="lenet5")
    assert guesses(read_checkpoint(tmp_path / "x.safetensors")) == []


def test_a_sidecar_does_not_make_a_guess_somebodys_word(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    first = read_checkpoint(path)
    written = checkpoint.write_sidecar(first)
    assert "lenet5" not in written.read_text()
    second = read_checkpoint(path)
    assert guesses(second) == guesses(first) != []
    assert second.identity == first.identity


def test_an_unknown_architecture_can_be_described_but_not_loaded(tmp_path):
    read = read_checkpoint(kept(tmp_path / "x.pt", {"fc.weight": torch.rand(3, 4)}))
    assert read.model is None
    assert checkpoint.describe(read)
    with pytest.raises(CheckpointError, match="--model"):
        read.load()


def test_what_does_not_fit_is_named(tmp_path):
    state = files.network().state_dict()
    state["fc9.weight"] = state.pop("fc3.weight")
    state["conv1.bias"] = torch.zeros(8)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(kept(tmp_path / "x.pt", state), model="lenet5")
    message = str(caught.value)
    assert "missing: fc3.weight" in message
    assert "unexpected: fc9.weight" in message
    assert "conv1.bias (8 in the file, 6 in the model)" in message
    assert "\n" not in message


def test_a_wrong_model_is_told_which_one_fits(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    with pytest.raises(CheckpointError, match="it fits --model lenet5"):
        read_checkpoint(path, model="mnist-cnn")


def test_a_wrong_number_of_classes_has_its_own_sentence(tmp_path):
    path = kept(tmp_path / "x.pt", files.network(num_classes=7).state_dict())
    for model in (None, "lenet5"):
        with pytest.raises(
            CheckpointError, match="last layer has 7 classes, but --num-classes is 10"
        ):
            read_checkpoint(path, model=model, num_classes=10)
    source = tmp_path / "net.py"
    source.write_text("from robustkit.models.lenet5 import lenet5\n")
    with pytest.raises(CheckpointError, match=r"7 classes, but .*:lenet5 builds 10"):
        read_checkpoint(path, model=f"{source}:lenet5")


def test_torchvision_models_get_their_classes_from_the_file(tmp_path):
    network = models.build("torchvision:squeezenet1_1", num_classes=6, seed=0).eval()
    path = kept(tmp_path / "x.pt", {"state_dict": prefixed("module.", network.state_dict())})
    read = read_checkpoint(path, model="torchvision:squeezenet1_1")
    assert read.num_classes == 6
    assert same(read, network, torch.rand(1, 3, 64, 64))


def test_missing_batch_counters_do_not_matter(tmp_path):
    network = files.network("mnist-cnn-bn")
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    with_counters = read_checkpoint(kept(tmp_path / "x.pt", network.state_dict()))
    without = read_checkpoint(kept(tmp_path / "y.pt", state))
    assert same(without, network)
    assert with_counters.weights == without.weights


def test_reading_leaves_torchs_generator_alone(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    before = torch.get_rng_state()
    read_checkpoint(path).load()
    assert torch.equal(before, torch.get_rng_state())


# -- what is known, and from where ----------------------------------------------------------------

FACTS = {
    "num_classes": 10,
    "mean": (0.25,),
    "std": (0.5,),
    "loss": "cross-entropy",
    "label_noise": 0.2,
    "data_fraction": 0.5,
    "seed": 3,
    "trained_on": "mnist5k",
    "recorded_accuracy": 0.97,
}


def test_a_saved_checkpoint_describes_itself(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, files.network(), model="lenet5", epochs=20, **FACTS)
    read = read_checkpoint(path)
    assert {name: getattr(read, name) for name in FACTS} == FACTS
    assert read.extra == {"epochs": 20}
    assert (read.model, read.preprocessing, read.warnings) == ("lenet5", "recorded", ())
    assert torch.equal(read.load()(X), files.network()((X - 0.25) / 0.5))


def test_a_saved_checkpoint_without_normalisation_is_known_to_need_none(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", files.network(), model="lenet5")
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert (read.preprocessing, read.mean, read.warnings) == ("recorded", None, ())


def test_saving_twice_gives_the_same_bytes(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        save_checkpoint(path, files.network(), model="lenet5", epochs=20, **FACTS)
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_sidecar_says_the_same_again(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    first = read_checkpoint(path, mean=[0.25], std=[0.5])
    written = checkpoint.write_sidecar(first)
    assert written == tmp_path / "x.pt.toml"
    second = read_checkpoint(path)
    assert (second.mean, second.std, second.preprocessing) == ((0.25,), (0.5,), "recorded")
    assert second.identity == first.identity
    kept(path, files.network(seed=1).state_dict())
    assert any("another version" in warning for warning in read_checkpoint(path).warnings)


def test_flags_go_before_the_sidecar_and_that_before_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, files.network(), model="lenet5", seed=1, loss="a", mean=[0.1], std=[0.1])
    (tmp_path / "x.safetensors.toml").write_text("seed = 2\nmean = [0.2]\nstd = [0.2]\n")
    read = read_checkpoint(path)
    assert (read.seed, read.loss, read.mean) == (2, "a", (0.2,))
    assert read_checkpoint(path, mean=[0.3], std=[0.3]).mean == (0.3,)


def test_unknown_normalisation_is_said_to_be_assumed(tmp_path):
    read = read_checkpoint(kept(tmp_path / "x.pt", files.network().state_dict()))
    assert read.preprocessing == "assumed none"
    assert any("--mean" in warning for warning in read.warnings)


ONE_FOR_ALL = {
    "number": 0.5,
    "integer's fraction": Fraction(1, 2),
    "NumPy's number": np.float32(0.5),
    "tensor without dimensions": torch.tensor(0.5),
}


@pytest.mark.one_of_many(4)
@pytest.mark.parametrize("name", ["lenet5", "resnet18-cifar"])
@pytest.mark.parametrize("kind", ONE_FOR_ALL)
def test_one_number_normalises_all_channels_and_is_the_same_question(kind, name, tmp_path):
    network = files.network(name)
    path = kept(tmp_path / "x.pt", network.state_dict())
    read = read_checkpoint(path, mean=ONE_FOR_ALL[kind], std=0.25)
    channels = read.input_shape[0]
    each = read_checkpoint(path, mean=[0.5] * channels, std=[0.25] * channels)
    assert read.identity == each.identity
    assert read_checkpoint(path, mean=(0.5,), std=(0.25,)).identity == each.identity
    x = torch.rand(2, *read.input_shape)
    assert torch.equal(read.load()(x), network((x - 0.5) / 0.25))
    # beside numbers per channel, too
    mixed = read_checkpoint(path, mean=[0.5] * channels, std=ONE_FOR_ALL[kind])
    assert mixed.std == (0.5,) * channels


@pytest.mark.parametrize("values", [(0.5, 0.25, 0.125), [np.float32(v) for v in (0.5, 0.25, 0.125)],
                                    np.array([0.5, 0.25, 0.125]), map(float, (0.5, 0.25, 0.125)),
                                    torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1)],
                         ids=["tuple", "NumPy's numbers", "array", "iterator", "N×C×H×W"])  # fmt: skip
def test_numbers_per_channel_may_be_of_any_library(values, tmp_path):
    path = kept(tmp_path / "x.pt", files.network("resnet18-cifar").state_dict())
    assert read_checkpoint(path, mean=values, std=1).mean == (0.5, 0.25, 0.125)


NO_NUMBERS = ["0.5,0.5", "0.5", b"ab", True, [True], ["a"], [[0.5]], {0.5: 1}, {0.5}, object(),
              [None], 1j, torch.tensor(True), np.array(["a"]), 10**400]  # fmt: skip


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("option", ["mean", "std"])
def test_a_mean_that_is_no_number_is_told_before_anything_is_fetched(option, value, monkeypatch):
    def fetched(*_):
        raise AssertionError("fetched")

    monkeypatch.setattr("robustkit.checkpoint.named.locate", fetched)
    options = {"mean": 0.5, "std": 0.5} | {option: value}
    expected = f"^{option}: expected a number, or one per channel"
    for name in ("lenet5-mnist5k", "hf:org/net"):
        with pytest.raises(CheckpointError, match=expected) as caught:
            read_checkpoint(name, **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"mean": 0.5}, {"num_classes": 1}, {"num_classes": "10"}, {"ignore": ""}, {"rename": "a"},
     {"mean": float("nan"), "std": 1}],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_told_before_anything_is_fetched(options, monkeypatch):
    def fetched(*_):
        raise AssertionError("fetched")

    monkeypatch.setattr("robustkit.checkpoint.named.locate", fetched)
    with pytest.raises(CheckpointError):
        read_checkpoint("hf:org/net", **options)


def test_a_checkpoint_is_saved_with_one_number_for_all_channels(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", files.network(), model="lenet5", mean=0.25, std=0.5)
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert (read.mean, read.std) == ((0.25,), (0.5,))
    with pytest.raises(CheckpointError, match=r"^mean: expected a number"):
        save_checkpoint(
            tmp_path / "y.safetensors", files.network(), model="lenet5", mean="0.25", std=0.5
        )


def test_the_identity_changes_with_what_can_change_a_logit(tmp_path, monkeypatch):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    source = tmp_path / "net.py"
    source.write_text("from robustkit.models.lenet5 import lenet5\n")
    other = kept(tmp_path / "y.pt", files.network(seed=1).state_dict())
    own = f"{source}:lenet5"
    kinds = [read_checkpoint(path), read_checkpoint(other), read_checkpoint(path, model=own)]
    kinds.append(read_checkpoint(path, mean=[0.1], std=[1.0]))
    kinds.append(read_checkpoint(path, mean=[0.1], std=[0.5]))
    kinds.append(read_checkpoint(path, mean=[0.2], std=[0.5]))
    source.write_text("from robustkit.models.lenet5 import lenet5\n# changed\n")
    kinds.append(read_checkpoint(path, model=own))
    assert len({json.dumps(kind.identity, sort_keys=True) for kind in kinds}) == len(kinds)
    again = kept(
        tmp_path / "z.pt", {"net": prefixed("module.")}, _use_new_zipfile_serialization=False
    )
    assert read_checkpoint(again).identity == read_checkpoint(path).identity
    monkeypatch.setattr("robustkit.checkpoint.reading.ADAPTER", "another classifier")
    assert read_checkpoint(path).identity != kinds[0].identity


def test_the_weights_digest_changes_with_names_types_shapes_and_numbers():
    plain = np.arange(6, dtype=np.int32).reshape(2, 3)
    states = [
        {"a": plain},
        {"b": plain},  # the same bytes, all of them
        {"a": plain.view(np.float32)},
        {"a": plain.reshape(3, 2)},
        {"a": plain.reshape(6)},
        {"a": plain[:1], "b": plain[1:]},
        {"a": plain + 1},
    ]
    assert len({weights_digest(state) for state in states}) == len(states)
    assert weights_digest({"a": np.ascontiguousarray(plain.T).T}) == weights_digest({"a": plain})
    both = {"a": plain, "b": plain + 1}
    assert weights_digest(dict(reversed(both.items()))) == weights_digest(both)


def test_describing_says_what_was_recognised(tmp_path):
    path = kept(tmp_path / "x.pt", {"model": prefixed("module."), "args": {"seed": 4}})
    rows = checkpoint.describe(read_checkpoint(path))
    for row in [
        ("format", "torch zip"),
        ("container", "model"),
        ("prefix", "module."),
        ("model", "lenet5"),
        ("classes", "10"),
        ("input shape", "1×28×28"),
        ("seed", "4"),
        ("loss", "unknown"),
    ]:
        assert row in rows


# -- programs -------------------------------------------------------------------------------------


def scripted(path, module, sample=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers torch.export and says so
        made = torch.jit.script(module) if sample is None else torch.jit.trace(module, sample)
        made.save(str(path))
    return path


class FrozenBatch(nn.Module):
    """Takes batches of 4 only."""

    def __init__(self):
        super().__init__()
        self.network = files.network()

    def forward(self, x):
        return self.network(x.reshape(4, 1, 28, 28))


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("kind", ["script", "trace", "frozen trace", "export"])
def test_programs_need_the_users_word_and_then_give_gradients(kind, tmp_path):
    network, path = files.network(), tmp_path / "x.pt2"
    if kind == "export":
        files.exported(path)
    elif kind == "frozen trace":
        scripted(path, FrozenBatch().eval(), torch.rand(4, 1, 28, 28))
    else:
        scripted(path, network, X if kind == "trace" else None)
    with pytest.raises(CheckpointError, match=r"runs its code.*--trust-program"):
        read_checkpoint(path)
    # as a worker on another device has it
    read = pickle.loads(
        pickle.dumps(read_checkpoint(path, trust_program=True, mean=[0.25], std=[0.5]))
    )
    loaded = read.load()
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert read.identity["program"] == read.sha256
    for n in (1, 3, 7):
        x = torch.rand(n, 1, 28, 28, requires_grad=True)
        expected = network((x - 0.25) / 0.5)
        (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
        (wanted,) = torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(loaded(x), expected)
        torch.testing.assert_close(gradient, wanted)


def test_an_export_tells_its_classes_and_input(tmp_path):
    read = read_checkpoint(files.exported(tmp_path / "x.pt2"), trust_program=True)
    assert (read.num_classes, read.input_shape) == (10, (1, 28, 28))
    assert any("batch size 3" in note for note in read.notes)


def test_an_export_in_training_mode_is_warned_of(tmp_path):
    network = files.network("mnist-cnn-bn").train()
    torch.export.save(torch.export.export(network, (torch.rand(3, 1, 28, 28),)), tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True)
    assert any("training mode" in warning for warning in read.warnings)


class Half(nn.Module):
    """A network with weights of one type that is given images of another, or of the same."""

    def __init__(self, kind, casts, beside=False):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(676, 5))
        self.network = self.network.to(kind)
        self.kind = kind if casts else None
        self.last = nn.Linear(5, 5) if beside else None  # in float32

    def forward(self, x):
        logits = self.network(x if self.kind is None else x.to(self.kind))
        return logits if self.last is None else self.last(logits.float())


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("beside", [False, True], ids=["one type", "two types"])
@pytest.mark.parametrize("casts", [False, True], ids=["given its type", "casts itself"])
@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "fixed batch"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_an_export_is_given_pixels_in_the_type_of_its_input(kind, fixed, casts, beside, tmp_path):
    torch.manual_seed(0)
    made = Half(kind, casts, beside).eval()
    taken = torch.float32 if casts else kind
    some = None if fixed else ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(made, (X.to(taken),), dynamic_shapes=some)
    torch.export.save(exported, tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True, mean=0.5, std=0.25)
    # as a worker has it
    loaded = pickle.loads(pickle.dumps(read)).load()
    x = X.clone().requires_grad_()
    expected = made(((x - 0.5) / 0.25).to(taken))
    torch.testing.assert_close(loaded(x), expected, check_dtype=False)
    (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("traced", [False, True], ids=["script", "trace"])
@pytest.mark.parametrize("beside", [False, True], ids=["one type", "two types"])
@pytest.mark.parametrize("casts", [False, True], ids=["given its type", "casts itself"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_torchscript_that_casts_itself_keeps_its_types(kind, casts, beside, traced, tmp_path):
    torch.manual_seed(0)
    made = Half(kind, casts, beside).eval()
    path = scripted(
        tmp_path / "x.pt", made, X.to(torch.float32 if casts else kind) if traced else None
    )
    read = read_checkpoint(path, trust_program=True, mean=0.5, std=0.25)
    # as a worker has it
    loaded = pickle.loads(pickle.dumps(read)).load()
    x = X.clone().requires_grad_()
    expected = (made if casts else made.float())((x - 0.5) / 0.25)
    for _ in range(2):
        torch.testing.assert_close(loaded(x), expected, check_dtype=False)
    (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


def test_torchscript_that_casts_within_is_given_its_own_type(tmp_path):
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(784, 5).half(), nn.Linear(5, 5).half()

        def forward(self, x):
            return self.last(self.first(x.flatten(1)).float().softmax(1).half())

    made = Within().eval()
    read = read_checkpoint(scripted(tmp_path / "x.pt", made), trust_program=True)
    loaded = read.load()
    for n in (3, 1, 4):
        x = torch.rand(n, 1, 28, 28)
        torch.testing.assert_close(loaded(x), made(x.half()), check_dtype=False)


@pytest.mark.parametrize("casts", [False, True], ids=["given its type", "casts itself"])
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (torch.float16, "half precision"),
        (torch.bfloat16, "bfloat16"),
        (torch.float64, "double precision"),
        (torch.float32, None),
    ],
    ids=str,
)
def test_torchscript_of_another_type_is_told_of_only_if_it_is_converted(
    kind, word, casts, tmp_path
):
    path = scripted(tmp_path / "x.pt", Half(kind, casts).eval())
    read = read_checkpoint(path, trust_program=True)
    expected = [] if casts or word is None else [f"{word} converted to float32"]
    assert [note for note in read.notes if "converted" in note] == expected


class Grouped(nn.Module):
    """A network that takes images alone, or in groups of so many."""

    def __init__(self, parts=1):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(676, 10))
        self.parts = parts

    def forward(self, x):
        if self.parts > 1:
            x = x.reshape(-1, self.parts, *x.shape[1:]).flatten(0, 1)
        return self.network(x)


BATCHES = {
    "at most": ({"max": 32}, "batches of at most 32"),
    "at least": ({"min": 4}, "batches of at least 4"),
    "between": ({"min": 4, "max": 8}, "batches of 4 to 8"),
    "any": ({}, None),
    "any but one": ({"min": 2}, None),
}


@pytest.mark.parametrize("name", BATCHES)
def test_an_export_is_run_in_batches_that_it_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits, told = BATCHES[name]
    made, some = Grouped().eval(), ({0: torch.export.Dim("batch", **limits)},)
    exported = torch.export.export(made, (torch.rand(5, 1, 28, 28),), dynamic_shapes=some)
    torch.export.save(exported, tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True)
    notes = [note for note in read.notes if "batch" in note]
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]
    loaded = pickle.loads(pickle.dumps(read)).load()
    for n in (1, 3, 9, 40, 128):
        x = torch.rand(n, 1, 28, 28, requires_grad=True)
        torch.testing.assert_close(loaded(x), made(x))
        (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
        torch.testing.assert_close(gradient, torch.autograd.grad(made(x).sum(), x)[0])
    found = robustkit.evaluate(read, attack="fgsm", data="mnist5k", limit=40)
    assert len(found.rows) == 40


@pytest.mark.parametrize("limits", [{}, {"max": 8}], ids=["any", "at most"])
def test_an_export_of_a_multiple_is_run_in_batches_of_it(limits, tmp_path):
    some = ({0: 4 * torch.export.Dim("batch", **limits)},)
    made = Grouped(parts=4).eval()
    exported = torch.export.export(made, (torch.rand(8, 1, 28, 28),), dynamic_shapes=some)
    torch.export.save(exported, tmp_path / "x.pt2")
    loaded = read_checkpoint(tmp_path / "x.pt2", trust_program=True).load()
    for n in (1, 3, 9, 40, 128):
        x = torch.rand(n, 1, 28, 28)
        torch.testing.assert_close(loaded(x), made.network(x))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_an_export_of_another_type_is_evaluated(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Half(kind, casts=False).eval()
    made.network[2] = nn.Linear(676, 10).to(kind)
    some = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(made, (X.to(kind),), dynamic_shapes=some)
    torch.export.save(exported, tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True)
    found = robustkit.evaluate(read, attack="fgsm", data="mnist5k", limit=8)
    with torch.no_grad():
        images = torch.from_numpy(load_dataset("mnist5k").take(range(8)).images(0, 8))
        expected = made(images.to(kind)).argmax(1)
    rows = found.table.to_pydict()
    clean = dict(zip(rows["index"], rows["predicted"], strict=True))
    assert list(clean.values()) == expected.tolist()


def test_the_normalisation_of_an_export_in_bfloat16_is_found(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.full((1, 1, 1), 0.5))
            self.register_buffer("std", torch.full((1, 1, 1), 0.5))
            self.layer = nn.Linear(784, 5)

        def forward(self, x):
            return self.layer(((x - self.mean) / self.std).flatten(1))

    exported = torch.export.export(Own().bfloat16().eval(), (X.bfloat16(),))
    torch.export.save(exported, tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True)
    assert read.preprocessing == "in the checkpoint"


def test_an_export_of_integer_images_is_refused_in_one_line(tmp_path):
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(784, 5)

        def forward(self, x):
            return self.layer(x.float().flatten(1) / 255)

    exported = torch.export.export(Scales().eval(), (X.to(torch.uint8),))
    torch.export.save(exported, tmp_path / "x.pt2")
    with pytest.raises(CheckpointError, match="a program of uint8 images"):
        read_checkpoint(tmp_path / "x.pt2", trust_program=True)


@pytest.mark.parametrize("moment", ["judged", "loaded", "digested"])
@pytest.mark.parametrize("kind", ["script", "export"])
def test_a_program_whose_file_is_replaced_meanwhile_is_one_file(
    kind, moment, tmp_path, monkeypatch
):
    path, other = tmp_path / "x.pt2", tmp_path / "other.pt2"
    networks = [Half(torch.float32, casts=False).eval() for _ in range(2)]
    for place, made in zip((path, other), networks, strict=True):
        if kind == "script":
            scripted(place, made, X)
        else:
            torch.export.save(torch.export.export(made, (X,)), place)
    first = file_digest(path)

    def replaced(function):
        def called(*arguments, **options):
            if other.exists():
                other.replace(path)
            return function(*arguments, **options)

        return called

    if moment == "judged":
        monkeypatch.setattr(reading, "detect_format", replaced(reading.detect_format))
    elif moment == "loaded" and kind == "script":
        monkeypatch.setattr(torch.jit, "load", replaced(torch.jit.load))
    elif moment == "loaded":
        monkeypatch.setattr(torch.export, "load", replaced(torch.export.load))
    else:
        monkeypatch.setattr(program, "open_digest", replaced(program.open_digest))
    read = read_checkpoint(path, trust_program=True)
    assert not other.exists()
    assert read.sha256 == read.identity["program"] == first
    torch.testing.assert_close(read.load()(X), networks[0](X))
    # and what took its name is another network
    again = read_checkpoint(path, trust_program=True)
    assert again.identity != read.identity
    torch.testing.assert_close(again.load()(X), networks[1](X))


def test_a_damaged_program_gets_one_line(tmp_path):
    path = files.torch_zip(tmp_path / "x.pt", b"\x80\x02}.", **{"constants.pkl": b"x"})
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        read_checkpoint(path, trust_program=True)
    assert "\n" not in str(caught.value)


# -- the frozen classifier ------------------------------------------------------------------------


class Returns(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.linear, self.made = nn.Linear(784, 10), made

    def forward(self, x):
        return self.made(self.linear(x.flatten(1)))


Output = collections.namedtuple("Output", "loss logits")


@pytest.mark.parametrize(
    "made",
    [
        lambda y: y,
        lambda y: argparse.Namespace(logits=y),
        lambda y: {"logits": y, "loss": None},
        lambda y: {"scores": y},
        lambda y: (y, "features"),
        lambda y: [y],
        lambda y: Output(None, y),
        lambda y: ({"logits": y},),
    ],
)
def test_logits_are_unwrapped(made):
    module = Returns(made)
    assert torch.equal(checkpoint.wrap(module)(X), module.linear(X.flatten(1)))


@pytest.mark.parametrize(
    "made",
    [
        lambda y: {"classes": y.argmax(1)},
        lambda y: {"scores": y[:1]},
        lambda y: y.argmax(1),
        lambda y: y[:1],
        lambda y: y.reshape(-1, 2, 5),
        lambda y: y.long(),
        lambda y: (),
        lambda y: None,
    ],
)
def test_what_is_not_logits_is_an_error(made):
    with pytest.raises(CheckpointError, match="the model returns"):
        checkpoint.wrap(Returns(made))(X)


def test_wrapping_leaves_the_users_module_as_it_was():
    module = files.network("mnist-cnn-bn").train().double()
    before = copy.deepcopy(module.state_dict())
    wrapped = checkpoint.wrap(module)
    wrapped(X.double()).sum()
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not wrapped.training
    assert not any(parameter.requires_grad for parameter in wrapped.parameters())
    assert wrapped(X.double()).dtype == torch.float64


def test_wrapping_copies_a_module_that_keeps_computed_weights():
    module = parametrised(nn.utils.weight_norm)
    module(IMAGES)
    assert torch.equal(checkpoint.wrap(module)(IMAGES), module(IMAGES))


def test_loading_twice_gives_networks_of_their_own(tmp_path):
    read = read_checkpoint(kept(tmp_path / "x.pt", files.network().state_dict()))
    first, second = read.load(), read.load()
    first.network.conv1.weight.zero_()
    assert torch.equal(second(X), files.network()(X))
    assert same(read)


def test_images_of_another_shape_get_one_line(tmp_path):
    path = kept(tmp_path / "x.pt", files.network().state_dict())
    for x in (torch.rand(2, 3, 28, 28), torch.rand(2, 1, 32, 32)):
        with pytest.raises(NetworkFailed, match=r"the network failed on images of shape \d×"):
            read_checkpoint(path).load()(x)
    network = read_checkpoint(path, mean=[0.1, 0.2, 0.3], std=[1, 1, 1]).load()
    with pytest.raises(InputError, match="1 channels, but the normalisation has 3"):
        network(X)


class Mute(Exception):
    def __str__(self):
        raise ValueError("nothing to say")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("the lamp is out"), "RuntimeError: the lamp is out"),
        (AssertionError("Wrong image height!"), "AssertionError: Wrong image height!"),
        (AssertionError(), "AssertionError"),
        (ValueError("  \nof several\nlines"), "ValueError: of several"),
        (KeyError("missing"), "KeyError: 'missing'"),
        (NotImplementedError("no such path"), "NotImplementedError: no such path"),
        (IndexError("\x1b[2J\x9b gone"), r"IndexError: \x1b[2J\x9b gone"),
        (SystemExit(0), "SystemExit: 0"),
        (StopIteration(), "StopIteration"),
        (Mute(), "Mute"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_an_error_of_the_network_is_told_in_its_own_words(error, words):
    def broken(y):
        raise error

    with pytest.raises(NetworkFailed) as caught:
        checkpoint.wrap(Returns(broken))(X)
    shape = "×".join(map(str, X.shape[1:]))
    assert str(caught.value) == f"the network failed on images of shape {shape}: {words}"
    assert type(caught.value.__cause__) is type(error)
    assert isinstance(caught.value, EvaluationFailed)


def test_a_network_without_end_or_with_another_signature_is_told_in_its_own_words():
    class Endless(torch.nn.Module):
        def forward(self, x):
            return self.forward(x)

    class Two(torch.nn.Module):
        def forward(self, x, y):
            return x + y

    for module, words in ((Endless(), "RecursionError: "), (Two(), "argument: 'y'")):
        with pytest.raises(NetworkFailed, match=words):
            checkpoint.wrap(module)(X)


def test_a_lack_of_memory_is_left_to_whoever_can_ask_for_less():
    def broken(y):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        checkpoint.wrap(Returns(broken))(X)
