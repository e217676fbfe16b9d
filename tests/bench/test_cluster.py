"""Hosts on one machine: what ranks see of them, what their links carry, and that nothing of them stays."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from commands import code_of
from emulated import real

from bench.cluster import command, launching, line, needs, network, watching
from gossip import UsageError, World, testing

ROOT = Path(__file__).resolve().parents[2]


def cluster(*arguments: str) -> int:
    """The exit code of `python -m bench cluster arguments...`, in this process."""
    return code_of("cluster", *arguments)


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def made_by(pid: int) -> list[str]:
    """The folder and the namespaces of the hosts that process `pid` made."""
    name = f"{network.PREFIX}{pid}"
    return sorted(map(str, [*network.RUN.glob(f"{name}*"), *network.NAMESPACES.glob(f"{name}-*")]))


def traces(pid: int) -> list[str]:
    """These, and the processes on them."""
    return made_by(pid) + [str(process) for process in network.processes(network.RUN / f"{network.PREFIX}{pid}")]


@pytest.fixture
def _spotless() -> Iterator[None]:
    """After the test nothing of its hosts is left."""
    before = interfaces()
    yield
    assert traces(os.getpid()) == []
    assert interfaces() == before
    assert Path("/proc/mounts").read_text().count(f"{network.PREFIX}{os.getpid()}") == 0


# The options, on any machine.


def test_rates_events_and_slow_hosts_are_read() -> None:
    assert command.rate("1Gbit/s") == 1e9
    assert command.slow("12=2.5mbit") == command.Slow(12, 2.5e6)
    assert command.event("1.5s:0=up") == command.Event(1.5, 0, "up")
    assert str(command.event("5s:3=25mbit")) == "host3 is at 25 Mbit/s"
    assert str(command.event("5s:3=cut")) == "host3 is cut"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nodes", "4"], "nothing to run: end the options with -- and the command"),
        (["--nodes", "4", "--"], "nothing to run"),
        (["--nodes", "1", "--", "python"], "--nodes 1 is no number of hosts for a network: choose 2 to 250"),
        (["--nodes", "251", "--", "python"], "--nodes 251 is no number"),
        (["--nodes", "two", "--", "python"], "'two' is not a whole number"),
        (["--rate", "100", "--", "python"], "'100' is not a rate: write 100mbit"),
        (["--rate", "64kbit", "--", "python"], "'64kbit' is too slow"),
        (["--ranks-per-node", "0", "--", "python"], "'0' is not a whole number of at least 1"),
        (["--slow", "3:25mbit", "--", "python"], "'3:25mbit' is no host and rate: write 3=25mbit"),
        (["--slow", "3=fast", "--", "python"], "'fast' is not a rate"),
        (["--nodes", "3", "--slow", "3=25mbit", "--", "python"], "--slow names host 3, but 3 hosts go from 0 to 2"),
        (["--slow", "1=25mbit", "--slow", "1=5mbit", "--", "python"], "--slow names one host twice"),
        (["--event", "3=cut", "--", "python"], "'3=cut' is no event: write 5s:3=25mbit"),
        (["--event", "5:3=cut", "--", "python"], "'5' is not a time"),
        (["--event", "5s:3=down", "--", "python"], "'down' is not a rate"),
        (["--event", "5s:8=cut", "--", "python"], "--event names host 8, but 8 hosts go from 0 to 7"),
        (["--launcher", "ssh", "--", "python"], "invalid choice: 'ssh'"),
        (
            ["--launcher", "torchrun", "--mpirun-options=--with-ft ulfm", "--", "python"],
            "--mpirun-options are for mpirun, and --launcher is torchrun",
        ),
        (["--fool"], "bench cluster: error: unrecognized arguments: --fool"),
        (["--timeout", "0", "--", "python"], "'0' is not above 0"),
        (["--json", "/proc/nowhere/x.json", "--", "python"], "cannot make the folder /proc/nowhere"),
        (["--", "no-such-program"], "there is no program 'no-such-program'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster(*arguments) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert not said.out


def test_under_a_launcher_it_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert cluster("--", "python") == 2
    assert "run it as plain `python`, and not under openmpi" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["tc", "nsenter", "unshare"])
def test_a_missing_tool_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool, path: None if tool == missing else f"/bin/{tool}")
    with pytest.raises(UsageError, match=rf"there is no {missing} here: install (iproute2|util-linux)"):
        needs.check_machine()


def test_a_user_who_is_not_root_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cluster("--", "python") == 2
    assert "only root can make network namespaces: start it as root" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems are refused earlier")
def test_a_kernel_without_the_shaper_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in {tool for tools in needs.TOOLS.values() for tool in tools}:
        (tmp_path / tool).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "unshare").write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    (tmp_path / "tc").write_text("#!/bin/sh\necho 'Error: Specified qdisc kind is unknown.' >&2\nexit 2\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(needs, "path", lambda: f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"load the token bucket filter with `modprobe sch_tbf` \(Error: Specified"):
        needs.check_machine()


@pytest.mark.parametrize("said", ["mpirun (Open MPI) 4.1.4", "HYDRA build details:", ""])
def test_another_mpirun_is_refused(said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mpirun").write_text(f"#!/bin/sh\necho '{said}'\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setattr(needs, "path", lambda: f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"hosts are reached by Open MPI 5 or later.*--launcher torchrun"):
        needs.check_mpirun()


def test_the_line_between_ranks_is_the_same_on_all_of_them() -> None:
    found = testing.run(3, lambda world: line.measure(world, 50_000, repeats=3, pause=0.0))
    assert len(set(found)) == 1
    assert 0 < found[0] < 5
    # One rank sends to itself.
    assert testing.run(1, lambda world: line.measure(world, 1000, repeats=1, pause=0.0))[0] > 0


def test_every_rank_receives_as_many_bytes_as_it_sends_for_any_hop() -> None:
    ranks = testing.run(4, lambda world: line.times(world, "127.0.0.1", 3000, 2, line.neighbours(world, 3), pause=0.0))
    assert [[len(repeats) for repeats in rank] for rank in ranks] == [[2] * 4] * 4


def test_a_silent_line_raises_an_error_that_names_the_ranks() -> None:
    def half(world: World) -> str:
        if world.rank == 1:  # connects, and then sends nothing
            with line._connected(world, "127.0.0.1", [([0], [0])], timeout=20):
                line.level(world)
                world.barrier()
            return ""
        with pytest.raises(TimeoutError, match=r"between rank 0 and ranks \[1\] nothing moved for 0\.2 s") as raised:
            line.times(world, "127.0.0.1", 1000, 1, line.neighbours(world), pause=0.0, timeout=0.2)
        world.barrier()
        return str(raised.value)

    assert testing.run(2, half)[0]


def test_waiting_ends_with_the_first_failure() -> None:
    with watching.Signals() as signals:
        long = ["sleep", "100"]
        started = [
            subprocess.Popen(command, start_new_session=True) for command in (long, ["sh", "-c", "exit 3"], long)
        ]
        assert watching.watch(started, signals) == 3
        assert all(process.poll() is not None for process in started)
        killed = [subprocess.Popen(["sh", "-c", "kill -KILL $$"], start_new_session=True)]
        assert watching.watch(killed, signals) == 128 + signal.SIGKILL


# Real hosts.

SIZES = """
import json, os, socket, sys
import gossip
from bench.cluster import line
from bench.cluster.network import TCP
for transport in sys.argv[2:]:
    with gossip.init(transport, 60) as world:
        seen = {
            "rank": world.rank,
            "hosts": world.hosts,
            "local": [world.local_rank, world.local_size],
            "node": [world.node.rank, world.node.size],
            "across": [world.across.rank, world.across.size],
            "host": socket.gethostname(),
            "python": sys.executable,
            "line": line.measure(world.across, 100_000, repeats=1),
            "tcp": [open(f"/proc/sys/net/ipv4/{setting}").read().strip() for setting in TCP],
        }
        with open(f"{sys.argv[1]}/{transport}-{world.rank}.json", "w") as file:
            json.dump(seen, file)
