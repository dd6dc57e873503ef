"""Searches in low precision: what they may decide, what they say of themselves, what is kept."""

import json

import pytest
import torch
from helpers.attacked import Small, images, make, right
from torch import Tensor, nn

from robustkit import certify, evaluate, summary
from robustkit.attacks import SearchNetwork, attack_block, in_budget, search_network
from robustkit.attacks.precision import LowPrecision
from robustkit.calls.planning import plan_evaluation
from robustkit.checkpoint.adapter import Classifier, freeze, wrap
from robustkit.data import from_arrays
from robustkit.device import FAST_MATH, in_float32
from robustkit.display.progress import Bar
from robustkit.errors import EvaluationFailed, InputError
from robustkit.evaluation import Config, from_module, planning, speed, trial
from robustkit.integrity import check_files
from robustkit.network import answer, gradient
from robustkit.protocol import APGD, Square
from robustkit.record import read
from robustkit.reporting import page
from robustkit.switches import tf32

PGD = {"kind": "pgd", "steps": 10, "relative_step": "1/4"}


class Scaled(Small):
    """Logits of so large a scale that cross-entropy saturates."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class Dice(Small):
    """Draws at random."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand_like(x))


class Stubborn(nn.Module):
    """In low precision it says what it says of the clean images, whatever moves."""

    def __init__(self, clean: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.clean, self.logits = clean.flatten(1), logits

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.detach().flatten(1), self.clean).argmin(1)
        return self.logits[nearest] + 0 * x.flatten(1).sum(1, keepdim=True)


def ask(model, tmp_path, name="net", attack="pgd", **more):
    x = images(40, side=8)
    data = (x.numpy(), right(model, x).labels.numpy())
    asked = {"epsilon": ["1/50"], "name": name, "out": tmp_path}
    return evaluate(model, data, attack, **asked | more)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_of_saturated_losses_survive_low_precision(precision):
    model, x = wrap(Scaled(3.0)), images(12, side=8)
    low = search_network(model, x, precision).low.network
    back = []
    for net in (model, low):
        pixels = x.clone().requires_grad_()
        logits = answer(net, pixels)
        assert logits.dtype == torch.float32
        # below the smallest number of float16
        back.append(gradient((logits[:, 0] - logits[:, 1]).sum() * 1e-9, pixels).flatten(1))
    true, found = back
    assert torch.cosine_similarity(true * 1e9, found * 1e9).median() > 0.99
    assert (found.norm(dim=1) / true.norm(dim=1) - 1).abs().median() < 0.05


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_a_low_precision_finds_holds_in_float32_and_is_as_much(precision, norm):
    model, x = wrap(Small()), images(60, side=8)
    own = right(model, x)
    epsilon = {"linf": "1/50", "l2": "1/8", "l1": "1/4"}[norm]
    protocol = make(norm, PGD, {"kind": "square", "queries": 30}, epsilon=[epsilon])
    exact, low = (
        attack_block(model, own, protocol, 25, search_by=search_network(model, x[:8], word))
        for word in (None, precision)
    )
    budget = float(protocol.epsilons[0])
    found = in_budget(low.distance, budget)
    assert (model(low.perturbed[found]).argmax(1) != own.labels[found]).all()
    assert 5 < found.sum() < 55
    assert abs(int(found.sum()) - int(in_budget(exact.distance, budget).sum())) <= 1


def test_an_image_near_the_boundary_is_searched_on_in_float32():
    """Low precision says nothing at all here: whatever is found, float32 finds."""
    model, x = Small(), images(40, side=8)
    own, protocol = right(model, x), make("linf", PGD, epsilon=["1/50"])
    clean = model(x)
    low = Stubborn(x, clean)
    top = clean.topk(2, dim=1).values
    lead = (top[:, 0] - top[:, 1]).sort().values
    error = float(lead[19] + lead[20]) / 2
    alone = attack_block(model, own, protocol, 40)
    half = attack_block(
        *(model, own, protocol, 40),
        search_by=SearchNetwork(model, LowPrecision("bf16", low, error)),
    )
    near = (top[:, 0] - top[:, 1]) <= error
    assert torch.equal(half.distance[near], alone.distance[near])
    assert torch.isinf(half.distance[~near]).all()
    assert torch.isfinite(alone.distance[near]).any()


