"""Train one run on ranks that are threads of a process, or on those of any other world; do all that are missing."""

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import joblib
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gossip import World
from gossip.state.merging import wide_copy
from gossip.testing import run as on_threads

from ..shared.screen import Course
from .runs import Finished, Outcome, Run, Store
from .workloads import WORKLOADS
from .workloads.workload import Data, alike, batches, skewed

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.01),
}
DECAYS = (0.6, 0.85)  # after each of these shares of the steps the learning rate falls to a tenth


class Trained(NamedTuple):
    """One rank's parameters z as one vector, in float32 or wider, its weight w, its losses and bytes."""

    parameters: Tensor
    weight: float
    losses: list[float]
    bytes_sent: int


class Task(NamedTuple):
    """The part of a run that its ranks share, and only read."""

    data: Data
    shards: list[Tensor]
    model: nn.Module


def task(run: Run) -> Task:
    """Data, shards and first model of a run: the same in every process."""
    workload = WORKLOADS[run.workload]
    data = workload.data(run.seed)
    if run.skew is None or data.labels is None:
        parts = alike(len(data.inputs), run.workers, run.seed)
    else:
        parts = skewed(data.labels, run.workers, run.skew, run.seed)
    return Task(data, parts, workload.model(run.seed).to(getattr(torch, run.dtype)))


def scale(step: int, steps: int) -> float:
    """The factor of the learning rate: it rises from 0 in a tenth of the steps, and then falls twice."""
    rising = min(1.0, (step + 1) / max(1, round(0.1 * steps)))
    return rising * 0.1 ** sum(step >= share * steps for share in DECAYS)


def train(run: Run, shared: Task, world: World, watch: Callable[[nn.Module], object] = lambda model: None) -> Trained:
    """All steps on this rank; `watch` is shown the model after each."""
    workload = WORKLOADS[run.workload]
    model = copy.deepcopy(shared.model)
    # torch's fused SGD on CPUs skips updates of 16-bit parameters (pytorch issue 191763).
    base = OPTIMIZERS[workload.optimizer](model.parameters(), lr=run.lr, fused=run.dtype != "bfloat16")
    optimizer = run.method.around(base, world)
    schedule = torch.optim.lr_scheduler.LambdaLR(base, lambda step: scale(step, run.steps))
    order = batches(shared.shards[world.rank], run.batch, seed=1000 * run.seed + world.rank)
    losses = []
    for chosen in islice(order, run.steps):
        optimizer.zero_grad()
        loss = workload.loss(model, shared.data.inputs[chosen], shared.data.targets[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        watch(model)
    optimizer.settle()
    vector = wide_copy(parameters_to_vector(model.parameters()).detach())
    return Trained(vector, optimizer.weight, losses, optimizer.stats.run.bytes_sent)


def conduct_all(runs: Sequence[Run], store: Store, jobs: int, course: Course) -> Finished:
    """The outcome of every run; those in the store are not done again, and each is kept as soon as it has finished.

    With jobs above 1 each run is in one of so many processes, with one thread for each worker and one core's work.
    """
    found = store.finished(runs)
    course.advance(len(found))
    missing = [run for run in runs if run not in found]
    work = joblib.Parallel(jobs, return_as="generator_unordered")(joblib.delayed(_one)(run) for run in missing)
    for run, outcome in work:
        store.keep(run, outcome)
        found[run] = outcome
        course.advance(1)
    return found


def _one(run: Run) -> tuple[Run, Outcome]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run, conduct(run)
    finally:
        torch.set_num_threads(threads)  # with one job this is the process of the command itself


def conduct(run: Run) -> Outcome:
    """Train on threads, and score the mean of the ranks' models, Σ w z / Σ w."""
    began = time.perf_counter()
    shared = task(run)
    ranks = on_threads(run.workers, functools.partial(train, run, shared), timeout=300)
    z = torch.stack([rank.parameters for rank in ranks])
    w = torch.tensor([rank.weight for rank in ranks], dtype=z.dtype)
    mean = (w / w.sum()) @ z
    losses = list(map(statistics.fmean, zip(*(rank.losses for rank in ranks), strict=True)))
    count = min(60, run.steps)
    ends = [place * run.steps // count for place in range(count + 1)]
    diverged = not (all(map(math.isfinite, losses)) and bool(mean.isfinite().all()))
    model = shared.model.to(mean.dtype)  # a mean of 16-bit models is not a 16-bit model
    vector_to_parameters(mean, model.parameters())
    workload = WORKLOADS[run.workload]
    return Outcome(
        score=workload.worst if diverged else workload.score(model, shared.data),
        loss=_finite(statistics.fmean(losses[-max(1, run.steps // 10) :])),
        curve=tuple(_finite(statistics.fmean(losses[a:b])) for a, b in pairwise(ends)),
        bytes_sent=max(rank.bytes_sent for rank in ranks),
        consensus=_finite(float((z - mean).pow(2).sum(1).mean().sqrt() / mean.norm())),
        weights=(min(rank.weight for rank in ranks), max(rank.weight for rank in ranks)),
        diverged=diverged,
        seconds=time.perf_counter() - began,
    )


def _finite(number: float) -> float:
    """JSON knows no infinity."""
    return round(number, 6) if math.isfinite(number) else 1e9
