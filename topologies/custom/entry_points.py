"""Families that other packages declare: entry points of the group `gossip.topologies`.

A package that says in its pyproject.toml

    [project.entry-points."gossip.topologies"]
    wheel = "my_package.graphs:wheel"

makes `topologies.load("wheel", size)` call `my_package.graphs.wheel(size)`, which returns the same types as a
module:factory. A family of this package hides a declared family of the same name, which is then reached as
module:factory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from topologies.catalogue import CATALOGUE
from topologies.errors import SpecError

GROUP = "gossip.topologies"


@dataclass(frozen=True)
class Declared:
    """One entry point; its module is imported at the first call.

    >>> Declared("wheel", "my_package.graphs:wheel", "my-package").spec
    'my_package.graphs:wheel'
    """

    name: str
    """The name that `topologies.load` takes, unless a family of this package hides it."""
    spec: str
    """The factory behind the name, as package.module:factory."""
    distribution: str
    """The package that declares it, by its installed name."""
    rivals: tuple[str, ...] = ()
    """Other packages that declare the same name."""

    def __call__(self) -> Callable[..., Any]:
        """The factory that the entry point names; raises `SpecError` with the package's name if there is none."""
        who = f"the package {self.distribution} declares {self.name} = {self.spec}"
        if self.rivals:
            raise SpecError(
                f"{who}, and {' and '.join(self.rivals)} declares the same name: uninstall all but one, or give the "
                "factory itself, as package.module:factory"
            )
        try:
            factory = metadata.EntryPoint(self.name, self.spec, GROUP).load()
        except Exception as error:  # the package's own code runs here
            raise SpecError(
                f"{who}, which could not be imported ({type(error).__name__}: {error}): update or uninstall it"
            ) from error
        if not callable(factory):
            raise SpecError(
                f"{who}, which is a {type(factory).__name__}, not a function of the number of ranks: update or "
                "uninstall it"
            )
        loaded: Callable[..., Any] = factory
        return loaded


def families() -> Mapping[str, Declared]:
    """The declared families that `topologies.load` finds, by name, in alphabetical order."""
    return {name: declared for name, declared in _declared().items() if name not in CATALOGUE}


def hidden() -> Mapping[str, Declared]:
    """The declared families that a family of this package hides, by name."""
    return {name: declared for name, declared in _declared().items() if name in CATALOGUE}


def _declared() -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        distribution = point.dist.name if point.dist else "(unknown)"
        first = found.get(point.name)
        if first is None:
            found[point.name] = Declared(point.name, point.value, distribution)
        elif (first.spec, first.distribution) != (point.value, distribution):
            rivals = (*first.rivals, distribution)
            found[point.name] = Declared(first.name, first.spec, first.distribution, rivals)
    return found
