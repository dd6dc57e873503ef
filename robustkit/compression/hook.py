"""The communication hook of DistributedDataParallel: memory, counters, state.

DDP hands a hook one flat bucket of gradients at a time. With the memory of *Sparsified SGD with
Memory* (Stich et al. 2018, algorithm 1) and of *1-Bit SGD* (Seide et al. 2014), what was not sent
stays on its rank and is added to the next gradient of the same bucket. The average of what all
ranks sent becomes the gradient. Every rank computes it from the same messages in the same order,
so replicas stay identical. It is exact: nothing is compressed a second time on the way back.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from robustkit.compression.messages import (
    drawn,
    join,
    largest,
    matrix,
    quantise,
    reconstruct,
    separate,
)
from robustkit.compression.schemes import Half, OneBit, PowerSGD, RandomK, Scheme, TopK, count
from robustkit.errors import InputError

HALVES: dict[str, Callable[[dist.ProcessGroup, GradBucket], Future[Tensor]]] = {
    "fp16": default_hooks.fp16_compress_hook,
    "bf16": default_hooks.bf16_compress_hook,
}

COUNTED = (
    "payload of gradients that one rank hands to the collectives, from the sizes of the tensors "
    "handed over; what the backend adds, and how often it repeats it on the wire, is not in it"
)


def attach(
    ddp: DistributedDataParallel,
    scheme: Scheme,
    *,
    seed: int,
    memory: bool = True,
    rescale: bool = True,
) -> "Compressor":
    """Compress the gradients of `ddp` from its next step on; all ranks call it, before training.

    DDP sorts its parameters into new buckets after its first step, which would tear the memory
    apart, and would tell a resumed run from one that ran through. So two steps with gradients of
    zero are made here and averaged plainly, after which the buckets are final: in the reverse order
    of `parameters()`, whatever the order in which the network uses them. Parameters and buffers
    stay as they are, gradients are None afterwards.

    Args:
        ddp: the wrapped model, as yet without a hook.
        scheme: what is sent; see `parse`.
        seed: of drawn coordinates and PowerSGD's first factors, at least 0, the same on all ranks.
        memory: keep what was not sent and add it next time. torch's fp16 and bf16 have none.
        rescale: let `Compressor.learning_rate` rescale the memory.

    Raises:
        InputError: there is a hook already, a static graph, a negative seed, or, for PowerSGD, a
            parameter without dimensions.
    """
    if seed < 0:
        raise InputError(f"compression: expected a seed of at least 0, got {seed}")
    if ddp.static_graph:
        raise InputError("compression: impossible with static_graph=True; wrap the model without")
    compressor = Compressor(ddp, scheme, seed=seed, memory=memory, rescale=rescale)
    try:
        ddp.register_comm_hook(compressor, _hook)
    except RuntimeError as error:
        raise InputError(
            "compression: the model has a communication hook already; wrap it in a new "
            "DistributedDataParallel"
        ) from error
    compressor._settle(ddp)
    return compressor


def _hook(state: "Compressor", bucket: GradBucket) -> Future[torch.Tensor]:
    """What DDP calls; it checks the name `bucket` and these annotations."""
    return state._reduce(bucket)


class Compressor:
    """Compresses the gradients of one model; made by `attach`.

    Attributes:
        scheme: what is sent.
        memory: whether what was not sent is kept.
        steps: how many gradients have been averaged.
        bytes_sent: the payload that this rank has handed to the collectives in these steps.
        plain_bytes: what plain allreduce of the same buckets would have handed over.
    """

    def __init__(
        self,
        ddp: DistributedDataParallel,
        scheme: Scheme,
        *,
        seed: int,
        memory: bool,
        rescale: bool,
    ) -> None:
        self.scheme = scheme
        self.memory = memory and not isinstance(scheme, Half)
        self.steps = self.bytes_sent = self.plain_bytes = 0
        self._seed = seed
        self._rescale = rescale
        self._rate: float | None = None
        self._group: dist.ProcessGroup = ddp.process_group
        self._world = dist.get_world_size(self._group)
        self._parameters = dict(ddp.module.named_parameters())
        self._settling = False
        self._buckets: list[list[str]] = []
        self._errors: dict[int, Tensor] = {}
        self._low_rank: powerSGD_hook.PowerSGDState | None = None
        if isinstance(scheme, PowerSGD):
            _check_dimensions(self._parameters)
            self._low_rank = _low_rank(scheme.rank, self._group, seed, self.memory)
            self._errors = self._low_rank.error_dict

    def learning_rate(self, eta: float) -> None:
        """Tell the learning rate of the coming step, before its backward pass.

        The memory of MEM-SGD holds m, in units of eta × gradient; a hook's holds e, in units of the
        gradient. With m_t = eta_{t-1} e_t the two are one algorithm if e is multiplied by
        eta_{t-1} / eta_t whenever eta changes, which this does. They are for plain SGD only: with
        momentum or Adam, compression precedes the optimiser. Of several rates in fixed proportion
        tell any one, always the same. Without memory, or with `rescale=False`, nothing is done.

        Raises:
            InputError: eta is not a finite number above 0.
        """
        if not (self.memory and self._rescale):
            return
        if not 0 < eta < math.inf:
            raise InputError(
                f"compression: the memory cannot follow a learning rate of {eta}; keep the rate "
                "above 0, or attach with rescale=False"
            )
        if self._rate is not None and self._rate != eta:
            for error in self._errors.values():
                error.mul_(self._rate / eta)
        self._rate = eta

    def record(self) -> dict[str, Any]:
        """What was done and sent, as plain JSON; `ratio` is sent bytes / plain bytes."""
        steps = max(self.steps, 1)
        return {
            "scheme": str(self.scheme),
            "memory": self.memory,
            "rescale": self._rescale,
            "world_size": self._world,
            "steps": self.steps,
            "bytes_per_step": self.bytes_sent // steps,
            "plain_bytes_per_step": self.plain_bytes // steps,
            "ratio": self.bytes_sent / max(self.plain_bytes, 1),
            "counted": COUNTED,
        }

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; every rank saves its own, and the run resumes byte for byte.

        "tensors" maps names to copies of the memory and PowerSGD's factors; all else is plain
        JSON. There is no generator to save: draws are a function of seed, step and bucket, and
        PowerSGD draws in its first step only.
        """
        return {
            **self._identity(),
            "steps": self.steps,
            "bytes_sent": self.bytes_sent,
            "plain_bytes": self.plain_bytes,
            "learning_rate": self._rate,
            "tensors": {
                f"{kind}.{index}": tensor.clone()
                for kind, store in self._stores().items()
                for index, tensor in store.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state that this rank saved, right after `attach`.

        Raises:
            InputError: the state of another scheme, seed, model, rank or number of processes;
                nothing has changed then.
        """
        for key, mine in self._identity().items():
            if (saved := state.get(key)) != mine:
                raise _mismatch(key, saved, mine)
        self.steps, self._rate = state["steps"], state["learning_rate"]
        self.bytes_sent, self.plain_bytes = state["bytes_sent"], state["plain_bytes"]
        stores = self._stores()
        for store in stores.values():
            store.clear()
        for name, tensor in state["tensors"].items():
            kind, _, index = name.partition(".")
            like = self._parameters[self._buckets[int(index)][0]]
            stores[kind][int(index)] = tensor.to(like.device, copy=True)

    def _identity(self) -> dict[str, Any]:
        """What has to be the same in a run that takes up the state, as plain JSON."""
        return {
            "scheme": str(self.scheme),
            "memory": self.memory,
            "rescale": self._rescale,
            "seed": self._seed,
            "rank": dist.get_rank(self._group),
            "world_size": self._world,
            "shapes": {name: list(p.shape) for name, p in self._parameters.items()},
            "buckets": self._buckets,
        }

    def _stores(self) -> dict[str, dict[int, Tensor]]:
        """Tensors that outlive a step, by kind and bucket."""
        if self._low_rank is None:
            return {"memory": self._errors}
        factors = {"p": self._low_rank.p_memory_dict, "q": self._low_rank.q_memory_dict}
        return {"memory": self._errors, **factors}

    def _settle(self, ddp: DistributedDataParallel) -> None:
        """Two steps that change nothing, so that DDP's buckets are final; see `attach`."""
        network = ddp.module
        ddp.module = _Zero(network)
        self._settling = True
        try:
            for _ in range(2):
                self._buckets.clear()
                ddp(torch.zeros(())).backward()
        finally:
            ddp.module = network
            self._settling = False
        self.bytes_sent = 0
        for parameter in self._parameters.values():
            parameter.grad = None

    def _reduce(self, bucket: GradBucket) -> Future[Tensor]:
        flat = bucket.buffer()
        if self._settling:
            self._buckets.append(self._named(bucket))
            return self._average(flat)
        self.plain_bytes += flat.numel() * flat.element_size()
        future = self._compress(bucket)
        self.steps += bucket.is_last()
        return future

    def _named(self, bucket: GradBucket) -> list[str]:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        return [names[id(parameter)] for parameter in bucket.parameters()]

    def _compress(self, bucket: GradBucket) -> Future[Tensor]:
        flat, index = bucket.buffer(), bucket.index()
        if self._low_rank is not None:
            return self._factorise(self._low_rank, bucket)
        # error feedback (Stich et al. 2018, algorithm 1): the memory is added before anything is
        # left out, so that the sum of what was sent differs from that of the gradients by the last
        # memory alone, however long the run
        if index in self._errors:
            flat.add_(self._errors[index])
        match self.scheme:
            case Half(kind):
                self.bytes_sent += 2 * flat.numel()  # torch's hook sends the bucket, cast
                return HALVES[kind](self._group, bucket)
            case TopK(k):
                return self._largest(flat, index, count(k, flat.numel()))
            case RandomK(k):
                return self._drawn(flat, index, count(k, flat.numel()))
            case OneBit():
                return self._quantise(flat, index, self.scheme)
        raise InputError(f"compression: {self.scheme!r} is not a compression scheme")

    def _largest(self, flat: Tensor, index: int, k: int) -> Future[Tensor]:
        chosen = largest(flat, k)
        narrow = torch.int32 if flat.numel() <= 2**31 else torch.int64
        parts = [flat[chosen], chosen.to(narrow)]
        if self.memory:
            self._errors[index] = flat.index_fill(0, chosen, 0)

        def average(messages: Sequence[Sequence[Tensor]]) -> Tensor:
            flat.zero_()
            for values, indices in messages:
                # divided first, then added, as DDP's own allreduce does: equal bits at k = 100 %
                flat.index_add_(0, indices, values.div_(self._world))
            return flat

        return self._gather(parts, average)

    def _drawn(self, flat: Tensor, index: int, k: int) -> Future[Tensor]:
        chosen = drawn(flat.numel(), k, (self._seed, self.steps, index)).to(flat.device)
        values = flat[chosen]
        if self.memory:
            self._errors[index] = flat.index_fill(0, chosen, 0)

        def average(future: Future[Tensor]) -> Tensor:
            if chosen.is_cuda:  # this runs on a stream of its own, which must outlive the tensor
                chosen.record_stream(torch.cuda.current_stream(chosen.device))
            return flat.zero_().index_copy_(0, chosen, future.value())

        return self._average(values).then(average)

    def _quantise(self, flat: Tensor, index: int, scheme: OneBit) -> Future[Tensor]:
        shapes = [self._parameters[name].shape for name in self._buckets[index]]
        matrices = [matrix(shape, scheme.column) for shape in shapes]
        bits, levels = quantise(flat, matrices)
        # the memory is what this rank's own message lacks: no rank knows what others left out
        if self.memory:
            self._errors[index] = flat - reconstruct(bits, levels, matrices)

        def average(messages: Sequence[Sequence[Tensor]]) -> Tensor:
            flat.zero_()
            for bits, levels in messages:
                flat.add_(reconstruct(bits, levels.div_(self._world), matrices))
            return flat

        return self._gather([bits, levels], average)

    def _factorise(self, state: powerSGD_hook.PowerSGDState, bucket: GradBucket) -> Future[Tensor]:
        before = state.total_numel_after_compression  # torch's own count, from the shapes
        future: Future[Tensor] = powerSGD_hook.powerSGD_hook(state, bucket)
        sent = state.total_numel_after_compression - before
        self.bytes_sent += sent * bucket.buffer().element_size()
        future.wait()  # it has collectives in its callbacks: with gloo the next bucket's overtake
        return future

    def _average(self, values: Tensor) -> Future[Tensor]:
        """The mean of `values` over all ranks, in place."""
        self.bytes_sent += values.numel() * values.element_size()
        values.div_(self._world)
        work = dist.all_reduce(values, group=self._group, async_op=True)
        return _then(work, lambda: values)

    def _gather(
        self, parts: Sequence[Tensor], average: Callable[[list[list[Tensor]]], Tensor]
    ) -> Future[Tensor]:
        """What `average` makes of all ranks' parts, in the order of ranks."""
        message = join(parts)
        self.bytes_sent += message.numel()
        received = [torch.empty_like(message) for _ in range(self._world)]
        work = dist.all_gather(received, message, group=self._group, async_op=True)
        return _then(work, lambda: average([separate(other, parts) for other in received]))


class _Zero(nn.Module):
    """A stand-in for a network: every parameter takes part, every gradient is zero."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, _: Tensor) -> Tensor:
        """A scalar."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.stack([0 * parameter.sum().float() for parameter in trained]).sum()


def _then(work: dist.Work, made: Callable[[], Tensor]) -> Future[Tensor]:
    """A future of what is made once `work` is done; its failure is the future's."""

    def finish(future: Future[Any]) -> Tensor:
        future.value()
        return made()

    return work.get_future().then(finish)


def _check_dimensions(parameters: Mapping[str, Tensor]) -> None:
    """Refuse what torch's hook cannot read as a matrix with a row for each first index."""
    for name, parameter in parameters.items():
        if parameter.dim() == 0:
            raise InputError(
                f"compression: powersgd cannot send {name!r}, which has no dimension; "
                "give it the shape (1,)"
            )


def _low_rank(
    rank: int, group: dist.ProcessGroup, seed: int, memory: bool
) -> powerSGD_hook.PowerSGDState:
    state = powerSGD_hook.PowerSGDState(
        group,
        matrix_approximation_rank=rank,
        start_powerSGD_iter=2,
        use_error_feedback=memory,
        orthogonalization_epsilon=1e-8,  # a gradient of zero would become NaN
        random_seed=seed % 2**32,  # all that NumPy's generator takes
    )
    state.iter = 2  # its plain first iterations are there for the buckets, which `attach` settles
    return state


def _mismatch(key: str, saved: object, mine: object) -> InputError:
    if isinstance(mine, dict | list):
        problem = f"other parameter {key} than this run"
    else:
        problem = f"{key} {saved}, this run has {mine}"
    return InputError(
        f"compression: the saved state has {problem}; resume with the same model, options and "
        "number of processes"
    )
