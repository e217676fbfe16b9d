"""The clocks of all ranks, update after update.

For rank i, c_i(t) the seconds that it computes in update t, r_i(t) the moment at which update t is done:

    Local          r_i(t+1) = r_i(t) + c_i
    exact average  r_i = max_j r_j + A
    SGP            r_i(t+1) = L_i(r(t) + c) + γB·(in-peers)
    OSGP           r_i(t+1) = max(r_i(t) + c_i, L_i(r(t))) + γB·(in-peers)

where A is what the collective takes and L_i(p) the moment at which what i sends and receives in a round has arrived,
if every rank j posts it at p_j: the latest of p_i and, over i's messages from j or to j, of max(p_i, p_j) + transfer
(`Round.land`). So lateness reaches the peers of a round, their peers in the next one, and everybody at once
where there is an exact average.
"""

from collections.abc import Iterator, Mapping
from itertools import count, repeat
from typing import NamedTuple

import numpy as np

from topologies import Topology

from ..shared.methods import Traffic
from ..shared.statistics import Summary
from .machine import COLLECTIVES, Cluster, Floats

WATCHED = 256  # ranks whose updates are kept for the median; the mean is over all ranks
KEPT = 64_000_000  # bytes of rounds that are kept for the next period; rounds beyond are made anew


class Round:
    """A round of gossip: messages from `source` to `target`, shape (m,) each; `take_in`, shape (n,), merges a rank's.

    A link carries the messages of a round at equal shares, so one takes as long as all through the busier of its ends.
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
        """The moments at which each rank's messages, sent and received, have arrived, if rank i posts at `posted[i]`;
        and `free` after the round: when each rank's link has brought its messages, which hold up eager senders."""
        # A transfer begins when both are there; an eager one with the sender, once the receiver's link is free.
        ready = free if eager else posted
        ends = np.maximum(posted[self.source], ready[self.target]) + self.seconds
        came, landed = free.copy(), posted.copy()
        np.maximum.at(came, self.target, ends)
        np.maximum.at(landed, self.source, ends)
        return np.maximum(landed, came), came


def _rounds(topology: Topology, cluster: Cluster, nbytes: float) -> Iterator[Round]:
    """Round after round; those of a period are made once, as far as memory allows."""
    kept: dict[int, Round] = {}
    room = KEPT
    for number in count():
        phase = number if topology.period is None else number % topology.period
        round = kept.get(phase) or Round(topology, phase, cluster, nbytes)
        memory = sum(array.nbytes for array in (round.source, round.target, round.seconds, round.take_in))
        if topology.period and phase not in kept and memory <= room:
            kept[phase] = round
            room -= memory
        yield round


class Prediction(NamedTuple):
    """An update's seconds, percentiles over windows of updates of up to 256 ranks and mean over all; the mean exposed
    beyond the rank's own compute; and the bytes that a rank sends."""

    seconds: Summary
    exposed: float
    sent: float


def simulate(
    methods: Mapping[str, Traffic],
    cluster: Cluster,
    topology: Topology,
    nbytes: float,
    steps: int,
    warmup: int = 0,
    *,
    level: bool = False,
) -> dict[str, Prediction]:
    """Every method on the same draws, `steps` updates after `warmup` of them.

    level: as `bench.measuring.loop.measure` does it with blocking methods, a barrier that is not timed stands between
    compute and step. Time O((steps + warmup) · messages), memory O(messages of a period), bounded.
    """
    # Methods with the same traffic have the same clocks.
    clocks = {method: _Clocks(method, cluster, nbytes, steps, level) for method in methods.values()}
    gossips = any(method.overlap is not None for method in clocks)
    rounds = _rounds(topology, cluster, nbytes) if gossips else repeat(None)
    computed = np.zeros(steps)
    for number, seconds, round in zip(range(warmup + steps), cluster.computes(), rounds, strict=False):
        for each in clocks.values():
            each.advance(number, number - warmup, seconds, round)
        if number >= warmup:
            computed[number - warmup] = seconds.mean()
    return {name: clocks[method].prediction(computed) for name, method in methods.items()}


class _Clocks:
    """Where each rank stands under one method."""

    def __init__(self, method: Traffic, cluster: Cluster, nbytes: float, steps: int, level: bool) -> None:
        self._method, self._eager = method, cluster.machine.eager
        self._level = level and method.blocking
        self._average = COLLECTIVES[method.collective](cluster, nbytes)
        # A rank sends at least 2B(n − 1)/n for an average.
        sent = 2 * nbytes * (cluster.size - 1) / cluster.size
        self._sent = sum(steps * sent / every for every in method.averages)
        self._watched = np.unique(np.linspace(0, cluster.size - 1, WATCHED).astype(np.int64))
        self._means = np.zeros(steps)
        self._updates = np.zeros((steps, len(self._watched)))
        self._done, self._landed, self._free, self._take_in = np.zeros((4, cluster.size))

    def advance(self, number: int, step: int, seconds: Floats, round: Round | None) -> None:
        """Update `number`, which is kept as measured update `step` from 0 on."""
        method = self._method
        began = self._done
        done = began + seconds
        if self._level:
            together = np.full_like(done, done.max())
            began = began + (together - done)
            done = together
        if method.overlap == 0 and round:
            # r(t+1) = L(r(t) + c) + γB
            self._post(round, done, step)
            done = self._landed + self._take_in
        elif method.overlap == 1:
            # r(t+1) = max(r(t) + c, L(r(t))) + γB
            done = np.maximum(done, self._landed) + self._take_in
        for every in method.averages:
            if (number + 1) % every == 0:
                # r = max r + A
                done = np.full_like(done, done.max() + self._average)
        if method.overlap == 1 and round:
            self._post(round, done, step)
        if step >= 0:
            update = done - began
            self._means[step] = update.mean()
            self._updates[step] = update[self._watched]
        self._done = done

    def _post(self, round: Round, posted: Floats, step: int) -> None:
        self._sent += round.sent if step >= 0 else 0
        self._landed, self._free = round.land(posted, self._free, self._eager)
        self._take_in = round.take_in

    def prediction(self, computed: Floats) -> Prediction:
        """Over whole windows."""
        window = self._method.window
        whole = len(self._means) - len(self._means) % window
        assert whole > 0, "at least one window"
        windows = self._updates[:whole].reshape(-1, window, len(self._watched)).mean(axis=1)
        p10, median, p90 = np.percentile(windows, [10, 50, 90]).tolist()
        mean, compute = float(self._means[:whole].mean()), float(computed[:whole].mean())
        return Prediction(Summary(median, p10, p90, mean), mean - compute, self._sent / len(self._means))
