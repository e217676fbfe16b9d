"""Methods beside one another: the paper's first table, and what slow momentum, its averages and buffers add."""

from ...shared.methods import Method
from ..study import Study, claims
from .grids import NESTEROV, arms, named

QUICK = Study(  # whether the machinery works, in less than three minutes
    name="quick",
    title="Four methods on digits, 8 workers",
    hypothesis="Local SGD has a higher training loss than AR, and slow momentum gives some of that back.",
    arms=arms("digits", named("AR Local Local-SlowMo SGP"), steps=48),
    claims=claims("AR > Local, Local-SlowMo > Local", "loss", on="digits"),
    tuning=(0, 1),
    testing=(40, 41, 42, 43),
)

# Local SGD with averages alone is Local SGD.
TABLE = named("AR Local SGP OSGP SGP+average OSGP+average AR-SlowMo Local-SlowMo SGP-SlowMo OSGP-SlowMo")
TABLE_RESET = named(" ".join(name for name in TABLE if not name.startswith("AR")), buffers=NESTEROV)
CLAIMS = (
    "Local-SlowMo > Local, SGP-SlowMo > SGP, OSGP-SlowMo > OSGP, SGP-SlowMo > SGP+average, OSGP-SlowMo > OSGP+average"
)
TABLE1 = Study(
    name="table1",
    title="Base methods and SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "SlowMo gives Local SGD, SGP and OSGP a lower training loss and a better score than they have by themselves, "
        "and what it gives SGP and OSGP comes from slow momentum, not from its averages alone."
    ),
    arms=arms("textures phrases", TABLE),
    claims=claims(CLAIMS, "score", "loss", on="textures phrases"),
)
DIGITS = Study(  # small images with BatchNorm
    name="digits",
    title="Base methods and SlowMo on digits, 8 workers, τ = 12",
    hypothesis=TABLE1.hypothesis,
    arms=arms("digits", TABLE),
    claims=claims(CLAIMS, "score", "loss", on="digits"),
)
RESET = Study(  # as `buffers` found the better, on fresh seeds; without AR-SGD, of which no claim is made
    name="reset",
    title="Base methods and SlowMo with buffers reset on images, 8 workers, τ = 12",
    hypothesis=(
        "With the buffers of Nesterov SGD reset in each outer step, SlowMo gives Local SGD a better score than it has "
        "by itself, makes little difference to SGP and OSGP, and has a higher training loss with all three."
    ),
    arms=arms("textures", TABLE_RESET),
    claims=claims(CLAIMS, "score", "loss", on="textures"),
    testing=tuple(range(40, 50)),
)
NOAVERAGE = Study(
    name="noaverage",
    title="SlowMo without its average, 8 workers, τ = 12",
    hypothesis=(
        "Without the exact average, which gossip makes nearly needless, slow momentum still gives SGP and OSGP a "
        "better score than they have by themselves; the average adds little to that."
    ),
    arms=arms("textures phrases", named("SGP SGP-SlowMo SGP-noaverage OSGP OSGP-SlowMo OSGP-noaverage")),
    claims=claims(
        "SGP-noaverage > SGP, SGP-SlowMo > SGP-noaverage, OSGP-noaverage > OSGP, OSGP-SlowMo > OSGP-noaverage",
        on="textures phrases",
    ),
)
STREAMING = Study(
    name="streaming",
    title="Streaming SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "Averages of one part of the model after another, applied a step later, give Local SGD and OSGP the training "
        "loss and score that SlowMo gives them with its average of the whole model at once."
    ),
    arms=arms("textures", named("Local Local-SlowMo Local-streaming OSGP OSGP-SlowMo OSGP-streaming")),
    claims=(
        *claims("Local-SlowMo > Local-streaming, Local-streaming > Local", "score", "loss", on="textures"),
        *claims("OSGP-SlowMo > OSGP-streaming, OSGP-streaming > OSGP", "score", "loss", on="textures"),
    ),
)

BASES = {"textures": ("Local", "SGP"), "phrases": ("Local",)}


def _buffers(task: str) -> dict[str, Method]:
    found = {
        f"{base}-SlowMo {buffers}": Method(base.lower(), "slowmo", buffers=buffers)
        for base in BASES[task]
        for buffers in ("reset", "maintain", "average")
    }
    for base in BASES[task]:
        found[f"{base} double averaging"] = Method(base.lower(), "average", buffers="average")
        found[base] = Method(base.lower())
    return found


BUFFERS = Study(
    name="buffers",
    title="Buffers at an outer step: Nesterov SGD (textures), AdamW (phrases), 8 workers, τ = 12",
    hypothesis=(
        "Resetting is the best for SGD with Nesterov momentum and maintaining for Adam, and either with SlowMo is "
        "better than double averaging, which is better than the base method."
    ),
    arms=tuple(arm for task in BASES for arm in arms(task, _buffers(task))),
    claims=tuple(
        claim
        for task, best, other in (("textures", "reset", "maintain"), ("phrases", "maintain", "reset"))
        for base in BASES[task]
        for claim in claims(
            f"{base}-SlowMo {best} > {base}-SlowMo {other}, {base}-SlowMo {best} > {base}-SlowMo average, "
            f"{base}-SlowMo {best} > {base} double averaging, {base} double averaging > {base}",
            on=task,
        )
    ),
)
