"""Compression against NumPy: the maths in one process, the hook in two gloo processes.

The two processes are launched once. Their network's loss is linear in its parameters, so that each
gradient is a tensor which the test has drawn, and NumPy can follow every step from the papers'
formulas. What they saw is saved and examined here.
"""

import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn.parallel import DistributedDataParallel

from robustkit import compression
from robustkit.compression import Half, OneBit, PowerSGD, RandomK, TopK, messages, parse
from robustkit.compression.schemes import count
from robustkit.errors import InputError, UnknownName

WORLD = 2
SHAPES = {"a": (5, 7), "b": (5,), "c": (4, 3, 2), "d": (1,), "e": (11, 2), "f": (3,)}
BUCKET_MB = 100 / 2**20  # some hundred bytes: several buckets
STEPS = 4
TRACED = ["top-k:0.1", "top-k:3", "random-k:0.1", "random-k:3", "one-bit", "one-bit:input"]
EVERY = [*TRACED, "top-k:100%", "random-k:100%", "fp16", "bf16", "powersgd:1"]
RESUMED = ["top-k:0.1", "random-k:0.1", "one-bit", "fp16", "powersgd:1"]
PLAIN = "plain"
ONE_LINE = {
    "scheme": "the saved state has scheme top-k:3, this run has one-bit;",
    "memory": "the saved state has memory True, this run has False;",
    "seed": "the saved state has seed 7, this run has 8;",
    "shapes": "the saved state has other parameter shapes than this run;",
    "buckets": "the saved state has other parameter buckets than this run;",
    "rank": "the saved state has rank",
    "empty": "the saved state has scheme None, this run has top-k:3;",
    "twice": "the model has a communication hook already;",
    "static": "impossible with static_graph=True;",
    "scalar": "powersgd cannot send 'alone', which has no dimension;",
    "rate": "cannot follow a learning rate of 0.0;",
    "negative": "expected a seed of at least 0, got -1",
}


class Linear(torch.nn.Module):
    """The gradient of parameter p is what the test gives for p, to the bit."""

    def __init__(self, shapes=None):
        super().__init__()
        for name, shape in (shapes or SHAPES).items():
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))

    def forward(self, given):
        # gradients arrive in the order of registration, not in the reverse, which is DDP's guess
        return sum((given[name] * p).sum() for name, p in reversed(list(self.named_parameters())))


def gradients(rank, step):
    """Multiples of 1/64 below 4, so that sums of a few are exact in float32."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return {
        name: torch.randint(-256, 256, shape, generator=generator) / 64
        for name, shape in SHAPES.items()
    }


# ---------------------------------------------------------------- what the two processes do


def wrapped(scheme=PLAIN, memory=True, seed=7, network=None, **options):
    ddp = DistributedDataParallel(network or Linear(), bucket_cap_mb=BUCKET_MB, **options)
    if scheme == PLAIN:
        return ddp, None
    return ddp, compression.attach(ddp, parse(scheme), seed=seed, memory=memory)


def traced(rank, scheme, memory):
    """Averaged gradients of every step, and what the compressor says at the end."""
    ddp, compressor = wrapped(scheme, memory)
    seen = []
    for step in range(STEPS):
        ddp.zero_grad()
        ddp(gradients(rank, step)).backward()
        seen.append({name: p.grad.clone() for name, p in ddp.module.named_parameters()})
    return {"seen": seen, "state": compressor.state_dict(), "record": compressor.record()}


class Net(torch.nn.Module):
    """A real network, whose layers are used in an order other than that of registration."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(12, 3)
        self.first = torch.nn.Linear(6, 12)
        self.norm = torch.nn.BatchNorm1d(12)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            for p in self.parameters():
                torch.nn.init.normal_(p, std=0.5)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).tanh())


def steps(rank, ddp, compressor, optimizer, numbers):
    for step in numbers:
        if compressor:
            compressor.learning_rate(1 / (4 + step))
        for group in optimizer.param_groups:
            group["lr"] = 1 / (4 + step)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        ddp(x).square().mean().backward()
        optimizer.step()


