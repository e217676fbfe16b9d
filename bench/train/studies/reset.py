"""The paper's first table on images, with buffers reset, which `buffers` found the better, on fresh seeds.

Without AR-SGD, of which no claim is made.
"""

from dataclasses import replace

from ...shared.methods import SLOW
from ..study import Study
from .grids import NESTEROV, arm
from .table1 import METHODS, comparisons

TASK = "textures"
OWN = {
    name: replace(method, buffers=NESTEROV) if method.outer in SLOW else method
    for name, method in METHODS.items()
    if method.base != "ar"
}

STUDY = Study(
    name="reset",
    title="Base methods and SlowMo with buffers reset on images, 8 workers, τ = 12",
    hypothesis=(
        "With the buffers of Nesterov SGD reset in each outer step, SlowMo gives Local SGD a better score than it has "
        "by itself, makes little difference to SGP and OSGP, and has a higher training loss with all three."
    ),
    arms=tuple(arm(TASK, name, method) for name, method in OWN.items()),
    claims=comparisons(TASK),
    testing=tuple(range(40, 50)),
)
