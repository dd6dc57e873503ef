import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from robustkit import compression, data, models
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.data.noise import LabelNoise
from robustkit.data.subset import prepare_training_data, size
from robustkit.errors import InputError, TrainingFailed
from robustkit.files import build as from_table
from robustkit.files import canonical, digest, names
from robustkit.losses import LOSSES
from robustkit.losses import build as build_loss
from robustkit.losses.cross_entropy import CrossEntropy
from robustkit.losses.loss import Loss, Result, Step
from robustkit.losses.trace import modules_of, representations
from robustkit.losses.trace import trace as trace_layers
from robustkit.spec import load_study
from robustkit.study.configuration import method_config
from robustkit.training import Callbacks, Recipe, TrainingConfig, TrainingOptions, train
from robustkit.training import run as training_run
from robustkit.training.defaults import default_recipe, default_settings, published, resolve
from robustkit.training.engine import Engine, optimizer, summarised
from robustkit.training.examples import augmented, gather, order
from robustkit.training.held_out import accuracy
from robustkit.training.processes import ProcessGroup
from robustkit.training.recipe import GOES_WITH, checked, follows_rate, rate, spell, updates

CPU = torch.device("cpu")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    """300 real digits, 30 a class, as a training split."""
    whole = load_dataset("mnist5k", split="train")
    keep = np.concatenate([np.flatnonzero(whole.labels == k)[:30] for k in range(10)])
    images = np.concatenate([whole.images(i, i + 1) for i in keep])
    return data.from_arrays(images, whole.labels[keep], name="digits")


@pytest.fixture(scope="module")
def asked():
    """A question that is answered in an instant: 5 updates an epoch on 90 of 100 digits."""
    whole = load_dataset("mnist5k", split="train")
    keep = np.concatenate([np.flatnonzero(whole.labels == k)[:10] for k in range(10)])
    images = np.concatenate([whole.images(i, i + 1) for i in keep])
    return TrainingConfig(
        model="lenet5",
        data=data.from_arrays(images, whole.labels[keep], name="digits"),
        recipe=Recipe(epochs=3, batch_size=20),
        noise=LabelNoise(rate=Fraction(2, 5)),
    )


class Decayed(Loss):
    """Cross-entropy and the squared weights."""

    def __call__(self, model, images, labels, step):
        found = CrossEntropy()(model, images, labels, step)
        return Result(found.loss + sum(w.square().sum() for w in model.parameters()), found.logits)


def start(digits, loss=None, seed=0, noise="0.4", **recipe):
    """An engine that has not made a step."""
    from robustkit.models import build

    training = prepare_training_data(
        digits, hold_out=60, noise=LabelNoise(rate=Fraction(noise)), seed=seed
    )
    network = build("lenet5", seed=seed)
    return Engine(
        network=network,
        model=network,
        loss=loss or CrossEntropy(),
        recipe=Recipe(**recipe),
        examples=gather(digits, training.train, CPU),
        held_out=gather(digits, training.held_out, CPU),
        seed=seed,
    )


# --- batches and schedules ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(10, 3), (68, 128), (240, 64), (7, 7), (1, 1)])
def test_an_epoch_shows_every_image_once_in_even_batches(count, size):
    batches = order(count, size, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_augmented_images_are_shifts_and_mirrors_of_their_own_image():
    images = torch.rand(400, 2, 6, 5)
    made = augmented(images, ("flip", "crop"), torch.Generator().manual_seed(0))
    found, matched = set(), np.zeros(400, bool)
    for mirrored in (False, True):
        own = images.numpy()[..., ::-1] if mirrored else images.numpy()
        padded = np.pad(own, ((0, 0), (0, 0), (4, 4), (4, 4)))
        for down, right in product(range(9), repeat=2):
            window = padded[:, :, down : down + 6, right : right + 5]
            same = (window == made.numpy()).all(axis=(1, 2, 3))
            matched |= same
            if same.any():
                found.add((down, right, mirrored))
    assert matched.all()
    assert {m[0] for m in found} == {m[1] for m in found} == set(range(9))
    assert {m[2] for m in found} == {False, True}


def test_schedules_by_hand():
    steady = Recipe(learning_rate=0.2, schedule="constant")
    assert [rate(steady, s, 10) for s in (0, 9)] == [0.2, 0.2]
    cosine = replace(steady, schedule="cosine")
    assert rate(cosine, 0, 8) == pytest.approx(0.2)
    assert rate(cosine, 4, 8) == pytest.approx(0.1)
    assert rate(cosine, 2, 8) == pytest.approx(0.2 * (1 + math.sqrt(0.5)) / 2)
    stairs = replace(steady, schedule="staircase", decay=0.5, decay_steps=3)
    assert [rate(stairs, s, 9) for s in (0, 2, 3, 8)] == [0.2, 0.2, 0.1, 0.05]
    cycle = replace(steady, schedule="one-cycle")
    assert rate(cycle, 30, 100) == pytest.approx(0.2)
    assert rate(cycle, 0, 100) == pytest.approx(rate(cycle, 100, 100)) == pytest.approx(0.008)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"momentum": 1.0}, "--momentum"),
        ({"clip": -1.0}, "--clip"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"augment": ("flop",)}, "did you mean 'flip'"),
        ({"epochs": 10**25}, "--epochs 10000000000000000000000000: must be at most 1,000,000,000"),
        ({"steps": 10**10}, "--steps 10000000000: must be at most 1,000,000,000"),
        ({"stabiliser": 0.0}, "--recipe-set stabiliser=0.0: must be above 0"),
        ({"start": -1.0}, "--recipe-set start=-1.0: must not be negative"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True: Nesterov's .* a --momentum above 0"),
        ({"schedule": "multistep"}, "multistep needs milestones"),
        ({"milestones": (5,)}, "milestones=5: the schedule multistep .* no other schedule accepts"),
        ({"schedule": "multistep", "milestones": (5, 5)}, "milestones=5,5: must be positive and"),
        ({"schedule": "multistep", "milestones": (0, 5)}, "milestones=0,5: must be positive"),
        ({"schedule": "multistep", "milestones": (5,), "drop": 0.0}, "--recipe-set drop=0.0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        checked(Recipe(**wrong))


def test_the_rate_of_multistep_drops_at_its_milestones_however_long_the_run_is():
    asked = Recipe(learning_rate=0.2, schedule="multistep", milestones=(3, 5))
    for steps in (6, 600):
        found = [rate(asked, step, steps) for step in range(6)]
        assert found == pytest.approx([0.2, 0.2, 0.2, 0.02, 0.02, 0.002])
    assert rate(replace(asked, drop=0.5), 5, 6) == pytest.approx(0.05)


def test_what_a_user_changes_takes_the_place_of_what_was_published():
    found = resolve("large-margin-softmax", "mnist", "lenet5", paper=True)
    assert (found.recipe.steps, found.settings()["m"]) == (30_000, 4)
    longer = resolve("large-margin-softmax", "mnist", paper=True, changes={"epochs": 3}).recipe
    assert (longer.steps, longer.epochs, longer.schedule) == (None, 3, "multistep")
    smooth = {"schedule": "cosine", "learning_rate": 0.3}
    chosen = resolve("large-margin-softmax", "mnist", paper=True, changes=smooth).recipe
    assert (chosen.schedule, chosen.milestones, chosen.learning_rate) == ("cosine", (), 0.3)
    given = resolve("large-margin-softmax", "mnist", paper=True, settings={"m": 2}).settings()
    assert given == found.settings() | {"m": 2}


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_without_momentum_there_is_no_default_of_nesterovs(optimiser):
    assert resolve("cross-entropy", "cifar10").recipe.nesterov
    plain = {"momentum": 0.0, "optimizer": optimiser}
    found = resolve("cross-entropy", "cifar10", changes=plain).recipe
    assert not found.nesterov
    optimizer(found, nn.Linear(2, 2))
    if optimiser == "sgd":
        with pytest.raises(InputError, match=r"nesterov=True: .* needs a --momentum above 0"):
            resolve("cross-entropy", "cifar10", changes={**plain, "nesterov": True})


SOME = {
    "momentum": 0.5, "nesterov": True, "smoothing": 0.5, "start": 0.5, "stabiliser": 0.5,
    "decay": 0.5, "decay_steps": 2, "milestones": (2,), "drop": 0.5,
}  # fmt: skip


def trace(recipe):
    """What a recipe makes of some gradients and of the rate."""
    network = nn.Linear(2, 2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1.0)
    made = optimizer(recipe, network)
    for step in range(6):
        for group in made.param_groups:
            group["lr"] = rate(recipe, step, 6)
        for weight in network.parameters():
            weight.grad = torch.full_like(weight, 1.0 + step)
        made.step()
    return [weight.tolist() for weight in network.parameters()]


@pytest.mark.parametrize("field", GOES_WITH)
def test_a_setting_plays_its_part_or_is_refused(field):
    """Whatever changes no weight is not taken and put on record."""
    by, _ = GOES_WITH[field]
    for word in get_args(get_type_hints(Recipe)[by]):
        several = {"milestones": (3,)} if word == "multistep" else {}
        asked = {by: word, **several, field: SOME[field]}
        plain = Recipe(learning_rate=0.1, decay_steps=1, **{by: word, **several})
        if trace(replace(plain, **{field: SOME[field]})) == trace(plain):
            with pytest.raises(InputError, match=field.replace("_", "[_-]")):
                resolve("cross-entropy", "mnist5k", changes=asked)
        else:
            assert getattr(resolve("cross-entropy", "mnist5k", changes=asked).recipe, field)
    # that there is none of it may be said of any, and a default hangs on nothing
    for optimiser in ("sgd", "rmsprop", "adam", "adamw"):
        none = {"optimizer": optimiser, "momentum": 0.0, "nesterov": False, "start": 0.0}
        assert resolve("cross-entropy", "cifar10", changes=none).recipe.optimizer == optimiser


def test_every_recipe_of_a_shipped_study_is_accepted():
    for name in names("reports"):
        study = load_study(name)
        for method in study.methods if study.trained else ():
            for number in range(len(method.choose)):
                assert method_config(method, number, study.trained)["recipe"]


def test_settings_that_depend_on_a_trainings_length_know_what_is_held_out():
    found = resolve("large-margin-softmax", "mnist5k", changes={"epochs": 2, "batch_size": 50})
    # a tenth of 4,000 images held out, half of the rest trained on: 36 updates, twice
    assert found.settings(4000, Fraction(1, 2))["gamma"] == pytest.approx(2.5e-5 * 30_000 / 72)
    own = resolve("large-margin", "mnist5k", settings={"alpha": 3.0}).settings(4000)
    assert own == {"alpha": 3.0, "cross_entropy_weight": 10.0, "stabiliser": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5, "epochs": 2}, "both set the length"),
        ({"learning_rates": 0.1}, "unknown field of a recipe 'learning_rates'.*learning_rate"),
        ({"momentum": 1.0}, "--momentum 1.0"),
    ],
)
def test_changes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        resolve("cross-entropy", "mnist5k", changes=changes)


