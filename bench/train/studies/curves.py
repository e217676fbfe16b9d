"""Curves: along the period τ, along the slow momentum β, and along the number of workers."""

from dataclasses import replace

from ...shared.methods import Method
from ..runs import Run
from ..study import Arm, Claim, Study, claims
from .grids import NESTEROV, few, named

TAU = Study(
    name="tau",
    title="The period τ of Local SGD and SlowMo, 8 workers, 384 steps",
    hypothesis=(
        "Local SGD gets worse as τ grows; SlowMo makes Local SGD better at each τ up to 48, and SGP at τ = 24 and 48."
    ),
    arms=(
        Arm("SGP", few("textures", Method("sgp"), steps=384), "SGP", 1.0),
        *(
            Arm(f"{name} τ={τ}", few("textures", replace(method, period=τ), steps=384), name, τ)
            for τ in (6, 12, 24, 48, 96, 192)
            for name, method in named("Local Local-SlowMo SGP-SlowMo", buffers=NESTEROV).items()
        ),
    ),
    claims=(
        *(Claim(f"Local-SlowMo τ={τ}", f"Local τ={τ}") for τ in (6, 12, 24, 48)),
        *claims("SGP-SlowMo τ=24 > SGP, SGP-SlowMo τ=48 > SGP, Local τ=6 > Local τ=96"),
    ),
    axis="τ",
)

# All go as far in the long run: lr · α / (1 − β) is equal.
POINTS = ((0.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 1.0), (0.8, 1.0), (0.4, 0.5), (0.4, 1.5))
"""β and α."""
RATE = 0.08


def _arm(base: str, β: float, α: float) -> Arm:
    method = Method(base.lower(), "slowmo", momentum=β, rate=α, buffers=NESTEROV)
    line = f"{base}-SlowMo α={α:g}"
    return Arm(f"{line} β={β:g}", (Run("textures", method, round(RATE * (1 - β) / α, 4)),), line, β)


BETA = Study(
    name="beta",
    title=f"β and α of SlowMo, 8 workers, τ = 12, lr · α / (1 − β) = {RATE:g}",
    hypothesis=(
        "With steps as long in the long run, a slow momentum β = 0.4 gives a lower training loss than none, and a "
        "better score than 0.8; α = 1 gives a lower loss than 0.5 and 1.5."
    ),
    arms=tuple(_arm(base, β, α) for base in ("Local", "SGP") for β, α in POINTS),
    claims=tuple(
        Claim(f"{base}-SlowMo α=1 β=0.4", f"{base}-SlowMo α={other}", measure)
        for base in ("Local", "SGP")
        for other, measure in (("1 β=0", "loss"), ("1 β=0.8", "score"), ("0.5 β=0.4", "loss"), ("1.5 β=0.4", "loss"))
    ),
    axis="β",
)

# All workers together see more of the same images in a step, and each has fewer to itself: with 144 steps one of 4
# workers passes 4.5 times over its shard, and one of 32 passes 36 times over its own.
WORKERS = Study(
    name="workers",
    title="4 to 32 workers, τ = 12",
    hypothesis="SlowMo gives Local SGD a better score with any number of workers from 4 to 32, and SGP none.",
    arms=tuple(
        Arm(f"{name} n={n}", few("textures", method, workers=n, steps=144), name, n)
        for n in (4, 8, 16, 32)
        for name, method in named("Local SGP Local-SlowMo SGP-SlowMo", buffers=NESTEROV).items()
    ),
    claims=tuple(Claim(f"{base}-SlowMo n={n}", f"{base} n={n}") for base in ("Local", "SGP") for n in (4, 8, 16, 32)),
    axis="workers",
)
