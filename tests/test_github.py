"""The GitHub Action, the pre-commit hook and the image: their steps, run as those who use them would."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.audits import full, minimal
from packaging.requirements import Requirement
from packaging.version import Version

from robustkit.auditing.stored import encoded
from robustkit.record import Store

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
ACTION = GITHUB / "actions" / "audit"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FAKE = """#!{python}
import json, sys, pathlib
pathlib.Path("asked.json").write_text(json.dumps(sys.argv[1:]))
*_, out = (a.removeprefix("--out=") for a in sys.argv if a.startswith("--out="))
if {status} < 2 and "--help" not in sys.argv:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    pathlib.Path(out, "audit.json").write_text({found!r})
sys.exit({status})
"""


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load((ACTION / "action.yml").read_text())


@pytest.fixture
def step(action, tmp_path):
    """Run the action's last step as a runner does, beside a robustkit that notes what it is asked."""

    def run(status=0, found=None, **inputs):
        fake = tmp_path / "bin" / "robustkit"
        fake.parent.mkdir(exist_ok=True)
        text = json.dumps(encoded(found or full()))
        fake.write_text(FAKE.format(python=sys.executable, status=status, found=text))
        fake.chmod(0o755)
        (fake.parent / "python").unlink(missing_ok=True)
        (fake.parent / "python").symlink_to(sys.executable)
        last = action["runs"]["steps"][-1]
        given = {name: str(entry.get("default", "")) for name, entry in action["inputs"].items()}
        given |= {name.replace("_", "-"): value for name, value in inputs.items()}
        environment = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: given[m[1]], value)
            for name, value in last["env"].items()
        }
        output = tmp_path / "output"
        output.write_text("")
        environment |= {"GITHUB_ACTION_PATH": str(ACTION), "GITHUB_OUTPUT": str(output)}
        environment |= {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", last["run"]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        told = dict(line.split("=", 1) for line in output.read_text().splitlines())
        noted = tmp_path / "asked.json"
        asked = json.loads(noted.read_text()) if noted.exists() else []
        return done.returncode, told, asked

    return run


def test_the_step_passes_its_inputs_on_and_tells_what_was_found(step):
    status, told, asked = step(
        checkpoint="nets/my net.pt",
        policy="gate.toml",
        arguments="--claim=linf:8/255=0.45\n\n--data=my data\r\n",
        out="report",
    )
    assert status == 0
    assert asked == [
        "audit",
        "--claim=linf:8/255=0.45",
        "--data=my data",
        "--out=report",
        "--policy=gate.toml",
        "--junit=report/junit.xml",
        "--sarif=report/rules.sarif",
        "--",
        "nets/my net.pt",
    ]
    assert told == {
        "status": "0",
        "sarif": "report/rules.sarif",
        "verdict": "overstated",
        "robust-accuracy": "0.451",
    }


def test_without_a_policy_no_rules_are_written_and_the_unknown_is_empty(step):
    status, told, asked = step(checkpoint="x.pt", found=minimal())
    assert (status, asked) == (0, ["audit", "--out=audit", "--", "x.pt"])
    assert told["sarif"] == told["robust-accuracy"] == ""
    assert told["verdict"] == "not established"


@pytest.mark.parametrize(
    ("ends", "fail", "status"), [(1, "true", 1), (1, "false", 0), (2, "false", 2), (3, "true", 3)]
)
def test_a_rule_that_fails_fails_the_step_where_it_should_and_errors_always_do(
    step, tmp_path, ends, fail, status
):
    before = report_of_before(tmp_path)
    found, told, _ = step(ends, checkpoint="x.pt", policy="gate.toml", fail=fail)
    assert found == status
    assert told["status"] == str(ends)
    # an audit that broke off has found nothing
    assert told.get("verdict") == ("overstated" if ends < 2 else None)
    assert (before.read_text() == json.dumps(encoded(minimal()))) == (ends > 1)
    assert [path.name for path in before.parent.iterdir()] == ["audit.json"]


@pytest.mark.parametrize("ends", [0, 1])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_run_that_writes_no_report_fails_and_tells_nothing(step, tmp_path, ends, earlier):
    """However the command ends: the report of another run is no answer to this one."""
    if earlier:
        before = report_of_before(tmp_path)
    found, told, _ = step(ends, checkpoint="x.pt", arguments="--help", fail="false")
    assert (found, told) == (3, {"status": "3"})
    if earlier:
        assert json.loads(before.read_text())["verdict"]["word"] == "not established"


def report_of_before(folder):
    (folder / "audit").mkdir()
    before = folder / "audit" / "audit.json"
    before.write_text(json.dumps(encoded(minimal())))
    return before


def test_arguments_do_not_lead_the_outputs_elsewhere(step, tmp_path):
    status, told, asked = step(checkpoint="x.pt", arguments="--out=elsewhere", policy="gate.toml")
    assert (status, told["verdict"]) == (0, "overstated")
    assert (asked[1], asked[2], asked[-2:]) == ("--out=elsewhere", "--out=audit", ["--", "x.pt"])
    assert [path.name for path in tmp_path.glob("*/audit.json")] == ["audit.json"]
    assert (tmp_path / told["sarif"]).parent == tmp_path / "audit"


def test_no_input_is_code(action, step, tmp_path):
    for text in ("$(touch made) `touch made`; touch made #", "--help ' \" \\"):
        _, _, asked = step(checkpoint=text, policy=text, arguments=text, out=f"out {text}")
        assert asked[1] == asked[-1] == text
        assert not (tmp_path / "made").exists()
    assert not any("${{" in step.get("run", "") for step in action["runs"]["steps"])


def test_no_input_sets_an_output(step):
    status, told, _ = step(2, checkpoint="x\nverdict=believable", out="a\nverdict=believable")
    assert (status, told) == (2, {})


def test_the_action_installs_what_it_stands_beside(action):
    (install,) = (s["run"] for s in action["runs"]["steps"] if "pip install" in s.get("run", ""))
    places = [
        p.replace("$GITHUB_ACTION_PATH", str(ACTION)) for p in re.findall(r'"([^"]+)"', install)
    ]
    assert [Path(place).resolve() for place in places] == [GITHUB / "constraints.txt", ROOT]


def test_every_output_is_set_by_a_step(action):
    script = (ACTION / "audit.sh").read_text()
    for name, output in action["outputs"].items():
        assert output["value"] == f"${{{{ steps.audit.outputs.{name} }}}}"
        assert f"{name}=" in script


# ---- what is installed


def test_the_constraints_are_versions_that_the_package_takes_and_no_host():
    lines = [
        line for line in (GITHUB / "constraints.txt").read_text().splitlines() if line[0] != "#"
    ]
    fixed = {Requirement(line).name: Requirement(line) for line in lines}
    extras = (
        text for name in ("hf", "timm", "onnx") for text in PROJECT["optional-dependencies"][name]
    )
    for text in [*PROJECT["dependencies"], *extras]:
        asked = Requirement(text)
        if any(spec.operator == "==" for spec in asked.specifier):
            continue
        (spec,) = fixed.pop(asked.name).specifier
        assert spec.operator == "=="
        assert asked.specifier.contains(Version(spec.version.replace("*", "999"))), asked
    assert not fixed
    assert "://" not in "".join(lines)


def test_the_image_is_built_from_what_the_package_is_made_of():
    ignored = (GITHUB / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    needed = {
        *wheel["only-include"],
        "pyproject.toml",
        PROJECT["readme"],
        *PROJECT["license-files"],
    }
    assert needed | {".github/constraints.txt"} == kept
    assert all((ROOT / path).exists() for path in kept)
    dockerfile = (GITHUB / "Dockerfile").read_text()
    assert "--constraint .github/constraints.txt" in dockerfile
    assert "://" not in dockerfile


# ---- the hook


def test_the_hook_takes_what_robustkit_writes_and_finds_what_was_changed(robustkit, tmp_path):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    evidence = next((ROOT / "reports").glob("*/evidence.parquet"))
    record = Store(tmp_path / "runs").path("0123456789abcdef" * 4)
    for path in (record, evidence, Path("audit/audit.json")):
        assert re.search(hook["files"], path.as_posix())
    for path in ("data.parquet", "other.json", f"{record}.bak"):
        assert not re.search(hook["files"], path)
    program, *entry = hook["entry"].split()
    assert program == "robustkit"
    kept, text = tmp_path / "audit.json", json.dumps(encoded(full()))
    kept.write_text(text)
    assert robustkit(*entry, kept, evidence)[0] == 0
    kept.write_text(text.replace("0.451", "0.951"))
    status, out, _ = robustkit(*entry, kept, evidence)
    assert status == 2
    assert f"{kept}: changed since it was written" in out
