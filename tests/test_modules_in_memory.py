"""A module in memory gets its own rows: known by its tree, its weights and its outputs."""

import functools
import linecache
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustkit import data, evaluate
from robustkit.auditing.cache import Parts
from robustkit.auditing.stages import ThreatModel
from robustkit.evaluation import RunOptions, from_module, resolve_protocol, run
from robustkit.evaluation.computing import are_those
from robustkit.evaluation.outputs import agree
from robustkit.evaluation.tree import Unreadable, tree_of, weights_of
from robustkit.protocol import parse_epsilon

SCALE = 2.0


def helper(x):
    return x * SCALE


class Net(nn.Module):
    """Weights that are given, and everything else that can differ."""

    factor = 1.0

    def __init__(self, **attributes):
        super().__init__()
        self.fc = linear()
        self.register_buffer("shift", torch.zeros(3))
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.logits(self.fc(x.flatten(1)))

    def logits(self, x):
        return (x + self.shift + self.hidden) * self.factor


class Softer(Net):
    def logits(self, x):
        return super().logits(x) / 2


class Calls(Net):
    def logits(self, x):
        return helper(x)


class Draws(Net):
    def logits(self, x):
        return x + 1e-2 * torch.randn_like(x)


OWN = random.Random()


class DrawsByItself(Net):
    def logits(self, x):
        return x + OWN.random()


def linear():
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 48).view(3, 16).roll(7, 1))
        layer.bias.zero_()
    return layer


def sequential(last):
    return nn.Sequential(nn.Flatten(), linear(), last)


@pytest.fixture
def arrays():
    images = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
    with torch.no_grad():
        labels = sequential(nn.Identity())(torch.from_numpy(images)).argmax(1).numpy()
    return images, labels


@pytest.fixture
def ask(arrays, tmp_path):
    """The clean record of a module under one name, and whether it was computed."""

    def ask(module, **options):
        computed = []
        options["progress"] = lambda done, total: computed.append(done)
        found = evaluate(module, arrays, "clean", name="net", out=tmp_path, **options)
        return found, bool(computed)

    return ask


def test_two_networks_with_the_same_weights_have_two_answers(ask):
    same, _ = ask(sequential(nn.Identity()))
    other, _ = ask(sequential(nn.Softmin(1)))
    assert same.header["checkpoint"]["weights"] == other.header["checkpoint"]["weights"]
    assert same.clean().value == 1
    assert other.clean().value < 0.5
    assert not ask(sequential(nn.Identity()))[1], "the first is still on file"


def lambda_of(factor):
    return lambda x: x * factor


def hooked(hook):
    net = Net()
    net.fc.register_forward_hook(hook)
    return net


def halved(module, inputs, output):
    return output / 2


def doubled(module, inputs, output):
    return output * 2


def overridden(forward):
    net = Net()
    net.forward = forward
    return net


def with_buffer(name):
    net = Net()
    getattr(net, name)[0] = 1
    return net


def two(first, second):
    return nn.Sequential(nn.Flatten(), linear(), first, second)


# modules that share their parameters, each with a twin that is made anew
MODULES = {
    "plain": Net,
    "subclass": Softer,
    "constant": lambda: Net(factor=0.5),
    "constant of another type": lambda: Net(factor=1),
    "buffer": lambda: with_buffer("shift"),
    "buffer of no state dict": lambda: with_buffer("hidden"),
    "tensor that is no buffer": lambda: Net(factor=torch.tensor(0.5)),
    "array": lambda: Net(factor=np.float32(0.5)),
    "function": lambda: Net(logits=helper),
    "closure": lambda: Net(logits=lambda_of(2)),
    "another closure": lambda: Net(logits=lambda_of(3)),
    "partial": lambda: Net(logits=functools.partial(torch.mul, other=2)),
    "another partial": lambda: Net(logits=functools.partial(torch.mul, other=3)),
    "compiled function": lambda: Net(logits=torch.sigmoid),
    "another compiled function": lambda: Net(logits=torch.tanh),
    "hook": lambda: hooked(halved),
    "another hook": lambda: hooked(doubled),
    "forward of the instance": lambda: overridden(helper),
    "order": lambda: two(nn.Tanh(), nn.Softmax(1)),
    "another order": lambda: two(nn.Softmax(1), nn.Tanh()),
    "settings of a layer": lambda: two(nn.Tanh(), nn.LeakyReLU(0.1)),
    "other settings of a layer": lambda: two(nn.Tanh(), nn.LeakyReLU(0.2)),
    "table": lambda: Net(table={"a": (1, 2)}),
    "another table": lambda: Net(table={"a": (1, 3)}),
    "module outside the tree": lambda: Net(others=[nn.Tanh()]),
    "another module outside the tree": lambda: Net(others=[nn.ReLU()]),
}