@pytest.mark.parametrize("clean", [True, False])
def test_held_out_labels_are_clean_where_that_is_asked(asked, digits, tmp_path, clean):
    config = replace(
        asked, data=digits, clean_selection=clean, recipe=Recipe(epochs=1, hold_out=Fraction(60))
    )
    made = train(config, tmp_path / "a.safetensors")
    (line,) = made.record["history"]
    assert (line["held_out"] == line["held_out_clean"]) == clean
    assert made.record["data"]["held_out"]["noise"]["flipped"] == (0 if clean else 24)
    assert made.record["data"]["train"]["noise"]["flipped"] == 96


@pytest.mark.parametrize(("times", "told"), [(1, ""), (2, "held-out images have the pixels of")])
def test_copies_on_both_sides_of_a_hold_out_are_told(tmp_path, times, told):
    some = load_dataset("mnist5k", split="train", limit=100)
    images, labels = some.images(0, 100)[:, 0], np.array(some.labels)
    path = tmp_path / "twice.npz"
    np.savez(path, images=np.tile(images, (times, 1, 1)), labels=np.tile(labels, times))
    asked = TrainingConfig(
        model="lenet5", data=load_dataset(path), recipe=Recipe(steps=1, hold_out=Fraction(1, 4))
    )
    warning = train(asked, tmp_path / "a.safetensors").warning
    assert told in warning
    assert bool(warning) == bool(told)


def test_a_training_says_what_its_loss_warns_of(digits, tmp_path):
    recipe = Recipe(steps=3, batch_size=32)
    asked = TrainingConfig(model="lenet5", data=digits, loss="large-margin-softmax", recipe=recipe)
    first = train(asked, tmp_path / "a.safetensors")
    assert "λ is still 998 at the last of 3 updates" in first.warning
    again = train(asked, tmp_path / "a.safetensors")
    assert again.warning == first.warning


@pytest.mark.parametrize(
    ("loss", "data", "first"),
    [
        ("cross-entropy", "mnist5k", "eae2ac11589a6b792a84a9d5"),
        ("large-margin", "mnist5k", "d2d427f1df745adc580845e9"),
        ("cross-entropy", "mnist", "4a6b63cb594d2ef51bb5d960"),
        ("cross-entropy", "cifar10", "fb939aca1ce306a88fe81150"),
    ],
)
def test_default_recipes_are_spelled_as_in_every_checkpoint_so_far(loss, data, first):
    assert digest(canonical(spell(default_recipe(loss, data)))).startswith(first)


@pytest.mark.parametrize(
    "recipe",
    [
        default_recipe("large-margin", "cifar10"),
        published("large-margin-softmax", "cifar10", "lenet5").recipe,
        published("large-margin", "mnist", "mnist-cnn").recipe,
        Recipe(schedule="multistep", milestones=(7,), drop=0.5),
    ],
)
def test_a_spelled_recipe_is_that_recipe_again(recipe):
    table = json.loads(json.dumps(spell(recipe)))
    known = {key: value for key, value in table.items() if value is not None}
    assert from_table(Recipe, known, "recipe") == recipe


@pytest.mark.parametrize(
    ("hold_out", "fraction", "batch_size"), [("0", "1", 7), ("60", "1/3", 64), ("1/12", "0.5", 500)]
)
def test_the_length_of_a_training_is_known_beforehand(digits, hold_out, fraction, batch_size):
    asked = Recipe(epochs=3, batch_size=batch_size, hold_out=Fraction(hold_out))
    training = prepare_training_data(digits, hold_out=hold_out, fraction=fraction)
    images = size(len(digits), asked.hold_out, Fraction(fraction))
    assert images == len(training.train)
    examples = gather(digits, training.train, CPU)
    engine = Engine(
        network=nn.Linear(1, 1),
        model=nn.Linear(1, 1),
        loss=CrossEntropy(),
        recipe=asked,
        examples=examples,
        held_out=None,
        seed=0,
    )
    assert updates(asked, images) == engine.steps
    assert updates(replace(asked, steps=5), images) == 5


# --- what was published ---------------------------------------------------------------------------


def test_the_published_recipe_of_the_large_margin_holds_out_what_the_paper_does():
    found = published("large-margin", "mnist", "mnist-cnn")
    assert size(60_000, found.recipe.hold_out, Fraction(1)) == 55_000
    recipe = found.recipe
    assert (recipe.optimizer, recipe.epochs, recipe.batch_size) == ("rmsprop", 200, 256)
    assert (recipe.clip, recipe.clip_decay, recipe.weight_decay) == (5.0, True, 5e-4)
    for network in ("mnist-cnn", "mnist-cnn-bn"):
        settings = published("large-margin", "mnist5k", network).settings
        build_loss("large-margin", settings).prepare(
            models.build(network), torch.rand(2, 1, 28, 28)
        )


