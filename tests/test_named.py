"""Checkpoints by the names of those who publish them, against a stand-in on this machine."""

import contextlib
import copy
import enum
import io
import json
import os
import re
import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers.publishers import COMMIT, MEAN, STD, Small, empty_caches, files_of, publishing
from PIL import Image
from timm.models import save_for_hf
from torch import nn
from torchvision import models, transforms

from robustkit.checkpoint import describe, named, read_checkpoint
from robustkit.checkpoint.fingerprints import alike
from robustkit.errors import CheckpointError, FetchError, InputError, Unreachable
from robustkit.evaluation import images_for
from robustkit.fetching import Remote, download
from robustkit.models import build, layout_of

SETTINGS = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32, "global_pool": "avg"}
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small network as timm saves it for a repository: its folder and itself."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SETTINGS).eval()
    save_for_hf(
        model,
        folder,
        model_config={"label_names": ["cat", "dog", "eft"]},
        model_args=SETTINGS,
        safe_serialization=True,
        data_config={"mean": MEAN, "std": STD, "img_size": 32},
    )
    return files_of(folder), model


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    empty_caches(tmp_path, monkeypatch)


@pytest.fixture
def publisher(monkeypatch):
    with publishing() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        yield made


def normalised(model, mean=MEAN, std=STD):
    column = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    centre, spread = column
    with torch.no_grad():
        return model((PIXELS - centre) / spread)


def notes(checkpoint):
    return [text for label, text in describe(checkpoint) if label == "note"]


# -- Hugging Face ----------------------------------------------------------------------------------


