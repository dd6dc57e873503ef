"""Inputs that run without an error and give a number that means nothing."""

import json
import subprocess
from collections import OrderedDict
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import checkpoint_files as files
from helpers import warm
from PIL import Image
from torch import nn

from robustkit import evaluate, from_arrays, load_dataset
from robustkit.checkpoint import read_checkpoint, save_checkpoint
from robustkit.errors import CheckpointError, DataError, InputError
from robustkit.evaluation.chance import chance_warnings, find_mapping, settled_by

GENERATOR = np.random.default_rng(0)


def arrays(n=60, classes=3, side=4):
    """Images that a network of the brightest quadrant is right on, and their labels."""
    source = np.random.default_rng(1)
    labels = source.integers(0, classes, n)
    images = source.random((n, 1, side, side), dtype=np.float32) * 0.2
    images.reshape(n, -1)[np.arange(n), labels] = 0.9
    return images, labels


class FirstPixels(nn.Module):
    """The first pixels are the logits, in any order."""

    def __init__(self, order=(0, 1, 2)):
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x):
        return x.flatten(1)[:, self.order] * 10


def warnings_of(model, data=None, **options):
    found = evaluate(model, data or arrays(), "fgsm", epsilon=["0.01"], **options)
    return found.header["warnings"]


# -- clean accuracy at chance ----------------------------------------------------------------------


def test_a_network_that_is_right_is_not_warned_of():
    assert warnings_of(FirstPixels()) == []


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_classes_in_another_order_are_named(order):
    (warning,) = warnings_of(FirstPixels(order))
    assert "another order" in warning
    assert "100.0\u00a0%" in warning


def test_a_network_that_guesses_is_told_the_likely_causes():
    (warning,) = warnings_of(FirstPixels((8, 9, 10)))
    for word in ("chance", "class order", "--mean", "pixel scale", "logits"):
        assert word in warning


def test_what_the_checkpoint_says_itself_is_no_likely_cause():
    labels = np.arange(60) % 3
    by_name, by_number = ({"class_map": {"by": how}} for how in ("name", "number"))
    for preprocessing, source, told in [
        (None, {}, {"--classes", "--mean"}),
        ("given", by_number, {"--classes", "--mean"}),
        ("recorded", by_number, {"--classes"}),
        ("assumed none", by_name, {"--mean"}),
        ("in the checkpoint", by_name, set()),
    ]:
        settled = settled_by(preprocessing, source)
        (warning,) = chance_warnings(labels, np.zeros(60, int), 3, settled)
        assert {option for option in ("--classes", "--mean") if option in warning} == told


def test_labels_from_1_are_told_from_labels_from_0():
    images, labels = arrays()
    with pytest.raises(DataError, match="numbered from 1, subtract 1"):
        evaluate(FirstPixels(), (images, labels + 1), "clean")
    with pytest.raises(DataError, match=r"has 4$"):
        evaluate(FirstPixels(), (images, np.where(labels == 2, 3, labels)), "clean")


def test_a_record_of_the_same_network_in_another_file_says_nothing_of_that_file(tmp_path):
    weights = {"0.weight": torch.eye(16)[:3] * 10, "0.bias": torch.zeros(3)}
    code = "from torch import nn\nmake = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
    (tmp_path / "own.py").write_text(code)
    renamed = {f"1.{k.partition('.')[2]}": v for k, v in weights.items()}
    torch.save({**renamed, "loss.weight": torch.ones(3)}, tmp_path / "a.pt")
    torch.save(renamed, tmp_path / "b.pt")
    model, found = f"{tmp_path / 'own.py'}:make", {}
    for name, ignored in (("a.pt", "loss.*"), ("b.pt", None)):
        read = read_checkpoint(tmp_path / name, model=model, ignore=ignored)
        found[name] = evaluate(read, arrays(), "clean", out=tmp_path / "runs")
    assert found["a.pt"].digest == found["b.pt"].digest
    assert any("loss.weight" in n for n in found["a.pt"].header["checkpoint"]["notes"])
    said = found["b.pt"].header
    assert said["checkpoint"]["path"].endswith("b.pt")
    assert not any("loss.weight" in note for note in said["checkpoint"]["notes"])
    assert said["warnings"] == found["a.pt"].header["warnings"]


def test_images_of_one_class_are_told_to_say_nothing():
    images, labels = arrays()
    (warning,) = warnings_of(FirstPixels(), (images[labels == 1], labels[labels == 1]))
    assert "of class 1" in warning