@pytest.mark.parametrize("word", ["nan", "fooled"])
def test_what_low_precision_claims_alone_is_no_success(word):
    model, x = Small(), images(30, side=8)
    own, protocol = right(model, x), make("linf", PGD, epsilon=["1/60"])
    logits = -model(x) if word == "fooled" else torch.full((30, 3), torch.nan)
    low = LowPrecision("bf16", Stubborn(x, logits), 0.0)
    found = attack_block(model, own, protocol, 30, search_by=SearchNetwork(model, low))
    assert torch.equal(found.distance, attack_block(model, own, protocol, 30).distance)


@pytest.mark.thorough
def test_precision_and_batch_size_name_the_record_and_stand_in_page_and_json(tmp_path):
    model = Small()
    records = {
        (word, size): ask(model, tmp_path, precision=word, batch_size=size)
        for word, size in [("float32", 16), ("float32", 20), ("bf16", 16), ("bf16", 20)]
    }
    assert len({record.digest for record in records.values()}) == 3
    low = records["bf16", 16]
    assert low.header["precision"] == "bf16"
    assert low.header["engine"]["batch_size"] == 16
    assert summary.summarise(low)["precision"] == "bf16"
    assert "bf16" in page([low])
    assert "bf16" not in page([records["float32", 16]])
    plain = records["float32", 16]
    assert plain.header["precision"] == "float32"
    assert not {"precision", "batch_size"} & set(plain.header["engine"])
    again = ask(model, tmp_path, precision="bf16", batch_size=16)
    assert again.run["started"] == low.run["started"]
    assert read(low.path).header == low.header


@pytest.mark.thorough
def test_an_automatic_choice_is_measured_once_kept_and_told(tmp_path, monkeypatch):
    passes, whole = {"float32": 2.0, "bf16": 1.0}, {"float32": 6.0, "bf16": 3.0}
    calls = []

    def word_of(network):
        return "float32" if network.low is None else network.low.name

    def seconds(network, batch):
        calls.append(len(batch))
        return passes[word_of(network)] * len(batch) ** 0.9

    def timed(model, block, protocol, network, size):
        calls.append(protocol.name)
        return whole[word_of(network)]

    monkeypatch.setattr(speed, "_seconds", seconds)
    monkeypatch.setattr(speed, "SLOW", 1e9)
    monkeypatch.setattr(trial, "timed", timed)
    told, bar = [], Bar("net")
    monkeypatch.setattr(bar.meter, "tell", told.append)
    asked = {"precision": "auto", "progress": bar}
    assert ask(Small(), tmp_path, **asked).header["precision"] == "float32"
    assert "bf16 2.0 times as fast; too few passes are planned" in told[-1]
    monkeypatch.setattr(trial, "WORTH", 0)
    first = ask(Small(), tmp_path, **asked)
    assert (first.header["precision"], first.header["engine"]["batch_size"]) == ("bf16", 256)
    assert told[-1] == "robustkit: --precision auto: bf16 (the search in bf16 is 2.0 times as fast)"
    measured = len(calls)
    assert {64, 128, 256, "pgd"} == set(calls)
    passes["bf16"], whole["bf16"] = 9.0, 9.0  # the machine is under another load
    assert ask(Small(), tmp_path, **asked).digest == first.digest
    assert ask(Small(), tmp_path, seed=1, **asked).header["precision"] == "bf16"
    assert len(calls) == measured
    # passes are as fast as they were, and another search is slower
    assert ask(Small(), tmp_path, attack="fgsm", **asked).header["precision"] == "float32"
    assert (
        told[-1] == "robustkit: --precision auto: float32 (the search in bf16 is 0.7 times as fast)"
    )
    states = {file.kind: file.state for file in check_files(tmp_path)}
    assert states["times of passes"] == states["times of searches"] == "intact"
    (kept,) = tmp_path.glob("passes-*.json")
    kept.write_text(kept.read_text().replace('"bf16"', '"fp16"'))
    with pytest.raises(InputError, match="remove it, and it is measured again"):
        ask(Small(), tmp_path, **asked)
    kept.unlink()
    assert ask(Small(), tmp_path, **asked).header["precision"] == "float32"
    assert told[-1] == "robustkit: --precision auto: float32 (passes in bf16 0.2 times as fast)"


