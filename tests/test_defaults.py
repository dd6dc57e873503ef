"""What a program has set as torch's default type and device changes nothing that robustkit does."""

import inspect
import random
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

import robustkit
from robustkit import losses, models
from robustkit.attacks import APGD, FAB, FGSM, PGD, DeepFool, Square
from robustkit.calls.planning import plan_evaluation
from robustkit.errors import InputError
from robustkit.files import shipped

LENET = shipped("data") / "lenet5-mnist5k.safetensors"
SET = {
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "float16": torch.float16,
    "meta": torch.device("meta"),
}
"""a default type, or a default device: tensors on meta have no numbers"""


def now():
    return torch.get_default_dtype(), torch.get_default_device()


@contextmanager
def default(name):
    """A program that has set one, and finds it afterwards."""
    kind = SET[name]
    set_it = torch.set_default_device if name == "meta" else torch.set_default_dtype
    set_it(kind)
    try:
        before = now()
        yield
        assert now() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def evaluated(attack, norm, epsilon, network=LENET):
    asked = {"epsilon": epsilon, "norm": norm, "limit": 16, "device": "cpu", "prove": "off"}
    with TemporaryDirectory() as folder:
        found = robustkit.evaluate(network, "mnist5k", attack, out=folder, progress=False, **asked)
    return found.rows_digest


def trained():
    asked = {"steps": 2, "batch_size": 16, "device": "cpu", "progress": False}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        robustkit.train("lenet5", "mnist5k", "trades", out=path, **asked)
        return sha256(path.read_bytes()).hexdigest()


def certified():
    asked = {"limit": 3, "time_limit": 0, "device": "cpu", "progress": False}
    with TemporaryDirectory() as folder:
        found = robustkit.certify(LENET, "mnist5k", 0.01, out=folder, **asked)
    return [(row.outcome, row.by, row.margin) for row in found.rows]


def attacked():
    attack = robustkit.attack(LENET, PGD(steps=3), epsilon=0.1, device="cpu")
    images = torch.linspace(0, 1, 2 * 784, dtype=torch.float32, device="cpu").view(2, 1, 28, 28)
    labels = torch.tensor([8, 8], device="cpu")
    return [attack(images, labels).tolist(), attack.fooled.tolist()]


def loaded():
    network = robustkit.read_checkpoint(LENET, mean=0.1, std=0.3).load()
    images = torch.full((1, 1, 28, 28), 0.3, dtype=torch.float32, device="cpu")
    kinds = {(held.dtype, held.device.type) for held in network.state_dict().values()}
    assert kinds == {(torch.float32, "cpu")}
    return network(images).tolist()


def described():
    return robustkit.describe(LENET).rows


def planned():
    return plan_evaluation(LENET, "mnist5k", PGD(steps=2), epsilon=0.1, limit=8).protocol.digest


CALLS = {
    "fgsm": partial(evaluated, FGSM(), "linf", 0.1),
    "pgd": partial(evaluated, PGD(steps=3), "l2", 1.0),
    "fab": partial(evaluated, FAB(steps=2), "linf", 0.1),
    "apgd": partial(evaluated, APGD(steps=3, loss="dlr"), "l2", 1.0),
    "square": partial(evaluated, Square(queries=20), "l2", 1.0),
    "deepfool": partial(evaluated, DeepFool(steps=3), "l2", 1.0),
    "train": trained,
    "certify": certified,
    "attack": attacked,
    "load": loaded,
    "describe": described,
    "plan": planned,
}


@cache
def plainly(call):
    return CALLS[call]()


@pytest.mark.one_of_many(5)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", SET)
def test_whatever_the_program_has_set_the_numbers_are_the_same(call, name):
    expected = plainly(call)
    with default(name):
        assert CALLS[call]() == expected


DOORS = {"attack": "protocol_of", "describe": "read_checkpoint"}
DOORS |= dict.fromkeys(("audit", "certify", "evaluate", "report", "train"), "spoken")
"""what each call that may compute asks first"""


