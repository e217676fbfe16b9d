"""The mean of all ranks' models, for evaluation and publication, and how far the ranks are from it.

    z̄ = Σ w z / Σ w          over ranks, and over messages in flight, which stay there unmerged

Ranks that form no one world, such as those of a node and their counterparts, are summed world after world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from ..averagers.base import Averager
from ..state.mass import Mass
from ..state.merging import scalar, wide_copy
from ..state.module_tensors import check_dense, compact, widest
from ..training.parameters import Parameters

ALIKE = "Every rank calls it after the same step, with the same model"


class Means(NamedTuple):
    """Means over all ranks, the same bits on each."""

    values: list[torch.Tensor]  # z̄ of each bucket, in float32 or wider
    named: dict[str, torch.Tensor]  # means of floating-point tensors, the others of rank 0
    weight: torch.Tensor  # Σ w / n
    ranks: int  # n


@torch.no_grad()
def means(
    parameters: Parameters, averagers: Sequence[Averager], named: Mapping[str, torch.Tensor], call: str, step: int
) -> Means:
    """z̄, and the means of `named` tensors. Every rank calls it; names, kinds, `call` and `step` are compared."""
    check_dense(named, f"{call} averages the buffers of all ranks; make it a plain attribute of the model")
    mass, council = parameters.mass, parameters.council.widest()
    lines = [f"{call} after step {step}"] if all(each.lockstep for each in averagers) else [call]
    lines += [f"buffer '{name}' of {each.dtype} and shape {tuple(each.shape)}" for name, each in named.items()]
    council.agree(lines, ALIKE)
    own = {name: compact(tensor.detach()) for name, tensor in named.items()}

    def sums() -> tuple[list[torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
        numerators, weight = _numerators(mass, averagers)
        total = torch.stack([weight, torch.ones_like(weight)])
        floating = {name: widest(each) for name, each in own.items() if each.is_floating_point()}
        council.sum([*numerators, total, *floating.values()], mass.stats)
        return numerators, total, floating

    values, (weight, ranks), floating = council.together(sums)
    # z̄ = Σ x / Σ w
    for x in values:
        x.div_(scalar(weight))
    taken = {name: each.clone() for name, each in own.items()}
    for name, total in floating.items():
        taken[name].copy_(total.div_(scalar(ranks)).reshape(taken[name].shape))
    council.broadcast([each for name, each in taken.items() if name not in floating])  # in one order on all ranks
    return Means(values, taken, weight / ranks, round(ranks.item()))


def _numerators(mass: Mass, averagers: Iterable[Averager]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """x = w z + Σ w' z' for each bucket, and w + Σ w'. The messages (w', z') are on their way to this rank."""
    numerators, total = [wide_copy(values) for values in mass.values], mass.weight
    if not mass.is_one:
        for x in numerators:
            x.mul_(scalar(mass.weight))
    for averager in averagers:
        for weight, values in averager.arrived():
            total = total + weight
            for x, z in zip(numerators, values, strict=True):
                x += z.to(x.dtype) * scalar(weight)
    return numerators, total
