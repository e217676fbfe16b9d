"""Means, reductions and objects of a script, over the ranks of a world."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import gossip
from gossip import testing
from gossip.transports.collective import small


class Metrics(NamedTuple):
    loss: float
    hits: torch.Tensor


def test_means_keep_the_shape_of_what_was_given() -> None:
    def run(world: gossip.World) -> Any:
        r = world.rank
        given = {"loss": r / 3, "hits": [torch.tensor(r), True], "both": Metrics(np.float32(r), torch.ones(2, 2) * r)}
        return world.mean(given), given

    outcome = testing.run(3, run)
    for mean, given in outcome:
        assert mean["loss"] == pytest.approx(1 / 3)
        assert mean["hits"][0].dtype == torch.float64
        assert mean["hits"][0] == 1
        assert mean["hits"][1] == 1.0
        assert mean["both"].loss == 1.0
        assert torch.equal(mean["both"].hits, torch.ones(2, 2))
        assert mean["loss"] == outcome[0][0]["loss"], "ranks hold different bits"
        assert isinstance(given["hits"][1], bool), "what was given has changed"


def test_means_of_odd_numbers() -> None:
    assert math.isnan(testing.run(2, lambda world: world.mean(math.nan if world.rank else 1.0))[0])
    assert testing.run(3, lambda world: world.mean({}))[0] == {}
    assert testing.run(3, lambda world: world.mean(torch.zeros(0)))[0].shape == (0,)
    half = testing.run(3, lambda world: world.mean(torch.full((3,), 30000.0, dtype=torch.float16)))[0]
    assert half.tolist() == [30000.0] * 3


def test_equal_values_come_back_and_the_largest_do_not_overflow() -> None:
    least = torch.finfo(torch.float32).min
    given = {"a": 0.1, "b": torch.linspace(0, 1, 1000), "c": torch.tensor([least])}
    for mean in testing.run(3, lambda world: world.mean(given)):
        assert mean["a"] == 0.1
        assert torch.equal(mean["b"], given["b"])
        assert mean["c"].item() == least
    reduced = testing.run(3, lambda world: world.all_reduce(torch.tensor([least]), "mean"))
    assert [each.item() for each in reduced] == [least] * 3


def test_a_part_of_a_large_tensor_travels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "MOST_GATHERED", 10_000)
    large = torch.arange(100_000)
    assert [part.tolist() for part in testing.run(2, lambda world: world.all_gather(large[3:5]))[0]] == [[3, 4]] * 2
    with pytest.raises(gossip.UsageError, match="bytes, and at most 10000 are sent to all ranks at once"):
        testing.run(2, lambda world: world.all_gather(large))


def test_any_number_of_times() -> None:
    def run(world: gossip.World) -> float:
        return sum(world.mean(float(world.rank)) + len(world.all_gather(number)) for number in range(2000))

    assert testing.run(2, run) == [2000 * 2.5] * 2


REDUCED: dict[str, list[int]] = {"sum": [6, 12], "max": [3, 3], "min": [0, 3], "product": [0, 81]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("op", REDUCED)
def test_reductions(op: str, dtype: torch.dtype) -> None:
    def run(world: gossip.World) -> torch.Tensor:
        given = torch.tensor([[world.rank, 3]]).to(dtype).t()  # not contiguous
        returned = world.all_reduce(given, op)
        assert returned is given
        return given

    for reduced in testing.run(4, run):
        assert reduced.dtype == dtype
        assert reduced.flatten().tolist() == REDUCED[op]


def test_mean_in_place_takes_parameters() -> None:
    def run(world: gossip.World) -> list[float]:
        parameter = torch.nn.Parameter(torch.full((2,), float(world.rank)))
        world.all_reduce(parameter, "mean")
        return parameter.tolist()

    assert testing.run(3, run) == [[1.0, 1.0]] * 3


def test_objects_of_every_rank() -> None:
    def run(world: gossip.World) -> Any:
        return world.all_gather({"rank": world.rank, "values": torch.full((world.rank,), 2.0)})

    for everyone in testing.run(3, run):
        assert [each["rank"] for each in everyone] == [0, 1, 2]
        assert [each["values"].tolist() for each in everyone] == [[], [2.0], [2.0, 2.0]]


BAD = {
    "keys": (
        lambda world: world.mean({f"loss {world.rank}": 1.0}),
        "['loss 0'] number from rank 0 and ['loss 1'] number",
    ),
    "kinds": (
        lambda world: world.mean(1.0 if world.rank else torch.ones(1)),
        "of shape (1,) from rank 0 and number from rank 1",
    ),
    "shapes": (
        lambda world: world.all_reduce(torch.ones(1 + world.rank)),
        "from rank 0 and sum of torch.float32 of shape (2,)",
    ),
    "ops": (
        lambda world: world.all_reduce(torch.ones(1), ["sum", "max"][world.rank]),
        "(1,) from rank 0 and max of",
    ),
    "text": (lambda world: world.mean({"name": "x"}), "world.mean takes real numbers, tensors, and lists, tuples"),
    "complex": (lambda world: world.mean(torch.ones(1) * 1j), "and this is complex"),
    "expanded": (lambda world: world.all_reduce(torch.ones(1).expand(3)), "elements of this one share memory"),
    "op": (
        lambda world: world.all_reduce(torch.ones(1), "avg"),
        "op is 'avg'; there are 'sum', 'max', 'min', 'product' and 'mean'",
    ),
    "number": (lambda world: world.all_reduce(1.0), "all_reduce takes a dense tensor, and this is 1.0"),
    "whole": (lambda world: world.all_reduce(torch.tensor(1), "mean"), "cannot write a mean into torch.int64"),
    "pickle": (lambda world: world.all_gather(lambda: 1), "a function cannot be sent to other ranks"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_a_sentence_on_every_rank(case: str) -> None:
    call, sentence = BAD[case]

    def run(world: gossip.World) -> None:
        with pytest.raises(gossip.UsageError, match=re.escape(sentence)):
            call(world)
        assert world.mean(1.0) == 1.0, "the next call does not find what it needs"

    testing.run(2, run)
