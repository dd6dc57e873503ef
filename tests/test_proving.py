from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.pages import Outline

from robustkit import evaluate
from robustkit.attacks import FAB, forecast
from robustkit.certification import prover
from robustkit.certification.deterministic import Certifier, certify_rising
from robustkit.errors import InputError, ProofContradicted
from robustkit.evaluation import blocks, proving
from robustkit.reporting.evaluation import page
from robustkit.summary import summarise

LEVELS = ["1/50", "1/10", "1/5", "2/5"]
PGD = ["steps=20", "relative_step=1/4", "restarts=5"]


class Net(torch.nn.Module):
    """Some pixels of each class against the others': a margin that bounds follow exactly."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(0)
        self.first = torch.nn.Linear(16, 12)
        self.last = torch.nn.Linear(12, 3)
        with torch.no_grad():
            for layer in (self.first, self.last):
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=source) - 0.5)
                layer.bias.zero_()

    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1) - 0.5)))


@pytest.fixture(scope="module")
def arrays():
    images = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(1)).numpy()
    with torch.no_grad():
        labels = Net()(torch.from_numpy(images)).argmax(1).numpy()
    labels[::50] = (labels[::50] + 1) % 3
    return images, labels


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """However short the attack, its bounds pay."""
    monkeypatch.setattr(proving, "TRACING", 0.0)
    monkeypatch.setattr(proving, "SHARE", 1e9)
    monkeypatch.setattr(proving, "SLOW", 1e-3)


def ask(arrays, **options):
    settings = {"epsilon": LEVELS, "settings": PGD, "attack": "pgd"} | options
    return evaluate(settings.pop("model", Net()), arrays, **settings)


def passes(record):
    counts = record.table.select(["forward", "backward"]).to_pylist()
    return np.array([sum(row["forward"]) + sum(row["backward"]) for row in counts])


def levels(record):
    return [
        LEVELS.index(text) + 1 if text else 0 for text in record.table["certified_at"].to_pylist()
    ]


@pytest.mark.thorough
def test_images_are_proved_at_the_largest_budget_that_bounds_reach(arrays, monkeypatch):
    monkeypatch.setattr(proving, "_best", lambda prover, few, attack, most: most)
    found = ask(arrays)
    assert found.header["prove"] == {"asked": "auto", "on": True, "why": ""}
    x, y = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    rising = certify_rising(Net().eval(), x, y, "linf", [eval(level) for level in LEVELS])
    assert levels(found) == torch.stack([one.robust for one in rising]).sum(0).tolist()
    assert set(levels(found)) == {0, 1, 2}
    assert (found.certified_at < found.broken_at).all()
    certified = [point.accuracy.value for point in found.certified()]
    assert all(c <= p.accuracy.value for c, p in zip(certified, found.robust(), strict=True))
    assert [p["accuracy"] for p in summarise(found)["certified"]] == certified
    assert found.run["proof"]["multiplications"] > 0


def test_rows_are_the_same_with_and_without_proof_but_for_what_is_proved(arrays):
    scan = {"settings": [*PGD, "search=scan"]}
    proved, plain = ask(arrays, **scan), ask(arrays, prove="off", **scan)
    assert plain.header["prove"] == {"asked": "off", "on": False, "why": "not asked for"}
    assert plain.table["certified_at"].null_count == len(plain.table)
    assert plain.certified() == ()
    assert summarise(plain)["certified"] == []
    for name in ("fooled_at", "fooled_by", "distance", "fooled_as"):
        assert proved.table[name].equals(plain.table[name]), name
    assert proved.digest != plain.digest


@pytest.mark.thorough
def test_a_proved_image_is_not_attacked_but_for_a_drawn_few(arrays):
    one = {"epsilon": ["1/50"]}
    proved, plain = ask(arrays, **one), ask(arrays, prove="off", **one)
    certified = proved.certified_at > 0
    attacked = passes(proved) > 1
    pairs = int(certified.sum())
    assert pairs > 100
    assert (
        (attacked & certified).sum() == max(20, -(-pairs // 20)) == proved.run["proof"]["attacked"]
    )
    assert (passes(plain)[certified] > 100).all()
    # a drawn image costs what it does without proof, and its clean pass once more
    both = attacked & certified
    assert (passes(proved)[both] == passes(plain)[both] + 1).all()
    other = ask(arrays, seed=1, **one)
    assert not np.array_equal(passes(other) > 1, attacked)


def test_checks_of_proofs_are_part_of_the_bar(arrays, monkeypatch):
    monkeypatch.setattr(forecast, "OFTEN", 0.0)
    monkeypatch.setattr(forecast, "WORTH", 1e9)
    images, labels = arrays[0][1:50], arrays[1][1:50]  # all of them right
    told = []
    found = ask((images, labels), epsilon=["1/10000"], progress=lambda *at: told.append(at))
    assert (found.certified_at > 0).all()
    # nothing was attacked but those that were drawn
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert len({share for share in shares if 0 < share < 1}) > 5


@pytest.mark.parametrize(
    ("pairs", "before", "many"),
    [(0, 0, 0), (7, 0, 7), (300, 0, 20), (300, 300, 10), (10, 15, 5), (2000, 10, 91), (1, 2000, 1)],
)
def test_a_part_of_the_proved_pairs_is_attacked(pairs, before, many):
    assert proving.due(pairs, before) == many


def unsound(monkeypatch):
    """Bounds that prove whatever they are asked."""

    def run(self, images, labels, tried, epsilon, batch_size):
        found = original(self, images, labels, tried, epsilon, batch_size)
        return replace(found, robust=tried.clone(), by=("interval",) * len(images))

    original = Certifier.run
    monkeypatch.setattr(prover.Certifier, "run", run)


def test_an_unsound_bound_is_caught_and_nothing_is_kept(arrays, tmp_path, monkeypatch):
    unsound(monkeypatch)
    options = {"name": "net", "out": tmp_path}
    with pytest.raises(
        ProofContradicted, match=r"^image \d+ is proved robust at linf \S+, but was fooled there by"
    ):
        ask(arrays, **options)
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob("*.partial"))
    assert ProofContradicted.exit_status == 3
    assert ask(arrays, prove="off", **options).robust()


@pytest.mark.thorough
def test_an_unsound_bound_of_a_later_block_drops_the_earlier_ones(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 100)
    calls = []

    def progress(done, total):
        if done > 100 and not calls:  # within the second block, whose proofs are made
            calls.append(done)
            assert list(tmp_path.glob("*.partial/block-*.parquet"))
            unsound(monkeypatch)

    with pytest.raises(ProofContradicted, match="image 2"):
        ask(arrays, name="net", out=tmp_path, progress=progress)
    assert calls
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.thorough
def test_a_find_below_a_proved_budget_is_a_contradiction_wherever_it_was_made(arrays, monkeypatch):
    """Found on the way to a larger budget, at which the image is not proved."""
    monkeypatch.setattr(proving, "due", lambda pairs, before: 0)

    def run(self, images, labels, tried, epsilon, batch_size):
        found = original(self, images, labels, tried, epsilon, batch_size)
        proved = tried & (epsilon < 0.3)
        return replace(found, robust=proved, by=("interval",) * len(images))

    original = Certifier.run
    monkeypatch.setattr(prover.Certifier, "run", run)
    with pytest.raises(
        ProofContradicted, match=r"is proved robust at l2 0\.2, but was fooled there by fab"
    ):
        ask(arrays, attack=FAB(), epsilon=["0.2", "0.4"], settings=[], norm="l2")


@pytest.mark.thorough
def test_attacks_for_the_smallest_perturbation_find_it_whatever_is_proved(arrays):
    asked = {"attack": "ddn", "epsilon": ["0.01"], "settings": [], "norm": "l2"}
    found, plain = ask(arrays, **asked), ask(arrays, prove="off", **asked)
    assert found.header["prove"]["why"] == "its attack finds distances beyond the budgets, too"
    assert found.table["distance"].equals(plain.table["distance"])


@pytest.mark.thorough
def test_no_median_is_told_that_proofs_would_have_made_another(arrays):
    """FAB finds distances beyond its budgets, but none of an image that it did not attack."""
    few, told = (arrays[0][:60], arrays[1][:60]), []
    for epsilons in (["0.005"], ["0.02"], ["0.01", "0.04"], ["0.02", "0.1"]):
        one = {"attack": FAB(steps=10, targets=2), "settings": [], "epsilon": epsilons}
        found, plain = ask(few, **one), ask(few, prove="off", **one)
        assert found.proved
        known, truth = (summarise(record)["median_distance"] for record in (found, plain))
        assert truth is not None
        if known is not None and truth <= float(epsilons[-1]):
            assert 0.98 * truth < known <= float(epsilons[-1])  # as coarse as budgets may be
        elif known is not None:
            assert known == pytest.approx(truth, rel=0.02)
        text = Outline(page([found])).text
        assert ("is not known: images proved at ε = " in text) == (known is None)
        assert "no perturbation that fools the model was found" not in text
        told.append(known)
    assert None in told
    assert any(told)


@pytest.mark.thorough
def test_a_resumed_run_keeps_what_was_proved(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 100)
    whole = ask(arrays, name="net", out=tmp_path / "a")

    original = prover.Prover.prove

    def interrupted(*a):
        if len(list((tmp_path / "b").glob("*.partial/block-*.parquet"))) == 2:
            raise KeyboardInterrupt
        return original(*a)

    with monkeypatch.context() as patch:
        patch.setattr(prover.Prover, "prove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(arrays, name="net", out=tmp_path / "b")
    tried = []
    monkeypatch.setattr(prover.Prover, "prove", lambda *a: tried.append(len(a[1])) or original(*a))
    resumed = ask(arrays, name="net", out=tmp_path / "b")
    assert tried == [100]  # nothing is tried out again, and two blocks are as they were
    assert resumed.rows_digest == whole.rows_digest
    assert resumed.run["proof"]["attacked"] == whole.run["proof"]["attacked"]


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + 0.01 * torch.randn(len(x), 3)


class Unreadable(Net):
    def forward(self, x):
        return super().forward(x).cumsum(1)


@pytest.mark.one_of_many(3)
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"model": Noisy()}, "it draws at random"),
        ({"model": Unreadable()}, "it has no bounds: no bounds for aten.cumsum"),
        ({"image_by_image": True}, "its images never share a batch"),
        ({"attack": "clean", "epsilon": (), "settings": ()}, "nothing is attacked"),
    ],
)
def test_what_cannot_be_proved_is_attacked_and_the_record_says_why(arrays, options, why):
    found = ask((arrays[0][:30], arrays[1][:30]), **options)
    assert found.header["prove"]["on"] is False
    assert found.header["prove"]["why"].startswith(why)
    assert found.table["certified_at"].null_count == 30


@pytest.mark.thorough
def test_bounds_that_are_too_dear_or_prove_nothing_are_left_out(arrays, monkeypatch):
    few = (arrays[0][:60], arrays[1][:60])
    found = ask(few, epsilon=["9/10"])
    assert found.header["prove"]["why"].startswith("bounds prove too little of the first 8")
    monkeypatch.setattr(proving, "SHARE", 1e-9)
    assert ask(few).header["prove"]["why"] == "bounds would take too long beside the attack"
    monkeypatch.setattr(proving, "TRACING", 1e30)
    assert "takes less time than" in ask(few).header["prove"]["why"]


@pytest.mark.thorough
def test_a_targeted_attack_is_spared_what_holds_for_all_classes(arrays):
    proved, plain = (ask(arrays, target="next", prove=prove) for prove in ("auto", "off"))
    assert proved.proved
    assert proved.table["fooled_at"].equals(plain.table["fooled_at"])


def test_another_word_is_refused(arrays):
    with pytest.raises(InputError, match="prove 'on': expected auto or off"):
        ask(arrays, prove="on")
