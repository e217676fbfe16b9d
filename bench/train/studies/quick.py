"""Whether the machinery works, in less than three minutes."""

from ..study import Study, claims
from .grids import arms, named

STUDY = Study(
    name="quick",
    title="Four methods on digits, 8 workers",
    hypothesis="Local SGD has a higher training loss than AR, and slow momentum gives some of that back.",
    arms=arms("digits", named("AR Local Local-SlowMo SGP"), steps=48),
    claims=claims("AR > Local, Local-SlowMo > Local", "loss", on="digits"),
    tuning=(0, 1),
    testing=(40, 41, 42, 43),
)
