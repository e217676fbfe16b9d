"""One round as arrays of edges, and what is computed of it.

`edges` holds a round, `connectivity` who hears of whom, `weights` shares where a graph has none, `draws` random choices
that every rank makes alike, `drawn` random graphs.
"""
