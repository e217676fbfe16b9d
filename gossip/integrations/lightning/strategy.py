"""The strategy: Lightning's Trainer over ranks that gossip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.distributed import _get_default_process_group_backend_for_device, _init_dist_connection
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ...checks import check_flag
from ...consensus.calls import copied
from ...errors import UsageError
from ...launching.launchers import detect
from ...transports.connecting import deadline_of
from ...world import World, check_world, init
from ..composing import Compose, composed, osgp
from ..trained import Trained, ids_of
from . import refusals
from .launched import Launched
from .metrics import JoinedMetrics, gathered
from .validation import AroundValidation

OPERATIONS = {"avg": "mean", "prod": "product"}
"""Names of torch.distributed, and those of `World.all_reduce`."""


class GossipStrategy(ParallelStrategy):
    """Lightning's Trainer over ranks that gossip, started by Lightning's launcher, mpirun, torchrun or srun.

    The Trainer stays as it is otherwise. Validation sees the mean of all ranks' models. A checkpoint holds this mean
    and optimizer states that load on any number of ranks. After `fit` every rank's module is the mean. All ranks
    call `save_checkpoint`, as Lightning asks of any strategy, and all need equally many batches. The World stays open
    until the process ends, so that `test` and `save_checkpoint` may follow `fit`.

    Args:
        compose: called with each optimizer of `configure_optimizers`, the World and the LightningModule. Returns a
            GossipOptimizer, or an optimizer of `slowmo` around one.
        evaluate_mean: False validates each rank's own model during `fit`, after all messages have landed.
        transport: as in `gossip.init`.
        timeout: seconds, as in `gossip.init`.

    Attributes:
        world: the World, from the moment on at which `fit`, `validate`, `test` or `predict` has begun.

    Raises:
        UsageError: arguments that cannot work, or variables of a launcher that contradict each other.

    >>> import gossip, slowmo, topologies, lightning
    >>> def compose(optimizer, world, module):
    ...     averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    ...     optimizer = gossip.GossipOptimizer(optimizer, averager, module=module)
    ...     return slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=48)
    >>> strategy = GossipStrategy(compose)
    >>> trainer = lightning.Trainer(strategy=strategy, accelerator="cpu", logger=False, barebones=True)
    """

    optimizers: list[Any]

    def __init__(
        self,
        compose: Compose = osgp,
        *,
        evaluate_mean: bool = True,
        transport: str = "auto",
        timeout: float | None = None,
    ) -> None:
        refusals.check_compose(compose)
        check_flag("evaluate_mean", evaluate_mean)
        launcher = detect()
        super().__init__(cluster_environment=Launched(launcher) if launcher.size > 1 else None)
        self.num_nodes = 1
        self.evaluate_mean = evaluate_mean
        self._compose, self._transport, self._timeout = compose, transport, deadline_of(timeout)
        self._world: World | None = None
        self._training = False  # the optimizers' buckets hold the parameters
        self._inside = False  # of `mean`
        self._trained: list[Trained] = []  # what each optimizer trains
        self._last_states: list[dict[str, Any]] = []  # of the optimizers, from the end of the last fit
        self._metrics: JoinedMetrics | None = None

    # -- ranks ---------------------------------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The World of all ranks."""
        if self._world is None:
            raise UsageError("the strategy has no World yet: the Trainer's fit, validate, test and predict make it")
        return self._world

    @property
    def root_device(self) -> torch.device:
        devices: list[torch.device] = self.parallel_devices
        return devices[int(self.local_rank) % len(devices)]

    @property
    def is_distributed(self) -> bool:
        """Whether Lightning gives each rank samples of its own."""
        return True

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def set_world_ranks(self) -> None:
        """Tell Lightning the rank of this process; the Trainer calls it when it is made."""
        processes = len(self.parallel_devices)
        self.cluster_environment.set_global_rank(self.node_rank * processes + self.local_rank)
        self.cluster_environment.set_world_size(self.num_nodes * processes)
        rank_zero_only.rank = self.global_rank

    def _configure_launcher(self) -> None:
        processes = len(self.parallel_devices)
        if self.world_size > 1:
            self._launcher = _SubprocessScriptLauncher(self.cluster_environment, processes, self.num_nodes)

    def setup_environment(self) -> None:
        super().setup_environment()
        if self._world is not None:
            return
        if self.world_size > 1 and not isinstance(self.cluster_environment, Launched):
            device = self.root_device
            _init_dist_connection(
                self.cluster_environment,
                _get_default_process_group_backend_for_device(device),
                timeout=timedelta(seconds=2 * self._timeout + 60),
                device_id=None if device.type == "cpu" else device,
            )
        self._world = init(self._transport, self._timeout)
        refusals.check_place(self._world, self.global_rank, self.world_size, self.root_device)

    # -- the model and its optimizers ----------------------------------------------------------------------------------

    def setup(self, trainer: Trainer) -> None:
        parts = list(self.lightning_module.modules())
        refusals.check_parts(parts, self._layer_sync)
        if not any(isinstance(each, AroundValidation) for each in trainer.callbacks):
            trainer.callbacks.insert(0, AroundValidation(self._evaluated, self.settle))
        self._metrics = JoinedMetrics(self.world, parts)
        super().setup(trainer)

    def model_to_device(self) -> None:
        self.model.to(self.root_device)

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            plain, module = self.optimizers, self.lightning_module
            self._trained = [Trained(module, ids_of(optimizer), not number) for number, optimizer in enumerate(plain)]
            self.optimizers = list(map(self._composed, plain))
            self._training, self._last_states = True, []

    def _composed(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        refusals.check_plain(optimizer)
        wrapped: torch.optim.Optimizer = composed(self._compose, optimizer, self.world, self.lightning_module)
        return wrapped

    # -- the mean ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def mean(self) -> Iterator[None]:
        """Inside, the module is the mean of all ranks; every rank enters at the same step. Nothing outside of `fit`."""
        with contextlib.ExitStack() as stack:
            if self._training and not self._inside:
                for optimizer, trained in zip(self.optimizers, self._trained, strict=True):
                    stack.enter_context(optimizer.mean(trained))
                stack.callback(setattr, self, "_inside", False)
                self._inside = True
            yield

    def _evaluated(self) -> contextlib.AbstractContextManager[None]:
        """The model that `fit` validates."""
        if self.evaluate_mean:
            return self.mean()
        self.settle()  # callbacks may write parameters next
        return contextlib.nullcontext()

    def settle(self) -> None:
        """Land everything in flight, of all optimizers; every rank calls it."""
        if self._training:
            for optimizer in self.optimizers:
                optimizer.settle()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        with self.mean():
            return copied(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if self._last_states:
            return self._last_states[self.optimizers.index(optimizer)]
        state: dict[str, Any] = optimizer.portable_state_dict()  # type: ignore[attr-defined]
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if "current_model_state" in checkpoint:  # WeightAveraging has put this rank's moving average into "state_dict"
            state = checkpoint["state_dict"]
            floating = {
                name: each for name, each in state.items() if torch.is_tensor(each) and each.is_floating_point()
            }
            checkpoint["state_dict"] = {**state, **self.world.mean(floating)}
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        self._training = False  # other ranks may make no more calls together with this one

    def teardown(self) -> None:
        if self._training:
            self.settle()
            self._last_states = list(map(self.optimizer_state, self.optimizers))
            mean = self.lightning_module_state_dict()
            self._training = False
            self.lightning_module.load_state_dict(mean, strict=False)
        if self._metrics is not None:
            self._metrics.leave()
        super().teardown()

    # -- calls of all ranks --------------------------------------------------------------------------------------------

    def barrier(self, name: str | None = None) -> None:
        if self._world is not None:
            self._world.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        if self._world is None:
            return obj
        is_path = isinstance(obj, Path)  # no plain data
        told = self._world.all_gather((str(obj) if is_path else obj) if self._world.rank == src else None)[src]
        return Path(told) if is_path else told

    def reduce(self, tensor: Any, group: World | None = None, reduce_op: Any = "mean") -> torch.Tensor:
        name = (reduce_op if isinstance(reduce_op, str) else reduce_op.name).lower()
        given = torch.as_tensor(tensor, device=self.root_device).detach()
        name = OPERATIONS.get(name, name)
        values = given.double() if name == "mean" and not given.is_floating_point() else given
        return self._among(group).all_reduce(values, name).to(given.dtype)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        votes = [decision] if self._world is None else self._world.all_gather(bool(decision))
        return bool(sum(votes) == len(votes) if all else sum(votes) > 0)

    def all_gather(self, tensor: torch.Tensor, group: World | None = None, sync_grads: bool = False) -> torch.Tensor:
        if sync_grads:
            raise UsageError("all_gather(sync_grads=True) sends gradients to other ranks, which gossip does not do")
        return torch.stack(gathered(self._among(group), tensor))

    def _among(self, group: World | None) -> World:
        if group is None:
            return self.world
        check_world(group, "the group of ranks of a reduction is a World such as strategy.world.node, and this is {}")
        return group
