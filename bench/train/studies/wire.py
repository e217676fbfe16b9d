"""Fewer bytes on the wire."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study, tuned
from .grids import RATES

TASK = "digits"
WIRES = {"float32": None, "bf16": "bfloat16", "int8": "int8"}

STUDY = Study(
    name="wire",
    title="Gossip in 16 and in 8 bits, 8 workers",
    hypothesis=(
        "Values that travel in bfloat16 or int8 cost SGP and OSGP no accuracy that ten seeds would show: the interval "
        "of the difference lies inside half a point."
    ),
    arms=tuple(
        Arm(f"{base.upper()} {short}", tuned(TASK, Method(base, wire=wire), RATES[TASK][:2], ()))
        for base in ("sgp", "osgp")
        for short, wire in WIRES.items()
    ),
    claims=tuple(Claim(f"{base} float32", f"{base} {short}") for base in ("SGP", "OSGP") for short in ("bf16", "int8")),
)
