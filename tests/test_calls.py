"""What the command line can, Python can, with the same words."""

import inspect
import json
import linecache
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_group

import robustkit
from robustkit import models
from robustkit.attacks import APGD, DDN, FGSM, PGD
from robustkit.calls.given import ImageKeywords
from robustkit.calls.planning import plan_evaluation
from robustkit.calls.sources import Code, code_of
from robustkit.cli.commands import app
from robustkit.display import meter, progress
from robustkit.errors import DataError, InputError, RecordError, RobustkitError, UnknownName
from robustkit.evaluation import images_for, tree
from robustkit.evaluation.model import from_checkpoint
from robustkit.files import shipped
from robustkit.protocol import parse_epsilon
from robustkit.results.records import computed_by, identity_of
from robustkit.summary import summarise

READING = {
    "model", "num_classes", "mean", "std", "trust_program", "weights", "ignore", "rename",
}  # fmt: skip
"""of a file: `read_checkpoint` has them, and what it returns is what every call takes"""
SHOWN = {"json", "interval", "workers", "help", "debug", "dry_run", "figure", "verbose"}
"""what a terminal needs; a result has methods instead, and a loop is Python's own"""
OTHERWISE = {
    "set": "settings",
    "recipe_set": "recipe_settings",
    "no_memory": "memory",
    "names": "methods",
    "checkpoint": "model",
    "checkpoints": "model",
}
CALLS = (
    "evaluate", "audit", "certify", "train", "report", "compare", "power", "rank", "describe",
    "leaderboard", "list", "verify",
)  # fmt: skip


def without_a_keyword(name):
    """Options of a command that its call has not."""
    command = get_group(app).commands[name]
    call = getattr(robustkit, name)
    keywords = set(inspect.signature(call).parameters)
    if "images" in keywords and name != "power":
        keywords |= set(ImageKeywords.__annotations__)
    options = {one.name.strip("_") for one in command.params}
    if name in ("evaluate", "audit", "certify"):
        options -= READING
    return {o for o in options if o not in keywords and OTHERWISE.get(o) not in keywords}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_a_keyword_for_every_option(name):
    assert without_a_keyword(name) - SHOWN == set()


def test_the_guide_names_the_options_that_have_no_keyword():
    page = (Path(__file__).parent.parent / "docs/pages/guides/python.md").read_text()
    (told,) = re.findall(r"Options of a terminal have none: ([^;]+);", page)
    missing = set().union(*map(without_a_keyword, CALLS))
    assert set(re.findall(r"`--([\w-]+)`", told)) == {one.replace("_", "-") for one in missing}


def test_a_call_writes_the_page_that_the_command_writes(tmp_path, request):
    command = request.getfixturevalue("robustkit")  # not the package of that name
    asked = {"attack": "fgsm", "epsilon": "0.1", "limit": 9, "device": "cpu", "out": tmp_path / "r"}
    robustkit.evaluate("lenet5-mnist5k", html=tmp_path / "own.html", **asked)
    options = [part for key, value in asked.items() for part in (f"--{key}", str(value))]
    assert command("evaluate", "lenet5-mnist5k", *options, "--html", "page.html")[0] == 0
    assert (tmp_path / "own.html").read_bytes() == (tmp_path / "page.html").read_bytes()


@pytest.mark.parametrize("name", [n for n in dir(robustkit) if not n.startswith("__")])
def test_every_public_name_says_in_a_line_what_it_is(name):
    line = inspect.getdoc(getattr(robustkit, name)).splitlines()[0]
    assert line.endswith((".", ":")), line
    assert len(line) < 100


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.random((12, 1, 6, 6), np.float32), rng.integers(0, 3, 12)


