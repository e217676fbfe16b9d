"""A topology made of a function of the round."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np

from topologies.arrays.edges import Edges
from topologies.custom.calls import misfit
from topologies.custom.matrices import is_matrices, matrix_edges
from topologies.custom.networkx_graphs import graph_edges
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.topology import Topology, Turn, refuse_rank
from topologies.validation import rounds_of, validate

RECENT_ROUNDS = 8
"""How many rounds without a period are remembered: ranks that are threads are a few rounds apart."""

PERIODIC_ROUNDS = 64
"""How many rounds of a period are remembered."""

# The functions of all topologies take turns: ranks may be threads, and a function that seeds the process's one random
# generator with the round is pure only while no other does so at the same time.
_ASKING = threading.RLock()


class Function(Topology):
    """The schedule that `from_function` returns."""

    def __init__(self, function: Callable[[int], Any], size: int, period: int | None) -> None:
        """`function`, of the round, 0 to period - 1 where there is a period."""
        super().__init__(size, period)
        self._function = function
        self._remembered = min(self.period or RECENT_ROUNDS, PERIODIC_ROUNDS)
        self._recent: dict[int, tuple[int, Topology]] = {}

    def turn(self, rank: int, round: int) -> Turn:
        """The turn of `rank` in what the function returns for `round`; in microseconds if it was asked for lately."""
        if not 0 <= rank < self.size:
            raise refuse_rank(rank, self.size)
        return self._round(round).turn(rank, round)

    def edges(self, round: int) -> Edges:
        """All turns of what the function returns for `round`."""
        return self._round(round).edges(round)

    def ask(self, round: int) -> Topology:
        """A topology that in `round` is what the function returns when it is asked now."""
        what = f"the function {_name(self._function)}"
        try:
            with _ASKING:
                result = self._function(round)
        except TopologyError as error:
            raise TopologyError(f"{what}, asked for round {round}: {error}") from error
        except Exception as error:
            raise TopologyError(f"{what} raised {type(error).__name__} for round {round}: {error}") from error
        if isinstance(result, Topology):
            made, size = result, result.size
        elif isinstance(result, nx.Graph):
            made = Table([graph_edges(result, "weight", f"the graph that {what} returned for round {round}")])
            size = made.size
        elif is_matrices(result):
            made = Table([matrix_edges(result, f"the matrix that {what} returned for round {round}")])
            size = made.size
        else:
            raise TopologyError(
                f"{what} returned a {type(result).__name__} for round {round}: let it return one networkx graph, one "
                "weight matrix, or a topologies.Topology of which that round counts"
            )
        if size != self.size:
            raise TopologyError(
                f"what {what} returned for round {round} has {size} ranks, but the topology was asked for with "
                f"{self.size}: return the same ranks in every round, idle ones too"
            )
        return made

    def _round(self, round: int) -> Topology:
        phase = round if self.period is None else round % self.period
        # A slot is replaced whole: safe between threads.
        asked, made = self._recent.get(phase % self._remembered, (-1, None))
        if asked != phase or made is None:
            made = self.ask(phase)
            self._recent[phase % self._remembered] = phase, made
        return made

    def __getstate__(self) -> dict[str, Any]:
        """What is remembered stays behind."""
        return {**self.__dict__, "_recent": {}}

    def __repr__(self) -> str:
        """With the function's name: two that differ late are alike in their first rounds."""
        return f"{type(self).__name__}({_name(self._function)}, size={self.size}, period={self.period})"


def from_function(function: Callable[[int], Any], size: int, period: int | None = None) -> Function:
    """A topology whose round t is what `function(t)` returns: a networkx graph, a weight matrix, or a `Topology`.

    A graph counts as in `from_networkx`, a matrix as in `from_matrix`, and of a topology round t counts:

        P(t) = the matrix of function(t), of function(t mod period) where there is a period

    The function is called when a round is asked for, and the last 8 rounds are remembered, up to 64 of a period; a
    round that is not remembered costs what the function costs, on every rank. It must return the same whenever and
    wherever it is asked for the same round, so a random graph takes its seed from the round.

    size: number of ranks n. period: rounds until it repeats; None when it never does.
    Raises `TopologyError` for a function that does not take the round alone or returns something else, another size, or
    another graph when it is asked again, and for all that makes a single graph or matrix wrong. The rounds of a period,
    or the first 64, are looked at when it is made; later rounds are checked in form when they come.

    >>> def wave(round):
    ...     return nx.path_graph(4) if round < 1000 else nx.cycle_graph(4)
    >>> from_function(wave, size=4).turn(rank=0, round=1000).sends
    {1: 0.333..., 3: 0.333...}
    """
    if not callable(function):
        raise TopologyError(
            f"a {type(function).__name__} is no function of the round: a graph goes to topologies.from_networkx, a "
            "matrix to topologies.from_matrix"
        )
    complaint = misfit(function, 0, {})
    if complaint:
        raise TopologyError(
            f"{complaint}: it must take the round alone, and functools.partial fixes what else it takes"
        )
    topology = Function(function, size, period)
    # First, as the other laws mean nothing where every look finds another graph.
    for round in range(rounds_of(topology)):
        _check_pure(topology, round)
    validate(topology)
    return topology


def _check_pure(topology: Function, round: int) -> None:
    # Past what is remembered, which would hide that the function has changed its mind.
    first, again = topology.edges(round), topology.ask(round).edges(round)
    if not np.array_equal(_entries(first), _entries(again)):
        raise TopologyError(
            f"{topology!r}: the function returned another graph for round {round} when it was asked again: let it "
            "depend on the round only, and seed random graphs with it, as networkx.gnp_random_graph(n, p, seed=round)"
        )


def _entries(edges: Edges) -> Any:
    order = np.lexsort((edges.target, edges.source))
    return np.concatenate([edges.keep, edges.source[order], edges.target[order], edges.share[order]])


def _name(function: Callable[..., Any]) -> str:
    """A name that is the same in every process."""
    if isinstance(function, functools.partial):
        fixed = [*map(_told, function.args), *(f"{name}={_told(value)}" for name, value in function.keywords.items())]
        # Objects that do not say what they are say where they lie.
        return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{_name(function.func)}({', '.join(['…', *fixed])})")
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _told(value: object) -> str:
    # The order of a set of texts is another one in each process.
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    return repr(value)
