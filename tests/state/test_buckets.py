"""Parameters move into flat buckets, and stay what they were to everybody else."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import gossip
import topologies
from gossip import testing


def wrap(parameters: Any, **options: Any) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(torch.optim.SGD(parameters, lr=0.1), gossip.NoAverage(), **options)


def addresses(optimizer: gossip.GossipOptimizer) -> set[int]:
    """Where parameters of a bucket may live."""
    starts = {values.data_ptr(): values.nbytes for values in optimizer.mass.values}
    return {address for start, nbytes in starts.items() for address in range(start, start + nbytes)}


def owns_its_storage(tensor: torch.Tensor) -> bool:
    """The condition of pickle and safetensors: the storage holds this tensor and nothing else."""
    storage = tensor.untyped_storage()
    return (storage.data_ptr(), storage.nbytes()) == (tensor.data_ptr(), tensor.nbytes)


def convolutions() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Conv2d(5, 2, 1))


def test_parameters_are_the_same_objects_over_one_memory() -> None:
    """With the same values; and a flat view of that memory is what the wire sees."""
    model = convolutions()
    before, values = list(model.parameters()), copy.deepcopy(model.state_dict())
    optimizer = wrap(model.parameters())
    assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
    assert {parameter.data_ptr() for parameter in model.parameters()} < addresses(optimizer)
    torch.testing.assert_close(model.state_dict(), values, rtol=0, atol=0)
    [bucket] = optimizer.mass.values
    with torch.no_grad():
        bucket.fill_(2.0)
    assert all(bool((parameter == 2).all()) for parameter in model.parameters())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(4, 6),
        torch.arange(24.0).reshape(4, 6).t(),
        torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(48.0).reshape(4, 12)[:, ::3],
        torch.ones(1).expand(5, 3),
        torch.tensor(3.0),
        torch.empty(0, 3),
    ],
    ids=["contiguous", "transposed", "channels last", "every third", "expanded", "scalar", "empty"],
)
def test_strides_and_values_are_kept(tensor: torch.Tensor) -> None:
    """A dense tensor keeps both; a tensor with gaps or repeats becomes dense, with the same values."""
    parameter, other = torch.nn.Parameter(tensor), torch.nn.Parameter(torch.ones(3))
    expected, strides = tensor.clone(), torch.empty_like(tensor).stride()
    wrap([other, parameter])
    assert torch.equal(parameter, expected)
    assert parameter.stride() == strides


@pytest.mark.parametrize("channels_last", [False, True])
def test_packing_changes_no_bit_of_training(channels_last: bool) -> None:
    """Without averaging it is the wrapped optimizer."""
    runs = []
    for wrapped in (False, True):
        model = convolutions()
        if channels_last:
            model.to(memory_format=torch.channels_last)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
        if wrapped:
            optimizer = gossip.GossipOptimizer(optimizer, gossip.NoAverage())
        for step in range(5):
            optimizer.zero_grad()
            images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
            model(images).square().sum().backward()
            optimizer.step()
        runs.append(model.state_dict())
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_one_bucket_for_each_dtype_and_device() -> None:
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    parameters = [torch.nn.Parameter(torch.ones(5, dtype=dtype)) for dtype in (*kinds, *kinds)]
    optimizer = wrap(parameters)
    assert [values.dtype for values in optimizer.mass.values] == kinds
    assert [p.dtype for p in parameters] == [*kinds, *kinds]
    for values in optimizer.mass.values:
        assert values.untyped_storage().nbytes() < 2 * 5 * values.itemsize + 2 * 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a second device is a GPU, and this machine has none")
def test_one_bucket_for_each_device() -> None:
    parameters = [torch.nn.Parameter(torch.ones(5, device=device)) for device in ("cpu", "cuda")]
    assert [values.device.type for values in wrap(parameters).mass.values] == ["cpu", "cuda"]


def test_tied_parameters_are_one() -> None:
    """One Parameter in two places is packed, updated and sent once."""

    def run(world: gossip.World) -> tuple[int, bool, torch.Tensor]:
        embedding, decoder = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
        decoder.weight = embedding.weight
        model = torch.nn.Sequential(embedding, decoder)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = gossip.GossipOptimizer(sgd, gossip.ExactAverage(world), module=model)
        model(torch.tensor([world.rank])).sum().backward()
        optimizer.step()
        return optimizer.mass.values[0].numel(), decoder.weight is embedding.weight, embedding.weight.detach().clone()

    for elements, tied, weight in (ranks := testing.run(2, run)):
        assert elements == 24
        assert tied
        assert torch.equal(weight, ranks[0][2])


@pytest.mark.parametrize(
    "other",
    [lambda p: p.detach(), lambda p: p.detach().t(), lambda p: p.detach()[1:]],
    ids=["alias", "transposed", "part"],
)
def test_two_objects_over_one_memory_are_refused(other: Any) -> None:
    """Before anything is moved."""
    model = torch.nn.Module()
    model.first = torch.nn.Parameter(torch.ones(3, 3))
    model.second = torch.nn.Parameter(other(model.first))
    before = [model.first.data_ptr(), model.second.data_ptr()]
    with pytest.raises(gossip.UsageError, match="'first' and 'second' are two objects over the same memory: tie them"):
        wrap(model.parameters(), module=model)
    assert [model.first.data_ptr(), model.second.data_ptr()] == before


def test_other_views_of_one_flat_tensor_are_welcome() -> None:
    """Such as the parameters of an optimizer that was made before."""
    model = convolutions()
    values = copy.deepcopy(model.state_dict())
    old = list(model.parameters())
    flat = torch.nn.utils.parameters_to_vector(old).detach()
    torch.nn.utils.vector_to_parameters(flat, old)
    optimizer = wrap(model.parameters())
    torch.testing.assert_close(model.state_dict(), values, rtol=0, atol=0)
    assert {parameter.data_ptr() for parameter in model.parameters()} < addresses(optimizer)


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.ones(3, dtype=torch.int64), "torch.int64"),
        (torch.ones(3, dtype=torch.complex64), "torch.complex64"),
        (torch.eye(3).to_sparse(), "torch.sparse_coo"),
    ],
    ids=["integer", "complex", "sparse"],
)
def test_parameters_without_a_mean_are_refused(tensor: torch.Tensor, word: str) -> None:
    """By name, and before anything is moved."""
    model = torch.nn.Module()
    model.first = torch.nn.Parameter(torch.ones(2))
    model.odd = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
    before = model.first.data_ptr()
    with pytest.raises(gossip.UsageError, match=f"parameter 'odd' is .*{word}.* leave it out of this optimizer"):
        wrap(model.parameters(), module=model)
    assert model.first.data_ptr() == before


def test_empty_parameters_travel() -> None:
    """One without elements, alone in its bucket too."""

    def run(world: gossip.World) -> torch.Tensor:
        full = torch.nn.Parameter(torch.full((2,), float(world.rank)))
        empty = [torch.nn.Parameter(torch.zeros(0)), torch.nn.Parameter(torch.zeros(0, 4, dtype=torch.float64))]
        averager = gossip.Chain(gossip.ExactAverage(world), gossip.PushSum(world, topologies.exponential(world.size)))
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([full, *empty], lr=0.1), averager, initial="broadcast")
        with torch.no_grad():
            full.fill_(world.rank)
        optimizer.step()
        return full.detach().clone()

    assert [float(full[0]) for full in testing.run(3, run)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.double(),
        lambda model: model.to(torch.bfloat16),
        lambda model: setattr(model[2].weight, "data", model[2].weight.data.clone()),
        lambda model: torch.utils.swap_tensors(model[2].weight, torch.nn.Parameter(torch.zeros(2, 5, 1, 1))),
    ],
    ids=["double", "to", "data", "swapped"],
)
def test_parameter_that_left_its_bucket_is_named(move: Any) -> None:
    """At the next step, before anything is updated with values that nobody would send."""
    model = convolutions()
    optimizer = wrap(model.parameters(), module=model)
    optimizer.step()
    move(model)
    with pytest.raises(gossip.GossipError, match=r"parameter '[02]\.weight' has left its bucket: .* optimizer"):
        optimizer.step()


def test_loading_a_model_works_in_place() -> None:
    """The loaded values train and travel."""

    def run(world: gossip.World) -> dict[str, torch.Tensor]:
        model, saved = convolutions(), convolutions()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = gossip.GossipOptimizer(sgd, gossip.ExactAverage(world), module=model)
        with torch.no_grad():
            for parameter in saved.parameters():
                parameter.fill_(world.rank)
        model.load_state_dict(saved.state_dict())
        optimizer.step()
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    for parameters in testing.run(3, run):
        assert all(bool((parameter == 1).all()) for parameter in parameters.values())


def test_saving_a_part_writes_that_part(tmp_path: Path) -> None:
    """torch.save, pickle and copy.deepcopy take whole storages, so a parameter has one of its own."""
    model = torch.nn.Sequential(*(torch.nn.Linear(100, 100) for _ in range(10)))
    wrap(model.parameters())
    first = next(model.parameters())

    def written(what: Any) -> int:
        torch.save(what, tmp_path / "saved.pt")
        return (tmp_path / "saved.pt").stat().st_size

    size = sum(parameter.nbytes for parameter in model.parameters())
    assert size < written(model.state_dict()) < 1.1 * size
    assert first.nbytes < written(first) < 1.1 * first.nbytes
    assert len(pickle.dumps(model)) < 1.1 * size
    assert len(pickle.dumps(model[0])) < 0.11 * size
    assert copy.deepcopy(first).untyped_storage().nbytes() == first.nbytes
    fresh = torch.nn.Sequential(*(torch.nn.Linear(100, 100) for _ in range(10)))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    fresh.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(fresh.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masters", [False, True])
def test_every_parameter_owns_its_storage(dtype: torch.dtype, masters: bool) -> None:
    """safetensors.torch.save_model, Accelerate and hub savers refuse tensors that do not."""
    shapes = [(3, 5), (), (7,), (0, 2), (2, 3, 4, 5)]
    parameters = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    strided = torch.nn.Parameter(torch.ones(2, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last))
    optimizer = wrap([*parameters, strided], master_weights=masters)
    optimizer.step()
    assert all(map(owns_its_storage, [*parameters, strided]))
    assert all(owns_its_storage(tensor) for group in optimizer.param_groups for tensor in group["params"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="about the memory of a GPU, and this machine has none")
def test_every_parameter_owns_its_storage_on_a_gpu() -> None:
    parameters = [torch.nn.Parameter(torch.ones(shape, device="cuda")) for shape in [(3, 5), (), (7,), (0, 2)]]
    optimizer = wrap(parameters)
    optimizer.step()
    assert all(map(owns_its_storage, parameters))
    optimizer.mass.values[0].fill_(2.0)
    assert all(bool((parameter == 2).all()) for parameter in parameters)


def test_parameters_outlive_their_optimizer() -> None:
    model = convolutions()
    values = copy.deepcopy(model.state_dict())
    wrap(model.parameters())
    gc.collect()
    _ = [torch.full((50,), float("nan")) for _ in range(100)]  # would take memory that was given back
    torch.testing.assert_close(model.state_dict(), values, rtol=0, atol=0)


def test_parameters_without_gradients_travel_too() -> None:
    """Frozen ones are averaged, not updated."""

    def run(world: gossip.World) -> tuple[float, float]:
        frozen, trained = torch.nn.Parameter(torch.zeros(3), requires_grad=False), torch.nn.Parameter(torch.zeros(3))
        base = torch.optim.SGD([frozen, trained], lr=1.0)
        optimizer = gossip.GossipOptimizer(base, gossip.ExactAverage(world))
        with torch.no_grad():
            frozen.fill_(world.rank)
        (trained.sum() * world.rank).backward()
        optimizer.step()
        return frozen[0].item(), trained[0].item()

    assert testing.run(3, run) == [(1.0, -1.0)] * 3


@pytest.mark.parametrize("initial", ["broadcast", "check"])
def test_buffers_that_ranks_name_otherwise_are_not_averaged(initial: str) -> None:
    def run(world: gossip.World) -> None:
        model = torch.nn.Linear(2, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1)
        model.register_buffer("mean" if world.rank == 0 else "var", torch.full((3,), float(world.rank)))
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        gossip.GossipOptimizer(sgd, gossip.ExactAverage(world), module=model, module_buffers="average", initial=initial)

    with pytest.raises(gossip.Disagreement, match=r"buffer 'mean'.*buffer 'var'"):
        testing.run(2, run, timeout=10)


def test_parameters_in_another_memory_order_are_refused() -> None:
    """Messages carry the elements as they lie in memory."""

    def run(world: gossip.World) -> None:
        model = torch.nn.Conv2d(2, 2, 2, bias=False)
        if world.rank:
            model.to(memory_format=torch.channels_last)
        gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.ExactAverage(world))

    with pytest.raises(gossip.Disagreement, match="strides"):
        testing.run(2, run, timeout=10)
