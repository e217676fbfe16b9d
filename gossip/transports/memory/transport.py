"""Ranks that are threads of one process, over a `network`: for tests, simulation, and plain `python` with one rank."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from ...errors import PeerDied, PeerLost
from ...recovery.survival import Lasting
from ..base import Transport
from ..flight import Batch, Flight
from .network import Line, Network, Parcel


class MemoryCarrier(Lasting):
    """The network as one rank sees it, which may have met the others less often than they met."""

    outlives = True

    def __init__(self, network: Network, me: int, size: int, timeout: float) -> None:
        super().__init__(size)
        self.network = network
        self.me = me
        self.timeout = timeout
        self.met = 0
        self._living = frozenset(range(size))
        self._ballots = 0

    def revoke(self) -> None:
        self.network.revoke(self.met)

    def agree(self, done: bool) -> bool:
        self._ballots += 1
        return self.network.vote((self.met, self._ballots), self.me, self._living, done, self.timeout)

    def shrink(self) -> set[int]:
        self.network.vote((self.met, 0), self.me, self._living, True, self.timeout)
        _, gone = self.network.verdicts[self.met, 0]
        self.met += 1
        self._ballots = 0
        self._living -= gone
        return set(gone)


class MemoryFlight(Flight):
    """Done when every parcel of the batch has been handed over."""

    transport: MemoryTransport

    def __init__(self, transport: MemoryTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        network, me, met = transport.network, transport.me, transport.carrier.met
        self._met = met
        with network.changed:
            self._in = [
                (peer, line, network.receive(line, tensors))
                for peer, tensors in receives.items()
                if tensors
                for line in [(met, transport.number, self.ranks[peer], me)]
            ]
            self._out = [
                (peer, line, network.send(line, tensors))
                for peer, tensors in sends.items()
                if tensors
                for line in [(met, transport.number, me, self.ranks[peer])]
            ]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, me = self.transport.network, self.transport.me
        with network.changed:
            waiting = [(peer, line, parcel) for peer, line, parcel in (*self._in, *self._out) if not parcel.landed]
            for _, line, parcel in waiting:
                if not parcel.landed:
                    network.deliver(line)
            waiting = [each for each in waiting if not each[2].landed]
            if not waiting:
                self.landed = time.perf_counter()
            elif network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
            elif self._met <= network.revoked:
                raise PeerDied(f"{self.subject} of rank {me} was broken off: another rank has died")
            else:
                self._mourn(waiting)
        return self.landed is not None

    def _mourn(self, waiting: Sequence[tuple[int, Line, Parcel]]) -> None:
        """Raise when a peer is dead that has nothing under way to here any more."""
        network = self.transport.network
        for peer, line, parcel in waiting:
            if self.ranks[peer] in network.dead and not network.under_way(line, parcel):
                raise PeerDied(f"rank {self.ranks[peer]} died while rank {self.transport.me} was in {self.subject}")

    def arrived(self) -> set[int]:
        return set(self.receives) - {peer for peer, _, parcel in self._in if not parcel.landed}

    def missing(self) -> tuple[list[int], list[int]]:
        unheard = {peer for peer, _, parcel in self._in if not parcel.landed}
        untaken = {peer for peer, _, parcel in self._out if not parcel.landed}
        return sorted(unheard), sorted(untaken)

    def pause(self, waited: float, left: float) -> None:
        network = self.transport.network
        with network.changed:
            if network.failure is None:
                # Nobody announces that a delay is over; and what landed between the question and this wait did so
                # without being heard.
                network.changed.wait(min(left, 1e-3))


class MemoryTransport(Transport):
    """Rank `rank` of `size` threads that share `network`."""

    name = "memory"
    carrier: MemoryCarrier

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        super().__init__(rank, size, timeout, MemoryCarrier(network, rank, size, timeout))
        self.network = network
        self.patience = math.inf if network.lose is None else network.patience

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> MemoryFlight:
        self.refuse_closed(subject)
        return MemoryFlight(self, sends, receives, subject)

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.me} ended the job with code {code}"))