class Net(torch.nn.Module):
    """A linear network, right where a pixel says so."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(36, 3, bias=False)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.nn.init.normal_(self.layer.weight, std=0.3)

    def forward(self, x):
        return self.layer(x.flatten(1))


def labelled(images):
    with torch.no_grad():
        return Net()(torch.from_numpy(images)).argmax(1).numpy()


def evaluated(arrays, attack, **more):
    images, _ = arrays
    asked = {"epsilon": ["1/50"], "device": "cpu"} | more
    return robustkit.evaluate(Net(), (images, labelled(images)), attack, **asked)


@pytest.mark.thorough
def test_attacks_in_any_form_are_the_question_of_their_protocol(arrays):
    pgd = PGD(steps=3)
    whole = robustkit.Protocol([FGSM(), pgd], norm="linf", epsilons=[1 / 50])
    forms = [
        evaluated(arrays, whole, epsilon=()),
        evaluated(arrays, [FGSM(), pgd]),
        evaluated(arrays, [FGSM(), PGD()], settings=["pgd.steps=3", "pgd.relative_step=5/6"]),
    ]
    assert len({found.digest for found in forms}) == 1
    assert evaluated(arrays, pgd).digest != forms[0].digest
    assert evaluated(arrays, DDN(steps=2), epsilon=[0.1]).header["protocol"]["norm"] == "l2"


def seeds_of(call, monkeypatch, arrays, own, /, **given):
    """What the attack of a call draws by."""
    protocol = robustkit.Protocol(PGD(steps=1), epsilons=["1/50"], seed=own)
    if call == "attack":
        return robustkit.attack(Net(), protocol, **given).protocol.seed
    if call == "evaluate":
        found = evaluated(arrays, protocol, epsilon=(), **given)
        return found.header["protocol"]["resolved"]["seed"]
    asked = []

    def stopped(own, dataset, protocol, *_):
        asked.append(protocol.seed)
        raise InputError("enough")

    monkeypatch.setattr("robustkit.evaluation.planning.plan", stopped)
    monkeypatch.setattr("robustkit.calls.certify.certify_images", stopped)
    asks = {"plan": plan_evaluation, "certify": robustkit.certify}[call]
    with pytest.raises(InputError, match="enough"):
        asks(Net(), arrays, attack=protocol, epsilon="1/50", **given)
    return asked[0]


@pytest.mark.parametrize("call", ["attack", "evaluate", "certify", "plan"])
def test_a_protocols_seed_is_that_of_its_draws_unless_another_is_given(call, arrays, monkeypatch):
    seeds = partial(seeds_of, call, monkeypatch, arrays)
    assert [seeds(0), seeds(5), seeds(5, seed=3), seeds(5, seed=0)] == [0, 5, 3, 0]


def test_two_seeds_of_a_protocol_are_two_questions(arrays):
    one, other, again = (
        evaluated(arrays, robustkit.Protocol(PGD(steps=1), seed=seed), **given)
        for seed, given in ((1, {}), (2, {}), (1, {"seed": 2}))
    )
    assert one.digest != other.digest == again.digest


def test_the_adversarial_images_come_back_as_the_rows_tell(arrays):
    images, _ = arrays
    found, adversarial = evaluated(arrays, PGD(steps=5), epsilon=["1/8"], return_adversarial=True)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == np.float32
    rows = found.rows
    apart = np.abs(adversarial.astype(np.float64) - images).max((1, 2, 3))
    fooled = rows.distance.notna().to_numpy()
    assert 0 < fooled.sum() < len(rows)
    assert np.allclose(apart[fooled], rows.distance[fooled])
    assert (apart[~fooled] == 0).all()
    with torch.no_grad():
        predicted = Net()(torch.from_numpy(adversarial)).argmax(1).numpy()
    assert ((predicted != rows.label) == fooled).all()


def test_a_surrogate_may_be_in_memory(arrays):
    found = evaluated(arrays, PGD(steps=3), surrogate=Net(), epsilon=["1/8"])
    assert "transfer attack" in found.header["warnings"][0]


def test_what_takes_a_name_takes_a_path(arrays, tmp_path):
    for number, label in enumerate(("cat", "dog", "eft")):
        (tmp_path / "own" / label).mkdir(parents=True)
        pixels = (arrays[0][number, 0] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "own" / label / "0.png")
    (tmp_path / "names.txt").write_text("eft\ncat\ndog\n")
    own, names = tmp_path / "own", tmp_path / "names.txt"
    mapped = robustkit.load_dataset(own, classes=names).source["class_map"]["numbers"]
    assert mapped == {"cat": 1, "dog": 2, "eft": 0}
    network = tmp_path / "lenet.safetensors"
    network.write_bytes((shipped("data") / "lenet5-mnist5k.safetensors").read_bytes())
    made = {"classes": "0,1,2", "resize": 28, "data_root": tmp_path}
    checkpoint = robustkit.read_checkpoint(network)
    options = {"resize": 28, "root": tmp_path, "classes": "0,1,2"}
    assert len(images_for(checkpoint, own, **options)) == 3
    asked = {"epsilon": ["1/50"], "device": "cpu", "out": tmp_path / "runs"} | made
    saved = {"save_adversarial": tmp_path / "x.npz"}
    found = robustkit.evaluate(network, own, FGSM(), **asked, **saved)
    assert len(robustkit.frame(tmp_path / "runs")) == 3
    assert robustkit.read_record(found.path).digest == found.digest
    assert robustkit.describe(network, sidecar_path=tmp_path / "lenet.toml")
    with pytest.raises(InputError, match="are the same network"):
        robustkit.compare(found.path, found.path, data=Path("own"), runs=tmp_path)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: robustkit.evaluate(3, "mnist5k"), "3: no network"),
        (lambda: robustkit.evaluate("lenet5-mnist5k", [1]), "expected an image and its label"),
        (lambda: robustkit.evaluate(Net(), None), "name a data set"),
        (
            lambda: robustkit.evaluate(Net(), (np.zeros((2, 1, 6, 6)), [0, 1]), resize=3),
            "resize goes with a data set's name",
        ),
        (lambda: robustkit.audit("lenet5-mnist5k", claim="linf", device="cpu"), "claim 'linf'"),
        (lambda: robustkit.audit("lenet5-mnist5k", junit="a.xml"), "--junit reports the rules"),
        (lambda: robustkit.train("lenet5", "mnist5k", "trade"), "did you mean 'trades'?"),
        (lambda: robustkit.train("lenet5", "mnist5k", hold_out=1.0), "a share must be below 1"),
        (lambda: robustkit.compare("a.parquet"), "a.parquet"),
        (lambda: robustkit.compare(3), "no evaluation"),
        (lambda: robustkit.power(delta=1, seed_sd=1), "give all three"),
        (lambda: robustkit.rank(), "name evaluated networks"),
        (lambda: robustkit.describe("none.pt"), "none.pt"),
        (lambda: robustkit.describe("lenet5-mnist5k", data="a"), "--data goes with --labels"),
        (lambda: robustkit.describe("lenet5-mnist5k", split="test"), "--split goes with --labels"),
        (lambda: robustkit.describe("lenet5-mnist5k", crop=28), "--crop goes with --labels"),
        (lambda: robustkit.report("none.toml"), "none.toml: no such file"),
        (lambda: robustkit.read_record("none.parquet"), "none.parquet"),
    ],
)
def test_what_a_call_refuses_is_said_in_one_line(call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RobustkitError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_keyword_that_there_is_not_is_an_error_of_pythons_with_a_hint(arrays):
    with pytest.raises(TypeError, match=r"evaluate\(\) got .* 'epsilons'; did you mean 'epsilon'"):
        robustkit.evaluate(Net(), arrays, FGSM(), epsilons=0.1)


def test_arrays_are_spoken_of_by_their_kind(arrays):
    found = evaluated(arrays, FGSM(), epsilon=np.array([0.1, 0.2]))
    assert [point.epsilon.text for point in found.robust()] == ["0.1", "0.2"]


def test_delta_is_in_points_as_on_the_command_line():
    found = robustkit.power(delta=1, seed_sd=0.8, discordant=6, images=10_000)
    assert found.comparisons[0].power.delta == 0.01
    with pytest.raises(InputError, match="--delta 120: expected points"):
        robustkit.power(delta=120, seed_sd=0.8, discordant=6, images=10_000)


def test_levels_are_given_as_budgets_of_an_evaluation_are():
    from helpers.evaluations import evaluation

    one, other = (evaluation(f"{n}.pt", seed=n, epsilons=("1/4", "0.5")) for n in range(2))
    (first, *_) = one.robust()
    for level in (first.epsilon, np.float32(0.25), 0.25, "1/4", torch.tensor(0.25), Fraction(1, 4)):
        for at in (level, [level]):
            (found,) = robustkit.compare(one, other, at=at).levels
            assert Fraction(found) == Fraction(1, 4)
    assert robustkit.compare(one, other, at=["clean", first.epsilon]).levels == ("clean", "1/4")
    with pytest.raises(InputError, match="at: None is no budget"):
        robustkit.compare(one, other, at=None)
    sides = [[evaluation(f"{n}{s}.pt", seed=s, epsilons=("0.25",)) for s in range(2)] for n in "ab"]
    assert robustkit.power(*sides, delta=1, at=first.epsilon).comparisons[0].level == "1/4"
    for at in (first.epsilon, {"mnist": first.epsilon}):
        with pytest.raises(InputError, match="no such file"):  # the level was understood
            robustkit.rank("none.pt", at=at)


class Rounded(torch.nn.Module):
    """A network on pixels of few values: nothing of it but a number that is no weight."""

    def __init__(self, levels):
        super().__init__()
        self.net, self.levels = Net(), levels

    def forward(self, x):
        return self.net((x * self.levels).round() / self.levels)


def test_modules_of_equal_weights_that_compute_something_else_are_two_networks(arrays, monkeypatch):
    def found(levels, attack="clean"):
        images, _ = arrays
        return robustkit.evaluate(Rounded(levels), (images, labelled(images)), attack, device="cpu")

    coarse, fine = found(1), found(255)
    one, other = coarse.header["checkpoint"], fine.header["checkpoint"]
    assert one["weights"] == other["weights"]
    compared = robustkit.compare(coarse, fine)
    assert [side.name for side in compared.sides] == ["<Rounded> (1)", "<Rounded> (2)"]
    assert len(robustkit.leaderboard(coarse, fine).boards[0].rows) == 2
    with pytest.raises(InputError, match="are the same network"):
        robustkit.compare(coarse, found(1))
    # with another version of a library it is asked anew, and the same network
    monkeypatch.setattr(tree, "_versions", lambda: {"torch": "9.9"})
    later = found(1)
    assert later.digest != coarse.digest
    assert later.header["checkpoint"]["network"] == one["network"]


def test_code_of_the_users_own_and_a_graph_tell_networks_of_equal_weights_apart(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    made = (
        "import torch\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), LAST)\n"
    )
    build = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3))
    torch.save(build.state_dict(), "net.pt")
    told = []
    for last in ("torch.nn.Linear(36, 3)", "torch.nn.Linear(36, 3), torch.nn.Softmin(1)"):
        Path("net.py").write_text(made.replace("LAST", last))
        checkpoint = robustkit.read_checkpoint("net.pt", model="net.py:build")
        told.append(from_checkpoint(checkpoint).header)
    assert told[0]["weights"] == told[1]["weights"]
    assert len({identity_of(header) for header in told}) == 2
    assert computed_by({"graph": "g", "pins": {"onnx2torch": "1"}}, None) == "g"
    # robustkit's own code and a library's are others with each version
    assert computed_by({"model": "lenet5", "code": "c"}, "lenet5") is None
    assert computed_by({"model": "timm:vit", "code": "1.0"}, "timm:vit") is None


def test_what_the_shelves_hold_and_whether_files_are_intact_can_be_asked(tmp_path):
    assert "pgd" in robustkit.list("attacks")
    assert "autoattack" in repr(robustkit.list("attacks"))
    with pytest.raises(UnknownName, match="did you mean 'models'"):
        robustkit.list("model")
    sealed = tmp_path / "robustkit.json"
    with pytest.raises(RobustkitError, match="not a file that robustkit wrote"):
        robustkit.verify(tmp_path)
    sealed.write_text("{}")
    found = robustkit.verify(tmp_path, str(sealed))
    assert not found.intact
    assert [one.path for one in found.damaged] == [sealed, sealed]
    assert repr(found).startswith("Check of 2 files: 2 damaged")
    assert list(found.to_frame().state) == ["damaged", "damaged"]


# --- an audit and a training, small ---------------------------------------------------------------

PLAN = """
title           = "tiny"
images          = 12
delta           = 0.05
indicators      = 2
certified       = 2
multiplications = 1e6
corrupted       = 1

