"""Data sets as NumPy arrays: named ones, folders, Parquet, `.npz`. Needs no torch.

- shelf: what a data set's TOML file says
- source: images by position, whatever the format; idx, npz, folder, parquet and originals open one
- pixels: the one form of an image that ids and attacks start from
- transform: channels, resize, crop
- dataset: order, ids and digest
- loading: from a name to a data set
"""

from robustkit.data.dataset import Dataset, from_arrays
from robustkit.data.loading import load
from robustkit.data.shelf import Spec, spec

__all__ = ["Dataset", "Spec", "from_arrays", "load", "spec"]
