"""Files that ask for too much, or for what makes no sense: one line, in little time, and no code."""

import os
import pickle
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import checkpoint_files as files
from helpers.hostile_families import CASES, FAMILIES
from helpers.mutations import honest, mutated
from helpers.pickles import Call, Pairs, array, encoded, module, storage, tensor, zipped
from helpers.watching import Watch, attempt
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.checkpoint import read_checkpoint, reading
from robustkit.checkpoint.boundary import boundary
from robustkit.checkpoint.weights import weights_digest
from robustkit.errors import BadFile, CheckpointError, DataError, InputError
from robustkit.files import canonical, digest
from robustkit.unpickling import read_torch
from robustkit.unpickling.tensors import PIECE, TensorReader

SECONDS = 15
"""of processor, for any file"""
MOST_AT_ONCE = 12
"""every so many-th file of a family is read by default, the others under the mark slow"""


@pytest.fixture(scope="module")
def watch():
    made = Watch()
    sys.addaudithook(made)
    return made


@pytest.fixture
def read(watch, tmp_path, monkeypatch):
    """Read a file in an empty folder under watch: what came of it, in a line."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(file):
        path = tmp_path / f"x{file.suffix}"
        path.write_bytes(file.content)
        start = time.process_time()
        watch.seen, watch.on = [], True
        try:
            said = attempt(path, file.labels)
        finally:
            watch.on = False
        assert not watch.seen
        assert not list((tmp_path / "empty").iterdir())
        assert not said.startswith("!"), said
        assert time.process_time() - start < SECONDS
        return said

    return run


def _slice():
    """Every file, those that are not of the daily slice marked slow."""
    for names in ([f"{family}: {name}" for name in made] for family, made in FAMILIES.items()):
        for index, name in enumerate(names):
            slow = index % MOST_AT_ONCE != 0
            yield pytest.param(name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("name", list(_slice()))
def test_a_hostile_file_is_a_line_in_little_time(name, read):
    read(CASES[name]())


TIMELESS = (
    "sharing: arguments 100", "sharing: modules 300 2", "sharing: module in itself", "sharing: one dictionary first in many",
    "sharing: modules under roots 10 3", "names: dots of a weight", "names: large number of a weight",
    "work: dict again", "work: array under many names", "numbers: expanded weight",
    "numbers: array of 'b4'", "numbers: none of too many weight", "parts: mask across",
    "parts: spectral of another length", "safetensors: 1 bytes of 'F4'", "safetensors: extra 0",
    "archives: 0 at -37", "labels: pickle nested", "labels: json text", "work: colliding keys",
)  # fmt: skip
"""what once hung, filled the memory, or ended in a traceback"""


@pytest.mark.one_of_many(11)
@pytest.mark.parametrize("name", TIMELESS)
def test_what_once_hung_or_broke_is_a_line(name, read):
    read(CASES[name]())


@pytest.fixture(scope="module")
def honest_files(tmp_path_factory):
    return honest(tmp_path_factory.mktemp("honest"))


def test_honest_files_are_read(honest_files, read):
    for name, file in honest_files.items():
        said = read(file)
        assert not said.startswith("refused"), name


@pytest.mark.parametrize(
    "start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in (20, 40, 1000))]
)
def test_a_mutation_of_an_honest_file_is_a_line(start, honest_files, read):
    for seed in range(start, start + 20):
        read(mutated(honest_files, seed)[1])


# -- the budget -----------------------------------------------------------------------------------


def refusal(content, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    return line


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (lambda: Call("x.Y", *[[None] * 2_000_000, [None] * 2_000_000]), "more steps"),
        (lambda: {"w" * 1001: tensor()}, "a name of more than 1000 characters"),
        (lambda: Pairs([(10**5000, tensor())]), "a name of more than 1000 characters"),
        (lambda: Pairs([(i * 2**61 + i, 1) for i in range(30_000)]), "too many numbers as keys"),
        (lambda: {str(i): t for t in [tensor()] for i in range(50_001)}, "50000 tensors"),
        (lambda: {"w": tensor(shape=(1,) * 33, stride=(1,) * 33)}, "33 dimensions"),
        (lambda: {"w": tensor(shape=(10**6, 10**6), stride=(0, 0))}, "more numbers than"),
        (lambda: {str(i): tensor(shape=(2**20,), stride=(0,)) for i in range(17)}, "far more numbers"),
        (lambda: [Call("_codecs.encode", t) for t in ["x" * 10**6] for _ in range(100)], "to copy its contents"),
        (lambda: Pairs([(1, tensor()), ("1", tensor())]), "two weights are named '1'"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_ask_for_is_told(tree, says, tmp_path):
    assert says in refusal(zipped(tree()), tmp_path)


@pytest.mark.thorough
def test_large_honest_files_are_within_the_budget(tmp_path):
    weights = {f"layers.{i}.weight": torch.full((3,), float(i)) for i in range(3000)}
    beside = {"losses": [0.5] * 500_000, "classes": dict(enumerate(map(str, range(50_000))))}
    path = tmp_path / "x.pt"
    torch.save({"state_dict": weights, **beside}, path)
    assert read_checkpoint(path).container == "state_dict"


def test_tied_weights_are_no_attack(tmp_path):
    shared = torch.rand(100, 100)
    torch.save({f"layer{i}.weight": shared for i in range(8)}, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").format == "torch zip"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_views_of_one_storage_share_one_tensor(dtype, tmp_path):
    whole = torch.rand(1000, 2000).to(dtype)
    torch.save(dict(enumerate(whole)), tmp_path / "x.pt")
    with (tmp_path / "x.pt").open("rb") as file:
        reader = TensorReader.of(file, "x.pt")
        tree = read_torch(file, reader.budget).root
        found = [reader.read(leaf, str(key), as_float32=True) for key, leaf in tree.items()]
    places = [array.__array_interface__["data"][0] for array in found]
    assert set(np.diff(places)) == {found[0].nbytes}
    assert np.array_equal(np.stack(found), whole.float())


def test_numbers_that_no_weight_uses_do_not_matter(tmp_path):
    whole = torch.tensor([1.0, 2.0, float("nan")])
    torch.save({"w": whole[:2]}, tmp_path / "x.pt")
    read_checkpoint(tmp_path / "x.pt")
    torch.save({"w": whole[1:]}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="NaN"):
        read_checkpoint(tmp_path / "x.pt")


def test_an_expanded_tensor_is_searched_for_what_is_no_number(tmp_path):
    torch.save({"w": torch.tensor([[1.0], [float("inf")]]).expand(2, 10**6)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="infinite"):
        read_checkpoint(tmp_path / "x.pt")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_any_tree_of_calls_and_shared_parts_is_a_line(seed):
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(encoded(_random_tree(random.Random(seed))))
        file.flush()
        said = attempt(Path(file.name))
    assert not said.startswith("!"), said


def _random_tree(draw):
    """A tree of odd parts, some of which stand in several places."""
    parts = [
        None,
        1,
        10**40,
        "w",
        b"x",
        tensor(),
        storage(),
        array((2,), bytes(8)),
        (),
        "a.b",
        True,
    ]
    for _ in range(draw.randrange(3, 30)):
        some = [draw.choice(parts) for _ in range(draw.randrange(4))]
        match draw.randrange(7):
            case 0:
                parts.append(tuple(some))
            case 1:
                parts.append(list(some))
            case 2:
                parts.append(Pairs([(draw.choice(parts), part) for part in some]))
            case 3:
                parts.append({f"w{i}": part for i, part in enumerate(some)})
            case 4:
                names = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "x.Y",
                         "torch.Size", "torch._tensor._rebuild_from_type_v2", "numpy.dtype",
                         "numpy._core.multiarray._reconstruct", "torch._utils._rebuild_parameter")  # fmt: skip
                parts.append(Call(draw.choice(names), *some, state=draw.choice(parts)))
            case 5:
                parts.append(module({"w": draw.choice(parts)}, {"m": draw.choice(parts)}, some))
            case _:
                parts.append({"state_dict": draw.choice(parts), "args": draw.choice(parts)})
    return parts[-1]


# -- the boundary ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a\nb\x1b[31m"), r"cannot be read as a checkpoint \(ValueError: a\)"),
        (RecursionError("deep"), "nested too deeply"),
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] not enough memory: 9 bytes"),
            "not enough",
        ),
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
        (BadFile("damaged: so"), "damaged: so"),
        (DataError("of its own"), "^of its own$"),
    ],
)
def test_what_goes_wrong_within_is_an_error_of_the_project(error, says, tmp_path):
    with pytest.raises(InputError, match=says) as caught, boundary(tmp_path / "x.pt"):
        raise error
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_the_boundary(interrupt, tmp_path):
    with pytest.raises(interrupt), boundary(tmp_path / "x.pt"):
        raise interrupt


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("left", [0, 3000])
def test_a_file_that_is_cut_while_it_is_read_is_a_line(suffix, left, tmp_path, monkeypatch):
    from safetensors.torch import save

    state = files.network().state_dict()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(files.saved(state) if suffix == ".pt" else save(state))
    sniff = reading.detect_format

    def sniffed(where, file):
        kind = sniff(where, file)
        os.truncate(path, left)
        return kind

    monkeypatch.setattr(reading, "detect_format", sniffed)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_file_that_is_replaced_while_it_is_read_does_not_matter(tmp_path, monkeypatch):
    path, other = tmp_path / "x.pt", tmp_path / "y.pt"
    torch.save(files.network().state_dict(), path)
    before = read_checkpoint(path)
    sniff = reading.detect_format

    def sniffed(where, file):
        torch.save(files.network(seed=1).state_dict(), other)
        other.replace(path)
        return sniff(where, file)

    monkeypatch.setattr(reading, "detect_format", sniffed)
    found = read_checkpoint(path)
    assert (found.sha256, found.weights) == (before.sha256, before.weights)


# -- digests --------------------------------------------------------------------------------------


def by_parts(state):
    """The digest as it is defined, of tensors that are contiguous."""
    parts = []
    for key, value in sorted(state.items()):
        parts.append(canonical([key, str(value.dtype), list(value.shape)]))
        parts.append(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest(*parts)


def _whole(tensor):
    """The same numbers, one after another in memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


