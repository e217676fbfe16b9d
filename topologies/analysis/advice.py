"""Which graph to take for a network: every family's predicted time to agree, with reasons."""

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
from topologies.errors import SpecError, TopologyError
from topologies.loading import check_spec, load
from topologies.specs import parsed, written
from topologies.topology import Topology, positive
from topologies.validation import rounds_of

LONG = 1000
"""The longest period in rounds that is simulated whole to see whether it is exact."""

PEERS = (2, 3)
"""Which numbers of peers are tried, besides the default, of families that take some."""


@dataclass(frozen=True)
class Advice:
    """One row of `advise`: what a graph costs, or an all-reduce; None where there is no such number."""

    name: str
    """The family, the text given for it, or "all-reduce"."""
    kind: Literal["gossip", "all-reduce", "refused"]
    """What the row is about; "refused" is a family that does not admit the size."""
    reason: str
    """Why it stands where it stands, in words, or why it is refused."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options given to the family besides the size."""
    seconds: float | None = None
    """Seconds of communication until the error is reached; None where that is not within the rounds simulated."""
    rounds: int | None = None
    """Rounds until then."""
    seconds_per_round: float | None = None
    """Seconds of communication in a round, the mean over a period: what each training step pays, or hides."""
    bytes_per_rank: int | None = None
    """Bytes that the busiest network card has carried one way until the error is reached."""
    period: int | None = None
    """Rounds until the schedule repeats."""
    contraction: float | None = None
    """What a period leaves of the worst disagreement; None without a period, or where the ranks are many."""
    connected: bool = False
    """Whether news of every rank reaches every other one."""

    @property
    def label(self) -> str:
        """Name and options as `load` takes them: "base,peers=2"."""
        return written(self.name, self.options)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"label": self.label, **asdict(self)}


def advise(size: int, link: Link, nbytes: int, error: float = 0.01, names: Iterable[str] | None = None) -> list[Advice]:
    """Graphs for `size` ranks by the predicted seconds until they agree, soonest first, an all-reduce among them.

    Each is simulated until an average disagreement of 1 has shrunk to `error`, and its rounds are turned into seconds
    of communication on `link` for messages of `nbytes`. Families that refuse the size come last, with their sentence.

    Agreeing from scratch is not what training asks for. All-reduce agrees fully in each step and pays
    `allreduce_seconds` for it; gossip pays `seconds_per_round` in each step and lives with what `contraction` says a
    period leaves. A graph is worth its place where a round hides behind compute and an all-reduce does not.

    names: what `load` takes: "base", "base,peers=2", "package.module:factory"; all families, with 2 and 3 peers too,
    where it is None.

    Raises `TopologyError` for an error that is not between 0 and 1, and `SpecError` for an unknown name.

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
    # A misspelt one is told before the first is simulated.
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
        return "one rank has nobody to agree with"
    if exact is not None:
        said = f"exact after {_rounds(exact)} of {count}{'' if exact == 1 else ' each'}"
        return said if high == 1 else f"{said}, which share the network card"
    if period is None:
        said = f"never repeats: a round leaves about {_share(_rate(run))} of the disagreement"
    elif period == 1:
        said = (
            f"one graph for all rounds: each leaves {_share(_rate(run) if left is None else left)} of the disagreement"
        )
    elif left is None:
        said = f"not exact within {_rounds(run.rounds)}: each leaves about {_share(_rate(run))} of the disagreement"
    elif left > EXACT:
        said = f"never exact at {size}: {_share(left)} left after a sweep of {_rounds(period)}"
    else:
        said = f"nothing left only after a sweep of {_rounds(period)}"
    if high > 1:
        said += f"; {count} a round share the network card"
    if rounds is None:
        said += f"; still {run.errors[-1]:.2g} left after {_rounds(run.rounds)}, as many as are simulated"
    return said


def _share(left: float) -> str:
    return f"{left:.2g}" if left < 0.99 else f"all but {1 - left:.1g}"


def _rate(run: Consensus) -> float:
    # The second half of the run: at first the fast part of a random disagreement dies out.
    half = run.rounds // 2
    before, now = float(run.errors[half]), float(run.errors[-1])
    return (now / before) ** (1 / (run.rounds - half)) if now and run.rounds > half else 0.0


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _candidates(size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every family as it comes, and with other numbers of peers where it takes some and they fit."""
    for name, family in CATALOGUE.items():
        yield name, {}
        peers = inspect.signature(family).parameters.get("peers")
        if peers is None:
            continue
        for count in PEERS:
            if count == peers.default or count >= size:
                continue
            yield name, {"peers": count}
