"""A deadline for calls into a library that keep the interpreter's lock, so that no thread of ours can watch them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[1]))[0]:
    print("gossip:", sys.argv[2], file=sys.stderr, flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
"""


@contextmanager
def alarm(seconds: float, sentence: str) -> Iterator[None]:
    """Another process says `sentence` and kills this one, if what is inside takes longer."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(seconds), sentence], stdin=subprocess.PIPE
    ) as other:
        try:
            yield
        finally:
            assert other.stdin is not None
            other.stdin.close()
