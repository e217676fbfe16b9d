"""Topologies by name, by Python function and by file."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx

from topologies.catalogue import CATALOGUE
from topologies.errors import SpecError, TopologyError
from topologies.networkx_graphs import from_networkx, is_graphs
from topologies.topology import Topology, positive
from topologies.validation import validate


def load(spec: str | os.PathLike[str], size: int, **options: Any) -> Topology:
    """The topology that a short text names, for `size` ranks.

    spec, one of
    - a family: "exponential", "ring", "complete", with its own options;
    - "package.module:factory": a Python function, called as factory(size, **options), that returns a `Topology` or what
      `from_networkx` takes;
    - "path/to/graph.graphml": a GraphML file with the nodes "0" … "n-1"; its options are those of `from_networkx`.

    Raises `SpecError` where the text leads to no graph and `TopologyError` where the graph is wrong or has not `size`
    ranks; the message begins with the text.

    >>> load("exponential", 8, peers=2)
    Exponential(size=8, period=2)
    """
    size = positive(size, "the number of ranks")
    if not isinstance(spec, (str, os.PathLike)):
        raise SpecError(
            f"load takes a name, a module:factory or a file, not a {type(spec).__name__}: "
            "a graph goes to topologies.from_networkx"
        )
    spec = os.fspath(spec)
    if is_file(spec):
        topology = load_file(spec, **options)
    elif ":" in spec:
        topology = _from_factory(spec, size, options)
    elif spec in CATALOGUE:
        with _named(spec):
            topology = _call(CATALOGUE[spec], size, options)
    else:
        raise SpecError(_unknown(spec))
    if topology.size != size:
        raise TopologyError(
            f"{spec}: the graph has {topology.size} ranks, but the job has {size}: start "
            f"{topology.size} ranks, or give a graph with {size} nodes"
        )
    return topology


def is_file(spec: str) -> bool:
    """Whether the text names a graph file."""
    return spec.lower().endswith(".graphml")


def load_file(path: str, **options: Any) -> Topology:
    """The topology of a GraphML file, of whatever size it has; raises like `load`."""
    with _named(path):
        try:
            graph = nx.read_graphml(path)
        except FileNotFoundError:
            raise SpecError(
                f"there is no such file, seen from {os.getcwd()}: give a path that holds on every host"
            ) from None
        except (OSError, ParseError, nx.NetworkXError, ValueError, KeyError) as error:
            raise SpecError(
                f"the file cannot be read as GraphML ({type(error).__name__}: {error}): "
                "networkx.write_graphml(graph, path) writes one"
            ) from error
        # GraphML has no integer labels.
        ranks = {label: int(label) for label in graph if label.isdecimal() and label == str(int(label))}
        topology: Topology = _call(from_networkx, nx.relabel_nodes(graph, ranks), options)
        return topology


def parse_options(texts: list[str]) -> dict[str, Any]:
    """The keyword options of texts such as "peers=2", values in Python's notation or else plain strings.

    >>> parse_options(["peers=2", "directed=True", "kind=small"])
    {'peers': 2, 'directed': True, 'kind': 'small'}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SpecError(f"the option {text!r} is not of the form name=value, as in peers=2")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Put where the graph comes from in front of what is wrong with it."""
    try:
        yield
    except TopologyError as error:
        kind = SpecError if isinstance(error, SpecError) else TopologyError
        raise kind(f"{source}: {error}") from error


def _call(function: Callable[..., Any], first: Any, options: Mapping[str, Any]) -> Any:
    """`function(first, **options)`; options that it does not take are refused with its signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function(first, **options)
    try:
        signature.bind(first, **options)
    except TypeError as error:
        plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        shown = signature.replace(parameters=plain, return_annotation=signature.empty)
        raise SpecError(
            f"{getattr(function, '__name__', function)}{shown} is called with {_kind(first)}"
            f"{''.join(f', {name}={value!r}' for name, value in options.items())}: {error}"
        ) from None
    return function(first, **options)


def _kind(first: Any) -> str:
    return "the graph" if is_graphs(first) else repr(first)


def _from_factory(spec: str, size: int, options: Mapping[str, Any]) -> Topology:
    with _named(spec):
        factory = _factory(spec)
        try:
            result = _call(factory, size, options)
        except TopologyError:
            raise
        except Exception as error:
            raise TopologyError(f"the factory raised {type(error).__name__} for {size} ranks: {error}") from error
        if is_graphs(result):
            return from_networkx(result)
        if not isinstance(result, Topology):
            raise TopologyError(
                f"the factory returned a {type(result).__name__}: let it return a topologies.Topology, "
                "a networkx graph, or a list of graphs, one for each round"
            )
        validate(result)
        return result


def _factory(spec: str) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise SpecError("a factory is given as package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise SpecError(
                f"there is no module {error.name}: start from the directory that holds it, or add that "
                "directory to PYTHONPATH on every host"
            ) from None
        raise SpecError(f"the module {module_name} could not be imported: {error}") from error
    except Exception as error:
        raise SpecError(f"the module {module_name} could not be imported: {type(error).__name__}: {error}") from error
    factory = getattr(module, name, None)
    if factory is None:
        raise SpecError(f"the module {module_name} has no {name}{_alike(name, dir(module))}")
    if not callable(factory):
        raise SpecError(
            f"{name} is a {type(factory).__name__}, not a function: write one that takes the number of "
            "ranks and returns the graph"
        )
    function: Callable[..., Any] = factory
    return function


def _unknown(spec: str) -> str:
    known = ", ".join(CATALOGUE)
    hint = _alike(spec, list(CATALOGUE))
    if not hint and os.path.exists(spec):
        hint = "; the file of that name would have to be GraphML, with the ending .graphml"
    return (
        f"there is no topology {spec!r}{hint}; there are {known}, "
        "package.module:factory for your own, and files that end in .graphml"
    )


def _alike(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
