"""torch's own files: containers, wrappers, types, programs."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils import prune

from foreign.rows import CROP, PIXELS, Family, Made, answered, network

FLAGS = f"--model timm:test_resnet {PIXELS}"
family = Family()
ROWS = family.rows


def saved(name: str, contents: Callable[[torch.nn.Module], Any], flags: str = FLAGS) -> None:
    """A row of what `torch.save` writes of a network."""

    @family.row(name, flags)
    def make(at: Path, pictures: list[Path]) -> Made:
        model = network()
        logits = answered(model, pictures)
        torch.save(contents(model), at / "model.pt")
        return Made(at / "model.pt", logits)


def prefixed(front: str) -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """A network's names behind a wrapper's."""
    return lambda m: {front + key: value for key, value in m.state_dict().items()}


def inside(mark: str) -> Callable[[torch.nn.Module], dict[str, torch.Tensor]]:
    """A wrapper's mark after the first part of each name, as where layers are wrapped."""
    return lambda m: {key.replace(".", f".{mark}", 1): v for key, v in m.state_dict().items()}


saved("torch: state dict", lambda m: m.state_dict())
saved("torch: pickled module", lambda m: m)
for _key in ("state_dict", "model_state_dict", "model", "net", "params", "best_model"):
    saved(f"torch: under {_key!r}", lambda m, key=_key: {key: m.state_dict(), "epoch": 3})
saved("torch: args as Namespace", lambda m: {"model": m.state_dict(), "args": Namespace(lr=0.1)})
saved("torch: numpy scalar beside", lambda m: {"model": m.state_dict(), "acc": np.float64(0.5)})
saved("DataParallel", lambda m: torch.nn.DataParallel(m).state_dict())
saved("torch.compile", lambda m: torch.compile(m).state_dict())
saved("FSDP outside, layout", prefixed("_fsdp_wrapped_module."))
saved("FSDP of layers, layout", inside("_fsdp_wrapped_module."))
saved("activation checkpoints of layers, layout", inside("_checkpoint_wrapped_module."))
saved("compiled layers, layout", inside("_orig_mod."))
saved("AveragedModel", lambda m: torch.optim.swa_utils.AveragedModel(m).state_dict())
saved(
    "with optimiser",
    lambda m: {"model": m.state_dict(), "optimizer": torch.optim.Adam(m.parameters()).state_dict()},
)
saved(
    "backbone. and head., layout",
    lambda m: {
        ("head." if key.startswith("fc") else "backbone.") + key: v
        for key, v in m.state_dict().items()
    },
    f"{FLAGS} --rename backbone.=,head.=",
)
saved(
    "teacher beside, layout",
    lambda m: {**prefixed("student.")(m), **prefixed("teacher.")(m)},
    f"{FLAGS} --ignore teacher.* --rename student.=",
)
saved("list of state dicts", lambda m: [m.state_dict()])
saved("DeepSpeed's single file, layout", lambda m: {"module": m.state_dict(), "ds_version": "0.18"})
saved(
    "Madry's layout",
    lambda m: {
        "model": {**prefixed("module.model.")(m), **prefixed("module.attacker.model.")(m)},
        "epoch": 1,
    },
)


@family.row("torch: legacy format", FLAGS)
def legacy(at: Path, pictures: list[Path]) -> Made:
    model = network()
    torch.save(model.state_dict(), at / "model.pth", _use_new_zipfile_serialization=False)
    return Made(at / "model.pth", answered(model, pictures))


def rounded(kind: torch.dtype) -> None:
    @family.row(f"torch: {kind}", FLAGS)
    def make(at: Path, pictures: list[Path]) -> Made:
        model = network().to(kind)
        torch.save(model.state_dict(), at / "model.pt")
        return Made(at / "model.pt", answered(model.float(), pictures))


for _kind in (torch.float16, torch.bfloat16, torch.float64):
    rounded(_kind)


def normalised(name: str, mean: str, std: str) -> None:
    """RobustBench's layouts: a normalisation among the weights."""

    @family.row(name, FLAGS)
    def make(at: Path, pictures: list[Path]) -> Made:
        model = network()
        centre = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
        spread = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
        front = "model." if "." in mean else ""
        state = {**prefixed(front)(model), mean: centre, std: spread}
        torch.save({"state_dict": state}, at / "model.pt")
        module = torch.nn.Module()
        module.forward = lambda x: model((x - centre) / spread)
        return Made(at / "model.pt", answered(module, pictures))


normalised("RobustBench, normalize.mean, layout", "normalize.mean", "normalize.std")
normalised("RobustBench, mean and std, layout", "mean", "std")
normalised("RobustBench, mu and sigma, layout", "mu", "sigma")


def parametrised(name: str, change: Callable[[torch.nn.Module], object]) -> None:
    @family.row(name, FLAGS)
    def make(at: Path, pictures: list[Path]) -> Made:
        model = network()
        change(model.conv1 if hasattr(model, "conv1") else model.fc)
        model.eval()
        torch.save(model.state_dict(), at / "model.pt")
        return Made(at / "model.pt", answered(model, pictures))


def first_conv(change: Callable[..., object]) -> Callable[[torch.nn.Module], object]:
    return lambda m: change(next(x for x in m.modules() if isinstance(x, torch.nn.Conv2d)))


parametrised("weight norm", first_conv(torch.nn.utils.parametrizations.weight_norm))
parametrised("spectral norm", first_conv(torch.nn.utils.parametrizations.spectral_norm))
parametrised("pruned", first_conv(lambda c: prune.l1_unstructured(c, "weight", 0.3)))


@family.row("TorchScript, not trusted", FLAGS, "refused")
@family.row("TorchScript", f"--trust-program {PIXELS}")
def torchscript(at: Path, pictures: list[Path]) -> Made:
    model = network()
    torch.jit.trace(model, torch.rand(2, 3, CROP, CROP)).save(at / "model.pt")
    return Made(at / "model.pt", answered(model, pictures))


@family.row("torch.export, not trusted", PIXELS, "refused")
@family.row("torch.export", f"--trust-program {PIXELS}")
def exported(at: Path, pictures: list[Path]) -> Made:
    model = network()
    batch = torch.export.Dim("batch", min=1, max=512)
    program = torch.export.export(
        model, (torch.rand(2, 3, CROP, CROP),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, at / "model.pt2")
    return Made(at / "model.pt2", answered(model, pictures))


@family.row("torch.distributed.checkpoint", FLAGS)
def distributed(at: Path, pictures: list[Path]) -> Made:
    import torch.distributed.checkpoint as dcp

    model = network()
    dcp.save(model.state_dict(), checkpoint_id=at / "saved")
    return Made(at / "saved", answered(model, pictures))


@family.row("torch.distributed.checkpoint, one file", FLAGS, "refused")
def distributed_file(at: Path, pictures: list[Path]) -> Made:
    path = distributed(at, pictures).path
    return Made(next(path.glob("*.distcp")))


@family.row("optimiser alone", FLAGS, "refused")
def optimiser(at: Path, _: list[Path]) -> Made:
    torch.save(torch.optim.Adam(network().parameters()).state_dict(), at / "optimizer.pt")
    return Made(at / "optimizer.pt")


@family.row("torch.ao quantised", FLAGS, "refused")
def quantised(at: Path, _: list[Path]) -> Made:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3))
    torch.save(
        torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}).state_dict(), at / "q.pt"
    )
    return Made(at / "q.pt")
