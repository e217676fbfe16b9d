"""The errors of a topology.

ValueError
└── TopologyError     the graph is wrong: shares, peers, size, connectivity
    ├── SpecError     the text given to `load` names nothing that can be loaded
    └── PictureError  the graph is fine, but no picture can be made of it
"""

from __future__ import annotations


class TopologyError(ValueError):
    """A topology that cannot carry gossip. The message names the round and the rank and says what to change."""


class SpecError(TopologyError):
    """A text given to `topologies.load` that names no graph: an unknown name, a missing file, a wrong option."""


class PictureError(TopologyError):
    """A picture that cannot be made: matplotlib is missing, there are too many ranks, or the file cannot be written."""
