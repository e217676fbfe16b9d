"""Ranks compare what they hold before they mix it, and refuse with the same sentence everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch

from ..errors import Disagreement, UsageError
from ..observe.stats import Stats
from ..state.module_tensors import compact
from ..transports import Communicator
from ..world import World

Result = TypeVar("Result")

SAME_PROGRAM = "Every rank has to build the same model, optimizer, averager and topology, in the same order"

RELAYS = 3
"""How far the verdict of one world travels through others that share a rank with it: nodes and counterparts need 2."""


class Council:
    """The worlds whose ranks share one model; most often one, two where nodes and their counterparts meet apart."""

    def __init__(self, seats: Sequence[tuple[World, Communicator]] = ()) -> None:
        self._seats = list(seats)

    def newcomers(self, worlds: Sequence[World]) -> Council:
        """Those of `worlds` that have no seat here, each with a channel of its own, as a council."""
        known = [id(world) for world, _ in self._seats]
        new = {id(world): world for world in worlds if id(world) not in known}
        return Council([(world, world.channel()) for world in new.values()])

    def __add__(self, other: Council) -> Council:
        return Council([*self._seats, *other._seats])

    def agree(self, lines: Sequence[str], advice: str = SAME_PROGRAM) -> None:
        """Raise a Disagreement on all ranks that these worlds connect, unless the ranks of each hold the same lines."""
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
        """Refuse what was saved at other places than these."""
        if places != self.places():
            theirs, ours = (
                " and ".join(f"rank {rank} of {size}" for rank, size in each) or "a rank by itself"
                for each in (places, self.places())
            )
            raise UsageError(
                f"this state was saved by {theirs}, and this is {ours}: each rank loads the state that it saved, with "
                "torch.distributed.checkpoint from a folder of its own, by no_dist=True"
            )

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the tensors of rank 0 of each world to its other ranks."""
        tensors = [compact(tensor) for tensor in tensors]
        # The tensor itself, unless it is strided oddly or its elements are conjugated or negated when they are read.
        flat = [tensor.resolve_conj().resolve_neg().contiguous().view(-1) for tensor in tensors]
        for _, channel in self._seats:
            for on_gpu in (True, False):  # one message is of one kind of memory
                if part := [values for values in flat if values.numel() and values.is_cuda == on_gpu]:
                    channel.broadcast(part).wait()
        for tensor, values in zip(tensors, flat, strict=True):
            if values.data_ptr() != tensor.data_ptr():
                tensor.copy_(values.view(tensor.shape))

    def widest(self) -> Council:
        """Without worlds that lie inside another one here: their sums, one after another, are those of all ranks."""
        members = [set(channel.members) for _, channel in self._seats]
        inside = [
            any(own < other or (own == other and place > number) for place, other in enumerate(members))
            for number, own in enumerate(members)
        ]
        return Council([seat for seat, is_inside in zip(self._seats, inside, strict=True) if not is_inside])

    @property
    def channels(self) -> list[Communicator]:
        """One for each world."""
        return [channel for _, channel in self._seats]

    def sum(self, tensors: Sequence[torch.Tensor], stats: Stats) -> None:
        """Sum flat tensors over the ranks of each world in turn, in place."""
        for _, channel in self._seats:
            with channel.waiting():
                stats.wait(channel.sum(tensors))

    def together(self, act: Callable[[], Result]) -> Result:
        """Do `act` on all ranks, again if one has died meanwhile and the others go on; see `Communicator.together`."""
        return self._seats[0][1].together(act) if self._seats else act()

    def barrier(self) -> None:
        """Return once every rank of every world has called it."""
        for _, channel in self._seats:
            channel.barrier()


def difference(transport: Communicator, lines: Sequence[str]) -> str:
    """Where the ranks' lines differ first, in a sentence, the same on every rank; "" where they do not."""
    text = "\n".join(lines).encode()
    digests = transport.gather(hashlib.sha256(text).digest())  # the lines themselves travel only where these differ
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
    lines = []
    for parameter in parameters:
        flat = parameter.detach().cpu().contiguous().reshape(-1)
        memory = (flat.view(torch.uint8) if flat.numel() else torch.empty(0)).numpy()  # empty: it may have any strides
        digest = hashlib.blake2b(memory.data, digest_size=8).hexdigest()
        lines.append(f"parameter {names[id(parameter)]} with values {digest}")
    return lines
