"""The attack on several devices at once: a worker on each, blocks for whoever is free.

Rows are those of one device. What comes of a block hangs on no other, but for how many of its
proofs are checked: a block stays open at its worker until it is known what is proved before it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from robustkit import machine
from robustkit.attacks.lasting import NetworkChanged
from robustkit.device import in_float32
from robustkit.errors import EvaluationFailed, InputError, ProofContradicted
from robustkit.evaluation.blocks import (
    Attacker,
    BlockResult,
    BlockSpan,
    OpenBlock,
    Random,
    keep,
    kept_block,
    load_networks,
    proved_pairs,
    searching,
    spans,
)
from robustkit.evaluation.config import Config
from robustkit.evaluation.options import RunOptions
from robustkit.evaluation.proving import begin
from robustkit.parallel.actors import RayCrew
from robustkit.parallel.cluster import STORE_BYTES, Cluster, connected
from robustkit.parallel.crew import LOST, Crew, News, Tell, Tries, Workplace
from robustkit.parallel.parcel import pack, size_of
from robustkit.parallel.processes import Processes
from robustkit.record import Blocks, FinishedBlock

PATIENCE = 1.0
"""seconds between two looks at the workers"""


class BlockJob(NamedTuple):
    """What a worker is asked."""

    kind: Literal["attack", "finish"]
    span: BlockSpan
    before: int | None
    """pairs that are proved before the block; None: not known yet, so that it stays open"""
    batch_size: int


class Halved(NamedTuple):
    """What a worker says whose memory did not suffice."""

    batch_size: int
    why: str


@dataclass(frozen=True, slots=True)
class BlockSite:
    """All that a worker needs: the question, and what was decided once for all workers."""

    config: Config
    proofs: dict[str, Any]
    """`Proving.plan`"""
    random: Random
    keep_images: bool

    def open(self, place: Workplace) -> "BlockBench":
        """The networks, on the worker's own device."""
        torch.set_num_threads(place.threads)
        config = replace(self.config, device=torch.device(place.device))
        if config.device.type == "cuda" and config.device.index is not None:
            torch.cuda.set_device(config.device)
        return BlockBench(self, config)


class BlockBench:
    """A worker's networks, and the blocks that it holds open."""

    def __init__(self, site: BlockSite, config: Config) -> None:
        self.open: dict[int, OpenBlock] = {}
        self.tell: Tell = lambda content: None
        with in_float32():
            loaded = load_networks(config)
            networks = searching(config, loaded, random=any(site.random))
            proving = begin(config, networks.model, any(site.random), site.proofs)
            self.attacker = Attacker(
                config, networks, proving, site.random, 1, site.keep_images, self._halved
            )

    def _halved(self, size: int, why: str) -> None:
        self.tell(Halved(size, why))

    def carry_out(self, job: BlockJob, tell: Tell) -> BlockResult | int:
        """What came of a block, or how many of its pairs are proved, where it stays open."""
        self.tell, self.attacker.batch_size = tell, job.batch_size
        with in_float32():
            if job.kind == "attack":
                attacked = self.attacker.attack(job.span, tell)
                if job.before is None:
                    self.open[job.span.number] = attacked
                    return attacked.pairs
            else:
                attacked = self.open.pop(job.span.number)
            assert job.before is not None
            return self.attacker.finish(attacked, job.before, tell)


@contextmanager
def crew_of(
    site: BlockSite, devices: Sequence[torch.device], most: int, file: Path, options: RunOptions
) -> Iterator[Crew]:
    """Workers for a site: one on each device, or on a cluster.

    Args:
        site: what they work with.
        devices: of this machine.
        most: how many can be of use.
        file: by which processes of this machine share what is large.
        options: name the cluster.
    """
    if options.ray is None:
        parcel = pack(site, file)
        try:
            yield Processes(parcel, places(devices[:most]))
        finally:
            file.unlink(missing_ok=True)
        return
    with connected(options.ray, STORE_BYTES + 2 * size_of(site)) as ray:
        gpus = float(site.config.device.type != "cpu")
        cluster = Cluster(ray, options.ray, 1, gpus)
        if not cluster.lanes():
            what = "GPU" if gpus else "CPU"
            raise InputError(f"--ray {options.ray}: no machine there has a {what}; see --device")
        if not gpus and ray.cluster_resources().get("GPU", 0):
            options.told("this machine has no GPU, so that those of the cluster are left alone")
        yield RayCrew(cluster, site, most)


def places(devices: Sequence[torch.device]) -> list[Workplace]:
    """A place for each device, with its share of the cores."""
    threads = machine.threads(len(devices))
    return [Workplace(str(device), threads) for device in devices]


