"""Pictures of graphs: the rounds of a schedule side by side, and the disagreement of several schedules as curves.

`panels` sets rounds side by side, `scene` draws one round, `layouts` computes the places of ranks. `curves` compares
schedules, and `canvas` holds colours and files. The room imports `analysis` and the rooms before it, and matplotlib
when a picture is made.
"""

from __future__ import annotations

from topologies.commands.pictures.canvas import check_file, save
from topologies.commands.pictures.curves import comparison
from topologies.commands.pictures.panels import rounds
from topologies.commands.pictures.scene import fraction

__all__ = ["check_file", "comparison", "fraction", "rounds", "save"]
