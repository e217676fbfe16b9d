"""The tasks that are trained, all with the interface of `workload`.

`images` has digits and textures for a small convolutional network, `text` a language model, `phrases` a translation.
"""

from .images import Digits, Textures
from .phrases import Phrases
from .text import Topics
from .workload import Workload

WORKLOADS: dict[str, Workload] = {each.title: each for each in (Digits(), Textures(), Phrases(), Topics())}
