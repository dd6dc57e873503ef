"""Architectures by name. Importing this package imports no torch; `build` does.

What the weights of the registry's are called, and which shapes they have, stands in `layouts.json`,
so that a file is recognised without torch.

Four ways to name one: a name of the registry below, `torchvision:NAME`, `timm:NAME`, or the user's
own `FILE.py:FUNCTION`, which is imported and called, so a caller must never pass what a file said.
"""

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustkit.defaults import torch_defaults
from robustkit.errors import CheckpointError, InputError, UnknownName, one_line
from robustkit.files import digest
from robustkit.models.imported import FromSource, Neighbours, source_digest
from robustkit.unpickling.tensors import EXTRA

if TYPE_CHECKING:
    import torch

__all__ = [
    "MODELS",
    "Layout",
    "ModelEntry",
    "ModelName",
    "Slot",
    "build",
    "import_function",
    "layout",
    "layout_of",
    "names_code",
    "parse_name",
    "source",
]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One architecture of the registry."""

    title: str
    module: str
    """file in this package, without .py"""
    function: str
    """called with `num_classes`"""
    shape: tuple[int, int, int]
    """input as C, H, W"""
    key: str
    """a name among its weights: files without it need not be compared with it"""
    pins: tuple[str, ...] = ()
    """distributions whose own code is part of the architecture"""


MODELS: dict[str, ModelEntry] = {
    "lenet5": ModelEntry(
        "LeNet-5 with ReLU and max pooling", "lenet5", "lenet5", (1, 28, 28), "fc3.bias"
    ),
    "lenet5-prelu": ModelEntry(
        "LeNet-5 with PReLU, as large-margin softmax was published with",
        "lenet5_prelu",
        "lenet5_prelu",
        (1, 28, 28),
        "prelu4.weight",
    ),
    "mnist-cnn": ModelEntry(
        "the MNIST network of Elsayed et al. 2018, without batch norm",
        "mnist_cnn",
        "mnist_cnn",
        (1, 28, 28),
        "fc2.bias",
    ),
    "mnist-cnn-bn": ModelEntry(
        "the MNIST network of Elsayed et al. 2018, batch norm after each pool",
        "mnist_cnn",
        "mnist_cnn_bn",
        (1, 28, 28),
        "bn2.bias",
    ),
    "lsoftmax-mnist": ModelEntry(
        "the MNIST network published with large-margin softmax, Liu et al. 2016",
        "lsoftmax",
        "lsoftmax_mnist",
        (1, 28, 28),
        "conv3_3.weight",
    ),
    "lsoftmax-cifar": ModelEntry(
        "the CIFAR network published with large-margin softmax, Liu et al. 2016",
        "lsoftmax",
        "lsoftmax_cifar",
        (3, 32, 32),
        "conv3_4.weight",
    ),
    "small-cnn-cifar": ModelEntry(
        "the small CIFAR network of Wong and Kolter 2018, for processors",
        "small_cnn_cifar",
        "small_cnn_cifar",
        (3, 32, 32),
        "fc2.bias",
    ),
    "resnet18-cifar": ModelEntry(
        "ResNet-18 for small images: 3×3 stem, no max pool",
        "resnet18_cifar",
        "resnet18_cifar",
        (3, 32, 32),
        "layer4.1.bn2.bias",
        pins=("torchvision",),
    ),
}


class Slot(NamedTuple):
    """What an architecture has under one of its names."""

    shape: tuple[int, ...]
    kind: str
    """torch's name of the type: float32"""
    parameter: bool
    """False: a buffer"""


Layout = Mapping[str, Slot]
"""the names of a network's state dict, in its order"""


class ModelName(NamedTuple):
    """A model's name taken apart."""

    kind: str
    """registry, torchvision, timm or file"""
    name: str
    """the architecture's name, or the function's"""
    path: Path | None = None
    """the user's file"""


def names_code(name: str) -> bool:
    """Whether `name` has the form FILE.py:FUNCTION, whose use runs that file."""
    return name.rpartition(":")[0].endswith(".py")


