"""Memory that an optimizer holds beside what the wrapped one would, counted by walking its tensors."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import networkx as nx
import torch

import gossip.testing
from gossip import GossipOptimizer, PushSum, World
from gossip.transports import Flight, Transport
from slowmo import ShardedSlowMo
from topologies import Topology, exponential, from_networkx

from ..shared.methods import METHODS, Trained

RANKS, ELEMENTS, STEPS, PERIOD = 4, 100_000, 8, 4


class Case(NamedTuple):
    """A composition, and how many models it should hold beside its own."""

    title: str
    expected: float
    build: Callable[[torch.optim.Optimizer, World], Trained]


def _table(name: str, expected: float) -> Case:
    method = METHODS[name].over("exponential", PERIOD)
    return Case(method.title, expected, method.around)


def _gossip(title: str, expected: int, graph: Topology, overlap: int) -> Case:
    return Case(title, expected, lambda sgd, world: GossipOptimizer(sgd, PushSum(world, graph, overlap)))


def _unequal() -> Topology:
    """A ring on which rank 0 gives less than the others: one in-peer each, and w ≠ 1."""
    ring = nx.DiGraph()
    ring.add_weighted_edges_from((rank, (rank + 1) % RANKS, 0.5 if rank else 0.25) for rank in range(RANKS))
    return from_networkx(ring)


CASES = (
    _table("none", 0),
    _table("local", 0),
    _table("ar", 1),  # the gradients, side by side
    _table("sgp", 1),  # room for one message of each in-peer
    _table("osgp", 1),
    _gossip("SGP, two in-peers", 2, exponential(RANKS, 2), overlap=0),
    _gossip("OSGP, two in-peers", 2, exponential(RANKS, 2), overlap=1),
    _gossip("SGP, w ≠ 1", 2, _unequal(), overlap=0),  # and the values from before the update
    _gossip("OSGP, w ≠ 1", 2, _unequal(), overlap=1),
    _gossip("overlap 2", 5, exponential(RANKS), overlap=2),  # two rounds in flight, a snapshot for each, and w ≠ 1
    _table("sgp-slowmo", 3),  # anchor and slow momentum
    _table("osgp-slowmo", 3),
    _table("sgp-noaverage", 3),
    _table("local-slowmo", 2),
    _table("local-streaming", 2.5),  # and twice the part that is on its way
    _table("osgp-streaming", 3.25),  # which is needed once where all ranks take the same step
    Case("Local-SlowMo, sharded", 2 / RANKS, lambda optimizer, world: ShardedSlowMo(optimizer, world, PERIOD)),
)


def footprints() -> list[dict[str, Any]]:
    """Of each case, in models: the most that any rank holds after any step, and what it should be."""
    found = []
    for case in CASES:
        held = max(gossip.testing.run(RANKS, lambda world, case=case: _most(case, world)))  # type: ignore[misc]
        found.append({"algorithm": case.title, "held": held, "expected": case.expected})
    return found


def _most(case: Case, world: World) -> float:
    parameters = [torch.nn.Parameter(torch.ones(ELEMENTS // 4)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    sgd = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    optimizer = case.build(sgd, world)
    most = 0
    for _ in range(STEPS):
        optimizer.step()
        own = set(_memory([parameters, [parameter.grad for parameter in parameters], dict(sgd.state)]))
        held = _memory(optimizer)
        most = max(most, sum(nbytes for address, nbytes in held.items() if address not in own))
    optimizer.settle()
    return most / (4 * ELEMENTS)


def _memory(thing: object) -> dict[int, int]:
    """Address -> bytes of the memory of every tensor that can be reached from `thing`."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(thing, set())}


def _tensors(thing: object, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(thing) in seen or isinstance(thing, (World, Transport, str, bytes, int, float, type)):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from _tensors(key, seen)
            yield from _tensors(value, seen)
    elif isinstance(thing, (list, tuple, set, deque)):
        for value in thing:
            yield from _tensors(value, seen)
    elif isinstance(thing, Flight):  # what else it knows belongs to the transport
        yield from _tensors((thing.sends, thing.receives), seen)
    else:
        yield from _tensors(getattr(thing, "__dict__", {}), seen)
