"""Decent-DP: pairs average their parameters while the next forward and backward pass computes."""

from functools import partial

from torch import nn

from gossip import World

from ..measuring.models import Task
from .peer import UNTOLD, Peer, Running

PRIMING = 2  # passes after which it has looked at the order of the gradients, made its buckets and sent them once


class DecentDp(Running):
    """The compute is slept; the backward pass after it mixes what has arrived, updates, and sends in the background."""

    def __init__(self, topology: str, task: Task, world: World, period: int, timeout: float) -> None:
        from decent_dp.ddp import DecentralizedDataParallel
        from loguru import logger

        logger.disable("decent_dp")  # it tells rank 0's screen what it was made with
        super().__init__(task, world, period, timeout)
        self._nbytes = task.nbytes
        with self.groups():
            # Shared hosts matter to none of the graphs that are used here.
            self._model = DecentralizedDataParallel(
                self.passes(task),
                lambda named: self.clocked(nn.ParameterList([tensor for _, tensor in named])),
                topology=topology,
                _local_world_size=1,
            )
        for _ in range(PRIMING):
            self.update()

    def update(self) -> None:
        self._model().backward()

    def sent(self, number: int) -> int:
        return self._nbytes  # between two ranks an all-reduce by a ring sends everything once

    def settle(self) -> None:
        """Wait for the messages in flight; the next step mixes them."""
        # Its own way to wait also averages over all ranks, which is not what was measured.
        for work in self._model._comm_ops:
            if work is not None:
                work.wait()


PAIRS = "its one-peer exponential graph pairs ranks only where their number is a power of two, from 2 on"
EVEN = "its ring pairs ranks only where their number is even"
LIMITS = (
    "{}; it owns the optimizer and updates in the backward pass, which fills all gradients at once after the slept "
    "compute, so that a transfer has a whole update to travel in; waits include its passes over the parameters; bytes, "
    "by arithmetic, are a ring's of two, without its padding."
)
PEER = Peer(
    "Decent-DP, one-peer",
    partial(DecentDp, "one-peer-exp"),
    LIMITS.format("its own one-peer exponential graph of pairs, for powers of two"),
    package="decent-dp",
    blocking=False,
    unknown=(*UNTOLD, "in_flight"),
    refuses=lambda ranks: "" if ranks > 1 and ranks & (ranks - 1) == 0 else PAIRS,
)
RING = PEER._replace(
    title="Decent-DP, ring",
    build=partial(DecentDp, "ring"),
    limits=LIMITS.format("its own ring of pairs, for even numbers of ranks"),
    refuses=lambda ranks: "" if ranks > 1 and ranks % 2 == 0 else EVEN,
)