"""


@real
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize(
    ("launcher", "transports"),
    [("mpirun", ["mpi", "gloo"]), pytest.param("torchrun", ["gloo"], marks=pytest.mark.slow)],
)
def test_ranks_stand_on_hosts_of_their_own(
    launcher: str, transports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "sizes.py").write_text(SIZES)
    given = ["--nodes", "2", "--ranks-per-node", "2", "--launcher", launcher, "--timeout", "60"]
    assert cluster(*given, "--", "python", str(tmp_path / "sizes.py"), str(tmp_path), *transports) == 0
    for transport in transports:
        seen = [json.loads((tmp_path / f"{transport}-{rank}.json").read_text()) for rank in range(4)]
        for rank, one in enumerate(seen):
            host, local = divmod(rank, 2)
            assert one["hosts"] == ["host0", "host0", "host1", "host1"]
            assert one["host"] == f"host{host}"
            assert one["local"] == one["node"] == [local, 2]
            assert one["across"] == [host, 2]
            assert one["tcp"] == ["reno", "0"]
            assert one["python"] == sys.executable
            # Each pair of counterparts measures at once with the other pair, over the same two links.
            assert one["line"] > least_seconds(100_000, 100e6)


def least_seconds(nbytes: int, rate: float) -> float:
    """The least time of a link: it lets one burst through at once, and the rest at its rate."""
    return (nbytes - 72 * 1024) * 8 / rate


LINE = """
import json, sys
import gossip
from bench.cluster import line
from gossip.transports.torch.interfaces import own_address
with gossip.init("gloo", 60) as world:
    took = line.times(world, own_address(world.hosts), 400_000, 3, line.neighbours(world))
    if world.rank == 0:
        json.dump(took, open(sys.argv[1], "w"))
