"""Parallelism inside a node, over Gloo, on four ranks that play two hosts of two.

`python -m workers.inside FOLDER ddp` saves the models of the ranks, and `... sharded` saves the outcome of sharding.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import gossip
import topologies
from workers.masters import loss_of, model_of

STEPS = 6
HOSTS = ("a", "a", "b", "b")
UNEVEN = topologies.from_matrix([[0.7, 0.4], [0.3, 0.6]])
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "inside-a-node.md"

Averaged = Callable[[gossip.World, torch.nn.Module], tuple[torch.nn.Module, gossip.GossipOptimizer]]


def osgp(world: gossip.World, model: torch.nn.Module, **options: Any) -> gossip.GossipOptimizer:
    """Between the nodes."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return gossip.GossipOptimizer(sgd, gossip.PushSum(world.across, UNEVEN, overlap=1), **options)


def on_two_hosts(world: gossip.World) -> gossip.World:
    """The same four ranks, as if two of them stood on another host."""
    return replace(world, hosts=HOSTS, local_rank=world.rank % 2, local_size=2, _made={})


def node_group(world: gossip.World, backend: str = "gloo") -> torch.distributed.ProcessGroup:
    """The ranks of this one's host."""
    hosts = [[rank for rank, host in enumerate(world.hosts) if host == name] for name in dict.fromkeys(world.hosts)]
    group, _ = torch.distributed.new_subgroups_by_enumeration(hosts, backend=backend)
    assert isinstance(group, torch.distributed.ProcessGroup)
    return group


def by_world(world: gossip.World, model: torch.nn.Module) -> tuple[torch.nn.Module, gossip.GossipOptimizer]:
    return model, osgp(world, model, gradients=world.node)


def ddp_first(world: gossip.World, model: torch.nn.Module) -> tuple[torch.nn.Module, gossip.GossipOptimizer]:
    """As the guide has it."""
    [code] = re.findall(r"```python\n([^`]*?new_subgroups[^`]*)```", PAGE.read_text())
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    names = {"world": world, "model": model, "sgd": sgd, "graph_of_hosts": UNEVEN, "torch": torch, "gossip": gossip}
    exec(code, names)
    return names["model"], names["optimizer"]


def optimizer_first(world: gossip.World, model: torch.nn.Module) -> tuple[torch.nn.Module, gossip.GossipOptimizer]:
    optimizer = osgp(world, model, module=model)
    return DistributedDataParallel(model, process_group=node_group(world), gradient_as_bucket_view=True), optimizer


def trained(world: gossip.World, averaged: Averaged) -> np.ndarray[Any, Any]:
    """The parameters after every step, and once all has landed."""
    model = model_of(torch.float32, world.rank)
    called, optimizer = averaged(world, model)
    held = []
    for step in range(STEPS + 1):
        if step == STEPS:
            optimizer.settle()
        else:
            optimizer.zero_grad()
            loss_of(called, world.rank, step).backward()
            optimizer.step()
        held.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy())
    return np.stack(held)


def mesh() -> Any:
    """Of all ranks. It is imported here, like what it is for: that takes as long as loading torch does."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def fsdp2(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh())
    return model


def tensor_parallel(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    return parallelize_module(model, mesh(), {"0": ColwiseParallel(), "2": RowwiseParallel()})


def fsdp1(model: torch.nn.Module, use_orig_params: bool = False) -> torch.nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=use_orig_params)


SHARDINGS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "FSDP2": fsdp2,
    "tensor parallelism": tensor_parallel,
    "FSDP1": fsdp1,
    "FSDP1, original parameters": lambda model: fsdp1(model, use_orig_params=True),
}


def refusals(world: gossip.World, sharding: str) -> dict[str, str]:
    """The outcome of sharding the model before the optimizer is made, and after it, with and without `module`."""
    said, shard = {}, SHARDINGS[sharding]

    def averager() -> gossip.Averager:
        return gossip.PushSum(world, topologies.exponential(world.size))

    def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def before() -> None:
        gossip.GossipOptimizer(sgd(shard(model_of(torch.float32))), averager())

    def after(named: bool) -> None:
        model = model_of(torch.float32)
        optimizer = gossip.GossipOptimizer(sgd(model), averager(), module=model if named else None)
        called = shard(model)
        called(torch.ones(2, 8)).sum().backward()
        optimizer.step()

    for when, act in [("before", before), ("after", lambda: after(True)), ("unnamed", lambda: after(False))]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                act()
                said[when] = " ".join(str(warning.message) for warning in seen)
            except gossip.GossipError as error:
                said[when] = str(error)
    return said


def main(folder: str, what: str) -> None:
    """One set of processes for each."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with gossip.init("gloo", timeout=60) as everyone:
        if what == "ddp":
            world = on_two_hosts(everyone)
            for averaged in (by_world, ddp_first, optimizer_first):
                results[averaged.__name__] = trained(world, averaged)
        for sharding in SHARDINGS if what == "sharded" else ():
            for when, sentence in refusals(everyone, sharding).items():
                results[f"{sharding}/{when}"] = np.array(sentence)
    np.savez(Path(folder) / f"{everyone.rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
