"""What is trained: one workload in a file, all with the interface of `workload`.

`digits` and `textures` are images for the network of `convnet`, `phrases` a translation and `topics` a language model
for those of `transformer`.
"""

from .digits import Digits
from .phrases import Phrases
from .textures import Textures
from .topics import Topics
from .workload import Data, Workload

WORKLOADS: dict[str, Workload] = {each.title: each for each in (Digits(), Textures(), Phrases(), Topics())}

__all__ = ["WORKLOADS", "Data", "Workload"]
