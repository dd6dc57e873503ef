"""Attacks that change few pixels or features, against what is known by sorting."""

import pytest
import torch
from helpers.attacked import make, right
from torch import Tensor

from robustkit import protocol as protocols
from robustkit.attacks import attack_block
from robustkit.attacks.library import foolbox, foolbox_model
from robustkit.attacks.sigma_zero import SigmaZeroAttack
from robustkit.attacks.sparse_rs import SparseSearch
from robustkit.errors import InputError, ProtocolError
from robustkit.geometry import distance

SIGMA_ZERO = {"kind": "sigma-zero", "steps": 20}
SPARSE_RS = {"kind": "sparse-rs", "queries": 150}
SPARSE_PGD = {"kind": "sparse-pgd", "steps": 60}
SPARSE = ["l0", "l0-features"]


class Linear(torch.nn.Module):
    """Three classes of random weights on colour images: the fewest entries are found by sorting."""

    def __init__(self, side: int = 6) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(2)
        self.w = torch.randn(3, 3 * side**2, generator=source).double()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        # summed row by row: a matrix product may round differently in batches of different size
        return torch.stack([((x.flatten(1).double() - 0.5) * w).sum(1) for w in self.w], 1)

    def leaning(self, n: int, side: int = 6) -> Tensor:
        """Colour images that lean to one class each, by more than a pixel or two can undo."""
        noise = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(4))
        lean = self.w[torch.arange(n) % 3].view(n, 3, side, side).sign().float()
        return 0.35 + 0.3 * noise + 0.2 * lean * torch.linspace(0, 1, n).view(n, 1, 1, 1)

    def fewest(self, x: Tensor, norm: str) -> Tensor:
        """How many entries must go to a corner of the box for another class to win, N."""
        logits = self(x)
        own = logits.argmax(1)
        every = []
        for target in range(3):
            slope = self.w[target] - self.w[own]
            gain = slope * torch.where(slope > 0, 1 - x.flatten(1), -x.flatten(1))
            if norm == "l0":
                gain = gain.view(len(x), 3, -1).sum(1)
            gap = logits.gather(1, own[:, None])[:, 0] - logits[:, target]
            reached = gain.sort(dim=1, descending=True).values.cumsum(1)
            count = 1 + (reached < gap[:, None]).sum(1)
            every.append(torch.where(own == target, 10**6, count))
        return torch.stack(every).amin(0)


@pytest.mark.parametrize("norm", SPARSE)
def test_sigma_zero_finds_the_fewest_entries_of_a_linear_model(norm):
    model = Linear()
    x = model.leaning(60)
    found = attack_block(model, right(model, x), make(norm, SIGMA_ZERO, epsilon=["3"]), 32)
    fewest = model.fewest(x, norm)
    assert torch.equal(found.distance.long(), fewest)
    assert fewest.max() > 3
    changed = found.perturbed != x
    if norm == "l0":
        changed = changed.any(1)
    assert torch.equal(changed.flatten(1).sum(1), fewest)


@pytest.mark.one_of_many
@pytest.mark.parametrize("norm", SPARSE)
def test_sparse_rs_finds_what_few_entries_can_do_to_a_linear_model(norm):
    model = Linear()
    x = model.leaning(30)
    fewest = model.fewest(x, norm)
    epsilons = ["1", "2", "4", "8", "16"]
    found = attack_block(model, right(model, x), make(norm, SPARSE_RS, epsilon=epsilons), 16)
    assert (found.distance >= fewest).all()
    for k in (2, 4, 8):  # twice the fewest entries do, whatever the draw
        assert (found.distance[fewest <= k] <= 2 * k).double().mean() >= 0.9
    assert found.passes.backward.sum() == 0


