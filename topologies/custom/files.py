"""Topologies from files: graphs, edge lists, adjacency lists and matrices, distinguished by their endings."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import networkx as nx
import numpy as np

from topologies.checks import flag
from topologies.custom.calls import error_prefix
from topologies.custom.matrices import from_matrix
from topologies.custom.networkx_graphs import from_networkx
from topologies.errors import SpecError, TopologyError
from topologies.topology import Topology


def from_file(path: str | os.PathLike[str], **options: Any) -> Topology:
    """The topology in a file; its ending determines the format, and its content the size.

        .graphml .gml .gexf     a graph; the file says whether it is directed; option weight
        .edgelist .edges .txt   an edge a line: "u v", "u v share" or "u v {'weight': share}"; options weight, directed
        .adjlist                a rank a line, and then the ranks that it sends to: "u v w"; option directed
        .npy .csv               a weight matrix, (n, n), or L of them, (L, n, n), in .csv one below the other
        .npz                    weight matrices, one a round, in the order in which they were saved

    In lists "#" begins a comment. Labels that are written as whole numbers are the ranks.

    Args:
        path: the file.
        options: weight, as in `from_networkx`; directed, True (the default) for "u sends to v", False for edges that go
            both ways.

    Raises:
        SpecError: the file cannot be read, or its format does not have an option; the message begins with the path.
        TopologyError: the graph is wrong; the message begins with the path.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "cycle.edges")
    ...     _ = path.write_text("0 1 0.25 # rank 0 gives rank 1 a quarter\\n1 2 0.5\\n2 0 0.5\\n")
    ...     from_file(path).turn(rank=0, round=0)
    Turn(keep=0.75, sends={1: 0.25}, receives={2: 0.5})
    """
    if not isinstance(path, (str, os.PathLike)):
        raise SpecError(f"from_file takes a path, not a {type(path).__name__}")
    path = os.fspath(path)
    check_path(path, options)
    with error_prefix(path):
        if "directed" in options:
            options["directed"] = flag(options["directed"], "the option directed of a file")
        return READERS[os.path.splitext(path)[1].lower()](path, **options)


def check_path(path: str, options: Mapping[str, Any]) -> None:
    """Check that the file exists and that its format has these options; raises `SpecError` with the path."""
    with error_prefix(path):
        ending = os.path.splitext(path)[1].lower()
        if ending not in READERS:
            raise SpecError(
                f"the ending of a file determines its format, and {ending or 'none'!r} is not one of "
                f"{' '.join(READERS)}"
            )
        taken = list(inspect.signature(READERS[ending]).parameters)[1:]
        for option, value in options.items():
            if option not in taken:
                some = f"options {' and '.join(taken)}" if taken else "no options"
                raise SpecError(f"a file that ends in {ending} has {some}, and was given {option}={value!r}")
        if not os.path.exists(path):
            raise SpecError(f"there is no such file, seen from {os.getcwd()}: give a path that holds on every host")


def is_file(spec: str) -> bool:
    """Whether a text ends like a file that `from_file` reads."""
    return os.path.splitext(spec)[1].lower() in READERS


def _graphml(path: str, weight: str | None = "weight") -> Topology:
    with _reading("GraphML", "networkx.write_graphml(graph, path) writes one"):
        graph = nx.read_graphml(path)
    return from_networkx(_ranked(graph), weight)


def _gml(path: str, weight: str | None = "weight") -> Topology:
    with _reading("GML", "networkx.write_gml(graph, path) writes one"):
        graph = nx.read_gml(path, label="id")
        # If nodes have labels, these are their names, and ids only count them.
        if nx.get_node_attributes(graph, "label"):
            graph = nx.read_gml(path)
    return from_networkx(_ranked(graph), weight)


def _gexf(path: str, weight: str | None = "weight") -> Topology:
    with _reading("GEXF", "networkx.write_gexf(graph, path) writes one"):
        graph = nx.read_gexf(path)
    return from_networkx(_ranked(graph), weight)


def _edge_list(path: str, weight: str | None = "weight", directed: bool = True) -> Topology:
    with _reading("an edge list", EDGE):
        lines = _lines(path)
        for number, line in lines:
            if len(line.split()) < 2:
                raise SpecError(f"line {number} is {line!r}, and {EDGE}")
            for label in line.split()[:2]:
                if not _whole(label) and _decimal(label):
                    raise SpecError(
                        f"line {number} is {line!r}, and {label} is no rank: {EDGE}; a matrix goes into a .csv or .npy "
                        "file"
                    )
        data = True if any("{" in line for _, line in lines) else ((weight or "weight", float),)
        parse = functools.partial(nx.parse_edgelist, create_using=nx.DiGraph if directed else nx.Graph, data=data)
        graph = _parsed(lines, parse, EDGE)
    if graph.number_of_edges() < len(lines):
        _check_repeats(lines, directed)
    return _listed(graph, weight, directed)


def _adjacency_list(path: str, directed: bool = True) -> Topology:
    with _reading("an adjacency list", ADJACENCY):
        parse = functools.partial(nx.parse_adjlist, create_using=nx.DiGraph if directed else nx.Graph)
        graph = _parsed(_lines(path), parse, ADJACENCY)
    return _listed(graph, None, directed)


def _npy(path: str) -> Topology:
    with _reading("a numpy array", "numpy.save(path, matrix) writes one"):
        array = np.load(path, allow_pickle=False)
    return from_matrix(array)


def _npz(path: str) -> Topology:
    with _reading("numpy arrays", "numpy.savez(path, first, second) writes them"), np.load(path) as archive:
        if {"format", "shape", "data"} <= set(archive.files):
            raise SpecError(
                "the file holds a scipy sparse matrix: topologies.from_matrix(scipy.sparse.load_npz(path)) takes it"
            )
        arrays = [archive[name] for name in archive.files]
    return from_matrix(arrays[0] if len(arrays) == 1 else arrays)


def _csv(path: str) -> Topology:
    rows: list[list[float]] = []
    with _reading("comma-separated numbers", ROW):
        lines = _lines(path)
        for number, line in lines:
            try:
                rows.append([float(cell) for cell in line.split(",")])
            except ValueError as error:
                raise SpecError(f"line {number} cannot be read ({error}): {ROW}") from None
            if len(rows[-1]) != len(rows[0]):
                raise SpecError(
                    f"line {number} has {len(rows[-1])} numbers and line {lines[0][0]} has {len(rows[0])}: {ROW}"
                )
    size = len(rows[0])
    if len(rows) % size:
        raise TopologyError(
            f"the file has {len(rows)} rows of {size} numbers: a matrix of {size} ranks has {size} rows, and several "
            "stand one below the other"
        )
    return from_matrix(np.array(rows).reshape(-1, size, size))


READERS: Mapping[str, Callable[..., Topology]] = MappingProxyType(
    {
        ".graphml": _graphml,
        ".gml": _gml,
        ".gexf": _gexf,
        ".edgelist": _edge_list,
        ".edges": _edge_list,
        ".txt": _edge_list,
        ".adjlist": _adjacency_list,
        ".npy": _npy,
        ".npz": _npz,
        ".csv": _csv,
    }
)

EDGE = "an edge is written u v, u v share or u v {'weight': share}, separated by blanks"
ADJACENCY = "a line holds a rank and then the ranks that it sends to, separated by blanks"
ROW = "a line holds one row of the matrix, numbers separated by commas"


LONGEST = 20
"""No rank has so many digits."""


@contextmanager
def _reading(kind: str, advice: str) -> Iterator[None]:
    """Turn any error of a reader into the error that the file is not of its kind."""
    try:
        yield
    except TopologyError:
        raise
    except Exception as error:
        raise SpecError(f"the file cannot be read as {kind} ({type(error).__name__}: {error}): {advice}") from error


def _lines(path: str) -> list[tuple[int, str]]:
    """The lines that are not empty or comments, with their numbers from 1."""
    with open(path, encoding="utf-8-sig") as file:
        texts = [line.partition("#")[0].strip() for line in file]
    lines = [(number, text) for number, text in enumerate(texts, start=1) if text]
    if not lines:
        raise SpecError("the file is empty, but for comments")
    return lines


def _parsed(lines: list[tuple[int, str]], parse: Callable[[list[str]], Any], how: str) -> Any:
    """The graph that `parse` makes of all lines; an error names the first line that cannot be read."""
    try:
        return parse([line for _, line in lines])
    except Exception:
        for number, line in lines:
            try:
                parse([line])
            except Exception as error:
                raise SpecError(f"line {number} is {line!r}, which cannot be read ({error}): {how}") from error
        raise


def _check_repeats(lines: list[tuple[int, str]], directed: bool) -> None:
    seen: dict[tuple[str, ...], tuple[int, str]] = {}
    for number, line in lines:
        u, v, *share = line.split(maxsplit=2)
        ends = (u, v) if directed else tuple(sorted((u, v)))
        first, first_share = seen.setdefault(ends, (number, "".join(share)))
        if first_share != "".join(share):
            raise SpecError(
                f"line {number} gives the edge {u} {v} another share than line {first} does: leave one of them out"
            )


def _listed(graph: Any, weight: str | None, directed: bool) -> Topology:
    try:
        return from_networkx(_ranked(graph), weight)
    except TopologyError as error:
        if directed and nx.is_weakly_connected(graph) and not nx.is_strongly_connected(graph):
            raise TopologyError(
                f"{error}; u v was read as an edge from u to v only, so pass directed=False if edges go both ways"
            ) from error
        raise


def _ranked(graph: Any) -> Any:
    """The graph with integer labels in place of texts of whole numbers, because most formats store labels as text."""
    return nx.relabel_nodes(graph, {label: int(label) for label in graph if isinstance(label, str) and _whole(label)})


def _whole(label: str) -> bool:
    # As Python writes the number, so that no two labels become one. A label too long for int() is no rank.
    return label.isdecimal() and len(label) < LONGEST and label == str(int(label))


def _decimal(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
