"""Tools for tests, this project's and yours: ranks as threads, and the contract of a transport."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from .checks import deadline, shown, whole
from .errors import UsageError
from .transports import Killed, Network
from .transports.contract import check_transport
from .world import World, memory_world

__all__ = ["Killed", "Network", "check_transport", "run"]

Result = TypeVar("Result")


def run(
    size: int,
    function: Callable[[World], Result],
    *,
    timeout: float = 60.0,
    network: Network | None = None,
    hosts: Sequence[str] | None = None,
) -> list[Result]:
    """Run `function(world)` on `size` threads of this process, one for each rank; returns the results by rank.

    A rank whose function raises `Killed` has died, and has no result.

    Runs are deterministic if the function draws from its own generators: threads share torch's global one.

    Args:
        size: number of ranks.
        function: called once on each rank.
        timeout: seconds that any wait of a rank may take.
        network: connects the ranks; it can delay or lose messages.
        hosts: a host name for each rank, for `world.node` and `world.across`.

    Raises:
        Exception: the error of the rank that failed first. The other ranks are woken and end too.

    >>> run(3, lambda world: world.rank)
    [0, 1, 2]
    """
    size = whole(size, "size is {}, but it is a number of ranks, at least 1", 1)
    if not callable(function):
        raise UsageError(f"function is {shown(function)}, but it is what each rank does: run(4, function)")
    timeout = deadline(timeout)
    if network is not None and not isinstance(network, Network):
        raise UsageError(f"network is {shown(network)}, but it is a gossip.testing.Network")
    if hosts is not None and (isinstance(hosts, (str, bytes)) or not isinstance(hosts, Sequence) or len(hosts) != size):
        raise UsageError(f"hosts is {shown(hosts)}, but it is a list of {size} names, one for each rank")
    wires = network if network is not None else Network()
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def rank_main(rank: int) -> None:
        try:
            results[rank] = function(memory_world(wires, rank, size, timeout, hosts))
        except Killed:
            wires.kill(rank)
        except BaseException as error:
            errors.append(error)
            wires.break_off(error)

    threads = [threading.Thread(target=rank_main, args=(rank,), name=f"rank {rank}") for rank in range(size)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as interrupt:  # Ctrl-C: end all threads
        wires.break_off(interrupt)
        raise
    if errors:
        raise errors[0]
    return [results[rank] for rank in sorted(results)]
