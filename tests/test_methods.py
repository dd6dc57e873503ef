"""The methods paragraph and the BibTeX of a report say what is on record, and nothing else."""

import re
from dataclasses import replace
from typing import get_args

import pytest
from helpers.audits import full, minimal
from helpers.evaluations import evaluation
from helpers.outcomes import outcome

from robustkit.analysis import evidence
from robustkit.analysis.judge import judge_study
from robustkit.files import shipped
from robustkit.losses import LOSSES
from robustkit.protocol import KINDS, Loss, protocol_toml
from robustkit.reporting.evaluation import page
from robustkit.reporting.methods import of_audit, of_evaluations, of_study, together
from robustkit.reporting.modelcard import model_card
from robustkit.reporting.references import (
    CERTIFICATES,
    INTERVALS,
    attack_reference,
    bibtex,
    cited,
    compression_key,
    entries,
    loss_reference,
)
from robustkit.spec import load_study
from robustkit.study.provenance import provenance
from robustkit.study.store import StudyStore

SCHEMES = ("one-bit", "top-k:1%", "random-k:0.1", "powersgd:4")
WITHOUT = {"noise"}
"""kinds of attack that nobody published"""


def of(found, **header):
    changed = replace(found, header=found.header | header)
    return of_evaluations([changed], changed.clean())


def words(methods):
    return " ".join(methods.paragraphs)


def publications(text):
    """Author and year of each publication that a paragraph cites."""
    return set(re.findall(r"[\w-]+(?: et al\.| and [\w-]+)?, (?:19|20)\d\d", text))


def test_every_kind_of_attack_has_a_name_and_a_publication():
    for kind in KINDS:
        name, keys = attack_reference({"kind": kind}, "linf")
        assert name != kind, f"{kind}: how a paper calls it"
        assert bool(keys) == (kind not in WITHOUT), f"{kind}: who published it"
        assert set(keys) <= set(entries())


def test_every_loss_of_an_attack_has_a_publication_beside_the_attack_s_own():
    for loss in get_args(Loss):
        for kind in ("fgsm", "pgd", "mifgsm"):
            keys = attack_reference({"kind": kind, "loss": loss}, "linf").keys
            more = set(keys) - set(attack_reference({"kind": kind}, "linf").keys)
            assert len(more) == (loss != "cross-entropy"), loss
            assert more <= set(entries())


def test_every_training_loss_has_a_name_and_a_publication():
    for name in LOSSES:
        assert bool(loss_reference(name).keys) == (name != "cross-entropy"), name
    assert loss_reference("own/focal.py:focal") == ("focal", ())


def test_the_entries_are_whole_and_each_is_used():
    attacks = [
        {"kind": kind, "loss": loss, **more}
        for kind in KINDS
        for loss in get_args(Loss)
        for more in ({}, {"random_start": False}, {"target_order": "distance"})
    ]
    used = {key for a in attacks for norm in ("linf", "l1") for key in attack_reference(a, norm)[1]}
    used |= {*CERTIFICATES.values(), *INTERVALS.values(), "paszke2019pytorch", "rauber2020foolbox"}
    used |= {key for name in LOSSES for key in loss_reference(name).keys}
    used |= {key for scheme in SCHEMES for key in compression_key(scheme)}
    used |= {"carlini2019evaluating", "cohen2019certified", "hendrycks2019benchmarking"}
    assert used == set(entries())
    for key, entry in entries().items():
        assert entry.count("{") == entry.count("}")
        assert {"author", "title", "year"} <= set(re.findall(r"^  (\w+) +=", entry, re.M))
        first = re.search(r"author +=\s\{([^,]+),", entry)[1]
        plain = first.lower().replace(" ", "").replace("-", "").replace("à", "a")
        assert key.startswith(plain), key
        assert re.search(r"year +=\s\{(\d+)\}", entry)[1] in key


def test_authors_are_one_two_or_more():
    assert cited(["wilson1927probable"]) == "Wilson, 1927"
    assert cited(["clopper1934use", "cina2025sigmazero"]) == (
        "Clopper and Pearson, 1934; Cinà et al., 2025"
    )


def test_an_evaluations_paragraph_has_every_number_of_the_record():
    found = evaluation(epsilons=("2/255", "8/255"))
    text = words(of(found))
    for part in (
        "models/mnist-cnn.pt",
        "200 test images of 5,000 MNIST digits",
        "ℓ∞ at ε = 2/255 and 8/255",
        "random seed 0",
        "FGSM (Goodfellow et al., 2015; loss cross-entropy)",
        "PGD (Madry et al., 2018; steps 40, relative step 1/16, restarts 5, loss cross-entropy)",
        "95\u00a0% intervals (Wilson, 1927)",
        "robustkit 0.1.0, PyTorch 2.11.0 and foolbox 3.3.4 on cpu",
    ):
        assert part in text


