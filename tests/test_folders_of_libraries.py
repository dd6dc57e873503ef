"""Folders of transformers and timm: what they say, and the network that they mean.

The libraries themselves write them and are the reference. No test here may reach for a network.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import pytest
import timm
import torch
import transformers
from helpers.travel import read_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from transformers.utils import logging

from robustkit.checkpoint import describe
from robustkit.checkpoint.libraries import declared, processing
from robustkit.checkpoint.libraries import timm as of_timms
from robustkit.cli.commands import run
from robustkit.data import load_dataset
from robustkit.data.transform import Shape
from robustkit.errors import CheckpointError, RobustkitError
from robustkit.evaluation import images_for
from robustkit.record import read
from robustkit.results.folders import folder_digest

SQUARE = {"height": 32, "width": 32}
NAMES = ("cat", "dog", "eft")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 16,
    "id2label": dict(enumerate(NAMES)),
}


@pytest.fixture(autouse=True)
def no_connection(monkeypatch):
    """Whoever asks for an address or opens a connection fails the test, whatever catches it."""
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network in these tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not tried


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def saved(model, processor, folder):
    """A model as after a training, saved by its library, with its processor."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.1)
    model.eval().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A folder with a ViT, and the network that was saved."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    processor = transformers.ViTImageProcessor(size=SQUARE, image_mean=[0.4, 0.5, 0.6])
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**TINY))
    return folder, saved(model, processor, folder)


@pytest.fixture(scope="module")
def swin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(1)
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2
    )
    model = transformers.SwinForImageClassification(config)
    return folder, saved(model, transformers.ViTImageProcessor(size=SQUARE), folder)


@pytest.fixture(scope="module")
def of_timm(tmp_path_factory):
    """A folder of timm's with a mean of its own, and the network."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(2)
    settings = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32, "global_pool": "avg"}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **settings).eval()
    save_for_hf(
        model,
        folder,
        model_config={"label_names": NAMES, "pretrained_cfg": {"url": "https://example.org/w.pt"}},
        model_args=settings,
        safe_serialization=True,
        data_config={"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "img_size": 32},
    )
    return folder, model


@pytest.fixture
def copy(vit, tmp_path):
    """A copy of the ViT's folder, to be changed."""
    return shutil.copytree(vit[0], tmp_path / "copy")


def change(folder, file="config.json", **values):
    """Change what a JSON file says; None takes a key away."""
    path = folder / file
    said = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: v for key, v in said.items() if v is not None}))
    return folder


def logits(network, pixels):
    with torch.no_grad():
        found = network(pixels)
    return found.logits if hasattr(found, "logits") else found


def names_in(folder):
    return set(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("made", ["vit", "swin"])
def test_a_folder_is_the_network_that_was_saved(made, request):
    folder, model = request.getfixturevalue(made)
    assert names_in(folder) - model.state_dict().keys()  # the library renames as it saves
    checkpoint = read_checkpoint(folder)
    pixels = torch.rand(5, 3, 32, 32)
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)(
        list(pixels), do_resize=False, do_rescale=False, return_tensors="pt"
    )
    expected = logits(model, prepared["pixel_values"])
    torch.testing.assert_close(checkpoint.load()(pixels), expected, atol=1e-5, rtol=0)


def test_what_a_folder_says_is_taken_and_shown(vit):
    checkpoint = read_checkpoint(vit[0])
    assert checkpoint.label_names == NAMES
    assert (checkpoint.num_classes, checkpoint.input_shape) == (3, (3, 32, 32))
    assert checkpoint.mean == (0.4, 0.5, 0.6)
    assert checkpoint.preprocessing == "recorded"
    assert checkpoint.model == "transformers:ViTForImageClassification"
    shown = dict(describe(checkpoint))
    assert shown["labels"] == "cat, dog, eft"
    assert "mean 0.4 0.5 0.6" in shown["preprocessing"]
    assert transformers.__version__ in shown["note"]