def test_a_trial_counts_every_search_as_often_as_it_is_planned(monkeypatch):
    asked = []

    def timed(model, block, protocol, network, size):
        asked.extend(protocol.attacks)
        return 1.0

    monkeypatch.setattr(trial, "timed", timed)
    model, x = Small(), images(9, side=8)
    data = from_arrays(x.numpy(), right(model, x).labels.numpy(), name="arrays")
    square = {"kind": "square", "queries": 5000, "restarts": 2}
    apgd = {"kind": "apgd", "steps": 3, "targets": 2, "loss": "dlr"}
    fmn = {"kind": "fmn", "steps": 3}  # which takes no steps by a network of another precision
    protocol = make("linf", apgd, square, fmn, epsilon=["1/50"])
    config = Config(from_module(model, "net"), data, protocol, x.device)
    found = trial.trial(config, {"float32": SearchNetwork(model)})
    assert {(a.targets, a.restarts) for a in asked if isinstance(a, APGD)} == {(1, 1)}
    assert {(a.queries, a.restarts) for a in asked if isinstance(a, Square)} == {(500, 1)}
    # two targets; two searches of ten times as many queries
    assert found == {"float32": 2 + 2 * 10}


@pytest.mark.thorough
def test_the_fastest_batch_size_is_taken_where_the_search_is_long_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "_seconds", lambda network, batch: abs(len(batch) - 64) + 1.0)
    monkeypatch.setattr(speed, "SLOW", 1e9)
    short = ask(Small(), tmp_path / "short")
    assert short.run["batch_size"] == 128
    assert not list((tmp_path / "short").glob("passes-*"))
    monkeypatch.setattr(speed, "WORTH", 0.01)
    long = ask(Small(), tmp_path / "long")
    assert long.run["batch_size"] == 64
    assert short.rows_digest == long.rows_digest
    assert ask(Small(), tmp_path / "own", batch_size=9).run["batch_size"] == 9


@pytest.mark.thorough
@pytest.mark.parametrize("surrogate", [None, Dice()])
def test_no_stopwatch_chooses_the_draws_of_a_random_network(tmp_path, monkeypatch, surrogate):
    """They are made for a whole batch."""
    monkeypatch.setattr(speed, "SLOW", 1e9)
    monkeypatch.setattr(speed, "WORTH", 0.01)
    found = []
    for best in (64, 256):

        def seconds(network, batch, best=best):
            return abs(len(batch) - best) + 1.0

        monkeypatch.setattr(speed, "_seconds", seconds)
        model = Dice() if surrogate is None else Small()
        torch.manual_seed(0)  # for the labels
        found.append(ask(model, tmp_path / str(best), surrogate=surrogate))
    assert found[0].rows_digest == found[1].rows_digest
    assert {one.run["batch_size"] for one in found} == {128}


@pytest.mark.parametrize(
    ("model", "options", "more", "reason"),
    [
        (Small(), {"precision": "tf32"}, {}, "cpu has no TF32"),
        (Small(), {"precision": "bf16"}, {"attack": "clean", "epsilon": []}, "fixed budgets"),
        (Small(), {"precision": "int8"}, {}, "known are auto, float32"),
        (Dice(), {"precision": "bf16"}, {}, "is randomised"),
        (Scaled(1e6), {"precision": "fp16"}, {}, "NaN or infinite"),
    ],
)
def test_a_precision_that_does_not_fit_is_refused_in_one_line(
    model, options, more, reason, tmp_path
):
    with pytest.raises(InputError, match=reason) as caught:
        ask(model, tmp_path, **options, **more)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.thorough
def test_automatic_precision_leaves_what_does_not_fit_in_float32(tmp_path):
    dice = ask(Dice(), tmp_path, precision="auto")
    clean = ask(Small(), tmp_path, precision="auto", attack="clean", epsilon=[])
    assert dice.header["precision"] == clean.header["precision"] == "float32"
    (kept,) = tmp_path.glob("passes-*.json")
    assert "is randomised" in json.loads(kept.read_text())["unfit"]["bf16"]