def test_several_evaluations_each_have_their_precision_device_and_versions():
    """Evaluations of one protocol may have been made on several machines."""
    first, second, third = map(evaluation, ("a.pt", "b.pt", "c.pt"))
    engine = third.header["engine"] | {"device": "cuda", "robustkit": "0.2.0", "foolbox": ""}
    other = replace(third, header=third.header | {"engine": engine, "precision": "bf16"})
    found = of_evaluations([other, first, second], first.clean())
    text = words(found)
    theirs = "Software of c.pt: robustkit 0.2.0 and PyTorch 2.11.0 on cuda; searches in bf16."
    assert theirs in text
    assert "Software of a.pt and b.pt: robustkit 0.1.0, PyTorch 2.11.0 and foolbox 3.3.4 on" in text
    assert "searches in float32" in text
    assert "rauber2020foolbox" in found.bibtex
    assert len(found.keys) == len(set(found.keys))
    assert found.version == together([found, of(first)]).version == "0.1.0, 0.2.0"
    assert words(of_evaluations([first, second], first.clean())).count("Software: ") == 1


CROPPED = {"library": "timm 1.0", "processor": "create_transform", "crop": [224, 224]}


def test_what_a_library_does_is_told_of_images_that_it_made():
    """Not of a level that is left as it was published, nor of a network with options of its own."""
    first, second = map(evaluation, ("a.pt", "b.pt"))
    data = first.header["data"] | {"transform": {"pipeline": CROPPED}}
    level = data | {"source": {"corruption": "fog", "severity": 1}}
    assert "cropped to 224×224. " in words(of(first, data=level))
    theirs = replace(first, header=first.header | {"data": data})
    own = second.header["data"] | {"transform": {"crop": 224}}
    other = replace(second, header=second.header | {"data": own})
    assert "timm 1.0 does. " in words(of_evaluations([theirs, theirs], first.clean()))
    assert "cropped to 224×224. " in words(of_evaluations([theirs, other], first.clean()))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, ""),
        ({"pairs": True}, ""),
        ({"resize": 32}, ", resized to 32 (shorter side, bilinear, Pillow)"),
        (
            {"channels": 1, "resize": 32, "interpolation": "bicubic", "crop": 28},
            ", converted to grey, resized to 32 (shorter side, bicubic, Pillow) and cropped to "
            "28×28",
        ),
        (
            {
                "pipeline": {
                    "library": "transformers 5.1",
                    "processor": "ViTImageProcessor",
                    "resize": [256, 224],
                    "interpolation": "nearest",
                    "by": "torch",
                    "crop": None,
                    "channels": 3,
                    "fit": "contain",
                }
            },
            ", resized to 256×224 (nearest, torch, contain), as ViTImageProcessor of transformers "
            "5.1 does",
        ),
        (
            {"crop": 192, "pipeline": CROPPED | {"crop": [192, 192]}},
            ", cropped to 192×192, as create_transform of timm 1.0 does, but with crop 192 as "
            "asked",
        ),
    ],
)
def test_how_images_were_made_is_told(made, said):
    data = evaluation().header["data"] | {"transform": made}
    whose = "200 test images of 5,000 MNIST digits"
    assert f"on {whose}{said}. " in words(of(evaluation(), data=data))
    audited = full()
    entry = {"n": 200, "split": "test", "title": "5,000 MNIST digits", "transform": made}
    assert f"on {whose}{said} (budget" in words(of_audit(replace(audited, data=entry)))


def test_a_subset_of_the_classes_is_told():
    some = {"class_map": {"numbers": {"a": 3, "b": 7, "c": 7}}}
    data = evaluation().header["data"] | {"source": some}
    assert "digits (2 of the 10 classes). " in words(of(evaluation(), data=data))
    every = {"class_map": {"numbers": {str(i): 9 - i for i in range(10)}}}
    assert "classes)" not in words(of(evaluation(), data=data | {"source": every}))


@pytest.mark.parametrize(
    "methods", [of(evaluation()), of_audit(full()), of_audit(minimal()), of_study(outcome())]
)
def test_what_is_cited_has_an_entry(methods):
    told = publications(words(methods))
    listed = {cited([key]) for key in methods.keys}
    assert told <= listed
    assert all(key in entries() for key in methods.keys)
    for key in methods.keys:
        assert methods.bibtex.count(f"{{{key},") == 1
    assert methods.bibtex.startswith("@software{robustkit,")
    assert "PLACEHOLDER" in methods.bibtex
    assert "http" not in methods.bibtex


