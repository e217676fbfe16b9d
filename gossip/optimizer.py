"""The step: land what is due, update, rewrite, post."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import record_function

from .agreement import Council, contents
from .averaging import Averager
from .buckets import names, pack, shapes
from .errors import UsageError
from .gradients import GradientAverage
from .mass import Mass
from .stats import Stats
from .world import World
from .wrapper import Wrapper

Rewrite = Callable[[int], None]
"""Changes whole values in a step; called after the update, when nothing that reads them is in flight."""

Loss = Any


class GossipOptimizer(Wrapper):
    """Any torch optimizer, with `averager` between its updates.

        land        merge the flights that are due
        gradients   g <- mean over the world `gradients`, if asked
        update      z <- z + Δ/w, Δ the wrapped optimizer's change
        average     all that ends inside the step: SGP's round, exact averages
        rewrite     SlowMo's outer step, where there is one
        post        what travels on while the next step computes: OSGP's round

    Every call of `step()` on every rank is one step of the schedule, also without gradients and also when a GradScaler
    skips the update, so a rank that ran out of batches goes on calling it. The parameters move into flat buckets when
    this is made: move the model to its device and dtype before. They hold the de-biased values z at all times.

    A closure is evaluated before the flights land, so that they travel meanwhile; LBFGS, which evaluates it again and
    again, does so afterwards.

    Args:
        optimizer: any torch optimizer of dense floating-point parameters.
        averager: what happens between updates. It belongs to this optimizer from now on.
        gradients: a World over which gradients are averaged before each update.
        module: the model, for parameter names in errors and for its buffers.
        module_buffers: "local" leaves BatchNorm's statistics and other buffers to each rank; "average" averages the
            floating-point ones whenever an exact average happens.
        initial: "broadcast" takes the parameters (and buffers of `module`) of rank 0; "check" compares them.

    Raises:
        UsageError: arguments that cannot work.
        Disagreement: ranks hold different models, options or topologies; raised alike by all, nothing is changed.
        PeerTimeout: a rank did not come.

    >>> import gossip, topologies, torch
    >>> world = gossip.init()
    >>> model = torch.nn.Linear(4, 2)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))
    >>> model(torch.ones(4)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        averager: Averager,
        *,
        gradients: World | None = None,
        module: torch.nn.Module | None = None,
        module_buffers: str = "local",
        initial: str = "broadcast",
    ) -> None:
        if isinstance(optimizer, Wrapper):
            raise UsageError(
                f"GossipOptimizer wraps a plain torch optimizer, and this is a {type(optimizer).__name__}: SlowMo goes "
                "around GossipOptimizer, and several averagers into one Chain"
            )
        if not isinstance(averager, Averager):
            raise UsageError(f"averager is {averager!r}, which is no Averager such as gossip.PushSum(...)")
        if module_buffers not in ("local", "average"):
            raise UsageError(f"module_buffers is {module_buffers!r}; there are 'local' and 'average'")
        if module_buffers == "average" and module is None:
            raise UsageError("module_buffers='average' needs module=..., whose buffers they are")
        if initial not in ("broadcast", "check"):
            raise UsageError(f"initial is {initial!r}; there are 'broadcast' and 'check'")
        super().__init__(optimizer)
        self._evaluates_again = isinstance(optimizer, torch.optim.LBFGS)
        if self._evaluates_again and gradients is not None and gradients.size > 1:
            raise UsageError(
                "LBFGS evaluates its closure as often as its line search asks, which differs between ranks, so its "
                "gradients cannot be averaged: leave gradients=None and average parameters"
            )
        self.averager = averager
        self._averagers = [averager]
        self.steps = 0
        self.rewrites: list[Rewrite] = []
        self.stats = Stats()
        self._initial = initial
        self._module = module
        self._names = names(optimizer, module)
        self._gradients = GradientAverage(gradients, self.stats) if gradients is not None else None
        worlds = (*averager.worlds, *([gradients] if gradients is not None else []))
        _refuse_devices(optimizer, worlds, self._names)
        self._council = Council()
        self._council.join(worlds)
        self._council.agree(
            [
                f"optimizer {type(optimizer).__name__} with module_buffers={module_buffers!r}, initial={initial!r}, "
                f"gradients over {gradients.size if gradients else 1} ranks",
                f"averager {averager.describe()}",
                *shapes(optimizer.param_groups, self._names),
            ]
        )
        self.mass = Mass(pack(optimizer.param_groups, self._names), self.stats, _weight_device(worlds))
        self.mass.size = max((world.size for world in worlds), default=1)
        if module is not None and module_buffers == "average":
            self.mass.companions = [buffer for buffer in module.buffers() if buffer.dtype.is_floating_point]
        averager.bind(self.mass, every=1)
        self._equalise(self._council)

    # -- the step ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:  # type: ignore[override]
        """One step of the schedule, on every rank; returns what `closure` returned.

        Raises:
            GossipError: a parameter has left its bucket.
            PeerTimeout: a peer did not answer before the world's deadline.
            PeerLost: a connection broke, or a peer is in another round.
        """
        for bucket in self.mass.buckets:
            bucket.check()
        self.stats.begin()
        step, loss = self.steps, None
        if closure is not None and not self._evaluates_again:
            with torch.enable_grad():
                loss = closure()
            closure = None
        with record_function("gossip::land"):
            self.averager.land(step)
        skip = self._unscale()
        if self._gradients is not None:
            with record_function("gossip::gradients"):
                skip = self._gradients.average_(self.mass.buckets, skip)
        if not skip:
            with self.mass.update():
                inner = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
                loss = inner if closure is not None else loss
        with record_function("gossip::average"):
            self.averager.average(step)
        for rewrite in self.rewrites:
            rewrite(step)
        with record_function("gossip::post"):
            self.averager.post(step)
        if not self.mass.weight.is_cuda:  # reading it there would stop the host
            self.stats.last.weight = self.weight
        self.steps += 1
        return loss

    def _unscale(self) -> bool:
        """What torch.amp.GradScaler leaves to an optimizer that is called always; whether to skip the update.

        The scaler sets `grad_scale` (None once the user has unscaled) and `found_inf` around its call of `step`.
        """
        scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return True
        if scale is not None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.div_(scale.to(parameter.grad.device))
        return False

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def weight(self) -> float:
        """The push-sum weight that this rank holds; what is in flight is not in it."""
        return float(self.mass.weight)

    @torch.no_grad()
    def settle(self) -> None:
        """Land everything in flight. Every rank calls it: before evaluation, before the end, before close()."""
        self.mass.settle()
        self.mass.quiet()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters. Every rank does so at the same step; what is in flight lands first."""
        self.settle()
        self.optimizer.add_param_group(param_group)
        first = len(self.param_groups) - 1
        new = self.param_groups[first:]
        self._names |= {
            name: called for name, called in names(self.optimizer, self._module).items() if name not in self._names
        }
        packed = len(self.mass.buckets)
        self._council.agree(shapes(self.param_groups, self._names))
        self.mass.buckets.extend(pack(new, self._names, first))
        self._equalise(self._council, packed)
        for averager in self._averagers:
            averager.rebind()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's two keys and "gossip". Waits for what is on its way and alters nothing."""
        return {
            **self.optimizer.state_dict(),
            "gossip": {
                "steps": self.steps,
                "weight": self.weight,
                "whole": self.mass.whole,
                "balanced": self.mass.balanced,
                "averager": self.averager.state_dict(),
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`, or begin anew from a wrapped optimizer's own. Every rank loads its own state.

        Parameters come from the model's state_dict, loaded in place.
        """
        self.optimizer.load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        saved = state_dict.get("gossip")
        if saved is None:
            self.settle()
            return
        self.averager.load_state_dict(saved["averager"])
        self.steps = saved["steps"]
        self.mass.weight = torch.full_like(self.mass.weight, saved["weight"])
        self.mass.whole, self.mass.balanced = saved["whole"], saved["balanced"]

    # -- meeting the other ranks ---------------------------------------------------------------------------------------

    def attach(self, averager: Averager, every: int, options: Sequence[str]) -> None:
        """Let a rewrite's own averager act on the same values, after all ranks have agreed on `options` and on it."""
        newcomers = self._council.join(averager.worlds)
        self._council.agree([*options, f"averager {averager.describe()}", *shapes(self.param_groups, self._names)])
        self.mass.size = max(self.mass.size, *(world.size for world in averager.worlds), 1)
        averager.bind(self.mass, every)
        self._averagers.append(averager)
        self._equalise(newcomers)

    def check_equal(self, buckets: Sequence[int], advice: str) -> None:
        """Compare the values of some buckets between all ranks.

        Raises:
            Disagreement: naming the first parameter that differs.
        """
        self._council.agree(contents([self.mass.buckets[number] for number in buckets]), advice)

    @torch.no_grad()
    def _equalise(self, council: Council, first: int = 0) -> None:
        """Make the values of the buckets from `first` on equal to rank 0's, or check that they are."""
        buckets = self.mass.buckets[first:]
        if self._initial == "check":
            council.agree(
                contents(buckets),
                "initial='check' wants equal parameters: seed every rank alike, load the same file, or let "
                "initial='broadcast' take rank 0's",
            )
            return
        buffers = [] if self._module is None or first else list(self._module.buffers())
        flat = [buffer.detach().reshape(-1).clone() for buffer in buffers]
        council.broadcast([*(bucket.values for bucket in buckets), *flat])
        for buffer, values in zip(buffers, flat, strict=True):
            buffer.copy_(values.reshape(buffer.shape))


def _refuse_devices(optimizer: torch.optim.Optimizer, worlds: Sequence[World], names: Mapping[int, str]) -> None:
    """Gloo carries host memory and NCCL that of its GPU; MPI and threads carry either."""
    for world in worlds:
        wanted = {"nccl": world.device, "gloo": torch.device("cpu")}.get(world.transport)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if wanted is not None and parameter.device != wanted:
                    raise UsageError(
                        f"parameter {names[id(parameter)]} is on {parameter.device}, but transport {world.transport!r} "
                        f"carries {wanted} memory: move the model with .to(world.device) before the optimizer is made, "
                        "or choose another transport"
                    )


def _weight_device(worlds: Sequence[World]) -> torch.device:
    """NCCL carries weights on the device, where no step reads them; every other transport carries them on the host."""
    return next((world.device for world in worlds if world.transport == "nccl"), torch.device("cpu"))
