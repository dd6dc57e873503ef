"""The one door to foolbox: import it quietly, anywhere, and keep it out of global random state."""

import os
import random
import warnings
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from robustkit.attacks.victim import draws_at_random
from robustkit.errors import EvaluationFailed, InputError
from robustkit.network import answer
from robustkit.seeding import seeded

# foolbox imports GitPython, whose import fails where there is no git executable
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
with warnings.catch_warnings():
    # foolbox 3.3.4 imports scipy.ndimage.filters, deprecated until SciPy 2 drops it
    warnings.simplefilter("ignore", DeprecationWarning)
    import eagerpy
    import foolbox

__all__ = [
    "DecidedOnce",
    "Elsewhere",
    "Goal",
    "UnitBox",
    "broken",
    "drawn",
    "eagerpy",
    "finite",
    "foolbox",
    "foolbox_model",
    "goal",
    "seeded",
    "unit_box",
]

STEEPEST = 1e15
"""in place of an infinite slope: its square summed over an image is finite in float32"""
T = TypeVar("T")


def broken(slope: torch.Tensor) -> torch.Tensor:
    """Which rows of a gradient, N × …, hold a number that is none, or infinite; on the CPU."""
    # the sum is none, too, and costs less than a look at each
    rows = ~slope.flatten(1).sum(1).isfinite().cpu()
    if bool(rows.any()):  # or it is too large
        rows = ~slope.isfinite().flatten(1).all(1).cpu()
    return rows


def finite(slope: torch.Tensor) -> torch.Tensor:
    """A gradient that moves nothing where there is none: NaN would spread to other pixels."""
    return slope.nan_to_num(nan=0.0, posinf=STEEPEST, neginf=-STEEPEST)


class _Checked(torch.nn.Module):
    """Finite logits, in the type of the pixels, and finite gradients.

    NaN logits would steer an attack nowhere, in silence. With float64 logits foolbox returns
    float64 pixels, and an image on the boundary does not survive their rounding to float32.
    """

    def __init__(self, model: torch.nn.Module, told: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.model = model
        self.told = told

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            # one that is no number would make the next pixels none, and these the logits
            own: Any = x.view_as(x)
            own.register_hook(self._mended)
            logits: torch.Tensor = answer(self.model, own)
        else:
            logits = answer(self.model, x)
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationFailed("logits became NaN or infinite during the attack")
        return logits.to(x.dtype)

    def _mended(self, slope: torch.Tensor) -> torch.Tensor:
        if not bool((rows := broken(slope)).any()):
            return slope
        self.told(rows)
        return finite(slope)


class DecidedOnce(torch.nn.Module):
    """A model that draws at random, asked once at each point; a batch is one point to it.

    foolbox's attacks by decisions ask again at a point that was adversarial, and assert that it
    still is. One lucky answer would send them astray: each point is decided by the mean of
    `votes` copies in one pass, which are as good as so many passes where each has its own draw;
    where all have the same one, by that of so many passes.
    """

    def __init__(self, model: torch.nn.Module, votes: int) -> None:
        super().__init__()
        self.model = model
        self.votes = votes
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the model, N × K."""
        key = blake2b(x.detach().cpu().numpy().tobytes(), digest_size=16).digest()
        if key not in self.known:
            self.known[key] = self._votes(x).mean(1)
        return self.known[key]

    def _votes(self, x: torch.Tensor) -> torch.Tensor:
        """Logits N × votes × K."""
        copies: torch.Tensor = answer(self.model, x.repeat_interleave(self.votes, 0))
        votes = copies.view(len(x), self.votes, -1)
        first = votes[:, :1].expand_as(votes).flatten(0, 1)
        if draws_at_random(copies, first):
            return votes
        others = [answer(self.model, x) for _ in range(self.votes - 1)]
        return torch.stack([votes[:, 0], *others], 1)


class Elsewhere(foolbox.criteria.Criterion):  # type: ignore[misc]
    """Points other than the images, N × C × H × W.

    Blended noise begins with none of it, where a model that draws at random may err: an attack
    that starts at the image itself divides by its distance, 0.
    """

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images = images

    def __repr__(self) -> str:
        return "Elsewhere()"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """Which they are, N."""
        points, restore = eagerpy.astensor_(perturbed)
        return restore(eagerpy.astensor((points.raw != self.images).flatten(1).any(1)))


def foolbox_model(
    model: torch.nn.Module,
    device: torch.device,
    told: Callable[[torch.Tensor], None] = lambda rows: None,
) -> foolbox.PyTorchModel:
    """The model as foolbox wants it; it must be on `device` and in eval mode already.

    `told` is called with the rows, bool N on the CPU, whose gradient is no finite number.
    """
    return foolbox.PyTorchModel(_Checked(model, told).eval(), bounds=(0, 1), device=device)


class UnitBox(NamedTuple):
    """What foolbox hands over, moved to pixels in [0, 1], where our attacks work."""

    model: Any
    """takes pixels in [0, 1]"""
    images: torch.Tensor
    width: float
    """of the model's own box: budgets and distances there are as many times larger"""
    back: Callable[[torch.Tensor], Any]
    """from pixels in [0, 1] to the model's, in the type that the inputs had"""


def unit_box(model: Any, inputs: Any) -> UnitBox:
    """A foolbox model and its inputs on [0, 1], whatever the model's bounds."""
    wrapped, restore = eagerpy.astensor_(inputs)
    low, high = getattr(model, "bounds", (0, 1))  # a plain network takes [0, 1]
    width = high - low
    if (low, high) == (0, 1):
        return UnitBox(model, wrapped.raw, 1.0, lambda x: restore(eagerpy.astensor(x)))

    def back(x: torch.Tensor) -> Any:
        # rounding may lead a hair outside, where foolbox's own checks fail
        return restore(eagerpy.astensor((x * width + low).clamp(low, high)))

    images = ((wrapped.raw - low) / width).clamp(0, 1)
    return UnitBox(model.transform_bounds((0, 1)), images, width, back)


class Goal(NamedTuple):
    """What a foolbox criterion asks for."""

    classes: torch.Tensor
    """labels, or the targets to reach, N"""
    targeted: bool


def goal(criterion: Any) -> Goal:
    """What a criterion, or labels in its place, ask for.

    Raises:
        InputError: a criterion that is neither misclassification nor towards given classes.
    """
    criterion = foolbox.attacks.base.get_criterion(criterion)
    if isinstance(criterion, foolbox.criteria.TargetedMisclassification):
        return Goal(criterion.target_classes.raw, True)
    if isinstance(criterion, foolbox.criteria.Misclassification):
        return Goal(criterion.labels.raw, False)
    raise InputError(
        f"the criterion {type(criterion).__name__} is not supported; use Misclassification "
        "or TargetedMisclassification"
    )


def drawn(work: Callable[[], T], seed: int, device: torch.device) -> tuple[T, list[bytes]]:
    """What comes of some work from a seed, and the states in which it leaves the generators."""
    with seeded(seed, device):
        result = work()
        states = [torch.get_rng_state().numpy().tobytes()]
        if device.type == "cuda":
            states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
        _, key, place, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
        states.append(np.asarray(key).tobytes() + str(place).encode())
        return result, [*states, repr(random.getstate()).encode()]
