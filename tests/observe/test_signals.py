"""After a rank hangs, is killed or gets a signal, every rank ends soon, and the reports name the rank and its state."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest
import spawn

DEADLINE = 5.0


def ends(launcher: str, what: str, transport: str, timeout: float = DEADLINE, **where: int) -> spawn.Outcome:
    """The outcome of OSGP on four ranks, all of which end within five seconds of the deadline."""
    more = [f"{name}={value}" for name, value in where.items()]
    command = ["-m", "workers.watched", what, transport, str(timeout), *more]
    outcome = spawn.run_mpirun(4, command) if launcher == "mpirun" else spawn.run_torchrun(4, command, wait=True)
    happened = re.search(rf"{what} at (\S+)", outcome.output)
    assert happened, outcome.output
    assert time.monotonic() - float(happened[1]) < timeout + 5, outcome.output
    assert None not in outcome.codes
    return outcome


SAID_OF_1 = r"process \d+ on this host, has ended, (last|never) heard"


def is_told_of_a_killed_rank(outcome: spawn.Outcome) -> None:
    """Ranks that wait for it name the round and its exit code."""
    assert outcome.code
    assert re.search(
        r"rank \d (was told to end by SIGTERM, in step \d+, (waiting in \w+ for round \d+|in \w+|computing) for \S+ s"
        r"|lost a message of round \d+: it .*) \(rank 1, " + SAID_OF_1,
        outcome.output,
    ), outcome.output


def test_others_report_a_killed_rank() -> None:
    is_told_of_a_killed_rank(ends("mpirun", "killed", "mpi"))


@pytest.mark.parametrize("when", ["killed", pytest.param("killed early", marks=pytest.mark.slow)])
def test_others_report_a_killed_rank_without_mpirun(when: str) -> None:
    """They notice it while they wait for a message or post one."""
    outcome = ends("torchrun", when, "gloo")
    is_told_of_a_killed_rank(outcome)
    assert sorted(outcome.codes) == [-9, 1, 1, 1]
    for rank in (0, 2, 3):
        assert f"rank {rank} lost a message of round" in outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(50))
@pytest.mark.parametrize(("launcher", "transport"), [("mpirun", "mpi"), ("mpirun", "gloo"), ("torchrun", "gloo")])
def test_others_report_a_rank_killed_in_any_step(launcher: str, transport: str, trial: int) -> None:
    is_told_of_a_killed_rank(ends(launcher, "killed", transport, step=trial))


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "transport"), [("mpirun", "mpi")])
def test_others_report_a_rank_that_hangs(launcher: str, transport: str) -> None:
    """A waiting rank names its position, and every rank of the host shows its stacks, also the one that hangs."""
    outcome = ends(launcher, "hung", transport, 2)
    assert outcome.code == 1
    assert re.search(
        r"PeerTimeout: rank \d heard nothing from rank 1 .*in round \d for 2 s over mpi \((rank \d, .*; )?rank 1, "
        r"process \d+ on this host, is in step 6, computing for [234]\.\d s, last heard in .* s ago\): is the peer",
        outcome.output,
    ), outcome.output
    hung = re.search(
        r"\[rank 1 on \S+\] in step 6, computing for [2345]\.\d s\n(\[rank 1 on \S+\] .*\n)+", outcome.output
    )
    assert hung, outcome.output
    assert "threading.Event().wait(100)" in hung[0]
    assert re.search(r"\[rank \d on \S+\] in step \d, waiting in land for round \d for \d\.\d s\n", outcome.output)


@pytest.mark.slow
def test_others_report_a_rank_that_has_left_its_script() -> None:
    """MPI_Finalize waits for the others, so the process of a rank that has left its script is still alive."""
    outcome = ends("mpirun", "exits", "mpi", 2)
    assert outcome.code == 1
    assert re.search(
        r"PeerTimeout: rank \d heard nothing from rank 1 .*\(rank 1, process \d+ on this host, is in step 6, at the "
        r"end of its script for [234]\.\d s, last heard",
        outcome.output,
    ), outcome.output


FEWER = """
import sys, torch, gossip, topologies
from gossip.transports import deadlines
deadlines.GRACE = 1.0
world = gossip.init(timeout=60)
parameter = torch.zeros(3, requires_grad=True)
push_sum = gossip.PushSum(world, topologies.exponential(world.size))
optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), push_sum)
for step in range(6 if world.rank != 1 else 4):
    optimizer.step()