@pytest.mark.one_of_many
@pytest.mark.parametrize("norm", SPARSE)
def test_sparse_pgd_comes_close_to_the_fewest_entries_of_a_linear_model(norm):
    model = Linear()
    x = model.leaning(30)
    fewest = model.fewest(x, norm)
    epsilons = [str(k) for k in range(1, 2 * int(fewest.max()))]
    attack = make(norm, SPARSE_PGD, epsilon=epsilons)
    found = attack_block(model, right(model, x), attack, 30)
    assert (found.distance >= fewest).all()
    assert (found.distance / fewest).median() <= 1.1
    assert (found.distance / fewest).max() <= 2


@pytest.mark.one_of_many
@pytest.mark.parametrize("kind", [SIGMA_ZERO, SPARSE_RS, SPARSE_PGD], ids=lambda a: a["kind"])
def test_few_pixels_change_what_few_features_cannot_and_company_changes_nothing(kind):
    model = Linear()
    x = model.leaning(8)
    rows = right(model, x)
    pixels = attack_block(model, rows, make("l0", kind, epsilon=["3"]), 8)
    features = attack_block(model, rows, make("l0-features", kind, epsilon=["3"]), 8)
    assert pixels.distance.isfinite().sum() > 0
    assert (pixels.distance <= features.distance).double().mean() >= 0.8
    alone = attack_block(model, rows, make("l0", kind, epsilon=["3"]), 1)
    assert torch.equal(alone.distance, pixels.distance)


@pytest.mark.parametrize("norm", SPARSE)
def test_sigma_zero_comes_close_by_its_own_steps(norm, monkeypatch):
    monkeypatch.setattr(SigmaZeroAttack, "_choose_steepest", lambda *_: None)
    model = Linear()
    x = model.leaning(40)
    attack = SIGMA_ZERO | {"steps": 150}
    found = attack_block(model, right(model, x), make(norm, attack, epsilon=["3"]), 40)
    ratio = found.distance / model.fewest(x, norm)
    assert ratio.min() >= 1
    assert ratio.median() <= 1.25
    assert ratio.max() <= 3


def test_sparse_rs_moves_ever_fewer_entries_and_never_to_their_own_colour():
    attack = SparseSearch("l0", queries=100, alpha_init=0.5)
    model = Linear()
    x = model.leaning(8).round()  # every colour is a corner, too
    seen = []
    watched = foolbox_model(model, x.device)
    real, attack.advance = (
        attack.advance,
        lambda state, *rest: (
            real(state, *rest),
            seen.append((state.x.clone(), state.buffers.best.clone())),
        ),
    )
    attack.run(watched, x, foolbox.TargetedMisclassification(torch.full((8,), 1)), epsilon=20)
    assert all((distance(x, new, "l0") == 20).all() for new, _ in seen)
    moved = [float(distance(best, new, "l0").max()) for new, best in seen]
    assert moved[0] > moved[-1] == 2


@pytest.mark.parametrize(
    ("norm", "text", "said"),
    [
        ("l0", "0.5", "counts pixels; give a whole number"),
        ("l0-features", "8/255", "counts values; give a whole number"),
        ("linf", "3px", "3px is a rotation and translation, no linf budget"),
        ("l0", "30deg3px", "write 30deg\\+3px, 30deg or 3px, not '30deg3px'"),
        ("l0", "1/0px", "expected a number"),
        ("l0", "0px", "must be above 0"),
    ],
)
def test_a_budget_speaks_the_words_of_its_norm(norm, text, said):
    attack = {"kind": "fgsm"} if norm == "linf" else SIGMA_ZERO
    with pytest.raises(ProtocolError, match=said):
        make(norm, attack, epsilon=[text])


def test_there_are_no_bounds_of_few_pixels():
    with pytest.raises(InputError, match="bounds are known in linf, l2, l1 only"):
        protocols.check_bounded("l0")
    with pytest.raises(
        ProtocolError, match="sigma-zero: has no linf version, only l0, l0-features"
    ):
        make("linf", SIGMA_ZERO)
    with pytest.raises(ProtocolError, match="pgd: has no l0 version, only linf, l2, l1"):
        protocols.load_protocol("pgd", norm="l0")
