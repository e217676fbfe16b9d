"""How a model is cut into fragments, each averaged by itself: into shards of one size, or by module."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch

from gossip import UsageError
from gossip.checks import shown
from gossip.state.buckets.bucket import Bucket
from gossip.state.buckets.masters import origin

from ..outer.rule import Part

Member = torch.nn.Module | torch.nn.Parameter
"""A fragment consists of these."""


class Cut(ABC):
    """One way to cut.

    Attributes:
        count: of fragments.
    """

    count: int

    @abstractmethod
    def parts(self, buckets: Sequence[Bucket]) -> list[tuple[int, Part]]:
        """(fragment, part) bucket by bucket, at least one of each bucket."""

    @abstractmethod
    def describe(self) -> str:
        """For the ranks to compare."""

    def check(self, parameters: Iterable[torch.Tensor]) -> None:
        """Refuse parameters that are in no fragment."""


class Shards(Cut):
    """Shards of one size, whatever parameters they cut through."""

    def __init__(self, count: int) -> None:
        self.count = count

    def parts(self, buckets: Sequence[Bucket]) -> list[tuple[int, Part]]:
        n = self.count
        return [
            (shard, Part(number, shard * len(bucket.values) // n, (shard + 1) * len(bucket.values) // n))
            for number, bucket in enumerate(buckets)
            for shard in range(n)
        ]

    def describe(self) -> str:
        return f"shards={self.count}"


class Fragments(Cut):
    """Fragments of whole parameters. A tied parameter belongs to the first fragment that holds it.

    Args:
        fragments: of each the modules and parameters that it is made of, one or several.

    Raises:
        UsageError: something else than these.

    >>> layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    >>> Fragments(layers).count
    2
    """

    def __init__(self, fragments: Iterable[Member | Iterable[Member]]) -> None:
        if not isinstance(fragments, Iterable):
            raise UsageError(
                f"fragments is {shown(fragments)}, but it is a list of modules, parameters or lists of them"
            )
        self._of: dict[int, int] = {}
        self._held: list[torch.nn.Parameter] = []  # so that no id is used again
        sizes: list[int] = []
        for number, fragment in enumerate(fragments):
            before = len(self._held)
            for parameter in _parameters(fragment):
                if id(parameter) not in self._of:
                    self._of[id(parameter)] = number
                    self._held.append(parameter)
            sizes.append(sum(parameter.numel() for parameter in self._held[before:]))
        self.count = len(sizes)
        self._sizes, self._layout = sizes, list[tuple[int, int]]()

    def parts(self, buckets: Sequence[Bucket]) -> list[tuple[int, Part]]:
        placed: list[tuple[int, Part]] = []
        for number, bucket in enumerate(buckets):
            for slot in bucket.slots:
                fragment = self._of[id(origin(slot.parameter))]
                if placed and placed[-1][0] == fragment and placed[-1][1].bucket == number:
                    placed[-1] = fragment, placed[-1][1]._replace(stop=slot.stop)
                else:
                    placed.append((fragment, Part(number, slot.start, slot.stop)))
        return placed

    def describe(self) -> str:
        digest = hashlib.sha256(repr(self._layout).encode()).hexdigest()[:8]
        return f"fragments of {self._sizes} elements ({digest})"

    def check(self, parameters: Iterable[torch.Tensor]) -> None:
        parameters = list(parameters)
        self._layout = self._layout or [(self._of.get(id(origin(p)), -1), p.numel()) for p in parameters]
        for place, parameter in enumerate(parameters):
            if id(origin(parameter)) not in self._of:
                raise UsageError(
                    f"parameter {place} of the optimizer, of shape {tuple(parameter.shape)}, is in none of the "
                    f"{self.count} fragments, and would never be averaged: name it, or its module, in one of them"
                )


def _parameters(fragment: Member | Iterable[Member]) -> list[torch.nn.Parameter]:
    if isinstance(fragment, torch.nn.Parameter):
        return [fragment]
    if isinstance(fragment, torch.nn.Module):
        return list(fragment.parameters())
    if isinstance(fragment, (torch.Tensor, str)) or not isinstance(fragment, Iterable):
        raise UsageError(
            f"a fragment holds a {type(fragment).__name__}; it is a module, a parameter or a list of these"
        )
    return [parameter for member in fragment for parameter in _parameters(member)]
