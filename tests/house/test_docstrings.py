"""The examples of docstrings run as written."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import networkx
import numpy
import pytest

import gossip
import slowmo
import topologies

NEEDS = {
    "gossip.state.kernels": "triton",
    "gossip.integrations.lightning": "lightning",
}
"""Modules that load only with another library."""

ABSENT = tuple(name for name, library in NEEDS.items() if not find_spec(library))
MODULES = sorted(
    module.name
    for package in (gossip, slowmo, topologies)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if module.name != "topologies.__main__" and not module.name.startswith(ABSENT)
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    names = {"gossip": gossip, "slowmo": slowmo, "topologies": topologies, "nx": networkx, "np": numpy}
    if name.startswith("topologies."):
        # Examples of graphs are short, so their names are those of `from topologies import *`.
        names |= {name: getattr(topologies, name) for name in topologies.__all__}
    outcome = doctest.testmod(module, globs={**names, **vars(module)}, optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0
