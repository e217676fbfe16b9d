"""Gossip by arrival: nothing is lost or made, and who is not ready is not waited for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import oracle
import pytest
import spawn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from workers.landing import start as start_of

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.averagers.landing.asynchronous import Asynchronous
from gossip.transports import Network
from gossip.transports.communicator import Communicator
from gossip.transports.memory import MemoryBackend

SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)
LANDINGS = st.sampled_from([("early", 0), ("early", 1), ("early", 2), ("early", 5), ("any", 0), ("any", 1)])
STRAGGLERS = pytest.mark.parametrize(("landing", "overlap"), [("early", 4), ("any", 0)])


def starts(size: int, seed: int) -> oracle.Array:
    """Different values on every rank, (n, 3)."""
    return np.random.default_rng((seed, size)).standard_normal((size, 3))


def graph(size: int, seed: int) -> topologies.Topology:
    """A graph of any kind: irregular with uneven shares, of random pairs without a period, one that ships."""
    kinds: list[Callable[[], topologies.Topology]] = [
        lambda: topologies.from_networkx(oracle.random_digraphs(size, 1 + seed % 4, seed)),
        lambda: topologies.random_pairs(size, seed),
        lambda: topologies.exponential(size, peers=1 + seed % 2),
        lambda: topologies.complete(size),
    ]
    return kinds[seed % len(kinds)]()


def late(seed: int) -> Network:
    """A network on which messages overtake those of other ranks."""
    delays = np.random.default_rng(seed).uniform(0, 2e-3, 97)
    return Network(delay=lambda source, target, number: float(delays[(source + 7 * target + number) % 97]))


def begin(
    world: gossip.World, averager: gossip.Averager, start: oracle.Array
) -> tuple[gossip.GossipOptimizer, torch.Tensor]:
    """Rounds without updates from a start of each rank's own."""
    parameter = torch.zeros(start.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(start[world.rank]))
    return optimizer, parameter


class Held(NamedTuple):
    """The weight and values of a rank at the end, and the least weight and all values that it held on the way."""

    weight: float
    values: oracle.Array
    least: float
    seen: oracle.Array


def mix(world: gossip.World, averager: gossip.Averager, start: oracle.Array, steps: int, settle_at: int = -1) -> Held:
    optimizer, parameter = begin(world, averager, start)
    weights, seen = [1.0], []
    for step in range(steps):
        optimizer.step()
        if step == settle_at:
            optimizer.settle()
        weights.append(optimizer.weight)
        seen.append(parameter.detach().numpy().copy())
    optimizer.settle()
    return Held(optimizer.weight, parameter.detach().numpy().copy(), min(weights), np.stack(seen))


def conserved(ranks: list[Held], start: oracle.Array) -> None:
    """Σ w = n and Σ w z as in the beginning."""
    assert sum(held.weight for held in ranks) == pytest.approx(len(start), abs=1e-12)
    np.testing.assert_allclose(sum(held.weight * held.values for held in ranks), start.sum(axis=0), atol=1e-12)


# -- laws --------------------------------------------------------------------------------------------------------------


@given(size=SIZES, seed=SEEDS, how=LANDINGS, every=st.integers(1, 2))
def test_nothing_is_lost_or_made(size: int, seed: int, how: tuple[str, int], every: int) -> None:
    """On a network that delays, with a settling on the way; and no value leaves the hull of the first ones."""
    start, topology = starts(size, seed), graph(size, seed)

    def averager(world: gossip.World) -> gossip.Averager:
        return gossip.Every(every, gossip.PushSum(world, topology, overlap=how[1], landing=how[0]))

    ranks = testing.run(size, lambda world: mix(world, averager(world), start, 9, settle_at=5), network=late(seed))
    conserved(ranks, start)
    for held in ranks:
        assert (held.seen >= start.min(axis=0) - 1e-12).all()
        assert (held.seen <= start.max(axis=0) + 1e-12).all()


