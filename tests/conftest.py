"""The settings of every test: one thread per rank, and properties that repeat."""

from __future__ import annotations

import os

# Read when torch and MPI load; the ranks that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# Ranks are threads here and share the cores with whatever else runs, so that time says nothing about a law.
settings.register_profile(
    "laws", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("laws")
