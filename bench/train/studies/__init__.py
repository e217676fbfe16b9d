"""The studies, one in a file: each is its plan, as data, and was written before it ran.

`grids` is what all of them tune over.
"""

from . import (
    beta,
    bf16,
    buffers,
    digits,
    noaverage,
    noniid,
    quick,
    reset,
    streaming,
    table1,
    tau,
    weight,
    wire,
    workers,
)

_TABLES = (quick, table1, digits, reset)
_MODULES = (*_TABLES, tau, noaverage, buffers, beta, noniid, workers, weight, bf16, wire, streaming)

STUDIES = {module.STUDY.name: module.STUDY for module in _MODULES}
AXES = {module.STUDY.name: getattr(module, "AXIS", "") for module in _MODULES}
"""What the x of their arms is, of those that are curves."""

__all__ = ["AXES", "STUDIES"]