def test_every_call_that_may_compute_does_so_under_torchs_own_defaults(monkeypatch):
    calls = {name: getattr(robustkit, name) for name in robustkit.__all__}
    computing = {n for n, call in calls.items() if "device" in signature_of(call)}
    assert computing <= DOORS.keys()
    seen = []

    def look(*given, **named):
        seen.append(now())
        raise InputError("seen")

    for name, first in DOORS.items():
        monkeypatch.setattr(f"robustkit.calls.{name}.{first}", look)
        for kind in SET:
            with default(kind), pytest.raises(InputError, match="seen"):
                calls[name](LENET, *(["mnist5k"] if name == "train" else []))
    assert seen == [(torch.float32, torch.device("cpu"))] * len(DOORS) * len(SET)


def signature_of(call):
    return inspect.signature(call).parameters if inspect.isfunction(call) else ()


@pytest.mark.parametrize("name", SET)
def test_a_default_is_there_again_after_an_error(name, tmp_path):
    with default(name), pytest.raises(InputError, match="epsilon"):
        robustkit.certify(LENET, "mnist5k", out=tmp_path)
    with default(name), pytest.raises(InputError, match="nobody"):
        robustkit.train("lenet5", "mnist5k", loss=f"{tmp_path}/nobody.py:loss")


@pytest.mark.parametrize("call", ["fgsm", "load"])
def test_a_default_device_of_a_with_statement_stays_and_changes_nothing(call):
    expected = plainly(call)
    torch.set_default_device("cpu")
    try:
        with torch.device("meta"):
            assert CALLS[call]() == expected
            assert torch.get_default_device().type == "meta"
        assert torch.get_default_device().type == "cpu"
    finally:
        torch.set_default_device(None)


SETTING = """
import torch

torch.set_default_dtype(torch.bfloat16)
torch.set_default_device("meta")

def loss(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)
"""
ELSE = """
import random

import numpy
import torch

torch.set_grad_enabled(False)
torch.autograd.set_detect_anomaly(True)
torch.set_float32_matmul_precision("medium")
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = True
torch.use_deterministic_algorithms(True)
torch.set_flush_denormal(True)
torch.manual_seed(5)
random.seed(5)
numpy.random.seed(5)
"""
"""all else that a file can set for the whole process"""
NET = """
import torch
from robustkit import models

torch.set_default_dtype(torch.bfloat16)

def net():
    made = models.build("lenet5")
    torch.set_default_device("meta")
    return made
"""


def settings():
    return {
        "grad": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "small": float(torch.tensor(1e-40) * 1),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
    }


def test_no_setting_of_a_file_of_the_users_outlasts_it(tmp_path):
    inside = ELSE.replace("\n", "\n    ")
    (tmp_path / "net.py").write_text(
        f"from robustkit import models\n{ELSE}\ndef net():\n{inside}\n    return models.build('lenet5')"
    )
    (tmp_path / "loss.py").write_text(SETTING.replace("import torch\n", ELSE, 1))
    before = settings()
    robustkit.read_checkpoint(LENET, model=f"{tmp_path}/net.py:net").load()
    assert settings() == before
    losses.build(f"{tmp_path}/loss.py:loss")
    assert settings() == before


@pytest.mark.parametrize("name", [None, *SET])
def test_what_a_file_of_the_users_sets_ends_with_it(name, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "loss.py").write_text(SETTING)
    expected = plainly("fgsm")
    with default(name) if name else nullcontext():
        before = now()
        network = robustkit.read_checkpoint(LENET, model=f"{tmp_path}/net.py:net")
        assert now() == before
        assert CALLS["fgsm"](network=network) == expected
        models.import_function(tmp_path / "loss.py", "loss", "--loss")
        assert now() == before


@pytest.mark.thorough
def test_what_a_file_sets_ends_with_it_where_torch_is_imported_for_it(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    script = f"""
import sys, robustkit
assert "torch" not in sys.modules
network = robustkit.read_checkpoint({str(LENET)!r}, model="net.py:net").load()
import torch
assert next(network.parameters()).dtype == torch.get_default_dtype() == torch.float32
assert torch.get_default_device() == torch.device("cpu")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
