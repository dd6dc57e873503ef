"""In which precision and batches a search is fastest: measured once for a network, then kept.

Kept, so that another load of the machine cannot flip a choice on which rows hang.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robustkit import machine
from robustkit.attacks import REVISION, SearchNetwork, build_search, draws_at_random, search_network
from robustkit.attacks.company import FEW
from robustkit.attacks.precision import Low
from robustkit.attacks.prepared import logits_and_gradient
from robustkit.device import fitting, with_threads
from robustkit.errors import InputError
from robustkit.evaluation.config import Config, LowSearch
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.trial import trial, worth
from robustkit.files import canonical, write_atomic
from robustkit.keys import Key, PassTimesKey, SearchTimesKey
from robustkit.network import answer
from robustkit.protocol import Protocol
from robustkit.record import Blocks
from robustkit.seals import read_sealed, sealed

PRECISIONS: Mapping[str, tuple[Low, ...]] = {"cpu": ("bf16",), "cuda": ("tf32", "bf16", "fp16")}
"""that are tried beside float32, by kind of device"""
SIZES: Mapping[str, tuple[int, ...]] = {"cpu": (64, 128, 256), "cuda": (128, 256, 512, 1024, 2048)}
"""of batches, likewise; a processor's blocks hold 256 images"""
USUAL = 128
"""images a batch where nothing is measured"""
ROUNDS = 3
"""passes that are timed of each kind, in turn; the fastest counts"""
SLOW = 1.0
"""seconds of a pass after which no larger batches are tried"""
FASTER = 1.1
"""times as fast as float32's the passes of a low precision must be for it to be tried"""
CLEARLY = 1.2
"""times as fast as in float32 the search itself must be: two trials differ by a tenth"""
ALIKE = 1.03
"""times as fast as a smaller batch a larger one must be"""
WORTH = 100
"""image passes that a search must plan for each one of a measurement"""


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Seconds that passes forth and back take an image, by precision and batch size."""

    seconds: Mapping[str, Mapping[int, float]]
    """always of float32"""
    unfit: Mapping[str, str]
    """precisions that the network fails in, and why"""

    def batch_size(self, precision: str) -> int:
        """The smallest batch of those that are about as fast as the fastest."""
        times = self.seconds.get(precision, {})
        good = [size for size, each in times.items() if each <= ALIKE * min(times.values())]
        return min(good, default=USUAL)

    def gain(self, precision: str) -> float:
        """How many times as fast as float32, each at its best batch size."""
        fastest = {name: min(times.values()) for name, times in self.seconds.items()}
        return fastest["float32"] / fastest[precision]

    @property
    def faster(self) -> list[str]:
        """Those whose passes are clearly faster than float32's."""
        return [word for word in self.seconds if self.gain(word) >= FASTER]

    def __str__(self) -> str:
        """What was found, in words."""
        found = [f"{w} {self.gain(w):.1f} times as fast" for w in self.seconds if w != "float32"]
        found += [reason.partition(": ")[2].partition(";")[0] for reason in self.unfit.values()]
        return ", ".join(found) or "nothing else is tried here"


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision that is taken, and why, in words."""

    precision: Any
    reason: str

    def __str__(self) -> str:
        """Both."""
        return f"{self.precision} ({self.reason})"


def searched_by(config: Config, options: RunOptions, out: Path) -> Config:
    """The configuration with what its attacks search by, where that is not float32.

    Raises:
        InputError: the precision that is asked for does not go with device, attack or network.
    """
    check_precision(config, options.precision)  # before anything is claimed
    asked = options.precision
    if asked == "auto" and not unsuited(config.protocol, transfer=config.surrogate is not None):
        choice = chosen(config, out)
        options.told(f"--precision auto: {choice}")
        asked = choice.precision
    if asked in ("auto", "float32"):
        return config
    return _low(config, asked, options, lambda: pass_times(config, out))


def check_precision(config: Config, asked: Any) -> None:
    """Nothing, if attacks can search in the precision that is asked for.

    Raises:
        InputError: it does not go with device, attack or network.
    """
    if asked in ("auto", "float32"):
        return
    reason = unsuited(config.protocol, transfer=config.surrogate is not None)
    if asked == "tf32" and config.device.type != "cuda":
        reason = f"{config.device.type} has no TF32; use bf16"
    if reason:
        raise InputError(f"--precision {asked}: {reason}")
    _search_network(config, asked)


def unsuited(protocol: Protocol, *, transfer: bool) -> str:
    """Why a protocol's attacks cannot search in low precision; "" if they can."""
    if transfer:
        return "a transfer attack's images are always evaluated in float32; use float32"
    if not any(build_search(attack, protocol.norm) for attack in protocol.attacks):
        return f"{protocol.name} has no attack at fixed budgets, and only those search in it"
    return ""


