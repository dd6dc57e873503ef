"""ResNet-18 (He et al. 2016) for 32×32 images: torchvision's, with a 3×3 stem and no max pool."""

from torch import nn
from torchvision.models import resnet18


def resnet18_cifar(num_classes: int = 10) -> nn.Module:
    """The network with fresh weights; takes N×3×32×32."""
    network: nn.Module = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
