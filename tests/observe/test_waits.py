"""A call that every rank has to make: a rank that waits for the others says in which call, and for whom."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spawn
import torch

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.transports import deadlines
from gossip.transports.communicator import Communicator
from gossip.transports.flight import Flight

Call = Callable[[gossip.World, gossip.GossipOptimizer, torch.nn.Module, Path], Any]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)


def save(world: gossip.World, optimizer: gossip.GossipOptimizer, model: torch.nn.Module, folder: Path) -> None:
    gossip.checkpoint.save(folder, world, 1, model=model, optimizer=optimizer)


def load(world: gossip.World, optimizer: gossip.GossipOptimizer, model: torch.nn.Module, folder: Path) -> None:
    gossip.checkpoint.load(folder, world, model=model, optimizer=optimizer)


CALLS: dict[str, Call] = {
    "world.barrier()": lambda world, *_: world.barrier(),
    "world.all_gather(...)": lambda world, *_: world.all_gather(b"1"),
    "world.stop_requested()": lambda world, *_: world.stop_requested(),
    "world.close()": lambda world, *_: world.close(),
    "world.node": lambda world, *_: world.node,
    "world.group(...)": lambda world, *_: world.group([0, 1]),
    "optimizer.settle()": lambda world, optimizer, *_: optimizer.settle(),
    "optimizer.weight_report()": lambda world, optimizer, *_: optimizer.weight_report(),
    "optimizer.add_param_group(...)": lambda world, optimizer, *_: optimizer.add_param_group(
        {"params": [torch.zeros(1, requires_grad=True)]}
    ),
    "gossip.GossipOptimizer(...)": lambda world, *_: gossip.GossipOptimizer(sgd(), gossip.ExactAverage(world)),
    "slowmo.SlowMo(...)": lambda world, *_: slowmo.SlowMo(sgd(), gossip.ExactAverage(world)),
    "gossip.checkpoint.save(...)": save,
    "gossip.checkpoint.load(...)": load,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_one_rank_makes_alone_is_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the line that comes first, and in the error of the deadline."""
    ready, ended, wait = threading.Barrier(2), threading.Event(), Communicator.wait

    def wait_briefly(channel: Communicator, flight: Flight, timeout: float | None) -> None:
        """Only the call itself has a short deadline: on a busy machine the calls before it may take long."""
        wait(channel, flight, 0.2 if deadlines.NOTICE < 1 else timeout)

    def rank(world: gossip.World) -> None:
        model = torch.nn.Linear(2, 1)
        averager = gossip.PushSum(world, topologies.exponential(2), overlap=1)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), averager)
        model(torch.ones(2)).sum().backward()
        if world.rank == 0 or "settle" not in name:  # that waits for a round which rank 1 has not posted
            optimizer.step()
        ready.wait(100)
        if world.rank == 0:
            try:
                monkeypatch.setattr(deadlines, "NOTICE", 1e-9)
                CALLS[name](world, optimizer, model, tmp_path)
            finally:
                ended.set()
        else:
            ended.wait(100)

    monkeypatch.setattr(Communicator, "wait", wait_briefly)
    with caplog.at_level(logging.WARNING, "gossip"), pytest.raises(gossip.PeerTimeout) as error:
        testing.run(2, rank)
    assert re.search(
        rf"rank 0 heard nothing from rank 1 .*in .* of {re.escape(name)} for 0.2 s .*: does every rank call "
        rf"{re.escape(name)}",
        str(error.value),
    )
    lines = [record.getMessage() for record in caplog.records if "waited" in record.getMessage()]
    assert len(lines) == 1
    assert re.match(rf"rank 0 waited 0 s in .* of {re.escape(name)}: rank 0 heard nothing from rank 1 ", lines[0])


def test_a_wait_that_ends_soon_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def rank(world: gossip.World) -> None:
        optimizer = gossip.GossipOptimizer(sgd(), gossip.PushSum(world, topologies.exponential(4), overlap=1))
        for _ in range(10):
            optimizer.step()
        optimizer.settle()
        world.barrier()

    testing.run(4, rank)
    assert not caplog.records


