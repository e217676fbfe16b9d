"""Hooks of landing="forward" in the ways in which models are run, copied and read."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import spawn
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from workers.forward import Run, both, model

import gossip
import topologies
from gossip import testing
from gossip.passes.reads import Reads
from gossip.state.buckets import sections
from gossip.state.buckets.bucket import names, pack


@pytest.fixture(autouse=True)
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "LEAST", 1024)


def begun(world: gossip.World, net: nn.Module | None = None, **options: Any) -> Run:
    """A run with a round in flight."""
    return Run(world, "forward", net or model("plain"), topologies.exponential(world.size), **options).steps(2)


def settled(world: gossip.World, run: Run) -> list[torch.Tensor]:
    """The parameters once all has landed."""
    run.optimizer.settle()
    return [each.detach().clone() for each in run.net.parameters()]


def hooks(net: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._state_dict_pre_hooks) for part in net.modules())


# -- reads -------------------------------------------------------------------------------------------------------------


def noted(net: nn.Module) -> tuple[list[str], dict[str, set[str]]]:
    """The parameters in the order in which they are read first, and by which module, by name."""
    called = {id(each): name for name, each in net.named_parameters()}
    parts = {part: name for name, part in net.named_modules()}
    reads = Reads(net, called)
    for part in net.modules():
        part.register_forward_pre_hook(lambda part, _: reads.begins(part), prepend=True)
        part.register_forward_hook(lambda part, *_: reads.ends(part), always_call=True)
    net(torch.randn(6, 8))
    reads.end()
    return [called[each] for each in reads.order], {
        parts[part]: {called[each] for each in found} for part, found in reads.by.items()
    }


def test_parameters_are_noted_where_they_are_read() -> None:
    order, by = noted(model("outside"))
    assert order == ["last.weight", "twice.weight", "twice.bias", "last.bias"]
    assert by[""] == {"last.weight"}
    order, by = noted(model("tied"))
    assert order == ["scale", "embedding.weight", "body.weight", "body.bias"]
    assert by[""] == {"scale", "embedding.weight"}


def test_attention_reads_the_weights_of_its_output_layer() -> None:
    order, by = noted(model("attends"))
    assert {"attention.out_proj.weight", "attention.out_proj.bias"} <= by["attention"]
    assert [name for name in order if "norm" not in name] == [
        name for name in order if name.startswith("attention")
    ] + [name for name in order if name.startswith("lstm")]


def test_a_shape_is_no_read() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x[:, : self.last.weight.shape[1]]) if self.last.weight.requires_grad else x

    assert "" not in noted(Looks())[1]


def test_a_pass_that_raises_is_noted_until_there() -> None:
    def run(world: gossip.World) -> None:
        run = Run(world, "forward", model("plain"), topologies.exponential(world.size))
        with pytest.raises(RuntimeError, match="shapes"):
            run.net(torch.zeros(2, 9))
        reads = run.base.averagers[0].landing._forward._reads
        assert [id(each) for each in run.net[0].parameters()] == list(reads.order)
        assert not reads._running
        assert not torch.overrides._get_current_function_mode_stack()
        run.steps(2)

    testing.run(2, run)


# -- sections ----------------------------------------------------------------------------------------------------------


def test_sections_are_whole_blocks_in_the_order_of_reads() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64).double(), nn.Linear(64, 64), nn.Linear(3, 2))
    sgd = torch.optim.SGD(net.parameters())
    buckets = pack(sgd.param_groups, names(sgd, net))
    order = [4, 5, 2, 3, 0, 1]  # slots: of float32 first
    found = sections.cut(buckets, order, 5)
    seen = [torch.zeros(len(bucket.values)) for bucket in buckets]
    for spans in found.spans:
        for number, start, stop in spans:
            seen[number][start:stop] += 1
            assert start % 256 == 0
            assert stop % 256 == 0 or stop == len(buckets[number].values)
    assert all((each == 1).all() for each in seen)
    slots = [(number, slot) for number, bucket in enumerate(buckets) for slot in bucket.slots]
    for place, (number, slot) in enumerate(slots):
        holding = [k for k, spans in enumerate(found.spans) if any(
            span.bucket == number and span.start < slot.stop and slot.start < span.stop for span in spans
        )]  # fmt: skip
        assert found.last[place] == max(holding)
        for k in holding:
            assert place in found.parameters(k, buckets)
    firsts = [found.last[place] for place in order]
    assert firsts[0] <= firsts[2] <= firsts[4]
    sizes = [sum((stop - start) * buckets[n].values.itemsize for n, start, stop in spans) for spans in found.spans]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_there_are_at_most_as_many_sections_as_asked_for(count: int) -> None:
    net = nn.Sequential(*(nn.Linear(31, 31) for _ in range(5)))
    sgd = torch.optim.SGD(net.parameters())
    assert len(sections.cut(pack(sgd.param_groups, names(sgd, net)), [], count).spans) == count


def test_an_empty_parameter_needs_no_section() -> None:
    empty = nn.Parameter(torch.zeros(0))
    full = nn.Parameter(torch.zeros(9))
    sgd = torch.optim.SGD([empty, full], lr=0.1)
    assert sections.cut(pack(sgd.param_groups, names(sgd, None)), [], 3).last == [-1, 0]


# -- ways to run a model -----------------------------------------------------------------------------------------------


def passes(name: str) -> Callable[[nn.Module, torch.Tensor], Any]:
    def under(context: Callable[[], Any]) -> Callable[[nn.Module, torch.Tensor], Any]:
        def run(net: nn.Module, x: torch.Tensor) -> Any:
            with context():
                return net(x)

        return run

    return {
        "no_grad": under(torch.no_grad),
        "inference_mode": under(torch.inference_mode),
        "checkpoint": lambda net, x: checkpoint(net, x.requires_grad_(), use_reentrant=False).sum().backward(),
        "reentrant checkpoint": lambda net, x: checkpoint(net, x.requires_grad_(), use_reentrant=True).sum().backward(),
        "autocast": lambda net, x: (
            under(lambda: torch.autocast("cpu", torch.bfloat16))(net, x).float().sum().backward()
        ),
        "functional_call": lambda net, x: torch.func.functional_call(net, dict(net.named_parameters()), x),
        "layer by layer": lambda net, x: [x := layer(x) for layer in net],
        "one layer": lambda net, x: net[0](x),
        "twice": lambda net, x: (net(x) + net(x)).sum().backward(),
    }[name]


NAMES = ["no_grad", "inference_mode", "checkpoint", "reentrant checkpoint", "autocast", "functional_call"]
NAMES += ["layer by layer", "one layer", "twice"]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_run_the_model_sees_landed_values(name: str) -> None:
    """In each step, beside the pass that trains; from the first step on, in which reads are noted."""
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run, answers = Run(world, landing, net, topologies.exponential(world.size)), []
        for _ in range(3):
            found = passes(name)(run.net, torch.ones(6, 8))
            answers += [
                each.detach().clone()
                for each in (found if isinstance(found, list) else [found])
                if torch.is_tensor(each)
            ]
            answers += [each.grad.clone() for each in run.net.parameters() if each.grad is not None]
            run.step()
        return [*answers, *run.found()]

    both(2, run)


def test_a_scaler_and_accumulated_gradients() -> None:
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topologies.exponential(world.size))
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for number in range(5):
            run.optimizer.zero_grad()
            for _ in range(2):
                out = run.net(torch.randn(6, 8, generator=run.generator))
                run.seen.append(out.detach().clone())
                loss = out.square().sum() * (float("inf") if number == world.rank + 1 else 1.0)
                scaler.scale(loss).backward()
            scaler.step(run.optimizer)
            scaler.update()
        return run.found()

    both(2, run)


def test_a_closure_is_evaluated_while_the_round_travels() -> None:
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topologies.exponential(world.size))

        def closure() -> torch.Tensor:
            run.optimizer.zero_grad()
            out = run.net(torch.randn(6, 8, generator=run.generator))
            run.seen.append(out.detach().clone())
            loss: torch.Tensor = out.square().mean()
            loss.backward()
            return loss

        for _ in range(4):
            run.optimizer.step(closure)
        return run.found()

    both(2, run)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    return spawn.mpirun(2, "workers.compiled", tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("way", ["whole", "layer", "first steps"])
def test_a_compiled_model_computes_with_landed_values(compiled: list[spawn.Saved], way: str) -> None:
    """torch compiles in one thread of a process at a time, so ranks are processes here."""
    for rank in compiled:
        assert (rank[f"due/{way}"] == rank[f"forward/{way}"]).all()


# -- reads that nobody noted -------------------------------------------------------------------------------------------


class Moody(nn.Module):
    """Reads the weight of its last layer early, from the third pass on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 60), nn.Linear(60, 60)
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        hidden = self.first(x)
        if self.passes > 2:
            hidden = nn.functional.linear(hidden, self.last.weight)
        return self.last(torch.tanh(hidden))


