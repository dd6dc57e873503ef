"""Whether a network holds a file's weights, whatever either calls them.

Names differ wherever a library renames as it loads, so that the proof is one by value: each tensor
of the file is in the network, and each parameter and running statistic came from the file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256

import torch

from robustkit.checkpoint.proposals import propose_without
from robustkit.checkpoint.readings import listed
from robustkit.errors import CheckpointError
from robustkit.unpickling.tensors import COUNTER, Array

Print = tuple[tuple[int, ...], bytes]
"""shape and digest of a tensor's numbers"""
STATISTICS = (".running_mean", ".running_var")
"""ends of the names of what a training counted: a fresh one is no less wrong than a fresh weight.
Other buffers, such as indices of positions, follow from sizes, and many files lack them"""
CHUNKS = (2, 3, 4)
"""into which libraries divide a tensor, such as the weights of query, key and value"""


def check_holds(
    network: torch.nn.Module, state: Mapping[str, Array], ignored: Iterable[str], where: str
) -> None:
    """Nothing, if a network's weights are those of the file, all of them and no others.

    Args:
        network: as it was loaded.
        state: what is in the file, by names that need not be the network's.
        ignored: patterns of names that the library's own code leaves out.
        where: for messages.

    Raises:
        CheckpointError: a tensor of the file is not in it, or a parameter or running statistic
            came from elsewhere.
    """
    lost, foreign = differences(network, state)
    lost = [name for name in lost if not any(re.search(pattern, name) for pattern in ignored)]
    if not lost and not foreign:
        return
    parts = [f"missing from the network: {listed(lost)}"] if lost else []
    parts += [f"missing from the file: {listed(foreign)}"] if foreign else []
    front = f"{getattr(network, 'base_model_prefix', '')}."
    if not foreign and (proposal := propose_without(lost, state, front)):
        parts.append(proposal)
    raise CheckpointError(
        f"{where}: the network that it describes does not match its weights: {'; '.join(parts)}"
    )


def differences(
    network: torch.nn.Module, state: Mapping[str, Array]
) -> tuple[list[str], list[str]]:
    """The names of tensors that a network lacks, and of its own that the file lacks.

    Its own are parameters and running statistics.
    """
    file = {k: torch.from_numpy(v) for k, v in state.items() if not k.endswith(COUNTER)}
    held = dict(network.named_buffers()) | network.state_dict()
    own = {k: v for k, v in held.items() if isinstance(v, torch.Tensor) and not k.endswith(COUNTER)}
    lost = _without(file, Counter(map(_print, own.values())))
    # parameters that are tied have one name here
    needed = dict(network.named_parameters())
    needed |= {name: value for name, value in own.items() if f".{name}".endswith(STATISTICS)}
    return lost, _without(needed, Counter(map(_print, file.values())))


def _without(tensors: Mapping[str, torch.Tensor], among: Counter[Print]) -> list[str]:
    """The names of tensors that are not among others, whole, in pieces or as a piece of them."""
    left = among.copy()
    rest: list[str] = []
    for name, tensor in tensors.items():
        if left[key := _print(tensor)] > 0:
            left[key] -= 1
        else:
            rest.append(name)
    if not rest:
        return []
    return [name for name in rest if not _in_pieces(tensors[name], left)]


def _in_pieces(tensor: torch.Tensor, left: Counter[Print]) -> bool:
    if not tensor.ndim:
        return False
    for count in CHUNKS:
        pieces = Counter(map(_print, tensor.chunk(count))) if len(tensor) % count == 0 else None
        if pieces and all(left[key] >= times for key, times in pieces.items()):
            left.subtract(pieces)
            return True
    return False


def _print(tensor: torch.Tensor) -> Print:
    numbers = tensor.detach().cpu()
    numbers = numbers.float() if numbers.is_floating_point() else numbers
    content = numbers.contiguous().flatten().view(torch.uint8).numpy()
    return tuple(tensor.shape), sha256(content.tobytes()).digest()
