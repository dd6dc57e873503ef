"""Everything that decides on the rows of a record, and the header that says it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from robustkit import protocol as protocols
from robustkit.attacks import REVISION
from robustkit.data import Dataset
from robustkit.errors import ProtocolError
from robustkit.evaluation.images import shape_mismatch
from robustkit.evaluation.model import EvaluatedModel
from robustkit.files import whole_number
from robustkit.keys import EngineKey, EvaluationKey
from robustkit.machine import torch_version
from robustkit.protocol import BALLS, MINIMAL, Epsilons, Given, Norm, Protocol, Target, kind_of
from robustkit.protocol.norms import symbol
from robustkit.record import VERSION

if TYPE_CHECKING:
    import torch

    from robustkit.attacks.precision import Low

Prove = Literal["auto", "off"]
"""whether images are proved before they are attacked: where that is cheap, or never"""
PROOFS = 3
"""Raised whenever a change can change which images are proved: of the bounds, or of the rule when
they are tried (`proving.py`). It stands here since no answer on file is to wait for torch."""
DATA_KEYS = (
    "name", "title", "split", "digest", "order", "transform", "source", "classes", "shape", "notes",
)  # fmt: skip
"""what a record's header says of the data, beside the number of images"""


@dataclass(frozen=True, slots=True)
class Config:
    """Which model is attacked, on which images, how, and on what kind of device."""

    model: EvaluatedModel
    data: Dataset
    protocol: Protocol
    device: "torch.device"
    surrogate: EvaluatedModel | None = None
    """takes every step of the attack; the model only classifies the last"""
    low: "LowSearch | None" = None
    """what the attack searches by where that is not float32"""
    prove: Prove = "off"
    """whether bounds may stand in for the attack"""

    @property
    def unproved(self) -> str:
        """Why the question itself rules out that images are proved; "" where it does not."""
        return unproved(self.model, self.protocol, self.surrogate, self.prove)

    @property
    def key(self) -> EvaluationKey:
        """What the record's file is named by."""
        kind = self.device.type
        own = (self.surrogate, self.low, self.prove)
        return evaluation_key(self.model, self.data, self.protocol, kind, *own)

    def to_travel(self) -> "Config":
        """The same for other processes: no record is looked for there."""
        other = self.surrogate and replace(self.surrogate, outputs=None)
        return replace(self, model=replace(self.model, outputs=None), surrogate=other)


class LowSearch(NamedTuple):
    """A search in low precision."""

    precision: "Low"
    batch_size: int


def evaluation_key(
    model: EvaluatedModel,
    data: Dataset,
    protocol: Protocol,
    device: str,
    surrogate: EvaluatedModel | None,
    low: LowSearch | None = None,
    prove: Prove = "off",
) -> EvaluationKey:
    """What a record's file is named by, where the attack runs on that kind of device."""
    return EvaluationKey(
        checkpoint=model.identity,
        data=data.digest,
        protocol=protocol.resolved(),
        engine=EngineKey(
            revision=REVISION,
            torch=torch_version(),
            foolbox=version("foolbox"),
            device=device,
            precision=None if low is None else low.precision,
            batch_size=None if low is None else low.batch_size,
        ),
        surrogate=None if surrogate is None else surrogate.identity,
        prove=None if unproved(model, protocol, surrogate, prove) else PROOFS,
    )


def unproved(
    model: EvaluatedModel,
    protocol: Protocol,
    surrogate: EvaluatedModel | None,
    prove: Prove,
) -> str:
    """Why the question itself rules out that images are proved; "" where it does not."""
    if prove == "off":
        return "not asked for"
    if not protocol.attacks:
        return "nothing is attacked"
    if protocol.norm not in BALLS:
        return f"there are no bounds for {symbol(protocol.norm)}"
    if any(isinstance(attack, MINIMAL) for attack in protocol.attacks):
        return "its attack finds distances beyond the budgets, too"
    if surrogate is not None:
        return "a transfer attack is no attack on the network that bounds are of"
    if model.header.get("verification"):
        return "pairs are compared, and one picture stays"
    if model.header.get("image_by_image"):
        return "its images never share a batch"
    return ""


