"""From a protocol's attack and norm to the class that carries it out."""

from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from typing import Any

from robustkit.attacks.apgd import ApgdSearch
from robustkit.attacks.fab import FabSearch
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.library import foolbox
from robustkit.attacks.mended import (
    MENDED_FMN,
    MendedDDN,
    MendedDeepFool,
    MendedHopSkipJump,
)
from robustkit.attacks.patch import PatchSearch
from robustkit.attacks.search import Search
from robustkit.attacks.sigma_zero import SigmaZeroAttack
from robustkit.attacks.sparse_pgd import SparsePgdSearch
from robustkit.attacks.sparse_rs import SparseSearch
from robustkit.attacks.square import SquareSearch
from robustkit.errors import ProtocolError
from robustkit.protocol import (
    APGD,
    CW,
    DDN,
    FAB,
    FGSM,
    FMN,
    MIFGSM,
    PGD,
    Attack,
    Boundary,
    DeepFool,
    HopSkipJump,
    Noise,
    Norm,
    Patch,
    SigmaZero,
    SparsePGD,
    SparseRS,
    Square,
    kind_of,
)

SEARCHES: dict[type[Any], Callable[..., Search[Any]]] = {
    APGD: ApgdSearch,
    FAB: FabSearch,
    Square: SquareSearch,
    SparsePGD: SparsePgdSearch,
    SparseRS: SparseSearch,
    Patch: PatchSearch,
}


def build_search(attack: Attack, norm: Norm) -> Search[Any] | None:
    """What the engine drives at fixed budgets; None for kinds that foolbox drives itself."""
    match attack:
        case FGSM() | PGD() | MIFGSM() | Noise():
            return ASCENT[norm](**_ascent_settings(attack))
        case APGD() | FAB() | Square() | SparsePGD() | SparseRS() | Patch():
            return SEARCHES[type(attack)](norm, **_settings(attack))
        case _:
            return None


def _settings(attack: Attack) -> dict[str, Any]:
    """Those of an attack, which its search calls by the same names, as plain numbers."""
    given = {field.name: getattr(attack, field.name) for field in fields(attack)}
    return {name: float(v) if isinstance(v, Fraction) else v for name, v in given.items()}


def _ascent_settings(attack: FGSM | PGD | MIFGSM | Noise) -> dict[str, Any]:
    """Projected steepest ascent, and noise as the case of no step at all."""
    match attack:
        case FGSM(loss):
            return {"steps": 1, "rel_stepsize": 1.0, "random_start": False, "loss": loss}
        case PGD(steps, relative, restarts, random_start, loss):
            return {
                "steps": steps,
                "rel_stepsize": float(relative),
                "random_start": random_start,
                "restarts": restarts,
                "loss": loss,
            }
        case MIFGSM(steps, relative, momentum, loss):
            return {
                "steps": steps,
                "rel_stepsize": float(relative),
                "random_start": False,
                "loss": loss,
                "momentum": float(momentum),
            }
        case Noise(draws, distribution):
            return {
                "steps": 0,
                "rel_stepsize": 1.0,
                "random_start": True,
                "restarts": draws,
                "distribution": distribution,
            }


def build_minimal_norm(attack: Attack, norm: Norm) -> foolbox.attacks.base.MinimizationAttack:
    """The attack that looks for the smallest perturbation, a foolbox class or a subclass of one."""
    attacks = foolbox.attacks
    match attack:
        case DeepFool(steps, candidates, overshoot):
            return MendedDeepFool(norm, steps, candidates, float(overshoot))
        case DDN(steps, gamma):
            return MendedDDN(steps=steps, gamma=float(gamma))
        case FMN(steps, max_step, gamma):
            return MENDED_FMN[norm](steps=steps, max_stepsize=float(max_step), gamma=float(gamma))
        case CW(steps, search_steps, step_size, confidence):
            return attacks.L2CarliniWagnerAttack(
                binary_search_steps=search_steps,
                steps=steps,
                stepsize=float(step_size),
                confidence=float(confidence),
                # its early abort tests a loss summed over the batch
                abort_early=False,
            )
        case SigmaZero(steps, step_size, sigma, threshold, adaptation):
            numbers = map(float, (step_size, sigma, threshold, adaptation))
            return SigmaZeroAttack(norm, steps, *numbers)
        case Boundary(steps):
            return attacks.BoundaryAttack(steps=steps)
        case HopSkipJump(steps):
            return MendedHopSkipJump(steps=steps, constraint=norm)
        case _:
            raise ProtocolError(f"{kind_of(attack)}: no such minimal-norm attack")
