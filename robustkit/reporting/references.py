"""Publications that results rest on, as BibTeX and in words; their entries are `references.bib`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from robustkit.reporting.html import PAGES

TOOL = "robustkit"
"""key of the entry for this software, which is made from the version that ran"""
_ATTACKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fgsm": ("FGSM", ("goodfellow2015explaining",)),
    "pgd": ("PGD", ("madry2018towards",)),
    "mifgsm": ("MI-FGSM", ("dong2018boosting",)),
    "apgd": ("APGD", ("croce2020reliable",)),
    "fab": ("FAB", ("croce2020minimally",)),
    "square": ("Square Attack", ("andriushchenko2020square",)),
    "sigma-zero": ("σ-zero", ("cina2025sigmazero",)),
    "sparse-pgd": ("Sparse-PGD", ("zhong2024towards",)),
    "sparse-rs": ("Sparse-RS", ("croce2022sparsers",)),
    "patch": ("ascent inside a patch", ("brown2017adversarial", "rao2020adversarial")),
    "spatial-grid": ("a grid of rotations and translations", ("engstrom2019exploring",)),
    "spatial-random": ("random rotations and translations", ("engstrom2019exploring",)),
    "noise": ("random noise", ()),
    "deepfool": ("DeepFool", ("moosavidezfooli2016deepfool",)),
    "ddn": ("DDN", ("rony2019decoupling",)),
    "fmn": ("FMN", ("pintor2021fast",)),
    "cw": ("Carlini and Wagner's attack", ("carlini2017towards",)),
    "boundary": ("the Boundary Attack", ("brendel2018decision",)),
    "hopskipjump": ("HopSkipJump", ("chen2020hopskipjump",)),
}
"""what the literature calls each kind of attack, and the publications of it"""
_LOSSES = {
    "dlr": "croce2020reliable",
    "margin": "carlini2017towards",
    "probability-margin": "xie2024towards",
    "rescaled-cross-entropy": "yu2023efficient",
}
"""publications of what attacks ascend; cross-entropy needs none"""
_TRAINING: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "cross-entropy": ("cross-entropy", ()),
    "hinge": ("multi-class hinge loss", ("crammer2001algorithmic",)),
    "large-margin": ("large-margin loss", ("elsayed2018large",)),
    "large-margin-softmax": ("large-margin softmax", ("liu2016large",)),
    "generalised-cross-entropy": ("generalised cross-entropy", ("zhang2018generalized",)),
    "symmetric-cross-entropy": ("symmetric cross-entropy", ("wang2019symmetric",)),
    "soft-margin-softmax": ("soft-margin softmax", ("liang2017soft",)),
    "adversarial": ("adversarial training", ("madry2018towards",)),
    "trades": ("TRADES", ("zhang2019theoretically",)),
}
"""what the literature calls each training loss, and the publications of it"""
_COMPRESSION = {
    "one-bit": "seide2014onebit",
    "top-k": "stich2018sparsified",
    "random-k": "stich2018sparsified",
    "powersgd": "vogels2019powersgd",
}
"""publications of the kinds of compressed gradients"""
INTERVALS = {"Wilson": "wilson1927probable", "Clopper-Pearson": "clopper1934use"}
"""kinds of intervals, and who described them"""
CERTIFICATES = {
    "interval": "gowal2018effectiveness",
    "linear": "zhang2018efficient",
    "linear throughout": "zhang2018efficient",
    "branch and bound": "wang2021beta",
}
"""methods of bounds that proved images"""


class Reference(NamedTuple):
    """An attack or a loss as a paper names it."""

    name: str
    keys: tuple[str, ...]


def attack_reference(attack: Mapping[str, Any], norm: str) -> Reference:
    """Of an attack's table; one of an unknown kind goes by that word, without a publication."""
    kind = str(attack.get("kind"))
    name, keys = _ATTACKS.get(kind, (kind, ()))
    if kind == "pgd" and attack.get("random_start") is False:
        name, keys = "BIM", ("kurakin2017adversarial",)
    if kind == "apgd" and norm == "l1":
        keys = (*keys, "croce2021mind")
    if kind == "apgd" and attack.get("target_order") == "distance":
        keys = (*keys, "melamed2024malt")
    loss = _LOSSES.get(str(attack.get("loss")))
    return Reference(name, tuple(dict.fromkeys((*keys, *([loss] if loss else ())))))


def loss_reference(name: str) -> Reference:
    """Of a training loss; the user's own goes by its function, without a publication."""
    return Reference(*_TRAINING.get(name, (name.rpartition(":")[2], ())))


def compression_key(scheme: str) -> tuple[str, ...]:
    """The publication of compressed gradients: "top-k:1%"."""
    key = _COMPRESSION.get(scheme.partition(":")[0])
    return (key,) if key else ()


@cache
def entries() -> Mapping[str, str]:
    """Every entry of the file by its key."""
    text = (PAGES / "references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{([^,]+),\n.*?^\}$", text, re.M | re.S)
    whole = re.findall(r"^@\w+\{[^,]+,\n.*?^\}$", text, re.M | re.S)
    return dict(zip(found, whole, strict=True))


def bibtex(keys: Iterable[str], version: str) -> str:
    """The entries of these keys, each once and in order, after that of robustkit itself."""
    known = sorted(set(keys) & set(entries()))
    return "\n\n".join([_tool(version), *(entries()[key] for key in known)])


def _tool(version: str) -> str:
    return "\n".join(
        [
            f"@software{{{TOOL},",
            "  author  = {{The robustkit developers}},",
            "  title   = {{robustkit}: Robustness numbers that can be believed},",
            f"  version = {{{_plain(version)}}},",
            "  note    = {PLACEHOLDER: URL and DOI, once the project has them}",
            "}",
        ]
    )


def _plain(text: str) -> str:
    """Text of a record in which nothing is TeX."""
    return re.sub(r"[^\w.+-]", "", text, flags=re.ASCII)


def cited(keys: Sequence[str]) -> str:
    """'Madry et al., 2018; Carlini and Wagner, 2017' for keys."""
    return "; ".join(_cited(entries()[key]) for key in keys if key in entries())


def _cited(entry: str) -> str:
    (authors,) = re.findall(r"^\s*author\s*= \{(.*)\},$", entry, re.M)
    (year,) = re.findall(r"^\s*year\s*= \{(\d+)\}", entry, re.M)
    names = [name.partition(",")[0] for name in authors.split(" and ")]
    first = names[0] if len(names) != 2 else " and ".join(names)
    return f"{first}{' et al.' if len(names) > 2 else ''}, {year}"
