"""From any network to a frozen one on [0, 1] pixels that returns N×K logits."""

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from robustkit.checkpoint.logits import find_logits, is_hollow, unusual
from robustkit.checkpoint.readings import listed
from robustkit.errors import CheckpointError, InputError, one_line
from robustkit.network import answer, asked, followed, kept, levelled
from robustkit.unpickling.tensors import COUNTER, EXTRA, Array


class Classifier(torch.nn.Module):
    """A network with its normalisation in front and its output unwrapped and checked.

    `mean` and `std` are per channel, or one number for all; `classes` is checked when known.
    `expected` classes, those of the data, tell the logits among several tensors.
    """

    mean: torch.Tensor | None
    std: torch.Tensor | None

    def __init__(
        self,
        network: torch.nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.expected = expected
        kinds = {w.dtype for w in network.parameters() if w.is_floating_point()}
        told = isinstance(network, Typed)  # which need not be the type of its weights
        self.in_weights_type = not told and len(kinds) == 1 and kinds != {torch.float32}
        for name, values in (("mean", mean), ("std", std)):
            tensor = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W in [0, 1] to N×K logits.

        Raises:
            NetworkFailed: the network raised something.
            InputError: the normalisation is for another number of channels.
            CheckpointError: what it returns is not N×K numbers.
        """
        own = followed(x)
        output = answer(self.network, self.pixels(own))
        with asked("where its answer was read"):  # which may be an object of its own
            found = find_logits(output, len(x), self.classes or self.expected)
        return kept(levelled(self._checked(found, len(x)), own))

    def pixels(self, x: torch.Tensor) -> torch.Tensor:
        """What the network itself is given for images, N×C×H×W in [0, 1]."""
        return self._typed(self._normalised(x))

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        if self.mean is None or self.std is None:
            return x
        if self.mean.shape[1] not in (1, x.shape[1]):
            raise InputError(
                f"images have {x.shape[1]} channels, but the normalisation has "
                f"{self.mean.shape[1]}; use --channels, or another --mean and --std"
            )
        return (x - self.mean) / self.std

    def _typed(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels in the type of the weights, where that is one and not float32."""
        if not self.in_weights_type:
            return x
        return x.to(next(w.dtype for w in self.network.parameters() if w.is_floating_point()))

    def _checked(self, output: object, n: int) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise CheckpointError(
                f"the model returns {type(output).__name__}, not a tensor of N×classes logits"
            )
        if kind := unusual(output):
            raise CheckpointError(
                f"the model returns a {kind} tensor; expected a dense one of N×classes logits"
            )
        if output.dim() != 2 or len(output) != n or not output.is_floating_point():
            raise CheckpointError(
                f"the model returns {output.dtype} of shape {tuple(output.shape)} for {n} "
                "images; expected floating-point logits of shape N×classes"
            )
        if output.shape[1] == 1:
            raise CheckpointError(
                "the model has a single output, so it always predicts class 0 and nothing "
                "fools it; return two logits, such as torch.cat([-z, z], 1) where z goes "
                "into a sigmoid"
            )
        if self.classes is not None and output.shape[1] != self.classes:
            raise CheckpointError(
                f"the model returns {output.shape[1]} logits per image, but {self.classes} "
                "classes were given or recorded"
            )
        return output


def classifier(network: torch.nn.Module) -> torch.nn.Module:
    """A network of others, asked with care and its output checked; neither copied nor changed.

    Raises:
        InputError: its weights are empty.
    """
    if isinstance(network, Classifier):
        return network
    _check_filled(network)
    made = Classifier(network)
    made.training = False  # the network's own mode stays as it is
    return made


class OneByOne(torch.nn.Module):
    """A network that is given its images one at a time, whatever the batch."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the network: N×C×H×W to N×K."""
        return torch.cat([self.network(one) for one in x.chunk(len(x))])


class Flipped(torch.nn.Module):
    """A network that takes its channels in the other order: blue, green, red."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> object:
        """As the network: N×C×H×W to what it returns."""
        return self.network(x.flip(1))


class Typed(torch.nn.Module):
    """A network that says in which type it takes its images, whatever that of its weights."""

    def __init__(self, network: torch.nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, x: torch.Tensor) -> object:
        """As the network: N×C×H×W to what it returns."""
        return self.network(x.to(self.kind))


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself, in eval mode and with weights that need no gradient.

    Raises:
        InputError: it refuses.
    """
    try:
        for parameter in module.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)
        if has_fixed_mode(module):
            for part in module.modules():
                part.training = False
        else:
            module.eval()  # not what it returns: a user's own train() may return nothing
    except (Exception, SystemExit) as error:  # a user's module may refuse in any way
        raise InputError(f"the model cannot be put into eval mode ({one_line(error)})") from error
    return module


def has_fixed_mode(module: torch.nn.Module) -> bool:
    """Whether a part is a program of torch.export's, whose `eval` and `train` raise.

    Its mode is that in which it was exported, whatever its `training` says.
    """
    return any({"eval", "train"} <= vars(part).keys() for part in module.modules())


def filled(module: torch.nn.Module, state: Mapping[str, Array], where: str) -> torch.nn.Module:
    """The module itself, frozen, with weights that fit.

    Batch norm's counters may be missing; extra state, which is no weight, is the module's own.

    Args:
        module: as it was built.
        state: numbers by the module's own names.
        where: the file, for messages.

    Raises:
        CheckpointError: it does not hold them then.
    """
    own = module.state_dict()
    tensors = OrderedDict((k, v) for k, v in own.items() if k.endswith((COUNTER, EXTRA)))
    tensors.update((name, torch.from_numpy(numbers)) for name, numbers in state.items())
    # names and shapes fit as they are: nothing is to be changed as if from an older version
    tensors._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(tensors, strict=True)
    _check_taken(module.state_dict(), tensors, where)
    return freeze(module)


