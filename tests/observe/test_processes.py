"""The processes of a job: the report of a failed one, children that are no ranks, and the end of MPI."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import spawn

import gossip
from gossip.launching import children
from gossip.launching.launchers import Launcher
from gossip.observe import ending
from gossip.observe.process import process

RANK = Launcher("openmpi", 1, 2, 1, 2)
CHILD = "was started by rank 1 (process {}), not by openmpi, so it is no rank"

FAILS = """
import mpi4py, os, sys
mpi4py.rc.initialize = False
import gossip
import torch.distributed as dist
world = gossip.init("mpi", timeout=60)  # which initialises MPI
if (child := os.fork()) == 0:
    try:
        gossip.init()
    except gossip.UsageError as error:
        sys.stderr.write(f"{error}\\n")
    os._exit(0)
os.waitpid(child, 0)
file = f"file://{sys.argv[1]}"
dist.init_process_group("gloo", init_method=file, rank=world.rank, world_size=world.size)  # puts its hook around ours
world.barrier()
if world.rank == 1:
    raise LookupError("no data")
world.barrier()
"""


def test_the_traceback_is_shown_under_the_excepthook_of_torch_distributed(tmp_path: Path) -> None:
    """The child of a rank is refused as well, in an MPI that `gossip.init` has initialised."""
    outcome = spawn.run_mpirun(2, ["-c", FAILS, str(tmp_path / "store")])
    assert outcome.code == 1, outcome.output
    assert "LookupError: no data" in outcome.output
    assert outcome.output.count("so it is no rank and gossip.init cannot take it into the job") == 2, outcome.output


def test_last_words_reach_stderr_while_a_hook_has_replaced_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This holds for tracebacks, and for the sentence of a rank whose peer failed."""
    monkeypatch.setattr(process, "show_error", sys.__excepthook__)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(ending, "abort", lambda code: None)
    ending.abort_on_errors()
    for error, told in ((LookupError("no data"), "LookupError: no data"), (gossip.PeerLost("gone"), "gossip: gone")):
        with contextlib.redirect_stderr(io.StringIO()) as held:
            ending.excepthook(type(error), error, None)
        assert told in capsys.readouterr().err
        assert not held.getvalue()


def test_a_rank_with_a_closed_stderr_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    closed = os.fdopen(os.dup(2), "w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(ending, "abort", ended.append)
    ending.excepthook(gossip.PeerLost, gossip.PeerLost("gone"), None)
    assert ended == [1]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Rank 1 of 2 has started this process."""
    for name in (*children.JOB, *children.MEETING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(children.VARIABLE, "")
    with monkeypatch.context() as parent:
        parent.setattr(os, "getpid", os.getppid)
        children.tell_children(RANK)
    return monkeypatch


@pytest.mark.parametrize("transport", ["mpi", "gloo", "nccl"])
def test_a_child_of_a_rank_is_refused(environment: pytest.MonkeyPatch, transport: str) -> None:
    with pytest.raises(gossip.UsageError, match=re.escape(CHILD.format(os.getppid()))):
        children.check_own_process(RANK, transport)


@pytest.mark.parametrize(
    ("launcher", "transport", "variables"),
    [
        (Launcher("openmpi", 0, 3, 0, 3), "mpi", {}),  # an mpirun of its own
        (RANK, "mpi", {"PMIX_NAMESPACE": "prterun-host-4711@1"}),  # one of as many ranks
        (RANK, "gloo", {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501"}),  # a place of its own to meet
        (RANK, "mpi", {children.VARIABLE: ""}),  # a program that starts a rank, and is none itself
    ],
)
def test_a_rank_of_a_job_inside_a_job_is_accepted(
    environment: pytest.MonkeyPatch, launcher: Launcher, transport: str, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    children.check_own_process(launcher, transport)
    children.tell_children(launcher)
    children.check_own_process(launcher, transport)  # init may be called again


def test_a_process_below_a_launcher_below_a_rank_is_a_rank(environment: pytest.MonkeyPatch) -> None:
    """MPICH's ranks have no variable that names their job."""
    chain = [(17, "hydra_pmi_proxy"), (os.getppid(), "python")]
    environment.setattr(children, "ancestors", lambda: iter(chain))
    children.check_own_process(RANK, "mpi")
    chain.reverse()
    with pytest.raises(gossip.UsageError, match="so it is no rank"):
        children.check_own_process(RANK, "mpi")


CHILDREN = """
import gossip, multiprocessing, shutil, subprocess, sys
import torch
REST = "import gossip; world = gossip.init(timeout=60); world.barrier(); print('inner', world.rank, world.size)"

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, number):
        gossip.init()

def main():
    world = gossip.init(timeout=100)
    if world.rank == 0:
        for command in ([sys.executable], [sys.argv[1], "--oversubscribe", "-n", "2", sys.executable]):
            done = subprocess.run([*command, "-c", REST], capture_output=True, text=True)
            print(done.stdout, done.stderr.splitlines()[-1:], done.returncode, flush=True)
        for method in ("fork", "spawn"):
            loader = torch.utils.data.DataLoader(Numbers(), num_workers=1, multiprocessing_context=method)
            try:
                list(loader)
            except gossip.UsageError as error:
                print("loader:", str(error).splitlines()[-1], flush=True)
    world.barrier()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_children_of_a_rank_under_mpirun(tmp_path: Path) -> None:
    """The children are a program, an mpirun, and workers of a data loader, forked and spawned."""
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    outcome = spawn.run_mpirun(2, [str(script), spawn._mpirun(1, [])[0]], timeout=200)
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("so it is no rank and gossip.init cannot take it into the job") == 3, outcome.output
    assert outcome.output.count("loader: ") == 2
    assert {f"inner {rank} 2" for rank in range(2)} <= set(outcome.output.splitlines())


FINALISED = """
import sys
from mpi4py import MPI
import gossip, topologies, torch
world = gossip.init("mpi", timeout=20)
parameter = torch.zeros(300_000, requires_grad=True)
push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), push_sum)
if world.rank == 0 or sys.argv[1] == "both":
    optimizer.step()
