"""The laws of a topology, checked before any communication."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import NoReturn, TypeVar

import numpy as np

from topologies.array_laws import obeys_laws
from topologies.arrays.connectivity import reachable
from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.topology import TOLERANCE, Topology, Turn

T = TypeVar("T", bound=Topology)

APERIODIC_ROUNDS = 64
"""The number of first rounds that are checked if a topology has no period."""


def validate(topology: Topology) -> None:
    """Check the laws of `Topology`; returns silently or raises.

    All rounds of one period are checked, and that the next period repeats them. Of a topology without a period the
    first 64 rounds are checked, and they must connect all ranks. The time is proportional to the edges of these rounds,
    and no matrix is built. A topology never changes, so one that has passed is not checked again.

    Every public constructor calls this function, and so does the runtime for a topology of the user.

    Args:
        topology: an instance of `Topology`.

    Raises:
        TopologyError: a law is broken; the message names the round and the rank or column.

    >>> class Lonely(Topology):
    ...     def turn(self, rank, round):
    ...         return Turn(1.0, {}, {})
    >>> validate(Lonely(2, period=1))
    Traceback (most recent call last):
    ...
    topologies.errors.TopologyError: Lonely(size=2, period=1): in its one graph rank 0 cannot reach rank 1, ...
    """
    check_kind(topology)
    if "_validated" not in topology.__dict__:
        laws(topology)
        topology.__dict__["_validated"] = True


def validated(topology: T) -> T:
    """The topology itself, once it has passed `validate`."""
    validate(topology)
    return topology


def check_kind(topology: object) -> None:
    """Check that the argument is a topology with a size and a period; raises `TopologyError`."""
    if not isinstance(topology, Topology):
        raise TopologyError(
            f"a {type(topology).__name__} is no topology: subclass topologies.Topology, "
            "or give a graph to topologies.from_networkx, a weight matrix to topologies.from_matrix, or a function of "
            "the round to topologies.from_function"
        )
    name = type(topology).__name__
    for fact in ("size", "period"):
        if not hasattr(topology, fact):
            raise TopologyError(f"{name} has no {fact}: call super().__init__(size, period) in its __init__")
    positive(topology.size, f"the size of {name}")
    if topology.period is not None:
        positive(topology.period, f"the period of {name}, where it is not None,")


@singledispatch
def laws(topology: Topology) -> None:
    """Check the turns of all ranks; a base class with a symmetry registers a shorter check of the same laws."""
    told_as_arrays = type(topology).edges is not Topology.edges
    if told_as_arrays and obeys_laws(topology, rounds_of(topology)):
        return
    size = topology.size
    pairs: set[tuple[int, int]] = set()
    for round in range(rounds_of(topology)):
        turns = [topology.turn(rank, round) for rank in range(size)]
        for rank, turn in enumerate(turns):
            check_turn(topology, rank, round, turn)
        for rank, turn in enumerate(turns):
            _check_agreement(topology, rank, round, turns)
            pairs.update((rank, peer) for peer in turn.sends)
        # After the other checks, because a wrong share should be named before the fact that it also varies.
        for rank, turn in enumerate(turns):
            check_period(topology, rank, round, turn)
    _check_connected(topology, pairs)
    if told_as_arrays:
        raise TopologyError(
            f"{topology!r}: edges() differs from turn(), which obeys the laws: correct edges(), or leave it out, "
            "because it is only a faster way to compute the turns of all ranks"
        )


def rounds_of(topology: Topology) -> int:
    """The number of rounds that are checked."""
    return topology.period or APERIODIC_ROUNDS


def check_turn(topology: Topology, rank: int, round: int, turn: Turn) -> None:
    """Check a single turn: keep, shares, peers, and the sum of the column."""
    where = f"{topology!r}: in round {round} rank {rank}"
    if not isinstance(turn, Turn):
        raise TopologyError(f"{where} has a {type(turn).__name__} for its turn: return topologies.Turn")
    if not is_share(turn.keep):
        raise TopologyError(
            f"{where} keeps {turn.keep!r}: every rank must keep a share above 0 and at most 1, so lower its sends"
        )
    for verb, preposition, shares in (("sends", "to", turn.sends), ("receives", "from", turn.receives)):
        if not isinstance(shares, Mapping):
            raise TopologyError(
                f"{where} has a {type(shares).__name__} for its {verb}: give a mapping from peer to share"
            )
        for peer, share in shares.items():
            if not _is_rank(peer, topology.size):
                raise TopologyError(
                    f"{where} {verb} {preposition} {peer!r}: peers are the ranks 0 to "
                    f"{topology.size - 1}, so take the peer modulo the size or leave it out"
                )
            if peer == rank:
                raise TopologyError(
                    f"{where} {verb} {preposition} itself: its own share belongs in keep, so leave this edge out"
                )
            if not is_share(share):
                raise TopologyError(
                    f"{where} {verb} the share {share!r} {preposition} rank {peer}: a share is above 0 "
                    "and at most 1, so leave out a peer that gets nothing"
                )
    sent = math.fsum(turn.sends.values())
    # Σ_i P[i, j] = 1
    if abs(turn.keep + sent - 1) > TOLERANCE:
        raise TopologyError(
            f"{topology!r}: in round {round} column {rank} sums to {turn.keep + sent:.12g}, not to 1: "
            f"rank {rank} keeps {turn.keep:.12g} and sends {sent:.12g}, so make keep 1 - "
            "sum(sends.values())"
        )


def is_share(share: object) -> bool:
    """Whether `share` is a number above 0 and at most 1; NaN is not."""
    return isinstance(share, (int, float, np.floating)) and bool(0 < share <= 1)


def check_period(topology: Topology, rank: int, round: int, turn: Turn) -> None:
    """Check that the turn is the same at the next call and in the next period."""
    if topology.turn(rank, round) != turn:
        raise TopologyError(
            f"{topology!r}: in round {round} rank {rank} got another turn from a second call: "
            "let turn() depend on rank and round only, and seed random graphs with the round"
        )
    if topology.period and topology.turn(rank, round + topology.period) != turn:
        raise TopologyError(
            f"{topology!r}: rank {rank} has another turn in round {round + topology.period} than in "
            f"round {round}, one period before: correct the period, or make it None"
        )


def refuse_unconnected(
    topology: Topology, sources: Sequence[int], rest: Sequence[int], answers: bool = True
) -> NoReturn:
    """Raise the error that no message of `sources` reaches `rest`; `answers`: whether messages of `rest` reach them."""
    rounds = rounds_of(topology)
    if topology.period is None:
        when, where = f"over its first {rounds} rounds", " in one of these rounds"
    elif rounds == 1:
        when, where = "in its one graph", ""
    else:
        when, where = f"over the {rounds} rounds of its period", " in one of these rounds"
    if not answers:
        raise TopologyError(
            f"{topology!r}: {when} {_ranks(sources)} cannot reach {_ranks(rest)}, nor the latter the former, so they "
            f"would never agree: add an edge each way between the two groups{where}"
        )
    raise TopologyError(
        f"{topology!r}: {when} {_ranks(sources)} cannot reach {_ranks(rest)}, so they would never "
        f"agree: add an edge from the former to the latter{where}"
    )


def refuse_idle(topology: Topology, idle: Sequence[int]) -> NoReturn:
    """Raise the error that the ranks `idle`, some of all, have no edges."""
    rounds = rounds_of(topology)
    if topology.period is None:
        when = f" in any of its first {rounds} rounds"
    else:
        when = "" if rounds == 1 else f" in any of the {rounds} rounds of its period"
    one = len(idle) == 1
    raise TopologyError(
        f"{topology!r}: {_ranks(idle)} {'has' if one else 'have'} no edge{when}, so {'it' if one else 'each'} would "
        f"stay alone: connect {'it' if one else 'them'} to the others, or make the topology of the other "
        f"{topology.size - len(idle)} and start as many ranks"
    )


def _is_rank(peer: object, size: int) -> bool:
    return isinstance(peer, (int, np.integer)) and bool(0 <= peer < size)


def _check_agreement(topology: Topology, rank: int, round: int, turns: Sequence[Turn]) -> None:
    advice = "make the sends of the one and the receives of the other agree"
    for peer, share in turns[rank].sends.items():
        expected = turns[peer].receives.get(rank, 0.0)
        if abs(expected - share) > TOLERANCE:
            raise TopologyError(
                f"{topology!r}: in round {round} rank {rank} sends the share {share:.12g} to rank "
                f"{peer}, which expects {expected or 'nothing'} from it: {advice}"
            )
    for peer, share in turns[rank].receives.items():
        if rank not in turns[peer].sends:
            raise TopologyError(
                f"{topology!r}: in round {round} rank {rank} expects the share {share:.12g} from rank "
                f"{peer}, which sends it nothing: {advice}"
            )


def _check_connected(topology: Topology, pairs: set[tuple[int, int]]) -> None:
    source, target = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    idle = np.setdiff1d(np.arange(topology.size), np.concatenate([source, target]))
    if 0 < len(idle) < topology.size:
        refuse_idle(topology, idle.tolist())
    forward = reachable(topology.size, source, target)
    if not forward.all():
        answers = bool(np.any(~forward[source] & forward[target]))
        refuse_unconnected(topology, np.flatnonzero(forward).tolist(), np.flatnonzero(~forward).tolist(), answers)
    backward = reachable(topology.size, target, source)
    if not backward.all():
        refuse_unconnected(topology, np.flatnonzero(~backward).tolist(), np.flatnonzero(backward).tolist())


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) <= 8:
        return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:6]))} and {len(ranks) - 6} more"
