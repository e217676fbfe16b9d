"""Train loops on the workers of Ray Train: `python -m workers.raytrain FOLDER`; prints what came of each."""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer

import gossip
import slowmo
import topologies

ROOT = Path(__file__).parents[3]


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def momenta(optimizer: Any) -> torch.Tensor:
    return flat([*(state["momentum_buffer"] for state in optimizer.state.values()), *optimizer.momenta])


def loop(config: dict[str, Any]) -> None:
    """Seven steps of OSGP with SlowMo, and a checkpoint while messages are in flight; the mean by hand beside it."""
    world, context = gossip.init(timeout=60), train.get_context()
    assert (world.rank, world.size) == (context.get_world_rank(), context.get_world_size())
    assert (world.local_rank, world.local_size) == (context.get_local_rank(), context.get_local_world_size())
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = slowmo.SlowMo(gossip.GossipOptimizer(sgd, averager, module=model), gossip.ExactAverage(world), period=5)
    begins = 0
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        begins = saved["step"]
        assert optimizer.steps == begins
        assert torch.equal(flat(model.parameters()), flat(saved["model"].values()))
        assert torch.equal(momenta(optimizer), saved["momenta"])
    for step in range(begins, begins + 7):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(100 * step + world.rank)).double()
        optimizer.zero_grad()
        (model(x) - 3 * x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
    assert optimizer.weight < 1 or world.size == 1, "a message is in flight"

    own = momenta(optimizer)
    published, portable = optimizer.mean_state_dict(model), optimizer.portable_state_dict()
    optimizer.settle()
    channel, w = world.channel(), torch.tensor([optimizer.weight]).double()
    wz, mean = w * flat(model.parameters()), own / world.size
    channel.sum([wz, w, mean]).wait()
    error = (flat(published.values()) - wz / w).abs().max().item()
    state = {"model": published, "optimizer": portable, "step": begins + 7, "momenta": mean}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, "state.pt"))
        reported = train.Checkpoint.from_directory(folder) if world.rank == 0 else None
        train.report({"begins": begins, "error": error}, checkpoint=reported)
    world.close()


def failing(config: dict[str, Any]) -> None:
    world = gossip.init(timeout=60)
    if world.rank == 1:
        raise LookupError("no data")
    world.barrier()


def fit(train_loop: Any, workers: int, folder: str, name: str) -> Any:
    return TorchTrainer(
        train_loop,
        scaling_config=train.ScalingConfig(num_workers=workers),
        run_config=train.RunConfig(name=name, storage_path=folder),
    ).fit()


def main(folder: str) -> None:
    ray.init(num_cpus=4, include_dashboard=False)
    for workers, epochs in ((2, 3), (4, 6)):
        sys.argv = ["ray_digits.py", folder, str(workers), str(epochs)]
        runpy.run_path(str(ROOT / "examples" / "ray_digits.py"), run_name="__main__")
    for workers in (2, 4):
        metrics = fit(loop, workers, folder, "loop").metrics
        print(f"loop on {workers}: begins at {metrics['begins']}, error {metrics['error']}", flush=True)
    try:
        fit(failing, 2, folder, "failing")
    except Exception as error:
        print("failed:", str(error).replace("\n", " | "), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
