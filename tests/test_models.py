import sys
import textwrap
from itertools import pairwise

import pytest
import torch

from robustkit import models
from robustkit.errors import InputError, UnknownName


def write(folder, code, name="net.py"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return path


LINEAR = """
    import torch
    def build():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, {}))
"""


@pytest.mark.parametrize("name", models.MODELS)
def test_every_registry_model_maps_its_images_to_any_number_of_classes(name):
    entry = models.MODELS[name]
    network = models.build(name, num_classes=7).eval()
    assert network(torch.rand(2, *entry.shape)).shape == (2, 7)
    assert entry.key in network.state_dict()
    # layouts.json, by which files are recognised without torch
    assert list(models.layout(name, 7).items()) == list(models.layout_of(network).items())


def test_the_papers_network_has_its_sizes():
    shapes = {k: tuple(v.shape) for k, v in models.build("mnist-cnn").state_dict().items()}
    assert shapes == {
        "conv1.weight": (32, 1, 5, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5, 5),
        "conv2.bias": (64,),
        "fc1.weight": (512, 3136),
        "fc1.bias": (512,),
        "fc2.weight": (10, 512),
        "fc2.bias": (10,),
    }


@pytest.mark.parametrize(
    ("name", "channels", "depth"), [("lsoftmax-mnist", 1, 3), ("lsoftmax-cifar", 3, 4)]
)
def test_the_networks_of_large_margin_softmax_have_the_released_sizes(name, channels, depth):
    network = models.build(name)
    widths = [channels, 64] + [width for width in (64, 128, 256) for _ in range(depth)]
    expected = [(b, a, 3, 3) for a, b in pairwise(widths)] + [(512, 256 * 4 * 4), (10, 512)]
    weights = [p for p in network.parameters() if p.ndim > 1]
    assert [tuple(weight.shape) for weight in weights] == expected
    kinds = [type(layer).__name__ for layer in network]
    one = ["Conv2d", "BatchNorm2d", "ReLU"]
    block = [*one * depth, "MaxPool2d"]
    end = ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds == [*one, *block * 3, *end]
    assert network.ip2.bias is None


def test_the_networks_of_large_margin_softmax_start_as_he_et_al_do():
    network = models.build("lsoftmax-mnist", seed=0)
    for name, weight in network.state_dict().items():
        if weight.ndim > 1:
            fan_in = weight[0].numel()
            error = 4 / (2 * weight.numel()) ** 0.5  # four standard deviations of a spread
            assert float(weight.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=error), name
        elif "bn" not in name and name.endswith("bias"):
            assert not weight.any(), name


def test_no_two_registry_models_have_the_same_weights():
    names = [
        tuple((k, tuple(v.shape)) for k, v in models.build(name).state_dict().items())
        for name in models.MODELS
    ]
    assert len(set(names)) == len(names)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two = (models.build("lenet5", seed=3).state_dict() for _ in range(2))
    other = models.build("lenet5", seed=4).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lenet-5", "did you mean 'lenet5'"),
        ("torchvision:resnet8", "did you mean 'resnet"),
        ("torchvision:deeplabv3_resnet50", "unknown torchvision model"),
        ("timm:resnet1", "did you mean 'resnet"),
        ("timm:hf-hub:someone/something", "unknown timm model"),
        ("keras:resnet", "unknown model"),
    ],
)
def test_unknown_names_get_a_suggestion(name, says):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(UnknownName, match=says):
        models.build(name)


def test_torchvision_models_build_with_any_number_of_classes():
    network = models.build("torchvision:squeezenet1_1", num_classes=3).eval()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert models.source("torchvision:squeezenet1_1").startswith("torchvision:squeezenet1_1 0.")


def test_timm_models_build_with_any_number_of_classes():
    pytest.importorskip("timm")
    network = models.build("timm:resnet10t", num_classes=3).eval()
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_a_library_that_is_missing_is_named(monkeypatch):
    def missing(name):
        raise models.PackageNotFoundError(name)

    monkeypatch.setattr(models, "version", missing)
    with pytest.raises(InputError, match=r"robustkit\[timm\]"):
        models.build("timm:resnet18")


def test_two_files_of_one_name_do_not_collide(tmp_path):
    first = write(tmp_path / "a", LINEAR.format(2))
    second = write(tmp_path / "b", LINEAR.format(3))
    assert models.build(f"{first}:build")[1].out_features == 2
    assert models.build(f"{second}:build")[1].out_features == 3
    assert models.build(f"{first}:build")[1].out_features == 2


def test_a_file_finds_its_neighbours_and_leaves_the_path_as_it_was(tmp_path):
    write(tmp_path / "a", "WIDTH = 5", "neighbour_of_net.py")
    path = write(tmp_path / "a", "from neighbour_of_net import WIDTH\n" + textwrap.dedent(
        LINEAR.format("WIDTH")
    ))  # fmt: skip
    before = list(sys.path)
    assert models.build(f"{path}:build")[1].out_features == 5
    assert sys.path == before


@pytest.mark.parametrize(
    ("code", "function", "says"),
    [
        ("def build(): return None", "biuld", "did you mean 'build'"),
        ("def build(): return 3", "build", "returned int"),
        ("def build(): raise KeyError('width')", "build", "failed: KeyError: 'width'"),
        ("def build(width): return width", "build", "TypeError"),
        ("import no_such_module", "build", "ModuleNotFoundError"),
        ("def build(:", "build", "SyntaxError"),
        ("raise SystemExit(3)", "build", "SystemExit"),
    ],
)
def test_a_users_file_that_fails_gets_one_line(code, function, says, tmp_path):
    path = write(tmp_path / "a", code)
    with pytest.raises(InputError, match=says) as caught:
        models.build(f"{path}:{function}")
    assert "\n" not in str(caught.value)


def test_a_users_file_that_is_missing_gets_one_line(tmp_path):
    for call in (models.build, models.source):
        with pytest.raises(InputError, match=r"no such file"):
            call(f"{tmp_path / 'net.py'}:build")


def test_the_source_of_a_file_changes_with_its_bytes_only(tmp_path):
    first = write(tmp_path / "a", LINEAR.format(2))
    same = write(tmp_path / "b", LINEAR.format(2))
    other = write(tmp_path / "c", LINEAR.format(3))
    assert models.source(f"{first}:build") == models.source(f"{same}:build")
    assert models.source(f"{first}:build") != models.source(f"{other}:build")
    assert models.source(f"{first}:build") != models.source(f"{first}:other")


def test_the_sources_of_the_registry_differ():
    assert len({models.source(name) for name in models.MODELS}) == len(models.MODELS)
