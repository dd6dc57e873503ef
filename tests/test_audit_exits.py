"""Exit statuses of `robustkit audit`: what a pipeline goes by, and the lines that it shows."""

import os
import subprocess
from xml.etree import ElementTree

import pytest
from helpers import warm
from helpers.audits import audited

from robustkit.errors import EvaluationFailed, InputError
from robustkit.files import shipped

HOLDS = '[[require]]\naccuracy = "clean"\nat_least = 0.5\n'
FAILS = '[[require]]\nunresolved_indicators = 0\n\n[[require]]\nverdict = "believable"\n'
AUDIT = ("audit", "lenet5-mnist5k", "--limit", "5", "--device", "cpu", "--out", "a")
PLAN = (shipped("reports") / "audit" / "quick.toml").read_text()


@pytest.fixture
def audit(robustkit, monkeypatch, tmp_path):
    """The command, with what it says: of an audit that is done, or that ends as told."""

    def run(*more, gate="", plan="", ends=None):
        def told(request, settings):
            if ends is not None:
                raise ends
            return audited(request, settings)

        monkeypatch.setattr("robustkit.calls.audit.run_audit", told)
        monkeypatch.setattr("robustkit.reporting.audit.page", lambda audit: "drawn elsewhere")
        if gate:
            (tmp_path / "gate.toml").write_text(f'title = "gate"\n{gate}')
            more = (*more, "--policy", "gate.toml")
        if plan:
            (tmp_path / "plan.toml").write_text(plan)
            more = (*more, "--budget", "plan.toml")
        return robustkit(*AUDIT, *more)

    return run


def test_a_verdict_alone_fails_no_command(audit):
    status, out, err = audit()
    assert status == 0
    assert "is overstated by" in out
    assert "policy" not in err


def test_rules_that_hold_are_status_0(audit):
    status, _, err = audit(gate=HOLDS)
    assert status == 0
    assert "policy" not in err


def test_rules_that_fail_are_status_1_and_a_line_each(audit, tmp_path):
    status, _, err = audit("--junit", "junit.xml", gate=HOLDS + FAILS)
    assert status == 1
    told = [line for line in err.splitlines() if line.startswith("robustkit: policy: ")]
    assert len(told) == 2
    assert "1 indicator that could not be examined" in told[0]
    assert "The verdict is overstated" in told[1]
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("failures") == "2"


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("closed", [">&- 2>&-", "| head -c 1", ">/dev/full"])
def test_a_rule_that_fails_is_status_1_whoever_listens(tmp_path, closed):
    (tmp_path / "gate.toml").write_text(f'title = "gate"\n{FAILS}')
    code = (
        "import robustkit.calls.audit; from helpers import audits as t; from robustkit import cli; "
        "robustkit.calls.audit.run_audit = t.audited; "
        "robustkit.reporting.audit.page = lambda audit: 'drawn elsewhere'; cli.main()"
    )
    tests = os.path.dirname(__file__)  # noqa: PTH120
    line = [*warm.command(), "-c", code, *AUDIT, "--policy", "gate.toml"]
    shell = f'{{ "$@"; echo $? > status; }} {closed}'
    subprocess.run(
        ["sh", "-c", shell, "sh", *line],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": tests},
    )
    assert (tmp_path / "status").read_text() == "1\n"


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        (InputError("checkpoint and data do not fit"), 2),
        (EvaluationFailed("image 3 is certified and was fooled"), 3),
        (ValueError("what nobody foresaw"), 3),
        (AssertionError(), 3),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_audit_that_ends_early_is_never_a_policy_that_fails(audit, tmp_path, ends, status):
    found, out, err = audit("--junit", "junit.xml", gate=FAILS, ends=ends)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "junit.xml").exists()


@pytest.mark.parametrize("name", ["a/audit.json", "junit.xml/x"])
def test_a_report_that_cannot_be_written_is_status_3(audit, tmp_path, name):
    (tmp_path / "junit.xml").write_text("in the way")
    if name.startswith("a/"):
        (tmp_path / name).mkdir(parents=True)
    junit = "other.xml" if name.startswith("a/") else name
    status, _, err = audit("--junit", junit, gate=FAILS)
    assert status == 3
    assert "cannot" in err


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("require = []\n", "at least one"),
        ("[[require]]\nunresolved_indicators = 0\nunexamined_indicators = 3\n", "unknown key"),
        ('[[require]]\nverdict = "believable"\ndelta = 5.0\n', "0.05 for 5 points"),
        ("[[require]]\nrobust = 3\n", "at_least"),
        ("[[require", "gate.toml"),
    ],
)
def test_a_policy_that_makes_no_sense_is_status_2_before_any_work(audit, gate, message):
    status, out, err = audit(gate=gate, ends=AssertionError("begun"))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("delta", "message"),
    [("", "the key 'delta' is missing"), ("delta      = 5.0\n", "0.05 for 5 points, got 5")],
)
def test_a_plan_without_a_delta_is_status_2(audit, delta, message):
    assert "delta      = 0.05\n" in PLAN
    plan = PLAN.replace("delta      = 0.05\n", delta)
    status, _, err = audit(plan=plan, ends=AssertionError("begun"))
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert audit(plan=PLAN)[0] == 0
