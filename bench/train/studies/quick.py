"""Whether the machinery works, in less than three minutes."""

from ...shared.methods import Method
from ..study import Claim, Study
from .grids import arm

METHODS = {
    "AR": Method("ar"),
    "Local": Method("local"),
    "Local-SlowMo": Method("local", "slowmo"),
    "SGP": Method("sgp"),
}

STUDY = Study(
    name="quick",
    title="Four methods on digits, 8 workers",
    hypothesis="Local SGD has a higher training loss than AR, and slow momentum gives some of that back.",
    arms=tuple(arm("digits", name, method, steps=48) for name, method in METHODS.items()),
    claims=(Claim("digits AR", "digits Local", "loss"), Claim("digits Local-SlowMo", "digits Local", "loss")),
    tuning=(0, 1),
    testing=(40, 41, 42, 43),
)
