"""Training on a GPU that several ranks share, over each transport that can carry its memory."""

from __future__ import annotations

import pytest
import spawn
import torch
from workers.gpu import CHECKS, RANKS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="about GPUs, and this machine has none")


# Under mpirun torch.distributed has no group, which DistributedDataParallel wants.
PAIRS = [
    (transport, check) for transport in ("nccl", "mpi") for check in CHECKS if (transport, check) != ("mpi", "ddp")
]


@pytest.mark.parametrize(("transport", "check"), PAIRS)
def test_ranks_that_share_a_gpu(transport: str, check: str) -> None:
    start = spawn.run_mpirun if transport == "mpi" else spawn.run_torchrun
    outcome = start(RANKS.get(check, 2), ["-m", "workers.gpu", transport, check])
    assert outcome.code == 0, f"ended with code {outcome.code} after {outcome.seconds:.0f} s\n{outcome.output[-8000:]}"
    assert f"{check}: well" in outcome.output


def test_nccl_reaches_the_mean_with_all_memory_registered() -> None:
    """As the documentation says it can be asked for; what is registered, NCCL keeps to itself."""
    register = {"TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK": "1"}
    outcome = spawn.run_torchrun(2, ["-m", "workers.gpu", "nccl", "averages", "never_waits"], env=register)
    assert outcome.code == 0, outcome.output[-8000:]
    assert "averages: well" in outcome.output
