"""A deadline for calls into a library that keep the interpreter's lock, so that no thread of ours can watch them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import os, select, signal, sys
def ends_within(seconds):
    return select.select([0], [], [], max(0.0, seconds))[0]
seconds, sentence, soon, early = float(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
if soon < seconds and not ends_within(soon):
    if early:
        print("gossip:", early, file=sys.stderr, flush=True)
    seconds -= soon
if not ends_within(seconds):
    print("gossip:", sentence, file=sys.stderr, flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
"""


@contextmanager
def alarm(seconds: float, sentence: str, soon: float, early: str) -> Iterator[None]:
    """Another process says `early` after `soon` seconds, and after `seconds` says `sentence` and kills this one."""
    said = [str(seconds), sentence, str(soon), early]
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", PROGRAM, *said], stdin=subprocess.PIPE) as other:
        try:
            yield
        finally:
            assert other.stdin is not None
            other.stdin.close()
