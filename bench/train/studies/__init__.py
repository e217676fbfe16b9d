"""The studies, one in a file: each is its plan, as data, and was written before it ran.

`grids` is what all of them tune over.
"""

from . import beta, bf16, buffers, noaverage, noniid, quick, table1, tau, weight, workers

_MODULES = (quick, table1, tau, noaverage, buffers, beta, noniid, workers, weight, bf16)

STUDIES = {module.STUDY.name: module.STUDY for module in _MODULES}
AXES = {module.STUDY.name: getattr(module, "AXIS", "") for module in _MODULES}
"""What the x of their arms is, of those that are curves."""

__all__ = ["AXES", "STUDIES"]
