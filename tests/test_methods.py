"""The methods paragraph and the BibTeX of a report say what is on record, and nothing else."""

import re
from dataclasses import replace

import pytest
from helpers.audits import full, minimal
from helpers.evaluations import evaluation
from helpers.outcomes import outcome

from robustkit.analysis import evidence
from robustkit.files import shipped
from robustkit.losses import LOSSES
from robustkit.protocol import KINDS
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


def test_every_training_loss_has_a_name_and_a_publication():
    for name in LOSSES:
        assert bool(loss_reference(name).keys) == (name != "cross-entropy"), name
    assert loss_reference("own/focal.py:focal") == ("focal", ())


def test_the_entries_are_whole_and_each_is_used():
    attacks = [
        {"kind": kind, "loss": loss, **more}
        for kind in KINDS
        for loss in ("dlr", "margin")
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
    assert "was trained on mnist5k for " in words(made) or "was trained on mnist for " in words(
        made
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