def test_a_repository_is_fetched_once_and_read_as_a_folder(publisher, published, monkeypatch):
    files, model = published
    code = b"raise SystemExit('run')"
    publisher.repository("org/net", {**files, "modeling.py": code, "flax_model.msgpack": b"x"})
    checkpoint = read_checkpoint("hf:org/net")
    torch.testing.assert_close(checkpoint.load()(PIXELS), normalised(model))
    assert checkpoint.mean == MEAN
    assert f"hf:org/net at commit {COMMIT[:12]}" in notes(checkpoint)
    fetched = {path.rpartition("/")[2] for path in publisher.asked[1:]}
    assert fetched == {"config.json", "model.safetensors"}
    asked = len(publisher.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_checkpoint("hf:org/net").identity == checkpoint.identity
    assert len(publisher.asked) == asked


def test_the_library_finds_what_was_fetched_and_is_found(
    publisher, published, tmp_path, monkeypatch
):
    hub = pytest.importorskip("huggingface_hub")
    publisher.repository("org/net", published[0])
    first = read_checkpoint("hf:org/net")
    cache = tmp_path / "HF_HOME" / "hub"
    assert hub.try_to_load_from_cache("org/net", "config.json", cache_dir=cache)
    assert hub.scan_cache_dir(cache).repos
    monkeypatch.setenv("ROBUSTKIT_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as if the library had fetched it
    assert read_checkpoint("hf:org/net").identity == first.identity


def test_a_file_and_a_revision_may_be_named(publisher, published):
    files, model = published
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    several = {"config.json": files["config.json"], "a.pt": weights.getvalue(), "b.pt": b"x"}
    publisher.repository("org/net", several)
    with pytest.raises(
        CheckpointError, match=r"name the right one: hf:org/net/a\.pt, hf:org/net/b\.pt"
    ):
        read_checkpoint("hf:org/net")
    assert hint("hf:org/net/a.pt") == "try --model hf:org/net"
    name = f"hf:org/net/a.pt@{COMMIT}"
    assert read_checkpoint(name, model="hf:org/net").load()(PIXELS).shape == (2, 3)
    assert not any(path.endswith("b.pt") for path in publisher.asked)


@pytest.mark.parametrize(
    ("absent", "more", "told"),
    [
        ("timm", {}, "built by timm, which is not installed; install it with: pip install"),
        ("", {"architecture": "vit_tinny"}, "unknown timm model 'vit_tinny'"),
        ("", {"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_what_cannot_be_built_is_said_before_weights_are_fetched(
    publisher, published, absent, more, told, monkeypatch
):
    files = dict(published[0])
    said = json.loads(files["config.json"]) | more
    publisher.repository("org/net", files | {"config.json": json.dumps(said).encode()})
    known = metadata.version
    monkeypatch.setattr(
        "robustkit.checkpoint.libraries.declared.version",
        lambda name: known("none-of-that-name" if name == absent else name),
    )
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint("hf:org/net")
    with pytest.raises(CheckpointError, match=r"hf:org/net: "):
        read_checkpoint("hf:org/net", model="hf:org/net")
    with pytest.raises(InputError, match=r"none\.py"):
        read_checkpoint("hf:org/net", model="none.py:make")
    assert not any(path.endswith(".safetensors") for path in publisher.asked)


def test_a_graph_is_not_fetched_where_its_libraries_are_missing(publisher, monkeypatch):
    publisher.repository("org/net", {"onnx/model.onnx": b"x"})
    monkeypatch.setattr("robustkit.checkpoint.onnxfile.opening.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'robustkit\[onnx\]'"):
        read_checkpoint("hf:org/net/onnx/model.onnx")
    assert publisher.asked == []


def test_shards_come_with_their_index(publisher, published):
    from safetensors.torch import save

    files, model = published
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    parts = [{}, {}]
    for number, (key, value) in enumerate(model.state_dict().items()):
        parts[number % 2][key] = value
    where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    shards = {name: save(part) for name, part in zip(names, parts, strict=True)}
    index = {
        "model.safetensors.index.json": f'{{"weight_map": {where}}}'.replace("'", '"').encode()
    }
    publisher.repository("org/net", {"config.json": files["config.json"], **index, **shards})
    torch.testing.assert_close(read_checkpoint("hf:org/net").load()(PIXELS), normalised(model))


def test_a_local_file_is_built_as_a_repository_says(publisher, published, tmp_path):
    files, model = published
    publisher.repository("org/net", files)
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "own.pt")
    checkpoint = read_checkpoint(tmp_path / "own.pt", model="hf:org/net")
    torch.testing.assert_close(checkpoint.load()(PIXELS), normalised(model))
    assert checkpoint.label_names == ("cat", "dog", "eft")
    assert any("hf:org/net" in note and COMMIT[:12] in note for note in notes(checkpoint))
    assert not any(path.endswith("safetensors") for path in publisher.asked)


def test_a_file_of_a_repository_names_the_network_that_its_json_does(
    publisher, published, tmp_path
):
    publisher.repository("org/net", published[0] | {"other.pt": b"x"})
    torch.save(published[1].state_dict(), tmp_path / "own.pt")
    found = read_checkpoint(tmp_path / "own.pt", model="hf:org/net/other.pt")
    assert found.identity == read_checkpoint(tmp_path / "own.pt", model="hf:org/net").identity
    assert not any(path.endswith((".pt", ".safetensors")) for path in publisher.asked)


def test_a_published_network_is_read_again_by_the_model_on_its_record(
    publisher, published, tmp_path
):
    """As a report's command names it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "made")
    publisher.repository("org/hers", files_of(tmp_path / "made"))
    publisher.repository("org/net", published[0])
    for name in ("hf:org/net", "hf:org/hers"):
        found = read_checkpoint(name)
        assert read_checkpoint(name, model=found.model).identity == found.identity


def test_a_head_of_other_classes_on_a_repositorys_network(publisher, published, tmp_path):
    publisher.repository("org/net", published[0])
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SETTINGS).eval()
    torch.save(model.state_dict(), tmp_path / "own.pt")
    checkpoint = read_checkpoint(tmp_path / "own.pt", model="hf:org/net")
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.load()(PIXELS), model(PIXELS))
    assert (checkpoint.num_classes, checkpoint.label_names, checkpoint.mean) == (5, (), None)
    assert "5 classes and not the 3" in " ".join(notes(checkpoint))


def test_evaluating_by_name_needs_no_flags_but_pictures(publisher, published, tmp_path, robustkit):
    publisher.repository("org/net", published[0])
    for name, colour in {"cat": "red", "dog": "green", "eft": "blue"}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (40, 36), colour).save(tmp_path / "pictures" / name / "1.png")
    asked = ("--data", "pictures", "--attack", "clean", "--device", "cpu")
    status, out, err = robustkit("evaluate", "hf:org/net", *asked)
    assert (status, "hf:org/net" in out + err) == (0, True)
    # and the record is found under that name
    status, out, err = robustkit("compare", "hf:org/net", "hf:org/net", "--attack", "clean")
    assert "no record of it" not in err


def cut_short(body):
    """An answer that ends in the middle."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])

    return answer


def endless(body):
    """More than was announced, without a word on how much."""

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(body)

    return answer


def garbled(body):
    return bytes([*body[:-1], body[-1] ^ 1])


HOSTILE = {
    "cut": (lambda p, at, b: p.answers.update({at: cut_short(b)}), "stopped after"),
    "endless": (lambda p, at, b: p.answers.update({at: endless(b)}), "more than"),
    "longer": (lambda p, at, b: p.serve(at, b + b), "expected"),
    "other": (lambda p, at, b: p.serve(at, garbled(b)), "damaged or replaced"),
    "file": (lambda p, at, b: p.redirect(at, "file:///etc/passwd"), "redirects"),
    "ftp": (lambda p, at, b: p.redirect(at, "ftp://127.0.0.1/x"), "not followed"),
    "loop": (lambda p, at, b: p.redirect(at, at), "in circles"),
    "page": (lambda p, at, b: p.serve(at, b, Content_Type="text/html"), "web page"),
    "gzip": (lambda p, at, b: p.serve(at, b, Content_Encoding="gzip"), "encoding"),
    "gated": (lambda p, at, b: p.serve(at, b"", 403), "hf auth login, then hf download org/net"),
    "broken": (lambda p, at, b: p.serve(at, b"", 500), "try again"),
    "gone": (lambda p, at, b: p.answers.pop(at), "nothing under that name"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_server_that_sends_something_else_leaves_nothing(
    case, file, publisher, published, tmp_path
):
    files, _ = published
    publisher.repository("org/net", files)
    change, told = HOSTILE[case]
    change(publisher, f"/org/net/resolve/{COMMIT}/{file}", files[file])
    with pytest.raises(FetchError) as caught:
        read_checkpoint("hf:org/net")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert {path.read_bytes() for path in left} <= {files["config.json"]}
    publisher.repository("org/net", files)
    read_checkpoint("hf:org/net")  # the next try begins anew


LISTINGS = {
    "text": b"<html>",
    "list": b"[]",
    "no commit": b'{"sha": "../../x", "siblings": []}',
    "name": b'{"sha": "%s", "siblings": [{"rfilename": 3, "size": 1, "blobId": "x"}]}'
    % COMMIT.encode(),
    "blob": b'{"sha": "%s", "siblings": [{"rfilename": "model.safetensors", "size": 1, '
    b'"blobId": "../../../x"}]}' % COMMIT.encode(),
    "deep": b"[" * 100_000,
    "huge": b" " * (2**24 + 1),
    "empty": b'{"sha": "%s", "siblings": []}' % COMMIT.encode(),
    "outside": b'{"sha": "%s", "siblings": [{"rfilename": "../model.safetensors", "size": 1, '
    b'"blobId": "%s"}]}' % (COMMIT.encode(), COMMIT.encode()),
}


@pytest.mark.parametrize("case", LISTINGS)
def test_a_listing_that_makes_no_sense_ends_in_one_line(case, publisher, tmp_path):
    publisher.serve("/api/models/org/net/revision/main?blobs=true", LISTINGS[case])
    with pytest.raises((FetchError, CheckpointError), match=r"^hf:org/net: "):
        read_checkpoint("hf:org/net")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_too_large_for_the_disk_is_not_begun(publisher, published, monkeypatch):
    publisher.repository("org/net", published[0])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(FetchError, match="has only 10"):
        read_checkpoint("hf:org/net")


def test_a_damaged_cache_is_told_and_not_believed(publisher, published, tmp_path):
    files, _ = published
    publisher.repository("org/net", files)
    read_checkpoint("hf:org/net")
    (blob,) = (path for path in tmp_path.rglob("blobs/*") if path.stat().st_size > 5000)
    blob.write_bytes(garbled(blob.read_bytes()))
    (tmp_path / "ROBUSTKIT_CACHE").rename(tmp_path / "elsewhere")
    with pytest.raises(FetchError, match="delete that file"):
        read_checkpoint("hf:org/net")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf:org/net", "hf download org/net"),
        ("torchvision:squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
        ("timm:resnet18.a1_in1k", "hf download timm/resnet18.a1_in1k"),
    ],
)
@pytest.mark.parametrize("how", ["forbidden", "no server"])
def test_without_a_connection_one_line_says_where_the_file_goes(name, told, how, monkeypatch):
    if how == "forbidden":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unreachable) as caught:
        read_checkpoint(name)
    assert told in str(caught.value)
    assert "put it at" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["hf:../x", "hf:a/b/../c", "hf:a/b@../x", "hf:a b", "hf:org/net/run.py", "hf:/etc/passwd"],
)
def test_a_name_that_is_none_is_refused_before_anything_is_asked(name, publisher):
    with pytest.raises((CheckpointError, FetchError)):
        read_checkpoint(name)
    assert not [path for path in publisher.asked if "run.py" in path or ".." in path]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("microsoft/resnet-18", "are written hf:microsoft/resnet-18"),
        (
            "https://huggingface.co/microsoft/resnet-18/tree/main",
            "are written hf:microsoft/resnet-18",
        ),
        ("https://example.org/weights.pt", "download it"),
        ("resnet18", "torchvision:resnet18 downloads"),
        ("models/best.pt", "no such file$"),
    ],
)
def test_what_looks_like_a_published_name_is_told_how_to_write_it(text, told):
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(text)


# -- torchvision -----------------------------------------------------------------------------------


def as_published(name, monkeypatch, tmp_path, **built):
    """Random weights in the place of torchvision's, and torchvision's network with them."""
    torch.manual_seed(0)
    state = models.get_model(name, weights=None, **built).state_dict()
    chosen = models.get_model_weights(name).DEFAULT
    with monkeypatch.context() as patch:
        patch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: copy.copy(state)
        )
        reference = models.get_model(name, weights=chosen).eval()
    place = tmp_path / "weights.pth"
    torch.save(state, place)
    return place, reference, chosen


