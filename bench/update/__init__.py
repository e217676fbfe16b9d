"""The mission: where every millisecond and byte of an update goes, `python -m bench update`.

`matrix` measures all combinations, `judging` says what may be concluded, `columns` are the tables and the picture.
It imports `bench.measuring`, `bench.peers`, `bench.shared` and the line of `bench.cluster`.
"""
