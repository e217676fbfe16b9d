"""The batch scripts of examples/slurm, as Slurm would start them; a stand-in for srun starts the ranks with mpirun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import spawn
from spawn import MPIRUN, ROOT

SLURM = ROOT / "examples" / "slurm"
RESUME = str(ROOT / "examples" / "resume.py")
BIN = Path(sys.executable).parent
STAND_IN = """#!/bin/bash
[[ $1 != --mpi=pmix ]] || shift
exec mpirun {options} -n 2 "$@"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script, with the project's Python, and `srun`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(STAND_IN.format(options=" ".join(MPIRUN)))
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(BIN), os.environ["PATH"]])
    return {**spawn.variables({}), "PATH": path, "SLURM_CPUS_PER_TASK": "1"}


@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_ranks_of_a_batch_script(transport: str, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import gossip; print(gossip.init(timeout=60), flush=True)")
    batch = ["bash", str(SLURM / f"{transport}.sbatch"), str(tmp_path / "shown.py")]
    ended = subprocess.run(batch, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert sorted(re.findall(rf"World\(rank (\d) of 2, .*?over {transport}\)", ended.stdout)) == ["0", "1"]


def test_a_batch_script_hands_the_warning_on_to_mpirun(env: dict[str, str], tmp_path: Path) -> None:
    """The ranks save and end, and the exit code is theirs."""
    env |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    batch = subprocess.Popen(
        ["bash", str(SLURM / "mpirun.sbatch"), RESUME, str(tmp_path / "run"), "1000000000"],
        env=env, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert batch.stdout is not None
        assert "begins at step 0" in batch.stdout.readline()
        batch.send_signal(signal.SIGUSR2)
        rest, _ = batch.communicate(timeout=240)
    finally:
        if batch.poll() is None:
            os.killpg(batch.pid, signal.SIGKILL)
    assert batch.returncode == 0, rest
    assert "ends at step" in rest
    assert list((tmp_path / "run").iterdir()), "it has saved"
