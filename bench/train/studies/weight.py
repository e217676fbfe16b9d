"""Other conditions: shards of skewed labels, an irregular graph, and fewer bits in memory and on the wire."""

import networkx as nx

from ...shared.methods import Method
from ..study import Arm, Study, claims, tuned
from .grids import NESTEROV, RATES, candidates, few, named

METHODS = {**named("AR Local SGP"), **named("Local-SlowMo SGP-SlowMo SGP-noaverage", buffers=NESTEROV)}
NONIID = Study(
    name="noniid",
    title="Shards of skewed labels, 8 workers, τ = 12",
    hypothesis=(
        "Where labels are skewed Local SGD is worse than SGP, and SlowMo with its average helps both; without its "
        "average it helps SGP less."
    ),
    arms=tuple(Arm(f"α=0.2 {name}", candidates("textures", method, skew=0.2)) for name, method in METHODS.items()),
    claims=claims("SGP > Local, Local-SlowMo > Local, SGP-SlowMo > SGP, SGP-SlowMo > SGP-noaverage", on="α=0.2"),
)


def lopsided(size: int) -> nx.DiGraph:
    """A ring in which every rank but the last also sends to rank 0, and rank 0 to every other second rank.

    Each source shares evenly, so columns sum to 1 and rows do not: rank 0 has the most in-peers.

    >>> sorted(lopsided(4).in_degree())
    [(0, 3), (1, 1), (2, 2), (3, 1)]
    """
    ring = nx.cycle_graph(size, create_using=nx.DiGraph)
    ring.add_edges_from((rank, 0) for rank in range(1, size))
    ring.add_edges_from((0, rank) for rank in range(2, size, 2))
    return ring


WEIGHT = Study(  # gossip with and without the push-sum weight, on a directed graph whose columns alone sum to 1
    name="weight",
    title="The push-sum weight on an irregular directed graph, 8 workers, skewed labels",
    hypothesis=(
        "Without the weight ranks agree on a mean that counts some ranks' data for more, so with skewed labels the "
        "score is worse than with it."
    ),
    arms=tuple(
        Arm(base if weighted else f"{base} without weight", tuned("textures", method, RATES["textures"], skew=0.1))
        for base in ("SGP", "OSGP")
        for weighted in (True, False)
        for method in [Method(base.lower(), graph=f"{__name__}:lopsided", weighted=weighted)]
    ),
    claims=claims("SGP > SGP without weight, OSGP > OSGP without weight"),
)

BF16 = Study(  # anchors and slow momenta have 32 bits
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis=(
        "bfloat16 costs SGP and Local SGD some of their score, also with SlowMo, although its anchors are float32; "
        "with SlowMo they are better than without, in either."
    ),
    arms=tuple(
        Arm(f"{name} {short}", few("topics", method, dtype=dtype))
        for short, dtype in (("float32", "float32"), ("bf16", "bfloat16"))
        for name, method in named("SGP Local SGP-SlowMo Local-SlowMo").items()
    ),
    claims=claims(
        "SGP float32 > SGP bf16, Local float32 > Local bf16, SGP-SlowMo float32 > SGP-SlowMo bf16, "
        "Local-SlowMo float32 > Local-SlowMo bf16, SGP-SlowMo bf16 > SGP bf16, Local-SlowMo bf16 > Local bf16, "
        "SGP-SlowMo float32 > SGP float32, Local-SlowMo float32 > Local float32"
    ),
)
WIRE = Study(
    name="wire",
    title="Gossip in 16 and in 8 bits, 8 workers",
    hypothesis=(
        "Values that travel in bfloat16 or int8 cost SGP and OSGP no accuracy that ten seeds would show: the interval "
        "of the difference lies inside half a point."
    ),
    arms=tuple(
        Arm(f"{base} {short}", tuned("digits", Method(base.lower(), wire=wire), RATES["digits"][:2]))
        for base in ("SGP", "OSGP")
        for short, wire in (("float32", None), ("bf16", "bfloat16"), ("int8", "int8"))
    ),
    claims=claims("SGP float32 > SGP bf16, SGP float32 > SGP int8, OSGP float32 > OSGP bf16, OSGP float32 > OSGP int8"),
)
