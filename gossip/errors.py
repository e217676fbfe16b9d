"""What can go wrong, as a tree.

    GossipError                      everything below; a RuntimeError
    ├── UsageError                   an argument that cannot work; also a ValueError
    ├── TransportUnavailable         this machine or process cannot run the transport that was asked for
    ├── Disagreement                 ranks hold different things; raised alike on every rank
    ├── CheckpointError              a checkpoint cannot be written, read or taken up; raised alike on every rank
    ├── PeerTimeout                  a peer did not answer before the deadline; also a TimeoutError
    └── PeerLost                     the connection to a peer broke
        └── PeerDied                 its process ended, and what is left may go on without it

`topologies.TopologyError`, a ValueError, says what is wrong with a graph.
Errors of MPI and of torch.distributed are turned into these where they enter, in `gossip.transports`.
"""

from __future__ import annotations

import sys

OURS = ("torch", "gossip", "slowmo")


class GossipError(RuntimeError):
    """The root of every error that the runtime raises by itself.

    Attributes:
        speaks: whether this rank is the one to print it, where several raise the same and nobody catches it.
    """

    def __init__(self, sentence: str, speaks: bool = True) -> None:
        super().__init__(sentence)
        self.speaks = speaks


class UsageError(GossipError, ValueError):
    """An argument that cannot work, refused before anything was changed or sent."""


class TransportUnavailable(GossipError):
    """The transport that was asked for does not run on this machine or in this process."""


class Disagreement(GossipError):
    """Ranks hold different models, options or topologies. Every rank raises the same sentence."""


class CheckpointError(GossipError):
    """A checkpoint cannot be written, is not what was written, or does not fit. Every rank raises the same sentence."""


class PeerTimeout(GossipError, TimeoutError):
    """A peer did not answer before the deadline."""


class PeerLost(GossipError):
    """The connection to a peer broke, or the message that arrived was not the one expected."""


class PeerDied(PeerLost):
    """A rank's process has ended. Those that are left can go on: `GossipOptimizer(..., on_failure="shrink")`."""


def levels_to_the_user() -> int:
    """How far above the caller of this the user's code is, counted as `warnings.warn` does."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    return level