[[stage]]
attack   = "fgsm"
required = true
budgets  = "all"
"""


@pytest.mark.thorough
def test_a_module_is_audited_and_the_report_says_by_what_call(arrays, tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(PLAN)
    images, _ = arrays
    found = robustkit.audit(
        Net(),
        (images, labelled(images)),
        claim="linf:1/50=0.5",
        budget=str(tmp_path / "tiny.toml"),
        device="cpu",
        out=tmp_path / "out",
    )
    assert found.verdict.word in ("believable", "overstated", "not established")
    assert found.command.startswith("robustkit.audit(<Net>, <tuple>, claim='linf:1/50=0.5'")
    assert (tmp_path / "out/audit.html").exists()
    assert not (tmp_path / "out/work").exists(), "of a module without a name nothing is kept"
    again = {"budget": str(tmp_path / "tiny.toml"), "device": "cpu", "out": tmp_path / "out"}
    robustkit.audit(Net(), (images, labelled(images)), claim="linf:1/50=0.4", **again)
    other = Net()
    with torch.no_grad():
        other.layer.weight += 0.01
    with pytest.raises(RecordError, match="holds the audit of another network called <Net>; give"):
        robustkit.audit(other, (images, labelled(images)), claim="linf:1/50=0.5", **again)
    assert capsys.readouterr().err == "", "off a terminal a call is quiet"


@pytest.mark.thorough
def test_a_claim_made_elsewhere_is_noted_and_one_by_transfer_refused(arrays, tmp_path):
    (tmp_path / "tiny.toml").write_text(PLAN)
    images, _ = arrays
    own = (images, labelled(images))
    asked = {"budget": tmp_path / "tiny.toml", "device": "cpu", "out": tmp_path / "out"}
    transfer = evaluated(arrays, PGD(steps=3), surrogate=Net())
    with pytest.raises(InputError, match="a transfer attack, crafted on <Net>"):
        robustkit.audit(Net(), own, claim_from=transfer, **asked)
    claimed = evaluated(arrays, FGSM())
    found = robustkit.audit(Net(), own, claim_from=claimed, **asked)
    assert not [text for text in found.warnings if "the claim in" in text]
    other = Net()
    with torch.no_grad():
        other.layer.weight += 0.01
    (tmp_path / "net.json").write_text(json.dumps([summarise(claimed)]))
    others = (1 - images, own[1])
    asked["out"] = tmp_path / "other"
    found = robustkit.audit(other, others, claim_from=tmp_path / "net.json", **asked)
    weights, pictures = (text for text in found.warnings if "the claim in" in text)
    assert weights.endswith("net.json is of other weights than audited: <Net>")
    assert "is of other images than audited: " in pictures
    assert "of other weights" in (tmp_path / "other" / "audit.html").read_text()


@pytest.mark.thorough
def test_a_training_shows_itself(tmp_path, capsys):
    data = robustkit.load_dataset("mnist5k", split="train", limit=60)
    trained = robustkit.train(
        "lenet5", data, epochs=2, batch_size=20, hold_out=0.2, label_noise=0.2,
        device="cpu", out=tmp_path / "net.safetensors",
    )  # fmt: skip
    assert trained.path.exists()
    lines = repr(trained).splitlines()
    assert 3 < len(lines) < 10
    assert "lenet5 with cross-entropy" in lines[0]
    assert len(trained.to_frame()) == 2
    assert trained.plot().lines
    assert capsys.readouterr().err == ""
    found = robustkit.evaluate(trained, "mnist5k", FGSM(), limit=3, device="cpu", out=tmp_path)
    assert found.header["checkpoint"]["path"] == str(trained.path)
    assert robustkit.describe(trained.path).checkpoint.model == "lenet5"


@pytest.mark.one_of_many
@pytest.mark.parametrize(("split", "limit", "told"), [("test", 30, 1), ("train", 30, 0)])
def test_images_that_a_network_was_trained_on_are_warned_of(split, limit, told, tmp_path):
    """`load_dataset` gives test images unless it is asked for others."""
    images = robustkit.load_dataset("mnist5k", split=split)
    made = robustkit.train("lenet5", images, steps=2, out=tmp_path / "a.safetensors")
    for asked in ({"limit": limit}, {}):
        found = robustkit.evaluate(made, "mnist5k", attack="clean", out=tmp_path, **asked)
        warnings = [w for w in found.header["warnings"] if "says that it was trained on" in w]
        assert len(warnings) == told


def class_folders(place, count=20):
    """Grey pictures of two classes, one lighter than the other."""
    random = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (place / name).mkdir(parents=True)
        for row in range(count):
            pixels = random.integers(0, 120, (28, 28)) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(place / name / f"{row}.png")
    return place


@pytest.mark.parametrize("read_before", [False, True])
def test_a_subset_of_a_modules_classes_is_told_by_their_numbers(tmp_path, read_before):
    """The module alone says how many it has."""
    folder = class_folders(tmp_path / "photos", 4)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10))
    with pytest.raises(DataError, match=r"10 classes, but .* has 2; .* say which with --classes"):
        robustkit.evaluate(module, folder, attack="clean")
    images = robustkit.load_dataset(folder, classes="3,7", split="all") if read_before else folder
    options = {} if read_before else {"classes": "3,7", "split": "all"}
    found = robustkit.evaluate(module, images, attack="clean", **options)
    assert set(found.table["label"].to_pylist()) == {3, 7}
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 7))
    with pytest.raises(DataError, match="7 classes, but the data set photos has 8"):
        robustkit.evaluate(small, images, attack="clean", **options)
    held = robustkit.load_dataset(folder, split="all")
    with pytest.raises(InputError, match=r"classes goes with .*give classes to load_dataset"):
        robustkit.evaluate(module, held, attack="clean", classes="3,7")


def test_images_without_splits_that_a_network_was_trained_on_are_warned_of(tmp_path, monkeypatch):
    """Some of them, by whichever path; but not those of another folder of that name."""
    folder = class_folders(tmp_path / "photos")
    other = class_folders(tmp_path / "other" / "photos", 15)
    out = tmp_path / "a.safetensors"
    made = robustkit.train("lenet5", folder, split="all", steps=2, out=out)
    monkeypatch.chdir(tmp_path)
    asked = [(folder, 30, 1), ("photos", 10, 1), (folder, None, 1), (other, 20, 0), (None, 30, 1)]
    for data, limit, told in asked:
        found = robustkit.evaluate(made, data, attack="clean", limit=limit, out=tmp_path)
        warnings = [w for w in found.header["warnings"] if "says that it was trained on" in w]
        assert len(warnings) == told, (data, limit)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep": "bset"}, "unknown value of --keep 'bset'; did you mean 'best'?"),
        ({"recipe": "papr"}, "unknown value of --recipe 'papr'; did you mean 'paper'?"),
        ({"precision": "bf61"}, "unknown value of --precision 'bf61'; did you mean 'bf16'?"),
        ({"optimizer": "sdg"}, "unknown value of --optimizer 'sdg'; did you mean 'sgd'?"),
        ({"schedule": "cosin"}, "unknown value of --schedule 'cosin'; did you mean 'cosine'?"),
        ({"batch_size": 1.5}, "--batch-size must be a whole number, got 1.5"),
        ({"learning_rate": "a"}, "--learning-rate must be a number, got 'a'"),
        ({"clip": "a"}, "--clip must be a number, got 'a'"),
        ({"momentum": True}, "--momentum must be a number, got True"),
        ({"seed": 1.5}, "--seed must be a whole number, got 1.5"),
        ({"deterministic": "no"}, "--deterministic must be True or False, got 'no'"),
    ],
)
def test_a_misspelt_word_trains_nothing(given, said, tmp_path):
    with pytest.raises(InputError) as error:
        robustkit.train("lenet5", "mnist5k", device="cpu", out=tmp_path / "a.safetensors", **given)
    assert str(error.value) == said
    assert list(tmp_path.iterdir()) == []


# --- a loss and an architecture in memory ---------------------------------------------------------

SCALE = 2.0


def halved(value):
    return value / SCALE


def own_loss(logits, labels, *, weight: float = 1.0):
    return weight * halved(torch.nn.functional.cross_entropy(logits, labels))


class OwnNet(torch.nn.Module):
    """Two layers, of which one has a size from outside."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(28 * 28, int(4 * SCALE))
        self.outer = torch.nn.Linear(int(4 * SCALE), 10)

    def forward(self, x):
        return self.outer(self.inner(x.flatten(1)).relu())


