"""One run: its settings, its outcome, and the folder of finished ones, files named by a digest of the settings."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import topologies
from gossip import UsageError
from gossip.state.codecs import CODECS

from ..scale import Cluster, Machine, simulate
from ..shared import paper
from ..shared.methods import Method
from .workloads import WORKLOADS

DTYPES = ("float32", "bfloat16", "float64")
EDITION = 1  # counts up when the same run would come out otherwise, so that finished ones are run again
NETWORK = (
    f"{paper.NBYTES / 1e6:g} MB of float32 parameters, {paper.COMPUTE * 1e3:g} ms of compute a step, links of "
    f"{paper.RATE / 1e9:g} Gbit/s"
)


@dataclass(frozen=True)
class Run:
    """All settings that decide the outcome.

    lr: the base optimizer's learning rate after warm-up. steps, batch: updates, and examples of one rank in each; 0 is
    the workload's own number. dtype: of parameters and gradients. skew: concentration α of the Dirichlet shards; None
    where shards are alike.
    """

    workload: str
    method: Method
    lr: float
    seed: int = 0
    workers: int = 8
    steps: int = 0
    batch: int = 0
    dtype: str = "float32"
    skew: float | None = None

    def __post_init__(self) -> None:
        if self.workload not in WORKLOADS:
            raise UsageError(f"there is no workload {self.workload!r}; there are {', '.join(WORKLOADS)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"parameters of dtype {self.dtype!r} are not trained here; there are {', '.join(DTYPES)}")
        workload = WORKLOADS[self.workload]
        object.__setattr__(self, "steps", self.steps or workload.steps)
        object.__setattr__(self, "batch", self.batch or workload.batch)
        if self.method.periodic and self.method.period > self.steps:
            raise UsageError(f"{self.steps} steps are less than one period of {self.method.title}")

    @property
    def digest(self) -> str:
        """Short, and another one for every other run."""
        method = {name: value for name, value in asdict(self.method).items() if value is not None}
        text = json.dumps([EDITION, {**asdict(self), "method": method}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def seconds(self) -> float:
        """The time that it takes on one core, roughly."""
        workload = WORKLOADS[self.workload]
        step = workload.seconds * self.batch / workload.batch
        step += 3e-3 if self.method.base == "ar" else 0.0  # for a worker's part in an exact sum, many small messages
        return self.workers * self.steps * step

    @property
    def predicted_seconds(self) -> float:
        """The time on a slow network, by `bench scale`, for a model of ResNet-50's size.

        Exact averages travel in float32; with a wire, or parameters of 16 bits, they count as if they were as short.
        """
        nbytes = paper.NBYTES // 2 if self.dtype == "bfloat16" else paper.NBYTES
        moments = 1 if WORKLOADS[self.workload].optimizer == "sgd" else 2
        values = torch.empty(1 << 16)
        share = CODECS[self.method.wire].buffer(values).nbytes / values.nbytes
        return self.steps * _predicted_step(self.method, moments, self.workers, round(nbytes * share))


@functools.cache
def _predicted_step(method: Method, moments: int, workers: int, nbytes: int) -> float:
    traffic, graph = method.traffic(moments), topologies.load(method.graph, workers)
    machine = Machine(compute=paper.COMPUTE, rate=paper.RATE, latency=50e-6, jitter=0.03, tail=4.0)
    steps = -(-192 // traffic.window) * traffic.window
    return simulate({"it": traffic}, Cluster(machine, workers), graph, nbytes, steps, warmup=48)["it"].seconds.mean


@dataclass(frozen=True)
class Outcome:
    """The figures of a run.

    score: of the mean of the ranks' models. loss: the mean training loss of the last tenth of the steps. curve: the
    loss, mean of the ranks, in at most 60 equal stretches of the steps. bytes_sent: of a rank. consensus: sqrt(mean_i
    ‖z_i − z̄‖²) / ‖z̄‖ at the end. weights: the least and the largest push-sum weight at the end. diverged: whether a
    loss or a parameter was not finite; the score is then the workload's worst.
    """

    score: float
    loss: float
    curve: tuple[float, ...]
    bytes_sent: int
    consensus: float
    weights: tuple[float, float]
    diverged: bool
    seconds: float


Finished = dict[Run, Outcome]


@dataclass(frozen=True)
class Store:
    """A folder of finished runs."""

    folder: Path

    def finished(self, runs: Iterable[Run]) -> Finished:
        """Those of the runs that have finished."""
        found = {}
        for run in runs:
            with contextlib.suppress(FileNotFoundError):
                saved = json.loads((self.folder / f"{run.digest}.json").read_text())["outcome"]
                saved |= {"curve": tuple(saved["curve"]), "weights": tuple(saved["weights"])}
                found[run] = Outcome(**saved)
        return found

    def keep(self, run: Run, outcome: Outcome) -> None:
        """Write an outcome down; whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{run.digest}.{os.getpid()}"
        part.write_text(json.dumps({"run": asdict(run), "outcome": asdict(outcome)}) + "\n")
        part.replace(part.with_suffix(".json"))


def expected_seconds(runs: Sequence[Run], known: Finished) -> float:
    """Of one core for the runs that are missing: as their workloads say, or as finished ones have shown."""
    total = 0.0
    for run in runs:
        alike = [other for other in known if other.workload == run.workload]
        pace = sum(known[other].seconds for other in alike) / sum(other.seconds for other in alike) if alike else 1.0
        total += 0.0 if run in known else run.seconds * pace
    return total
