"""Signals to a rank: SIGUSR1 asks for its position and stacks, SIGTERM and Ctrl-C ask it to end.

A thread handles them, so that a rank answers while its main thread is deep in a library. The interpreter writes a byte
into a pipe when a signal comes, and the thread reads it. Handlers that the program has set stay in place.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from ..errors import levels_to_the_user
from .board import ANSWER, REPORT, Board
from .ending import abort
from .process import process, report
from .slot import ENDED

GRACE = 30.0
"""Seconds for the training loop to call `world.stop_requested()` after a signal."""

STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR2") if hasattr(signal, name))
"""Signals that ask a training loop to stop. mpirun forwards SIGUSR2; after the other two it kills within a second."""

NAME = "gossip-watch"


class Watch:
    """Handles the signals of this process, for all of its worlds.

    Attributes:
        board: the status board of the last world made.
        asked: the signal that asked this rank to stop; None before.
        heard: our handler has run for it. The pipe also has bytes of signals that a handler of the program's own
            took, where ours is back in its place when the thread looks.
        told: the loop knows that some rank was asked: it may take its time, and a second signal ends it.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.asked: int | None = None
        self.heard = False
        self.told = False
        self._loop_asks = False  # so that a first signal does not end the process
        self._deadline: float | None = None
        self._calls: list[Callable[..., int]] = []
        self._ours: dict[int, object] = {}  # signal -> the previous handler
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._others = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if self._others != -1:
            signal.set_wakeup_fd(self._others)
        threading.Thread(target=self._run, name=NAME, daemon=True).start()
        self._take(REPORT, signal.SIGTERM)
        atexit.register(self.end)  # no thread answers while the interpreter exits
        os.register_at_fork(after_in_child=self.leave)  # a data loader's worker is no rank

    def show(self, board: Board) -> None:
        """Report from `board` from now on."""
        self.board = board
        board.slot.listens = REPORT in self._ours

    def let_ask(self) -> None:
        """Give the loop time to stop by itself after a first signal, since it asks."""
        if self._loop_asks:
            return
        self._loop_asks = True
        if threading.current_thread() is threading.main_thread():
            self._take(*STOPS)
        else:
            warnings.warn(
                f"rank {self.board.rank} calls world.stop_requested() in thread {threading.current_thread().name}, "
                "where Python sets no handlers: of the signals only SIGTERM asks the loop to stop. Call it once in "
                "the main thread before, for Ctrl-C and SIGUSR2",
                stacklevel=levels_to_the_user(),
            )

    def _take(self, *numbers: int | None) -> None:
        """Handle these signals, unless the program has handlers of its own."""
        for number in numbers:
            if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._ours[number] = signal.signal(number, self._came)

    def _came(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread. The byte is written already, unless asyncio or the like has the pipe."""
        self.heard |= number != REPORT
        taken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        if taken != self._write:
            if taken != -1:
                signal.set_wakeup_fd(taken)
            os.write(self._write, bytes([number]))

    def end(self) -> None:
        """Note that the script has ended; the process may still wait for the others, as in MPI_Finalize."""
        if os.getpid() == self.board.slot.pid:
            self.board.slot.listens = False  # before the handler goes, for REPORT would then kill this process
            self.board.enter(ENDED)
        self.leave()

    def leave(self) -> None:
        """Restore the previous handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.set_wakeup_fd(-1) not in (self._write, -1):
            signal.set_wakeup_fd(self._others)
        for number, before in self._ours.items():
            if signal.getsignal(number) == self._came:
                signal.signal(number, before)  # type: ignore[arg-type]
        self._ours.clear()

    def _run(self) -> None:
        while True:
            left = None if self.told or self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not select.select([self._read], [], [], left)[0]:
                if not self.told and self._is_ours():
                    self._abort(f"and its loop did not ask for {GRACE:g} s")
                if not self.heard:
                    self.asked = self._deadline = None
                continue
            for number in os.read(self._read, 64):
                # The interpreter writes a byte also if the program has replaced our handler since.
                if number not in self._ours or signal.getsignal(number) != self._came:
                    continue
                if number != REPORT:
                    self._stop(number)
                elif self.board.slot.listens:
                    report(self.board)

    def _stop(self, number: int) -> None:
        again, self.asked = self.asked is not None, number
        if not self._loop_asks or (again and self._is_ours()):
            self._abort("again" if again else "")
        self._deadline = time.monotonic() + GRACE

    def _is_ours(self) -> bool:
        """Whether our handler has run for the signal, or will when the main thread is back from a library."""
        if self.heard:
            return True
        runs = threading.Event()

        def run(_: int | None) -> int:
            runs.set()
            return 0

        # The main thread runs handlers that are due before its pending calls. A late call finds its function alive.
        self._calls.append(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(run))
        ctypes.pythonapi.Py_AddPendingCall(self._calls[-1], None)
        return not runs.wait(ANSWER) or self.heard

    def _abort(self, why: str) -> NoReturn:
        assert self.asked is not None
        name = signal.Signals(self.asked).name
        told = f"rank {self.board.rank} was told to end by {name} {why}".rstrip()
        abort(128 + self.asked, f"{told}, {self.board.slot}{self.board.known_of(self.board.fallen())}")


def watch(board: Board) -> Watch | None:
    """Answer signals for the rank of `board`; None outside of the main thread, where no handler can be set."""
    if process.watch is None and threading.current_thread() is threading.main_thread():
        process.watch = Watch(board)
    own: Watch | None = process.watch
    if own is not None:
        own.show(board)
    return own


def stop_requested(board: Board, all_gather: Callable[[bytes], list[bytes]]) -> bool:
    """Whether a signal has asked any rank to stop. Every rank calls it."""
    own = watch(board)
    if own is not None:
        own.let_ask()
    asked = any(all_gather(b"1" if own is not None and own.asked is not None and own.heard else b""))
    if asked and own is not None:
        own.told = True
    return asked
