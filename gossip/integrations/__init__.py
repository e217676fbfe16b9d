"""Training loops of other libraries, whose optimizers gossip. A script imports one by its name.

`lightning` has a strategy for Lightning's Trainer, `huggingface` a Trainer for transformers and a way with Accelerate.
Either needs its library, which comes with the extra of the same name. Ray Train needs no code of ours. `composing` and
`trained` are common to them.
May import: averagers, checks, consensus, errors, launching, optimizer, training, transports, world, topologies.
"""