def _check_taken(held: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Nothing, if a network holds the numbers that it was given, in its own types."""
    names = [name for name in given if not name.endswith((COUNTER, EXTRA))]
    if odd := [name for name in names if not _same(held[name], given[name])]:
        raise CheckpointError(
            f"{where}: once loaded, the network holds other numbers than the file: {listed(odd)}; "
            "either it shares them with others of its weights, as the file does not, or its class "
            "loads weights in its own way and leaves these out"
        )


def _same(held: torch.Tensor, given: torch.Tensor) -> bool:
    wanted = given.to(held)
    if torch.equal(held, wanted):
        return True
    return held.shape == wanted.shape and bool(
        ((held == wanted) | ((held != held) & (wanted != wanted))).all()  # NaN is itself here
    )


def wrap(module: torch.nn.Module, expected: int | None = None) -> torch.nn.Module:
    """A frozen classifier from a user's own module, which is left exactly as it was.

    It is a copy, on the same device. Its input is taken as [0, 1] pixels. Where it returns several
    tensors, those of the `expected` number of classes are the logits.

    Raises:
        InputError: the module cannot be copied.
    """
    return freeze(Classifier(replica(module), expected=expected))


def replica(module: torch.nn.Module) -> torch.nn.Module:
    """A deep copy; what the module computed (weight norm keeps its weight) is copied as numbers.

    A hook or a forward that refers to parts of the module is made anew with those of the copy.

    Raises:
        InputError: it cannot be copied, or its weights are empty.
    """
    _check_filled(module)
    with torch.inference_mode(False):  # what is made in that mode never has a gradient
        return _copied_module(module)


def _copied_module(module: torch.nn.Module) -> torch.nn.Module:
    memo: dict[int, Any] = {}
    functions: list[_Function] = []
    parts = list(module.modules())
    own = set(map(id, parts))
    for value in _held(value for part in parts for value in vars(part).values()):
        if isinstance(value, torch.Tensor):
            memo[id(value)] = value.detach().clone()
        elif (function := _Function(value, own)).holds:
            memo[id(value)] = function.made
            functions.append(function)
    try:
        with torch.no_grad():  # a copy of a program's parameter would be a computed tensor
            copied: torch.nn.Module = copy.deepcopy(module, memo)
        for function in functions:
            function.fill(memo)
    except (Exception, SystemExit) as error:  # a user's module may refuse in any way
        raise InputError(
            f"the model cannot be copied ({one_line(error)}); pass one that copy.deepcopy accepts"
        ) from error
    return copied


def _check_filled(module: torch.nn.Module) -> None:
    """Nothing, unless weights have no numbers: on the meta device, or of a lazy layer."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"the model's {name} has no size before a first pass (a lazy layer): pass one "
                "image through it first"
            )
        if is_hollow(tensor):
            raise InputError(
                f"the model's {name} is empty (on the meta device, as in accelerate's "
                "init_empty_weights); load its weights first"
            )


def _held(values: Iterable[Any]) -> Iterator[torch.Tensor | types.FunctionType]:
    """What `copy.deepcopy` does not copy, each once: what was computed, and users' functions."""
    left, seen = list(values), set[int]()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case torch.Tensor() if not value.is_leaf:
                yield value
            case dict():
                left += value.values()
            case list() | tuple() | set() | frozenset():
                left += value
            case functools.partial():
                left += [value.func, *value.args, *value.keywords.values()]
            case types.FunctionType() if not str(value.__module__).startswith("torch."):
                left += [*_contents(value), *_defaults(value)]
                yield value


def _contents(function: types.FunctionType) -> Iterator[Any]:
    """What a function closes over."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that has no value yet
            yield cell.cell_contents


def _defaults(function: types.FunctionType) -> list[Any]:
    """What its parameters have where nothing is given."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


class _Function:
    """A user's function, and one like it for a copy of the module that it belongs to.

    `copy.deepcopy` takes functions for constants: the copy's would go on with the original.
    """

    def __init__(self, own: types.FunctionType, parts: Collection[int]) -> None:
        """Of a function that may refer to parts, by `id`, of the module."""
        self.own = own
        there = own.__globals__
        names = own.__code__.co_names
        self.names = [name for name in names if id(there.get(name)) in parts]
        """global variables that are such parts"""
        self.made = types.FunctionType(
            own.__code__,
            dict(there) if self.names else there,
            own.__name__,
            own.__defaults__,
            tuple(types.CellType() for _ in own.__closure__ or ()),
        )
        self.made.__dict__.update(own.__dict__)
        self.made.__qualname__ = own.__qualname__

    @property
    def holds(self) -> bool:
        """Whether it refers to anything that a copy has of its own."""
        return bool(self.names or self.own.__closure__ or _defaults(self.own))

    def fill(self, memo: dict[int, Any]) -> None:
        """Let it refer to copies, as `copy.deepcopy` knows them."""
        for name in self.names:
            self.made.__globals__[name] = _copied(self.own.__globals__[name], memo)
        pairs = zip(self.made.__closure__ or (), self.own.__closure__ or (), strict=True)
        for cell, own in pairs:
            with suppress(ValueError):
                cell.cell_contents = _copied(own.cell_contents, memo)
        self.made.__defaults__ = _copied(self.own.__defaults__, memo)
        self.made.__kwdefaults__ = _copied(self.own.__kwdefaults__, memo)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy; what cannot be copied, as a library or an open file, is shared."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value
