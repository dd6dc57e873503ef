import os

# the tensors of these tests are tiny: a second thread costs more than it gives
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import sys

import pytest

from robustkit import cli


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