@pytest.fixture
def little_memory(monkeypatch):
    """Has the device memory for so many images at once; the batches that it had it for."""

    def only(most):
        sizes, passed = [], planning.logits_and_gradient

        def fitted(count, work):
            if count > most:
                raise torch.OutOfMemoryError("a small device")
            sizes.append(count)
            return work()

        monkeypatch.setattr(
            speed, "_seconds", lambda net, x: fitted(len(x), lambda: 1 / (1 + bool(net.low)))
        )
        monkeypatch.setattr(trial, "timed", lambda *given: fitted(given[4], lambda: 1.0))
        monkeypatch.setattr(
            planning, "logits_and_gradient", lambda net, x: fitted(len(x), lambda: passed(net, x))
        )
        return sizes

    monkeypatch.setattr(trial, "WORTH", 0)  # the search itself is tried
    return only


@pytest.mark.thorough
@pytest.mark.parametrize("most", [1, 7, 20, 70])
def test_a_device_with_little_memory_is_measured_in_smaller_batches(most, tmp_path, little_memory):
    sizes = little_memory(most)
    found = ask(Small(), tmp_path, precision="auto")
    assert most / 2 < max(sizes) <= most
    assert found.run["batch_size"] <= 128
    for kept in tmp_path.glob("passes-*.json"):
        assert all(json.loads(kept.read_text())["seconds"].values())
    sizes.clear()
    x = images(40, side=8)
    planned = plan_evaluation(Small(), (x.numpy(), [0, 1] * 20), "pgd", epsilon=["1/50"])
    assert planned.took.gradients > 0
    assert most / 2 < max(sizes) <= most or max(sizes) == 40


def test_and_one_that_holds_no_image_is_one_line_and_nothing_is_kept(tmp_path, little_memory):
    little_memory(0)
    for _ in range(2):
        with pytest.raises(
            EvaluationFailed, match=r"\Athe GPU has too little memory for one image"
        ):
            ask(Small(), tmp_path, precision="auto")
        assert not list(tmp_path.glob("*.json"))


