"""When a round of gossip is merged: one strategy in a file.

`due` merges a round a fixed number of steps after its post, `early` as soon as it has arrived, `asynchronous` without
rounds in common; its messages are acknowledged, by `letters`.
May import: averagers, state, transports.
"""
