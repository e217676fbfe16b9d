"""Checkpoints of a running job: every rank writes its state, and a resumed run ends in the same bits.

    saved = gossip.checkpoint.load("out/run", world, model=model, optimizer=optimizer, scheduler=scheduler)
    for step in range(saved.step if saved else 0, steps):
        ...
        if (step + 1) % 500 == 0:
            gossip.checkpoint.save("out/run", world, step + 1, model=model, optimizer=optimizer, scheduler=scheduler)

`saving` and `loading` hold the two calls, and `consensus` averages the shards of all ranks. `files` defines the layout
on disk, `plain` the content of a file. `python -m gossip.checkpoint FOLDER` checks the checkpoints of a folder.
May import: checks, consensus, errors, observe, optimizer, state, training, untraced, world, topologies.
"""

from .loading import Saved, consensus, load
from .saving import save

__all__ = ["Saved", "consensus", "load", "save"]
