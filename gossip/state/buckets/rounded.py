"""The model's 16-bit parameters, rounded from their masters: one copy for each bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...errors import UsageError
from .bucket import Bucket, pack
from .masters import Master


class Rounded:
    """Twins of the buckets that hold masters: buckets of as many elements, in which the parameters live."""

    def __init__(self) -> None:
        self.twins: dict[int, tuple[Bucket, Bucket]] = {}  # number of the bucket -> the bucket and its twin

    def house(self, buckets: Sequence[Bucket]) -> None:
        """Move the model's parameters into twins of those of `buckets` that have none yet and need one."""
        for number, bucket in enumerate(buckets):
            names = {slot.parameter.model: slot.name for slot in bucket.slots if isinstance(slot.parameter, Master)}
            if names and number not in self.twins:
                [twin] = pack([{"params": list(names)}], {id(model): name for model, name in names.items()})
                self.twins[number] = bucket, twin

    @torch.no_grad()
    def write_(self) -> None:
        """p <- round(m), everywhere."""
        for bucket, twin in self.twins.values():
            twin.values.copy_(bucket.values)

    @torch.no_grad()
    def take_(self) -> None:
        """m <- p where p is not what m rounds to: it was written by hand. Nothing reads m."""
        for bucket, twin in self.twins.values():
            foreign = twin.values != bucket.values.to(twin.values.dtype)
            if foreign.any():
                torch.where(foreign, twin.values.to(bucket.values.dtype), bucket.values, out=bucket.values)

    def masters(self) -> dict[int, torch.Tensor]:
        """The masters m for a checkpoint, by the number of the bucket."""
        return {number: bucket.values.clone() for number, (bucket, _) in self.twins.items()}

    def check_own(self, saved: Mapping[int, torch.Tensor]) -> None:
        """Refuse the masters of another model, or of none."""
        theirs = {number: values.numel() for number, values in saved.items()}
        ours = {number: twin.values.numel() for number, (_, twin) in self.twins.items()}
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

    def check(self, in_flight: bool = True) -> None:
        """Check that every 16-bit parameter still lives in its twin; see `Bucket.check`."""
        for _, twin in self.twins.values():
            twin.check(in_flight)
