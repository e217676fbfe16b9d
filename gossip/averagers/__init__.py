"""Averagers, which act between two updates, as values that compose.

`base` is the interface, `composition` combines averagers, `exact` is the exact average, `push_sum` is gossip. A message
of gossip is `exchange`; when it is merged is a strategy in `landing/`.
May import: state, transports, world, topologies. Knows nothing of optimizers.
"""
