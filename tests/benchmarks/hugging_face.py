"""Logits from picture files: robustkit's, of a folder, beside those of the library that wrote it.

    python tests/benchmarks/hugging_face.py [NAME ...]

Small networks of transformers and timm with random weights, saved by the libraries themselves with
their own image processors, and a handful of JPEGs. robustkit gets the folder and the pictures, and
no other word; the library loads the same folder by its own `from_pretrained` and prepares the
pictures by its own processor or transform. A row has the largest difference of logits and their
scale; target: 1e-5.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import numpy as np
import torch
import transformers
from PIL import Image

from robustkit.checkpoint import read_checkpoint
from robustkit.evaluation import images_for

CLASSES = 3
SIZES = ((90, 70), (64, 64), (51, 83), (120, 200))
"""width and height of the pictures"""


def draw_pictures(folder: Path) -> None:
    """A folder of classes with smooth random JPEGs of several sizes, grey, CMYK and turned ones."""
    rng = np.random.default_rng(0)
    for index in range(CLASSES):
        (folder / f"class{index}").mkdir(parents=True)
        for number, (width, height) in enumerate(SIZES):
            coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            exif = Image.Exif()
            if number == 3:
                exif[0x0112] = (3, 6, 8)[index]
            mode = {0: "L", 2: "CMYK"}.get(number + index, "RGB")
            path = folder / f"class{index}" / f"{number}.jpg"
            picture.convert(mode).save(path, quality=92, exif=exif)


def stir(network: Any, shape: tuple[int, ...], gain: float = 1.0) -> None:
    """Numbers as after a training: logits that hang on the picture, statistics of batches.

    `gain` of each layer: where nothing normalises between them, 1 loses the picture.
    """
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim > 1:
                value.normal_(std=gain * value[0].numel() ** -0.5)
            elif name.endswith("weight"):  # of a normalisation, which some begin near zero
                value.copy_(1 + torch.rand_like(value) * 0.1)
            elif value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.1)
        network.train()
        for part in network.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.momentum = None
                part.reset_running_stats()
        for _ in range(2):
            network(torch.randn(4, *shape))
        network.eval()
        smooth = torch.nn.functional.interpolate(torch.rand(8, shape[0], 3, 3), shape[1:])
        found = network(smooth)
        spread = getattr(found, "logits", found).std(0).mean()
        # the classes' own, which come last
        [value for value in network.state_dict().values() if value.ndim > 1][-1].div_(spread)


def transformers_networks() -> Iterator[tuple[str, Callable[[], Any], Any]]:
    """Name, what makes a small network, and its processor."""
    t = transformers
    square = {"size": {"height": 32, "width": 32}}
    edge = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    tiny: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "image_size": 32,
        "patch_size": 8,
    }

    def row(kind: str, processor: Any, **settings: Any) -> tuple[str, Callable[[], Any], Any]:
        config = getattr(t, f"{kind}Config")

        def make() -> Any:
            torch.manual_seed(0)
            labels = {i: f"class{i}" for i in range(CLASSES)}
            made = getattr(t, f"{kind}ForImageClassification")(config(id2label=labels, **settings))
            size = getattr(made.config, "image_size", None) or getattr(
                made.config, "vision_config", made.config
            )
            size = getattr(size, "image_size", size)
            size = size[0] if isinstance(size, list | tuple) else size
            stir(made, (3, *[size if isinstance(size, int) else 64] * 2))
            return made.eval()

        return kind, make, processor

    yield row("ViT", t.ViTImageProcessor(**square), **tiny)
    yield row(
        "Swin", t.ViTImageProcessor(**square), image_size=32, patch_size=2, embed_dim=16,
        depths=[1, 2], num_heads=[2, 2], window_size=2,
    )  # fmt: skip
    yield row(
        "ConvNext", t.ConvNextImageProcessor(size={"shortest_edge": 32}),
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "ResNet", t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9),
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
    )  # fmt: skip
    yield row("Dinov2", t.BitImageProcessor(**edge), **(tiny | {"intermediate_size": None}))
    yield row("Beit", t.BeitImageProcessor(**square), **tiny)
    yield row("DeiT", t.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=32), **tiny)
    yield row("MobileNetV1", t.MobileNetV1ImageProcessor(**edge), depth_multiplier=0.25)
    yield row("MobileNetV2", t.MobileNetV2ImageProcessor(**edge), depth_multiplier=0.25)
    yield row(
        "EfficientNet", t.EfficientNetImageProcessor(**square), image_size=32, width_coefficient=0.1,
        depth_coefficient=0.1, hidden_dim=128,
    )  # fmt: skip
    yield row(
        "RegNet", t.ConvNextImageProcessor(size={"shortest_edge": 32}),
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8,
    )  # fmt: skip
    yield row(
        "Pvt", t.PvtImageProcessor(**square), image_size=32, hidden_sizes=[8, 16, 16, 32],
        num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1], num_labels=CLASSES,
    )  # fmt: skip
    yield row(
        "PvtV2", t.PvtImageProcessor(**square), image_size=32, hidden_sizes=[8, 16, 16, 32],
        num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "Levit", t.LevitImageProcessor(size={"shortest_edge": 64}, crop_size=64), image_size=64,
        hidden_sizes=[16, 32, 48], num_attention_heads=[1, 2, 3], depths=[1, 1, 1], key_dim=[8, 8, 8],
    )  # fmt: skip
    yield row(
        "Cvt", t.ConvNextImageProcessor(size={"shortest_edge": 32}), embed_dim=[8, 16, 24],
        num_heads=[1, 2, 3], depth=[1, 2, 3],
    )  # fmt: skip
    yield row(
        "PoolFormer", t.PoolFormerImageProcessor(size={"shortest_edge": 32}, crop_size=32),
        hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "Segformer", t.SegformerImageProcessor(**square), hidden_sizes=[8, 16, 16, 32],
        num_attention_heads=[1, 2, 2, 4], depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "SwiftFormer", t.ViTImageProcessor(**square), image_size=32, embed_dims=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "Bit",
        t.BitImageProcessor(**edge),
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_groups=4,
    )
    yield row(
        "MobileViT", t.MobileViTImageProcessor(**edge), image_size=32, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 16, 16, 24, 32, 40, 64],
    )  # fmt: skip
    yield row(
        "MobileViTV2",
        t.MobileViTImageProcessor(size={"shortest_edge": 70}, crop_size=64),
        image_size=64,
        width_multiplier=0.25,
    )
    yield row(
        "FocalNet", t.BitImageProcessor(**edge), image_size=32, patch_size=2, embed_dim=16,
        depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3],
    )  # fmt: skip
    yield row("Siglip", t.SiglipImageProcessor(**square), vision_config=tiny)
    yield row("CLIP", t.CLIPImageProcessor(**edge), vision_config=tiny)
    yield row(
        "ConvNextV2", t.ConvNextImageProcessor(size={"shortest_edge": 32}),
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
    )  # fmt: skip
    yield row(
        "Swinv2", t.ViTImageProcessor(**square), image_size=32, patch_size=2, embed_dim=16,
        depths=[1, 2], num_heads=[2, 2], window_size=2,
    )  # fmt: skip
    yield row(
        "Dinov2WithRegisters", t.BitImageProcessor(**edge), **(tiny | {"intermediate_size": None})
    )
    yield row("Data2VecVision", t.BeitImageProcessor(**square), **tiny)
    yield row("ViTMSN", t.ViTImageProcessor(**square), **tiny)
    yield row("IJepa", t.ViTImageProcessor(**square), **tiny)
    yield row(
        "Hiera", t.BitImageProcessor(size={"shortest_edge": 70}, crop_size=64), image_size=[64, 64],
        embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 4], query_stride=[2, 2],
        masked_unit_size=[4, 4], num_query_pool=2,
    )  # fmt: skip
    odd = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    yield ("ViT/mean", *row("ViT", t.ViTImageProcessor(**square, **odd), **tiny)[1:])
    plain = t.ViTImageProcessor(**square, do_normalize=False)
    yield ("ViT/no normalisation", *row("ViT", plain, **tiny)[1:])
    bytes_ = t.ViTImageProcessor(
        **square, do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3
    )
    yield ("ViT/0 to 255", *row("ViT", bytes_, **tiny)[1:])
    scaled = t.ViTImageProcessor(
        **square, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
    )
    yield ("ViT/1 of 127.5", *row("ViT", scaled, **tiny)[1:])
    yield ("ViT/bicubic", *row("ViT", t.ViTImageProcessor(**square, resample=3), **tiny)[1:])
    yield ("ViT/slow", *row("ViT", t.ViTImageProcessorPil(**square), **tiny)[1:])


TIMM = {
    "resnet18": {},
    "resnet26d": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 64},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1, 1)},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "mobilenetv2_050": {},
    "regnetx_002": {},
    "levit_128s": {},
    "mixer_s32_224": {"img_size": 64},
    "poolformer_s12": {},
    "ghostnet_050": {},
    "tinynet_e": {},
    "repvgg_a0": {},
    "densenet121": {"growth_rate": 8},
    "mobilevit_xxs": {},
    "edgenext_xx_small": {},
    "vgg11": {},
}  # fmt: skip
"""timm's names and the arguments that make them small"""


