"""Lightning's Trainer over ranks that gossip, under mpirun, torchrun and Lightning's own launcher."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import spawn
import torch

import gossip
import slowmo

lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install -e '.[lightning]'")
strategies = pytest.importorskip("gossip.integrations.lightning", reason="Lightning is not installed")

Told = dict[str, list[dict[str, Any]]]
"""What the ranks told, by case and rank."""

EXAMPLE = spawn.ROOT / "examples" / "lightning_digits.py"
EPOCHS, BATCHES, MOMENTA = 3, 7, 49  # of workers.lightning_fit, whose parameters and momenta are 49 numbers


def told(outcome: spawn.Outcome, folder: Path, size: int, cases: list[str]) -> Told:
    assert outcome.code == 0, outcome.output[-8000:]
    return {case: [json.loads((folder / f"{case}-{rank}.json").read_text()) for rank in range(size)] for case in cases}


def command(folder: Path, devices: int, cases: list[str]) -> list[str]:
    return ["-m", "workers.lightning_fit", str(folder), str(devices), *cases]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Four ranks under mpirun, each with devices=1; the checkpoint that others resume from is in "folder"."""
    folder, cases = tmp_path_factory.mktemp("four"), ["published"]
    ranks = told(spawn.run_mpirun(4, command(folder, 1, cases)), folder, 4, cases)
    return {**ranks, "folder": [{"path": str(folder)}]}


