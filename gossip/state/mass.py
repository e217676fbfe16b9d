"""A rank's values and the weight that they carry: what averagers act on.

Push-sum keeps x = w·z. Here the value z is what lives in the parameters, and the weight w stands beside it:

    give     w <- P[j,j]·w                                  the values stay as they are
    merge    w <- w + w',   z <- z + (w'/w)·(z' - z)        one lerp
    update   z <- z + Δ/w                                   the optimizer's change counts for mass 1

so that forward, backward, weight decay and clipping all see the de-biased model.
Source: stochastic gradient push, Assran et al., ICML 2019, arXiv 1811.10792, written for z instead of x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..observe.stats import Stats
from ..training.drift import Drift
from ..transports import Flight
from .buckets.bucket import Bucket
from .codecs import PLAIN, Wire
from .companions import Companions
from .hooks import Hook
from .integrity import refuse_non_finite
from .merging import mix_, scalar, scale_change_


class Mass:
    """Values and weight of one rank, shared by every averager of one optimizer.

    Attributes:
        buckets: the values z, in the parameters' own memory.
        weight: w, a float64 tensor without dimensions, never in the parameters' dtype.
        whole: w is exactly 1, known without reading it.
        balanced: so far every rank's weight was 1 whenever everything had landed; never where ranks take in what
            answers no round of their own.
        equal: where balanced, whether all ranks hold the same weight at the moment.
        aloft: rounds posted and not yet merged.
        reading: flights that read the buckets' memory as they are; nothing is written before they have landed.
        aloft_weight: w that this rank gave, less what it took in; over all ranks that is what is in flight.
        checks_finite: values are looked at before they are sent.
        checksums: messages of gossip carry one.
        companions: buffers that an exact average takes along.
        drift: compares the ranks' learning rates in exact sums.
    """

    def __init__(self, stats: Stats) -> None:
        self.buckets: list[Bucket] = []
        self.stats = stats
        self.weight = torch.ones((), dtype=torch.float64)
        self.whole = True
        self.balanced = True
        self.aloft = 0
        self.equal = True
        self.reading: list[Flight] = []
        self.aloft_weight: torch.Tensor | float = 0.0
        self.checks_finite = False
        self.checksums = False
        self.companions = Companions()
        self._landers: list[tuple[Hook, Hook | None]] = []
        self.drift = Drift()

    @property
    def values(self) -> list[torch.Tensor]:
        """The flat tensors of all buckets."""
        return [bucket.values for bucket in self.buckets]

    def lands_with(self, land: Callable[[], None], in_flight: Callable[[], bool] | None = None) -> None:
        """`land`, a method, merges what one averager has in flight; `settle` calls it.

        `in_flight`, a method: whether something is now that reads the values, or is merged with them.
        """
        self._landers.append((Hook(land), None if in_flight is None else Hook(in_flight)))

    def in_flight(self) -> bool:
        """Whether something in flight reads the values, or will be merged with them as they are."""
        return any(in_flight is not None and in_flight() for _, in_flight in self._landers)

    def settle(self) -> None:
        """Land everything in flight, and let nothing read the buckets."""
        for land, _ in self._landers:
            land()
        self.quiet()

    def arrive(self, flight: Flight) -> None:
        """Wait until `flight` has landed, so that it reads the buckets no longer."""
        self.stats.wait(flight)
        if flight in self.reading:
            self.reading.remove(flight)

    def quiet(self) -> None:
        """Wait until nothing in flight reads the buckets."""
        while self.reading:
            self.arrive(self.reading[0])

    def give(self, keep: float, doubly_stochastic: bool, keeps_alike: bool) -> None:
        """Post one round: hold on to the share `keep` of the weight."""
        # Rows that sum to 1 bring equal weights back to where they were, and only equal ones. While rounds are in
        # flight weights are equal where every rank has given the same share.
        self.balanced &= doubly_stochastic and self.equal
        self.equal &= keeps_alike
        # w <- P[j,j]·w
        self.aloft_weight += (1 - keep) * scalar(self.weight)
        self.weight = keep * self.weight
        self.whole = False
        self.aloft += 1

    def look(self, values: Sequence[torch.Tensor], what: str = "parameter") -> None:
        """Before `values` are sent: refuse what is not finite, where that was asked for."""
        if self.checks_finite:
            board = self.stats.board
            refuse_non_finite(board.rank, board.slot.step, self.buckets, values, what)

    def merge_(self, messages: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], wire: Wire = PLAIN) -> None:
        """Take in pairs (w', z') from peers, z' as `wire` writes it, in one pass where there is a kernel for that."""
        if not messages:
            return
        self.quiet()
        with self.stats.merging():
            self.whole = False
            # w <- w + w' ;   z <- z + (w'/w)·(z' − z)
            ratios = []
            for weight, _ in messages:
                self.weight = self.weight + weight
                self.aloft_weight -= scalar(weight)
                ratios.append(weight / self.weight)
            for number, own in enumerate(self.values):
                mix_(own, [values[number] for _, values in messages], ratios, wire)

    def retain_(self, keep: float, sent: Sequence[torch.Tensor], wire: Wire) -> None:
        """When ẑ is given in the place of z and the share `keep` is kept: keep what rounding lost. Nothing reads z."""
        # z <- z + (s/k)·(z − ẑ) ,   s + k = 1
        ratio = torch.tensor(1 - 1 / keep, dtype=torch.float64)
        for own, other in zip(self.values, sent, strict=True):
            if not wire.exact(own):
                mix_(own, [other], [ratio], wire)

    def go_on(self, weight: float, unmerged: float, balanced: bool) -> None:
        """After a death hold `weight`, and `unmerged` of what has arrived.

        `balanced`: every rank that is left holds 1, and nothing is in flight.
        """
        self.reading.clear()
        self.aloft_weight = unmerged
        self.weight = torch.full_like(self.weight, weight)
        self.balanced, self.whole, self.equal = balanced, False, False
        if balanced:
            self.become_whole()

    def round_landed(self) -> None:
        """One round fewer in flight. Balanced and with nothing in flight, w is 1 but for rounding: make it so."""
        self.aloft -= 1
        if self.aloft == 0 and self.balanced:
            self.become_whole()

    def become_whole(self) -> None:
        """w = 1 exactly; what that changes, if it is more than rounding, stays on the books."""
        self.aloft_weight += scalar(self.weight) - 1
        self.weight = torch.ones_like(self.weight)
        self.whole = self.equal = True

    def forget(self) -> None:
        """Begin anew, with nothing in flight and w = 1 on every rank."""
        assert self.aloft == 0, "the averagers forget first"
        self.become_whole()
        self.balanced = True
        self.aloft_weight = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What is known of the weight."""
        return {
            "weight": float(self.weight),
            "aloft_weight": float(self.aloft_weight),
            "whole": self.whole,
            "balanced": self.balanced,
            "equal": self.equal,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.weight = torch.full_like(self.weight, state["weight"])
        self.aloft_weight = state.get("aloft_weight", 0.0)
        self.whole, self.balanced, self.equal = state["whole"], state["balanced"], state["equal"]

    @contextmanager
    def update(self) -> Iterator[None]:
        """Around whatever changes the values by Δ: the change counts for mass 1."""
        self.quiet()
        if self.whole:
            yield
            return
        for bucket in self.buckets:
            if bucket.before is None:
                bucket.before = torch.empty_like(bucket.values)
            bucket.before.copy_(bucket.values)
        yield
        # z <- z + Δ/w
        inverse = 1.0 / self.weight
        for bucket in self.buckets:
            assert bucket.before is not None
            scale_change_(bucket.before, bucket.values, inverse)