@pytest.mark.thorough
def test_what_trained_an_architecture_of_ones_own_hands_back_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = robustkit.load_dataset("mnist5k", split="train", limit=40)
    short = {"epochs": 1, "batch_size": 20, "hold_out": 0, "device": "cpu"}
    train = partial(robustkit.train, data=data, out="net.safetensors", **short)
    asked = {"attack": FGSM(), "epsilon": "0.1", "limit": 8, "device": "cpu"}
    digests = set()
    # made, found finished, and by the name of the file that was written
    for given in (OwnNet, OwnNet, "net.OwnNet.py:OwnNet"):
        trained = train(given)
        digests.add(robustkit.evaluate(trained, "mnist5k", **asked).digest)
    named = robustkit.read_checkpoint("net.safetensors", model="net.OwnNet.py:OwnNet")
    digests.add(robustkit.evaluate(named, "mnist5k", **asked).digest)
    assert len(digests) == 1
    record = robustkit.evaluate("lenet5-mnist5k", "mnist5k", surrogate=trained, **asked)
    assert record.header["surrogate"]["model"] == "net.OwnNet.py:OwnNet"
    network = robustkit.attack(trained, FGSM(), epsilon="0.1").model.network
    assert type(network).__name__ == "OwnNet"
    with pytest.raises(InputError) as error:
        robustkit.evaluate("net.safetensors", "mnist5k", **asked)
    assert str(error.value).endswith(
        "if you trust it, pass model='net.OwnNet.py:OwnNet'; give "
        "robustkit.read_checkpoint('net.safetensors', model=…) in the path's place"
    )


