"""Which tensors of a base optimizer's state are averaged over ranks: what is shaped like its parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def moments(states: Mapping[Any, Any], shapes: Mapping[int, Sequence[int]]) -> dict[tuple[int, str], torch.Tensor]:
    """(number of the parameter, name in its state) -> tensor, in the same order wherever the same are held.

    A name that has another shape than its parameter anywhere is a counter everywhere, also beside a parameter without
    dimensions. State under a key of the optimizer's own, such as a text, belongs to no parameter and is none either.

    >>> state = {"exp_avg": torch.zeros(2), "step": torch.zeros(()), "mu_product": torch.ones(())}
    >>> alone = {"exp_avg": torch.zeros(()), "mu_product": torch.ones(())}
    >>> list(moments({0: state, 1: alone}, {0: (2,), 1: ()}))
    [(0, 'exp_avg'), (1, 'exp_avg')]
    """
    floating = [
        (number, name, value)
        for number in sorted(shapes)
        if isinstance(states.get(number), Mapping)
        for name, value in sorted(states[number].items(), key=lambda entry: str(entry[0]))
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    counters = {"step", *(name for number, name, value in floating if tuple(value.shape) != tuple(shapes[number]))}
    return {(number, name): value for number, name, value in floating if name not in counters}