@given(size=SIZES, seed=SEEDS, how=LANDINGS)
def test_no_rank_gives_away_what_it_needs(size: int, seed: int, how: tuple[str, int]) -> None:
    """However late messages are, 1/w is at most twice of what the graph itself makes of it."""
    steps, start, topology = 12, starts(size, seed), graph(size, seed)
    prompt, least = np.ones(size), 1.0
    for number in range(steps):
        keep = topology.matrix(number).diagonal()
        least = min(least, float((prompt * np.minimum(keep, 0.5)).min()))
        prompt = topology.matrix(number) @ prompt
    ranks = testing.run(
        size,
        lambda world: mix(world, gossip.PushSum(world, topology, overlap=how[1], landing=how[0]), start, steps),
        network=late(seed),
    )
    assert min(held.least for held in ranks) >= least - 1e-12


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_is_on_time_is_given_as_the_graph_says(size: int, weighted: bool) -> None:
    """Where nothing is late, "early" is "due", over graphs that give more to some ranks than to others too."""
    start = starts(size, 0)
    topology = topologies.from_networkx(oracle.random_digraphs(size, 3, 1, weighted))

    def run(world: gossip.World) -> tuple[Held, Held]:
        due, early = (gossip.PushSum(world, topology, 0, landing) for landing in ("due", "early"))
        return mix(world, due, start, 20), mix(world, early, start, 20)

    for due, early in testing.run(size, run):
        assert early.weight == pytest.approx(due.weight, abs=1e-12)
        np.testing.assert_allclose(early.seen, due.seen, atol=1e-12)


@settings(max_examples=8)
@given(size=st.integers(1, 6), seed=SEEDS, how=LANDINGS)
def test_ranks_reach_the_mean(size: int, seed: int, how: tuple[str, int]) -> None:
    """The weights undo the bias that uneven shares and uneven paces bring."""
    start, topology = starts(size, seed), graph(size, seed)

    def run(world: gossip.World) -> Held:
        optimizer, parameter = begin(world, gossip.PushSum(world, topology, overlap=how[1], landing=how[0]), start)
        for _ in range(80):
            for _ in range(2 + world.rank % 2 if how[0] == "any" else 2):
                optimizer.step()
            if how[0] == "any":
                world.barrier()  # threads that do nothing else would leave one another no time to answer
        optimizer.settle()
        return Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    ranks = testing.run(size, run)
    conserved(ranks, start)
    for held in ranks:
        np.testing.assert_allclose(held.values, start.mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_number_of_steps(size: int) -> None:
    """With landing="any" a rank may stop before the others, and settles when they come."""
    start = starts(size, 0)
    topology = topologies.exponential(size)

    def run(world: gossip.World) -> Held:
        return mix(world, gossip.PushSum(world, topology, landing="any"), start, 4 + 7 * world.rank)

    conserved(testing.run(size, run), start)


class Look(gossip.Averager):
    """Writes down the weight when others have averaged."""

    def __init__(self) -> None:
        self.weights: list[float] = []

    def describe(self) -> str:
        return "Look()"

    def average(self, step: int) -> None:
        self.weights.append(float(self.mass.weight))


@STRAGGLERS
@pytest.mark.parametrize("size", [1, 3, 8])
def test_exact_average_on_top(size: int, landing: str, overlap: int) -> None:
    """Waits for all mass, as it must, and leaves every weight at 1 and the same bits."""
    start, topology = starts(size, 1), topologies.random_pairs(size)

    def run(world: gossip.World) -> tuple[float, oracle.Array]:
        push_sum, exact, look = gossip.PushSum(world, topology, overlap, landing), gossip.ExactAverage(world), Look()
        optimizer, parameter = begin(world, gossip.Chain(push_sum, gossip.Every(5, exact), look), start)
        for _ in range(5):
            optimizer.step()
        average = parameter.detach().numpy().copy()
        optimizer.settle()
        return look.weights[-1], average

    ranks = testing.run(size, run, network=late(2))
    for weight, values in ranks:
        assert weight == 1
        np.testing.assert_allclose(values, start.mean(axis=0), atol=1e-12)
        np.testing.assert_array_equal(values, ranks[0][1])


# -- stragglers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["exponential", "complete", "random_pairs"])
@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize(("landing", "overlap", "ahead"), [("any", 0, 50), ("early", 1, 1), ("early", 6, 6)])
def test_nobody_waits(landing: str, overlap: int, ahead: int, size: int, graph: str) -> None:
    """The last rank stands still until all others are `ahead` of it: they would never be if one of them waited."""
    start, topology = starts(size, 3), topologies.load(graph, size)
    there = threading.Semaphore(0)

    def run(world: gossip.World) -> Held:
        optimizer, parameter = begin(world, gossip.PushSum(world, topology, overlap, landing), start)
        for _ in range(4):
            optimizer.step()
        if world.rank == size - 1:
            for _ in range(size - 1):
                assert there.acquire(timeout=20), "a rank waits for one that stands still"
        for _ in range(ahead):
            optimizer.step()
        there.release()
        optimizer.settle()
        return Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    conserved(testing.run(size, run, timeout=20), start)


@pytest.mark.parametrize(("landing", "overlap"), [("due", 1), ("due", 2), ("early", 1), ("early", 3)])
def test_a_bounded_overlap_waits_in_the_end(landing: str, overlap: int) -> None:
    """A rank that is `overlap` steps ahead of a rank that stands still does not get further."""

    def run(world: gossip.World) -> int:
        push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap, landing)
        optimizer, _ = begin(world, push_sum, starts(2, 0))
        if world.rank == 1:
            return 0
        for _ in range(overlap):
            optimizer.step()
        with pytest.raises(gossip.PeerTimeout, match=r"rank 0 heard nothing from rank 1.* in round 0 for 0\.5 s"):
            optimizer.step()
        return optimizer.steps

    assert testing.run(2, run, timeout=0.5)[0] == overlap


