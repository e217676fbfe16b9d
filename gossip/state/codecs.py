"""Codec formats: what values look like while they travel, where that is not the parameters' own memory.

A rounded message ẑ, sent in the place of z, loses no mass where its sender keeps what rounding lost. When the shares
s = Σ_i P[i,j] are given away and k = P[j,j] is kept, s + k = 1,

    z <- z + (s/k)·(z − ẑ)        so that        k z + s ẑ   is what z was

and needs no state beside the parameters. That holds with one weight for all values of a message, which is why sparse
and low-rank messages are left out: a value that is not sent would have to keep its share of the weight for itself.

Source: the law is push-sum's own, Kempe, Dobra, Gehrke, FOCS 2003: giving (s·w, ẑ) away is merging (−s·w, ẑ).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

BLOCK = 256
"""Values that share one scale."""

CHUNK = 1 << 18
"""Values that are decoded at once on a host, so that they stay in a core's cache; a GPU takes 64 times as many."""


class Codec:
    """How values are written into a message, and read from it: in a floating-point dtype, or with None in their own.

    bfloat16 has the range of float32 and carries values that are not finite. float16 ends at 65,504, and larger values
    are refused. A sender that gave the largest number instead would keep the excess like a rounding error: with
    k = 1/2 it would hold twice the excess, and twice as much again after the next round.

    >>> codec = Codec(torch.bfloat16)
    >>> z = torch.tensor([1.0, 1.001])
    >>> buffer = codec.buffer(z)
    >>> codec.encode(z, buffer)
    >>> codec.values(buffer), buffer.nbytes
    (tensor([1., 1.]), 4)
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self.name = None if dtype is None else str(dtype).removeprefix("torch.")  # for `PushSum(wire=...)`

    def is_exact(self, values: torch.Tensor) -> bool:
        """Whether values of this dtype are never rounded."""
        return self.dtype is None or torch.promote_types(values.dtype, self.dtype) == self.dtype

    def buffer(self, values: torch.Tensor) -> torch.Tensor:
        """Memory for `values`, of shape (elements,), once they are encoded."""
        return torch.empty_like(values, dtype=self.dtype)

    def encode(self, values: torch.Tensor, buffer: torch.Tensor) -> None:
        """Write `values`, rounded to nearest, into `buffer`."""
        buffer.copy_(values)

    def decode(self, buffer: torch.Tensor, part: slice) -> torch.Tensor:
        """The values `part` of a message, in their own dtype or in float32; `part` begins at a block."""
        return buffer[part] if self.dtype is None else buffer[part].float()

    def elements(self, buffer: torch.Tensor) -> int:
        """The number of values in a message."""
        return buffer.numel()

    def raw(self, buffer: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The scale of each block of 256 values, or None without scales, and the numbers in the message."""
        return None, buffer

    def is_lossy(self, buffer: torch.Tensor) -> bool:
        """Whether a message lost a value to the format's range. Asked on hosts only: on a GPU the host would wait."""
        return self.dtype == torch.float16 and not _finite(buffer)

    def pieces(self, values: torch.Tensor, buffer: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of own values and decoded values of a message, piece by piece."""
        n, chunk = self.elements(buffer), _chunk(buffer)
        for part in (slice(start, min(start + chunk, n)) for start in range(0, n, chunk)):
            yield values[part], self.decode(buffer, part)

    def values(self, buffer: torch.Tensor) -> torch.Tensor:
        """All values of a message, decoded."""
        return self.decode(buffer, slice(0, self.elements(buffer)))


class Int8(Codec):
    """Whole numbers from −127 to 127, times a float32 scale for each block of 256 values: 65 bytes for 64 values.

        scale = max|z| / 127 ,    ẑ = scale · round(z / scale) ,    |z − ẑ| ≤ scale / 2

    A message is one piece of memory: the scales, then the numbers, aligned to the 16 bytes that a GPU reads at once. A
    block with a NaN or an infinity has no scale and is refused.

    >>> codec = Int8()
    >>> z = torch.tensor([127.0, 0.4, -3.0])
    >>> buffer = codec.buffer(z)
    >>> codec.encode(z, buffer)
    >>> codec.values(buffer), buffer.nbytes
    (tensor([127.,   0.,  -3.]), 19)
    """

    def __init__(self) -> None:
        super().__init__(torch.int8)

    def is_exact(self, values: torch.Tensor) -> bool:
        return False

    def buffer(self, values: torch.Tensor) -> torch.Tensor:
        n = values.numel()
        # Zeros: the bytes between scales and numbers travel too, and equal runs send equal bytes.
        return torch.zeros(16 * -(-n // (4 * BLOCK)) + n, dtype=torch.uint8, device=values.device)

    def encode(self, values: torch.Tensor, buffer: torch.Tensor) -> None:
        scales, numbers = self.raw(buffer)
        n, chunk = len(numbers), _chunk(buffer)
        whole = n - n % BLOCK
        for start in [*range(0, whole, chunk), *range(whole, n, BLOCK)]:  # the last block may be shorter
            stop = min(start + chunk, whole) if start < whole else n
            z = values[start:stop].float().view(-1, min(BLOCK, stop - start))
            scale = scales[start // BLOCK :][: len(z)].unsqueeze(1)
            # A block of zeros, or of values below the smallest scale, becomes zeros.
            torch.div(z.abs().amax(1, keepdim=True), 127, out=scale).clamp_(min=torch.finfo(scale.dtype).tiny)
            numbers[start:stop].view(z.shape).copy_((z / scale).round_())

    def decode(self, buffer: torch.Tensor, part: slice) -> torch.Tensor:
        scales, numbers = self.raw(buffer)
        assert part.start % BLOCK == 0, "a scale is for the whole block"
        q = numbers[part]
        whole, first = len(q) - len(q) % BLOCK, part.start // BLOCK
        z = torch.empty(len(q), device=buffer.device)
        scale = scales[first : first + -(-len(q) // BLOCK)]
        torch.mul(q[:whole].view(-1, BLOCK), scale[: whole // BLOCK].unsqueeze(1), out=z[:whole].view(-1, BLOCK))
        if whole < len(q):
            torch.mul(q[whole:], scale[-1], out=z[whole:])
        return z

    def elements(self, buffer: torch.Tensor) -> int:
        return len(buffer) - 16 * -(-len(buffer) // (4 * BLOCK + 16))

    def is_lossy(self, buffer: torch.Tensor) -> bool:
        return not _finite(self.raw(buffer)[0])

    def raw(self, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = len(buffer) - self.elements(buffer)
        numbers = buffer[first:].view(torch.int8)
        return buffer[:first].view(torch.float32)[: -(-len(numbers) // BLOCK)], numbers


def _chunk(buffer: torch.Tensor) -> int:
    return CHUNK * (64 if buffer.is_cuda else 1)


def _finite(numbers: torch.Tensor) -> bool:
    """Whether all numbers are finite, in one pass: with a NaN among them, both bounds are NaN."""
    return not numbers.numel() or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(numbers))


PLAIN = Codec()

CODECS: dict[str | None, Codec] = {
    codec.name: codec for codec in (PLAIN, Codec(torch.float32), Codec(torch.bfloat16), Codec(torch.float16), Int8())
}
