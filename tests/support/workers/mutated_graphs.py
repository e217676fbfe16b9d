"""Graph files with something altered, each loaded: `python -m workers.mutated_graphs FOLDER COUNT SEED` counts them.

A file that gets the interpreter to crash or to hang, or code to run, ends this process with a code of its own.
"""

from __future__ import annotations

import pickle
import random
import sys
import warnings
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np

import topologies
from topologies import SpecError, TopologyError
from topologies.custom.files import READERS
from workers.mutated import RAN, mutate


class Exits:
    """A pickle can hold an object like this one, which runs when it is read."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return sys.exit, (RAN,)


def sound(folder: Path) -> list[Path]:
    """A graph in every format that is read."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = nx.DiGraph([(i, (i + hop) % 6, {"weight": 0.25}) for i in range(6) for hop in (1, 2)])
    shares = topologies.from_networkx(graph).matrix(0)
    nx.write_graphml(graph, folder / "graph.graphml")
    nx.write_gml(graph, folder / "graph.gml")
    nx.write_gexf(graph, folder / "graph.gexf")
    for ending in ("edgelist", "edges", "txt"):
        nx.write_edgelist(graph, folder / f"graph.{ending}", data=ending != "txt")
    nx.write_adjlist(graph, folder / "graph.adjlist")
    np.save(folder / "graph.npy", np.stack([shares, shares.T]))
    np.savez(folder / "graph.npz", first=shares, second=shares.T)
    np.savetxt(folder / "graph.csv", shares, delimiter=",")
    paths = sorted(folder.iterdir())
    assert {path.suffix for path in paths} == set(READERS)
    return paths


def main(given: str, count: str, seed: str) -> None:
    """Alter, load; where it loads, it keeps the laws of a topology."""
    warnings.simplefilter("ignore")
    draw, paths = random.Random(seed), sound(Path(given) / "sound")
    counts: Counter[tuple[str, str]] = Counter()
    for _ in range(int(count)):
        path, other = draw.choice(paths), draw.choice(paths)
        kind, data = mutate(draw, path.read_bytes(), other.read_bytes())
        if kind == "a pickle" and path.suffix == ".npy":
            array = np.empty(1, dtype=object)
            array[0] = Exits()
            data = b"\x93NUMPY\x01\x00" + _header() + pickle.dumps(array)
        altered = Path(given) / path.name
        altered.write_bytes(data)
        said, matrix = "", np.eye(6)
        try:
            matrix = topologies.load(str(altered), 6).matrix(0)
        except (SpecError, TopologyError) as error:
            said = str(error)
        assert not said or str(altered) in said, f"{kind}: an error that does not say of which file: {said}"
        assert matrix.shape == (6, 6), kind
        assert np.allclose(matrix.sum(axis=0), 1), kind
        counts[path.suffix, "refused" if said else "loaded"] += 1
    for (ending, said), times in sorted(counts.items()):
        print(f"{ending}, {said}: {times}")


def _header() -> bytes:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return len(text).to_bytes(2, "little") + text


if __name__ == "__main__":
    main(*sys.argv[1:])
