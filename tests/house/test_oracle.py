"""The oracle against itself: each recursion against a second formula."""

from __future__ import annotations

import networkx as nx
import numpy as np
import oracle
import pytest
import torch

SIZES = [1, 2, 3, 5, 8]


def pull(targets: oracle.Array) -> oracle.Gradient:
    """The gradient of ½‖z − target‖², with a term that changes from step to step."""
    return lambda rank, step, z: z - targets[rank] + 0.1 * np.sin(step + rank + np.arange(len(z)))


def problem(size: int, seed: int = 0) -> tuple[oracle.Array, oracle.Gradient]:
    """One start for all ranks, and a different gradient for each rank."""
    random = np.random.default_rng((size, seed))
    return np.tile(random.standard_normal(4), (size, 1)), pull(random.standard_normal((size, 4)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [True, False])
def test_random_digraphs_are_irregular_and_connect(size: int, weighted: bool) -> None:
    graphs = oracle.random_digraphs(size, 4, seed=7, weighted=weighted)
    again = oracle.random_digraphs(size, 4, seed=7, weighted=weighted)
    assert [sorted(g.edges(data="weight")) for g in graphs] == [sorted(g.edges(data="weight")) for g in again]
    assert nx.is_strongly_connected(nx.compose_all(graphs))
    for graph in graphs:
        P = oracle.matrix(graph)
        np.testing.assert_allclose(P.sum(axis=0), 1)
        assert (P >= 0).all()
        assert (np.diag(P) > 0.19).all()
    if size > 2:
        assert any(np.abs(oracle.matrix(g).sum(axis=1) - 1).max() > 0.1 for g in graphs), "rows must not sum to 1"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_rounds_conserve(size: int, overlap: int) -> None:
    P = oracle.cycle(oracle.random_digraphs(size, 3, seed=1))
    start = np.random.default_rng(size).standard_normal((size, 4))
    net = oracle.Network(start)
    for t in range(12):
        net.land(t)
        net.post(P(t), due=t + overlap)
        x, w = net.total
        np.testing.assert_allclose(x, start.sum(axis=0), atol=1e-14)
        assert w == pytest.approx(size, abs=1e-14)
    net.settle()
    assert net.w.sum() == pytest.approx(size, abs=1e-14)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_exponential_graph_reaches_the_mean(size: int) -> None:
    start = np.random.default_rng(size).standard_normal((size, 4))
    net, P = oracle.Network(start), oracle.exponential(size)
    for t in range((size - 1).bit_length()):
        net.post(P(t), due=t)
        net.land(t)
    np.testing.assert_allclose(net.z, np.tile(start.mean(axis=0), (size, 1)), atol=1e-15)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("overlap", [1, 2])
def test_overlap_is_a_product_of_wider_matrices(size: int, overlap: int) -> None:
    """Flights count as one more rank for each step of delay: y = (held, posted last, posted before ...)."""
    P = oracle.cycle(oracle.random_digraphs(size, 3, seed=2))
    start = np.random.default_rng(size).standard_normal((size, 4))
    net, y = oracle.Network(start), np.vstack([start, np.zeros((overlap * size, 4))])
    for t in range(10):
        net.land(t)
        net.post(P(t), due=t + overlap)
        keep = np.diag(np.diag(P(t)))
        blocks = np.zeros((overlap + 1, overlap + 1, size, size))
        # The oldest flight lands first and is then given away with the held mass.
        blocks[0, [0, overlap]] = keep
        blocks[1, [0, overlap]] = P(t) - keep
        for age in range(2, overlap + 1):
            blocks[age, age - 1] = np.eye(size)
        y = np.block([[blocks[i, j] for j in range(overlap + 1)] for i in range(overlap + 1)]) @ y
        np.testing.assert_allclose(net.x, y[:size], atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 1])