def test_chance_is_the_largest_classs_share_where_that_is_more_than_its_part():
    labels = np.array([0] * 90 + [1] * 10)
    assert "90.0\u00a0%" in chance_warnings(labels, np.zeros(100, int), 2)[0]
    assert chance_warnings(labels, labels, 2) == []


@pytest.mark.parametrize("classes", [11, 100])
def test_an_order_of_numbers_as_text_is_recognised(classes):
    order = np.array(sorted(range(classes), key=str))
    labels = GENERATOR.integers(0, classes, 20 * classes)
    (warning,) = chance_warnings(labels, np.argsort(order)[labels], classes)
    assert "class numbers as text" in warning


def test_a_mapping_needs_images_that_it_was_not_found_on():
    """Of K! mappings one fits any few images of a network that guesses."""
    for _ in range(200):
        classes, n = int(GENERATOR.integers(2, 40)), int(GENERATOR.integers(4, 200))
        labels, predicted = GENERATOR.integers(0, classes, (2, n))
        assert find_mapping(labels, predicted, classes) is None


@pytest.mark.parametrize("classes", [2, 10])
def test_a_mapping_is_found_where_classes_alternate(classes):
    labels = np.arange(20 * classes) % classes
    assert "another order" in chance_warnings(labels, (labels + 1) % classes, classes)[0]


def test_noise_on_a_permuted_network_does_not_hide_the_mapping():
    labels = GENERATOR.integers(0, 10, 400)
    order = GENERATOR.permutation(10)
    predicted = np.where(GENERATOR.random(400) < 0.7, order[labels], GENERATOR.integers(0, 10, 400))
    found = find_mapping(labels, predicted, 10)
    assert found is not None
    assert found.classes[order].tolist() == list(range(10))


@pytest.mark.thorough
def test_the_command_shows_the_warning_wherever_the_accuracy_stands(tmp_path):
    network = files.network()
    order = [3, 7, 1, 9, 0, 2, 8, 4, 6, 5]
    read = read_checkpoint("lenet5-mnist5k")
    state = read.load().network.state_dict()
    for name in ("fc3.weight", "fc3.bias"):
        state[name] = state[name][order]
    network.load_state_dict(state)
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, network, model="lenet5", trained_on="mnist5k")
    done = subprocess.run(
        [*warm.command(), "evaluate", path, "--attack", "fgsm", "--limit", "200",
         "--epsilon", "0.1", "--json", "out.json", "--html", "page.html"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = "another order: with output 0 as class 3, 1 as class 7"
    assert said in done.stderr
    assert said in json.loads((tmp_path / "out.json").read_text())[0]["warnings"][-1]
    assert said in (tmp_path / "page.html").read_text()


# -- normalisation ---------------------------------------------------------------------------------

SCALES = [
    ((33.3,), (78.0,), "mean 0.130588, std 0.305882"),
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "mean 0.485,0.456,0.406, std 0.229,"),
    ((0.13,), (78.0,), "mean 0.13, std 0.305882"),
    ((33.3,), (0.31,), "mean 0.130588, std 0.31"),
    ((103.939,), (1.0,), "mean 0.407604, std 0.00392157"),
    ((0.0,), (255.0,), "mean 0, std 1"),
    ((127.5,), (127.5,), "mean 0.5, std 0.5"),
]


@pytest.mark.parametrize("place", ["given", "sidecar", "self-describing", "buffers"])
@pytest.mark.parametrize(("mean", "std", "right"), SCALES)
def test_normalisation_of_0_to_255_is_refused_with_the_right_numbers(
    mean, std, right, place, tmp_path
):
    path, options = tmp_path / "x.pt", {}
    state = files.network().state_dict()
    if place == "buffers":
        buffers = {"norm.mean": torch.tensor(mean), "norm.std": torch.tensor(std)}
        state = {f"model.{key}": value for key, value in state.items()} | buffers
    path.write_bytes(files.saved(state))
    if place == "given":
        options = {"mean": mean, "std": std}
    if place == "sidecar":
        (tmp_path / "x.pt.toml").write_text(f"mean = {list(mean)}\nstd = {list(std)}\n")
    if place == "self-describing":
        ask = partial(save_checkpoint, path, files.network(), model="lenet5", mean=mean, std=std)
    else:
        ask = partial(read_checkpoint, path, **options)
    with pytest.raises(CheckpointError, match="0 to 255") as error:
        ask()
    assert right in str(error.value)
    if place == "buffers":
        read = read_checkpoint(path, mean=[0.1], std=[0.3])
        assert read.preprocessing == "given"


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,), (1.0,)),
        ((0.5,), (1.0,)),
        ((0.4076,), (1 / 255,)),
        ((1.0,), (0.5,)),
        ((0.0,), (2.0,)),
    ],
)
def test_odd_but_possible_normalisations_are_taken(mean, std, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(files.saved(files.network().state_dict()))
    assert read_checkpoint(path, mean=mean, std=std).mean == mean


class Normalising(FirstPixels):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1), mean))
        self.register_buffer("std", torch.full((1, 1, 1), std))

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)


