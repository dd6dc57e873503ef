"""A loss of the user's own: what it may do in a training, and what the training makes of it."""

import copy
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from robustkit import compression, data, losses, models
from robustkit.data import load_dataset
from robustkit.data.noise import LabelNoise
from robustkit.display.progress import TrainingBar, epoch_text
from robustkit.errors import InputError, TrainingFailed
from robustkit.losses.custom import CustomLoss, _open
from robustkit.losses.loss import Step
from robustkit.training import Callbacks, Recipe, TrainingConfig, TrainingOptions, train
from robustkit.training.processes import join, leave

CPU = torch.device("cpu")
FILE = """
import copy
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

T = nn.Parameter(torch.tensor(0.0))
PLAIN = torch.zeros(2, 1, requires_grad=True)
# --- what draws ---

def mixup(model, images, labels):
    share = float(np.random.beta(1, 1))
    rows = torch.randperm(len(images))
    logits = model(share * images + (1 - share) * images[rows])
    return share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, labels[rows])

def chance(logits, labels):
    return random.random() * cross_entropy(logits, labels)

# --- parameters ---

def tempered(logits, labels):
    return cross_entropy(T.exp() * logits, labels)

def plain(logits, labels):
    return cross_entropy(logits + PLAIN.sum(), labels)

def centre(model, images, labels):
    logits = model(images)
    return cross_entropy(logits, labels) + (logits - nn.Embedding(10, 10)(labels)).square().mean()

def itself(logits, labels):
    return T

def detached(logits, labels):
    return cross_entropy(T.detach().exp() * logits, labels)

def penalised(model, images, labels):
    x = images.clone().requires_grad_()
    value = cross_entropy(model(x), labels)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    return value + slope.square().sum()

def added(model, images, labels):
    delta = torch.nn.Parameter(torch.zeros_like(images))
    value = cross_entropy(model(images + delta), labels)
    (slope,) = torch.autograd.grad(value, delta, create_graph=True)
    return value + slope.square().sum()

def attacked(model, images, labels):
    x = (images + 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(x), labels), x)
    x.data += 0.1 * slope.sign()
    return cross_entropy(model(x), labels)

def at_the_images(model, images, labels):
    images.requires_grad_()
    return cross_entropy(model(images), labels)

# --- batches ---

def pairs(model, images, labels):
    logits = model(images)
    alike = (labels[:, None] == labels).fill_diagonal_(False)
    return torch.cdist(logits, logits)[alike].mean() if alike.any() else logits.new_zeros(())

def hard(logits, labels):
    return cross_entropy(logits, labels, reduction="none").topk(32).values.mean()

def wide(logits, labels):
    return cross_entropy(logits, labels, reduction="none").topk(100).values.mean()

def seldom(logits, labels, *, step):
    return cross_entropy(logits, labels) if step < 2 else logits.new_zeros(())

# --- the first call ---

def zeros_first(model, images, labels):
    model(torch.zeros_like(images))
    return cross_entropy(model(images), labels)

def copied(model, images, labels):
    return cross_entropy(model(x=images.clone()), labels)

def written(model, images, labels):
    images.add_(0.1)
    return cross_entropy(model(images), labels)

def doubled(model, images, labels):
    return cross_entropy(model(torch.cat([images, images])), labels.repeat(2))

def at_times(model, images, labels, *, step):
    return cross_entropy(model(images if step else images / 2), labels)

# --- layers ---

def weights(model, images, labels):
    return cross_entropy(model(images), labels) + 1e-2 * model.fc3.weight.abs().sum()

def items(model, images, labels):
    assert len(model) == 3 and [name for name, _ in model.named_parameters()][0] == "2.weight"
    assert isinstance(model, nn.Sequential) and model.dim == 7
    return cross_entropy(model(images), labels) + 1e-2 * model[-1].weight.abs().sum()

def beside(model, images, labels):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert not other(images).any()
    return cross_entropy(model(images), labels)

# --- schedules ---

def scheduled(logits, labels, *, step, steps):
    with Path(__file__).with_name('told.txt').open('a') as file:
        print(step, steps, file=file)
    return (1 + step / steps) * cross_entropy(logits, labels)

def of_its_own(logits, labels, steps=3, *, step=0.5):
    return steps * step * cross_entropy(logits, labels)
"""
NET = """
from torch import nn
def build():
    made = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49, 10))
    made.dim = 7
    return made
"""


