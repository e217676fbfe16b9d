"""Slow momentum on top of any base optimizer: SlowMo, and by its options BMUF, Lookahead, local SGD and DiLoCo.

`slow_momentum` is the method, `buffers` what happens to the base optimizer's state at an outer step.
"""

from .slow_momentum import SlowMo

__all__ = ["SlowMo"]
