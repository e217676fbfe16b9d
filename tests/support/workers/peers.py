"""Steps of peers on this rank: `python -m workers.peers FOLDER ddp decent-dp`.

For each peer this rank saves the parameters before the first step and after every one. It also saves its gradient, the
same in all steps, and the peer's counters.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gossip
from bench.measuring.models import sleep
from bench.peers import PEERS

NBYTES, STEPS, PERIOD = 4_000, 8, 4


def vector(module: nn.Module) -> Any:
    """All parameters, as they are now."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).double().numpy()


def main(folder: str, *names: str) -> None:
    """Save what came of each, as arrays named peer/what."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with gossip.init(timeout=60) as world:
        for name in names:
            task = sleep(NBYTES, world, 0.002)
            slopes = [parameter.grad for parameter in task.module.parameters() if parameter.grad is not None]
            gradient = torch.cat(slopes).double().numpy()
            peer = PEERS[name].build(task, world, PERIOD, 60.0)
            assert peer.module is task.module
            history = [vector(task.module)]
            for _ in range(STEPS):
                peer.compute()
                peer.step()
                history.append(vector(task.module))
            peer.settle()
            counted = peer.stats.run
            peer.close()
            results |= {f"{name}/z": np.stack(history), f"{name}/gradient": gradient}
            results[f"{name}/counted"] = np.array([counted.steps, counted.bytes_sent, counted.seconds_exposed])
        np.savez(Path(folder) / f"{world.rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
