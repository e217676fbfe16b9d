"""The ranks that messages reach over some edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topologies.arrays.edges import Ranks


def reached(size: int, source: Ranks, target: Ranks, start: int = 0) -> npt.NDArray[np.bool_]:
    """Shape (n,): whether the edges source -> target lead from `start` to each rank, itself included; O(n + m)."""
    order = np.argsort(source, kind="stable")
    peer = target[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=size))])
    found = np.zeros(size, dtype=np.bool_)
    found[start] = True
    frontier = np.array([start])
    while len(frontier):
        counts = first[frontier + 1] - first[frontier]
        # The indices in `peer` of all out-peers of the frontier, rank after rank.
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) + np.repeat(first[frontier] - ends + counts, counts)
        peers = peer[places]
        frontier = np.unique(peers[~found[peers]])
        found[frontier] = True
    return found


def strongly_connected(size: int, source: Ranks, target: Ranks) -> bool:
    """Whether the edges lead from every rank to every other one."""
    return bool(reached(size, source, target).all() and reached(size, target, source).all())
