"""From a protocol's attack and norm to the class that carries it out."""

from typing import Any

from robustkit.attacks.apgd import APGD
from robustkit.attacks.fab import FAB
from robustkit.attacks.gradient import ASCENT
from robustkit.attacks.library import foolbox
from robustkit.attacks.mended import DDN, FMN
from robustkit.attacks.search import Search
from robustkit.attacks.square import Square
from robustkit.errors import ProtocolError
from robustkit.protocol import (
    Apgd,
    Attack,
    Boundary,
    CarliniWagner,
    Ddn,
    DeepFool,
    Fab,
    Fgsm,
    Fmn,
    HopSkipJump,
    Mifgsm,
    NoiseAttack,
    Norm,
    Pgd,
    SquareAttack,
    kind_of,
)


def build_search(attack: Attack, norm: Norm) -> Search[Any] | None:
    """What the engine drives at fixed budgets; None for kinds that foolbox drives itself."""
    match attack:
        case Fgsm() | Pgd() | Mifgsm() | NoiseAttack():
            return ASCENT[norm](**_ascent_settings(attack))
        case Apgd():
            return _apgd(attack, norm)
        case Fab():
            return _fab(attack, norm)
        case SquareAttack():
            return _square(attack, norm)
        case _:
            return None


def _ascent_settings(attack: Fgsm | Pgd | Mifgsm | NoiseAttack) -> dict[str, Any]:
    """Projected steepest ascent, and noise as the case of no step at all."""
    match attack:
        case Fgsm(loss):
            return {"steps": 1, "rel_stepsize": 1.0, "random_start": False, "loss": loss}
        case Pgd(steps, relative, restarts, random_start, loss):
            return {
                "steps": steps,
                "rel_stepsize": float(relative),
                "random_start": random_start,
                # without a random start every restart would be the first one again
                "restarts": restarts if random_start else 1,
                "loss": loss,
            }
        case Mifgsm(steps, relative, momentum, loss):
            return {
                "steps": steps,
                "rel_stepsize": float(relative),
                "random_start": False,
                "loss": loss,
                "momentum": float(momentum),
            }
        case NoiseAttack(draws, distribution):
            return {
                "steps": 0,
                "rel_stepsize": 1.0,
                "random_start": True,
                "restarts": draws,
                "distribution": distribution,
            }


def _apgd(attack: Apgd, norm: Norm) -> APGD:
    return APGD(
        norm,
        steps=attack.steps,
        restarts=attack.restarts,
        loss=attack.loss,
        targets=attack.targets,
        eot=attack.eot,
        rho=float(attack.rho),
        multi_radius=attack.larger_first,
        target_order=attack.target_order,
    )


def _square(attack: SquareAttack, norm: Norm) -> Square:
    return Square(
        norm,
        queries=attack.queries,
        restarts=attack.restarts,
        p_init=float(attack.p_init),
        patience=attack.patience,
    )


def _fab(attack: Fab, norm: Norm) -> FAB:
    return FAB(
        norm,
        steps=attack.steps,
        restarts=attack.restarts,
        targets=attack.targets,
        alpha_max=float(attack.alpha_max),
        eta=float(attack.eta),
        beta=float(attack.beta),
        patience=attack.patience,
    )


def build_minimal_norm(attack: Attack, norm: Norm) -> foolbox.attacks.base.MinimizationAttack:
    """The foolbox attack that looks for the smallest perturbation."""
    attacks = foolbox.attacks
    match attack:
        case DeepFool(steps, candidates, overshoot):
            cls = {"l2": attacks.L2DeepFoolAttack, "linf": attacks.LinfDeepFoolAttack}[norm]
            return cls(steps=steps, candidates=candidates, overshoot=float(overshoot))
        case Ddn(steps, gamma):
            return DDN(steps=steps, gamma=float(gamma))
        case Fmn(steps, max_step, gamma):
            return FMN[norm](steps=steps, max_stepsize=float(max_step), gamma=float(gamma))
        case CarliniWagner(steps, search_steps, step_size, confidence):
            return attacks.L2CarliniWagnerAttack(
                binary_search_steps=search_steps,
                steps=steps,
                stepsize=float(step_size),
                confidence=float(confidence),
                # its early abort tests a loss summed over the batch
                abort_early=False,
            )
        case Boundary(steps):
            return attacks.BoundaryAttack(steps=steps)
        case HopSkipJump(steps):
            return attacks.HopSkipJumpAttack(steps=steps, constraint=norm)
        case _:
            raise ProtocolError(f"{kind_of(attack)}: no such minimal-norm attack")
