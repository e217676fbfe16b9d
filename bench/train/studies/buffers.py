"""The base optimizer's momentum at an outer step: kept, reset or averaged; and averages without slow momentum."""

from ...shared.methods import Method
from ..study import Study, claims
from .grids import arms

BASES = {"textures": ("Local", "SGP"), "phrases": ("Local",)}


def _methods(task: str) -> dict[str, Method]:
    found = {
        f"{base}-SlowMo {what}": Method(base.lower(), "slowmo", buffers=what)
        for base in BASES[task]
        for what in ("reset", "maintain", "average")
    }
    for base in BASES[task]:
        found[f"{base} double averaging"] = Method(base.lower(), "average", buffers="average")
        found[base] = Method(base.lower())
    return found


STUDY = Study(
    name="buffers",
    title="Buffers at an outer step: Nesterov SGD (textures), AdamW (phrases), 8 workers, τ = 12",
    hypothesis=(
        "Resetting is the best for SGD with Nesterov momentum and maintaining for Adam, and either with SlowMo is "
        "better than double averaging, which is better than the base method."
    ),
    arms=tuple(arm for task in BASES for arm in arms(task, _methods(task))),
    claims=tuple(
        claim
        for task, best, other in (("textures", "reset", "maintain"), ("phrases", "maintain", "reset"))
        for base in BASES[task]
        for than in (f"{base}-SlowMo {other}", f"{base}-SlowMo average", f"{base} double averaging", base)
        for claim in claims(
            f"{base}-SlowMo {best} > {than}" if than != base else f"{base} double averaging > {base}", on=task
        )
    ),
)
