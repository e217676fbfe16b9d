"""Integrations: training loops of other libraries, whose optimizers gossip. A script imports one by its name.

`lightning` has a strategy for Lightning's Trainer, `huggingface` a Trainer for transformers, and `ray` what Ray Train
needs. Any of them needs its library, which comes with the extra of the same name.
May import: topologies, averagers, checks, errors, launching, optimizer, training, world.
"""
