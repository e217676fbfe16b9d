"""Fewer bytes on the wire."""

from ...shared.methods import Method
from ..study import Arm, Study, claims, tuned
from .grids import RATES

WIRES = {"float32": None, "bf16": "bfloat16", "int8": "int8"}

STUDY = Study(
    name="wire",
    title="Gossip in 16 and in 8 bits, 8 workers",
    hypothesis=(
        "Values that travel in bfloat16 or int8 cost SGP and OSGP no accuracy that ten seeds would show: the interval "
        "of the difference lies inside half a point."
    ),
    arms=tuple(
        Arm(f"{base} {short}", tuned("digits", Method(base.lower(), wire=wire), RATES["digits"][:2]))
        for base in ("SGP", "OSGP")
        for short, wire in WIRES.items()
    ),
    claims=claims("SGP float32 > SGP bf16, SGP float32 > SGP int8, OSGP float32 > OSGP bf16, OSGP float32 > OSGP int8"),
)
