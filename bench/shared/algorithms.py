"""The algorithms that are compared, each as what it is composed of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch.optim import Optimizer

from gossip import Every, ExactAverage, GossipOptimizer, NoAverage, PushSum, World
from slowmo import SlowMo, StreamingSlowMo
from slowmo.outer.wrapper import Outer
from topologies import Topology, exponential

Trained = GossipOptimizer | Outer


class Algorithm(NamedTuple):
    """What it is called, and how it is built around an optimizer, for a world, a graph and a period τ.

    `periodic` ones do something in every τ-th step only. `blocking` ones have nothing under way between two steps.
    `gossips`: the graph is used. Hierarchical ones go over the exponential graph of the hosts.
    """

    title: str
    build: Callable[[Optimizer, World, Topology, int], Trained]
    periodic: bool = False
    blocking: bool = True
    gossips: bool = False


def _alone(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, NoAverage())


def _ar(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, NoAverage(), gradients=world)


def _exact(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, ExactAverage(world))


def _sgp(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, PushSum(world, graph))


def _sgp_bf16(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, PushSum(world, graph, wire="bfloat16"))


def _sgp_int8(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, PushSum(world, graph, wire="int8"))


def _hier(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    across = PushSum(world.across, exponential(world.across.size))
    return GossipOptimizer(optimizer, across, gradients=world.node)


def _hier_parts(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    across = PushSum(world.across, exponential(world.across.size), node=world.node)
    return GossipOptimizer(optimizer, across, gradients=world.node)


def _osgp(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, PushSum(world, graph, overlap=1))


def _osgp_int8(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, PushSum(world, graph, overlap=1, wire="int8"))


def _local(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return GossipOptimizer(optimizer, Every(τ, ExactAverage(world)))


def _ar_slowmo(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return SlowMo(_ar(optimizer, world, graph, τ), ExactAverage(world), period=τ, buffers="reset")


def _local_slowmo(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    # The average of Local SGD is that of the outer step.
    return SlowMo(_alone(optimizer, world, graph, τ), ExactAverage(world), period=τ, buffers="reset")


def _sgp_slowmo(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return SlowMo(_sgp(optimizer, world, graph, τ), ExactAverage(world), period=τ, buffers="reset")


def _osgp_slowmo(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return SlowMo(_osgp(optimizer, world, graph, τ), ExactAverage(world), period=τ, buffers="reset")


def _sgp_noaverage(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return SlowMo(_sgp(optimizer, world, graph, τ), NoAverage(), period=τ, buffers="reset")


def _osgp_noaverage(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return SlowMo(_osgp(optimizer, world, graph, τ), NoAverage(), period=τ, buffers="reset")


def _local_streaming(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return StreamingSlowMo(_alone(optimizer, world, graph, τ), world, period=τ)


def _local_eighths(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return _eighths(_alone(optimizer, world, graph, τ), world, τ)


def _osgp_streaming(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return StreamingSlowMo(_osgp(optimizer, world, graph, τ), world, period=τ)


def _osgp_eighths(optimizer: Optimizer, world: World, graph: Topology, τ: int) -> Trained:
    return _eighths(_osgp(optimizer, world, graph, τ), world, τ)


def _eighths(inner: Trained, world: World, τ: int) -> Trained:
    return StreamingSlowMo(inner, world, period=τ, shards=min(8, τ), delay=min(4, τ))


ALGORITHMS = {
    "none": Algorithm("no communication", _alone),
    "ar": Algorithm("AR-SGD", _ar),
    "exact": Algorithm("exact average", _exact),
    "sgp": Algorithm("SGP", _sgp, gossips=True),
    "sgp-bf16": Algorithm("SGP, bfloat16", _sgp_bf16, gossips=True),
    "sgp-int8": Algorithm("SGP, int8", _sgp_int8, gossips=True),
    "hier": Algorithm("hierarchical SGP", _hier),
    "hier-parts": Algorithm("hierarchical SGP, in parts", _hier_parts),
    "osgp": Algorithm("OSGP", _osgp, blocking=False, gossips=True),
    "osgp-int8": Algorithm("OSGP, int8", _osgp_int8, blocking=False, gossips=True),
    "local": Algorithm("Local SGD", _local, periodic=True),
    "ar-slowmo": Algorithm("AR-SlowMo", _ar_slowmo, periodic=True),
    "local-slowmo": Algorithm("Local-SlowMo", _local_slowmo, periodic=True),
    "sgp-slowmo": Algorithm("SGP-SlowMo", _sgp_slowmo, periodic=True, gossips=True),
    "osgp-slowmo": Algorithm("OSGP-SlowMo", _osgp_slowmo, periodic=True, blocking=False, gossips=True),
    "sgp-noaverage": Algorithm("SGP-SlowMo-noaverage", _sgp_noaverage, periodic=True, gossips=True),
    "osgp-noaverage": Algorithm("OSGP-SlowMo-noaverage", _osgp_noaverage, periodic=True, blocking=False, gossips=True),
    # A part of the model in each step, which travels during the next one.
    "local-streaming": Algorithm("Local-SlowMo, streaming", _local_streaming, periodic=True, blocking=False),
    "osgp-streaming": Algorithm("OSGP-SlowMo, streaming", _osgp_streaming, periodic=True, blocking=False, gossips=True),
    # An eighth of it, which travels during the next four.
    "local-eighths": Algorithm("Local-SlowMo, in eighths", _local_eighths, periodic=True, blocking=False),
    "osgp-eighths": Algorithm("OSGP-SlowMo, in eighths", _osgp_eighths, periodic=True, blocking=False, gossips=True),
}