def write_program(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still in use
        torch.jit.script(Net()).save(path)


@pytest.mark.parametrize(
    ("write", "keywords"),
    [
        (write_program, {"trust_program"}),
        (lambda path: torch.save({"one": torch.ones(3)}, path), {"model"}),
        (lambda path: torch.save(OwnNet(), path), {"model"}),
        (
            lambda path: torch.save(
                {n: models.build(n).state_dict() for n in ("lenet5", "lenet5-prelu")}, path
            ),
            {"weights"},
        ),
    ],
)
@pytest.mark.parametrize("call", ["evaluate", "audit", "certify", "attack", "surrogate"])
def test_how_a_file_is_to_be_read_is_told_in_the_words_of_python(
    call, write, keywords, arrays, tmp_path
):
    write(tmp_path / "net.pt")
    images, path = robustkit.load_dataset("mnist5k", limit=2), tmp_path / "net.pt"
    asks = {
        "evaluate": lambda: robustkit.evaluate(path, images, epsilon="0.1"),
        "audit": lambda: robustkit.audit(path, images, epsilon="0.1", out=tmp_path / "out"),
        "certify": lambda: robustkit.certify(path, images, "0.1"),
        "attack": lambda: robustkit.attack(path, epsilon="0.1"),
        "surrogate": lambda: robustkit.evaluate("lenet5-mnist5k", images, surrogate=path),
    }
    with pytest.raises(InputError) as error:
        asks[call]()
    told = str(error.value)
    assert not re.search(r"--[a-z]", told), told
    (named,) = re.findall(rf"give robustkit\.read_checkpoint\('{path}', (.*)\) in the path's", told)
    assert {one.removesuffix("=…") for one in named.split(", ")} >= keywords


@pytest.mark.thorough
def test_a_loss_and_an_architecture_in_memory_go_on_record_with_all_they_use(tmp_path):
    data = robustkit.load_dataset("mnist5k", split="train", limit=40)
    out = tmp_path / "net.safetensors"
    short = {"epochs": 1, "batch_size": 20, "hold_out": 0, "device": "cpu"}
    first = robustkit.train(OwnNet, data, own_loss, settings={"weight": 3.0}, out=out, **short)
    written = tmp_path / "net.own_loss.py"
    assert first.record["loss"]["name"] == f"{written}:own_loss"
    assert first.record["loss"]["settings"] == {"weight": 3.0}
    assert "SCALE = 2.0" in written.read_text()
    assert "def halved" in written.read_text()
    # the files alone make the same network
    again = robustkit.train(
        f"{tmp_path}/net.OwnNet.py:OwnNet", data, f"{written}:own_loss",
        settings={"weight": 3.0}, out=tmp_path / "again.safetensors", **short,
    )  # fmt: skip
    assert again.record["history"][0]["loss"] == first.record["history"][0]["loss"]
    found = robustkit.read_checkpoint(out, model=f"{tmp_path}/net.OwnNet.py:OwnNet")
    assert robustkit.evaluate(found, "mnist5k", FGSM(), limit=2, device="cpu", out=tmp_path)


def closed(factor):
    def inner(logits, labels):
        return factor * torch.nn.functional.cross_entropy(logits, labels)

    return inner


TENSOR = torch.ones(3)


def with_a_tensor(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels) * TENSOR.sum()


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda logits, labels: logits.sum(), "no function with a source of its own"),
        (torch.nn.CrossEntropyLoss(), "no source of its own"),
        (closed(2), "no source of its own"),
        (with_a_tensor, "uses TENSOR, a Tensor in memory"),
    ],
)
def test_a_loss_that_cannot_be_written_down_is_refused_in_one_line(loss, said, tmp_path):
    with pytest.raises(InputError, match=said) as error:
        robustkit.train("lenet5", "mnist5k", loss, out=tmp_path / "net.safetensors")
    assert "FILE.py:FUNCTION" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["net.safetensors", "net.safetensors.partial/state.pt"])
