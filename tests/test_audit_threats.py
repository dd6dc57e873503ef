"""Audits of threats that are no ball: their own stages, and what does not ask of them."""

from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from helpers import schemas
from helpers.crews import TakingTurns

from robustkit import evaluation
from robustkit.auditing.plan import load_plan
from robustkit.auditing.request import threat_model
from robustkit.auditing.run import AuditRequest, run_audit
from robustkit.auditing.stages import StageSettings
from robustkit.auditing.stored import encoded
from robustkit.auditing.verdict import parse_claim
from robustkit.checkpoint import read_checkpoint
from robustkit.data import load_dataset
from robustkit.errors import ProtocolError
from robustkit.evaluation import blocks, spreading
from robustkit.protocol.norms import symbol
from robustkit.reporting.audit import read_audit, write

PLAN = """
title      = "Tiny"
images     = 5
delta      = 0.2
indicators = 2
certified  = 4
multiplications = 2e9
corrupted  = 1

[[stage]]
attack   = "pgd"
budgets  = "all"
required = true

[[stage]]
attack   = "{attack}"
budgets  = "all"
required = true
"""
ATTACKS = {
    "l0": """
title = "Tiny"
norm  = "l0"
attack = [{kind = "sigma-zero", steps = 5}, {kind = "sparse-rs", queries = 10}]
""",
    "spatial": """
title = "Tiny"
norm  = "spatial"
attack = [{kind = "spatial-grid", angles = 3, shifts = 2}, {kind = "spatial-random", draws = 2}]
""",
}
JUDGED = {"l0": "10", "spatial": "30deg+3px"}
FAMILIES = {"l0": ["white box", "black box"], "spatial": ["black box", "black box"]}
STAGES = {
    "l0": ["tiny.toml: sigma-zero", "tiny.toml: sparse-rs"],
    "spatial": ["tiny.toml: spatial-grid", "tiny.toml: spatial-random"],
}


def timeless(audit):
    """All that is found and is no array, but for times and the devices' names."""
    stages = [replace(stage, seconds=None) for stage in audit.stages]
    return replace(audit, stages=tuple(stages), provenance={}, examples=())


@pytest.mark.thorough
@pytest.mark.parametrize("norm", ["l0", "spatial"])
def test_an_audit_has_the_stages_of_its_threat_and_a_page(norm, tmp_path, monkeypatch):
    attack, path = tmp_path / "tiny.toml", tmp_path / "plan.toml"
    attack.write_text(ATTACKS[norm])
    path.write_text(PLAN.format(attack=attack))
    for module in ("stages", "counts"):
        monkeypatch.setattr(f"robustkit.auditing.{module}.plain_attack", lambda norm: str(attack))
    monkeypatch.setattr(blocks, "block_size", lambda data, device: 2)
    images = load_dataset("mnist5k", limit=5)
    claim = parse_claim(f"{norm}:{JUDGED[norm]}=0.9")
    asked = AuditRequest(
        model=evaluation.from_checkpoint(read_checkpoint("lenet5-mnist5k")),
        data=images,
        threat=threat_model(images, claim),
        plan=load_plan(str(path)),
        claim=claim,
        budget="tiny",
        command="robustkit audit",
    )

    def audited(folder, device):
        options = evaluation.RunOptions(device=device)
        return run_audit(asked, StageSettings(folder, options, lambda part, n: lambda done: None))

    audit = audited(tmp_path, "cpu")
    names = [stage.name for stage in audit.stages if stage.name != "adaptive"]
    assert [name.removeprefix(f"{tmp_path}/") for name in names] == STAGES[norm]
    assert all(stage.status == "complete" for stage in audit.stages)
    assert [s.family for s in audit.stages if s.name != "adaptive"] == FAMILIES[norm]
    told = {item.text.partition(":")[0]: item.how for item in audit.checklist}
    assert ("the weights" in told["State a precise threat model"]) == (norm == "l0")
    assert "No attack without gradients" not in " ".join(told.values())
    assert ("no rotation" in told["Test broader threats"]) == (norm == "l0")
    assert [level.epsilon for level in audit.robust][-1] == JUDGED[norm]
    jsonschema.validate(encoded(audit), schemas.AUDIT)
    assert audit.certificate.reason == f"there are no bounds for {symbol(norm)}"
    status = {result.name: result.status for result in audit.indicators}
    assert {status[n] for n in ("half", "silent-success", "other-class")} == {"not applicable"}
    assert (status["zero-gradients"] == "not applicable") == (norm == "spatial")
    assert (status["black-beats-white"] == "not applicable") == (norm != "l0")
    if norm == "l0":  # one comparison is enough, and one page
        monkeypatch.setattr(spreading, "Processes", crew := TakingTurns([1]))
        several = audited(tmp_path / "several", "cpu,cpu")
        assert len(crew.benches) == 2
        assert timeless(several) == timeless(audit)
        for one, other in zip(several.examples, audit.examples, strict=True):
            assert np.array_equal(one.perturbed, other.perturbed)
        return
    write(audit, tmp_path / "out")
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "ε (rotation and translation)" in page
    assert JUDGED[norm] in page
    assert read_audit(tmp_path / "out" / "audit.json").norm == norm


def test_an_audit_judges_the_usual_budgets_of_the_same_proportion():
    images = load_dataset("mnist5k", limit=1)
    both = threat_model(images, norm="spatial", epsilon="20deg+2px")
    assert [e.text for e in both.budgets] == ["10deg+1px", "20deg+2px"]
    turned = threat_model(images, norm="spatial", epsilon="20deg")
    assert [e.text for e in turned.budgets] == ["20deg"]
    with pytest.raises(ProtocolError, match="counts pixels; give a whole number"):
        threat_model(images, norm="l0", epsilon="0.1")
