"""Learning rates that differ between ranks which average exactly: carried by the average itself, and warned of once.

Source of the warning's case: a scheduler that follows a metric of each rank's own, torch's ReduceLROnPlateau.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch

from ..errors import levels_to_the_user
from ..transports import Communicator

OFTEN, SELDOM = 8, 64
"""Averages that carry the rates: the first of a run, and later one of so many. Each adds a tensor to every message."""

NAMED = 4
"""Ranks with one rate that the warning names."""


class Drift:
    """Compares the learning rates of n ranks by n numbers in a sum that is made anyway.

    Rank j adds γ_j in place j and 0 elsewhere, so every rank has all of them after the sum:

        Σ_j γ_j e_j  =  (γ_0, …, γ_{n−1}) ,    γ_j the mean of rank j's parameter groups
    """

    def __init__(self, groups: Callable[[], Iterable[Mapping[str, Any]]] = list) -> None:
        self._groups = groups
        self._warned = False
        self._copied: tuple[torch.Tensor, torch.cuda.Event, Sequence[int]] | None = None

    def beside(self, numbers: torch.Tensor, channel: Communicator, turn: int = 0) -> torch.Tensor:
        """A copy of `numbers` and after them this rank's term γ_j e_j, which most averages go without."""
        if turn >= OFTEN and turn % SELDOM:
            return numbers.clone()
        result = torch.cat([numbers, numbers.new_zeros(channel.size)])
        result[len(numbers) + channel.rank] = self._rate()
        return result

    def compare(self, rates: torch.Tensor, channel: Communicator) -> None:
        """Warn once in a run where `rates`, summed over the ranks of `channel`, are not all the same."""
        if self._warned or not len(rates):
            return
        each, ranks = self._on_host(rates, channel.ranks)
        if any(rate != each[0] for rate in each):
            self._warned = True
            if channel.rank == 0:
                warnings.warn(_sentence(each, ranks), stacklevel=levels_to_the_user())

    def _rate(self) -> float:
        rates = [group.get("lr") for group in self._groups()]
        # Reading a rate from a GPU would stop the host. Some optimizers have no rate of their own.
        known = [
            float(rate) for rate in rates if isinstance(rate, Real) or (torch.is_tensor(rate) and not rate.is_cuda)
        ]
        return math.fsum(known) / len(known) if known else 0.0

    def _on_host(self, rates: torch.Tensor, ranks: Sequence[int]) -> tuple[list[float], Sequence[int]]:
        """`rates`, and their ranks. From a GPU those of an earlier sum, once they are here: no host waits for them."""
        if not rates.is_cuda:
            return rates.tolist(), ranks
        if self._copied is not None and not self._copied[1].query():
            return [], ranks
        earlier, event = self._copied, torch.cuda.Event()
        copied = torch.empty(len(rates), dtype=rates.dtype, pin_memory=True).copy_(rates, non_blocking=True)
        event.record()
        self._copied = copied, event, ranks
        return ([], ranks) if earlier is None else (earlier[0].tolist(), earlier[2])


def _sentence(rates: Sequence[float], ranks: Sequence[int]) -> str:
    """The ranks that hold each rate, and the cure."""
    holders: dict[float, list[int]] = {}
    for rank, rate in zip(ranks, rates, strict=True):
        holders.setdefault(rate, []).append(rank)
    named = []
    for rate, each in holders.items():
        more = f" and {len(each) - NAMED} more" if len(each) > NAMED else ""
        named.append(f"{rate:.6g} on rank{'s' if len(each) > 1 else ''} {', '.join(map(str, each[:NAMED]))}{more}")
    return (
        f"ranks that are averaged train at different learning rates: {'; '.join(named)}. They then average unequal "
        "steps. A scheduler that follows a metric, such as ReduceLROnPlateau, needs the same number on every rank: "
        "give it the mean of the metric over `world`, and build every other scheduler alike on all ranks"
    )
