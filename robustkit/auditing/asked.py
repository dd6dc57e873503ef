"""What an audit is asked, as far as it can be told before torch is imported."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from robustkit.auditing.outcome import RobustnessClaim
from robustkit.auditing.plan import AuditPlan, parse_budget
from robustkit.auditing.policy import (
    CertifiedRule,
    NotWorseRule,
    Policy,
    RobustRule,
    as_written,
    parse_threat,
    read_policy,
)
from robustkit.auditing.verdict import claim_from, parse_claim
from robustkit.auditing.wording import at_most, listed
from robustkit.errors import InputError
from robustkit.protocol import BALLS, Epsilon, Norm, Number, norms_of, parse_epsilon
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


def unanswerable(
    policy: Policy | None,
    plan: AuditPlan,
    norm: Norm,
    budgets: Sequence[Epsilon],
    against: Collection[str],
) -> list[str]:
    """Why a rule of the policy fails whatever the network: to be said before any work.

    Args:
        policy: the rules; None for none.
        plan: what is run.
        norm: of the audit.
        budgets: of the audit, rising; the last is judged.
        against: names of the networks that the audited one is compared with.

    Raises:
        InputError: the rule asks for another audit: in another norm, or beside another network.
    """
    found = []
    for rule in policy.require if policy else ():
        written = as_written(rule).partition(",")[0]
        if isinstance(rule, NotWorseRule):
            name = rule.not_worse_than
            if not any(PurePath(one).name == PurePath(name).name for one in against):
                raise InputError(f"policy: {written}: give --against {name}")
        elif isinstance(rule, RobustRule | CertifiedRule):
            text = rule.robust if isinstance(rule, RobustRule) else rule.certified
            own, size = parse_threat(text, "policy")
            if own != norm:
                raise InputError(
                    f"policy: {written}: the audit is in {norm}; give --norm {own}, and the rules "
                    "of each norm in a file of their own"
                )
            if why := _unknown_at(rule, plan, norm, budgets, parse_epsilon(size)):
                found.append(f"the rule {written} will fail, whatever the network: {why}")
    return found


def _unknown_at(
    rule: RobustRule | CertifiedRule,
    plan: AuditPlan,
    norm: Norm,
    budgets: Sequence[Epsilon],
    size: Epsilon,
) -> str:
    """Why nothing will be known at a budget; "" where something will."""
    certified, judged = isinstance(rule, CertifiedRule), budgets[-1]
    if certified and norm not in BALLS:
        return f"there are no bounds for {norm}"
    if size.exact not in {one.exact for one in budgets}:
        return f"the audit has the budgets {listed([one.text for one in budgets])} alone"
    needed = [s for s in plan.stages if s.required_in(norm) and s.meant(norm) and not s.random]
    if certified or size.exact == judged.exact:
        return ""
    # of a stage that is never run, `out_of_reach` says so
    alone = [s.attack for s in needed if s.budgets == "judged" and norm in norms_of(s.attack)]
    told = at_most(list(dict.fromkeys(alone)))
    return f"the plan {plan.name} has {told} at the judged {judged.text} alone" if alone else ""