@pytest.fixture(scope="module")
def digits():
    """200 real digits, 20 a class, as a training split."""
    whole = load_dataset("mnist5k", split="train")
    keep = np.concatenate([np.flatnonzero(whole.labels == k)[:20] for k in range(10)])
    images = np.concatenate([whole.images(i, i + 1) for i in keep])
    return data.from_arrays(images, whole.labels[keep], name="digits")


@pytest.fixture
def ask(tmp_path, digits):
    """A training by one of the user's functions."""
    (tmp_path / "mine.py").write_text(FILE)

    def asked(function, steps=2, batch_size=64, **further):
        recipe = Recipe(steps=steps, batch_size=batch_size, hold_out=Fraction(0))
        name = f"{tmp_path}/mine.py:{function}"
        return TrainingConfig(
            **{"model": "lenet5", "data": digits, "loss": name, "recipe": recipe} | further
        )

    return asked


class Cut(Exception):
    pass


def cut_after(number):
    """Options of a training that is killed after so many updates, each of which it saved."""

    def step(at):
        if at.step == number:
            raise Cut

    return TrainingOptions(seconds=0, callbacks=Callbacks(step))


def states():
    own = random.getstate(), torch.get_rng_state().numpy().tobytes()
    return *own, *(str(part) for part in np.random.get_state()), np.random.get_state()[1].tobytes()


# --- what draws -----------------------------------------------------------------------------------


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("function", ["mixup", "chance"])
def test_a_loss_that_draws_from_global_generators_is_repeated_and_resumed(ask, tmp_path, function):
    asked, before = ask(function, steps=9), states()
    whole = train(asked, tmp_path / "a.safetensors").path.read_bytes()
    assert states() == before
    random.random(), np.random.rand()
    assert train(asked, tmp_path / "b.safetensors").path.read_bytes() == whole
    with pytest.raises(Cut):
        train(asked, tmp_path / "c.safetensors", cut_after(5))
    np.random.rand()
    assert train(asked, tmp_path / "c.safetensors").path.read_bytes() == whole
    other = train(replace(asked, seed=1), tmp_path / "d.safetensors").path.read_bytes()
    assert other != whole


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "size"),
    [("tempered", "a scalar"), ("itself", "a scalar"), ("plain", "2×1"), ("centre", "10×10")],
)
def test_a_parameter_of_the_losss_own_is_refused(ask, tmp_path, function, size):
    with pytest.raises(InputError) as caught:
        train(ask(function), tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path}/mine.py:{function}: a parameter of the loss's own ({size}) would not be "
        "trained; put it into the network, or detach it (tried on the first batch, 50 images)"
    )
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    "function", ["detached", "penalised", "added", "attacked", "at_the_images"]
)
def test_what_is_made_in_a_call_and_gone_after_it_is_no_parameter(ask, tmp_path, function):
    assert train(ask(function), tmp_path / "a.safetensors").record["history"]


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["pairs", "hard"])
def test_a_loss_is_tried_on_a_batch_as_trainings_have_them(ask, tmp_path, function):
    assert train(ask(function), tmp_path / "a.safetensors").record["history"][-1]["step"] == 2


def test_what_fails_on_the_first_batch_says_that_it_was_tried_on_it(ask, tmp_path):
    told = r"failed: .*out of range.* \(tried on the first batch, 50 images\)$"
    with pytest.raises(InputError, match=told):
        train(ask("wide"), tmp_path / "a.safetensors")


def test_a_batch_that_teaches_nothing_is_one_line(ask, tmp_path):
    told = r"does not depend on the network; .* return 0 \* logits\.sum\(\), in epoch 1, by batch 3"
    with pytest.raises(TrainingFailed, match=told):
        train(ask("seldom", steps=4), tmp_path / "a.safetensors")


