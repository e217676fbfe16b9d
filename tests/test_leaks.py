"""An optimizer takes its memory, threads and channels with it when it goes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import spawn
import torch
from workers.leaks import MAKERS, one_after_another, outlived

import gossip
import slowmo
from gossip import testing


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What a reference cycle holds stays until the garbage collector runs, so it does not run here."""
    first = torch.nn.Linear(1, 1)  # with which torch loads modules, whose frames keep the first optimizer of a process
    torch.optim.SGD(first.parameters(), lr=0.1).zero_grad()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.usefixtures("no_collector")
def test_a_deleted_optimizer_and_its_model_are_freed_at_once(kind: str) -> None:
    assert testing.run(2, lambda world: outlived(world, MAKERS[kind])) == [[], []]


def test_stepping_on_without_the_deleted_wrapper_raises() -> None:
    """The run would silently go on as another algorithm."""
    parameter = torch.zeros(1, requires_grad=True)
    base = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.NoAverage())
    wrapper = slowmo.lookahead(base)
    base.step()
    del wrapper
    with pytest.raises(gossip.GossipError, match="the SlowMo of this optimizer has been deleted.*keep the SlowMo"):
        base.step()
