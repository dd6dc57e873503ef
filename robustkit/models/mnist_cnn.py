"""The MNIST network of Elsayed et al. 2018, as in the code published with the paper."""

import torch
from torch import nn
from torch.nn import functional


class MnistCnn(nn.Module):
    """Two 5×5 convolutions with 2×2 max pooling, a hidden layer of 512, and the classes.

    Takes N×1×28×28. Batch norm, where wanted, follows each pool; its constants are the paper's
    code's, momentum 0.9 in TensorFlow's sense, which is 0.1 in torch's.
    """

    def __init__(self, num_classes: int = 10, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(32, eps=1e-5, momentum=0.1) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.bn2 = nn.BatchNorm2d(64, eps=1e-5, momentum=0.1) if batch_norm else nn.Identity()
        self.fc1 = nn.Linear(64 * 7 * 7, 512)
        self.fc2 = nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×1×28×28 to N×classes."""
        x = self.bn1(functional.max_pool2d(functional.relu(self.conv1(x)), 2))
        x = self.bn2(functional.max_pool2d(functional.relu(self.conv2(x)), 2))
        x = functional.relu(self.fc1(x.flatten(1)))
        out: torch.Tensor = self.fc2(x)
        return out


def mnist_cnn(num_classes: int = 10) -> nn.Module:
    """The network without batch norm."""
    return MnistCnn(num_classes)


def mnist_cnn_bn(num_classes: int = 10) -> nn.Module:
    """The network with batch norm after each pool."""
    return MnistCnn(num_classes, batch_norm=True)
