"""The way from `step()` to the wire is short, and docs/explanation/one-step.md names it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import spawn

PAGE = (spawn.ROOT / "docs" / "explanation" / "one-step.md").read_text(encoding="utf-8")

MOST_FRAMES, MOST_FILES_TO_THE_SEND, MOST_FILES = 9, 10, 14


def section(name: str) -> list[str]:
    """The lines of one marked list of the page."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert found, f"docs/explanation/one-step.md has no list {name}"
    return found.group(1).split("\n")


@pytest.fixture(scope="module", params=["mpi", "gloo"])
def noted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The notes of rank 0 of two on a steady step."""
    transport, folder = request.param, tmp_path_factory.mktemp("way")
    outcome = spawn.run_mpirun(2, ["-m", "workers.way", str(folder), transport])
    assert outcome.code == 0, outcome.output
    return transport, json.loads((Path(folder) / "0.json").read_text())


def test_the_send_is_few_frames_below_the_step(noted: tuple[str, dict[str, Any]]) -> None:
    _, way = noted
    assert len(way["frames"]) == 2, "an envelope and one bucket"
    for frames in way["frames"]:
        assert len(frames) <= MOST_FRAMES, frames
        assert len({file for file, _, _ in frames}) <= MOST_FILES_TO_THE_SEND


def test_a_steady_step_runs_few_files(noted: tuple[str, dict[str, Any]]) -> None:
    _, way = noted
    assert len(way["files"]) <= MOST_FILES, way["files"]


def test_the_page_names_the_way(noted: tuple[str, dict[str, Any]]) -> None:
    """Frames of comprehensions, which newer versions of Python have no more, are left out."""
    transport, way = noted
    frames = [(file, name, line) for file, name, line in way["frames"][0] if not name.startswith("<")]
    expected = [f"{number}. `{file}:{line}` `{name}`" for number, (file, name, line) in enumerate(frames, start=1)]
    assert section(transport) == expected, "copy the right side into docs/explanation/one-step.md"


def test_the_page_names_the_files_of_a_step(noted: tuple[str, dict[str, Any]]) -> None:
    transport, way = noted
    if transport == "mpi":
        named = sorted(line.split("`")[1] for line in section("files mpi"))
        assert named == way["files"]