@pytest.mark.one_of_many
@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "mnasnet0_5"])
def test_torchvisions_weights_are_its_network_and_its_pictures(name, monkeypatch, tmp_path):
    """googlenet transforms its input and drops its auxiliary heads where it is given weights."""
    built = {"init_weights": False} if name == "googlenet" else {}
    place, reference, chosen = as_published(name, monkeypatch, tmp_path, **built)
    checkpoint = read_checkpoint(place, model=f"torchvision:{name}.{chosen.name}")
    (tmp_path / "x" / "tench").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "x" / "tench" / "1.png")
    images = images_for(checkpoint, str(tmp_path / "x"))
    with torch.no_grad():
        expected = reference(chosen.transforms()(Image.fromarray(picture))[None])
        found = checkpoint.load()(torch.from_numpy(images.images(0, 1)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert images.labels.tolist() == [0]
    assert checkpoint.label_names[0] == "tench"
    assert checkpoint.mean == (0.485, 0.456, 0.406)
    # a file that is not known to be a published one may be of either form, which is told
    bare = read_checkpoint(place, model=f"torchvision:{name}")
    assert any("transform_input=True" in text for text in bare.warnings) == (name == "googlenet")


def test_weights_of_features_are_none_of_a_classifier():
    with pytest.raises(CheckpointError, match="without an image classifier"):
        read_checkpoint("torchvision:vgg16.IMAGENET1K_FEATURES")


@pytest.mark.thorough
def test_a_network_that_insists_on_its_version_loads(tmp_path):
    model = models.mnasnet0_5(num_classes=3).eval()
    torch.save({"model": dict(model.state_dict())}, tmp_path / "own.pt")
    found = read_checkpoint(tmp_path / "own.pt", model="torchvision:mnasnet0_5").load()
    with torch.no_grad():
        torch.testing.assert_close(found(PIXELS), model(PIXELS))


def test_a_head_of_other_classes_takes_nothing_of_the_published_weights(tmp_path):
    torch.save(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "own.pt")
    checkpoint = read_checkpoint(
        tmp_path / "own.pt", model="torchvision:squeezenet1_1.IMAGENET1K_V1"
    )
    assert (checkpoint.num_classes, checkpoint.mean, checkpoint.pipeline) == (7, None, None)
    assert "7 classes and not the 1000" in " ".join(notes(checkpoint))
    assert checkpoint.load()(torch.rand(1, 3, 64, 64)).shape == (1, 7)


def test_a_published_file_is_known_by_its_digest(monkeypatch, tmp_path):
    place, *_ = as_published("squeezenet1_1", monkeypatch, tmp_path)
    plain = read_checkpoint(place, model="torchvision:squeezenet1_1")
    assert plain.mean is None
    monkeypatch.setattr(named.torchvision, "_digest", lambda _: plain.sha256[:8])
    known = read_checkpoint(place, model="torchvision:squeezenet1_1")
    assert known.mean == (0.485, 0.456, 0.406)
    assert any("its digest is that of" in note for note in notes(known))


def test_torchvisions_file_is_fetched_into_torchs_cache_with_its_digest(
    publisher, monkeypatch, tmp_path
):
    place, reference, _ = as_published("squeezenet1_1", monkeypatch, tmp_path)
    body = place.read_bytes()

    def here(remote, path, progress):
        publisher.serve("/file", body)
        download(
            Remote(f"{publisher.address}/file", remote.name, sha256=remote.sha256), path, progress
        )

    monkeypatch.setattr(named, "download", here)
    with pytest.raises(FetchError, match="expected b8a52dc0"):
        read_checkpoint("torchvision:squeezenet1_1")
    monkeypatch.setattr(named.torchvision, "_digest", lambda _: "")
    checkpoint = read_checkpoint("torchvision:squeezenet1_1.IMAGENET1K_V1")
    with torch.no_grad():
        expected = reference(transforms.Normalize(checkpoint.mean, checkpoint.std)(PIXELS))
    torch.testing.assert_close(checkpoint.load()(PIXELS), expected, atol=1e-5, rtol=1e-5)
    cached = tmp_path / "TORCH_HOME" / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    assert cached.read_bytes() == body
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "TORCH_HOME"))
    with pytest.raises(FetchError, match="not the published file"):
        read_checkpoint("torchvision:squeezenet1_1")


