"""`gossip.topologies` and `gossip.slowmo` are second names of the packages, loaded when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from .hidden import NEEDED, check_ours


class OneRoot(MetaPathFinder, Loader):
    """Finds `gossip.slowmo.family` as `slowmo.family`, the same module, so that no class exists twice.

    >>> import gossip.slowmo.family, slowmo.family
    >>> gossip.slowmo.family is slowmo.family
    True
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a second name; None of any other."""
        root, _, name = fullname.partition(".")
        if root != "gossip" or name.partition(".")[0] not in NEEDED or not find_spec(name):
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of the first name."""
        name = spec.name.partition(".")[2]
        check_ours(name.partition(".")[0])
        module = importlib.import_module(name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back, in whose place the import has put that of the second name."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state
