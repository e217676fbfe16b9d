"""The mission: where every millisecond and byte of an update goes, `python -m bench update`.

`command` is the command line, `plan` reads its options from a file, `matrix` measures all combinations by the loop of
`measuring`. `models` computes, `wire` asks raw sockets. `judging` says what may be concluded, `columns` and `breakdown`
are the tables and the picture. It imports `bench.shared`, `bench.peers` and the line of `bench.cluster`.
"""