# -- timm ------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_tag_of_timms_brings_its_pictures_and_a_bare_name_does_not(tmp_path):
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "own.pt")
    known = read_checkpoint(tmp_path / "own.pt", model="timm:mobilenetv3_small_050.lamb_in1k")
    config = timm.get_pretrained_cfg("mobilenetv3_small_050.lamb_in1k")
    assert (known.mean, known.std) == (config.mean, config.std)
    assert known.pipeline.interpolation == config.interpolation
    bare = read_checkpoint(tmp_path / "own.pt", model="timm:mobilenetv3_small_050")
    assert (bare.mean, bare.pipeline) == (None, None)
    assert "or --model timm:mobilenetv3_small_050.TAG" in bare.warnings[0]
    pixels = torch.rand(1, 3, 64, 64)
    expected = transforms.Normalize(config.mean, config.std)(pixels)
    torch.testing.assert_close(known.load()(pixels), bare.load()(expected))


def test_timms_names_lead_to_its_repositories(publisher, published):
    publisher.repository("timm/resnet18.a1_in1k", published[0])
    assert read_checkpoint("timm:resnet18.a1_in1k").num_classes == 3
    for name, told in {"timm:resnet18.x": "a1_in1k", "timm:resnet1": "resnet1"}.items():
        with pytest.raises(CheckpointError, match=told):
            read_checkpoint(name)


