"""The slow momentum β and the slow learning rate α."""

from ..methods import Method
from ..runs import Run
from ..study import Arm, Claim, Study
from .grids import USUAL

TASK = "textures"
MOMENTA, RATES = (0.0, 0.2, 0.4, 0.6, 0.8), (0.5, 1.0, 1.5)
BASES = {"Local": "local", "SGP": "sgp"}


def _arm(title: str, momentum: float, rate: float) -> Arm:
    method = Method(BASES[title], "slowmo", momentum=momentum, rate=rate, buffers="reset")
    line = f"{title}-SlowMo α={rate:g}"
    return Arm(f"{line} β={momentum:g}", (Run(TASK, method, USUAL[TASK]),), line, momentum)


STUDY = Study(
    name="beta",
    title="β and α of SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "A β between 0.2 and 0.6 is better than none, and 0.8 is worse than 0.4; α = 1 is not worse than other values."
    ),
    arms=tuple(_arm(title, momentum, rate) for title in BASES for rate in RATES for momentum in MOMENTA),
    claims=(
        *(Claim(f"{base}-SlowMo α=1 β=0.4", f"{base}-SlowMo α=1 β={β}") for base in BASES for β in ("0", "0.8")),
        *(Claim(f"{base}-SlowMo α=1 β=0.4", f"{base}-SlowMo α={α} β=0.4") for base in BASES for α in ("0.5", "1.5")),
    ),
)
AXIS = "β"
