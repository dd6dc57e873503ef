"""What calls from Python are given, in whatever form: networks and images."""

import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Union

from robustkit import evaluation
from robustkit.checkpoint import Checkpoint, read_checkpoint
from robustkit.data import Dataset, load_dataset
from robustkit.data.batches import from_memory
from robustkit.display.progress import seen
from robustkit.display.stream import FetchLines
from robustkit.errors import InputError, quoted
from robustkit.evaluation.images import check_classes, check_shape, images_for
from robustkit.evaluation.model import EvaluatedModel, from_checkpoint
from robustkit.files import whole_number
from robustkit.models import names_code
from robustkit.record import Evaluation
from robustkit.training import TrainingResult

if TYPE_CHECKING:
    import torch

Loaded = Union["torch.nn.Module", Checkpoint]
Network = Union["torch.nn.Module", Checkpoint, TrainingResult, str, Path]
"""a module from pixels in [0, 1] to logits, a checkpoint, the path or name of one, or what `train`
returned"""
Data = Dataset | Iterable[Any] | str | Path
"""a data set, its name or path; images N × C × H × W in [0, 1] and labels N; a data loader, a data
set of torch, or a list of (image, label), which are read into memory"""


READING = re.compile(
    r"--(model|num-classes|mean|std|trust-program|weights|ignore|rename)\b(?: ('[^']+'|\S+:\S*\w))?"
)
"""an option by which a file is read, and perhaps its value: `read_checkpoint` alone has it here"""
AttackSettings = Mapping[str, Any] | Sequence[str]
"""changes to a protocol's attacks: {"steps": 10}, or ["steps=10"] as on the command line"""