def parse_name(name: str) -> ModelName:
    """A model's name taken apart; imports nothing.

    Raises:
        UnknownName: neither a registry name nor one of the other forms.
    """
    if names_code(name):
        path, _, function = name.rpartition(":")
        return ModelName("file", function, Path(path))
    library, colon, rest = name.partition(":")
    if colon and library in ("torchvision", "timm"):
        return ModelName(library, rest)
    if name in MODELS:
        return ModelName("registry", name)
    advice = "or torchvision:NAME, timm:NAME, FILE.py:FUNCTION"
    raise UnknownName("model", name, MODELS, advice)


@torch_defaults(device=False)  # a layout is built on the meta device
def build(
    name: str, *, num_classes: int = 10, seed: int | None = None, checkpoint: str | None = None
) -> "torch.nn.Module":
    """The architecture with fresh weights, of float32, on torch's default device.

    The weights are drawn from the global generators, or, with `seed`, from their own, and the
    global ones stay as they were. A user's function decides on the number of classes itself. It is
    called without arguments or, where it has one that must be given, with the path `checkpoint`.

    Raises:
        UnknownName: no such architecture.
        InputError: the user's file or function fails, or its library is not installed.
    """
    # this package answers `robustkit list models`, which must not wait for torch
    from robustkit.seeding import current, generators_kept, seeded

    chosen = parse_name(name)
    with generators_kept(current()) if seed is None else seeded(seed, current()):
        return _build(chosen, num_classes, checkpoint)


def layout_of(module: "torch.nn.Module") -> Layout:
    """The layout of a network; its extra state, which is its own, is none of it.

    Raises:
        InputError: a layer has no size yet.
        CheckpointError: one holds its weights otherwise than as tensors.
    """
    from torch.nn.parameter import is_lazy

    parameters, state = dict(module.named_parameters()), module.state_dict()
    if lazy := [name for name, value in state.items() if is_lazy(value)]:
        raise InputError(
            f"the network's {lazy[0]} has no size before a first pass (a lazy layer): pass one "
            "image through it in the function that makes it"
        )
    state = {name: value for name, value in state.items() if not name.endswith(EXTRA)}
    if packed := [name for name, value in state.items() if not hasattr(value, "shape")]:
        raise CheckpointError(
            f"the network's {packed[0]} is no tensor, as in layers quantised by "
            "torch.ao.quantization; hand the network itself to robustkit.evaluate in Python"
        )
    return {
        name: Slot(tuple(value.shape), str(value.dtype).removeprefix("torch."), name in parameters)
        for name, value in state.items()
    }


def layout(name: str, num_classes: int) -> Layout | None:
    """The layout of an architecture of the registry; None of another, which must be built."""
    if (slots := _layouts().get(name)) is None:
        return None
    return {
        key: Slot(tuple(num_classes if size == "classes" else size for size in shape), *rest)
        for key, (shape, *rest) in slots.items()
    }