def test_a_slow_rank_is_not_flooded() -> None:
    """At most one message of each peer is under way to it, and it goes on from there."""
    size, steps = 4, 40
    start = starts(size, 4)
    done = threading.Semaphore(0)

    def run(world: gossip.World) -> tuple[int, Held]:
        push_sum = gossip.PushSum(world, topologies.exponential(size), landing="any")
        optimizer, parameter = begin(world, push_sum, start)
        optimizer.step()
        world.barrier()
        before = optimizer.stats.run.messages_received
        if world.rank == 0:
            for _ in range(size - 1):
                assert done.acquire(timeout=20)
            optimizer.step()
        else:
            for _ in range(steps):
                optimizer.step()
            done.release()
        received = optimizer.stats.run.messages_received - before
        world.barrier()
        optimizer.settle()
        return received, Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    ranks = testing.run(size, run, timeout=20)
    # A message is an envelope and one bucket; two peers give to it; answers to its own messages are one each.
    assert ranks[0][0] <= 2 * 2 + 2
    conserved([held for _, held in ranks], start)


@STRAGGLERS
def test_training_past_a_straggler(landing: str, overlap: int) -> None:
    """Each rank has an optimum of its own; what they agree on is the mean of these, also where one has fewer steps."""
    size = 4
    targets = starts(size, 5)
    pause = threading.Event()

    def run(world: gossip.World) -> tuple[float, oracle.Array]:
        parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        push_sum = gossip.PushSum(world, topologies.exponential(size), overlap, landing)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.02, momentum=0.9), push_sum)
        for step in range(400):
            optimizer.zero_grad()
            ((parameter - torch.from_numpy(targets[world.rank])) ** 2).sum().backward()
            optimizer.step()
            if world.rank == 3 and step % 10 == 0:
                pause.wait(2e-3)
        optimizer.settle()
        return optimizer.weight, parameter.detach().numpy().copy()

    ranks = testing.run(size, run, timeout=20)
    mean = sum(weight * values for weight, values in ranks) / size
    assert np.abs(mean - targets.mean(axis=0)).max() < 0.3


MPIS = ("mpi", "mpi/far", "mpi/staged")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    """Four processes, over every transport, that come to an end."""
    return spawn.mpirun(4, "workers.landing", tmp_path_factory.mktemp("landing"), *MPIS, "gloo")


@pytest.mark.slow
@pytest.mark.parametrize("landing", ["any", "early"])
@pytest.mark.parametrize("transport", [*MPIS, "gloo"])
def test_mpirun(transport: str, landing: str, launched: list[spawn.Saved]) -> None:
    """Past a process that stands still; then on from a checkpoint, with "any" for as long as each likes."""
    start = np.stack([start_of(rank) for rank in range(4)])
    for when in ("", "later "):
        ranks = [
            Held(float(saved[f"{transport}/{landing}/{when}w"]), saved[f"{transport}/{landing}/{when}z"], 0.0, start)
            for saved in launched
        ]
        conserved(ranks, start)


