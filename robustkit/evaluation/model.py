"""What is evaluated: a checkpoint, or (`module`) a module in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustkit.checkpoint import Checkpoint
from robustkit.checkpoint.metadata import RECORDED
from robustkit.data import Dataset
from robustkit.data.shelf import resolved_path
from robustkit.data.source import WHOLE
from robustkit.files import shipped
from robustkit.models import names_code
from robustkit.results.metadata import ASKED, asked_share
from robustkit.results.records import COMPUTED, computed_by

if TYPE_CHECKING:
    import torch

    from robustkit.evaluation.outputs import Outputs

Load = Callable[["torch.device"], "torch.nn.Module"]
EVALUATED = ", or evaluate it image by image (--image-by-image; image_by_image=True in Python)"
"""what can be done where a network's logits depend on the batch, and it stays as it is"""
ALONE = {"image_by_image": True}
"""in a key and a record's header, of a network whose images never share a batch"""
CHECKPOINT_KEYS = ("path", *RECORDED, "weights", "preprocessing", "notes", "warnings")
"""what a record's header says of the checkpoint"""


class SeenImages(NamedTuple):
    """Whose images a training has seen, as a checkpoint of ours says it."""

    name: str
    split: str
    digest: str
    held_out: int | None = None
    """images of the same that it did not train on, on which its accuracy was taken"""
    path: str | None = None
    """where they were read, if no name stands for them"""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "SeenImages | None":
        """None: it does not say so."""
        match checkpoint.extra.get("training"):
            case {"data": {"name": str(name), "digest": str(digest), **own}, **told}:
                kept = own.get("held_out")
                count = kept.get("images") if isinstance(kept, dict) else None
                held_out = count if type(count) is int else None
                path = told.get("path")
                place = path if isinstance(path, str) else None
                return cls(name, str(told.get("split", "")), digest, held_out, place)
        return None

    def are(self, data: Dataset) -> bool:
        """Whether they are these, or those that these are some of.

        Of what has no splits, the name is that of a folder or a file, which others have, too: it
        is known by its path.
        """
        named = (data.name, data.split) == (self.name, self.split)
        if named and data.split == WHOLE:
            place = resolved_path(data.title, data.source)
            named = place is not None and place == self.path
        # images in memory that stand by class: trained on as given, and shuffled by an audit
        return named or self.digest in (data.digest, data.as_stored().digest)


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What is evaluated: a checkpoint, or a module in memory."""

    identity: Mapping[str, Any]
    """everything that can change a logit, as JSON"""
    header: Mapping[str, Any]
    """the record's `checkpoint` entry"""
    warnings: Sequence[str]
    load: Load
    """a frozen module on pixels in [0, 1]; it can be pickled where the network can"""
    shape: tuple[int, int, int] | None = None
    """C, H, W of the training images, where that is recorded"""
    outputs: Callable[[tuple[int, int, int], "torch.device"], "Outputs | None"] | None = None
    """of a module in memory and of user code, logits on noise of C × H × W, with which those of a
    record on file must agree; None of these: no record answers. Of other checkpoints the file says
    all."""
    instead: str = EVALUATED
    """where its logits depend on the batch, what can be done about it but to mend it"""
    trained_on: SeenImages | None = None
    """what the checkpoint says of the images that it was trained on"""


ONE_BY_ONE = (
    "evaluated one image at a time, as requested: in a batch an image may get other "
    "logits, so these numbers hold for single images only"
)


def from_checkpoint(
    checkpoint: Checkpoint, classes: int | None = None, *, image_by_image: bool = False
) -> EvaluatedModel:
    """A checkpoint as what is evaluated; `classes` and `image_by_image` as with `from_module`."""
    header = {key: getattr(checkpoint, key) for key in CHECKPOINT_KEYS}
    told = {
        COMPUTED: computed_by(checkpoint.identity, checkpoint.model),
        ASKED: asked_share(checkpoint.extra, checkpoint.label_noise),
    }
    header |= {key: value for key, value in told.items() if value is not None}
    if checkpoint.weights_key is not None:
        header["weights_key"] = checkpoint.weights_key
    if Path(checkpoint.path).parent == shipped("data"):
        header["path"] = Path(checkpoint.path).stem  # a shipped one goes by its name
    if checkpoint.published:
        header["path"] = checkpoint.published  # and so does one that was fetched

    load: Load = partial(_loaded, checkpoint, classes)
    alone = ALONE if image_by_image else {}
    load = one_by_one(load) if image_by_image else load
    # user code may depend on more than its source: a file that it opens, the environment
    own_code = names_code(checkpoint.model or "")
    return EvaluatedModel(
        checkpoint.identity | alone,
        header | alone,
        (*checkpoint.warnings, *((ONE_BY_ONE,) if image_by_image else ())),
        load,
        checkpoint.trained_shape,
        outputs=partial(_outputs, load) if own_code else None,
        trained_on=SeenImages.of(checkpoint),
    )


def _outputs(load: Load, shape: tuple[int, int, int], device: "torch.device") -> "Outputs | None":
    from robustkit.evaluation.outputs import on_noise  # torch

    return on_noise(load, shape, device)


def _loaded(
    checkpoint: Checkpoint, classes: int | None, device: "torch.device"
) -> "torch.nn.Module":
    return checkpoint.load(device, classes)


def one_by_one(load: Load) -> Load:
    """What loads the same network, to be given its images one at a time."""
    return partial(_alone, load)


def _alone(load: Load, device: "torch.device") -> "torch.nn.Module":
    from robustkit.checkpoint.adapter import OneByOne, freeze  # torch

    return freeze(OneByOne(load(device)))
