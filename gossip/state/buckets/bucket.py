"""A bucket is the parameters' own memory: one flat tensor for each dtype and device, in which every parameter lives.

The optimizer and the wire touch the same bytes, so nothing is packed or unpacked in a step.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...errors import GossipError, UsageError
from ..module_tensors import LAZY
from .masters import origin
from .storages import bring_home_, is_alone, is_shared, placed, take_back_

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
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass(eq=False)
class Bucket:
    """Parameters of one dtype and device, or masters of such, one after another in the flat tensor `values`."""

    values: torch.Tensor
    slots: list[Slot] = field(default_factory=list)  # in the order of the optimizer's groups
    before: torch.Tensor | None = None  # room for the values before an update, taken when it is first needed

    def __post_init__(self) -> None:
        BUCKETS.append(weakref.ref(self, BUCKETS.remove))

    def segments(self, start: int = 0, stop: int | None = None) -> list[tuple[int, slice]]:
        """(parameter group, slice of `values[start:stop]`), one for each run of parameters of one group."""
        stop = len(self.values) if stop is None else stop
        runs: list[tuple[int, slice]] = []
        for slot in self.slots:
            first, last = max(slot.start, start) - start, min(slot.stop, stop) - start
            if first < last and runs and runs[-1][0] == slot.group:
                runs[-1] = (slot.group, slice(runs[-1][1].start, last))
            elif first < last:
                runs.append((slot.group, slice(first, last)))
        return runs

    def check(self, in_flight: bool = True) -> None:
        """Check that every parameter still lives here; a whole model that moved away and back is taken back.

        Args:
            in_flight: a message reads the values, so that parameters with other values are not taken back.
        """
        left = [slot for slot in self.slots if slot.parameter.data_ptr() != slot.address]
        if left and self._came_back(left, in_flight):
            for slot in left:
                bring_home_(slot.parameter, self._home(slot))
            return
        for slot in left:
            if not take_back_(slot.parameter, self.values[slot.start : slot.stop], slot.shape, slot.stride):
                raise GossipError(f"parameter {slot.name} has left its bucket: {self._departure(slot)}")

    def _came_back(self, left: list[Slot], in_flight: bool) -> bool:
        """Whether all parameters moved together, as by `.to()`, and have the dtype and device of this bucket again."""
        moved, full = (sum(slot.start < slot.stop for slot in slots) for slots in (left, self.slots))
        if moved < full or self._taken_over(left[0]):
            return False
        homes = [(slot.parameter, self._home(slot)) for slot in left]
        return all(is_alone(own, home) and not (in_flight and not torch.equal(own, home)) for own, home in homes)

    def _home(self, slot: Slot) -> torch.Tensor:
        return placed(self.values[slot.start : slot.stop], slot.shape, slot.stride)

    def _taken_over(self, left: Slot) -> bool:
        """Whether the parameter of the slot `left` lives in another bucket."""
        buckets = filter(None, (alive() for alive in tuple(BUCKETS)))
        homes = (slot for bucket in buckets for slot in bucket.slots if slot is not left)
        return any(slot.parameter is left.parameter for slot in homes)

    def _departure(self, left: Slot) -> str:
        """How the parameter of the slot `left` has left this bucket, told by where it is now, and the cure."""
        now, then = (f"{tensor.dtype} on {tensor.device}" for tensor in (left.parameter, self.values))
        if self._taken_over(left):
            return (
                "another GossipOptimizer was made with it later and has taken it over, so this one would average what "
                "nobody trains. Give each parameter to one GossipOptimizer: use the later one alone, or combine their "
                "averagers in one Chain"
            )
        if now != then:
            return (
                f"it is {now} now, and was {then} when GossipOptimizer was made (after .to(), .double() or .cuda()), "
                "so it would train without being averaged. Move the model first and make the optimizer afterwards"
            )
        return (
            "its data was replaced (by an assignment to .data, another GossipOptimizer over the same parameters, FSDP, "
            "vector_to_parameters or swap_tensors), so it would train without being averaged. Write in place, which "
            "keeps it there, under torch.no_grad(): parameter.clamp_(...), or parameter.copy_(values). Replace "
            "parameters for good before the optimizer is made"
        )


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
        f"{parameter.device.type} device, group {number}"
        # the order of the elements in memory, and so in messages, where that is not the usual one
        + ("" if parameter.is_contiguous() else f", strides {_dense_strides(parameter)}")
        for number, group in enumerate(groups)
        for parameter in group["params"]
    ]


def layout(buckets: Sequence[Bucket]) -> list[str]:
    """One line for each parameter: where it lives."""
    return [f"{slot.start}:{slot.stop} {b.values.dtype}" for b in buckets for slot in b.slots]


def pack(groups: Groups, names: Mapping[int, str], first: int = 0) -> list[Bucket]:
    """Move the parameters of `groups` into buckets; they stay the same objects, with the same values and strides.

    >>> layer = torch.nn.Linear(3, 2)
    >>> sgd = torch.optim.SGD(layer.parameters())
    >>> [bucket] = pack(sgd.param_groups, names(sgd, layer))
    >>> bucket.values[:6].equal(layer.weight.detach().flatten())
    True
    """
    kinds: dict[tuple[torch.dtype, torch.device], list[tuple[int, torch.nn.Parameter]]] = {}
    for number, group in enumerate(groups, first):
        for parameter in group["params"]:
            kinds.setdefault((origin(parameter).dtype, parameter.device), []).append((number, parameter))
    return [_bucket(dtype, parameters, names) for (dtype, _), parameters in kinds.items()]


def refuse_unfit(
    groups: Groups, names: Mapping[int, str], homes: Iterable[torch.device] = (), taken: Sequence[Bucket] = ()
) -> None:
    """Look at every parameter of `groups` before any of them is moved into a bucket.

    Args:
        homes: devices whose memory the transports carry; none means any.
        taken: buckets that exist already.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    seen = set[int]()
    for parameter in parameters:
        if id(parameter) in seen:
            raise UsageError(
                f"parameter {names[id(parameter)]} is in this optimizer twice, and would be updated twice in a step: "
                "name each parameter once, as list(dict.fromkeys(parameters)) does"
            )
        seen.add(id(parameter))
    slots = [slot for bucket in taken for slot in bucket.slots]
    housed = {parameter: slot.name for slot in slots for parameter in (slot.parameter, origin(slot.parameter))}
    spans = [(*_span(parameter), name) for parameter, name in housed.items()]
    for parameter in parameters:
        name = names[id(parameter)]
        if isinstance(parameter, LAZY):
            raise UsageError(
                f"parameter {name} belongs to a lazy module and has no shape yet: run one batch through the model "
                "before GossipOptimizer is made"
            )
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


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Where the tensor's memory begins and ends."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size() if tensor.numel() else start


def _bucket(
    narrowest: torch.dtype, parameters: list[tuple[int, torch.nn.Parameter]], names: Mapping[int, str]
) -> Bucket:
    step = max(1, ALIGNMENT // narrowest.itemsize)
    starts = [0, *itertools.accumulate(-(-parameter.numel() // step) * step for _, parameter in parameters)]
    bucket = Bucket(parameters[0][1].detach().new_zeros(starts[-1]))
    if any(is_shared(parameter) for _, parameter in parameters):
        bucket.values.share_memory_()
    for start, (number, parameter) in zip(starts, parameters, strict=False):
        stop = start + parameter.numel()
        home = placed(bucket.values[start:stop], parameter.shape, _dense_strides(parameter))
        with torch.no_grad():
            home.copy_(parameter)
        parameter.data = home
        name, address = names[id(parameter)], parameter.data_ptr()
        bucket.slots.append(Slot(parameter, name, number, start, stop, address, home.shape, home.stride()))
    return bucket


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """The tensor's own strides where it is dense (channels-last, transposed), else those of a contiguous one."""
    return torch.empty_like(tensor, memory_format=torch.preserve_format).stride()
