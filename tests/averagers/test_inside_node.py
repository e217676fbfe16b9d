"""Parallelism inside a node: DistributedDataParallel composes with gossip between nodes, sharding is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import spawn
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from workers.inside import SHARDINGS, refusals
from workers.masters import model_of

import gossip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    """Four over Gloo, that play two hosts of two."""
    return spawn.torchrun(4, "workers.inside", tmp_path_factory.mktemp("ddp"), "ddp")


@pytest.mark.slow
@pytest.mark.parametrize("order", ["ddp_first", "optimizer_first"])
def test_ddp_inside_the_node(order: str, ranks: list[spawn.Saved]) -> None:
    """Ranks of a node hold the same bits after each step, those of `gradients=world.node`; nodes differ meanwhile."""
    for rank, mate in [(0, 1), (2, 3)]:
        assert np.array_equal(ranks[rank][order], ranks[mate][order])
        assert np.array_equal(ranks[rank][order], ranks[rank]["by_world"])
    assert not np.array_equal(ranks[0][order], ranks[2][order])
    assert np.isfinite(ranks[0][order]).all()


@pytest.fixture
def group_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_masters_under_ddp() -> None:
    """Torch's reducer takes gradients in the parameters' own dtype alone."""
    ddp = DistributedDataParallel(model_of(torch.bfloat16))
    sgd = torch.optim.SGD(ddp.parameters(), lr=0.05)
    with pytest.raises(gossip.UsageError, match="does not take: train the module inside"):
        gossip.GossipOptimizer(sgd, gossip.NoAverage(), module=ddp, master_weights=True)


def noticed(said: dict[str, str], sharding: str) -> None:
    """Refused before; later an error where the module is known, or FSDP moved the memory; else a warning."""
    assert "whose memory is not its own to move (sharded" in said["before"]
    moved = sharding == "FSDP1, original parameters"
    left = "has left its bucket" if moved else "parameter '0.weight' is no longer the module's: it was replaced"
    assert left in said["after"]
    assert (left if moved else "no parameter of this optimizer has a gradient in its first step") in said["unnamed"]


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.usefixtures("group_of_one")
def test_sharding(sharding: str) -> None:
    """Before the optimizer is made, or after it, ends in a sentence and not in another model."""
    noticed(refusals(gossip.init(), sharding), sharding)


@pytest.mark.slow
def test_sharding_over_ranks(tmp_path: Path) -> None:
    for rank in spawn.torchrun(2, "workers.inside", tmp_path, "sharded"):
        for sharding in SHARDINGS:
            said = {when: str(rank[f"{sharding}/{when}"]) for when in ("before", "after", "unnamed")}
            noticed(said, sharding)


def test_parameters_that_only_moved_within_the_module() -> None:
    """A parametrisation keeps the parameter itself, in another place; one that makes others of it is named."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = gossip.GossipOptimizer(sgd, gossip.NoAverage(), module=model)
    before = model[0].weight.detach().clone()
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", torch.nn.Tanh())
    for _ in range(2):
        model(torch.ones(4)).sum().backward()
        optimizer.step()
    assert not torch.equal(model[0].parametrizations.weight.original.detach(), before)
    torch.nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(gossip.GossipError, match=r"'1.weight' is no longer the module's"):
        optimizer.step()


def test_a_first_step_without_gradients_warns_once() -> None:
    """Later ones, and those with a closure, do not; nor does one whose module is known."""
    model = torch.nn.Linear(2, 2)
    for module in (None, model):
        optimizer = gossip.GossipOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage(), module=module
        )
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(3):
                optimizer.step()
        assert [(w.category, w.filename == __file__) for w in seen] == ([(UserWarning, True)] if module is None else [])
