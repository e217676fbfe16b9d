"""Hugging Face's Trainer and Accelerate, with gossip in the place of DistributedDataParallel.

Every rank trains a model of its own on its shard of the data. Evaluation, checkpoints and the model at the end are the
mean of all ranks, and a checkpoint resumes on any number of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import accelerate
import torch
import transformers
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType

from ..consensus.calls import copied
from ..errors import UsageError
from ..training.wrapper import Wrapper
from ..transports.connecting import deadline_of, start_torch
from ..world import World, check_world
from ..world import init as init_world
from .composing import Compose, composed, osgp
from .trained import Trained, ids_of


def init(transport: str = "auto", timeout: float | None = None) -> World:
    """`gossip.init()` for Accelerate, which has the same ranks afterwards, whatever launcher started them.

    Every rank calls it before it makes TrainingArguments or an Accelerator. Without a GPU, Accelerate is told to use
    the CPU.

    Args:
        transport: as for `gossip.init`.
        timeout: as for `gossip.init`.

    Raises:
        GossipError: as from `gossip.init`.

    >>> world = init()
    >>> world.rank, world.size
    (0, 1)
    """
    launcher = start_torch(deadline_of(timeout))
    world = init_world(transport, timeout)
    if world.size > 1:
        for name, number in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), launcher[1:5], strict=True):
            os.environ[name] = str(number)
        if world.device.type == "cpu":  # Accelerate takes several ranks without a GPU for one each, unless told
            os.environ["ACCELERATE_USE_CPU"] = "true"
    return world


class GossipTrainer(transformers.Trainer):
    """`transformers.Trainer` whose ranks gossip; also the first base of a class with another trainer behind it.

    `evaluate`, `predict` and checkpoints take the mean of all ranks, whose model every rank has after `train`. The
    optimizer's state in a checkpoint is portable. Each rank counts the tokens of its own batches, for a count over
    ranks would wait for all of them in every step.

    Args:
        args: as for `transformers.Trainer`, positional or named.
        world: from `init`; made here if left out.
        compose: makes the optimizer that gossips.
        options: as for `transformers.Trainer`.

    Raises:
        UsageError: Accelerate has other ranks than `world`, or shards the model.

    >>> world = init()
    >>> arguments = transformers.TrainingArguments("out", report_to="none", save_strategy="no")
    >>> trainer = GossipTrainer(torch.nn.Linear(4, 2), arguments, world=world)
    """

    def __init__(self, *args: Any, world: World | None = None, compose: Compose = osgp, **options: Any) -> None:
        self.world = init() if world is None else world
        self.compose = compose
        super().__init__(*args, **options)
        check_place(self.world, self.accelerator)
        self.args.average_tokens_across_devices = False

    @property
    def gossip_optimizer(self) -> Any:
        """The optimizer that gossips, with its `stats` and `weight`; None before training."""
        optimizer = self.optimizer
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        return optimizer if isinstance(optimizer, Wrapper) else None

    def create_accelerator_and_postprocess(self) -> None:
        """Keep DistributedDataParallel off the model, as Accelerate does for evaluation."""
        super().create_accelerator_and_postprocess()
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """The optimizer of Trainer or of its argument `optimizers`, composed.

        Raises:
            UsageError: `compose` returns no optimizer of ours.
        """
        optimizer = super().create_optimizer(*args, **options)
        if self.gossip_optimizer is None:
            self.optimizer = composed(self.compose, optimizer, self.world, self.model)
        return self.optimizer

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate or predict with the mean of all ranks, of what a schedule-free optimizer evaluates."""
        optimizer = self.gossip_optimizer
        if hasattr(optimizer, "eval"):
            optimizer.settle()
            optimizer.eval()
        with self._mean():
            return super().evaluation_loop(*args, **options)

    def save_model(self, *args: Any, **options: Any) -> None:
        """Save the mean of all ranks. Every rank calls it, and the main process writes."""
        with self._mean():
            super().save_model(*args, **options)

    def _mean(self) -> AbstractContextManager[None]:
        # Before and after training the ranks have one model.
        optimizer = self.gossip_optimizer if self.is_in_train else None
        return nullcontext() if optimizer is None else optimizer.mean(self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = self.gossip_optimizer.portable_state_dict()
        self.optimizer.state_dict = lambda: state  # the main process alone asks for it
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del self.optimizer.state_dict

    def _finalize_training(self, *args: Any, **options: Any) -> Any:
        # Before the best model is loaded, and before callbacks of other loggers take the model of one rank.
        self.gossip_optimizer.average_()
        return super()._finalize_training(*args, **options)


class GossipAccelerator(accelerate.Accelerator):
    """`accelerate.Accelerator` whose ranks gossip: `prepare` composes optimizers, and wraps no model.

    `get_state_dict`, `save_model` and `save_state` take the mean of all ranks and portable states of the optimizers, so
    that `load_state` goes on with any number of ranks. Every rank calls them.

    Args:
        args: as for `accelerate.Accelerator`.
        world: from `init`; made here if left out.
        compose: makes the optimizer that gossips.
        options: as for `accelerate.Accelerator`.

    Raises:
        UsageError: Accelerate has other ranks than `world`, or shards models.

    >>> accelerator = GossipAccelerator()
    >>> model = torch.nn.Linear(4, 2)
    >>> model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> accelerator.backward(model(torch.ones(4, device=accelerator.device)).sum())
    >>> optimizer.step()
    >>> with accelerator.mean(model):
    ...     loss = model(torch.ones(4, device=accelerator.device)).sum().item()
    """

    def __init__(self, *args: Any, world: World | None = None, compose: Compose = osgp, **options: Any) -> None:
        self.world = init() if world is None else world
        self.compose = compose
        super().__init__(*args, **options)
        check_place(self.world, self)

    def prepare_model(self, model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any:
        """Move the model to its device, in mixed precision if asked, without DistributedDataParallel."""
        return super().prepare_model(model, device_placement, evaluation_mode=True)

    def prepare_optimizer(self, optimizer: Any, device_placement: bool | None = None) -> Any:
        """Compose the optimizer. Its model is prepared before it, or stands before it in `prepare`.

        Raises:
            UsageError: no prepared model has its parameters, or `compose` returns no optimizer of ours.
        """
        if isinstance(optimizer, AcceleratedOptimizer):
            return super().prepare_optimizer(optimizer, device_placement)
        trained = ids_of(optimizer)
        model = next((each for each in self._models if not trained.isdisjoint(map(id, each.parameters()))), None)
        if model is None:
            raise UsageError(
                f"no prepared model has the parameters of this {type(optimizer).__name__}: name the model before its "
                "optimizer, as in accelerator.prepare(model, optimizer, loader), for its device counts"
            )
        gossiping = optimizer
        if not isinstance(optimizer, Wrapper):
            gossiping = composed(self.compose, optimizer, self.world, model)
        prepared = super().prepare_optimizer(gossiping, device_placement)
        prepared.trained, prepared.state_dict = trained, gossiping.portable_state_dict
        return prepared

    def gossip_optimizers(self, model: torch.nn.Module) -> list[Any]:
        """The optimizers that gossip and train a part of `model`, each with its `stats` and `weight`."""
        return [optimizer for optimizer, _ in self._training(model)]

    def _training(self, model: torch.nn.Module) -> list[tuple[Any, set[int]]]:
        own = set(map(id, model.parameters()))
        pairs: Iterator[tuple[Any, set[int]]] = (
            (each.optimizer, getattr(each, "trained", set())) for each in self._optimizers
        )
        return [(optimizer, trained) for optimizer, trained in pairs if not own.isdisjoint(trained)]

    @contextmanager
    def mean(self, model: torch.nn.Module) -> Iterator[None]:
        """Inside, a prepared `model` is the mean of all ranks, which all enter after the same step.

        Raises:
            UsageError: no prepared optimizer trains `model`.
        """
        training = self._training(model)
        if not training:
            raise UsageError(
                f"no optimizer of this accelerator trains this {type(model).__name__}: "
                "call accelerator.prepare(model, optimizer) before accelerator.mean(model)"
            )
        with ExitStack() as stack:
            for number, (optimizer, trained) in enumerate(training):
                part = model if len(training) == 1 else Trained(model, trained, not number)
                stack.enter_context(optimizer.mean(part))
            yield

    def get_state_dict(self, model: Any, unwrap: bool = True) -> Any:
        """The state_dict of the mean of all ranks, which all call it; that of a model that no optimizer trains."""
        if not self._training(model):
            return super().get_state_dict(model, unwrap)
        with self.mean(model):
            return copied((self.unwrap_model(model) if unwrap else model).state_dict())


def check_place(world: Any, accelerator: Any) -> None:
    """Raise `UsageError` unless Accelerate has the ranks of `world`, each with a whole model."""
    check_world(world, "world is {}, which is no World")
    place = (accelerator.process_index, accelerator.num_processes)
    if place != (world.rank, world.size):
        raise UsageError(
            f"rank {world.rank} of {world.size} is process {place[0]} of {place[1]} for Accelerate: call "
            "gossip.integrations.huggingface.init() before TrainingArguments or an Accelerator is made, in every rank"
        )
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise UsageError(
            f"Accelerate is configured for {kind.value}, which shards the model or averages gradients by itself, and "
            "gossip averages whole models: run `accelerate config` without it, or leave it out of TrainingArguments"
        )
