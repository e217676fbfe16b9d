"""The studies, one in a file: each is its plan, as data, and was written before it ran.

`grids` has the candidates of all of them.
"""

from importlib import import_module

NAMES = (
    *("quick", "table1", "digits", "reset", "tau", "noaverage", "buffers", "beta", "noniid", "workers", "weight"),
    *("bf16", "wire", "streaming"),
)
_MODULES = {name: import_module(f"{__name__}.{name}") for name in NAMES}

STUDIES = {name: module.STUDY for name, module in _MODULES.items()}
AXES = {name: getattr(module, "AXIS", "") for name, module in _MODULES.items()}
"""The name of the arms' x, of studies that are curves."""

__all__ = ["AXES", "STUDIES"]