def test_too_large_a_batch_for_the_try_is_told_as_one(ask, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(CustomLoss, "_value", full)
    with pytest.raises(TrainingFailed, match="out of memory on the first batch; try a smaller"):
        train(ask("hard"), tmp_path / "a.safetensors")


# --- the first call -------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["zeros_first", "copied"])
def test_the_training_accuracy_is_of_the_batch_itself(ask, tmp_path, digits, function):
    asked = replace(ask(function, steps=1, batch_size=200), noise=LabelNoise(rate=Fraction(2, 5)))
    plain = train(replace(asked, loss="cross-entropy"), tmp_path / "a.safetensors")
    own = train(asked, tmp_path / "b.safetensors")
    (line,), (expected,) = (made.record["history"] for made in (own, plain))
    assert line == pytest.approx(expected)
    assert own.warning == ""
    images, labels = torch.from_numpy(digits.images(0, 6)), torch.from_numpy(digits.labels[:6])
    network = models.build("lenet5", seed=0)
    found = losses.build(asked.loss)(network, images, labels, Step(0, torch.Generator()))
    assert torch.equal(found.logits, network(images))


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("function", ["mixup", "written", "doubled", "attacked", "at_times"])
def test_without_a_pass_of_the_batch_the_training_accuracy_is_not_known(ask, tmp_path, function):
    asked = replace(ask(function, steps=3), noise=LabelNoise(rate=Fraction(2, 5)))
    seen = []
    options = TrainingOptions(callbacks=Callbacks(seen.append))
    made = train(asked, tmp_path / "a.safetensors", options)
    line = made.record["history"][-1]
    unknown = ("accuracy_given", "accuracy_clean", "memorised")
    assert [line[name] for name in unknown] == [None] * 3
    assert line["loss"] > 0
    assert made.warning == (
        f"the accuracy on training images is not known: {asked.loss} does not pass the batch "
        "itself through the network, as model(images)"
    )
    assert train(asked, tmp_path / "a.safetensors").warning == made.warning
    assert epoch_text(line) == f"loss {line['loss']:.4g}"
    bar = TrainingBar("a")
    for at in seen:
        bar.callbacks.step(at)
    assert ">accuracy<" not in made._repr_html_()


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("function", ["weights", "items", "beside"])
def test_a_loss_sees_the_network_itself_however_it_is_wrapped(ask, tmp_path, function):
    (tmp_path / "net.py").write_text(NET)
    model = f"{tmp_path}/net.py:build" if function == "items" else "lenet5"
    asked = replace(ask(function), model=model)
    plain = load_file(train(asked, tmp_path / "a.safetensors").path)
    whole = replace(asked, compress=compression.parse("top-k:100%"), memory=False)
    shared = load_file(train(whole, tmp_path / "b.safetensors").path)
    assert all(torch.equal(plain[name], shared[name]) for name in plain)
    train(replace(asked, compress=compression.parse("fp16")), tmp_path / "c.safetensors")


def test_a_call_of_the_network_that_a_loss_sees_goes_through_the_wrapper():
    join(CPU, alone=True)
    try:
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        wrapper, calls = DistributedDataParallel(network), []
        wrapper.register_forward_hook(lambda *_: calls.append(1))
        seen, x = _open(wrapper), torch.rand(2, 4)
        assert _open(wrapper) is seen
        assert torch.equal(seen(x), network(x))
        assert calls == [1]
        seen.eval().note = 5
        assert (network.training, network.note, seen[1]) == (False, 5, network[1])
        for other in (copy.copy(seen), copy.deepcopy(seen)):
            assert type(other) is nn.Sequential
            other(x)
        assert calls == [1]
        assert dict(wrapper.named_modules()).keys() == {"", "module", "module.0", "module.1"}
    finally:
        del wrapper, seen
        leave()


# --- schedules ------------------------------------------------------------------------------------


def test_a_loss_is_told_where_the_run_stands_also_after_an_interruption(ask, tmp_path):
    asked, file = ask("scheduled", steps=9), tmp_path / "told.txt"
    whole = train(asked, tmp_path / "a.safetensors")
    # the first is the try
    assert file.read_text().splitlines() == ["0 9", *(f"{step} 9" for step in range(9))]
    assert whole.record["loss"]["settings"] == {}
    with pytest.raises(Cut):
        train(asked, tmp_path / "b.safetensors", cut_after(5))
    file.unlink()
    assert train(asked, tmp_path / "b.safetensors").path.read_bytes() == whole.path.read_bytes()
    assert file.read_text().splitlines()[1:] == [f"{step} 9" for step in range(5, 9)]


def test_a_setting_that_is_called_so_stays_one(ask):
    own, told = ask("of_its_own").loss, ask("scheduled").loss
    assert losses.spell(losses.build(own)) == {"steps": 3, "step": 0.5}
    assert losses.spell(losses.build(told, {"steps": 5})) == {"steps": 5}
    assert losses.build(told, {"steps": 5}).told == ("step",)
    with pytest.raises(InputError, match="unknown key 'stepss'; did you mean"):
        losses.build(told, {"stepss": 5})
