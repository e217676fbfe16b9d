"""Checks of the arguments of an optimizer and of its methods, before anything is changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..averagers.base import Averager, check_averager
from ..checks import check_choice, check_flag, shown
from ..errors import GossipError, UsageError
from ..observe.timeline import VARIABLE
from ..state.buckets.masters import origin
from ..state.module_tensors import buffers, check_dense, lacking
from ..transports.torch.joined import ranks_of_mpi, ranks_of_torch
from ..world import World, check_world
from .communicating import check_silent
from .wrapper import Wrapper


def check_module(module: Any) -> None:
    """Check that `module` is a model or None.

    Raises:
        UsageError: saying what it is.
    """
    if module is not None and not isinstance(module, torch.nn.Module):
        what = "its state_dict()" if isinstance(module, Mapping) else shown(module)
        raise UsageError(f"module is {what}, but it is the model itself, a torch.nn.Module: give module=model")


def check_switches(**switches: Any) -> None:
    """Check that every option is True or False.

    Raises:
        UsageError: naming the first that is not.
    """
    for name, value in switches.items():
        check_flag(name, value)


def folder_of(trace_folder: Any) -> str | None:
    """The folder of timelines: `trace_folder`, or that of the variable GOSSIP_TRACE.

    Raises:
        UsageError: it is no path.
    """
    if trace_folder is None:
        return os.environ.get(VARIABLE)
    if not isinstance(trace_folder, (str, os.PathLike)):
        raise UsageError(
            f"trace_folder is {shown(trace_folder)}, but it is the folder into which each rank writes its timeline"
        )
    return os.fspath(trace_folder)


def check_closure(closure: Any) -> None:
    """Check that `closure` can be called.

    Raises:
        UsageError: saying what it is.
    """
    if closure is not None and not callable(closure):
        raise UsageError(
            f"step takes a function that computes the loss and calls backward() on it, and this is {shown(closure)}: "
            "after loss.backward(), call step() without it"
        )


def check_group(param_group: Any) -> None:
    """Check that `param_group` is a parameter group as torch's optimizers take them.

    Raises:
        UsageError: saying what it is, or that it names no parameter.
    """
    if not isinstance(param_group, Mapping) or "params" not in param_group:
        raise UsageError(
            f"add_param_group takes a dictionary such as {{'params': list(module.parameters()), 'lr': 0.1}}, and this "
            f"is {'one without params' if isinstance(param_group, Mapping) else shown(param_group)}"
        )
    params = param_group["params"]
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes, Mapping)):
        raise UsageError(f"'params' of a group is {shown(params)}, but it is a list of parameters")


def check_not_captured() -> None:
    """Check that no CUDA graph is being captured: its replay would not communicate.

    Raises:
        GossipError: one is.
    """
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise GossipError(
            "step() was called while a CUDA graph is captured, and a replay would not communicate: in each round the "
            "host posts other messages to other peers. Capture forward and backward alone, and call step() after each "
            "replay"
        )


def check_arguments(
    optimizer: torch.optim.Optimizer,
    averager: Averager,
    gradients: World | None,
    module: torch.nn.Module | None,
    module_buffers: str,
    initial: str,
    on_failure: str,
) -> None:
    """Check the arguments of `GossipOptimizer`, as far as one rank can.

    Raises:
        UsageError: naming the first that cannot work.
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
    """Check that all floating-point buffers can be averaged.

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


def check_related(optimizer: torch.optim.Optimizer, module: torch.nn.Module | None) -> None:
    """Check that `module` holds a parameter of `optimizer`.

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


def check_worlds(
    averager: Averager, worlds: Sequence[World], gradients: World | None, recovers: bool, checksum: bool
) -> None:
    """Check that `averager` can communicate in `worlds` as it is asked to.

    Raises:
        UsageError: saying what it cannot do there.
    """
    check_joined(worlds)
    together = set() if gradients is None else set(gradients.base.ranks)
    for node in averager.nodes:
        if node.size > 1 and not together >= set(node.base.ranks):
            raise UsageError(
                f"{averager.describe()} lets each of {node.size} ranks send its part of one model, so they have to "
                "make the same updates: give GossipOptimizer gradients=world.node, the World given as node"
            )
    if not recovers and any(world.base.carrier.meetings for world in worlds):
        raise UsageError(
            "an optimizer of this process goes on when ranks die, and this one would not: give both "
            "on_failure='shrink', or both 'raise', or close the world of the first, which its ranks leave together"
        )
    if checksum and any(world.base.streams for world in worlds):
        raise UsageError("checksum=True reads every message on the host, which NCCL never does: leave it out here")


def check_joined(worlds: Sequence[World]) -> None:
    """Check that no world has one rank where the program has joined more ranks since: each would train alone.

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
