"""Hosts whose names lead nowhere: ranks find an interface by which they reach one another, over Gloo too."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import spawn
from emulated import real

import gossip
from bench.cluster import launching, network
from gossip import testing
from gossip.transports.torch import interfaces
from gossip.transports.torch.store import StoreServer

TRAIN = """
import os, socket, sys, torch
import gossip
try:
    socket.gethostbyname(socket.gethostname())
except OSError:
    with gossip.init("gloo", timeout=30) as world:
        values = torch.full((100_000,), float(world.rank))
        world.channel().sum([values]).wait()
        assert values.tolist() == [1.0] * 100_000
        print("rank", world.rank, "on", socket.gethostname(), "over", os.environ["GLOO_SOCKET_IFNAME"], file=sys.stderr)
"""


@real
@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("launcher", ["mpirun", "torchrun"])
def test_ranks_on_hosts_whose_names_lead_nowhere_meet_over_gloo(launcher: str, tmp_path: Path) -> None:
    """Each host has an interface more, with the same address everywhere, which leads nowhere."""
    said = tmp_path / "said"
    with network.network([1e9, 1e9]) as made:
        (made.folder / "hosts").write_text("127.0.0.1 localhost\n")
        for host in made.hosts:
            inside = ("ip", "-n", f"{made.folder.name}-{host.name}")
            network._do(*inside, "link", "add", "docker0", "type", "bridge")
            network._do(*inside, "addr", "add", "172.17.0.1/16", "dev", "docker0")
            network._do(*inside, "link", "set", "docker0", "up")
        environment = launching.environment(made, 1) | {"PYTHONPATH": str(spawn.ROOT)}
        del environment["GLOO_SOCKET_IFNAME"]
        program = ["sh", "-c", f'exec "$@" >> {said} 2>&1', "sh", sys.executable, "-c", TRAIN]
        started = launching.LAUNCHERS[launcher](made, 1, program, environment, [])
        codes = [process.wait(timeout=150) for process in started]
    assert not any(codes), said.read_text()
    assert {f"rank {rank} on host{rank} over eth0" for rank in range(2)} <= set(said.read_text().splitlines())


def test_an_address_counts_where_the_store_of_this_job_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 127.0.0.2 another one does, and at 127.0.0.3 none."""
    monkeypatch.setattr(interfaces, "TRIAL", 0.2)
    own = StoreServer(("127.0.0.1", 0), b"ours")
    other = StoreServer(("127.0.0.2", own.port), b"theirs")
    try:
        candidates = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]
        assert interfaces._answering(candidates, own.port, b"ours", 0) == ["127.0.0.1"]
    finally:
        own.close()
        other.close()


REACHED = {0: ["10.0.0.1", "172.17.0.1", "192.168.0.1"], 1: ["10.0.0.1", "192.168.0.1"], 2: ["192.168.0.1"]}


def test_the_first_address_that_all_ranks_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_answering", lambda candidates, port, secret, rank: REACHED[rank])

    def run(world: gossip.World) -> str:
        return interfaces.common_address(world.base, world.hosts, REACHED[0], 1, b"")

    assert testing.run(2, run) == ["10.0.0.1"] * 2
    assert testing.run(3, run) == ["192.168.0.1"] * 3


def test_no_address_that_all_ranks_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """All say so, and rank 0 shows it."""
    monkeypatch.setattr(interfaces, "_answering", lambda candidates, port, secret, rank: REACHED[0][: 1 - rank])

    def run(world: gossip.World) -> bool:
        with pytest.raises(gossip.GossipError, match=r"; b reaches none\): set MASTER_ADDR and MASTER_PORT") as caught:
            interfaces.common_address(world.base, world.hosts, REACHED[0], 1, b"")
        return caught.value.speaks

    assert testing.run(2, run, hosts=["a", "b"]) == [True, False]


def test_the_name_of_this_host_leads_to_an_address_of_it_or_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    own = next(iter(interfaces.addresses().values()), "")
    for resolved, named in {"127.0.1.1": "", "192.0.2.1": "", **({own: own} if own else {})}.items():
        monkeypatch.setattr(socket, "gethostbyname", lambda name, resolved=resolved: resolved)
        assert interfaces.named_address() == named


def test_gloo_is_led_to_the_interface_that_faces_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has named one."""
    monkeypatch.setattr(interfaces, "addresses", lambda: {"docker0": "172.17.0.1", "eth1": "10.0.0.2"})
    monkeypatch.setattr(interfaces, "facing", lambda other: "10.0.0.2")
    for before, after in (("", "eth1"), ("ib0", "ib0")):
        monkeypatch.setenv(interfaces.VARIABLE, before)
        if not before:
            monkeypatch.delenv(interfaces.VARIABLE)
        interfaces.lead_gloo("10.0.0.1")
        assert os.environ[interfaces.VARIABLE] == after
