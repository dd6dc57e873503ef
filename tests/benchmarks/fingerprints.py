"""Make `robustkit/checkpoint/fingerprints.json`: architectures by their names and shapes.

    python tests/benchmarks/fingerprints.py [--seconds 150]

torchvision's classifiers, and timm's that have published weights, the smaller names first, as far as
the time goes; nothing is drawn or fetched.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path

import torch

for drawing in [n for n in vars(torch.nn.init) if n.endswith("_") and not n.startswith("_")]:
    # no weight is needed; before others import them by name
    setattr(torch.nn.init, drawing, lambda tensor, *_, **__: tensor)
torch.Tensor.normal_ = lambda tensor, *_, **__: tensor

import timm  # noqa: E402
import torchvision  # noqa: E402

from robustkit import models  # noqa: E402
from robustkit.checkpoint import fingerprints  # noqa: E402

TABLE = Path(fingerprints.__file__).with_name("fingerprints.json")
FIRST = (
    "resnet", "wide_resnet", "resnext", "vit_tiny", "vit_small", "vit_base", "vit_large", "deit",
    "convnext", "efficientnet", "tf_efficientnet", "mobilenetv3", "mobilenetv2", "swin", "beit",
    "mixer", "regnet", "densenet", "vgg", "inception", "xcit", "cait", "levit", "eva02",
)  # fmt: skip
"""families that many have"""


HUGE = (
    "1280",
    "2560",
    "640",
    "giant",
    "gigantic",
    "huge",
    "enormous",
    "_7b",
    "_3b",
    "_1b",
    "128gf",
)
"""of which nobody has a lone file"""


def of(spec: str) -> str:
    """The fingerprint of an architecture, built without memory where it can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                layout = models.layout_of(models.build(spec, num_classes=10))
        except NotImplementedError:  # it computes its widths with tensors
            layout = models.layout_of(models.build(spec, num_classes=10))
    return fingerprints.fingerprint((name, slot.shape) for name, slot in layout.items())


def specs() -> list[str]:
    """All of them, in the order in which they are built."""
    known = {name.partition(".")[0] for name in timm.list_pretrained()}
    known = {name for name in known if not any(word in name for word in HUGE)}
    ranked = sorted(known, key=lambda n: (not n.startswith(FIRST), len(n), n))
    inner = torchvision.models.list_models(module=torchvision.models)
    return [*(f"torchvision:{name}" for name in inner), *(f"timm:{name}" for name in ranked)]


def main() -> None:
    """Build, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=150, help="of processor time, at most")
    most = parser.parse_args().seconds
    table: dict[str, list[str]] = defaultdict(list)
    count = 0
    for spec in specs():
        if time.process_time() > most:
            break
        print(f"{time.process_time():.0f} s, {spec}", flush=True)
        try:
            table[of(spec)].append(spec)
            count += 1
        except Exception as error:
            print(f"{spec}: {type(error).__name__}")
    lines = [f"{json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table)]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{count} of {len(specs())} architectures, {len(table)} fingerprints, {TABLE}")


if __name__ == "__main__":
    main()
