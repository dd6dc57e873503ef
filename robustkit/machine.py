"""What of the machine this process may use, and which torch is there. Needs no torch."""

import ast
import ctypes
import os
import platform
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from robustkit.parsing import whole

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""of glibc's mallopt"""
PATIENCE = {"GOMP_SPINCOUNT": "1000"}
"""how long a thread of torch's turns on the spot when it waits for another: some microseconds"""
WAITING = ("OMP_WAIT_POLICY", *PATIENCE)
"""what users set to have it otherwise"""
KEPT = 2**31 - 1, 2**25
"""bytes: the most that mallopt takes, and what older versions of glibc take"""
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
    return min(share, whole(asked) or share)


def keep_memory() -> None:
    """Have freed memory kept for the next tensor, not handed back to the kernel.

    For a process of our own: it is the whole process's setting. A training step frees and asks for
    the same tens of megabytes over and over; glibc returns blocks of that size to the kernel, which
    then clears every page anew. Elsewhere than on glibc this does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows
        mallopt = ctypes.CDLL(None).mallopt
        for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            any(mallopt(setting, size) for size in KEPT)


def give_way() -> None:
    """Have threads that wait give their core away soon. Works before torch is imported.

    For a process of our own, as `keep_memory`. GNU's OpenMP waits by turning on the spot for a
    millisecond, and where other work holds a core, the threads of a small network spend most of
    their time in it: with three others on two cores, an attack took four times as long.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(PATIENCE)


def processor() -> str:
    """The model of the processor, "unknown" where it cannot be told."""
    with suppress(OSError):
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        told = {key.strip(): text.strip() for key, _, text in (x.partition(":") for x in lines)}
        if name := next((told[key] for key in NAMING if told.get(key)), ""):
            return " ".join(name.split())
    return platform.processor() or "unknown"


def kind_of_device(name: str) -> str | None:
    """The kind of the device, or devices, of that name; None where only torch can tell."""
    if "," in name:
        kinds = {kind_of_device(part.strip()) for part in name.split(",")}
        return kinds.pop() if len(kinds) == 1 else None
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"
    return None


def _may_have_gpu() -> bool:
    """False where torch is built for processors alone, or its GPUs have no driver here."""
    built = _built()
    if built.get("hip") or built.get("xpu") or "cuda" not in built:
        return True
    if built["cuda"] is None:
        return False
    with suppress(OSError):
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return True
    return False


def torch_version() -> str:
    """torch.__version__, with its build's suffix, which the package's metadata may lack."""
    if isinstance(known := _built().get("__version__"), str):
        return known
    import torch

    return str(torch.__version__)


def _built() -> dict[str, object]:
    """What torch/version.py says of its build, read and not run; nothing where it says nothing."""
    found: dict[str, object] = {}
    with suppress(ImportError, OSError, ValueError, SyntaxError):
        origin = getattr(find_spec("torch"), "origin", None) or ""
        tree = ast.parse(Path(origin).with_name("version.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                value = ast.literal_eval(node.value)
                found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found
