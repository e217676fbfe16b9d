"""SGP's round, section by section: posted when the step ends, merged before the model's next forward pass reads it.

A value is needed only when the module that reads it runs. So the round travels while the modules before that one
compute, and nothing is stale: each forward pass computes with the values that `landing="due"` with overlap 0 gives it,
bit for bit. Values that no module has read land when the next step begins.

Source: Zhang, Shi, Chu, Wang, Li, Liu, "DeAR: accelerating distributed deep learning with fine-grained all-reduce
pipelining", ICDCS 2023, arXiv 2302.12445, which hides the second half of an all-reduce so.
"""

from __future__ import annotations

import json
import threading
from typing import Any, NamedTuple

import torch

from ...errors import UsageError
from ...passes.forward import ForwardPass, Notes
from ...state.buckets.sections import Sections, cut
from ...state.codecs import PLAIN
from ...state.merging import mix_
from ...transports import Flight
from ..exchange import Buffers, Exchange
from .due import Due, Round


class Sent(NamedTuple):
    """A section of the round in flight."""

    number: int  # of the section
    arriving: dict[int, Buffers]
    leaving: Buffers | None
    flight: Flight


class Forward(Due):
    """`Due` with overlap 0, whose wait stands where the values are read.

    Args:
        sections: how many messages a round is cut into at most.
    """

    unmerged = True

    def __init__(self, exchange: Exchange, overlap: int, sections: int = 16) -> None:
        if overlap:
            raise UsageError(
                f"landing='forward' merges a round before the model reads it, so that no value is late, and overlap is "
                f"{overlap}: leave it out, or take landing='due' with it"
            )
        super().__init__(exchange, overlap)
        self.overlap = 1  # its messages travel while the next step computes
        self._count = sections
        self._sections = Sections([], [])
        self._parts: list[Exchange] = []  # one for each section
        self._pending: dict[int, Sent] = {}  # sections of the round in flight, by number
        self._ratios: list[torch.Tensor] | None = None  # of its messages, once the first section has landed
        self._lock = threading.RLock()

    def watch(self, forward: ForwardPass) -> None:
        self._forward = forward
        forward.check()
        if self.exchange.channel.size > 1:
            forward.tell(self)

    def average(self, step: int) -> None:
        if self._posts_in(step):
            self._give(step)

    def post(self, step: int) -> None:
        pass  # posted already: what an averager behind this one rewrites includes the round

    def land(self, step: int) -> None:
        self._step = step
        self._forward.check_fresh(self._pending)
        self.settle()
        for part in self._parts:  # not before: messages of two rounds would share our link
            part.expect(self.round)

    def settle(self) -> None:
        self.land_sections(len(self._parts))

    def quiesce(self) -> None:
        self.settle()  # whoever reads all values reads those of the round
        super().quiesce()

    # -- a round -------------------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Cut the values into sections, in the order in which the first rank that knows it reads them."""
        notes, channel = self._forward.notes(), self.exchange.channel
        told: list[Notes] = [json.loads(row) for row in channel.gather(json.dumps(notes).encode())]
        order = next((each["order"] for each in told if each["order"]), [])
        self._sections = cut(self.exchange.mass.buckets, order, self._count)
        self._parts = [self.exchange.part(spans) for spans in self._sections.spans]
        self._forward.place(self._sections, told)

    def _give(self, step: int) -> None:
        """Post the sections, in the order in which they are needed, and give the weight away."""
        exchange, mass, number = self.exchange, self.exchange.mass, self.round
        if not self._parts:
            self._cut()
        topology, turn = exchange.topology, exchange.turn(number)
        with mass.stats.span("post"):
            mass.check(mass.values)
            encodes = exchange.codec is not PLAIN and bool(turn.sends)
            snapshots = [part.snapshot(number) if encodes else None for part in self._parts]
            self.round += 1
            for place, (part, leaving) in enumerate(zip(self._parts, snapshots, strict=True)):
                values = part.values if leaving is None else leaving[1:]
                sends = {
                    peer: [exchange.envelope(share * mass.weight, number, values), *values]
                    for peer, share in turn.sends.items()
                }
                arriving = {peer: part.take_for(peer) for peer in sorted(turn.receives)}
                subject = f"round {number}, section {place + 1} of {len(self._parts)}"
                # All ranks wait for a round, so none is far ahead; and sections that are sent at once keep their order.
                flight = exchange.channel.drive(exchange.post(sends, arriving, subject, together=True))
                if leaving is None:
                    mass.reading.append(flight)
                self._pending[place] = Sent(place, arriving, leaving, flight)
            for part, leaving in zip(self._parts, snapshots, strict=True):
                if leaving is not None:
                    mass.retain_(turn.keep, leaving[1:], exchange.codec, part.values)
            mass.give(turn.keep, topology.doubly_stochastic(number), topology.keeps_alike(number))
            self._ratios = None
            self._note(Round(number, step, step, {}, None, exchange.channel.ranks))
            self._forward.posted()
        if not (turn.sends or turn.receives):  # nothing to wait for
            self.settle()

    def land_sections(self, last: int) -> None:
        """Merge the sections of the round in flight up to number `last`."""
        with self._lock:  # several threads may run the model
            due = [number for number in range(last + 1) if number in self._pending] if self.rounds else []
            if due:
                with self.exchange.mass.stats.span("land"):
                    for number in due:
                        self._merge(self._pending[number])

    def _merge(self, sent: Sent) -> None:
        exchange, mass, round, part = self.exchange, self.exchange.mass, self.rounds[0], self._parts[sent.number]
        self._forward.lands(sent.number, is_first=self._ratios is None)
        mass.wait(sent.flight)
        for peer, (envelope, *values) in sent.arriving.items():
            exchange.check(envelope, round.ranks[peer], round.number, values)
        del self._pending[sent.number]  # from here on nothing waits for a peer
        with mass.stats.merging():
            # w <- w + w' ;   z <- z + (w'/w)·(z' − z), section by section
            if self._ratios is None:
                self._ratios = mass.take([envelope[0] for envelope, *_ in sent.arriving.values()])
            if sent.arriving:
                for own, *others in zip(part.values, *(values for _, *values in sent.arriving.values()), strict=True):
                    mix_(own, others, self._ratios, exchange.codec)
        part.give_back(*sent.arriving.values(), *filter(None, [sent.leaving]))
        self._forward.landed(sent.number, self._sections)
        if not self._pending:
            self.rounds.popleft()
            self._end(round)
            self._forward.all_landed()

    # -- between steps -------------------------------------------------------------------------------------------------

    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        assert not self.rounds, "quiesce comes first"
        return []

    def rebind(self) -> None:
        super().rebind()
        self._parts = []
        self._forward.begin_anew()

    def forget(self) -> None:
        for sent in self._pending.values():
            self.exchange.mass.wait(sent.flight)
            self._parts[sent.number].give_back(*sent.arriving.values(), *filter(None, [sent.leaving]))
        self._pending.clear()
        super().forget()
        self._forward.all_landed()

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self.round, "next": self.next_step, "aloft": []}  # quiesce comes before a state is saved