def test_a_value_that_was_read_before_it_landed_cannot_go_backward() -> None:
    def run(world: gossip.World) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Moody()
        run = begun(world, net)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run.step()

    testing.run(2, run)


def test_a_write_while_the_round_is_in_flight_is_refused() -> None:
    def run(world: gossip.World) -> str:
        run = begun(world)
        with torch.no_grad():
            run.net[2].weight.mul_(2)
        with pytest.raises(gossip.GossipError, match=r"parameter '2.weight' was written") as caught:
            run.net(torch.zeros(2, 8))
        return str(caught.value)

    assert "call settle() on every rank before writing" in testing.run(2, run)[0]


def test_a_write_after_the_forward_pass_is_nobody_s_business() -> None:
    def run(world: gossip.World) -> None:
        run = begun(world)
        run.net(torch.zeros(2, 8))
        with torch.no_grad():
            run.net[2].weight.mul_(2)
        run.step()

    testing.run(2, run)


class Experts(nn.Module):
    """Weights in a list, of which a pass uses one or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.experts = nn.ParameterList(nn.Parameter(torch.randn(16, 16) / 4) for _ in range(4))
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.first(x) @ self.experts[self.passes % 4]


@torch.jit.script
def scripted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x @ weight)


class Scripted(Experts):
    """Reads weights in a function that torch calls without telling Python."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return scripted(self.first(x), self.experts[1])


