"""When a round of gossip is merged: one strategy in a file.

`base` is the interface. `due` merges a round a fixed number of steps after its post, `forward` section by section
before the model reads it. `early` merges messages as soon as they arrive, `asynchronous` without rounds in common; its
messages are `acknowledged`. `allowance` bounds 1/w while messages are late.
May import: averagers, errors, passes, state, transports, and topologies.
"""