@pytest.mark.parametrize("network", ["mnist-cnn", "mnist-cnn-bn"])
def test_the_published_margins_are_behind_pooling_and_batch_norm(network):
    """As the published network lists its layers: the images, then what each block hands on."""
    settings = published("large-margin", "mnist", network).settings
    model, images = models.build(network, seed=0).train(), torch.rand(5, 1, 28, 28)
    traced = trace_layers(model, images, modules_of(settings["layers"], model))
    found = representations(traced, settings["layers"], model)
    assert [place.units for place in found] == [28 * 28, 32 * 14 * 14, 64 * 7 * 7]
    assert all("Convolution" not in place.edge.node.name() for place in found)


@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adam"])
def test_weight_decay_within_the_clipped_gradient_by_hand(digits, optimiser):
    """As with a loss that has half of it times the squared weights in it."""
    shared = {"optimizer": optimiser, "clip": 0.5, "weight_decay": 2.0, "batch_size": 64}
    engine = start(digits, **shared, clip_decay=True)
    other = start(digits, Decayed(), **{**shared, "weight_decay": 0.0})
    late = start(digits, **shared)
    for _ in range(3):
        for one in (engine, other, late):
            one.update()
    ours, theirs, after = (
        torch.cat([w.detach().flatten() for w in one.network.parameters()])
        for one in (engine, other, late)
    )
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(ours, after, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("wrong", [{}, {"clip": 1.0, "optimizer": "adamw"}])
def test_decay_within_a_clip_needs_both(wrong):
    with pytest.raises(InputError, match="clip_decay=True: needs a --clip, and an --optimizer"):
        checked(Recipe(clip_decay=True, **wrong))
    other = resolve(
        "large-margin", "mnist", "mnist-cnn", paper=True, changes={"optimizer": "adamw"}
    )
    assert not other.recipe.clip_decay


def test_the_published_recipes_of_large_margin_softmax_are_the_released_ones():
    """The numbers of the released solvers and networks, for both data sets."""
    for data_set, m, milestones, gamma, power, augment in [
        ("mnist", 4, (5000, 7500, 10_000, 30_000), 2.5e-5, 35, ()),
        ("cifar10", 2, (5000, 7500, 30_000), 2e-5, 45, ("flip",)),
    ]:
        recipe, settings = published("large-margin-softmax", data_set, "any")
        assert settings == {"m": m, "base": 1000, "gamma": gamma, "power": power}
        assert (recipe.schedule, recipe.milestones, recipe.drop) == ("multistep", milestones, 0.1)
        assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("sgd", 0.1, 0.9)
        assert (recipe.weight_decay, recipe.batch_size, recipe.steps) == (5e-4, 128, 30_000)
        assert (recipe.augment, recipe.nesterov, recipe.clip) == (augment, False, None)
        assert checked(recipe) == recipe


@pytest.mark.parametrize(
    ("loss", "data_set", "model", "message"),
    [
        ("large-margin", "cifar10", "small-cnn-cifar", "for large-margin on cifar10 were not"),
        ("cross-entropy", "mnist", "lenet5", "for cross-entropy on mnist were not found; known: l"),
        ("large-margin-softmax", "mnist5k", "lenet5", "known: .*large-margin-softmax on mnist, "),
        ("large-margin", "mnist", "lsoftmax-mnist", "name those of lsoftmax-mnist with --set lay"),
        ("large-margin", "mnist", "lenet5", "each pooling and batch norm, there bn1 and bn2; name"),
    ],
)
def test_what_was_not_published_is_refused_in_one_line(loss, data_set, model, message):
    with pytest.raises(InputError, match=message) as caught:
        published(loss, data_set, model)
    assert "\n" not in str(caught.value)


def test_a_network_with_other_layers_takes_the_published_recipe_when_they_are_named():
    found = published("large-margin", "mnist", "lsoftmax-mnist", {"layers": ["input", "pre_conv"]})
    assert found.recipe.optimizer == "rmsprop"


# --- annealing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [290, 4000, 30_000])
def test_large_margin_softmax_is_annealed_within_a_run_of_any_length(length):
    settings = default_settings("large-margin-softmax", "mnist5k", length)
    loss = build_loss("large-margin-softmax", settings)
    released = build_loss("large-margin-softmax", {})
    for share in (0, 0.1, 1 / 3, 1):
        expected = max(5.0, released.annealing(round(share * 30_000)))
        assert loss.annealing(share * length) == pytest.approx(expected, rel=1e-6)
    assert loss.annealing(0) == 1000
    assert loss.annealing(length / 4) == 5
    assert loss.warning(length) == ""


@pytest.mark.parametrize("given", [{"base": 0.0}, {"gamma": 2.5e-5}, {"power": 3}])
def test_an_annealing_that_is_chosen_means_what_it_says(given):
    assert default_settings("large-margin-softmax", "mnist5k", 290, given) == {}


def test_a_margin_that_hardly_counts_is_told():
    told = build_loss("large-margin-softmax").warning(290)
    assert "λ is still 777 at the last of 290 updates" in told
    assert "0.13\u00a0%" in told
    for settings in ({"base": 0.0}, {"m": 1}):
        assert build_loss("large-margin-softmax", settings).warning(290) == ""
    assert build_loss("large-margin-softmax", {"lambda_min": 11.0}).warning(10**6) != ""
    assert build_loss("cross-entropy").warning(290) == ""


def test_rmsprop_begins_as_tensorflow_does_where_that_is_asked():
    recipe = Recipe(
        optimizer="rmsprop",
        learning_rate=0.1,
        momentum=0.0,
        start=1.0,
        stabiliser=0.1,
        weight_decay=0.0,
    )
    network = nn.Linear(1, 1, bias=False).double()
    weight, square = network.weight.item(), 1.0
    made = optimizer(recipe, network)
    for gradient in (0.5, -0.2, 3.0):
        network.weight.grad = torch.tensor([[gradient]]).double()
        made.step()
        square = 0.9 * square + 0.1 * gradient**2
        weight -= 0.1 * gradient / (math.sqrt(square) + 0.1)
    assert network.weight.item() == pytest.approx(weight, rel=1e-8)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand(nesterov):
    recipe = Recipe(learning_rate=0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    network = nn.Linear(1, 1, bias=False).double()
    weight, velocity = network.weight.item(), 0.0
    made = optimizer(recipe, network)
    for gradient in (0.5, -0.2, 3.0):
        network.weight.grad = torch.tensor([[gradient]], dtype=torch.float64)
        made.step()
        slope = gradient + 0.3 * weight
        velocity = 0.8 * velocity + slope
        weight -= 0.1 * (slope + 0.8 * velocity if nesterov else velocity)
    assert network.weight.item() == pytest.approx(weight, rel=1e-12)


def test_rmsprop_adds_weight_decay_to_the_gradient():
    recipe = Recipe(
        optimizer="rmsprop", learning_rate=0.1, momentum=0.0, stabiliser=0.1, weight_decay=0.3
    )
    network = nn.Linear(1, 1, bias=False).double()
    weight = network.weight.item()
    made = optimizer(recipe, network)
    network.weight.grad = torch.tensor([[0.5]]).double()
    made.step()
    slope = 0.5 + 0.3 * weight
    expected = weight - 0.1 * slope / (math.sqrt(0.1 * slope**2) + 0.1)
    assert network.weight.item() == pytest.approx(expected, rel=1e-12)


# --- the loop -------------------------------------------------------------------------------------


def test_every_epoch_has_an_order_of_its_own_and_each_image_once(digits):
    engine, seen = start(digits, epochs=2, batch_size=80), []
    take = type(engine.examples).take

    class Watched:
        def __getattr__(self, name):
            return getattr(inner, name)

        def __len__(self):
            return len(inner)

        def take(self, rows):
            seen.append(rows)
            return take(inner, rows)

    inner, engine.examples = engine.examples, Watched()
    for _ in range(6):
        engine.update()
    one, two = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(one, two)
    assert torch.equal(one.sort().values, torch.arange(240))
    assert torch.equal(two.sort().values, torch.arange(240))


def test_of_epochs_that_are_equally_good_the_first_is_kept(digits):
    engine = start(digits, epochs=4, batch_size=240)
    engine.keep_best = True
    for epoch, held_out in enumerate((0.5, 0.7, 0.7, 0.6), start=1):
        engine.step = epoch * engine.steps_per_epoch
        engine._keep(line := {"epoch": epoch, "step": engine.step, "held_out": held_out})
        engine.history.append(line)
    assert engine.epoch_kept == 2


def test_dropout_draws_anew_at_every_step_whatever_was_drawn_before(digits):
    def masks(steps, state=None):
        engine, seen = start(digits, steps=4, batch_size=48), []
        dropout = nn.Dropout(0.5)
        dropout.register_forward_hook(lambda _, inputs, output: seen.append(output == 0))
        layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), dropout)
        engine.network = engine.model = layers
        engine.optimizer = optimizer(engine.recipe, layers)
        engine.step = state or 0
        with torch.random.fork_rng():
            for _ in range(steps):
                torch.rand(7)  # another draw of this process
                engine.update()
        return seen

    first = masks(3)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    torch.rand(3)
    assert torch.equal(masks(1, state=2)[0], first[2])


