"""A paper's seconds per iteration, to compare predictions and measurements with.

Wang, Tantia, Ballas, Rabbat: SlowMo, ICLR 2020, arXiv 1910.00643: table 2, and beside it the variant that does not
average. 10 Gbit/s Ethernet; τ of SlowMo is 48, and 12 with Local SGD, which averages as often by itself.
"""

from collections.abc import Mapping
from typing import NamedTuple

RATE, PERIOD, LOCAL_PERIOD = 10e9, 48, 12
NBYTES, COMPUTE = 102_400_000, 0.271
"""Of ImageNet: ResNet-50's parameters, and what an iteration of OSGP takes, which hides all of its communication."""


class Half(NamedTuple):
    """One of the two data sets of the table: the nodes, and seconds of an iteration by a method's name here."""

    title: str
    nodes: int
    seconds: Mapping[str, float]


NAMES = ("ar", "local", "local-slowmo", "sgp", "sgp-slowmo", "sgp-noaverage", "osgp", "osgp-slowmo")
_IMAGENET = (0.420, 0.294, 0.282, 0.304, 0.302, 0.298, 0.271, 0.271)
_WMT = (1.648, 0.503, 0.505, 1.225, 1.279, 1.227)
IMAGENET = Half("ImageNet, ResNet-50", 32, dict(zip(NAMES, _IMAGENET, strict=True)))
WMT = Half("WMT'16 En-De, Transformer", 8, dict(zip(NAMES[: len(_WMT)], _WMT, strict=True)))
HALVES = {"imagenet": IMAGENET, "wmt": WMT}

SGP_OVERLAPS = (
    "The paper's SGP took 33 ms beyond its compute, and 102.4 MB take 82 ms one way at 10 Gbit/s: part of its transfer "
    "ran while it computed. SGP here sends after the update and waits."
)
