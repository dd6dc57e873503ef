"""Which of a file's sets of weights is taken, what is said of the others, and how one is chosen."""

import pytest
import torch
from helpers import checkpoint_files as files
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from robustkit.checkpoint import read_checkpoint, write_sidecar
from robustkit.errors import CheckpointError
from robustkit.evaluation.model import from_checkpoint

X = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
NAME = "mnist-cnn-bn"
"""has running statistics beside its parameters"""


def raw():
    return files.network(NAME)


def averaged():
    """Other parameters and other statistics."""
    network = files.network(NAME, seed=1)
    for _, value in network.named_buffers():
        if value.is_floating_point():
            value.add_(0.1)
    return network


def short_of_buffers():
    """The averaged parameters on the raw statistics."""
    network = averaged()
    network.load_state_dict(dict(network.named_parameters()) | dict(raw().named_buffers()))
    return network


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def parameters(network):
    return dict(network.named_parameters())


def swa(updates=3):
    model = AveragedModel(averaged())
    model.n_averaged.fill_(updates)
    return model.state_dict()


def dotless(network):
    return {key.replace(".", ""): value for key, value in parameters(network).items()}


class Shadow:
    """An average of the parameters, pickled whole."""

    def __init__(self, network):
        self.decay, self.shadow_params = 0.999, list(network.parameters())


FULL = {
    "ema_model": lambda r, a: {"model": r, "ema_model": a},
    "ema_net": lambda r, a: {"net": r, "ema_net": a},
    "net_ema": lambda r, a: {"net": r, "net_ema": a},
    "swa_state_dict": lambda r, a: {"state_dict": r, "swa_state_dict": a},
    "swa_model": lambda r, a: {"model": r, "swa_model": swa()},
    "model_averaged": lambda r, a: {"model": r, "model_averaged": a},
    "model_ema": lambda r, a: {"model": r, "model_ema": a},
    "state_dict_ema": lambda r, a: {"state_dict": r, "state_dict_ema": a},
    "polyak": lambda r, a: {"state_dict": r, "polyak": a},
    "modelEma": lambda r, a: {"model": r, "modelEma": a},
    "ema.module": lambda r, a: {"model": r, "ema": {"decay": 0.99, "module": a}},
    "averaged.best": lambda r, a: {"last": r, "averaged": {"best": a, "epoch": 3}},
    "mean_teacher": lambda r, a: {"model": r, "mean_teacher": a},
    "second": lambda r, a: {"state_dict": r, "second": under("module.", a)},
    "current_model_state": lambda r, a: {"state_dict": r, "current_model_state": a},
    "callbacks.StochasticWeightAveraging.average_model_state": lambda r, a: {
        "state_dict": under("model.", r),
        "callbacks": {"StochasticWeightAveraging": {"average_model_state": under("model.", a)}},
        "pytorch-lightning_version": "2.4.0",
    },
    "optimizer_states.0.ema_state": lambda r, a: {"state_dict": r, "optimizer_states": [{"ema_state": a}]},
    "state_dict.1": lambda r, a: {"state_dict": [r, a]},
}  # fmt: skip
"""files with a second full set, by its key"""
PARTIAL = {
    "ema.shadow_params": lambda r, a: {"model": r, "ema": {"decay": 0.99, "shadow_params": list(parameters(a).values())}},
    "shadow": lambda r, a: {"model": r, "shadow": parameters(a)},
    "ema": lambda r, a: {"model": r, "ema": list(parameters(a).values())},
    "optimizer_states.0.ema": lambda r, a: {"state_dict": r, "optimizer_states": [{"ema": list(parameters(a).values())}]},
    "callbacks.EMA.ema_weights": lambda r, a: {"state_dict": r, "callbacks": {"EMA": {"ema_weights": list(parameters(a).values())}}},
    "pickled.shadow_params": lambda r, a: {"model": r, "pickled": Shadow(a)},
    "lit": lambda r, a: {"model": r, "lit": dotless(a) | {"decay": torch.tensor(0.99), "num_updates": torch.tensor(3)}},
}  # fmt: skip
PARTIAL |= {
    "optimizer.state.ax": lambda r, a: {
        "model": r,
        "optimizer": {"state": {i: {"step": 3, "ax": p} for i, p in enumerate(parameters(a).values())}},
    },
    "optimizer.swa_state.swa_buffer": lambda r, a: {
        "model": r,
        "optimizer": {"swa_state": {i: {"swa_buffer": p} for i, p in enumerate(parameters(a).values())}},
    },
    "optimizer.state.ema": lambda r, a: {
        "model": r,
        "optimizer": {"state": {n: {"exp_avg": p * 0, "ema": p} for n, p in parameters(a).items()}},
    },
}  # fmt: skip
"""files with averaged parameters alone, by their key"""


def kept(path, value):
    path.write_bytes(files.saved(value))
    return path


def same(read, network):
    return torch.equal(read.load()(X), network(X))


