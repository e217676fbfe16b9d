"""The place of this process in a job that a launcher other than Lightning's started."""

from __future__ import annotations

from lightning.fabric.plugins.environments import LightningEnvironment

from ...errors import UsageError
from ...launching.launchers import Launcher


class Launched(LightningEnvironment):
    """The ranks that mpirun, torchrun or srun started.

    Args:
        launcher: as the environment's variables tell it.
    """

    def __init__(self, launcher: Launcher) -> None:
        super().__init__()
        self._job = launcher

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def global_rank(self) -> int:
        return self._job.rank

    def world_size(self) -> int:
        return self._job.size

    def local_rank(self) -> int:
        return self._job.local_rank

    def node_rank(self) -> int:
        return self._job.rank // self._job.local_size

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        job = self._job
        if num_devices not in (1, job.local_size):
            raise UsageError(
                f"{job.name} started {job.local_size} of {job.size} ranks on this host, and Trainer(devices=...) comes "
                f"to {num_devices}: give devices={job.local_size}, or devices=1 for the one device of each process"
            )

    def teardown(self) -> None:
        """Leave the launcher's variables as they are."""
