"""The share of the time that is told while a block is attacked."""

from bisect import bisect_right
from itertools import count

import pytest
import torch
from helpers.attacked import Linear, Small, images, make, right
from helpers.defences import Climbing

from robustkit.attacks import Experience, attack_block
from robustkit.attacks.forecast import BlockForecast, Standing
from robustkit.attacks.queue import Task
from robustkit.attacks.search import Attempt

PGD = {"kind": "pgd", "steps": 20, "relative_step": "1/8", "restarts": 3}
FEW_STEPS = PGD | {"steps": 4, "restarts": 1}
MARGIN = PGD | {"loss": "margin"}
LEVELS = [f"{k}/200" for k in range(1, 9)]


class Timed(Linear):
    """A network on a clock of its own: each pass takes as long, and each image in it, too."""

    def __init__(self, each_pass: float, each_image: float, back: float = 0.0) -> None:
        super().__init__()
        self.now = 0.0
        self.costs = each_pass, each_image
        self.back = back

    def forward(self, x):
        each_pass, each_image = self.costs
        self.now += each_pass + each_image * len(x)
        logits = super().forward(x)
        if logits.requires_grad:
            logits.register_hook(self._pass_back)
        return logits

    def _pass_back(self, gradient):
        self.now += self.back * len(gradient)


def largest_difference(told, whole):
    """Between the share that was told last and the share that is gone, from the first tenth on."""
    times = [at for at, _ in told]
    gone = [k / 100 for k in range(10, 100)]
    shown = [told[bisect_right(times, share * whole) - 1][1] for share in gone]
    return max(abs(a - b) for a, b in zip(gone, shown, strict=True))


@pytest.fixture
def attacked(monkeypatch):
    """Attack images: how far what is told is from what is gone, at most."""
    monkeypatch.setattr("robustkit.attacks.forecast.OFTEN", 0.5)

    def run(
        attacks,
        costs=(0.05, 0.005),
        order="bisect",
        experience=None,
        seed=1,
        back=0.0,
        size=32,
        levels=LEVELS,
    ):
        model = Timed(*costs, back)
        for module in ("forecast", "engine"):
            monkeypatch.setattr(f"robustkit.attacks.{module}.perf_counter", lambda: model.now)
        own, told = right(model, images(96, seed=seed)), [(0.0, 0.0)]
        own.images[::2] = own.images[::2] * 0.2 + 0.4  # weaker ones
        protocol = make("linf", *attacks, epsilon=levels, search=order)
        model.now = 0.0
        attack_block(
            model, own, protocol, size, lambda s: told.append((model.now, s)), experience=experience
        )
        assert told[-1] == (model.now, 1.0)
        assert [share for _, share in told] == sorted(share for _, share in told)
        return largest_difference(told, model.now)

    return run


@pytest.mark.one_of_many
@pytest.mark.parametrize(
    ("costs", "order"),
    [
        ((0.0, 0.01), "bisect"),
        ((0.03, 0.007), "scan"),
        pytest.param((0.0, 0.01), "scan", marks=pytest.mark.slow),
        pytest.param((0.03, 0.007), "bisect", marks=pytest.mark.slow),
    ],
)
def test_the_share_told_is_the_share_of_the_time_gone(costs, order, attacked):
    assert attacked([PGD], costs, order) < 0.2


@pytest.mark.thorough
def test_attacks_that_find_little_more_are_foreseen(attacked):
    assert attacked([PGD, MARGIN]) < 0.2


@pytest.mark.thorough
@pytest.mark.parametrize("back", [0.002, 0.04])
def test_steps_without_a_pass_back_are_foreseen_whatever_one_takes(back, attacked):
    square = {"kind": "square", "queries": 1200}
    assert attacked([PGD, square], (0.0, 0.01), back=back) < 0.08


@pytest.mark.parametrize("attacks", [[], [FEW_STEPS], [{"kind": "fgsm"}, FEW_STEPS]])
def test_few_slow_passes_are_told_from_the_clean_pass_on(attacks, attacked):
    # most images withstand so small a budget, and none is known to before the last of some passes
    levels = ["1/25500"] if attacks else []
    assert attacked(attacks, (0.0, 0.07), back=0.09, size=8, levels=levels) < 0.1


def test_a_network_that_takes_gradients_inside_its_pass_is_timed_as_any_other():
    square = {"kind": "square", "queries": 5}  # its passes are foretold by those of the clean pass
    network = Climbing(Small())
    block = right(network, images(8, side=8))
    before = block.images.clone()
    found = attack_block(network, block, make("linf", {"kind": "fgsm"}, square, epsilon=LEVELS), 8)
    assert int(found.passes.forward.sum()) > 8
    assert torch.equal(block.images, before)


@pytest.mark.thorough
def test_other_blocks_are_an_experience(attacked):
    experience = Experience()
    attacked([PGD, MARGIN], experience=experience)
    assert attacked([PGD, MARGIN], experience=experience, seed=2) < 0.15


def test_forecasts_take_a_small_share_of_the_time(monkeypatch):
    clock = count(step=0.05)
    monkeypatch.setattr("robustkit.attacks.forecast.perf_counter", lambda: next(clock))
    forecast = BlockForecast(make("linf", PGD), 32, Experience(), lambda share: None)
    forecast.looked(10, 32, 32, 0)
    forecast.begin(0, [range(1)] * 32)
    begun = next(clock)
    while not forecast.due:
        pass
    # a look at the clock takes 0.05 s here, and so a forecast as much at least
    assert next(clock) - begun > 4


def test_quick_successes_do_not_promise_that_all_others_succeed(monkeypatch):
    clock = count(step=0.001)
    monkeypatch.setattr("robustkit.attacks.forecast.perf_counter", lambda: next(clock))
    experience, told = Experience(), []
    forecast = BlockForecast(make("linf", PGD), 128, experience, told.append)
    forecast.looked(10, 128, 128, 0)
    forecast.begin(0, [range(1)] * 128)
    first = Task(0, 0, Attempt(0, 0, 0))
    # half of 128 were fooled at step 6, all others are at step 10 of 20
    for _ in range(64):
        forecast.ended(first, 6, hit=True)
    forecast.passed(128, 10)
    forecast.tell([Standing(range(1), first, 10)] * 64)
    under_way = experience.attempts[0, 0, False]
    assert (under_way.hits, under_way.misses, under_way.under_way) == (64, 0, 64)
    assert under_way.expected < 25
