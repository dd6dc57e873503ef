"""What a checkpoint's record says of its training and the audited images. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from robustkit.auditing.indicators import INDICATORS
from robustkit.data import Dataset
from robustkit.evaluation import EvaluatedModel
from robustkit.keys import AuditPartKey


@dataclass(frozen=True, slots=True)
class Recorded:
    """What indicators ask of it; the fields are those of `AuditContext`."""

    recorded_accuracy: float | None
    recorded_images: int | None
    all_seen: bool

    @classmethod
    def of(cls, model: EvaluatedModel, data: Dataset) -> "Recorded":
        """What is on record of a network, as far as it bears on these images."""
        accuracy, told = model.header["recorded_accuracy"], model.trained_on
        same = told is not None and told.name == data.name == model.header["trained_on"]
        return cls(
            None if accuracy is None else float(accuracy),
            # without splits the name is a folder's or a file's, which others have, too
            told.held_out if told is not None and same and data.split != "all" else None,
            all_seen(model, data),
        )

    def keys(self, key: AuditPartKey, training: str | None) -> Mapping[str, AuditPartKey]:
        """Each indicator's key, with what it alone asks; `training` stamps the training images."""
        keys = dict.fromkeys((i.name for i in INDICATORS), key)
        of_training = replace(key, training="all of them" if self.all_seen else training)
        keys |= {i.name: of_training for i in INDICATORS if i.asks_training}
        count = f"recorded of {self.recorded_images} images"
        return keys | {"clean-accuracy": replace(key, training=count)}


def all_seen(model: EvaluatedModel, data: Dataset) -> bool:
    """Whether a network is recorded as trained on these very images, or on a set that has all."""
    if model.trained_on is not None and model.trained_on.are(data):
        return True
    whole = data.source.get("all_training_images_of")
    return bool(whole) and model.header["trained_on"] == whole
