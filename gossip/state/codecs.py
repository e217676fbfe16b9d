"""Wire formats: what values look like while they travel, where that is not the parameters' own memory.

A rounded message ẑ, sent in the place of z, loses no mass where its sender keeps what rounding lost. When the shares
s = Σ_i P[i,j] are given away and k = P[j,j] is kept, s + k = 1,

    z <- z + (s/k)·(z − ẑ)        so that        k z + s ẑ   is what z was

and needs no state beside the parameters. That holds with one weight for all values of a message, which is why sparse
and low-rank messages are left out: a value that is not sent would have to keep its share of the weight for itself.

Source: the law is push-sum's own, Kempe, Dobra, Gehrke, FOCS 2003: giving (s·w, ẑ) away is merging (−s·w, ẑ).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

BLOCK = 256
"""Values that share one scale."""

CHUNK = 1 << 18
"""Values that are decoded at once on a host, so that they stay in a core's cache; a GPU takes 64 times as many."""


class Wire(ABC):
    """How the values of one bucket are written into a message, and read from it.

    Attributes:
        name: what `PushSum(wire=...)` calls it; None is the parameters' own dtype.
    """

    name: str | None

    @abstractmethod
    def exact(self, values: torch.Tensor) -> bool:
        """Whether values of this dtype are never rounded."""

    @abstractmethod
    def room(self, values: torch.Tensor) -> torch.Tensor:
        """Uninitialised memory for `values`, of shape (elements,), encoded."""

    @abstractmethod
    def encode(self, values: torch.Tensor, room: torch.Tensor) -> None:
        """Write `values` into their `room`."""

    @abstractmethod
    def decode(self, room: torch.Tensor, part: slice) -> torch.Tensor:
        """Values `part` of a message, beginning at a block, as they are or in float32."""

    @abstractmethod
    def elements(self, room: torch.Tensor) -> int:
        """How many values a message holds."""

    def beside(self, values: torch.Tensor, room: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Own values, and those of a message decoded beside them, piece by piece."""
        n, chunk = self.elements(room), _chunk(room)
        for part in (slice(start, min(start + chunk, n)) for start in range(0, n, chunk)):
            yield values[part], self.decode(room, part)

    def raw(self, room: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The scale of each block of 256 values, where there are scales, and the numbers that travelled."""
        return None, room

    def values(self, room: torch.Tensor) -> torch.Tensor:
        """All values of a message, decoded."""
        return self.decode(room, slice(0, self.elements(room)))

    def lost(self, room: torch.Tensor) -> bool:
        """Whether a message holds what cannot be carried. Not asked of a GPU, for which the host would have to wait."""
        return False


class Plain(Wire):
    """The parameters' own dtype."""

    name = None

    def exact(self, values: torch.Tensor) -> bool:
        return True

    def room(self, values: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(values)

    def encode(self, values: torch.Tensor, room: torch.Tensor) -> None:
        room.copy_(values)

    def decode(self, room: torch.Tensor, part: slice) -> torch.Tensor:
        return room[part]

    def elements(self, room: torch.Tensor) -> int:
        return room.numel()

    def beside(self, values: torch.Tensor, room: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield values, room


class Float(Wire):
    """Another floating-point dtype, rounded to nearest.

    bfloat16 has the range of float32 and carries whatever is not finite. float16 ends at 65,504: what is beyond is
    refused, for a sender that gave the largest number instead, and kept the excess as it keeps what rounding lost,
    would hold twice the excess afterwards where k = 1/2, and twice that in the next round.

    >>> wire = Float(torch.bfloat16)
    >>> z = torch.tensor([1.0, 1.001])
    >>> room = wire.room(z)
    >>> wire.encode(z, room)
    >>> wire.values(room), room.nbytes
    (tensor([1., 1.]), 4)
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.name = str(dtype).removeprefix("torch.")

    def exact(self, values: torch.Tensor) -> bool:
        return torch.promote_types(values.dtype, self.dtype) == self.dtype

    def room(self, values: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(values, dtype=self.dtype)

    def encode(self, values: torch.Tensor, room: torch.Tensor) -> None:
        room.copy_(values)

    def decode(self, room: torch.Tensor, part: slice) -> torch.Tensor:
        return room[part].float()

    def elements(self, room: torch.Tensor) -> int:
        return room.numel()

    def lost(self, room: torch.Tensor) -> bool:
        return self.dtype == torch.float16 and not _finite(room)


class Int8(Wire):
    """Whole numbers from −127 to 127, times a float32 scale for each block of 256 values: 65 bytes for 64 values.

        scale = max|z| / 127 ,    ẑ = scale · round(z / scale) ,    |z − ẑ| ≤ scale / 2

    A message is one piece of memory, first the scales and then the numbers, which begin where a GPU reads 16 bytes at
    once. A block with a NaN or an infinity has no scale and is refused.

    >>> wire = Int8()
    >>> z = torch.tensor([127.0, 0.4, -3.0])
    >>> room = wire.room(z)
    >>> wire.encode(z, room)
    >>> wire.values(room), room.nbytes
    (tensor([127.,   0.,  -3.]), 19)
    """

    name = "int8"

    def exact(self, values: torch.Tensor) -> bool:
        return False

    def room(self, values: torch.Tensor) -> torch.Tensor:
        n = values.numel()
        # Zeros, for what may lie between scales and numbers travels too, and equal runs send equal bytes.
        return torch.zeros(16 * -(-n // (4 * BLOCK)) + n, dtype=torch.uint8, device=values.device)

    def encode(self, values: torch.Tensor, room: torch.Tensor) -> None:
        scales, numbers = self.raw(room)
        chunk = _chunk(room)
        for start in range(0, len(numbers), chunk):
            part = values[start : start + chunk]
            whole = len(part) - len(part) % BLOCK
            for first, last in ((0, whole), (whole, len(part))):
                if first < last:
                    z = part[first:last].float().view(-1, min(BLOCK, last - first))
                    block = (start + first) // BLOCK
                    scale = scales[block : block + len(z)].unsqueeze(1)
                    # A block of zeros, or of less than a scale can say, becomes zeros.
                    torch.div(z.abs().amax(1, keepdim=True), 127, out=scale).clamp_(min=torch.finfo(scale.dtype).tiny)
                    numbers[start + first : start + last].view(z.shape).copy_((z / scale).round_())

    def decode(self, room: torch.Tensor, part: slice) -> torch.Tensor:
        scales, numbers = self.raw(room)
        assert part.start % BLOCK == 0, "a scale is for the whole block"
        q = numbers[part]
        whole, first = len(q) - len(q) % BLOCK, part.start // BLOCK
        z = torch.empty(len(q), device=room.device)
        scale = scales[first : first + -(-len(q) // BLOCK)]
        torch.mul(q[:whole].view(-1, BLOCK), scale[: whole // BLOCK].unsqueeze(1), out=z[:whole].view(-1, BLOCK))
        if whole < len(q):
            torch.mul(q[whole:], scale[-1], out=z[whole:])
        return z

    def elements(self, room: torch.Tensor) -> int:
        return len(room) - 16 * -(-len(room) // (4 * BLOCK + 16))

    def lost(self, room: torch.Tensor) -> bool:
        return not _finite(self.raw(room)[0])

    def raw(self, room: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = self.elements(room)
        first = len(room) - n
        return room[:first].view(torch.float32)[: -(-n // BLOCK)], room[first:].view(torch.int8)


def _chunk(room: torch.Tensor) -> int:
    return CHUNK * (64 if room.is_cuda else 1)


def _finite(numbers: torch.Tensor) -> bool:
    """Whether all are, in one pass: the least and the greatest of what holds a NaN are NaN."""
    return not numbers.numel() or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(numbers))


PLAIN = Plain()

WIRES: dict[str | None, Wire] = {
    wire.name: wire for wire in (PLAIN, Float(torch.float32), Float(torch.bfloat16), Float(torch.float16), Int8())
}
