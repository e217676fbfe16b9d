"""Run tables of cases on this rank: `python -m workers.train FOLDER 8=5+2+1 mpi gloo mpi/graphs`.

`8=5+2+1` trains on all 8 ranks. Then the first 5, the next 2 and the last one train side by side, as worlds of their
own. Each run is a transport with the core of the table, or with a short training over each graph that ships, on all
ranks; one after another in the same processes. `mpi/far` and others speak as `workers.contract` says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossip
from workers.cases import CORE, over_every_graph, train
from workers.contract import speak


def main(folder: str, sizes: str, *runs: str) -> None:
    """Save every case's history as arrays named run/size/case/what."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for run in runs:
        transport, _, table = run.partition("/")
        with gossip.init(transport=transport, timeout=60) as everyone:
            how, table = ("", table) if table == "graphs" else (table, "")
            speak(everyone, how, chunk=40)
            assert everyone.transport == transport
            assert everyone.size == int(sizes.partition("=")[0])
            parts = [] if table else part_of(everyone, sizes.partition("=")[2])
            for world in [everyone, *parts]:
                for case in over_every_graph(world.size) if table else CORE:
                    # A group for each, since the channels of one world are numbered.
                    for name, values in train(case, world.group(range(world.size))).items():
                        results[f"{run}/{world.size}/{case.name}/{name}"] = values
    np.savez(Path(folder) / f"{everyone.rank}.npz", **results)


def part_of(world: gossip.World, parts: str) -> list[gossip.World]:
    """The part that this rank is in, where there are parts."""
    first = 0
    for size in map(int, filter(None, parts.split("+"))):
        if first <= world.rank < first + size:
            return [world.group(range(first, first + size))]
        first += size
    return []


if __name__ == "__main__":
    main(*sys.argv[1:])
