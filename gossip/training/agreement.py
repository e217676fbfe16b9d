"""Ranks compare what they hold before they mix it, and refuse with the same sentence everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch

from ..errors import Disagreement, UsageError
from ..transports import Communicator
from ..world import World

SAME_PROGRAM = "Every rank has to build the same model, optimizer, averager and topology, in the same order"

RELAYS = 3
"""How far the verdict of one world travels through others that share a rank with it: nodes and counterparts need 2."""


class Council:
    """The worlds whose ranks share one model; most often one, two where nodes and their counterparts meet apart."""

    def __init__(self, seats: Sequence[tuple[World, Communicator]] = ()) -> None:
        self._seats = list(seats)

    def newcomers(self, worlds: Sequence[World]) -> Council:
        """Those of `worlds` that have no seat here, each with a channel of its own, as a council."""
        known = [world for world, _ in self._seats]
        seats: list[tuple[World, Communicator]] = []
        for world in worlds:
            if all(world is not other for other in known):
                known.append(world)
                seats.append((world, world.channel()))
        return Council(seats)

    def __add__(self, other: Council) -> Council:
        """The seats of both."""
        return Council([*self._seats, *other._seats])

    def agree(self, lines: Sequence[str], advice: str = SAME_PROGRAM) -> None:
        """Return when the ranks of every world hold the same lines.

        Raises:
            Disagreement: naming the first rank and line that differ from rank 0's, and what to do: `advice`. All ranks
                that are connected through these worlds raise it, also those whose own worlds agree.
        """
        verdict = next(filter(None, [difference(channel, lines) for _, channel in self._seats]), "")
        # Ranks of other worlds do not know one world's verdict yet. Every rank relays equally often.
        for _, channel in self._seats * RELAYS:
            verdict = next(filter(None, (said.decode() for said in channel.gather(verdict.encode()))), "")
        if verdict:
            # The least of all connected ranks is the least of each of its worlds, so somebody speaks.
            speaks = all(channel.me == min(channel.ranks) for _, channel in self._seats)
            raise Disagreement(f"{verdict}. {advice}", speaks)

    def places(self) -> list[list[int]]:
        """[rank, size] in each world: whose state a checkpoint holds."""
        return [[channel.rank, channel.size] for _, channel in self._seats]

    def check_own(self, places: Sequence[Sequence[int]]) -> None:
        """Refuse what was saved at other places than these.

        Raises:
            UsageError: saying whose it is.
        """
        if places != self.places():
            theirs, ours = (
                " and ".join(f"rank {rank} of {size}" for rank, size in each) or "a rank by itself"
                for each in (places, self.places())
            )
            raise UsageError(
                f"this state was saved by {theirs}, and this is {ours}: each rank loads the state that it saved, with "
                "torch.distributed.checkpoint from a folder of its own, by no_dist=True"
            )

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the tensors of rank 0 of each world to its other ranks."""
        for _, channel in self._seats:
            for on_gpu in (True, False):  # one message is of one kind of memory
                if part := [tensor for tensor in tensors if tensor.numel() and tensor.is_cuda == on_gpu]:
                    channel.broadcast(part).wait()

    def barrier(self) -> None:
        """Return once every rank of every world has called it."""
        for _, channel in self._seats:
            channel.barrier()


def difference(transport: Communicator, lines: Sequence[str]) -> str:
    """Where the ranks' lines differ first, in a sentence, the same on every rank; "" where they do not.

    Sends a digest, and the lines themselves only where it differs.
    """
    text = "\n".join(lines).encode()
    digests = transport.gather(hashlib.sha256(text).digest())
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if not others:
        return ""
    texts = [text.decode().split("\n") for text in transport.gather(text)]
    first, other = texts[0], texts[others[0]]
    place = next((i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), min(len(first), len(other)))
    here, there = (lines[place] if place < len(lines) else "nothing" for lines in (first, other))
    more = f" ({len(others)} of {len(digests)} ranks differ from rank 0)" if len(others) > 1 else ""
    return f"ranks disagree: rank 0 has {here}, where rank {others[0]} has {there}{more}"


def contents(parameters: Iterable[torch.Tensor], names: Mapping[int, str]) -> list[str]:
    """One line for each parameter: a digest of its values."""
    return [f"parameter {names[id(parameter)]} with values {_digest(parameter)}" for parameter in parameters]


def _digest(values: torch.Tensor) -> str:
    flat = values.detach().cpu().contiguous().reshape(-1)
    memory = (flat.view(torch.uint8) if flat.numel() else torch.empty(0)).numpy()  # an empty one may have any strides
    return hashlib.blake2b(memory.data, digest_size=8).hexdigest()
