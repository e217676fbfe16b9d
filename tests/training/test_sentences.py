"""Odd arguments and odd models: each gets a sentence that names it and says what to do, and no error of torch's own."""

from __future__ import annotations

import copy
import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import gossip
import slowmo
import topologies
from gossip import testing

# -- every public callable with objects of every kind ------------------------------------------------------------------

WORLD = gossip.init()


class Odd:
    """Of a type that nothing here knows."""


def used_up() -> Any:
    return iter(())


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "text",
    "dictionary": lambda: {"a": 1},
    "empty dictionary": dict,
    "used-up iterator": used_up,
    "numpy integer": lambda: np.int64(1),
    "numpy float": lambda: np.float64(0.5),
    "array": lambda: np.ones(3),
    "bool": lambda: True,
    "NaN": lambda: float("nan"),
    "negative": lambda: -1,
    "list": lambda: [1.0],
    "object": Odd,
    "tensor": lambda: torch.ones(3),
    "no dimensions": lambda: torch.tensor(1),
    "world": lambda: gossip.init(),
    "class": lambda: gossip.PushSum,
    "complex": lambda: 1j,
}


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(model().parameters(), lr=0.1)


def wrapped(**options: Any) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(sgd(), gossip.NoAverage(), **options)


def slow(**options: Any) -> slowmo.SlowMo:
    return slowmo.SlowMo(sgd(), gossip.NoAverage(), **options)


def options(make: Callable[..., Any], names: str) -> dict[str, Callable[[Any], Any]]:
    return {name: lambda odd, name=name: make(**{name: odd}) for name in names.split()}


def around(kind: Any, names: str) -> dict[str, Callable[[Any], Any]]:
    return {
        "optimizer": lambda odd: kind(odd, gossip.init()),
        "world": lambda odd: kind(sgd(), odd),
        **options(lambda **given: kind(sgd(), gossip.init(), **given), names),
    }


