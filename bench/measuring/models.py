"""The compute of an update: a sleep or other emulated compute, or the passes of a small real network."""

import math
import time
import timeit
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss

from gossip import World

Compute = Callable[[], object]
BATCH = 16


def sleeping(seconds: float) -> Compute:
    """Leaves the core to others, as a pass on an accelerator does."""
    return lambda: time.sleep(seconds)


def multiplying(times: int) -> Compute:
    """Matrix products of torch, which lets go of the interpreter lock inside each of them (256×256)."""
    a, b, room = torch.rand(3, 256, 256)

    def compute() -> None:
        for _ in range(times):
            torch.mm(a, b, out=room)

    return compute


def interpreting(times: int) -> Compute:
    """Pure Python, which never lets go of the interpreter lock by itself."""
    return lambda: sum(number & 7 for number in range(times))


KINDS: dict[str, Callable[[int], Compute]] = {"torch": multiplying, "python": interpreting}
TRIAL = {"torch": 50, "python": 100_000}


def times_for(kind: str, seconds: float) -> int:
    """How often `KINDS[kind]` has to do its piece to be busy for so long on this core, undisturbed."""
    trial = KINDS[kind](TRIAL[kind])
    trial()
    # Of one thread only its own time counts, and not that of others on this core.
    timer = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    return max(1, round(TRIAL[kind] * seconds / min(timeit.repeat(trial, timer=timer, number=1, repeat=5))))


class Task(NamedTuple):
    """The parameters that are trained, what leaves a gradient in them, and how much of that is slept."""

    module: nn.Module
    compute: Compute
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Of all parameters."""
        return sum(parameter.nbytes for parameter in self.module.parameters())


class Vector(nn.Module):
    """So many bytes of float32 parameters in a few tensors, with gradients that stay and differ between ranks."""

    def __init__(self, nbytes: int, world: World, tensors: int = 8) -> None:
        super().__init__()
        values, slopes = (_normal(nbytes // 4, seed).to(world.device) for seed in (0, 1 + world.rank))
        parts = values.tensor_split(tensors)
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in parts if part.numel())
        for part, slope in zip(self.parts, slopes.tensor_split(tensors), strict=False):
            part.grad = slope.clone()


def _normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def sleep(nbytes: int, world: World, seconds: float) -> Task:
    """Compute that leaves the cores alone for `seconds`, as an accelerator's does."""
    return Task(Vector(nbytes, world), sleeping(seconds), seconds)


def mlp(nbytes: int, world: World, seconds: float) -> Task:
    """The passes of three square layers that fit into `nbytes`, over one batch of each rank, however long they take."""
    d = max(1, (math.isqrt(1 + nbytes // 3) - 1) // 2)  # 3 (d² + d) elements of 4 bytes
    torch.manual_seed(0)
    layers = (nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d))
    network = nn.Sequential(*layers).to(world.device)
    inputs, targets = _normal(2 * BATCH * d, 1 + world.rank).reshape(2, BATCH, d).to(world.device)

    def passes() -> None:
        network.zero_grad()
        mse_loss(network(inputs), targets).backward()

    return Task(network, passes)


MODELS: dict[str, Callable[[int, World, float], Task]] = {"sleep": sleep, "mlp": mlp}
