"""What every number here presumes of a network: a logit of an image is that image's alone.

A few images are passed alone and in company before any work. Attacks and bounds, smoothing and
corruptions ask so first.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robustkit.attacks.company import FEW, companies_of, crowd, turned, turned_back, usual
from robustkit.attacks.library import drawn
from robustkit.checkpoint.adapter import OneByOne, classifier, replica
from robustkit.errors import (
    DataError,
    EvaluationFailed,
    InputError,
    NetworkFailed,
    cause,
    one_line,
)
from robustkit.network import apart, spread
from robustkit.seeding import seeded

ROUNDING = 2e-2
"""of the logits' spread: how far an image's may lie apart in batches of different size, or at
another place. Kernels are chosen by size and sum in another order. Measured on a CPU: 2e-7 in
float32, 6e-4 in float16, 3e-3 in bfloat16, whose step is 8e-3; TF32 on a GPU has float16's step. A
step of int8 is 8e-3 of the largest activation, and tips over where a sum is rounded otherwise."""
COMPANY = 1e-4
"""likewise in batches of one size, at one place, beside other images. There nothing is summed in
another order: networks of every kind above give the same bits. Scales that are taken over the whole
batch (dynamic int8 quantisation: 7e-3) are no rounding, but dependence"""
FIXED, FEWER = (2, 4, 8, 10, 16, 32, 64, 100, 128), 2**20
"""sizes of a batch that a network may have been exported for, and takes alone; and numbers in one
at most, since one that takes no images of this size may break at its very end"""
PASSES = 60
"""each way, of a model that draws at random; and of one that draws, until a pass differs"""
AGAIN = 16
"""passes of an image through a model that draws from no global generator, likewise"""
CLEARLY = 5.0
"""standard errors of the difference of two means of such passes: by chance, with 118 degrees of
freedom, two models in a million lie further apart"""
OF_ITS_OWN = (KeyError, AttributeError, NameError, NotImplementedError)
"""what a network raises that would take images of no other size either"""
REMEMBERS = (
    "the network's logits of an image change after other images have passed through: it "
    "keeps a state between passes (a cache, running statistics); call model.eval(), or "
    "remove that state"
)
WRAPPED = ", or pass robustkit.checkpoint.OneByOne(model), which evaluates one image at a time"
"""what can be done where the network stays as it is"""


class Contract(NamedTuple):
    """What is known of a network that keeps it."""

    classes: int
    random: bool
    """whether passes over the same image differ"""
    idle: bool = False
    """whether it draws random numbers all the same"""


def held(
    model: torch.nn.Module, images: Tensor, instead: str = WRAPPED, batch: int | None = None
) -> torch.nn.Module:
    """A network of others that keeps the contract, to be asked with care; it is not copied.

    `batch`: how many images will be passed at once, where that is known.

    Raises:
        InputError, EvaluationFailed: as `check_contract`, but for no images.
    """
    model = classifier(model)
    if len(images):
        check_contract(model, images, instead, batch=batch)
    return model


def check_contract(
    model: torch.nn.Module,
    images: Tensor,
    instead: str,
    source: str = "",
    advice: str = "",
    batch: int | None = None,
) -> Contract:
    """What is found of a model that gives one image the same logits, whoever shares its batch.

    Global random generators are left as they were.

    Args:
        model: from pixels in [0, 1] to logits N × K, on the images' device.
        images: N × C × H × W, of which the first few are passed.
        instead: what a refusal says can be done where the network stays as it is.
        source: what it says of the images: whose they are.
        advice: how others are made, where it may be their size that is not taken.
        batch: how many images will be passed at once, where that is known.

    Raises:
        DataError: the model does not take the images.
        InputError: its logits depend on the batch, on what was passed before, or it seeds the
            random generators that others draw from.
        EvaluationFailed: too little memory for a few images.
    """
    with seeded(0, images.device):
        batch = max(batch or 0, usual(images))
        return _found(_Asked(model, instead, source, advice), images[:FEW], batch)


def check_batch(
    model: torch.nn.Module, images: Tensor, batch: int, instead: str, *, random: bool
) -> None:
    """Nothing, if a model that keeps the contract does so among so many images, too.

    Args:
        model: for which `check_contract` found nothing amiss, not knowing of the batch.
        images: that it was found with.
        batch: how many images will be passed at once; more than fit into memory are let be.
        instead: as for `check_contract`.
        random: whether passes over the same image differ.

    Raises:
        InputError: an image's logits are others there.
    """
    if isinstance(model, OneByOne) or batch <= usual(images):
        return
    with seeded(0, images.device):
        company, *larger = companies_of(images[:FEW], batch)
        asked = _Asked(model, instead, "", "")
        among = asked.together(company)
        asked = replace(asked, spread=spread(among))
        if random:
            asked.independent_from_a_seed(company[:1], larger)
        else:
            asked.independent_of_size(among, larger)


def _found(asked: "_Asked", images: Tensor, batch: int) -> Contract:
    companies = companies_of(images, 1 if isinstance(asked.model, OneByOne) else batch)
    company = companies[0]
    first, last = company[:1], company[-1:]
    fresh = asked.twin()
    classes = asked.classes(images)
    try:
        once = asked.logits(first)
        unseen = None if fresh is None else fresh.logits(last)
        asked = replace(asked, spread=spread((fresh or asked).together(company)))
    except InputError as error:
        asked.takes_images_made_of(images, company, error)
        raise
    asked.leaves_generators_alone(first)
    if asked.remembers(first):
        raise InputError(REMEMBERS)
    draws = asked.draws(first)
    random = asked.varies(first, once, PASSES if draws else AGAIN)
    if random and asked.turned(first, once):
        raise InputError(REMEMBERS)
    if not random:
        try:
            if unseen is not None and asked.apart(asked.logits(last), unseen) > COMPANY:
                raise InputError(REMEMBERS)
            asked.independent(first, companies)
            if asked.apart(asked.logits(first), once) > COMPANY:
                raise InputError(REMEMBERS)
        except InputError:
            # one that draws now and then, from a generator of its own, differs by luck
            random = asked.varies(first, asked.logits(first), PASSES)
            if not random:
                raise
    if random:
        asked.independent_on_average(first, companies, draws)
    return Contract(classes, random, idle=draws and not random)


@dataclass(frozen=True, slots=True)
class _Asked:
    model: torch.nn.Module
    instead: str
    source: str
    advice: str
    spread: float = 1.0
    """of its logits of a company, which differences are shares of"""

    def twin(self) -> "_Asked | None":
        """A copy that has seen no image; None where none can be made."""
        with suppress(InputError):
            return replace(self, model=replica(self.model))
        return None

    def apart(self, one: Tensor, other: Tensor) -> float:
        """How far two logits lie apart."""
        return apart(one, other, self.spread)

    def logits(self, images: Tensor) -> Tensor:
        """One pass without gradients, N × K.

        Raises:
            DataError: the model does not take the images.
        """
        shape = " × ".join(map(str, images.shape[1:]))
        try:
            with torch.no_grad():
                found: Tensor = self.model(images)
        except NetworkFailed as error:
            words = one_line(cause(error))
            blame = isinstance(cause(error), OF_ITS_OWN) or "dtype" in words
            advice = "" if blame else self.advice
            raise DataError(
                f"the model does not accept the {shape} images{self.source}{advice} ({words})"
            ) from error
        except torch.OutOfMemoryError as error:
            raise EvaluationFailed(f"too little memory for {len(images)} images") from error
        return found.float()

    def classes(self, images: Tensor) -> int:
        """How many logits there are, if the model takes one image.

        Raises:
            DataError: it does not.
            InputError: it takes several at once, but not one alone.
        """
        try:
            return self.logits(images[:1]).shape[1]
        except DataError as error:
            pair = torch.cat([images[:1], 1 - images[:1]])
            sizes = (n for n in FIXED if n == 2 or n * pair[0].numel() <= FEWER)
            several = next((n for n in sizes if self._takes(pair.repeat(n, 1, 1, 1)[:n])), 0)
            if several > 2 or (several and not self._takes(pair.repeat(2, 1, 1, 1)[:3])):
                raise InputError(
                    f"the network accepts {several} images at once, but no single one: it was "
                    "made for a batch of that size; export it with a batch dimension that may "
                    f"change ({one_line(cause(error))})"
                ) from error
            if several:
                raise InputError(
                    "the network accepts several images, but not a single one: its logits "
                    "depend on the batch (such as BatchNorm with batch statistics), so no "
                    "image has a verdict of its own; call model.eval(), or keep running "
                    f"statistics ({one_line(cause(error))})"
                ) from error
            raise

    def takes_images_made_of(self, images: Tensor, company: Tensor, error: InputError) -> None:
        """Nothing, unless of images one by one it takes the data's, but none with other pixels.

        Raises:
            InputError: so it is.
        """
        own, made = (map(self._takes, x.chunk(len(x))) for x in (images, company))
        if all(own) and not all(made):
            raise InputError(
                "the network accepts these images, but not their negatives or those of half the "
                f"contrast ({one_line(cause(error))}): attacks pass it any pixels in [0, 1], so "
                "let it return logits for all of them"
            ) from error

    def _takes(self, images: Tensor) -> bool:
        try:
            self.logits(images)
        except (DataError, EvaluationFailed):
            return False
        return True

    def varies(self, image: Tensor, once: Tensor, passes: int) -> bool:
        """Whether one of so many passes of an image gives other logits than it has."""
        return any(self.apart(self.logits(image), once) > COMPANY for _ in range(passes))

    def turned(self, image: Tensor, once: Tensor) -> bool:
        """Whether an image has other logits than it had, and from now on always the same."""
        now = self.logits(image)
        return self.apart(now, once) > COMPANY and all(
            torch.equal(self.logits(image), now) for _ in range(PASSES)
        )

    def draws(self, image: Tensor) -> bool:
        """Whether a pass draws from a global random generator."""
        _, before = drawn(lambda: None, 0, image.device)
        _, after = drawn(lambda: self.logits(image), 0, image.device)
        return before != after

    def remembers(self, image: Tensor) -> bool:
        """Whether a parameter or buffer that a pass changes decides on what later ones give.

        It does where passes that draw alike differ, and repeat as soon as it is set back. What is
        filled anew by each pass, or counts them for nobody, decides on nothing.
        """
        before = {name: t.clone() for name, t in self._state().items()}
        one, two = (drawn(lambda: self.logits(image), 0, image.device)[0] for _ in range(2))
        state = self._state()
        moved = [name for name, then in before.items() if not torch.equal(state[name], then)]
        if not moved:
            return False
        for name in moved:
            state[name].copy_(before[name])
        again, _ = drawn(lambda: self.logits(image), 0, image.device)
        return torch.equal(again, one) and not torch.equal(again, two)

    def _state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, to be compared and written to."""
        held = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: t.detach() for name, t in held if t.layout == torch.strided}

    def leaves_generators_alone(self, image: Tensor) -> None:
        """Nothing, unless a pass sets the global random generators, from which foolbox draws.

        Raises:
            InputError: two passes that began differently leave them in the same state.
        """
        left = [drawn(lambda: self.logits(image), seed, image.device)[1] for seed in (1, 2)]
        if any(a == b for a, b in zip(*left, strict=True)):
            raise InputError(
                "the network seeds the global random generator in each forward pass, so "
                "that everything else that draws from it, attacks included, would repeat "
                "its draws; let it use a torch.Generator of its own"
            )

    def independent(self, first: Tensor, companies: Sequence[Tensor]) -> None:
        """Nothing, if an image's logits are the same alone, and at every place in company.

        Raises:
            InputError: they are not.
        """
        company, *larger = companies
        alone = torch.cat([self.logits(company[:1]), self.logits(company[-1:])])
        among = self.together(company)
        behind = turned_back(self.together(turned(company)))
        copies = self.together(first.expand_as(company).contiguous())
        pairs = [
            (self.apart(copies[:1], among[:1]), COMPANY, "in a batch"),
            (self.apart(copies[-1:], behind[:1]), COMPANY, "in a batch"),
            (self.apart(alone, among[[0, -1]]), ROUNDING, "alone"),
            (self.apart(alone, behind[[0, -1]]), ROUNDING, "alone"),
            (self.apart(among, behind), ROUNDING, "in another order"),
            (self.apart(copies, alone[:1].expand_as(copies)), ROUNDING, "alone"),
        ]
        for share, allowed, how in pairs:
            if share > allowed:
                self._refuse(f"{how} they differ by {share:.2g} of the logits' spread")
        self.independent_of_size(among, larger)

    def independent_of_size(self, few: Tensor, larger: Sequence[Tensor]) -> None:
        """Nothing, if every row among many is as its own image's logits among few.

        Raises:
            InputError: one is not.
        """
        for many in larger:
            with suppress(EvaluationFailed):  # then batches will be smaller, too
                found = self.together(many)
                if (share := self.apart(found, crowd(few, len(many)))) > ROUNDING:
                    self._refuse(
                        f"in a batch of {len(many)} they differ by {share:.2g} of their spread"
                    )

    def together(self, images: Tensor) -> Tensor:
        """Logits of several images in one pass.

        Raises:
            InputError: the model takes one at a time only.
        """
        try:
            return self.logits(images)
        except DataError as error:
            raise InputError(
                f"the network accepts one image, but not {len(images)} at a time "
                f"({one_line(cause(error))}); fix it{self.instead}"
            ) from error

    def independent_on_average(
        self, first: Tensor, companies: Sequence[Tensor], draws: bool
    ) -> None:
        """The same of a model that draws at random, by its mean logits.

        `draws`: from a global generator, whose seed makes passes comparable one by one.

        Raises:
            InputError: they differ clearly more than means of so many passes do.
        """
        company = companies[0]
        if draws:
            self.independent_from_a_seed(first, companies)
        ways: list[Callable[[], Tensor]] = [
            lambda: self.logits(first),
            lambda: self.together(company),
            lambda: turned_back(self.together(turned(company))),
        ]
        found: list[list[Tensor]] = [[] for _ in ways]
        # in an order of chance: what a counter does at every third pass is no company's work
        order = torch.arange(len(ways)).repeat(PASSES)
        source = torch.Generator().manual_seed(0)
        for way in order[torch.randperm(len(order), generator=source)].tolist():
            found[way].append(ways[way]())
        alone, among, behind = (torch.stack(passes).double() for passes in found)
        for one, other in ((alone, among[:, :1]), (alone, behind[:, :1]), (among, behind)):
            if (errors := self._standard_errors(one, other)) > CLEARLY:
                self._refuse(f"means over {PASSES} passes differ by {errors:.2g} standard errors")

    def independent_from_a_seed(self, first: Tensor, companies: Sequence[Tensor]) -> None:
        """Beside copies of itself and beside others, from one seed: the same draws, sharper by far.

        It says nothing of a model that draws elsewhere, or as many numbers as its images say.

        Raises:
            InputError: they differ.
        """
        for company in companies:
            with suppress(EvaluationFailed):  # as in `independent_of_size`
                self._same_from_a_seed(first, company)

    def _same_from_a_seed(self, first: Tensor, company: Tensor) -> None:
        own = (company == first).flatten(1).all(1)  # wherever it stands among the others
        passes = [
            drawn(lambda x=x: self.together(x)[own], 0, first.device)  # type: ignore[misc]
            for x in (company, company, first.expand_as(company).contiguous())
        ]
        (among, left), (again, _), (beside, then) = passes
        repeatable = left == then and self.apart(among, again) <= COMPANY
        if repeatable and (share := self.apart(among, beside)) > COMPANY:
            self._refuse(f"with the same seed they differ by {share:.2g} of the logits' spread")

    def _standard_errors(self, one: Tensor, other: Tensor) -> float:
        """How far two means lie apart, of so many passes each over the same images, N × M × K."""
        errors = (one.var(0).sum() / len(one) + other.var(0).sum() / len(other)).sqrt()
        between = (one.mean(0) - other.mean(0)).norm()
        rounding = 1e-4 * self.spread * one.shape[1] ** 0.5
        return float(between / (errors + rounding + 1e-30))

    def _refuse(self, how: str) -> None:
        raise InputError(
            f"the network's logits of an image depend on the rest of its batch ({how}), so "
            "its verdicts would change with the batch size; call model.eval(), give "
            "BatchNorm running statistics (track_running_stats), and compute no mean, "
            f"softmax, sort or quantisation range over the batch{self.instead}"
        )