def test_the_source_that_a_network_was_trained_by_is_not_replaced(tmp_path, left):
    path, out = tmp_path / "net.Net.py", tmp_path / "net.safetensors"
    first, other = (Code(f"{path}:Net", (path, text)) for text in (b"first", b"other"))
    first.keep(out, fresh=False)
    (tmp_path / "net.safetensors.partial").mkdir()
    other.keep(out, fresh=False)  # nothing was trained by it
    first.keep(out, fresh=False)
    (tmp_path / left).touch()
    with pytest.raises(InputError, match=r"net\.Net\.py: has another .*, or --fresh to"):
        other.keep(out, fresh=False)
    assert path.read_bytes() == b"first"
    first.keep(out, fresh=False)
    other.keep(out, fresh=True)
    assert path.read_bytes() == b"other"
    Code("lenet5", None).keep(out, fresh=False)


def test_a_class_of_a_notebooks_cell_has_its_source(tmp_path):
    text = "class Cell(torch.nn.Module):\n    def forward(self, x):\n        return F.relu(x)\n"
    names = {"torch": torch, "F": torch.nn.functional, "__name__": "__main__"}
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(True), "<cell>")
    exec(compile(text, "<cell>", "exec"), names)
    code = code_of(names["Cell"], tmp_path / "net.safetensors", "--model")
    assert code.file[1].decode().splitlines()[:2] == [
        "import torch",
        "import torch.nn.functional as F",
    ]


