"""What CONTRIBUTING shows, done."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.thorough
def test_the_attack_that_is_added_from_end_to_end_is_exact(tmp_path):
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"<!-- example -->\n```diff\n(.*?)```", told, flags=re.DOTALL)
    for name in ("robustkit", "attacks", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "test_attack.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    shutil.copytree(ROOT / "tests/helpers", tmp_path / "tests/helpers")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    # -m puts the copy before what is installed
    tests = python("-m", "pytest", "-p", "no:cacheprovider", "tests/test_attack.py", "-k", "cosine")
    assert tests.returncode == 0, tests.stdout
    assert "6 passed" in tests.stdout  # three norms, two losses
    listed = python("-m", "robustkit", "list", "attacks")
    assert re.search(r"^cosine-pgd .*linf, l2, l1", listed.stdout, flags=re.MULTILINE), listed