def test_a_wait_of_the_script_itself_is_no_step() -> None:
    """A channel that the script uses, as for the mean of all ranks."""
    ended = threading.Event()

    def rank(world: gossip.World) -> None:
        channel = world.channel()
        if world.rank == 1:
            ended.wait(60)
            return
        try:
            with pytest.raises(gossip.PeerTimeout, match="does every rank make this call of a channel, in the same"):
                channel.sum([torch.ones(2)]).wait(0.2)
        finally:
            ended.set()

    testing.run(2, rank)


ALONE = """
import tempfile, torch, gossip, topologies
from gossip.transports import deadlines
world = gossip.init(timeout=100)
model = torch.nn.Linear(2, 1)
push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), push_sum)
for step in range(3):
    optimizer.step()
world.barrier()
deadlines.GRACE = deadlines.NOTICE = 2.0  # from now on, however long the libraries took to load
world.base.timeout = 4.0
while world.rank == 0 and not world.base.board.mates[2].waiting:
    pass  # until rank 2 waits as well, which on a busy machine may take longer than the line
if world.rank != 1:
    gossip.checkpoint.save(tempfile.gettempdir() + "/never", world, 3, model=model, optimizer=optimizer)
import threading
threading.Event().wait(100)
"""


@pytest.mark.parametrize("transport", ["mpi", pytest.param("gloo", marks=pytest.mark.slow)])
def test_one_line_and_then_one_report_for_all_ranks_of_a_host(transport: str) -> None:
    """Ranks 0 and 2 wait for rank 1, which is elsewhere."""
    outcome = spawn.run_mpirun(3, ["-c", ALONE], env={"GOSSIP_TRANSPORT": transport})
    assert outcome.code
    lines = [line for line in outcome.output.splitlines() if " waited " in line]
    assert len(lines) == 1, outcome.output
    assert re.match(
        r"ranks 0, 2 waited 2 s in a gather of gossip.checkpoint.save\(...\): rank 0 .*rank 1, process \d+ on this "
        r"host, is in step 3, computing for \d\.\d s",
        lines[0],
    ), outcome.output
    assert outcome.output.count("PeerTimeout: ") == outcome.output.count("Traceback") == 1, outcome.output
    assert re.search(r"\[rank 1 on \S+\] in step 3, computing for \S+ s\n(\[rank 1 .*\n)+", outcome.output)
    assert re.search(r'\[rank 1 on \S+\]   File "<string>", line \d+, in <module>', outcome.output), outcome.output
    # A rank whose deadline comes some milliseconds later is still asked, but tells of itself once.
    assert len(re.findall(r"\[rank 1 on \S+\] thread MainThread", outcome.output)) == 1, outcome.output


LATE = """
import os, sys, threading, gossip
from gossip.transports import deadlines
deadlines.NOTICE = 1.0
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    import mpi4py.MPI
    threading.Event().wait(100)
gossip.init(sys.argv[1], timeout=4.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_a_rank_that_never_calls_init_is_waited_for_with_a_line(transport: str) -> None:
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(spawn.free_port())} if transport == "gloo" else {}
    outcome = spawn.run_mpirun(3, ["-c", LATE, transport], env=env)
    assert outcome.code
    said = "over MPI; it fails after 4 s" if transport == "mpi" else "for rank 1 of 3 at 127.0.0.1"
    assert re.search(rf"waited 1 s .*{said}", outcome.output), outcome.output


MPI_LATE = """
import os, threading, gossip
from gossip.transports import deadlines
from gossip.transports.mpi import start
deadlines.NOTICE = start.NOTICE = 1.0
start.START = 3.0
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    threading.Event().wait(100)
gossip.init("mpi", timeout=3.0)
"""


@pytest.mark.slow
def test_a_rank_that_never_starts_mpi_is_waited_for_with_a_line() -> None:
    outcome = spawn.run_mpirun(2, ["-c", MPI_LATE])
    assert outcome.code
    assert "gossip: rank 0 waited 1 s for all 2 ranks to call gossip.init over MPI" in outcome.output, outcome.output
