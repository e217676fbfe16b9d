"""landing="forward" computes what overlap 0 computes, bit for bit, in every forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import spawn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from workers.forward import MODELS, OPTIMIZERS, STEPS, Run, both, model, same

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.state.buckets import sections

TRANSPORTS = ("mpi", "mpi/far", "gloo")
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of tests are smaller than one section."""
    monkeypatch.setattr(sections, "LEAST", 1024)


def graph(size: int, seed: int) -> topologies.Topology:
    """Irregular with uneven shares, of random pairs, or one that keeps the weight 1."""
    kinds: list[Callable[[], topologies.Topology]] = [
        lambda: topologies.from_networkx(oracle.random_digraphs(size, 1 + seed % 4, seed)),
        lambda: topologies.exponential(size, peers=1 + seed % 2),
        lambda: topologies.random_pairs(size, seed),
    ]
    return kinds[seed % len(kinds)]()


# -- bit for bit -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    size=st.integers(1, 9),
    seed=SEEDS,
    kind=st.sampled_from(sorted(MODELS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    slow=st.booleans(),
    every=st.integers(1, 2),
    wire=st.sampled_from([None, None, "bfloat16", "int8"]),
)
def test_every_forward_pass_sees_what_overlap_0_gives(
    size: int, seed: int, kind: str, optimizer: str, slow: bool, every: int, wire: str | None
) -> None:
    net, topology = model(kind, seed), graph(size, seed)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        return Run(world, landing, net, topology, optimizer, slow, every, wire=wire).steps(STEPS).found()

    both(size, run)


@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("slow", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, slow: bool) -> None:
    """Saved between two steps, with a round in flight or half landed; the model's state is saved first or last."""
    net, topology = model(kind), graph(5, 3)

    def run(world: gossip.World) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        whole = Run(world, "forward", net, topology, "adamw", slow).steps(STEPS)
        first = Run(world, "forward", net, topology, "adamw", slow).steps(4)
        if world.rank % 2:
            states = first.net.state_dict(), first.optimizer.state_dict()
        else:
            states = first.optimizer.state_dict(), first.net.state_dict()
            states = states[::-1]
        then = Run(world, "forward", net, topology, "adamw", slow)
        then.net.load_state_dict(states[0])
        then.optimizer.load_state_dict(states[1])
        then.generator, then.seen = first.generator, first.seen
        return whole.found(), then.steps(STEPS - 4).found()

    for whole, resumed in testing.run(5, run):
        same(whole, resumed)


@pytest.mark.parametrize("options", [{"master_weights": True}, {"check_finite": True}, {"checksum": True}])
def test_with_options_of_the_optimizer(options: dict[str, Any]) -> None:
    net, topology = model("plain"), graph(4, 0)
    if "master_weights" in options:
        net = net.to(torch.bfloat16)
    both(4, lambda world, landing: Run(world, landing, net, topology, **options).steps(STEPS).found())


def test_by_hand_written_parameters_are_masters_after_the_forward_pass() -> None:
    """As with overlap 0, where nothing is in flight between two steps."""
    net, topology = model("plain").to(torch.bfloat16), graph(4, 1)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topology, master_weights=True)
        for _ in range(4):
            run.step()
            run.net(torch.zeros(2, 8, dtype=torch.bfloat16))
            with torch.no_grad():
                run.net[0].bias.clamp_(-0.01, 0.01)
        return run.found()

    both(4, run)


def test_parameters_that_join_later() -> None:
    net, topology = model("plain"), graph(3, 1)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topology).steps(2)
        head = nn.Linear(3, 5)
        with torch.no_grad():
            for each in head.parameters():
                each.fill_(0.1)
        run.net.append(head)
        run.optimizer.add_param_group({"params": list(head.parameters()), "lr": 0.05})
        return run.steps(3).found()

    both(3, run)


@pytest.mark.parametrize("in_part", [False, True])
@pytest.mark.parametrize("model_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"master_weights": True}])
def test_a_loaded_state_drops_the_round_in_flight(in_part: bool, model_first: bool, options: dict[str, Any]) -> None:
    """Also when some of its sections have landed, and when the model's state is written before."""
    net, topology = model("plain").to(torch.bfloat16 if options else torch.float32), graph(4, 0)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topology, **options).steps(2)
        run.optimizer.settle()
        values, state = {name: each.clone() for name, each in run.net.state_dict().items()}, run.optimizer.state_dict()
        run.steps(1)
        if in_part:
            run.net[0](torch.zeros(2, 8, dtype=next(run.net.parameters()).dtype))
        for is_model in (model_first, not model_first):
            if is_model:
                with torch.no_grad():
                    for name, each in run.net.named_parameters():
                        each.copy_(values[name])
            else:
                run.optimizer.load_state_dict(state)
        return run.steps(2).found()

    both(4, run)


