"""LeNet-5 with a slope of its own for what is negative in each channel (PReLU, He et al. 2015)."""

import torch
from torch import nn
from torch.nn import functional

from robustkit.models.lenet5 import LeNet5


class LeNet5PReLU(LeNet5):
    """Takes N×1×28×28, as LeNet-5."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.prelu1 = nn.PReLU(6)
        self.prelu2 = nn.PReLU(16)
        self.prelu3 = nn.PReLU(120)
        self.prelu4 = nn.PReLU(84)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×1×28×28 to N×classes."""
        x = functional.max_pool2d(self.prelu1(self.conv1(x)), 2)
        x = functional.max_pool2d(self.prelu2(self.conv2(x)), 2)
        x = self.prelu3(self.fc1(x.flatten(1)))
        x = self.prelu4(self.fc2(x))
        out: torch.Tensor = self.fc3(x)
        return out


def lenet5_prelu(num_classes: int = 10) -> nn.Module:
    """The network with fresh weights."""
    return LeNet5PReLU(num_classes)
