"""Broken defences: small modules around a trained network that only seem to make it robust."""

import math

import torch
from torch import Tensor, nn


class Before(nn.Module):
    """Something done to the pixels, then the network."""

    def __init__(self, defence: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.defence, self.network = defence, network
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.defence(x))


class After(Before):
    """The network, then something done to its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.defence(self.network(x))


class Detached(nn.Module):
    """No graph at all."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Rounded(nn.Module):
    """Gradients that are zero everywhere: rounding to `levels` grey values."""

    def __init__(self, levels: int = 8) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.levels).round() / self.levels


class RoundedInline(nn.Module):
    """The same inside `forward`, by way of integers, so that no submodule can be bypassed."""

    def __init__(self, network: nn.Module, levels: int = 8) -> None:
        super().__init__()
        self.network, self.levels = network, levels
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        grey = (x * 255).round().to(torch.uint8)
        step = 256 // self.levels
        return self.network((grey // step * step).float() / 255 + step / 512)


class Jpeg(nn.Module):
    """Discrete cosine transform of tiles, quantised: JPEG's lossy part, without a gradient."""

    def __init__(self, step: float = 0.5, side: int = 4) -> None:
        super().__init__()
        k, n = torch.arange(side)[:, None], torch.arange(side)[None]
        basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * side)) * math.sqrt(2 / side)
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis)
        self.step, self.side = step, side

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.side
        tiles = x.view(n, c, h // s, s, w // s, s).transpose(3, 4)
        coefficients = self.basis @ tiles @ self.basis.T
        coefficients = torch.round(coefficients / self.step) * self.step
        tiles = self.basis.T @ coefficients @ self.basis
        return tiles.transpose(3, 4).reshape(n, c, h, w).clamp(0, 1)


class Scaled(nn.Module):
    """Logits so large that float32 softmax is a step."""

    def __init__(self, factor: float = 1e5) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.factor


class Noisy(nn.Module):
    """Noise at inference, from the global generator."""

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class Resized(nn.Module):
    """Random resizing and padding (Xie et al. 2018)."""

    def __init__(self, smallest: int = 20) -> None:
        super().__init__()
        self.smallest = smallest

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        new = int(torch.randint(self.smallest, side + 1, ()))
        left, top = (int(torch.randint(0, side - new + 1, ())) for _ in range(2))
        small = nn.functional.interpolate(x, size=(new, new), mode="bilinear", antialias=True)
        return nn.functional.pad(small, (left, side - new - left, top, side - new - top))


class WinnersTakeAll(nn.Module):
    """Only the largest share of each image's values pass (Xiao et al. 2020): shattered gradients."""

    def __init__(self, keep: float = 0.3) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.keep * flat.shape[1])), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(x)


class WinnersLeNet(nn.Module):
    """LeNet-5 with winners-take-all in the place of every ReLU."""

    def __init__(self, lenet: nn.Module, keep: float = 0.1) -> None:
        super().__init__()
        self.lenet, self.winners = lenet, WinnersTakeAll(keep)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        net, pool = self.lenet, nn.functional.max_pool2d
        x = pool(self.winners(net.conv1(x)), 2)
        x = pool(self.winners(net.conv2(x)), 2)
        return net.fc3(self.winners(net.fc2(self.winners(net.fc1(x.flatten(1))))))


class Shattered(nn.Module):
    """A fine sawtooth on every pixel: tiny in value, and its slope outweighs the image's own."""

    def __init__(self, height: float = 0.01, teeth: float = 400.0) -> None:
        super().__init__()
        self.height, self.teeth = height, teeth

    def forward(self, x: Tensor) -> Tensor:
        return x + self.height * torch.sin(self.teeth * x)


class BatchNormalised(nn.Module):
    """Pixels centred by the mean of the batch: an image's class depends on those beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * 0.31 + 0.13


class NotANumber(nn.Module):
    """The identity, whose gradient is 0 · ∞ wherever a pixel is exactly 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt() ** 2


class Climbing(nn.Module):
    """Moves its input towards its own first guess before it classifies."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.network(at).amax(1).sum(), at)
        return self.network((x + 0.05 * gradient.sign()).clamp(0, 1))
