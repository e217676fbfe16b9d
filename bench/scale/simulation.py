"""The clocks of all ranks, update after update.

For rank i, c_i(t) the seconds that it computes in update t, r_i(t) the moment at which update t is done:

    Local          r_i(t+1) = r_i(t) + c_i
    exact average  r_i = max_j r_j + A
    SGP            r_i(t+1) = L_i(r(t) + c) + γB·(in-peers)
    OSGP           r_i(t+1) = max(r_i(t) + c_i, L_i(r(t))) + γB·(in-peers)

where A is what the collective takes and L_i(p) the moment at which what i sends and receives in a round has arrived,
if every rank j posts it at p_j: the latest of p_i and, over i's messages from j or to j, of max(p_i, p_j) + transfer
(`rounds.Round.land`). So lateness reaches the peers of a round, their peers in the next one, and everybody at once
where there is an exact average.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np

from topologies import Topology

from ..shared.statistics import Summary
from .collectives import COLLECTIVES
from .machine import Cluster, Floats
from .methods import Method
from .rounds import Rounds

WATCHED = 256
"""Ranks whose updates are kept for the median; the mean is over all ranks."""


class Prediction(NamedTuple):
    """What an update takes.

    seconds: median, tenth and ninetieth percentile over windows of updates of up to 256 ranks, and mean over all.
    exposed: mean of what an update takes beyond the rank's own compute. sent: bytes that a rank sends in an update.
    """

    seconds: Summary
    exposed: float
    sent: float


def simulate(
    methods: Mapping[str, Method],
    cluster: Cluster,
    topology: Topology,
    nbytes: float,
    steps: int,
    warmup: int = 0,
    *,
    level: bool = False,
) -> dict[str, Prediction]:
    """Every method on the same draws, `steps` updates after `warmup` of them.

    level: as `bench.update.measuring.measure` does it with blocking methods, a barrier that is not timed stands between
    compute and step. Time O((steps + warmup) · messages), memory O(messages of a period), bounded.
    """
    rounds = Rounds(topology, cluster, nbytes)
    # Methods of the same parts have the same clocks.
    clocks = {method: _Clocks(method, cluster, rounds, nbytes, steps, level) for method in methods.values()}
    computed = np.zeros(steps)
    for step, seconds in enumerate(islice(cluster.computes(), warmup + steps), start=-warmup):
        for each in clocks.values():
            each.advance(step, step + warmup, seconds)
        if step >= 0:
            computed[step] = seconds.mean()
    return {name: clocks[method].prediction(computed) for name, method in methods.items()}


class _Clocks:
    """Where each rank stands under one method."""

    def __init__(
        self, method: Method, cluster: Cluster, rounds: Rounds, nbytes: float, steps: int, level: bool
    ) -> None:
        self._method, self._rounds = method, rounds
        self._eager = cluster.machine.eager
        self._level = level and method.blocking
        collective = COLLECTIVES[method.average] if method.average else None
        self._average = collective.seconds(cluster, nbytes) if collective else 0.0
        self._sent = steps * collective.sent(cluster, nbytes) / method.every if collective else 0.0
        self._watched = np.unique(np.linspace(0, cluster.size - 1, WATCHED).astype(np.int64))
        self._means = np.zeros(steps)
        self._updates = np.zeros((steps, len(self._watched)))
        self._done: Floats = np.zeros(cluster.size)
        self._landed: Floats = np.zeros(cluster.size)
        self._free: Floats = np.zeros(cluster.size)
        self._take_in: Floats | float = 0.0

    def advance(self, step: int, number: int, seconds: Floats) -> None:
        """Update `number`, which is kept as measured update `step` from 0 on."""
        method = self._method
        began = self._done
        done = began + seconds
        if self._level:
            together = np.full_like(done, done.max())
            began = began + (together - done)
            done = together
        if method.overlap == 0:
            # r(t+1) = L(r(t) + c) + γB
            self._post(number, done)
            done = self._landed + self._take_in
        elif method.overlap == 1:
            # r(t+1) = max(r(t) + c, L(r(t))) + γB
            done = np.maximum(done, self._landed) + self._take_in
        if method.average and (number + 1) % method.every == 0:
            # r = max r + A
            done = np.full_like(done, done.max() + self._average)
        if method.overlap == 1:
            self._post(number, done)
        if method.overlap is not None and step >= 0:
            self._sent += self._rounds[number].sent
        if step >= 0:
            update = done - began
            self._means[step] = update.mean()
            self._updates[step] = update[self._watched]
        self._done = done

    def _post(self, number: int, posted: Floats) -> None:
        round = self._rounds[number]
        self._landed, self._free = round.land(posted, self._free, self._eager)
        self._take_in = round.take_in

    def prediction(self, computed: Floats) -> Prediction:
        """Over whole windows."""
        window = self._method.window
        whole = len(self._means) - len(self._means) % window
        assert whole > 0, "at least one window"
        windows = self._updates[:whole].reshape(-1, window, len(self._watched)).mean(axis=1)
        p10, median, p90 = (float(each) for each in np.percentile(windows, [10, 50, 90]))
        mean = float(self._means[:whole].mean())
        exposed = mean - float(computed[:whole].mean())
        return Prediction(Summary(median, p10, p90, mean), exposed, self._sent / len(self._means))