def test_taking_up_a_state_settles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A settling with landing="any" sends as much as the model has."""
    meet, met = Asynchronous._meet, []

    def counted(self: Asynchronous, merge: bool) -> None:
        met.append(merge)
        meet(self, merge)

    def run(world: gossip.World) -> None:
        push_sum = gossip.PushSum(world, topologies.exponential(world.size), landing="any")
        optimizer, _ = begin(world, push_sum, starts(world.size, 0))
        optimizer.step()
        optimizer.settle()
        state = optimizer.state_dict()
        world.barrier()
        met.clear()
        world.barrier()
        optimizer.load_state_dict(state)

    monkeypatch.setattr(Asynchronous, "_meet", counted)
    testing.run(3, run, timeout=20)
    assert met == [False] * 3


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_what_comes_before_a_rank_has_given_counts(every: int, exact: bool) -> None:
    """Updates have mass 1 from the first message on, also where the rank itself has posted nothing yet."""
    size, steps = 3, 7
    others = threading.Barrier(size, timeout=20)

    def run(world: gossip.World) -> tuple[float, float]:
        push_sum = gossip.PushSum(world, topologies.exponential(size), landing="any")
        averager: gossip.Averager = gossip.Every(every, push_sum)
        if exact:
            averager = gossip.Chain(averager, gossip.Every(3, gossip.ExactAverage(world)))
        parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=1.0), averager)

        def step() -> None:
            parameter.grad = torch.full((1,), -1.0 - world.rank, dtype=torch.float64)
            optimizer.step()

        early = steps if world.rank == 0 and not exact else 0
        for _ in range(early):  # the first has given all before the others begin
            step()
        others.wait()
        for _ in range(steps - early):
            step()
        optimizer.settle()
        return optimizer.weight, optimizer.weight * parameter.item()

    weights, products = zip(*testing.run(size, run, timeout=20), strict=True)
    assert sum(weights) == pytest.approx(size, abs=1e-12)
    assert sum(products) == pytest.approx(steps * (1 + 2 + 3), abs=1e-9)


def test_a_settling_between_two_steps_of_some() -> None:
    """A rank that has settled before its first step holds the shares that the others gave."""

    def run(world: gossip.World) -> float:
        push_sum = gossip.PushSum(world, topologies.exponential(world.size), landing="any")
        due = gossip.PushSum(world, topologies.exponential(world.size))
        parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=1.0), push_sum)

        def step() -> None:
            parameter.grad = -torch.ones(1, dtype=torch.float64)
            optimizer.step()

        if world.rank == 0:
            step()
        optimizer.settle()
        optimizer.attach(due, 1, "rounds as well")
        step()  # in which a round of equal shares lands
        optimizer.settle()
        assert not optimizer.weight_report().lost
        return optimizer.weight * parameter.item()

    assert sum(testing.run(2, run, timeout=20)) == pytest.approx(3)


# -- a network that loses and repeats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("graph", "seed"), [("exponential", 0), ("random_pairs", 1)])
def test_three_of_ten_messages_lost(graph: str, seed: int) -> None:
    """Answers as well, and some that come twice: ranks go on, agree once no more are lost, and nothing is lost then."""
    size, steps = 5, 50
    start, topology = starts(size, seed), topologies.load(graph, size)
    losing, together = threading.Event(), threading.Barrier(size, timeout=20)  # a meeting that loses nothing
    lost = []

    def drawn(source: int, target: int, number: int, what: int) -> bool:
        return losing.is_set() and (random.Random(f"{seed} {source} {target} {number} {what}").random() < 0.3)

    def lose(source: int, target: int, number: int) -> bool:
        lost.extend([number] * drawn(source, target, number, 0))
        return drawn(source, target, number, 0)

    def run(world: gossip.World) -> Held:
        optimizer, parameter = begin(world, gossip.PushSum(world, topology, landing="any"), start)
        seen, weights = [], []
        for losses in (True, False):
            if together.wait() == 0:
                (losing.set if losses else losing.clear)()
            together.wait()
            for _ in range(steps):
                optimizer.step()
                together.wait()
                weights.append(optimizer.weight)
                seen.append(parameter.detach().numpy().copy())
        optimizer.settle()
        return Held(optimizer.weight, parameter.detach().numpy().copy(), min(weights), np.stack(seen))

    network = Network(lose=lose, repeat=lambda source, target, number: drawn(source, target, number, 1), patience=5e-3)
    ranks = testing.run(size, run, timeout=20, network=network)
    assert len(lost) > 25, "hardly any were lost"  # how many depends on how long the steps take
    conserved(ranks, start)
    assert np.ptp(np.stack([held.values for held in ranks]), axis=0).max() <= 1e-4
    for held in ranks:
        assert (held.seen >= start.min(axis=0) - 1e-12).all()
        assert (held.seen <= start.max(axis=0) + 1e-12).all()


@pytest.mark.parametrize("seed", range(2))
def test_what_comes_twice_is_merged_once(seed: int) -> None:
    start, topology = starts(5, seed), topologies.exponential(5, peers=2)
    twice = threading.Event()
    # Answers too: nobody waits for those on a network that is known for it.
    network = Network(lose=lambda *_: False, repeat=lambda source, target, number: twice.is_set())

    def run(world: gossip.World) -> Held:
        optimizer, parameter = begin(world, gossip.PushSum(world, topology, landing="any"), start)
        world.barrier()
        twice.set()
        for _ in range(20):
            optimizer.step()
        optimizer.settle()
        return Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    conserved(testing.run(5, run, timeout=20, network=network), start)


@pytest.mark.parametrize(("landing", "overlap"), [("due", 0), ("due", 1), ("due", 2), ("early", 3)])
def test_with_rounds_what_comes_twice_is_refused(landing: str, overlap: int) -> None:
    """It takes the place of the next message, which then finds none: nobody goes on with a round merged twice."""
    start, twice = starts(3, 0), threading.Event()
    together = threading.Barrier(3, timeout=20)
    rounds = []

    def run(world: gossip.World) -> None:
        optimizer, _ = begin(world, gossip.PushSum(world, topologies.ring(3), overlap, landing), start)
        together.wait()
        twice.set()
        for _ in range(9):
            optimizer.step()
            rounds.append(optimizer.stats.run.rounds_landed)

    network = Network(repeat=lambda source, target, number: twice.is_set())
    with pytest.raises((gossip.PeerLost, gossip.PeerTimeout), match=r"expected round 1 from|in round 1 for 0.5 s"):
        testing.run(3, run, timeout=0.5, network=network)
    assert max(rounds) <= 1


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_has_arrived() -> None:
    """With landing="early", as with "due": taken while mass is on its way, it has all of it."""
    size = 5
    start, topology = starts(size, 6), topologies.exponential(size, peers=2)

    def run(world: gossip.World) -> tuple[float, Held]:
        first, parameter = begin(world, gossip.PushSum(world, topology, 3, "early"), start)
        for _ in range(4):
            first.step()
        saved, values, weight = first.state_dict(), parameter.detach().clone(), first.weight
        first.step()
        first.settle()
        second, other = begin(world, gossip.PushSum(world, topology, 3, "early"), start)
        second.load_state_dict(saved)
        other.data.copy_(values)
        for _ in range(3):
            second.step()
        second.settle()
        return weight, Held(second.weight, other.detach().numpy().copy(), 0.0, start)

    ranks = testing.run(size, run, network=late(7))
    assert sum(weight for weight, _ in ranks) < size - 1
    conserved([held for _, held in ranks], start)


def test_a_checkpoint_without_rounds_wants_to_be_settled() -> None:
    """It is refused as long as something may be on its way; and an older one may be loaded into the run itself."""
    size = 3
    start, topology = starts(size, 8), topologies.exponential(size)

    def run(world: gossip.World) -> tuple[Any, Held]:
        optimizer, parameter = begin(world, gossip.PushSum(world, topology, landing="any"), start)
        for _ in range(3):
            optimizer.step()
        with pytest.raises(gossip.UsageError, match=r"call settle\(\) on every rank first"):
            optimizer.state_dict()
        world.barrier()  # who settles has sent its last, and a rank that has the last of all others may be saved
        optimizer.settle()
        saved, values = optimizer.state_dict(), parameter.detach().clone()
        for _ in range(4 + world.rank):
            optimizer.step()
        optimizer.load_state_dict(saved)
        parameter.data.copy_(values)
        assert optimizer.weight == saved["gossip"]["weight"]
        for _ in range(2):
            optimizer.step()
        optimizer.settle()
        return saved, Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    ranks = testing.run(size, run, network=late(9))
    conserved([held for _, held in ranks], start)
    assert all(saved["gossip"]["averager"]["rounds"] == 3 for saved, _ in ranks)


@STRAGGLERS
def test_a_parameter_group_may_join(landing: str, overlap: int) -> None:
    """In buckets of its own, after all has landed."""
    size = 3
    start = starts(size, 10)

    def run(world: gossip.World) -> Held:
        optimizer, parameter = begin(
            world, gossip.PushSum(world, topologies.exponential(size), overlap, landing), start
        )
        for _ in range(3):
            optimizer.step()
        optimizer.add_param_group({"params": [torch.ones(7, dtype=torch.float32, requires_grad=True)]})
        for _ in range(3):
            optimizer.step()
        optimizer.settle()
        return Held(optimizer.weight, parameter.detach().numpy().copy(), 0.0, start)

    conserved(testing.run(size, run, network=late(11)), start)


# -- refusals ----------------------------------------------------------------------------------------------------------


@STRAGGLERS
def test_nccl_is_refused(landing: str, overlap: int) -> None:
    world = gossip.init()
    world.base.streams = True
    with pytest.raises(gossip.UsageError, match="over nccl messages come in the one order of a stream"):
        gossip.PushSum(world, topologies.exponential(1), overlap, landing)


def test_an_outer_step_cannot_be_without_rounds() -> None:
    """SlowMo's own average has to land in the step."""
    push_sum = gossip.PushSum(gossip.init(), topologies.exponential(1), landing="any")
    with pytest.raises(gossip.UsageError, match="would land after the outer step that needs it"):
        slowmo.SlowMo(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), push_sum)


