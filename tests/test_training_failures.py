"""What a training refuses, and when it fails: no checkpoint that cannot be believed is written."""

import math
import os
import subprocess
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import warm
from PIL import Image
from torch import nn

from robustkit import data
from robustkit.auditing.request import TrainingImages
from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.data import load_dataset
from robustkit.device import in_float32
from robustkit.errors import InputError, TrainingFailed
from robustkit.evaluation import images_for
from robustkit.training import Recipe, TrainingConfig, TrainingOptions, train
from robustkit.training.run import numerics

TRAIN = ["train", "--model", "lenet5", "--data", "mnist5k", "--data-fraction", "0.05"]
NET = """
from torch import nn
def build():
    return nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49, 10))
"""
LOSSES = """
import os
from torch import Tensor
from torch.nn.functional import cross_entropy

calls = []

def broken(value):
    "The value as it is, with a gradient that is none."
    return value + (value * 0).sqrt()

def finite_value(logits, labels, after=0):
    calls.append(1)
    value = cross_entropy(logits, labels)
    return broken(value) if len(calls) > after else value

def puts(logits, labels):
    own = logits.new_zeros(3).put_(labels[:2] * 0, logits.new_ones(2))
    return cross_entropy(logits, labels) + own.sum()

def never(logits, labels):
    return cross_entropy(logits, labels) * float("nan")

def here_alone(logits, labels):
    calls.append(1)
    bad = os.environ["RANK"] == "1" and len(calls) > 2
    return cross_entropy(logits, labels) * (float("nan") if bad else 1)

def attacks_late(model, images, labels):
    calls.append(1)
    if len(calls) > 3:
        cross_entropy(model(images), labels).backward()
    return cross_entropy(model(images), labels)

def rewrites(logits, labels):
    value = cross_entropy(logits, labels.clone())
    labels.zero_()
    return value
"""


@pytest.fixture(scope="module")
def digits():
    """200 real digits, 20 a class, as a training split."""
    whole = load_dataset("mnist5k", split="train")
    keep = np.concatenate([np.flatnonzero(whole.labels == k)[:20] for k in range(10)])
    images = np.concatenate([whole.images(i, i + 1) for i in keep])
    return data.from_arrays(images, whole.labels[keep], name="digits")


@pytest.fixture
def mine(tmp_path):
    """A user's file of losses; the name of one of them."""
    (tmp_path / "mine.py").write_text(LOSSES)
    return lambda name: f"{tmp_path}/mine.py:{name}"


def asked(digits, loss="cross-entropy", **recipe):
    return TrainingConfig(
        model="lenet5", data=digits, loss=loss, recipe=Recipe(hold_out=Fraction(0), **recipe)
    )


# --- how the images were made ---------------------------------------------------------------------


@pytest.mark.thorough
def test_an_evaluation_makes_its_images_as_the_training_did(robustkit, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    flags = ["--resize", "40", "--crop", "36", "--interpolation", "bicubic"]
    whole = ["--model", "net.py:build", "--steps", "1", "--out", "a.safetensors", *flags]
    status, _, err = robustkit("train", "--data", "mnist5k", *whole)
    assert (status, err) == (0, "")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert (found.resize, found.crop, found.channels) == (40, 36, None)
    assert found.interpolation == "bicubic"
    assert found.trained_shape == (1, 36, 36)
    shared = ["a.safetensors", "--model", "net.py:build", "--limit", "20", "--attack", "fgsm"]
    _, plain, _ = robustkit("evaluate", *shared)
    _, spelled, _ = robustkit("evaluate", *shared, *flags)
    _, usual, _ = robustkit("evaluate", *shared, "--interpolation", "bilinear")
    _, other, err = robustkit("evaluate", *shared, "--crop", "28")
    records = [text.rpartition("record: ")[2] for text in (plain, spelled, usual, other)]
    assert records[0] == records[1]
    assert len(set(records)) == 3
    assert "trained on images of 1×36×36, but those of mnist5k are 1×28×28" in " ".join(err.split())


@pytest.mark.thorough
def test_images_of_another_shape_than_the_recorded_one_are_refused(robustkit, tmp_path, digits):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49, 10))
    path = tmp_path / "old.safetensors"
    facts = {"num_classes": 10, "input_shape": (1, 36, 36), "trained_on": "mnist5k"}
    save_checkpoint(path, network, model="net.py:build", **facts)
    shared = [path, "--model", "net.py:build", "--limit", "20"]
    for command in (["evaluate", *shared], ["audit", *shared, "--epsilon", "0.1"]):
        status, _, err = robustkit(*command)
        assert status == 2
        assert "trained on images of 1×36×36, but those of mnist5k are 1×28×28" in err
        assert err.count("\n") == 1
        assert "(--resize 28 accepts them as they are)" in err
    # an option that says nothing of height and width leaves them to be checked
    assert robustkit("evaluate", *shared, "--attack", "fgsm", "--channels", "1")[0] == 2
    assert robustkit("evaluate", *shared, "--attack", "fgsm", "--resize", "28")[0] == 0


