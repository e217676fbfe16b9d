"""What `GossipOptimizer` does not take, said before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...averagers.base import Averager, check_averager
from ...checks import check_choice
from ...errors import GossipError, UsageError
from ...recovery.deaths import refuse_mortal
from ...state.buckets.masters import origin
from ...state.module_tensors import buffers, check_dense, lacking
from ...transports.torch.joined import ranks_of_mpi, ranks_of_torch
from ...world import World, check_world
from ..wrapper import Wrapper
from .arguments import check_module
from .communicating import check_silent


def refuse_options(
    optimizer: torch.optim.Optimizer,
    averager: Averager,
    gradients: World | None,
    module: torch.nn.Module | None,
    module_buffers: str,
    initial: str,
    on_failure: str,
) -> None:
    """Arguments that cannot work, whoever the other ranks are.

    Raises:
        UsageError: naming the first.
    """
    if isinstance(optimizer, Wrapper):
        raise UsageError(
            f"GossipOptimizer wraps a plain torch optimizer, and this is a {type(optimizer).__name__}: SlowMo goes "
            "around GossipOptimizer, and several averagers into one Chain"
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        check_silent(optimizer)
    check_averager(averager, "averager is {}, which is no Averager such as gossip.PushSum(...)")
    if gradients is not None:
        check_world(gradients, "gradients is {}, but it is the World whose ranks average their gradients")
    check_module(module)
    check_choice("module_buffers", module_buffers, ("local", "average"))
    if module_buffers == "average" and module is None:
        raise UsageError("module_buffers='average' needs module=..., whose buffers they are")
    if module_buffers == "average":
        check_averaged(module)
    check_choice("initial", initial, ("broadcast", "check"))
    check_choice("on_failure", on_failure, ("raise", "shrink"))
    if isinstance(optimizer, torch.optim.LBFGS) and gradients is not None and gradients.size > 1:
        raise UsageError(
            "LBFGS evaluates its closure as often as its line search asks, which differs between ranks, so its "
            "gradients cannot be averaged: leave gradients=None and average parameters"
        )


def check_averaged(module: torch.nn.Module | None) -> None:
    """Return where all floating-point buffers can be averaged.

    Raises:
        UsageError: naming the first that cannot.
    """
    assert module is not None, "refused before"
    for name in lacking(module):
        raise UsageError(
            f"buffer '{name}' of module has no values to average yet (it is lazy, or on the meta device): run one "
            "batch through the model, or initialise it, before GossipOptimizer is made"
        )
    floating = {name: buffer for name, buffer in buffers(module).items() if buffer.dtype.is_floating_point}
    check_dense(floating, "take module_buffers='local' with initial='check', or keep it out of module")


def refuse_stranger(optimizer: torch.optim.Optimizer, module: torch.nn.Module | None) -> None:
    """A module that has nothing to do with the optimizer.

    Raises:
        UsageError: naming both.
    """
    if module is None:
        return
    own = {id(parameter) for parameter in module.parameters()}
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if given and not any(id(origin(parameter)) in own for parameter in given):
        raise UsageError(
            f"module is a {type(module).__name__} that holds none of the parameters of this "
            f"{type(optimizer).__name__}: give the model whose parameters() the optimizer was made with"
        )


def refuse_worlds(
    averager: Averager, worlds: Sequence[World], gradients: World | None, on_failure: str, checksum: bool
) -> None:
    """Where `averager` speaks in `worlds`: what these cannot do of what is asked of them.

    Raises:
        UsageError: saying what.
    """
    check_joined(worlds)
    together = set() if gradients is None else set(gradients.base.ranks)
    for node in averager.nodes:
        if node.size > 1 and not together >= set(node.base.ranks):
            raise UsageError(
                f"{averager.describe()} lets each of {node.size} ranks send its part of one model, so they have to "
                "make the same updates: give GossipOptimizer gradients=world.node, the World given as node"
            )
    if on_failure == "shrink":
        refuse_mortal(averager, worlds)
    elif any(world.base.carrier.meetings for world in worlds):
        raise UsageError(
            "an optimizer of this process goes on when ranks die, and this one would not: give both "
            "on_failure='shrink', or both 'raise', or close the world of the first, which its ranks leave together"
        )
    if checksum and any(world.base.streams for world in worlds):
        raise UsageError("checksum=True reads every message on the host, which NCCL never does: leave it out here")


def check_joined(worlds: Sequence[World]) -> None:
    """No world may be of one rank where the program has joined more since: each of them would train alone.

    Raises:
        UsageError: one is.
    """
    if not any(world.base.carrier.alone for world in worlds):
        return
    for ranks, joined, cure in (
        (
            ranks_of_torch(),
            "torch.distributed",
            "Call gossip.init() once torch.distributed is initialised, to take its ranks (with Lightning in "
            "configure_optimizers), or start the script with torchrun or mpirun",
        ),
        (ranks_of_mpi(), "MPI", "Call gossip.init() after the first import of mpi4py.MPI"),
    ):
        if ranks > 1:
            raise UsageError(
                f"gossip.init() made a world of one rank before {joined} joined {ranks}, so each of them would train "
                f"alone. {cure}. To train alone on purpose, leave averaging to gossip.NoAverage()"
            )


def refuse_other_runs(
    saved: Mapping[str, Any], averager: Averager, optimizer: torch.optim.Optimizer, gradients: str
) -> None:
    """A state that was saved while running something else.

    Raises:
        UsageError: saying what.
    """
    kind = type(optimizer).__name__
    for then, now, what in (
        (saved["runs"], averager.describe(), "averager"),
        (saved.get("optimizer", kind), kind, "optimizer"),
        (saved.get("gradients", gradients), gradients, "average of gradients"),
    ):
        if then != now:
            raise UsageError(
                f"this state was saved while running {then}, and this is {now}: settle and save the model alone to go "
                f"on with another {what}"
            )


def refuse_more(state: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """A state that holds more than the GossipOptimizer `saved`, which would be dropped.

    Raises:
        UsageError: saying what.
    """
    more = sorted(state.keys() - {*saved.get("keys", state), "gossip"})
    if more:
        raise UsageError(
            f"this state holds {', '.join(map(repr, more))} of an optimizer around the GossipOptimizer that it was "
            "saved from, and here there is none: make it as it was, or leave that out of the state to go on without"
        )


def refuse_captured() -> None:
    """Where a step is recorded for later replay, by CUDA, communication would be left out of it.

    Raises:
        GossipError: a CUDA graph is being captured.
    """
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise GossipError(
            "step() was called while a CUDA graph is captured, and a replay would not communicate: in each round the "
            "host posts other messages to other peers. Capture forward and backward alone, and call step() after each "
            "replay"
        )
