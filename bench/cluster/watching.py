"""Waiting for processes, while signals arrive and events fall due."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

GRACE = 5.0  # seconds between asking processes to end and killing them
TIMED_OUT = 124  # as timeout(1) says it
Processes = Sequence[subprocess.Popen[bytes]]
Appointment = tuple[float, Callable[[], object]]  # seconds from now, and what is done then


class Asked(Exception):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.code = 128 + number


class Signals:
    """Notes the signals that ask a process to end instead of obeying them: nothing is interrupted half made."""

    def __init__(self) -> None:
        self._asked: int | None = None

    def __enter__(self) -> Signals:
        # Signals write a byte here, so that waiting for them, for children and for a time is one wait.
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]  # ignored under nohup
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, *hangup]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *ended: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._ear.close()
        self._mouth.close()

    def _note(self, number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            self._asked = number

    def pause(self, seconds: float | None = None) -> None:
        """Wait until a child ends or so many seconds have passed; raise `Asked` when, or if, a signal has arrived."""
        if self._asked is None:
            select.select([self._ear], [], [], seconds)
            with contextlib.suppress(BlockingIOError):  # the time is up
                self._ear.recv(4096)
        if self._asked is not None:
            raise Asked(self._asked)


def watch(
    processes: Processes, signals: Signals, timeout: float | None = None, appointments: Sequence[Appointment] = ()
) -> int:
    """Wait until all processes have ended or one has failed; end the others; return the exit code.

    It is that of the first process found to have failed, 128 + n where signal n killed it, or `TIMED_OUT`.
    """
    began = time.monotonic()
    pending = sorted(appointments, key=lambda each: each[0])
    try:
        while True:
            codes = [process.poll() for process in processes]
            if failed := next(filter(None, codes), 0):
                return failed if failed > 0 else 128 - failed
            if None not in codes:
                return 0
            passed = time.monotonic() - began
            if timeout is not None and passed >= timeout:
                return TIMED_OUT
            if pending and pending[0][0] <= passed:
                pending.pop(0)[1]()
                continue
            moments = [moment for moment, _ in pending[:1]] + ([] if timeout is None else [timeout])
            signals.pause(min(moments) - passed if moments else None)
    finally:
        end(processes)


def end(processes: Processes) -> None:
    """Ask the sessions of these processes to end, and kill those that do not."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # mpirun ends its ranks before it goes
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
