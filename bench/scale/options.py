"""What can be asked for, and the machine that follows from it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from gossip import UsageError
from topologies.commands.output import units

from ..shared import options
from ..shared.paper import COMPUTE, LOCAL_PERIOD, NBYTES, PERIOD, RATE
from .calibration import FITTING, Fitted
from .collectives import COLLECTIVES
from .machine import Machine
from .measured import LINE
from .methods import OWN, methods

DEFAULT = ["none", "ar", "ar-ring", "ar-hierarchical", "local", "sgp", "sgp-slowmo", "osgp", "osgp-slowmo"]
LATENCY, JITTER, TAIL = 50e-6, 0.03, 4.0
WITHIN = 10.0
MOST_RANKS = 1 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """All options of the command."""
    known = methods(1)
    add = parser.add_argument_group("what runs").add_argument
    add(
        "--ranks",
        type=ranks,
        default=ranks("2..65536"),
        metavar="N,...",
        help="as in 2,8,24, or 2..65536 for doublings (default: 2..65536)",
    )
    add(
        "--methods",
        type=options.some_of(known),
        default=DEFAULT,
        metavar="NAME,...",
        help=f"some of {', '.join(known)} (default: {','.join(DEFAULT)})",
    )
    add("--size", type=options.size, default=NBYTES, help="bytes of parameters (default: 102.4MB, ResNet-50)")
    add("--period", type=options.count, default=PERIOD, metavar="N", help="τ of SlowMo (default: %(default)s)")
    add(
        "--local-period",
        type=options.count,
        default=LOCAL_PERIOD,
        metavar="N",
        help="τ of Local SGD (default: %(default)s)",
    )
    add(
        "--average",
        choices=tuple(COLLECTIVES),
        default=OWN,
        help=f"the exact sum of AR-SGD, Local SGD and SlowMo (default: {OWN}, a ring, beyond 16 ranks circulant)",
    )
    options.add_topology(parser)
    add = parser.add_argument_group("hosts").add_argument
    add(
        "--compute",
        type=options.seconds,
        default=COMPUTE,
        metavar="SECONDS",
        help="mean of an update (default: %(default)s)",
    )
    add(
        "--jitter",
        type=share,
        metavar="SHARE",
        help=f"standard deviation of compute over its mean (default: {JITTER}, or as measured)",
    )
    add(
        "--tail",
        type=tail,
        metavar="INDEX",
        help=f"of a Pareto tail, above 2, or lognormal (default: {TAIL:g}; lognormal where measured)",
    )
    add("--slow-hosts", type=share, default=0.0, metavar="SHARE", help="of the hosts are slow for good (default: 0)")
    add("--slow-compute", type=factor, default=1.0, metavar="TIMES", help="they compute longer (default: 1)")
    add("--slow-rate", type=factor, default=1.0, metavar="TIMES", help="their links carry less (default: 1)")
    add("--ranks-per-host", type=options.count, default=1, metavar="N", help="that share its link (default: 1)")
    add = parser.add_argument_group("network").add_argument
    add(
        "--rate",
        type=units.rate,
        metavar="RATE",
        help="of a host's link, each way, as in 100mbit (default: 10gbit, or as measured)",
    )
    add(
        "--latency",
        type=units.duration,
        metavar="TIME",
        help="of a message, software included (default: 50us, or as measured)",
    )
    add(
        "--merge-rate",
        type=options.size,
        metavar="SIZE",
        help="bytes that a rank merges in a second, as in 10GB (default: no time, or as measured)",
    )
    add(
        "--group",
        type=options.count,
        default=8,
        metavar="N",
        help="ranks that ar-hierarchical sums among first, where hosts have one rank (default: 8)",
    )
    add(
        "--inside-rate",
        type=units.rate,
        metavar="RATE",
        help="between ranks of one host, or of one group (default: as --rate)",
    )
    add("--inside-latency", type=units.duration, metavar="TIME", help="likewise (default: as --latency)")
    add(
        "--messages",
        choices=("rendezvous", "eager"),
        default="rendezvous",
        help="whether a message waits until its receiver has computed too (default: rendezvous, as large ones do)",
    )
    add = parser.add_argument_group("measured files").add_argument
    add(
        "--measured",
        type=path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="JSON of `bench update`, to fit rate, latency, merging and jitter to",
    )
    add(
        "--fit",
        type=options.some_of([*known, LINE]),
        metavar="NAME,...",
        help=f"the algorithms in them that are fitted to (default: {','.join(FITTING)})",
    )
    add(
        "--validate",
        type=path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="predict every point in them that was not fitted to; exit code 1 if one is missed",
    )
    add("--within", type=options.positive, metavar="PERCENT", help=f"what is no miss (default: {WITHIN:g})")
    add("--published", action="store_true", help="print a paper's table beside the model's as well")
    add = parser.add_argument_group("simulation and results").add_argument
    add("--steps", type=options.count, default=480, metavar="N", help="updates that count (default: 480)")
    add("--warmup", type=options.natural, default=96, metavar="N", help="updates before (default: 96)")
    add("--seed", type=options.natural, default=0, metavar="N", help="of all draws (default: 0)")
    options.add_json(parser, "out/scale.json")
    add("--picture", type=Path, default=Path("out/scale.png"), metavar="PATH", help="(default: out/scale.png)")


def refuse_idle(given: argparse.Namespace) -> None:
    """Refuse an option that needs another one, and would change nothing without.

    Raises:
        UsageError: it names both.
    """
    slower = given.slow_compute > 1 or given.slow_rate > 1
    for idle, needs, reason in (
        ("--slow-hosts", "--slow-compute or --slow-rate", given.slow_hosts and not slower),
        ("--slow-compute and --slow-rate", "--slow-hosts", slower and not given.slow_hosts),
        ("--fit", "--measured", given.fit is not None and not given.measured),
        ("--within", "--validate", given.within is not None and not given.validate),
    ):
        if reason:
            raise UsageError(f"{idle} without {needs} would change nothing: give {needs} too, or leave it out")


def machine(given: argparse.Namespace, fitted: Fitted | None) -> Machine:
    """What is given by hand counts before what is fitted, and that before what is usual."""
    made = Machine(
        compute=given.compute,
        rate=RATE,
        latency=LATENCY,
        jitter=JITTER,
        tail=TAIL,
        ranks_per_host=given.ranks_per_host,
        group=given.group,
        inside_rate=given.inside_rate,
        inside_latency=given.inside_latency,
        slow_share=given.slow_hosts,
        slow_compute=given.slow_compute,
        slow_rate=given.slow_rate,
        eager=given.messages == "eager",
    )
    if fitted:
        made = replace(fitted.onto(made), compute=max(0.0, given.compute + fitted.overhead.seconds(given.size)))
    return replace(
        made,
        rate=_first(given.rate, made.rate),
        latency=_first(given.latency, made.latency),
        jitter=_first(given.jitter, made.jitter),
        merge=made.merge if given.merge_rate is None else 1 / given.merge_rate,
        tail=made.tail if given.tail is None else None if given.tail == "lognormal" else given.tail,
    )


def _first(given: float | None, otherwise: float) -> float:
    return otherwise if given is None else given


def ranks(text: str) -> list[int]:
    """Numbers of ranks, rising: 2,8,24 or, for doublings, 2..64.

    >>> ranks("2..16,24")
    [2, 4, 8, 16, 24]
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low = options.count(first)
        high = options.count(last) if dots else low
        if not 2 <= low <= high <= MOST_RANKS:
            raise argparse.ArgumentTypeError(f"{part!r}: numbers of ranks go up from 2 to {MOST_RANKS} at most")
        found.update(low << power for power in range((high // low).bit_length()))
    return sorted(found)


def share(text: str) -> float:
    """From 0 to 1."""
    number = options.seconds(text) if not text.startswith("-") else -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return number


def factor(text: str) -> float:
    """From 1 on."""
    number = options.positive(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is below 1: it says how many times slower")
    return number


def tail(text: str) -> float | str:
    """An index above 2, below which there is no standard deviation, or the word lognormal."""
    if text == "lognormal":
        return text
    number = options.positive(text)
    if number <= 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 2: so heavy a tail has no standard deviation")
    return number


def path(text: str) -> Path:
    """A file, the same one however it is written."""
    return Path(text).resolve()