def weights(ddp):
    return b"".join(p.detach().numpy().tobytes() for p in ddp.parameters())


def trained(rank, scheme):
    ddp, compressor = wrapped(scheme, network=Net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    steps(rank, ddp, compressor, optimizer, range(STEPS))
    return weights(ddp)


def resumed(rank, scheme, folder):
    """The same training with a break in the middle: everything anew, from a file."""
    ddp, compressor = wrapped(scheme, network=Net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    steps(rank, ddp, compressor, optimizer, range(2))
    path = folder / f"break-{rank}.pt"
    torch.save([ddp.module.state_dict(), optimizer.state_dict(), compressor.state_dict()], path)
    network, (module, moments, state) = Net(), torch.load(path, weights_only=True)
    network.load_state_dict(module)
    ddp, compressor = wrapped(scheme, network=network)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    optimizer.load_state_dict(moments)
    compressor.load_state_dict(state)
    steps(rank, ddp, compressor, optimizer, range(2, STEPS))
    return {"weights": weights(ddp), "record": compressor.record(), "scheme": state["scheme"]}


def scheduled(rank, rescale):
    """Plain SGD under a schedule, top-k with memory; weights after every step."""
    ddp, _ = wrapped()
    compressor = compression.attach(ddp, parse("top-k:3"), seed=7, rescale=rescale)
    optimizer, seen = torch.optim.SGD(ddp.parameters(), lr=1.0), []
    for step in range(STEPS):
        rate = 2.0 ** -(step // 2)
        compressor.learning_rate(rate)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        ddp(gradients(rank, step)).backward()
        optimizer.step()
        seen.append({name: p.detach().clone() for name, p in ddp.module.named_parameters()})
    return {"seen": seen, "buckets": compressor.state_dict()["buckets"]}


def untouched(rank):
    """What attaching leaves behind."""
    ddp, _ = wrapped(network=Net())
    before = {name: value.clone() for name, value in ddp.module.state_dict().items()}
    draw = torch.random.get_rng_state()
    compressor = compression.attach(ddp, parse("top-k:3"), seed=7)
    return {
        "state": all(torch.equal(v, before[n]) for n, v in ddp.module.state_dict().items()),
        "generator": torch.equal(torch.random.get_rng_state(), draw),
        "gradients": all(p.grad is None for p in ddp.parameters()),
        "counters": (compressor.steps, compressor.bytes_sent, compressor.plain_bytes),
        "module": isinstance(ddp.module, Net),
    }


def diverged(rank):
    """One NaN on one rank: nobody hangs, everybody sees it."""
    seen = {}
    for scheme in TRACED[::2]:
        ddp, _ = wrapped(scheme)
        for step in range(2):
            given = gradients(rank, step)
            if rank:
                given = {name: torch.full_like(value, math.nan) for name, value in given.items()}
            ddp.zero_grad()
            ddp(given).backward()
        seen[scheme] = any(bool(p.grad.isnan().any()) for p in ddp.parameters())
    return seen


def complaints(rank):
    """The message of everything that must be refused."""
    _, saved = wrapped("top-k:3")
    state = saved.state_dict()
    other = {name: (*shape, 2) for name, shape in SHAPES.items()}
    loads = {
        "scheme": (wrapped("one-bit"), state),
        "memory": (wrapped("top-k:3", memory=False), state),
        "seed": (wrapped("top-k:3", seed=8), state),
        "shapes": (wrapped("top-k:3", network=Linear(other)), state),
        "buckets": (wrapped("top-k:3"), state | {"buckets": [list(SHAPES)]}),
        "rank": (wrapped("top-k:3"), state | {"rank": 1 - rank}),
        "empty": (wrapped("top-k:3"), {}),
    }
    tries = {
        key: lambda fresh=fresh, state=state: fresh[1].load_state_dict(state)
        for key, (fresh, state) in loads.items()
    }
    taken, _ = wrapped("top-k:3")
    tries["twice"] = lambda: compression.attach(taken, parse("one-bit"), seed=0)
    tries["static"] = lambda: wrapped("one-bit", static_graph=True)
    tries["scalar"] = lambda: wrapped("powersgd:1", network=Linear({"alone": ()}))
    tries["rate"] = lambda: saved.learning_rate(0.0)
    tries["negative"] = lambda: wrapped("one-bit", seed=-1)
    said = {}
    for key, attempt in tries.items():
        try:
            attempt()
        except InputError as error:
            said[key] = str(error)
    return said


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    out = {
        "traced": {(s, m): traced(rank, s, m) for s in EVERY for m in (True, False)},
        "trained": {s: trained(rank, s) for s in [PLAIN, *EVERY]},
        "resumed": {s: resumed(rank, s, folder) for s in RESUMED},
        "scheduled": {rescale: scheduled(rank, rescale) for rescale in (True, False)},
        "untouched": untouched(rank),
        "diverged": diverged(rank),
        "complaints": complaints(rank),
    }
    torch.save(out, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saw."""
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, (folder,), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


# ---------------------------------------------------------------- NumPy's view of the same


def flat(values, names):
    return np.concatenate([values[name].numpy().astype(np.float64).ravel() for name in names])


def chosen(scheme, values, step, bucket):
    """The coordinates that are sent, straight from the definition."""
    k = math.ceil(len(values) / 10) if "0.1" in scheme else min(3, len(values))
    if scheme.startswith("random"):
        generator = np.random.default_rng([7, step, bucket])
        return np.sort(generator.choice(len(values), k, replace=False, shuffle=False))
    return np.lexsort((np.arange(len(values)), -np.abs(values)))[:k]


def cntk(values, axis):
    """CNTK's zero-threshold formula on a matrix whose groups lie along `axis`, value by value."""
    out = np.moveaxis(values.astype(np.float64).copy(), axis, -1)
    for group in np.ndindex(out.shape[:-1]):
        column = out[group]
        low, high = column[column < 0], column[column >= 0]
        val0 = low.sum() / max(len(low), 1)
        val1 = high.sum() / max(len(high), 1)
        out[group] = [val1 if v >= 0 else val0 for v in column]
    return np.moveaxis(out, -1, axis)


def quantised(values, names, column):
    parts, start = [], 0
    for name in names:
        shape = SHAPES[name]
        part = values[start : (start := start + math.prod(shape))]
        wide = part.reshape(shape[0], -1) if len(shape) > 1 else part.reshape(1, -1)
        parts.append(cntk(wide, 0 if column == "input" and len(shape) > 1 else 1).ravel())
    return np.concatenate(parts)


def sent(scheme, values, names, step, bucket):
    """What one rank sends, dense."""
    if scheme.startswith("one-bit"):
        return quantised(values, names, "input" if "input" in scheme else "output")
    out = np.zeros_like(values)
    where = chosen(scheme, values, step, bucket)
    out[where] = values[where]
    return out


def followed(scheme, memory, buckets):
    """Averaged gradients and both ranks' memory, from the papers' recursion."""
    errors = [[np.zeros(len(flat(gradients(0, 0), names))) for names in buckets] for _ in range(2)]
    averages = []
    for step in range(STEPS):
        averages.append([])
        for bucket, names in enumerate(buckets):
            total = 0
            for rank in range(WORLD):
                value = flat(gradients(rank, step), names) + errors[rank][bucket]
                message = sent(scheme, value, names, step, bucket)
                errors[rank][bucket] = (value - message) * memory
                total = total + message
            averages[-1].append(total / WORLD)
    return averages, errors


# ---------------------------------------------------------------- two processes


@pytest.mark.thorough
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("scheme", TRACED)
def test_every_step_and_the_memory_follow_the_papers_recursion(ranks, scheme, memory):
    states = [rank["traced"][scheme, memory]["state"] for rank in ranks]
    buckets = states[0]["buckets"]
    assert len(buckets) > 2
    averages, errors = followed(scheme, memory, buckets)
    tolerance = 2e-5 if scheme.startswith("one-bit") else 0  # means round, sums here do not
    for step, averaged in enumerate(ranks[0]["traced"][scheme, memory]["seen"]):
        for names, expected in zip(buckets, averages[step], strict=True):
            np.testing.assert_allclose(flat(averaged, names), expected, rtol=0, atol=tolerance)
    for state, mine in zip(states, errors, strict=True):
        assert len(state["tensors"]) == (len(buckets) if memory else 0)
        for bucket, error in enumerate(mine) if memory else ():
            kept = state["tensors"][f"memory.{bucket}"].numpy()
            np.testing.assert_allclose(kept, error, rtol=0, atol=tolerance)


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", [s for s in EVERY if s not in ("fp16", "bf16")])
def test_nothing_is_lost_what_was_averaged_and_what_is_kept_add_up(ranks, scheme):
    runs = [rank["traced"][scheme, True] for rank in ranks]
    for bucket, names in enumerate(runs[0]["state"]["buckets"]):
        arrived = sum(flat(step, names) for step in runs[0]["seen"])
        kept = sum(run["state"]["tensors"][f"memory.{bucket}"].numpy() for run in runs) / WORLD
        made = sum(flat(gradients(r, t), names) for r in range(WORLD) for t in range(STEPS)) / WORLD
        np.testing.assert_allclose(arrived + kept, made, rtol=0, atol=5e-5)
        if scheme.startswith("top-k"):
            np.testing.assert_array_equal(arrived + kept, made)


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", EVERY)
def test_replicas_stay_identical(ranks, scheme):
    first, second = (rank["trained"][scheme] for rank in ranks)
    assert first == second
    assert first != ranks[0]["trained"][PLAIN] or "100%" in scheme
    for memory in (True, False):
        here, there = (rank["traced"][scheme, memory]["seen"] for rank in ranks)
        assert all(torch.equal(a[n], b[n]) for a, b in zip(here, there, strict=True) for n in a)


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["top-k:100%", "random-k:100%"])
def test_everything_sent_is_plain_allreduce_to_the_bit(ranks, scheme):
    assert ranks[0]["trained"][scheme] == ranks[0]["trained"][PLAIN]


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", RESUMED)
def test_a_run_resumes_byte_for_byte(ranks, scheme):
    for rank in ranks:
        again = rank["resumed"][scheme]
        assert again["weights"] == rank["trained"][scheme]
        assert again["scheme"] == str(parse(scheme))
        assert again["record"]["steps"] == STEPS


def payload(scheme, sizes):
    """Bytes a step, by hand: `sizes` are the buckets' shapes."""
    total = 0
    for shapes in sizes:
        numel = sum(math.prod(shape) for shape in shapes)
        k = {"0.1": math.ceil(numel / 10), "3": min(3, numel), "100%": numel}.get(
            scheme.partition(":")[2]
        )
        if scheme.startswith("top"):
            total += 8 * k
        elif scheme.startswith("random"):
            total += 4 * k
        elif scheme.startswith("one"):
            total += -(-numel // 8)
            for shape in shapes:
                rows = shape[0] if len(shape) > 1 else 1
                groups = math.prod(shape) // rows if len(shape) > 1 and "input" in scheme else rows
                total += 8 * groups
        elif scheme == "powersgd:1":
            for shape in shapes:
                n, m = shape[0], math.prod(shape[1:])
                total += 4 * (n + m if 2 * (n + m) < n * m else n * m)
        else:
            total += 2 * numel
    return total


@pytest.mark.thorough
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("scheme", EVERY)
def test_bytes_are_counted(ranks, scheme, memory):
    for rank in ranks:
        run = rank["traced"][scheme, memory]
        sizes = [[SHAPES[name] for name in names] for names in run["state"]["buckets"]]
        record = json.loads(json.dumps(run["record"]))
        plain = 4 * sum(math.prod(shape) for shape in SHAPES.values())
        assert record["bytes_per_step"] == payload(scheme, sizes)
        assert record["plain_bytes_per_step"] == plain
        assert record["ratio"] == payload(scheme, sizes) / plain
        assert run["state"]["bytes_sent"] == STEPS * payload(scheme, sizes)
        assert record["memory"] is (memory and scheme not in ("fp16", "bf16"))


@pytest.mark.thorough
def test_under_a_schedule_the_memory_is_that_of_mem_sgd(ranks):
    """Algorithm 1 of Stich et al. as it is written, the learning rate inside the memory."""
    buckets = ranks[0]["scheduled"][True]["buckets"]
    x = [np.zeros(len(flat(gradients(0, 0), names))) for names in buckets]
    m = [[np.zeros_like(part) for part in x] for _ in range(WORLD)]
    unlike = 0
    for step in range(STEPS):
        rate = 2.0 ** -(step // 2)
        for bucket, names in enumerate(buckets):
            for rank in range(WORLD):
                acc = m[rank][bucket] + rate * flat(gradients(rank, step), names)
                g = sent("top-k:3", acc, names, step, bucket)
                x[bucket] = x[bucket] - g / WORLD
                m[rank][bucket] = acc - g
            seen = flat(ranks[0]["scheduled"][True]["seen"][step], names)
            np.testing.assert_allclose(seen, x[bucket], rtol=0, atol=1e-5)
            unlike += not np.allclose(flat(ranks[0]["scheduled"][False]["seen"][step], names), seen)
    assert unlike  # the option is off in the other run, and it matters here


@pytest.mark.thorough
def test_attaching_changes_nothing_that_is_trained(ranks):
    for rank in ranks:
        assert rank["untouched"] == {
            "state": True,
            "generator": True,
            "gradients": True,
            "counters": (0, 0, 0),
            "module": True,
        }


@pytest.mark.thorough
def test_nan_on_one_rank_reaches_all_and_hangs_none(ranks):
    for rank in ranks:
        assert rank["diverged"] == dict.fromkeys(TRACED[::2], True)


@pytest.mark.thorough
@pytest.mark.parametrize("key", ONE_LINE)
def test_what_cannot_be_taken_up_is_said_in_one_line(ranks, key):
    for rank in ranks:
        assert ONE_LINE[key] in rank["complaints"][key]
        assert "\n" not in rank["complaints"][key]


# ---------------------------------------------------------------- one process


floats = st.floats(-1e6, 1e6, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=floats), st.data())
@settings(max_examples=60, deadline=None)
def test_largest_takes_the_first_of_equals(values, data):
    k = data.draw(st.integers(1, len(values)))
    expected = np.lexsort((np.arange(len(values)), -np.abs(values)))[:k]
    found = messages.largest(torch.from_numpy(values), k).numpy()
    np.testing.assert_array_equal(found, np.sort(expected))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_largest_always_finds_k(bad):
    values = torch.tensor([1.0, bad, 3.0, bad, bad])
    assert messages.largest(values, 2).tolist() == [1, 3]
    assert messages.largest(values, 4).tolist() == [1, 2, 3, 4]


def test_draws_are_uniform_distinct_and_a_function_of_their_key():
    hits = np.zeros(20)
    for step in range(4000):
        indices = messages.drawn(20, 5, (0, step, 0)).numpy()
        assert len(set(indices)) == 5
        hits[indices] += 1
    assert np.abs(hits / 4000 - 1 / 4).max() < 5 * math.sqrt(3 / 16 / 4000)
    first = messages.drawn(1000, 50, (1, 2, 3))
    assert torch.equal(first, messages.drawn(1000, 50, (1, 2, 3)))
    for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(first, messages.drawn(1000, 50, key))


@given(arrays.arrays(np.bool_, st.integers(0, 70)))
@settings(max_examples=60, deadline=None)
def test_bits_are_packed_as_numpy_packs_them(bits):
    packed = messages.pack(torch.from_numpy(bits))
    np.testing.assert_array_equal(packed.numpy(), np.packbits(bits, bitorder="little"))
    np.testing.assert_array_equal(messages.unpack(packed, len(bits)).numpy(), bits)


@given(st.data(), st.sampled_from(["output", "input"]))
@settings(max_examples=60, deadline=None)
def test_one_bit_is_cntks_formula(data, column):
    shapes = data.draw(
        st.lists(st.lists(st.integers(1, 6), min_size=0, max_size=4), min_size=1, max_size=3)
    )
    parts = [
        data.draw(arrays.arrays(np.float64, shape, elements=st.floats(-10, 10, width=32)))
        for shape in map(tuple, shapes)
    ]
    matrices = [messages.matrix(shape, column) for shape in shapes]
    value = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
    bits, levels = messages.quantise(value, matrices)
    found = messages.reconstruct(bits, levels, matrices).numpy()
    expected = []
    for part in parts:
        wide = part.reshape(part.shape[0], -1) if part.ndim > 1 else part.reshape(1, -1)
        expected.append(cntk(wide, 0 if column == "input" and part.ndim > 1 else 1).ravel())
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-12, atol=1e-12)
    assert len(bits) == -(-len(value) // 8)


def test_messages_come_apart_as_they_were_put_together():
    parts = [
        torch.tensor([1.5, -2.5, 3.5], dtype=torch.float16),
        torch.tensor([1, 2, 3], dtype=torch.int32),
        torch.tensor([math.pi], dtype=torch.float64),
        torch.tensor([7], dtype=torch.uint8),
    ]
    message = messages.join(parts)
    assert message.numel() == 6 + 12 + 8 + 1
    for part, found in zip(parts, messages.separate(message, parts), strict=True):
        assert found.dtype == part.dtype
        assert torch.equal(found, part)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("top-k:0.01", TopK(Fraction(1, 100))),
        ("top-k:1%", TopK(Fraction(1, 100))),
        ("top-k:1/3", TopK(Fraction(1, 3))),
        ("top-k:1", TopK(1)),
        ("top-k:100%", TopK(Fraction(1))),
        ("top-k:1.0", TopK(Fraction(1))),
        ("random-k:100", RandomK(100)),
        ("one-bit", OneBit("output")),
        ("one-bit:input", OneBit("input")),
        ("fp16", Half("fp16")),
        ("bf16", Half("bf16")),
        ("powersgd:4", PowerSGD(4)),
    ],
)
def test_schemes_are_read_and_written(text, scheme):
    assert parse(text) == scheme
    assert parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top-k", "expected top-k:0.01 or top-k:100"),
        ("top-k:", "expected top-k:0.01 or top-k:100"),
        ("top-k:many", "expected top-k:0.01 or top-k:100"),
        ("top-k:0", "above 0"),
        ("top-k:0.0", "above 0"),
        ("top-k:1.5", "at most 1"),
        ("random-k:-3", "above 0"),
        ("random-k:200%", "at most 1"),
        ("random-k:1/0", "expected random-k:0.01"),
        ("powersgd", "expected powersgd:4"),
        ("powersgd:0", "expected powersgd:4"),
        ("fp16:2", "expected fp16"),
        ("one-bit:both", "expected one-bit, one-bit:output or one-bit:input"),
    ],
)
def test_a_malformed_scheme_is_refused_in_one_line(text, words):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_scheme_names_the_closest():
    with pytest.raises(UnknownName, match="unknown compression 'topk'; did you mean 'top-k'"):
        parse("topk:0.01")


@pytest.mark.parametrize(
    ("k", "numel", "expected"),
    [
        (Fraction(1, 100), 250, 3),
        (Fraction(1, 100), 1, 1),
        (Fraction(1), 9, 9),
        (5, 3, 3),
        (5, 9, 5),
    ],
)
def test_shares_are_rounded_up_and_counts_are_cut(k, numel, expected):
    assert count(k, numel) == expected


def test_an_option_is_checked_without_torch():
    code = (
        "import sys; from robustkit import compression; compression.parse('top-k:0.01'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = compression.nothing
