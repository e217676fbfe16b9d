"""Lightning's Trainer with `GossipStrategy`: `python -m workers.lightning_fit FOLDER DEVICES case...`, on every rank.

Each case writes its results to FOLDER/case-rank.json. Ranks begin with different parameters and see different batches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn
from torchmetrics import MeanMetric

import gossip
import slowmo
from gossip.integrations.lightning import GossipStrategy
from workers.resume import irregular

EPOCHS, BATCHES = 3, 7

Numbers = list[float]


def slow_osgp(optimizer: torch.optim.Optimizer, world: gossip.World, module: torch.nn.Module) -> Any:
    """SlowMo over OSGP, with weights other than 1 and messages in flight."""
    base = gossip.GossipOptimizer(optimizer, irregular(world, 1), module=module, module_buffers="average")
    return slowmo.SlowMo(base, gossip.ExactAverage(world), period=5)


def alone(optimizer: torch.optim.Optimizer, world: gossip.World, module: torch.nn.Module) -> Any:
    """No communication but that of the strategy."""
    return gossip.GossipOptimizer(optimizer, gossip.NoAverage())


class Net(lightning.LightningModule):
    """A small model whose ranks differ in everything."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
        )
        self.rank_metric = MeanMetric()
        self.seen: list[Numbers] = []  # parameters at each validation
        self.losses: Numbers = []
        self.dtypes: set[torch.dtype] = set()
        self.lr = 0.05

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        outputs = self.layers(batch)
        self.dtypes.add(outputs.dtype)
        return (outputs.float() - batch.sum(1, keepdim=True)).square().mean()

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: torch.Tensor, number: int) -> None:
        if number == 0:
            self.seen.append(flat(self))
        rank = float(self.trainer.global_rank)
        for operation in ("mean", "sum", "max", "min"):
            self.log(operation, rank, sync_dist=True, reduce_fx=operation, batch_size=1)
        self.rank_metric.update(rank)
        self.log("metric", self.rank_metric)
        self.log("own", (1 - 2 * rank) * len(self.seen), sync_dist=False)  # rank 0 alone gets worse
        self.log("loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.layers.parameters(), lr=self.lr, momentum=0.9)
        return [sgd], [torch.optim.lr_scheduler.StepLR(sgd, 2, gamma=0.9)]


class Pair(Net):
    """Two optimizers, as a GAN has, in manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, _: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.layers[0].parameters(), lr=0.05), torch.optim.Adam(self.layers[1:].parameters())]


class Watch(lightning.Callback):
    """The last callback: what the run is at some moments."""

    def __init__(self) -> None:
        self.began: Numbers = []
        self.moves: Numbers = []
        self.mean: Numbers = []
        self.own: Numbers = []

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.began = flat(module)

    def on_train_batch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        self.before = torch.tensor(flat(module))

    def on_train_batch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any) -> None:
        self.moves.append(float((torch.tensor(flat(module)) - self.before).norm()))

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Gather w·z and w by hand, everything having landed."""
        world, self.own = trainer.strategy.world, flat(module)
        weights = [optimizer.weight for optimizer in trainer.optimizers]
        assert len(set(weights)) == 1, "one schedule for all optimizers"
        everyone = world.all_gather((weights[0], self.own))
        total = sum(weight for weight, _ in everyone)
        assert abs(total - world.size) < 1e-9, "weight is in flight"
        self.mean = [sum(w * z[k] for w, z in everyone) / total for k in range(len(self.own))]
        self.weight = weights[0]


def flat(module: torch.nn.Module) -> Numbers:
    """All parameters in one list."""
    return [float(value) for each in module.layers.parameters() for value in each.detach().double().reshape(-1)]


def flat_state(state: dict[str, torch.Tensor]) -> Numbers:
    """The parameters of a checkpoint in the order of `flat`."""
    names = [name for name, _ in Net().layers.named_parameters()]
    return [float(value) for name in names for value in state[f"layers.{name}"].double().reshape(-1)]


def batches(rank: int, count: int = BATCHES) -> torch.utils.data.DataLoader[torch.Tensor]:
    data = torch.randn(8 * count, 4, generator=torch.Generator().manual_seed(rank))
    return torch.utils.data.DataLoader(list(data), 8)


class Fit:
    """One run of `fit`."""

    def __init__(self, folder: Path, devices: int, compose: Any = slow_osgp, model: type[Net] = Net, **options: Any):
        self.watch, self.strategy = Watch(), GossipStrategy(compose, timeout=60, **options.pop("strategy", {}))
        callbacks = [*options.pop("callbacks", ()), self.watch]
        checkpoint = options.pop("ckpt_path", None)
        self.trainer = lightning.Trainer(
            accelerator="cpu",
            devices=devices,
            strategy=self.strategy,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(folder),
            use_distributed_sampler=False,  # the shards are made by rank
            callbacks=callbacks,
            **{"max_epochs": EPOCHS, "enable_checkpointing": False, **options},
        )
        rank = self.trainer.global_rank
        torch.manual_seed(rank)
        self.net = model()
        self.trainer.fit(self.net, batches(rank), batches(100 + rank, 2), ckpt_path=checkpoint)

    def told(self, **more: Any) -> dict[str, Any]:
        """What every case tells."""
        world = self.strategy.world
        optimizers = self.trainer.optimizers
        return {
            "place": f"rank {world.rank} of {world.size} over {world.transport}",
            "mean": self.watch.mean,
            "own": self.watch.own,
            "module": flat(self.net),
            "seen": self.net.seen,
            "weight": self.watch.weight,
            "steps": [optimizer.stats.run.steps for optimizer in optimizers],
            "global step": self.trainer.global_step,
            "epoch": self.trainer.current_epoch,
            "buffers": self.net.layers[1].running_mean.tolist(),
            **more,
        }


def published(folder: Path, devices: int) -> dict[str, Any]:
    """A run that saves at the end of each epoch and once more by hand, and is tested."""
    saver = ModelCheckpoint(folder / "saved", filename="{epoch}", save_top_k=-1)
    fit = Fit(folder, devices, callbacks=[saver], enable_checkpointing=True)
    fit.trainer.save_checkpoint(folder / "by-hand.ckpt")
    files = [torch.load(path, weights_only=False) for path in (saver.best_model_path, folder / "by-hand.ckpt")]
    seen = len(fit.net.seen)
    fit.trainer.validate(fit.net, batches(fit.trainer.global_rank), verbose=False)
    return fit.told(
        files=[flat_state(each["state_dict"]) for each in files],
        buffers_saved=[each["state_dict"]["layers.1.running_mean"].tolist() for each in files],
        momentum=[numbers(each["optimizer_states"][0]["state"]) for each in files],
        validated=fit.net.seen[seen:],
    )


def numbers(state: Any) -> Numbers:
    """Every number in a state."""
    if torch.is_tensor(state):
        return [float(value) for value in state.double().reshape(-1)]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [number for part in parts for number in numbers(part)]


def resumed(folder: Path, devices: int) -> dict[str, Any]:
    """From the checkpoint in FOLDER, which another number of ranks has saved."""
    path = folder / "from.ckpt"
    state = torch.load(path, weights_only=False)
    fit = Fit(folder, devices, ckpt_path=path, max_epochs=EPOCHS + 2)
    return fit.told(saved=flat_state(state["state_dict"]), began=fit.watch.began, was=state["global_step"])


def logged(folder: Path, devices: int) -> dict[str, Any]:
    fit = Fit(folder, devices, max_epochs=1)
    names = ("mean", "sum", "max", "min", "metric", "loss")
    return fit.told(logged={name: float(fit.trainer.callback_metrics[name]) for name in names})


def stopped(folder: Path, devices: int) -> dict[str, Any]:
    """Rank 0 alone sees no improvement."""
    return Fit(folder, devices, callbacks=[EarlyStopping("own", patience=2)], max_epochs=20).told()


def clipped(folder: Path, devices: int) -> dict[str, Any]:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.layers.parameters(), lr=1.0)

    fit = Fit(folder, devices, alone, Plain, gradient_clip_val=1e-3, max_epochs=1)
    return fit.told(moves=fit.watch.moves)