def test_a_portable_state_is_loaded_with_a_round_in_flight() -> None:
    """The model's state is loaded first, and no value of the round in flight is merged into it."""
    net, topology = model("plain"), graph(4, 0)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topology).steps(2)
        states = run.optimizer.mean_state_dict(run.net), run.optimizer.portable_state_dict()
        run.steps(1)
        run.optimizer.settle()
        run.steps(1)
        with torch.no_grad():
            for each, saved in zip(run.net.parameters(), states[0].values(), strict=True):
                each.data.copy_(saved)
        run.optimizer.load_state_dict(states[1])
        return run.steps(2).found()

    both(4, run)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    return spawn.mpirun(4, "workers.forward", tmp_path_factory.mktemp("forward"), *TRANSPORTS)


@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_over_real_transports(saved: list[spawn.Saved], transport: str, kind: str) -> None:
    for rank in saved:
        due, forward = (rank[f"{transport}/{landing}/{kind}"] for landing in ("due", "forward"))
        assert (due == forward).all()
    assert not (saved[0][f"{transport}/due/{kind}"] == saved[1][f"{transport}/due/{kind}"]).all()


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_a_module_waits_for_its_own_values_alone() -> None:
    """When the first layer runs, later sections have not landed, and none is left when the last one has run."""
    net = model("plain")

    def run(world: gossip.World) -> list[int]:
        run = Run(world, "forward", net, topologies.exponential(world.size)).steps(1)
        landing, left = run.base.averagers[0].landing, []
        for layer in run.net:
            layer.register_forward_hook(lambda *_: left.append(len(landing._pending)))
        run.step()
        return left

    for left in testing.run(2, run):
        assert left == sorted(left, reverse=True)
        assert left[0] > 4
        assert left[-1] == 0


def test_the_weight_is_whole_again_after_the_forward_pass() -> None:
    def run(world: gossip.World) -> list[float]:
        run = Run(world, "forward", model("plain"), topologies.exponential(world.size)).steps(1)
        weights = [run.base.weight]
        run.net(torch.zeros(2, 8))
        return [*weights, run.base.weight]

    assert testing.run(4, run) == [[0.5, 1.0]] * 4


def test_counters_and_subjects_tell_of_sections(tmp_path: Any) -> None:
    def run(world: gossip.World) -> tuple[int, int, int]:
        run = Run(world, "forward", model("plain"), topologies.exponential(world.size), trace_folder=tmp_path).steps(3)
        run.optimizer.settle()
        counted = run.base.stats.run
        return counted.rounds_posted, counted.rounds_landed, counted.messages_sent

    [found, _] = testing.run(2, run)
    assert found[:2] == (3, 3)
    assert found[2] > 3 * 2 * 8
    assert "round 2, section 3 of " in (tmp_path / "rank-0.json").read_text()


# -- all who read values outside of a forward pass ---------------------------------------------------------------------


def calls(name: str) -> Callable[[Run], Any]:
    return {
        "state_dict": lambda run: run.net.state_dict(),
        "state_dict of a part": lambda run: run.net[2].state_dict(),
        "optimizer.state_dict": lambda run: run.optimizer.state_dict(),
        "mean_state_dict": lambda run: run.optimizer.mean_state_dict(run.net),
        "consensus_distance": lambda run: run.optimizer.consensus_distance(),
        "average_": lambda run: run.optimizer.average_(),
        "portable_state_dict": lambda run: run.optimizer.portable_state_dict(),
        "weight_report": lambda run: round(run.optimizer.weight_report().lost, 9),
        "settle": lambda run: run.optimizer.settle(),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "state_dict",
        "optimizer.state_dict",
        "mean_state_dict",
        "consensus_distance",
        "average_",
        "portable_state_dict",
        "weight_report",
        "settle",
    ],
)
def test_calls_between_steps_find_landed_values(name: str) -> None:
    net, topology = model("plain"), graph(4, 0)

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topology, "adamw")
        answers: list[torch.Tensor] = []
        for _ in range(3):
            run.step()
            answers += tensors(calls(name)(run))
        return [*answers, *run.found()]

    both(4, run)


def test_the_state_of_a_part_of_the_model_has_landed() -> None:
    net = model("plain")

    def run(world: gossip.World, landing: str) -> list[torch.Tensor]:
        run = Run(world, landing, net, topologies.exponential(world.size)).steps(2)
        return tensors(calls("state_dict of a part")(run))

    both(4, run)


