"""Data sets as NumPy arrays: named ones, folders, Parquet, `.npz`. Needs no torch.

- shelf: what a data set's TOML file says
- source: images by position, whatever the format; idx, npz, npy, tensors, folder, table,
  parquet, arrow, webdataset, corrupted and originals open one
- split: which split a file is of; shards: that its files are all of one data set
- pixels: the one form of an image that ids and attacks start from
- transform: channels, resize by an interpolation, crop
- pipeline: the same as a library does it, bit for bit
- classes: which of a network's classes the data's are; classlist reads what the user says of it
- dataset: order, ids and digest
- loading: from a name to a data set
- draws: random choices by id
- noise: wrong labels; labelfile reads those, or the matrix, that a user brings
- subset: what is trained on, what is held out
- recovered: the same once more, from the record that a training leaves
"""

from typing import TYPE_CHECKING

from robustkit.data.shelf import DatasetSpec, read_dataset_spec
from robustkit.lazy import lazily

if TYPE_CHECKING:
    from robustkit.data.dataset import Dataset, from_arrays
    from robustkit.data.loading import load_dataset
    from robustkit.data.noise import LabelNoise
    from robustkit.data.subset import TrainingData, prepare_training_data

__all__ = [
    "Dataset",
    "DatasetSpec",
    "LabelNoise",
    "TrainingData",
    "from_arrays",
    "load_dataset",
    "prepare_training_data",
    "read_dataset_spec",
]

_HOMES = {
    "Dataset": "dataset",
    "LabelNoise": "noise",
    "TrainingData": "subset",
    "from_arrays": "dataset",
    "load_dataset": "loading",
    "prepare_training_data": "subset",
}

__getattr__ = lazily(__name__, _HOMES)
"""The names that need NumPy, when they are first asked for: the shelf is listed without it."""
