"""Behaviour that only a GPU can show, on this rank: `python -m workers.gpu TRANSPORT CHECK...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import gossip
import slowmo
from topologies import exponential
from workers.inside import HOSTS, UNEVEN, node_group, on_two_hosts

SIZES = ((300, 500), (500, 1000), (1000, 10))


def network(world: gossip.World, dtype: torch.dtype = torch.float32) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b, device=world.device, dtype=dtype) for a, b in SIZES]
    return torch.nn.Sequential(*layers)


def passes(model: torch.nn.Module, world: gossip.World, batch: int) -> None:
    generator = torch.Generator(world.device).manual_seed(1000 * batch + world.rank)
    model(torch.randn(32, 300, device=world.device, generator=generator)).square().mean().backward()


@contextmanager
def no_waits() -> Iterator[None]:
    """torch raises where it would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def never_waits(world: gossip.World) -> None:
    """SGP, OSGP, wires, an exact average and SlowMo's outer step, each of ten steps and none with a wait."""
    for overlap in (0, 1, 2):
        for wire in (None, "bfloat16", "int8"):
            model = network(world)
            sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            push_sum = gossip.PushSum(world, exponential(world.size, peers=min(2, world.size - 1)), overlap, wire=wire)
            optimizer = gossip.GossipOptimizer(sgd, push_sum)
            outer = slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=4, momentum=0.5)
            for batch in range(10):
                passes(model, world, batch)
                if batch == 0:  # kernels are compiled, momenta and room are made
                    outer.step()
                    continue
                with no_waits():
                    outer.step()
                outer.zero_grad()
            outer.settle()
            assert abs(outer.weight_report().lost) < 1e-9, "weight was lost"


def averages(world: gossip.World) -> None:
    """Gossip ends where an exact average does, also in parts of a node and with gradients averaged."""
    model = network(world)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(world.rank)
    exact = [parameter.detach() - world.rank + (world.size - 1) / 2 for parameter in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, exponential(world.size)), gradients=world)
    with torch.no_grad():  # the broadcast has made all ranks alike
        for parameter in model.parameters():
            parameter.add_(world.rank)
    for batch in range(12):
        passes(model, world, batch)
        optimizer.step()
    optimizer.settle()
    power = world.size & (world.size - 1) == 0
    for parameter, mean in zip(model.parameters(), exact, strict=True):
        assert (parameter - mean).abs().max() < (1e-5 if power else 1e-2), "not the mean"
    words = [torch.full((5,), float(world.rank), device=world.device)]
    world.group(range(world.size)).channel().sum(words).wait()
    assert float(words[0][0]) == world.size * (world.size - 1) / 2


