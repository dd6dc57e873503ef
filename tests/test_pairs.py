"""Pairs of pictures: read from a list, compared by features, the second one attacked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.crews import TakingTurns
from helpers.elsewhere import elsewhere
from helpers.travel import load_dataset
from PIL import Image

import robustkit
from robustkit.data.classes import WantedClasses
from robustkit.errors import DataError, InputError
from robustkit.evaluation import blocks, spreading
from robustkit.evaluation.similarity import best_threshold, verification

FOLDS, EACH, SIDE = 3, 6, 8


class Features(torch.nn.Module):
    """Colours and edges of a picture, N × 12."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(5)
        self.w = torch.nn.Parameter(torch.randn(12, 3, 4, 4, generator=source))

    def forward(self, x):
        found = torch.nn.functional.conv2d(x - 0.5, self.w, stride=4)
        return found.tanh().flatten(2).mean(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """People of one drawn pattern each, seen through noise."""
    root, draw = tmp_path_factory.mktemp("lfw"), np.random.default_rng(0)
    people = [f"Person_{i}" for i in range(8)]
    for name in people:
        face = draw.integers(60, 196, (SIDE, SIDE, 3))
        (root / "lfw_funneled" / name).mkdir(parents=True)
        for number in range(1, 5):
            seen = (face + draw.integers(-55, 56, face.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(seen).save(root / "lfw_funneled" / name / f"{name}_{number:04d}.png")
    lines = [f"{FOLDS}\t{EACH}"]
    for _ in range(FOLDS):
        for _ in range(EACH):
            i, j = draw.choice(4, 2, replace=False) + 1
            lines.append(f"{draw.choice(people)}\t{i}\t{j}")
        for _ in range(EACH):
            one, other = draw.choice(people, 2, replace=False)
            lines.append(f"{one}\t{draw.integers(1, 5)}\t{other}\t{draw.integers(1, 5)}")
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def pairs(folder):
    return load_dataset("lfw-pairs", root=folder)


def test_a_pair_is_both_pictures_and_its_fold(folder, pairs):
    stacks = pairs.images(0, len(pairs))
    assert stacks.shape == (2 * FOLDS * EACH, 7, SIDE, SIDE)
    assert pairs.fixed_channels == 4
    assert pairs.classes == ("different", "same")
    listed = [line.split() for line in (folder / "pairs.txt").read_text().splitlines()[1:]]
    expected = []
    for row, line in enumerate(listed):
        one, i, other, j = line if len(line) == 4 else (line[0], line[1], line[0], line[2])
        pictures = [
            np.asarray(Image.open(folder / "lfw_funneled" / n / f"{n}_{int(k):04d}.png"))
            for n, k in ((one, i), (other, j))
        ]
        fold = np.full((SIDE, SIDE, 1), row // (2 * EACH), np.uint8)
        stack = np.concatenate([pictures[0], fold, pictures[1]], 2).transpose(2, 0, 1)
        expected.append((stack.tobytes(), int(len(line) == 3)))
    made = [((s * 255).round().astype(np.uint8).tobytes()) for s in stacks]
    assert sorted(zip(made, pairs.labels.tolist(), strict=True)) == sorted(expected)
    # the first are a sample of all folds, half of them of one person
    first = stacks[: 2 * FOLDS]
    assert sorted((first[:, 3, 0, 0] * 255).round().tolist()) == [0, 0, 1, 1, 2, 2]
    assert pairs.labels[: 2 * FOLDS].mean() == 0.5
    assert load_dataset(str(folder)).digest == pairs.digest


def accuracy(network, stacks, labels):
    """By the definition: of each fold, with the threshold that is best on the others."""
    x = torch.from_numpy(stacks)
    with torch.no_grad():
        one, other = network(x[:, :3]), network(x[:, 4:])
    similar = torch.nn.functional.cosine_similarity(one, other).numpy()
    fold = (stacks[:, 3, 0, 0] * 255).round()
    right = []
    for k in range(FOLDS):
        tried = np.unique(similar[fold != k])
        edges = [-2, *((tried[1:] + tried[:-1]) / 2), 2]
        scores = [((similar[fold != k] > t) == labels[fold != k]).mean() for t in edges]
        threshold = edges[int(np.argmax(scores))]
        right += ((similar[fold == k] > threshold) == labels[fold == k]).tolist()
    return np.mean(right)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    ("attack", "norm", "epsilon"),
    [
        (robustkit.attacks.PGD(steps=8), "linf", "0.05"),
        (robustkit.attacks.APGD(steps=12), "l1", "3"),
        (robustkit.attacks.Square(queries=60), "l2", "1"),
        (robustkit.attacks.DDN(steps=15), "l2", "1"),
        (robustkit.attacks.SigmaZero(steps=15), "l0", "6"),
        (robustkit.attacks.FAB(steps=6), "l2", "1"),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if not isinstance(value, str) else value,
)
def test_the_second_picture_of_a_pair_is_attacked_and_the_first_stays(
    pairs, tmp_path, attack, norm, epsilon
):
    network, file = Features(), tmp_path / "adversarial.npz"
    options = {"save_adversarial": file, "batch_size": 7}
    found = robustkit.evaluate(
        network, pairs, attack, norm=norm, epsilon=epsilon, name="n", out=tmp_path, **options
    )
    stacks = pairs.images(0, len(pairs))
    assert found.clean().value == pytest.approx(accuracy(network, stacks, pairs.labels))
    assert found.clean().value > 0.6
    assert found.robust()[0].accuracy.value < found.clean().value
    with np.load(file) as kept:
        perturbed, distance = kept["images"], kept["distance"]
    fooled = np.isfinite(distance) & (distance > 0)
    assert fooled.any()
    assert np.array_equal(perturbed[:, :4], stacks[:, :4])
    assert (perturbed[fooled, 4:] != stacks[fooled, 4:]).any((1, 2, 3)).all()
    assert found.examples[0].perturbed.shape == (3, SIDE, SIDE)
    assert "cosine similarity" in found.header["checkpoint"]["verification"]


@pytest.mark.thorough
def test_pairs_on_any_device_and_by_several_workers_have_the_same_rows(pairs, monkeypatch):
    def attacked(device):
        return robustkit.evaluate(
            Features(), pairs, "fgsm", epsilon="0.1", device=device, prove="off"
        )

    monkeypatch.setattr(blocks, "block_size", lambda data, device: 12)
    monkeypatch.setattr(spreading, "Processes", crew := TakingTurns([1]))
    here = attacked("cpu")
    with elsewhere() as there:
        away = attacked(f"{there},{there}")
    assert len(crew.benches) == 2
    assert away.rows_digest == here.rows_digest


@pytest.mark.thorough
def test_the_shipped_network_compares_grey_pairs_by_its_outputs(folder, tmp_path):
    found = robustkit.evaluate(
        "lenet5-mnist5k", str(folder), "fgsm", epsilon="0.3", out=tmp_path, resize=28, channels=1
    )
    assert found.header["data"]["shape"] == [3, 28, 28]
    assert len(found.rows) == 2 * FOLDS * EACH


def test_the_best_threshold_is_the_best_of_all():
    draw = np.random.default_rng(3)
    for _ in range(50):
        similar = torch.from_numpy(draw.integers(0, 8, 12) / 8)
        same = torch.from_numpy(draw.random(12) < 0.5)
        found = best_threshold(similar, same)
        right = [((similar > t) == same).sum() for t in np.linspace(-0.1, 1.1, 200)]
        assert ((similar > found) == same).sum() == max(right)


class NoisyFeatures(Features):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


def test_features_that_draw_have_the_same_thresholds_each_time(pairs):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(verification(NoisyFeatures(), pairs, torch.device("cpu")).thresholds)
        follows = torch.rand(3)
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(3), follows), "the generator is where it was"
    assert torch.equal(*found)


def test_what_pairs_are_not_for_is_refused_in_one_line(folder, pairs, tmp_path):
    out = {"out": tmp_path, "epsilon": "3px"}
    with pytest.raises(InputError, match="spatial-grid: would transform both pictures"):
        robustkit.evaluate(Features(), pairs, "spatial", norm="spatial", **out)
    with pytest.raises(InputError, match="pairs of images, which no bounds are of"):
        robustkit.certify(Features(), pairs, "0.1", out=tmp_path)
    with pytest.raises(DataError, match="pairs of images, which no training is on"):
        robustkit.train(data=pairs, model="lenet5", loss="cross-entropy", out=tmp_path / "n.pt")
    one = load_dataset("lfw-pairs", root=folder, limit=1)
    with pytest.raises(DataError, match="all pairs are of one fold"):
        robustkit.evaluate(Features(), one, "fgsm", epsilon="0.1", out=tmp_path)
    with pytest.raises(DataError, match=r"give the folder of pairs\.txt with --data-root"):
        load_dataset("lfw-pairs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line must give"),
        ("1 1\nPerson_0 1 2", "1 pairs, but the first line announces 1 folds of 2 × 1"),
        ("1 1\nPerson_0 1 2\nPerson_0 1 ../x 2", "line 3: expected NAME 1 2 or NAME 1 NAME 2"),
        ("1 1\nPerson_0 1 2\nPerson_0 1 Person_1", "line 3: expected NAME 1 2"),
        ("1 1\nPerson_0 1 2\nPerson_0 1 Person_1 99", "Person_1_0099.jpg is missing"),
        ("1 1\nNobody 1 2\nPerson_0 1 Person_1 2", "no folder of 'Nobody'"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(folder, tmp_path, text, said):
    (tmp_path / "pairs.txt").write_text(text)
    (tmp_path / "lfw_funneled").symlink_to(folder / "lfw_funneled")
    with pytest.raises(DataError, match=said):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("split", ["train", "test_fold3", "10_folds"])
def test_pairs_have_no_splits(folder, split):
    for name, root in (("lfw-pairs", folder), (str(folder), None)):
        with pytest.raises(
            DataError, match=f"no split '{split}'; the list of pairs is not .*; give --split all"
        ):
            load_dataset(name, split=split, root=root)


def test_pairs_are_of_no_networks_classes(folder, pairs):
    assert load_dataset("lfw-pairs", split="all", root=folder).digest == pairs.digest
    wanted = WantedClasses(names=("a", "b", "c"), count=3)
    assert load_dataset("lfw-pairs", root=folder, classes=wanted).digest == pairs.digest
    for name, root in (("lfw-pairs", folder), (str(folder), None)):
        for classes in ("1,0", replace(wanted, given="number")):
            with pytest.raises(DataError, match=r"--classes .*pairs"):
                load_dataset(name, root=root, classes=classes)
