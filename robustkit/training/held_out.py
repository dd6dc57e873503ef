"""What held-out images say of a network on its way: accuracy, and a calibrated likelihood."""

import numpy as np
import torch
from torch import Tensor, nn

from robustkit.device import fitting
from robustkit.statistics.calibration import inverse_temperature, log_likelihood
from robustkit.training.examples import Examples

BATCH = 1000
"""images that are asked about at a time, where memory suffices"""


def accuracy(network: nn.Module, examples: Examples) -> dict[str, float]:
    """Share of right answers by the given labels, and by the clean ones, in eval mode."""
    return _accuracy(_logits(network, examples), examples)


def scores(network: nn.Module, examples: Examples, seed: int) -> dict[str, float]:
    """Accuracy, and the mean log-likelihood of the given labels under a calibrated temperature.

    The inverse temperature is fitted on half of the images, drawn by the seed, the likelihood taken
    on the others: networks compare whatever the scale that a loss gives to their logits.
    """
    logits = _logits(network, examples)
    numbers, labels = logits.double().cpu().numpy(), examples.given.cpu().numpy()
    draw = torch.Generator().manual_seed(examples.key("temperature", seed))
    fitted, scored = np.array_split(torch.randperm(len(labels), generator=draw).numpy(), 2)
    beta = inverse_temperature(numbers[fitted], labels[fitted])
    likelihood = log_likelihood(numbers[scored], labels[scored], beta)
    found = {"log_likelihood": likelihood, "inverse_temperature": beta}
    return _accuracy(logits, examples) | found


@torch.no_grad()
def _logits(network: nn.Module, examples: Examples) -> Tensor:
    """N × classes, in eval mode; the network is in training mode afterwards."""
    rows = torch.arange(len(examples), device=examples.given.device)

    def asked(size: int) -> Tensor:
        parts = torch.split(rows, size)
        return torch.cat([network(examples.take(part).images) for part in parts])

    network.eval()
    found = fitting(asked, BATCH)
    network.train()
    return found


def _accuracy(logits: Tensor, examples: Examples) -> dict[str, float]:
    predicted = logits.argmax(1)
    right = torch.stack([(predicted == y).sum() for y in (examples.given, examples.clean)])
    given, clean = (right.double() / len(examples)).tolist()
    return {"held_out": given, "held_out_clean": clean}
