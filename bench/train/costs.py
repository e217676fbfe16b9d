"""The time of a run on a network that is slower than the accelerators, by the model of `bench scale`.

Models here are small; the prediction is for one of ResNet-50's size that takes as long to compute, with as many workers
and the same method.
"""

from __future__ import annotations

import functools

import torch

import topologies
from gossip.state.codecs import CODECS

from ..scale import Cluster, Machine, simulate
from ..shared.methods import Method
from ..shared.paper import COMPUTE, NBYTES, RATE
from .runs import Run
from .workloads import WORKLOADS

MACHINE = Machine(compute=COMPUTE, rate=RATE, latency=50e-6, jitter=0.03, tail=4.0)
NETWORK = (
    f"{NBYTES / 1e6:g} MB of float32 parameters, {COMPUTE * 1e3:g} ms of compute a step, links of {RATE / 1e9:g} Gbit/s"
)


def seconds(run: Run) -> float:
    """The predicted time of all steps of the run.

    Exact averages travel in float32; with a wire, or parameters of 16 bits, they count as if they were as short.
    """
    nbytes = NBYTES // 2 if run.dtype == "bfloat16" else NBYTES
    moments = 1 if WORKLOADS[run.workload].optimizer == "sgd" else 2
    return run.steps * _of_a_step(run.method, moments, run.workers, round(nbytes * _share(run.method.wire)))


def _share(wire: str | None) -> float:
    """The share of the bytes of float32 that travels."""
    values = torch.empty(1 << 16)
    return CODECS[wire].buffer(values).nbytes / values.nbytes


@functools.cache
def _of_a_step(method: Method, moments: int, workers: int, nbytes: int) -> float:
    traffic, graph = method.traffic(moments), topologies.load(method.graph, workers)
    steps = -(-192 // traffic.window) * traffic.window
    return simulate({"it": traffic}, Cluster(MACHINE, workers), graph, nbytes, steps, warmup=48)["it"].seconds.mean
