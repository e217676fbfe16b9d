"""Push-sum over a time-varying graph: SGP, OSGP, and gossip that no straggler holds up."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import topologies

from ..checks import check_choice, whole
from ..errors import UsageError
from ..passes.forward import ForwardPass
from ..state.codecs import CODECS
from ..state.mass import Mass
from ..world import World, check_world
from .base import Averager
from .exchange import Exchange
from .landing.asynchronous import Asynchronous
from .landing.base import Landing
from .landing.due import Due
from .landing.early import Early
from .landing.forward import Forward

LANDINGS: dict[str, Callable[..., Landing]] = {"due": Due, "forward": Forward, "early": Early, "any": Asynchronous}


def _of_landing(name: str) -> Any:
    """The method `name` of `self.landing`, as if it were the averager's own."""
    return property(attrgetter(f"landing.{name}"), doc=getattr(Averager, name).__doc__)


class PushSum(Averager):
    """Gossip of (weight, values) pairs over `topology`; one round for each post.

        give     w_j <- P[j,j] w_j ,  send (P[i,j] w_j, z_j) to each i
        merge    w <- w + w' , and with the new w     z <- z + (w'/w)(z' − z)

    Σ w and Σ w·z over all ranks, held and in flight, never change by it. With a doubly stochastic schedule w is
    exactly 1 at every update with overlap 0 or 1 and landing="due".

    Args:
        world: the ranks that gossip. Between steps their parameters may be in flight: settle before writing them.
        topology: who gives to whom; its size is the world's.
        overlap: steps that a round may travel. 0 and 1 send the parameters' own memory; above that a snapshot.
        landing: "due": a round is merged exactly `overlap` steps after its post, so that runs repeat bit for bit.
            "forward": as "due" with overlap 0, bit for bit. But each module waits for the values that it reads alone,
            in the next forward pass. Give the optimizer `module=`, and call `settle()` before values are read outside
            of a forward pass. "early": as soon as it has arrived, and at most `overlap` steps after its post, so that
            pauses of so many steps delay no other rank. "any": all messages that have arrived, however late; no rank
            waits for another, `overlap` bounds nothing, and every rank may call `step()` as often as it likes. See
            `gossip.averagers.landing`.
        wire: how values travel. None: in the parameters' own dtype. "float32", "bfloat16", "float16" and "int8" (with
            a float32 scale for every 256 values) send a rounded snapshot ẑ. The sender keeps the rounding error:
            z <- z + (s/k)(z − ẑ) where it gives the share s and keeps k. So Σ w·z stays, to the precision of the
            parameters. Ranks come as close to one another as values are rounded, times s/k where k is small.
            "float16" and "int8" refuse a value that is not finite, "float16" one above 65,504 too. On a GPU, where the
            host would have to wait to know, such values travel on as not finite.
        node: the ranks of a host, where they hold the same values since they average their gradients; `world` is then
            their counterparts on other hosts. Each of the m ranks sends one m-th of a message to its counterparts, and
            they exchange the parts inside the host. So a message crosses the network once and not m times. The result
            is the same, bit for bit. See `post_in_parts` of `gossip.transports.collective.sums`.

    Raises:
        UsageError: an overlap, landing or wire that does not exist or that the transport does not support, or a
            topology of another size.
        TopologyError: a schedule that breaks the laws of `topologies.Topology`.

    Source: Assran, Loizou, Ballas, Rabbat, "Stochastic gradient push for distributed deep learning", ICML 2019, arXiv
    1811.10792, algorithms 1 (SGP) and 2 (OSGP).

    >>> import gossip, topologies, torch
    >>> world = gossip.init()
    >>> osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)

    Among hosts with several ranks each:

    >>> hosts = topologies.exponential(world.across.size)
    >>> across = gossip.PushSum(world.across, hosts, overlap=1, node=world.node)
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = gossip.GossipOptimizer(sgd, across, gradients=world.node)
    """

    def __init__(
        self,
        world: World,
        topology: topologies.Topology,
        overlap: int = 0,
        landing: str = "due",
        wire: str | None = None,
        node: World | None = None,
        sections: int | None = None,
    ) -> None:
        check_world(world, "world is {}, and PushSum(world, topology, ...) is the order")
        overlap = whole(overlap, "overlap is {}, but it is a number of steps: 0, 1 or more")
        check_choice("landing", landing, LANDINGS)
        check_choice("wire", wire, CODECS)
        cut = _sections_of(sections, landing)
        if landing in ("early", "any") and world.base.streams:
            raise UsageError(
                f"landing={landing!r} asks which message has come, and over nccl messages come in the one order of a "
                "stream: use landing='due' or 'forward', or gossip.init('mpi')"
            )
        if isinstance(topology, str):
            raise UsageError(
                f"topology is the text {topology!r}: topologies.load({topology!r}, world.size) makes a graph of it"
            )
        if not isinstance(topology, topologies.Topology):
            raise UsageError(
                f"topology is a {type(topology).__name__}, not a topologies.Topology: "
                + ("call it with world.size" if callable(topology) else "topologies.from_networkx(graph) makes one")
            )
        if topology.size != world.base.size:
            raise UsageError(
                f"the topology has {topology.size} ranks and the world has {world.base.size}: make it with "
                f"size=world.{'size' if world.size == world.base.size else 'survivors.size, and world.survivors'}"
            )
        topologies.validate(topology)
        if node is not None:
            _check_node(world, node, landing)
        self.worlds, self.nodes = (world,), () if node is None else (node,)
        more = (f", {wire=}" if wire is not None else "") + (f", node={node.size}" if node is not None else "")
        more += "".join(f", {name}={value}" for name, value in cut.items())
        self._options = f"overlap={overlap}, landing={landing!r}{more}"
        self._description = f"PushSum({topology.describe()}, {self._options})"
        exchange = Exchange(world, topology, CODECS[wire], self._description, node)
        self.landing = LANDINGS[landing](exchange, overlap, **cut)
        self.overlap, self.lockstep = self.landing.overlap, self.landing.lockstep
        self.unmerged = self.landing.unmerged

    @property
    def topology(self) -> topologies.Topology:
        """The graph, without the ranks that died."""
        return self.landing.exchange.topology

    def describe(self) -> str:
        return self._description

    def __repr__(self) -> str:
        """The line without the digest of the graph."""
        return f"PushSum({self.topology!r}, {self._options})"

    def watch(self, forward: ForwardPass) -> None:
        if self._mass is None:
            self.landing.watch(forward)

    def bind(self, mass: Mass, every: int) -> None:
        if self._mass is None:
            self.landing.bind(every, mass)  # first: where it refuses this pace, it may be bound at another
        super().bind(mass, every)

    # PushSum delegates these calls of an averager to its landing strategy.
    land, average, post = map(_of_landing, ("land", "average", "post"))
    in_flight, arrived = map(_of_landing, ("in_flight", "arrived"))
    settle, quiesce, rebind, forget = map(_of_landing, ("settle", "quiesce", "rebind", "forget"))
    state_dict, load_state_dict = map(_of_landing, ("state_dict", "load_state_dict"))


def _sections_of(sections: int | None, landing: str) -> dict[str, int]:
    """The options of the landing strategy."""
    if sections is None:
        return {}
    if landing != "forward":
        raise UsageError(f"sections={sections} cuts a round of landing='forward', and here landing={landing!r}")
    return {"sections": whole(sections, "sections is {}, but it is a number of messages, at least 1", 1)}


def _check_node(world: World, node: World, landing: str) -> None:
    if not isinstance(node, World):
        raise UsageError(f"node is {node!r}, but it is a World: world.node, the ranks that share this host")
    if landing != "due":
        raise UsageError(
            f"landing={landing!r} takes one message before another, and with node=... the ranks of a node hand each "
            "other parts of one round: use landing='due'"
        )
    if set(world.base.ranks) & set(node.base.ranks) != {world.base.me}:
        raise UsageError(
            f"rank {world.base.me} gossips with ranks of its own node, which hold the same values: give a world of "
            "counterparts, as in PushSum(world.across, ..., node=world.node)"
        )
