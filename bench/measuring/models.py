"""The compute of an update: a sleep, at once or layer by layer, or the passes of a small real network."""

import math
import time
import timeit
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import mse_loss

from gossip import World

Compute = Callable[[], object]
BATCH = 16
LAYERS = 16
FORWARD = 1 / 3  # of the passes is the forward one: a layer's backward is two products where its forward is one
LATE = 0.0005  # seconds that a sleep may end late


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


class Layers(nn.Module):
    """A chain of layers, one for each of the `parameters`, whose passes leave the gradients that stood there.

    Each layer sleeps in forward and in backward, and the last layer's gradient is there first, as in a network. A
    gradient is the same memory in every pass: no copies.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], seconds: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(parameter, self) for parameter in parameters)
        self._due = self.slept = 0.0  # when the last sleep was to end, and when it ended
        self.take(seconds)

    def take(self, seconds: float) -> None:
        """Both passes take `seconds` from now on."""
        self.sleeps = seconds * FORWARD / len(self.layers), seconds * (1 - FORWARD) / len(self.layers)

    def forward(self) -> torch.Tensor:
        """A loss to call backward() on."""
        reached = torch.zeros((), requires_grad=True)
        for layer in self.layers:
            reached = layer(reached)
        return reached

    def sleep(self, seconds: float) -> None:
        """Compute for so long. A sleep that ends late shortens the next one, unless something was waited for."""
        if seconds > 0:
            now = time.perf_counter()
            self._due = seconds + (self._due if now - self.slept < LATE else now)
            time.sleep(max(0.0, self._due - now))
        self.slept = time.perf_counter()


class Layer(nn.Module):
    """One parameter, with the gradient that stood there."""

    def __init__(self, parameter: nn.Parameter, of: Layers) -> None:
        super().__init__()
        assert parameter.grad is not None, "the task fills its gradients"
        self.parameter, self.slope, parameter.grad = parameter, parameter.grad, None
        self._of = [of]  # a list, so that the chain is no part of its layer

    def forward(self, reached: torch.Tensor) -> torch.Tensor:
        """Sleeps."""
        self._of[0].sleep(self._of[0].sleeps[0])
        return _layer(reached, self.parameter, self.slope, self._of[0])


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reached: torch.Tensor, parameter: nn.Parameter, slope: torch.Tensor, of: Layers) -> Any:
        ctx.slope, ctx.of = slope, of
        return reached.clone()

    @staticmethod
    def backward(ctx: Any, *above: Any) -> Any:
        ctx.of.sleep(ctx.of.sleeps[1])
        # Another tensor on the same memory: autograd takes it as it is, where it would copy the slope itself.
        return above[0], ctx.slope.detach(), None, None


_layer: Callable[..., torch.Tensor] = _Layer.apply


def layers(nbytes: int, world: World, seconds: float) -> Task:
    """Compute by sleep as well, layer by layer: a third of it in the forward pass, and the rest in the backward one."""
    chain = Layers(Vector(nbytes, world, LAYERS).parts, seconds)

    def passes() -> None:
        chain.zero_grad()
        chain().backward()

    return Task(chain, passes, seconds)


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


MODELS: dict[str, Callable[[int, World, float], Task]] = {"sleep": sleep, "layers": layers, "mlp": mlp}
