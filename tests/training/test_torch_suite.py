"""The checks of torch's suite on its optimizers, made on them in our wrappers on one rank: the same, bit for bit.

A law is a use of an optimizer, and its result. It is run with the bare optimizer and with the
wrapped one, for every optimizer and configuration of torch's database. Where the wrapped one cannot, it says so:
`REFUSED` holds each such law, and a part of the sentence.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import optim_suite
import pytest
import torch

import gossip
import slowmo
import topologies

Make = Callable[..., Any]
"""An optimizer of these parameters, bare or wrapped."""

Law = Callable[[Make, Any], Any]
"""The result of using an optimizer, given its entry in the database."""


def push_sum(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return gossip.GossipOptimizer(optimizer, gossip.PushSum(gossip.init(), topologies.exponential(1)))


WRAPS: dict[str, Callable[[torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "NoAverage": lambda optimizer: gossip.GossipOptimizer(optimizer, gossip.NoAverage()),
    "PushSum": push_sum,
    "SlowMo": lambda optimizer: slowmo.SlowMo(optimizer, gossip.NoAverage(), period=2, momentum=0),
}

LAWS: dict[str, Law] = {}


def law(run: Law) -> Law:
    LAWS[run.__name__.replace("_", " ")] = run
    return run


# -- what laws are made of ---------------------------------------------------------------------------------------------


def parameters(dtype: torch.dtype = torch.float32, shapes: Iterable[tuple[int, ...]] = ((3, 2), (2, 4))) -> list[Any]:
    """Matrices, which is what Muon takes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def fill(own: Iterable[torch.Tensor], step: int, sparse: bool = False) -> None:
    for number, p in enumerate(own):
        generator = torch.Generator().manual_seed(100 * step + number)
        gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = gradient.to_sparse(1) if sparse else gradient


def steps(optimizer: Any, own: list[torch.Tensor], count: int = 3, start: int = 0, sparse: bool = False) -> None:
    for step in range(start, start + count):
        fill(own, step, sparse)
        lbfgs = "LBFGS" in repr(optimizer)
        optimizer.step(*[lambda: sum(p.detach().square().sum() for p in own)] if lbfgs else [])


