"""A topology from a function of the round."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np

from topologies.arrays.edges import Edges
from topologies.checks import check_rank
from topologies.custom.calls import misfit
from topologies.custom.matrices import is_matrices, matrix_edges
from topologies.custom.networkx_graphs import graph_edges
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.topology import Topology, Turn
from topologies.validation import rounds_of, validate

RECENT_ROUNDS = 8
"""The number of rounds without a period that are remembered; ranks that are threads are a few rounds apart."""

PERIODIC_ROUNDS = 64
"""The largest number of rounds of a period that are remembered."""

# One function is called at a time. Ranks may be threads, and a function may seed the global random generator with the
# round: it is pure only while no other function does so at the same time.
_CALLING = threading.RLock()


class Function(Topology):
    """The schedule that `from_function` returns."""

    def __init__(self, function: Callable[[int], Any], size: int, period: int | None) -> None:
        """`function` takes the round, from 0 to period - 1 if there is a period."""
        super().__init__(size, period)
        self._function = function
        self._remembered = min(self.period or RECENT_ROUNDS, PERIODIC_ROUNDS)
        self._recent: dict[int, tuple[int, Topology]] = {}

    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        return self._round(round).turn(rank, round)

    def edges(self, round: int) -> Edges:
        return self._round(round).edges(round)

    def call(self, round: int) -> Topology:
        """The topology of a new call of the function, for `round`."""
        what = f"the function {_name(self._function)}"
        try:
            with _CALLING:
                result = self._function(round)
        except TopologyError as error:
            raise TopologyError(f"{what}, in round {round}: {error}") from error
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
                "weight matrix, or a topologies.Topology, whose round of that number is taken"
            )
        if size != self.size:
            raise TopologyError(
                f"{what} returned a graph of {size} ranks for round {round}, but the size of the topology is "
                f"{self.size}: return the same ranks in every round, idle ones too"
            )
        return made

    def _round(self, round: int) -> Topology:
        phase = round if self.period is None else round % self.period
        # An entry is replaced as a whole, so threads may share it.
        known, topology = self._recent.get(phase % self._remembered, (-1, None))
        if known != phase or topology is None:
            topology = self.call(phase)
            self._recent[phase % self._remembered] = phase, topology
        return topology

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the remembered rounds."""
        return {**self.__dict__, "_recent": {}}

    def __repr__(self) -> str:
        """With the function's name, because two functions may differ in late rounds only."""
        return f"{type(self).__name__}({_name(self._function)}, size={self.size}, period={self.period})"


def from_function(function: Callable[[int], Any], size: int, period: int | None = None) -> Function:
    """A topology whose round t is `function(t)`: a networkx graph, a weight matrix, or a `Topology`.

    A graph is read as in `from_networkx`, a matrix as in `from_matrix`, and of a topology round t counts:

        P(t) = the matrix of function(t), of function(t mod period) if there is a period

    The last 8 rounds are remembered, up to 64 of a period. Any other round costs a call of the function, on every rank.
    The function must return the same graph for the same round in every call and process, so a random graph takes its
    seed from the round.

    The rounds of a period, or the first 64, are validated at construction. Later rounds are checked in form when they
    are computed.

    Args:
        function: takes the round, from 0.
        size: number of ranks n, from 1.
        period: rounds until it repeats; None if it never does.

    Raises:
        TopologyError: the function takes other arguments, returns another type or size, or another graph at a second
            call; or one of its graphs is wrong.

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
        raise TopologyError(f"{complaint}: it must take the round only, and functools.partial fixes other arguments")
    topology = Function(function, size, period)
    # First, because the other laws mean nothing if every call returns another graph.
    for round in range(rounds_of(topology)):
        _check_pure(topology, round)
    validate(topology)
    return topology


def _check_pure(topology: Function, round: int) -> None:
    # A new call, because the remembered round would hide a change.
    first, again = topology.edges(round), topology.call(round).edges(round)
    if not np.array_equal(_entries(first), _entries(again)):
        raise TopologyError(
            f"{topology!r}: the function returned another graph for round {round} at a second call: let it depend on "
            "the round only, and seed random graphs with it, as networkx.gnp_random_graph(n, p, seed=round)"
        )


def _entries(edges: Edges) -> Any:
    order = np.lexsort((edges.target, edges.source))
    return np.concatenate([edges.keep, edges.source[order], edges.target[order], edges.share[order]])


def _name(function: Callable[..., Any]) -> str:
    """A name that is the same in every process."""
    if isinstance(function, functools.partial):
        fixed = [
            *map(_text, function.args),
            *(f"{name}={_text(value)}" for name, value in function.keywords.items()),
        ]
        # The default text of an object holds its address, which differs between processes.
        return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{_name(function.func)}({', '.join(['…', *fixed])})")
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _text(value: object) -> str:
    # The order of a set of texts differs between processes.
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    return repr(value)