STRIDED = {
    "one row of a column": torch.rand(5, 4)[:1, 1:2],
    "one element with a stride": torch.rand(10)[::5][:1],
    "a column": torch.rand(5, 4)[:, 2],
    "transposed": torch.rand(5, 4).T,
    "expanded": torch.rand(3, 1).expand(3, 4),
    "every second": torch.rand(3, 4)[:, ::2],
    "0-d": torch.tensor(3.0),
    "0-d of a row": torch.rand(5)[3],
    "empty": torch.empty(0, 3),
    "empty of an array": torch.from_numpy(np.empty((0, 4), np.float32)),
    "empty with strides": torch.empty(3, 0).T,
    "float16": torch.rand(4, 6).half()[:, ::3],
    "complex": torch.rand(4, 6, dtype=torch.complex64)[:, 1],
    "bool": torch.tensor([True, False, True, False])[::2],
    "large": torch.arange(2.0 * PIECE + 6).view(2, -1).T,
}


@pytest.mark.parametrize("name", STRIDED)
def test_a_digest_is_of_numbers_not_of_strides(name):
    tensor = STRIDED[name]
    assert weights_digest({"w": tensor.numpy()}) == by_parts({"w": _whole(tensor)})
    assert weights_digest({"w": tensor.numpy()}) != weights_digest({"v": tensor.numpy()})


def test_arrays_of_a_pickle_are_digested(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": np.empty((0, 4), np.float32), "b": np.ones((2, 3)).T}))
    found = read_checkpoint(path)
    assert found.weights == by_parts({"a": torch.empty(0, 4), "b": torch.ones(3, 2)})


def test_masks_of_other_shapes_multiply_nothing(tmp_path):
    path = tmp_path / "x.pt"
    state = {"w_orig": torch.ones(1, 3), "w_mask": torch.ones(3, 1)}
    torch.save(state, path)
    assert read_checkpoint(path).weights == by_parts(state)
    with pytest.raises(CheckpointError, match="unexpected: w_orig, w_mask"):
        read_checkpoint(path, model="lenet5")
