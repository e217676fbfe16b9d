"""Frameworks that bring a training loop of their own: Lightning, Hugging Face and Ray, each in a module of its own.

`lightning`, `huggingface` and `ray` are imported by name, and need the extra of that name.
May import: averagers, checks, errors, optimizer, training, transports, world, topologies.
"""
