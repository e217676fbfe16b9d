"""The libraries of extras: each is imported in one place, and only when that is used."""

from __future__ import annotations

from importlib.util import find_spec

OPTIONAL = {
    "topologies.commands.pictures": "matplotlib",
    "gossip.state.kernels": "triton",
    "gossip.status.screen": "rich",
    "gossip.integrations.huggingface": "transformers accelerate",
    "gossip.integrations.lightning": "lightning",
}

WHOLE = ("gossip.state.kernels", "gossip.integrations.huggingface", "gossip.integrations.lightning")
"""Modules of these that import their libraries first of all, and are imported by name where they are there."""


def can_import(module: str) -> bool:
    """Whether the libraries are installed that `module`, or the package that it belongs to, imports first of all."""
    needing = (name for name in WHOLE if f"{module}.".startswith(f"{name}."))
    return all(find_spec(library) for name in needing for library in OPTIONAL[name].split())
