"""An edited helper of a user's FILE.py is other code: no record of before answers."""

import os
import pickle
import random
import sys

import numpy as np
import pytest
import torch

import robustkit
from robustkit import losses, models
from robustkit.files import file_digest
from robustkit.models.imported import imported_modules

NETWORK = """
{imports}
import torch
class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(16, 2)
    def forward(self, x):
        return self.head(x.flatten(1)) * {scale}
def build():
    return Scaled()
"""
SCALES = {
    "a neighbour": ("import helper", "helper.SCALE", "helper.py"),
    "of a neighbour": ("from helper import SCALE", "SCALE", "helper.py"),
    "a submodule": ("from package import inner", "inner.SCALE", "package/inner.py"),
    "a submodule by its dotted name": ("import space.inner as s", "s.SCALE", "space/inner.py"),
    "through another": ("import through", "through.SCALE", "package/inner.py"),
    "relative": ("from package.beside import SCALE", "SCALE", "package/inner.py"),
    "by import_module": (
        "import importlib\ns = importlib.import_module('helper')",
        "s.SCALE",
        "helper.py",
    ),
}
OTHERS = {
    "package/__init__.py": "",
    "package/beside.py": "from .inner import SCALE\n",
    "through.py": "from package.inner import *\n",
    "helper.py": "SCALE = 1.0\n",
    "package/inner.py": "SCALE = 1.0\n",
    "space/inner.py": "SCALE = 1.0\n",
}


@pytest.fixture(autouse=True)
def _clean():
    """No test leaves its modules to another."""
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in ("helper", "package", "space", "through"):
            del sys.modules[name]


def written(folder, imports, scale):
    for name, text in OTHERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "net.py").write_text(NETWORK.format(imports=imports, scale=scale))
    return folder / "net.py"


@pytest.mark.parametrize("case", SCALES)
def test_an_edited_module_that_a_file_imports_is_other_code_and_taken_as_it_now_is(case, tmp_path):
    imports, scale, helper = SCALES[case]
    file = written(tmp_path / "a", imports, scale)
    moved = written(tmp_path / "b", imports, scale)
    before = models.source(f"{file}:build")
    assert models.source(f"{moved}:build") == before  # wherever it lies
    assert losses.source(f"{file}:build") == before
    x = torch.rand(3, 1, 4, 4)
    first = models.build(f"{file}:build", seed=0)(x)
    (tmp_path / "a" / helper).write_text("SCALE = -100.0\n")
    assert models.source(f"{file}:build") != before
    assert losses.source(f"{file}:build") != before
    torch.testing.assert_close(models.build(f"{file}:build", seed=0)(x), -100 * first)
    # another file's module of the same name is its own
    torch.testing.assert_close(models.build(f"{moved}:build", seed=0)(x), first)