sys.exit(0)
"""


def test_a_rank_with_fewer_steps_ends_the_job_before_the_deadline() -> None:
    """Its process is still alive, in MPI_Finalize, which waits for the others."""
    outcome = spawn.run_mpirun(3, ["-c", FEWER])
    assert outcome.code == 1
    assert re.search(
        r"gossip: rank \d heard nothing from rank 1 .*in round [45] \(rank 1, process \d+ on this host, is in step 4, "
        r"at the end of its script for \d+\.\d s, last heard .*, and it will not: does every rank call step\(\)",
        outcome.output,
    ), outcome.output


ABSENT = """
import os, threading, gossip
from gossip.transports.mpi import start
start.START = 3
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    threading.Event().wait(100)
gossip.init(timeout=3)
"""


@pytest.mark.slow
def test_a_rank_that_never_joins_mpi_ends_the_others() -> None:
    """MPI itself has no deadline."""
    outcome = spawn.run_mpirun(2, ["-c", ABSENT])
    assert outcome.code
    assert "gossip: rank 0 waited 3 s in MPI_Init for all 2 ranks to call gossip.init" in outcome.output


def test_a_signal_to_one_rank_stops_all_loops_at_the_same_step() -> None:
    """Every rank saves its state, and the job succeeds."""
    outcome = ends("torchrun", "asked", "gloo")
    assert outcome.codes == (0, 0, 0, 0), outcome.output
    assert sorted(re.findall(r"rank \d saves step \d+", outcome.output)) == [
        f"rank {r} saves step 10" for r in range(4)
    ]


@pytest.mark.slow
def test_a_signal_to_mpirun_stops_all_loops_at_the_same_step() -> None:
    """mpirun forwards SIGUSR2, which a scheduler sends long before the end."""
    outcome = ends("mpirun", "job asked", "mpi")
    assert outcome.code == 0, outcome.output
    assert len(set(re.findall(r"saves step (\d+)", outcome.output))) == 1
    assert outcome.output.count("saves step") == 4


def test_sigterm_ends_a_loop_that_does_not_ask() -> None:
    """It ends at once."""
    outcome = ends("torchrun", "told", "gloo")
    assert outcome.codes[1] == 143
    assert re.search(r"gossip: rank 1 was told to end by SIGTERM, in step \d, .* for \S+ s", outcome.output)
    assert 0 not in outcome.codes


@pytest.mark.slow
def test_sigterm_to_mpirun_ends_the_job() -> None:
    """mpirun then prints no more output of its ranks, and kills them a quarter of a second later."""
    assert spawn.run_mpirun(4, ["-m", "workers.watched", "job told", "mpi", "5"]).code


@pytest.mark.slow
def test_sigusr1_to_mpirun_makes_every_rank_report() -> None:
    """The job continues and succeeds."""
    outcome = ends("mpirun", "job watched", "mpi")
    assert outcome.code == 0, outcome.output
    for rank in range(4):
        assert re.search(rf"\[rank {rank} on \S+\] in step \d+, ", outcome.output)
        assert re.search(rf"\[rank {rank} on \S+\]   File .*workers/watched.py", outcome.output)


# -- the signals of one process ----------------------------------------------------------------------------------------

PLAIN = """
import ctypes, os, signal, sys, threading, time
from gossip.observe import board, signals
"""

ALONE: dict[str, tuple[str, int, str]] = {
    "deep in a library, with all but the interpreter's lock": (
        """
signals.watch(board.Board(0))
library = ctypes.CDLL(None)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
for _ in range(2):
    library.sleep(1)
""",
        0,
        r"\[rank 0\] before its first step\n\[rank 0\] thread MainThread:\n(.*\n)*?.*  File \"<string>\", line 9",
    ),
    "a handler of the program's own": (
        """
