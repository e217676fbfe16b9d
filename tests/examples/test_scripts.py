"""Each script of examples/ does what its first lines say, under mpirun."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from commands import code_of
from emulated import real
from spawn import ROOT, run_mpirun

EXAMPLES = ROOT / "examples"


def started(name: str, *arguments: object, size: int = 2) -> str:
    """The output of `mpirun -n size python examples/name arguments...`."""
    outcome = run_mpirun(size, [str(EXAMPLES / name), *map(str, arguments)])
    assert outcome.code == 0, outcome.output
    return outcome.output


def test_digits() -> None:
    said = re.findall(r"rank (\d) of 2: test accuracy (\S+)%, (\S+) kB sent", started("digits.py"))
    assert sorted(rank for rank, *_ in said) == ["0", "1"]
    for _, accuracy, sent in said:
        assert float(accuracy) > 93
        # 9,610 parameters in a step, a tenth of that for the averages, and 24 bytes of envelope.
        assert float(sent) == pytest.approx(4 * 9.61, rel=0.05)


def test_own_graph() -> None:
    said = re.findall(r"rank \d of 2: (\S+), and the mean of all ranks is 0.5", started("own_graph.py"))
    assert [float(value) for value in said] == pytest.approx([0.5, 0.5], abs=0.02)


def test_resume_goes_on_where_the_last_run_ended_on_any_number_of_ranks(tmp_path: Path) -> None:
    assert sorted(re.findall(r"begins at step (\d+)", started("resume.py", tmp_path / "run", 20))) == ["0", "0"]
    said = started("resume.py", tmp_path / "run", 30, size=3)
    assert re.findall(r"begins at step (\d+)", said) == ["20"] * 3
    assert re.findall(r"ends at step (\d+)", said) == ["30"] * 3


@real
def test_hierarchical(capfd: pytest.CaptureFixture[str]) -> None:
    hosts = ["--nodes", "2", "--ranks-per-node", "2", "--rate", "1gbit", "--timeout", "100"]
    assert code_of("cluster", *hosts, "--", sys.executable, str(EXAMPLES / "hierarchical.py")) == 0
    said = re.findall(r"(host\d), rank \d: loss (\S+), norm of the parameters (\S+)", capfd.readouterr().out)
    norms = {host: [norm for at, _, norm in said if at == host] for host in ("host0", "host1")}
    assert [len(found) for found in norms.values()] == [2, 2]
    assert all(len(set(found)) == 1 for found in norms.values()), "ranks of a host are equal, bit for bit"
    assert all(float(loss) < 1 for _, loss, _ in said)


def test_evaluate_mean(tmp_path: Path) -> None:
    said = re.findall(r"epoch \d: test accuracy of the mean (\S+)%", started("evaluate_mean.py", tmp_path / "model.pt"))
    assert len(said) == 10
    assert float(said[-1]) > 93
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert [tuple(each.shape) for each in state.values()] == [(128, 64), (128,), (10, 128), (10,)]


def test_language_model() -> None:
    said = started("language_model.py", "--steps", 60, "--period", 12)
    losses = re.findall(r"rank \d of 2: test loss (\S+) nats per character", said)
    assert len(losses) == 2
    assert losses[0] == losses[1], "the last step was an exact average"
    assert float(losses[0]) < 3, "the frequencies of characters alone give 3.1"
