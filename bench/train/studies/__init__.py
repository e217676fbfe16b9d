"""The studies: each is its plan, as data, and was written before it ran.

`methods` sets methods beside one another, `curves` follows them along τ, β or the number of workers, and `weight` has
other conditions. `grids` has the candidates of all of them.
"""

from . import curves, methods, weight

STUDIES = {
    study.name: study
    for study in (
        *(methods.QUICK, methods.TABLE1, methods.DIGITS, methods.RESET, curves.TAU, methods.NOAVERAGE, methods.BUFFERS),
        *(curves.BETA, weight.NONIID, curves.WORKERS, weight.WEIGHT, weight.BF16, weight.WIRE, methods.STREAMING),
    )
}
