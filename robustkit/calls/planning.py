"""What an evaluation would do, of the same arguments as the evaluation itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustkit.calls.given import Data, ImageOptions, Network, evaluated, network, path_of
from robustkit.defaults import torch_defaults
from robustkit.evaluation import RunOptions
from robustkit.evaluation.config import Prove, resolve_protocol
from robustkit.evaluation.options import Precision
from robustkit.protocol import Epsilons, Given, Norm, Target

if TYPE_CHECKING:
    from robustkit.evaluation.planning import EvaluationPlan


@torch_defaults()
def plan_evaluation(
    model: Network,
    data: Data | None = None,
    attack: Given = "pgd",
    *,
    epsilon: Epsilons = (),
    norm: Norm | None = None,
    target: Target = "none",
    settings: Sequence[str] = (),
    seed: int | None = None,
    split: str | None = None,
    limit: int | None = None,
    surrogate: Network | None = None,
    prove: Prove = "auto",
    image_by_image: bool = False,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    ray: str | None = None,
    out: Path | str = "runs",
    fresh: bool = False,
    save_adversarial: Path | str | None = None,
    **images: Any,
) -> "EvaluationPlan":
    """What `evaluate` would do with the same arguments, how long it takes; nothing is written.

    Raises:
        InputError: something given is unusable; one line says what.
    """
    from robustkit.evaluation.planning import plan  # torch

    loaded = network(model)
    asked = ImageOptions(data=data, split=split, limit=limit, **images)
    dataset = asked.load(loaded)
    protocol = resolve_protocol(
        attack, dataset, epsilon, norm=norm, target=target, seed=seed, settings=settings
    )
    other = None
    if surrogate is not None:
        other = asked.other_model(dataset, surrogate, image_by_image=image_by_image)
    own = evaluated(loaded, dataset, None, image_by_image=image_by_image)
    options = RunOptions(batch_size, device, precision, fresh, path_of(save_adversarial), ray=ray)
    return plan(own, dataset, protocol, Path(out), options, other, prove)