def test_a_surrogate_a_target_and_no_attack_are_told():
    found = evaluation()
    protocol = found.header["protocol"]
    assert "crafted on other.pt" in words(of(found, surrogate={"path": "other.pt"}))
    towards = protocol["resolved"] | {"target": "next"}
    assert "targeted (next)" in words(of(found, protocol=protocol | {"resolved": towards}))
    none = protocol | {"resolved": protocol["resolved"] | {"attacks": []}}
    assert "Nothing was attacked." in words(of(found, protocol=none))
    assert "counts as robust" not in words(of(found, protocol=none))
    assert "madry2018towards" not in of(found, protocol=none).bibtex


@pytest.mark.parametrize("order", ["bisect", "scan"])
@pytest.mark.parametrize("kinds", [["pgd"], ["deepfool", "pgd"], ["deepfool", "sigma-zero"]])
@pytest.mark.parametrize("budgets", [("0.1",), ("0.1", "0.2")])
def test_in_which_order_budgets_were_tried_is_told_where_there_was_one(order, kinds, budgets):
    told = {"bisect": "Budgets were bisected for each", "scan": "from the smallest up to the first"}
    found = evaluation(epsilons=budgets)
    protocol = found.header["protocol"]
    resolved = dict(protocol["resolved"]) | {"attacks": [{"kind": kind} for kind in kinds]}
    resolved.pop("search", None)
    if order == "bisect" and len(budgets) > 1:
        resolved["search"] = "bisect"
    protocol = protocol | {"resolved": resolved}
    made, audited = outcome(), full()
    stages = [stage.name for stage in audited.stages if stage.status == "complete"]
    texts = [
        words(of(found, protocol=protocol)),
        words(of_study(replace(made, protocols={"any": protocol}))),
        words(of_audit(replace(audited, protocols={stages[0]: protocol_toml(protocol)}))),
    ]
    for text in texts:
        for other, said in told.items():
            right = other == order and len(budgets) > 1 and "pgd" in kinds
            assert text.count(said) == right, (other, text)


def test_proofs_that_were_held_against_attacks_are_counted():
    found = evaluation()
    on = found.header | {"prove": {"asked": "auto", "on": True, "why": ""}}
    some, none = (
        replace(found, header=on, run=found.run | {"proof": {"attacked": n}}) for n in (23, 0)
    )
    older = replace(found, header=on)
    spared = "prove robust at a budget were not attacked there"
    for evaluations, told in (
        ([some], f"{spared}, but for 23 pairs of image and budget, drawn at random to check"),
        ([some, found, some], f"{spared}, but for 46 pairs of image and budget, drawn"),
        ([none], f"{spared}. "),
        ([older], f"{spared}. "),
    ):
        assert told in words(of_evaluations(evaluations, found.clean()))
    assert spared not in words(of(found))


def test_an_audit_names_what_completed_and_what_else_was_tried():
    text = words(of_audit(full()))
    assert "a claim of 53.2\u00a0% robust accuracy at ε = 8/255 (ℓ∞)" in text
    assert "PGD (Madry et al., 2018; steps 40, relative step 1/16, restarts 5)" in text
    assert "3 indicators of failing attacks were examined" in text
    assert "Common corruptions (Hendrycks and Dietterich, 2019): 13 kinds, 1,000 images" in text
    assert "surrogate" not in text  # its stage was skipped
    failed = [replace(s, status="failed") if s.name == "pgd" else s for s in full().stages]
    assert "PGD" not in words(of_audit(replace(full(), stages=tuple(failed))))
    card = model_card(full())
    assert "### Methods\n" in card
    assert "```bibtex\n@software{robustkit," in card


def test_a_study_names_methods_seeds_and_tests_once():
    text = words(of_study(outcome()))
    assert text.count("We compared ") == 1
    assert "random seeds" in text
    assert text.count("counts as robust") <= 1
    for panel in outcome().panels:
        for comparison in panel.comparisons:
            assert comparison.test in text


