"""Threats that are no balls beside one peer each: robust accuracy, and what it costs.

    pip install --target DIR --no-deps adv-lib adversarial-robustness-toolbox \
        six scikit-learn joblib threadpoolctl narwhals cloudpickle
    python tests/benchmarks/threat_peers.py --peers DIR --sparse-rs CLONE

The peers are adv-lib's σ-zero (few pixels, by gradients), its authors' Sparse-RS (few pixels, and
patches, by the scores alone; github.com/fra31/sparse-rs) and ART's rotation and translation, whose
grid is searched image by image, since of several it takes one transform for all. Nothing of them is
ours. All attack the same images of the same network in one process, with as many steps, queries or
points; a perturbed image of theirs counts where a forward pass of its own is wrong and its changes
are within the budget. Passes are counted at the network, a backward one as one; seconds are the
processor's, one thread.
"""

import argparse
import contextlib
import io
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustkit import evaluate, machine
from robustkit.checkpoint import read_checkpoint
from robustkit.data import Dataset, load_dataset

SIZES, SIDES = [5, 10, 15, 20], [3, 5, 7]
TURNED = {"10deg+1px": 10, "20deg+2px": 20, "30deg+3px": 30}
"""budgets and their degrees; a pixel goes with ten"""
ANGLES, SHIFTS = 31, 5


class Counted(nn.Module):
    """A network that counts the images that go through it, forward and back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.forwards += len(x)
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class ChannelsFirst(nn.Module):
    """N × H × W × C to N × C × H × W."""

    def forward(self, x: Tensor) -> Tensor:
        """The same images."""
        return x.permute(0, 3, 1, 2)


@dataclass
class Asked:
    """What all attack."""

    network: Counted
    data: Dataset
    images: Tensor
    labels: Tensor
    queries: int

    def ours(self, threat: str, attack: str, budgets: Sequence[object], **how: object) -> None:
        """A row of the table, by our attack."""

        def attacked() -> list[float]:
            found = evaluate(
                self.network,
                self.data,
                attack,
                epsilon=list(map(str, budgets)),
                prove="off",
                device="cpu",
                progress=False,
                **how,
            )
            distance = np.array([np.inf if d is None else d for d in found.rows["distance"]])
            self.network.forwards = sum(map(sum, found.table["forward"].to_pylist()))
            self.network.backwards = sum(map(sum, found.table["backward"].to_pylist()))
            return [float((distance > TURNED.get(str(b), b)).mean()) for b in budgets]

        self._row(threat, "robustkit", budgets, attacked)

    def theirs(
        self,
        threat: str,
        who: str,
        budgets: Sequence[object],
        attack: Callable[[object], Tensor],
        size: Callable[[Tensor], Tensor] | None,
    ) -> None:
        """Likewise by a peer, which is asked once a budget.

        Args:
            threat: in words.
            who: the peer.
            budgets: in rising order.
            attack: the perturbed images at a budget.
            size: by which those of a rotation and translation are not judged, None.
        """

        def attacked() -> list[float]:
            robust = torch.ones(len(self.images), dtype=torch.bool)
            shares = []
            for budget in budgets:
                with contextlib.redirect_stdout(io.StringIO()):
                    perturbed = attack(budget)
                with torch.no_grad():
                    fooled = self.network.network(perturbed).argmax(1) != self.labels
                if size is not None:
                    fooled &= size(perturbed) <= float(str(budget))
                robust &= ~fooled
                shares.append(float(robust.double().mean()))
            return shares

        self._row(threat, who, budgets, attacked)

    def _row(
        self, threat: str, who: str, budgets: Sequence[object], attacked: Callable[[], list[float]]
    ) -> None:
        network, n = self.network, len(self.images)
        network.forwards = network.backwards = 0
        started = time.process_time()
        shares = attacked()
        seconds = time.process_time() - started
        cells = ", ".join(
            f"{100 * share:.0f} at {b}" for share, b in zip(shares, budgets, strict=True)
        )
        row = (
            f"| {threat} | {who} | {cells} | {network.forwards / n:,.0f} | "
            f"{network.backwards / n:,.0f} | {seconds:.1f} |"
        )
        print(row, flush=True)


def changed(asked: Asked) -> Callable[[Tensor], Tensor]:
    """How many pixels are others than they were, N."""
    return lambda x: (x != asked.images).any(1).flatten(1).sum(1)


def side(asked: Asked) -> Callable[[Tensor], Tensor]:
    """The side of the square around all that changed, N."""

    def of(x: Tensor) -> Tensor:
        moved = (x != asked.images).any(1)
        spans = []
        for axis in (1, 2):
            lines = moved.any(axis)
            places = torch.arange(lines.shape[1])
            last = torch.where(lines, places, -1).amax(1)
            first = torch.where(lines, places, lines.shape[1]).amin(1)
            spans.append((last - first + 1).clamp(min=0))
        return torch.maximum(*spans)

    return of


def sigma_zero(asked: Asked) -> Callable[[object], Tensor]:
    """adv-lib's, which looks for the fewest pixels whatever the budget, so it is run once."""
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # of its plots
    from adv_lib.attacks.sigma_zero import sigma_zero as attack

    found: list[Tensor] = []

    def attacked(budget: object) -> Tensor:
        if not found:
            found.append(attack(asked.network, asked.images, asked.labels).detach())
        return found[0]

    return attacked


