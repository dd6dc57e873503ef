"""The one door to foolbox: import it quietly, anywhere, and keep it out of global random state."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from robustkit.errors import EvaluationFailed

# foolbox imports GitPython, whose import fails where there is no git executable
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
with warnings.catch_warnings():
    # foolbox 3.3.4 imports scipy.ndimage.filters, deprecated until SciPy 2 drops it
    warnings.simplefilter("ignore", DeprecationWarning)
    import eagerpy
    import foolbox

__all__ = ["eagerpy", "foolbox", "foolbox_model", "seeded"]


class _Checked(torch.nn.Module):
    """Finite logits, in the type of the pixels.

    NaN logits would steer an attack nowhere, in silence. With float64 logits foolbox returns
    float64 pixels, and an image on the boundary does not survive their rounding to float32.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationFailed("logits turned NaN or infinite during the attack")
        return logits.to(x.dtype)


def foolbox_model(model: torch.nn.Module, device: torch.device) -> foolbox.PyTorchModel:
    """The model as foolbox wants it; it must be on `device` and in eval mode already."""
    return foolbox.PyTorchModel(_Checked(model).eval(), bounds=(0, 1), device=device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch and numpy that foolbox draws from; restore them after."""
    devices = [device] if device.type == "cuda" else []
    state = np.random.get_state()  # noqa: NPY002  foolbox draws from this very state
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
