"""A round of gossip: who waits for whom, and for how long."""

from __future__ import annotations

import numpy as np

from topologies import Topology

from .machine import Cluster, Floats

KEPT = 64_000_000
"""Bytes of rounds that are kept for the next period; rounds beyond are made anew."""


class Round:
    """Messages from `source` to `target`, shape (m,) each.

    A link carries the messages of a round at equal shares, so one takes as long as all that go through the busier of
    its two ends. `take_in`, shape (n,), is what a rank takes to merge what came.
    """

    def __init__(self, topology: Topology, number: int, cluster: Cluster, nbytes: float) -> None:
        machine, edges = cluster.machine, topology.edges(number)
        self.source, self.target = edges.source, edges.target
        within = (cluster.group[self.source] == cluster.group[self.target]) & (machine.inside_rate is not None)
        messages = np.bincount(self.target, minlength=cluster.size)
        # γB for each message
        self.take_in: Floats = machine.merge * nbytes * messages.astype(np.float64)
        self.sent = nbytes * len(self.source) / cluster.size
        # α + 8B max(out-going of the sender's link / its β, in-coming of the receiver's link / its β)
        links = len(cluster.rates)
        sender, receiver = cluster.link[self.source], cluster.link[self.target]
        out: Floats = np.bincount(sender[~within], minlength=links) / cluster.rates
        come: Floats = np.bincount(receiver[~within], minlength=links) / cluster.rates
        self.seconds: Floats = machine.latency + 8.0 * nbytes * np.maximum(out[sender], come[receiver])
        if within.any():
            rate, latency = cluster.inside
            source, target = self.source[within], self.target[within]
            sent = np.bincount(source, minlength=cluster.size)
            received = np.bincount(target, minlength=cluster.size)
            self.seconds[within] = latency + 8 * nbytes / rate * np.maximum(sent[source], received[target])

    def land(self, posted: Floats, free: Floats, eager: bool) -> tuple[Floats, Floats]:
        """When each rank's messages, sent and received, have arrived, if rank i posts at `posted[i]`.

        free: when each rank's link had brought what came before, which holds up messages of eager senders. The second
        array is the same after this round.
        """
        # A transfer begins when both are there; an eager one with the sender, once the receiver's link is free.
        ready = free if eager else posted
        ends = np.maximum(posted[self.source], ready[self.target]) + self.seconds
        came, landed = free.copy(), posted.copy()
        np.maximum.at(came, self.target, ends)
        np.maximum.at(landed, self.source, ends)
        return np.maximum(landed, came), came

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.source.nbytes + self.target.nbytes + self.seconds.nbytes + self.take_in.nbytes


class Rounds:
    """The rounds of a topology on a cluster; those of a period are made once as far as memory allows."""

    def __init__(self, topology: Topology, cluster: Cluster, nbytes: float) -> None:
        self._topology, self._cluster, self._nbytes = topology, cluster, nbytes
        self._kept: dict[int, Round] = {}
        self._room = KEPT

    def __getitem__(self, number: int) -> Round:
        """Round `number` = 0, 1, 2, …"""
        period = self._topology.period
        phase = number if period is None else number % period
        found = self._kept.get(phase)
        if found is None:
            found = Round(self._topology, phase, self._cluster, self._nbytes)
            if period is not None and found.nbytes <= self._room:
                self._kept[phase] = found
                self._room -= found.nbytes
        return found
