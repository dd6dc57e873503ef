"""What an audit is asked for, from what its user says."""

from dataclasses import dataclass
from pathlib import Path

from robustkit import protocol as protocols
from robustkit.auditing.outcome import RobustnessClaim
from robustkit.auditing.plan import AuditPlan
from robustkit.auditing.stages import ThreatModel
from robustkit.checkpoint import Checkpoint
from robustkit.data import Dataset, load_dataset
from robustkit.data.loading import file_stamps
from robustkit.errors import InputError, RobustkitError
from robustkit.evaluation.images import TrainedOn
from robustkit.files import canonical, digest
from robustkit.protocol import Norm, Number


def threat_model(
    data: Dataset,
    claim: RobustnessClaim | None = None,
    *,
    norm: Norm | None = None,
    epsilon: Number | None = None,
    seed: int = 0,
) -> ThreatModel:
    """The judged budget and those below it: the data set's usual ones.

    Args:
        data: the images.
        claim: judged where there is one; then its norm and budget.
        norm: else the claim's, or linf.
        epsilon: the judged budget; else the claim's, or the largest usual one.
        seed: of every random draw.

    Raises:
        InputError: norm or budget differ from the claim's, or no budget is known.
    """
    if claim is not None and norm not in (None, claim.norm):
        raise InputError(f"--norm {norm}: the claim is about {claim.norm}")
    chosen = protocols.parse_norm(norm or (claim.norm if claim else protocols.NORMS[0]), "--norm")
    usual = [protocols.parse_epsilon(e) for e in data.budgets.get(chosen, ())]
    text = claim.epsilon if epsilon is None and claim else epsilon
    if text is None and not usual:
        raise InputError(f"no usual {chosen} budgets are known for {data.name}; give --epsilon")
    judged = max(usual) if text is None else protocols.parse_epsilon(text)
    if claim is not None and judged.exact != protocols.parse_epsilon(claim.epsilon).exact:
        raise InputError(f"--epsilon {epsilon}: the claim is about {claim.epsilon}")
    if claim is not None:
        judged = protocols.parse_epsilon(claim.epsilon)
    protocols.check_budgets(chosen, [judged])
    usual = [e for e in usual if e.ray == judged.ray]
    # beyond the judged budget only the cheap attacks would run, and a curve there would mislead
    budgets = {e.value: e for e in [*usual, judged] if e.value <= judged.value}
    return ThreatModel(chosen, judged, tuple(budgets[value] for value in sorted(budgets)), seed)


def notes_on(plan: AuditPlan, threat: ThreatModel, data: Dataset) -> list[str]:
    """What few classes change of a plan's attacks, and what large budgets mean."""
    norm = threat.norm
    named = [s.attack for s in plan.stages if norm in protocols.norms_of(s.attack)]
    attacks = [protocols.load_protocol(name, norm=norm).attacks for name in named]
    messages = [s for a in attacks for s in protocols.adaptations(a, len(data.classes))]
    large = protocols.excessive_budgets(norm, threat.budgets, data.shape)
    return list(dict.fromkeys([*large, *messages]))


@dataclass(frozen=True, slots=True)
class TrainingImages:
    """The images that a network was trained on, by the path or name that its checkpoint records."""

    name: str | None = None
    """None: it records none, or they are not to be looked for"""
    root: Path | None = None
    """as `load_dataset` takes it"""
    split: str = "train"

    @classmethod
    def of(cls, checkpoint: Checkpoint, root: Path | None, images: Dataset) -> "TrainingImages":
        """Those of a checkpoint, where their path, a root or the judged images' name says where."""
        if (told := TrainedOn.of(checkpoint)) is not None:
            return cls(told.path, split=told.split)
        known = root is not None or checkpoint.trained_on == images.name
        return cls(checkpoint.trained_on if known else None, root)

    def ids(self) -> frozenset[str] | None:
        """Their ids; None where they are not to be had."""
        if self.name is None:
            return None
        try:
            return frozenset(load_dataset(self.name, split=self.split, root=self.root).ids)
        except RobustkitError:
            return None

    def stamp(self) -> str | None:
        """A digest that is another where their files were written anew; reads no image."""
        if self.name is None:
            return None
        try:
            found = file_stamps(self.name, self.split, self.root)
        except RobustkitError:
            return None
        return digest(canonical(found)) if found else None
