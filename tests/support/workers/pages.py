"""Runs every Python block of the README and the pages on this rank: `mpirun -n 2 python -m workers.pages FOLDER`.

A block may use names that it does not make, such as `world` and `optimizer`: they are made anew for each block. A diff
counts with the lines that it adds. Files are written in FOLDER, the same on all ranks.
"""

from __future__ import annotations

import ast
import copy
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import gossip
import slowmo
import topologies

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "docs" / "description.md", *sorted((ROOT / "docs").glob("*/*.md"))]
GLOO = "inside-a-node.md"  # it uses the process group of torch.distributed, which gossip makes over Gloo


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


BATCHES = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))] * 4

MAKERS: dict[str, Callable[[Any], Any]] = {
    "graph": lambda get: topologies.exponential(get("world").size),
    "graph_of_hosts": lambda get: topologies.exponential(get("world").across.size),
    "model": lambda get: net().to(get("world").device),
    "sgd": lambda get: torch.optim.SGD(get("model").parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda get: torch.optim.AdamW(get("model").parameters()),
    "optimizer": lambda get: gossip.GossipOptimizer(
        get("sgd"), gossip.PushSum(get("world"), get("graph"), overlap=1), module=get("model")
    ),
    "state": lambda get: {
        "model": get("optimizer").mean_state_dict(get("model")),
        "optimizer": get("optimizer").portable_state_dict(),
    },
    "evaluate": lambda get: lambda model: model(torch.ones(4)).sum().item(),
    "scheduler": lambda get: torch.optim.lr_scheduler.StepLR(get("sgd"), 10),
    "loss": lambda get: lambda batch: torch.nn.functional.cross_entropy(get("model")(batch[0]), batch[1]),
}
CONSTANTS: dict[str, Any] = {
    "gossip": gossip, "slowmo": slowmo, "topologies": topologies, "torch": torch, "copy": copy, "functools": functools,
    "Net": net, "loss_of": torch.nn.functional.cross_entropy, "my_shard_of_the_data": BATCHES, "batches": BATCHES,
    "steps": 4, "step": 1, "seen": 0,
    "sync_every": 4, "fragment_sync_delay": 1, "fragment_update_alpha": 0.5,
}  # fmt: skip


def blocks() -> Iterator[tuple[str, str]]:
    """The name of each block, and its code; those that are a file of examples/ are run as one."""
    files = {path.read_text() for path in (ROOT / "examples").glob("*.py")}
    for page in PAGES:
        found = re.findall(r"```(python|diff)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for number, (language, code) in enumerate(found):
            if language == "diff":
                code = "\n".join(line[1:] for line in code.splitlines() if not line.startswith("-"))
            if code not in files:
                yield f"{page.name}, block {number}", code


def needed(code: str) -> list[str]:
    """Names that the code reads before it makes them."""
    made: set[str] = set()
    found: list[str] = []
    for statement in ast.parse(code).body:
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        stored = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
        # An assignment reads its right side first; a loop or a function may read what it has made.
        own = set() if isinstance(statement, ast.Assign) else stored
        found += [name.id for name in names if isinstance(name.ctx, ast.Load) and name.id not in made | own]
        made |= stored | {alias.asname or alias.name for node in ast.walk(statement) if isinstance(node, ast.Import)
                          for alias in node.names}  # fmt: skip
        if isinstance(statement, ast.FunctionDef):
            made.add(statement.name)
    return list(dict.fromkeys(found))


def namespace(code: str, world: gossip.World) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__", "world": world}

    def get(name: str) -> Any:
        if name not in names:
            names[name] = CONSTANTS[name] if name in CONSTANTS else MAKERS[name](get)
        return names[name]

    for name in needed(code):
        if name in CONSTANTS or name in MAKERS:
            get(name)
    return names


def main(folder: str) -> None:
    for number, (name, code) in enumerate(blocks()):
        print(f"runs {name}", flush=True)
        own = Path(folder, str(number))
        own.mkdir(exist_ok=True)
        os.chdir(own)
        os.environ["GOSSIP_RESUME"] = str(own) if "(None, world" in code else ""
        with gossip.init("gloo" if GLOO in name else "mpi", timeout=60) as world:
            exec(compile(code, name, "exec"), namespace(code, world))
            world.barrier()
    print("all blocks ran", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
