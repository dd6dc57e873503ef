"""Pairs by the cosine similarity of their features, with a threshold for each fold."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustkit.data import Dataset
from robustkit.errors import DataError, EvaluationFailed
from robustkit.network import answer
from robustkit.seeding import seeded

BATCH = 64
FOLDS = 256
"""that a plane of 8 bits can hold"""


class Verification(nn.Module):
    """From pairs N × (2C + 1) × H × W to the logits of "different" and "same", N × 2."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.channels = channels
        self.thresholds: Tensor
        self.register_buffer("thresholds", torch.zeros(FOLDS))

    def similarity(self, pairs: Tensor) -> Tensor:
        """Cosine of the angle between the features of the two pictures, N."""
        both = torch.cat([pairs[:, : self.channels], pairs[:, self.channels + 1 :]])
        found = answer(self.features, both)
        if not isinstance(found, Tensor) or len(found) != len(both):
            raise EvaluationFailed("the network returns no features (a tensor of shape N × D)")
        one, other = found.flatten(1).chunk(2)
        return nn.functional.cosine_similarity(one, other, dim=1)

    def forward(self, pairs: Tensor) -> Tensor:
        """How far the similarity lies below its fold's threshold, and above it."""
        fold = (pairs[:, self.channels, 0, 0].detach() * 255).round().long().clamp(0, FOLDS - 1)
        above = self.similarity(pairs) - self.thresholds[fold]
        return torch.stack([-above, above], 1)


def verification(features: nn.Module, data: Dataset, device: torch.device) -> Verification:
    """The network with the thresholds of each fold of these pairs.

    Raises:
        DataError: pairs of one fold alone, whose threshold nothing says.
    """
    network = Verification(features, data.fixed_channels - 1).eval().to(device)
    network.requires_grad_(False)
    with seeded(0, device):  # features that draw give each run and worker the same thresholds
        found = list(_similarities(network, data, device))
    similar, fold = (torch.cat(part) for part in zip(*found, strict=True))
    same = torch.as_tensor(data.labels, dtype=torch.bool)
    if len(set(fold.tolist())) < 2:
        raise DataError(
            f"{data.name}: all pairs are of one fold, but a fold's threshold is chosen on "
            "the others; evaluate more pairs (--limit)"
        )
    # of a fold that none is, such as a probe's negatives have, any will do
    thresholds = torch.full((FOLDS,), best_threshold(similar, same))
    for k in sorted(set(fold.tolist())):
        thresholds[k] = best_threshold(similar[fold != k], same[fold != k])
    network.thresholds.copy_(thresholds)
    return network


@torch.no_grad()
def _similarities(
    network: Verification, data: Dataset, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(data), BATCH):
        pairs = torch.from_numpy(data.images(start, min(start + BATCH, len(data)))).to(device)
        fold = (pairs[:, network.channels, 0, 0] * 255).round().long()
        yield network.similarity(pairs).double().cpu(), fold.cpu()


def best_threshold(similar: Tensor, same: Tensor) -> float:
    """The similarity above which most pairs are of one person and below which most are of two.

    In the middle between two similarities; of several that are as good, the lowest.

    Args:
        similar: of each pair, float64 N.
        same: whether it is of one person, bool N.
    """
    order = similar.argsort()
    values, own = similar[order], same[order].long()
    # with the threshold below pair k: those from k on are called the same
    right = torch.cat([own.new_zeros(1), (1 - own).cumsum(0)])
    right = right + own.sum() - torch.cat([own.new_zeros(1), own.cumsum(0)])
    edges = torch.cat([values[:1] - 1e-3, (values[1:] + values[:-1]) / 2, values[-1:] + 1e-3])
    # equal similarities cannot be told apart
    apart = torch.cat([torch.ones(1), (values[1:] > values[:-1]).float(), torch.ones(1)])
    return float(edges[(right * apart).argmax()])
