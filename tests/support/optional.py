"""The libraries of extras: each is imported in one place, and only when that is used."""

from __future__ import annotations

from importlib.util import find_spec

OPTIONAL = {
    "topologies.commands.pictures": "matplotlib",
    "gossip.state.kernels": "triton",
    "gossip.integrations.huggingface": "transformers accelerate",
}

WHOLE = {"gossip.state.kernels", "gossip.integrations.huggingface"}
"""Modules of these that import their libraries first of all, and are imported by name where they are there."""


def can_import(module: str) -> bool:
    """Whether the libraries are installed that `module` imports first of all."""
    return module not in WHOLE or all(map(find_spec, OPTIONAL[module].split()))