def test_the_first_update_is_stochastic_gradient_descent_by_hand(digits):
    engine = start(digits, epochs=1, batch_size=240, schedule="constant", learning_rate=0.1)
    reference = start(digits).network.double()
    examples = engine.examples
    logits = reference(examples.images.double() / 255)
    nn.functional.cross_entropy(logits, examples.given).backward()
    engine.run(lambda: None, math.inf, Callbacks())
    for (name, made), before in zip(
        engine.network.named_parameters(), reference.parameters(), strict=True
    ):
        expected = before - 0.1 * (before.grad + 5e-4 * before)
        assert torch.allclose(made.double(), expected, rtol=1e-4, atol=1e-6), name


def test_the_history_says_what_the_network_said(digits):
    # a rate so small that the weights stay, so that the whole epoch can be checked at once
    engine = start(digits, epochs=1, batch_size=50, learning_rate=1e-30, weight_decay=0.0)
    engine.network.eval()
    examples, held = engine.examples, engine.held_out
    with torch.no_grad():
        logits = engine.network(examples.images / 255)
        watched = engine.network(held.images / 255).argmax(1)
    engine.run(lambda: None, math.inf, Callbacks())
    (line,) = engine.history
    said, wrong = logits.argmax(1), examples.given != examples.clean
    assert wrong.sum() == 96
    assert line["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(logits.double(), examples.given)), rel=1e-5
    )
    assert line["accuracy_given"] == pytest.approx(float((said == examples.given).double().mean()))
    assert line["accuracy_clean"] == pytest.approx(float((said == examples.clean).double().mean()))
    assert line["memorised"] == pytest.approx(
        float((said == examples.given)[wrong].double().mean())
    )
    assert line["held_out"] == float((watched == held.given).double().mean())
    assert line["held_out_clean"] == float((watched == held.clean).double().mean())
    assert accuracy(engine.network, held)["held_out"] == line["held_out"]


def test_without_wrong_labels_nothing_can_be_memorised():
    assert summarised([3.0, 2, 2, 0, 0, 4])["memorised"] is None


def test_held_out_images_pass_in_fewer_at_a_time_where_memory_is_little(digits):
    class Large(nn.Flatten):
        most = 1000

        def forward(self, images):
            if len(images) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)[:, 300:310]

    held_out, network = start(digits).held_out, Large()
    whole = accuracy(network, held_out)
    network.most = 40
    assert accuracy(network, held_out) == whole
    assert network.training


class Watching(CrossEntropy):
    """Notes what it is shown; its settings decide on nothing else."""

    __slots__ = ()
    seen: list = []  # noqa: RUF012

    def backward(self, model, images, labels, step):
        type(self).seen.append((images.clone(), labels.clone(), torch.rand(3)))
        return super().backward(model, images, labels, step)


class Other(Watching):
    """Another loss, which draws numbers of its own."""

    __slots__ = ()
    seen: list = []  # noqa: RUF012

    def __call__(self, model, images, labels, step):
        torch.rand(7)
        result = super().__call__(model, images, labels, step)
        return Result(result.loss * 3, result.logits)


