"""Whether this machine can have emulated hosts, and the mark of tests that need them."""

from __future__ import annotations

import pytest

from bench.cluster import needs
from gossip import UsageError


def lacking() -> str | None:
    try:
        needs.check_machine()
        needs.check_mpirun()
    except UsageError as error:
        return str(error)
    return None


LACKING = lacking()
real = pytest.mark.skipif(LACKING is not None, reason=f"no hosts can be made: {LACKING}")
