"""SlowMo: every τ steps, momentum over the distance that the base optimizer has travelled."""

from __future__ import annotations

import torch

from gossip import Averager

from .outer.outer_optimizer import MakeOuter
from .outer.wrapper import Outer


class SlowMo(Outer):
    """`optimizer` with an outer step after every `period` of its steps.

    With the anchor x_{t,0}, where the outer iteration t began, and γ_t the mean learning rate over it, and over the
    ranks where they average exactly:

        x_{t,τ}    <- what `averager` makes of where the base steps ended
        u_{t+1}    =  β u_t + (x_{t,0} − x_{t,τ}) / γ_t
        x_{t+1,0}  =  x_{t,0} − α γ_t u_{t+1}

    computed with m = γu, so that nothing is divided by a rate and a rate may be 0 (then x_{t+1,0} = x_{t,τ} and u is
    kept). Anchor and momentum are two copies of the model, in float32 or wider, beside the parameters or on the host.

    The anchor is taken when the first `step()` begins, so parameters that were loaded before it count; the ranks
    compare theirs then. After loading others in the middle of a run call `restart()`.

    Args:
        optimizer: a GossipOptimizer, or any torch optimizer, which then trains each rank by itself in between
            (local SGD, local AdamW).
        averager: `ExactAverage(world)` is SlowMo, `NoAverage()` the variant without averaging, `PushSum(world, ...)`
            without overlap gossips once in an outer step.
        period: τ, base steps in an outer iteration.
        momentum: β, in [0, 1).
        lr: α, above 0; the paper's is 1.
        buffers: what the outer step does to the base optimizer's state: "maintain" it, "reset" it, or "average" it.
        nesterov: x_{t+1,0} = x_{t,0} − α(β m_{t+1} + d) with d = x_{t,0} − x_{t,τ}.
        rescale: whether u follows the learning rate, as the paper has it. False is momentum over d itself, which goes
            on where the rate is 0; with `nesterov=True` over local AdamW that is DiLoCo.
        outer: makes the optimizer of the outer step out of the anchors, in the place of slow momentum: it steps on
            x_{t,0} with the gradient x_{t,0} − x_{t,τ}. With `functools.partial(torch.optim.SGD, lr=0.7, momentum=0.9,
            nesterov=True)` that is DiLoCo again. It stands in `rule.optimizer`, for a schedule of its learning rate.
        anchors_on: "cpu" keeps anchors, momenta and the outer optimizer's state on the host, for GPUs that are full.
            Slow momentum is then computed on the GPU, some megabytes at a time; an `outer` optimizer runs on the host.

    Raises:
        UsageError: options that cannot work.
        Disagreement: ranks hold different models or options, or different parameters at the first step.

    Source: Wang, Tantia, Ballas, Rabbat, "SlowMo: improving communication-efficient distributed SGD with slow
    momentum", ICLR 2020, arXiv 1910.00643, algorithm 1.

    >>> import gossip, slowmo, torch
    >>> world = gossip.init()
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.SlowMo(sgd, gossip.ExactAverage(world), period=12, momentum=0.6)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        averager: Averager,
        period: int = 48,
        momentum: float = 0.5,
        lr: float = 1.0,
        buffers: str = "maintain",
        nesterov: bool = False,
        rescale: bool = True,
        outer: MakeOuter | None = None,
        anchors_on: str | None = None,
    ) -> None:
        options = f"{buffers=}, "
        super().__init__(
            optimizer, averager, period, momentum, lr, nesterov, rescale, options, buffers, outer, anchors_on
        )
