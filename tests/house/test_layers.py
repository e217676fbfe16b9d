"""The layers of CONTRIBUTING.md hold, according to the imports in the sources."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each layer may import those before it.
LAYERS = ("topologies", "gossip", "slowmo", "bench")

# Inside topologies no module reaches a module after it in one of these chains. The rooms of gossip say in their
# __init__.py what they may import.
CHAINS = (
    ("errors", "arrays", "topology", "array_laws", "validation", "kinds", "composition", "families"),
    ("errors", "checks", "topology"),
    ("errors", "specs", "loading"),
    ("families", "catalogue", "custom", "loading", "analysis", "commands"),
)

CATALOGUES = ("topologies/families", "bench/train/studies", "tests/support/workers")
"""Folders of siblings, which may hold any number of files."""

DEPENDENCIES = {
    "topologies": {"numpy", "networkx"},
    "gossip": {"torch", "numpy", "networkx", "mpi4py"},
    "slowmo": {"torch", "numpy"},
}

# The library of an extra is imported in one place, and only when it is used, so that other code works without it.
OPTIONAL = {
    "topologies.commands.pictures": "matplotlib",
    "gossip.state.kernels": "triton",
    "gossip.integrations.lightning": "lightning",
}


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


def graph(package: str) -> nx.DiGraph:
    """The modules of a package, with an edge to each imported module."""
    found = nx.DiGraph()
    for name in SOURCES:
        if is_in(name, package):
            found.add_node(name)
            own = filter(None, map(target, IMPORTS[name]))
            found.add_edges_from((name, imported) for imported in own if is_in(imported, package) and imported != name)
    return found


ROOMS = {name for name, path in SOURCES.items() if path.name == "__init__.py" and name.startswith("gossip.")}


def room_of(name: str) -> str:
    """The folder of a module."""
    return name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]


def allowed(room: str) -> list[str]:
    """The modules and rooms that the docstring of a room lets it import; topologies are named by themselves."""
    docstring = ast.get_docstring(ast.parse(SOURCES[room].read_text())) or ""
    listed = re.search(r"May import: ([^.]*(?:\.\w[^.]*)*)\.", docstring)
    assert listed, f"the docstring of {room} says nothing of its imports"
    names = re.split(r", (?:and )?", listed.group(1))
    return [name if name in LAYERS else f"gossip.{name}" for name in names]


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


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_its_docstring_allows(room: str) -> None:
    """Folders inside a room belong to it."""
    places = [*allowed(room), room]
    strange = {
        f"{name} imports {imported}"
        for name in SOURCES
        if room_of(name) == room
        for imported in filter(None, map(target, IMPORTS[name]))
        if not any(is_in(imported, place) for place in places)
    }
    assert not strange


def test_a_folder_has_at_most_ten_files() -> None:
    counts = Counter(path.parent for path in [*SOURCES.values(), *(ROOT / "tests").rglob("*.py")])
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > 10}
    assert set(crowded) <= set(CATALOGUES), crowded


def test_no_file_is_longer_than_300_lines() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_chain_of_classes_is_deeper_than_two() -> None:
    """Below an abstract class; the classes of torch and of Python do not count."""
    nodes = {
        node.name: node
        for path in SOURCES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }

    def bases(name: str) -> list[str]:
        own = (ast.unparse(base).rpartition(".")[2] for base in nodes[name].bases)
        return [base for base in own if base in nodes and base != name]

    def depth(name: str) -> int:
        if "abstractmethod" in ast.unparse(nodes[name]):
            return 0
        return max((1 + depth(base) for base in bases(name)), default=0)

    assert {name: depth(name) for name in nodes if depth(name) > 2} == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_have_no_circles(layer: str) -> None:
    assert not list(nx.simple_cycles(graph(layer)))


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_no_module_reaches_a_later_room_of_its_chain(chain: tuple[str, ...]) -> None:
    inside = graph("topologies")
    rooms = [[name for name in inside if is_in(name, f"topologies.{each}")] for each in chain]
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
    needing = ("gossip.state.kernels", "gossip.integrations.")
    modules = sorted(
        name
        for name in SOURCES
        if is_in(name, layer) and not name.endswith("__main__") and not name.startswith(needing)
    )
    script = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    script += f"assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240, cwd=ROOT)


@pytest.mark.parametrize("module", ["errors", "launching.launchers", "launching.cores"])
def test_modules_that_read_the_environment_do_not_import_torch(module: str) -> None:
    assert not {imported for imported in IMPORTS[f"gossip.{module}"] if is_in(imported, "torch")}