def differences_of_transformers(
    name: str, make: Callable[[], Any], processor: Any, data: Path, at: Path
) -> str:
    made = make()
    made.save_pretrained(at)
    processor.save_pretrained(at)
    theirs_processor = transformers.AutoImageProcessor.from_pretrained(at)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(at).eval()
    load = transformers.image_utils.load_image
    pictures = [load(str(path)) for path in sorted(data.glob("*/*.jpg"))]
    with torch.no_grad():
        expected = theirs(**theirs_processor(pictures, return_tensors="pt")).logits
    return compared(at, data, expected)


def differences_of_timm(name: str, settings: dict[str, Any], data: Path, at: Path) -> str:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=CLASSES, **settings).eval()
    stir(made, made.pretrained_cfg["input_size"] if "img_size" not in settings else (3, 64, 64))
    labels = [f"class{i}" for i in range(CLASSES)]
    save_for_hf(
        made, at, model_config={"label_names": labels}, model_args=settings, safe_serialization=True
    )
    theirs = timm.create_model(f"local-dir:{at}", pretrained=True).eval()
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(theirs), is_training=False
    )
    pictures = [Image.open(path).convert("RGB") for path in sorted(data.glob("*/*.jpg"))]
    with torch.no_grad():
        expected = theirs(torch.stack([transform(picture) for picture in pictures]))
    return compared(at, data, expected)