# -- RobustBench -----------------------------------------------------------------------------------


class Canary:
    def __reduce__(self):
        return (os.system, ("touch canary",))


class Dataset(enum.Enum):
    CIFAR = "cifar10"


class Threat(enum.Enum):
    LINF, L2 = "Linf", "L2"


@pytest.fixture
def zoo(monkeypatch):
    """A stand-in of the package: its table of networks."""
    small = {"model": Small, "gdrive_id": "abc"}
    entries = {
        "Small2020": small,
        "Twice2020": small,
        "Kireev2021Effectiveness_X": small,
        "Many2020": {"model": Small, "gdrive_id": ["a", "b"]},
        "Standard": {"model": lambda: pytest.fail("would fetch"), "gdrive_id": ""},
        "Broken2020": {"model": lambda: 1 / 0, "gdrive_id": "abc"},
    }
    module = ModuleType("robustbench.model_zoo")
    module.model_dicts = {Dataset.CIFAR: {Threat.LINF: entries, Threat.L2: {"Twice2020": small}}}
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", module)


def in_zoo(path, key=""):
    """A file as the zoo's are: no constants, `module.` in front, and a pickle that would run."""
    torch.manual_seed(0)
    model = Small()
    state = {f"module.{name}": value for name, value in model.conv.named_parameters("conv")}
    weights = (
        {"state_dict": state}
        if not key
        else {key: state, "best": {k: v + 1 for k, v in state.items()}}
    )
    torch.save({**weights, "canary": Canary()}, path)
    return model


