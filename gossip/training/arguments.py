"""Checks of the arguments of an optimizer and of its methods, before anything is changed."""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch

from ..averagers.base import Averager, check_averager
from ..checks import check_choice, shown
from ..errors import GossipError, UsageError
from ..observe.timeline import VARIABLE
from ..state.buckets.masters import origin
from ..state.module_tensors import buffers, check_dense, lacking
from ..transports.torch.joined import ranks_of_mpi, ranks_of_torch
from ..world import World, check_world
from .wrapper import Wrapper

GROUPS = {"ProcessGroup", "ProcessSet"}
"""Names of classes that stand for a set of ranks, in torch.distributed and torchft, and in Horovod."""

PACKAGES = {"byteps", "hivemind", "horovod", "torchft"}
COLLECTIVES = re.compile("all_gather(_into_tensor|_object)?|all_to_all|broadcast|reduce_scatter(_tensor)?")
"""Optimizers that take parts of their update from other ranks. A sum of a few numbers does no harm."""


def folder_of(trace_folder: Any) -> str | None:
    """The folder of timelines: `trace_folder`, or that of the variable GOSSIP_TRACE."""
    if trace_folder is None:
        return os.environ.get(VARIABLE)
    if not isinstance(trace_folder, (str, os.PathLike)):
        raise UsageError(
            f"trace_folder is {shown(trace_folder)}, but it is the folder into which each rank writes its timeline"
        )
    return os.fspath(trace_folder)


def check_mode(mode: str, call: str) -> None:
    """Check that the parameters hold the values that train, while something is in flight."""
    if mode == "eval":
        raise GossipError(
            f"{call} was called while the optimizer is in eval mode, and what is in flight belongs to the values that "
            "train: call settle() before optimizer.eval(), or optimizer.train() before this call"
        )


def check_closure(closure: Any) -> None:
    """Check that `closure` can be called."""
    if not callable(closure):
        raise UsageError(
            f"step takes a function that computes the loss and calls backward() on it, and this is {shown(closure)}: "
            "after loss.backward(), call step() without it"
        )


def check_group(param_group: Any) -> None:
    """Check that `param_group` is a parameter group as torch's optimizers take them."""
    if not isinstance(param_group, Mapping) or "params" not in param_group:
        raise UsageError(
            f"add_param_group takes a dictionary such as {{'params': list(module.parameters()), 'lr': 0.1}}, and this "
            f"is {'one without params' if isinstance(param_group, Mapping) else shown(param_group)}"
        )
    params = param_group["params"]
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes, Mapping)):
        raise UsageError(f"'params' of a group is {shown(params)}, but it is a list of parameters")


def check_not_captured() -> None:
    """Check that no CUDA graph is being captured: its replay would not communicate. CUDA is initialised."""
    if torch.cuda.is_current_stream_capturing():
        raise GossipError(
            "step() was called while a CUDA graph is captured, and a replay would not communicate: in each round the "
            "host posts other messages to other peers. Capture forward and backward alone, and call step() after each "
            "replay"
        )


def check_arguments(
    optimizer: torch.optim.Optimizer,
    averager: Averager,
    gradients: World | None,
    module: Any,
    module_buffers: str,
    initial: str,
    on_failure: str,
) -> None:
    """Check the arguments of `GossipOptimizer`, as far as one rank can."""
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
    if module is not None and not isinstance(module, torch.nn.Module):
        what = "its state_dict()" if isinstance(module, Mapping) else shown(module)
        raise UsageError(f"module is {what}, but it is the model itself, a torch.nn.Module: give module=model")
    check_choice("module_buffers", module_buffers, ("local", "average"))
    if module_buffers == "average":
        if module is None:
            raise UsageError("module_buffers='average' needs module=..., whose buffers they are")
        for name in lacking(module):
            raise UsageError(
                f"buffer '{name}' of module has no values to average yet (it is lazy, or on the meta device): run one "
                "batch through the model, or initialise it, before GossipOptimizer is made"
            )
        floating = {name: buffer for name, buffer in buffers(module).items() if buffer.dtype.is_floating_point}
        check_dense(floating, "take module_buffers='local' with initial='check', or keep it out of module")
    check_choice("initial", initial, ("broadcast", "check"))
    check_choice("on_failure", on_failure, ("raise", "shrink"))
    if isinstance(optimizer, torch.optim.LBFGS) and gradients is not None and gradients.size > 1:
        raise UsageError(
            "LBFGS evaluates its closure as often as its line search asks, which differs between ranks, so its "
            "gradients cannot be averaged: leave gradients=None and average parameters"
        )
    if module is not None and isinstance(optimizer, torch.optim.Optimizer):
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
    """Check that `averager` can communicate in `worlds` as it is asked to."""
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
    """Check that no world has one rank where the program has joined more ranks since: each would train alone."""
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


def check_silent(optimizer: torch.optim.Optimizer) -> None:
    """Check that `optimizer` computes its update from what this rank has; its package need not be installed.

    An optimizer that communicates holds a process group, or its code names a collective that moves values. A few
    packages do neither, and are known by name.
    """
    kind = type(optimizer)
    evidence = itertools.chain(
        (f"it comes from {base.__module__}" for base in kind.__mro__ if base.__module__.split(".")[0] in PACKAGES),
        (f"its {name} holds a process group" for name, each in list(vars(optimizer).items()) if _holds_group(each)),
        (f"its code calls {name}" for name in _collectives(kind)),
    )
    if found := next(evidence, ""):
        raise UsageError(
            f"{kind.__name__} exchanges values with other ranks itself ({found}), and what gossip averages would "
            "be overwritten: give GossipOptimizer the plain torch optimizer that it is made of. ShardedSlowMo of "
            "slowmo shards state over ranks"
        )


def _collectives(kind: type) -> Iterator[str]:
    """The collectives that the code of a class names; classes of torch's own are left out."""
    own = [vars(base).values() for base in kind.__mro__ if not base.__module__.startswith("torch.optim.")]
    # Unwrapped: out of torch.no_grad() and step's hooks. Around a builtin there is no code of Python's to read.
    functions = [inspect.unwrap(each) for values in own for each in values if isinstance(each, FunctionType)]
    codes = [each.__code__ for each in functions if isinstance(each, FunctionType)]
    yield from sorted(filter(COLLECTIVES.fullmatch, {name for code in codes for name in _names(code)}))


def _holds_group(thing: Any, depth: int = 3) -> bool:
    """An optimizer holds an averager, which holds a dictionary of groups: so 3 levels."""
    if any(base.__name__ in GROUPS for base in type(thing).__mro__):
        return True
    if depth == 1 or isinstance(thing, torch.Tensor | torch.nn.Module | type | str):
        return False  # a model in DistributedDataParallel holds a group too, which the optimizer does not use
    if not isinstance(thing, list | tuple):
        # A copy: a thread of the optimizer may change it meanwhile.
        thing = list((thing if isinstance(thing, Mapping) else getattr(thing, "__dict__", {})).values())
    return any(_holds_group(part, depth - 1) for part in thing)


def _names(code: CodeType) -> Iterator[str]:
    """Every global and attribute that some code names."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
