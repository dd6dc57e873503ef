"""Data sets and checkpoints as another process has them."""

import pickle

from robustkit import checkpoint, data


def load_dataset(*given, **how):
    """A data set that has been handed to a worker, which reads and decodes by itself."""
    return pickle.loads(pickle.dumps(data.load_dataset(*given, **how)))


def read_checkpoint(*given, **how):
    """Likewise a checkpoint."""
    return pickle.loads(pickle.dumps(checkpoint.read_checkpoint(*given, **how)))