def batch_size(config: Config, options: RunOptions, blocks: Blocks, *, random: bool) -> Any:
    """Images a batch: as given, as the key has it, as measured where that is worth it, or auto.

    Of networks that draw at random, for a whole batch at once, no stopwatch chooses the draws.
    """
    if config.low is not None:
        return config.low.batch_size
    if random or options.batch_size != "auto" or blocks.kept_plan() is not None:
        return options.batch_size
    folder = blocks.final.parent
    kept = (folder / _file(config)).exists()
    sizes = SIZES.get(config.device.type, (USUAL,))
    if kept or _planned(config) >= WORTH * ROUNDS * sum(sizes):
        return pass_times(config, folder).batch_size("float32")
    return "auto"


def chosen(config: Config, folder: Path, *, always: bool = False) -> PrecisionChoice:
    """The precision in which the searches themselves are clearly fastest, else float32.

    Passes that are no faster are not tried, nor are searches that cost little themselves, but for
    `always`. As measured before; else measured now, and kept.

    Raises:
        RecordError: a file is not as it was written.
    """
    times = pass_times(config, folder)
    told, words = f"passes in {times}" if len(times.seconds) > 1 else str(times), times.faster
    if not words:
        return PrecisionChoice("float32", told)
    key = SearchTimesKey(passes=_key(config).plain(), protocol=_question(config.protocol))
    path = folder / f"searches-{key.digest[:32]}.json"
    if not (path.exists() or always or worth(config, 1 + len(words))):
        return PrecisionChoice(
            "float32", f"{told}; too few passes are planned to time the search itself"
        )
    found = _kept(path, key, lambda: {"seconds": _tried(config, words)})["seconds"]
    best = min(found, key=found.get)
    gains = {word: found["float32"] / each for word, each in found.items() if word != "float32"}
    told = ", ".join(f"the search in {w} is {gain:.1f} times as fast" for w, gain in gains.items())
    return PrecisionChoice(best if gains.get(best, 0) >= CLEARLY else "float32", told)


def pass_times(config: Config, folder: Path) -> PassTimes:
    """As measured before; else measured now, and kept.

    Raises:
        RecordError: the file is not as it was written.
    """

    def measure() -> dict[str, Any]:
        times = _measured(config)
        plain = {word: {str(n): s for n, s in each.items()} for word, each in times.seconds.items()}
        return {"seconds": plain, "unfit": dict(times.unfit)}

    kept = _kept(folder / _file(config), _key(config), measure)
    return PassTimes(
        {word: {int(n): s for n, s in each.items()} for word, each in kept["seconds"].items()},
        kept["unfit"],
    )


# --- in parts -------------------------------------------------------------------------------------


def _low(
    config: Config, precision: Any, options: RunOptions, times: Callable[[], PassTimes]
) -> Config:
    size = options.batch_size
    number = times().batch_size(precision) if size == "auto" else size
    return replace(config, low=LowSearch(precision, number))


