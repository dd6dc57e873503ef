"""Several devices: the rows of one, whoever is lost on the way."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.crews import FakeRay, Playground, TakingTurns, nodes

from robustkit import device as naming
from robustkit import evaluate, models, read_checkpoint, record
from robustkit.cli import guard
from robustkit.device import devices
from robustkit.errors import EvaluationFailed, InputError
from robustkit.evaluation import blocks, proving, spreading
from robustkit.parallel import cluster
from robustkit.parallel.crew import Workplace
from robustkit.parallel.parcel import pack
from robustkit.parallel.processes import Processes
from robustkit.seeding import seeded

HERE = [Workplace("cpu", 1)]
LEVELS = ["1/50", "1/10", "1/5"]


class Net(torch.nn.Module):
    """A network small enough to be proved, whose weights are always the same."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(16, 12), torch.nn.Linear(12, 3)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.rand(value.shape, generator=source) - 0.5)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1) - 0.5)))


@pytest.fixture(scope="module")
def arrays():
    images = torch.rand(150, 1, 4, 4, generator=torch.Generator().manual_seed(1)).numpy()
    with torch.no_grad():
        labels = Net()(torch.from_numpy(images)).argmax(1).numpy()
    labels[::25] = (labels[::25] + 1) % 3
    return images, labels


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Five blocks, whose images are proved where they can be."""
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 32)
    monkeypatch.setattr(proving, "TRACING", 0.0)
    monkeypatch.setattr(proving, "SHARE", 1e9)
    monkeypatch.setattr(proving, "SLOW", 1e-3)


def ask(arrays, folder, **options):
    settings = {"epsilon": LEVELS, "attack": "pgd", "name": "net", "device": "cpu,cpu"} | options
    if settings["attack"] == "pgd":
        settings["settings"] = ["steps=8", "relative_step=1/4", "restarts=1"]
    return evaluate(settings.pop("model", Net()), arrays, out=folder, **settings)


def crew(monkeypatch, losses=()):
    made = TakingTurns(losses)
    monkeypatch.setattr(spreading, "Processes", made)
    return made


def alike(several, one):
    assert several.table.equals(one.table)
    assert several.header == one.header
    assert [e.index for e in several.examples] == [e.index for e in one.examples]
    assert several.run["proof"]["attacked"] == one.run["proof"]["attacked"]


@pytest.mark.thorough
def test_rows_are_those_of_one_device_whoever_is_lost(arrays, tmp_path, monkeypatch):
    own = crew(monkeypatch, losses=[1, 0])
    shares = []
    several = ask(
        arrays,
        tmp_path / "two",
        save_adversarial=tmp_path / "two.npz",
        progress=lambda done, total: shares.append(done / total),
    )
    one = ask(arrays, tmp_path / "one", device="cpu", save_adversarial=tmp_path / "one.npz")
    alike(several, one)
    assert several.run["proof"]["attacked"] >= 20  # proofs are checked as one device checks them
    with np.load(tmp_path / "two.npz") as two, np.load(tmp_path / "one.npz") as single:
        assert np.array_equal(two["images"], single["images"])
    assert own.asked.count(("attack", 1)) >= 2
    assert shares[-1] == 1
    assert ("finish", 1) in own.asked  # a later block waits for what is proved before it


@pytest.mark.thorough
def test_a_block_that_takes_worker_after_worker_with_it_loses_nothing_else(
    arrays, tmp_path, monkeypatch
):
    plain = {"prove": "off", "attack": "fgsm"}
    crew(monkeypatch, losses=[2, 2, 2])
    with pytest.raises(EvaluationFailed, match=r"images 64 to 95: the worker was lost 3 times"):
        ask(arrays, tmp_path, **plain)
    assert not list(tmp_path.rglob("shared.bin"))
    attacked, real = [], blocks.attack_block

    def attack(model, block, *how, **more):
        attacked.append(block.first)
        return real(model, block, *how, **more)

    monkeypatch.setattr(blocks, "attack_block", attack)
    again = ask(arrays, tmp_path, device="cpu", **plain)
    assert attacked == [64]
    alike(again, ask(arrays, tmp_path / "one", device="cpu", **plain))


@pytest.mark.thorough
def test_blocks_behind_one_that_is_given_up_are_kept_whose_proofs_wait(
    arrays, tmp_path, monkeypatch
):
    crew(monkeypatch, losses=[1, 1, 1])
    with pytest.raises(EvaluationFailed, match=r"images 32 to 63: .*all other blocks are kept"):
        ask(arrays, tmp_path)
    attacked, real = [], blocks.attack_block

    def attack(model, block, *how, **more):
        attacked.append(block.first)
        return real(model, block, *how, **more)

    monkeypatch.setattr(blocks, "attack_block", attack)
    again = ask(arrays, tmp_path, device="cpu")
    assert set(attacked) == {32}
    one = ask(arrays, tmp_path / "one", device="cpu")
    for column in ("fooled_at", "distance", "certified_at"):
        assert again.table[column].equals(one.table[column])
    assert again.run["proof"]["attacked"] >= one.run["proof"]["attacked"]


@pytest.mark.thorough
def test_a_network_that_draws_at_random_has_the_same_rows_too(arrays, tmp_path, monkeypatch):
    crew(monkeypatch, losses=[2])
    found = [
        ask(arrays, tmp_path / device, model=Noisy(), device=device, attack="fgsm", epsilon=["0.1"])
        for device in ("cpu", "cpu,cpu")
    ]
    assert found[0].table.equals(found[1].table)


class Nowhere(Net):
    def forward(self, x):
        return super().forward(x) * torch.nan


class Noisy(Net):
    def forward(self, x):
        return super().forward(x + 0.05 * torch.randn_like(x))


def test_a_worker_of_a_cluster_takes_the_gpu_that_it_is_given(monkeypatch):
    """Ray shows it that one alone, which has no number then."""

    def chosen(device):
        assert device.index is not None, "as torch asks"
        taken.append(device)

    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen)
    monkeypatch.setattr(spreading, "BlockBench", lambda site, config: config.device)
    site = spreading.BlockSite(Some(torch.device("cpu")), {}, blocks.Random(False), False)
    for name in ("cuda", "cuda:1", "cpu"):
        assert site.open(Workplace(name, torch.get_num_threads())) == torch.device(name)
    assert taken == [torch.device("cuda:1")]


@dataclass
class Some:
    """What a worker is told of a question, here."""

    device: torch.device


def test_generators_of_gpus_that_are_none_of_ours_are_left_alone(monkeypatch):
    def seeded_all(*given):
        raise AssertionError("every GPU of the program would draw as this one does")

    for name in ("manual_seed", "manual_seed_all", "seed_all"):
        monkeypatch.setattr(torch.cuda, name, seeded_all)
    monkeypatch.setattr(torch, "manual_seed", seeded_all)
    before = torch.get_rng_state()
    with seeded(3, torch.device("cpu")):
        first = torch.rand(2)
    with seeded(3, torch.device("cpu")):
        assert torch.equal(torch.rand(2), first)
    models.build("lenet5", seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_little_memory_halves_the_batch_of_all(arrays, tmp_path, monkeypatch):
    crew(monkeypatch)
    real = blocks.attack_block

    def attack(model, block, protocol, batch_size, **how):
        if batch_size > 16:
            raise torch.OutOfMemoryError("a small device")
        return real(model, block, protocol, batch_size, **how)

    monkeypatch.setattr(blocks, "attack_block", attack)
    found = ask(arrays, tmp_path, batch_size=32, prove="off", attack="fgsm")
    assert found.run["batch_size"] == 16
    # of the first block of each worker: later ones are given with the smaller size
    assert found.run["events"] == [
        f"cpu: out of GPU memory at image {first}: batch size halved to 16" for first in (32, 0)
    ]


def heard(crew, worker, kind):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for news in crew.news(1.0):
            if (news.worker, news.kind) == (worker, kind):
                return news.content
    raise AssertionError(f"no {kind} of {worker}")


@pytest.mark.thorough
def test_processes_share_arrays_are_replaced_and_tell_their_errors(tmp_path):
    parcel = pack(Playground(np.arange(1000.0)), tmp_path / "shared.bin")
    assert len(parcel.content) < 1000  # the numbers stand in the file
    crew = Processes(parcel, HERE)
    try:
        heard(crew, 0, "ready")
        crew.give(0, "die")
        assert heard(crew, 0, "lost") == "killed by SIGKILL"
        heard(crew, 0, "ready")
        crew.give(0, 1)
        assert heard(crew, 0, "done") == 499501
        crew.give(0, "refuse")
        assert str(heard(crew, 0, "failed")) == "not this one"
    finally:
        crew.close()


@pytest.mark.thorough
def test_workers_that_end_before_they_begin_are_one_line(tmp_path):
    crew = Processes(pack(Playground("no"), tmp_path / "shared.bin"), HERE)
    try:
        with pytest.raises(
            EvaluationFailed, match=r"die at start-up \(cpu: it ended with status 5"
        ):
            heard(crew, 0, "ready")
    finally:
        crew.close()


ORPHANS = """
from pathlib import Path
from robustkit.parallel import cluster
from robustkit.parallel.crew import Workplace
from robustkit.parallel.parcel import pack
from robustkit.parallel.processes import Processes
from helpers.crews import Playground

