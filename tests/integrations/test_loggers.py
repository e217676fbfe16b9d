"""Loggers take the numbers of a run as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from spawn import ROOT

import gossip
import topologies

PAGE = ROOT / "docs" / "how-to" / "loggers.md"


def test_the_example_of_tensorboard_writes_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    [code] = re.findall(r"```python\n(.*?SummaryWriter.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    world, model = gossip.init(), torch.nn.Linear(4, 2)
    averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), averager)
    batches = [(torch.ones(3, 4), torch.tensor([0, 1, 1]))] * 25

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    exec(code, {"world": world, "optimizer": optimizer, "batches": batches, "loss": loss})
    events = accumulator.EventAccumulator(str(tmp_path / "out" / "log" / "rank-0"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(optimizer.stats.scalars())
    assert [event.step for event in events.Scalars("gossip/run/steps")] == [0, 10, 20]
    assert [event.value for event in events.Scalars("gossip/run/steps")] == [1, 11, 21]
