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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the scripts write."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """The output of all scripts, each on two ranks."""
    outcome = run_mpirun(2, ["-m", "workers.examples", str(folder)])
    assert outcome.code == 0, outcome.output
    return outcome.output


def test_digits(said: str) -> None:
    found = re.findall(r"rank (\d) of 2: test accuracy (\S+)%, (\S+) kB sent", said)
    assert sorted(rank for rank, *_ in found) == ["0", "1"]
    for _, accuracy, sent in found:
        assert float(accuracy) > 93
        # 9,610 parameters in a step, a tenth of that for the averages, and 24 bytes of envelope.
        assert float(sent) == pytest.approx(4 * 9.61, rel=0.05)


def test_own_graph(said: str) -> None:
    found = re.findall(r"rank \d of 2: (\S+), and the mean of all ranks is 0.5", said)
    assert [float(value) for value in found] == pytest.approx([0.5, 0.5], abs=0.02)


def test_resume_goes_on_where_the_last_run_ended(said: str) -> None:
    assert sorted(re.findall(r"begins at step (\d+)", said)) == ["0", "0", "20", "20"]
    assert sorted(re.findall(r"ends at step (\d+)", said)) == ["20", "20", "30", "30"]


def test_evaluate_mean(said: str, folder: Path) -> None:
    found = re.findall(r"epoch \d: test accuracy of the mean (\S+)%", said)
    assert len(found) == 10
    assert float(found[-1]) > 93
    state = torch.load(folder / "model.pt", weights_only=True)
    assert [tuple(each.shape) for each in state.values()] == [(128, 64), (128,), (10, 128), (10,)]


def test_language_model(said: str) -> None:
    losses = re.findall(r"rank \d of 2: test loss (\S+) nats per character", said)
    assert len(losses) == 2
    assert losses[0] == losses[1], "the last step was an exact average"
    assert float(losses[0]) < 3, "the frequencies of characters alone give 3.1"


def test_every_script_is_run(said: str) -> None:
    elsewhere = {
        "hierarchical.py",
        "lightning_digits.py",  # tests/integrations/test_lightning.py
    }
    run = {*re.findall(r"runs (\w+\.py)", said), *elsewhere}
    assert run == {path.name for path in EXAMPLES.glob("*.py")}


@real
def test_hierarchical(capfd: pytest.CaptureFixture[str]) -> None:
    hosts = ["--nodes", "2", "--ranks-per-node", "2", "--rate", "1gbit", "--timeout", "100"]
    assert code_of("cluster", *hosts, "--", sys.executable, str(EXAMPLES / "hierarchical.py")) == 0
    said = re.findall(
        r"(host\d), rank \d: loss (\S+), norm of the parameters (0x[0-9a-f.]+p[+-]\d+)", capfd.readouterr().out
    )
    norms = {host: [norm for at, _, norm in said if at == host] for host in ("host0", "host1")}
    assert [len(found) for found in norms.values()] == [2, 2]
    assert all(len(set(found)) == 1 for found in norms.values()), "ranks of a host are equal, bit for bit"
    assert all(float(loss) < 1 for _, loss, _ in said)