def test_a_study_says_how_each_method_was_trained():
    read = evidence.read_evidence(shipped("reports") / "gradient-compression/evidence.parquet")
    study = replace(outcome(), file=read.study.text, changes=read.study.changes)
    made = of_study(study)
    assert "one-bit: cross-entropy, gradients compressed by one-bit (Seide et al., 2014)" in words(
        made
    )
    assert "{seide2014onebit," in made.bibtex
    assert re.search(
        r" was trained on .*mnist.* for 4,000 updates of up to 64 images\.", words(made)
    )
    study = replace(outcome(), file=(shipped("reports") / "liu2016-mnist.toml").read_text())
    told = "L-softmax m=2: large-margin softmax (Liu et al., 2016; m 2, base 1,000, gamma 0.0075"
    assert told in words(of_study(study))
    margin = replace(
        outcome(), file=(shipped("reports") / "elsayed2018-mnist-losses.toml").read_text()
    )
    assert "l1-margin: large-margin loss (Elsayed et al., 2018; norm ℓ₁, " in words(
        of_study(margin)
    )
    assert "hinge: multi-class hinge loss (Crammer and Singer, 2001)" in words(of_study(margin))


@pytest.fixture(scope="module")
def published():
    """The paragraph of each published study that a test asks for, in sentences."""
    known = {}

    def told(name):
        if name not in known:
            read = evidence.read_evidence(shipped("reports") / name / "evidence.parquet")
            text = words(of_study(judge_study(read.study, read.findings)))
            known[name] = re.split(r"(?<=\.) (?=[A-Z])", text.replace("\u00a0", " "))
        return known[name]

    return told


GRADIENTS, LENGTH = "gradient-compression", "elsayed2018-mnist-length"
FEWEST, FRACTIONS = "elsayed2018-mnist-fewest", "elsayed2018-mnist-fractions"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            FEWEST,
            "Each network (mnist-cnn) was trained on 0.125 % of the training images of mnist that "
            "are not held out for 1,075 updates of up to 128 images.",
        ),
        (
            FRACTIONS,
            "Each network (mnist-cnn) was trained on 1 %, 10 % or 100 % of the training images of "
            "mnist that are not held out for 4,300 updates of up to 128 images.",
        ),
        (
            LENGTH,
            "Each network (mnist-cnn) was trained on mnist for 8,600 updates of up to 128 images.",
        ),
        (
            LENGTH,
            "Label noise (symmetric): 80 % of the training labels, and of those held out.",
        ),
        (
            GRADIENTS,
            "Label noise (symmetric): 0 % and 40 % of the training labels, and of those held out.",
        ),
        (GRADIENTS, "Attacked were networks that were trained with 0 % label noise."),
        (FRACTIONS, "Attacked were networks that were trained on 100 % of the training images."),
        (
            LENGTH,
            "In “Accuracy at the pass that held-out labels choose”, networks are judged after the "
            "pass over the data, of 1, 2, 4, 8, 12, 16 and 20, selected by held-out accuracy "
            "averaged over the last three passes.",
        ),
        (
            FRACTIONS,
            "By transfer, adversarial examples were crafted on the surrogate, a network that was "
            "trained with cross-entropy and seed 1000 and is not among those compared.",
        ),
        (
            FEWEST,
            "Comparisons by 95 % intervals, equivalent where these lie within ±Δ: two-way t, 20 "
            "paired seeds, 10,000 images, Δ = 1 point.",
        ),
        (
            FRACTIONS,
            "Comparisons by simultaneous 95 % intervals, equivalent where these lie within ±Δ: "
            "two-way t, Bonferroni over 3 levels, 5 paired seeds, 10,000 images, Δ = 0.5 points; "
            "two-way t, Bonferroni over 5 levels, 5 paired seeds, 1,000 images, Δ = 2 points.",
        ),
    ],
)
def test_a_published_study_tells_what_its_networks_were_trained_on_and_judged_by(
    published, name, said
):
    assert said in published(name)


def test_names_that_have_a_comma_themselves_are_told_apart(published):
    [compared] = [t for t in published("gradient-compression-processes") if "We compared" in t]
    assert compared.startswith("We compared plain; one-bit; one-bit, 4 processes; ")


@pytest.mark.parametrize(
    ("name", "unsaid"),
    [
        (FEWEST, "Label noise"),
        (FRACTIONS, "label noise"),
        (LENGTH, "of the training images"),
        (LENGTH, "Attacked"),
        (GRADIENTS, "judged after"),
        (LENGTH, "By transfer"),
    ],
)
def test_what_a_study_does_not_have_is_not_told(published, name, unsaid):
    assert not [text for text in published(name) if unsaid in text]


def test_a_study_of_networks_made_elsewhere_tells_the_noise_and_fractions_that_they_had():
    noisy, little, attacked = outcome().panels
    text = words(of_study(replace(outcome(), panels=(noisy, attacked), judgements=())))
    assert (
        "Label noise: 0\u00a0%, 20\u00a0%, 40\u00a0%, 60\u00a0% and 80\u00a0% of the training"
        in text
    )
    assert "held out" not in text
    assert "Δ = 0.5 points" in text
    text = words(of_study(replace(outcome(), panels=(little, attacked), judgements=())))
    assert "Networks were trained on 0.125\u00a0%, 0.5\u00a0%, 1\u00a0%" in text
    assert "or 100\u00a0% of the training images." in text
    assert "Label noise" not in text
    assert "Δ" not in text  # no difference counts as none where only attacks are compared