def _kept(path: Path, key: Key, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file of measurements holds, which is made where there is none."""
    if not path.exists():
        found = {"key": key.plain(), **measure()}
        if not path.exists():  # another process may have been faster: one choice for all
            write_atomic(path, canonical(sealed(found)).encode())
    contents: dict[str, Any] = read_sealed(path, "remove it, and it is measured again").contents
    return contents


def _question(protocol: Protocol) -> dict[str, Any]:
    """What a protocol asks, whatever its seed."""
    return {name: part for name, part in protocol.resolved().items() if name != "seed"}


@with_threads(1)  # several count as work how they wait for a processor that others hold
def _tried(config: Config, words: Sequence[Any]) -> dict[str, float]:
    networks = {word: _search_network(config, word) for word in words}
    return trial(config, {"float32": _search_network(config, None), **networks})


def _key(config: Config) -> PassTimesKey:
    device = config.device
    gpu = device.type == "cuda"
    return PassTimesKey(
        checkpoint=config.model.identity,
        shape=config.data.shape,
        device=torch.cuda.get_device_name(device) if gpu else machine.processor(),
        torch=torch.__version__,
        revision=REVISION,
    )


def _file(config: Config) -> str:
    return f"passes-{_key(config).digest[:32]}.json"


def _planned(config: Config) -> int:
    """Image passes at most of the attacks at fixed budgets."""
    protocol, classes = config.protocol, len(config.data.classes)
    searches = [build_search(attack, protocol.norm) for attack in protocol.attacks]
    steps = [s.steps * s.eot * len(s.attempts(classes)) for s in searches if s is not None]
    return sum(steps) * len(config.data)


def _search_network(config: Config, precision: Low | None) -> SearchNetwork:
    """What is searched by.

    Raises:
        InputError: the network draws at random, or fails in this precision.
    """
    model = config.model.load(config.device)
    few = torch.from_numpy(config.data.images(0, min(FEW, len(config.data)))).to(config.device)
    with torch.no_grad():
        if precision is not None and draws_at_random(answer(model, few), answer(model, few)):
            raise InputError(f"--precision {precision}: the network is randomised; use float32")
    return search_network(model, few, precision)


@with_threads(1)  # several count as work how they wait for a processor that others hold
def _measured(config: Config) -> PassTimes:
    kind = config.device.type
    unfit: dict[str, str] = {}
    networks = {"float32": _search_network(config, None)}
    for precision in PRECISIONS.get(kind, ()):
        try:
            networks[precision] = _search_network(config, precision)
        except InputError as error:
            unfit[precision] = str(error)
    seconds: dict[str, dict[int, float]] = {word: {} for word in networks}

    def timed(size: int) -> float:
        """Seconds of a pass in float32; those of an image are noted."""
        batch = _batch(config, size)
        rounds = [{w: _seconds(n, batch) for w, n in networks.items()} for _ in range(ROUNDS)]
        for word in networks:
            seconds[word][size] = min(found[word] for found in rounds) / size
        return seconds["float32"][size] * size

    first, *larger = SIZES.get(kind, (USUAL,))
    slow = fitting(timed, first) > SLOW or first not in seconds["float32"]
    with suppress(torch.OutOfMemoryError):
        for size in larger:
            if slow:
                break
            slow = timed(size) > SLOW
    return PassTimes(seconds, unfit)


def _batch(config: Config, size: int) -> torch.Tensor:
    """So many images, the first ones again and again."""
    count = min(size, len(config.data))
    images = torch.from_numpy(config.data.images(0, count)).to(config.device)
    return images.repeat(-(-size // count), 1, 1, 1)[:size]


def _seconds(network: SearchNetwork, batch: torch.Tensor) -> float:
    """Of a pass forth and back, as most attacks make, and one forth, as random search does.

    The processor's own time, since others may work on it, too.
    """
    on_gpu, low = batch.device.type == "cuda", network.low
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize(batch.device)
    started = clock()
    asked = network.exact if low is None else low.network
    with nullcontext() if low is None else low.multiplied():
        logits_and_gradient(asked, batch)
        with torch.no_grad():
            answer(asked, batch)
    if on_gpu:
        torch.cuda.synchronize(batch.device)
    return clock() - started
