"""What a library builds on a folder's word is no larger than its weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules import module as registration

from robustkit.errors import BadFile
from robustkit.unpickling.tensors import Array

SLACK = 4
"""times the file's numbers: a weight may be registered twice, or be tied"""
LEAST = 2**24
"""numbers of parameters that are always let pass"""
MOST_BUFFERED = 2**27
"""numbers that follow from sizes and are in no file, such as the index of relative positions"""
MODULES = 50
"""for each tensor: activations, dropouts and containers have none"""


@contextmanager
def no_larger(state: Mapping[str, Array]) -> Iterator[None]:
    """Refuse a network, as it is built, that is too large for the weights.

    Raises:
        BadFile: it is.
    """
    most = SLACK * sum(value.size for value in state.values()) + LEAST
    left = {
        "parameters": most,
        "buffers": most + MOST_BUFFERED,
        "modules": MODULES * len(state) + 1000,
    }

    def count(kind: str, size: Callable[[Any], int]) -> Callable[..., None]:
        def hook(_: torch.nn.Module, name: str, value: Any) -> None:
            left[kind] -= size(value)
            if left[kind] < 0:
                raise BadFile(
                    f"its configuration describes a network with far more {kind} than the "
                    f"file has, at {name}"
                )

        return hook

    def numel(value: Any) -> int:
        return 0 if value is None else int(value.numel())

    with ExitStack() as hooks:
        for register, hook in (
            (registration.register_module_parameter_registration_hook, count("parameters", numel)),
            (registration.register_module_buffer_registration_hook, count("buffers", numel)),
            (registration.register_module_module_registration_hook, count("modules", lambda _: 1)),
        ):
            hooks.callback(register(hook).remove)
        yield
