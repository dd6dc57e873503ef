"""What an audit is asked, as far as it can be told before torch is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustkit.auditing.outcome import RobustnessClaim
from robustkit.auditing.plan import AuditPlan, parse_budget
from robustkit.auditing.policy import Policy, read_policy
from robustkit.auditing.verdict import claim_from, parse_claim
from robustkit.errors import InputError
from robustkit.protocol import Number, parse_epsilon
from robustkit.record import Evaluation


@dataclass(frozen=True, slots=True)
class AuditQuestion:
    """The effort, the number that is judged, and the rules."""

    plan: AuditPlan
    minutes: float | None
    claim: RobustnessClaim | None
    policy: Policy | None


def audit_question(
    claim: RobustnessClaim | str | None,
    claimed_by: Evaluation | Path | str | None,
    *,
    policy: Policy | Path | str | None,
    budget: str,
    epsilon: Number | None,
    told_in: Mapping[str, Path | str | None],
) -> AuditQuestion:
    """What an audit is asked.

    Args:
        claim: the number to judge.
        claimed_by: or the evaluation that claims it, or its file.
        policy: rules, or their file.
        budget: a plan's name or file, or minutes.
        epsilon: the judged budget; otherwise the claim's.
        told_in: files that say how the rules came out, by option.

    Raises:
        InputError: two claims, files for rules without rules, or what cannot be read.
    """
    if claim is not None and claimed_by is not None:
        raise InputError("--claim and --claim-from exclude each other; give one of them")
    for option, path in told_in.items():
        if path is not None and policy is None:
            raise InputError(f"{option} reports the rules of a policy; give --policy too")
    plan, minutes = parse_budget(budget)
    stated = parse_claim(claim) if isinstance(claim, str) else claim
    if claimed_by is not None:
        size = None if epsilon is None else parse_epsilon(epsilon).text
        source = claimed_by if isinstance(claimed_by, Evaluation) else Path(claimed_by)
        stated = claim_from(source, size)
    rules = read_policy(Path(policy)) if isinstance(policy, str | Path) else policy
    return AuditQuestion(plan, minutes, stated, rules)
