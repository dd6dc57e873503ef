"""From `reports/audit/thresholds.toml` to one threshold an indicator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from robustkit.errors import InputError
from robustkit.files import build, read_toml, shipped


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The file's keys: indicators' names, with underscores. Their meaning stands in the file."""

    clean_accuracy: float
    training_overlap: float
    other_class: float
    random_model: float
    dynamic_model: float
    batch_size: float
    batch_neighbours: float
    probabilities: float
    saturated_loss: float
    logit_scale: float
    zero_gradients: float
    nan_gradients: float
    exploding_gradients: float
    unstable_predictions: float
    short_travel: float
    transfer_beats_direct: float
    noise_beats_gradient: float
    black_beats_white: float
    silent_success: float
    single_beats_iterative: float
    incomplete_optimisation: float
    larger_epsilon: float
    unbounded: float
    half: float
    more_steps: float
    more_restarts: float
    settled: float
    """an adaptive attack that lowers robust accuracy by less resolves its indicator"""


def shelf() -> Path:
    """The shipped file."""
    return shipped("reports") / "audit" / "thresholds.toml"


def load_thresholds(path: Path | None = None) -> dict[str, float]:
    """Thresholds by the indicators' names: the shipped ones, and above them those of a file.

    Raises:
        InputError: not TOML, an unknown key (with a did-you-mean), a wrong type, or NaN.
    """
    return checked({} if path is None else read_toml(path), str(path or shelf()))


def checked(own: Mapping[str, object], where: str) -> dict[str, float]:
    """Thresholds by the indicators' names, with some keys of the file changed.

    Raises:
        InputError: as `load_thresholds`.
    """
    values = asdict(build(Thresholds, read_toml(shelf()) | dict(own), where))
    for key, value in values.items():
        if value != value:
            raise InputError(f"{where}: {key}: expected a number, got nan")
    return named(values)


def named(values: Mapping[str, float]) -> dict[str, float]:
    """Keys of the file as names of indicators."""
    return {key.replace("_", "-"): value for key, value in values.items()}
