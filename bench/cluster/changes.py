"""A host's link: a rate of its own from the start, or changes while the command runs."""

import argparse
import re
from typing import NamedTuple

from topologies.commands.output import units

from .network import SLOWEST, Network


class Slow(NamedTuple):
    """A host and the rate of its link in bit/s."""

    host: int
    rate: float


class Event(NamedTuple):
    """Seconds after the command began, a host, and what happens to its link: a rate in bit/s, "cut" or "up"."""

    seconds: float
    host: int
    change: float | str

    def happen(self, network: Network) -> None:
        """Change the link."""
        host = network.hosts[self.host]
        if self.change == "cut":
            network.cut(host)
        elif self.change == "up":
            network.restore(host)
        else:
            network.shape(host, float(self.change))

    def __str__(self) -> str:
        what = {"cut": "cut", "up": "up again"}.get(str(self.change)) or f"at {units.rate_text(float(self.change))}"
        return f"host{self.host} is {what}"


def rate(text: str) -> float:
    """Bits a second, at least 1 Mbit/s.

    >>> rate("100mbit")
    100000000.0
    """
    found = units.rate(text)
    if found < SLOWEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too slow: below 1mbit the 72 kB that a shaper lets through at once would be most of a message"
        )
    return found


def slow(text: str) -> Slow:
    """A host and its rate.

    >>> slow("3=25mbit")
    Slow(host=3, rate=25000000.0)
    """
    match = re.fullmatch(r"([0-9]+)=(.+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no host and rate: write 3=25mbit")
    return Slow(int(match[1]), rate(match[2]))


def event(text: str) -> Event:
    """A time, a host and what happens to its link.

    >>> event("5s:3=25mbit"), event("800ms:0=cut")
    (Event(seconds=5.0, host=3, change=25000000.0), Event(seconds=0.8, host=0, change='cut'))
    """
    match = re.fullmatch(r"([^:]+):([0-9]+)=(.+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no event: write 5s:3=25mbit, 8s:3=cut or 12s:3=up")
    change: float | str = match[3] if match[3] in ("cut", "up") else rate(match[3])
    return Event(units.duration(match[1]), int(match[2]), change)
