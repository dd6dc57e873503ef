"""Folders of transformers and timm, of which nothing is said but the pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from foreign.rows import CLASSES, Made, Row


def of_transformers(name: str, build: Callable[[], Any], processor: Any) -> Row:
    """A row of a folder that transformers writes, read back by it."""

    def make(at: Path, pictures: list[Path]) -> Made:
        import transformers

        build().save_pretrained(at)
        processor.save_pretrained(at)
        network = transformers.AutoModelForImageClassification.from_pretrained(at).eval()
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

    return [
        *(of_transformers(*network) for network in transformers_networks()),
        *(of_timm(*network) for network in TIMM.items()),
    ]
