"""Train the networks that the benchmarks and the shipped example attack.

    python tests/benchmarks/networks.py OUT.safetensors --data mnist5k --model lenet5
    python tests/benchmarks/networks.py OUT.safetensors --data mnist --data-root DIR --robust 0.3
    python tests/benchmarks/networks.py OUT.safetensors --data mnist --data-root DIR \\
        --model tests/benchmarks/networks.py:small --certified 0.3 --epochs 20

Plain cross-entropy with Adam; Madry et al.'s adversarial training: PGD on the Linf ball; or certified
training by interval bounds (Gowal et al. 2018). The radius grows over the first third, of certified
training over the first half, so that training does not stall. Same command, same machine, same
weights.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear
from torchvision.models.resnet import BasicBlock, ResNet

from robustkit import data, models
from robustkit.checkpoint import save_checkpoint
from robustkit.data import load_dataset


def perturb(model: torch.nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """PGD with 7 steps of ε/4 from a random start, as in training by Madry et al. 2018."""
    x = (images + (torch.rand_like(images) * 2 - 1) * epsilon).clamp(0, 1)
    for _ in range(7):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(x), labels), x)
        x = x.detach() + epsilon / 4 * gradient.sign()
        x = torch.minimum(torch.maximum(x, images - epsilon), images + epsilon).clamp(0, 1)
    return x.detach()


def small(num_classes: int = 10) -> nn.Module:
    """The small network of Wong and Kolter 2018, for 1×28×28: a chain that bounds pass easily."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def narrow(num_classes: int = 10) -> nn.Module:
    """A ResNet-18 of width 16 for 3×32×32: torchvision's blocks behind a 3×3 stem."""
    net = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
    net.inplanes = 16
    net.conv1, net.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
    net.maxpool, net.fc = nn.Identity(), nn.Linear(128, num_classes)
    net.layer1 = net._make_layer(BasicBlock, 16, 2)
    net.layer2 = net._make_layer(BasicBlock, 32, 2, stride=2)
    net.layer3 = net._make_layer(BasicBlock, 64, 2, stride=2)
    net.layer4 = net._make_layer(BasicBlock, 128, 2, stride=2)
    return net


def certified_loss(
    model: nn.Module, images: Tensor, labels: Tensor, epsilon: float, share: float
) -> Tensor:
    """Cross-entropy of the clean logits, and a `share` of that of the worst ones by intervals."""
    low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
    x, radius = torch.cat([images, (low + high) / 2]), (high - low) / 2
    for part in model:
        if isinstance(part, nn.ReLU):
            clean, middle = x.chunk(2)
            low, high = (middle - radius).relu(), (middle + radius).relu()
            x, radius = torch.cat([clean.relu(), (low + high) / 2]), (high - low) / 2
        elif isinstance(part, nn.Conv2d):
            x, radius = part(x), conv2d(radius, part.weight.abs(), None, part.stride, part.padding)
        elif isinstance(part, nn.Linear):
            x, radius = part(x), linear(radius, part.weight.abs())
        else:
            x, radius = part(x), part(radius)
    clean, middle = x.chunk(2)
    own = torch.zeros_like(radius).scatter(1, labels[:, None], 1.0)
    worst = middle + radius * (1 - 2 * own)
    return (1 - share) * cross_entropy(clean, labels) + share * cross_entropy(worst, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--robust", type=float, default=0.0, help="radius of adversarial training")
    parser.add_argument("--certified", type=float, default=0.0, help="radius of interval bounds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    train = load_dataset(options.data, split="train", root=options.data_root)
    test = load_dataset(options.data, split="test", root=options.data_root)
    images, labels = torch.from_numpy(train.images(0, len(train))), torch.from_numpy(train.labels)
    model = models.build(options.model)
    batches = len(images) // 128
    total = options.epochs * batches
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total)
    for epoch in range(options.epochs):
        order = torch.randperm(len(images))[: batches * 128].view(batches, 128)
        for step, rows in enumerate(order, epoch * batches):
            x, y = images[rows], labels[rows]
            if options.robust:
                radius = options.robust * min(1.0, 3 * (step + 1) / total)
                x = perturb(model, x, y, radius)
            optimizer.zero_grad()
            if options.certified:
                grown = min(1.0, 2 * (step + 1) / total)
                loss = certified_loss(model, x, y, options.certified * grown, grown / 2)
            else:
                loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy = evaluate(model, test)
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.4f}", flush=True)
        save_checkpoint(
            options.out,
            model,
            model=options.model,
            trained_on=options.data,
            loss=_loss(options),
            label_noise=0.0,
            data_fraction=1.0,
            seed=options.seed,
            recorded_accuracy=accuracy,
            epochs=epoch + 1,
            **({"adversarial_radius": options.robust} if options.robust else {}),
        )


def _loss(options: argparse.Namespace) -> str:
    if options.certified:
        return "interval bounds"
    return "adversarial" if options.robust else "cross-entropy"


def evaluate(model: torch.nn.Module, test: data.Dataset) -> float:
    with torch.no_grad():
        predicted = [
            model(torch.from_numpy(test.images(i, min(i + 1000, len(test))))).argmax(1)
            for i in range(0, len(test), 1000)
        ]
    return float((torch.cat(predicted) == torch.from_numpy(test.labels)).double().mean())


if __name__ == "__main__":
    main()
