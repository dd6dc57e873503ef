import os

# the tensors of these tests are tiny: a second thread costs more than it gives
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal
import sys
from collections import Counter
from itertools import product

import pytest
from hypothesis import settings

from robustkit import cli

# a shell starts a script's background processes with it ignored, and what tests start would ignore
# it, too
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# no test is timed: on a loaded machine an example may take any time
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def robustkit(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["robustkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The file of a study that trains in an instant."""
    from helpers.studies import NET, STUDY

    folder = tmp_path_factory.mktemp("study")
    (folder / "net.py").write_text(NET)
    path = folder / "tiny.toml"
    path.write_text(STUDY.replace("NET", f"{folder / 'net.py'}:net"))
    return path


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """That study worked out: its run, its plan and its folder."""
    from helpers.studies import Here, begin

    folder = tmp_path_factory.mktemp("out")
    run = begin(tiny, folder)
    plan = run.finish(Here(folder))
    return run, plan, folder


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The file of that study on 200 digits: each network reads all images of its data set."""
    from helpers.studies import NET, STUDY, digits

    folder = tmp_path_factory.mktemp("small")
    (folder / "net.py").write_text(NET)
    text, name = STUDY.replace("NET", f"{folder / 'net.py'}:net"), 'data       = "mnist5k"'
    assert name in text
    path = folder / "tiny.toml"
    path.write_text(text.replace(name, f'data       = "{digits(folder / "digits.npz")}"'))
    return path


@pytest.fixture(scope="session")
def ended(small, tmp_path_factory):
    """It worked out: its run, its plan and its folder."""
    from helpers.studies import Here, begin

    folder = tmp_path_factory.mktemp("ended")
    run = begin(small, folder)
    return run, run.finish(Here(folder)), folder


@pytest.fixture(scope="session")
def nets(tmp_path_factory):
    """Checkpoints that say nothing of themselves but by their names."""
    import torch

    folder = tmp_path_factory.mktemp("nets")
    for i, (loss, noise, seed) in enumerate(product(("ce", "l2"), ("0", "0.40"), (0, 1))):
        torch.manual_seed(i)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
        torch.save(net.state_dict(), folder / f"{loss}_noise{noise}_seed{seed}.pt")
    (folder / "readme.txt").write_text("not a network")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws without a seed is the same in each run: none fails once in a thousand."""
    import torch

    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a family every n-th case runs by default, the first alone where no n is given."""
    met = Counter()
    for item in items:
        mark = item.get_closest_marker("one_of_many")
        if mark is None or item.get_closest_marker("slow"):
            continue
        (n,) = mark.args or (len(items),)
        if met[item.function] % n:
            item.add_marker("slow")
        met[item.function] += 1


def pytest_collection_finish():
    """All that collecting imported stays: no collection of garbage goes through it again."""
    gc.collect()
    gc.freeze()
