"""A folder of weights: which of its files are read, what they hold, and its JSON as plain data."""

from robustkit.checkpoint.folder.opening import Folder, open_folder, open_only_graph

__all__ = ["Folder", "open_folder", "open_only_graph"]