signal.signal(signal.SIGTERM, lambda *_: print("mine"))
signals.watch(board.Board(0)).let_ask()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
""",
        0,
        r"^mine\n$",
    ),
    "a handler that the program sets later": (
        """
signals.GRACE = 0.2
signals.watch(board.Board(0)).let_ask()
signal.signal(signal.SIGINT, lambda *_: print("mine"))
os.kill(os.getpid(), signal.SIGINT)
time.sleep(1)
""",
        0,
        r"^mine\n$",
    ),
    "a handler that the program sets for a moment": (
        """
sys.setswitchinterval(10)  # no other thread runs before this one sleeps
signals.GRACE = 0.2
own = board.Board(0)
signals.watch(own).let_ask()
for _ in range(2):
    before = signal.signal(signal.SIGINT, lambda *_: print("mine"))
    os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    time.sleep(0.05)
sys.setswitchinterval(0.005)
print(signals.stop_requested(own, lambda data: [data]))
time.sleep(1)
print(signals.stop_requested(own, lambda data: [data]))
""",
        0,
        r"^mine\nmine\nFalse\nFalse\n$",
    ),
    "a forked process": (
        """
own = board.Board(0)
own.share(lambda data: [data])  # its slot is memory that the child sees too
signals.watch(own).let_ask()
if not (child := os.fork()):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
print(os.waitpid(child, 0)[1], own.slot.listens, flush=True)
if not (child := os.fork()):
    sys.exit()
os.waitpid(child, 0)
print(own.slot)
""",
        0,
        r"^15 1\nbefore its first step\n$",
    ),
    "a loop that asked once": (
        """
signals.GRACE = 0.3
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background is started without
signals.watch(board.Board(0)).let_ask()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
""",
        130,
        "gossip: rank 0 was told to end by SIGINT and its loop did not ask for 0.3 s, before its first step",
    ),
    "twice": (
        """
import gossip
world = gossip.init()
assert not world.stop_requested()
os.kill(os.getpid(), signal.SIGTERM)
while not world.stop_requested():
    time.sleep(0.01)
print("saving", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
""",
        143,
        r"saving\ngossip: rank 0 was told to end by SIGTERM again, before its first step",
    ),
    "a loop in another thread": (
        """
import gossip
world = gossip.init()
def loop():
    while not world.stop_requested():
        time.sleep(0.01)
    print("saving")
signals.watch(board.Board(0))
thread = threading.Thread(target=loop, name="loop")
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
thread.start()
thread.join(10)
""",
        0,
        r"(?s)rank 0 calls world.stop_requested\(\) in thread loop, .*only SIGTERM asks .*saving\n$",
    ),
    "somebody else takes the descriptor": (
        """
import asyncio
signals.watch(board.Board(0))
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)
asyncio.run(main())
""",
        143,
        "was told to end by SIGTERM",
    ),
}


# The libraries take seconds to load: one process loads them, and is forked for each of the texts.
FORKS = """
import json, os, sys
import gossip

read_ends = {}
for name, text in json.load(sys.stdin).items():
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        os.closerange(3, write + 1)
        exec(text, {"__name__": "__main__"})
        break
    os.close(write)
    read_ends[name] = pid, open(read)
else:
    print(json.dumps({
        name: (output.read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        for name, (pid, output) in read_ends.items()
    }))
"""


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[str, int]]:
    """Output and exit code of each."""
    texts = json.dumps({name: PLAIN + text for name, (text, _, _) in ALONE.items()})
    forked = subprocess.run(
        [sys.executable, "-c", FORKS], input=texts, stdout=subprocess.PIPE, text=True, cwd=spawn.ROOT, timeout=240
    )
    ends: dict[str, tuple[str, int]] = json.loads(forked.stdout)
    return ends


@pytest.mark.parametrize("name", ALONE)
def test_signal_to_one_process(name: str, alone: dict[str, tuple[str, int]]) -> None:
    output, ended = alone[name]
    _, code, said = ALONE[name]
    assert ended == code, output
    assert re.search(said, output), output
