"""Messages that the ranks of a node carry together: one part each across the network, then an all-gather inside.

Where m ranks share a host and hold the same values, each of them has the same message for another host. So rank r of
the node sends only the r-th of m parts to its counterpart there, and the counterparts exchange their parts. The message
crosses the link between the hosts once and not m times, over every network card that the ranks have. A large part is
cut into pieces: while one is exchanged inside the node, the next travels between the nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from .collectives import Relay, Steps
from .flight import Batch, Channel, Flight
from .sums import Ring, blocks

PIECE, PIECES, AHEAD = 1 << 17, 8, 2
"""The least bytes of a piece, the most pieces of a part, and how many of them are under way at once."""


def post_in_parts(
    across: Channel, node: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool = False
) -> Flight:
    """Start one batch, as `across.post` does, of messages that are the same on every rank of `node`.

    Every rank of the node makes this call, at the same rank of `across`; messages are of one size. A batch has to land
    before the next one is posted on the channel.
    """
    relay = Relay(across, _legs(across, node, sends, receives, subject, together), subject)
    relay.sends, relay.receives = sends, receives
    flight = across.drive(relay)  # before its first half, so that it starts the second one by itself
    flight.done()  # posts the first half
    return flight


def _legs(across: Channel, node: Channel, sends: Batch, receives: Batch, subject: str, together: bool) -> Steps:
    messages = (*sends.values(), *receives.values())
    count = 1 if across.lanes == 1 else max((_pieces(tensors, node.size) for tensors in messages), default=1)
    travelling: deque[tuple[Flight, list[torch.Tensor]]] = deque()
    for piece in range(count + AHEAD - 1):
        if piece < count:
            out, into = (_blocks(batch, piece, count) for batch in (sends, receives))
            own_out, own_into = (_blocks(batch, node.rank, node.size) for batch in (out, into))
            flight = across.post(own_out, own_into, subject, together=together)
            travelling.append((flight, [tensor for tensors in into.values() for tensor in tensors]))
        if piece >= AHEAD - 1:
            flight, tensors = travelling.popleft()
            yield flight
            # One piece after the other, in this order: pieces land in another order on each rank of the node.
            ring = Ring(node, tensors)
            yield from ring.around(ring.gather(node.rank, f"{subject}, inside the node"), together=together)


def _blocks(batch: Batch, number: int, n: int) -> Batch:
    return {peer: blocks(tensors, number, 1, n) for peer, tensors in batch.items()}


def _pieces(message: Sequence[torch.Tensor], ranks: int) -> int:
    """Into how many pieces each of `ranks` parts of a message is cut; the same at both ends and on every rank."""
    nbytes = sum(tensor.nbytes for tensor in message) // ranks if ranks > 1 else 0
    return min(max(nbytes // PIECE, 1), PIECES)