RING = topologies.exponential(1)
PLACES: dict[str, dict[str, Callable[[Any], Any]]] = {
    "init": options(gossip.init, "transport timeout"),
    "World": {
        "group": WORLD.group,
        "one of a group": lambda odd: WORLD.group([odd]),
        "all_gather": WORLD.all_gather,
        "sum": lambda odd: WORLD.base.sum(odd),
        "one of a sum": lambda odd: WORLD.base.sum([odd]),
        "broadcast": lambda odd: WORLD.base.broadcast(odd),
        "source": lambda odd: WORLD.base.broadcast([torch.ones(2)], odd),
    },
    "PushSum": {
        "world": lambda odd: gossip.PushSum(odd, RING),
        "topology": lambda odd: gossip.PushSum(gossip.init(), odd),
        **options(lambda **given: gossip.PushSum(gossip.init(), RING, **given), "overlap landing wire node"),
    },
    "ExactAverage": {"world": gossip.ExactAverage},
    "Every": {
        "period": lambda odd: gossip.Every(odd, gossip.NoAverage()),
        "averager": lambda odd: gossip.Every(2, odd),
    },
    "Chain": {"member": gossip.Chain},
    "GossipOptimizer": {
        "optimizer": lambda odd: gossip.GossipOptimizer(odd, gossip.NoAverage()),
        "averager": lambda odd: gossip.GossipOptimizer(sgd(), odd),
        **options(
            wrapped,
            "gradients module module_buffers initial on_failure check_finite checksum master_weights trace_folder",
        ),
        "weight_report": lambda odd: wrapped().weight_report(odd),
        "add_param_group": lambda odd: wrapped().add_param_group(odd),
        "params": lambda odd: wrapped().add_param_group({"params": odd}),
        "load_state_dict": lambda odd: wrapped().load_state_dict(odd),
        "gossip": lambda odd: wrapped().load_state_dict({**sgd().state_dict(), "gossip": odd}),
    },
    "SlowMo": {
        "optimizer": lambda odd: slowmo.SlowMo(odd, gossip.NoAverage()),
        "averager": lambda odd: slowmo.SlowMo(sgd(), odd),
        **options(slow, "period momentum lr buffers nesterov rescale"),
        "load_state_dict": lambda odd: slow().load_state_dict(odd),
        "slowmo": lambda odd: slow().load_state_dict({**wrapped().state_dict(), "slowmo": odd}),
    },
    "StreamingSlowMo": around(slowmo.StreamingSlowMo, "period momentum lr shards delay nesterov rescale"),
    "ShardedSlowMo": around(slowmo.ShardedSlowMo, "period momentum lr buffers nesterov rescale"),
    "SharedMomentum": around(slowmo.SharedMomentum, "period momentum lr buffers nesterov rescale"),
    "local_sgd": around(slowmo.local_sgd, "period"),
    "bmuf": around(slowmo.bmuf, "period momentum lr nesterov"),
    "diloco": around(slowmo.diloco, "period momentum lr"),
    "noloco": around(slowmo.noloco, "period momentum lr seed"),
    "double_averaging": around(slowmo.double_averaging, "period"),
    "lookahead": options(lambda **given: slowmo.lookahead(sgd(), **given), "period lr"),
    "gossip_pga": {
        "topology": lambda odd: slowmo.gossip_pga(sgd(), gossip.init(), odd),
        **options(lambda **given: slowmo.gossip_pga(sgd(), gossip.init(), RING, **given), "period overlap"),
    },
    "run": {
        **options(lambda **given: testing.run(1, lambda world: world.rank, **given), "timeout network hosts"),
        "size": lambda odd: testing.run(odd, lambda world: world.rank),
    },
    "save": options(
        lambda **given: gossip.checkpoint.save(
            **{"folder": "saved", "world": WORLD, "step": 1, "model": model(), "optimizer": wrapped(), **given}
        ),
        "folder world step model optimizer",
    ),
    "load": options(
        lambda **given: gossip.checkpoint.load(
            **{"folder": "saved", "world": WORLD, "model": model(), "optimizer": wrapped(), **given}
        ),
        "folder world model",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_odd_argument_is_taken_or_refused_in_a_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a KeyError, an AttributeError or a bare error of another library."""
    monkeypatch.chdir(tmp_path)
    raw = []
    for argument, call in PLACES[place].items():
        for kind, make in ODD.items():
            try:
                call(make())
            except (gossip.GossipError, topologies.TopologyError):
                continue
            except TypeError as error:
                # torch says which parameter is none, and Python's testing.run() passes on what the function raises.
                if not re.search("optimizer can only optimize Tensors", str(error)):
                    raw.append(f"{place} {argument}={kind}: {error!r}")
            except Exception as error:
                raw.append(f"{place} {argument}={kind}: {error!r}")
    assert not raw, "\n".join(raw)


@pytest.mark.parametrize("optimizer", [wrapped, slow])
def test_a_loss_in_the_place_of_a_closure(optimizer: Callable[[], torch.optim.Optimizer]) -> None:
    with pytest.raises(gossip.UsageError, match=r"this is a Tensor: after loss.backward\(\), call step\(\) without"):
        optimizer().step(torch.tensor(1.0))  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    """Alike on every rank, whichever library they come from."""
    assert gossip.Every(np.int64(3), gossip.NoAverage()).describe() == "Every(3, NoAverage())"  # type: ignore[arg-type]
    averager = gossip.PushSum(WORLD, RING, overlap=np.int32(1))  # type: ignore[arg-type]
    assert averager.describe() == gossip.PushSum(WORLD, RING, overlap=1).describe()
    assert repr(slow(period=np.int64(2), lr=np.float32(0.5))) == repr(slow(period=2, lr=0.5))


# -- what cannot be meant so -------------------------------------------------------------------------------------------


def twice() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        base = torch.optim.SGD([parameter, parameter], lr=0.1)
    gossip.GossipOptimizer(base, gossip.NoAverage())


def in_a_chain_twice() -> None:
    averager = gossip.ExactAverage(WORLD)
    gossip.Chain(averager, averager)


def on_meta() -> torch.nn.Module:
    return torch.nn.Linear(2, 2, device="meta")


def around_model(module: torch.nn.Module, **given: Any) -> gossip.GossipOptimizer:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    averager = gossip.ExactAverage(gossip.init())
    return gossip.GossipOptimizer(torch.optim.SGD(trained, lr=0.1), averager, module=module, **given)


SENTENCES: dict[str, tuple[Callable[[], object], str]] = {
    "one parameter twice": (twice, "parameter 0|1 of group 0 is in this optimizer twice.*list(dict.fromkeys"),
    "one averager twice": (in_a_chain_twice, "member 1 of Chain is in it already: make a new averager"),
    "meta": (lambda: around_model(on_meta()), "parameter 'weight' is on the meta device.*model.to_empty(device=...)"),
    "lazy": (
        lambda: around_model(torch.nn.LazyLinear(2)),
        "parameter 'weight' belongs to a lazy module and has no shape yet: run one batch",
    ),
    "empty state": (lambda: wrapped().load_state_dict({}), "this is an empty dictionary: where nothing was saved"),
    "another state": (
        lambda: wrapped().load_state_dict(model().state_dict()),  # type: ignore[arg-type]
        "no 'param_groups' and no 'state'.* but has 'weight', 'bias': load what state_dict() of the optimizer",
    ),
    "cut state": (
        lambda: wrapped().load_state_dict({**sgd().state_dict(), "gossip": {"steps": 1}}),
        "under 'gossip' no 'places', 'runs'.*or leave 'gossip' out to begin anew",
    ),
    "a rank for ranks": (lambda: WORLD.group(3), "group takes a list of ranks, such as [0, 1], and this is 3"),  # type: ignore[arg-type]
    "a number to gather": (
        lambda: WORLD.channel().gather(3),  # type: ignore[arg-type]
        "gather takes bytes, and this is 3: convert it",
    ),
    "a tensor to sum": (
        lambda: WORLD.channel().sum(torch.ones(2)),  # type: ignore[arg-type]
        "sum takes a list of tensors.*this is a Tensor: give sum([tensor])",
    ),
    "a parameter to sum": (
        lambda: WORLD.channel().sum([torch.nn.Parameter(torch.ones(2))]),
        "changes its tensors in place, and number 0 requires a gradient: give tensor.detach()",
    ),
    "a copied world": (lambda: copy.deepcopy(WORLD), "rank 0 cannot copy or pickle a World.*call gossip.init()"),
    "a pickled world": (lambda: pickle.dumps(WORLD), "rank 0 cannot copy or pickle a World"),
    "a copied averager": (
        lambda: copy.deepcopy(gossip.ExactAverage(WORLD)),
        "nor an object that holds one, such as an averager",
    ),
    "a copied channel": (lambda: copy.deepcopy(WORLD.channel()), "cannot copy or pickle a channel"),
    "a state for a module": (
        lambda: wrapped(module=model().state_dict()),
        "module is its state_dict(), but it is the model itself, a torch.nn.Module: give module=model",
    ),
    "a class": (lambda: gossip.Every(2, gossip.NoAverage), "is the class NoAverage, but it is an averager"),  # type: ignore[arg-type]
    "text for a flag": (lambda: wrapped(master_weights="no"), "master_weights is 'no', but it is True or False"),
    "a group without params": (lambda: wrapped().add_param_group({}), "takes a dictionary such as .* without params"),
    "a used-up generator": (
        lambda: wrapped().add_param_group({"params": used_up()}),
        "'params' of a group is a generator that is used up: give a list",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_the_sentence_names_it_and_says_what_to_do(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(gossip.UsageError, match=re.sub(r"([()[\]])", r"\\\1", sentence)):
        make()


def test_a_group_of_no_parameters_waits_for_more() -> None:
    """With the model it is going to be of."""
    module = model()
    base = torch.optim.SGD([{"params": []}], lr=0.1)
    optimizer = gossip.GossipOptimizer(base, gossip.ExactAverage(gossip.init()), module=module)
    optimizer.step()
    optimizer.add_param_group({"params": list(module.parameters())})
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert len(optimizer.mass.buckets) == 1


# -- parameters that leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize(
    ("leave", "sentence"),
    [
        (lambda m: setattr(m.weight, "data", m.weight.data.clamp(0, 1)), "its data was replaced.*parameter.clamp_("),
        (lambda m: m.double(), "it is torch.float64 on cpu now, and was torch.bfloat16 on cpu.*Move the model first"),
    ],
    ids=["data", "double"],
)
def test_how_a_parameter_left_its_bucket_is_told(
    leave: Callable[[torch.nn.Module], object], sentence: str, masters: bool
) -> None:
    module = torch.nn.Linear(2, 2).to(torch.bfloat16)
    optimizer = gossip.GossipOptimizer(
        torch.optim.SGD(module.parameters(), lr=0.1), gossip.NoAverage(), module=module, master_weights=masters
    )
    leave(module)
    said = f"parameter 'weight' has left its bucket: {sentence}".replace("(", r"\(")
    with pytest.raises(gossip.GossipError, match=said):
        optimizer.step()


def test_a_parameter_that_is_clamped_in_place_stays() -> None:
    module = model()
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), gossip.NoAverage(), module=module)
    with torch.no_grad():
        module.weight.clamp_(0, 0)
    optimizer.step()
    assert not optimizer.mass.values[0][:4].any()


@pytest.mark.parametrize("masters", [False, True])
def test_a_second_optimizer_over_the_same_parameters_is_told(masters: bool) -> None:
    """By the first, at its next step: the second one has them now."""
    module = torch.nn.Linear(2, 2).to(torch.bfloat16)
    first, second = (
        gossip.GossipOptimizer(
            torch.optim.SGD(module.parameters(), lr=0.1), gossip.NoAverage(), module=module, master_weights=masters
        )
        for _ in range(2)
    )
    second.step()
    with pytest.raises(gossip.GossipError, match=r"another GossipOptimizer was made with it later.*in one Chain"):
        first.step()


# -- optimizers that communicate themselves ----------------------------------------------------------------------------


class ProcessGroup:
    """Stands for torch.distributed's, whose name it has."""


class Averages:
    def __init__(self) -> None:
        self.groups = {2: ProcessGroup()}


class HoldsAGroup(torch.optim.SGD):
    """As ZeroRedundancyOptimizer, OSS of fairscale, and DistributedFusedAdam do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.process_group = ProcessGroup()


class HoldsAnAverager(torch.optim.SGD):
    """As torch's PostLocalSGDOptimizer and torchft's wrapper do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.averager = Averages()


class Gathers(torch.optim.SGD):
    """As distributed versions of Muon do, over the default group."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        dist.all_gather([torch.zeros(1)], torch.zeros(1))
        return super().step(closure)


Foreign = type("Foreign", (torch.optim.SGD,), {"__module__": "horovod.torch.optimizer"})


@pytest.mark.parametrize(
    ("kind", "evidence"),
    [
        (HoldsAGroup, "its process_group holds a process group"),
        (HoldsAnAverager, "its averager holds a process group"),
        (Gathers, "its code calls all_gather"),
        (Foreign, "it comes from horovod.torch.optimizer"),
    ],
)
@pytest.mark.parametrize("wrap", [gossip.GossipOptimizer, slowmo.SlowMo])
def test_an_optimizer_that_communicates_itself_is_refused(kind: Any, evidence: str, wrap: Any) -> None:
    given = {"lr": 0.1} if kind in (Gathers, Foreign) else {}
    said = rf"{kind.__name__} exchanges values .*{evidence}.* plain torch optimizer"
    with pytest.raises(gossip.UsageError, match=said):
        wrap(kind(model().parameters(), **given), gossip.NoAverage())


def test_a_method_around_a_builtin_calls_no_collective() -> None:
    """It has no code of Python's to look into."""
    wrapped = functools.wraps(len)(lambda self: 0)
    kind = type("Counted", (torch.optim.SGD,), {"count": wrapped, "__module__": "mine"})
    gossip.GossipOptimizer(kind([torch.zeros(1, requires_grad=True)], lr=0.1), gossip.NoAverage())


def test_optimizers_of_torch_distributed_are_refused() -> None:
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        zero = ZeroRedundancyOptimizer(model().parameters(), optimizer_class=torch.optim.SGD, lr=0.1)
        local = PostLocalSGDOptimizer(sgd(), PeriodicModelAverager(period=4))
        for base in (zero, local):
            with pytest.raises(gossip.UsageError, match=f"{type(base).__name__} exchanges values with other ranks"):
                gossip.GossipOptimizer(base, gossip.NoAverage())
    finally:
        dist.destroy_process_group()


def test_an_optimizer_that_holds_a_wrapped_model_is_taken() -> None:
    """DistributedDataParallel has a process group, which the optimizer does not use."""

    class Parallel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.process_group = model(), ProcessGroup()

    module = Parallel()
    base = torch.optim.SGD(module.parameters(), lr=0.1)
    base.model = module  # type: ignore[attr-defined]
    gossip.GossipOptimizer(base, gossip.NoAverage(), module=module).step()


# -- what a module holds beside its parameters -------------------------------------------------------------------------


def holding(tensor: Any) -> torch.nn.Module:
    module = model()
    if isinstance(tensor, torch.nn.Parameter):
        module.register_parameter("odd", tensor)
    else:
        module.register_buffer("odd", tensor)
    return module


BESIDE: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "is sparse"),
    "compressed": (lambda: torch.eye(2).to_sparse_csr(), "is sparse"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is quantized"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is nested"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "is nested",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "what"), BESIDE.values(), ids=BESIDE)