def test_a_network_of_the_zoos_is_fetched_built_and_normalises_itself(
    zoo, publisher, monkeypatch, tmp_path
):
    model = in_zoo(tmp_path / "there.pt")
    publisher.serve(
        "/download?export=download&confirm=t&id=abc", (tmp_path / "there.pt").read_bytes()
    )
    monkeypatch.setattr(
        named.robustbench, "ADDRESS", f"{publisher.address}/download?export=download&confirm=t&id="
    )
    checkpoint = read_checkpoint("robustbench:cifar10/Linf/Small2020")
    torch.testing.assert_close(checkpoint.load()(PIXELS), model(PIXELS))
    assert (checkpoint.trained_on, checkpoint.preprocessing) == ("cifar10", "in the checkpoint")
    assert any(
        "constants set by RobustBench that the file lacks: mu, sigma" in note
        for note in notes(checkpoint)
    )
    assert not (tmp_path / "canary").exists()
    asked = len(publisher.asked)
    assert read_checkpoint("robustbench:Small2020").identity == checkpoint.identity
    assert len(publisher.asked) == asked


def test_a_local_file_is_one_of_the_zoos_networks(zoo, tmp_path):
    model = in_zoo(tmp_path / "own.pt")
    for name in ("robustbench:cifar10/Linf/Small2020", "robustbench:Small2020"):
        found = read_checkpoint(tmp_path / "own.pt", model=name)
        torch.testing.assert_close(found.load()(PIXELS), model(PIXELS))
    model = in_zoo(tmp_path / "own.pt", key="last")
    found = read_checkpoint(tmp_path / "own.pt", model="robustbench:Kireev2021Effectiveness_X")
    torch.testing.assert_close(found.load()(PIXELS), model(PIXELS))
    # where the package itself would have put it
    (tmp_path / "models/cifar10/Linf").mkdir(parents=True)
    (tmp_path / "own.pt").rename(tmp_path / "models/cifar10/Linf/Twice2020.pt")
    found = read_checkpoint("robustbench:cifar10/Linf/Twice2020", weights="best")
    assert not torch.allclose(found.load()(PIXELS), model(PIXELS))


