"""The small CIFAR-10 network of Wong and Kolter 2018, "Provable defenses": fast on a processor."""

import torch
from torch import nn
from torch.nn import functional


class SmallCnnCifar(nn.Module):
    """Two 4×4 convolutions of stride 2, a hidden layer of 100, and the classes. N×3×32×32.

    About 0.9 million multiplications an image. The weights start as torch's layers do.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * 8 * 8, 100)
        self.fc2 = nn.Linear(100, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×3×32×32 to N×classes."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = functional.relu(self.fc1(x.flatten(1)))
        out: torch.Tensor = self.fc2(x)
        return out


def small_cnn_cifar(num_classes: int = 10) -> nn.Module:
    """The network with fresh weights."""
    return SmallCnnCifar(num_classes)
