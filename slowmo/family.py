"""Published methods that are compositions, each by its name and in one line."""

from __future__ import annotations

import torch

from gossip import Chain, Every, ExactAverage, GossipOptimizer, NoAverage, PushSum, World
from topologies import Topology, random_pairs

from .refusals import checked
from .slow_momentum import SlowMo


def local_sgd(optimizer: torch.optim.Optimizer, world: World, period: int = 12) -> GossipOptimizer:
    """Local SGD: each rank trains by itself, and every τ steps all take their mean.

        z <- Σ_j z_j / n

    Args:
        optimizer: any torch optimizer.
        world: the ranks that average.
        period: τ, steps.

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.local_sgd(sgd, gossip.init(), period=12)

    Source: Stich, "Local SGD converges fast and communicates little", ICLR 2019, arXiv 1805.09767.
    """
    return GossipOptimizer(optimizer, Every(period, ExactAverage(checked(world))))


def gossip_pga(
    optimizer: torch.optim.Optimizer, world: World, topology: Topology, period: int = 48, overlap: int = 0
) -> GossipOptimizer:
    """Gossip-PGA: gossip in each step, and every H steps the exact mean. SGP-SlowMo with β = 0 and α = 1.

        z_i <- Σ_j P[i,j] w_j z_j / w_i ,    and every H steps    z <- Σ_j w_j z_j / Σ_j w_j

    Args:
        optimizer: any torch optimizer.
        world: the ranks that gossip.
        topology: who gives to whom.
        period: H, steps.
        overlap: of the gossip, as in `gossip.PushSum`.

    >>> import gossip, slowmo, topologies, torch
    >>> world = gossip.init()
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.gossip_pga(sgd, world, topologies.exponential(world.size), period=48)

    Source: Chen, Yuan, Zhang, Pan, Xu, Yin, "Accelerating gossip SGD with periodic global averaging", ICML 2021,
    arXiv 2105.09080.
    """
    return GossipOptimizer(
        optimizer,
        Chain(PushSum(checked(world), topology, overlap=overlap), Every(period, ExactAverage(world))),
    )


def bmuf(
    optimizer: torch.optim.Optimizer,
    world: World,
    period: int = 48,
    momentum: float = 0.5,
    lr: float = 1.0,
    nesterov: bool = False,
) -> SlowMo:
    """Block momentum (BMUF): SlowMo over local training whose momentum does not follow the learning rate.

        Δ <- η Δ + ζ (Σ_j z_j / n − z_0) ,    x <- x + Δ ,    z <- x, or x + ηΔ with Nesterov

    with z_0 where the block began: x, or with Nesterov the x + ηΔ that the last one ended with.

    Args:
        optimizer: any torch optimizer.
        world: the ranks that average.
        period: steps of a block.
        momentum: η, the block momentum.
        lr: ζ, the block learning rate.
        nesterov: ranks begin each block where the momentum will carry them.

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.bmuf(sgd, gossip.init(), period=48, momentum=0.9)

    Source: Chen, Huo, "Scalable training of deep learning machines by incremental block training with intra-block
    parallel optimization and blockwise model-update filtering", ICASSP 2016.
    """
    return SlowMo(optimizer, ExactAverage(checked(world)), period, momentum, lr, nesterov=nesterov, rescale=False)


def lookahead(optimizer: torch.optim.Optimizer, period: int = 5, lr: float = 0.5) -> SlowMo:
    """Lookahead: every k steps, slow weights go a part of the way to the fast ones. It communicates nothing.

        φ <- φ + α (θ − φ) ,    θ <- φ

    Args:
        optimizer: any torch optimizer, or a GossipOptimizer, which then gossips the fast weights.
        period: k, steps.
        lr: α.

    >>> import slowmo, torch
    >>> optimizer = slowmo.lookahead(torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1), period=5, lr=0.5)

    Source: Zhang, Lucas, Hinton, Ba, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019,
    arXiv 1907.08610.
    """
    return SlowMo(optimizer, NoAverage(), period, momentum=0, lr=lr, rescale=False)


def diloco(
    optimizer: torch.optim.Optimizer, world: World, period: int = 500, momentum: float = 0.9, lr: float = 0.7
) -> SlowMo:
    """DiLoCo: local AdamW, and every H steps an outer SGD step with Nesterov momentum on what it has travelled.

        d = φ − Σ_j θ_j / n ,    m <- β m + d ,    φ <- φ − α (β m + d) ,    θ <- φ

    Args:
        optimizer: torch.optim.AdamW, whose state goes on across outer steps.
        world: the ranks that average.
        period: H, steps.
        momentum: β.
        lr: α, the outer learning rate.

    >>> import gossip, slowmo, torch
    >>> adamw = torch.optim.AdamW(torch.nn.Linear(4, 2).parameters(), lr=4e-4)
    >>> optimizer = slowmo.diloco(adamw, gossip.init(), period=500)

    Source: Douillard et al., "DiLoCo: distributed low-communication training of language models", 2023,
    arXiv 2311.08105.
    """
    return SlowMo(optimizer, ExactAverage(checked(world)), period, momentum, lr, nesterov=True, rescale=False)


def noloco(
    optimizer: torch.optim.Optimizer,
    world: World,
    period: int = 50,
    momentum: float = 0.5,
    lr: float = 0.7,
    seed: int = 0,
) -> SlowMo:
    """NoLoCo: local AdamW, and every H steps an outer step with a random partner; nothing goes to all ranks.

        m <- μ m + η mean_G(θ − φ) + η (mean_G(φ) − φ) ,    φ <- φ + m ,    θ <- φ

    with G the rank and its partner. Since both means are over G, that is SlowMo with m = −η m_SlowMo over the mean of
    the θ alone, which is half of the bytes.

    Args:
        optimizer: torch.optim.AdamW, whose state goes on across outer steps.
        world: the ranks among which partners are drawn; on an odd number of them one rests each time.
        period: H, steps.
        momentum: μ.
        lr: η, the outer learning rate.
        seed: of the pairs, the same on every rank.

    >>> import gossip, slowmo, torch
    >>> adamw = torch.optim.AdamW(torch.nn.Linear(4, 2).parameters(), lr=4e-4)
    >>> optimizer = slowmo.noloco(adamw, gossip.init(), period=50)

    Source: Kolehmainen, Blagoev, Donaghy, Ersoy, Nies, "NoLoCo: no-all-reduce low communication training method for
    large models", 2025, arXiv 2506.10911.
    """
    return SlowMo(
        optimizer, PushSum(checked(world), random_pairs(world.size, seed)), period, momentum, lr, rescale=False
    )


def double_averaging(optimizer: torch.optim.Optimizer, world: World, period: int = 12) -> SlowMo:
    """Double averaging: local SGD with momentum, whose momentum buffers are averaged along with the parameters.

        z <- Σ_j z_j / n ,    b <- Σ_j b_j / n

    Args:
        optimizer: torch.optim.SGD with momentum, or any other whose state has the parameters' shapes; or a
            GossipOptimizer, which then gossips in between.
        world: the ranks that average.
        period: τ, steps.

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1, momentum=0.9)
    >>> optimizer = slowmo.double_averaging(sgd, gossip.init(), period=12)

    Source: Yu, Jin, Yang, "On the linear speedup analysis of communication efficient momentum SGD for distributed
    non-convex optimization", ICML 2019, arXiv 1905.03817.
    """
    return SlowMo(optimizer, ExactAverage(checked(world)), period, momentum=0, buffers="average")
