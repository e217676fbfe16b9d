"""Time per update from 2 to 65,536 ranks, by simulation: `python -m bench scale`.

`machine` says what the hosts and links are, `collectives` what an exact average takes on them, `rounds` what a round of
gossip takes, `methods` what the algorithms are made of. `simulation` runs their clocks, `calibration` fits the
parameters to measured files and holds predictions against them, `published` against a paper's table.
"""

from .calibration import Fitted, Overhead, calibrate, compare
from .machine import Cluster, Machine
from .measured import Point, read
from .methods import Method, methods
from .simulation import Prediction, simulate

__all__ = [
    "Cluster",
    "Fitted",
    "Machine",
    "Method",
    "Overhead",
    "Point",
    "Prediction",
    "calibrate",
    "compare",
    "methods",
    "read",
    "simulate",
]
