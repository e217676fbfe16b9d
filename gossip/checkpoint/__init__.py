"""Checkpoints of a running job: every rank writes what it holds, and a resumed run ends in the same bits.

    saved = gossip.checkpoint.load("out/run", world, model=model, optimizer=optimizer, scheduler=scheduler)
    for step in range(saved.step if saved else 0, steps):
        ...
        if (step + 1) % 500 == 0:
            gossip.checkpoint.save("out/run", world, step + 1, model=model, optimizer=optimizer, scheduler=scheduler)

`saving` and `loading` are the two calls, `consensus` is what all shards hold together, `files` and `manifest` say what
lies on disk, `plain` what may go into a file, `randomness` keeps the generators. `python -m gossip.checkpoint FOLDER`
looks at them.
"""

from .loading import Saved, consensus, load
from .saving import save

__all__ = ["Saved", "consensus", "load", "save"]
