"""Runs that ask for the mean of all ranks: `mpirun python -m workers.means FOLDER TRANSPORT`, and in threads."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import gossip
import slowmo
import topologies

Make = Callable[[gossip.World, nn.Module], Any]


class Net(nn.Module):
    """A convolution in channels_last, BatchNorm, and a layer that is tied to another."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.mix
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.to(dtype=dtype, memory_format=torch.channels_last)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of 3 classes."""
        return self.head(self.again(self.mix(self.body(x))).mean((2, 3)))


def osgp(world: gossip.World, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Any:
    """OSGP around SGD with momentum."""
    push = {name: options.pop(name) for name in ("overlap", "wire", "landing") if name in options}
    averager = gossip.PushSum(world, topologies.exponential(world.size), **{"overlap": 1, **push})
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return gossip.GossipOptimizer(optimizer or sgd, averager, module=model, **options)


def around(make: type[Any], **options: Any) -> Make:
    """OSGP inside one of the SlowMo family, over all ranks."""
    return lambda world, model: make(osgp(world, model), world, period=3, **options)


METHODS: dict[str, Make] = {
    "sgp": lambda world, model: osgp(world, model, overlap=0),
    "osgp": osgp,
    "overlap 2": lambda world, model: osgp(world, model, overlap=2),
    "adamw": lambda world, model: osgp(world, model, torch.optim.AdamW(model.parameters(), lr=0.01)),
    "int8": lambda world, model: osgp(world, model, wire="int8"),
    "bfloat16, masters": lambda world, model: osgp(world, model.bfloat16(), master_weights=True),
    "buffers averaged": lambda world, model: slowmo.SlowMo(
        osgp(world, model, module_buffers="average"), gossip.ExactAverage(world), period=3
    ),
    "local": lambda world, model: slowmo.local_sgd(torch.optim.SGD(model.parameters(), lr=0.05), world, period=3),
    "slowmo": lambda world, model: slowmo.SlowMo(osgp(world, model), gossip.ExactAverage(world), period=3),
    "no average": lambda world, model: slowmo.SlowMo(osgp(world, model), gossip.NoAverage(), period=3),
    "sharded": around(slowmo.ShardedSlowMo),
    "shared": around(slowmo.SharedMomentum),
    "streaming": around(slowmo.StreamingSlowMo),
    "hierarchical": lambda world, model: gossip.GossipOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05),
        gossip.PushSum(world.across, topologies.exponential(world.across.size), overlap=1, node=world.node),
        gradients=world.node,
        module=model,
    ),
}


def train(
    model: nn.Module, optimizer: Any, rank: int, steps: int, look: Callable[[], object] = lambda: None, first: int = 0
) -> None:
    """Steps number `first` and so on, each with data of its own, and after each `look`."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(1000 * rank + step)
        inputs = torch.randn(6, 2, 5, 5, generator=generator).to(next(model.parameters()).dtype)
        targets = torch.randint(3, (6,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs).float(), targets).backward()
        optimizer.step()
        look()


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state, in memory of its own."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def flat(model: nn.Module) -> npt.NDArray[np.float32]:
    """The values of all parameters, one after another."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy().copy()


def truth(world: gossip.World, model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """Σ w z / Σ w of the parameters and the means of buffers, in float64, once everything has landed."""
    optimizer.settle()
    masters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    exact = {id(getattr(master, "model", master)): master.detach().double() for master in masters}
    own = {
        name: optimizer.weight * exact[id(each)] if id(each) in exact else each.double()
        for name, each in model.state_dict(keep_vars=True).items()
    }
    everyone, weights = world.all_gather(copy.deepcopy(own)), world.all_gather(optimizer.weight)
    trained = {name for name, each in model.state_dict(keep_vars=True).items() if id(each) in exact}
    return {
        name: sum(each[name] for each in everyone) / (sum(weights) if name in trained else len(everyone))
        for name in own
    }


def main() -> None:
    """Train, ask for the mean a thousand times, and save what came of it."""
    folder, transport = Path(sys.argv[1]), sys.argv[2]
    with gossip.init(transport) as world:
        saved = {}
        for looks in (0, 60):
            model = Net()
            optimizer = METHODS["slowmo"](world, model)

            def look(model: nn.Module = model, optimizer: Any = optimizer, looks: int = looks) -> None:
                for _ in range(looks):
                    with optimizer.mean(model), torch.no_grad():
                        model(torch.ones(1, 2, 5, 5))

            train(model, optimizer, world.rank, 17, look)
            saved[f"own {looks}"] = flat(model)
        mean, distance = optimizer.mean_state_dict(model), optimizer.consensus_distance()
        exact = truth(world, model, optimizer)
        saved["error"] = np.array(
            max(float((mean[name] - exact[name]).abs().max()) for name in exact if name != "seen")
        )
        saved["mean"] = torch.cat([each.double().flatten() for each in mean.values()]).numpy()
        saved["distance"] = np.array(distance)
        saved["reduced"] = np.array(
            [
                world.mean(float(world.rank)),
                world.mean({"a": torch.tensor(world.rank)})["a"].item(),
                *world.all_reduce(torch.tensor([world.rank, 1])).tolist(),
                *world.all_reduce(torch.tensor([float(world.rank)]), "max").tolist(),
            ]
        )
        optimizer.average_()
        saved["averaged"] = flat(model)
        train(model, optimizer, world.rank, 2)
        optimizer.settle()
        np.savez(folder / f"{world.rank}.npz", **saved)


if __name__ == "__main__":
    main()
