"""torch's PostLocalSGDOptimizer with PeriodicModelAverager: local steps, and an average every τ of them."""

from __future__ import annotations

import torch.distributed as dist

from gossip import World

from ..update.models import Task
from .peer import Peer, Training, ring


class PostLocalSgd(Training):
    """Averages in the first step and every τ-th after it, as the averager counts."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        # Not for every command: it brings much with it.
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer

        super().__init__(task, world)
        self._period = period
        self._sent = ring(world.size, task.nbytes)
        with self.groups(timeout):
            group = dist.new_group(backend="gloo")
        averager = PeriodicModelAverager(period=period, process_group=group)
        self._optimizer = PostLocalSGDOptimizer(self.clocked(task.module), averager)

    def update(self) -> None:
        """A local step, and the average if one is due."""
        self._optimizer.step()

    def sent(self, number: int) -> int:
        """What a ring sends, where an average is due."""
        return self._sent if number % self._period == 0 else 0


PEER = Peer(
    "torch post-local SGD",
    PostLocalSgd,
    "plain averages of the parameters, without slow momentum and without warm-up; they block, and parameters without a "
    "gradient are left out of them; bytes, by arithmetic, are a ring's.",
    periodic=True,
)