def test_losses_to_be_compared_share_batches_flips_and_augmentation(digits):
    for loss in (Watching(), Other()):
        type(loss).seen.clear()
        start(digits, loss, epochs=2, augment=("flip", "crop")).run(
            lambda: None, math.inf, Callbacks()
        )
    assert len(Watching.seen) == len(Other.seen) == 4
    for mine, theirs in zip(Watching.seen, Other.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert not torch.equal(Watching.seen[0][0], Watching.seen[2][0])


# --- from a question to a checkpoint --------------------------------------------------------------


def interrupted(question, out, after, **options):
    """Stop a training after so many updates, having saved after each."""

    def stop(report):
        if report.step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(question, out, TrainingOptions(seconds=0, callbacks=Callbacks(stop), **options))


@pytest.fixture(scope="module")
def uncut(asked, tmp_path_factory):
    """A question whose training keeps much from step to step, and its answer's bytes."""
    question = replace(
        asked,
        keep="best",
        recipe=replace(asked.recipe, augment=("crop",), optimizer="adam", learning_rate=1e-3),
    )
    made = train(question, tmp_path_factory.mktemp("uncut") / "whole.safetensors")
    return question, made.path.read_bytes()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("after", [1, 5, 9])
def test_an_interrupted_training_resumes_to_the_same_bytes(uncut, tmp_path, after):
    question, whole = uncut
    interrupted(question, tmp_path / "cut.safetensors", after)
    assert not (tmp_path / "cut.safetensors").exists()
    steps = []
    train(
        question,
        tmp_path / "cut.safetensors",
        TrainingOptions(callbacks=Callbacks(lambda report: steps.append(report.step))),
    )
    assert steps[0] > 1 or after == 1
    assert whole == (tmp_path / "cut.safetensors").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["cut.safetensors"]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_snapshots_are_the_weights_that_the_training_passed_through(asked, tmp_path):
    """A constant rate: after a pass stands what a training of one pass ends with."""
    question = replace(asked, recipe=replace(asked.recipe, schedule="constant", steps=12))
    options = TrainingOptions(snapshots=(1, 2))  # of 5 updates each
    made = train(question, tmp_path / "a.safetensors", options)
    assert [path.name for path in made.snapshots] == ["a-pass1.safetensors", "a-pass2.safetensors"]
    for number, path in enumerate(made.snapshots, 1):
        recipe = replace(question.recipe, steps=5 * number)
        alone = train(replace(question, recipe=recipe), tmp_path / f"{number}.safetensors")
        assert load_file(path).keys() == load_file(alone.path).keys()
        for name, weight in load_file(alone.path).items():
            assert torch.equal(load_file(path)[name], weight)
        known, line = read_checkpoint(path), alone.record["history"][-1]
        told = {"pass": number, **{k: line[k] for k in ("held_out", "held_out_clean")}}
        assert known.extra["training"]["snapshot"] == told
        assert known.recorded_accuracy == line["held_out_clean"]
    plain = train(question, tmp_path / "plain.safetensors")
    assert plain.path.read_bytes() == made.path.read_bytes()


@pytest.fixture(scope="module")
def three_snapshots(asked, tmp_path_factory):
    """What is left by a training that keeps its weights after each pass."""
    folder = tmp_path_factory.mktemp("kept")
    options = TrainingOptions(snapshots=(1, 2, 3))
    train(replace(asked, keep="best"), folder / "a.safetensors", options)
    return files(folder)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("after", [4, 5, 6, 12])
def test_an_interrupted_training_leaves_the_same_snapshots(asked, three_snapshots, tmp_path, after):
    kept = {"snapshots": (1, 2, 3)}
    asked = replace(asked, keep="best")
    interrupted(asked, tmp_path / "a.safetensors", after, **kept)
    train(asked, tmp_path / "a.safetensors", TrainingOptions(**kept))
    assert files(tmp_path) == three_snapshots


@pytest.mark.thorough
def test_snapshots_that_cannot_be_had_are_refused_in_one_line(asked, tmp_path):
    out = tmp_path / "a.safetensors"
    short = replace(asked, recipe=replace(asked.recipe, steps=12))

    def refused(message, question=asked, at=out, **options):
        before = files(tmp_path)
        with pytest.raises(InputError, match=message) as told:
            train(question, at, TrainingOptions(**options))
        assert "\n" not in str(told.value)
        assert files(tmp_path) == before

    refused("--snapshots 4: the training ends after 3 passes", snapshots=(1, 4))
    refused("--snapshots 3: the training ends after 2.4 passes", short, snapshots=(3,))
    refused("--snapshots 0: passes are numbered from 1", snapshots=(0,))
    train(asked, out)
    refused("its weights after pass 2 were not kept; --fresh", snapshots=(2,))
    kept = train(asked, out, TrainingOptions(snapshots=(2,), fresh=True))
    refused("holds another training", at=kept.snapshots[0])
    refused("a-pass2.safetensors: exists and holds another", replace(asked, seed=1), snapshots=(2,))
    cut = tmp_path / "cut" / "a.safetensors"
    interrupted(asked, cut, 7)
    with pytest.raises(InputError, match="unfinished training, whose weights after pass 1"):
        train(asked, cut, TrainingOptions(snapshots=(1, 2)))
    assert train(asked, cut, TrainingOptions(snapshots=(2,))).snapshots[0].exists()


@pytest.mark.one_of_many
@pytest.mark.parametrize("after", [None, 7])
def test_a_training_that_pauses_goes_on_to_the_same_bytes(asked, tmp_path, after):
    """Also where it was cut on its way to the pause, which comes after 10 of 12 updates."""
    asked = replace(asked, recipe=replace(asked.recipe, steps=12))
    kept = {"snapshots": (1, 2), "scored": True}
    whole = train(asked, tmp_path / "whole" / "a.safetensors", TrainingOptions(**kept))
    out = tmp_path / "cut" / "a.safetensors"
    if after is not None:
        interrupted(asked, out, after, **kept)
    for _ in range(2):  # asked again, it stands where it stood
        paused = train(asked, out, TrainingOptions(**kept, pause=2))
        assert paused.paused
        assert not out.exists()
        assert paused.record["history"] == whole.record["history"][:2]
    assert train(asked, out, TrainingOptions(**kept)).record == whole.record
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    with pytest.raises(InputError, match="a pause after pass 3: the training ends after 2"):
        train(asked, tmp_path / "b.safetensors", TrainingOptions(pause=3))


@pytest.mark.thorough
def test_looks_at_held_out_images_change_no_weight_and_are_there_after_every_pass(asked, tmp_path):
    asked = replace(asked, recipe=replace(asked.recipe, steps=12))
    plain = train(asked, tmp_path / "plain.safetensors")
    made = train(asked, tmp_path / "a.safetensors", TrainingOptions(scored=True))
    one, two = load_file(plain.path), load_file(made.path)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [line["step"] for line in made.record["history"]] == [5, 10, 12]
    network = read_checkpoint(made.path).load()
    held = prepare_training_data(
        asked.data, hold_out=asked.recipe.hold_out, noise=asked.noise, seed=asked.seed
    ).held_out
    images = torch.tensor(asked.data.images(0, len(asked.data))[held.positions])
    logits, labels = network(images).double(), torch.tensor(held.noisy_labels.labels)
    order = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(split_seed(held.ids, asked.seed))
    )
    fitted, scored = order[: (len(labels) + 1) // 2], order[(len(labels) + 1) // 2 :]
    grid = torch.linspace(0, 8, 4001, dtype=torch.float64)
    likelihoods = torch.stack(
        [
            -functional.cross_entropy(b * logits[fitted], labels[fitted], reduction="sum")
            + 0.5 * (b * logits[fitted]).log_softmax(1).mean()
            for b in grid
        ]
    )
    line, best = made.record["history"][-1], float(grid[likelihoods.argmax()])
    assert line["inverse_temperature"] == pytest.approx(best, abs=2e-3)
    there = -functional.cross_entropy(line["inverse_temperature"] * logits[scored], labels[scored])
    assert line["log_likelihood"] == pytest.approx(float(there), abs=1e-5)
    with pytest.raises(InputError, match="without a look at held-out images after every pass"):
        train(asked, plain.path, TrainingOptions(scored=True))


def split_seed(ids, seed):
    return int(digest("temperature", ids, str(seed))[:15], 16)


def test_a_training_in_bfloat16_keeps_float32_weights_and_resumes_to_the_same_bytes(
    asked, tmp_path
):
    question = replace(asked, precision="bf16", recipe=replace(asked.recipe, epochs=1))
    whole = train(question, tmp_path / "whole.safetensors")
    interrupted(question, tmp_path / "cut.safetensors", 3)
    cut = train(question, tmp_path / "cut.safetensors")
    assert whole.path.read_bytes() == cut.path.read_bytes()
    assert whole.record["precision"] == "bf16"
    weights = load_file(whole.path)
    plain = load_file(train(replace(question, precision="auto"), tmp_path / "a.safetensors").path)
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        apart = float((weight - plain[name]).norm() / plain[name].norm())
        assert 0 < apart < 0.02
        # master weights: their last bits are in use
        assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize(("steps", "lines"), [(3, [3]), (10, [4, 8, 10]), (1, [1])])
def test_a_number_of_updates_can_be_asked_for_instead_of_epochs(asked, tmp_path, steps, lines):
    recipe = replace(asked.recipe, steps=steps, hold_out=Fraction(20))  # 80 images, 4 batches
    made = train(replace(asked, recipe=recipe), tmp_path / "a.safetensors")
    assert [line["step"] for line in made.record["history"]] == lines
    assert made.record["epoch_kept"] == -(-steps // 4)
    assert read_checkpoint(made.path).recorded_accuracy is not None


COURSE_NET = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Dropout(), nn.Linear(32, 10))
"""


@pytest.fixture(scope="module")
def within(digits, tmp_path_factory):
    """A question whose training ends within its first epoch of 37 updates."""
    path = tmp_path_factory.mktemp("within") / "net.py"
    path.write_text(COURSE_NET)
    recipe = Recipe(steps=35, batch_size=8, hold_out=Fraction(6))
    noise = LabelNoise(rate=Fraction(2, 5))
    return TrainingConfig(model=f"{path}:build", data=digits, recipe=recipe, noise=noise)


def test_a_training_within_one_epoch_has_a_course(within, tmp_path):
    told = []
    progress = Callbacks(epoch=lambda line: told.append(line["epoch"]))
    made = train(within, tmp_path / "a.safetensors", TrainingOptions(callbacks=progress))
    history = made.record["history"]
    assert [line["step"] for line in history] == [10, 20, 30, 35]
    assert [line["epoch"] for line in history] == [0, 0, 0, 1]
    assert all(line["memorised"] is not None and "held_out" in line for line in history)
    assert (made.record["epoch_kept"], told) == (1, [1])
    assert read_checkpoint(made.path).recorded_accuracy == history[-1]["held_out_clean"]


def test_a_look_at_many_held_out_images_waits_for_the_end(within, tmp_path):
    """60 images cost what 20 of 8 do in training, of which 35 updates may spend one."""
    asked = replace(within, recipe=replace(within.recipe, hold_out=Fraction(60), steps=29))
    history = train(asked, tmp_path / "a.safetensors").record["history"]
    assert ["held_out" in line for line in history] == [False, False, True]


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("steps", [35, 90])
def test_lines_within_an_epoch_change_no_weight(within, tmp_path, monkeypatch, keep, steps):
    asked = replace(within, keep=keep, recipe=replace(within.recipe, steps=steps))
    fine = train(asked, tmp_path / "fine.safetensors")
    monkeypatch.setattr(Engine, "_span", property(lambda engine: engine._period))
    coarse = train(asked, tmp_path / "coarse.safetensors")
    assert len(fine.record["history"]) > len(coarse.record["history"])
    assert fine.record["epoch_kept"] == coarse.record["epoch_kept"]
    weights = [load_file(made.path) for made in (fine, coarse)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    found = [read_checkpoint(made.path).recorded_accuracy for made in (fine, coarse)]
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def beyond(within, tmp_path_factory):
    """A longer question, and the bytes of its answer."""
    asked = replace(within, keep="best", recipe=replace(within.recipe, steps=90))
    made = train(asked, tmp_path_factory.mktemp("beyond") / "whole.safetensors")
    return asked, made.path.read_bytes()


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "after", [10, 13, 37, *(pytest.param(after, marks=pytest.mark.slow) for after in (5, 60))]
)
def test_a_training_cut_within_an_epoch_resumes_to_the_same_bytes(beyond, tmp_path, after):
    asked, whole = beyond
    interrupted(asked, tmp_path / "cut.safetensors", after)
    cut = train(asked, tmp_path / "cut.safetensors")
    assert whole == cut.path.read_bytes()


def test_the_course_of_long_epochs_is_even_and_each_line_is_of_its_own_updates(digits):
    engine = start(digits, steps=120, batch_size=4)  # 60 updates an epoch
    seen = []
    engine.run(lambda: None, math.inf, Callbacks(lambda report: seen.append(report.seen["loss"])))
    steps = [line["step"] for line in engine.history]
    assert steps == list(range(10, 121, 10))
    assert [line["epoch"] for line in engine.history] == [s // 60 for s in steps]
    # what is reported at a line is that line: the sums begin anew there
    assert [seen[step - 1] for step in steps] == [line["loss"] for line in engine.history]


@pytest.mark.thorough
def test_short_epochs_do_not_make_a_long_history(digits, small, tmp_path):
    recipe = Recipe(steps=330, batch_size=8, hold_out=Fraction(290))  # ten images, 2 batches
    model = f"{small.parent / 'net.py'}:net"
    made = train(
        TrainingConfig(model=model, data=digits, recipe=recipe), tmp_path / "a.safetensors"
    )
    steps = [line["step"] for line in made.record["history"]]
    assert len(steps) <= 50
    assert steps[-1] == 330
    assert made.record["history"][-1]["accuracy_given"] > 0.9


def test_a_batch_too_small_to_share_is_refused(digits, monkeypatch):
    """Batches are even: 251 images in batches of at most 50 are six of 41 or 42, and none of 1."""
    monkeypatch.setattr(training_run, "wrapped", lambda network, *_, **__: network)

    def started(batch_size):
        recipe = Recipe(batch_size=batch_size, hold_out=Fraction(49))
        asked = TrainingConfig(model="lenet5", data=digits, recipe=recipe)
        run = training_run._Training(asked, Path("a"), TrainingOptions(), CPU, ProcessGroup(0, 2))
        return run.engine(CrossEntropy(), run.prepared())

    with pytest.raises(InputError, match="smallest batch has 1 of 251 images for 2 processes"):
        started(2)
    examples, size = started(50).examples, 50
    batches = order(len(examples), size, torch.Generator().manual_seed(0))
    assert min(map(len, batches)) == 41


def test_the_checkpoint_says_everything_of_its_making(asked, tmp_path):
    made = train(asked, tmp_path / "a.safetensors")
    known = read_checkpoint(tmp_path / "a.safetensors")
    assert known.model == "lenet5"
    assert known.loss == "cross-entropy"
    assert known.trained_on == "digits"
    assert known.label_noise == 0.4
    assert known.data_fraction == 1.0
    assert known.seed == 0
    assert known.extra["training"] == made.record
    noise = made.record["data"]["train"]["noise"]
    assert (noise["flipped"], noise["total"]) == (36, 90)
    assert len(made.record["history"]) == 3
    assert known.recorded_accuracy == made.record["history"][-1]["held_out_clean"]
    assert json.loads(json.dumps(made.record)) == made.record


@pytest.mark.thorough
def test_one_process_compresses_as_several_do(asked, tmp_path):
    plain = train(asked, tmp_path / "plain.safetensors")
    made = {
        scheme: train(
            replace(asked, compress=compression.parse(scheme), memory=i > 0),
            tmp_path / f"{i}.safetensors",
        )
        for i, scheme in enumerate(["top-k:100%", "top-k:0.05"])
    }
    states = [read_checkpoint(m.path).load().state_dict() for m in (plain, *made.values())]
    weights = [torch.cat([w.flatten() for w in state.values()]) for state in states]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])
    sent = made["top-k:0.05"].record["communication"]
    assert sent["bytes_per_step"] < 0.11 * sent["plain_bytes_per_step"]
    assert not torch.distributed.is_initialized()


@pytest.mark.thorough
def test_a_loss_that_passes_twice_through_batch_norm_is_compressed_like_others(asked, tmp_path):
    asked = replace(asked, model="mnist-cnn-bn", loss="trades", settings={"steps": 1})
    asked = replace(asked, recipe=replace(asked.recipe, epochs=1))
    whole = replace(asked, compress=compression.parse("top-k:100%"), memory=False)
    made = [train(one, tmp_path / f"{i}.safetensors") for i, one in enumerate([asked, whole])]
    plain, shared = (load_file(one.path) for one in made)
    assert all(torch.equal(plain[name], shared[name]) for name in plain)


@pytest.mark.parametrize("scheme", ["top-k:0.5", "powersgd:1"])
def test_a_group_that_the_caller_formed_stays(asked, tmp_path, scheme):
    """Whatever the seed; PowerSGD's draws take one of 32 bits."""
    distributed = torch.distributed
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        short = replace(asked, recipe=replace(asked.recipe, epochs=1), seed=2**32 + 1)
        train(replace(short, compress=compression.parse(scheme)), tmp_path / "a.safetensors")
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()
    train(replace(short, compress=compression.parse(scheme)), tmp_path / "b.safetensors")
    assert not distributed.is_initialized()


@pytest.mark.thorough
def test_what_compression_carries_over_follows_the_rate_of_plain_sgd_alone(asked, tmp_path):
    scheme = compression.parse("top-k:0.05")
    for name, clip, told in (
        ("sgd", None, {}),
        ("sgd", 5.0, {"rescale": False}),
        ("adam", None, {"rescale": False}),
    ):
        recipe = replace(asked.recipe, epochs=1, optimizer=name, clip=clip)
        made = train(replace(asked, compress=scheme, recipe=recipe), tmp_path / f"{name}{clip}.pt")
        assert made.record["communication"]["rescale"] == (not told)
        assert {key: made.record[key] for key in ("rescale",) if key in made.record} == told
    assert not follows_rate(default_recipe("large-margin", "mnist5k"))


def test_what_compression_carries_over_is_not_clipped_away(digits, tmp_path, monkeypatch):
    """As the rate falls to 0, what follows it grows beyond any clip."""
    norms, real = [], nn.utils.clip_grad_norm_

    def noted(weights, most):
        norms.append(float(real(weights, most)))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noted)
    recipe = Recipe(steps=40, batch_size=64, clip=5.0, schedule="cosine")
    scheme = compression.parse("top-k:0.01")
    asked = TrainingConfig(model="lenet5", data=digits, recipe=recipe, compress=scheme)
    train(asked, tmp_path / "a.safetensors")
    assert len(norms) == 40
    assert max(norms) < 25