def test_a_networks_own_normalisation_of_0_to_255_is_warned_of():
    assert warnings_of(Normalising(0.13, 0.3)) == []
    assert any("0 to 255" in w for w in warnings_of(Normalising(33.3, 78.0)))


# -- pixels ----------------------------------------------------------------------------------------


def binary(dtype=np.uint8):
    return GENERATOR.integers(0, 2, (6, 1, 5, 5)).astype(dtype), np.arange(6) % 3


@pytest.mark.parametrize("form", ["arrays", "int64", "npz", "folder", "parquet"])
def test_bytes_of_0_and_1_are_refused_wherever_they_stand(form, tmp_path):
    images, labels = binary(np.int64 if form == "int64" else np.uint8)
    ask = partial(from_arrays, images, labels, name="x")
    if form == "npz":
        np.savez(tmp_path / "x.npz", images=images, labels=labels)
        ask = partial(load_dataset, str(tmp_path / "x.npz"))
    if form in ("folder", "parquet"):
        folder_of(images, labels, tmp_path)
        ask = partial(load_dataset, str(tmp_path))
    if form == "parquet":
        pictures = sorted(tmp_path.rglob("*.png"))
        columns = {"image": [{"bytes": p.read_bytes(), "path": p.name} for p in pictures]}
        columns["label"] = [int(p.parent.name) for p in pictures]
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        ask = partial(load_dataset, str(tmp_path / "x.parquet"))
    with pytest.raises(DataError, match="almost black"):
        ask()


def folder_of(images, labels, folder, mode="L"):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(exist_ok=True)
        Image.fromarray(image[0], "L").convert(mode).save(place / f"{i}.png")


def test_binary_pictures_and_floats_are_what_they_are(tmp_path):
    images, labels = binary()
    folder_of(images * 255, labels, tmp_path, "1")
    pictures = load_dataset(str(tmp_path))
    floats = from_arrays(images.astype(np.float32), labels, name="x")
    assert sorted(pictures.ids) == sorted(floats.ids)
    assert set(np.unique(floats.images(0, 6))) == {0, 1}


@pytest.mark.parametrize(
    ("scale", "refused"), [(1 / 255, True), (1 / 257, True), (16 / 255, False), (60 / 255, False)]
)
def test_images_that_are_all_dark_are_refused_or_warned_of(scale, refused):
    images = (GENERATOR.random((6, 1, 5, 5)) * scale).astype(np.float32)
    images[0, 0, 0, 0] = scale
    labels = np.arange(6) % 3
    if refused:
        with pytest.raises(DataError, match="twice"):
            from_arrays(images, labels, name="x")
    else:
        (warning,) = from_arrays(images, labels, name="x").warnings
        assert "too dark" in warning


def test_a_night_picture_among_others_is_no_matter():
    images = np.full((3, 1, 5, 5), 255, np.uint8)
    images[0], images[1] = 1, 0
    assert from_arrays(images, [0, 1, 2], name="x").warnings == ()
    assert from_arrays(images[1:2], [0], name="black").warnings == ()


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [
        (0, 255, "divide them by 255"),
        (0, 65535, "65535"),
        (-1, 1, r"\(x \+ 1\) / 2"),
        (-2, 3, "before"),
    ],
)
def test_floats_of_another_scale_are_refused_with_a_way_back(low, high, advice):
    images = np.linspace(low, high, 50, dtype=np.float32).reshape(2, 1, 5, 5)
    with pytest.raises(DataError, match=advice):
        from_arrays(images, [0, 1], name="x")


# -- logits among several outputs ------------------------------------------------------------------


@dataclass
class Answer:
    hidden: torch.Tensor
    scores: torch.Tensor


class Wordy(OrderedDict):
    """Like a transformer's output: a dictionary whose keys are attributes."""

    __getattr__ = OrderedDict.get


