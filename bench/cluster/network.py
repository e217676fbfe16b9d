"""Hosts on one machine: network namespaces joined by a switch, with shaped links and names of their own.

The switch is a bridge in a namespace of its own, so that nothing appears among the machine's own interfaces. A link is
shaped at both ends, what leaves the host and what comes to it.

Every run owns the folder /run/gossip-bench-PID, which it holds locked for as long as it lives, and the namespaces
/run/netns/gossip-bench-PID-*. A folder that nobody holds is what a run left behind that was killed.
"""

import contextlib
import fcntl
import os
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .needs import path

RUN = Path("/run")
NAMESPACES = RUN / "netns"
PREFIX = "gossip-bench-"
SWITCH = "switch"
MOST = 250  # hosts, as many as the last byte of an address numbers
PATIENCE = 10.0  # seconds for processes that were killed to end
SLOWEST = 1e6  # bit/s: below, the shaper's least burst would last longer than half a second

# Of every host. Reno fills the link; what kernels have instead may probe the shaper for its rate and stay below it. A
# connection that has rested, while ranks compute, does not begin slowly again: on these slow links that would take 5 or
# 10 ms in some rounds and none in others.
TCP = {"tcp_congestion_control": "reno", "tcp_slow_start_after_idle": "0"}

# Open MPI refuses connections between hosts of one name, and Gloo looks its own name up: so each host has a name, and
# a table of all names. Shared memory is the run's own, so that segments of ranks that were killed go with it. These
# mounts are seen by the command and its children alone.
ENTER = """\
# NAME COMMAND...: become COMMAND on the host NAME
name=$1
shift
exec nsenter --net={namespaces}-"$name" --uts={folder}/"$name" unshare --mount --propagation slave \\
  sh -c 'mount --bind {folder}/hosts /etc/hosts && mount --bind {folder}/shm /dev/shm && exec "$@"' sh "$@"
"""


class ClusterError(RuntimeError):
    """The hosts could not be made, or did what hosts must not do."""

    code = 1  # the exit code of the command


class Host(NamedTuple):
    """One host: its number, which its name ends with, and the address of its eth0."""

    number: int
    name: str
    address: str


