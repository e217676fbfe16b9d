"""The end of a job after one rank has failed: the error is shown once, and no rank waits for a deadline."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from ..errors import GossipError, PeerLost, PeerTimeout
from ..transports import Transport
from . import say, signals

_base: Transport | None = None
_report: Callable[[type[BaseException], BaseException, TracebackType | None], object] | None = None


def speak_through(base: Transport) -> None:
    """End the processes through `base`, the transport of the last world."""
    global _base
    _base = base


def end_job_on_errors() -> None:
    """Install `excepthook`; the hook before it, kept once, shows tracebacks. torch.distributed may wrap both."""
    global _report
    say.stderr()  # remembers it, before a hook replaces it
    _report = _report or sys.excepthook
    sys.excepthook = excepthook


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show the error, once, and end the job on every rank."""
    if isinstance(error, GossipError) and not error.speaks:
        return  # another rank raised the same: it prints it and ends the job, while this one waits in its exit
    deadline = isinstance(error, PeerTimeout)
    if deadline and _base is not None and not _base.board.claims_report():
        _base.board.await_report()
    elif isinstance(error, PeerLost):
        say.say(f"gossip: {error}")  # another rank failed, and its traceback is the one to read
    else:
        with contextlib.redirect_stderr(say.stderr()):  # a hook around ours may have replaced stderr
            (_report or sys.__excepthook__)(kind, error, trace)
        if deadline and _base is not None:
            signals.last_words(_base.board)
    end_job(130 if issubclass(kind, KeyboardInterrupt) else 1)


def end_job(code: int) -> NoReturn:
    """End every rank's process, this one with `code`. Nothing is cleaned up, since that may wait for a peer."""
    say.flush()
    mpi = sys.modules.get("mpi4py.MPI")  # a script may use it without us; importing it here would start MPI
    if _base is not None:
        _base.end_job(code)
    elif mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(code)
    # Not sys.exit: threads of the script, or an exit handler that waits for a peer, must not keep this rank alive. Its
    # launcher sees the exit code and ends the others.
    os._exit(code)
