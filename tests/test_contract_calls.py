"""Every call that asks a network asks first whether an image's logits are its own."""

import json
import warnings

import numpy as np
import pytest
import torch
from helpers.studies import Here, begin, external_study
from torch import Tensor, nn

import robustkit as front
from robustkit import evaluation, protocol
from robustkit.attacks import Block
from robustkit.auditing import plan as plans
from robustkit.auditing.outcome import RobustnessClaim
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import StageSettings, ThreatModel
from robustkit.certification import (
    SmoothedCertificates,
    SmoothingNoise,
    attack_smoothed,
    certify,
    certify_rising,
    decide,
    smooth,
)
from robustkit.checkpoint import OneByOne
from robustkit.corruption import measure
from robustkit.errors import InputError, RobustkitError
from robustkit.protocol import parse_epsilon

CLASSES, SIDE = 3, 8
NOISE = SmoothingNoise(0.1, n0=4, n=20)


class Net(nn.Module):
    """A linear network of fixed weights."""

    def __init__(self, classes: int = CLASSES, side: int = SIDE) -> None:
        super().__init__()
        self.head = nn.Linear(side * side, classes)
        source = torch.Generator().manual_seed(0)
        self.head.weight.data = torch.randn(classes, side * side, generator=source) / side
        self.head.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Mixes(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Remembers(Net):
    """Answers the first batch of a shape for ever."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        return self.cache.setdefault(x.shape, super().forward(x))


class Raises(Net):
    def forward(self, x):
        raise AssertionError("16 × 16 images, please")


class Pair(Net):
    """Its logits are not all that it returns."""

    def forward(self, x):
        return super().forward(x), x


class Words(Net):
    def forward(self, x):
        return "three"


class Overwrites(Net):
    def forward(self, x):
        return super().forward(x.mul_(2)) / 2


def pictures(n: int = 6) -> Tensor:
    return torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def labels(n: int = 6) -> Tensor:
    return Net().eval()(pictures(n)).argmax(1)


def names(n: int = 6) -> list[str]:
    return [f"image {i}" for i in range(n)]


def smoothed() -> SmoothedCertificates:
    return SmoothedCertificates(NOISE, labels().numpy(), np.zeros(6), np.ones(6))


def block_protocol():
    table = {"title": "", "norm": "linf", "attack": [{"kind": "fgsm"}], "epsilon": ["0.01"]}
    return protocol.parse_protocol(table, "test", "test")


CALLS = {
    "certify": lambda net: certify(net, pictures(), labels(), "linf", 0.001).robust.tolist(),
    "certify_rising": lambda net: certify_rising(net, pictures(), labels(), "l2", [0.001])[
        0
    ].robust.tolist(),
    "decide": lambda net: [
        decision.outcome
        for _, decision in decide(
            net, Block(pictures(), labels(), names(), 0), block_protocol(), time_limit=1
        )
    ],
    "smooth": lambda net: smooth(net, pictures(), names(), NOISE).predicted.tolist(),
    "attack_smoothed": lambda net: attack_smoothed(
        net, pictures(), labels(), names(), 0.1, smoothed(), steps=2, draws=2
    ).attacked.tolist(),
    "measure": lambda net: measure(
        *(net, lambda a, b: pictures()[a:b], labels(), names(), 2),
        names=["contrast"],
        severities=[1],
    ).tolist(),
}
BOUNDS = ("certify", "certify_rising", "decide")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Mixes, Remembers])
def test_no_call_takes_a_network_whose_logits_of_an_image_are_not_its_own(call, network):
    with pytest.raises(InputError) as refused:
        CALLS[call](network().eval())
    assert "\n" not in str(refused.value)
    words = "depend on the rest of its batch" if network is Mixes else "keeps a state"
    assert words in str(refused.value)
    assert ("OneByOne(model)" in str(refused.value)) == (network is Mixes and call not in BOUNDS)


@pytest.mark.parametrize("call", [call for call in CALLS if call not in BOUNDS])
def test_what_a_refusal_advises_helps(call):
    with torch.no_grad():
        alone = Net().eval()(torch.zeros(1, 1, SIDE, SIDE)).argmax(1).item()
    found = CALLS[call](OneByOne(Mixes().eval()))
    # an image alone is its own mean
    if call == "smooth":
        assert found == [alone] * 6
    assert len(np.ravel(found)) == 6


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Raises, Words])
def test_what_a_network_raises_or_returns_is_told_in_one_line_by_every_call(call, network):
    with pytest.raises(RobustkitError) as told:
        CALLS[call](network().eval())
    assert "\n" not in str(told.value)
    words = "16 × 16 images, please" if network is Raises else "returns str"
    assert words in str(told.value)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", [Pair, Overwrites])
def test_logits_among_other_outputs_and_input_written_to_change_nothing(call, network):
    assert CALLS[call](network().eval()) == CALLS[call](Net().eval())


# -- audits, transfers, studies, certifications ----------------------------------------------------

PLAN = """
title      = "Tiny"
images     = 12
delta      = 0.2
indicators = 4
certified  = 4
multiplications = 2e9
corrupted  = 2

[[stage]]
attack   = "fgsm"
budgets  = "all"
required = true
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.toml"
    path.write_text(PLAN)
    return plans.load_plan(str(path))


def audit_of(network, plan, folder, parts, *, alone=False, **others):
    def begin(part, count):
        parts.append(part)
        return lambda done: None

    x = pictures(12)
    with torch.no_grad():
        data = front.from_arrays(x.numpy(), Net().eval()(x).argmax(1).numpy(), name="arrays")

    def evaluated(net):
        return evaluation.from_module(net.eval(), type(net).__name__, image_by_image=alone)

    budget = parse_epsilon("0.02")
    against = {name: evaluated(net) for name, net in others.pop("against", {}).items()}
    given = {role: evaluated(net) for role, net in others.items()}
    request = AuditRequest(
        model=evaluated(network),
        data=data,
        threat=ThreatModel("linf", budget, (budget,), 0),
        plan=plan,
        budget="tiny",
        command="robustkit audit",
        against=against,
        claim=RobustnessClaim("linf", "0.02", 0.5, "given"),
        **given,
    )
    options = evaluation.RunOptions(device="cpu")
    return run_audit(request, StageSettings(folder, options, begin))


@pytest.mark.parametrize("role", ["model", "surrogate", "against"])
def test_an_audit_refuses_such_a_network_before_any_stage(role, plan, tmp_path):
    others = {
        "model": {},
        "surrogate": {"surrogate": Mixes()},
        "against": {"against": {"b": Mixes()}},
    }
    parts = []
    with pytest.raises(InputError, match="depend on the rest of its batch") as refused:
        audit_of(Mixes() if role == "model" else Net(), plan, tmp_path, parts, **others[role])
    begins = {"model": "the network's", "surrogate": "the surrogate: ", "against": "b: "}
    assert str(refused.value).startswith(begins[role])
    assert parts == []


@pytest.mark.thorough
def test_an_audit_image_by_image_says_so_and_what_it_warns_of(plan, tmp_path):
    found = audit_of(
        *(Mixes(), plan, tmp_path, []),
        alone=True,
        surrogate=Overwrites(),
        against={"b": Mixes()},
    )
    told = list(found.warnings)
    assert sum("one image at a time" in text for text in told) == 3
    assert any(text.startswith("b: evaluated one image at a time") for text in told)
    assert any(text.startswith("the surrogate: the network modifies its input") for text in told)
    assert "one image at a time" in found.certificate.reason
    # an image is its own mean: all logits are zero, and class 0 the answer
    assert found.clean.value == (labels(12) == 0).sum().item() / 12


def scripted(network, folder):
    """A file of TorchScript that computes what the network does on 28 × 28 images."""
    path = folder / "surrogate.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but files of it are about
        example = torch.rand(2, 1, 28, 28)
        torch.jit.trace(network(10, 28).eval().requires_grad_(False), example).save(path)
    return path


@pytest.mark.thorough
def test_a_surrogate_on_file_is_refused_or_asked_image_by_image(robustkit, tmp_path):
    asked = (
        *("evaluate", "lenet5-mnist5k", "--limit", 6, "--device", "cpu", "--trust-program"),
        *("--attack", "fgsm", "--epsilon", "0.1", "--surrogate", scripted(Mixes, tmp_path)),
    )
    status, _, told = robustkit(*asked)
    assert status == 2
    assert "the surrogate: the network's logits of an image depend" in told
    assert "--image-by-image" in told
    status, _, told = robustkit(*asked, "--image-by-image", "--json", tmp_path / "found.json")
    assert status == 0
    (said,) = json.loads((tmp_path / "found.json").read_text())
    assert any(text.startswith("the surrogate: evaluated one image") for text in said["warnings"])


@pytest.mark.thorough
def test_a_study_keeps_what_is_wrong_with_such_a_network(tiny, nets, tmp_path):
    path = external_study(tiny, nets, tmp_path, "{loss}_noise{label_noise}_seed{seed}.pt")
    net = tmp_path / "mixing.py"
    net.write_text(
        "from torch import nn\n\n"
        "class Mix(nn.Flatten):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x - x.mean(0))\n\n"
        "def net(num_classes=10):\n"
        "    return nn.Sequential(Mix(), nn.Linear(784, num_classes))\n"
    )
    path.write_text(path.read_text().replace(f"{tiny.parent / 'net.py'}:net", f"{net}:net"))
    run = begin(path, tmp_path / "out")
    run.finish(Here(tmp_path / "out"))
    results = [json.loads(p.read_text()) for p in (tmp_path / "out" / "tests").glob("*.json")]
    assert len(results) > 0
    for result in results:
        assert result["status"] == "failed"
        assert "depend on the rest of its batch" in result["reason"]
        assert "leave it out of the study" in result["reason"]


def test_certify_refuses_such_a_network_with_advice_that_works_there():
    with pytest.raises(InputError, match="depend on the rest of its batch") as refused:
        front.certify(Mixes().eval(), (pictures().numpy(), labels().numpy()), "0.01")
    assert "nothing can be proved of it" in str(refused.value)
    assert "robustkit evaluate --image-by-image" in str(refused.value)


@pytest.mark.thorough
def test_a_certification_keeps_what_was_found_of_its_network():
    wrong = (labels() + 1) % CLASSES
    found = front.certify(Overwrites().eval(), (pictures().numpy(), wrong.numpy()), "0.01")
    told = found.header["warnings"]
    assert any("modifies its input" in text for text in told)
    assert any("clean accuracy is 0.0\u00a0%" in text for text in told)