@pytest.mark.thorough
def test_the_best_epoch_is_kept_where_that_is_asked(digits, tmp_path):
    # a rate that rises until it breaks what was learnt: the last epoch is not the best one
    recipe = Recipe(
        epochs=6, batch_size=32, schedule="staircase", learning_rate=0.02, decay=2.5, decay_steps=9
    )
    made = train(
        TrainingConfig(model="lenet5", data=digits, recipe=recipe, keep="best"),
        tmp_path / "best.safetensors",
    )
    held = [line["held_out"] for line in made.record["history"]]
    assert made.record["epoch_kept"] == 1 + held.index(max(held)) < 6
    training = prepare_training_data(digits, hold_out=Fraction(1, 10))
    network = read_checkpoint(made.path).load()
    assert accuracy(network, gather(digits, training.held_out, CPU))["held_out"] == max(held)


def test_the_same_question_is_answered_from_the_file(asked, tmp_path):
    first = train(asked, tmp_path / "a.safetensors")
    stamp = first.path.stat().st_mtime_ns

    def never(report):
        raise AssertionError("trained again")

    again = train(asked, tmp_path / "a.safetensors", TrainingOptions(callbacks=Callbacks(never)))
    assert again.record == first.record
    assert first.path.stat().st_mtime_ns == stamp
    train(asked, tmp_path / "a.safetensors", TrainingOptions(fresh=True))
    assert first.path.stat().st_mtime_ns != stamp


