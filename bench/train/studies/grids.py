"""The candidates: four for every arm, learning rates alone or learning rates with slow momenta, or two."""

from typing import Any

from ...shared.methods import SLOW, Method
from ..runs import Run
from ..study import Arm, tuned

RATES = {
    "digits": (0.05, 0.1, 0.2, 0.4),
    "textures": (0.02, 0.04, 0.08, 0.16),
    "phrases": (0.005, 0.01, 0.02, 0.04),
    "topics": (0.005, 0.01, 0.02, 0.04),
}
"""Learning rates of the base optimizer. Slow momentum lengthens steps by 1/(1 − β), so a larger β gets smaller ones."""
NESTEROV = "reset"  # the paper's choice for the buffers of SGD with Nesterov momentum; the study `buffers` compares


def named(names: str, **slow: Any) -> dict[str, Method]:
    """Methods by name, as in "AR OSGP+average SGP-SlowMo"; `slow` is for those with slow momentum."""
    found = {}
    for name in names.split():
        base, _, outer = name.lower().replace("+", "-").partition("-")
        found[name] = Method(base, outer or "none", **(slow if outer in SLOW else {}))
    return found


def candidates(workload: str, method: Method, **more: Any) -> tuple[Run, ...]:
    """Four candidates."""
    if method.outer not in SLOW:
        return tuned(workload, method, RATES[workload], **more)
    return (*few(workload, method, **more), *tuned(workload, method, RATES[workload][:2], [0.5], **more))


def few(workload: str, method: Method, **more: Any) -> tuple[Run, ...]:
    """Two candidates, for studies of many arms: the middle learning rates, with the milder slow momentum."""
    return tuned(workload, method, RATES[workload][1:3], [0.2] if method.outer in SLOW else [], **more)


def arms(workloads: str, methods: dict[str, Method], **more: Any) -> tuple[Arm, ...]:
    """An arm "workload name" with four candidates for each workload and method."""
    return tuple(
        Arm(f"{workload} {name}", candidates(workload, method, **more))
        for workload in workloads.split()
        for name, method in methods.items()
    )
