"""Ranks that are threads of one process, over a `network`: for tests, simulation, and plain `python` with one rank."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from ...errors import PeerDied, PeerLost
from ..carrier import Carrier, Survivors
from ..flight import Backend, Batch, Channel, Flight
from .network import Line, Network, Parcel


class MemoryBackend(Backend, Survivors):
    """Rank `rank` of `size` threads that share `network`.

    It also is how the survivors of a death go on. This rank may have met the others less often than they have met.

    Attributes:
        met: how often the survivors have met after a death.
    """

    name = "memory"

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        self.network = network
        self.rank = rank
        self.carrier = Carrier(size, survivors=self)
        self.patience = math.inf if network.lose is None else network.patience
        self.met = 0
        self._timeout = timeout
        self._living = frozenset(range(size))
        self._ballots = 0

    def post(self, channel: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        return MemoryFlight(self.network, self.met, channel, sends, receives, subject)

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.rank} ended the job with code {code}"))

    def revoke(self) -> None:
        self.network.revoke(self.met)

    def agree(self, done: bool) -> bool:
        self._ballots += 1
        return self.network.vote((self.met, self._ballots), self.rank, self._living, done, self._timeout)

    def shrink(self) -> set[int]:
        self.network.vote((self.met, 0), self.rank, self._living, True, self._timeout)
        _, gone = self.network.verdicts[self.met, 0]
        self.met += 1
        self._ballots = 0
        self._living -= gone
        return set(gone)


class MemoryFlight(Flight):
    """Done when every parcel of the batch has been handed over."""

    def __init__(
        self, network: Network, met: int, channel: Channel, sends: Batch, receives: Batch, subject: str
    ) -> None:
        super().__init__(channel, sends, receives, subject)
        self._network, self._met = network, met
        number, me, ranks = channel.number, channel.me, self.ranks
        coming = [((met, number, ranks[peer], me), tensors) for peer, tensors in receives.items() if tensors]
        going = [((met, number, me, ranks[peer]), tensors) for peer, tensors in sends.items() if tensors]
        with network.changed:
            self._in = [(line, network.receive(line, tensors)) for line, tensors in coming]
            self._out = [(line, network.send(line, tensors)) for line, tensors in going]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, me = self._network, self.channel.me
        with network.changed:
            for line, parcel in (*self._in, *self._out):
                if not parcel.landed:
                    network.deliver(line)
            left = [(line, parcel) for line, parcel in (*self._in, *self._out) if not parcel.landed]
            if not left:
                self.landed = time.perf_counter()
            elif network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
            elif self._met <= network.revoked:
                raise PeerDied(f"{self.subject} of rank {me} was broken off: another rank has died")
            else:
                self._check_alive(left)
        return self.landed is not None

    def _check_alive(self, left: Sequence[tuple[Line, Parcel]]) -> None:
        """Raise when a peer is dead that has nothing under way to here any more."""
        me = self.channel.me
        for line, parcel in left:
            [peer] = {*line[2:]} - {me} or {me}
            if peer in self._network.dead and not self._network.under_way(line, parcel):
                raise PeerDied(f"rank {peer} died while rank {me} was in {self.subject}")

    def missing(self) -> tuple[list[int], list[int]]:
        unheard = {source for (_, _, source, _), parcel in self._in if not parcel.landed}
        untaken = {target for (_, _, _, target), parcel in self._out if not parcel.landed}
        return sorted(unheard), sorted(untaken)

    def arrived(self) -> set[int]:
        unheard, _ = self.missing()
        return {peer for peer in self.receives if self.ranks[peer] not in unheard}

    def pause(self, waited: float, left: float) -> None:
        with self._network.changed:
            if self._network.failure is None:
                # No rank announces that a delay is over, and a landing between the poll and this wait wakes nobody.
                self._network.changed.wait(min(left, 1e-3))
