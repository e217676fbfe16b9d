"""Collective steps of saving and loading: all ranks succeed, or all raise the same sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checks import shown
from ..errors import CheckpointError, PeerLost, PeerTimeout, UsageError
from ..world import World, check_world

RESUME = "GOSSIP_RESUME"
"""The environment variable that `python -m gossip.launch --resume FOLDER` sets."""

_DONE, _MISUSED, _FAILED = b"+", b"?", b"-"


def folder_of(named: str | os.PathLike[str] | None) -> Path:
    """The folder of the script or, if it names None, of --resume."""
    if named is not None and not isinstance(named, (str, os.PathLike)):
        raise UsageError(f"folder is {shown(named)}, but it is the path of the folder that holds the checkpoints")
    asked = os.environ.get(RESUME)
    if named is None and not asked:
        raise UsageError(
            "no folder for checkpoints: name one in load and save, or start with "
            "python -m gossip.launch --resume FOLDER script.py"
        )
    if named is not None and asked and os.path.realpath(named) != os.path.realpath(asked):
        raise UsageError(
            f"the script keeps its checkpoints in {os.fspath(named)}, and --resume names {asked}: name the same, or "
            "let the script name None and follow --resume"
        )
    return Path(os.path.abspath(named if named is not None else asked or ""))


def check_world_and_model(world: Any, model: Any) -> None:
    """Check that `world` is a World and `model` a module."""
    check_world(world, "world is {}, and save(folder, world, step, ...) and load(folder, world, ...) are the order")
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"model is {shown(model)}, but it is the torch.nn.Module whose parameters are trained")


def together(world: World, act: Callable[[], bytes | None]) -> list[bytes]:
    """Call `act` on every rank; returns all results, by rank."""
    failure: Exception | None = None
    try:
        said = _DONE + (act() or b"")
    except (PeerTimeout, PeerLost):  # there is no peer to tell
        raise
    except UsageError as error:
        failure, said = error, _MISUSED + str(error).encode()
    except Exception as error:  # any error is sent to the other ranks, which wait
        failure, said = error, _FAILED + f"rank {world.rank}: {sentence(error)}".encode()
    everyone = world.all_gather(said)
    for rank, each in enumerate(everyone):
        if not each.startswith(_DONE):
            kind = UsageError if each.startswith(_MISUSED) else CheckpointError
            raise kind(each[1:].decode(), speaks=rank == world.rank) from failure
    return [each[1:] for each in everyone]


def sentence(error: Exception) -> str:
    """The sentence of an error."""
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"