MPI.Finalize()
for use in (optimizer.settle, optimizer.step, lambda: gossip.init("mpi")):
    try:
        use()
    except gossip.GossipError as error:
        print(world.rank, error, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["both", "one"])
def test_flights_end_before_mpi_does(who: str) -> None:
    """The script may finalise MPI. A post afterwards would kill the process."""
    outcome = spawn.run_mpirun(2, ["-c", FINALISED, who])
    assert outcome.code == 0, outcome.output
    lost = "0 rank 0 lost a message of round 0: MPI says it was finalised before the message had landed"
    assert outcome.output.splitlines().count(lost) == (2 if who == "one" else 0), outcome.output
    assert outcome.output.count("transport 'mpi' finds MPI finalised in this process") >= 3


UNKNOWN = """
import os
from mpi4py import MPI
for name in [name for name in os.environ if name.startswith(("OMPI_COMM_", "PMI"))]:
    del os.environ[name]
import gossip
world = gossip.init(timeout=60)
print("rank", world.rank, "of", world.size, "local", world.local_rank, "over", world.transport, flush=True)
world.barrier()
"""


@pytest.mark.slow
def test_an_unknown_launcher_has_the_ranks_of_mpi() -> None:
    outcome = spawn.run_mpirun(2, ["-c", UNKNOWN])
    assert outcome.code == 0, outcome.output
    assert {f"rank {rank} of 2 local {rank} over mpi" for rank in range(2)} <= set(outcome.output.splitlines())


def test_a_finalised_mpi_is_refused() -> None:
    from gossip.transports.mpi.start import check_running

    with pytest.raises(gossip.TransportUnavailable, match="MPI starts only once"):
        check_running(SimpleNamespace(Is_finalized=lambda: True))


def test_a_process_may_be_a_rank_after_its_parent_was_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either the parent has ended, or it has closed its world before."""
    monkeypatch.setenv(children.VARIABLE, "")
    launcher = Launcher("torchrun", 0, 2, 0, 2)
    children.tell_children(launcher)
    told = os.environ[children.VARIABLE].split()
    monkeypatch.setattr(os, "getpid", lambda: 1_000_001)
    monkeypatch.setattr(children, "ancestors", lambda: iter([(int(told[0]), "python")]))
    with pytest.raises(gossip.UsageError, match="those that begin with TORCHELASTIC_"):
        children.check_own_process(launcher, "gloo")
    monkeypatch.setattr(children, "ancestors", lambda: iter([(17, "bash"), (9, "systemd")]))
    children.check_own_process(launcher, "gloo")
    children.forget_children()
    assert children.VARIABLE not in os.environ
