"""The layers of CONTRIBUTING.md hold, according to the imports in the sources."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each layer may import those before it.
LAYERS = ("topologies", "gossip", "slowmo", "bench")

# Inside a layer no module reaches a module after it in one of these chains.
CHAINS = (
    ("topologies", ("errors", "arrays", "topology", "array_laws", "validation", "kinds", "composition", "families")),
    ("topologies", ("errors", "checks", "topology")),
    ("topologies", ("errors", "specs", "loading")),
    ("topologies", ("families", "catalogue", "custom", "loading", "analysis", "commands")),
    ("gossip", ("observe.slot", "observe.board", "observe.signals", "transports", "world")),
    ("gossip", ("errors", "transports", "observe.ending", "world", "averagers.base")),
    ("gossip", ("errors", "state.buckets", "state.mass", "averagers.base", "training.parameters", "optimizer")),
    ("gossip", ("state.mass", "averagers.exact", "optimizer")),
    ("gossip", ("averagers.base", "averagers.composition", "averagers.push_sum", "optimizer", "launch")),
    ("gossip", ("averagers.exchange", "averagers.landing.due", "averagers.landing.early", "averagers.push_sum")),
    ("gossip", ("averagers.landing.letters", "averagers.landing.asynchronous", "averagers.push_sum")),
    ("gossip", ("optimizer", "checkpoint")),
    ("gossip", ("errors", "launching", "transports", "world")),
    ("gossip", ("transports", "observe.stats", "state.mass")),
    ("gossip", ("observe.timeline", "observe.stats", "state.mass")),
    ("gossip", ("averagers.base", "recovery.deaths", "training.checks.refusals", "optimizer")),
    ("gossip", ("state.codecs", "state.kernels", "state.merging", "state.mass")),
)

DEPENDENCIES = {
    "topologies": {"numpy", "networkx"},
    "gossip": {"torch", "numpy", "networkx", "mpi4py"},
    "slowmo": {"torch", "numpy"},
}

# The library of an extra is imported in one place, and only when it is used, so that other code works without it.
OPTIONAL = {"topologies.commands.pictures": "matplotlib", "gossip.state.kernels": "triton"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))}


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every name that a source imports, at any place in it: a module, or a name of a module."""
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
    """The module of this project that an imported name is or belongs to."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    return name or None


def unit(name: str) -> str:
<<<<<<< HEAD
    """The module, or the room that counts as one module."""
    if name == "gossip.transports.contract":  # is above worlds
        return "gossip.contract"
=======
    """The module, or the room that counts as one."""
>>>>>>> 7035849 (Ranks of a communicator are read from its members; documents name the new files)
    return "gossip.transports" if is_in(name, "gossip.transports") or name == "gossip.recovery.survival" else name


def graph(package: str) -> nx.DiGraph:
    """The modules of a package, with an edge to each imported module."""
    found = nx.DiGraph()
    for name in SOURCES:
        if not name.startswith(f"{package}."):
            continue
        found.add_node(unit(name))
        for imported in filter(None, map(target, IMPORTS[name])):
            if imported.startswith(f"{package}.") and unit(imported) != unit(name):
                found.add_edge(unit(name), unit(imported))
    return found


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_every_kind_of_import_is_read() -> None:
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
def test_no_layer_imports_a_later_one(layer: str) -> None:
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
def test_imports_have_no_circles(layer: str) -> None:
    assert not list(nx.simple_cycles(graph(layer)))


@pytest.mark.parametrize(("layer", "chain"), CHAINS, ids=lambda part: part if isinstance(part, str) else "-".join(part))
def test_no_module_reaches_a_later_room_of_its_chain(layer: str, chain: tuple[str, ...]) -> None:
    inside = graph(layer)
    rooms = [[name for name in inside if is_in(name, f"{layer}.{each}")] for each in chain]
    assert all(rooms), "a module was renamed: name it here and in CONTRIBUTING.md"
    back = {
        f"{earlier} reaches {later}"
        for place, room in enumerate(rooms)
        for earlier in room
        for later in itertools.chain.from_iterable(rooms[place + 1 :])
        if nx.has_path(inside, earlier, later)
    }
    assert not back


@pytest.mark.parametrize("library", ["torch.distributed", "mpi4py"])
def test_the_network_is_reached_from_transports_only(library: str) -> None:
    users = {
        name
        for name in SOURCES
        if not is_in(name, "bench") and any(is_in(imported, library) for imported in IMPORTS[name])
    }
    assert users, "nothing is read"
    assert {name for name in users if not is_in(name, "gossip.transports")} == set()


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
def test_a_layer_loads_without_the_library_of_an_extra(place: str, library: str) -> None:
    layer = place.partition(".")[0]
    modules = sorted(name for name in SOURCES if is_in(name, layer) and not name.endswith(("__main__", ".kernels")))
    script = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    script += f"assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("module", ["errors", "launching.launchers", "launching.cores", "launching.labels"])
def test_modules_that_read_the_environment_do_not_import_torch(module: str) -> None:
    assert not {imported for imported in IMPORTS[f"gossip.{module}"] if is_in(imported, "torch")}
