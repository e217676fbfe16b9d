"""The parts of a round of a Base-(k+1) graph: runs of ranks that average in cliques, or meet one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

import numpy as np

from topologies.arrays.edges import Edges


class Part(Protocol):
    """Some consecutive places and their exchanges in one round; every share goes both ways."""

    @property
    def size(self) -> int:
        """The number of places."""
        ...

    def turn(self, place: int) -> tuple[float, dict[int, float]]:
        """The share that `place` keeps, and the share that it exchanges with each peer."""
        ...

    def edges(self) -> Edges:
        """All turns as arrays."""
        ...


class Cliques(NamedTuple):
    """The places that differ in one digit of a mixed-radix number average among themselves."""

    size: int
    stride: int
    """The step from one value of the digit to the next."""
    radix: int
    """The number of values of the digit, which is the size of a clique; stride · radix divides the size."""

    def turn(self, place: int) -> tuple[float, dict[int, float]]:
        """The same share to every member of the clique, itself included."""
        share = 1 / self.radix
        digit = place // self.stride % self.radix
        first = place - digit * self.stride
        return share, {first + other * self.stride: share for other in range(self.radix) if other != digit}

    def edges(self) -> Edges:
        """All turns as arrays."""
        share = 1 / self.radix
        place = np.arange(self.size)
        digit = place // self.stride % self.radix
        ahead = np.arange(1, self.radix)[:, None]
        peer = place + ((digit + ahead) % self.radix - digit) * self.stride
        return Edges(np.full(self.size, share), np.tile(place, self.radix - 1), peer.ravel(), np.full(peer.size, share))


class Meeting(NamedTuple):
    """Equal groups of places, and further places that each meet one place of every group.

    No place in a group meets more than one of the further places.
    """

    groups: int
    width: int
    """Places of a group."""
    rest: int
    """Places behind the groups, fewer than `width`; number x meets number x of each group."""

    @property
    def size(self) -> int:
        """The number of places."""
        return self.groups * self.width + self.rest

    @property
    def share(self) -> float:
        """The share that two places give each other."""
        # w = n_j / (S_j a_j), with n_j = a_j · width
        return self.width / self.size

    def turn(self, place: int) -> tuple[float, dict[int, float]]:
        """A further place meets one place of each group; a place in a group meets at most one further place."""
        behind = self.groups * self.width
        if place >= behind:
            # 1 - n_j / S_j
            return self.rest / self.size, {
                group * self.width + place - behind: self.share for group in range(self.groups)
            }
        number = place % self.width
        if number >= self.rest:
            return 1.0, {}
        # 1 - w
        return (self.size - self.width) / self.size, {behind + number: self.share}

    def edges(self) -> Edges:
        """All turns as arrays."""
        behind = self.groups * self.width
        number = np.arange(self.rest)
        met = (number + np.arange(self.groups)[:, None] * self.width).ravel()
        further = np.tile(behind + number, self.groups)
        keep = np.ones(self.size)
        keep[met] = (self.size - self.width) / self.size
        keep[behind:] = self.rest / self.size
        return Edges(
            keep, np.concatenate([met, further]), np.concatenate([further, met]), np.full(2 * len(met), self.share)
        )


def joined(parts: Sequence[Edges]) -> Edges:
    """The edges of several parts, placed one behind the other."""
    first = accumulate((len(part.keep) for part in parts), initial=0)
    moved = [
        Edges(part.keep, part.source + start, part.target + start, part.share)
        for start, part in zip(first, parts, strict=False)
    ]
    return Edges(*(np.concatenate(arrays) for arrays in zip(*moved, strict=True)))
