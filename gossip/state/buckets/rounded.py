"""The model's 16-bit parameters, rounded from their masters: one copy for each bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ...errors import GossipError, UsageError
from .bucket import Bucket, Slot
from .masters import Master
from .storages import is_shared, placed, take_back_


class Rounded:
    """Twins of the buckets that hold masters: flat tensors of as many elements, in which the parameters live.

    Attributes:
        twins: by the number of the bucket, the bucket and its twin.
    """

    def __init__(self) -> None:
        self.twins: dict[int, tuple[Bucket, torch.Tensor]] = {}
        self._addresses: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.twins)

    @torch.no_grad()
    def house(self, buckets: Sequence[Bucket]) -> None:
        """Move the model's parameters into twins of those of `buckets` that have none yet and need one."""
        for number, bucket in enumerate(buckets):
            parameter = bucket.slots[0].parameter
            if number in self.twins or not isinstance(parameter, Master):
                continue
            twin = bucket.values.to(parameter.model.dtype)
            if any(is_shared(model) for _, model in _models(bucket)):
                twin.share_memory_()
            self.twins[number] = bucket, twin
            for slot, model in _models(bucket):
                model.data = _home(slot, twin)
        self._addresses = [model.data_ptr() for _, model in self._each()]

    @torch.no_grad()
    def write_(self) -> None:
        """p <- round(m), everywhere."""
        for bucket, twin in self.twins.values():
            twin.copy_(bucket.values)

    @torch.no_grad()
    def take_(self) -> None:
        """m <- p where p is not what m rounds to: it was written by hand. Nothing reads m."""
        for bucket, twin in self.twins.values():
            foreign = twin != bucket.values.to(twin.dtype)
            if foreign.any():
                torch.where(foreign, twin.to(bucket.values.dtype), bucket.values, out=bucket.values)

    def masters(self) -> dict[int, torch.Tensor]:
        """The masters m for a checkpoint, by the number of the bucket."""
        return {number: bucket.values.clone() for number, (bucket, _) in self.twins.items()}

    def check_own(self, saved: Mapping[int, torch.Tensor]) -> None:
        """Refuse the masters of another model, or of none."""
        theirs = {number: values.numel() for number, values in saved.items()}
        ours = {number: twin.numel() for number, (_, twin) in self.twins.items()}
        if theirs != ours:
            raise UsageError(
                f"this state has masters of {sum(theirs.values())} elements, and this model's are of "
                f"{sum(ours.values())}: load it with the same model and the master_weights=... that it was saved with"
            )

    @torch.no_grad()
    def restore_(self, saved: Mapping[int, torch.Tensor]) -> None:
        """Go on from there, with nothing in flight."""
        for number, values in saved.items():
            self.twins[number][0].values.copy_(values)
        self.write_()

    def before(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """`closure`, for optimizers that move the masters between two evaluations."""
        if not self.twins:
            return closure

        def rounded() -> Any:
            self.write_()
            return closure()

        return rounded

    def check(self) -> None:
        """Every 16-bit parameter still lives in its twin.

        Raises:
            GossipError: naming the first that is not.
        """
        addresses = iter(self._addresses)
        for bucket, twin in self.twins.values():
            for slot, model in _models(bucket):
                if model.data_ptr() != next(addresses) and not take_back_(model, _home(slot, twin)):
                    raise GossipError(slot.astray(model, twin))

    def _each(self) -> Iterator[tuple[Slot, torch.nn.Parameter]]:
        for bucket, _ in self.twins.values():
            yield from _models(bucket)


def _home(slot: Slot, twin: torch.Tensor) -> torch.Tensor:
    return placed(twin[slot.start : slot.stop], slot.parameter.shape, slot.parameter.stride())


def _models(bucket: Bucket) -> Iterator[tuple[Slot, torch.nn.Parameter]]:
    for slot in bucket.slots:
        assert isinstance(slot.parameter, Master), "parameters of one dtype share a bucket"
        yield slot, slot.parameter.model