@dataclass(slots=True)
class Spread:
    """Blocks on their way through the hands of several workers."""

    crew: Crew
    site: BlockSite
    plan: dict[str, Any]
    blocks: Blocks
    report: Callable[[float, int], None]
    tell: Callable[[str], None]
    waiting: deque[BlockSpan] = field(default_factory=deque)
    done: dict[int, FinishedBlock] = field(default_factory=dict)
    pairs: list[int | None] = field(default_factory=list)
    """proved in each block; None: not known yet"""
    jobs: dict[int, BlockJob] = field(default_factory=dict)
    """under way, by worker"""
    idle: set[int] = field(default_factory=set)
    open: dict[int, dict[int, BlockSpan]] = field(default_factory=dict)
    """attacked blocks whose proofs are not checked, by worker and number"""
    shares: dict[int, float] = field(default_factory=dict)
    """of each block's work that is done, by number"""
    tries: Tries = field(default_factory=Tries)

    def rows(self) -> Iterator[FinishedBlock]:
        """All blocks, those on file and those that are done now.

        Raises:
            ProofContradicted: an image was fooled where it is proved; all blocks are dropped.
            NetworkChanged: a network answers otherwise than before its work; likewise.
            EvaluationFailed: a block took one worker after the other with it; all others are kept.
        """
        self._plan()
        try:
            while self.waiting or self.jobs or self._can_finish():
                for news in self.crew.news(PATIENCE):
                    self._hear(news)
                for worker in sorted(self.idle):
                    self._employ(worker)
                self._tell_share()  # whoever watches may end it
        except (ProofContradicted, NetworkChanged):
            self.blocks.drop()  # they are of the same making
            raise
        finally:
            self.crew.close()
        if self.tries.given_up:
            raise EvaluationFailed(
                f"{'; '.join(self.tries.given_up)}: the worker was lost {LOST} times, perhaps for "
                "want of memory (--batch-size); all other blocks are kept, and the same command "
                "goes on from there"
            )
        return iter(self.done[number] for number in sorted(self.done))

    def _plan(self) -> None:
        data, epsilons = self.site.config.data, self.site.config.protocol.epsilons
        for span in spans(len(data), self.plan["block_size"]):
            done = kept_block(span, self.blocks, self.site.keep_images)
            self.pairs.append(None if done is None else proved_pairs(done.rows, epsilons))
            if done is None:
                self.waiting.append(span)
            else:
                self.done[span.number], self.shares[span.number] = done, 1.0
        self._tell_share()

    # --- what is heard ----------------------------------------------------------------------------

    def _hear(self, news: News) -> None:
        worker = news.worker
        match news.kind:
            case "ready":
                self.idle.add(worker)
            case "told" if isinstance(news.content, Halved):
                self._halve(news.content, self.crew.name(worker))
            case "told":
                span = self.jobs[worker].span
                self.shares[span.number] = min(news.content, 1.0)
                self._tell_share()
            case "done":
                self.idle.add(worker)
                self._take(worker, self.jobs.pop(worker).span, news.content)
            case "failed":
                raise news.content
            case "lost" | "gone":
                self._lose(worker, news.content, machine=news.kind == "gone")

    def _halve(self, halved: Halved, device: str) -> None:
        plan = self.plan
        plan["batch_size"] = min(plan["batch_size"], halved.batch_size)
        plan["events"].append(f"{device}: {halved.why}")
        self.blocks.replan(plan)

    def _take(self, worker: int, span: BlockSpan, found: BlockResult | int) -> None:
        if isinstance(found, int):
            self.pairs[span.number] = found
            self.open.setdefault(worker, {})[span.number] = span
            return
        done = keep(found, self.blocks)
        self.done[span.number], self.shares[span.number] = done, 1.0
        self.pairs[span.number] = proved_pairs(done.rows, self.site.config.protocol.epsilons)
        self._tell_share()

    def _lose(self, worker: int, how: str, *, machine: bool) -> None:
        """Have all that a lost worker held done again, by whoever is free first."""
        self.idle.discard(worker)
        again = list(self.open.pop(worker, {}).values())
        job = self.jobs.pop(worker, None)
        if job is not None:
            if self.tries.again(str(job.span.number), str(job.span), machine=machine):
                again.append(job.span)
            elif self.pairs[job.span.number] is None:
                # blocks behind it stay open until this is known: of theirs all the more is checked
                self.pairs[job.span.number] = 0
        for span in again:
            self.shares.pop(span.number, None)
        self.waiting = deque(sorted([*self.waiting, *again]))
        held = ", ".join(map(str, sorted(again)))
        said = f"; {held} are done again" if held else ""
        self.tell(f"a worker was lost on {self.crew.name(worker)} ({how}){said}")

    def _tell_share(self) -> None:
        config = self.site.config
        size, total = self.plan["block_size"], len(config.data)
        done = sum(
            share * (min((number + 1) * size, total) - number * size)
            for number, share in self.shares.items()
        )
        self.report(min(done, total), total)

    # --- what is asked ----------------------------------------------------------------------------

    def _employ(self, worker: int) -> None:
        job = self._finish(worker) or self._next()
        if job is not None:
            self.idle.discard(worker)
            self.jobs[worker] = job
            self.crew.give(worker, job)

    def _finish(self, worker: int) -> BlockJob | None:
        held = self.open.get(worker, {})
        for number in sorted(held):
            if (before := self._before(number)) is not None:
                return BlockJob("finish", held.pop(number), before, self.plan["batch_size"])
        return None

    def _next(self) -> BlockJob | None:
        if not self.waiting:
            return None
        span = self.waiting.popleft()
        return BlockJob("attack", span, self._before(span.number), self.plan["batch_size"])

    def _before(self, number: int) -> int | None:
        """How many pairs are proved before a block; None: not known yet."""
        if self.site.proofs["why"]:
            return 0  # nothing is proved
        known = [pairs for pairs in self.pairs[:number] if pairs is not None]
        return sum(known) if len(known) == number else None

    def _can_finish(self) -> bool:
        return any(self._before(n) is not None for held in self.open.values() for n in held)