def placed(four: Told, folder: Path) -> Path:
    """A folder with the checkpoint of four ranks."""
    (folder / "from.ckpt").write_bytes(Path(four["folder"][0]["path"], "by-hand.ckpt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def two(four: Told, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Two ranks under mpirun: every case."""
    folder = placed(four, tmp_path_factory.mktemp("two"))
    cases = ["published", "resumed", "logged", "stopped", "clipped", "accumulated", "mixed", "smoothed", "paired",
             "unshared", "by_name"]  # fmt: skip
    return told(spawn.run_mpirun(2, command(folder, 2, cases)), folder, 2, cases)


@pytest.fixture(scope="module")
def torchrun(four: Told, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder, cases = placed(four, tmp_path_factory.mktemp("torchrun")), ["published", "resumed", "logged"]
    return told(spawn.run_torchrun(2, command(folder, 2, cases)), folder, 2, cases)


@pytest.fixture(scope="module")
def own(four: Told, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Two ranks that Lightning itself has started."""
    folder, cases = placed(four, tmp_path_factory.mktemp("own")), ["published", "resumed", "logged", "by_name"]
    return told(spawn.run_python(command(folder, 2, cases)), folder, 2, cases)


LAUNCHED = [("two", "mpi"), ("torchrun", "gloo"), ("own", "gloo")]
ON_TWO_RANKS = pytest.mark.parametrize("name", [name for name, _ in LAUNCHED])
EVERYWHERE = pytest.mark.parametrize("name", ["four", *(name for name, _ in LAUNCHED)])


def near(numbers: list[float], to: list[float], at: float = 1e-6) -> bool:
    return len(numbers) == len(to) > 0 and max(abs(a - b) for a, b in zip(numbers, to, strict=True)) < at


@pytest.mark.parametrize(("name", "transport"), LAUNCHED)
def test_each_launcher_makes_one_world_of_its_ranks(name: str, transport: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["published"]
    assert [each["place"] for each in ranks] == [f"rank {rank} of 2 over {transport}" for rank in range(2)]


@EVERYWHERE
def test_the_module_and_every_checkpoint_are_the_mean_of_all_ranks(name: str, request: pytest.FixtureRequest) -> None:
    """The truth is Σ w z / Σ w, gathered by hand; weights differ, and each rank's own model is another."""
    ranks = request.getfixturevalue(name)["published"]
    assert any(abs(each["weight"] - 1) > 1e-3 for each in ranks)
    for each in ranks:
        assert not near(each["own"], each["mean"], 1e-4)
        assert near(each["module"], each["mean"])
        assert each["module"] == ranks[0]["module"]
        for file in each["files"]:
            assert near(file, each["mean"])
        for buffers in each["buffers_saved"]:
            assert near(each["buffers"], buffers)


@EVERYWHERE
def test_validation_during_fit_sees_the_mean(name: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["published"]
    for each in ranks:
        assert each["seen"] == ranks[0]["seen"]
        assert near(each["seen"][-1 - len(each["validated"])], each["mean"]), "of the last epoch"
        assert each["validated"] == [each["module"]], "validate() after fit"


@EVERYWHERE
def test_a_step_of_the_optimizer_is_a_step_of_the_schedule(name: str, request: pytest.FixtureRequest) -> None:
    for each in request.getfixturevalue(name)["published"]:
        assert each["steps"] == [each["global step"]] == [EPOCHS * BATCHES]


@EVERYWHERE
def test_checkpoints_hold_one_state_of_the_optimizer_for_all_ranks(name: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["published"]
    momenta = [momentum for each in ranks for momentum in each["momentum"]]
    assert all(len(momentum) == MOMENTA and any(momentum) for momentum in momenta)
    assert all(near(momentum, momenta[0]) for momentum in momenta)


@ON_TWO_RANKS
def test_a_run_of_four_ranks_goes_on_with_two(name: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["resumed"]
    for each in ranks:
        assert each["began"] == each["saved"]
        assert each["was"] == EPOCHS * BATCHES
        assert each["global step"] == each["was"] + 2 * BATCHES
        assert near(each["module"], each["mean"])
        assert not near(each["module"], each["saved"], 1e-3), "it trains on"


@ON_TWO_RANKS
def test_logged_values_are_reduced_over_all_ranks(name: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["logged"]
    for each in ranks:
        wanted = {"mean": 0.5, "sum": 2.0, "max": 1.0, "min": 0.0, "metric": 0.5}  # two validation batches on each rank
        assert {name: each["logged"][name] for name in wanted} == wanted
        assert each["logged"]["loss"] == ranks[0]["logged"]["loss"]


def test_early_stopping_stops_all_ranks_when_one_wants_to(two: Told) -> None:
    ranks = two["stopped"]
    assert [each["global step"] for each in ranks] == [ranks[0]["global step"]] * 2
    assert ranks[0]["epoch"] == 3, "one value, and two that are not better"


def test_clipping_bounds_each_rank_s_gradient(two: Told) -> None:
    for each in two["clipped"]:
        assert len(each["moves"]) == BATCHES
        assert all(0 < move <= 1.001e-3 for move in each["moves"])
        assert max(each["moves"]) > 0.99e-3


def test_accumulating_gradients_makes_fewer_steps(two: Told) -> None:
    for each in two["accumulated"]:
        assert each["steps"] == [each["global step"]] == [EPOCHS * math.ceil(BATCHES / 3)]
        assert near(each["module"], each["mean"])


def test_bf16_mixed_trains_float32_parameters(two: Told) -> None:
    for each in two["mixed"]:
        assert each["outputs"] == ["torch.bfloat16"]
        assert each["parameters"] == ["torch.float32"]
        assert sum(each["losses"][-BATCHES:]) < 0.5 * sum(each["losses"][:BATCHES])
        assert near(each["module"], each["mean"])


def test_a_moving_average_is_saved_as_the_mean_of_all_ranks(two: Told) -> None:
    ranks = two["smoothed"]
    assert not near(ranks[0]["own"], ranks[1]["own"], 1e-4), "each rank has a moving average of its own"
    for each in ranks:
        assert near(each["module"], each["mean"])
        assert near(each["file"], [sum(pair) / 2 for pair in zip(*(rank["own"] for rank in ranks), strict=True)])


def test_two_optimizers_gossip_in_manual_optimization(two: Told) -> None:
    for each in two["paired"]:
        assert each["steps"] == [EPOCHS * BATCHES] * 2
        assert each["states"] == 2
        assert not near(each["own"], each["mean"], 1e-5)
        assert near(each["module"], each["mean"])
        assert near(each["file"], each["mean"])


def test_each_rank_validates_its_own_model_on_request(two: Told) -> None:
    first, second = two["unshared"]
    assert first["seen"][0] == second["seen"][0], "the sanity check, before any step"
    assert first["seen"][-1] != second["seen"][-1]
    assert near(first["module"], first["mean"]), "fit ends with the mean all the same"


@pytest.mark.parametrize("name", ["two", "own"])
def test_the_registered_name_gives_osgp_and_shards(name: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(name)["by_name"]
    for each in ranks:
        assert each["batches"] == 8, "of 16 on one rank"
        assert "overlap=1" in each["optimizer"]
        assert each["module"] == ranks[0]["module"]


# -- refusals ----------------------------------------------------------------------------------------------------------


class Bare(lightning.LightningModule):  # type: ignore[misc]
    """A model to be refused."""

    def __init__(self, wrap: bool = False) -> None:
        super().__init__()
        self.layer, self.wrap = torch.nn.Linear(2, 1), wrap

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=0.1)
        return gossip.GossipOptimizer(sgd, gossip.NoAverage()) if self.wrap else sgd


def fit(strategy: Any, model: Any = None, **options: Any) -> Any:
    trainer = lightning.Trainer(
        strategy=strategy, accelerator="cpu", devices=1, max_epochs=1, logger=False, barebones=True, **options
    )
    trainer.fit(model or Bare(), torch.utils.data.DataLoader(torch.ones(4, 2)))
    return trainer


def test_one_process_trains_alone() -> None:
    trainer = fit("gossip")
    assert trainer.strategy.world.size == 1
    assert trainer.optimizers[0].stats.run.steps == 4


def test_fit_may_be_called_again() -> None:
    trainer = fit(strategies.GossipStrategy())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, torch.utils.data.DataLoader(torch.ones(4, 2)))
    assert trainer.global_step == 8


def test_a_strategy_in_the_place_of_compose_is_refused() -> None:
    with pytest.raises(gossip.UsageError, match=r"takes a function compose.*in the place of DDP"):
        strategies.GossipStrategy("ddp")


def test_an_optimizer_that_gossips_already_is_refused() -> None:
    with pytest.raises(gossip.UsageError, match="configure_optimizers returned a GossipOptimizer"):
        fit(strategies.GossipStrategy(), Bare(wrap=True))


def test_compose_has_to_return_an_optimizer_that_gossips() -> None:
    with pytest.raises(gossip.UsageError, match=r"compose returned an? SGD"):
        fit(strategies.GossipStrategy(lambda optimizer, world, module: optimizer))


def test_sync_batchnorm_is_refused() -> None:
    with pytest.raises(gossip.UsageError, match="module_buffers='average'"):
        fit(strategies.GossipStrategy(), sync_batchnorm=True)


def test_ddp_inside_the_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Bare()
    monkeypatch.setattr("gossip.integrations.lightning.refusals.DistributedDataParallel", torch.nn.Linear)
    with pytest.raises(gossip.UsageError, match="averages gradients over ranks that gossip"):
        fit(strategies.GossipStrategy(), model)


def test_devices_that_contradict_the_launcher_are_refused(tmp_path: Path) -> None:
    outcome = spawn.run_mpirun(2, command(tmp_path, 3, ["by_name"]))
    assert outcome.code
    assert "openmpi started 2 of 2 ranks on this host, and Trainer(devices=...) comes to 3" in outcome.output


def test_an_exception_on_one_rank_ends_the_job(tmp_path: Path) -> None:
    outcome = spawn.run_mpirun(2, command(tmp_path, 2, ["failed"]), timeout=100)
    assert outcome.code, "no hang"
    assert "rank 1 has had enough" in outcome.output


def test_compositions_of_slowmo_train_alone() -> None:
    def compose(optimizer: torch.optim.Optimizer, world: gossip.World, module: torch.nn.Module) -> Any:
        return slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=2)

    assert fit(strategies.GossipStrategy(compose)).optimizers[0].steps == 4


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_has_at_most_ten_lines_more_than_without_gossip(tmp_path: Path) -> None:
    """And it is the same script otherwise, which runs."""
    code = EXAMPLE.read_text()
    plain = re.sub(r"\nimport gossip\n(?:(?:import|from) .*\n)*", "", code)
    plain = re.sub(r"def compose.*\n(?:    .*\n)+\n\n", "", plain).replace("GossipStrategy(compose)", '"ddp"')
    body = plain[plain.index("import sys") :]
    assert not re.search("gossip|slowmo|topologies|compose|world,", body), body
    assert len(code.splitlines()) - len(plain.splitlines()) <= 10
    script = tmp_path / "plain.py"
    script.write_text(plain)
    outcome = spawn.run_python([str(script)])
    assert "1 ranks: test accuracy" in outcome.output, outcome.output


@pytest.mark.parametrize("launcher", [pytest.param("mpirun", marks=pytest.mark.slow), "own"])
def test_the_example_learns(launcher: str) -> None:
    path = str(EXAMPLE)
    outcome = spawn.run_mpirun(4, [path]) if launcher == "mpirun" else spawn.run_python([path, "2"])
    assert outcome.code == 0, outcome.output
    (found,) = re.findall(r"(\d) ranks: test accuracy (\S+)%", outcome.output)
    assert found[0] == ("4" if launcher == "mpirun" else "2")
    assert float(found[1]) > 93


def test_the_page_shows_the_example() -> None:
    page = (spawn.ROOT / "docs" / "how-to" / "lightning.md").read_text(encoding="utf-8")
    assert f"```python\n{EXAMPLE.read_text()}```" in page


def test_an_error_in_a_validation_gives_own_values_back() -> None:
    """Else a later fit would validate each rank's own model."""

    class Failing(Bare):
        def validation_step(self, batch: torch.Tensor, _: int) -> None:
            raise ZeroDivisionError

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.ones(4, 2))

    model = Failing()
    seen = []
    model.on_validation_epoch_start = lambda: seen.append(model.trainer.strategy.optimizers[0].parameters.lent)
    strategy = strategies.GossipStrategy()
    with pytest.raises(ZeroDivisionError):
        fit(strategy, model, num_sanity_val_steps=0)
    assert seen == ["optimizer.mean(...)"]
    assert strategy.optimizers[0].parameters.lent == ""
