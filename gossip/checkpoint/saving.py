"""`save`: every rank writes its shard, and the manifest is written once all shards are on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from ..errors import Disagreement, UsageError
from ..optimizer import GossipOptimizer
from ..state.buckets.bucket import Slot
from ..state.buckets.masters import origin
from ..training.agreement import difference
from ..training.wrapper import Wrapper
from ..untraced import untraced
from ..world import World
from . import files
from .files import FORMAT, Manifest, Shard
from .plain import Memo, plain, random_states
from .together import check_world_and_model, folder_of, together


@untraced
def save(
    folder: str | os.PathLike[str] | None,
    world: World,
    step: int,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    **more: Any,
) -> None:
    """Write a checkpoint. Every rank calls this between the same two steps; messages in flight stay in flight.

    When it returns the checkpoint is on disk, and the two newest are kept. If a rank dies meanwhile, the checkpoint
    before is whole. Ranks wait for the slowest disk, at most until the world's deadline.

    Args:
        folder: shared by all hosts, or on each host's own disk; made if missing. None uses the folder of `--resume`.
        world: all ranks of the job; dead ranks are left out.
        step: the number of steps made. It names the checkpoint, and must not be below that of an existing one.
        model: a module that holds every parameter of `optimizer`, alone or with other modules in `more`.
        optimizer: a GossipOptimizer, or a SlowMo around one.
        more: objects with state_dict(), such as a scheduler, a scaler, another optimizer or the module that it trains.
            Or plain values, such as the position in the data: numbers, text, plain tensors, and lists, tuples and
            dictionaries of them.

    Raises:
        UsageError: an argument cannot be saved.
        Disagreement: ranks save different steps, or into different folders.
        CheckpointError: a rank could not write its shard; the sentence says why. Older checkpoints are whole.

    >>> import gossip, tempfile, torch
    >>> world, model = gossip.init(), torch.nn.Linear(4, 2)
    >>> optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder, world, 100, model=model, optimizer=optimizer, position={"epoch": 2, "batch": 17})
    ...     print(gossip.checkpoint.load(folder, world, model=model, optimizer=optimizer))
    Saved(step=100, size=1, more={'position': {'epoch': 2, 'batch': 17}})
    """
    check_world_and_model(world, model)
    home = folder_of(folder)
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise UsageError(f"step is {step!r}, but it is the number of steps made: a whole number from 0 up")
    things = {"model": model, "optimizer": optimizer, **more}
    with world.base.board.calling("gossip.checkpoint.save(...)"):
        while not _save(home, world.survivors, step, things):
            pass  # a rank has died meanwhile, and the survivors save again


def _save(home: Path, world: World, step: int, things: dict[str, Any]) -> bool:
    """Save once; False if a rank has died meanwhile."""
    verdict = difference(world.base, [f"step {step}", f"the folder {home}"])
    if verdict:
        raise Disagreement(f"{verdict}. Every rank saves after the same step into one folder", world.rank == 0)
    leads = world.local_rank == 0

    # No rank is writing now; later another rank may already be in its next save.
    together(world, lambda: _make_room(home, step) if leads else None)
    written = together(world, lambda: _write(home, world, step, things))
    if len(written) < world.size:
        return False
    manifest = Manifest(step, tuple(Shard(*json.loads(shard)) for shard in written))
    together(world, lambda: files.commit(home, world.rank, manifest) if leads else None)
    together(world, lambda: files.prune(home) if leads else None)  # only after every host has the manifest
    return True


def _make_room(home: Path, step: int) -> None:
    found, _ = files.manifests(home)
    if found and found[0].step > step:
        raise UsageError(
            f"{home} holds a checkpoint of step {found[0].step}, and this is one of step {step}: load it first, so "
            "that the run goes on from there, or name another folder"
        )
    files.sweep(home)


def _write(home: Path, world: World, step: int, things: dict[str, Any]) -> bytes:
    """Write this rank's shard; returns its size and digest."""
    layouts, states = _states(things)
    memo: Memo = {}
    states = {name: plain(state, name, memo) for name, state in states.items()}
    shard = {
        "format": FORMAT,
        "rank": world.rank,
        "size": world.size,
        "step": step,
        "layouts": layouts,
        "model": states.pop("model"),
        "optimizer": states.pop("optimizer"),
        "random": random_states(world.device),
        "more": states,
    }
    return json.dumps(files.write(files.place(home, step), world.rank, shard)).encode()


def _states(things: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The layout of each wrapped optimizer's buckets, and the state of each object."""
    bases = {name: _base(thing) for name, thing in things.items() if name == "optimizer" or isinstance(thing, Wrapper)}
    # Optimizers first: they wait for messages in flight.
    states = {name: things[name].state_dict() for name in bases}
    places: dict[int, list[list[str]]] = {}
    for name, thing in things.items():
        if isinstance(thing, torch.nn.Module):
            states[name] = thing.state_dict(keep_vars=True)
            for key, tensor in states[name].items():
                places.setdefault(id(tensor), []).append([name, key])
        elif name not in states:
            states[name] = thing.state_dict() if hasattr(thing, "state_dict") else thing
    layouts = {name: _layout(base, places) for name, base in bases.items()}
    return layouts, {name: states[name] for name in things}


def _base(optimizer: torch.optim.Optimizer) -> GossipOptimizer:
    base = optimizer
    while isinstance(base, Wrapper) and not isinstance(base, GossipOptimizer):
        base = base.optimizer
    if not isinstance(base, GossipOptimizer):
        raise UsageError(
            f"optimizer is a {type(optimizer).__name__}, but a checkpoint needs a gossip.GossipOptimizer or a SlowMo"
        )
    return base


def _layout(base: GossipOptimizer, places: dict[int, list[list[str]]]) -> list[list[dict[str, Any]]]:
    """The parameters of each bucket: their places in modules as [module, name], and their position in the bucket."""
    numbers = {id(parameter): number for number, parameter in enumerate(base.parameters)}

    def entry(slot: Slot) -> dict[str, Any]:
        if id(origin(slot.parameter)) not in places:
            raise UsageError(
                f"parameter {slot.name} is the optimizer's and not in the model's state_dict: give a module that "
                "holds every parameter that is trained, or save another module beside it, as in critic=critic"
            )
        return {
            "places": places[id(origin(slot.parameter))],
            "number": numbers[id(slot.parameter)],
            "start": slot.start,
            "shape": list(slot.parameter.shape),
            "stride": list(slot.parameter.stride()),
        }

    return [[entry(slot) for slot in bucket.slots] for bucket in base.mass.buckets]
