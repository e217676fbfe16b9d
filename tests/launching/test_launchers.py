"""Environments as launchers write them, and the launcher and rank that are read from each."""

from __future__ import annotations

import pytest

from gossip.errors import UsageError
from gossip.launching.launchers import Launcher, detect

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_RANK": "5",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
BY_HAND = {"RANK": "6", "WORLD_SIZE": "8", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
TORCHRUN = {**BY_HAND, "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
ALLOCATION = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "16", "SLURM_TASKS_PER_NODE": "8(x2)"}
BATCH = {**ALLOCATION, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
SRUN = {
    **ALLOCATION,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}
# Since Slurm 20.11, salloc may give a shell that is a step by itself, with an id that Slurm keeps for it.
SHELL = {**BATCH, "SLURM_STEP_ID": str(0xFFFFFFFA), "SLURM_STEP_NUM_TASKS": "1"}

OPENMPI_5_OF_8 = Launcher("openmpi", 5, 8, 1, 4)
HYDRA_3_OF_4 = Launcher("mpich", 3, 4, 1, 2)
TORCHRUN_6_OF_8 = Launcher("torchrun", 6, 8, 2, 4)
SRUN_4_OF_7 = Launcher("srun", 4, 7, 0, 2)
ALONE = Launcher("none", 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, ALONE, id="python"),
        pytest.param(OPENMPI, OPENMPI_5_OF_8, id="Open MPI"),
        pytest.param(HYDRA, HYDRA_3_OF_4, id="MPICH or Intel MPI"),
        pytest.param({"PMI_RANK": "1", "PMI_SIZE": "2"}, Launcher("mpich", 1, 2, 0, 1), id="PMI without a local rank"),
        pytest.param(TORCHRUN, TORCHRUN_6_OF_8, id="torchrun"),
        pytest.param(BY_HAND, Launcher("torchrun", 6, 8, 0, 1), id="torchrun's variables by hand, a rank per host"),
        pytest.param({**BY_HAND, "LOCAL_RANK": "6"}, Launcher("torchrun", 6, 8, 6, 8), id="by hand, on one host"),
        pytest.param(SRUN, SRUN_4_OF_7, id="srun"),
        pytest.param({**SRUN, "SLURM_NODEID": "3", "SLURM_PROCID": "6"}, Launcher("srun", 6, 7, 0, 1), id="last node"),
        pytest.param(
            {"SLURM_PROCID": "1", "SLURM_STEPID": "3", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"},
            Launcher("srun", 1, 2, 1, 2),
            id="old srun",
        ),
        # Slurm without srun started nothing.
        pytest.param(ALLOCATION, ALONE, id="python in salloc"),
        pytest.param(BATCH, ALONE, id="python in a batch script"),
        pytest.param(SHELL, ALONE, id="python in the shell of salloc"),
        # One launcher inside another.
        pytest.param({**ALLOCATION, **OPENMPI}, OPENMPI_5_OF_8, id="mpirun in salloc"),
        pytest.param({**BATCH, **OPENMPI}, OPENMPI_5_OF_8, id="mpirun in a batch script"),
        pytest.param({**SRUN, **OPENMPI}, OPENMPI_5_OF_8, id="mpirun whose daemons srun started"),
        pytest.param({**SRUN, **HYDRA}, HYDRA_3_OF_4, id="mpiexec whose proxies srun started"),
        pytest.param({**SRUN, "PMI_RANK": "4", "PMI_SIZE": "7"}, SRUN_4_OF_7, id="srun --mpi=pmi2"),
        pytest.param({**SRUN, "PMIX_RANK": "4"}, SRUN_4_OF_7, id="srun --mpi=pmix"),
        pytest.param({**SRUN, **TORCHRUN}, TORCHRUN_6_OF_8, id="torchrun in srun"),
        pytest.param({**OPENMPI, **TORCHRUN}, TORCHRUN_6_OF_8, id="torchrun in mpirun"),
        pytest.param({**BY_HAND, **OPENMPI}, OPENMPI_5_OF_8, id="mpirun in a pod that has RANK"),
        pytest.param({**SRUN, **BY_HAND}, Launcher("torchrun", 6, 8, 0, 1), id="RANK by hand in srun"),
        # Variables without a rank, left over from another job, count for nothing; neither do empty ones.
        pytest.param({**SRUN, "WORLD_SIZE": "7", "MASTER_ADDR": "node0"}, SRUN_4_OF_7, id="WORLD_SIZE by hand"),
        pytest.param({"WORLD_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "8", "PMI_SIZE": "8"}, ALONE, id="sizes alone"),
        pytest.param({"RANK": "", "OMPI_COMM_WORLD_RANK": " "}, ALONE, id="empty"),
    ],
)
def test_launcher_is_read_from_the_environment(environ: dict[str, str], expected: Launcher) -> None:
    assert detect(environ) == expected


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({**TORCHRUN, "RANK": "abc"}, "RANK=abc is no rank or number of ranks.*start again under torchrun"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK=-1 is no rank"),
        ({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "4.0"}, "OMPI_COMM_WORLD_SIZE=4.0 is no rank"),
        ({**TORCHRUN, "RANK": "8"}, "RANK=8 and WORLD_SIZE=8, but the ranks of 8 go from 0 to 7.*left over"),
        ({"RANK": "2"}, "torchrun did not set WORLD_SIZE.*unset them"),
        ({"PMI_RANK": "0"}, "mpich did not set PMI_SIZE"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "rank 6 of 8 is number 4 of 4 on its host"),
        ({**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "9"}, "number 1 of 9 on its host"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(3)"}, r"SLURM_STEP_TASKS_PER_NODE=2\(3\) cannot be read"),
    ],
)
def test_contradicting_variables_are_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        detect(environ)