def test_a_buffer_that_cannot_travel_is_named(make: Callable[[], torch.Tensor], what: str) -> None:
    with pytest.raises(gossip.UsageError, match=f"buffer 'odd' of module {what}.*give initial='check'"):
        around_model(holding(make()))
    around_model(holding(make()), initial="check").step()


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_parameter_that_cannot_travel_is_named() -> None:
    odd = torch.nn.Parameter(torch.eye(2).to_sparse(), requires_grad=False)
    with pytest.raises(gossip.UsageError, match="parameter 'odd' of module is sparse"):
        around_model(holding(odd))


def test_an_averaged_buffer_without_values_is_named() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LazyBatchNorm1d(affine=False))
    with pytest.raises(gossip.UsageError, match=r"buffer '1\.running_mean' of module has no values to average yet"):
        around_model(module, module_buffers="average")
    around_model(module).step()


TRAVEL: dict[str, Callable[[int], torch.Tensor]] = {
    "expanded": lambda rank: torch.full((2,), float(rank)).expand(3, 2),
    "expanded twice": lambda rank: torch.full((1,), float(rank)).expand(3, 2),
    "transposed": lambda rank: torch.full((2, 3), float(rank)).t(),
    "conjugated": lambda rank: torch.full((2,), rank + 1j).conj(),
    "negated": lambda rank: torch.full((2,), 1j * rank).conj().imag,
    "integer": lambda rank: torch.tensor(rank),
    "bool": lambda rank: torch.tensor(rank > 0),
    "empty": lambda rank: torch.zeros(0, 3),
}