def test_merging_values_equals_the_numerator_form(size: int, overlap: int) -> None:
    """w <- w + w'; z <- z + (w'/w)(z' - z); an update counts for mass 1."""
    P, (start, gradient) = oracle.cycle(oracle.random_digraphs(size, 3, seed=3)), problem(size)
    history = oracle.train(start, gradient, lambda t: 0.05, 20, matrices=P, overlap=overlap)
    z, w = start.copy(), np.ones(size)
    flights: list[list[tuple[int, float, oracle.Array]]] = []

    def land() -> None:
        for i, share, value in flights.pop() if flights else ():
            w[i] += share
            z[i] += share / w[i] * (value - z[i])

    for t in range(20):
        g = np.stack([gradient(i, t, z[i]) for i in range(size)])
        land()
        z -= 0.05 * g / w[:, None]
        p = P(t)
        flights.append([(i, p[i, j] * w[j], z[j].copy()) for j in range(size) for i in range(size) if i != j])
        w *= np.diag(p)
        if overlap == 0:
            land()
        np.testing.assert_allclose(history.z[t], z, atol=1e-13)
        np.testing.assert_allclose(history.w[t], w, atol=1e-14)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_on_one_rank_equals_torch(momentum: float, nesterov: bool) -> None:
    start, gradient = problem(1)
    sgd = oracle.SGD(momentum=momentum, weight_decay=0.01, nesterov=nesterov)

    def sometimes(rank: int, step: int, z: oracle.Array) -> oracle.Array:
        return np.full_like(z, np.nan) if step % 3 == 0 else gradient(rank, step, z)

    history = oracle.train(start, sometimes, lambda t: 0.1 / (t + 1), 20, sgd=sgd)
    z = torch.tensor(start[0], requires_grad=True)
    optimizer = torch.optim.SGD([z], lr=0.1, momentum=momentum, weight_decay=0.01, nesterov=nesterov)
    for t in range(20):
        optimizer.param_groups[0]["lr"] = 0.1 / (t + 1)
        g = sometimes(0, t, z.detach().numpy())
        z.grad = None if np.isnan(g).any() else torch.from_numpy(g)
        optimizer.step()
        np.testing.assert_allclose(history.z[t, 0], z.detach().numpy(), atol=1e-15)
    assert (history.w == 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_slowmo_without_slow_momentum_is_local_sgd(size: int) -> None:
    start, gradient = problem(size)
    slow = oracle.train(start, gradient, lambda t: 0.1, 20, slowmo=oracle.SlowMo(4, momentum=0))
    local = oracle.train(start, gradient, lambda t: 0.1, 20, exact_every=4)
    np.testing.assert_allclose(slow.z, local.z, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_slowmo_at_every_step_is_heavy_ball(size: int) -> None:
    start, gradient = problem(size)
    slow = oracle.train(start, gradient, lambda t: 0.1, 20, slowmo=oracle.SlowMo(1, momentum=0.7))
    ball = oracle.train(start, gradient, lambda t: 0.1, 20, sgd=oracle.SGD(momentum=0.7), average_gradients=True)
    np.testing.assert_allclose(slow.z, ball.z, atol=1e-14)


@pytest.mark.parametrize("nesterov", [True, False])
def test_slowmo_without_rescaling_is_an_outer_sgd(nesterov: bool) -> None:
    """DiLoCo: torch's SGD on the outer gradient x_{t,0} − x_{t,τ}, for any inner rates."""
    size, period = 3, 5
    start, gradient = problem(size)

    def rate(t: int) -> float:
        return 0.1 / (t + 1)

    options = oracle.SlowMo(period, momentum=0.9, lr=0.7, nesterov=nesterov, rescale=False)
    slow = oracle.train(start, gradient, rate, 20, slowmo=options)
    x = torch.tensor(start[0], requires_grad=True)
    outer = torch.optim.SGD([x], lr=0.7, momentum=0.9, nesterov=nesterov)
    for t in range(0, 20, period):
        z = np.tile(x.detach().numpy(), (size, 1))
        for k in range(t, t + period):
            z -= rate(k) * np.stack([gradient(i, k, z[i]) for i in range(size)])
        x.grad = x.detach() - torch.from_numpy(z.mean(axis=0))
        outer.step()
        np.testing.assert_allclose(slow.z[t + period - 1], np.tile(x.detach().numpy(), (size, 1)), atol=1e-14)


@pytest.mark.parametrize("average", ["exact", "none"])
def test_slowmo_needs_no_division(average: str) -> None:
    """With m = γ u and r = γ_t / γ_{t-1}: m' = β r m + d; x = x_{t,τ} + (1 - α) d - α β r m."""
    random = np.random.default_rng(0)
    options = oracle.SlowMo(4, momentum=0.6, lr=0.8, average=average)
    anchor = random.standard_normal((3, 4))
    u, m, last = np.zeros_like(anchor), np.zeros_like(anchor), None
    for rate in [0.1, 0.2, 0.0, 0.05, 0.0]:
        z = anchor + 0.1 * random.standard_normal(anchor.shape)
        x, u = oracle.outer_step(options, anchor, z, u, np.full_like(z, rate))
        d = anchor - z
        if rate == 0:
            np.testing.assert_array_equal(x, z)
        else:
            r = rate / (last or rate)
            np.testing.assert_allclose(x, z + (1 - 0.8) * d - 0.8 * 0.6 * r * m, atol=1e-14)
            m, last = 0.6 * r * m + d, rate
            np.testing.assert_allclose(m, rate * u, atol=1e-14)
        anchor = x


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_no_average_leaves_weights_and_anchors_to_each_rank(overlap: int) -> None:
    """With β = 0, α = 1 a no-average outer step changes nothing; with momentum, only push-sum changes weights."""
    P, (start, gradient) = oracle.cycle(oracle.random_digraphs(5, 3, seed=4)), problem(5)
    plain = oracle.train(start, gradient, lambda t: 0.05, 20, matrices=P, overlap=overlap)
    for momentum in (0.0, 0.5):
        slow = oracle.train(
            start,
            gradient,
            lambda t: 0.05,
            20,
            matrices=P,
            overlap=overlap,
            slowmo=oracle.SlowMo(4, momentum=momentum, average="none"),
        )
        if overlap < 2:
            np.testing.assert_allclose(slow.w, plain.w, atol=1e-14)
        if overlap < 2 and momentum == 0:
            np.testing.assert_allclose(slow.z, plain.z, atol=1e-13)
        assert slow.w[-1].sum() < 5 if overlap else slow.w[-1].sum() == pytest.approx(5)
        assert slow.settled_w.sum() == pytest.approx(5)
