"""From `reports/audit/thresholds.toml` to one threshold an indicator."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

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


def checked(own: Mapping[str, object], where: str) -> dict[str, float]:
    """Thresholds by the indicators' names: the shipped ones, with some keys of the file changed.

    Raises:
        InputError: an unknown key (with a did-you-mean), a wrong type, or no finite number.
    """
    values = read_toml(shipped("reports") / "audit" / "thresholds.toml") | dict(own)
    read = asdict(build(Thresholds, values, where))
    return {key.replace("_", "-"): value for key, value in read.items()}
