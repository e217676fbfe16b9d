"""This host's network interfaces, and which of them lead to the other hosts if host names do not tell.

Gloo listens on the interface that GLOO_SOCKET_IFNAME names. Without it, Gloo takes the address that the host's own name
resolves to, else the loopback.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from ...errors import GossipError, PeerTimeout
from ..communicator import Communicator
from .store import StoreClient

VARIABLE = "GLOO_SOCKET_IFNAME"

TRIAL = 3.0  # seconds for an address to answer
SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


def named_address() -> str:
    """The address that this host's name resolves to, if others may reach this host by it; else ""."""
    try:
        address = socket.gethostbyname(socket.gethostname())
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.bind((address, 0))
    except OSError:
        return ""
    return "" if ipaddress.ip_address(address).is_loopback else address


def addresses() -> dict[str, str]:
    """The IPv4 address of each interface, without the loopback; those of GLOO_SOCKET_IFNAME where it is set."""
    if not sys.platform.startswith("linux"):
        return {}
    import fcntl

    wanted = list(filter(None, os.environ.get(VARIABLE, "").split(",")))
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for name in wanted or [name for _, name in socket.if_nameindex()]:
            with suppress(OSError):  # it has no address
                answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(answer[20:24])
    return {name: address for name, address in found.items() if not ipaddress.ip_address(address).is_loopback}


def facing(other: str) -> str:
    """The address from which this host reaches `other`; "" where no route leads there."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # sends nothing: it only asks which address the route would use
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def lead_gloo(other: str) -> None:
    """Have Gloo listen on the interface that leads to `other`, unless that is the loopback, or the user has chosen."""
    own = facing(other)
    for name, address in addresses().items():
        if address == own:
            os.environ.setdefault(VARIABLE, name)


def common_address(
    ranks: Communicator, hosts: Sequence[str], candidates: Sequence[str], port: int, secret: bytes
) -> str:
    """The first of `candidates`, rank 0's addresses, at which the store answers on all hosts; every rank calls it."""
    answering = " ".join(_answering(candidates, port, secret, ranks.rank))
    reached = [word.decode().split() for word in ranks.gather(answering.encode())]
    for address in candidates:
        if all(address in each for each in reached):
            return address
    found = "; ".join(
        f"{host} reaches {', '.join(each) or 'none'}" for host, each in dict(zip(hosts, reached, strict=True)).items()
    )
    raise GossipError(
        f"host names lead to no addresses here, and no address of rank 0's host {hosts[0]} "
        f"({', '.join(candidates) or 'none is known'}) is reached from all hosts ({found}): set MASTER_ADDR and "
        f"MASTER_PORT to one that is, and {VARIABLE} to the interface that leads there",
        ranks.rank == 0,
    )


def _answering(candidates: Sequence[str], port: int, secret: bytes, rank: int) -> list[str]:
    """Those of `candidates` where the store of this job answers; another host may have the same address."""

    def answers(address: str) -> bool:
        try:
            StoreClient((address, port), secret, TRIAL, rank).close()
        except PeerTimeout:
            return False
        return True

    with ThreadPoolExecutor(max(1, len(candidates))) as pool:
        return [address for address, yes in zip(candidates, pool.map(answers, candidates), strict=True) if yes]


def own_address(hosts: Sequence[str]) -> str:
    """An address of this host that the others can reach: by its name, or by the route to them."""
    own = socket.gethostname()
    for address in (named_address(), *(facing(host) for host in hosts if host != own)):
        if address:
            return address
    raise GossipError(f"host {own} knows no address of its own that other hosts can reach: let its name lead to one")
