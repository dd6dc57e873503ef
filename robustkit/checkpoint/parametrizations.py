"""Weights that a file keeps in parts, folded into plain ones as torch computes them in eval mode.

Weight normalisation (Salimans and Kingma 2016), spectral normalisation (Miyato et al. 2018) and
pruning, each in torch's hook form (torch.nn.utils) and as torch.nn.utils.parametrizations. torch is
imported where there is something to fold, and not before.
"""

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from robustkit.unpickling.tensors import Array, State

if TYPE_CHECKING:
    import torch

Folds = dict[tuple[str, tuple[int, ...]], Array]
"""weights that were made plain, by their kind and the ids of their parts"""


def folded(state: State, done: Folds) -> tuple[State, tuple[str, ...]]:
    """The state with its parametrised weights made plain, and the names of what was folded.

    Parts whose types and shapes no parametrisation gives stay as they are. `done` holds what was
    folded before: the same tensors under other names are not folded anew.
    """
    # in this order: spectral norm's hook form and pruning share `_orig`, and its `_v` is weight
    # norm's as well; a form is taken only where all its parts are there, and takes them away
    result, kinds = dict(state), dict[str, None]()
    for kind, suffixes, name, fits, fold in _FORMS:
        for key in [key for key in result if key.endswith(suffixes[0])]:
            stem = key[: -len(suffixes[0])]
            names = [stem + suffix for suffix in suffixes]
            parts = [result[part] for part in names if part in result]
            if len(parts) < len(names) or name(stem) in result or not fits(*parts):
                continue
            for part in names:
                del result[part]
            place = (kind, tuple(map(id, parts)))
            if place not in done:
                done[place] = _by_torch(fold, parts)
            result[name(stem)] = done[place]
            kinds[kind] = None
    return result, tuple(kinds)


def _by_torch(fold: Callable[..., "torch.Tensor"], parts: list[Array]) -> Array:
    import torch

    folded: Array = fold(*map(torch.from_numpy, parts)).numpy()
    return folded


def _hooked(stem: str) -> str:
    return stem


def _parametrized(stem: str) -> str:
    """layer.parametrizations.weight becomes layer.weight."""
    before, _, name = stem.rpartition("parametrizations.")
    return before + name


def _fits_mask(weight: Array, mask: Array) -> bool:
    # n×1 against 1×n would be multiplied, too, to n×n numbers
    return weight.shape == mask.shape


def _masked(weight: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    return mask.to(weight.dtype) * weight


def _fits_weight_norm(magnitude: Array, direction: Array) -> bool:
    if not _are_real(magnitude, direction) or not direction.ndim:
        return False
    pairs = zip(magnitude.shape, direction.shape, strict=False)
    along = [size for size, whole in pairs if size == whole and size != 1]
    return magnitude.ndim in (0, direction.ndim) and magnitude.size == prod(along[:1])


def _are_real(*parts: Array) -> bool:
    """Whether they hold numbers to compute with; integers are left for the refusal."""
    return all(part.dtype.kind == "f" and part.size for part in parts)


def _weight_norm(magnitude: "torch.Tensor", direction: "torch.Tensor") -> "torch.Tensor":
    """Magnitude g times v / ‖v‖, the norm over all dimensions but the one along which g runs."""
    import torch

    if magnitude.dim() == 0:
        return torch._weight_norm(direction, magnitude, -1)
    along = [d for d, size in enumerate(magnitude.shape) if size != 1]
    # a single g belongs to a dimension of size 1, not to the first: a transposed convolution to one
    # channel has it along its second
    along = along or [d for d, size in enumerate(direction.shape) if size == 1]
    return torch._weight_norm(direction, magnitude, along[0] if along else 0)


def _fits_spectral_norm(weight: Array, u: Array, v: Array) -> bool:
    return _are_real(weight, u, v) and bool(_laid_out(weight.shape, (*u.shape, *v.shape)))


def _laid_out(weight: tuple[int, ...], sides: tuple[int, ...]) -> list[int]:
    """The dimensions along which a weight of that shape is a matrix of these sides."""
    return [d for d, n in enumerate(weight) if (n, prod(weight) // n) == sides]


def _spectral_norm(weight: "torch.Tensor", u: "torch.Tensor", v: "torch.Tensor") -> "torch.Tensor":
    """W / σ with σ = uᵀ W v, W laid out as a matrix along the dimension that u fits.

    Transposed convolutions use dimension 1. Where both fit, the right one has the larger σ, since u
    and v approach its singular vectors.
    """
    import torch

    sigmas = [
        torch.vdot(u, torch.mv(weight.movedim(d, 0).flatten(1), v))
        for d in _laid_out(weight.shape, (*u.shape, *v.shape))
    ]
    return weight / max(sigmas, key=lambda sigma: sigma.abs().item())


_Form = tuple[
    str,
    tuple[str, ...],
    Callable[[str], str],
    Callable[..., bool],
    Callable[..., "torch.Tensor"],
]
_PRUNING = (_fits_mask, _masked)
_WEIGHT_NORM = (_fits_weight_norm, _weight_norm)
_SPECTRAL_NORM = (_fits_spectral_norm, _spectral_norm)
_FORMS: tuple[_Form, ...] = (
    ("pruning", ("_orig", "_mask"), _hooked, *_PRUNING),
    ("spectral norm", ("_orig", "_u", "_v"), _hooked, *_SPECTRAL_NORM),
    ("weight norm", ("_g", "_v"), _hooked, *_WEIGHT_NORM),
    ("spectral norm", (".original", ".0._u", ".0._v"), _parametrized, *_SPECTRAL_NORM),
    ("weight norm", (".original0", ".original1"), _parametrized, *_WEIGHT_NORM),
)