def test_ranks_land_alike() -> None:
    """Ranks that disagree about it are refused, as with any other option."""

    def run(world: gossip.World) -> None:
        landing = "any" if world.rank else "early"
        begin(world, gossip.PushSum(world, topologies.exponential(2), 1, landing), starts(2, 0))

    with pytest.raises(gossip.Disagreement, match=r"landing='early'.*landing='any'"):
        testing.run(2, run)


@pytest.mark.parametrize(("landing", "overlap"), [("early", 2), ("any", 0)])
def test_resumed_ranks_give_what_they_would_have_given(landing: str, overlap: int) -> None:
    """Over a graph that gives more to some ranks than to others, the weights go on as without a break."""
    graph = topologies.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)]))
    start = starts(3, 0)

    def run(world: gossip.World) -> tuple[list[float], list[float]]:
        first, _ = begin(world, gossip.PushSum(world, graph, overlap, landing), start)
        for _ in range(4):
            first.step()
            first.settle()
        saved = first.state_dict()
        second, _ = begin(world, gossip.PushSum(world, graph, overlap, landing), start)
        second.load_state_dict(saved)
        weights = []
        for optimizer in (first, second):
            weights.append([])
            for _ in range(4):
                optimizer.step()
                optimizer.settle()
                weights[-1].append(optimizer.weight)
        return weights[0], weights[1]

    for straight, resumed in testing.run(3, run):
        assert resumed == straight