class Branching(nn.Module):
    """What cannot be traced: a way of its own for dark images; its pixels are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Small()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(0.1 * x + 0.5) if bool(x.mean() > -100) else self.network(x)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_network_that_cannot_be_traced_keeps_its_normalisation(precision):
    model = freeze(Classifier(Branching(), mean=[0.4], std=[0.01], expected=3))
    x = images(16, side=8)
    found = search_network(model, x, precision)
    assert found.exact is model
    assert found.low is not None
    assert float((found.low.network(x) - model(x)).abs().max()) <= found.low.error
    assert found.low.network(x).dtype == torch.float32
    assert model.network.network.fc.weight.dtype == torch.float32


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_no_finite_numbers_are_sure_of_nothing(targeted, odd, place):
    low = LowPrecision("fp16", nn.Identity(), 0.1)
    logits, classes = torch.tensor([[9.0, 1.0, 0.0]]), torch.tensor([0])
    if targeted:
        classes = 1 - classes
    assert not low.unsure(logits, classes, targeted)
    logits[0, place] = odd
    assert low.unsure(logits, classes, targeted)


def test_an_image_whose_own_logit_overflows_is_searched_in_float32():
    network, x = Small(), images(12, side=8)
    block, protocol = right(network, x), make("linf", PGD, epsilon=["1/50"])

    class Overflows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = network(x)
            return torch.where(z == z.amax(1, keepdim=True), z * torch.inf, z)

    low = SearchNetwork(network, LowPrecision("fp16", Overflows(), 0.1))
    found = attack_block(network, block, protocol, 12, search_by=low).distance
    exact = attack_block(network, block, protocol, 12).distance
    assert torch.equal(found.isfinite(), exact.isfinite())
    assert exact.isfinite().any()


@pytest.mark.thorough
def test_no_pass_is_made_in_tf32_where_torch_allows_it():
    seen = set()

    class Watching(Small):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        x = images(40, side=8)
        data = (x.numpy(), right(Small(), x).labels.numpy())
        for precision in ("auto", "bf16", "float32"):
            evaluate(Watching(), data, "pgd", epsilon=["1/50"], precision=precision)
        assert seen == {False}
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.thorough
def test_verdicts_are_of_whole_float32_whatever_torch_allows_a_gpu(tmp_path):
    seen = []

    class Watching(Small):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    before = torch.backends.cudnn.allow_tf32
    ask(Watching(), tmp_path)
    assert seen[-1] is False
    assert torch.backends.cudnn.allow_tf32 is before
    x, watched = images(4, side=8), Watching().eval()
    seen.clear()
    certify(watched, (x.numpy(), right(watched, x).labels.numpy()), epsilon="1/500", progress=False)
    assert seen[-1] is False
    assert torch.backends.cudnn.allow_tf32 is before


PLACES = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all")]
OPERATORS = [(kind, name) for kind in ("cuda", "mkldnn") for name in ("matmul", "conv", "rnn")]
SETTINGS = {
    "torch's own": lambda b: None,
    "products of a GPU": lambda b: setattr(b.cuda.matmul, "fp32_precision", "tf32"),
    "everything": lambda b: setattr(b, "fp32_precision", "tf32"),
    "a GPU's convolutions": lambda b: setattr(b.cudnn.conv, "fp32_precision", "ieee"),
    "convolutions of a processor": lambda b: setattr(b.mkldnn.conv, "fp32_precision", "bf16"),
    "products of a processor": lambda b: setattr(b.mkldnn.matmul, "fp32_precision", "bf16"),
    "by the older interface": lambda b: torch.set_float32_matmul_precision("medium"),
    "convolutions by the older": lambda b: setattr(b.cudnn, "allow_tf32", False),
    "by both": lambda b: (
        setattr(b, "fp32_precision", "tf32"),
        torch.set_float32_matmul_precision("high"),
        setattr(b.cudnn.rnn, "fp32_precision", "ieee"),
    ),
}


def precision_of(place):
    return torch._C._get_fp32_precision_getter(*place)


def settings_of_torch():
    """All that can be read of them, and what becomes of it where everything is allowed."""

    def read(ask):
        try:
            return ask()
        except RuntimeError:
            return "refused"

    older = (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32)
    found = [[*map(precision_of, [*PLACES, *OPERATORS]), *map(read, older)]]
    outermost = torch.backends.fp32_precision
    for precision in ("none", "tf32"):
        torch.backends.fp32_precision = precision
        found.append([precision_of(place) for place in OPERATORS])
    torch.backends.fp32_precision = outermost
    return found


@pytest.fixture
def defaults():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place in (*PLACES, ("cuda", "matmul"), *OPERATORS[3:]):
        torch._C._set_fp32_precision_setter(*place, "none")


@pytest.mark.parametrize("case", SETTINGS)
def test_float32_is_whole_whatever_torch_allows_which_it_allows_again_afterwards(case, defaults):
    SETTINGS[case](torch.backends)
    before = settings_of_torch()
    for _ in range(2):
        with in_float32():
            assert {precision_of(place) for place in OPERATORS} == {"ieee"}
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cudnn.allow_tf32 is False
            with tf32(allowed=True):
                assert {precision_of(place) for place in OPERATORS} == {"tf32"}
                assert torch.get_float32_matmul_precision() == "high"
                assert torch.backends.cudnn.allow_tf32 is True
            assert {precision_of(place) for place in OPERATORS} == {"ieee"}
        assert settings_of_torch() == before


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["everything", "convolutions of a processor"])
def test_an_evaluation_in_a_program_of_low_precision_is_of_float32(case, defaults, tmp_path):
    seen, x = set(), images(8, side=8)
    data = (x.numpy(), right(Small(), x).labels.numpy())
    asked = {"epsilon": ["1/50"], "settings": ["steps=2"], "device": "cpu", "prove": "off"}
    plain = evaluate(Small(), data, "pgd", out=tmp_path / "plain", **asked)

    class Watching(Small):
        def forward(self, x: Tensor) -> Tensor:
            low = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
            seen.add((*low, *map(precision_of, OPERATORS)))
            return super().forward(x)

    SETTINGS[case](torch.backends)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = evaluate(Watching(), data, "pgd", out=tmp_path / "found", **asked)
    assert seen == {(False, False, *["ieee"] * 6)}
    assert found.table.equals(plain.table)


@pytest.mark.parametrize("name", FAST_MATH)
def test_an_environment_that_cuts_float32_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setenv(name, "BF16")
    data = (images(4, side=8).numpy(), [0, 1, 2, 0])
    with pytest.raises(InputError, match=rf"\A{name}=BF16 [^\n]*unset it\Z"):
        evaluate(Small(), data, "clean", device="cpu")
    monkeypatch.setenv(name, "strict")
    with in_float32():
        pass


# --- float16 loses small numbers, and no gradient with them ------------------------------------


class Halved(Small):
    """Nothing that can be traced, and float16's own logits or float32's."""

    def __init__(self, kind: torch.dtype, scale: float = 1.0) -> None:
        super().__init__()
        self.half()
        self.kind, self.scale = kind, scale

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().sum()) < 0:
            return self.fc.bias
        return (super().forward(x.half()) * self.scale).to(self.kind)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_gradients_of_saturated_losses_survive_a_network_of_float16(kind):
    x = images(12, side=8)
    back = []
    for net in (wrap(Halved(kind)), wrap(Small())):
        pixels = x.clone().requires_grad_()
        logits = answer(net, pixels)
        assert logits.dtype == torch.float32
        back.append(gradient((logits[:, 0] - logits[:, 1]).sum() * 1e-12, pixels).flatten(1))
    found, true = back
    assert torch.cosine_similarity(found * 1e12, true * 1e12).min() > 0.99
    assert (found.norm(dim=1) / true.norm(dim=1) - 1).abs().max() < 0.05


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_cross_entropy_finds_as_much_on_a_confident_network_of_float16_as_in_float32(kind):
    x, counts = images(40, side=8), []
    for net in (Halved(kind, 8.0), Scaled(8.0)):
        model = wrap(net)
        own, protocol = right(model, x), make("linf", PGD, epsilon=["1/30"])
        found = attack_block(model, own, protocol, 20, search_by=search_network(model, x[:8]))
        counts.append(int(in_budget(found.distance, 1 / 30).sum()))
    assert abs(counts[0] - counts[1]) <= 1
    assert counts[1] > 5


def test_levelling_changes_no_bit_where_nothing_is_too_small():
    x = images(12, side=8)
    back = []
    for net in (wrap(Small()), Small()):
        pixels = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(net(pixels), torch.arange(12) % 3, reduction="sum")
        back.append(torch.autograd.grad(loss, pixels)[0])
    assert torch.equal(*back)


def test_a_search_in_fp16_of_what_cannot_be_traced_has_gradients_of_saturated_losses():
    class Untraced(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.detach().sum()) > 0 else self.fc.bias

    model, x = wrap(Untraced()), images(12, side=8)
    low = search_network(model, x, "fp16").low.network
    assert isinstance(low, Classifier)
    back = []
    for net in (model, low):
        pixels = x.clone().requires_grad_()
        back.append(gradient((answer(net, pixels)[:, 0] * 1e-10).sum(), pixels).flatten(1) * 1e10)
    assert torch.cosine_similarity(*back).min() > 0.99


class NoWayBack(nn.Module):
    """Right logits, and NaN sent back to the pixels, as where a product leaves float16's range."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        own = x.view_as(x)
        if own.requires_grad:
            own.register_hook(lambda slope: slope * torch.nan)
        return self.model(own)


def test_where_low_precision_has_no_gradient_float32_goes_on():
    model, x = Small(), images(30, side=8)
    own, protocol = right(model, x), make("linf", PGD, epsilon=["1/60"])
    search = SearchNetwork(model, LowPrecision("fp16", NoWayBack(model), 0.0))
    found = attack_block(model, own, protocol, 30, search_by=search)
    assert torch.equal(found.distance, attack_block(model, own, protocol, 30).distance)
    assert found.passes.broken.sum() == 0
