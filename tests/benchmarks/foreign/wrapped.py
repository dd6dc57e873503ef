"""What wrappers and trainers write of a network: the libraries that train it, not those that build it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from foreign.rows import CLASSES, PIXELS, Family, Made, answered, network

FLAGS = f"--model timm:test_resnet {PIXELS}"
family = Family()
ROWS = family.rows


def one_process() -> None:
    """torch.distributed with this process alone."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def wrapped(name: str, wrap: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    """A row of a wrapper's own state dict."""

    @family.row(name, FLAGS)
    def make(at: Path, pictures: list[Path]) -> Made:
        model = network()
        logits = answered(model, pictures)
        torch.save(wrap(model).state_dict(), at / "model.pt")
        return Made(at / "model.pt", logits)


def parallel(model: torch.nn.Module) -> torch.nn.Module:
    one_process()
    return torch.nn.parallel.DistributedDataParallel(model)


def fsdp(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    one_process()
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def checkpointed(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

    checkpoint_wrapper.apply_activation_checkpointing(
        model, check_fn=lambda part: isinstance(part, torch.nn.Conv2d)
    )
    return model


wrapped("DDP", parallel)
wrapped("DDP of compiled", lambda m: parallel(torch.compile(m)))
wrapped("compiled of DDP", lambda m: torch.compile(parallel(m)))
wrapped("FSDP", fsdp)
wrapped("activation checkpoints", checkpointed)


@family.row("Opacus", f"--model timm:test_convnext {PIXELS}")
def opacus(at: Path, pictures: list[Path]) -> Made:
    from opacus import GradSampleModule

    model = network("test_convnext")  # it takes no normalisation over a batch
    torch.save(GradSampleModule(model, strict=False).state_dict(), at / "model.pt")
    return Made(at / "model.pt", answered(model, pictures))


@family.row("FSDP2, torch.distributed.checkpoint", FLAGS)
def fully_sharded(at: Path, pictures: list[Path]) -> Made:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    one_process()
    model = network()
    logits = answered(model, pictures)
    fully_shard(model)
    dcp.save({"model": model.state_dict()}, checkpoint_id=at / "saved")
    return Made(at / "saved", logits)


def deepspeed(stage: int) -> None:
    @family.row(f"DeepSpeed, stage {stage}", FLAGS)
    def make(at: Path, pictures: list[Path]) -> Made:
        import deepspeed

        one_process()
        model = network()
        logits = answered(model, pictures)
        adam = {"type": "Adam", "params": {"torch_adam": True, "lr": 0.0}}
        config = {"train_batch_size": 1, "zero_optimization": {"stage": stage}, "optimizer": adam}
        with patch.dict(os.environ, LOCAL_RANK="0"):
            engine, *_ = deepspeed.initialize(model=model, config=config)
        engine.save_checkpoint(str(at / "saved"))
        return Made(at / "saved", logits)


for _stage in (1, 2, 3):
    deepspeed(_stage)


def lightning(name: str, flags: str, **parts: Callable[[], Any]) -> None:
    """A row of a LightningModule that holds a network and other parts."""

    @family.row(f"Lightning{name}", flags)
    def make(at: Path, pictures: list[Path]) -> Made:
        import lightning

        class Classifier(lightning.LightningModule):
            def __init__(self, lr: float = 0.1) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.model = network()
                for key, make in parts.items():
                    setattr(self, key, make())

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), self.hparams.lr)

        whole = Classifier()
        trainer = lightning.Trainer(logger=False, accelerator="cpu", default_root_dir=at)
        trainer.strategy.connect(whole)
        trainer.save_checkpoint(at / "last.ckpt")
        return Made(at / "last.ckpt", answered(whole.model.eval(), pictures))


def metric() -> Any:
    from torchmetrics.classification import MulticlassConfusionMatrix

    made = MulticlassConfusionMatrix(CLASSES)
    made.persistent(True)
    return made


def weighted() -> torch.nn.Module:
    return torch.nn.CrossEntropyLoss(weight=torch.ones(CLASSES))


lightning("", FLAGS)
lightning(", loss weights", f"{FLAGS} --ignore loss.*", loss=weighted)
lightning(", metric", f"{FLAGS} --ignore metric.*", metric=metric)
lightning(", teacher", f"{FLAGS} --ignore teacher.* --rename model.=", teacher=network)


def accelerated(name: str, expected: str = "evaluated", **settings: Any) -> None:
    @family.row(f"accelerate{name}", FLAGS, expected)
    def make(at: Path, pictures: list[Path]) -> Made:
        import accelerate

        model = network()
        accelerate.Accelerator(cpu=True).save_model(model, at / "saved", **settings)
        one = sorted((at / "saved").glob("*-of-*"))
        return Made(one[0] if expected == "refused" else at / "saved", answered(model, pictures))


accelerated("")
accelerated(", shards", max_shard_size="500KB")
accelerated(", no safetensors", safe_serialization=False)
accelerated(", one shard of many", "refused", max_shard_size="500KB")


@family.row("accelerate's state", FLAGS)
def state(at: Path, pictures: list[Path]) -> Made:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimiser = torch.optim.Adam(model.parameters())
    accelerator.prepare(model, optimiser)
    accelerator.save_state(at / "saved")
    return Made(at / "saved", answered(model.eval(), pictures))


@family.row("accelerate's random states", FLAGS, "refused")
def random_states(at: Path, pictures: list[Path]) -> Made:
    return Made(next(state(at, pictures).path.glob("random_states*")))


@family.row("timm's CheckpointSaver with EMA", FLAGS)
def saver(at: Path, pictures: list[Path]) -> Made:
    from argparse import Namespace

    from timm.utils import CheckpointSaver, ModelEmaV3

    model = network()
    averaged = ModelEmaV3(model)
    args = Namespace(model="test_resnet", lr=0.1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    CheckpointSaver(
        model, optimiser, args, averaged, checkpoint_dir=str(at), recovery_dir=str(at)
    ).save_checkpoint(1, 0.5)
    return Made(at / "last.pth.tar", answered(model, pictures))


@family.row("peft adapter", FLAGS, "refused")
def adapter(at: Path, _: list[Path]) -> Made:
    lora().save_pretrained(at / "adapter")
    return Made(at / "adapter")


@family.row("peft's own state dict", FLAGS, "refused")
def unmerged(at: Path, _: list[Path]) -> Made:
    torch.save(lora().state_dict(), at / "model.pt")
    return Made(at / "model.pt")


@family.row("peft, merged", FLAGS)
def merged(at: Path, pictures: list[Path]) -> Made:
    model = lora().merge_and_unload()
    torch.save(model.state_dict(), at / "model.pt")
    return Made(at / "model.pt", answered(model.eval(), pictures))


def lora() -> Any:
    """The network with an adapter that changes it."""
    import peft

    config = peft.LoraConfig(target_modules=["fc"], r=2, init_lora_weights=False)
    return peft.get_peft_model(network(), config)
