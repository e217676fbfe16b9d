"""The push-sum state of one rank: its values and the weight that they carry.

Push-sum keeps x = w·z. The value z lives in the parameters, and the weight w stands beside it:

    give     w <- P[j,j]·w                                  the values stay as they are
    merge    w <- w + w',   z <- z + (w'/w)·(z' - z)        one lerp
    update   z <- z + Δ/w                                   the optimizer's change counts for mass 1

So forward, backward, weight decay and clipping all see the de-biased model.
Source: stochastic gradient push, Assran et al., ICML 2019, arXiv 1811.10792, written for z instead of x.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import GossipError
from ..observe.stats import Stats
from ..transports import Flight
from .buckets.bucket import Bucket
from .codecs import PLAIN, Codec
from .drift import Drift
from .merging import mix_, scalar, scale_change_
from .module_tensors import Companions

ROUNDING = 1e-9
"""How far a weight that is 1 may be from it after any number of rounds."""


class Mass:
    """Values and weight of one rank, shared by every averager of one optimizer."""

    def __init__(self, stats: Stats, check_finite: bool = False, checksum: bool = False) -> None:
        self.buckets: list[Bucket] = []
        self.stats = stats
        self.check_finite = check_finite  # before values are sent
        self.checksum = checksum  # every message of gossip carries a CRC-32 of its values
        self.weight = torch.ones((), dtype=torch.float64)  # never in the parameters' dtype
        self.is_one = True  # w is exactly 1, known without reading it
        self.balanced = True  # every rank's weight was 1 whenever nothing was in flight; never with landing by arrival
        self.equal = True  # where balanced: all ranks hold the same weight now
        self.rounds_in_flight = 0
        # w that this rank gave, less what it received; summed over ranks, the weight in flight
        self.weight_in_flight: torch.Tensor | float = 0.0
        self.reading: list[Flight] = []  # flights that read the buckets' memory: nothing is written before they land
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
        """Check that `values`, laid out as the buckets are, may be sent; on a GPU the host waits for the result."""
        if not self.check_finite:
            return
        board = self.stats.board
        for bucket, flat in zip(self.buckets, values, strict=True):
            # The sum of finite terms may overflow, so a sum that is not finite is looked at term by term.
            if math.isfinite(float(flat.sum())):
                continue
            for slot in bucket.slots:
                part = flat[slot.start : slot.stop]
                wrong = (~torch.isfinite(part)).nonzero()
                if len(wrong):
                    raise GossipError(
                        f"rank {board.rank} would send {kind} {slot.name} in step {board.slot.step} with {len(wrong)} "
                        f"of {part.numel()} values not finite, the first of them {float(part[wrong[0]])}; nothing was "
                        "sent. Look at this rank's data and loss, lower the learning rate, or clip gradients"
                    )

    def merge_(self, messages: Sequence[tuple[torch.Tensor, Sequence[torch.Tensor]]], codec: Codec = PLAIN) -> None:
        """Merge pairs (w', z') from peers, z' encoded by `codec`, in one pass where there is a kernel for that."""
        if not messages:
            return
        self.quiesce()
        with self.stats.merging():
            # z <- z + (w'/w)·(z' − z)
            ratios = self.take([weight for weight, _ in messages])
            for number, own in enumerate(self.values):
                mix_(own, [values[number] for _, values in messages], ratios, codec)

    def take(self, weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Take in the weights w' of messages, one after another; the ratios w'/w by which their values are merged."""
        self.is_one = False
        ratios = []
        # w <- w + w'
        for weight in weights:
            self.weight = self.weight + weight
            self.weight_in_flight -= scalar(weight)
            ratios.append(weight / self.weight)
        return ratios

    def retain_(
        self, keep: float, sent: Sequence[torch.Tensor], codec: Codec, values: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Keep what rounding lost of `values`, where ẑ was given in the place of z and the share `keep` is kept."""
        # z <- z + (s/k)·(z − ẑ) ,   s + k = 1
        ratio = torch.tensor(1 - 1 / keep, dtype=torch.float64)
        for own, other in zip(self.values if values is None else values, sent, strict=True):
            if keep < 1 and not codec.is_exact(own):
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

    def share(self, weight: torch.Tensor, everyone: bool) -> None:
        """Every rank of those that averaged exactly holds `weight`, their mean; `everyone`: all ranks of the job."""
        # Over all ranks Σ w / n is 1, so a GPU need not be asked. A part of the ranks shares the weight that it holds.
        if self.balanced or (everyone and weight.is_cuda) or abs(weight.item() - 1) < ROUNDING:
            self.set_one()
            self.balanced |= everyone
        else:
            self.weight = weight.clone()

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
