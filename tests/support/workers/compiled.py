"""`python -m workers.compiled FOLDER` on two ranks saves what SGP computes with a model that torch has compiled.

It lands when a step ends, and in the next forward pass.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossip
import topologies
from gossip.state.buckets import sections
from workers.forward import Run, model


def compiled(run: Run, way: str) -> None:
    """Compile the whole model, each layer, or the whole one once reads have been noted."""
    if way == "first steps":
        run.steps(2)
    if way == "layer":
        for layer in run.net:
            layer.compile(backend="eager")
    else:
        run.net.compile(backend="eager")


def main(folder: str) -> None:
    """Each way, with each landing."""
    torch.set_num_threads(1)
    sections.LEAST = 1024
    results: dict[str, Any] = {}
    with gossip.init("mpi", timeout=100) as world:
        rank = world.rank
        for way in ("whole", "layer", "first steps"):
            for landing in ("due", "forward"):
                torch.compiler.reset()
                run = Run(world, landing, model("plain"), topologies.exponential(world.size))
                compiled(run, way)
                found = run.steps(5).found()
                results[f"{landing}/{way}"] = torch.cat([each.double().reshape(-1) for each in found]).numpy()
    np.savez(Path(folder) / f"{rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