@pytest.mark.parametrize("make", TRAVEL.values(), ids=TRAVEL)
def test_buffers_begin_as_rank_0_has_them(make: Callable[[int], torch.Tensor]) -> None:
    """However they lie in memory."""

    def run(world: gossip.World) -> Any:
        module = holding(make(world.rank))
        base = torch.optim.SGD([module.weight, module.bias], lr=0.1)  # type: ignore[list-item]
        gossip.GossipOptimizer(base, gossip.ExactAverage(world), module=module)
        return module.odd.tolist()

    first, *others = testing.run(3, run)
    assert first == make(0).tolist()
    assert others == [first, first]


def test_expanded_buffers_are_averaged() -> None:
    def run(world: gossip.World) -> Any:
        module = holding(torch.zeros(2).expand(3, 2))
        base = torch.optim.SGD([module.weight, module.bias], lr=0.1)  # type: ignore[list-item]
        averager = gossip.ExactAverage(world)
        optimizer = gossip.GossipOptimizer(base, averager, module=module, module_buffers="average")
        module.odd[:1].fill_(world.rank)  # type: ignore[operator, index]
        optimizer.step()
        return module.odd.tolist()

    assert testing.run(3, run) == [[[1.0, 1.0]] * 3] * 3


# -- how they are printed ----------------------------------------------------------------------------------------------


