"""Ranks that the program itself has started: no rank trains alone unawares."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import spawn
import torch
import torch.distributed as dist
from workers.joined import CASES

import gossip
from gossip import testing
from gossip.launching.launchers import TORCH, Launcher
from gossip.transports.torch import joined

ALONE = "UsageError: gossip.init() made a world of one rank before torch.distributed joined 2, so each"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The output of both ranks, by case."""
    folder = tmp_path_factory.mktemp("joined")
    names = ("OMPI_COMM_", "PMI", "MPI_LOCAL", "SLURM_", "TORCHELASTIC_", "GOSSIP_", "RANK", "WORLD_SIZE", "MASTER_")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    command = [sys.executable, "-m", "workers.joined", str(folder)]
    paths = {"PYTHONPATH": f"{spawn.ROOT}:{spawn.SUPPORT}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env={**plain, **paths}, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return {case: [(folder / f"{case} {rank}.txt").read_text() for rank in range(2)] for case in CASES}


def test_a_world_takes_the_ranks_of_an_initialised_torch_distributed(said: dict[str, list[str]]) -> None:
    assert said["after"] == [f"rank {rank} of 2, local {rank} of 2, gloo, cpu, [0.0, 0.0, 0.0]" for rank in range(2)]


def test_local_ranks_go_by_host_names(said: dict[str, list[str]]) -> None:
    assert [each.split(", ")[1] for each in said["other hosts"]] == ["local 0 of 1"] * 2


@pytest.mark.parametrize("case", ["since", "at the first step"])
def test_an_optimizer_refuses_a_world_of_one_where_torch_distributed_has_more(
    said: dict[str, list[str]], case: str
) -> None:
    for each in said[case]:
        assert each.startswith(ALONE), each


def test_a_rank_that_does_not_call_init_is_named(said: dict[str, list[str]]) -> None:
    waited, absent = said["missing"]
    assert "PeerTimeout: rank 0 did not meet the other 1 ranks at torch.distributed's store within 0.5 s" in waited
    assert "rank 1 never connected" in waited
    assert absent == "was not there"


def test_ranks_as_threads_work_beside_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation with threads is no error; neither is NoAverage."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)

    def run(world: gossip.World) -> None:
        for averager in (gossip.ExactAverage(world), gossip.NoAverage()):
            gossip.GossipOptimizer(torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1), averager).step()

    testing.run(1, run)


@pytest.mark.parametrize(
    ("current", "gpus"),
    [
        ([0, 0], [0, 1]),  # none has chosen: by local rank
        ([1, 0], [1, 0]),
        ([2, 3], [2, 3]),
        ([-1, -1], [None, None]),  # over Gloo
    ],
)
def test_the_gpu_is_the_one_that_the_program_has_chosen(current: list[int], gpus: list[int | None]) -> None:
    for rank in range(2):
        assert joined.place(rank, ["here"] * 2, current) == Launcher(TORCH, rank, 2, rank, 2, gpus[rank])


def test_the_gpu_is_the_device_of_a_bound_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = SimpleNamespace(bound_device_id=torch.device("cuda", 5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=bound))
    for backend, gpu in {"nccl": 5, "gloo": -1}.items():
        monkeypatch.setattr(dist, "get_backend", lambda backend=backend: backend)
        assert joined._chosen() == gpu
    bound.bound_device_id = None
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    assert joined._chosen() == 3
