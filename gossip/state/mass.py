"""The push-sum state of one rank: its values and the weight that they carry.

Push-sum keeps x = w·z. The value z lives in the parameters, and the weight w stands beside it:

    give     w <- P[j,j]·w                                  the values stay as they are
    merge    w <- w + w',   z <- z + (w'/w)·(z' - z)        one lerp
    update   z <- z + Δ/w                                   the optimizer's change counts for mass 1

So forward, backward, weight decay and clipping all see the de-biased model.
Source: stochastic gradient push, Assran et al., ICML 2019, arXiv 1811.10792, written for z instead of x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..observe.stats import Stats
from ..transports import Flight
from .buckets.bucket import Bucket
from .codecs import PLAIN, Codec
from .companions import Companions
from .drift import Drift
from .integrity import Integrity
from .merging import mix_, scalar, scale_change_


class Mass:
    """Values and weight of one rank, shared by every averager of one optimizer.

    Attributes:
        buckets: the values z, in the parameters' own memory.
        weight: w, a float64 tensor without dimensions, never in the parameters' dtype.
        is_one: w is exactly 1, known without reading it.
        balanced: every rank's weight was 1 whenever nothing was in flight. Landings by arrival set it to False.
        equal: where balanced, whether all ranks hold the same weight now.
        rounds_in_flight: rounds posted and not yet merged.
        weight_in_flight: w that this rank gave, less what it received. Summed over ranks, the weight in flight.
        reading: flights that read the buckets' memory. Nothing is written before they have landed.
        stats: counts what travels.
        integrity: checks of values that are sent and received.
        companions: buffers of the module that an exact average takes along.
        drift: compares the ranks' learning rates in exact sums.
    """

    def __init__(self, stats: Stats, integrity: Integrity | None = None) -> None:
        self.buckets: list[Bucket] = []
        self.stats = stats
        self.integrity = Integrity() if integrity is None else integrity
        self.weight = torch.ones((), dtype=torch.float64)
        self.is_one = True
        self.balanced = True
        self.equal = True
        self.rounds_in_flight = 0
        self.weight_in_flight: torch.Tensor | float = 0.0
        self.reading: list[Flight] = []
        self.companions = Companions()
        self.drift = Drift()

    @property
    def values(self) -> list[torch.Tensor]:
        """The flat tensors of all buckets."""
        return [bucket.values for bucket in self.buckets]

    def wait(self, flight: Flight) -> None:
        """Wait until `flight` has landed: its messages have arrived, and it reads the buckets no longer."""
        self.stats.wait(flight)
        if flight in self.reading:
            self.reading.remove(flight)

    def quiesce(self) -> None:
        """Wait until no flight reads the buckets."""
        while self.reading:
            self.wait(self.reading[0])

    def give(self, keep: float, doubly_stochastic: bool, keeps_alike: bool) -> None:
        """Give all but the share `keep` of the weight away, in one round."""
        # Once a doubly stochastic round has landed, weights that were equal before it are equal again. While it is in
        # flight, they are equal if every rank keeps the same share.
        self.balanced &= doubly_stochastic and self.equal
        self.equal &= keeps_alike
        # w <- P[j,j]·w
        self.weight_in_flight += (1 - keep) * scalar(self.weight)
        self.weight = keep * self.weight
        self.is_one = False
        self.rounds_in_flight += 1

    def check(self, values: Sequence[torch.Tensor], kind: str = "parameter") -> None:
        """Check `values` before they are sent, where that was asked for.

        Raises:
            GossipError: a value is not finite.
        """
        if self.integrity.finite:
            board = self.stats.board
            self.integrity.check_finite(board.rank, board.slot.step, self.buckets, values, kind)

    def merge_(self, messages: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], codec: Codec = PLAIN) -> None:
        """Merge pairs (w', z') from peers, z' encoded by `codec`, in one pass where there is a kernel for that."""
        if not messages:
            return
        self.quiesce()
        with self.stats.merging():
            self.is_one = False
            # w <- w + w' ;   z <- z + (w'/w)·(z' − z)
            ratios = []
            for weight, _ in messages:
                self.weight = self.weight + weight
                self.weight_in_flight -= scalar(weight)
                ratios.append(weight / self.weight)
            for number, own in enumerate(self.values):
                mix_(own, [values[number] for _, values in messages], ratios, codec)

    def retain_(self, keep: float, sent: Sequence[torch.Tensor], codec: Codec) -> None:
        """Keep what rounding lost, where ẑ was given in the place of z and the share `keep` is kept."""
        # z <- z + (s/k)·(z − ẑ) ,   s + k = 1
        ratio = torch.tensor(1 - 1 / keep, dtype=torch.float64)
        for own, other in zip(self.values, sent, strict=True):
            if not codec.is_exact(own):
                mix_(own, [other], [ratio], codec)

    def round_landed(self) -> None:
        """Count one round less in flight. Balanced and with nothing in flight, w is 1 but for rounding: make it 1."""
        self.rounds_in_flight -= 1
        if self.rounds_in_flight == 0 and self.balanced:
            self.set_one()

    def set_one(self) -> None:
        """Set w = 1 exactly; what that changes beyond rounding stays in `weight_in_flight`."""
        self.weight_in_flight += scalar(self.weight) - 1
        self.weight = torch.ones_like(self.weight)
        self.is_one = self.equal = True

    def forget(self) -> None:
        """Begin anew, with nothing in flight and w = 1 on every rank."""
        assert self.rounds_in_flight == 0, "the averagers forget first"
        self.set_one()
        self.balanced = True
        self.weight_in_flight = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The weight, and what is known of it."""
        return {
            "weight": float(self.weight),
            "aloft_weight": float(self.weight_in_flight),
            "whole": self.is_one,
            "balanced": self.balanced,
            "equal": self.equal,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.weight = torch.full_like(self.weight, state["weight"])
        self.weight_in_flight = state.get("aloft_weight", 0.0)
        self.is_one, self.balanced, self.equal = state["whole"], state["balanced"], state["equal"]

    @contextmanager
    def update(self) -> Iterator[None]:
        """Let the values change by Δ inside; the change counts for mass 1."""
        self.quiesce()
        if self.is_one:
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
