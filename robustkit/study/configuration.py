"""What a study asks of a training, spelled out in full: what names its cell. Needs no torch."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from robustkit import compression
from robustkit.data import Dataset
from robustkit.errors import InputError
from robustkit.keys import CellKey
from robustkit.parsing import fraction
from robustkit.spec import Method, Score, TrainingSpec
from robustkit.statistics.calibration import REVISION as CALIBRATION
from robustkit.study.selection import Context
from robustkit.study.user_files import UserFiles
from robustkit.training.config import REVISION as TRAINING
from robustkit.training.defaults import resolve
from robustkit.training.recipe import follows_rate, parse_changes, spell

REVISION = 1
"""raised by whatever else changes what the same cell comes to"""
FIRST = 2
"""revision of the training loop up to which keys hold none"""
FIXED = ("epochs", "steps", "batch_size", "hold_out")
"""keys of a recipe that are the same for all methods"""
PROCESSES = 64
"""that train a network together, at most"""


def cell_config(
    method: Method,
    configuration: int,
    trained: TrainingSpec,
    data: Dataset,
    files: UserFiles,
    where: Context,
    seed: int,
    score: Score | None = None,
) -> dict[str, Any]:
    """A training in full, as JSON; every default is spelled out.

    Raises:
        InputError: a configuration has a key that no recipe has, or a number that makes no sense.
    """
    noise = {"kind": trained.noise_kind, "rate": where.label_noise}
    if files.noise is not None:
        noise |= {"sha256": files.noise}
    if trained.noise_kind.startswith("matrix:") and not Fraction(where.label_noise):
        noise = {"kind": "symmetric", "rate": "0"}  # of what changes nothing the kind says nothing
    key = CellKey(
        **method_config(method, configuration, trained),
        model=trained.model,
        data={"name": trained.data, "digest": data.digest},
        noise=noise,
        fraction=where.data_fraction,
        seed=seed,
        revision=REVISION,
        model_code=files.model,
        loss_code=files.losses[method.loss],
        precision=None if trained.precision == "auto" else trained.precision,
        snapshots=sorted(trained.snapshots) or None,
        score=score,
        training=TRAINING if TRAINING > FIRST else None,
        calibration=CALIBRATION if score == "calibrated log-likelihood" else None,
    )
    return key.plain()


def method_config(method: Method, configuration: int, trained: TrainingSpec) -> dict[str, Any]:
    """The part of a training that is its method's."""
    name = f"method {method.name!r}"
    changes = {**method.recipe, **method.choose[configuration]}
    settings = changes.pop("settings", {})
    if not isinstance(settings, dict):
        raise InputError(f"{name}: settings: expected a table, got {settings!r}")
    shared = _shared(changes, name)
    resolved = resolve(
        method.loss,
        trained.data,
        settings=method.settings | settings,
        changes=_changes(trained, changes, name),
    )
    if shared.get("memory") and not follows_rate(resolved.recipe):
        shared["rescale"] = False
    return shared | {
        "loss": method.loss,
        "settings": resolved.settings(),
        "recipe": spell(resolved.recipe),
    }


def _shared(changes: dict[str, Any], where: str) -> dict[str, Any]:
    """What is said of several processes, and of how gradients are sent, taken out of a recipe."""
    scheme, memory = changes.pop("compress", None), changes.pop("memory", True)
    world = changes.pop("processes", 1)
    if type(world) is not int or not 1 <= world <= PROCESSES:
        raise InputError(f"{where}: processes: expected 1 to {PROCESSES}, got {world!r}")
    several = {"processes": world} if world > 1 else {}
    if scheme is None:
        return several
    if not isinstance(scheme, str) or not isinstance(memory, bool):
        raise InputError(f'{where}: expected compress = "top-k:0.01" and memory = true or false')
    return several | {"compress": str(compression.parse(scheme)), "memory": memory}


def _changes(trained: TrainingSpec, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a recipe that a method changes, and those that are the same for all."""
    for key in table:
        if key in FIXED:
            raise InputError(f"{where}: {key} is the same for all methods and belongs in [train]")
    shared: dict[str, Any] = {"steps": trained.steps, "batch_size": trained.batch_size}
    if trained.hold_out:
        shared["hold_out"] = fraction(trained.hold_out, f"{where}: hold_out")
    return parse_changes(table, where) | shared
