"""Pictures of graphs: the rounds of a schedule side by side, and how fast several schedules agree.

Needs matplotlib, which is imported when a picture is made. `panels.py` sets rounds side by side, `scene.py` draws
one of them, `layouts.py` says where ranks stand, `curves.py` compares schedules.
"""

from __future__ import annotations

from topologies.commands.pictures.canvas import check_file, save
from topologies.commands.pictures.curves import comparison
from topologies.commands.pictures.panels import rounds
from topologies.commands.pictures.scene import fraction

__all__ = ["check_file", "comparison", "fraction", "rounds", "save"]