def test_objects_print_in_one_line_that_says_what_they_are() -> None:
    world, ring = gossip.init(), topologies.exponential(1)
    averager = gossip.Chain(gossip.PushSum(world, ring, overlap=1), gossip.Every(4, gossip.ExactAverage(world)))
    averaged = "Chain(PushSum(Exponential(size=1, period=1), overlap=1, landing='due'), Every(4, ExactAverage(size=1)))"
    assert repr(averager) == averaged
    optimizer = gossip.GossipOptimizer(sgd(), averager, gradients=world)
    optimizer.step()
    inner = f"GossipOptimizer(SGD of 2 parameters at lr 0.1, {averaged}, gradients over 1 ranks, 1 steps made)"
    assert repr(optimizer) == inner
    slow = slowmo.SlowMo(optimizer, gossip.NoAverage(), period=12)
    options = "period=12, momentum=0.5, lr=1.0, nesterov=False, buffers='maintain', rescale=True"
    assert repr(slow) == f"SlowMo({inner}, NoAverage(), {options})"
    host = world.hosts[0]
    assert repr(world) == f"World(rank 0 of 1, local rank 0 of 1 on {host}, cpu, over memory)"


def test_nothing_prints_an_address() -> None:
    world = gossip.init()
    family = [
        slowmo.StreamingSlowMo(sgd(), world, period=2),
        slowmo.ShardedSlowMo(sgd(), world),
        slowmo.SharedMomentum(sgd(), world),
        slowmo.noloco(sgd(), world),
        gossip.PushSum(world, topologies.random_pairs(1, 0), landing="any"),
        world.channel(),
        wrapped().stats,
    ]
    assert not [text for text in map(repr, family) if " at 0x" in text or "\n" in text]


def test_a_rank_by_itself_keeps_buffers_of_any_kind() -> None:
    module = model()
    module.register_buffer("graph", torch.eye(2).to_sparse())
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(module.parameters(), lr=0.1), gossip.NoAverage(), module=module)
    optimizer.step()
    assert module.graph.is_sparse
