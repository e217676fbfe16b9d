"""Dense gossip at first, sparse gossip afterwards; and graphs by name, as composed families take them."""

from __future__ import annotations

from topologies.checks import positive
from topologies.composition.order import Switched
from topologies.errors import TopologyError
from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.ring import ring
from topologies.topology import Topology
from topologies.validation import validated


class Hybrid(Switched):
    """The schedule that `hybrid` returns."""


def hybrid(
    size: int,
    rounds: int = 10,
    first: str = "complete",
    then: str = "exponential",
    first_peers: int = 1,
    then_peers: int = 1,
) -> Hybrid:
    """Dense-then-sparse: one graph for the first rounds, while the models move fast, and a cheaper one ever after.

        P(t) = P_first(t)    for t < rounds,    P(t) = P_then(t - rounds)    from then on

    For other pairs of graphs see `topologies.switch`.

    Args:
        size: number of ranks n, from 1.
        rounds: rounds of the first graph, at least 1. The paper takes the first third of the training; the default is
            only long enough to look at.
        first: "complete", "exponential" or "ring".
        then: likewise.
        first_peers: peers of the first graph if it is exponential.
        then_peers: peers of the second graph if it is exponential.

    Raises:
        TopologyError: other values.

    >>> all_then_one, two_then_one = hybrid(8, rounds=100), hybrid(8, 100, first="exponential", first_peers=2)
    >>> [len(all_then_one.turn(0, round).sends) for round in (0, 99, 100)]
    [7, 7, 1]
    >>> [len(two_then_one.turn(0, round).sends) for round in (0, 99, 100)]
    [2, 2, 1]

    Source: Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv 1811.10792, section 6: the
    hybrids AR/1P-SGP and 2P/1P-SGP.
    """
    size = positive(size, "the size of a hybrid")
    rounds = positive(rounds, "the first rounds of a hybrid")
    return validated(
        Hybrid(graph_by_name(first, size, first_peers, "first"), rounds, graph_by_name(then, size, then_peers, "then"))
    )


NAMES = ("complete", "exponential", "ring")


def graph_by_name(name: str, size: int, peers: int, option: str) -> Topology:
    """The complete graph, the ring, or the exponential graph with `peers`, on `size` ranks.

    Raises:
        TopologyError: another name, or peers that the graph does not have; the message begins with `option`.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise TopologyError(
            f"{option}={name!r} is none of {', '.join(map(repr, NAMES))}: choose one of these, or put other graphs "
            "together with topologies.switch or topologies.lift"
        )
    if name == "exponential":
        return exponential(size, peers)
    if positive(peers, f"{option}_peers") != 1:
        raise TopologyError(
            f"{option}={name!r} has its peers by its nature, so {option}_peers={peers!r} does not fit: leave it out, "
            f"or pass {option}='exponential'"
        )
    return complete(size) if name == "complete" else ring(size)
