"""Everything that decides on the rows of a record, and the header that says it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from robustkit import protocol as protocols
from robustkit.attacks import REVISION
from robustkit.data import Dataset
from robustkit.errors import ProtocolError
from robustkit.evaluation.images import shape_mismatch
from robustkit.evaluation.model import EvaluatedModel
from robustkit.evaluation.verification import verifying
from robustkit.files import canonical, whole_number
from robustkit.keys import EngineKey, EvaluationKey
from robustkit.machine import torch_version
from robustkit.protocol import BALLS, MINIMAL, Epsilons, Given, Norm, Protocol, Target, kind_of
from robustkit.protocol.norms import symbol
from robustkit.record import VERSION
from robustkit.results.records import COMPUTED

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
NAMED_KEYS = ("name", "title", "split", "source", "classes", "notes")
"""those of them that are in no digest"""


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


def told_by_files(*networks: EvaluatedModel | None) -> bool:
    """Whether their files say all of these networks, so that no outputs need be compared."""
    return all(one is None or one.outputs is None for one in networks)


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
    seed: int | None = None,
    settings: Sequence[str] = (),
) -> Protocol:
    """A protocol with its budgets filled in: as given, else its own, else the data set's usual.

    Target and seed are its own, too, where none are given.

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
    if chosen != "none" and not found.attacks:
        raise ProtocolError(f"{found.name}: contains no attack, so --target does not apply")
    if chosen not in get_args(Target):
        raise ProtocolError(f"target {chosen!r}: known are {', '.join(get_args(Target))}")
    seed = whole_number(found.seed if seed is None else seed, "--seed")
    return protocols.checked_protocol(replace(found, target=chosen, seed=seed))


def record_header(config: Config) -> dict[str, Any]:
    """The header of a record; its `digest` covers everything in it that can change a row.

    Raises:
        ProtocolError: an attack cannot work through a surrogate.
    """
    surrogate, key = config.surrogate, config.key
    check_surrogate(config.protocol, surrogate)
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


def renewed(
    header: Mapping[str, Any],
    data: Dataset,
    model: EvaluatedModel,
    surrogate: EvaluatedModel | None = None,
) -> dict[str, Any]:
    """The header of a record on file, as one of these images and these networks.

    It may be older, and of the same under other names; or of another file with equal weights, whose
    notes and warnings say nothing of this one. Whatever is in no digest is said as it is known now.
    """
    model = verifying(model, data)
    named = {key: getattr(data, key) for key in NAMED_KEYS}
    own = _as_told(model.header, header["checkpoint"])
    found = {**header, "data": {**header["data"], **named}, "checkpoint": own}
    earlier, was = header["checkpoint"], header["data"]
    old = [*(earlier.get("warnings") or ())]
    old += _seen(was["name"], was["split"], was.get("source") or {})
    new = [*(model.header.get("warnings") or ()), *_seen_in_training(model, data)]
    if surrogate is not None:
        found["surrogate"] = _as_told(verifying(surrogate, data).header, header["surrogate"])
        for said, one in ((old, header["surrogate"]), (new, found["surrogate"])):
            said += [*_transfer(one), *_of_surrogate(one.get("warnings") or ())]
    told = set(header["warnings"])
    if set(new) - told or (set(old) - set(new)) & told:
        found["warnings"] = [*new, *(text for text in header["warnings"] if text not in old)]
    plain: dict[str, Any] = json.loads(canonical(found))
    return plain


def _as_told(now: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a network now, by which an older record stays of the same one.

    Its audits, and its other records, do not tell what else than weights makes a network either.
    """
    return {key: value for key, value in now.items() if key != COMPUTED or key in earlier}


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
        *([] if config.surrogate is None else _transfer(config.surrogate.header)),
        *([] if config.surrogate is None else _of_surrogate(config.surrogate.warnings)),
        *_seen_in_training(model, data),
        *([] if model.shape in (None, data.shape) else [shape_mismatch(model.shape, data)]),
        *protocol.weaknesses,
        *protocols.excessive_budgets(protocol.norm, protocol.epsilons, data.shape),
        *protocols.adaptations(protocol.attacks, len(data.classes)),
    ]


def _transfer(surrogate: Mapping[str, Any]) -> list[str]:
    return [
        f"attacked through {surrogate['path']}: a transfer attack, which says "
        "nothing about attackers who know the model"
    ]


def _of_surrogate(warnings: Sequence[str]) -> list[str]:
    return [f"the surrogate: {text}" for text in warnings]


def check_surrogate(protocol: Protocol, surrogate: EvaluatedModel | None) -> None:
    """Raise ProtocolError where a surrogate has no steps to take."""
    if surrogate is not None and not protocol.attacks:
        raise ProtocolError(f"{protocol.name}: contains no attack, so --surrogate does not apply")


def _cannot_transfer(protocol: Protocol) -> str:
    """The first attack that cannot work on another network than the one it is to fool."""
    from robustkit.attacks import build_search  # torch

    searches = [(kind_of(a), build_search(a, protocol.norm)) for a in protocol.attacks]
    return next((word for word, own in searches if own is None or not own.transfers), "")


def _seen_in_training(model: EvaluatedModel, data: Dataset) -> list[str]:
    """A warning where a model may have been trained on the images it is evaluated on."""
    surely, perhaps = _seen(data.name, data.split, data.source)
    if model.trained_on is not None and model.trained_on.are(data):
        return [surely]
    whole = data.source.get("all_training_images_of")
    return [perhaps] if whole and model.header["trained_on"] != data.name else []


def _seen(name: str, split: str, source: Mapping[str, Any]) -> tuple[str, str]:
    """What is warned of where a model was trained on these images, and where it may have been."""
    return (
        f"its checkpoint says that it was trained on images of {name}, {split}, as these are: "
        "accuracy on them says little of others",
        f"all images of {name} are training images of {source.get('all_training_images_of')}, and "
        f"this model is not recorded as trained on {name}: it may have seen them, and its accuracy "
        "here may be too high",
    )