FORMS = {
    "logits first": lambda y, f: (y, f),
    "features first": lambda y, f: (f, y),
    "list": lambda y, f: [f, y],
    "three": lambda y, f: (f, y, f.mean()),
    "nested": lambda y, f: (f, (f, [y])),
    "dictionary": lambda y, f: {"features": f, "out": y},
    "dataclass": lambda y, f: Answer(f, y),
    "named": lambda y, f: {"features": f[:, :3], "logits": y},
    "attribute": lambda y, f: SimpleNamespace(hidden=f, logits=y),
    "output": lambda y, f: Wordy(loss=f.sum(), hidden=f, logits=y),
    "named of the same shape": lambda y, f: {"aux": y * 0, "logits": y},
    "with nothing": lambda y, f: (None, y),
    "alone": lambda y, f: (y,),
}


class Returning(FirstPixels):
    def __init__(self, form, width=16):
        super().__init__()
        self.form, self.width = form, width

    def forward(self, x):
        return FORMS[self.form](super().forward(x), x.flatten(1)[:, : self.width])


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_among_other_outputs(form):
    assert warnings_of(Returning(form)) == []


@pytest.mark.parametrize("form", ["logits first", "features first", "dataclass", "dictionary"])
@pytest.mark.parametrize("width", [3])
def test_outputs_of_which_several_may_be_the_logits_are_refused(form, width):
    with pytest.raises(CheckpointError, match="ambiguous which are the logits"):
        warnings_of(Returning(form, width))


def test_outputs_of_which_none_can_be_the_logits_are_refused():
    with pytest.raises(CheckpointError, match="none is"):
        warnings_of(Returning("features first"), (arrays()[0], np.arange(60) % 5))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_program_of_several_outputs_is_searched_likewise(frozen, tmp_path):
    batch = torch.export.Dim("batch") if not frozen else None
    shapes = {"x": {0: batch}} if batch else None
    program = torch.export.export(
        Returning("features first"), (torch.rand(4, 1, 4, 4),), dynamic_shapes=shapes
    )
    torch.export.save(program, tmp_path / "x.pt2")
    read = read_checkpoint(tmp_path / "x.pt2", trust_program=True)
    assert read.num_classes is None
    assert warnings_of(read) == list(read.warnings)


# -- budgets and outputs ---------------------------------------------------------------------------


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    ("norm", "epsilon", "says"),
    [
        ("linf", "8", "did you mean 8/255"),
        ("linf", "1", "whole range of pixels"),
        ("linf", "0.5", "same grey"),
        ("l2", "4", "whole range of pixels"),
        ("l2", "2", "same grey"),
        ("l1", "16", "whole range of pixels"),
        ("l1", "8.5", "same grey"),
        ("l1", "300", "whole range of pixels"),
    ],
)
def test_budgets_that_cover_the_box_are_warned_of(norm, epsilon, says):
    found = evaluate(FirstPixels(), arrays(9), "fgsm", norm=norm, epsilon=epsilon, limit=9)
    assert sum(says in warning for warning in found.header["warnings"]) == 1


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", "0.49"), ("l2", "1.9"), ("l1", "7")])
def test_smaller_budgets_are_not(norm, epsilon):
    found = evaluate(FirstPixels(), arrays(), "fgsm", norm=norm, epsilon=[epsilon])
    assert found.header["warnings"] == []


def test_a_network_of_one_output_is_refused():
    images, labels = arrays()
    with pytest.raises(InputError, match="single output"):
        evaluate(FirstPixels((0,)), (images, labels * 0), "fgsm", epsilon=["0.1"])


@pytest.mark.parametrize("value", [-3, 0, 2.5, True, "3", np.bool_(True), float("nan")])
@pytest.mark.parametrize("what", ["limit", "batch_size", "seed"])
def test_numbers_that_make_no_sense_are_refused(what, value):
    if what == "seed" and isinstance(value, int) and not isinstance(value, bool):
        pytest.skip("any whole number is a seed")
    for data in (arrays(), from_arrays(*arrays(), name="x"), "mnist5k"):
        with pytest.raises(InputError, match=what.replace("_", "-")):
            evaluate(FirstPixels(), data, "fgsm", epsilon=["0.1"], **{what: value})


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "", "x", None])
def test_budgets_that_make_no_sense_are_refused(value):
    for given in ([value], ["0.1", value]):
        with pytest.raises(InputError, match="epsilon"):
            evaluate(FirstPixels(), arrays(), "fgsm", epsilon=given)


@pytest.mark.parametrize("value", ["1/10", 0.1, Fraction(1, 10)])
def test_one_budget_may_stand_alone(value):
    found = evaluate(FirstPixels(), arrays(), "fgsm", epsilon=value)
    assert [float(e) for e in found.epsilons] == [0.1]


def test_a_limit_may_be_a_number_of_numpys():
    found = evaluate(FirstPixels(), arrays(), "fgsm", epsilon=["0.1"], limit=np.int64(5))
    assert len(found.rows) == 5
