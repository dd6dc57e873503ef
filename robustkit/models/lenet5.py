"""LeNet-5 (LeCun et al. 1998) as it is used today: ReLU and max pooling."""

import torch
from torch import nn
from torch.nn import functional


class LeNet5(nn.Module):
    """Takes N×1×28×28; the first convolution pads to the 32×32 of the original."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×1×28×28 to N×classes."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        x = functional.relu(self.fc2(x))
        out: torch.Tensor = self.fc3(x)
        return out


def lenet5(num_classes: int = 10) -> nn.Module:
    """The network with fresh weights."""
    return LeNet5(num_classes)
