"""The runtime against the oracle, to 1e-9 in parameters and weights, at each of 40 steps: see `workers/cases.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import spawn
import torch
from workers.cases import CORE, MORE, Case, expected, over_every_graph, train

from gossip import testing
from gossip.transports import Network

SIZES = [2, 3, 5, 8]


def agree(case: Case, size: int, ranks: Sequence[spawn.Saved], prefix: str = "") -> None:
    """Parameters and weights, at every step and once all has landed."""
    history = expected(case, size)
    assert np.abs(history.z).max() < 10, "the case itself diverges, so that an error of 1e-9 means nothing"
    for rank, saved in enumerate(ranks):
        assert saved[prefix + "z"].shape == history.z[:, rank].shape
        for what, reference in [
            ("z", history.z[:, rank]),
            ("w", history.w[:, rank]),
            ("settled_z", history.settled_z[rank]),
            ("settled_w", history.settled_w[rank]),
        ]:
            difference = np.abs(saved[prefix + what] - reference)
            wrong = np.argwhere(np.atleast_1d(~(difference < 1e-9)))
            assert not len(wrong), (
                f"{case.name}, rank {rank} of {size}: {what} is off by {np.nanmax(difference):.2g}, first at {wrong[0]}"
            )


@pytest.mark.parametrize(
    ("size", "case"),
    [*((size, case) for size in SIZES for case in CORE), *((size, case) for size in (1, 5) for case in MORE)],
    ids=lambda value: getattr(value, "name", None),
)
def test_memory(size: int, case: Case) -> None:
    agree(case, size, testing.run(size, lambda world: train(case, world)))


@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
def test_late_messages(case: Case) -> None:
    """Nothing is written while it is being sent, however late it is taken."""
    delays = np.random.default_rng(0).uniform(0, 3e-3, 97)
    slow = Network(delay=lambda source, target, number: float(delays[(source + 7 * target + number) % 97]))
    agree(case, 3, testing.run(3, lambda world: train(case, world), network=slow))


Launch = Callable[[str], "list[spawn.Saved]"]
RUNS = {
    "8": ["8=5+2+1", "mpi"],
    "8 over gloo": ["8=5+2+1", "gloo"],
    "3": ["3=2+1", "mpi/far", "gloo"],
    "3 staged": ["3=2+1", "mpi/far", "mpi/staged"],
    "8 over graphs": ["8", "mpi/graphs"],
    "5 over graphs": ["5", "mpi/graphs"],
}
"""The launches; some also split their world into smaller ones that train side by side."""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The cases of a launch, one after another in the same processes, under one mpirun."""

    @cache
    def results(name: str) -> list[spawn.Saved] | AssertionError:
        folder = tmp_path_factory.mktemp("mpirun")
        try:
            return spawn.mpirun(int(name.split()[0]), "workers.train", folder, *RUNS[name])
        except AssertionError as failure:
            return failure  # kept too, or every case would launch again

    def launch(name: str) -> list[spawn.Saved]:
        ranks = results(name)
        if isinstance(ranks, AssertionError):
            raise ranks
        return ranks

    return launch


OF_8, OF_3 = [(8, 0), (5, 0), (2, 5), (1, 7)], [(3, 0), (2, 0), (1, 2)]
"""How many ranks each world has, and which process is the first of them."""


@pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("name", "transport", "size", "first"),
    [
        *(("3", transport, *part) for transport in ("mpi/far", "gloo") for part in OF_3),
        *(pytest.param("8", "mpi", *part, marks=pytest.mark.slow) for part in OF_8),
        *(pytest.param("8 over gloo", "gloo", *part, marks=pytest.mark.slow) for part in OF_8),
    ],
)
def test_mpirun(name: str, transport: str, size: int, first: int, case: Case, launched: Launch) -> None:
    agree(case, size, launched(name)[first : first + size], f"{transport}/{size}/{case.name}/")


@pytest.mark.slow
def test_staged_training_has_the_same_bits(launched: Launch) -> None:
    """SGP, OSGP, overlap 2, exact averages and SlowMo, in chunks of which no bucket is a multiple."""
    for saved in launched("3 staged"):
        names = [name for name in saved if name.startswith("mpi/staged/")]
        assert len(names) == 2 * 4 * len(CORE)
        different = [n for n in names if not np.array_equal(saved[n], saved[n.replace("mpi/staged/", "mpi/far/")])]
        assert not different


def test_torchrun(tmp_path: Path) -> None:
    """`transport="gloo"` without any MPI."""
    ranks = spawn.torchrun(2, "workers.train", tmp_path, "2", "gloo")
    for case in CORE:
        agree(case, 2, ranks, f"gloo/2/{case.name}/")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NCCL needs a GPU, and this machine has none")
def test_nccl(tmp_path: Path) -> None:
    """On the memory of a GPU, which the ranks share; MPI carries it too, in `test_mpirun`, where there is one."""
    ranks = spawn.torchrun(3, "workers.train", tmp_path, "3=2+1", "nccl")
    for size, first in OF_3:
        for case in CORE:
            agree(case, size, ranks[first : first + size], f"nccl/{size}/{case.name}/")


@pytest.mark.slow
def test_every_graph_that_ships() -> None:
    """OSGP over each."""
    for case in over_every_graph(5):
        agree(case, 5, testing.run(5, lambda world, case=case: train(case, world)))  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 8])
def test_every_graph_that_ships_under_mpirun(size: int, launched: Launch) -> None:
    """OSGP over each on 5 ranks, SGP on 8."""
    for case in over_every_graph(size):
        agree(case, size, launched(f"{size} over graphs"), f"mpi/graphs/{size}/{case.name}/")
