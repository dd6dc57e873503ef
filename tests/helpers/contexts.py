"""Contexts of an audit's indicators, made without an audit: by attacking a network now."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustkit import protocol as protocols
from robustkit.auditing.context import AuditContext
from robustkit.errors import EvaluationFailed, first_line
from robustkit.protocol import FGSM, Attack, Noise, Protocol


def attacked_context(
    model: torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Sequence[str],
    protocol: Protocol | str,
    epsilon: str = "",
    **known: Any,
) -> AuditContext:
    """A context whose masks are worked out: of the plain attack, of one step, and of noise.

    Args:
        model: as the field.
        images: as the field.
        labels: as the field.
        ids: as the field.
        protocol: the plain evaluation, or its name on the shelf.
        epsilon: the judged budget; otherwise the protocol's first.
        known: further fields, such as `recorded_accuracy` or `effort`.
    """
    plain = protocols.load_protocol(protocol) if isinstance(protocol, str) else protocol
    budget = protocols.parse_epsilon(epsilon) if epsilon else plain.epsilons[0]
    plain = replace(plain, epsilons=(budget,))
    nothing = torch.zeros(len(images), dtype=torch.bool)
    context = AuditContext(model, images, labels, tuple(ids), plain, nothing, nothing, **known)
    right = ~context.fooled_at(images, torch.arange(len(images)))
    context = replace(context, clean_right=right)

    def after(*attacks: Attack) -> Tensor:
        left, rows = right.clone(), right.nonzero()[:, 0]
        left[rows] = ~context.attacked(replace(plain, attacks=attacks), rows)
        return left

    random = after(Noise(20), Noise(20, "gaussian"))
    try:
        survived = after(*plain.attacks)
    except (EvaluationFailed, RuntimeError) as error:
        failed = first_line(error)
        return replace(context, plain=right, random=random, failed=failed, missing={"fgsm": failed})
    return replace(context, plain=survived, random=random, fgsm=after(FGSM()))
