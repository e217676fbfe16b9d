"""The options of `bench scale`, and the machine that follows from them."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossip import UsageError
from topologies.commands.output import units

from ..shared import options, paper
from .calibration import FITTING, LINE, Fitted
from .machine import COLLECTIVES, NAMES, Machine

DEFAULT = "none,ar,ar-ring,ar-hierarchical,local,sgp,sgp-slowmo,osgp,osgp-slowmo"
LATENCY, JITTER, TAIL = 50e-6, 0.03, 4.0
WITHIN = 10.0
MOST_RANKS = 1 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    group: options.Parser = parser

    def add(name: str, kind: Callable[[str], Any], default: str | None, text: str, metavar: str = "N") -> None:
        options.option(group, name, kind, default, text, metavar)

    group = parser.add_argument_group("what runs")
    add("--ranks", ranks, "2..65536", "as in 2,8,24, or 2..65536 for doublings", "N,...")
    options.add_some(group, "--methods", NAMES, DEFAULT)
    add("--size", options.size, f"{paper.NBYTES}B", "bytes of parameters, as of ResNet-50", "SIZE")
    add("--period", options.count, str(paper.PERIOD), "τ of SlowMo")
    add("--local-period", options.count, str(paper.LOCAL_PERIOD), "τ of Local SGD")
    average = "the exact sum of AR-SGD, Local SGD and SlowMo; own is a ring, beyond 16 ranks circulant"
    options.add_choice(group, "--average", COLLECTIVES, "own", average)
    options.add_topology(group)
    group = parser.add_argument_group("hosts")
    add("--compute", options.seconds, str(paper.COMPUTE), "mean of an update", "SECONDS")
    jitter = f"standard deviation of compute over its mean (default: {JITTER}, or as measured)"
    add("--jitter", share, None, jitter, "SHARE")
    heavy = f"of a Pareto tail, above 2, or lognormal (default: {TAIL:g}; lognormal where measured)"
    add("--tail", tail, None, heavy, "INDEX")
    add("--slow-hosts", share, "0", "of the hosts are slow for good", "SHARE")
    add("--slow-compute", factor, "1", "they compute longer", "TIMES")
    add("--slow-rate", factor, "1", "their links carry less", "TIMES")
    add("--ranks-per-host", options.count, "1", "ranks that share a host's link")
    group = parser.add_argument_group("network")
    rate = "of a host's link, each way, as in 100mbit (default: 10gbit, or as measured)"
    add("--rate", units.rate, None, rate, "RATE")
    latency = "of a message, software included (default: 50us, or as measured)"
    add("--latency", units.duration, None, latency, "TIME")
    merge = "bytes that a rank merges in a second, as in 10GB (default: no time, or as measured)"
    add("--merge-rate", options.size, None, merge, "SIZE")
    add("--group", options.count, "8", "ranks that ar-hierarchical sums among first, where hosts have one rank")
    inside = "between ranks of one host, or of one group (default: as --rate)"
    add("--inside-rate", units.rate, None, inside, "RATE")
    add("--inside-latency", units.duration, None, "likewise (default: as --latency)", "TIME")
    waits = "whether a message waits until its receiver has computed too, as large ones do"
    options.add_choice(group, "--messages", ("rendezvous", "eager"), "rendezvous", waits)
    group = parser.add_argument_group("measured files")
    for name, text in (
        ("--measured", "JSON of `bench update`, to fit rate, latency, merging and jitter to"),
        ("--validate", "predict every point in them that was not fitted to; exit code 1 if one is missed"),
    ):
        group.add_argument(
            name, type=lambda text: Path(text).resolve(), nargs="+", default=[], metavar="FILE", help=text
        )
    fit = f"the algorithms in them that are fitted to (default: {','.join(FITTING)})"
    add("--fit", options.some_of([*NAMES, LINE]), None, fit, "NAME,...")
    add("--within", options.positive, None, f"an error that is no miss (default: {WITHIN:g})", "PERCENT")
    group.add_argument("--published", action="store_true", help="print a paper's table beside the model's as well")
    group = parser.add_argument_group("simulation and results")
    add("--steps", options.count, "480", "updates that count")
    add("--warmup", options.natural, "96", "updates before")
    add("--seed", options.natural, "0", "of all draws")
    options.add_json(group, "out/scale.json")
    add("--picture", Path, "out/scale.png", "where to draw the curves", "PATH")


def check_idle(given: argparse.Namespace) -> None:
    """Refuse an option that needs another one, and would change nothing without."""
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
    """The machine: options given by hand count before fitted parameters, and those before defaults."""
    alike = ("compute", "ranks_per_host", "group", "inside_rate", "inside_latency", "slow_compute", "slow_rate")
    made = Machine(
        **{name: getattr(given, name) for name in alike},
        rate=paper.RATE,
        latency=LATENCY,
        jitter=JITTER,
        tail=TAIL,
        slow_share=given.slow_hosts,
        eager=given.messages == "eager",
    )
    if fitted:
        made = replace(fitted.onto(made), compute=max(0.0, given.compute + fitted.overhead.seconds(given.size)))
    by_hand = {"rate": given.rate, "latency": given.latency, "jitter": given.jitter, "tail": given.tail}
    by_hand["merge"] = None if given.merge_rate is None else 1 / given.merge_rate
    made = replace(made, **{name: value for name, value in by_hand.items() if value is not None})
    return replace(made, tail=None) if given.tail == "lognormal" else made


def ranks(text: str) -> list[int]:
    """Numbers of ranks, rising: 2,8,24 or, for doublings, 2..64."""
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
    if (number := options.positive(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is below 1: it says how many times slower")
    return number


def tail(text: str) -> float | str:
    """An index above 2, below which there is no standard deviation, or the word lognormal."""
    if text == "lognormal":
        return text
    if (number := options.positive(text)) <= 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 2: so heavy a tail has no standard deviation")
    return number
