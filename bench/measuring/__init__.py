"""The loop that times updates, and the compute of an update.

`update`, `peers`, `table2` and `experiments` measure with it. It imports `bench.shared` and `bench.cluster`.
"""