def several(path, **sets):
    """A file of several sets of weights that differ by what is added to them."""
    model = in_zoo(path)
    state = {f"module.{name}": value for name, value in model.conv.named_parameters("conv")}
    torch.save(
        {key: {k: v.detach() + more for k, v in state.items()} for key, more in sets.items()}, path
    )
    return model


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("Small2020", {"state_dict_ema": 1, "state_dict": 0}),
        ("Small2020", {"ema": 1, "best": 2, "state_dict": 0, "last": 3}),
        ("Kireev2021Effectiveness_X", {"state_dict": 1, "best": 2, "last": 0, "ema": 3}),
    ],
)
def test_of_several_sets_of_weights_the_zoos_own_is_taken_and_told(name, sets, zoo, tmp_path):
    """Its loader takes `last` of two networks and `state_dict` of others, never an average."""
    model = several(tmp_path / "own.pt", **sets)
    own, other = (next(k for k, v in sets.items() if v == n) for n in (0, 1))
    found = read_checkpoint(tmp_path / "own.pt", model=f"robustbench:{name}")
    torch.testing.assert_close(found.load()(PIXELS), model(PIXELS))
    (warning,) = found.warnings
    assert warning.startswith(f"{own} taken, as RobustBench does, but ")
    assert other in warning
    assert warning.endswith("--weights chooses")
    # the user's word goes first, and elsewhere averages do
    asked = read_checkpoint(tmp_path / "own.pt", model=f"robustbench:{name}", weights=other)
    assert asked.identity != found.identity
    assert asked.warnings == ()


def test_what_the_zoo_could_not_load_is_taken_as_elsewhere_and_told(zoo, tmp_path):
    several(tmp_path / "own.pt", ema=0, net=1)
    found = read_checkpoint(tmp_path / "own.pt", model="robustbench:Small2020")
    assert found.container == "ema"
    assert found.warnings[0].startswith("ema taken, but net in the file fits")
    # a set that the zoo takes, and that is damaged, is not passed over
    several(tmp_path / "own.pt", state_dict=float("nan"), ema=1)
    with pytest.raises(CheckpointError, match="NaN"):
        read_checkpoint(tmp_path / "own.pt", model="robustbench:Small2020")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Twice2020", "robustbench:cifar10/Linf/Twice2020 or robustbench:cifar10/L2/Twice2020"),
        ("Many2020", "ensemble of 2 files"),
        ("Standard", "torchvision"),
        ("Broken2020", "ZeroDivisionError"),
        ("cifar10/Linf/Smal2020", "did you mean 'cifar10/Linf/Small2020'"),
    ],
)
def test_what_the_zoo_cannot_be_asked_for_ends_in_one_line(name, told, zoo, tmp_path):
    in_zoo(tmp_path / "own.pt")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "own.pt", model=f"robustbench:{name}")
    assert told in str(caught.value)


def test_weights_of_another_network_do_not_become_the_zoos(zoo, tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 10)).state_dict(), tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="does not fit robustbench:cifar10/Linf/Small2020"):
        read_checkpoint(tmp_path / "own.pt", model="robustbench:Small2020")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch, robustkit):
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", None)
    status, _, err = robustkit("describe", "robustbench:cifar10/Linf/Small2020")
    assert status == 2
    assert "robustbench" in err
    assert err.count("\n") == 1


