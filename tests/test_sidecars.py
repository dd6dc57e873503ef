"""What stands in a sidecar: the same again when it is read, and nothing that asks a network."""

import enum
import sys
from dataclasses import fields, replace
from types import ModuleType

import pytest
import timm
import torch
from helpers import checkpoint_files as files
from helpers.publishers import COMMIT, MEAN, STD, Small, empty_caches, files_of, publishing
from timm.models import save_for_hf
from torch import nn
from torchvision import models

from robustkit.checkpoint import Checkpoint, read_checkpoint, save_checkpoint, write_sidecar
from robustkit.errors import CheckpointError, InputError

SETTINGS = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32, "global_pool": "avg"}
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FREE = ("_network", "notes", "warnings", "preprocessing")
"""what is told of where things are known from; `preprocessing` says "recorded" for "given\""""


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    empty_caches(tmp_path, monkeypatch)


@pytest.fixture
def publisher(monkeypatch):
    with publishing() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        yield made


def transformer(classes=3):
    torch.manual_seed(classes)
    return timm.create_model("vit_tiny_patch16_224", num_classes=classes, **SETTINGS).eval()


@pytest.fixture
def repository(publisher, tmp_path):
    """A network of timm's with settings of its own, as a repository has it."""
    save_for_hf(
        transformer(),
        tmp_path / "made",
        model_config={"label_names": ["cat", "dog", "eft"]},
        model_args=SETTINGS,
        safe_serialization=True,
        data_config={"mean": MEAN, "std": STD, "img_size": 32},
    )
    publisher.repository("org/net", files_of(tmp_path / "made"))
    return publisher


def saved(path, network):
    torch.save(network.state_dict(), path)
    return path


def check_same_again(path, **options):
    """A file with a sidecar says what options say without one."""
    first = read_checkpoint(path, **options)
    write_sidecar(first)
    second = read_checkpoint(path)
    for item in fields(Checkpoint):
        if item.name not in FREE:
            assert getattr(second, item.name) == getattr(first, item.name), item.name
    assert [text for text in second.warnings if "sidecar" in text] == []
    third = read_checkpoint(path, **options)
    assert third.identity == first.identity
    return second


class Dataset(enum.Enum):
    CIFAR = "cifar10"


class Threat(enum.Enum):
    LINF = "Linf"


@pytest.fixture
def zoo(monkeypatch):
    """A stand-in of RobustBench: its table of networks."""
    module = ModuleType("robustbench.model_zoo")
    entries = {"Small2020": {"model": Small, "gdrive_id": "abc"}}
    module.model_dicts = {Dataset.CIFAR: {Threat.LINF: entries}}
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", module)


NAMED = {
    "timm:vit_tiny_patch16_224": lambda: timm.create_model("vit_tiny_patch16_224"),
    "timm:mobilenetv3_small_050": lambda: timm.create_model("mobilenetv3_small_050"),
    "timm:mobilenetv3_small_050.lamb_in1k": lambda: timm.create_model("mobilenetv3_small_050"),
    "torchvision:squeezenet1_1": models.squeezenet1_1,
    "torchvision:squeezenet1_1.IMAGENET1K_V1": models.squeezenet1_1,
    "lenet5": files.network,
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMED)
def test_a_named_architecture_is_the_same_again(name, tmp_path):
    path = saved(tmp_path / "own.pt", NAMED[name]())
    found = check_same_again(path, model=name)
    assert found.model == name
    assert (found.pipeline is not None) == ("." in name)


@pytest.mark.thorough
def test_a_head_of_other_classes_is_the_same_again(tmp_path):
    path = saved(tmp_path / "own.pt", models.squeezenet1_1(num_classes=7))
    found = check_same_again(path, model="torchvision:squeezenet1_1.IMAGENET1K_V1")
    assert (found.model, found.num_classes) == ("torchvision:squeezenet1_1", 7)
    path = saved(tmp_path / "other.pt", timm.create_model("mobilenetv3_small_050", num_classes=7))
    found = check_same_again(path, model="timm:mobilenetv3_small_050.lamb_in1k")
    assert (found.model, found.num_classes) == ("timm:mobilenetv3_small_050", 7)


def test_a_network_of_the_zoos_is_the_same_again(zoo, tmp_path):
    path = saved(tmp_path / "own.pt", Small())
    found = check_same_again(path, model="robustbench:Small2020")
    assert (found.model, found.trained_on) == ("robustbench:cifar10/Linf/Small2020", "cifar10")


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("revision", ["", f"@{COMMIT}"])
def test_a_repositorys_network_is_the_same_again_and_not_asked_for(
    repository, classes, revision, tmp_path
):
    path = saved(tmp_path / "own.pt", transformer(classes))
    found = read_checkpoint(path, model=f"hf:org/net{revision}")
    write_sidecar(found)
    # neither another commit nor a connection changes it
    repository.answers.clear()
    asked = len(repository.asked)
    again = check_same_again(path)
    assert len(repository.asked) == asked
    assert again.model == f"hf:org/net@{COMMIT}"
    assert again.identity == found.identity
    assert (again.label_names, again.pipeline) == (found.label_names, found.pipeline)
    assert again.num_classes == classes
    assert torch.equal(again.load()(PIXELS), found.load()(PIXELS))


