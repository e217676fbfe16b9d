"""The names of the three packages: the error where a folder of the user's hides one, and `gossip` as their one root.

`hidden` looks whether a package is ours. `one_root` makes `gossip.topologies` and `gossip.slowmo` names of the same
modules. Importing this room does both, before `gossip` imports anything of `topologies`.
May import: topologies.
"""

import sys

from .hidden import check_ours
from .one_root import OneRoot

check_ours("topologies")
sys.meta_path.insert(0, OneRoot())  # the finders behind it would make second copies of submodules
