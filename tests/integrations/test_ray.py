"""The workers of Ray Train are ranks, and a run goes on from its checkpoint on any number of them."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from spawn import ROOT, variables

EXAMPLE = ROOT / "examples" / "ray_digits.py"
PLAIN = ROOT / "tests" / "support" / "plain" / "ray_digits.py"


def code(path: Path) -> list[str]:
    """The lines of a script without its docstring, comments and empty lines."""
    lines = path.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    return [line for line in lines if line.strip() and not line.strip().startswith("#")]


def test_the_example_has_at_most_ten_lines_more_than_without_gossip() -> None:
    assert len(code(EXAMPLE)) - len(code(PLAIN)) <= 10
    changed = [line for line in difflib.ndiff(code(PLAIN), code(EXAMPLE)) if line.startswith("+ ")]
    assert len(changed) <= 15, "\n".join(changed)


def test_the_page_shows_the_example() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") in (ROOT / "docs" / "how-to" / "ray.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of all runs, on 2 and 4 workers."""
    pytest.importorskip("ray.train", reason="ray[train] is not installed")
    folder = tmp_path_factory.mktemp("ray")
    command = [sys.executable, "-m", "workers.raytrain", str(folder)]
    done = subprocess.run(
        command, env=variables({}), cwd=ROOT, capture_output=True, text=True, timeout=880, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-8000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_goes_on_with_other_numbers_of_workers(said: str) -> None:
    found = re.findall(r"(\d) workers: \{'accuracy': (\S+), 'epoch': (\d)\}", said)
    assert [(workers, epoch) for workers, _, epoch in found] == [("2", "2"), ("4", "5")]
    assert float(found[-1][1]) > 0.93


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_checkpoint_is_the_mean_and_is_restored_on_other_numbers_of_workers(said: str) -> None:
    """Parameters, momentum and slow momentum; the workers assert them."""
    found = re.findall(r"loop on (\d): begins at (\d+), error (\S+)", said)
    assert [(workers, begins) for workers, begins, _ in found] == [("2", "0"), ("4", "7")]
    assert all(float(error) < 1e-6 for *_, error in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_error_of_a_worker_reaches_the_caller(said: str) -> None:
    [failed] = re.findall(r"failed: (.*)", said)
    assert "LookupError: no data" in failed