def test_a_training_without_a_transform_records_none(digits, tmp_path):
    train(asked(digits, steps=1), tmp_path / "a.safetensors")
    head = (tmp_path / "a.safetensors").read_bytes()[:4000]
    assert not any(name in head for name in (b'"resize"', b'"crop"', b'"channels"'))


@pytest.mark.parametrize("size", [0, 10**6])
def test_a_file_cannot_ask_for_images_of_any_size(tmp_path, size):
    with pytest.raises(InputError, match=f"resize must be from 1 to 4096, got {size}"):
        save_checkpoint(tmp_path / "a.safetensors", nn.Linear(2, 2), model="lenet5", resize=size)


# --- numbers that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, None])
def test_weights_that_are_no_numbers_are_not_saved(digits, tmp_path, steps):
    question = asked(digits, learning_rate=1e38, weight_decay=1e6, steps=steps, batch_size=200)
    with pytest.raises(
        TrainingFailed, match=r"weights became NaN or infinite in epoch 1, by batch"
    ):
        train(question, tmp_path / "a.safetensors", TrainingOptions(seconds=0))
    assert not list(tmp_path.iterdir())


def test_an_earlier_good_state_stays(digits, tmp_path, mine):
    # the probe calls the loss once; so the third batch, the second epoch's first, breaks it
    question = asked(digits, mine("finite_value"), batch_size=100, epochs=2)
    question = replace(question, settings={"after": 4})
    with pytest.raises(TrainingFailed, match=r"epoch 2, by batch 2 of 2; try a smaller") as told:
        train(question, tmp_path / "a.safetensors", TrainingOptions(seconds=math.inf))
    kept = tmp_path / "a.safetensors.partial" / "state.pt"
    assert f"the last good state is kept in {kept}" in str(told.value)
    state = torch.load(kept, weights_only=True)["state"]
    assert state["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in state["network"].values())
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(("loss", "what"), [("never", "loss"), ("finite_value", "gradient")])
def test_what_was_broken_from_the_start_is_told_so(digits, tmp_path, mine, loss, what):
    with pytest.raises(
        TrainingFailed, match=f"the {what} is not a finite number on the very first batch"
    ) as told:
        train(asked(digits, mine(loss), steps=1), tmp_path / "a.safetensors")
    assert "--learning-rate" not in str(told.value)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_loss_that_rewrites_its_labels_falsifies_no_history(digits, tmp_path, mine):
    own = train(asked(digits, mine("rewrites"), epochs=2), tmp_path / "a.safetensors")
    plain = train(asked(digits, epochs=2), tmp_path / "b.safetensors")
    assert own.record["history"] == plain.record["history"]


def test_a_loss_that_leaves_gradients_ends_the_training(digits, tmp_path, mine):
    with pytest.raises(TrainingFailed, match=r"leaves gradients in the network's .*, in epoch 2"):
        train(asked(digits, mine("attacks_late"), steps=9), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_an_operation_without_a_deterministic_way_is_one_line():
    with (
        pytest.raises(InputError, match="--deterministic: put_ does not have a deterministic") as e,
        numerics("float32", True),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert "\n" not in str(e.value)
    assert not torch.are_deterministic_algorithms_enabled()


def test_so_is_one_of_the_loss_s_own(digits, tmp_path, mine):
    config = replace(asked(digits, mine("puts"), steps=1), deterministic=True)
    with pytest.raises(InputError, match=r"--deterministic: put_ does not have a deterministic"):
        train(config, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    words = "Deterministic behavior was enabled, set CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with (
        pytest.raises(InputError, match="before the program begins"),
        numerics("float32", True),
    ):
        raise TrainingFailed("the network failed") from RuntimeError(words)


@pytest.mark.parametrize("warns", [False, True])
def test_what_the_program_asked_of_its_algorithms_stands_again(warns):
    torch.use_deterministic_algorithms(True, warn_only=warns)
    try:
        with in_float32():
            assert not torch.are_deterministic_algorithms_enabled()
        with numerics("float32", True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warns
    finally:
        torch.use_deterministic_algorithms(False)


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_written_is_the_users_to_mend(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*; give an --out in a folder that can be"):
        train(asked(digits, steps=1), tmp_path / "file" / "a.safetensors")
    with pytest.raises(InputError, match=r"--out .*: is a folder; give a file name"):
        train(asked(digits, steps=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "0.0001"], "0.0001 of 4000 images is none; give at least 1/4000, or 0"),
        (["--hold-out", "1.0"], "a share must be below 1; for a single image write --hold-out 1"),
        (["--no-memory"], "give --compress too"),
        (
            ["--noise-kind", "file:x.npy", "--noise-stratified"],
            "does not apply to labels from a file",
        ),
        (["--label-noise", "many"], "--label-noise many: expected a number such as 0.05, 1/20 or"),
        (["--data-fraction", "8/0"], "--data-fraction 8/0: expected a number such as 0.05"),
        (["--out", "."], "is a folder"),
        (
            ["--seed", str(2**64)],
            "--seed: expected an integer of 64 bits, got 18446744073709551616",
        ),
        (["--seed", str(-(2**63))], "--seed: expected an integer of 64 bits, got -92233720"),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(robustkit, arguments, message):
    status, _, err = robustkit("train", "--model", "lenet5", "--data", "mnist5k", *arguments)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("seed", [10**18, -(10**18), -1])
def test_every_seed_that_is_taken_can_be_read_back(robustkit, tmp_path, seed):
    status, _, err = robustkit(*TRAIN, "--steps", "1", "--seed", seed, "--out", "a.safetensors")
    assert (status, err) == (0, "")
    assert read_checkpoint(tmp_path / "a.safetensors").seed == seed


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("loss", ["cross-entropy", "trades", "large-margin"])
@pytest.mark.parametrize("net", ["frozen", "empty"])
def test_a_network_with_nothing_to_train_is_one_line(robustkit, tmp_path, net, loss):
    (tmp_path / "net.py").write_text(
        NET + "def frozen():\n    return build().requires_grad_(False)\n"
        "class Fixed(nn.Flatten):\n"
        "    def forward(self, x):\n        return super().forward(x)[:, 300:310]\n"
        "def empty():\n    return Fixed()\n"
    )
    model = ["train", "--model", f"{tmp_path}/net.py:{net}", "--data", "mnist5k"]
    status, _, err = robustkit(*model, "--loss", loss, "--steps", "1", "--out", "a.safetensors")
    assert (status, err.count("\n")) == (2, 1)
    assert "--model: all weights are frozen, or there are none: nothing to train" in err
    assert not (tmp_path / "a.safetensors").exists()


def test_a_layer_without_a_size_is_refused_before_the_training(digits, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n"
    )
    lazy = replace(asked(digits, steps=1), model=f"{tmp_path}/net.py:build")
    with pytest.raises(InputError, match=r"has no size before a first pass \(a lazy layer\)"):
        train(lazy, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_images_that_went_by_a_path_are_found_there_or_nowhere(digits, tmp_path, monkeypatch):
    for name in ("sets", "other"):
        (tmp_path / name).mkdir()
    images = np.stack([digits.images(i, i + 1)[0] for i in range(len(digits))])
    file = tmp_path / "sets" / "mnist5k.npz"
    np.savez(file, images=images, labels=digits.labels)
    monkeypatch.chdir(tmp_path)
    given = load_dataset("sets/mnist5k.npz")
    train(asked(given, steps=1), tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path / "other")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert found.extra["training"]["path"] == str(file)
    assert images_for(found).digest == given.digest  # not those that ship under that name
    seen = TrainingImages.of(found, None, given)
    assert seen.ids() == set(given.ids)
    assert seen.stamp()
    file.unlink()
    with pytest.raises(
        InputError, match=r"was trained on .*/sets/mnist5k\.npz, which is not there"
    ):
        images_for(found)
    assert seen.ids() is None
    assert images_for(found, "mnist5k", limit=1).name == "mnist5k"


def test_images_that_a_file_describes_are_found_by_that_file(digits, tmp_path):
    images = np.stack([digits.images(i, i + 1)[0] for i in range(len(digits))])
    np.savez(tmp_path / "own.npz", images=images, labels=digits.labels)
    file = tmp_path / "mnist5k.toml"
    file.write_text('title = "Digits of my own"\nsource = "own.npz"\n')
    given = load_dataset(str(file))
    train(asked(given, steps=1), tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert found.extra["training"]["path"] == str(file)
    assert images_for(found).digest == given.digest  # not those that ship under that name


def test_images_are_matched_by_the_names_that_the_trainings_classes_had(digits, tmp_path):
    images = np.stack([digits.images(i, i + 1)[0] for i in range(len(digits))])
    names, folders = tuple("jihgfedcba"), tuple(sorted(map(str, range(1, 11))))
    given = data.from_arrays(images, digits.labels, name="letters", classes=names)
    called = data.from_arrays(images, digits.labels, name="folders", classes=folders)
    all_data = {names: given, (): digits, folders: called}  # of digits that are but their places
    for number, (own, given_data) in enumerate(all_data.items()):
        train(asked(given_data, steps=1), tmp_path / f"{number}.safetensors")
        found = read_checkpoint(tmp_path / f"{number}.safetensors")
        assert found.label_names == own
        assert "classes" not in found.extra
    for number, name in enumerate(sorted(names)):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray(np.full((28, 28), 20 * number, np.uint8)).save(
            tmp_path / "d" / name / "0.png"
        )
    read = images_for(read_checkpoint(tmp_path / "0.safetensors"), tmp_path / "d")
    brightness = (read.images(0, 10).mean((1, 2, 3)) * 255 / 20).round().astype(int)
    assert read.labels.tolist() == (9 - brightness).tolist()


def test_of_images_that_went_by_a_name_the_name_is_recorded(tmp_path):
    whole = load_dataset("mnist5k", split="train", limit=300)
    train(asked(whole, steps=1), tmp_path / "a.safetensors")
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert "path" not in found.extra["training"]
    assert images_for(found, limit=1).name == "mnist5k"


def test_shares_may_be_written_in_percent(robustkit, tmp_path):
    flags = ["--label-noise", "40%", "--hold-out", "10%", "--steps", "1", "--out", "a.safetensors"]
    status, out, err = robustkit(*TRAIN[:-1], "5%", *flags)
    assert (status, err) == (0, "")
    assert "180 images of mnist5k, 72 noisy labels (40.0\u00a0%)" in out
    record = read_checkpoint(tmp_path / "a.safetensors").extra["training"]["data"]
    assert (record["hold_out"], record["fraction"]) == ("0.1", "0.05")
    assert record["train"]["noise"]["rate"] == "0.4"


def test_the_help_tells_what_deterministic_does(robustkit):
    _, out, _ = robustkit("train", "--help")
    text = " ".join(out.split())
    assert "CUBLAS_WORKSPACE_CONFIG" in text


# --- several processes ----------------------------------------------------------------------------


def several(*arguments, cwd):
    """Two processes that train together, as torchrun starts them: their statuses, and the lines
    that robustkit writes to stderr."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    both |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    started = [
        subprocess.Popen(
            [*warm.command(), *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | both | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    said = "".join(one.communicate(timeout=300)[1] for one in started)
    assert "terminate called" not in said
    assert "gloo" not in said
    return [one.returncode for one in started], [
        line for line in said.splitlines() if "robustkit: " in line
    ]


@pytest.mark.slow
def test_a_loss_that_breaks_in_one_process_stops_all_with_one_line(tmp_path, mine):
    status, lines = several(
        *TRAIN, "--loss", mine("here_alone"), "--steps", "6", "--out", "a", cwd=tmp_path
    )
    assert 0 not in status
    assert len(lines) == 1
    assert lines[0].startswith("robustkit: error: a: the loss became NaN or infinite in epoch")
    assert not list(tmp_path.glob("a*"))


@pytest.mark.thorough
def test_bad_input_is_told_once(tmp_path):
    status, lines = several(*TRAIN, "--steps", "0", cwd=tmp_path)
    assert 0 not in status
    assert lines == ["robustkit: error: --steps 0: must be above 0"]
