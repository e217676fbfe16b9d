"""The error where another module of the same name stands before ours on the path, such as a folder beside train.py."""

from __future__ import annotations

import importlib

NEEDED = {"topologies": ("Topology", "Turn", "without", "__version__"), "slowmo": ("SlowMo", "StreamingSlowMo")}
"""For each package names that it has, and another of its name has hardly."""


def check_ours(name: str) -> None:
    """Check that `name` imports our package.

    Raises:
        ImportError: the name is that of another module, whose place the error tells.
    """
    module = importlib.import_module(name)
    if all(hasattr(module, needed) for needed in NEEDED[name]):
        return
    folders = list(getattr(module, "__path__", []))  # of a package; a folder without __init__.py is one too
    place = folders[0] if folders else getattr(module, "__file__", "an unknown place")
    raise ImportError(
        f"{name!r} at {place} hides the installed package of that name: rename it, or take the folder that it is in "
        "off sys.path",
        name=name,
        path=str(place),
    )
