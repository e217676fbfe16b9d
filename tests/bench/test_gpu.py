"""`python -m bench gpu`, as far as it goes without a GPU."""

from __future__ import annotations

import pytest
import torch

from bench.__main__ import main
from bench.gpu import command, training
from bench.gpu.command import SIZES

STEP = {
    "model": "resnet50",
    "wire": "float32",
    "sent": 102.2e6,
    "bare": 0.1434,
    "osgp": 0.1439,
    "ratio": 1.0028,
    "host_blocked": 0.0557,
    "waits": {},
    "memory_in_models": 0.98,
    "pinned_in_models": 0.33,
}
FACTS = {
    "command": "python -m bench gpu",
    "date": "2026-01-01T00:00:00+00:00",
    "machine": {"gpu": "a GPU", "cores": 16, "processor": "a CPU"},
    "versions": {"torch": "2.11.0", "python": "3.12.3"},
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU, and this one has one")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu"]) == 2
    assert "this process sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(("make", "size"), [(training.resnet50, SIZES[0]), (training.GPT2, SIZES[1])])
def test_networks_have_their_size(make: type[torch.nn.Module], size: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == size


def test_the_report_has_each_figure_and_each_failure() -> None:
    ranks = {"transport": "mpi", "size": 2, "gpus": 1, "contract": "kept", "steps": [STEP], "failed": None}
    broken = {"transport": "nccl", "size": 2, "failed": "ended with code 1, 1"}
    waiting = {**STEP, "waits": {"cudaStreamSynchronize": 3}}
    text = command.markdown({"merging": [], "ranks": [ranks, broken, {**ranks, "steps": [waiting]}]}, FACTS)
    assert "| resnet50 | float32 | 102.2 MB | 143.4 ms | 143.9 ms | 1.0028 | 55.7 ms | 0 | 0.98 models | 0.33 |" in text
    assert "| 3 cudaStreamSynchronize |" in text
    assert "ended with code 1, 1" in text


@pytest.mark.slow
def test_ranks_that_share_a_gpu_are_started_and_heard() -> None:
    assert command.start_ranks("mpi", 2, ["--help"], timeout=60) is None
    heard = command.start_ranks("nccl", 2, ["gpu", "--ranks", "x"], timeout=60)
    assert heard is not None
    assert heard.startswith("ended with code ")
    assert "argument --ranks" in heard


def test_ranks_that_take_too_long_are_ended() -> None:
    heard = command.start_ranks("nccl", 2, ["--help"], timeout=0.5)
    assert heard is not None
    assert heard.startswith("did not end within 0.5 s")