@STRAGGLERS
def test_every_landing_works_where_receives_are_posted_early(
    landing: str, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over Gloo, whose messages leave only once their receiver has made room, and come into the oldest room."""
    expected: dict[tuple[Communicator, int], Any] = {}
    post = Communicator.post

    def expect(channel: Communicator, receives: dict[int, Any]) -> None:
        expected.update({(channel, peer): tensors for peer, tensors in receives.items()})

    def checked(channel: Communicator, sends: Any, receives: dict[int, Any], *more: Any, **options: Any) -> Any:
        for peer, tensors in receives.items():
            room = expected.pop((channel, peer), tensors)
            assert all(one is other for one, other in zip(room, tensors, strict=True)), "another one is expected first"
        return post(channel, sends, receives, *more, **options)

    monkeypatch.setattr(MemoryBackend, "expects", True)
    monkeypatch.setattr(Communicator, "expect", expect)
    monkeypatch.setattr(Communicator, "post", checked)

    def run(world: gossip.World, ahead: int) -> float:
        averager = gossip.PushSum(world, topologies.ring(world.size), overlap=ahead, landing=landing)
        optimizer, parameter = begin(world, averager, np.arange(2.0)[:, None])
        for _ in range(6):
            optimizer.step()
        optimizer.settle()
        return parameter.item()

    for ahead in {0, overlap}:
        assert testing.run(2, lambda world, ahead=ahead: run(world, ahead), timeout=20) == pytest.approx([0.5, 0.5])
