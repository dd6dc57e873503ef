"""Train the networks that the benchmarks and the shipped example attack.

    python tests/benchmarks/networks.py OUT.safetensors --data mnist5k --model lenet5
    python tests/benchmarks/networks.py OUT.safetensors --data mnist --data-root DIR --robust 0.3

Plain cross-entropy with Adam, or Madry et al.'s adversarial training: PGD on the Linf ball, whose
radius grows over the first third so that training does not stall. Same command, same machine, same
weights.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--robust", type=float, default=0.0, help="radius of adversarial training")
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
            cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
        accuracy = evaluate(model, test)
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.4f}", flush=True)
        save_checkpoint(
            options.out,
            model,
            model=options.model,
            trained_on=options.data,
            loss="adversarial" if options.robust else "cross-entropy",
            label_noise=0.0,
            data_fraction=1.0,
            seed=options.seed,
            recorded_accuracy=accuracy,
            epochs=epoch + 1,
            **({"adversarial_radius": options.robust} if options.robust else {}),
        )


def evaluate(model: torch.nn.Module, test: data.Dataset) -> float:
    with torch.no_grad():
        predicted = [
            model(torch.from_numpy(test.images(i, min(i + 1000, len(test))))).argmax(1)
            for i in range(0, len(test), 1000)
        ]
    return float((torch.cat(predicted) == torch.from_numpy(test.labels)).double().mean())


if __name__ == "__main__":
    main()
