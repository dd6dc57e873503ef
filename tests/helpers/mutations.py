"""Honest files of every kind that is read, and random mutations of them."""

import argparse
import io
import json
import pickle
import pickletools
import random
import zipfile
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils import parametrizations, prune

from helpers import checkpoint_files as files
from robustkit.checkpoint import save_checkpoint

STATE = "lenet5"
LABELS = list(range(10)) * 2
INTERESTING = (
    0,
    1,
    2**7,
    2**8 - 1,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
    2**64 - 1,
)
"""numbers at which widths end"""


class HostileFile(NamedTuple):
    """A file to be read: its bytes, its suffix, and whether it is one of labels."""

    content: bytes
    suffix: str = ".pt"
    labels: bool = False


def _small():
    """A network of some hundred weights, so that most mutations meet structure and not numbers."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )


def _parametrised(fold):
    module = _small()
    fold(module[3])
    return module.state_dict()


def _training():
    module = _small()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "state_dict": module.state_dict(),
        "ema_state_dict": {k: v * 1.0 for k, v in module.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, dataset="cifar10", seed=3),
        "epoch": 7,
        "best_acc1": torch.tensor(91.5),
        "history": [{"loss": np.float64(0.5)}, (1, 2.5, None, True)],
    }


def _self_describing(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(
        path, files.network(), model=STATE, loss="hinge", seed=3, trained_on="mnist5k",
        training={"data": {"train": 5, "noise": {"rate": 0.2}}, "history": [{"epoch": 1}]},
    )  # fmt: skip
    return path.read_bytes()


def _noisy_labels(write):
    columns = {"clean_label": np.array(LABELS), "worse_label": np.array(LABELS[::-1])}
    buffer = io.BytesIO()
    write(buffer, columns)
    return buffer.getvalue()


def honest(folder):
    """Honest files by name; `folder` is where one can be written meanwhile."""
    state = _small().state_dict()
    made = {
        "zip": files.saved(state),
        "legacy": files.saved(state, _use_new_zipfile_serialization=False),
        "pickle": pickle.dumps(state),
        "protocol 0": b"\x80\x02" + pickle.dumps(dict(state), 0),
        "protocol 5": pickle.dumps({"w": np.arange(6.0), "b": np.float32(1)}, 5),
        "training": files.saved(_training()),
        "legacy training": files.saved(_training(), _use_new_zipfile_serialization=False),
        "module": files.saved({"net": _small(), "epoch": 1}),
        "half": files.saved({k: v.half() for k, v in state.items() if v.is_floating_point()}),
        "views": files.saved(dict(enumerate(torch.arange(40.0).reshape(8, 5)))),
        "weight norm": files.saved(_parametrised(parametrizations.weight_norm)),
        "spectral norm": files.saved(_parametrised(parametrizations.spectral_norm)),
        "pruned": files.saved(_parametrised(lambda m: prune.l1_unstructured(m, "weight", 0.3))),
        "lenet5": files.saved(files.network().state_dict()),
    }
    made = {name: HostileFile(content) for name, content in made.items()}
    safetensors = _self_describing(folder)
    labels = {
        ".pt": _noisy_labels(
            lambda b, c: torch.save({k: torch.tensor(v) for k, v in c.items()}, b)
        ),
        ".pth": _noisy_labels(lambda b, c: b.write(pickle.dumps(c))),
        ".npy": _noisy_labels(lambda b, c: np.save(b, np.array(c, dtype=object))),
        ".npz": _noisy_labels(lambda b, c: np.savez(b, **c)),
        ".csv": ("clean_label,worse_label\n" + "".join(f"{a},{a}\n" for a in LABELS)).encode(),
        ".json": json.dumps({"clean_label": LABELS, "worse_label": LABELS}).encode(),
    }
    made |= {f"labels{end}": HostileFile(c, end, True) for end, c in labels.items()}
    return made | {"safetensors": HostileFile(safetensors, ".safetensors")}


def mutated(made, seed):
    """The mutation of that number of one of the honest files: its name and the file."""
    draw = random.Random(seed)
    name = draw.choice(list(made))
    file = made[name]
    if name == "safetensors" and draw.random() < 0.7:
        content = _with_header(file.content, draw)
    elif file.content[:4] == b"PK\x03\x04" and file.suffix == ".pt" and draw.random() < 0.7:
        content = _with_pickle(file.content, draw)
    elif file.content[:1] == b"\x80" and draw.random() < 0.5:
        content = _reordered(file.content, draw)
    else:
        content = _changed(file.content, draw)
    return f"{name} {seed}", file._replace(content=content)


def _with_header(content, draw):
    """A safetensors file whose header is changed, and its length with it."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = _changed(content[8:size], draw)
    return len(header).to_bytes(8, "little") + header + content[size:]


def _with_pickle(content, draw):
    """A zip of torch's whose data.pkl is changed, with its checksum right."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new,
    ):
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = draw.choice((_reordered, _changed))(data, draw)
            new.writestr(entry.filename, data)
    return buffer.getvalue()


def _reordered(content, draw):
    """A pickle whose opcodes are moved, doubled, dropped, or given others' arguments."""
    try:
        ends = [place for _, _, place in pickletools.genops(content)]
    except ValueError:
        return _changed(content, draw)
    bounds = [*ends, ends[-1] + 1]
    opcodes = [content[a:b] for a, b in pairwise(bounds)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        a, b = draw.randrange(len(opcodes)), draw.randrange(len(opcodes))
        match draw.randrange(5):
            case 0:
                opcodes[a], opcodes[b] = opcodes[b], opcodes[a]
            case 1:
                opcodes[a] = opcodes[b]
            case 2:
                opcodes.insert(a, opcodes[b])
            case 3 if len(opcodes) > 2:
                del opcodes[a]
            case _:
                opcodes[a] = _changed(opcodes[a], draw)
    return b"".join(opcodes) + content[bounds[-1] :]


def _changed(content, draw):
    """Bytes with one to ten places changed."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 10))):
        if not data:
            break
        # half of the places are near an end, where directories and headers are
        near = min(len(data), 400)
        place = draw.choice(
            (draw.randrange(len(data)), draw.randrange(near), len(data) - 1 - draw.randrange(near))
        )
        length = draw.choice((1, 2, 4, 8, 30, 200))
        match draw.randrange(9):
            case 0:
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                width = draw.choice((2, 4, 8))
                value = draw.choice(INTERESTING) % 2 ** (8 * width)
                data[place : place + width] = value.to_bytes(width, draw.choice(("little", "big")))
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                data[place:place] = draw.randbytes(length)
            case 6:
                data[place : place + length] = bytes(length)
            case 7:
                other = draw.randrange(len(data))
                data[place : place + length] = data[other : other + length]
            case _:
                data = data[: max(1, place)] if draw.random() < 0.3 else data
                data += draw.randbytes(draw.choice((0, 1, 22, 60)))
    return bytes(data)
