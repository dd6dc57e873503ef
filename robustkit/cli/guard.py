"""A command on a Ray cluster, in a process that Ray may end without a word.

Ray ends a process at once, with status 1, when the head of its cluster has been gone for a minute.
"""

import atexit
import os
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from robustkit.cli.settings import OPTION, value_of
from robustkit.errors import cut, shown

GONE = 3
"""exit status where the cluster is gone"""
WATCH = 0.5
"""seconds between two looks at whether the first process is still there"""


def cluster(arguments: Sequence[str]) -> str:
    """The cluster that a command names, or the file that it takes its options from; "" if none.

    What is wrong with such a file is told by who reads it for all it says.
    """
    if (address := value_of(arguments, "--ray")) is not None:
        return address
    if (file := value_of(arguments, OPTION)) is not None:
        with suppress(OSError, ValueError):
            table = tomllib.loads(Path(file).read_text(encoding="utf-8"))
            own = table.get(arguments[0])
            found = {**table, **(own if isinstance(own, dict) else {})}.get("ray")
            return found if isinstance(found, str) else ""
    return ""


def in_own_process(address: str) -> None:
    """Go on in a new process; the first one passes signals on, waits, and tells how it ended."""
    told, end = os.pipe()
    first = os.getpid()
    child = os.fork()
    if child:
        os.close(end)
        _wait(child, told, address)
    os.close(told)
    # out of reach of the terminal, whose signals come by way of the first
    os.setpgid(0, 0)
    # Ray's end of a process comes past this
    atexit.register(os.write, end, b".")
    threading.Thread(target=_end_with, args=(first,), daemon=True).start()


def _end_with(first: int) -> None:
    while os.getppid() == first:
        time.sleep(WATCH)
    os._exit(GONE)


def _wait(child: int, told: int, address: str) -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        with suppress(OSError):  # of SIGKILL
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    if status == 1 and not os.read(told, 1):
        status = GONE
        print(
            f"robustkit: error: --ray {cut(shown(address))}: the cluster is gone; what is finished "
            "is kept, and the same command goes on from there when the cluster is back",
            file=sys.stderr,
            flush=True,
        )
    os._exit(status)
