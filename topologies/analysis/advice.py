"""Which graph to take for a network: the predicted time of every family to reach agreement, with reasons."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from topologies.analysis.consensus import EXACT, Consensus, left_by_a_period, until
from topologies.analysis.cost import Link, allreduce_seconds, elapsed, round_seconds
from topologies.analysis.reach import connected
from topologies.catalogue import CATALOGUE
from topologies.checks import positive
from topologies.errors import SpecError, TopologyError
from topologies.loading import check_spec, load
from topologies.specs import parsed, written
from topologies.topology import Topology
from topologies.validation import rounds_of

LONG = 1000
"""The longest period in rounds that is simulated whole to find out whether it is exact."""

PEERS = (2, 3)
"""The numbers of peers that are tried besides the default, for families with that option."""


@dataclass(frozen=True)
class Advice:
    """One row of `advise`: the cost of a graph, or of an all-reduce; None for a number that does not exist."""

    name: str
    """The family, its SPEC, or "all-reduce"."""
    kind: Literal["gossip", "all-reduce", "refused"]
    """The kind of row; "refused" is a family that does not admit the size."""
    reason: str
    """The reason for its rank in the table, or for the refusal."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options given to the family besides the size."""
    seconds: float | None = None
    """Seconds of communication until the error is reached; None if the simulated rounds do not reach it."""
    rounds: int | None = None
    """Rounds until the error is reached."""
    seconds_per_round: float | None = None
    """Seconds of communication in a round, the mean over a period: the cost of each training step without overlap."""
    bytes_per_rank: int | None = None
    """Bytes that the busiest network card carries one way until the error is reached."""
    period: int | None = None
    """Rounds until the schedule repeats."""
    contraction: float | None = None
    """The part of the worst disagreement that a period leaves; None without a period, or if the ranks are many."""
    connected: bool = False
    """Whether the values of every rank reach every other one."""

    @property
    def label(self) -> str:
        """Name and options as `load` takes them: "base_graph,peers=2"."""
        return written(self.name, self.options)

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return {"label": self.label, **asdict(self)}


def advise(size: int, link: Link, nbytes: int, error: float = 0.01, names: Iterable[str] | None = None) -> list[Advice]:
    """Graphs for `size` ranks by the predicted seconds to agreement, soonest first, an all-reduce among them.

    Each graph is simulated until an average disagreement of 1 has shrunk to `error`. Its rounds are turned into seconds
    of communication on `link` for messages of `nbytes`. Families that refuse the size come last, with their error
    message.

    Training does not need agreement from scratch. All-reduce agrees fully in each step and costs `allreduce_seconds`.
    Gossip costs `seconds_per_round` in each step, and a period leaves the part `contraction` of the disagreement. A
    graph pays off if a round hides behind compute and an all-reduce does not.

    Args:
        size: number of ranks n, from 1.
        link: the network card of each rank.
        nbytes: bytes of a message, from 1.
        error: the remaining disagreement to aim at, between 0 and 1.
        names: SPECs as `load` takes them: "ring", "base_graph,peers=2", "package.module:factory". None stands for all
            families, also with 2 and 3 peers.

    Raises:
        TopologyError: other numbers.
        SpecError: an unknown name.

    >>> from topologies.analysis import Link, advise
    >>> rows = advise(8, Link(rate=10e9, latency=50e-6), nbytes=100_000_000, names=["exponential", "ring"])
    >>> [(row.label, row.rounds, round(row.seconds, 2)) for row in rows]
    [('all-reduce', 1, 0.14), ('exponential', 3, 0.24), ('ring', 19, 3.04)]
    >>> rows[1].reason
    'exact after 3 rounds of one message each'
    """
    size = positive(size, "the number of ranks to advise on")
    nbytes = positive(nbytes, "the number of bytes of a message")
    if not 0 < error < 1:
        raise TopologyError(f"an error of {error!r} cannot be aimed at: give a number between 0 and 1, such as 0.01")
    wanted = _candidates(size) if names is None else [parsed(name) for name in names]
    # A misspelt name is reported before the first simulation.
    for name, options in wanted if names is not None else ():
        check_spec(name, **options)
    rows = [_all_reduce(size, link, nbytes)]
    for name, options in wanted:
        try:
            topology = load(name, size, **options)
        except SpecError:
            raise
        except TopologyError as refusal:
            rows.append(Advice(name, "refused", str(refusal).removeprefix(f"{name}: "), options))
        else:
            rows.append(_judged(name, options, topology, link, nbytes, error))
    return sorted(rows, key=lambda row: (row.kind == "refused", math.inf if row.seconds is None else row.seconds))