@cache
def _layouts() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("layouts.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


def source(name: str) -> str:
    """What identifies the code behind a name: digests of its file, or package and version.

    Of a user's FILE.py, modules of the user's that it imports are covered; files that it opens and
    modules whose names it puts together at run time are not.

    Raises:
        UnknownName: no such architecture.
        InputError: the user's file cannot be read, or the library is not installed.
    """
    chosen = parse_name(name)
    if chosen.path is not None:
        return f"{chosen.name} {source_digest(_existing(chosen.path))}"
    if chosen.kind in ("torchvision", "timm"):
        return f"{name} {_version(chosen.kind)}"
    entry = MODELS[chosen.name]
    code = (Path(__file__).parent / f"{entry.module}.py").read_bytes()
    return digest(entry.function, code, *(f"{name} {_version(name)}" for name in entry.pins))


def _version(package: str) -> str:
    """A distribution's version without its build's suffix, such as +cpu."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError as error:
        raise InputError(
            f"{package} is not installed; install it with: pip install 'robustkit[{package}]'"
        ) from error


def _build(chosen: ModelName, num_classes: int, checkpoint: str | None) -> "torch.nn.Module":
    if chosen.path is not None:
        return _call(chosen.path, chosen.name, checkpoint)
    if chosen.kind == "torchvision":
        return _torchvision(chosen.name, num_classes)
    if chosen.kind == "timm":
        return _timm(chosen.name, num_classes)
    entry = MODELS[chosen.name]
    module = importlib.import_module(f"robustkit.models.{entry.module}")
    made: torch.nn.Module = getattr(module, entry.function)(num_classes=num_classes)
    return made


def _torchvision(name: str, num_classes: int) -> "torch.nn.Module":
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName("torchvision model", name, known)
    # these two warn unless told how to initialise; a loaded checkpoint overwrites it anyway
    quiet = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    made: torch.nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **quiet)
    return made


def _timm(name: str, num_classes: int) -> "torch.nn.Module":
    _version("timm")
    import timm

    # timm also takes hf-hub: and local-dir: names, which download and read other files
    if ":" in name or not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    made: torch.nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return made


def _existing(path: Path, option: str = "--model") -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {option} takes FILE.py:FUNCTION")
    return path


def _call(path: Path, name: str, checkpoint: str | None) -> "torch.nn.Module":
    """What the function `name` in the user's file returns."""
    import torch

    from robustkit.switches import settings_kept

    made_by = _imported(path, name, "--model")
    given = (checkpoint,) if checkpoint is not None and _takes_one(made_by) else ()
    try:
        with settings_kept():
            made = made_by(*given)
    except (Exception, SystemExit) as error:  # a user's code may raise anything: one line
        raise InputError(f"{path}:{name} failed: {one_line(error)}") from error
    if not isinstance(made, torch.nn.Module):
        raise InputError(
            f"{path}:{name} returned {type(made).__name__}; it must return a torch.nn.Module"
        )
    return made


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function has exactly one argument that must be given, and takes it by its place."""
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):  # one of a compiled module need not have a signature
        return False
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.kind for p in parameters if p.default is p.empty and p.kind not in several]
    return len(needed) == 1 and needed[0] is not inspect.Parameter.KEYWORD_ONLY


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """A function's arguments, whatever its annotations.

    Those of names that are imported for type checkers alone cannot be evaluated, as Python 3.14
    does where they are asked for.

    Raises:
        TypeError, ValueError: it has none that can be read.
    """
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.STRING)
    return inspect.signature(function)


@torch_defaults()  # which a file may set
def import_function(path: Path, name: str, option: str = "--model") -> Callable[..., Any]:
    """The function of that name in the user's file, imported under a name of its own.

    `option` is what the user gave the file to, for messages.

    Raises:
        InputError: no such file, or importing it fails.
        UnknownName: it has no such function.
    """
    from robustkit.seeding import current, generators_kept

    with generators_kept(current()):
        return _imported(path, name, option)


def _imported(path: Path, name: str, option: str) -> Callable[..., Any]:
    from robustkit.switches import settings_kept

    resolved = _existing(path, option).resolve()
    private = f"_robustkit_user_{sha256(str(resolved).encode()).hexdigest()[:16]}"
    found = importlib.util.spec_from_file_location(
        private, resolved, loader=FromSource(private, str(resolved))
    )
    if found is None or found.loader is None:
        raise InputError(f"{path}: not importable as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[private] = module  # dataclasses and pickle look a class's module up there
    neighbours = Neighbours(resolved)
    try:
        with neighbours.present(), settings_kept():
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as in _call
        raise InputError(f"{path}: importing it failed: {one_line(error)}") from error
    if not callable(found_function := getattr(module, name, None)):
        own = [key for key, value in vars(module).items() if inspect.isroutine(value)]
        raise UnknownName(f"function in {path}:", name, own)
    return neighbours.beside(found_function)
