"""Weights that a file keeps in parts, folded into plain ones as torch computes them in eval mode.

Weight normalisation (Salimans and Kingma 2016), spectral normalisation (Miyato et al. 2018) and
pruning, each in torch's hook form (torch.nn.utils) and as torch.nn.utils.parametrizations.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch

State = dict[str, torch.Tensor]


def folded(state: State) -> tuple[State, tuple[str, ...]]:
    """The state with its parametrised weights made plain, and the names of what was folded."""
    # in this order: spectral norm's hook form and pruning share `_orig`, and its `_v` is weight
    # norm's as well; a form is taken only where all its parts are there, and takes them away
    result, kinds = dict(state), dict[str, None]()
    for kind, suffixes, name, fold in _FORMS:
        for key in [key for key in result if key.endswith(suffixes[0])]:
            stem = key[: -len(suffixes[0])]
            parts = [stem + suffix for suffix in suffixes]
            if all(part in result for part in parts) and _computable(kind, result, parts):
                weight = fold(*(result.pop(part) for part in parts))
                result[name(stem)] = weight
                kinds[kind] = None
    return result, tuple(kinds)


def _computable(kind: str, state: State, parts: Sequence[str]) -> bool:
    """Whether the parts are numbers to compute with; integers are left for the refusal."""
    return kind == "pruning" or all(state[part].is_floating_point() for part in parts)


def _hooked(stem: str) -> str:
    return stem


def _parametrized(stem: str) -> str:
    """layer.parametrizations.weight becomes layer.weight."""
    before, _, name = stem.rpartition("parametrizations.")
    return before + name


def _masked(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.to(weight.dtype) * weight


def _weight_norm(magnitude: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Magnitude g times v / ‖v‖, the norm over all dimensions but the one along which g runs."""
    if magnitude.dim() == 0:
        return torch._weight_norm(direction, magnitude, -1)
    along = [d for d, size in enumerate(magnitude.shape) if size != 1]
    # a single g belongs to a dimension of size 1, not to the first: a transposed convolution to one
    # channel has it along its second
    along = along or [d for d, size in enumerate(direction.shape) if size == 1]
    return torch._weight_norm(direction, magnitude, along[0] if along else 0)


def _spectral_norm(weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """W / σ with σ = uᵀ W v, W laid out as a matrix along the dimension that u fits.

    Transposed convolutions use dimension 1. Where both fit, the right one has the larger σ, since u
    and v approach its singular vectors.
    """
    dims = [
        d
        for d, n in enumerate(weight.shape)
        if (n, prod(weight.shape) // n) == (*u.shape, *v.shape)
    ]
    if not dims:
        raise ValueError("u and v of a spectral norm do not fit the weight")
    sigmas = [torch.vdot(u, torch.mv(weight.movedim(d, 0).flatten(1), v)) for d in dims]
    return weight / max(sigmas, key=lambda sigma: sigma.abs().item())


_Form = tuple[str, tuple[str, ...], Callable[[str], str], Callable[..., torch.Tensor]]
_FORMS: tuple[_Form, ...] = (
    ("pruning", ("_orig", "_mask"), _hooked, _masked),
    ("spectral norm", ("_orig", "_u", "_v"), _hooked, _spectral_norm),
    ("weight norm", ("_g", "_v"), _hooked, _weight_norm),
    ("spectral norm", (".original", ".0._u", ".0._v"), _parametrized, _spectral_norm),
    ("weight norm", (".original0", ".original1"), _parametrized, _weight_norm),
)