def cells(*texts):
    """The names of a notebook after these cells."""
    names = {"__name__": "__main__"}
    for number, text in enumerate(("import torch", *texts)):
        name = f"<cell {number} {id(names)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), names)
    return names


def written(found, tmp_path):
    names = {}
    exec(code_of(found, tmp_path / "net.safetensors", "--loss").file[1], names)
    return names[found.__name__]


def test_a_function_of_the_users_that_is_called_like_pythons_own_is_written_too(tmp_path):
    names = cells("def pow(x, p):\n    return x\n", "def loss(z, y):\n    return pow(z, 2)\n")
    assert written(names["loss"], tmp_path)(3, 0) == names["loss"](3, 0) == 3


def test_what_a_class_of_a_cell_is_decorated_with_is_written_too(tmp_path):
    names = cells(
        "def twice(cls):\n    cls.factor = 2\n    return cls\n",
        "@twice\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x):\n        return self.factor * x\n",
    )
    assert written(names["Net"], tmp_path)()(torch.ones(1)) == 2


NET = "class Net(torch.nn.Module):\n    scale = 1.0\n    def forward(self, x):\n        return x\n"
CHANGED = {
    "a method": (NET, "def forward(self, x):\n    return 2 * x\nNet.forward = forward\n"),
    "a method more": (NET, "Net.extra_repr = lambda self: ''\n"),
    "a constant of a class": (NET, "Net.scale = 2.0\n"),
    "a default": ("GAMMA = 2.0\n", "def Net(z, y, *, g=GAMMA):\n    return g\n", "GAMMA = 5.0\n"),
    "a function that it calls": (
        "def f(x):\n    return x\n",
        "def Net(z, y):\n    return f(z)\n",
        "g = lambda x: 2 * x\ng.__name__ = g.__qualname__ = 'f'\nf.__code__ = g.__code__\n",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_is_no_longer_what_its_source_says_is_refused(case, tmp_path):
    before = cells(*CHANGED[case][: -1 if case != "a default" else 2])["Net"]
    assert written(before, tmp_path)
    with pytest.raises(
        InputError, match=r"what its source says|has no source of its own"
    ) as caught:
        written(cells(*CHANGED[case])["Net"], tmp_path)
    assert "\n" not in str(caught.value)


# --- who watches ----------------------------------------------------------------------------------


class Kernel:
    """A notebook's side of a display."""

    def __init__(self):
        self.pictures = []

    def display(self, data, **how):
        self.pictures.append(data)
        return self

    def update(self, data, **how):
        self.pictures.append(data)


def test_in_a_notebook_a_bar_is_html_that_goes_away(monkeypatch, arrays):
    kernel = Kernel()
    monkeypatch.setattr(meter, "OFTEN", 0)
    for module in (meter, progress):
        monkeypatch.setattr(module, "notebook", lambda: kernel.display)
    evaluated(arrays, PGD(steps=3), batch_size=4, name=None)
    shown = [picture["text/html"] for picture in kernel.pictures]
    assert any("value=" in text and "Net" in text and "100\u00a0%" in text for text in shown)
    assert shown[-1] == ""


def test_names_in_a_notebooks_bar_are_shown_and_not_obeyed(monkeypatch):
    kernel = Kernel()
    bar = meter.NotebookMeter(None, kernel.display)
    bar.start()
    bar.begin("<script>\x1b", 3)
    assert "&lt;script&gt;\\x1b" in kernel.pictures[-1]["text/html"]


def test_a_function_is_told_how_far_it_is_and_true_and_false_are_obeyed(arrays, capsys):
    told = []
    evaluated(arrays, PGD(steps=3), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)
    evaluated(arrays, PGD(steps=3), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.thorough
def test_the_surface_needs_no_torch_before_a_network_does():
    code = (
        "import json, sys, robustkit; PGD = robustkit.attacks.PGD; robustkit.errors.InputError;"
        "names = [getattr(robustkit, n) for n in ('Protocol', 'describe', 'evaluate', 'compare')];"
        "robustkit.Protocol([PGD(steps=40)]); repr(robustkit.describe('lenet5-mnist5k'));"
        "slow = ('torch', 'matplotlib', 'seaborn', 'IPython');"
        "print(json.dumps([m for m in slow if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stdout) == [], done.stderr


def test_every_kind_of_attack_is_a_public_name():
    from robustkit import attacks, protocol

    assert set(dir(attacks)) == {kind.__name__ for kind in protocol.KINDS.values()}
    assert {kind.__name__ for kind in get_args(protocol.Attack)} == set(dir(attacks))
    assert repr(APGD()).startswith("APGD(steps=100, ")


@pytest.mark.parametrize(("given", "split"), [({}, "all"), ({"data": "there"}, "train")])
def test_labels_are_those_of_the_split_that_was_trained_on(monkeypatch, tmp_path, given, split):
    asked = {}

    def stop(name, **where):
        asked.update(where, name=name)
        raise InputError("seen")

    told = {"training": {"path": "/faces", "split": "all", "data": {"digest": "d"}}}
    checkpoint = replace(robustkit.read_checkpoint("lenet5-mnist5k"), extra=told)
    monkeypatch.setattr("robustkit.calls.describe.load_dataset", stop)
    with pytest.raises(InputError, match="seen"):
        robustkit.describe(checkpoint, labels=tmp_path / "l.csv", **given)
    assert (asked["name"], asked["split"]) == (given.get("data", "/faces"), split)


@pytest.mark.parametrize("kind", [np.float32, lambda value: torch.tensor(value)])
@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (8 / 255, "8/255"), (16 / 255, "16/255"), (1 / 3, "1/3"), (2.5, "2.5")],
)
def test_a_budget_in_float32_is_the_number_that_it_was_rounded_from(kind, value, text):
    found = parse_epsilon(kind(value))
    assert found == parse_epsilon(text)
    assert str(found) == text


@pytest.mark.parametrize(
    "call", [robustkit.read_checkpoint, robustkit.describe, robustkit.read_record,
             robustkit.verify, robustkit.frame, robustkit.report]
)  # fmt: skip
@pytest.mark.parametrize("given", [torch.nn.Linear(2, 2), {"fc.weight": 1}, 5, b"net.pt"])
def test_what_is_no_path_is_told_in_one_line(call, given):
    with pytest.raises(InputError, match="expected ") as caught:
        call(given)
    assert "\n" not in str(caught.value)


def test_evaluations_are_ranked_and_what_names_none_is_told_in_one_line(tmp_path):
    found = [
        robustkit.evaluate("lenet5-mnist5k", "mnist5k", "fgsm", epsilon=e, limit=20, out=tmp_path)
        for e in (0.1, 0.2)
    ]
    with pytest.raises(InputError, match="are the same network"):  # found by their files
        robustkit.rank(*found, runs=tmp_path)
    for call in (robustkit.rank, robustkit.leaderboard, robustkit.compare):
        with pytest.raises(InputError, match="evaluat") as caught:
            call(found[0].header, [found], runs=tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_a_network_or_loss_that_is_made_already_is_no_recipe_for_a_training(tmp_path):
    for given in ({"model": torch.nn.Linear(2, 2)}, {"loss": torch.nn.CrossEntropyLoss()}):
        asked = {"model": "lenet5", "data": "mnist5k", "steps": 1, "out": tmp_path / "net.pt"}
        with pytest.raises(InputError, match="give the class or function") as caught:
            robustkit.train(**asked | given)
        assert "\n" not in str(caught.value)


class Scaled(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return x.flatten(1)[:, :3] * self.scale


DATA = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)


def test_nothing_is_kept_of_a_module_without_a_name_which_is_said(tmp_path):
    asked = {"epsilon": 0.05, "out": tmp_path, "progress": False}
    found = robustkit.evaluate(Scaled(), DATA, "fgsm", **asked)
    assert found.path is None
    assert robustkit.certify(Scaled(), DATA, **asked).path is None
    with pytest.raises(InputError, match="evaluate it with name="):
        robustkit.rank(found, found, found, runs=tmp_path)
    named = robustkit.evaluate(Scaled(), DATA, "fgsm", name="net", **asked)
    assert robustkit.read_record(named.path).rows_digest == found.rows_digest


def test_two_states_of_a_module_under_one_name_are_told_apart(tmp_path):
    asked = {"epsilon": 0.05, "out": tmp_path, "progress": False, "name": "net"}
    for scale, steps in ((1.0, 2), (1.0, 3), (-1.0, 2)):
        robustkit.evaluate(Scaled(scale), DATA, PGD(steps=steps), **asked)
    frame = robustkit.frame(tmp_path)
    assert (frame.weights.nunique(), frame.attack.nunique(), set(frame.budgets)) == (2, 2, {"0.05"})
    other = robustkit.evaluate(Scaled(2.0), DATA, PGD(steps=2), epsilon=0.05, progress=False)
    with pytest.raises(InputError, match="net: was evaluated with other weights; name the record"):
        robustkit.compare("net", other, runs=tmp_path)


def test_evaluations_may_be_compared_by_python_and_stand_in_a_set(tmp_path):
    asked = {"out": tmp_path, "name": "net", "progress": False}
    path = robustkit.evaluate(Scaled(), DATA, "clean", **asked).path
    one, other = robustkit.read_record(path), robustkit.read_record(path)
    assert len({one, other, one}) == 2
    assert one != other
