"""Integrations: other libraries' training loops, whose optimizers gossip. Each file is imported by name, when it is used.

`lightning` holds a strategy for its Trainer, `huggingface` a Trainer for transformers, and `ray` a step for Ray Train.
Each file needs the library in its name, and is installed with an extra of that name.
May import: topologies, averagers, checks, errors, launching, optimizer, training, world.
"""
