"""torch's own database of optimizers: which there are, how its tests make each, and what each supports."""

from __future__ import annotations

import importlib
import sys
import types
from functools import cache
from typing import Any

NAMES = """
    Adadelta Adafactor Adagrad Adam Adamax AdamW ASGD LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam
""".split()  # noqa: SIM905  one line of names

DATABASE = "torch.testing._internal.common_optimizers"
SURROUNDINGS = [f"torch.testing._internal.common_{part}" for part in ("device_type", "methods_invocations", "utils")]


class Anything:
    """In the place of what decorates torch's own tests."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> None: ...


@cache
def infos() -> dict[str, Any]:
    """By the optimizer's name.

    The database names what torch's own tests are run with, which takes seconds to load, changes torch's global flags,
    and needs a package more. None of that is used here, so that stand-ins take its place while the database loads.
    """
    before = {name: sys.modules.get(name) for name in (DATABASE, *SURROUNDINGS)}
    for name in SURROUNDINGS:
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update(TEST_WITH_TORCHDYNAMO=False, __getattr__=lambda _: Anything)
        sys.modules[name] = stand_in
    try:
        sys.modules.pop(DATABASE, None)
        database = importlib.import_module(DATABASE)
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
    return {info.optim_cls.__name__: info for info in database.optim_db}
