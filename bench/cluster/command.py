"""Hosts on this one machine, behind links of a given rate, with a command started across them.

Each host is a network namespace with its own name (host0, host1, ...), address and interface eth0. The links to the
switch between them carry --rate each way. COMMAND runs as --ranks-per-node ranks on every host, under the mpirun of
Open MPI or with torchrun's variables; `python` is the one that runs this. The hosts share the cores of this machine, so
let computing be a sleep, as `bench update --compute` does. They reach each other and nothing else. Their TCP is Reno
without a slow start after a pause, so that a message takes its bytes at the link's rate.

stdout gets COMMAND's output alone. The rest goes to stderr, where Open MPI may warn of a setpgid that failed, which
means nothing. At the end everything is removed, with every process on the hosts; after a kill -9 the next run does it,
or --clean. Messages that are in flight when a link is cut go on after it is up, as soon as TCP tries again, which may
take as long as the cut. It needs root, ip and tc (iproute2), and a kernel with the token bucket filter (sch_tbf).

examples
  python -m bench cluster --nodes 8 --rate 100mbit -- python -m bench update --sizes 1.024MB --compute 0.271
  python -m bench cluster --nodes 4 --slow 3=25mbit -- python train.py
  python -m bench cluster --event 5s:3=cut --event 8s:3=up --launcher torchrun -- python train.py

exit code: COMMAND's own; 124 when --timeout ended it; 128 + n when signal n ended this; 2 when nothing was started.
"""

import argparse
import functools
import re
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

from gossip import UsageError
from gossip.launching.launchers import Launcher
from topologies.commands.output import units

from ..shared import options, record
from . import launching, needs
from .network import MOST, SLOWEST, ClusterError, Network, clean, network
from .watching import TIMED_OUT, Asked, Signals, watch


class Slow(NamedTuple):
    """A host and the rate of its link in bit/s."""

    host: int
    rate: float


class Event(NamedTuple):
    """Seconds after the command began, a host, and what happens to its link: a rate in bit/s, "cut" or "up"."""

    seconds: float
    host: int
    change: float | str

    def __str__(self) -> str:
        what = {"cut": "cut", "up": "up again"}.get(str(self.change)) or f"at {units.rate_text(float(self.change))}"
        return f"host{self.host} is {what}"


def rate(text: str) -> float:
    """Bits a second, at least 1 Mbit/s."""
    found = units.rate(text)
    if found < SLOWEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is too slow: below 1mbit the 72 kB that a shaper lets through at once would be most of a message"
        )
    return found


