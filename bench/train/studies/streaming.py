"""SlowMo whose exact average stops no step."""

from ..study import Study, claims
from .grids import arms, named

STUDY = Study(
    name="streaming",
    title="Streaming SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "Averages of one part of the model after another, applied a step later, give Local SGD and OSGP the training "
        "loss and score that SlowMo gives them with its average of the whole model at once."
    ),
    arms=arms("textures", named("Local Local-SlowMo Local-streaming OSGP OSGP-SlowMo OSGP-streaming")),
    claims=tuple(
        claim
        for base in ("Local", "OSGP")
        for claim in claims(
            f"{base}-SlowMo > {base}-streaming, {base}-streaming > {base}", "score", "loss", on="textures"
        )
    ),
)