# -- what a file of unknown architecture says of itself --------------------------------------------


def hint(path):
    return dict(describe(read_checkpoint(path))).get("hint", "")


def squeezenet(**beside):
    return {**beside, "state_dict": models.squeezenet1_1(num_classes=7).state_dict()}


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"arch": "squeezenet1_1"}, r"calls itself squeezenet1_1 \(arch\), and its names"),
        ({"args": {"model": "SqueezeNet1-1"}}, r"calls itself SqueezeNet1-1 \(args\.model\)"),
        ({"hyper_parameters": {"net": {"name": "squeezenet1_1"}}}, r"hyper_parameters\.net\.name"),
        ({}, "names and shapes are those of torchvision:squeezenet1_1"),
        ({"arch": "resnet50"}, "names and shapes are those of torchvision:squeezenet1_1"),
        ({"arch": "x.py:run", "args": {"model": "a/b; rm"}}, "names and shapes are those of"),
    ],
)
def test_a_file_is_told_what_it_seems_to_be_and_how_to_say_so(beside, told, tmp_path):
    torch.save(squeezenet(**beside), tmp_path / "own.pt")
    said = hint(tmp_path / "own.pt")
    assert re.search(told, said)
    assert said.endswith("try --model torchvision:squeezenet1_1")
    checkpoint = read_checkpoint(tmp_path / "own.pt")
    assert checkpoint.model is None  # a proposal is not applied
    with pytest.raises(CheckpointError, match="try --model torchvision:squeezenet1_1"):
        checkpoint.load()


def test_a_wrong_architecture_is_told_the_one_that_fits(tmp_path):
    wrapped = {f"module.{k}": v for k, v in squeezenet()["state_dict"].items()}
    torch.save(wrapped, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="it fits --model torchvision:squeezenet1_1"):
        read_checkpoint(tmp_path / "own.pt", model="torchvision:squeezenet1_0")


def test_the_library_of_a_pickled_class_goes_first(tmp_path):
    model = timm.create_model("resnet18", num_classes=3)
    torch.save(model, tmp_path / "own.pt")
    assert "try --model timm:resnet18" in hint(tmp_path / "own.pt")
    torch.save(model.state_dict(), tmp_path / "own.pt")
    assert "try --model torchvision:resnet18" in hint(tmp_path / "own.pt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"vit.embeddings.x": 1, "vit.encoder.y": 2, "classifier.weight": 3},
            "transformers names ViT",
        ),
        ({"a.b": 1, "_name_or_path": "google/vit-base"}, "try --model hf:google/vit-base"),
        ({"a.b": 1, "model": "out/best.pt"}, ""),
        ({"a.b": 1, "model": "a\nb/c"}, ""),
        ({"a.b": 1, "arch": "no such thing"}, ""),
    ],
)
def test_what_only_words_or_names_tell(content, told, tmp_path):
    tensors = {k: torch.ones(2, 2) for k, v in content.items() if not isinstance(v, str)}
    words = {k: v for k, v in content.items() if isinstance(v, str)}
    torch.save({"state_dict": tensors, **words}, tmp_path / "own.pt")
    said = hint(tmp_path / "own.pt")
    assert (told in said) if told else not said


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:vit_tiny_patch16_224"])
def test_the_table_is_of_these_libraries(spec):
    with torch.device("meta"):
        layout = layout_of(build(spec, num_classes=10))
    assert spec in alike((name, slot.shape) for name, slot in layout.items())


class OwnNetwork(torch.nn.Module):
    """One of nobody's library."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)


@pytest.mark.parametrize("kept", [OwnNetwork(), {"net": OwnNetwork(), "epoch": 3}])
def test_a_network_that_was_saved_whole_is_asked_for_by_its_class(kept, tmp_path):
    torch.save(kept, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"--model FILE\.py:OwnNetwork, the file that"):
        read_checkpoint(tmp_path / "a.pt").load()
