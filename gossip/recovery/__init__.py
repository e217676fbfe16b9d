"""Going on without ranks that died.

`survival` is how ranks notice a death and meet again, `deaths` shares the weight that is left, `ledger` says which
messages never arrived.
May import: state, averagers, transports, world.
"""
