"""A bucket is the parameters' own memory: one flat tensor for each dtype and device, in which every parameter lives.

The optimizer and the wire touch the same bytes, so nothing is packed or unpacked in a step. Each parameter has a
storage of its own over its part of that memory.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...errors import GossipError, UsageError
from ..module_tensors import check_shaped
from .departures import departure
from .masters import origin
from .storages import is_shared, placed, take_back_

Groups = Sequence[Mapping[str, Iterable[torch.nn.Parameter]]]
"""Parameter groups, as torch optimizers hold them."""

ALIGNMENT = 16  # bytes: each parameter begins where vector instructions like it


@dataclass(frozen=True)
class Slot:
    """Where one parameter lives in its bucket."""

    parameter: torch.nn.Parameter
    name: str
    group: int  # index of the optimizer's parameter group
    start: int
    stop: int
    address: int

    def astray(self, parameter: torch.Tensor, was: torch.Tensor) -> str:
        """The error where `parameter`, which lived in the flat tensor `was`, does not live there any more."""
        buckets = filter(None, (alive() for alive in tuple(BUCKETS)))
        homes = (slot for bucket in buckets for slot in bucket.slots if slot is not self)
        taken = any(origin(slot.parameter) is parameter for slot in homes)
        return f"parameter {self.name} has left its bucket: {departure(parameter, was, taken)}"


@dataclass(eq=False)
class Bucket:
    """Parameters of one dtype and device, or masters of such, one after another.

    Attributes:
        values: the flat tensor, of shape (elements,), whose memory the parameters share.
        slots: where each parameter lives, in the order of the optimizer's groups.
        before: room for the values as they were before an update, taken when it is first needed.
    """

    values: torch.Tensor
    slots: list[Slot] = field(default_factory=list)
    before: torch.Tensor | None = None

    def __post_init__(self) -> None:
        BUCKETS.append(weakref.ref(self, BUCKETS.remove))

    def segments(self, start: int = 0, stop: int | None = None) -> list[tuple[int, slice]]:
        """(parameter group, slice of `values[start:stop]`), one for each run of parameters of one group."""
        stop = len(self.values) if stop is None else stop
        runs: list[tuple[int, slice]] = []
        for slot in self.slots:
            first, last = max(slot.start, start) - start, min(slot.stop, stop) - start
            if first >= last:
                continue
            if runs and runs[-1][0] == slot.group:
                runs[-1] = (slot.group, slice(runs[-1][1].start, last))
            else:
                runs.append((slot.group, slice(first, last)))
        return runs

    def check(self) -> None:
        """Every parameter still lives here.

        Raises:
            GossipError: naming the first that does not.
        """
        for slot in self.slots:
            if slot.parameter.data_ptr() != slot.address:
                flat = self.values[slot.start : slot.stop]
                home = placed(flat, slot.parameter.shape, slot.parameter.stride())
                if not take_back_(slot.parameter, home):
                    raise GossipError(slot.astray(slot.parameter, self.values))


BUCKETS: list[weakref.ref[Bucket]] = []
"""All that are in use in this process, so that an error can tell who has taken a parameter."""


def names(optimizer: torch.optim.Optimizer, module: torch.nn.Module | None) -> dict[int, str]:
    """The name of each parameter in errors, by its id: from the module or the optimizer, else its place."""
    in_module = {} if module is None else {id(parameter): name for name, parameter in module.named_parameters()}
    called: dict[int, str] = {}
    for number, group in enumerate(optimizer.param_groups):
        given = group.get("param_names") or [None] * len(group["params"])
        for place, (parameter, name) in enumerate(zip(group["params"], given, strict=True)):
            name = in_module.get(id(parameter), name)
            called[id(parameter)] = f"'{name}'" if name else f"{place} of group {number}"
    return called


def shapes(groups: Groups, names: Mapping[int, str]) -> list[str]:
    """One line for each parameter, for ranks to compare."""
    return [
        f"parameter {names[id(parameter)]} of shape {tuple(parameter.shape)}, {origin(parameter).dtype}, on a "
        f"{parameter.device.type} device, group {number}{_order(parameter)}"
        for number, group in enumerate(groups)
        for parameter in group["params"]
    ]


def layout(buckets: Sequence[Bucket]) -> list[str]:
    """One line for each parameter: where it lives."""
    return [f"{slot.start}:{slot.stop} {b.values.dtype}" for b in buckets for slot in b.slots]


def pack(groups: Groups, names: Mapping[int, str], first: int = 0) -> list[Bucket]:
    """Move the parameters of `groups` into buckets; they stay the same objects, with the same values and strides.

    Args:
        groups: parameter groups, as torch optimizers hold them.
        names: what errors call a parameter, by its id.
        first: the number of the first group.

    >>> layer = torch.nn.Linear(3, 2)
    >>> sgd = torch.optim.SGD(layer.parameters())
    >>> [bucket] = pack(sgd.param_groups, names(sgd, layer))
    >>> bucket.values[:6].equal(layer.weight.detach().flatten())
    True
    """
    members = [(number, parameter) for number, group in enumerate(groups, start=first) for parameter in group["params"]]
    kinds: dict[tuple[torch.dtype, torch.device], list[tuple[int, torch.nn.Parameter]]] = {}
    for number, parameter in members:
        kinds.setdefault((origin(parameter).dtype, parameter.device), []).append((number, parameter))
    return [_bucket(dtype, parameters, names) for (dtype, _), parameters in kinds.items()]


def refuse_unfit(
    groups: Groups, names: Mapping[int, str], homes: Iterable[torch.device] = (), taken: Sequence[Bucket] = ()
) -> None:
    """Look at every parameter of `groups` before any of them is moved into a bucket.

    Args:
        groups: parameter groups, as torch optimizers hold them.
        names: what errors call a parameter, by its id.
        homes: devices whose memory the transports carry; none means any.
        taken: buckets that exist already.

    Raises:
        UsageError: a parameter that cannot live in a bucket.
    """
    spans = [
        (*_span(parameter), slot.name)
        for bucket in taken
        for slot in bucket.slots
        for parameter in {id(each): each for each in (slot.parameter, origin(slot.parameter))}.values()
    ]
    check_once(groups, names)
    for parameter in (parameter for group in groups for parameter in group["params"]):
        name = names[id(parameter)]
        check_shaped(name, parameter)
        if parameter.layout is not torch.strided or not parameter.dtype.is_floating_point:
            raise UsageError(
                f"parameter {name} is {parameter.dtype} with layout {parameter.layout}: only dense floating-point "
                "parameters can be averaged; leave it out of this optimizer"
            )
        flattened = getattr(parameter, "_fsdp_flattened", False)  # FSDP's own mark, on parameters of a plain type
        if flattened or type(parameter.data) is not torch.Tensor:
            raise UsageError(
                f"parameter {name} is a {'shard of FSDP' if flattened else type(parameter.data).__name__}, whose "
                "memory is not its own to move (sharded or wrapped by FSDP or another subclass): gossip needs plain "
                "parameters, such as those of DistributedDataParallel"
            )
        for home in homes:
            if parameter.device != home:
                raise UsageError(
                    f"parameter {name} is on {parameter.device}, but the transport carries {home} memory: move the "
                    "model with .to(world.device) before the optimizer is made, or choose another transport"
                )
        if not parameter.is_meta:
            spans.append((*_span(parameter), name))
    spans.sort()
    for (_, end, one), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise UsageError(
                f"parameters {one} and {other} are two objects over the same memory: tie them by using one Parameter "
                "in both places, so that it is updated and sent once"
            )


def check_once(groups: Groups, names: Mapping[int, str]) -> None:
    """Return where the groups name each parameter once.

    Raises:
        UsageError: naming the first that is there twice.
    """
    seen: set[int] = set()
    for parameter in (parameter for group in groups for parameter in group["params"]):
        if id(parameter) in seen:
            raise UsageError(
                f"parameter {names[id(parameter)]} is in this optimizer twice, and would be updated twice in a step: "
                "name each parameter once, as list(dict.fromkeys(parameters)) does"
            )
        seen.add(id(parameter))


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the tensor's memory begins and ends."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start


def _bucket(
    narrowest: torch.dtype, parameters: list[tuple[int, torch.nn.Parameter]], names: Mapping[int, str]
) -> Bucket:
    step = max(1, ALIGNMENT // narrowest.itemsize)
    starts = [0]
    for _, parameter in parameters:
        starts.append(starts[-1] + -(-parameter.numel() // step) * step)
    bucket = Bucket(parameters[0][1].detach().new_zeros(starts[-1]))
    if any(is_shared(parameter) for _, parameter in parameters):
        bucket.values.share_memory_()
    for start, (number, parameter) in zip(starts, parameters, strict=False):
        stop = start + parameter.numel()
        home = placed(bucket.values[start:stop], parameter.shape, _dense_strides(parameter))
        with torch.no_grad():
            home.copy_(parameter)
        parameter.data = home
        bucket.slots.append(Slot(parameter, names[id(parameter)], number, start, stop, parameter.data_ptr()))
    return bucket


def _order(parameter: torch.Tensor) -> str:
    """How the elements follow one another in memory, and so in messages, where that is not the usual order."""
    return "" if parameter.is_contiguous() else f", strides {_dense_strides(parameter)}"


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's own strides where it is dense (channels-last, transposed), else those of a contiguous one."""
    return torch.empty_like(tensor, memory_format=torch.preserve_format).stride()