def test_a_description_as_json_has_every_field(vit, capsys):
    assert run(["describe", str(vit[0]), "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["label_names"] == list(NAMES)
    assert said["mean"] == [0.4, 0.5, 0.6]
    assert said["model"] == "transformers:ViTForImageClassification"
    assert said["loss"] is None


def test_names_that_nobody_gave_are_none(swin):
    checkpoint = read_checkpoint(swin[0])
    assert checkpoint.label_names == ()
    assert checkpoint.load()(torch.rand(1, 3, 32, 32)).shape == (1, 2)


def test_identity_follows_what_the_network_computes(copy, monkeypatch):
    first = read_checkpoint(copy).identity
    change(copy, id2label={"0": "x", "1": "y", "2": "z"}, dtype="float16", transformers_version="4")
    assert read_checkpoint(copy).identity == first
    change(copy, hidden_act="relu")
    assert (other := read_checkpoint(copy).identity) != first
    monkeypatch.setattr(declared, "version", lambda name: "9.9")
    assert read_checkpoint(copy).identity != other


@pytest.mark.parametrize("kind", ["DeiT", "Levit"])
def test_both_heads_of_a_distilled_network_may_be_of_another_size(kind, tmp_path, monkeypatch):
    settings = TINY if kind == "DeiT" else {
        "image_size": 32, "hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1],
        "depths": [1, 1, 1], "key_dim": [4, 4, 4],
    }  # fmt: skip
    made = getattr(transformers, f"{kind}ForImageClassificationWithTeacher")
    config = getattr(transformers, f"{kind}Config")
    model = made(config(**{**settings, "id2label": dict(enumerate(NAMES))})).eval()
    torch.save(model.state_dict(), tmp_path / "own.pt")
    # as the library has fetched the words of a published one, with other classes
    hub = tmp_path / "home" / "hub" / "models--org--net"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    made(config(**{**settings, "id2label": dict(enumerate("abcdefg"))})).save_pretrained(
        hub / "snapshots" / ("0" * 40)
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROBUSTKIT_CACHE", str(tmp_path / "cache"))
    found = read_checkpoint(tmp_path / "own.pt", model="hf:org/net")
    assert found.num_classes == 3
    assert any("3 classes and not the 7" in note for note in found.notes)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(x).logits
    torch.testing.assert_close(found.load()(x), expected, rtol=1e-5, atol=1e-6)


def test_no_class_or_file_of_the_folder_is_run(copy):
    change(
        copy,
        auto_map={"AutoModelForImageClassification": "evil.Evil", "AutoConfig": "evil.Config"},
        trust_remote_code=True,
    )
    (copy / "evil.py").write_text("raise SystemExit('run')")
    (copy / "modeling_vit.py").write_text("raise SystemExit('run')")
    assert read_checkpoint(copy).load()(torch.rand(1, 3, 32, 32)).shape == (1, 3)


REFUSED = {
    "hidden": ({"hidden_size": 10**9}, "hidden_size"),
    "wide": ({"hidden_size": 2**20}, "far more parameters"),
    "layers": ({"num_hidden_layers": 10**6}, "far more modules"),
    "negative": ({"num_hidden_layers": -3}, "does not match its weights"),
    "text": ({"hidden_size": "many"}, "hidden_size"),
    "list": ({"hidden_size": [16]}, "hidden_size"),
    "long": ({"hidden_size": [1] * 10**5}, "100000 values"),
    "infinite": ({"layer_norm_eps": float("inf")}, "finite"),
    "image": ({"image_size": 10**6}, "far more parameters"),
    "activation": ({"hidden_act": "os.system"}, "os.system"),
    "kind": ({"model_type": "bert"}, "unknown image classifier of transformers 'bert'"),
    "close": ({"model_type": "vitt"}, "did you mean 'vit'"),
    "headless": ({"architectures": ["ViTModel"]}, "ViTModel is no image classifier"),
    "several": ({"problem_type": "multi_label_classification"}, "problem_type"),
    "backbone": ({"backbone": "timm/resnet50"}, "backbone"),
    "timm": ({"use_timm_backbone": True}, "use_timm_backbone"),
    "nested": ({"backbone_config": {"model_type": "timm_backbone"}}, "backbone_config"),
    "quantised": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
    "kernel": ({"_attn_implementation": "kernels-community/evil"}, "never downloaded"),
    "labels": ({"id2label": {"0": "a", "7": "b"}}, "numbered from 0"),
    "label": ({"id2label": {"0": "a"}}, "classes from 2"),
    "channels": ({"num_channels": 0}, "num_channels"),
    "method": ({"architectures": "ViT"}, "architectures"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_that_makes_no_sense_ends_in_one_line(case, copy):
    values, told = REFUSED[case]
    change(copy, **values)
    with pytest.raises(RobustkitError) as refused:
        read_checkpoint(copy).load()
    assert told in str(refused.value)
    assert str(copy) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_names_a_method_of_the_configuration_is_no_value(copy):
    change(copy, to_dict="x", get_text_config=5, __class__="y", sub_configs={"a": 1})
    assert read_checkpoint(copy).load()(torch.rand(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("change_", ["lost", "more", "shape", "else"])
def test_weights_that_are_not_the_networks_are_refused_by_name(change_, copy):
    path = copy / "model.safetensors"
    state = load_file(path)
    name = "vit.encoder.layer.1.output.dense.weight"
    if change_ == "lost":
        del state[name]
    elif change_ == "more":
        name = "vit.encoder.layer.2.output.dense.weight"
        state[name] = torch.rand(3)
    elif change_ == "shape":
        state[name] = torch.rand(16, 25)
    else:
        state["a.b"] = state.pop(name)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="does not match its weights") as refused:
        read_checkpoint(copy).load()
    assert name.rpartition(".layer.")[2].split(".")[0] in str(refused.value)
    assert "--ignore" not in str(refused.value)  # one more block may be a part of the network


@pytest.mark.parametrize("name", ["vit.pooler.dense.weight", "distillation.weight"])
def test_what_leaves_out_a_part_that_the_network_lacks_is_proposed(name, copy):
    path = copy / "model.safetensors"
    pattern = f"{name.removesuffix('.weight').removesuffix('.dense')}.*"
    save_file({**load_file(path), name: torch.rand(3, 3)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"--ignore '{re.escape(pattern)}' makes it fit"):
        read_checkpoint(copy).load()
    assert read_checkpoint(copy, ignore=[pattern]).load()(torch.rand(1, 3, 32, 32)).shape == (1, 3)


OPERATIONS = {
    "neither": {"do_normalize": False},
    "bytes": {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0] * 3},
    "only bytes": {"do_rescale": False, "do_normalize": False},
    "signed": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    "offset": {"kind": "EfficientNet", "rescale_offset": True, "rescale_factor": 1 / 127.5},
    "twice": {"kind": "EfficientNet", "image_std": [0.3, 0.4, 0.5]},
    "flipped": {"kind": "MobileViT"},
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_a_processors_arithmetic_becomes_mean_and_std(case, tmp_path):
    settings = dict(OPERATIONS[case])
    kind = getattr(transformers, f"{settings.pop('kind', 'ViT')}ImageProcessor")
    kind(**settings, do_center_crop=False).save_pretrained(tmp_path)
    words = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    said = processing.read_processing(words, "here").normalisation
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    theirs = kind.from_pretrained(tmp_path)(picture, do_resize=False, return_tensors="np")
    pixels = picture.transpose(2, 0, 1) / 255
    if said.mean is not None:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (said.mean, said.std))
        pixels = (pixels - mean) / std
    pixels = pixels[::-1] if said.flipped else pixels
    np.testing.assert_allclose(theirs["pixel_values"][0], pixels, rtol=1e-5, atol=1e-4)


PREPARE = {
    "square": ("ViT", {"size": {"height": 31, "width": 40}}),
    "bicubic": ("ViT", {"size": SQUARE, "resample": 3}),
    "nearest": ("ViT", {"size": SQUARE, "resample": 0}),
    "crop": ("CLIP", {"size": {"shortest_edge": 41}, "crop_size": {"height": 32, "width": 30}}),
    "padded": ("CLIP", {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 28}}),
    "only crop": ("CLIP", {"do_resize": False, "crop_size": 34}),
    "one number": ("CLIP", {"size": 32, "crop_size": 31}),
    "enlarged": ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.9}),
    "whole": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "levit": ("Levit", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "never cropped": ("Segformer", {"size": SQUARE, "do_center_crop": True, "crop_size": 20}),
    "share": ("PoolFormer", {"size": {"shortest_edge": 32}, "crop_size": 32, "crop_pct": 0.8}),
}


def pictures():
    """Smooth pictures of odd sizes, as arrays."""
    rng = np.random.default_rng(0)
    for width, height in ((47, 33), (29, 64)):
        small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
        yield np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("suffix", ["", "Pil"])
@pytest.mark.parametrize("case", PREPARE)
def test_pictures_are_prepared_as_the_library_does_bit_for_bit(case, suffix, tmp_path):
    kind, settings = PREPARE[case]
    theirs = getattr(transformers, f"{kind}ImageProcessor{suffix}")(**settings)
    theirs.save_pretrained(tmp_path)
    change(
        tmp_path, "preprocessor_config.json", image_processor_type=f"{kind}ImageProcessor{suffix}"
    )
    words = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    pipeline = processing.read_processing(words, "here").pipeline(3)
    for picture in pictures():
        expected = theirs(picture, do_rescale=False, do_normalize=False, return_tensors="np")
        made = pipeline(picture.transpose(2, 0, 1))
        np.testing.assert_array_equal(made, expected["pixel_values"][0])
        assert pipeline.output(Shape(3, *picture.shape[:2]), "") == made.shape


@pytest.mark.parametrize("converts", [True, False])
@pytest.mark.parametrize("kind", ["P", "RGB", "L", "RGBA"])
def test_a_colour_that_stands_for_transparency_is_read_as_the_library_does(
    kind, converts, tmp_path
):
    (picture, _) = pictures()
    picture = Image.fromarray(picture).convert(kind)
    corner = picture.getpixel((0, 0))
    clear = {} if kind == "RGBA" else {"transparency": corner}
    if kind == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    (tmp_path / "set" / "a").mkdir(parents=True)
    picture.save(file := tmp_path / "set" / "a" / "one.png", **clear)
    theirs = transformers.CLIPImageProcessor(size=32, crop_size=31, do_convert_rgb=converts)
    theirs.save_pretrained(tmp_path)
    words = {"preprocessor_config.json": json.loads(next(tmp_path.glob("*.json")).read_text())}
    pipeline = processing.read_processing(words, "here").pipeline(3)
    loaded = transformers.image_utils.load_image(str(file))
    expected = theirs(loaded, do_rescale=False, do_normalize=False, return_tensors="np")
    found = load_dataset(str(tmp_path / "set"), pipeline=pipeline).images(0, 1)[0]
    np.testing.assert_array_equal(np.rint(found * 255), expected["pixel_values"][0])


OF_TRANSFORMS = {
    "center": {"interpolation": "bicubic", "crop_pct": 0.9},
    "squash": {"interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "squash"},
    "oblong": {"crop_mode": "squash", "input_size": (3, 20, 33)},
    "cover": {"input_size": (3, 20, 33), "crop_pct": 0.9},
    "border": {"crop_mode": "border", "mean": (0.1, 0.5, 0.9)},
    "borders": {"crop_mode": "border", "input_size": (3, 33, 20), "crop_pct": 1.2},
    "padded": {"crop_pct": 1.5, "interpolation": "lanczos"},
    "usual": {},
}


@pytest.mark.parametrize("case", OF_TRANSFORMS)
def test_pictures_are_prepared_as_timm_does_bit_for_bit(case):
    settings = {"input_size": (3, 32, 32)} | OF_TRANSFORMS[case]
    data = timm.data.resolve_data_config(pretrained_cfg=settings)
    theirs = timm.data.create_transform(**data, is_training=False, normalize=False)
    said = json.loads(json.dumps({"architecture": "resnet18", "pretrained_cfg": settings}))
    pipeline = of_timms.pipeline(said, "here")
    for picture in pictures():
        made = pipeline(picture.transpose(2, 0, 1))
        np.testing.assert_array_equal(made, theirs(Image.fromarray(picture)).numpy())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of classes: a grey JPEG, one that lies on its side, and one in CMYK."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, name in enumerate(NAMES):
        (folder / name).mkdir()
        for index, picture in enumerate(pictures()):
            exif = Image.Exif()
            exif[0x0112] = (1, 6, 1)[number]
            made = Image.fromarray(picture).convert(("L", "RGB", "CMYK")[number])
            made.save(folder / name / f"{index}.jpg", exif=exif)
    return folder


def test_a_folder_and_pictures_are_enough(vit, photographs, tmp_path, capsys):
    folder, model = vit
    asked = ["evaluate", str(folder), "--data", str(photographs), "--attack", "clean"]
    assert run([*asked, "--out", str(tmp_path), "--device", "cpu", "--json", "-"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    files = sorted(photographs.glob("*/*.jpg"))
    loaded = [transformers.image_utils.load_image(str(file)) for file in files]
    prepared = transformers.AutoImageProcessor.from_pretrained(folder)(loaded, return_tensors="pt")
    expected = logits(model, prepared["pixel_values"])
    truth = torch.tensor([NAMES.index(file.parent.name) for file in files])
    right = (expected.argmax(1) == truth).float().mean().item()
    assert said["clean"]["accuracy"] == pytest.approx(right)
    # an untrained network guesses, and neither classes nor pixels can be at fault
    (guesses,) = (warning for warning in said["warnings"] if "chance" in warning)
    assert "--mean" not in guesses
    assert "--classes" not in guesses
    images = images_for(read_checkpoint(folder), str(photographs))
    found = logits(read_checkpoint(folder).load(), torch.from_numpy(images.images(0, len(files))))
    order = expected[images._positions]
    torch.testing.assert_close(found, order, atol=1e-5, rtol=0)
    (record,) = map(read, tmp_path.glob("*.parquet"))
    kept = record.header["data"]["transform"]["pipeline"]
    assert (kept["processor"], kept["upright"]) == ("ViTImageProcessor", True)
    assert kept["library"] == f"transformers {transformers.__version__}"


def test_flags_replace_their_part_of_what_a_folder_says_of_its_images(vit, photographs):
    checkpoint = read_checkpoint(vit[0])
    images = images_for(checkpoint, str(photographs), resize=20, crop=16, channels=3)
    assert images.shape == (3, 16, 16)
    kept = images.transform.pop("pipeline")
    assert images.transform == {"resize": 20, "crop": 16}
    (usual,) = images_for(checkpoint, str(photographs)).transform.values()
    assert kept == usual | {"resize": 20, "crop": (16, 16)}


@pytest.mark.parametrize("name", processing.PROCESSORS)
def test_defaults_are_those_of_the_librarys_class(name):
    theirs = getattr(transformers, name)
    for key, value in processing.PROCESSORS[name].defaults.items():
        expected = getattr(theirs, key, None)
        if key == "image_mean" and not theirs.do_normalize:
            continue
        assert (value or None) == (
            list(expected) if key.startswith("image_") else expected or None
        ), key


PREPARED = {
    "size": ({"size": {"height": 10**9, "width": 1}}, "size"),
    "nothing": ({"size": {"height": 0, "width": 3}}, "size"),
    "odd": ({"size": {"longest_edge": 64}}, "shortest_edge"),
    "filter": ({"resample": 77}, "resample"),
    "factor": ({"rescale_factor": -1}, "rescale_factor"),
    "mean": ({"image_mean": "white"}, "image_mean"),
    "std": ({"image_std": [0.5, 0, 0.5]}, "image_std"),
    "unknown": ({"image_processor_type": "EvilImageProcessor"}, "EvilImageProcessor"),
    "flag": ({"do_resize": "yes"}, "do_resize"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_a_preprocessor_that_makes_no_sense_ends_in_one_line(case, copy):
    values, told = PREPARED[case]
    change(copy, "preprocessor_config.json", **values)
    with pytest.raises(CheckpointError, match=told) as refused:
        read_checkpoint(copy)
    assert "preprocessor_config.json" in str(refused.value)


def test_a_folder_without_a_preprocessor_says_that_nothing_is_known(copy):
    (copy / "preprocessor_config.json").unlink()
    assert any("unknown preprocessing" in text for text in read_checkpoint(copy).warnings)


def test_a_folder_of_timms_is_its_network_behind_its_mean_and_std(of_timm):
    folder, model = of_timm
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.label_names, checkpoint.input_shape) == (NAMES, (3, 32, 32))
    pixels = torch.rand(4, 3, 32, 32)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    expected = logits(model, (pixels - mean) / std)
    assert (logits(model, pixels) - expected).abs().max() > 1e-3
    torch.testing.assert_close(checkpoint.load()(pixels), expected, atol=1e-5, rtol=0)


OF_TIMM = {
    "close": ({"architecture": "vit_tiny_patch16_244"}, "did you mean 'vit_tiny_patch16_224'"),
    "path": ({"architecture": "local-dir:/tmp/x"}, "architecture"),
    "address": ({"architecture": "hf-hub:evil/evil"}, "architecture"),
    "features": ({"num_classes": 0}, "without a classifier"),
    "loads": ({"model_args": {"checkpoint_path": "/tmp/x.pth"}}, "checkpoint_path"),
    "fetches": ({"model_args": {"pretrained": True}}, "pretrained"),
    "deep": ({"model_args": {"depth": 10**4}}, "far more"),
    "wide": ({"model_args": {"embed_dim": 2**20, "num_heads": 2}}, "far more parameters"),
    "typed": ({"model_args": {"depth": "three"}}, "cannot build vit_tiny_patch16_224"),
    "unknown": ({"model_args": {"no_such": 3}}, "no_such"),
    "mode": ({"pretrained_cfg": {"crop_mode": "middle"}}, "crop_mode: expected center or squash"),
    "trimmed": ({"pretrained_cfg": {"crop_border_pixels": 2}}, "crop_border_pixels"),
    "flat": ({"pretrained_cfg": {"std": [0.5, 0.0, 0.5]}}, "std must be above 0"),
    "scale": ({"pretrained_cfg": {"mean": [123.0] * 3, "std": [58.0] * 3}}, "0 to 255"),
    "other": (
        {"architecture": "test_resnet", "model_args": {}, "pretrained_cfg": {}},
        "does not fit timm:test_resnet",
    ),
}


@pytest.mark.parametrize("case", OF_TIMM)
def test_a_configuration_of_timms_that_makes_no_sense_ends_in_one_line(case, of_timm, tmp_path):
    values, told = OF_TIMM[case]
    folder = change(shutil.copytree(of_timm[0], tmp_path / "copy"), **values)
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(folder).load()
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("made", "extra"), [("vit", "hf"), ("of_timm", "timm")])
def test_a_missing_library_is_named_with_its_extra(made, extra, request, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(declared, "version", missing)
    folder, _ = request.getfixturevalue(made)
    checkpoint = read_checkpoint(folder)  # it can still be described
    for ask in (checkpoint.check_installed, checkpoint.load):
        with pytest.raises(CheckpointError, match=rf"pip install 'robustkit\[{extra}\]'"):
            ask()


@pytest.mark.thorough
def test_comparisons_know_a_folder_by_the_digest_that_an_evaluation_records(vit, swin, of_timm):
    for folder, _ in (vit, swin, of_timm):
        assert folder_digest(folder) == read_checkpoint(folder).sha256


def test_a_folder_is_described_without_torch_and_its_library(vit):
    script = (
        "import sys; from robustkit.cli.commands import run; print(run(sys.argv[1:]), "
        "[n for n in ('torch', 'transformers', 'timm', 'huggingface_hub') if n in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "describe", str(vit[0])], capture_output=True, text=True
    )
    assert found.stdout.splitlines()[-1] == "0 []", found.stderr
    assert "ViTForImageClassification" in found.stdout


FUNCTIONS = """
from transformers import ViTForImageClassification

def loads(folder):
    return ViTForImageClassification.from_pretrained(folder)

def loads_other(folder):
    made = loads(folder)
    made.classifier.bias.data.add_(1)
    return made
"""


def test_a_function_may_return_a_network_that_has_loaded_itself(vit, tmp_path):
    folder, model = vit
    file = tmp_path / "own.py"
    file.write_text(FUNCTIONS)
    checkpoint = read_checkpoint(folder, model=f"{file}:loads")
    assert any("loaded by loads itself" in note for note in checkpoint.notes)
    pixels = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (checkpoint.mean, checkpoint.std))
    expected = logits(model, (pixels - mean) / std)
    torch.testing.assert_close(checkpoint.load()(pixels), expected, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="does not fit"):
        read_checkpoint(folder, model=f"{file}:loads_other")
