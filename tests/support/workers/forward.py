"""`python -m workers.forward FOLDER mpi mpi/far gloo` on four ranks saves what SGP computes.

It lands when a step ends, and in the next forward pass.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.state.buckets import sections
from workers.contract import speak

STEPS = 7
Batch = torch.Tensor  # of shape (samples, 8)


class Tied(nn.Module):
    """The output layer uses the embedding's weight, outside of its module, and one layer is used by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 24)
        self.body = nn.Linear(24, 24)
        self.unused = nn.Linear(24, 300)
        self.scale = nn.Parameter(torch.ones(24))

    def forward(self, x: Batch) -> torch.Tensor:
        """Scores of the tokens nearest to `x`."""
        tokens = x.mul(7).long().remainder(40)
        hidden = torch.tanh(self.body(self.embedding(tokens).mean(1))) * self.scale
        return nn.functional.linear(hidden, self.embedding.weight)


class Outside(nn.Module):
    """The first layer's weight is read before that layer runs, in another module; the second one is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 8)
        self.twice = nn.Linear(8, 8)

    def forward(self, x: Batch) -> torch.Tensor:
        """Three layers and a penalty."""
        penalty = self.last.weight.square().sum()
        return self.last(self.twice(torch.tanh(self.twice(x)))) + penalty


class Attends(nn.Module):
    """torch's attention reads the weights of its output layer by itself, and an LSTM holds its own in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Batch) -> torch.Tensor:
        """A sequence of one sample."""
        sequence = x.unsqueeze(0)
        seen, _ = self.attention(sequence, sequence, sequence)
        made, _ = self.lstm(seen)
        return self.norm(made)


def plain() -> nn.Module:
    """Layers one after another, with a parameter that takes no gradients."""
    net = nn.Sequential(nn.Linear(8, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh(), nn.Linear(60, 3))
    net[2].bias.requires_grad_(False)
    return net


def reparametrised() -> nn.Module:
    """Weights that are computed from others, by hooks of torch's old kind and of its new one."""
    first = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 30))
    second = torch.nn.utils.spectral_norm(nn.Linear(30, 30))
    return nn.Sequential(first, nn.BatchNorm1d(30), second, nn.Linear(30, 2))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "tied": Tied,
    "outside": Outside,
    "attends": Attends,
    "reparametrised": reparametrised,
}


def model(name: str, seed: int = 0) -> nn.Module:
    """The same on every rank, on threads too, which share torch's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name]()


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    """In two groups with rates of their own."""
    parameters = list(net.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters[1::2], "lr": 3e-3}, {"params": parameters[::2]}]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.01)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    """With momentum."""
    return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


class Run:
    """One rank that trains a model by SGP, and remembers what each forward pass gave."""

    def __init__(
        self,
        world: gossip.World,
        landing: str,
        net: nn.Module,
        graph: topologies.Topology,
        optimizer: str = "sgd",
        slow: bool = False,
        every: int = 1,
        period: int = 3,
        wire: str | None = None,
        **options: Any,
    ) -> None:
        self.net = copy.deepcopy(net)
        gossips: gossip.Averager = gossip.PushSum(world, graph, landing=landing, wire=wire)
        if every > 1:
            gossips = gossip.Chain(gossip.Every(every, gossips), gossip.Every(every + 1, gossip.ExactAverage(world)))
        base = gossip.GossipOptimizer(OPTIMIZERS[optimizer](self.net), gossips, module=self.net, **options)
        self.base = base
        self.optimizer = slowmo.SlowMo(base, gossip.ExactAverage(world), period, 0.6) if slow else base
        self.generator = torch.Generator().manual_seed(1 + world.rank)
        self.seen: list[torch.Tensor] = []

    def step(self) -> None:
        """One batch of this rank's own."""
        x = torch.randn(6, 8, generator=self.generator)
        out = self.net(x.to(next(self.net.parameters()).dtype))
        self.seen.append(out.detach().clone())
        self.optimizer.zero_grad()
        out.float().square().mean().backward()
        self.optimizer.step()

    def steps(self, count: int) -> Run:
        """Several."""
        for _ in range(count):
            self.step()
        return self

    def found(self) -> list[torch.Tensor]:
        """All that the run has computed, once everything has landed."""
        self.optimizer.settle()
        state = [value for each in self.base.state.values() for value in each.values() if torch.is_tensor(value)]
        weight = torch.tensor(self.base.weight, dtype=torch.float64)
        return [*self.seen, *(each.detach().clone() for each in self.net.state_dict().values()), *state, weight]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    """The same bits."""
    assert len(one) == len(other)
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(a, b), f"tensor {number} of {len(one)}"


def both(size: int, run: Callable[..., list[torch.Tensor]]) -> None:
    """Run on ranks as threads with both landings, and compare."""
    due, forward = (testing.run(size, partial(run, landing=landing)) for landing in ("due", "forward"))
    for one, other in zip(due, forward, strict=True):
        same(one, other)


def main(folder: str, *transports: str) -> None:
    """Over each transport in turn."""
    torch.set_num_threads(1)
    sections.LEAST = 1024
    results: dict[str, Any] = {}
    for name in transports:
        transport, _, how = name.partition("/")
        with gossip.init(transport, timeout=60) as world:
            rank = world.rank
            speak(world, how, chunk=9999)
            graph = topologies.exponential(world.size, peers=2)
            for landing in ("due", "forward"):
                for kind in MODELS:
                    run = Run(world, landing, model(kind), graph, slow=kind == "plain", checksum=kind == "tied")
                    found = run.steps(STEPS).found()
                    results[f"{name}/{landing}/{kind}"] = torch.cat(
                        [each.double().reshape(-1) for each in found]
                    ).numpy()
    np.savez(Path(folder) / f"{rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