def _all_reduce(size: int, link: Link, nbytes: int) -> Advice:
    seconds = allreduce_seconds(size, link, nbytes)
    return Advice(
        "all-reduce",
        "all-reduce",
        "exact in each step, and every rank waits for all others",
        seconds=seconds,
        rounds=1,
        seconds_per_round=seconds,
        bytes_per_rank=2 * (size - 1) * nbytes // size,
        period=1,
        contraction=0.0,
        connected=True,
    )


def _judged(name: str, options: dict[str, Any], topology: Topology, link: Link, nbytes: int, error: float) -> Advice:
    run = until(topology, error, least=min(rounds_of(topology), LONG))
    left = left_by_a_period(topology, run)
    rounds = run.rounds_to(error)
    return Advice(
        name,
        "gossip",
        _reason(topology, run, rounds, left),
        options,
        seconds=None if rounds is None else float(elapsed(run, link, nbytes)[rounds]),
        rounds=rounds,
        seconds_per_round=round_seconds(topology, link, nbytes),
        bytes_per_rank=None if rounds is None else int(run.messages[rounds]) * nbytes,
        period=topology.period,
        contraction=left,
        connected=connected(topology),
    )


def _reason(topology: Topology, run: Consensus, rounds: int | None, left: float | None) -> str:
    size, period, exact = topology.size, topology.period, run.rounds_to_exact()
    loads = np.diff(run.messages[: max(exact or rounds or run.rounds, 1) + 1])
    low, high = int(loads.min(initial=size)), int(loads.max(initial=0))
    count = "one message" if high == 1 else f"{'up to ' if low < high else ''}{high} messages"
    if size == 1:
        return "a single rank agrees with itself"
    if exact is not None:
        reason = f"exact after {_rounds(exact)} of {count}{'' if exact == 1 else ' each'}"
        return reason if high == 1 else f"{reason}, which share the network card"
    if period is None:
        reason = f"never repeats: a round leaves about {_share(_rate(run))} of the disagreement"
    elif period == 1:
        reason = (
            f"one graph for all rounds: each leaves {_share(_rate(run) if left is None else left)} of the disagreement"
        )
    elif left is None:
        reason = f"not exact within {_rounds(run.rounds)}: each leaves about {_share(_rate(run))} of the disagreement"
    elif left > EXACT:
        reason = f"never exact at {size}: {_share(left)} left after a sweep of {_rounds(period)}"
    else:
        reason = f"nothing left only after a sweep of {_rounds(period)}"
    if high > 1:
        reason += f"; {count} a round share the network card"
    if rounds is None:
        reason += f"; still {run.errors[-1]:.2g} left after {_rounds(run.rounds)}, as many as are simulated"
    return reason


def _share(left: float) -> str:
    return f"{left:.2g}" if left < 0.99 else f"all but {1 - left:.1g}"


def _rate(run: Consensus) -> float:
    # The second half of the run, because at first the fast part of a random disagreement dies out.
    half = run.rounds // 2
    before, now = float(run.errors[half]), float(run.errors[-1])
    return (now / before) ** (1 / (run.rounds - half)) if now and run.rounds > half else 0.0


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _candidates(size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every family with its defaults, and with other numbers of peers if it has that option and they fit."""
    for name, family in CATALOGUE.items():
        yield name, {}
        peers = inspect.signature(family).parameters.get("peers")
        if peers is None:
            continue
        for count in PEERS:
            if count == peers.default or count >= size:
                continue
            yield name, {"peers": count}