crew = Processes(pack(Playground(), Path("shared.bin")), [Workplace("cpu", 1)])
while True:
    for news in crew.news(1.0):
        if news.kind == "ready":
            crew.give(0, "sleep")
        if news.kind == "told":
            print(news.content, flush=True)
"""


@pytest.mark.thorough
def test_a_killed_parent_leaves_no_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], cwd=tmp_path, stdout=subprocess.PIPE
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker is still there")


def test_what_cannot_travel_or_is_no_set_of_devices_is_one_line(arrays, tmp_path, monkeypatch):
    assert [str(device) for device in devices("cpu, cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match=r"--device all: no GPU here; .* cpu,cpu"):
        devices("all")
    net = Net()
    net.scale = lambda x: x
    with pytest.raises(InputError, match=r"cannot be handed to other processes .*lambda"):
        ask(arrays, tmp_path, model=net, prove="off")
    monkeypatch.setattr(naming, "device", torch.device)
    with pytest.raises(InputError, match="cpu,cuda:1: of several kinds"):
        devices("cpu,cuda:1")
    with pytest.raises(EvaluationFailed, match="NaN"):
        ask(arrays, tmp_path, model=Nowhere(), device="cpu")
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock", ".json"}


OWN = """
import random
import torch
class Net(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.layer, self.scale = torch.nn.Linear(16, 3), scale
    def forward(self, x):
        return self.layer(x.flatten(1)) * self.scale
def build():
    return Net(random.random() + 1)
def inside():
    class Own(Net):
        pass
    return Own()
def itself(path):
    made = Net()
    state = torch.load(path)
    made.load_state_dict({"layer." + key: value for key, value in state.items()})
    return made
"""


@pytest.mark.parametrize(
    ("file", "function"),
    [("net", "build"), ("net", "inside"), ("net", "itself"), ("beside", "build")],
)
def test_a_network_of_a_file_is_made_anew_where_its_class_is_not_known(
    file, function, tmp_path, monkeypatch
):
    (tmp_path / "net.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("from net import build\n")
    front = "" if function == "itself" else "layer."
    state = {f"{front}weight": torch.rand(3, 16), f"{front}bias": torch.rand(3)}
    torch.save(state, tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    read = [read_checkpoint("net.pt", model=f"{file}.py:{function}") for _ in range(2)]
    x = torch.rand(5, 1, 4, 4)
    parcels = [pack(found, tmp_path / f"{number}") for number, found in enumerate(read)]
    for name in list(sys.modules):
        if name == "net" or name.startswith("_robustkit_user_"):
            monkeypatch.delitem(sys.modules, name)  # as in another process
    monkeypatch.chdir("/")
    for found, parcel in zip(read, parcels, strict=True):
        assert torch.equal(parcel.unpack().load()(x), found.load()(x))


@pytest.mark.slow
def test_a_network_of_a_file_has_the_rows_of_one_device(arrays, tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    state = {"layer.weight": torch.rand(3, 16) - 0.5, "layer.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "net.pt")
    found = read_checkpoint(tmp_path / "net.pt", model=f"{tmp_path}/net.py:build")
    asked = {"model": found, "name": None, "prove": "off"}
    several = ask(arrays, tmp_path / "two", **asked)
    assert several.table.equals(ask(arrays, tmp_path / "one", device="cpu", **asked).table)


def test_a_device_without_float64_is_one_line(monkeypatch):
    ones = torch.ones

    def as_on_apple(*size, dtype=torch.float32, **more):
        if dtype is torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype\nas the framework has none"
            )
        return ones(*size, dtype=dtype, **more)

    monkeypatch.setattr(torch, "ones", as_on_apple)
    for names in ("cpu", "cpu,cpu", "auto"):
        with pytest.raises(InputError, match=r"\A--device \w+: [^\n]*float64[^\n]*robustkit needs"):
            devices(names)


@pytest.mark.parametrize("names", ["cpu,", ",", "cpu,all", " "])
def test_an_empty_name_or_all_among_devices_is_one_line(names):
    with pytest.raises(InputError, match=r"\A--device [^\n]*(stands between commas|is empty)"):
        devices(names)


# --- a cluster ------------------------------------------------------------------------------------

LOST = FakeRay.exceptions


@pytest.mark.parametrize("address", ["", "head", ":6379", "http://head:6379", "head:port"])
def test_what_is_no_address_of_a_cluster_is_one_line(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with (
        pytest.raises(InputError, match=r"\A--ray [^\n]*: expected auto or HOST:PORT"),
        cluster.connected(address),
    ):
        pass


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("os._exit(1)", 3, "robustkit: error: --ray head:1: the cluster is gone"),
        ("sys.exit(1)", 1, ""),
        ("os.kill(os.getppid(), 15); time.sleep(60)", 143, ""),
    ],
)
def test_a_command_that_ray_ends_says_so_and_any_other_end_is_its_own(end, status, said):
    code = (
        "import os, signal, sys, time; from robustkit.cli.guard import in_own_process\n"
        "in_own_process('head:1')\n"
        f"signal.signal(15, lambda *given: sys.exit(143)); {end}"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.returncode == status
    assert found.stderr.startswith(said)
    assert len(found.stderr.splitlines()) == bool(said)


@pytest.mark.parametrize(
    ("words", "text", "address"),
    [
        ("evaluate a.pt --ray auto", "", "auto"),
        ("evaluate a.pt --ray=head:1 --config c.toml", "ray = 'auto'", "head:1"),
        ("evaluate a.pt --config c.toml", "ray = 'auto'", "auto"),
        ("evaluate a.pt --config=c.toml", "ray = 'auto'\n[evaluate]\nray = 'head:1'", "head:1"),
        ("audit a.pt --config c.toml", "[evaluate]\nray = 'head:1'", ""),
        ("evaluate a.pt --config c.toml", "ray = 3", ""),
        ("evaluate a.pt --config c.toml", "evaluate = 3", ""),
        ("evaluate a.pt --config c.toml", "no toml", ""),
        ("evaluate a.pt --config gone.toml", "", ""),
        ("--config", "", ""),
    ],
)
def test_a_cluster_is_named_by_the_command_or_by_its_file(
    words, text, address, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(text, encoding="utf-8")
    assert guard.cluster(words.split()) == address


@contextmanager
def connected_to(ray):
    yield ray


def on_ray(monkeypatch, mishaps=(), machines=lambda: [True, True]):
    ray = FakeRay(mishaps, machines)
    ray.cluster_resources = dict
    monkeypatch.setattr(spreading, "connected", lambda address, store: connected_to(ray))
    monkeypatch.setattr(cluster, "PAUSE", 0.0)
    monkeypatch.setattr(spreading, "PATIENCE", 0.01)
    return ray


@pytest.mark.thorough
def test_machines_of_a_cluster_give_the_rows_of_one_device_whatever_is_lost(
    arrays, tmp_path, monkeypatch
):
    gone, crashed = LOST.NodeDiedError("no"), LOST.WorkerCrashedError("no")
    plain = {"prove": "off", "attack": "fgsm", "device": "cpu"}
    # three are set up; then five machines are lost under blocks, and two workers
    ray = on_ray(monkeypatch, [None, None, None, gone, gone, crashed, gone, gone, crashed, gone])
    several = ask(arrays, tmp_path / "ray", ray="auto", **plain)
    assert len(ray.began) == 10
    alike(several, ask(arrays, tmp_path / "one", **plain))


def test_what_a_machine_of_the_cluster_lacks_is_told_with_its_name(arrays, tmp_path, monkeypatch):
    on_ray(monkeypatch)

    def opened(site, place):
        raise InputError("net.py: no such file")

    monkeypatch.setattr(spreading.BlockSite, "open", opened)
    with pytest.raises(InputError, match=rf"\A{platform.node()}: net.py: no such file\Z"):
        ask(arrays, tmp_path, ray="auto", prove="off", attack="fgsm", device="cpu")


@pytest.mark.thorough
def test_a_cluster_that_is_gone_ends_the_command_and_keeps_what_is_done(
    arrays, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "WAIT", 0.2)
    plain = {"prove": "off", "attack": "fgsm", "device": "cpu", "ray": "head:6379"}
    alive = [True]
    on_ray(monkeypatch, [None, None, None, LOST.NodeDiedError("no")], lambda: alive)
    attacked, real = [], spreading.BlockBench.carry_out

    def carry_out(bench, job, tell):
        attacked.append(job.span.number)
        alive[:] = [len(attacked) < 2]
        return real(bench, job, tell)

    monkeypatch.setattr(spreading.BlockBench, "carry_out", carry_out)
    with pytest.raises(EvaluationFailed, match=r"--ray head:6379: the cluster is gone: .* 0 sec"):
        ask(arrays, tmp_path, **plain)
    monkeypatch.setattr(spreading.BlockBench, "carry_out", real)
    kept = list(tmp_path.glob("*.partial/block-*.parquet"))
    assert 1 <= len(kept) < 5
    alive[:] = [True]
    alike(ask(arrays, tmp_path, **plain), ask(arrays, tmp_path / "one", **plain | {"ray": None}))


class Slow(Net):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().forward(x)


def once_a_block_is_kept(folder, act):
    """Do something in the middle of an evaluation."""

    def watch():
        while not list(folder.glob("*.partial/block-*.parquet")):
            time.sleep(0.02)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.fixture
def found_by_ray(monkeypatch):
    """Ray's workers find the networks of this file, and take their time."""
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("SLOW", "0.5")


@pytest.mark.slow
def test_a_removed_node_of_a_real_cluster_costs_no_row(arrays, tmp_path, monkeypatch, found_by_ray):
    plain = {"prove": "off", "model": Slow(), "device": "cpu"}
    gone = []
    with nodes(1) as (made, (node,)):
        act = lambda: gone.append(made.remove_node(node, allow_graceful=False))  # noqa: E731
        once_a_block_is_kept(tmp_path / "ray", act)
        several = ask(arrays, tmp_path / "ray", ray=made.address, **plain)
    assert gone
    monkeypatch.delenv("SLOW")
    alike(several, ask(arrays, tmp_path / "one", **plain))


@pytest.mark.slow
def test_a_cluster_that_dies_ends_the_command_which_goes_on_with_another(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    command = [sys.executable, "-m", "robustkit", "evaluate", "lenet5-mnist5k", "--attack", "pgd"]
    command += ["--set", "steps=40", "--prove", "off", "--device", "cpu"]

    def run(where, address):
        asked = [*command, "--out", where, *(["--ray", address] if address else [])]
        return subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    with nodes(0) as (made, _):
        head = made.head_node
        once_a_block_is_kept(
            tmp_path / "runs", lambda: head.kill_all_processes(allow_graceful=False, wait=True)
        )
        found = run("runs", made.address)
    assert found.returncode == 3, found.stderr
    assert "the cluster is gone; what is finished is kept" in found.stderr.splitlines()[-1]
    assert 1 <= len(list(tmp_path.glob("runs/*.partial/block-*.parquet"))) < 4
    with nodes(0) as (made, _):
        found = run("runs", made.address)
    assert found.returncode == 0, found.stderr
    assert run("one", None).returncode == 0
    one, several = (record.read(*tmp_path.glob(f"{n}/*.parquet")) for n in ("one", "runs"))
    assert one.rows_digest == several.rows_digest
