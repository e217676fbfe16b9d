"""What an outer step does to the momentum of the base optimizer, and averages of parameters and momenta alone."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study
from .grids import arm

BASES = {"textures": {"local": "Local", "sgp": "SGP"}, "phrases": {"local": "Local"}}
WHAT = ("reset", "maintain", "average")


def _arms(task: str) -> list[Arm]:
    arms = [
        arm(task, f"{title}-SlowMo {what}", Method(base, "slowmo", buffers=what))
        for base, title in BASES[task].items()
        for what in WHAT
    ]
    for base, title in BASES[task].items():
        arms.append(arm(task, f"{title} double averaging", Method(base, "average", buffers="average")))
        arms.append(arm(task, title, Method(base)))
    return arms


STUDY = Study(
    name="buffers",
    title="Buffers at an outer step: Nesterov SGD (textures), AdamW (phrases), 8 workers, τ = 12",
    hypothesis=(
        "Resetting is the best for SGD with Nesterov momentum and maintaining for Adam, and either with SlowMo is "
        "better than double averaging, which is better than the base method."
    ),
    arms=tuple(each for task in BASES for each in _arms(task)),
    claims=tuple(
        Claim(f"{task} {better}", f"{task} {than}")
        for task, best, other in (("textures", "reset", "maintain"), ("phrases", "maintain", "reset"))
        for base in BASES[task].values()
        for better, than in (
            (f"{base}-SlowMo {best}", f"{base}-SlowMo {other}"),
            (f"{base}-SlowMo {best}", f"{base}-SlowMo average"),
            (f"{base}-SlowMo {best}", f"{base} double averaging"),
            (f"{base} double averaging", base),
        )
    ),
)