@dataclass(frozen=True)
class Network:
    """The hosts of one run, and the rates of their links in bit/s."""

    folder: Path
    hosts: tuple[Host, ...]
    rates: tuple[float, ...]

    def start(
        self, host: Host, command: Sequence[str], env: Mapping[str, str], *, stdin: int | None = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host, in a session of its own; it is terminated when this process dies."""
        entered = ["setpriv", "--pdeathsig", "TERM", "sh", str(self.folder / "enter"), host.name, *command]
        return subprocess.Popen(entered, env=env, stdin=stdin, start_new_session=True)

    def shape(self, host: Host, rate: float) -> None:
        """Give a host's link a rate, both ways, from now on."""
        for namespace, device in ((host.name, "eth0"), (SWITCH, f"port{host.number}")):
            # One segment of 64 kB must fit into the bucket, and what a timer of the kernel may be late.
            burst = max(72 * 1024, round(rate / 8 * 2e-3))
            bucket = ("tbf", "rate", f"{round(rate)}bit", "burst", f"{burst}b", "latency", "400ms")
            _do("tc", "-n", f"{self.folder.name}-{namespace}", "qdisc", "replace", "dev", device, "root", *bucket)

    def cut(self, host: Host) -> None:
        """Pull the plug at the switch: the host loses its carrier and every packet on the way."""
        _do("ip", "-n", f"{self.folder.name}-{SWITCH}", "link", "set", f"port{host.number}", "down")

    def restore(self, host: Host) -> None:
        """Plug it in again, with the rate it had at first."""
        self.shape(host, self.rates[host.number])
        _do("ip", "-n", f"{self.folder.name}-{SWITCH}", "link", "set", f"port{host.number}", "up")


@contextlib.contextmanager
def network(rates: Sequence[float]) -> Iterator[Network]:
    """Hosts 0..n-1 with these rates, for as long as the context lasts; every process on them ends with it."""
    pid = os.getpid()
    # Nothing routes between two runs; the addresses differ so that they can be told apart.
    subnet = f"10.{pid >> 8 & 255}.{pid & 255}"
    with _claimed(RUN / f"{PREFIX}{pid}") as folder:
        hosts = tuple(Host(i, f"host{i}", f"{subnet}.{i + 1}") for i in range(len(rates)))
        made = Network(folder, hosts, tuple(rates))
        try:
            _make(made)
            yield made
        finally:
            _remove(folder)


def clean() -> list[str]:
    """Remove what runs left behind that were killed, and return their names. Runs that live are left alone."""
    found = []
    for folder in (each for each in sorted(RUN.glob(f"{PREFIX}*")) if each.name.removeprefix(PREFIX).isdecimal()):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(folder):
            _remove(folder)
            found.append(folder.name)
    return found


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Make the folder that owns everything else. It appears under its name when it is locked already."""
    new = folder.with_name(f"{folder.name}.new")
    new.mkdir(mode=0o700, exist_ok=True)
    with _locked(new):
        if folder.exists() or _namespaces(folder):
            new.rmdir()
            raise ClusterError(f"{folder} or namespaces of that name are there already, made by another process")
        new.rename(folder)
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder until this process dies; BlockingIOError if another one does, FileNotFoundError if it is gone."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(folder).st_ino != os.fstat(held).st_ino:
            raise FileNotFoundError(folder)
        yield
    finally:
        os.close(held)


def _make(made: Network) -> None:
    name, switch = made.folder.name, f"{made.folder.name}-{SWITCH}"
    (made.folder / "enter").write_text(ENTER.format(namespaces=NAMESPACES / name, folder=made.folder))
    table = ["127.0.0.1 localhost", "::1 localhost"]
    for host in made.hosts:
        # And as a socket that listens for both families sees it.
        table += [f"{host.address} {host.name}", f"::ffff:{host.address} {host.name}"]
    (made.folder / "hosts").write_text("\n".join(table) + "\n")
    (made.folder / "shm").mkdir()
    _do("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(made.folder / "shm"))
    _do("ip", "netns", "add", switch)
    _do("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
    _do("ip", "-n", switch, "link", "set", "switch", "up")
    for host in made.hosts:
        namespace, port = f"{name}-{host.name}", f"port{host.number}"
        _do("ip", "netns", "add", namespace)
        _do("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
        _do("ip", "-n", namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _do("ip", "-n", namespace, "link", "set", "lo", "up")
        made.shape(host, made.rates[host.number])
        _do("ip", "-n", namespace, "link", "set", "eth0", "up")
        _do("ip", "-n", switch, "link", "set", port, "master", "switch", "up")
        uts = made.folder / host.name
        uts.touch()
        _do("unshare", f"--uts={uts}", "sh", "-c", f"echo {host.name} > /proc/sys/kernel/hostname")
        for setting, value in TCP.items():
            write = f"echo {value} > /proc/sys/net/ipv4/{setting}"
            _do("nsenter", f"--net={NAMESPACES / namespace}", "sh", "-c", write)


def _remove(folder: Path) -> None:
    """Kill the processes on the hosts of this folder, and remove everything of its name, whole or half made."""
    _end_processes(folder)
    for namespace in _namespaces(folder):
        _do("ip", "netns", "del", namespace.name)
    for file in folder.iterdir():
        if os.path.ismount(file):
            _do("umount", str(file))
    shutil.rmtree(folder)


def _namespaces(folder: Path) -> list[Path]:
    return sorted(NAMESPACES.glob(f"{folder.name}-*"))


def _end_processes(folder: Path) -> None:
    """Kill every process on the hosts of this folder, and wait until none is left."""
    while found := processes(folder):
        handles: list[int] = []
        ended = select.poll()
        try:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    handles.append(os.pidfd_open(pid))
                    ended.register(handles[-1], select.POLLIN)
                    signal.pidfd_send_signal(handles[-1], signal.SIGKILL)
            if handles and not ended.poll(PATIENCE * 1e3):
                raise ClusterError(f"processes {found} on the hosts of {folder.name} do not end when killed")
        finally:
            for handle in handles:
                os.close(handle)


def processes(folder: Path) -> list[int]:
    """The processes that are in the namespaces of this folder."""
    return [int(pid) for each in _namespaces(folder) for pid in _do("ip", "netns", "pids", each.name).split()]


def _do(*command: str) -> str:
    # In a session of its own: Ctrl-C is for us, and leaves no half of a host.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path()}, start_new_session=True
    )
    if done.returncode:
        raise ClusterError(f"`{shlex.join(command)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