"""


@real
@pytest.mark.usefixtures("_spotless")
def test_links_have_the_rates_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path, took = tmp_path / "deep" / "cluster.json", tmp_path / "line.json"
    given = ["--nodes", "4", "--rate", "100mbit", "--slow", "1=25mbit", "--json", str(path), "--timeout", "60"]
    assert cluster(*given, "--launcher", "torchrun", "--", "python", "-c", LINE, str(took)) == 0
    said = capfd.readouterr()
    assert "4 hosts at 100 Mbit/s, host1 at 25 Mbit/s, 1 rank on each, torchrun" in said.err
    assert not said.out
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["ranks"] == 4
    assert record["exit_code"] == 0
    assert record["results"]["rates"] == [1e8, 25e6, 1e8, 1e8]
    # Into host 1 its own link is slow, and out of it, to host 2.
    for seconds, rate in zip(json.loads(took.read_text()), (100e6, 25e6, 25e6, 100e6), strict=True):
        # A rank that starts its clock late, on a busy machine, finds some of the bytes there already.
        assert 0.7 * least_seconds(400_000, rate) < sorted(seconds)[1] < 3 * least_seconds(400_000, rate)


@real
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize("launcher", launching.LAUNCHERS)
def test_the_exit_code_and_stdout_are_the_commands(launcher: str, capfd: pytest.CaptureFixture[str]) -> None:
    # A command that ends at once, too: Open MPI might not notice.
    given = ["--nodes", "3", "--launcher", launcher, "--timeout", "30", "--"]
    assert cluster(*given, "hostname") == 0
    assert sorted(capfd.readouterr().out.split()) == ["host0", "host1", "host2"]
    # One rank fails, and the others are not waited for.
    assert cluster(*given, "sh", "-c", "test $(hostname) = host2 && exit 7; exec sleep 60") == 7


@real
@pytest.mark.usefixtures("_spotless")
def test_links_change_while_the_command_runs(capfd: pytest.CaptureFixture[str]) -> None:
    there = "ip -o link show eth0 | grep -q LOWER_UP"
    slow = "tc qdisc show dev eth0 | grep -q 25Mbit"
    waiting = [f"until {slow}", f"while {there}", f"until {there}", f"while {slow}"]
    script = "; ".join(f"{each}; do sleep 0.02; done; echo {number}" for number, each in enumerate(waiting))
    events = ["--event", "900ms:1=up", "--event", "300ms:1=25mbit", "--event", "600ms:1=cut"]
    given = ["--nodes", "2", "--launcher", "torchrun", "--timeout", "20", *events]
    assert cluster(*given, "--", "sh", "-c", f"test $RANK = 0 || {{ {script}; }}") == 0
    said = capfd.readouterr()
    assert said.out.split() == ["0", "1", "2", "3"]
    assert [text for text in said.err.splitlines() if " s: " in text] == [
        "cluster: 0.3 s: host1 is at 25 Mbit/s",
        "cluster: 0.6 s: host1 is cut",
        "cluster: 0.9 s: host1 is up again",
    ]


STUBBORN = "trap '' TERM INT; setsid sh -c 'trap \"\" TERM; sleep 300; sleep 300' & while true; do sleep 300; done"


@real
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize("launcher", launching.LAUNCHERS)
def test_a_command_that_hangs_is_killed_with_all_it_started(
    launcher: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "GRACE", 0.3)
    given = ["--nodes", "2", "--launcher", launcher, "--timeout", "1"]
    assert cluster(*given, "--", "sh", "-c", STUBBORN) == 124
    assert "the command had not ended after --timeout 1 s and was killed" in capfd.readouterr().err


@real
@pytest.mark.usefixtures("_spotless")
def test_half_made_hosts_are_removed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    shape = network.Network.shape

    def broken(made: network.Network, host: network.Host, rate: float) -> None:
        if host.number == 1:
            raise network.ClusterError("the second host cannot be shaped")
        shape(made, host, rate)

    monkeypatch.setattr(network.Network, "shape", broken)
    assert cluster("--nodes", "3", "--", "sleep", "60") == 1
    assert "the second host cannot be shaped" in capfd.readouterr().err


@real
@pytest.mark.usefixtures("_spotless")
def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "running")
    started: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with network.network([1e8, 1e8]) as made:
            command = ["sh", "-c", f"echo > {tmp_path}/running; sleep 60"]
            started.append(made.start(made.hosts[1], command, os.environ))
            (tmp_path / "running").read_text()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert started[0].wait(10) == -signal.SIGKILL


@real
def test_folders_of_other_processes_stay(capfd: pytest.CaptureFixture[str]) -> None:
    others = f"{network.PREFIX}{os.getpid()}-host0"
    subprocess.run(["ip", "netns", "add", others], check=True, timeout=10)
    try:
        assert cluster("--nodes", "2", "--", "sleep", "60") == 1
        assert "made by another process" in capfd.readouterr().err
        assert cluster("--clean") == 0
        assert (network.NAMESPACES / others).exists()
    finally:
        subprocess.run(["ip", "netns", "del", others], check=True, timeout=10)


@contextlib.contextmanager
def running(folder: Path, launcher: str) -> Iterator[ForkProcess]:
    """A cluster of another process, which leads a group, at a time when its command runs and does not want to end."""
    fifo = folder / "running"
    os.mkfifo(fifo)
    command = f"test $(hostname) = host1 && echo > {fifo}; {STUBBORN}"

    def run() -> None:
        os.setsid()
        watching.GRACE = 0.3
        os._exit(cluster("--nodes", "2", "--launcher", launcher, "--", "sh", "-c", command))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        fifo.read_text()  # until a rank has written to it
        yield process
    finally:
        process.kill()
        process.join(10)
        network.clean()


@real
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize("launcher", launching.LAUNCHERS)
@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)]
)
def test_a_signal_ends_everything(
    number: signal.Signals, whole_group: bool, launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, launcher) as process:
        assert process.pid is not None
        assert traces(process.pid)
        (os.killpg if whole_group else os.kill)(process.pid, number)
        process.join(30)
        assert process.exitcode == 128 + number
        assert traces(process.pid) == []
    assert f"ended by {number.name}" in capfd.readouterr().err


@real
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize("launcher", launching.LAUNCHERS)
def test_the_next_run_removes_the_hosts_of_a_killed_one(
    launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "alive").mkdir()
    with running(tmp_path / "killed", launcher) as killed, running(tmp_path / "alive", launcher) as alive:
        assert killed.pid is not None
        assert alive.pid is not None
        killed.kill()
        killed.join(10)
        assert traces(killed.pid)
        before = made_by(alive.pid)
        if launcher == "mpirun":
            assert cluster("--clean") == 0
        else:
            assert cluster("--nodes", "2", "--launcher", launcher, "--", "true") == 0
        assert f"removed what gossip-bench-{killed.pid} left behind" in capfd.readouterr().err
        assert traces(killed.pid) == []
        # A run that lives beside them is not touched.
        assert made_by(alive.pid) == before
        assert network.processes(network.RUN / f"{network.PREFIX}{alive.pid}")
        assert alive.is_alive()
        assert cluster("--clean") == 0
        assert "nothing was left behind" in capfd.readouterr().err


@real
@pytest.mark.slow
@pytest.mark.usefixtures("_spotless")
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_an_update_takes_its_compute_and_the_line(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "update.json"
    few = ["--steps", "16", "--warmup", "2", "--period", "8"]
    update = [*few, "--sizes", "1.024MB", "--compute", "0.1", "--algorithms", "none,sgp,osgp", "--transport", transport]
    whole = [sys.executable, "-m", "bench", "cluster", "--nodes", "4", "--rate", "100mbit", "--timeout", "90", "--"]
    whole += ["python", "-m", "bench", "update", *update, "--json", str(path)]
    subprocess.run(whole, check=True, timeout=240, cwd=ROOT)
    found = {result["algorithm"]: result["seconds"]["median"] for result in json.loads(path.read_text())["results"]}
    # The line takes 80 ms, which SGP pays and OSGP hides.
    assert 0.075 < found["sgp"] - found["none"] < 0.120
    assert found["osgp"] - found["none"] < 0.020
