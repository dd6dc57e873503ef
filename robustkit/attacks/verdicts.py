"""Verdicts: whatever an attack claims is recomputed, and only what holds up is kept."""

from dataclasses import dataclass

from torch import Tensor

from robustkit.attacks.block import Block, Outcomes
from robustkit.attacks.victim import Victim
from robustkit.geometry import distance, in_budget, transformed
from robustkit.protocol import Norm


@dataclass(frozen=True, slots=True)
class Verifier:
    """Judges perturbed images by a forward pass of its own, on the pixels that came back.

    An attack's own word is no evidence: it saw other logits (a surrogate's, one lucky pass of a
    random model's, those of another batch size), and its arithmetic may leave the ball or the box.
    """

    victim: Victim
    block: Block
    norm: Norm
    outcomes: Outcomes

    def keep(
        self,
        rows: Tensor,
        perturbed: Tensor,
        name: str,
        budget: Tensor | None = None,
        passes: int = 1,
    ) -> Tensor:
        """Recompute what is claimed of perturbed images, keep the nearer ones; which hold (CPU).

        A model that draws at random must err by the mean of its logits over several passes,
        `passes` at least: what one lucky pass gets wrong is no success.
        """
        there = rows.to(perturbed.device)
        predicted = self.victim.mean_logits(perturbed, rows, name, passes).argmax(1)
        reached = distance(self.block.images[there], perturbed, self.norm)
        in_box = ((perturbed >= 0) & (perturbed <= 1)).flatten(1).all(1)
        good = self.victim.fooled(predicted, self.outcomes.classes[there]) & in_box
        good &= reached > 0  # of the image itself the clean pass has decided
        if fixed := self.block.fixed:
            same = perturbed[:, :fixed] == self.block.images[there, :fixed]
            good &= same.flatten(1).all(1)
        if budget is not None:
            good &= in_budget(reached, budget.to(reached.device))
        nearer = good & (reached < self.outcomes.distance[there])
        self._record(there[nearer], reached[nearer], perturbed[nearer], predicted[nearer], name)
        return good.cpu()

    def keep_transformed(
        self, rows: Tensor, transforms: Tensor, reached: Tensor, name: str
    ) -> Tensor:
        """Likewise of rotations and translations N × 3 (CPU), whose pictures are made here."""
        there = rows.to(self.block.images.device)
        perturbed = transformed(self.block.images[there], transforms)
        predicted = self.victim.mean_logits(perturbed, rows, name).argmax(1)
        good = self.victim.fooled(predicted, self.outcomes.classes[there])
        reached = reached.to(self.outcomes.distance.device)
        nearer = good & (reached < self.outcomes.distance[there])
        self._record(there[nearer], reached[nearer], perturbed[nearer], predicted[nearer], name)
        of_these = nearer.cpu()
        self.outcomes.transform[rows[of_these]] = transforms[of_these]
        return good.cpu()

    def _record(
        self, rows: Tensor, reached: Tensor, perturbed: Tensor, predicted: Tensor, name: str
    ) -> None:
        self.outcomes.distance[rows] = reached
        self.outcomes.perturbed[rows] = perturbed
        self.outcomes.perturbed_class[rows] = predicted
        for i in rows.tolist():
            self.outcomes.fooled_by[i] = name
