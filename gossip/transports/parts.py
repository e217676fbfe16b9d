"""Messages that the ranks of a node carry together: each of them one part across the network, then all to all inside.

Where m ranks share a host and hold the same values, a message to another host is the same from each of them. So rank r
of the node sends the r-th of m parts to its counterpart there, and the counterparts hand each other what they have got:
each message crosses the link between the hosts once, over every network card that the ranks have, and not m times.
"""

from __future__ import annotations

from .base import Transport
from .collectives import Relay, Steps
from .flight import Batch, Flight
from .sums import blocks, ring_gather


def post_in_parts(
    across: Transport, node: Transport, sends: Batch, receives: Batch, subject: str, *, together: bool = False
) -> Flight:
    """Start one batch, as `across.post` does, of messages that are the same on every rank of `node`.

    Every rank of the node makes this call, at the same rank of `across`. Batches of one channel are to land before the
    next is started: their second halves begin when their first halves have landed, which has no order.
    """
    relay = Relay(across, _legs(across, node, sends, receives, subject, together), subject)
    relay.sends, relay.receives = sends, receives
    flight = across.drive(relay)  # before the first half has begun, so that what moves it along moves the second too
    flight.done()  # the first half is on its way from now on
    return flight


def _legs(across: Transport, node: Transport, sends: Batch, receives: Batch, subject: str, together: bool) -> Steps:
    m, r = node.size, node.rank
    yield across.post(
        {peer: blocks(tensors, r, 1, m) for peer, tensors in sends.items()},
        {peer: blocks(tensors, r, 1, m) for peer, tensors in receives.items()},
        subject,
        together=together,
    )
    arrived = [tensor for tensors in receives.values() for tensor in tensors]
    yield from ring_gather(node, arrived, r, f"{subject}, inside the node", together=together)
