"""OSGP's step beside the bare training step, and the merge of messages beside the bandwidth of the GPU's memory."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import gossip
from gossip import World
from gossip.state import merging as mixing
from gossip.state.codecs import CODECS, Codec
from topologies import exponential

from .training import TASKS

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")  # a copy calls the first of them
PROFILED = 4  # steps that are looked at for such calls
ROUNDS = 40
CASES: tuple[tuple[str | None, int], ...] = ((None, 1), (None, 2), ("bfloat16", 1), ("int8", 1))
"""Wire, and messages merged at once."""


def compare(world: World, name: str, wire: str | None, windows: int, steps: int) -> dict[str, Any]:
    """Train `name` on every rank, windows of so many bare steps and of so many of OSGP's by turns.

    Between two windows everything lands. The first step of a window is not timed: OSGP has nothing to land in it.
    """
    task = TASKS[name](world.device, world.rank)
    bare = task.optimizer
    for _ in range(2):  # the second step has the optimizer's state
        torch.cuda.reset_peak_memory_stats()
        task.passes()
        bare.step()
    peak = torch.cuda.max_memory_allocated()
    osgp = gossip.GossipOptimizer(
        bare, gossip.PushSum(world, exponential(world.size), overlap=1, wire=wire), module=task.network
    )

    def train(method: str) -> None:
        task.passes()
        (osgp if method == "osgp" else bare).step()

    torch.cuda.reset_peak_memory_stats()
    took: dict[str, list[float]] = {"bare": [], "osgp": []}
    for window in range(-1, windows):
        for method in ("bare", "osgp") if window % 2 else ("osgp", "bare"):
            world.barrier()
            train(method)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                train(method)
            torch.cuda.synchronize()
            if window >= 0:
                took[method].append((time.perf_counter() - began) / steps)
            osgp.settle()
            torch.cuda.synchronize()
    more = torch.cuda.max_memory_allocated() - peak
    run = osgp.stats.run
    waits = _waits(lambda: train("osgp"), osgp) - _waits(lambda: train("bare"), osgp)
    nbytes = sum(parameter.nbytes for parameter in task.network.parameters())
    return {
        "model": name,
        "wire": wire or "float32",
        "parameters": sum(parameter.numel() for parameter in task.network.parameters()),
        "bare": float(np.median(took["bare"])),
        "osgp": float(np.median(took["osgp"])),
        "ratio": float(np.median(np.divide(took["osgp"], took["bare"]))),
        "windows": {method: [round(second, 6) for second in seconds] for method, seconds in took.items()},
        "sent": run.bytes_sent / run.rounds_landed,
        "host_blocked": run.seconds_exposed / run.rounds_landed,
        "waits": dict(waits),
        "memory_in_models": more / nbytes,
        "pinned_in_models": torch.cuda.host_memory_stats().get("allocated_bytes.current", 0) / nbytes,
    }


def _waits(step: Callable[[], object], osgp: gossip.GossipOptimizer) -> Counter[str]:
    """Calls that wait for the GPU during `PROFILED` steps, all threads of this process."""
    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as seen:
        for _ in range(PROFILED):
            step()
    # The profiler itself waits once for all, when it ends.
    found = Counter(event.name for event in seen.events() if event.name in WAITS)
    osgp.settle()
    torch.cuda.synchronize()
    return found


def bandwidths(elements: int, device: torch.device) -> dict[str, Any]:
    """Bytes read and written a second by a copy of float32 values, and by each merge with (rate) and without kernel."""
    generator = torch.Generator(device).manual_seed(0)
    z, other = (torch.randn(elements, device=device, generator=generator) for _ in range(2))
    found: dict[str, Any] = {"elements": elements, "merges": []}
    found["copy"] = 2 * z.nbytes / seconds(lambda: other.copy_(z))
    # More messages than a second-level cache holds, so that none of them is read from there.
    for name, messages in CASES:
        wire = CODECS[name]
        rooms = [wire.buffer(z) for _ in range(messages)]
        for room in rooms:
            wire.encode(torch.randn(elements, device=device, generator=generator), room)
        moved = 2 * z.nbytes + sum(room.nbytes for room in rooms)
        ratios = [torch.full((), 0.5, dtype=torch.float64, device=device) for _ in rooms]
        ours = moved / seconds(partial(mixing.mix_, z, rooms, ratios, wire))
        without = moved / seconds(partial(_plainly, z, rooms, ratios, wire))
        merge = {"wire": name or "float32", "messages": messages, "bytes": moved, "rate": ours}
        found["merges"].append({**merge, "of_copy": ours / found["copy"], "torch": without / found["copy"]})
    return found


def _plainly(z: torch.Tensor, rooms: list[torch.Tensor], ratios: list[torch.Tensor], wire: Codec) -> None:
    for room, ratio in zip(rooms, ratios, strict=True):
        torch.lerp(z, wire.values(room), ratio.float(), out=z)


def seconds(act: Callable[[], object]) -> float:
    """The median time on the GPU."""
    for _ in range(5):
        act()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
    for began, ended in marks:
        began.record()
        act()
        ended.record()
    torch.cuda.synchronize()
    return float(torch.tensor([began.elapsed_time(ended) for began, ended in marks]).median()) / 1e3
