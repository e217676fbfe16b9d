"""torchft: Local SGD and DiLoCo over an all-reduce whose members are agreed on before each."""

import logging
import os
import socket
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch.distributed as dist
from torch.optim import SGD

from gossip import World
from gossip.transports.torch.interfaces import own_address

from ..measuring.models import Task
from ..shared import record
from .peer import Peer, Running


class TorchFtLocalSgd(Running):
    """An average of the parameters every τ steps.

    Every rank is a replica of its own, with a store and a manager; rank 0 serves the lighthouse that they ask.
    """

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        # Otherwise it logs what each average was agreed on.
        os.environ.setdefault("RUST_LOG", "warn")
        logging.getLogger("torchft").setLevel(logging.ERROR)
        from torchft.coordination import LighthouseServer
        from torchft.manager import Manager
        from torchft.process_group import ProcessGroupGloo

        super().__init__(task, world, period, timeout)
        hosts = [str(name) for name in record.gather(world, socket.gethostname())]
        address = own_address(hosts) if len(set(hosts)) > 1 else "127.0.0.1"
        serves = world.rank == 0
        self._lighthouse = LighthouseServer(bind="0.0.0.0:0", min_replicas=world.size) if serves else None
        own = f"http://{address}:{urlsplit(self._lighthouse.address()).port}" if self._lighthouse else ""
        deadline = timedelta(seconds=timeout)
        self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=deadline)
        self._ranks = ProcessGroupGloo(timeout=deadline)
        self.manager = Manager(
            self._ranks, load_state_dict=lambda _: None, state_dict=dict, min_replica_size=world.size,
            # DiLoCo wants it so, and nothing is to be gained where the average follows at once.
            use_async_quorum=False, timeout=deadline, quorum_timeout=deadline, connect_timeout=deadline,
            # An average that failed is an error, where it would go on without and be fast.
            max_retries=0, rank=0, world_size=1, store_addr=address, store_port=self._store.port, hostname=address,
            lighthouse_addr=str(record.gather(world, own)[0]), replica_id=f"rank_{world.rank}",
            # All ranks begin with the same parameters.
            init_sync=False,
        )  # fmt: skip
        self._optimizer = self.clocked(task.module)
        self._outer = self.wrapped(task)
        self._outer.__enter__()

    def wrapped(self, task: Task) -> AbstractContextManager[Any]:
        """The library's wrapper, which hooks itself behind the optimizer's step."""
        from torchft.local_sgd import LocalSGD

        local: AbstractContextManager[Any] = LocalSGD(self.manager, task.module, self._optimizer, self._period)
        return local

    def sent(self, number: int) -> int:
        return self.ring if (number + 1) % self._period == 0 else 0

    def close(self) -> None:
        """End the hooks, the manager and the lighthouse."""
        self._outer.__exit__(None, None, None)
        self._world.barrier()
        self.manager.shutdown()
        self._ranks.shutdown()
        # The others' managers speak to it until they are shut down.
        self._world.barrier()
        if self._lighthouse is not None:
            self._lighthouse.shutdown()


class TorchFtDiLoCo(TorchFtLocalSgd):
    """An outer Nesterov step with the averaged change of the parameters every τ steps."""

    def wrapped(self, task: Task) -> AbstractContextManager[Any]:
        from torchft.local_sgd import DiLoCo

        self._passes = self.passes(task)
        outer = SGD(task.module.parameters(), lr=0.7, momentum=0.9, nesterov=True)
        diloco: AbstractContextManager[Any] = DiLoCo(self.manager, [task.module], self._optimizer, outer, self._period)
        return diloco

    def update(self) -> None:
        self._optimizer.zero_grad()  # the outer step takes the gradients away, and a pass brings new ones
        self._passes().backward()
        self._optimizer.step()


LIMITS = (
    "{}; before each average the ranks ask a lighthouse, on rank 0, who takes part, and after it whether to keep it: "
    "this is counted as waiting, but not its bytes; tensors are reduced one by one, as is its default; bytes, by "
    "arithmetic, are a ring's."
)
LOCAL = LIMITS.format("blocking averages of the parameters without slow momentum")
OUTER = LIMITS.format("blocking outer steps of one fragment, with Nesterov momentum (0.9) and rate 0.7")
PEER = Peer("torchft Local SGD", TorchFtLocalSgd, LOCAL, package="torchft", periodic=True)
DILOCO = PEER._replace(title="torchft DiLoCo", build=TorchFtDiLoCo, limits=OUTER)
