"""`load` restores the newest checkpoint that every rank can read; `consensus` returns the model of one."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError, PeerLost, PeerTimeout, UsageError
from ..observe.process import say
from ..training.wrapper import Wrapper
from ..untraced import untraced
from ..world import World
from . import files
from .consensus import Consensus, has_lost_ranks, names_misfits, states_of
from .files import Manifest, parse
from .plain import set_random_states
from .together import check_world_and_model, folder_of, sentence, together


class Saved(NamedTuple):
    """A loaded checkpoint.

    Attributes:
        step: the number of steps made.
        size: the number of ranks that saved it.
        more: the other saved values that were not loaded into an object, by name.
    """

    step: int
    size: int
    more: dict[str, Any]


@untraced
def load(
    folder: str | os.PathLike[str] | None,
    world: World,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    options: str = "check",
    **more: Any,
) -> Saved | None:
    """Load the newest sound checkpoint in place; if there is none, rank 0 says so and it returns None.

    On the same number of ranks each rank reads its own shard, and continues bit for bit, random states included. On
    another number every rank reads all shards, one after another, and all ranks begin alike. Parameters are
    Σ w z / Σ w, messages in flight included, and weights are 1. SlowMo's anchors and momenta and the base optimizer's
    moments are means. Counts of rounds and steps continue. This holds for all gossip optimizers and the modules that
    they train. Other saved objects of rank r are those of rank r mod n, and random states stay unchanged.

    If a checkpoint is torn or altered on any rank, all ranks use the one before it, and rank 0 warns.

    Args:
        folder: as given to `save`. None uses the folder of `--resume`.
        world: all ranks of the job.
        model: constructed as when it was saved.
        optimizer: likewise, around the model's parameters.
        options: "check" refuses a GossipOptimizer or SlowMo whose options differ from the saved ones; "own" continues
            with the options of the new one.
        more: other objects to load in place, by the names under which they were saved.

    Raises:
        UsageError: another optimizer, averager or set of names, or other options.
        CheckpointError: no checkpoint in the folder is sound and fits. Model and optimizer may hold parts of one.
    """
    check_world_and_model(world, model)
    home, world = folder_of(folder), world.survivors
    for name, thing in more.items():
        if not hasattr(thing, "load_state_dict"):
            raise UsageError(
                f"{name} is a {type(thing).__name__}, into which nothing can be loaded: leave it out, and the value "
                f"saved under that name comes back in .more[{name!r}]"
            )
    # Optimizers first: they wait for flights, which may read the parameters that modules then write.
    optimizers = {"optimizer": optimizer, **{n: thing for n, thing in more.items() if isinstance(thing, Wrapper)}}
    with world.base.board.calling("gossip.checkpoint.load(...)"):
        chosen = _newest(world, home, optimizers)
        if chosen is None:
            if world.rank == 0:
                say(f"gossip: {home} holds no checkpoint, so the run begins with its first step")
            return None
        manifest, shard = chosen
        together(world, lambda: _apply(shard, manifest, world, {**optimizers, "model": model, **more}, options))
        together(world, lambda: _make_newest(home, world, manifest) if world.local_rank == 0 else None)
    left = {name: value for name, value in shard["more"].items() if name not in more}
    return Saved(manifest.step, manifest.size, left)


def consensus(folder: str | os.PathLike[str], model: str = "model") -> dict[str, Any]:
    """The model to publish: an ordinary state_dict, the mean over all ranks of the newest sound checkpoint.

    Parameters are Σ w z / Σ w, messages in flight included. Floating-point buffers are means, other buffers rank 0's.
    It reads every rank's shard, and needs neither the job nor the model.

    Args:
        folder: as given to `save`.
        model: the name of a saved module, such as "critic".

    Raises:
        UsageError: no module was saved under that name.
        CheckpointError: the folder holds no sound checkpoint; the sentence says why.
    """
    home = Path(folder)
    found, damaged = files.manifests(home)
    reasons = list(damaged.values())
    for manifest in found:
        try:
            return Consensus(home, manifest).model(model)
        except CheckpointError as error:
            reasons.append(str(error))
    raise CheckpointError("; ".join([f"{home} holds no sound checkpoint", *reasons]))


def _manifests(world: World, home: Path) -> tuple[list[tuple[int, str, int]], list[tuple[int, str]]]:
    """Checkpoints on any rank, newest first, as (step, digest, first rank that has it); and (step, damage)."""

    def look() -> bytes:
        found, damaged = files.manifests(home)
        return json.dumps([[(manifest.step, manifest.digest) for manifest in found], list(damaged.items())]).encode()

    first: dict[tuple[int, str], int] = {}
    reasons: dict[tuple[int, str], None] = {}
    for rank, said in enumerate(together(world, look)):
        found, damaged = json.loads(said)
        for step, digest in found:
            first.setdefault((step, digest), rank)
        reasons.update(dict.fromkeys(map(tuple, damaged)))
    return sorted(((*key, rank) for key, rank in first.items()), reverse=True), list(reasons)


def _newest(world: World, home: Path, optimizers: dict[str, Any]) -> tuple[Manifest, dict[str, Any]] | None:
    """The newest checkpoint that every rank can read, and the shard from which this rank continues."""
    found, unread = _manifests(world, home)
    resized = False
    for step, digest, holder in found:
        # If one host has the manifest, all hosts have their shards: others use that manifest.
        text = b""
        if world.rank == holder:
            with contextlib.suppress(OSError):  # all ranks then find that it is no manifest
                text = (files.place(home, step) / files.MANIFEST).read_bytes()
        text = world.all_gather(text)[holder]
        shard, reason = None, ""
        try:
            manifest = parse(text)
            if manifest.digest != digest:
                raise CheckpointError(f"the manifest of step {step} has changed while it was read")
            resized |= manifest.size != world.size
            shard = _shard(home, world, manifest, optimizers)
        except (PeerTimeout, PeerLost):  # there is no peer to tell
            raise
        except Exception as error:  # any error is sent to the other ranks, which wait
            reason = f"rank {world.rank} on {world.hosts[world.rank]}: {sentence(error)}"
        failed = [said.decode() for said in world.all_gather(reason.encode()) if said]
        if not failed:
            assert shard is not None, "no reason"
            newer = [reason for at, reason in unread if at >= step]
            if newer and world.rank == 0:
                warnings.warn(
                    f"going on from step {step} in {home}, since newer checkpoints cannot be read: {'; '.join(newer)}",
                    stacklevel=3,
                )
            return manifest, shard
        unread.append((step, failed[0] + (f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else "")))
    if not unread:
        return None
    reasons = "; ".join(reason for _, reason in unread)
    advice = f". Going on with {world.size} ranks needs a folder in which every host sees all shards" if resized else ""
    raise CheckpointError(f"{home} holds no checkpoint that every rank can read: {reasons}{advice}", world.rank == 0)


def _shard(home: Path, world: World, manifest: Manifest, optimizers: dict[str, Any]) -> dict[str, Any]:
    if manifest.size == world.size:
        own = files.unpack(home, world.rank, manifest)
        if not has_lost_ranks(own):
            return own
        # The saved graph lacks the dead ranks, and a new job's does not.
    live = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    everyone = Consensus(home, manifest, world.rank % manifest.size)
    with names_misfits(files.place(home, manifest.step)):
        return everyone.shard(live)


def _make_newest(home: Path, world: World, manifest: Manifest) -> None:
    files.pass_over(home, manifest)
    if manifest not in files.manifests(home)[0]:
        files.commit(home, world.rank, manifest)


def _apply(shard: dict[str, Any], manifest: Manifest, world: World, things: dict[str, Any], options: str) -> None:
    """Load the shard into `things`, in their order."""
    states = states_of(shard)
    missing = things.keys() - states.keys()
    if missing:
        raise UsageError(
            f"the checkpoint of step {manifest.step} holds no {', '.join(sorted(missing))}: "
            f"beside model and optimizer it holds {', '.join(sorted(shard['more'])) or 'nothing'}"
        )
    for name, thing in things.items():
        asked = {"options": options} if options != "check" and isinstance(thing, Wrapper) else {}
        try:
            thing.load_state_dict(states[name], **asked)
        except UsageError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"the {name} saved at step {manifest.step} does not fit this {type(thing).__name__} "
                f"({type(error).__name__}: {error})"
            ) from error
    if manifest.size == world.size:
        set_random_states(shard["random"], world.device)
