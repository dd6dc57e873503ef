"""A Ray cluster: the way to it, what it has room for, and what has become of those who were lost.

Ray is imported when it is asked for. A machine that is lost is no fault of the work that ran on it.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from robustkit.errors import EvaluationFailed, InputError, cut, first_line
from robustkit.parsing import whole

PAUSE = 5.0
"""seconds between two looks at how large the cluster is, and after a machine was lost"""
KNOCK = 10.0
"""seconds for an answer from a cluster's address; Ray itself would try for minutes"""
STORE_BYTES = 100 * 2**20
"""of a Ray started here, whose object store carries nothing but jobs"""
WAIT = 60.0
"""seconds for which a cluster without any machine is waited for"""
OF_MACHINE = ("node has died", "node died", "owner has died", "raylet died", "node was terminated")
"""what Ray says of an actor that was lost with its machine, or with the way to it"""


@dataclass(slots=True)
class Cluster:
    """A Ray cluster, and what each worker takes of it."""

    ray: Any
    """the module, connected"""
    address: str
    """as the user gave it"""
    cpus: int
    gpus: float
    _empty: float | None = None
    """since when no machine is there, by `time.monotonic`"""
    _cut_off: bool = False
    """whether Ray's agent on this very machine is gone, without which nothing is handed out"""
    _until: float = 0.0
    """when the next look at a cluster that has just lost something is due"""

    def lanes(self) -> int:
        """How many workers the cluster as it is now has room for."""
        return sum(min(self._fits(m, "CPU"), self._fits(m, "GPU")) for m in self._machines())

    def room(self, most: int | None = None) -> int:
        """How many may be under way, and at most that many; 0 while there is no machine.

        One more than fit, so that no worker waits for the next and an autoscaler sees a need.

        Raises:
            EvaluationFailed: there has been no machine for too long.
        """
        if self._missing() or time.monotonic() < self._until:
            return 0
        lanes = self.lanes() + 1
        return lanes if most is None else min(lanes, most)

    def check_installed(self, error: BaseException) -> None:
        """Of what a worker raised, that it was no want of a module on its machine.

        Raises:
            InputError: it was.
        """
        if "ModuleNotFoundError" in str(error):
            said = str(error).strip().splitlines()[-1]
            raise InputError(f"{said}; every machine needs the same robustkit installed") from error

    def lost_machine(self, error: BaseException) -> bool:
        """Whether a worker was lost with its machine, and not by its own doing."""
        errors = self.ray.exceptions
        self._cut_off = self._cut_off or isinstance(error, errors.LocalRayletDiedError)
        kinds = (errors.NodeDiedError, errors.LocalRayletDiedError)
        said = str(error).lower()
        lost = isinstance(error, kinds) or any(words in said for words in OF_MACHINE)
        if lost:  # Ray goes on to count a machine for some seconds
            self._until = time.monotonic() + PAUSE
        return lost

    def _machines(self) -> list[dict[str, Any]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _fits(self, machine: dict[str, float], what: str) -> int:
        each = self.cpus if what == "CPU" else self.gpus
        return math.floor(machine.get(what, 0) / each + 1e-9) if each else 10**9

    def _missing(self) -> bool:
        if self._machines() and not self._cut_off:
            self._empty = None
            return False
        now = time.monotonic()
        self._empty = now if self._empty is None else self._empty
        if now - self._empty >= WAIT:
            raise EvaluationFailed(
                f"--ray {self.address}: the cluster is gone: none of its machines has answered for "
                f"{WAIT:.0f} seconds; what is finished is kept, and the same command goes on from "
                "there when the cluster is back"
            )
        return True


@contextmanager
def connected(address: str, store: int = STORE_BYTES) -> Iterator[Any]:
    """Ray, quiet; what is started here also ends here, and what was connected stays so.

    Args:
        address: auto: the one named by RAY_ADDRESS, or else one started here.
        store: bytes of the object store, where it is started here.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--ray needs Ray; install it with: pip install 'robustkit[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    place = os.environ.get("RAY_ADDRESS") or "local" if address == "auto" else address
    _knock(place)
    local = {"include_dashboard": False, "object_store_memory": store}
    options: dict[str, Any] = local if place == "local" else {}
    try:
        with _own_signals():
            ray.init(place, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError, ImportError) as error:
        said = first_line(error)
        raise InputError(f"--ray {address}: {said}") from error
    try:
        with _silent(ray):
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Keep Ray from printing to stdout, where results go, pages on each worker that was lost."""
    speaker, name = getattr(ray._private, "worker", None), "print_to_stdstream"
    said = getattr(speaker, name, None)
    if said is None:  # another version of Ray
        yield
        return
    setattr(speaker, name, lambda *given, **more: None)
    try:
        yield
    finally:
        setattr(speaker, name, said)


def _knock(address: str) -> None:
    """See that something answers at HOST:PORT.

    Raises:
        InputError: nothing does, or it is no such address.
    """
    if address in ("local", "auto"):  # as RAY_ADDRESS may say
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or (number := whole(port)) is None:
        raise InputError(f"--ray {cut(address)}: expected auto or HOST:PORT, as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), number), KNOCK).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray {address}: no answer ({first_line(error)})") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces by one that only exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
