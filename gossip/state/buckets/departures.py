"""Ways in which a parameter leaves its bucket, told apart by where it is now, each with its cure."""

from __future__ import annotations

import torch


def departure(parameter: torch.Tensor, was: torch.Tensor, taken: bool) -> str:
    """How `parameter` has left `was`, the flat tensor in which it lived, and what to do.

    `taken`: another bucket has it.

    >>> departure(torch.ones(2).double(), torch.ones(4), taken=False).split(" when")[0]
    'it is torch.float64 on cpu now, and was torch.float32 on cpu'
    """
    if taken:
        return (
            "another GossipOptimizer was made with it later and has taken it over, so this one would average what "
            "nobody trains. Give each parameter to one GossipOptimizer: use the later one alone, or combine their "
            "averagers in one Chain"
        )
    now, then = (f"{tensor.dtype} on {tensor.device}" for tensor in (parameter, was))
    if now != then:
        return (
            f"it is {now} now, and was {then} when GossipOptimizer was made (after .to(), .double() or .cuda()), so it "
            "would train without being averaged. Move the model first and make the optimizer afterwards"
        )
    return (
        "its data was replaced (by an assignment to .data, another GossipOptimizer over the same parameters, FSDP, "
        "vector_to_parameters or swap_tensors), so it would train without being averaged. Write in place, which keeps "
        "it there, under torch.no_grad(): parameter.clamp_(...), or parameter.copy_(values). Replace parameters for "
        "good before the optimizer is made"
    )
