"""Time per update from 2 to 65,536 ranks, by simulation: `python -m bench scale`.

`machine` describes hosts and links, the time of an exact average on them, and the methods that are predicted.
`simulation` runs the ranks' clocks through rounds of gossip. `calibration` fits the machine's parameters to files of
`bench update`. It imports `bench.shared`.
"""

from .calibration import Overhead, Point, calibrate, compare, read
from .machine import Cluster, Machine, traffics
from .simulation import simulate

__all__ = ["Cluster", "Machine", "Overhead", "Point", "calibrate", "compare", "read", "simulate", "traffics"]