@pytest.mark.parametrize("edited", ["net.py", "helper.py", "package/inner.py", "space/inner.py"])
def test_a_file_written_again_in_the_same_second_is_taken_as_it_is_now(
    edited, tmp_path, monkeypatch
):
    """Python's own cache goes by a file's length and the second of its last change."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    files = {
        "net.py": "import helper, space.inner\nfrom package import inner\n"
        "def build():\n    return 1.0 * helper.SCALE * inner.SCALE * space.inner.SCALE\n",
        **OTHERS,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / edited

    def made():
        os.utime(path, (1e9, 1e9))
        return models.import_function(tmp_path / "net.py", "build")()

    assert made() == made() == 1
    path.write_text(files[edited].replace("1.0", "2.0"))
    assert made() == 2


def test_a_file_that_imports_nothing_of_the_users_keeps_its_digest(tmp_path):
    file = written(tmp_path, "import json, os.path, robustkit.models\nfrom torch import nn", 1)
    assert models.source(f"{file}:build") == f"build {file_digest(file)}"
    assert losses.source(f"{file}:build") == f"build {file_digest(file)}"


def test_a_circle_of_imports_and_what_is_not_there_do_no_harm(tmp_path):
    (tmp_path / "one.py").write_text("import two, nowhere, nowhere.at.all\nfrom . import beyond")
    (tmp_path / "two.py").write_text("import one, broken\n")
    (tmp_path / "broken.py").write_text("def (\n")
    found = imported_modules(tmp_path / "one.py")
    assert [(one.name, one.path.name) for one in found] == [
        ("broken", "broken.py"),
        ("two", "two.py"),
    ]


def test_the_programs_own_module_of_that_name_stays(tmp_path, monkeypatch):
    file = written(tmp_path / "a", "import helper", "helper.SCALE")
    own = tmp_path / "own"
    own.mkdir()
    (own / "helper.py").write_text("SCALE = 7.0\n")
    monkeypatch.syspath_prepend(own)
    import helper

    assert models.build(f"{file}:build").forward.__globals__["helper"].SCALE == 1
    assert sys.modules["helper"] is helper
    assert helper.SCALE == 7


def test_a_standard_module_is_never_taken_away(tmp_path):
    import types

    file = written(tmp_path, "import types, helper", "helper.SCALE")
    (tmp_path / "types.py").write_text("raise SystemExit\n")
    models.build(f"{file}:build")
    assert sys.modules["types"] is types


def test_what_a_module_of_the_users_makes_can_be_pickled(tmp_path):
    written(tmp_path, "import helper", "helper.SCALE")
    (tmp_path / "helper.py").write_text(NETWORK.format(imports="", scale=1))
    (tmp_path / "net.py").write_text("from helper import build\n")
    for _ in range(2):
        made = models.build(f"{tmp_path}/net.py:build")
        assert type(pickle.loads(pickle.dumps(made))) is type(made)


HIDDEN = {
    "a file that it opens": "float(__import__('pathlib').Path(__file__).with_name('c.json').read_text())",
    "the environment": "float(__import__('os').environ['SCALE_OF_TEST'])",
    "a module named at run time": "__import__('hel' + 'per').SCALE",
}


@pytest.mark.one_of_many(2)
@pytest.mark.parametrize("alone", [False, True], ids=["batches", "image by image"])
@pytest.mark.parametrize("case", HIDDEN)
def test_what_no_source_shows_is_told_by_the_logits(case, alone, tmp_path, monkeypatch):
    file = written(tmp_path, "", HIDDEN[case])
    monkeypatch.syspath_prepend(tmp_path)

    def answer(scale):
        (tmp_path / "c.json").write_text(str(scale))
        (tmp_path / "helper.py").write_text(f"SCALE = {scale}\n")
        sys.modules.pop("helper", None)
        monkeypatch.setenv("SCALE_OF_TEST", str(scale))
        found = robustkit.read_checkpoint(tmp_path / "c.pt", model=f"{file}:build")
        data = (torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1)), labels)
        out = tmp_path / "runs"
        record = robustkit.evaluate(found, data, "clean", out=out, image_by_image=alone)
        return record.rows["predicted"].tolist(), len(list(out.glob("*.parquet")))

    labels = np.arange(12) % 2
    monkeypatch.setenv("SCALE_OF_TEST", "1.0")
    (tmp_path / "c.json").write_text("1.0")
    torch.save(models.build(f"{file}:build", seed=0).state_dict(), tmp_path / "c.pt")
    first, same, other = answer(1.0), answer(1.0), answer(-1.0)
    assert same == first
    assert other != first


LATE = "def build():\n    from helper import build as made\n    return made()\n"


def test_a_function_imports_its_neighbour_as_it_now_is_when_it_is_called(tmp_path, monkeypatch):
    own = tmp_path / "own"
    for folder, scale in ((tmp_path / "a", 1), (tmp_path / "b", 3), (own, 7)):
        folder.mkdir()
        (folder / "net.py").write_text(LATE)
        (folder / "helper.py").write_text(NETWORK.format(imports="", scale=scale))
    a, b, x = f"{tmp_path}/a/net.py:build", f"{tmp_path}/b/net.py:build", torch.rand(3, 1, 4, 4)
    path = list(sys.path)
    first = models.build(a, seed=0)(x)
    torch.testing.assert_close(models.build(b, seed=0)(x), 3 * first)
    torch.testing.assert_close(models.build(a, seed=0)(x), first)
    (tmp_path / "a" / "helper.py").write_text(NETWORK.format(imports="", scale=-100))
    torch.testing.assert_close(models.build(a, seed=0)(x), -100 * first)
    assert sys.path == path
    # a program's own module of that name is not taken for it, and stays
    sys.modules.pop("helper")
    monkeypatch.syspath_prepend(own)
    import helper

    torch.testing.assert_close(models.build(b, seed=0)(x), 3 * first)
    assert sys.modules["helper"] is helper


def test_a_loss_imports_its_neighbour_when_it_is_called_too(tmp_path):
    for name, scale in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loss.py").write_text(
            "def scale():\n    from helper import SCALE\n    return SCALE\n"
        )
        (tmp_path / name / "helper.py").write_text(f"SCALE = {scale}\n")
    a, b = (models.import_function(tmp_path / n / "loss.py", "scale", "--loss") for n in "ab")
    assert (a(), b(), a(), b()) == (1, 3, 1, 3)
    (tmp_path / "a" / "helper.py").write_text("SCALE = -100.0\n")
    assert a() == 1  # it goes on as it began
    assert models.import_function(tmp_path / "a" / "loss.py", "scale")() == -100


def test_what_a_function_draws_outside_of_torch_is_the_same_with_the_same_seed(tmp_path):
    (tmp_path / "net.py").write_text(
        "import random, numpy, torch\n"
        "def build():\n"
        "    made = torch.nn.Linear(4, 2)\n"
        "    made.scale = random.random() + numpy.random.rand()\n"
        "    return made\n"
    )
    before = random.getstate(), np.random.get_state()[1].tolist()
    first, second = (models.build(f"{tmp_path}/net.py:build", seed=0).scale for _ in range(2))
    assert first == second
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


TYPED = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from torch import Tensor, nn
def build(path: Path) -> nn.Module:
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
def loss(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits[:, 0] * labels).mean()
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there annotations are evaluated at once")
def test_types_that_are_imported_for_checkers_alone_are_not_asked_for(tmp_path):
    (tmp_path / "mine.py").write_text(TYPED)
    assert models.build(f"{tmp_path}/mine.py:build", checkpoint="a.pt")
    assert not losses.build(f"{tmp_path}/mine.py:loss").takes_model
