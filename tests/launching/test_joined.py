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
from workers.joined import CASES, SHAPES

import gossip
from gossip import testing
from gossip.launching.launchers import TORCH, Launcher
from gossip.transports.torch import joined

ALONE = "UsageError: gossip.init() made a world of one rank before torch.distributed joined 2, so each"


def plain() -> dict[str, str]:
    """The variables for a process that no launcher started."""
    names = ("OMPI_COMM_", "PMI", "MPI_LOCAL", "SLURM_", "TORCHELASTIC_", "GOSSIP_", "RANK", "WORLD_SIZE", "MASTER_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**inherited, "PYTHONPATH": f"{spawn.ROOT}:{spawn.SUPPORT}", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The output of the ranks, by case."""
    folder = tmp_path_factory.mktemp("joined")
    command = [sys.executable, "-m", "workers.joined", str(folder)]
    done = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return {case: [(folder / f"{case} {rank}.txt").read_text() for rank in range(CASES[case])] for case in CASES}


BOTH = [f"rank {rank} of 2, local {rank} of 2, gloo, cpu, [0.0, 0.0, 0.0]" for rank in range(2)]


@pytest.mark.parametrize("case", ["after", *SHAPES])
def test_a_world_takes_the_ranks_of_an_initialised_torch_distributed(said: dict[str, list[str]], case: str) -> None:
    """Its variables are those of mp.spawn, of accelerate's debug_launcher, of Lightning and of Ray Train."""
    assert said[case] == BOTH


def test_a_process_group_is_a_world(said: dict[str, list[str]]) -> None:
    """Also a second time, and with one rank. A group without this process is refused, and so is one that is gone."""
    first, outside, second = said["group"]
    assert [first.split(";")[0], second.split(";")[0]] == BOTH
    assert outside == (
        "UsageError: process_group is -100, but it is a ProcessGroup of torch.distributed that has this process as a "
        "rank: take it from torch.distributed.new_group, and call gossip.init in its ranks only"
    )
    for each in (first, second):
        assert "process_group is a ProcessGroup, but it is a ProcessGroup of torch.distributed that has this" in each
        assert "transport 'mpi' cannot carry a process group of torch.distributed: choose 'gloo' or 'nccl'" in each


DEBUG_LAUNCHER = """
from accelerate import debug_launcher
import gossip
def main():
    world = gossip.init(timeout=60)
    world.barrier()
    print(f"rank {world.rank} of {world.size} over {world.transport}", flush=True)
debug_launcher(main)
"""


def test_ranks_of_the_debug_launcher_of_accelerate() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    command = [sys.executable, "-c", DEBUG_LAUNCHER]
    done = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert {"rank 0 of 2 over gloo", "rank 1 of 2 over gloo"} <= set(done.stdout.splitlines()), done.stdout


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
        monkeypatch.setattr(dist, "get_backend", lambda group, backend=backend: backend)
        assert joined._chosen(None) == gpu
    bound.bound_device_id = None
    monkeypatch.setattr(dist, "get_backend", lambda group: "nccl")
    assert joined._chosen(None) == 3
