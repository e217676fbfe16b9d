"""Who may import whom, read from the sources: the layers of CONTRIBUTING.md hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each layer may import those before it.
LAYERS = ("topologies", "gossip", "slowmo", "bench")

# Inside a layer nothing reaches what stands after it in one of these chains.
CHAINS = (
    ("topologies", ("edges", "topology", "validation", "circulants", "composition", "families", "catalogue")),
    ("topologies", ("catalogue", "loading", "analysis", "commands")),
    ("gossip", ("slot", "board", "watch", "transports", "world")),
    ("gossip", ("errors", "transports", "ending", "world", "averaging")),
    ("gossip", ("errors", "masters", "buckets", "rounded", "parameters", "optimizer")),
    ("gossip", ("rounded", "writes", "optimizer")),
    ("gossip", ("companions", "mass", "exact", "optimizer")),
    ("gossip", ("buckets", "mass", "averaging", "composites", "push_sum", "optimizer", "launch")),
    ("gossip", ("mixing", "mass", "averaging", "exact", "optimizer")),
    ("gossip", ("averaging", "messages", "rounds", "early", "letters", "asynchronous", "push_sum")),
    ("gossip", ("optimizer", "checkpoint")),
    ("gossip", ("errors", "launchers", "children", "transports", "world")),
    ("gossip", ("say", "watch", "transports", "ending")),
    ("gossip", ("transports", "stats", "mass")),
    ("gossip", ("timeline", "stats", "mass")),
    ("gossip", ("averaging", "deaths", "refusals", "optimizer")),
    ("gossip", ("wire", "kernels", "mixing", "mass")),
)

DEPENDENCIES = {
    "topologies": {"numpy", "networkx"},
    "gossip": {"torch", "numpy", "networkx", "mpi4py"},
    "slowmo": {"torch", "numpy"},
}

# What an extra brings is reached from one place, and only when it is used: the rest works without.
OPTIONAL = {"topologies.pictures": "matplotlib", "gossip.kernels": "triton"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))}


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every name that a source imports, wherever in it: a module, or a name out of one, as far as it is written."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
            yield "torch.distributed"  # within reach of `import torch` alone


IMPORTS = {name: set(imports(path.read_text(), name, path.name == "__init__.py")) for name, path in SOURCES.items()}


def target(name: str) -> str | None:
    """The module of ours that an imported name stands for or comes from."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    return name or None


def graph(package: str) -> nx.DiGraph:
    """The modules of a package, an edge to each that is imported; a folder counts as one module."""
    found = nx.DiGraph()
    for name in SOURCES:
        if not name.startswith(f"{package}."):
            continue
        unit = name.split(".")[1]
        found.add_node(unit)
        for imported in filter(None, map(target, IMPORTS[name])):
            if imported.startswith(f"{package}.") and imported.split(".")[1] != unit:
                found.add_edge(unit, imported.split(".")[1])
    return found


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a.b as c
from d import e
from . import near
from .near import thing
from ..world import World
def f():
    from mpi4py import MPI
    import torch
    torch.distributed.barrier()
if TYPE_CHECKING:
    import hidden
"""
    assert set(imports(source, "gossip.transports.mpi", is_package=False)) == {
        "a.b",
        "d.e",
        "gossip.transports.near",
        "gossip.transports.near.thing",
        "gossip.world.World",
        "mpi4py.MPI",
        "torch",
        "torch.distributed",
        "hidden",
    }
    assert set(imports("from .world import World", "gossip", is_package=True)) == {"gossip.world.World"}


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_points_back(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    back = {
        f"{name} imports {imported}"
        for name in SOURCES
        if is_in(name, layer)
        for imported in IMPORTS[name]
        if any(is_in(imported, later) for later in above)
    }
    assert not back


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_no_module_imports_itself_by_way_of_others(layer: str) -> None:
    assert not list(nx.simple_cycles(graph(layer)))


@pytest.mark.parametrize(("layer", "chain"), CHAINS, ids=lambda part: part if isinstance(part, str) else "-".join(part))
def test_the_chains_inside_a_layer(layer: str, chain: tuple[str, ...]) -> None:
    inside = graph(layer)
    assert set(chain) <= set(inside), "a module was renamed: name it here and in CONTRIBUTING.md"
    back = {
        f"{earlier} reaches {later}"
        for place, earlier in enumerate(chain)
        for later in chain[place + 1 :]
        if nx.has_path(inside, earlier, later)
    }
    assert not back


@pytest.mark.parametrize("library", ["torch.distributed", "mpi4py"])
def test_the_network_is_reached_from_transports_and_world_only(library: str) -> None:
    users = {
        name
        for name in SOURCES
        if not is_in(name, "bench") and any(is_in(imported, library) for imported in IMPORTS[name])
    }
    assert users, "nothing is read"
    assert {name for name in users if not is_in(name, "gossip.transports") and name != "gossip.world"} == set()


@pytest.mark.parametrize("layer", DEPENDENCIES)
def test_a_layer_imports_only_what_it_depends_on(layer: str) -> None:
    known = DEPENDENCIES[layer] | set(LAYERS) | set(sys.stdlib_module_names)
    strange = {
        f"{name} imports {imported}"
        for name in SOURCES
        if is_in(name, layer)
        for imported in IMPORTS[name]
        if imported.split(".")[0] not in known | {library for place, library in OPTIONAL.items() if is_in(name, place)}
    }
    assert not strange


@pytest.mark.parametrize(("place", "library"), OPTIONAL.items())
def test_what_an_extra_brings_is_not_needed_to_load_a_layer(place: str, library: str) -> None:
    layer = place.partition(".")[0]
    modules = sorted(name for name in SOURCES if is_in(name, layer) and not name.endswith(("__main__", ".kernels")))
    script = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    script += f"assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("module", ["errors", "launchers", "cores", "labels"])
def test_what_reads_the_surroundings_does_so_without_torch(module: str) -> None:
    assert not {imported for imported in IMPORTS[f"gossip.{module}"] if is_in(imported, "torch")}
