"""Averagers, which act between two updates, as values that compose.

`base` is the interface, `composition` combines averagers, `exact` is the exact average, `push_sum` is gossip.
`exchange` sends messages of gossip, and a strategy in `landing/` says when they are merged.
May import: checks, errors, passes, state, transports, world, and topologies. Knows nothing of optimizers.
"""
