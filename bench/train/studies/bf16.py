"""Parameters of 16 bits, with anchors and slow momenta of 32."""

from ..methods import Method
from ..study import Arm, Claim, Study, tuned
from .grids import RATES, USUAL

TASK = "topics"
METHODS = {
    "SGP": Method("sgp"),
    "Local": Method("local"),
    "SGP-SlowMo": Method("sgp", "slowmo"),
    "Local-SlowMo": Method("local", "slowmo"),
}
DTYPES = {"float32": "float32", "bf16": "bfloat16"}


def _arm(name: str, method: Method, short: str) -> Arm:
    slow = method.outer == "slowmo"
    rates, momenta = ((USUAL[TASK],), (0.2, 0.5)) if slow else (RATES[TASK][1:3], ())
    return Arm(f"{name} {short}", tuned(TASK, method, rates, momenta, dtype=DTYPES[short]))


STUDY = Study(
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis="bfloat16 costs every method some of its score; SlowMo, whose anchors are float32, costs no more of it.",
    arms=tuple(_arm(name, method, short) for short in DTYPES for name, method in METHODS.items()),
    claims=(
        *(Claim(f"{name} float32", f"{name} bf16") for name in METHODS),
        *(Claim(f"{base}-SlowMo bf16", f"{base} bf16") for base in ("SGP", "Local")),
    ),
)
