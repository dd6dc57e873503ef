"""`robustkit.attack`: an attack that is called in one's own loop."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import NoneType
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from robustkit.attacks import Block, Outcomes, SearchNetwork, attack_block, in_budget
from robustkit.attacks.company import FEW
from robustkit.attacks.contract import check_contract
from robustkit.attacks.draws import seed_of
from robustkit.attacks.inside import stepping_inside, steps_inside
from robustkit.attacks.lasting import unchanged
from robustkit.calls.given import AttackSettings, Network, network, setting_texts
from robustkit.checkpoint import Checkpoint
from robustkit.checkpoint.adapter import OneByOne, classifier, freeze, has_fixed_mode
from robustkit.defaults import torch_defaults
from robustkit.device import device as find_device
from robustkit.device import in_float32
from robustkit.errors import DataError, InputError, ProtocolError, quoted
from robustkit.evaluation.probe import losses_away, traits
from robustkit.files import whole_number
from robustkit.geometry import column
from robustkit.network import trains
from robustkit.protocol import (
    Given,
    Norm,
    Number,
    Protocol,
    Target,
    checked_protocol,
    excessive_budgets,
    protocol_of,
    resolve_budgets,
)
from robustkit.seeding import seeded

INSTEAD = ", or attack it with image_by_image=True"
"""what can be done where logits depend on the batch, and the network stays as it is"""


@torch_defaults()
def attack(
    model: Network,
    attack: Given = "pgd",
    *,
    epsilon: Number | None = None,
    norm: Norm | None = None,
    target: Target = "none",
    settings: AttackSettings = (),
    seed: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    image_by_image: bool = False,
) -> "ModelAttack":
    """An attack on a network, to be called with images and labels.

        attack = robustkit.attack(model, "pgd", epsilon=8 / 255)
        x_adv = attack(x, y)

    Every call works on the network as it is then, in eval mode, and leaves its modes, gradients
    and the global random generators as they were: it can stand in a training loop.

    Args:
        model: a module from float32 N × C × H × W in [0, 1] to logits N × K, which is neither
            copied nor changed, or a checkpoint, or the path of one.
        attack: as for `evaluate`: a protocol's name or file, a `Protocol`, `PGD(steps=40)`, a list.
        epsilon: the budget, such as 8 / 255; otherwise the protocol's own, where it has one.
        norm: of the budget; otherwise the attack's default.
        target: attack towards the next, a random or the least likely class; labels are the true
            ones all the same.
        settings: changes to the protocol's attacks: {"steps": 10}, or ["steps=10"].
        seed: of every random draw, otherwise the protocol's; each call has draws of its own.
        batch_size: images at once; otherwise as many as a call is given.
        device: of a checkpoint; a module stays where it is.
        image_by_image: pass images one at a time, for a network whose outputs depend on the batch.

    Raises:
        InputError: no network, no attack, or not one budget; one line says what.
    """
    found = protocol_of(attack, setting_texts(settings), norm)
    found = resolve_budgets(found, () if epsilon is None else epsilon, {})
    chosen = target if target != "none" else found.target
    if chosen not in (known := get_args(Target)):
        raise ProtocolError(f"target {quoted(chosen)}: known are {', '.join(known)}")
    seed = whole_number(found.seed if seed is None else seed, "--seed")
    found = replace(found, target=chosen, seed=seed)
    if batch_size is not None:
        batch_size = whole_number(batch_size, "batch_size", least=1)
    if len(found.epsilons) != 1:
        raise ProtocolError(f"{found.name}: {len(found.epsilons)} budgets; give epsilon one number")
    loaded = network(model)
    if isinstance(loaded, Checkpoint):
        loaded = loaded.load(find_device(device or "auto"))
    elif device is not None:
        raise InputError("device is of a checkpoint; a module stays where it is: model.to(device)")
    return ModelAttack(loaded, checked_protocol(found), batch_size, image_by_image)


class ModelAttack:
    """An attack on a network; `attack(x, y)` returns the perturbed images.

    What `evaluate` would warn of, such as a budget that holds every image or a network without
    gradients, is a warning of Python's at the first call with images of a shape, and in `warnings`;
    and again where a part or a setting of the network is another. Weights may change in between.
    """

    def __init__(
        self,
        model: nn.Module,
        protocol: Protocol,
        batch_size: int | None = None,
        image_by_image: bool = False,
    ) -> None:
        self.model = model
        self.protocol = protocol
        self.batch_size = batch_size
        self.image_by_image = image_by_image
        self.calls = 0
        self.fooled: Tensor | None = None
        """of the last call, bool N: which of the returned images are not taken for their label, or
        with a target for that; on the images' device"""
        self.warnings: tuple[str, ...] = ()
        """what a user should know of the calls so far"""
        self._trusted: dict[tuple[int, ...], _Trusted] = {}
        """by shape of images that were tried"""

    def __repr__(self) -> str:
        return f"<attack on {type(self.model).__name__}: {self.protocol!r}>"

    def __call__(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Tensor:
        """The perturbed images, float32 N × C × H × W in [0, 1], on the device of `x`.

        Each is within the budget and fools the network, by a pass of its own in float32. An image
        for which nothing was found stands as it is, and so does one that is wrong already;
        `fooled` says which. A mean loss over them is no inner maximum: the losses `adversarial`
        and `trades` of `robustkit.train` go on where a network is fooled.

        Args:
            x: images N × C × H × W in [0, 1].
            y: their labels N.
            seed: of this call; with the same one it makes the same draws again.

        Raises:
            DataError: images or labels that are none.
            InputError: the network's logits of an image depend on the others, or change while it
                is attacked.
            EvaluationFailed: its logits are not finite.
        """
        images, labels = _checked(x, y)
        self.calls += 1
        where = next(self.model.parameters(), images).device
        own = f"call {self.calls}" if seed is None else f"seed {whole_number(seed, 'seed')}"
        key = seed_of("call", self.protocol.seed, own)
        protocol = replace(self.protocol, seed=key)
        names = [f"image {i}" for i in range(len(images))]
        block = Block(images.to(where), labels.to(where), names, 0)
        model = classifier(self.model)
        with in_float32(), _as_it_was(self.model), seeded(key, where):
            outcomes = self._attacked(model, block, protocol) if len(images) else None
        if outcomes is None:
            self.fooled = torch.zeros(0, dtype=torch.bool, device=x.device)
            return images
        reached = in_budget(outcomes.distance, float(protocol.epsilons[0]))
        # minimal attacks, and FAB, tell of images that are fooled further out, too
        shown = torch.where(column(reached, block.images), outcomes.perturbed, block.images)
        if protocol.target != "none":  # one that is wrong already may be another class's
            reached = reached & (outcomes.perturbed_class == outcomes.classes)
        self.fooled = reached.to(x.device)
        return shown.to(x.device)

    def _attacked(self, model: nn.Module, block: Block, protocol: Protocol) -> Outcomes:
        if self.image_by_image:
            model = OneByOne(model)
            model.training = False
        images, shape = len(block.images), tuple(block.images.shape[1:])
        size = min(self.batch_size or images, images)
        # of a network's kind, which training does not change
        kind = _kind(self.model)
        known = self._trusted.get(shape)
        if known is None or known.batch < size or known.kind != kind:
            random, texts = _found(model, block, protocol, size)
            self._warn(texts)
            inside = steps_inside(model, block.images, protocol)
            self._trusted[shape] = _Trusted(inside, size, random, kind)
        trusted = self._trusted[shape]
        search_by = stepping_inside(SearchNetwork(model)) if trusted.inside else None
        with unchanged(model, block.images, random=trusted.random):
            return attack_block(model, block, protocol, size, search_by=search_by)

    def _warn(self, texts: list[str]) -> None:
        new = [text for text in texts if text not in self.warnings]
        self.warnings += tuple(new)
        for text in new:
            warnings.warn(text, stacklevel=4)  # where the attack is called


PLAIN = (bool, int, float, str, NoneType)
"""kinds of settings that are compared"""


class _Trusted(NamedTuple):
    """What was found of a network."""

    inside: bool
    """whether steps are taken a little inside [0, 1]"""
    batch: int
    """images that were passed at once at most"""
    random: bool
    """whether passes over the same image differ"""
    kind: list[Any]
    """`_kind` of it then"""


def _kind(model: nn.Module) -> list[Any]:
    """The parts of a network and their plain settings: what it computes, but for its numbers."""
    found: list[Any] = []
    for name, part in model.named_modules():
        settings = {k: v for k, v in vars(part).items() if isinstance(v, PLAIN)}
        settings.pop("training", None)
        found.append((name, type(part), vars(part).get("forward"), settings))
    return found


def _found(
    model: nn.Module, block: Block, protocol: Protocol, batch: int
) -> tuple[bool, list[str]]:
    """Whether a network is random, and what `evaluate` would warn of it and a budget.

    Raises:
        InputError: its logits depend on the batch; as `check_contract`.
    """
    images, labels = block.images[:FEW], block.labels[:FEW].cpu()
    contract = check_contract(model, images, INSTEAD, batch=batch)
    if int(labels.max()) >= contract.classes:
        return contract.random, []  # the attack says so
    asked: dict[str, Any] = {"gradients": bool(protocol.attacks), "losses": losses_away(protocol)}
    return contract.random, [
        *traits(model, images, labels, contract, **asked).warnings,
        *excessive_budgets(protocol.norm, protocol.epsilons, images.shape[1:]),
    ]


def _checked(x: object, y: object) -> tuple[Tensor, Tensor]:
    """Images in float32 and labels in int64, cut off from any graph.

    Raises:
        DataError: they are none.
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
        kind = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else quoted(x)
        raise DataError(f"x: expected a floating-point tensor N × C × H × W, got {kind}")
    if not isinstance(y, Tensor) or y.shape != x.shape[:1] or not _whole(y):
        kind = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else quoted(y)
        raise DataError(f"y: expected {len(x)} labels, a tensor of integers, got {kind}")
    with torch.inference_mode(False):
        images, labels = x.detach().float().clone(), y.detach().long().clone()
    if len(images) and not bool(((images >= 0) & (images <= 1)).all()):  # NaN, too
        low, high = float(images.min()), float(images.max())
        raise DataError(
            f"x: pixels from {low:.4g} to {high:.4g}; the budget is of pixels in [0, 1], so let "
            "the model normalise them itself"
        )
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"y: label {int(labels.min())}; labels are numbers from 0")
    return images, labels


def _whole(y: Tensor) -> bool:
    return not (y.is_floating_point() or y.is_complex())


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """The network in eval mode with weights that need no gradient; afterwards all is as before.

    Raises:
        InputError: it refuses to be put into eval mode.
    """
    modes = [(part, trains(part)) for part in model.modules() if hasattr(part, "training")]
    mode = trains(model)
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        freeze(model)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        if not has_fixed_mode(model):
            with suppress(Exception):  # of a module that takes no mode, which was said
                model.train(mode)  # some undo then what they did for eval
        for part, own in modes:
            part.training = own