def resolve_protocol(
    attack: Given,
    data: Dataset,
    epsilons: Epsilons = (),
    *,
    norm: Norm | None = None,
    target: Target = "none",
    seed: int = 0,
    settings: Sequence[str] = (),
) -> Protocol:
    """A protocol with its budgets filled in: as given, else its own, else the data set's usual.

    Raises:
        ProtocolError: no budgets are known, the protocol is of another norm, or its parts don't go
            together.
    """
    found = protocols.protocol_of(attack, settings, norm)
    found = protocols.resolve_budgets(found, epsilons, data.budgets)
    if found.epsilons and not found.attacks:
        raise ProtocolError(f"{found.name}: contains no attack, so --epsilon does not apply")
    if found.attacks and not found.epsilons:
        raise ProtocolError(
            f"no usual {found.norm} budgets are known for {data.name}; give --epsilon, or "
            "--attack clean for clean accuracy alone"
        )
    chosen = target if target != "none" else found.target
    if chosen not in get_args(Target):
        raise ProtocolError(f"target {chosen!r}: known are {', '.join(get_args(Target))}")
    seed = whole_number(seed, "--seed")
    return protocols.checked_protocol(replace(found, target=chosen, seed=seed))


def record_header(config: Config) -> dict[str, Any]:
    """The header of a record; its `digest` covers everything in it that can change a row.

    Raises:
        ProtocolError: an attack cannot work through a surrogate.
    """
    surrogate, key = config.surrogate, config.key
    if surrogate is not None and (unfit := _cannot_transfer(config.protocol)):
        raise ProtocolError(f"{unfit}: cannot use a surrogate; pgd, fgsm and mifgsm can")
    return {
        "schema": f"robustkit.evaluation/{VERSION}",
        "digest": key.digest,
        "checkpoint": dict(config.model.header),
        **({} if surrogate is None else {"surrogate": dict(surrogate.header)}),
        "data": {**{key: getattr(config.data, key) for key in DATA_KEYS}, "n": len(config.data)},
        "protocol": protocol_header(config.protocol),
        "engine": {**key.plain()["engine"], "robustkit": version("robustkit")},
        "precision": "float32" if config.low is None else config.low.precision,
        "warnings": _warnings(config),
    }


def protocol_header(protocol: Protocol) -> dict[str, Any]:
    """What a record's header says of the protocol."""
    return {
        "name": protocol.name,
        "title": protocol.title,
        "norm": protocol.norm,
        "digest": protocol.digest,
        "file": protocol.text,
        "resolved": protocol.resolved(),
        "epsilons": [{"epsilon": e.text, "value": float(e)} for e in protocol.epsilons],
    }


def _warnings(config: Config) -> list[str]:
    model, data, protocol = config.model, config.data, config.protocol
    return [
        *model.warnings,
        *data.warnings,
        *([] if config.surrogate is None else _transfer(config.surrogate)),
        *_seen_in_training(model, data),
        *([] if model.shape in (None, data.shape) else [shape_mismatch(model.shape, data)]),
        *protocol.weaknesses,
        *protocols.excessive_budgets(protocol.norm, protocol.epsilons, data.shape),
        *protocols.adaptations(protocol.attacks, len(data.classes)),
    ]


def _transfer(surrogate: EvaluatedModel) -> list[str]:
    return [
        f"attacked through {surrogate.header['path']}: a transfer attack, which says "
        "nothing about attackers who know the model",
        *(f"the surrogate: {text}" for text in surrogate.warnings),
    ]


def _cannot_transfer(protocol: Protocol) -> str:
    """The first attack that cannot work on another network than the one it is to fool."""
    from robustkit.attacks import build_search  # torch

    searches = [(kind_of(a), build_search(a, protocol.norm)) for a in protocol.attacks]
    return next((word for word, own in searches if own is None or not own.transfers), "")


def _seen_in_training(model: EvaluatedModel, data: Dataset) -> list[str]:
    """A warning where a model may have been trained on the images it is evaluated on."""
    if model.trained_on is not None and model.trained_on.are(data):
        return [
            f"its checkpoint says that it was trained on images of {data.name}, {data.split}, as "
            "these are: accuracy on them says little of others"
        ]
    whole = data.source.get("all_training_images_of")
    if not whole or model.header["trained_on"] == data.name:
        return []
    return [
        (
            f"all images of {data.name} are training images of {whole}, and this model is not "
            f"recorded as trained on {data.name}: it may have seen them, and its accuracy here "
            "may be too high"
        )
    ]