@pytest.fixture(scope="module")
def answered(asked, tmp_path_factory):
    """The bytes of the question's answer."""
    return train(asked, tmp_path_factory.mktemp("a") / "a.safetensors").path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"loss": "hinge"},
        {"settings": {"label_smoothing": 0.1}},
        {"fraction": Fraction(1, 2)},
        {"noise": LabelNoise()},
        {"recipe": Recipe(epochs=2)},
    ],
)
def test_another_question_does_not_overwrite_an_answer(asked, answered, tmp_path, change):
    out = tmp_path / "a.safetensors"
    out.write_bytes(answered)
    with pytest.raises(InputError, match=r"holds another training; give another --out, or --fresh"):
        train(replace(asked, **change), out)
    assert out.read_bytes() == answered
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_unfinished_training_of_another_question_is_left_alone(asked, tmp_path):
    interrupted(asked, tmp_path / "a.safetensors", 5)
    with pytest.raises(InputError, match="unfinished training with another configuration"):
        train(replace(asked, seed=1), tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors.partial" / "state.pt").write_bytes(b"cut short")
    with pytest.raises(InputError, match="damaged; --fresh starts again"):
        train(asked, tmp_path / "a.safetensors")
    train(asked, tmp_path / "a.safetensors", TrainingOptions(fresh=True))


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("left", ["damaged", "of another", "finished, of another"])
def test_what_cannot_be_gone_on_from_is_replaced_where_that_is_asked_for(
    asked, answered, tmp_path, left
):
    """As a study asks, whose trainings have names of their own: after a new version of torch."""
    out = tmp_path / "a.safetensors"
    if left == "finished, of another":
        train(replace(asked, seed=1), out)
    else:
        interrupted(replace(asked, seed=1), out, 5)
    if left == "damaged":
        (out.parent / "a.safetensors.partial" / "state.pt").write_bytes(b"cut short")
    with pytest.raises(InputError, match="--fresh"):
        train(asked, out)
    train(asked, out, TrainingOptions(replace=True))
    assert files(out.parent) == {"a.safetensors": answered}


@pytest.mark.thorough
def test_what_fresh_has_begun_goes_on_without_it(asked, tmp_path):
    out, whole = tmp_path / "cut" / "a.safetensors", tmp_path / "whole" / "a.safetensors"
    kept = {"snapshots": (1, 2)}
    train(replace(asked, seed=1), out, TrainingOptions(**kept))
    interrupted(asked, out, 7, fresh=True, **kept)
    lines = []
    callbacks = Callbacks(epoch=lines.append)
    train(asked, out, TrainingOptions(**kept, callbacks=callbacks))
    train(asked, whole, TrainingOptions(**kept))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert lines[0]["epoch"] == 2


def test_divergence_stops_with_the_epoch_and_keeps_the_last_good_state(digits, tmp_path):
    recipe = Recipe(
        epochs=4, batch_size=64, learning_rate=1e-3, schedule="staircase", decay=1e30, decay_steps=7
    )
    asked = TrainingConfig(model="lenet5", data=digits, recipe=recipe)
    with pytest.raises(
        TrainingFailed, match=r"became NaN or infinite in epoch \d, by batch \d"
    ) as told:
        train(asked, tmp_path / "a.safetensors", TrainingOptions(seconds=0))
    assert "--learning-rate" in str(told.value)
    state = torch.load(tmp_path / "a.safetensors.partial" / "state.pt", weights_only=True)
    assert all(bool(torch.isfinite(v).all()) for v in state["state"]["network"].values())
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet18-cifar"}, "does not accept images of 1×28×28"),
        ({"keep": "best", "recipe": Recipe(hold_out=Fraction(0))}, "needs held-out images"),
        ({"model": "lenet4"}, "did you mean 'lenet5'"),
        ({"loss": "hinges"}, "did you mean 'hinge'"),
        ({"settings": {"smoothing": 1}}, "unknown key 'smoothing'"),
        ({"fraction": Fraction(1, 100)}, "too few for one image of each"),
        ({"precision": "tf32"}, "--precision tf32: cpu has no TF32; use bf16"),
        ({"precision": "fp16"}, "--precision fp16: small gradients underflow in it"),
    ],
)
def test_bad_questions_get_one_line_and_leave_nothing(asked, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as told:
        train(replace(asked, **change), tmp_path / "a.safetensors")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_network_with_dropout_repeats_itself(digits, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Dropout(),"
        " nn.Linear(64, 10))\n"
    )
    asked = TrainingConfig(model=f"{tmp_path}/net.py:build", data=digits, recipe=Recipe(epochs=2))
    before = torch.get_rng_state()
    one, two = (train(asked, tmp_path / f"{n}.safetensors").path.read_bytes() for n in "ab")
    assert one == two
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_couples_images_in_training_alone_is_trained_by_the_right_gradient(
    digits, tmp_path
):
    """Tried in eval mode, it would pass for one whose images are apart, and take one pass."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Centred(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x - x.mean(0) if self.training else x\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), Centred(), nn.Tanh(),"
        " nn.Linear(16, 10))\n"
    )
    asked = TrainingConfig(
        model=f"{tmp_path}/net.py:build", data=digits, recipe=Recipe(batch_size=30)
    )
    run = training_run._Training(asked, Path("a"), TrainingOptions(), CPU, ProcessGroup())
    engine = run.engine(build_loss("large-margin", {"gamma": 10.0}), run.prepared())
    batch = engine.examples.take(torch.arange(30))
    engine.network.train()
    found = []
    for backward in (engine.loss.backward, lambda *a: engine.loss.settings.two_passes(*a[:3])):
        engine.network.zero_grad()
        backward(engine.network, batch.images, batch.given, Step(0, torch.Generator()))
        found.append(torch.cat([p.grad.flatten() for p in engine.network.parameters()]))
    assert float((found[0] - found[1]).norm()) < 1e-4 * float(found[1].norm())
    assert engine.loss.backward_mode(engine.network).startswith("two passes: here one pass would")


# --- the command ----------------------------------------------------------------------------------

TRAIN = ["train", "--model", "lenet5", "--data", "mnist5k", "--data-fraction", "0.1"]


def command(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "robustkit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains_and_is_evaluated_without_flags(robustkit, small, loss):
    data = small.parent / "digits.npz"
    status, out, err = robustkit(
        *("train", "--model", "lenet5", "--data", data, "--loss", loss, "--epochs", "1"),
        *("--label-noise", "0.4", "--out", "a.safetensors"),
    )
    assert (status, err) == (0, "")
    assert "180 images of digits, 72 noisy labels (40.0\u00a0%)" in out
    status, out, err = robustkit(
        "evaluate", "a.safetensors", "--data", data, "--attack", "fgsm", "--epsilon", "0.1"
    )
    # an epoch on labels of which 40 % are wrong may teach a loss no more than chance
    told = [line for line in err.splitlines() if "no different from chance" not in line]
    assert (status, told) == (0, [])
    assert "on digits test" in out


def test_a_users_own_loss(robustkit, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def focal(logits, labels, power=2.0):\n"
        "    chosen = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]\n"
        "    return -((1 - chosen.exp()) ** power * chosen).mean()\n"
    )
    status, out, err = robustkit(
        *TRAIN, "--loss", "mine.py:focal", "--set", "power=3", "--epochs", "1"
    )
    assert (status, err) == (0, "")
    name = "focal-power=3-lenet5-mnist5k-fraction-0.1-seed0.safetensors"
    assert out.rstrip().endswith(f"checkpoint: {name}")
    status, out, _ = robustkit("describe", name)
    assert "mine.py:focal" in out


@pytest.mark.slow
def test_large_margin_softmax_learns_under_label_noise_as_it_is_set_by_default(robustkit):
    asked = ["--loss", "large-margin-softmax", "--label-noise", "0.4", "--epochs", "10"]
    options = ["--model", "mnist-cnn", "--data", "mnist5k", "--out", "a.safetensors"]
    assert robustkit("train", *options, *asked)[0] == 0
    record = read_checkpoint("a.safetensors").extra["training"]
    assert record["history"][-1]["held_out_clean"] > 0.7


@pytest.mark.one_of_many
@pytest.mark.parametrize("further", [[], ["--set", "gamma=2.5e-5"]])
def test_large_margin_softmax_is_trained_with_its_margin_or_says_so(robustkit, further):
    asked = ["--loss", "large-margin-softmax", "--steps", "9", "--out", "a.safetensors"]
    status, _, err = robustkit(*TRAIN, *asked, *further)
    assert status == 0
    record = read_checkpoint("a.safetensors").extra["training"]
    if further:
        assert err.startswith("warning: large-margin-softmax: λ is still 993 at the last of 9 up")
    else:
        assert err == ""
        assert record["loss"]["settings"]["gamma"] == pytest.approx(2.5e-5 * 30_000 / 9)


@pytest.mark.thorough
def test_the_rest_of_a_recipe_is_set_by_its_keys(robustkit):
    further = ["nesterov=true", "milestones=2,4", "drop=0.5"]
    options = [option for text in further for option in ("--recipe-set", text)]
    asked = [*TRAIN, "--schedule", "multistep", "--steps", "5", "--out", "a.safetensors", *options]
    assert robustkit(*asked)[0] == 0
    recipe = read_checkpoint("a.safetensors").extra["training"]["recipe"]
    assert (recipe["nesterov"], recipe["milestones"], recipe["drop"]) == (True, [2, 4], 0.5)


@pytest.mark.thorough
def test_a_papers_recipe_takes_changes(robustkit):
    asked = ["--recipe", "paper", "--loss", "large-margin", "--batch-size", "64", "--epochs", "1"]
    asked += ["--model", "mnist-cnn", "--out", "a.safetensors"]
    assert robustkit(*TRAIN, *asked)[0] == 0
    record = read_checkpoint("a.safetensors").extra["training"]
    assert (record["recipe"]["optimizer"], record["recipe"]["start"]) == ("rmsprop", 1.0)
    assert (len(record["history"]), record["history"][0]["step"]) == (1, 6)
    assert record["recipe"]["clip_decay"]
    assert record["loss"]["settings"]["layers"] == ["input", "bn1", "bn2"]


@pytest.mark.thorough
def test_the_labels_of_a_training_are_written_and_counted(robustkit, tmp_path):
    noise = ["--label-noise", "0.4", "--noise-kind", "pair", "--epochs", "1", "--seed", "3"]
    assert robustkit(*TRAIN, *noise, "--out", "a.safetensors")[0] == 0
    status, out, err = robustkit("describe", "a.safetensors", "--labels", "labels.csv")
    assert (status, err) == (0, "wrote labels.csv\n")
    assert out.splitlines()[-1].split() == ["all", "360", "144", "400", "160"]
    rows = np.genfromtxt(tmp_path / "labels.csv", delimiter=",", names=True, dtype=None)
    whole = load_dataset("mnist5k", split="train")
    training = prepare_training_data(
        whole, hold_out="1/10", fraction="0.1", noise=LabelNoise("pair", Fraction(2, 5)), seed=3
    )
    own = rows[~rows["held_out"]]
    assert own["index"].tolist() == training.train.positions.tolist()
    assert own["given"].tolist() == training.train.labels.tolist()
    assert own["clean"].tolist() == whole.labels[own["index"]].tolist()
    for arguments, message in [
        (["a.safetensors", "--split", "test"], "mnist5k test: not the images and labels"),
        (["lenet5-mnist5k"], "does not say what it was trained on"),
    ]:
        status, _, err = robustkit("describe", *arguments, "--labels", "b.csv")
        assert status == 2
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "b.csv").exists()


def test_bad_options_get_one_line(robustkit):
    for arguments, message in [
        (["--recipe", "paper"], "the paper's settings for cross-entropy on mnist5k were not found"),
        (["--schedule", "multistep"], "multistep needs milestones"),
        (["--recipe-set", "milestone=5"], "did you mean 'milestones'"),
        (["--recipe-set", "epochs=5"], "this has an option, --epochs"),
        (["--recipe-set", "nesterov"], "--recipe-set nesterov: expected key=value"),
        (["--recipe-set", "nesterov=1"], "--recipe-set: nesterov: expected bool, got 1"),
        (["--label-noise", "1.5"], "the rate must be from 0 to below 1"),
        (["--noise-kind", "symetric"], "did you mean 'symmetric'"),
        (["--compress", "topk:0.1"], "did you mean 'top-k'"),
        (["--set", "gamma"], "expected key=value"),
        (["--epochs", "0"], "--epochs 0: must be above 0"),
        (["--hold-out", "5000"], "cannot hold out"),
        (["--snapshots", "1,two"], "--snapshots 1,two: expected passes over the data"),
    ]:
        status, _, err = robustkit(*TRAIN, *arguments)
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    asked = [
        "train",
        "--model",
        "mnist-cnn",
        "--data",
        "mnist5k",
        "--epochs",
        "4",
        "--loss",
        "large-margin",
    ]
    assert command(*asked, "--out", "whole.safetensors", cwd=tmp_path).returncode == 0
    draw = np.random.default_rng(0)
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "robustkit", *asked, "--out", "cut.safetensors"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    state = tmp_path / "cut.safetensors.partial" / "state.pt"
    while not state.exists():
        time.sleep(0.05)
    time.sleep(draw.random())
    job.kill()
    job.wait()
    assert state.exists()
    assert command(*asked, "--out", "cut.safetensors", cwd=tmp_path).returncode == 0
    whole, cut = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("whole", "cut"))
    assert whole == cut


@pytest.mark.thorough
@pytest.mark.parametrize("model", ["lenet5", pytest.param("mnist-cnn-bn", marks=SLOW)])
def test_two_processes_train_one_network(tmp_path, model):
    """Also where a loss passes through the network twice, and attacks it in between."""
    trades = ["--loss", "trades", "--set", "steps=2", "--model", model]
    asked = [*TRAIN, *trades, "--epochs", "2", "--compress", "top-k:0.01", "--out", "a.safetensors"]
    started = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "robustkit", *asked),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert started.returncode == 0, started.stderr
    assert started.stdout.count("checkpoint:") == 1
    record = read_checkpoint(tmp_path / "a.safetensors").extra["training"]
    assert record["processes"] == 2
    assert (
        record["communication"]["bytes_per_step"]
        < record["communication"]["plain_bytes_per_step"] / 20
    )
    assert len(record["history"]) == 2