def identity(module):
    return tuple(sorted(from_module(module, "net").identity.items()))


def test_whatever_can_change_a_logit_makes_another_module():
    assert len({identity(make()) for make in MODULES.values()}) == len(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_made_again_is_the_same(name):
    assert identity(MODULES[name]()) == identity(MODULES[name]())
    assert all(tree_of(MODULES[name]().eval()))


@pytest.mark.parametrize("name", ["SCALE", "helper"])
def test_what_a_forward_pass_calls_counts(name, monkeypatch):
    before = identity(Calls())
    monkeypatch.setitem(globals(), name, 3.0 if name == "SCALE" else lambda_of(2))
    assert identity(Calls()) != before


def test_a_constant_of_a_class_counts(monkeypatch):
    before = identity(Net())
    monkeypatch.setattr(Net, "factor", 3.0)
    assert identity(Net()) != before


def test_a_changed_source_counts(tmp_path):
    found = []
    for factor in (2, 3):
        path = tmp_path / f"net{factor}.py"
        path.write_text(
            f"import torch\n\nclass Own(torch.nn.Module):\n    def forward(self, x):\n"
            f"        return x.flatten(1) * {factor}\n"
        )
        space = {"__name__": "net"}
        exec(compile(path.read_text(), str(path), "exec"), space)
        found.append(identity(space["Own"]()))
    assert found[0] != found[1]


def test_weights_are_others_with_another_name_type_or_shape():
    def holding(name, value):
        module = nn.Module()
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        return module

    ones = torch.ones(6)
    modules = [
        holding("a", ones),
        holding("b", ones),
        holding("a", ones.view(2, 3)),
        holding("a", ones.view(torch.int32)),
        holding("a", -ones),
    ]
    assert len({weights_of(one) for one in modules}) == len(modules)
    assert weights_of(holding("a", ones.bfloat16()))


def test_a_mode_that_an_evaluation_does_not_use_makes_no_other_module(ask):
    assert ask(Net().train())[1]
    assert not ask(Net().eval())[1]


# --- gradients of its own -------------------------------------------------------------------------

STEP = 1.0


def step_of(gradient):
    return gradient * STEP


class Straight(torch.autograd.Function):
    """Rounds on the way forward; its gradient shows in no logit."""

    factor = 1.0

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return step_of(gradient) * Straight.factor


class Inherits(Straight):
    pass


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return step_of(gradient)


class InTwoParts(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.step = STEP

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.step


straight = Straight.apply


def through(function):
    return lambda x: function.apply(x)


class Rounds(Net):
    def logits(self, x):
        return Straight.apply(x)


class RoundsByName(Net):
    def logits(self, x):
        return straight(x)


ROUNDING = {
    "in the forward pass": Rounds,
    "by another name": RoundsByName,
    "as an attribute": lambda: Net(logits=Straight.apply),
    "in a closure": lambda: Net(logits=through(Straight)),
    "in a partial": lambda: Net(logits=functools.partial(Straight.apply)),
    "inherited": lambda: Net(logits=Inherits.apply),
    "differentiable once": lambda: Net(logits=Once.apply),
    "noted on the way forward": lambda: Net(logits=InTwoParts.apply),
}


@pytest.mark.parametrize("name", ROUNDING)
def test_a_gradient_of_its_own_counts(name, monkeypatch):
    before = identity(ROUNDING[name]())
    assert before == identity(ROUNDING[name]())
    assert all(tree_of(ROUNDING[name]().eval()))
    monkeypatch.setitem(globals(), "STEP", 0.0)
    assert identity(ROUNDING[name]()) != before


@pytest.mark.parametrize("method", ["backward", "jvp", "vjp", "vmap", "setup_context"])
def test_another_method_of_a_function_with_a_gradient_of_its_own_counts(method, monkeypatch):
    before = identity(Rounds())
    monkeypatch.setattr(Straight, method, staticmethod(lambda *given: given[-1]), raising=False)
    assert identity(Rounds()) != before


def test_a_method_called_backward_of_anything_else_does_not_count(monkeypatch):
    before = identity(Net())
    monkeypatch.setattr(Net, "backward", lambda self, loss: loss.backward(), raising=False)
    assert identity(Net()) == before


# --- what cannot be read --------------------------------------------------------------------------


def without_source():
    space = {"nn": nn, "__name__": "nowhere"}
    exec("class Own(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)", space)
    return space["Own"]()


UNREADABLE = {
    "a class without source": without_source,
    "one of two lambdas": lambda: Net(logits=[lambda x: x, lambda x: -x][0]),
    "a generator": lambda: Net(source=torch.Generator()),
    "a compiled object": lambda: Net(source=random.Random(0)),
    "a traced graph": lambda: torch.fx.symbolic_trace(sequential(nn.Tanh())),
    "an array of objects": lambda: Net(table=np.array([None])),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_has_no_source_is_not_described(name):
    with pytest.raises(Unreadable):
        tree_of(UNREADABLE[name]().eval())


def test_what_has_no_source_is_evaluated_anew_each_time(ask):
    either = [lambda x: x, lambda x: -x]
    found = [ask(Net(logits=either[i])) for i in (0, 1, 1)]
    assert [record.clean().value > 0.5 for record, _ in found] == [True, False, False]
    assert all(computed for _, computed in found)


# --- outputs --------------------------------------------------------------------------------------


def test_a_module_that_draws_from_the_global_generator_is_answered_from_its_file(ask):
    assert ask(Draws())[1]
    torch.randn(5)
    assert not ask(Draws())[1]


def test_a_module_that_draws_by_itself_is_evaluated_and_evaluated_anew(ask):
    found, computed = ask(DrawsByItself())
    assert computed
    assert len(found.rows) == 40
    assert found.outputs is None
    assert ask(DrawsByItself())[1]


class Hides(Net):
    """What it computes depends on a number that no reading of it shows."""

    def logits(self, x):
        return x * float(linecache.getline("hidden.txt", 1))


def hide(value):
    linecache.cache["hidden.txt"] = (1, None, [f"{value}\n"], "hidden.txt")


def test_a_module_whose_outputs_are_others_is_evaluated_anew(ask):
    hide(1)
    assert ask(Hides())[0].clean().value == 1
    assert not ask(Hides())[1]
    hide(-1)
    assert identity(Hides()) == identity(Hides())
    found, computed = ask(Hides())
    assert computed
    assert found.clean().value < 0.5
    assert not ask(Hides())[1]


def test_outputs_agree_up_to_rounding():
    logits = np.array([[1.0, -200.0]])
    assert agree(logits, logits + 1e-3)
    assert not agree(logits, logits + 1e-1)
    assert not agree(logits, np.array([[1.0]]))
    assert not agree(None, logits)
    assert not agree(logits, None)
    assert agree(np.array([[np.nan, 1]]), np.array([[np.nan, 1]]))
    assert not agree(np.array([[np.nan, 1]]), np.array([[1.0, 1]]))


def test_blocks_of_another_module_are_not_taken_up(arrays, tmp_path):
    images = np.concatenate([arrays[0]] * 7)
    labels = np.concatenate([arrays[1]] * 7)

    def ask(progress=lambda done, total: None):
        return evaluate(
            Hides(), (images, labels), "clean", name="net", out=tmp_path, progress=progress
        )

    def stop(done, total):
        if done >= 256:
            raise KeyboardInterrupt

    hide(-1)
    with pytest.raises(KeyboardInterrupt):
        ask(stop)
    assert list(tmp_path.glob("*.partial/block-*.parquet"))
    hide(1)
    assert ask().clean().value == 1


def test_a_part_of_an_audit_is_not_taken_for_another_module(arrays, tmp_path):
    budget, cpu = parse_epsilon("0.1"), torch.device("cpu")
    images = data.from_arrays(*arrays, name="arrays")

    def part(value):
        hide(value)
        model = from_module(Hides(), "net")
        outputs = model.outputs(images.shape, cpu)
        threat = ThreatModel("linf", budget, (budget,), 0)
        parts = Parts(tmp_path, model, threat, cpu, outputs)
        return parts.part(parts.key("corruptions", images), lambda: {"right": value})["right"]

    assert [part(value) for value in (1, 1.00001, 2, 2)] == [1, 1, 2, 2]


# --- weights of other types, states of their own --------------------------------------------------


class Kept(nn.Module):
    """Keeps a state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(9, 3)
        self.state = {"calls": ["none"], "scale": 2.0}

    def forward(self, x):
        return self.fc(x.flatten(1)) * self.state["scale"]

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def convolutional():
    layers = (
        nn.Conv2d(1, 2, 2),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3, bias=False),
    )
    return nn.Sequential(*layers)


OTHERS = {
    "bfloat16": lambda: convolutional().bfloat16(),
    "float16": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).half(),
    "float64": lambda: convolutional().double(),
    "extra state": Kept,
}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", OTHERS)
def test_modules_of_other_types_and_with_states_of_their_own_are_evaluated_and_found(
    name, tmp_path
):
    torch.manual_seed(5)
    module = OTHERS[name]()
    images = np.random.default_rng(0).random((20, 1, 3, 3), dtype=np.float32)
    kind = next(module.parameters()).dtype
    with torch.no_grad():
        labels = module.eval()(torch.from_numpy(images).to(kind)).argmax(1).numpy()

    def record():
        given = {"epsilon": ["0.05", "0.5"], "out": tmp_path, "name": "net"}
        return evaluate(module, (images, labels), "fgsm", **given)

    first = record()
    assert first.clean().value == 1
    assert first.robust()[-1].accuracy.value < 1
    assert record().run == first.run  # from its file
    assert next(module.parameters()).dtype == kind
    with torch.no_grad():
        next(module.parameters()).mul_(-3)
    assert record().digest != first.digest


# --- surrogates -----------------------------------------------------------------------------------


def breakable(module, name):
    """A module of weights by which small steps turn an answer."""
    with torch.no_grad():
        source = torch.Generator().manual_seed(1)
        module.fc.weight.copy_(torch.randn(3, 16, generator=source))
        module.fc.bias.copy_(-module.fc.weight.sum(1) / 2)
    return from_module(module, name)


def images_of(model, count):
    """Images that a model gets right."""
    images = np.random.default_rng(0).random((count, 1, 4, 4), dtype=np.float32)
    labels = model.load(torch.device("cpu"))(torch.from_numpy(images)).argmax(1)
    return data.from_arrays(images, labels.numpy(), name="arrays")


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_surrogate_whose_outputs_are_others_is_another_question(in_memory, tmp_path):
    judged = breakable(Net(), "net")
    dataset = images_of(judged, 40)
    # else as a checkpoint whose file says all
    judged = judged if in_memory else replace(judged, outputs=None)
    asked = resolve_protocol("fgsm", dataset, ["0.1"])

    def ask(value, out=tmp_path):
        hide(value)
        done = []
        options = RunOptions(progress=lambda *told: done.append(told))
        found = run(judged, dataset, asked, out, options, breakable(Hides(), "other"))
        return found.table["fooled_at"].to_pylist(), bool(done)

    first, second = ask(1), ask(-1, tmp_path / "new")
    assert first[0] != second[0]
    assert ask(1) == (first[0], False)
    assert ask(-1) == second == (second[0], True)
    assert ask(-1) == (second[0], False)


def test_blocks_through_another_surrogate_are_not_taken_up(tmp_path):
    judged = breakable(Net(), "net")
    dataset = images_of(judged, 280)
    asked = resolve_protocol("fgsm", dataset, ["0.1"])

    def ask(value, progress=lambda done, total: None, out=tmp_path):
        hide(value)
        surrogate = breakable(Hides(), "other")
        options = RunOptions(progress=progress)
        return run(judged, dataset, asked, out, options, surrogate).rows_digest

    def stop(done, total):
        if done >= 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(-1, stop)
    assert list(tmp_path.glob("*.partial/block-*.parquet"))
    assert ask(1) == ask(1, out=tmp_path / "new")


def test_outputs_that_were_kept_of_one_network_alone_do_not_speak_for_a_surrogate():
    one, other = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1e-3, 3e-3, 4e-3], [0, 1e-3, 0]])
    both = np.concatenate([one, other], axis=1)
    assert are_those([one], one)
    assert are_those([one, other], both)
    assert are_those([], None)
    for earlier in (None, one, other, np.zeros((0,)), both[::-1].copy(), both[:1]):
        assert not are_those([one, other], earlier)
    # each by its own spread: that of the first hides no change of the second
    changed = np.concatenate([one, other[::-1]], axis=1)
    assert not are_those([one, other], changed)
    assert not are_those([one, None], both)
    assert not are_those([None], one)
