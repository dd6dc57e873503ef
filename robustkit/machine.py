"""What of the machine this process may use."""

import os
import platform
from contextlib import suppress
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""where Linux describes its processors"""
NAMING = ("model name", "Model", "cpu model", "Hardware")
"""keys there that name the model, by architecture"""


def cores() -> int:
    """Cores that the process may run on: under taskset or in a container not all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(workers: int = 1) -> int:
    """Threads for each of so many workers, and no more than OMP_NUM_THREADS allows.

    More threads than free cores make small tensors wait for each other many times over.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // workers)
    return min(share, int(asked)) if asked.isdigit() and int(asked) else share


def processor() -> str:
    """The model of the processor, "unknown" where it cannot be told."""
    with suppress(OSError):
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        told = {key.strip(): text.strip() for key, _, text in (x.partition(":") for x in lines)}
        if name := next((told[key] for key in NAMING if told.get(key)), ""):
            return " ".join(name.split())
    return platform.processor() or "unknown"
