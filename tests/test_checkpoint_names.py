"""Names that are left over, missing or wrapped: told with what would do, done when asked for."""

import pytest
import torch
from helpers import checkpoint_files as files

from robustkit import checkpoint
from robustkit.checkpoint import read_checkpoint, write_sidecar
from robustkit.errors import CheckpointError

STATE = files.network().state_dict()
WHOLE = dict(STATE)


def under(prefix, state=WHOLE):
    return {prefix + key: value for key, value in state.items()}


def headed(body, head):
    """With the last layer apart from the rest, as classes of two parts have it."""
    return {
        key.replace("fc3.", head) if key.startswith("fc3.") else body + key: value
        for key, value in WHOLE.items()
    }


ODD = torch.zeros(3)
MISFITS = {
    "a Lightning module's loss": (
        {**under("model."), "loss.weight": ODD}, {"ignore": "loss.*"}
    ),
    "a criterion": ({**WHOLE, "criterion.centers": ODD}, {"ignore": "criterion.*"}),
    "metrics": (
        {**under("net."), "train_acc.correct": ODD, "val_f1.metrics.tp": ODD},
        {"ignore": "train_acc.*,val_f1.*"},
    ),
    "a teacher": ({**under("student."), **under("teacher.")}, {"ignore": "teacher.*"}),
    "an average": ({**WHOLE, **under("ema_model.")}, {"ignore": "ema_model.*"}),
    "body and head": (headed("backbone.", "head."), {"rename": "backbone.=,head.=fc3."}),
    "body and head in a wrapper, and a loss": (
        {**under("model.", headed("encoder.", "classifier.")), "model.loss.w": ODD},
        {"rename": "model.encoder.=,model.classifier.=fc3.", "ignore": "model.loss.*"},
    ),
    "another head": ({**WHOLE, "projector.0.weight": ODD}, {"ignore": "projector.*"}),
}  # fmt: skip


def saved(path, state):
    torch.save(state, path)
    return path


def same_network(read, expected=WHOLE):
    x, network = torch.rand(2, 1, 28, 28), files.network()
    network.load_state_dict(expected)
    return torch.equal(read.load()(x), network.eval()(x))


def refusal(path, **options):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    line = str(caught.value)
    assert line.startswith(str(path))
    return line


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_names_the_options_that_do(name, tmp_path):
    state, options = MISFITS[name]
    path = saved(tmp_path / "x.pt", state)
    line = refusal(path, model="lenet5")
    for option, value in options.items():
        assert f"--{option} '{value}'" in line
    read = read_checkpoint(path, model="lenet5", **options)
    assert same_network(read)
    assert any("as asked" in note for note in read.notes)
    whole = read_checkpoint(saved(tmp_path / "y.pt", WHOLE), model="lenet5")
    assert read.weights == whole.weights
    assert read.identity == whole.identity


@pytest.mark.parametrize(
    "state",
    [
        {**WHOLE, "fc1.extra": ODD},  # more of a part that the network has
        {k: v for k, v in WHOLE.items() if k != "fc1.bias"},
        {**WHOLE, "fc1.weight": ODD, "x.weight": ODD},  # would not fit all the same
        {**under("a."), **{k: v + 1 for k, v in under("b.").items()}},  # either would do
    ],
)
def test_nothing_is_proposed_that_would_not_do_or_would_have_to_be_chosen(state, tmp_path):
    line = refusal(saved(tmp_path / "x.pt", state), model="lenet5")
    assert "--ignore" not in line
    assert "--rename" not in line


def test_of_two_networks_both_are_named(tmp_path):
    state = {**under("a."), **{k: v + 1 for k, v in under("b.").items()}}
    assert "--weights a and b fit" in refusal(saved(tmp_path / "x.pt", state), model="lenet5")


def test_an_unknown_architecture_is_told_what_would_make_it_known(tmp_path):
    read = read_checkpoint(saved(tmp_path / "x.pt", {**under("model."), "loss.weight": ODD}))
    assert read.model is None
    assert "as lenet5: --ignore 'loss.*'" in dict(checkpoint.describe(read))["hint"]
    with pytest.raises(CheckpointError, match=r"as lenet5: --ignore 'loss\.\*'"):
        read.load()


def test_what_was_asked_for_stands_on_record_and_in_the_sidecar(tmp_path):
    state, options = MISFITS["body and head in a wrapper, and a loss"]
    path = saved(tmp_path / "x.pt", state)
    read = read_checkpoint(path, model="lenet5", **options)
    assert read.ignore == ("model.loss.*",)
    assert read.rename == ("model.encoder.=", "model.classifier.=fc3.")
    rows = checkpoint.describe(read)
    assert ("left out", "model.loss.*") in rows
    assert any("model.loss.w" in text for label, text in rows if label == "note")
    write_sidecar(read)
    assert read_checkpoint(path).identity == read.identity


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ignore": "lost.*"}, "--ignore 'lost.*': no such name"),
        ({"rename": "bone.="}, "--rename 'bone.=': no such name"),
        ({"rename": "backbone."}, "expected OLD=NEW"),
        ({"rename": "a=b=c"}, "expected OLD=NEW"),
        ({"ignore": ""}, "none empty"),
        ({"ignore": "*"}, "no weights are left"),
        ({"rename": "conv1.=x.,conv2.=x."}, "two weights would have the name"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, said, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(saved(tmp_path / "x.pt", WHOLE), **options)
    assert said in str(caught.value)


def test_python_takes_lists_and_dictionaries(tmp_path):
    state, _ = MISFITS["body and head"]
    path = saved(tmp_path / "x.pt", {**state, "loss.weight": ODD})
    read = read_checkpoint(path, ignore=["loss.*"], rename={"backbone.": "", "head.": "fc3."})
    assert same_network(read)


WRAPPED = {
    "fsdp": ("conv1.", "conv1._fsdp_wrapped_module."),
    "checkpointed in fsdp": ("fc1.", "fc1._fsdp_wrapped_module._checkpoint_wrapped_module."),
    "compiled": ("fc2.", "fc2._orig_mod."),
    "data parallel": ("conv2.", "conv2.module."),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("front", ["", "model."])
def test_what_wrappers_put_inside_names_is_taken_off(name, front, tmp_path):
    old, new = WRAPPED[name]
    state = {front + key.replace(old, new): value for key, value in WHOLE.items()}
    assert same_network(read_checkpoint(saved(tmp_path / "x.pt", state)))


def test_names_that_would_collide_without_the_wrappers_are_refused(tmp_path):
    state = {**WHOLE, "conv1._orig_mod.weight": WHOLE["conv1.weight"] + 1}
    assert "two weights have the name 'conv1.weight'" in refusal(saved(tmp_path / "x.pt", state))


def test_weights_that_are_left_out_need_not_be_numbers(tmp_path):
    path = saved(tmp_path / "x.pt", {**WHOLE, "loss.weight": ODD / 0})
    assert "NaN" in refusal(path)
    assert same_network(read_checkpoint(path, ignore="loss.*"))


@pytest.mark.parametrize("command", ["evaluate", "audit", "certify --epsilon=0.1", "describe"])
def test_every_command_that_reads_a_checkpoint_takes_both_options(command, robustkit, tmp_path):
    path = saved(tmp_path / "x.pt", MISFITS["body and head"][0])
    for option, value in (("--ignore", "lost.*"), ("--rename", "lost.=")):
        status, _, said = robustkit(*command.split(), path, option, value)
        assert status == 2
        assert f"{option} '{value}': no such name" in said