def accumulated(folder: Path, devices: int) -> dict[str, Any]:
    return Fit(folder, devices, accumulate_grad_batches=3).told()


def mixed(folder: Path, devices: int) -> dict[str, Any]:
    fit = Fit(folder, devices, precision="bf16-mixed", max_epochs=12)
    dtypes = sorted(map(str, {each.dtype for each in fit.net.layers.parameters()}))
    return fit.told(losses=fit.net.losses, outputs=sorted(map(str, fit.net.dtypes)), parameters=dtypes)


def smoothed(folder: Path, devices: int) -> dict[str, Any]:
    """With a moving average of the parameters, by Lightning's own callback."""
    saver = ModelCheckpoint(folder / "smooth")
    callbacks = [WeightAveraging(avg_fn=get_ema_avg_fn(0.5)), saver]
    fit = Fit(folder, devices, callbacks=callbacks, enable_checkpointing=True)
    state = torch.load(saver.best_model_path, weights_only=False)
    return fit.told(file=flat_state(state["state_dict"]))


def paired(folder: Path, devices: int) -> dict[str, Any]:
    def osgp(optimizer: torch.optim.Optimizer, world: gossip.World, module: torch.nn.Module) -> Any:
        return gossip.GossipOptimizer(optimizer, irregular(world, 1), module=module)

    fit = Fit(folder, devices, osgp, Pair)
    fit.trainer.save_checkpoint(folder / "pair.ckpt")
    state = torch.load(folder / "pair.ckpt", weights_only=False)
    return fit.told(file=flat_state(state["state_dict"]), states=len(state["optimizer_states"]))


def unshared(folder: Path, devices: int) -> dict[str, Any]:
    """Each rank validates its own model."""
    return Fit(folder, devices, strategy={"evaluate_mean": False}).told()


def by_name(folder: Path, devices: int) -> dict[str, Any]:
    """The registered name, with a sampler of Lightning's."""
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy="gossip", max_epochs=1, logger=False, barebones=True
    )
    net, data = Net(), [torch.full((4,), float(number)) for number in range(64)]
    trainer.fit(net, torch.utils.data.DataLoader(data, 4))
    world = trainer.strategy.world
    return {
        "place": f"rank {world.rank} of {world.size} over {world.transport}",
        "batches": trainer.num_training_batches,
        "optimizer": repr(trainer.optimizers[0]),
        "module": flat(net),
    }


def failed(folder: Path, devices: int) -> dict[str, Any]:
    """Rank 1 fails in a step, while rank 0 waits for its messages."""

    class Failing(Net):
        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            if self.trainer.global_rank == 1 and number == 3:
                raise RuntimeError("rank 1 has had enough")
            return super().training_step(batch, number)

    return Fit(folder, devices, model=Failing).told()


CASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    case.__name__: case
    for case in (
        published, resumed, logged, stopped, clipped, accumulated, mixed, smoothed, paired, unshared, by_name,
        failed,
    )
}  # fmt: skip


def main(folder: str, devices: str, *cases: str) -> None:
    torch.set_num_threads(1)
    for case in cases:
        print(f"runs {case}", flush=True)
        said = CASES[case](Path(folder), int(devices))
        rank = said["place"].split()[1]
        Path(folder, f"{case}-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