class Again(nn.Module):
    """Calls itself, and reads a weight of a child afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 60), nn.Linear(60, 60), nn.Linear(60, 60)

    def forward(self, x: torch.Tensor, deeper: bool = True) -> torch.Tensor:
        if deeper:
            x = self(self.first(x), deeper=False)
            return self.last(nn.functional.linear(x, self.last.weight))
        return self.middle(torch.tanh(x))


class Late(nn.Module):
    """From the third pass on, uses a layer's weight and not the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 60), nn.Linear(60, 60)
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        hidden = self.first(x)
        return self.last(hidden) if self.passes < 3 else nn.functional.linear(hidden, self.last.weight)


def built(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


@pytest.mark.parametrize("kind", [Experts, Scripted, Again])
def test_reads_that_no_function_of_torch_tells_of(kind: type[nn.Module]) -> None:
    net = built(kind)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        return Run(world, landing, net, topologies.exponential(world.size)).steps(6).found()

    testing.run(2, partial(run, landing="due"))  # lets torch's compiler of scripts come to its end
    both(2, run)


def test_a_rank_without_a_first_pass_hears_of_the_others() -> None:
    net = model("outside")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topologies.exponential(world.size))
        if world.rank == 0:
            run.optimizer.step()
        else:
            run.step()
        return run.steps(4).found()

    both(2, run)


def test_a_gradient_of_values_that_had_not_landed_is_refused() -> None:
    def run(world: gossip.World) -> str:
        run = begun(world, built(Late))
        with pytest.raises(gossip.GossipError) as caught:
            run.step()
        return str(caught.value)

    assert (
        "has a gradient of parameter 'last.weight' that was computed before the round in flight"
        in testing.run(2, run)[0]
    )


def test_a_pass_outside_of_any_module_is_refused() -> None:
    def run(world: gossip.World) -> None:
        run = begun(world)
        run.optimizer.zero_grad()
        nn.functional.linear(torch.ones(2, 8), run.net[0].weight).sum().backward()
        with pytest.raises(gossip.GossipError, match="Call settle"):
            run.optimizer.step()

    testing.run(2, run)


def test_a_write_in_the_forward_pass_goes_into_the_master() -> None:
    """An Embedding with max_norm writes its weight when it runs."""

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(20, 8, max_norm=0.5)
            self.last = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.embedding(x.float().mul(5).long().remainder(20)).mean(1))

    net = built(Norms).to(torch.bfloat16)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        return Run(world, landing, net, topologies.exponential(world.size), master_weights=True).steps(5).found()

    both(2, run)


def test_a_write_between_two_sections_is_refused() -> None:
    def run(world: gossip.World) -> None:
        run = begun(world)
        run.net[0](torch.zeros(2, 8))
        with torch.no_grad():
            run.net[4].weight.mul_(2)
        with pytest.raises(gossip.GossipError, match=r"parameter '4.weight' was written"):
            run.net(torch.zeros(2, 8))

    testing.run(2, run)