def warm_up(model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """As CUDA graphs want it, on a side stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(inputs).square().mean().backward()
    torch.cuda.current_stream().wait_stream(stream)


def compiled(world: gossip.World) -> None:
    """A compiled optimizer and captured passes go on; a captured step is refused."""
    model = network(world)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    sgd.step = torch.compile(sgd.step)  # type: ignore[method-assign]
    optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, exponential(world.size), overlap=1))
    inputs = torch.randn(32, 300, device=world.device)
    warm_up(model, inputs)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(inputs).square().mean()
        loss.backward()
    losses = []
    for _ in range(10):
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        graph.replay()
        optimizer.step()
        losses.append(float(loss))
    optimizer.settle()
    assert losses[-1] < losses[0], "no training"
    with pytest.raises(gossip.GossipError, match="CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def captured(world: gossip.World) -> None:
    """Passes are captured in each step, with a round posted before; torch waits for the GPU when a capture begins."""
    model = network(world)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, exponential(world.size), overlap=1))
    inputs = torch.randn(32, 300, device=world.device)
    warm_up(model, inputs)
    losses = []
    for _ in range(20):
        optimizer.step()
        optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(20):  # so that it takes a while
                loss = model(inputs).square().mean()
            loss.backward()
        graph.replay()
        losses.append(float(loss))
    optimizer.settle()
    assert losses[-1] < losses[0], "no training"


def trained(
    world: gossip.World, called: torch.nn.Module, model: torch.nn.Module, optimizer: gossip.GossipOptimizer
) -> torch.Tensor:
    """The parameters after six steps."""
    for batch in range(6):
        passes(called, world, batch)
        optimizer.step()
        optimizer.zero_grad()
    optimizer.settle()
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def between_hosts(world: gossip.World, model: torch.nn.Module, parts: bool, **options: Any) -> gossip.GossipOptimizer:
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    push_sum = gossip.PushSum(world.across, UNEVEN, overlap=1, node=world.node if parts else None)
    return gossip.GossipOptimizer(sgd, push_sum, **options)


def parts(world: gossip.World) -> None:
    """Messages that the ranks of a host carry together have the bits of those that each carries."""
    world = on_two_hosts(world)
    ends = []
    for together in (False, True):
        model = network(world)
        ends.append(trained(world, model, model, between_hosts(world, model, together, gradients=world.node)))
    assert torch.equal(*ends), f"they differ by {(ends[0] - ends[1]).abs().max():g}"


def ddp(world: gossip.World) -> None:
    """DistributedDataParallel inside a host trains as `gradients` does."""
    world = on_two_hosts(world)
    node = node_group(world, backend="nccl")
    model = network(world)
    ours = trained(world, model, model, between_hosts(world, model, True, gradients=world.node))
    model = network(world)
    called = DistributedDataParallel(model, device_ids=[world.device], process_group=node)
    theirs = trained(world, called, model, between_hosts(world, model, False, module=called))
    assert (ours - theirs).abs().max() < 1e-5, f"they differ by {(ours - theirs).abs().max():g}"


def mixed(world: gossip.World) -> None:
    """fp16 under a GradScaler, with an overflow on one rank."""
    model = network(world)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, exponential(world.size), overlap=1))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    for batch in range(8):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.randn(32, 300, device=world.device)).square().mean()
        if batch == 3 and world.rank == 0:
            loss = loss * 1e30
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    optimizer.settle()
    assert optimizer.steps == 8
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def masters(world: gossip.World) -> None:
    """A bf16 model with float32 masters stays their rounding, and is trained without a wait."""
    model = network(world, torch.bfloat16)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4)
    push_sum = gossip.PushSum(world, exponential(world.size), overlap=1, wire="bfloat16")
    optimizer = gossip.GossipOptimizer(adamw, push_sum, master_weights=True, module=model)
    inputs = torch.randn(32, 300, device=world.device, dtype=torch.bfloat16)
    losses = []
    for batch in range(12):
        loss = model(inputs).float().square().mean()
        loss.backward()
        losses.append(loss.detach())
        if batch < 2:  # what was written by hand is looked for
            optimizer.step()
        else:
            with no_waits():
                optimizer.step()
        optimizer.zero_grad()
    optimizer.settle()
    assert losses[-1] < losses[0], "no training"
    for group in optimizer.param_groups:
        for master in group["params"]:
            assert master.dtype == torch.float32
            assert torch.equal(master.model, master.to(torch.bfloat16)), "the model is not its masters, rounded"


CHECKS: dict[str, Callable[[gossip.World], None]] = {
    "never_waits": never_waits,
    "averages": averages,
    "compiled": compiled,
    "captured": captured,
    "mixed": mixed,
    "masters": masters,
    "parts": parts,
    "ddp": ddp,
}
RANKS = {"parts": len(HOSTS), "ddp": len(HOSTS)}
"""For the others two are enough."""


def main(transport: str, *checks: str) -> None:
    with gossip.init(transport, timeout=60) as world:
        for check in checks:
            CHECKS[check](world)
            world.barrier()
            if world.rank == 0:
                print(f"{check}: well", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
