"""The end of a process and of its job: `abort` is the only function that ends a process before its script ends."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import NoReturn

from ..errors import GossipError, PeerLost, PeerTimeout
from .board import Board
from .process import flush, process, report, report_of_all, say, stderr


def abort(code: int, sentence: str = "", board: Board | None = None, *, alone: bool = False) -> NoReturn:
    """End every rank's process, this one with `code`. Nothing is cleaned up, since that may wait for a peer.

    Args:
        code: the exit code.
        sentence: the reason, which is written to stderr first.
        board: the rank whose position and stacks are written next; None writes none.
        alone: end this process only, for the other ranks can continue.
    """
    if sentence:
        say(f"gossip: {sentence}")
    if board is not None:
        report(board)
    flush()
    if not alone:
        (process.end_job or _end_job_of_mpi)(code)
    # Not sys.exit: threads of the script, or an exit handler that waits for a peer, must not keep this rank alive. Its
    # launcher sees the exit code and ends the others.
    os._exit(code)


def _end_job_of_mpi(code: int) -> None:
    """Before the first world, a script may use MPI without us."""
    mpi = sys.modules.get("mpi4py.MPI")  # importing it here would start MPI
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.COMM_WORLD.Abort(code)


def abort_on_errors() -> None:
    """Install `excepthook`; the hook before it, kept once, shows tracebacks. torch.distributed may wrap both."""
    stderr()  # remembers it, before a hook replaces it
    process.show_error = process.show_error or sys.excepthook
    sys.excepthook = excepthook


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show the error, once, and end the job on every rank."""
    if isinstance(error, GossipError) and not error.speaks:
        return  # another rank raised the same: it prints it and ends the job, while this one waits in its exit
    board = process.board if isinstance(error, PeerTimeout) else None
    if board is not None and not board.claims_report():
        board.await_report()
    elif isinstance(error, PeerLost):
        say(f"gossip: {error}")  # another rank failed, and its traceback is the one to read
    else:
        with contextlib.redirect_stderr(stderr()):  # a hook around ours may have replaced stderr
            (process.show_error or sys.__excepthook__)(kind, error, trace)
        if board is not None:
            report_of_all(board)
    abort(130 if issubclass(kind, KeyboardInterrupt) else 1)