def tensors(answer: Any) -> list[torch.Tensor]:
    """The tensors and numbers in an answer; positions in the way of messages are left out."""
    if torch.is_tensor(answer):
        return [answer.clone()]
    if isinstance(answer, float):
        return [torch.tensor(answer, dtype=torch.float64)]
    if isinstance(answer, dict):
        return [each for key, value in answer.items() if key not in ("runs", "averager") for each in tensors(value)]
    return [each for value in answer for each in tensors(value)] if isinstance(answer, list) else []


# -- refusals ----------------------------------------------------------------------------------------------------------


def refusal(build: Callable[[gossip.World, nn.Module, torch.optim.Optimizer], Any], size: int = 2) -> str:
    def run(world: gossip.World) -> str:
        net = model("plain")
        with pytest.raises(gossip.UsageError) as caught:
            build(world, net, torch.optim.SGD(net.parameters(), lr=0.1))
        return str(caught.value)

    return testing.run(size, run)[0]


def forward(world: gossip.World, **options: Any) -> gossip.PushSum:
    return gossip.PushSum(world, topologies.exponential(world.size), landing="forward", **options)


class Posts(gossip.Averager):
    """Reads values when the step ends."""

    def describe(self) -> str:
        """One line."""
        return "Posts()"

    def post(self, step: int) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""

    def in_flight(self) -> bool:
        """Nothing is."""
        return False


REFUSED: dict[str, tuple[Callable[[gossip.World, nn.Module, torch.optim.Optimizer], Any], str]] = {
    "without a module": (
        lambda w, net, sgd: gossip.GossipOptimizer(sgd, forward(w)),
        "give GossipOptimizer module=model",
    ),
    "a part of the module": (
        lambda w, net, sgd: gossip.GossipOptimizer(sgd, forward(w), module=net[0]),
        "a parameter of shape (60, 60) is in no part of this Linear",
    ),
    "overlap": (lambda w, net, sgd: forward(w, overlap=1), "overlap is 1: leave it out"),
    "no sections": (lambda w, net, sgd: forward(w, sections=0), "sections is 0"),
    "sections elsewhere": (
        lambda w, net, sgd: gossip.PushSum(w, topologies.exponential(2), sections=4),
        "sections=4 cuts a round of landing='forward', and here landing='due'",
    ),
    "another gossip": (
        lambda w, net, sgd: gossip.GossipOptimizer(
            sgd, gossip.Chain(forward(w), gossip.PushSum(w, topologies.exponential(2))), module=net
        ),
        "acts on values in every step",
    ),
    "two of them": (
        lambda w, net, sgd: gossip.GossipOptimizer(sgd, gossip.Chain(forward(w), forward(w)), module=net),
        "acts on values in every step",
    ),
    "an averager that reads at the end": (
        lambda w, net, sgd: gossip.GossipOptimizer(sgd, gossip.Chain(forward(w), Posts()), module=net),
        "acts on values in every step",
    ),
    "in an outer step": (
        lambda w, net, sgd: slowmo.SlowMo(gossip.GossipOptimizer(sgd, gossip.NoAverage(), module=net), forward(w)),
        "would land after the outer step that needs it: use overlap=0 and landing='due'",
    ),
    "streaming": (
        lambda w, net, sgd: slowmo.StreamingSlowMo(gossip.GossipOptimizer(sgd, forward(w), module=net), w, 4),
        "StreamingSlowMo reads values when the step ends: use landing='due'",
    ),
    "data parallel": (
        lambda w, net, sgd: gossip.GossipOptimizer(sgd, forward(w), module=nn.ModuleList([nn.DataParallel(net)])),
        "hooks before modules run, which DataParallel at '0' of the module does without",
    ),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_work_is_refused(case: str) -> None:
    build, sentence = REFUSED[case]
    assert sentence in refusal(build)


def test_ranks_and_states_compare_landing_and_sections() -> None:
    def run(world: gossip.World) -> str:
        def optimizer(**options: Any) -> gossip.GossipOptimizer:
            net = model("plain")
            gossips = gossip.PushSum(world, topologies.exponential(world.size), **options)
            return gossip.GossipOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), gossips, module=net)

        with pytest.raises(gossip.UsageError, match="sections=8"):
            optimizer(landing="forward", sections=8).load_state_dict(optimizer(landing="forward").state_dict())
        with pytest.raises(gossip.Disagreement) as caught:
            optimizer(landing="forward", sections=4 + world.rank)
        return str(caught.value)

    assert "sections=4" in testing.run(2, run)[0]
