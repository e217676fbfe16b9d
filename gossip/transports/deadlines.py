"""The sentences of a wait that takes long: for which ranks, what is known of them, and when it fails.

Nothing here runs in a wait that ends soon.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..errors import PeerLost, PeerTimeout
from ..observe.slot import STEP
from .flight import Flight

log = logging.getLogger("gossip")

NOTICE = 30.0  # seconds of a wait after which a line in the log says what it waits for

GRACE = 10.0
"""Seconds for the last messages of a rank whose script has ended: twice the time that it waits for them itself."""


def poll(
    has_come: Callable[[], bool],
    seconds: float,
    failure: Callable[[], str],
    notice: Callable[[], str] = str,
    interval: float = 1e-4,
) -> None:
    """Return once `has_come()`: for waits without a flight, at the start and after a death.

    After `seconds` it raises `PeerTimeout(failure())`. After `NOTICE` the log gets `notice()`, unless it is "".
    """
    began, due = time.monotonic(), NOTICE
    while not has_come():
        waited = time.monotonic() - began
        if waited > seconds:
            raise PeerTimeout(failure())
        if waited >= due:
            due = seconds + 1
            if said := notice():
                log.warning(said)
        time.sleep(interval)


def look(flight: Flight, before: float, waited: float, limit: float) -> float:
    """Do what became due between `before` and `waited` seconds of a wait; returns when to look next."""
    if waited >= limit:
        raise PeerTimeout(overdue(flight, limit))
    board = flight.channel.board
    # Those on this host whose scripts have ended so long ago that none of their messages is under way any more.
    gone = {rank for rank in board.mates if board.left(rank) > GRACE} if waited >= GRACE else set()
    if any(not gone.isdisjoint(ranks) for ranks in flight.missing()):
        raise PeerLost(
            f"rank {flight.channel.me} {lacking(flight, f' in {_place(flight)}')}, and it will not: does every rank "
            f"{_make(board.call)} equally often?"
        )
    if before < NOTICE <= waited and (said := long_wait(flight, waited, limit)):
        log.warning(said)
    return min(limit, max(GRACE, waited + 1), NOTICE if waited < NOTICE else limit)


def overdue(flight: Flight, seconds: float) -> str:
    """The error of a deadline: who waited for whom, in which round, for how long, and what is known of the peer."""
    channel, call = flight.channel, flight.channel.board.call
    question = (
        "is the peer alive, does it call step() as often, and does it run the same topology?"
        if call == STEP
        else f"does every rank {_make(call)}, in the same order, and is the peer alive?"
    )
    said = lacking(flight, f" in {_place(flight)} for {seconds:g} s over {channel.name}")
    return f"rank {channel.me} {said}: {question} A longer deadline is gossip.init(timeout=...)"


def long_wait(flight: Flight, waited: float, limit: float) -> str:
    """Which ranks of this host wait, in which call, and for whom; "" on all of them but the first."""
    board = flight.channel.board
    waiting = sorted(board.waiting_alike())
    call = board.call
    others = {slot.call.decode() for slot in board.mates.values() if slot.waiting}
    if waiting[0] != board.rank or (call == STEP and not others <= {"", STEP}):
        return ""  # another rank says it: the first, or one that waits in a call which these do not make
    of = f" of {call}" if call else ""
    return (
        f"{called(waiting)} waited {waited:.0f} s in {flight.subject}{of}: rank {board.rank} "
        f"{lacking(flight)}. Every rank has to {_make(call)}; it fails here after {limit:g} s"
    )


def _make(call: str) -> str:
    """The verb and the call; a script that uses a channel itself makes one without a name."""
    return f"call {call}" if call else "make this call of a channel"


def called(ranks: list[int]) -> str:
    """`rank 3` or `ranks 3, 5`, as the job numbers them."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))


def lacking(flight: Flight, where: str = "") -> str:
    """From whom nothing was heard, or who has not taken a message, `where`, and in brackets what is known of them."""
    unheard, untaken = flight.missing()
    parts = []
    if unheard:
        parts.append(f"heard nothing from {called(unheard)}")
    if untaken:
        parts.append(f"could not hand its message to {called(untaken)}")
    board = flight.channel.board
    peers = list(dict.fromkeys(unheard + untaken))
    waiting = {rank for rank, slot in board.mates.items() if slot.waiting}
    if waiting.issuperset(peers):  # these wait for others, which are the ones to look at
        peers += sorted(board.mates.keys() - waiting)
    return f"{' and '.join(parts) or 'could not finish'}{where}{board.known_of(peers)}"


def _place(flight: Flight) -> str:
    call = flight.channel.board.call
    return flight.subject if call in ("", STEP) else f"{flight.subject} of {call}"
