"""The line's own time beside an algorithm's: raw sockets, where the ranks stand on several hosts."""

from collections import Counter

from gossip import World
from gossip.transports.torch.interfaces import own_address
from topologies import Topology

from ..cluster import line
from ..shared import record
from ..shared.statistics import summary

LONGEST = 8
"""The most rounds of a graph: each takes a pause and a transfer, and a connection to each of its peers."""


def seconds(world: World, graph: Topology, nbytes: int, pause: float, timeout: float) -> dict[str, float] | None:
    """Of `nbytes` over the hops of `graph`, now, over all ranks and repeats.

    None where all ranks share a host, and where hosts have unequal numbers of them: links then carry unequal loads.

    The pause before each repeat is as long as a compute: a connection that was idle may begin anew, slowly, where the
    hosts are not those of `bench cluster`. Ranks that share a host send side by side, so there every host sends to the
    next: the link's time for all of them is the time of each.
    """
    hosts = Counter(world.hosts)
    if len(hosts) == 1 or len(set(hosts.values())) > 1:
        return None
    ranks = world.across
    rounds = line.neighbours(ranks) if ranks.size < world.size else _rounds(graph, world.rank)
    repeats = max(line.REPEATS, 2 * len(rounds))
    times = line.times(
        ranks, own_address(ranks.hosts), nbytes, repeats, rounds, pause=max(pause, line.PAUSE), timeout=timeout
    )
    everywhere = record.gather(world, [each for repeats in times for each in repeats])
    return summary([each for rank in everywhere for each in rank])._asdict()


def paused_and_steady(
    world: World, graph: Topology, nbytes: int, pause: float, timeout: float
) -> tuple[dict[str, float], float] | None:
    """`seconds`, after a pause, and those of a message right behind another one; None where it is.

    After a pause a shaper, as a switch's buffer, has room for a burst. A sender that never pauses has not.
    """
    paused = seconds(world, graph, nbytes, pause, timeout)
    twice = seconds(world, graph, 2 * nbytes, pause, timeout)
    return None if paused is None or twice is None else (paused, twice["median"] - paused["median"])


def _rounds(graph: Topology, rank: int) -> list[line.Peers]:
    """A period of the graph, as far as it is short enough to be walked through."""
    turns = [graph.turn(rank, number) for number in range(min(graph.period or LONGEST, LONGEST))]
    return [(list(turn.sends), list(turn.receives)) for turn in turns]
