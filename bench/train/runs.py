"""One run: what it is, and what came out of it; each finished one is a file, named by a digest of what it ran."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossip import UsageError

from ..shared.methods import Method
from .workloads import WORKLOADS

DTYPES = ("float32", "bfloat16", "float64")
EDITION = 1
"""Counts up when the same run would come out otherwise, so that finished ones are run again."""


SUMMING = 3e-3
"""Seconds of one core that threads take for a worker's part in an exact sum, which is many small messages."""


@dataclass(frozen=True)
class Run:
    """Everything that decides what comes out.

    Attributes:
        workload: a name in `WORKLOADS`.
        lr: the base optimizer's learning rate after warm-up.
        workers: ranks n.
        steps, batch: updates, and examples of one rank in each; 0 is the workload's own number.
        dtype: of parameters and gradients.
        skew: concentration α of the Dirichlet shards; None where shards are alike.

    >>> from dataclasses import replace
    >>> run = Run("digits", Method("sgp"), lr=0.1)
    >>> run.steps == WORKLOADS["digits"].steps, run.digest == replace(run, seed=1).digest
    (True, False)
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
        """Of one core, roughly."""
        workload = WORKLOADS[self.workload]
        step = workload.seconds * self.batch / workload.batch + (SUMMING if self.method.base == "ar" else 0)
        return self.workers * self.steps * step


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        score: the workload's metric of the mean of the ranks' models.
        loss: the mean training loss of the last tenth of the steps.
        curve: training loss, mean of the ranks, in at most 60 equal stretches of the steps.
        bytes_sent: of a rank in the whole run.
        consensus: sqrt(mean_i ‖z_i − z̄‖²) / ‖z̄‖ after the last step.
        weights: the least and the largest push-sum weight after the last step.
        diverged: whether a loss or a parameter was not finite; the score is then the workload's worst.
        seconds: that it took.
    """

    score: float
    loss: float
    curve: tuple[float, ...]
    bytes_sent: int
    consensus: float
    weights: tuple[float, float]
    diverged: bool
    seconds: float


class Store:
    """A folder of finished runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, run: Run) -> Outcome | None:
        """What came of it, if it has finished."""
        try:
            saved: dict[str, Any] = json.loads(self._path(run).read_text())["outcome"]
        except FileNotFoundError:
            return None
        return Outcome(**{**saved, "curve": tuple(saved["curve"]), "weights": tuple(saved["weights"])})

    def keep(self, run: Run, outcome: Outcome) -> None:
        """Write it down; whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(run)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"run": asdict(run), "outcome": asdict(outcome)}) + "\n")
        part.replace(path)

    def _path(self, run: Run) -> Path:
        return self.folder / f"{run.digest}.json"
