"""Exact averages of parts of the model that are on their way while steps go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gossip import Averager, World
from gossip.averagers.base import State
from gossip.state.merging import scalar, wide_copy
from gossip.transports import Flight


@dataclass
class Sent:
    """The exact average of a shard on its way.

    Attributes:
        shard: its number.
        due: the step after whose update it is applied.
        ratios: r of each parameter group.
        own: x, what this rank has sent, of each part, where it is asked for.
        sums: Σ_j ω_j x_j of each part, and at last Σ_j ω_j with every rank's learning rate.
        flight: what carries it; None when it has arrived, out of a checkpoint.
    """

    shard: int
    due: int
    ratios: list[float | None]
    own: list[torch.Tensor]
    sums: list[torch.Tensor]
    flight: Flight | None


class Stream(Averager):
    """Exact sums of shards, each taken `delay` steps after it was posted: by every rank in the same step.

    Args:
        world: the ranks.
        period: τ, steps from one average of a shard to the next.
        shards: how many there are.
        delay: steps from the post of an average to its use.
        keeps: a copy of what this rank sent goes along.
        ahead: an average is posted `delay` steps before the end of its iteration, instead of at the end.
    """

    def __init__(self, world: World, period: int, shards: int, delay: int, keeps: bool, ahead: bool = False) -> None:
        self.worlds = (world,)
        self.period, self.shards, self.delay, self.keeps = period, shards, delay, keeps
        posts = [((shard + 1) * period // shards - ahead * delay) % period for shard in range(shards)]
        self._posting = [[shard for shard, post in enumerate(posts) if post == step] for step in range(period)]
        self.sent: deque[Sent] = deque()
        # Sums on one channel would take one another's messages: each that may be on its way has its own.
        most = max(sum(len(self.posting(step + later)) for later in range(delay)) for step in range(period))
        self._channels = deque(world.channel() for _ in range(max(1, most)))

    def in_flight(self) -> bool:
        """Whether an average has been sent and not yet taken in."""
        return bool(self.sent)

    def posting(self, steps: int) -> list[int]:
        """The shards whose average is posted after so many steps: one after another, spread over a period."""
        return self._posting[steps % self.period]

    def describe(self) -> str:
        """One line for the ranks to compare."""
        return f"Stream(size={self.worlds[0].size}, shards={self.shards}, delay={self.delay})"

    def send(self, step: int, shard: int, ratios: list[float | None], values: Sequence[torch.Tensor]) -> None:
        """Post a copy of `values` as they are after the update of `step`."""
        mass = self.mass
        mass.check(mass.values)
        own = [wide_copy(part) for part in values] if self.keeps else []
        # ω x, of which every rank hears the sum
        sums = [wide_copy(part) for part in values]
        if sums and not mass.is_one:
            torch._foreach_mul_(sums, scalar(mass.weight))
        self._channels.rotate(-1)
        sums.append(mass.drift.beside(mass.weight.reshape(1), self._channels[-1]))
        flight = self._channels[-1].sum(sums)
        flight.done()  # some transports begin when they are asked
        self.sent.append(Sent(shard, step + self.delay, ratios, own, sums, flight))

    def ask(self) -> None:
        """Move what is on its way along: some transports do so only when asked."""
        for sent in self.sent:
            if sent.flight is not None:
                sent.flight.done()

    def take(self) -> Sent:
        """The oldest, once it has arrived."""
        sent = self.sent[0]
        if sent.flight is not None:
            self.mass.stats.wait(sent.flight)
            self.mass.drift.compare(sent.sums[-1][1:], self._channels[-1])
        return self.sent.popleft()

    def forget(self) -> None:
        """Let all arrive and drop it."""
        while self.sent:
            self.take()

    def state_dict(self) -> State:
        """The averages on their way, once they have arrived."""
        for sent in self.sent:
            if sent.flight is not None:
                sent.flight.wait()
        return {
            "aloft": [
                {
                    "shard": sent.shard,
                    "due": sent.due,
                    "ratios": list(sent.ratios),
                    "own": [x.clone() for x in sent.own],
                    "sums": [x.clone() for x in sent.sums],
                }
                for sent in self.sent
            ]
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from there. `forget` comes first. Sums go to the device of their part when they are used."""
        for saved in state["aloft"]:
            *sums, total = saved["sums"]
            own, sums = ([x.clone() for x in parts] for parts in (saved["own"], sums))
            sums.append(total.to(self.mass.weight.device, copy=True))
            self.sent.append(Sent(saved["shard"], saved["due"], list(saved["ratios"]), own, sums, None))
