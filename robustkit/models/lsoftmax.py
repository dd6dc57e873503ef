"""The networks published with the code of large-margin softmax (Liu et al. 2016).

Layers have the names, sizes and initialisation of the released Caffe configurations for MNIST and
CIFAR-10. They are not the networks of the paper's Table 1. The constants of batch norm are torch's,
and the release's subtraction of a mean image is left to the preprocessing.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import nn

WIDTHS = (64, 128, 256)


def lsoftmax_mnist(num_classes: int = 10) -> nn.Module:
    """Three convolutions per block; takes N×1×28×28."""
    return _network(num_classes, channels=1, side=28, depth=3)


def lsoftmax_cifar(num_classes: int = 10) -> nn.Module:
    """Four convolutions per block; takes N×3×32×32."""
    return _network(num_classes, channels=3, side=32, depth=4)


def _network(num_classes: int, channels: int, side: int, depth: int) -> nn.Module:
    """One 3×3 convolution, three blocks of `depth` of them, 512 units, and the classes.

    Batch norm and ReLU follow every layer but the last, which has no bias: the loss works with the
    angle between features and class weights. Pools round up, as Caffe's do: MNIST ends in 4×4.
    """
    layers = OrderedDict(_convolution("pre_{}", channels, WIDTHS[0]))
    for block, (before, width) in enumerate(pairwise((WIDTHS[0], *WIDTHS)), 1):
        for i in range(1, depth + 1):
            layers |= _convolution(f"{{}}{block}_{i}", before if i == 1 else width, width)
        layers[f"pool{block}"] = nn.MaxPool2d(2, ceil_mode=True)
        side = -(-side // 2)
    layers["flatten"] = nn.Flatten()
    layers["ip1"] = nn.Linear(WIDTHS[-1] * side**2, 512)
    layers["bn_ip"], layers["relu_ip"] = nn.BatchNorm1d(512), nn.ReLU()
    layers["ip2"] = nn.Linear(512, num_classes, bias=False)
    return nn.Sequential(layers).apply(_initialise)


def _convolution(name: str, before: int, width: int) -> dict[str, nn.Module]:
    """A 3×3 convolution that keeps the size, its batch norm and ReLU; `name` has a gap for each."""
    return {
        name.format("conv"): nn.Conv2d(before, width, 3, padding=1),
        name.format("bn"): nn.BatchNorm2d(width),
        name.format("relu"): nn.ReLU(),
    }


def _initialise(layer: nn.Module) -> None:
    """Normal weights of variance 2 over the fan-in (He et al. 2015), biases 0."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
