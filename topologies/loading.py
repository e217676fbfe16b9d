"""Topologies by name, by Python function and by file."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from topologies.catalogue import CATALOGUE
from topologies.checks import positive
from topologies.composition import __all__ as COMPOSITIONS
from topologies.custom import entry_points
from topologies.custom.calls import call, error_prefix, misfit
from topologies.custom.files import READERS, check_path, from_file, is_file
from topologies.custom.matrices import from_matrix, is_matrices
from topologies.custom.networkx_graphs import from_networkx, is_graphs
from topologies.errors import SpecError, TopologyError
from topologies.specs import combined
from topologies.topology import Topology
from topologies.validation import validate

RENAMED: Mapping[str, str] = MappingProxyType({"base": "base_graph"})
"""From the former name of a family to its name; the former one is read for one more release."""


def load(spec: str | os.PathLike[str], size: int, **options: Any) -> Topology:
    """The topology that a short text names, for `size` ranks.

    Args:
        spec: one of four kinds of text. "exponential", "ring", …: a family of this package. Another name: a family that
            another package declares as an entry point of the group `gossip.topologies`. "package.module:factory": a
            Python function, or a subclass of `Topology`, called as factory(size, **options). The factory returns a
            `Topology`, or a value that `from_networkx` or `from_matrix` takes. "path/to/graph.graphml": a file that
            `from_file` reads.
        size: number of ranks n, from 1.
        options: of the family, factory or file. Options may also stand in the text, after commas:
            "exponential,peers=2" or "circulant,hops=1,2,5".

    Raises:
        SpecError: the text names no graph; the message begins with the text.
        TopologyError: the graph is wrong or has not `size` ranks; the message begins with the text.

    >>> load("exponential", 8, peers=2), load("exponential,peers=2", 8)
    (Exponential(size=8, period=2), Exponential(size=8, period=2))
    """
    size = positive(size, "the number of ranks")
    if not isinstance(spec, (str, os.PathLike)):
        raise SpecError(
            f"load takes a name, a module:factory or a file, not a {type(spec).__name__}: "
            "a graph goes to topologies.from_networkx, a matrix to topologies.from_matrix, and a function of the round "
            "to topologies.from_function"
        )
    path = isinstance(spec, os.PathLike)
    spec = os.fspath(spec)
    if not path:
        name, options = combined(spec, options)
        spec = _current(name)
    if path or is_file(spec):
        topology = from_file(spec, **options)
    else:
        factory = _factory_of(spec)
        with error_prefix(spec):
            topology = (call if spec in CATALOGUE else _from_factory)(factory, size, options)
    if topology.size != size:
        raise TopologyError(
            f"{spec}: the graph has {topology.size} ranks, but the job has {size}: start "
            f"{topology.size} ranks, or give a graph with {size} nodes"
        )
    return topology


def check_spec(spec: str, **options: Any) -> None:
    """Check that a text and the names of its options lead to a graph on some number of ranks; no graph is made.

    Raises:
        SpecError: there is no such graph or option.

    >>> check_spec("ring,directed=True")
    >>> check_spec("rign")
    Traceback (most recent call last):
    ...
    topologies.errors.SpecError: there is no topology 'rign'; did you mean ring?; ...
    """
    name, options = combined(spec, options)
    spec = _current(name)
    if is_file(spec):
        check_path(spec, options)
        return
    factory = _factory_of(spec)
    with error_prefix(spec):
        complaint = misfit(factory, _Size(), options)
        if complaint:
            raise SpecError(complaint)


class _Size:
    """A number of ranks that is not known yet; it stands in error messages."""

    def __repr__(self) -> str:
        return "N"


def _current(name: str) -> str:
    """The present name of a family; a former one warns the caller of `load` or `check_spec`."""
    if name not in RENAMED:
        return name
    warnings.warn(
        f"the family {name!r} is now called {RENAMED[name]!r}, and the next release takes only that name",
        DeprecationWarning,
        stacklevel=3,
    )
    return RENAMED[name]


def _factory_of(spec: str) -> Callable[..., Any]:
    """The callable that a text without options names: a family, a declared family or a function of the user."""
    if ":" in spec:
        with error_prefix(spec):
            return _imported(spec)
    if spec in CATALOGUE:
        return CATALOGUE[spec]
    declared = entry_points.families()
    if spec not in declared:
        raise SpecError(_unknown(spec, [*CATALOGUE, *declared]))
    with error_prefix(spec):
        return declared[spec]()


def _from_factory(factory: Callable[..., Any], size: int, options: Mapping[str, Any]) -> Topology:
    """The validated topology that a function of the user makes."""
    culprit = "the factory"
    try:
        result = call(factory, size, options)
        if isinstance(result, Topology):
            culprit = f"the {type(result).__name__} that the factory returned"
            validate(result)
            return result
    except TopologyError:
        raise
    except (Exception, SystemExit) as error:
        raise TopologyError(f"{culprit} raised {type(error).__name__} for {size} ranks: {error}") from error
    if is_graphs(result):
        return from_networkx(result)
    if is_matrices(result):
        return from_matrix(result)
    advice = "let it return a topologies.Topology, a networkx graph, a weight matrix, or a list of graphs or matrices"
    if inspect.isfunction(result):
        advice = "a function of the round becomes a graph by topologies.from_function(function, size)"
    raise TopologyError(f"the factory returned a {type(result).__name__}: {advice}, one for each round")


def _imported(spec: str) -> Callable[..., Any]:
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
    except (Exception, SystemExit) as error:  # a script that parses arguments exits on import
        raise SpecError(f"the module {module_name} could not be imported: {type(error).__name__}: {error}") from error
    try:
        factory = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise SpecError(f"the module {module_name} has no {name}{_suggestion(name, dir(module))}") from None
    if not callable(factory):
        raise SpecError(
            f"{name} is a {type(factory).__name__}, not a function: write one that takes the number of "
            "ranks and returns the graph"
        )
    function: Callable[..., Any] = factory
    return function


def _unknown(spec: str, known: list[str]) -> str:
    hint = _suggestion(spec, known)
    if "," in spec:
        name = spec.partition(",")[0].strip()
        hint = f"; an option is written name=value after a comma, without blanks, as in {name},option=2"
    elif spec in COMPOSITIONS:
        hint = (
            f"; topologies.{spec} makes a graph of others in Python, and a function that returns it has a name here as "
            "module:function"
        )
    elif not hint and spec.endswith(".py"):
        hint = f"; a function in a Python file is given as {spec[: -len('.py')].replace(os.sep, '.')}:factory"
    elif not hint and os.path.exists(spec):
        hint = f"; a file of that name exists, but its ending is none of {' '.join(READERS)}"
    return (
        f"there is no topology {spec!r}{hint}; there are {', '.join(known)}, "
        "package.module:factory for your own, and files, such as graph.graphml"
    )


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
