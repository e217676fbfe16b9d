"""One round as arrays of edges, and computations on it.

`edges` holds a round. `connectivity` finds the ranks that messages reach and draws random connected graphs. `weights`
computes shares for a plain graph. `draws` makes random choices that agree on all ranks. The room imports
`topologies.errors` only.
"""