def plain(value: Any) -> Any:
    """Made of lists, with tensors by their bits."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.is_sparse else value.detach()
        return [str(dense.dtype), torch.nan_to_num(dense).tolist()]
    if isinstance(value, dict):
        return [[str(key), plain(each)] for key, each in value.items()]
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def is_sparse(info: Any) -> bool:
    return bool(info.only_supports_sparse_grads)


def of_torch(state: dict[str, Any]) -> dict[str, Any]:
    return {key: state[key] for key in ("state", "param_groups")}


# -- laws --------------------------------------------------------------------------------------------------------------


@law
def steps_move_parameters(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own, optimizer.state_dict()["state"]


@law
def closures_are_evaluated(make: Make, info: Any) -> Any:
    own, losses = parameters(), []
    optimizer = make(own)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in own)
        assert isinstance(loss, torch.Tensor)
        if is_sparse(info):
            fill(own, 0, sparse=True)
        else:
            loss.backward()
        losses.append(loss)
        return loss

    returned = [optimizer.step(closure) for _ in range(3)]
    return own, returned, losses


def saved(make: Make, info: Any, through: Callable[[Any], Any]) -> Any:
    own = parameters()
    first = make(own)
    steps(first, own, sparse=is_sparse(info))
    twins = [torch.nn.Parameter(p.detach().clone()) for p in own]
    second = make(twins)
    second.load_state_dict(through(first.state_dict()))
    steps(second, twins, start=3, sparse=is_sparse(info))
    return twins, of_torch(second.state_dict())


@law
def a_state_goes_on(make: Make, info: Any) -> Any:
    return saved(make, info, copy.deepcopy)


@law
def a_state_goes_through_a_file_of_weights_only(make: Make, info: Any) -> Any:
    def through(state: Any) -> Any:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return saved(make, info, through)


@law
def a_state_of_torch_alone_is_taken(make: Make, info: Any) -> Any:
    return saved(make, info, lambda state: copy.deepcopy(of_torch(state)))


@law
def an_older_state_without_flags_is_taken(make: Make, info: Any) -> Any:
    def older(state: Any) -> Any:
        state = copy.deepcopy(state)
        for group in state["param_groups"]:
            for flag in info.not_og_supported_flags:
                group.pop(flag, None)
        return state

    return saved(make, info, older)


@law
def states_are_alike(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    one, other = optimizer.state_dict(), optimizer.state_dict()
    return of_torch(one), plain(of_torch(one)) == plain(of_torch(other)), plain(optimizer.defaults)


@law
def groups_have_rates_of_their_own(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make([{"params": own[:1], "lr": 0.5}, {"params": own[1:]}])
    steps(optimizer, own, sparse=is_sparse(info))
    return own, [group["lr"] for group in optimizer.param_groups]


@law
def a_group_is_added(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own[:1])
    steps(optimizer, own, sparse=is_sparse(info))
    optimizer.add_param_group({"params": own[1:], "lr": 0.25})
    steps(optimizer, own, start=3, sparse=is_sparse(info))
    return own, of_torch(optimizer.state_dict())


@law
def a_group_without_parameters(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make([{"params": own}, {"params": []}])
    steps(optimizer, own, sparse=is_sparse(info))
    return own, len(optimizer.param_groups)


@law
def parameters_have_names(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(list(zip(["weight", "bias"], own, strict=True)))
    steps(optimizer, own, sparse=is_sparse(info))
    return own, optimizer.param_groups[0]["param_names"], of_torch(optimizer.state_dict())


@law
def a_rate_that_is_a_tensor(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.05)
    steps(optimizer, own, sparse=is_sparse(info))
    return own, optimizer.param_groups[0]["lr"]


@law
def schedulers(make: Make, info: Any) -> Any:
    results = []
    for constructors in info.scheduler_inputs:
        own = parameters()
        optimizer = make(own)
        made = [construct(optimizer) for construct in constructors]
        for step in range(4):
            steps(optimizer, own, 1, start=step, sparse=is_sparse(info))
            for scheduler in made:
                scheduler.step(*[0.5] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else [])
        results.append([own, [group["lr"] for group in optimizer.param_groups]])
    return results


@law
def step_hooks(make: Make, info: Any) -> Any:
    own, called = parameters(), []
    optimizer = make(own)
    before = optimizer.register_step_pre_hook(lambda each, args, options: called.append(("pre", each is optimizer)))
    optimizer.register_step_post_hook(lambda each, args, options: called.append(("post", each is optimizer)))
    steps(optimizer, own, 2, sparse=is_sparse(info))
    before.remove()
    steps(optimizer, own, 1, sparse=is_sparse(info))
    return own, called


@law
def state_hooks(make: Make, info: Any) -> Any:
    own, called = parameters(), []
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))

    def halve(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        called.append("halve")
        state["param_groups"][0]["lr"] = 0.5
        return state

    optimizer.register_state_dict_pre_hook(lambda _: called.append("save"))
    optimizer.register_state_dict_post_hook(halve)
    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(lambda _: called.append("loaded"))
    optimizer.register_state_dict_post_hook(lambda *_: called.append("first"), prepend=True)
    optimizer.load_state_dict(optimizer.state_dict())
    steps(optimizer, own, sparse=is_sparse(info))
    return own, called, optimizer.param_groups[0]["lr"]


def cleared(make: Make, info: Any, set_to_none: bool) -> Any:
    own = parameters()
    optimizer = make(own)
    steps(optimizer, own, 1, sparse=is_sparse(info))
    optimizer.zero_grad(set_to_none=set_to_none)
    gradients = [p.grad for p in own]
    optimizer.step(*[lambda: torch.zeros(())] if "LBFGS" in repr(optimizer) else [])
    return own, gradients


@law
def gradients_are_dropped(make: Make, info: Any) -> Any:
    return cleared(make, info, True)


@law
def gradients_are_zeroed(make: Make, info: Any) -> Any:
    return cleared(make, info, False)


@law
def without_gradients_nothing_moves(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    before = plain(own)
    optimizer.step(*[lambda: torch.zeros(())] if "LBFGS" in repr(optimizer) else [])
    return plain(own) == before, own


@law
def some_without_gradient(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    for step in range(3):
        fill(own, step, is_sparse(info))
        own[step % 2].grad = None
        optimizer.step(*[lambda: torch.zeros(())] if "LBFGS" in repr(optimizer) else [])
    return own


@law
def frozen_parameters_stay(make: Make, info: Any) -> Any:
    own = parameters()
    own[0].requires_grad_(False)
    optimizer = make(own)
    steps(optimizer, own[1:], sparse=is_sparse(info))
    return own


@law
def empty_parameters(make: Make, info: Any) -> Any:
    own = parameters(shapes=[(3, 2), (0, 2), (2, 2)])
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own


@law
def numbers_and_vectors(make: Make, info: Any) -> Any:
    own = parameters(shapes=[(), (3,), (1, 1, 2)])
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own


@law
def several_dtypes(make: Make, info: Any) -> Any:
    own = [p for dtype in (torch.float32, torch.float64, torch.bfloat16) for p in parameters(dtype)]
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own


@law
def other_strides(make: Make, info: Any) -> Any:
    own = [torch.nn.Parameter(p.detach().clone().t()) for p in parameters()]
    strides = [p.stride() for p in own]
    optimizer = make(own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own, [p.stride() for p in own] == strides


@law
def a_generator_of_parameters(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(p for p in own)
    steps(optimizer, own, sparse=is_sparse(info))
    return own


@law
def sparse_gradients(make: Make, info: Any) -> Any:
    own = parameters()
    optimizer = make(own)
    steps(optimizer, own, sparse=True)
    return own


@law
def it_can_be_printed(make: Make, info: Any) -> Any:
    optimizer = make(parameters())
    return info.optim_cls.__name__ in repr(optimizer), "lr" in str(optimizer)


@law
def deepcopy(make: Make, info: Any) -> Any:
    return plain(copy.deepcopy(make(parameters())).defaults)


@law
def pickled(make: Make, info: Any) -> Any:
    return plain(pickle.loads(pickle.dumps(make(parameters()))).defaults)


@law
def complex_parameters(make: Make, info: Any) -> Any:
    own = parameters(torch.complex64)
    optimizer = make(own)
    for _ in range(3):
        for p in own:
            p.grad = torch.full_like(p, 1 + 1j)
        optimizer.step(*[lambda: torch.zeros(())] if "LBFGS" in repr(optimizer) else [])
    return own


@law
def an_update_is_differentiated(make: Make, info: Any) -> Any:
    """As in meta-learning: the parameters are no leaves, and lead back to the sources of their values and gradients."""
    leaves, gradients = parameters(torch.float64), parameters(torch.float64)
    own = [p.clone() for p in leaves]
    for p, gradient in zip(own, gradients, strict=True):
        p.grad = gradient.clone()
    optimizer = make(own, differentiable=True)
    optimizer.step()
    sum(p.square().sum() for p in own).backward()  # type: ignore[union-attr]
    return own, [p.grad for p in leaves], [p.grad for p in gradients]


def implemented(flag: str) -> Law:
    """The laws of an implementation that the database says there is."""

    def run(make: Make, info: Any) -> Any:
        if flag not in info.supported_impls:
            raise NotImplementedError(flag)
        own = parameters()
        optimizer = make(own)
        for group in optimizer.param_groups:
            group[flag] = True
        optimizer.defaults[flag] = True
        steps(optimizer, own, sparse=is_sparse(info))
        optimizer.zero_grad(set_to_none=False)
        return own, [p.grad for p in own], optimizer.param_groups[0][flag], of_torch(optimizer.state_dict())

    return run


LAWS |= {flag: implemented(flag) for flag in ("foreach", "fused")}

REFUSED = {
    "deepcopy": "cannot be copied: the copy would answer for this rank",
    "pickled": "cannot be pickled: it speaks for a running process",
    "complex parameters": "only dense floating-point parameters can be averaged",
}


def outcome(law: str, info: Any, options: dict[str, Any], wrap: Callable[[Any], Any] | None) -> Any:
    def make(own: Any, **more: Any) -> Any:
        optimizer = info.optim_cls(own, **copy.deepcopy(options), **more)
        return optimizer if wrap is None else wrap(optimizer)

    return plain(LAWS[law](make, info))


def check(law: str, info: Any, options: dict[str, Any], wrap: Callable[[Any], Any]) -> bool:
    """Whether the bare optimizer does it, and then so does the wrapped one."""
    try:
        bare = outcome(law, info, options, None)
    except Exception:
        return False
    if law in REFUSED:
        with pytest.raises(gossip.UsageError, match=re.escape(REFUSED[law])):
            outcome(law, info, options, wrap)
    else:
        assert outcome(law, info, options, wrap) == bare
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("law", LAWS)
def test_laws(law: str) -> None:
    """Of every optimizer as it is by default, in one wrapper after another."""
    wraps = list(WRAPS.values())
    held = [
        check(law, info, {}, wraps[(number + len(law)) % len(wraps)])
        for number, info in enumerate(optim_suite.infos().values())
    ]
    assert any(held), "no bare optimizer does this"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", optim_suite.NAMES)
def test_every_law_for_every_configuration(name: str, wrap: str) -> None:
    info = optim_suite.infos()[name]
    for given in info.optim_inputs_func(device="cpu"):
        for law in LAWS:
            check(law, info, given.kwargs, WRAPS[wrap])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", optim_suite.NAMES)
def test_every_configuration_steps_and_is_saved(name: str) -> None:
    info, wraps = optim_suite.infos()[name], list(WRAPS.values())
    for number, given in enumerate(info.optim_inputs_func(device="cpu")):
        for law in ("steps move parameters", "a state goes on"):
            assert check(law, info, given.kwargs, wraps[number % len(wraps)]), f"{name} does not: {given.desc}"


def test_the_database_names_these_optimizers() -> None:
    """A new one of torch's is one more to look at."""
    assert list(optim_suite.infos()) == optim_suite.NAMES
