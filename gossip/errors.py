"""All errors of the runtime, as a tree.

    GossipError                      the root; a RuntimeError
    ├── UsageError                   an argument that cannot work; also a ValueError
    ├── TransportUnavailable         this machine or process cannot run the requested transport
    ├── Disagreement                 ranks hold different models or options; raised alike on every rank
    ├── CheckpointError              a checkpoint cannot be written, read or loaded; raised alike on every rank
    ├── PeerTimeout                  a peer did not answer before the deadline; also a TimeoutError
    └── PeerLost                     the connection to a peer broke
        └── PeerDied                 the peer's process ended, and the survivors may continue without it

`topologies.TopologyError`, a ValueError, reports a fault of a graph.
`gossip.transports` turns the errors of MPI and of torch.distributed into these.
"""

from __future__ import annotations

import sys

OURS = ("torch", "gossip", "slowmo")


class GossipError(RuntimeError):
    """The root of every error that the runtime raises by itself.

    Attributes:
        speaks: whether this rank prints the error. Where all ranks raise the same sentence, one rank prints it.
    """

    def __init__(self, sentence: str, speaks: bool = True) -> None:
        super().__init__(sentence)
        self.speaks = speaks


class UsageError(GossipError, ValueError):
    """An argument that cannot work, refused before anything was changed or sent."""


class TransportUnavailable(GossipError):
    """This machine or process cannot run the requested transport."""


class Disagreement(GossipError):
    """Ranks hold different models, options or topologies. Every rank raises the same sentence."""


class CheckpointError(GossipError):
    """A checkpoint cannot be written, is altered, or does not fit. Every rank raises the same sentence."""


class PeerTimeout(GossipError, TimeoutError):
    """A peer did not answer before the deadline."""


class PeerLost(GossipError):
    """The connection to a peer broke, or an unexpected message arrived."""


class PeerDied(PeerLost):
    """A rank's process has ended. The survivors can continue: `GossipOptimizer(..., on_failure="shrink")`."""


def levels_to_the_user() -> int:
    """Frames between the caller and the user's code, for the `stacklevel` of `warnings.warn`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    return level
