"""The threads of a rank: its share of the host's cores, its binding and its control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from gossip.launching import cores
from gossip.launching.launchers import Launcher

FREE = set(range(16))


@pytest.mark.parametrize(
    ("mine", "parents", "quota", "ranks", "share"),
    [
        pytest.param(FREE, FREE, math.inf, 1, 16, id="alone"),
        pytest.param(FREE, FREE, math.inf, 4, 4, id="bound to nothing"),
        pytest.param(FREE, FREE, math.inf, 5, 3, id="rounded down"),
        pytest.param(FREE, FREE, math.inf, 40, 1, id="more ranks than cores"),
        pytest.param(set(range(4)), FREE, math.inf, 4, 4, id="each rank bound to cores of its own"),
        pytest.param(set(range(8)), FREE, math.inf, 4, 4, id="two ranks to a package"),
        pytest.param({3}, FREE, math.inf, 2, 1, id="bound to one core"),
        pytest.param(set(range(4)), set(range(4)), math.inf, 4, 1, id="a container of four cores"),
        pytest.param(FREE, FREE, 6.0, 2, 3, id="a container with six cores' worth of time"),
        pytest.param(FREE, FREE, 0.5, 1, 1, id="a container with half a core"),
    ],
)
def test_a_rank_gets_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, mine: set[int], parents: set[int], quota: float, ranks: int, share: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: parents if process else mine, raising=False)
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.share(Launcher("openmpi", 0, ranks, 0, ranks)) == share


def test_srun_names_the_cores_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    # The parent of a task is Slurm's daemon, which may run on every core of the host.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: FREE if process else set(range(8)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda: math.inf)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert cores.share(Launcher("srun", 0, 4, 0, 4)) == 2


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pod/rank\n", {"pod/rank/cpu.max": "400000 100000", "pod/cpu.max": "200000 100000"}, 2.0),
        ("0::/pod/rank\n", {"pod/rank/cpu.max": "max 100000", "cpu.max": "300000 100000"}, 3.0),
        (
            "2:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("2:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, math.inf),
        ("3:cpuset:/\n1:name=systemd:/\n", {}, math.inf),
    ],
)
def test_quota_of_control_groups(tmp_path: Path, membership: str, files: dict[str, str], expected: float) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "self").write_text(membership)
    assert cores.quota(tmp_path / "self", root) == expected


def test_quota_is_infinite_without_control_groups(tmp_path: Path) -> None:
    assert cores.quota(tmp_path / "absent", tmp_path) == math.inf
