"""Ranks compare what they hold before they mix it, and refuse with the same sentence everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from .buckets import Bucket
from .errors import Disagreement
from .transports import Transport
from .world import World

SAME_PROGRAM = "Every rank has to build the same model, optimizer, averager and topology, in the same order"


class Council:
    """The worlds whose ranks share one model; most often one, two where nodes and their counterparts meet apart."""

    def __init__(self) -> None:
        self._seats: list[tuple[World, Transport]] = []

    def join(self, worlds: Sequence[World]) -> Council:
        """Open a channel in each world that is not here yet; the newcomers, as a council of their own."""
        newcomers = Council()
        for world in worlds:
            if all(world is not known for known, _ in self._seats):
                newcomers._seats.append((world, world.channel()))
                self._seats.append(newcomers._seats[-1])
        return newcomers

    def agree(self, lines: Sequence[str], advice: str = SAME_PROGRAM) -> None:
        """Return when the ranks of every world hold the same lines; see `agree`."""
        for _, channel in self._seats:
            agree(channel, lines, advice)

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the tensors of rank 0 of each world to its other ranks."""
        for _, channel in self._seats:
            channel.broadcast([tensor for tensor in tensors if tensor.numel()]).wait()


def agree(transport: Transport, lines: Sequence[str], advice: str) -> None:
    """Return when every rank holds the same lines. Sends a digest, and the lines themselves only where they differ.

    Raises:
        Disagreement: naming the first rank and line that differ from rank 0's, and what to do: `advice`.
    """
    text = "\n".join(lines).encode()
    digests = transport.gather(hashlib.sha256(text).digest())
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not others:
        return
    texts = [text.decode().split("\n") for text in transport.gather(text)]
    first, other = texts[0], texts[others[0]]
    place = next((i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other)))
    here, there = (lines[place] if place < len(lines) else "nothing" for lines in (first, other))
    more = f" ({len(others)} of {len(digests)} ranks differ from rank 0)" if len(others) > 1 else ""
    raise Disagreement(f"ranks disagree: rank 0 has {here}, where rank {others[0]} has {there}{more}. {advice}")


def contents(buckets: Sequence[Bucket]) -> list[str]:
    """One line for each parameter: a digest of its values."""
    return [
        f"parameter {slot.name} with values {_digest(bucket.values[slot.start : slot.stop])}"
        for bucket in buckets
        for slot in bucket.slots
    ]


def _digest(values: torch.Tensor) -> str:
    return hashlib.blake2b(values.detach().cpu().view(torch.uint8).numpy().data, digest_size=8).hexdigest()