def told(read):
    return [warning for warning in read.warnings if "--weights" in warning]


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("key", FULL)
def test_a_second_set_of_weights_is_told_and_can_be_chosen(key, tmp_path):
    path = kept(tmp_path / "x.pt", FULL[key](raw().state_dict(), averaged().state_dict()))
    default = read_checkpoint(path, model=NAME)
    (warning,) = told(default)
    takes_averaged = same(default, averaged())
    assert takes_averaged or same(default, raw())
    assert warning.startswith(default.container.removesuffix(" (Lightning)"))
    assert key in warning
    read = read_checkpoint(path, model=NAME, weights=key)
    assert same(read, averaged())
    assert not told(read)
    assert any("too" in note for note in read.notes)
    assert (read.identity == default.identity) == takes_averaged
    # what a record says for the command that asks the same again
    assert from_checkpoint(read).header["weights_key"] == key
    assert "weights_key" not in from_checkpoint(default).header


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("key", PARTIAL)
def test_averaged_parameters_alone_are_told_and_completed_by_the_raw_weights(key, tmp_path):
    path = kept(tmp_path / "x.pt", PARTIAL[key](raw().state_dict(), averaged()))
    default = read_checkpoint(path)
    assert len(told(default)) == 1
    assert key in told(default)[0]
    for model in (NAME, None):
        read = read_checkpoint(path, model=model, weights=key)
        assert same(read, short_of_buffers())
        assert any("running statistics" in note for note in read.notes)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("name", ["ema_model", "swa_model", "net_ema", "model_averaged"])
def test_averaged_weights_come_before_the_raw_ones_in_whatever_order_they_stand(name, tmp_path):
    a = swa() if name == "swa_model" else averaged().state_dict()
    for number, value in enumerate(
        ({"model": raw().state_dict(), name: a}, {name: a, "model": raw().state_dict()})
    ):
        assert same(read_checkpoint(kept(tmp_path / f"{number}.pt", value)), averaged())


def test_an_average_that_was_never_updated_is_not_taken_for_one(tmp_path):
    value = {"model": raw().state_dict(), "swa_model": swa(updates=0)}
    read = read_checkpoint(kept(tmp_path / "x.pt", value))
    assert same(read, raw())
    assert "swa_model" in told(read)[0]


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize(("front", "ema"), [("model.", "ema_model."), ("net.", "net_ema.module.")])
def test_two_networks_in_one_dictionary_are_told_apart_by_their_prefixes(
    front, ema, form, tmp_path
):
    state = under(front, raw().state_dict()) | under(ema, averaged().state_dict())
    path = tmp_path / f"x.{form}"
    if form == "pt":
        kept(path, {"state_dict": state} if front == "net." else state)
    else:
        save_file(state, path)
    with pytest.raises(CheckpointError, match="--weights"):
        read_checkpoint(path, model=NAME)
    key = ema.partition(".")[0]
    assert same(read_checkpoint(path, model=NAME, weights=key), averaged())
    read = read_checkpoint(path, model=NAME, weights=front[:-1])
    assert same(read, raw())
    assert any(key in note for note in read.notes)


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize(
    "other",
    [
        lambda: raw().state_dict(),  # the same numbers
        lambda: under("module.", raw().state_dict()),
        lambda: files.network("lenet5").state_dict(),
        lambda: list(files.network("lenet5").parameters()),
        lambda: [torch.zeros(3)] * len(list(raw().parameters())),
        lambda: torch.optim.Adam(raw().parameters()).state_dict(),
        lambda: {k: v for k, v in averaged().state_dict().items() if "fc2" not in k},
    ],
)
def test_what_does_not_fit_or_is_the_same_is_not_told(other, tmp_path):
    value = {"model": raw().state_dict(), "further": other()}
    read = read_checkpoint(kept(tmp_path / "x.pt", value))
    assert same(read, raw())
    assert not told(read)


def test_an_optimisers_moments_are_no_weights(tmp_path):
    moments = [torch.zeros_like(p) for p in raw().parameters()]
    named = dict(zip(raw().state_dict(), moments, strict=False))
    for one in ({"exp_avg": moments}, {"exp_avg": named}, {"state": {"momentum": moments}}):
        value = {"model": raw().state_dict(), "optimizer": one}
        assert not told(read_checkpoint(kept(tmp_path / "x.pt", value)))


@pytest.mark.parametrize("key", ["nothing", "", "ema.nothing", "x" * 5000, "\x1b[31m"])
def test_a_key_that_names_no_set_is_refused_with_those_that_there_are(key, tmp_path):
    value = {"model": raw().state_dict(), "ema": {"module": averaged().state_dict()}}
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(kept(tmp_path / "x.pt", value), weights=key)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500 + len(str(tmp_path))


def test_a_key_that_names_several_sets_is_refused(tmp_path):
    value = {
        "a": {"model": raw().state_dict()},
        "b": {"model": averaged().state_dict()},
    }
    with pytest.raises(CheckpointError, match=r"several .* a\.model, b\.model"):
        read_checkpoint(kept(tmp_path / "x.pt", value), weights="model")
    assert same(read_checkpoint(tmp_path / "x.pt", weights="b.model"), averaged())


def test_names_that_tell_nothing_are_no_obstacle_where_one_is_chosen(tmp_path):
    value = {"teacher": averaged().state_dict(), "student": raw().state_dict()}
    path = kept(tmp_path / "x.pt", value)
    with pytest.raises(CheckpointError, match="--weights"):
        read_checkpoint(path)
    assert same(read_checkpoint(path, weights="student"), raw())


def test_a_sidecar_keeps_the_choice(tmp_path):
    value = {"model": raw().state_dict(), "other": averaged().state_dict()}
    path = kept(tmp_path / "x.pt", value)
    write_sidecar(read_checkpoint(path, weights="other"))
    read = read_checkpoint(path)
    assert same(read, averaged())
    assert not told(read)
    assert same(read_checkpoint(path, weights="model"), raw())


@pytest.mark.thorough
def test_sets_without_end_are_looked_at_for_a_bounded_time(tmp_path):
    node = {"w": torch.zeros(2)}
    for _ in range(40):
        node = {"a": node, "b": [node, node]}
    value = {"model": raw().state_dict(), "deep": node, "many": [{"x": i} for i in range(30_000)]}
    assert same(read_checkpoint(kept(tmp_path / "x.pt", value)), raw())