def test_a_folder_that_names_its_architecture_is_the_same_again(repository, tmp_path):
    assert check_same_again(tmp_path / "made").model == "timm:vit_tiny_patch16_224"
    published = check_same_again("hf:org/net")
    assert published.label_names == ("cat", "dog", "eft")


def test_a_mean_of_its_own_is_the_same_again(tmp_path):
    path = saved(tmp_path / "own.pt", models.squeezenet1_1())
    name = "torchvision:squeezenet1_1.IMAGENET1K_V1"
    found = check_same_again(path, model=name, mean=MEAN, std=STD)
    assert (found.mean, found.preprocessing) == (MEAN, "recorded")


def test_that_a_network_takes_pixels_as_they_are_goes_before_its_library(tmp_path):
    path = saved(tmp_path / "own.pt", models.squeezenet1_1())
    name = "torchvision:squeezenet1_1.IMAGENET1K_V1"
    (tmp_path / "own.pt.toml").write_text(f'model = "{name}"\nnormalised = false\n')
    found = check_same_again(path)
    assert (found.mean, found.std, found.preprocessing) == (None, None, "recorded")
    assert read_checkpoint(path, mean=MEAN, std=STD).mean == MEAN


def test_a_size_that_no_sidecar_may_state_is_left_to_the_file(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(4, 1))\n"
    )
    path = saved(tmp_path / "own.pt", nn.Sequential(nn.Linear(4, 1)))
    found = read_checkpoint(path, model="net.py:build")
    written = write_sidecar(replace(found, num_classes=1, input_shape=(3, 5000, 5000)))
    assert "num_classes" not in written.read_text()
    assert "input_shape" not in written.read_text()
    assert read_checkpoint(path, model="net.py:build").identity == found.identity


# -- and no connection -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hf:org/net", f"hf:org/net@{COMMIT}", "hf:org/net/model.pt"])
def test_nothing_is_fetched_because_a_sidecar_says_so(name, repository, tmp_path, robustkit):
    path = saved(tmp_path / "own.pt", transformer())
    (tmp_path / "own.pt.toml").write_text(f'model = "{name}"\n')
    status, _, err = robustkit("describe", path)
    assert (status, err.count("\n")) == (2, 1)
    assert f"own.pt.toml: model {name} is not in the cache" in err
    assert f"pass --model {name}" in err
    assert repository.asked == []
    # the user's word may, and what it fetched is taken from then on
    given = read_checkpoint(path, model=name)
    asked = len(repository.asked)
    assert asked
    assert read_checkpoint(path).identity == given.identity
    assert len(repository.asked) == asked


def test_what_the_library_fetched_is_taken_at_a_sidecars_word(repository, tmp_path):
    folder = tmp_path / "HF_HOME" / "hub" / "models--org--net"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots").mkdir()
    (tmp_path / "made").rename(folder / "snapshots" / COMMIT)
    path = saved(tmp_path / "own.pt", transformer())
    (tmp_path / "own.pt.toml").write_text('model = "hf:org/net"\n')
    assert read_checkpoint(path).mean == MEAN
    (folder / "refs" / "main").write_text("../../../elsewhere")
    with pytest.raises(CheckpointError, match="is not in the cache"):
        read_checkpoint(path)
    assert repository.asked == []


@pytest.mark.parametrize("name", ["timm:hf-hub:org/net", "timm:hf_hub:org/net", "hf:../x"])
def test_a_name_that_hides_an_address_is_refused(name, repository, tmp_path):
    path = saved(tmp_path / "own.pt", transformer())
    (tmp_path / "own.pt.toml").write_text(f'model = "{name}"\n')
    with pytest.raises((CheckpointError, InputError)):
        read_checkpoint(path)
    assert repository.asked == []


def test_a_repository_in_a_files_own_record_is_asked_for_by_nobody(repository, tmp_path):
    save_checkpoint(tmp_path / "own.safetensors", transformer(), model="hf:org/net")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "own.safetensors")
    assert repository.asked == []
    found = read_checkpoint(tmp_path / "own.safetensors", model="hf:org/net")
    # the file says that it was trained on pixels as they are, which its library does not know
    assert (found.mean, found.label_names) == (None, ("cat", "dog", "eft"))