def test_several_protocols_are_told_apart():
    """Each panel counts its own protocol alone, and equal threat models are told once."""
    first = outcome().protocols["pgd"]
    wider = [{"epsilon": "0.4", "value": 0.4}]
    for protocols, threats in (
        ({"pgd": first}, ["Threat model: "]),
        ({"pgd": first, "again": first}, ["Threat model: "]),
        (
            {"pgd": first, "again": first, "wide": first | {"epsilons": wider}},
            ["Threat model of pgd and again: ", "Threat model of wide: "],
        ),
        ({"none": first | {"resolved": first["resolved"] | {"attacks": []}}}, []),
    ):
        text = words(of_study(replace(outcome(), protocols=protocols)))
        found = re.findall(r"Threat model[^:]*: ", text)
        assert found == threats
        several = len(protocols) > 1
        assert text.count("Attacks: FGSM (") == bool(threats), text
        assert text.count("none of the attacks finds") == (bool(threats) and not several)
        assert text.count("none of the attacks of that protocol finds") == several


def test_attacks_that_protocols_share_are_told_once():
    first = outcome().protocols["pgd"]
    fgsm = first | {"resolved": first["resolved"] | {"attacks": [{"kind": "fgsm"}]}}
    text = words(of_study(replace(outcome(), protocols={"a": first, "b": fgsm, "c": first})))
    assert text.count("Attacks of a and c: FGSM (") == text.count("Attacks of b: FGSM (") == 1
    assert text.count("Attacks") == 2


def test_several_protocols_with_other_orders_of_budgets_say_which_has_which():
    first = outcome().protocols["pgd"]
    scanned = first | {"resolved": {k: v for k, v in first["resolved"].items() if k != "search"}}
    bisected = first | {"resolved": first["resolved"] | {"search": "bisect"}}
    text = words(of_study(replace(outcome(), protocols={"a": scanned, "b": bisected})))
    assert "With b: budgets were bisected for each image" in text
    assert "With a: each attack tried" in text
    text = words(of_study(replace(outcome(), protocols={"a": bisected, "b": bisected})))
    assert text.count("Budgets were bisected for each image") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("elsayed2018-mnist-length", ""),  # nothing to choose from, though there is a score
        ("elsayed2018-mnist-fewest", ""),  # nor a score
        ("elsayed2018-mnist", "held-out accuracy: plain: learning rate 0.1."),
        (
            "liu2016-mnist-noise",
            "held-out accuracy averaged over the last three passes: plain: learning rate 0.1.",
        ),
    ],
)
def test_a_study_names_the_score_that_selected_configurations_where_one_did(name, said):
    told = outcome().provenance | {"Selected configurations": {"plain": "learning rate 0.1"}}
    file = (shipped("reports") / f"{name}.toml").read_text()
    text = words(of_study(replace(outcome(), file=file, provenance=told)))
    _, found, rest = text.partition("Configurations, selected by ")
    assert bool(found) == bool(said)
    assert rest.startswith(said)


@pytest.mark.parametrize("name", ["elsayed2018-mnist-length", "elsayed2018-mnist"])
def test_where_nothing_was_to_choose_from_no_configuration_is_called_selected(name, tmp_path):
    study = load_study(name)
    chosen = {f"{method.name} | noise 0": 0 for method in study.methods}
    tried = len(study.methods[0].choose) > 1
    plan = {"cells": {}, "tests": {}, "chosen": chosen, "candidates": [{}] if tried else []}
    asked = {"digest": study.digest, "amendments": []}
    told = provenance(study, StudyStore(tmp_path), asked, plan, {})
    assert ("Selected configurations" in told) == tried
    assert list(told)[:4] == ["Study", "Cells", "Data", "Versions"]


@pytest.mark.thorough
def test_a_page_of_several_has_one_list_of_publications():
    first, second = evaluation(), evaluation(epsilons=("4/255",), n=100)
    both = together([of(first), of(second)])
    assert len(both.paragraphs) == 2
    assert both.bibtex.count("@software") == both.bibtex.count("{madry2018towards,") == 1
    shown = page([first, second])
    assert shown.count('id="methods"') == 1
    assert shown.count("Threat model: ") == 2


def test_a_version_from_a_record_is_no_tex():
    assert "version = {1.0.0input}" in bibtex([], "1.0.0}\n\\input{")