def sparse_rs(asked: Asked, norm: str) -> Callable[[object], Tensor]:
    """Its authors'. Their patches have three channels, of which a grey network sees the first."""
    from rs_attacks import RSAttack

    few = asked.images.shape[1]
    images = asked.images.expand(-1, max(few, 3), -1, -1).clone() if norm == "patches" else None

    def attacked(budget: object) -> Tensor:
        pixels = int(str(budget)) ** (2 if norm == "patches" else 1)
        attack = RSAttack(
            lambda x: asked.network(x[:, :few]),
            norm=norm,
            n_queries=asked.queries,
            eps=pixels,
            p_init=0.3,
            verbose=False,
        )
        with torch.no_grad():
            given = asked.images if images is None else images
            perturbed: Tensor = attack.perturb(given, asked.labels)[1]
        return perturbed[:, :few]

    return attacked


def turned(asked: Asked) -> Callable[[object], Tensor]:
    """ART's, image by image, channels last: with channels first its grid moves along one axis."""
    from art.attacks.evasion import SpatialTransformation
    from art.estimators.classification import PyTorchClassifier

    side = asked.images.shape[-1]
    network = nn.Sequential(ChannelsFirst(), asked.network)

    def attacked(budget: object) -> Tensor:
        found = []
        images = asked.images.permute(0, 2, 3, 1).numpy()
        for image, label in zip(images, asked.labels.numpy(), strict=True):
            classifier = PyTorchClassifier(
                network,
                loss=nn.CrossEntropyLoss(),
                input_shape=image.shape,
                nb_classes=len(asked.data.classes),
                channels_first=False,
                clip_values=(0.0, 1.0),
                device_type="cpu",
            )
            degrees = float(TURNED[str(budget)])
            attack = SpatialTransformation(
                classifier, 10 * degrees / side, SHIFTS, degrees, ANGLES, False
            )
            found.append(attack.generate(image[np.newaxis], np.array([label])))
        return torch.from_numpy(np.concatenate(found)).permute(0, 3, 1, 2)

    return attacked


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="folder of adv-lib and ART")
    parser.add_argument("--sparse-rs", type=Path, required=True, help="clone of its authors' code")
    parser.add_argument("--checkpoint", default="lenet5-mnist5k")
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    sys.path += [str(options.peers), str(options.sparse_rs)]
    torch.set_num_threads(1)
    machine.keep_memory()
    data = load_dataset(options.data, limit=options.limit)
    network = Counted(read_checkpoint(options.checkpoint).load(torch.device("cpu"))).eval()
    images, labels = torch.from_numpy(data.images(0, len(data))), torch.from_numpy(data.labels)
    asked = Asked(network, data, images, labels, options.queries)
    print(f"{len(data)} images of {data.name}, {options.checkpoint}\n")
    print("| threat | | robust accuracy, % | forward | backward | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    queries = {"queries": options.queries}
    few, patches = f"few pixels, {options.queries:,} queries", "a patch"
    asked.ours("few pixels, 1,000 steps", "sigma-zero", SIZES, norm="l0")
    asked.theirs("few pixels, 1,000 steps", "adv-lib", SIZES, sigma_zero(asked), changed(asked))
    asked.ours(few, "sparse-rs", SIZES, norm="l0", settings=queries)
    asked.theirs(few, "its authors", SIZES, sparse_rs(asked, "L0"), changed(asked))
    grid = f"rotation and translation, {ANGLES} × {SHIFTS} × {SHIFTS}"
    asked.ours(grid, "spatial", [*TURNED], settings={"draws": 1})
    asked.theirs(grid, "ART", [*TURNED], turned(asked), None)
    asked.ours(f"{patches}, by gradients", "patch", SIDES)
    asked.theirs(
        f"{patches}, {options.queries:,} queries",
        "Sparse-RS",
        SIDES,
        sparse_rs(asked, "patches"),
        side(asked),
    )


if __name__ == "__main__":
    main()
