"""Where anchors and slow momenta rest between outer steps: beside the parameters, or on the host."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gossip import UsageError

CHUNK = 1 << 22
"""Elements of an anchor that visit the device at once, for an anchor on the host."""


class Memory:
    """Room for anchors and momenta, and their way to the parameters' device and back.

    From the host, CHUNK elements at a time visit the device, so that an outer step needs little room there. Copies in
    both directions follow the order of the device's stream, and no host waits for them in a step.

    Args:
        place: None beside the parameters, or "cpu".

    Raises:
        UsageError: another place.
    """

    def __init__(self, place: str | None) -> None:
        if place not in (None, "cpu"):
            raise UsageError(
                f"anchors_on is {place!r}; there are None, which is beside the parameters, and 'cpu', which is the host"
            )
        self.on_host = place == "cpu"
        self._copied: torch.cuda.Event | None = None

    def room(self, values: torch.Tensor) -> torch.Tensor:
        """Uninitialised room for as many elements as `values`, in float32 or wider."""
        return torch.empty(
            len(values),
            dtype=torch.promote_types(values.dtype, torch.float32),
            device="cpu" if self.on_host else values.device,
            pin_memory=self.on_host and values.is_cuda,
        )

    def pieces(self, where: slice) -> Iterator[slice]:
        """`where`, in pieces that visit the device one after another."""
        step = CHUNK if self.on_host else max(1, where.stop - where.start)
        for start in range(where.start, where.stop, step):
            yield slice(start, min(start + step, where.stop))

    def before(self, values: torch.Tensor) -> None:
        """Before an outer step on `values`: the device goes on once the copies of the last one have ended."""
        if self._copied is not None:
            torch.cuda.current_stream(values.device).wait_event(self._copied)

    def after(self, values: torch.Tensor) -> None:
        """After an outer step on `values`: remember when its copies will have ended."""
        if self.on_host and values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def wait(self) -> None:
        """Before the host reads or writes: wait for the copies."""
        if self._copied is not None:
            self._copied.synchronize()
