"""Whether parameters were written between two steps, by load_state_dict, an average of weights swapped in, or a clamp.

A write with a round in flight reaches peers in part, and is averaged with the values that it replaces. Autograd counts
writes in place, in the `_version` of each tensor, but none through `.data`. So on a host one value of each parameter is
compared too; on a GPU that would stop the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

import torch

from ...errors import GossipError
from .bucket import Bucket
from .rounded import Rounded

VERSION = attrgetter("_version")
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element: values are compared by their bits, for a NaN differs from itself."""


class Sample(NamedTuple):
    """The middle value of each of the parameters `names`, at `places` of a flat tensor on a host."""

    bits: torch.Tensor
    places: torch.Tensor
    names: list[str]

    def take(self) -> torch.Tensor:
        """The values, by their bits."""
        return self.bits.index_select(0, self.places)


Held = tuple[dict[str, Any], str, torch.Tensor | torch.nn.Module]
"""A module's own dictionary of parameters or of modules, a name in it, and the object that stands there."""


class Places:
    """The memory, the module and the parameter groups in which the parameters of `optimizer` are."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._homes: list[tuple[torch.Tensor, int]] = []
        self.held: list[Held] = []
        self.groups: list[list[int]] = []

    def note(self, parameters: Iterable[torch.Tensor], held: list[Held]) -> None:
        """Compare with the places of now; `held`: where the module has them."""
        self._homes = [(parameter, parameter.data_ptr()) for parameter in parameters]
        self.held, self.groups = held, self.groups_now()

    def groups_now(self) -> list[list[int]]:
        """The ids of the parameters of each group."""
        return [[id(parameter) for parameter in group["params"]] for group in self._optimizer.param_groups]

    def are_kept(self) -> bool:
        """Whether nothing has moved, been replaced or changed its group since."""
        return (
            all(parameter.data_ptr() == address for parameter, address in self._homes)
            and all(owner.get(name) is thing for owner, name, thing in self.held)
            and self.groups_now() == self.groups
        )


class Writes:
    """The parameters of `buckets`, and those that are `rounded` from masters, as they were when they were noted.

    Our own writes go to the flat tensors, which leaves the versions of parameters alone.

    >>> from gossip.state.buckets.bucket import names, pack
    >>> layer = torch.nn.Linear(3, 2)
    >>> sgd = torch.optim.SGD(layer.parameters())
    >>> writes = Writes(pack(sgd.param_groups, names(sgd, layer)), Rounded())
    >>> writes.note()
    >>> writes.first()
    >>> layer.bias.data.fill_(1)
    tensor([1., 1.])
    >>> writes.first()
    "'bias'"
    """

    def __init__(self, buckets: Sequence[Bucket], rounded: Rounded) -> None:
        self._buckets, self._rounded = buckets, rounded
        self._known = 0  # buckets that are laid out below
        self._names: list[str] = []
        self._tensors: Sequence[torch.Tensor] = []
        self._samples: list[Sample] = []
        self._versions: list[int] | None = None
        self._values: list[torch.Tensor] = []
        self._in_flight = False

    def note(self, in_flight: bool = False) -> None:
        """Compare with the parameters as they are now; `in_flight`: nobody may write them."""
        if self._known != len(self._buckets):
            self._lay_out()
        self._in_flight = in_flight
        self._versions = list(map(VERSION, self._tensors))
        self._values = [sample.take() for sample in self._samples]

    def again(self) -> None:
        """Compare with the parameters as they are now, unless anybody may write them."""
        if self._versions is not None:
            self.note(self._in_flight)

    def forget(self) -> None:
        """Anybody may write parameters from now on."""
        self._versions = None

    def first(self) -> str | None:
        """The name of the first parameter that was written since they were noted; None where none was."""
        if self._versions is None:
            return None
        versions = list(map(VERSION, self._tensors))
        if versions != self._versions:
            pairs = zip(self._names, versions, self._versions, strict=True)
            return next(name for name, now, then in pairs if now != then)
        return self._altered()

    def altered(self) -> bool:
        """Whether some hold other values than noted. On a GPU: whether some were written."""
        if self._versions is None:
            return False
        on_hosts = len(self._samples) == len(self._all())
        return (self._altered() if on_hosts else self.first()) is not None

    def check(self, rank: int, step: int) -> bool:
        """Whether parameters may have been written; an error if one was while something was in flight."""
        name = self.first()
        if name is not None and self._in_flight:
            for bucket in self._buckets:
                bucket.check()  # one that was moved has a sentence of its own
            self.refuse(name, rank, step)
        return name is not None or self._versions is None

    def refuse(self, name: str, rank: int, step: int) -> NoReturn:
        """Raise for parameter `name`, which was written while something was in flight."""
        raise GossipError(
            f"on rank {rank} parameter {name} was written before step {step} with a round or an average in flight "
            "(by load_state_dict, averaged weights swapped in, clamp_, Embedding(max_norm=...) or another "
            "optimizer), and peers may have received parts of it: call settle() on every rank before writing "
            "parameters. A write in every step belongs into register_step_post_hook of the wrapped optimizer"
        )

    def _altered(self) -> str | None:
        for sample, then in zip(self._samples, self._values, strict=True):
            now = sample.take()
            if not torch.equal(now, then):
                return sample.names[int((now != then).nonzero()[0])]
        return None

    def _all(self) -> list[Bucket]:
        return [*self._buckets, *(twin for _, twin in self._rounded.twins.values())]

    def _lay_out(self) -> None:
        slots = [slot for bucket in self._all() for slot in bucket.slots]
        self._names, self._tensors = [slot.name for slot in slots], [slot.parameter for slot in slots]
        self._samples = []
        for bucket in self._all():
            if bucket.values.device.type == "cpu":
                full = [slot for slot in bucket.slots if slot.start < slot.stop]
                places = torch.tensor([(slot.start + slot.stop) // 2 for slot in full], dtype=torch.int64)
                bits = bucket.values.view(BITS[bucket.values.itemsize])
                self._samples.append(Sample(bits, places, [slot.name for slot in full]))
        self._known = len(self._buckets)