def compared(at: Path, data: Path, expected: torch.Tensor) -> str:
    checkpoint = read_checkpoint(at)
    images = images_for(checkpoint, str(data))
    # in the pictures' own order, since a sum may be rounded by an image's place in its batch
    pixels = torch.from_numpy(images.images(0, len(images))[np.argsort(images._positions)])
    with torch.no_grad():
        found = checkpoint.load()(pixels)
    told = f"{(found - expected).abs().max().item():9.1e} of {expected.std(0).mean().item():.1e}"
    return f"{told}  {'×'.join(map(str, images.shape))}"


def main(names: list[str]) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pictures"
        draw_pictures(data)
        rows: list[tuple[str, Callable[[Path], str]]] = []
        for name, make, processor in transformers_networks():
            rows.append(
                (
                    name,
                    lambda at, n=name, m=make, p=processor: differences_of_transformers(
                        n, m, p, data, at
                    ),
                )
            )
        for name, settings in TIMM.items():
            rows.append(
                (f"timm {name}", lambda at, n=name, s=settings: differences_of_timm(n, s, data, at))
            )
        for number, (name, measure) in enumerate(rows):
            if names and not any(part in name for part in names):
                continue
            try:
                told = measure(Path(folder) / str(number))
            except Exception as error:  # a row says what went wrong
                told = f"{type(error).__name__}: {str(error)[:300]}"
            print(f"{name:<30}  {told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
