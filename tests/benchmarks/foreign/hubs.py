"""Folders of transformers and timm, of which nothing is said but the pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hugging_face import CLASSES, stir
from PIL import Image

from foreign.rows import Made, Row


def written(model: Any, processor: Any, at: Path) -> Path:
    """A folder as transformers writes it."""
    model.save_pretrained(at)
    processor.save_pretrained(at)
    return at


def in_shards(model: Any, processor: Any, at: Path) -> Path:
    model.save_pretrained(at, max_shard_size="50KB")
    processor.save_pretrained(at)
    return at


def in_float16(model: Any, processor: Any, at: Path) -> Path:
    return written(model.half(), processor, at)


def by_trainer(model: Any, processor: Any, at: Path) -> Path:
    """A folder of checkpoints as its Trainer leaves them."""
    import transformers

    kept = transformers.TrainingArguments(at / "out", use_cpu=True, report_to=[], max_steps=1)
    example = {"pixel_values": torch.zeros(3, 32, 32), "labels": 0}
    trainer = transformers.Trainer(
        model, kept, train_dataset=[example] * 8, processing_class=processor
    )
    trainer.train()
    return next((at / "out").glob("checkpoint-*"))


def in_cache(model: Any, processor: Any, at: Path) -> Path:
    """A folder of huggingface_hub's cache: links to files by digest."""
    snapshot = at / "models--me--net" / "snapshots" / "0123abc"
    blobs = at / "models--me--net" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(written(model, processor, at / "plain").iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def of_transformers(
    name: str,
    build: Callable[[], Any],
    processor: Any,
    write: Callable[[Any, Any, Path], Path] = written,
) -> Row:
    """A row of a folder that transformers writes, read back by it."""

    def make(at: Path, pictures: list[Path]) -> Made:
        import transformers

        at = write(build(), processor, at)
        network = transformers.AutoModelForImageClassification.from_pretrained(
            at, dtype=torch.float32
        ).eval()
        # the loader of the library's own pipelines, which turns pictures upright and makes them RGB
        images = [transformers.image_utils.load_image(str(path)) for path in pictures]
        with torch.no_grad():
            # a file does not say that Pillow resized where it was saved: torch does, whoever reads it
            prepare = transformers.AutoImageProcessor.from_pretrained(at)
            inputs = prepare(images, return_tensors="pt")
            return Made(at, network(**inputs).logits)

    return Row(f"transformers {name}", make)


def of_timm(name: str, settings: dict[str, Any]) -> Row:
    """A row of a folder that timm writes, read back by it."""

    def make(at: Path, pictures: list[Path]) -> Made:
        import timm
        from timm.models import save_for_hf

        torch.manual_seed(0)
        made = timm.create_model(name, num_classes=CLASSES, **settings)
        stir(made, (3, 64, 64) if "img_size" in settings else made.pretrained_cfg["input_size"])
        said = {"label_names": [f"class{i}" for i in range(CLASSES)]}
        save_for_hf(made, at, model_config=said, model_args=settings, safe_serialization=True)
        network = timm.create_model(f"local-dir:{at}", pretrained=True).eval()
        chosen = timm.data.resolve_model_data_config(network)
        transform = timm.data.create_transform(**chosen, is_training=False)
        images = [transform(Image.open(path).convert("RGB")) for path in pictures]
        with torch.no_grad():
            return Made(at, network(torch.stack(images)))

    return Row(f"timm {name}", make)


def rows() -> list[Row]:
    """Every network of `hugging_face.py`."""
    from hugging_face import TIMM, transformers_networks

    networks = list(transformers_networks())
    ways = {"Trainer": by_trainer, "shards": in_shards, "float16": in_float16, "cache": in_cache}
    return [
        *(of_transformers(*network) for network in networks),
        *(of_transformers(f"ViT, {way}", *networks[0][1:], write) for way, write in ways.items()),
        *(of_timm(*network) for network in TIMM.items()),
    ]
