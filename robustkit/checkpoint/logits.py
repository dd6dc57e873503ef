"""The logits inside what a network returns, told by their name or by the number of classes."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from robustkit.errors import CheckpointError

DEEPEST = 4
"""containers within containers"""
SHOWN = 6
"""tensors that a message lists"""


def find_logits(output: Any, n: int, classes: int | None) -> Any:
    """The logits among what a network returns: a tensor, an object's or a dictionary's `logits`.

    Of several tensors without that name, such as (features, logits), those N × `classes`.

    Args:
        output: what the network returns for N images.
        n: N.
        classes: how many there are; None where that is not known.

    Raises:
        CheckpointError: it cannot be told which are the logits.
    """
    for _ in range(DEEPEST):
        if isinstance(output, torch.Tensor) or (named := _named(output)) is None:
            break
        output = named
    if isinstance(output, torch.Tensor) or output is None:
        return output
    tensors = list(_tensors(output, DEEPEST))
    if len(tensors) < 2 and not isinstance(output, Mapping):
        return tensors[0] if tensors else output
    fitting = heads(tensors, n)
    if classes is not None:
        fitting = [t for t in fitting if t.shape[1] == classes]
    if len(fitting) == 1:
        return fitting[0]
    if len(tensors) < 2:
        return output
    shapes = ", ".join(map(_shape, tensors[:SHOWN]))
    wanted = f"{n}×{classes}" if classes is not None else f"{n}×classes"
    raise CheckpointError(
        f"the model returns {len(tensors)} tensors ({shapes}), of which "
        f"{'none is' if not fitting else f'{len(fitting)} are'} {wanted}: it is ambiguous "
        "which are the logits; return only those, or name them logits"
    )


def heads(output: Any, n: int) -> list[torch.Tensor]:
    """What may be logits of N images among what a network returns: N × K of any K."""
    plain = [t for t in _tensors(output, DEEPEST) if not unusual(t)]
    return [t for t in plain if t.ndim == 2 and len(t) == n and t.is_floating_point()]


def is_hollow(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the meta device and has no numbers; one of a class of its own may."""
    return tensor.is_meta and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def unusual(tensor: torch.Tensor) -> str:
    """What a tensor is that does not hold its numbers row by row, in a word; "" of any other."""
    if tensor.is_nested:
        return "nested"
    if is_hollow(tensor):
        return "meta"
    if isinstance(tensor, torch.masked.MaskedTensor):
        return "masked"
    layout = str(tensor.layout).rpartition(".")[2].strip("_")
    return "" if tensor.layout == torch.strided else layout.replace("_", " ")


def _shape(tensor: torch.Tensor) -> str:
    return unusual(tensor) or "×".join(map(str, tensor.shape)) or "a number"


def _named(output: Any) -> Any:
    inner = getattr(output, "logits", None)
    if inner is None and isinstance(output, Mapping):
        inner = output.get("logits")
    return inner


def _tensors(output: Any, depth: int) -> Iterator[torch.Tensor]:
    """Every tensor in tuples, lists, dictionaries and dataclasses; a named one alone."""
    if isinstance(output, torch.Tensor):
        yield output
    elif depth and (named := _named(output)) is not None:
        yield from _tensors(named, depth - 1)
    elif depth:
        for part in _parts(output):
            yield from _tensors(part, depth - 1)


def _parts(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, tuple | list):
        return list(output)
    if is_dataclass(output):
        return [getattr(output, field.name) for field in fields(output)]
    return []