def test_several_threads_run_the_model() -> None:
    """Also in the first pass, whose reads are noted in one of them."""
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topologies.exponential(world.size))
        for _ in range(5):
            threads = [threading.Thread(target=run.net, args=(torch.zeros(6, 8),)) for _ in range(3)]
            for thread in threads:
                thread.start()
            run.net(torch.zeros(6, 8))
            for thread in threads:  # a pass beside step() would read values while they are written
                thread.join()
            run.step()
        return run.found()

    both(2, run)


def test_a_first_pass_that_is_interrupted_leaves_nothing_behind() -> None:
    def run(world: gossip.World) -> None:
        run = Run(world, "forward", model("plain"), topologies.exponential(world.size))
        handle = run.net[1].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run.net(torch.zeros(6, 8))
        handle.remove()
        run.steps(2)
        assert not torch.overrides._get_current_function_mode_stack()

    testing.run(2, run)


def test_two_optimizers_over_one_model() -> None:
    """Each with a half of the parameters; one ends before the other."""
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        own = copy.deepcopy(net)
        halves = [list(own[:2].parameters()), list(own[2:].parameters())]
        made = [
            gossip.GossipOptimizer(
                torch.optim.SGD(half, lr=0.05),
                gossip.PushSum(world, topologies.exponential(world.size), landing=landing),
                module=part if landing == "forward" else own,
            )
            for half, part in zip(halves, (own[:2], own[2:]), strict=True)
        ]
        generator = torch.Generator().manual_seed(world.rank)
        for step in range(6):
            own.zero_grad()
            own(torch.randn(6, 8, generator=generator)).square().mean().backward()
            for optimizer in made:
                optimizer.step()
            if step == 3:
                made.pop().settle()
        made[0].settle()
        return [each.detach().clone() for each in own.parameters()]

    both(2, run)


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_of_the_model_have_no_hooks_of_ours() -> None:
    def run(world: gossip.World) -> None:
        run = begun(world)
        run.optimizer.settle()
        for copied in (copy.deepcopy(run.net), pickle.loads(pickle.dumps(run.net))):
            run.step()  # the round is in flight
            copied(torch.zeros(2, 8))
            copied.state_dict()
            assert run.base.averagers[0].in_flight()
            run.optimizer.settle()

    testing.run(2, run)


def test_a_model_is_copied_before_its_first_pass() -> None:
    def run(world: gossip.World) -> None:
        run = Run(world, "forward", model("plain"), topologies.exponential(world.size))
        copy.deepcopy(run.net)(torch.zeros(2, 8))
        assert not run.base.averagers[0].landing._forward._reads.order

    testing.run(2, run)


def test_a_replica_of_a_module_is_refused() -> None:
    """As DataParallel makes them, around the model, when the optimizer is there."""

    def run(world: gossip.World) -> str:
        run = begun(world)
        replica = run.net[0]._replicate_for_data_parallel()
        replica.weight, replica.bias = run.net[0].weight.detach(), run.net[0].bias.detach()
        with pytest.raises(gossip.UsageError) as caught:
            replica(torch.zeros(2, 8))
        return str(caught.value)

    assert "whose parameters DataParallel has copied before: take landing='due'" in testing.run(2, run)[0]


def test_hooks_go_with_the_optimizer() -> None:
    def run(world: gossip.World) -> tuple[nn.Module, int]:
        run = begun(world)
        run.optimizer.settle()
        return run.net, hooks(run.net)

    nets, before = zip(*testing.run(2, run), strict=True)
    gc.collect()
    assert min(before) > 0
    assert [hooks(net) for net in nets] == [0, 0]


def test_a_module_that_reads_has_one_hook_and_others_have_none() -> None:
    def run(world: gossip.World) -> None:
        run = begun(world)
        for part in run.net.modules():
            reads = isinstance(part, nn.Linear)
            assert (len(part._forward_pre_hooks), len(part._forward_hooks)) == (reads, 0)

    testing.run(2, run)


def test_one_rank_has_no_hooks() -> None:
    def run(world: gossip.World) -> int:
        return hooks(begun(world).net)

    assert testing.run(1, run) == [0]


def test_hooks_are_the_first() -> None:
    """Spectral norm of the old kind computes a weight in a hook of its own, from what has to be there before."""

    def run(world: gossip.World) -> list[str]:
        run = begun(world, model("reparametrised"))
        return [type(hook).__name__ for hook in run.net[2]._forward_pre_hooks.values()]

    assert testing.run(2, run) == [["function", "SpectralNorm"]] * 2