def slow(text: str) -> Slow:
    """A host and its rate."""
    if (match := re.fullmatch(r"([0-9]+)=(.+)", text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no host and rate: write 3=25mbit")
    return Slow(int(match[1]), rate(match[2]))


def event(text: str) -> Event:
    """A time, a host and what happens to its link."""
    if (match := re.fullmatch(r"([^:]+):([0-9]+)=(.+)", text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no event: write 5s:3=25mbit, 8s:3=cut or 12s:3=up")
    change: float | str = match[3] if match[3] in ("cut", "up") else rate(match[3])
    return Event(units.duration(match[1]), int(match[2]), change)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.usage = "%(prog)s [options] -- COMMAND"
    add = functools.partial(options.option, parser)
    add("--nodes", options.count, "8", "hosts")
    add("--ranks-per-node", options.count, "1", "ranks on each host", "K")
    add("--rate", rate, "100mbit", "of every host's link, each way, as in 100mbit or 1gbit", "RATE")
    slower = "a host, counted from 0, with a rate of its own, as in 3=25mbit; may be repeated (default: none)"
    parser.add_argument("--slow", type=slow, action="append", default=[], metavar="HOST=RATE", help=slower)
    change = (
        "what happens to a host's link so long after COMMAND began: 5s:3=25mbit changes its rate, 8s:3=cut cuts it, "
        "12s:3=up makes it what it was at first; may be repeated (default: none)"
    )
    parser.add_argument("--event", type=event, action="append", default=[], metavar="TIME:HOST=WHAT", help=change)
    starts = "what starts the ranks: Open MPI's mpirun, or this command, with torchrun's variables"
    options.add_choice(parser, "--launcher", launching.LAUNCHERS, "mpirun", starts)
    more = "more options for mpirun, in one word, as in --mpirun-options='--with-ft ulfm' (default: none)"
    add("--mpirun-options", shlex.split, None, more, "'OPTION ...'")
    limit = "after which COMMAND is killed (default: it has all the time it takes)"
    add("--timeout", options.positive, None, limit, "SECONDS")
    add("--json", Path, None, "where to write hosts, rates and exit code (default: nowhere)", "PATH")
    removing = "only remove what runs that were killed have left behind, and say what"
    parser.add_argument("--clean", action="store_true", help=removing)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="COMMAND", help="what every rank runs, after --")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be, before anything is made."""
    if launcher.name != "none":
        raise UsageError(f"it starts the ranks itself: run it as plain `python`, and not under {launcher.name}")
    if not given.clean:
        _check_options(given, launcher)
    needs.check_machine()
    if not given.clean and given.launcher == "mpirun":
        needs.check_mpirun()


def _check_options(given: argparse.Namespace, launcher: Launcher) -> None:
    if given.program[:1] == ["--"]:
        given.program = given.program[1:]
    if not 2 <= given.nodes <= MOST:
        raise UsageError(f"--nodes {given.nodes} is no number of hosts for a network: choose 2 to {MOST}")
    for name, what in [*(("--slow", slow) for slow in given.slow), *(("--event", event) for event in given.event)]:
        if what.host >= given.nodes:
            raise UsageError(f"{name} names host {what.host}, but {given.nodes} hosts go from 0 to {given.nodes - 1}")
    if len({slow.host for slow in given.slow}) < len(given.slow):
        raise UsageError("--slow names one host twice: give each one rate")
    if given.mpirun_options and given.launcher != "mpirun":
        raise UsageError(f"--mpirun-options are for mpirun, and --launcher is {given.launcher}: leave one of them out")
    if not given.program:
        raise UsageError("nothing to run: end the options with -- and the command, as in `-- python train.py`")
    if launching.resolved(given.program) is None:
        raise UsageError(f"there is no program {given.program[0]!r}: name one on the PATH, or by its path")
    if given.json is not None:
        options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Make the hosts, run the command, remove the hosts; leave with the command's exit code."""
    try:
        with Signals() as signals:
            removed = clean()
            for name in removed:
                _say(f"removed what {name} left behind")
            if given.clean and not removed:
                _say("nothing was left behind")
            code = 0 if given.clean else _run(given, launcher, signals)
    except (Asked, ClusterError) as error:
        _say(str(error))
        code = error.code
    sys.exit(code)


def _run(given: argparse.Namespace, launcher: Launcher, signals: Signals) -> int:
    rates = [given.rate] * given.nodes
    for slowed in given.slow:
        rates[slowed.host] = slowed.rate
    with network(rates) as hosts:
        _say(
            f"{given.nodes} hosts at {units.rate_text(given.rate)}"
            + "".join(f", host{slow.host} at {units.rate_text(slow.rate)}" for slow in given.slow)
            + f", {given.ranks_per_node} rank{'s' * (given.ranks_per_node > 1)} on each, {given.launcher}"
        )
        environment = launching.environment(hosts, given.ranks_per_node)
        command, launch = launching.resolved(given.program), launching.LAUNCHERS[given.launcher]
        assert command is not None, "checked"
        began = time.monotonic()
        started = launch(hosts, given.ranks_per_node, command, environment, given.mpirun_options or [])
        appointments = [(event.seconds, functools.partial(_happen, event, hosts)) for event in given.event]
        code = watch(started, signals, given.timeout, appointments)
        seconds = time.monotonic() - began
    if code == TIMED_OUT and given.timeout is not None and seconds >= given.timeout:
        _say(f"the command had not ended after --timeout {given.timeout:g} s and was killed")
    if given.json is not None:
        ranks = launcher._replace(size=given.nodes * given.ranks_per_node)
        made = {"nodes": given.nodes, "ranks_per_node": given.ranks_per_node, "rate": given.rate, "rates": rates}
        record.write(given, ranks, given.json, results=made, exit_code=code, seconds=seconds)
        _say(f"written to {given.json}")
    return code


def _happen(event: Event, network: Network) -> None:
    host = network.hosts[event.host]
    if event.change == "cut":
        network.cut(host)
    elif event.change == "up":
        network.restore(host)
    else:
        network.shape(host, float(event.change))
    _say(f"{event.seconds:g} s: {event}")


def _say(what: str) -> None:
    print(f"cluster: {what}", file=sys.stderr, flush=True)
