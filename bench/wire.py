"""The line's own time beside an algorithm's: raw sockets, where the ranks stand on several hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from gossip import UsageError, World
from gossip.transports.rendezvous import own_address

from . import record
from .cluster import line
from .samples import summary

VARIABLE = "GOSSIP_BENCH_LINE"


def handed(environment: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """What `python -m bench cluster` measured before it began this; `UsageError` where the variable holds no such JSON.

    >>> handed({"GOSSIP_BENCH_LINE": '{"seconds": {"1024000": 0.083}}'})["seconds"]
    {'1024000': 0.083}
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        found["seconds"] = {str(int(nbytes)): float(seconds) for nbytes, seconds in found["seconds"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{VARIABLE} holds {text[:60]!r}, which `python -m bench cluster` does not write") from error
    return found


def seconds(world: World, nbytes: int, timeout: float) -> dict[str, float] | None:
    """Of `nbytes` from every host to the next, now, over all ranks and repeats; None where all ranks share a host.

    Ranks that share a host send side by side: the link's time for all of them is the time of each.
    """
    if len(set(world.hosts)) == 1:
        return None
    across = world.across
    ranks = line.times(across, own_address(across.hosts), nbytes, line.REPEATS, hop=1, timeout=timeout)
    everywhere = record.gather(world, [each for repeats in ranks for each in repeats])
    return summary([each for rank in everywhere for each in rank])._asdict()
