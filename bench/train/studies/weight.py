"""Gossip with and without the push-sum weight, on a directed graph whose columns alone sum to 1, with skewed labels."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study, tuned
from .grids import RATES

TASK = "textures"
GRAPH = "bench.shared.graphs:lopsided"
METHODS = {
    f"{name}{'' if weighted else ' without weight'}": Method(name.lower(), graph=GRAPH, weighted=weighted)
    for name in ("SGP", "OSGP")
    for weighted in (True, False)
}

STUDY = Study(
    name="weight",
    title="The push-sum weight on an irregular directed graph, 8 workers, skewed labels",
    hypothesis=(
        "Without the weight ranks agree on a mean that counts some ranks' data for more, so with skewed labels the "
        "score is worse than with it."
    ),
    arms=tuple(
        Arm(name, tuned(TASK, method, RATES[TASK], skew=0.1)) for name, method in METHODS.items()
    ),
    claims=(Claim("SGP", "SGP without weight"), Claim("OSGP", "OSGP without weight")),
)  # fmt: skip
