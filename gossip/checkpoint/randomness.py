"""The states of the random generators of Python, NumPy, and torch on the host and on the rank's GPU."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def keep(device: torch.device) -> dict[str, Any]:
    """The states, as plain numbers and tensors."""
    version, words, following = random.getstate()
    kind, key, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": [version, torch.tensor(words), following],
        "numpy": [kind, torch.from_numpy(np.asarray(key).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to these states."""
    version, words, following = states["python"]
    random.setstate((version, tuple(words.tolist()), following))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
