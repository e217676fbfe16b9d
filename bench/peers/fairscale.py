"""fairscale's SlowMoDistributedDataParallel: SGP or Local SGD, and slow momentum on top."""

import warnings
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch

from gossip import World

from ..measuring.models import Task
from .peer import Peer, Running


class FairScale(Running):
    """The compute is slept; a pass that fills the gradients, the optimizer's step and `perform_slowmo` follow."""

    def __init__(
        self, base: str, momentum: float | None, task: Task, world: World, period: int, timeout: float
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of parts of it that are not used here
            from fairscale.experimental.nn.data_parallel import SlowMoBaseAlgorithm, SlowMoDistributedDataParallel
            from fairscale.experimental.nn.data_parallel.gossip import distributed

        super().__init__(task, world, period, timeout)
        self._gossips, self._outer, self._nbytes = base == "sgp", momentum is not None, task.nbytes
        self._without_cuda = without_cuda()
        with self.groups():
            self._model = SlowMoDistributedDataParallel(
                self.passes(task),
                nprocs_per_node=1,
                slowmo_base_algorithm=SlowMoBaseAlgorithm(base),
                slowmo_momentum=momentum or 0.0,
                # In shards, an outer step would be a reduction and a broadcast for each rank, one after another.
                slowmo_memory_efficient=False,
                slowmo_frequency=period,
                slowmo_sgp_average_params=True,
                localsgd_frequency=period,
            )
        # So long it would wait for its thread: 300 s, whatever the deadline of the run.
        self._without_cuda.enter_context(mock.patch.object(distributed, "HEARTBEAT_TIMEOUT", timeout))
        self._optimizer = self.clocked(task.module)

    def update(self) -> None:
        self._optimizer.zero_grad()
        self._model().backward()
        self._optimizer.step()
        self._model.perform_slowmo(self._optimizer)
        if self._gossips and (self._model.gossip_ps_weight[0] == -1 or not self._model.gossip_thread.is_alive()):
            raise RuntimeError("a round of fairscale's SGP failed in its thread, and it goes on without")

    def sent(self, number: int) -> int:
        """SGP sends everything to one peer, but where an outer step is due all ranks average instead."""
        due = (number + 1) % self._period == 0
        if self._gossips and not (due and self._outer):
            return self._nbytes
        return self.ring if due else 0

    def close(self) -> None:
        """Its thread cannot be ended: it waits, for good, for a next step."""
        super().close()
        self._without_cuda.close()


def without_cuda() -> ExitStack:
    """Until it is closed, the calls of CUDA that it makes do nothing, so that it runs on CPUs."""

    class Stream:
        def synchronize(self) -> None: ...

        def wait_stream(self, _: object) -> None: ...

    def same(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    stubs = ExitStack()
    none: dict[str, Any] = {"synchronize": lambda *_: None, "Stream": Stream, "current_stream": Stream}
    stubs.enter_context(mock.patch.multiple(torch.cuda, stream=nullcontext, **none))
    stubs.enter_context(mock.patch.multiple(torch.Tensor, cuda=same, pin_memory=same))
    # One for each pass over its old-fashioned hook, which it needs no better one for.
    stubs.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message=".*non-full backward hook.*")
    return stubs


ANCHOR = "its anchor is taken after the first local step, so that ranks do not agree after an"
LIMITS = "{}; made for GPUs: its calls of CUDA are stubbed so that it runs on CPUs; {}bytes are by arithmetic."
SGP = "its own directed one-peer exponential graph, in a thread that the step waits for (it refuses OSGP); "
PEER = Peer(
    "fairscale SGP",
    partial(FairScale, "sgp", None),
    LIMITS.format("SGP without slow momentum", SGP),
    package="fairscale",
    refuses=lambda ranks: "" if ranks > 1 else "its graph needs at least 2 ranks",
)
EXACT = "SGP with an exact average and slow momentum (0.5) every period, not sharded"
SLOWMO = PEER._replace(
    title="fairscale SGP-SlowMo",
    build=partial(FairScale, "sgp", 0.5),
    periodic=True,
    limits=LIMITS.format(EXACT, f"{SGP}{ANCHOR} exact average; "),
)
LOCAL = PEER._replace(
    title="fairscale Local-SlowMo",
    build=partial(FairScale, "localsgd", 0.5),
    periodic=True,
    limits=LIMITS.format("Local SGD with slow momentum (0.5) every period, not sharded", f"{ANCHOR} average; "),
    refuses=lambda ranks: "" if ranks > 1 else "one rank has nobody to average with",
)