class ImageKeywords(TypedDict, total=False):
    """How the images of a named data set are made; as `load_dataset` and the options have it."""

    data_root: str | Path | None
    resize: int | None
    interpolation: str | None
    crop: int | None
    channels: int | None
    classes: str | Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Which images, and how they are made; None: as the checkpoint was trained."""

    data: Data | None
    split: str | None = None
    """"test" where nothing is given"""
    limit: int | None = None
    data_root: str | Path | None = None
    resize: int | None = None
    interpolation: str | None = None
    crop: int | None = None
    channels: int | None = None
    classes: str | Path | None = None
    """which classes of the network those of the data are"""
    fair: bool = False
    """refuse first images of a few classes: nobody has asked for just so many"""

    @property
    def form(self) -> dict[str, Any]:
        """How they are made, as far as anything is given."""
        names = ("resize", "interpolation", "crop", "channels")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def load(self, model: "Loaded") -> Dataset:
        """The images to try a network on.

        Raises:
            InputError: the network was trained on images of another shape, none are named, or an
                option is for data that are read by name.
        """
        if not isinstance(self.data, str | Path | None):
            return self._held(model)
        where: dict[str, Any] = {"split": self.split or "test", "limit": self.limit}
        where |= self.form | {"root": path_of(self.data_root), "classes": self.classes}
        if isinstance(model, Checkpoint):
            return images_for(model, self.data, **where)
        if self.data is None:
            raise InputError("no images: name a data set, or give images and labels")
        return load_dataset(self.data, **where)

    def _held(self, model: "Loaded") -> Dataset:
        """Of images that are in memory, or a data set that was read before."""
        named = self.form | {"split": self.split, "data_root": self.data_root}
        for option, value in (named | {"classes": self.classes}).items():
            if value is not None:
                there = "root" if option == "data_root" else option
                raise InputError(
                    f"{option} goes with a data set's name or path: give that in place of what was "
                    f"read, or give {there} to load_dataset"
                )
        count = None if self.limit is None else whole_number(self.limit, "--limit", least=1)
        held = self.data
        if not isinstance(held, Dataset):
            held = from_memory(held, count, fair=self.fair)
        if isinstance(model, Checkpoint):
            check_classes(model, held)
        return held.first(count)

    def other_model(
        self,
        images: Dataset,
        given: "Network",
        *,
        trust_program: bool = False,
        image_by_image: bool = False,
    ) -> EvaluatedModel:
        """Another network, for images that were made for the first: a surrogate or a comparison.

        Raises:
            InputError: it was trained on images of another shape than is asked for, or it numbers
                its classes otherwise.
        """
        found = network(given, trust_program=trust_program)
        if isinstance(found, Checkpoint):
            check_shape(found, images, self.form)
            check_classes(found, images)
        return evaluated(found, images, image_by_image=image_by_image)


def image_options(
    call: Callable[..., Any],
    data: Data | None,
    split: str | None,
    limit: int | None,
    images: Mapping[str, Any],
) -> ImageOptions:
    """What a call says of its images; `images` are the keywords that are not in its signature.

    Raises:
        TypeError: one of them is none.
    """
    for key in images.keys() - ImageKeywords.__annotations__.keys():
        known = [*inspect.signature(call).parameters, *ImageKeywords.__annotations__]
        close = get_close_matches(key, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{call.__name__}() got an unexpected keyword argument {key!r}{hint}")
    return ImageOptions(data=data, split=split, limit=limit, **images)


def network(given: "Network", *, trust_program: bool = False) -> "Loaded":
    """A network in memory, or the checkpoint that is named.

    Raises:
        InputError: neither.
    """
    if isinstance(given, TrainingResult):
        own = given.model if given.model and names_code(given.model) else None
        return _read(given.path, own, trust_program)
    if isinstance(given, str | Path):
        return _read(given, None, trust_program)
    if isinstance(given, Checkpoint):
        return given
    nn = sys.modules.get("torch.nn")  # without it there is no module, either
    if nn is not None and isinstance(given, nn.Module):
        module: torch.nn.Module = given
        return module
    raise InputError(
        f"{quoted(given)}: no network; give a torch.nn.Module, a checkpoint or its path"
    )


def _read(path: str | Path, model: str | None, trusted: bool) -> Checkpoint:
    """The checkpoint of a path or name, of an architecture that may be built.

    Raises:
        InputError: it cannot be read so; the message says what to do from Python.
    """
    lines = FetchLines() if seen() else None
    try:
        found = read_checkpoint(path, model=model, trust_program=trusted, progress=lines)
        found.check_architecture()
    except InputError as error:
        text = str(error)
        named = dict.fromkeys(name.replace("-", "_") for name, _ in READING.findall(text))
        if named:
            asked = ", ".join(f"{name}=…" for name in named)
            how = f"; give robustkit.read_checkpoint({str(path)!r}, {asked}) in the path's place"
            error.args = (READING.sub(_keyword, text) + how, *error.args[1:])
        raise
    return found


def _keyword(option: re.Match[str]) -> str:
    """An option of the command line as a keyword."""
    name, value = option[1].replace("-", "_"), option[2]
    return f"{name}={value.strip(chr(39))!r}" if value else name


def evaluated(
    model: "Loaded", images: Dataset, name: str | None = None, *, image_by_image: bool = False
) -> EvaluatedModel:
    """A network as what is evaluated on these images.

    Args:
        model: the network.
        images: the images.
        name: under which the records of a module in memory are kept.
        image_by_image: its images never share a batch.

    Raises:
        InputError: a checkpoint is given a name.
    """
    classes = len(images.classes)
    if isinstance(model, Checkpoint):
        if name is not None:
            raise InputError(
                f"name {name!r}: is for a module in memory, and {model.path} goes by its path; "
                "leave name out"
            )
        return from_checkpoint(model, classes, image_by_image=image_by_image)
    return evaluation.from_module(model, name, classes, image_by_image=image_by_image)


def name_of(model: "Loaded", name: str | None = None) -> str:
    """A network as people are told of it: by its path, its name or its class."""
    return str(model.path) if isinstance(model, Checkpoint) else name or type(model).__name__


def record_name(given: object) -> str:
    """What names an evaluated network: its path, a pattern, or the path of a record.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, Checkpoint | TrainingResult | Evaluation) and given.path is not None:
        return str(given.path)
    if isinstance(given, str | Path):
        return str(given)
    if isinstance(given, Evaluation):
        raise InputError(
            f"{given.header['checkpoint']['path']}: nothing is kept of an evaluation of a module "
            'without a name; evaluate it with name="…"'
        )
    raise InputError(
        f"{quoted(given)}: names no evaluated network; give each its path, a pattern, or its record"
    )


def path_of(given: Path | str | None) -> Path | None:
    """A path, where one is given."""
    return None if given is None else Path(given)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is not kept."""
    with tempfile.TemporaryDirectory(prefix="robustkit-") as folder:
        yield Path(folder)


def setting_texts(given: AttackSettings) -> Sequence[str]:
    """Changes to a protocol's attacks, as the command line has them."""
    if isinstance(given, Mapping):
        return [f"{key}={value}" for key, value in given.items()]
    return [given] if isinstance(given, str) else given
