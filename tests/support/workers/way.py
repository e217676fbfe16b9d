"""The way of one OSGP round: `python -m workers.way FOLDER TRANSPORT` notes the frames and files of a steady step.

Of the frames, those of `gossip` from `GossipOptimizer.step` to the send that the transport's library is asked for; of
the files, those in which any function of `gossip` ran during the whole step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

import gossip
import topologies
from gossip.optimizer import GossipOptimizer

ROOT = Path(gossip.__file__).parent
START = "optimizer.py", "step"
WARM = 4
"""Steps before the ones that are noted: connections and buffers are there."""

NOTED = 8
"""Steps that are noted. One in which a rank had to wait, on a busy machine, runs more files than a steady one."""


class Way:
    """Notes what runs while it is installed."""

    def __init__(self) -> None:
        self.frames: list[list[tuple[str, str, int]]] = []
        self.files: set[str] = set()

    def look(self, frame: FrameType, event: str, _: object) -> None:
        """A profile function: each call of ours."""
        if event == "call" and (file := _ours(frame)):
            self.files.add(file)

    def note_send(self) -> None:
        """The stack, from the optimizer's step on."""
        stack: list[tuple[str, str, int]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (not stack or stack[-1][:2] != START):
            if file := _ours(frame):
                stack.append((file, frame.f_code.co_name, frame.f_lineno))
            frame = frame.f_back
        if stack and stack[-1][:2] == START:
            self.frames.append(stack[::-1])


def _ours(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""


class Watched:
    """MPI's communicator, with a look at each send."""

    def __init__(self, comm: Any, way: Way) -> None:
        self._comm, self._way = comm, way

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Isend(self, *arguments: Any) -> Any:
        self._way.note_send()
        return self._comm.Isend(*arguments)


def watch_gloo(way: Way) -> Callable[..., Any]:
    """Look at each send of torch.distributed; the function as it was."""
    isend = dist.isend

    def watched(*arguments: Any, **options: Any) -> Any:
        way.note_send()
        return isend(*arguments, **options)

    dist.isend = watched
    return isend


def main(folder: str, transport: str) -> None:
    torch.set_num_threads(1)
    world, way = gossip.init(transport, timeout=60), Way()
    model = torch.nn.Linear(8, 8)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))
    noted = []
    for step in range(WARM + NOTED):
        optimizer.zero_grad()
        model(torch.ones(8)).sum().backward()
        world.barrier()  # every message of the last round has arrived, so nothing is waited for
        if step == WARM:
            if transport == "mpi":
                engine = world.base.backend.engine
                engine.comm = Watched(engine.comm, way)
            else:
                unwatched = watch_gloo(way)
            optimizer.register_step_pre_hook(lambda *_: sys.setprofile(way.look))
        way.frames.clear()
        way.files.clear()
        optimizer.step()
        sys.setprofile(None)
        if step >= WARM:
            noted.append({"frames": list(way.frames), "files": sorted(way.files)})
    if transport == "mpi":
        engine.comm = engine.comm._comm
    else:
        dist.isend = unwatched
    optimizer.settle()
    steady = min(noted, key=lambda step: len(step["files"]))
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(steady))
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
